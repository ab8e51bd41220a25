"""A network's knowledge as lists from item to item: served without the network, explained by what was had."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from propend.errors import ModelError
from propend.recommend.interactions import Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.recommender import Recommender, State
from propend.recommend.similarity import Sparse

__all__ = ["Distilled", "DistilledParameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledParameters(ProfileParameters):
    """``teacher``: a recommender of the catalogue with ``settings``; ``neighbours``: items kept after each item."""

    teacher: str = "transformer"
    settings: dict[str, Any] = field(default_factory=dict)
    neighbours: Annotated[int, Meta(ge=1)] = 100
    step: Annotated[float, Meta(gt=0, le=1)] = 0.5


class Distilled(ItemToItem):
    """Ask a teacher what follows each item alone, and keep the shares of its softmax as the table of B.

    Learning needs what the teacher needs (a network: the extra ``deep``); the saved lists need nothing. ``remark`` is the
    teacher's: where popularity answered in its place, the lists hold no more than that.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1, 2], [0, 1], [2, 0]])
    >>> shelf = Distilled(teacher="sequential_rules").fit(log)
    >>> shelf.recommend([[0]], k=1).lists()
    [[1]]
    """

    name = "distilled"
    Parameters = DistilledParameters
    parameters: DistilledParameters

    def _teacher(self) -> Recommender:
        from propend.recommend.catalog import create

        p = self.parameters
        if p.teacher == self.name:
            raise ModelError("'distilled' cannot be its own teacher; name another recommender")
        return create(p.teacher, **p.settings)

    def ready(self) -> None:
        """Ask for what the teacher needs."""
        self._teacher().ready()

    def _learn(self, log: Interactions) -> None:
        teacher = self._teacher()
        self._check_clock(log)
        teacher.fit(log, items=self._items, at=self._at, seed=self._seed)
        self._table = lists_of(teacher, self.parameters.neighbours)
        self.remark = teacher.remark

    def _state(self) -> State:
        state = super()._state()
        state.header["remark"] = self.remark
        return state

    def _restore(self, state: State) -> None:
        super()._restore(state)
        self.remark = state.header.get("remark", "")


def lists_of(teacher: Recommender, neighbours: int) -> Sparse:
    """Return for each item the ``neighbours`` a fitted teacher ranks highest after it alone, with softmax shares.

    Nothing follows an item the teacher says nothing of.
    """
    n_items = teacher.history.n_items
    rows = max(1, (1 << 22) // max(n_items, 1))
    columns, values, counts = [], [], []
    for start in range(0, n_items, rows):
        items = np.arange(start, min(start + rows, n_items))
        shown = teacher.recommend([[i] for i in items.tolist()], neighbours, exclude_seen=True)
        there = shown.items >= 0
        with np.errstate(invalid="ignore"):
            share = np.exp(shown.scores - shown.scores[:, :1])
        share = np.where(there, share, 0.0)
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
        keep = there & (share > 0)
        for row, kept in zip(range(len(items)), keep, strict=True):
            order = np.argsort(shown.items[row][kept])
            columns.append(shown.items[row][kept][order])
            values.append(share[row][kept][order])
        counts.append(keep.sum(axis=1))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Sparse(
        offsets,
        np.concatenate(columns).astype(np.int32),
        np.concatenate(values).astype(np.float32),
        n_items,
    )
