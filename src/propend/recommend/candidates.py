"""Candidates from several sources, and what is known of each pair of user and candidate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.recommend.fallback import Staged
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.protocols import Split, forward, leave_one_out, seen_as
from propend.recommend.ranking import NO_OPINION, forbid_seen, top_k
from propend.recommend.recommender import Recommender

__all__ = ["Examples", "Pool", "PoolParameters", "Pooled", "look_up"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_MOST_USERS = 20_000


class Pool(NamedTuple):
    """Candidates of a block of histories: ``row`` and ``item`` of each pair, sorted, its features, its source."""

    row: I64
    item: I64
    X: F32
    source: npt.NDArray[np.int8]


class Examples(NamedTuple):
    """Features [m, d], labels [m] and pairs per user of the held-out part."""

    X: F32
    y: npt.NDArray[np.int8]
    groups: I64


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolParameters:
    """``candidates`` taken from each source; ``horizon`` days that are looked ahead when order is learnt.

    Default horizon: a tenth of the log. ``repeats``: offer what was met before; default where a tenth
    of what is learnt from are repeats.
    """

    candidates: Annotated[int, Meta(ge=1)] = 60
    horizon: Annotated[float, Meta(gt=0)] | None = None
    repeats: bool | None = None


class Pooled(Staged):
    """Base of recommenders whose sources propose and who learn, forward in time, how to order what they propose.

    The sources are fitted on the log up to a cut one horizon before the end and propose for the users
    who came back after it; the labels are what these users then met; so no feature has seen its label.
    Afterwards the sources are fitted on everything. Without a clock each user's last item takes the
    place of the horizon.

    Raises ``NotEnoughDataError`` where the log is too short to hold out a horizon.
    """

    Parameters = PoolParameters
    shares = True
    parameters: Any

    def __init__(self, stages: Sequence[Recommender] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.stages = tuple(stages)

    @abstractmethod
    def _order(self, examples: Examples) -> None:
        """Learn to order pairs."""

    @abstractmethod
    def _value(self, X: F32) -> npt.NDArray[Any]:
        """Return the score of pairs."""

    @property
    def members(self) -> tuple[str, ...]:
        """The sources."""
        return tuple(stage.label for stage in self.stages)

    def _spans(self) -> list[tuple[int, int]]:
        return [(n, n + 1) for n in range(len(self.stages))]

    def _learn(self, log: Interactions) -> None:
        split = self._held_out(log)
        self.repeats = split.seen == "allowed"
        self._fit_stages(split.train, split.at)
        whole = self._log
        self._log = split.train
        self._describe(split.train, split.at)
        examples = self._examples(split)
        self._log = whole
        if not examples.y.any() or examples.y.all():
            raise NotEnoughDataError(
                f"'{self.name}' found no held-out item among its candidates to learn from; bring more interactions"
            )
        self._order(examples)
        self._fit_stages(log, self._at)
        self._describe(log, self._at)

    def _held_out(self, log: Interactions) -> Split:
        """Cut the history once more: what the ranker's features see, and its labels."""
        seen = seen_as(self.parameters.repeats)
        if log.clock:
            return forward(log, self.parameters.horizon, seen=seen)
        return leave_one_out(log, seen=seen)

    def _describe(self, log: Interactions, at: int) -> None:
        """Learn what the features need of the items as of a moment."""

    def _examples(self, split: Split) -> Examples:
        n = len(split)
        rng = np.random.default_rng(self._seed)
        users = np.sort(rng.permutation(n)[:_MOST_USERS])
        features, labels, groups = [], [], []
        histories = split.train.histories(split.users[users])
        width = np.int64(split.train.n_items)
        owner = np.repeat(np.arange(n), np.diff(split.offsets))
        right = owner * width + split.truth
        for start, block in self._blocks(histories):
            pool = self._candidates(block, split.at)
            row = pool.row
            y = np.isin(users[start + row] * width + pool.item, right)
            useful = np.isin(row, np.unique(row[y]))  # a user without a hit teaches nothing
            features.append(pool.X[useful])
            labels.append(y[useful].astype(np.int8))
            groups.append(np.unique(row[useful], return_counts=True)[1])
        return Examples(np.concatenate(features), np.concatenate(labels), np.concatenate(groups))

    def _candidates(self, block: Histories, at: int) -> Pool:
        """Return the pool of a block: the best of each source, who ranks them highest, and the features."""
        n_items = self._fitted().n_items
        pool, scores, places = [], [], []
        for stage in self.stages:
            values = stage._score(block, at)
            if not self.repeats:
                forbid_seen(values, block.offsets, block.items)
            found, _ = top_k(values, self.parameters.candidates)
            row, place = np.nonzero(found >= 0)
            key = row * np.int64(n_items) + found[row, place]
            order = np.argsort(key)
            pool.append(key)
            scores.append(values)
            places.append((key[order], place[order]))
        keys = np.sort(np.concatenate(pool))  # faster than unique, which hashes
        keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        row, item = keys // n_items, keys % n_items
        near = np.stack([look_up(keys, known, 1.0 / (1.0 + place), 0.0) for known, place in places])
        score = np.stack([values[row, item] for values in scores])
        X = self._features(block, keys, row, item, at, score, near)
        return Pool(row, item, X.astype(np.float32), near.argmax(axis=0).astype(np.int8))

    @abstractmethod
    def _features(
        self, block: Histories, keys: I64, row: I64, item: I64, at: int, score: F32, near: F64
    ) -> npt.NDArray[Any]:
        """Return the features of pairs [m, d]: ``score`` (−∞: none) and ``near`` (1/place) of each source [s, m]."""

    def _propose(self, histories: Histories, at: int) -> tuple[F32, npt.NDArray[np.int8] | None]:
        shape = (len(histories), self._fitted().n_items)
        out, source = np.full(shape, NO_OPINION, np.float32), np.zeros(shape, np.int8)
        pool = self._candidates(histories, at)
        if len(pool.row):
            out[pool.row, pool.item] = self._value(pool.X)
            source[pool.row, pool.item] = pool.source
        out[np.diff(histories.offsets) == 0] = NO_OPINION  # it learnt from users with a history
        return out, source

    def _score(self, histories: Histories, at: int) -> F32:
        return self._propose(histories, at)[0]

    def _because(
        self, histories: Histories, items: npt.NDArray[np.int32], names: Sequence[str] | None
    ) -> list[list[str]]:
        """Ask the source that ranks the item highest."""
        source = self._propose(histories, self._at)[1]
        assert source is not None
        mine = np.take_along_axis(source, np.maximum(items, 0), axis=1)
        return super()._told(histories, items, mine, self.members, names)


def look_up(keys: I64, known: I64, values: npt.ArrayLike, missing: float) -> F64:
    """Return the values of ``keys`` among the ascending ``known``, ``missing`` where a key is not there."""
    given = np.asarray(values, np.float64)
    if not len(known):
        return np.full(len(keys), missing)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, given[at], missing)
