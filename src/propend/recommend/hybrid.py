"""Candidates from several sources, put in order by a learned ranker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.events.timelines import Column
from propend.models.parameters import threads_for
from propend.names import DAY
from propend.recommend.candidates import Examples, Pooled, PoolParameters, look_up
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.pairs import category_share, group_lift, number_gap, read_by
from propend.recommend.recommender import State

__all__ = ["Hybrid", "HybridParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_GROUPS = 50
"""Most values of a user attribute that is read: the lift is a table of groups × items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridParameters(PoolParameters):
    """Beside those of the pool: ``trees`` of ``leaves``, learning ``rate``."""

    trees: Annotated[int, Meta(ge=1)] = 120
    leaves: Annotated[int, Meta(ge=2)] = 15
    rate: Annotated[float, Meta(gt=0)] = 0.06


class Hybrid(Pooled):
    """Two stages: sources propose, LambdaRank orders (Burges 2010; Covington et al., RecSys 2016).

    The ranker learns forward in time (see ``candidates.Pooled``). Features of a (user, item) pair: each
    source's score and place, the item's popularity and recent popularity, the history's length and age,
    how often and how long ago the user met the item; from attributes, four of a kind: the item's numbers (a price) and how far they are
    from the mean of the history, the share of the history in its category, and how much more often the user's group takes it.

    Examples
    --------
    >>> from propend.recommend.neighbours import ItemNeighbours
    >>> from propend.recommend.popularity import Popularity
    >>> from propend.testing.recommenders import sample
    >>> log, _ = sample()
    >>> shelf = Hybrid([ItemNeighbours(), Popularity()], trees=5).fit(log)
    >>> shelf.recommend(k=5).items.shape
    (60, 5)
    """

    name = "hybrid"
    Parameters = HybridParameters
    parameters: HybridParameters
    _ranker: Any
    _popularity: F64
    _recent: F64
    _lifts: list[tuple[I64, F32]]
    """Of each attribute of users: the group of each user code, and what the groups take more of."""

    def _order(self, examples: Examples) -> None:
        import lightgbm

        p = self.parameters
        settings = {
            "objective": "lambdarank",
            "num_leaves": p.leaves,
            "learning_rate": p.rate,
            "min_data_in_leaf": 20,
            "lambdarank_truncation_level": 20,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads_for(0, examples.X.shape),  # the same trees whatever the number
            "verbosity": -1,
        }
        data = lightgbm.Dataset(examples.X, examples.y, group=examples.groups)
        self._ranker = lightgbm.train(settings, data, num_boost_round=p.trees)

    def _value(self, X: F32) -> npt.NDArray[Any]:
        return np.asarray(self._ranker.predict(X, num_threads=threads_for(0, X.shape)))

    def _describe(self, log: Interactions, at: int) -> None:
        """Learn the items' popularity as of a moment."""
        age = np.maximum((at - log.time) / DAY, 0.0) if log.clock else np.zeros(len(log))
        self._popularity = np.log1p(np.bincount(log.item, minlength=log.n_items))
        recent = np.bincount(log.item, np.exp2(-age / 14.0), log.n_items)
        self._recent = np.log1p(recent).astype(np.float64)
        names = [n for n in read_by(self._people, text=True) if len(self._kinds(n)) <= _GROUPS]
        lifts = [group_lift(log, self._people, name) for name in names]
        self._lifts = [(codes.astype(np.int64), lift) for codes, lift in lifts]

    def _kinds(self, name: str) -> tuple[str, ...]:
        values = self._people[name]
        return values.values if isinstance(values, Column) else ()

    def _features(
        self, block: Histories, keys: I64, row: I64, item: I64, at: int, score: F32, near: F64
    ) -> npt.NDArray[Any]:
        columns: list[npt.NDArray[Any]] = []
        for values, place in zip(score, near, strict=True):
            columns += [np.where(np.isfinite(values), values, np.nan), place]
        columns += [self._popularity[item], self._recent[item]]
        columns += self._met(block, keys, row, at, self._fitted().n_items)
        columns += self._fitting(block, row, item)
        return np.stack(columns, axis=1)

    def _fitting(self, block: Histories, row: I64, item: I64) -> list[npt.NDArray[Any]]:
        """Return how the items fit the users by their attributes."""
        columns: list[npt.NDArray[Any]] = []
        for name in read_by(self._items, text=False):
            values = np.asarray(self._items[name], np.float64)
            columns += [values[item], number_gap(values, block, row, item)]
        for name in read_by(self._items, text=True):
            column = self._items[name]
            assert isinstance(column, Column)
            columns.append(category_share(column.codes, block, row, item))
        for codes, lift in self._lifts:
            users = block.users[row]
            known = (users >= 0) & (users < len(codes))
            group = np.where(known, codes[np.clip(users, 0, len(codes) - 1)], -1)
            columns.append(np.where(group >= 0, lift[np.maximum(group, 0), item], np.nan))
        return columns

    def _met(
        self, block: Histories, keys: I64, row: I64, at: int, n_items: int
    ) -> list[npt.NDArray[Any]]:
        """Return the history's length and age, and how often and how long ago the pair met."""
        length = np.diff(block.offsets)
        had = block.row * np.int64(n_items) + block.items
        order = np.argsort(had, kind="stable")
        known, first, count = np.unique(had[order], return_index=True, return_counts=True)
        clock = self._fitted().clock
        days = (at - block.time) / DAY if clock else np.zeros(len(had))
        last = days[order][first + count - 1] if len(known) else days
        newest = np.full(len(block), np.nan)
        newest[length > 0] = days[block.offsets[1:][length > 0] - 1]
        return [
            np.log1p(length)[row],
            newest[row],
            look_up(keys, known, count, 0.0),
            look_up(keys, known, last, np.nan),
        ]

    def _state(self) -> State:
        state = self._stage_states()
        state.header["repeats"] = bool(self.repeats)
        state.texts["ranker"] = self._ranker.model_to_string()
        state.arrays.update({"popularity": self._popularity, "recent": self._recent})
        state.header["lifts"] = len(self._lifts)
        for number, (codes, lift) in enumerate(self._lifts):
            state.arrays.update({f"group{number}": codes, f"lift{number}": lift})
        return state

    def _restore(self, state: State) -> None:
        import lightgbm

        self.repeats = state.header["repeats"]
        self._ranker = lightgbm.Booster(model_str=state.texts["ranker"])
        self._popularity, self._recent = state.arrays["popularity"], state.arrays["recent"]
        places = range(state.header["lifts"])
        self._lifts = [(state.arrays[f"group{n}"], state.arrays[f"lift{n}"]) for n in places]
        self._restore_stages(state)
