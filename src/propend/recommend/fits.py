"""Fits done once: inside ``shared()``, a recommender takes over what its like has learnt from the same history.

Choosing a way, judging it and serving it fit the same sources on the same cuts of the log again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from propend.events.timelines import Column

if TYPE_CHECKING:
    from propend.recommend.recommender import Recommender

__all__ = ["Fits", "current", "shared"]


class Fits:
    """What recommenders have learnt, by their settings, the content of their history and the moment of the fit."""

    def __init__(self) -> None:
        self._learnt: dict[Any, _Learnt] = {}
        self._hashes: dict[int, tuple[Any, str]] = {}

    def take(self, one: Recommender) -> bool:
        """Give ``one`` what its like has learnt; false where there is none."""
        found = self._learnt.get(self._key(one))
        if found is not None:
            found.give(one)
        return found is not None

    def keep(self, one: Recommender) -> None:
        """Remember what ``one`` has learnt."""
        self._learnt[self._key(one)] = _Learnt(one)

    def _key(self, one: Recommender) -> Any:
        log = one._log
        assert log is not None
        history = self._hash(log, log.n_items, log.clock, log.user, log.item, log.time, log.weight)
        known = [
            (name, self._hash(v, v.values, v.codes) if isinstance(v, Column) else self._hash(v, v))
            for part in (one._items, one._people)
            for name, v in part.items()
        ]
        return repr(one), history, tuple(known), one._at, one._seed

    def _hash(self, owner: Any, *parts: Any) -> str:
        """Return a hash of the parts of an object, computed once; the object stays alive, so that its id stays its own."""
        if id(owner) not in self._hashes:
            digest = hashlib.sha256()
            for part in parts:
                array = isinstance(part, np.ndarray)
                digest.update(np.ascontiguousarray(part).data if array else repr(part).encode())
            self._hashes[id(owner)] = owner, digest.hexdigest()
        return self._hashes[id(owner)][1]


class _Learnt:
    """A recommender's state after a fit, that of its stages with it; the arrays are shared, not copied."""

    def __init__(self, one: Recommender) -> None:
        stages = getattr(one, "stages", ())
        self.own = {name: value for name, value in vars(one).items() if name != "stages"}
        self.stages = [_Learnt(stage) for stage in stages]

    def give(self, one: Recommender) -> None:
        vars(one).update(self.own)
        for learnt, stage in zip(self.stages, getattr(one, "stages", ()), strict=True):
            learnt.give(stage)


_current: ContextVar[Fits | None] = ContextVar("fits", default=None)


def current() -> Fits | None:
    """Return where fits are shared just now; none outside ``shared()``."""
    return _current.get()


@contextmanager
def shared() -> Iterator[None]:
    """Share fits until the end of the block; inside another one, with that one.

    Examples
    --------
    >>> from propend.recommend.neighbours import ItemNeighbours
    >>> from propend.testing.recommenders import sample
    >>> log, _ = sample()
    >>> with shared():
    ...     first, second = ItemNeighbours().fit(log), ItemNeighbours().fit(log)
    >>> first.recommend(k=3).lists() == second.recommend(k=3).lists()
    True
    """
    if _current.get() is not None:
        yield
        return
    token = _current.set(Fits())
    try:
        yield
    finally:
        _current.reset(token)
