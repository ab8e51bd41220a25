"""Candidates from several sources, put in order by a learned ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.names import DAY
from propend.recommend.fallback import Staged
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.protocols import Split, forward, leave_one_out
from propend.recommend.ranking import NO_OPINION, forbid_seen, top_k
from propend.recommend.recommender import Recommender, State

__all__ = ["Hybrid", "HybridParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_MOST_USERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridParameters:
    """``candidates`` taken from each source; ``horizon`` days the ranker learns to look ahead.

    Default horizon: a tenth of the log. ``repeats``: offer what was met before; default where a tenth
    of what the ranker learns from are repeats. ``trees`` of ``leaves``, learning ``rate``.
    """

    candidates: Annotated[int, Meta(ge=1)] = 60
    horizon: Annotated[float, Meta(gt=0)] | None = None
    repeats: bool | None = None
    trees: Annotated[int, Meta(ge=1)] = 120
    leaves: Annotated[int, Meta(ge=2)] = 15
    rate: Annotated[float, Meta(gt=0)] = 0.06


class Hybrid(Staged):
    """Two stages: sources propose, LambdaRank orders (Burges 2010; Covington et al., RecSys 2016).

    The ranker learns forward in time: the sources are fitted on the log up to a cut one horizon before
    the end, propose for the users who came back after it, and the labels are what these users then met;
    so no feature has seen its label. Afterwards the sources are fitted on everything. Without a clock
    each user's last item takes the place of the horizon. Features of a (user, item) pair: each source's
    score and place, the item's popularity and recent popularity, the history's length and age, how often
    and how long ago the user met the item.

    Raises ``NotEnoughDataError`` where the log is too short to hold out a horizon.

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

    def __init__(self, stages: Sequence[Recommender] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.stages = tuple(stages)

    def _learn(self, log: Interactions) -> None:
        import lightgbm

        p = self.parameters
        split = self._held_out(log)
        self.repeats = split.seen == "allowed"  # type: ignore[misc]
        self._fit_stages(split.train, split.at)
        whole = self._log
        self._log = split.train
        self._describe(split.train, split.at)
        X, y, groups = self._examples(split)
        self._log = whole
        if not y.any() or y.all():
            raise NotEnoughDataError(
                "'hybrid' found no held-out item among its candidates to learn from; bring more interactions"
            )
        settings = {
            "objective": "lambdarank",
            "num_leaves": p.leaves,
            "learning_rate": p.rate,
            "min_data_in_leaf": 20,
            "lambdarank_truncation_level": 20,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        self._ranker = lightgbm.train(
            settings, lightgbm.Dataset(X, y, group=groups), num_boost_round=p.trees
        )
        self._fit_stages(log, self._at)
        self._describe(log, self._at)

    def _held_out(self, log: Interactions) -> Split:
        """Cut the history once more: what the ranker's features see, and its labels."""
        seen = {None: None, True: "allowed", False: "hidden"}[self.parameters.repeats]
        if log.clock:
            return forward(log, self.parameters.horizon, seen=seen)  # type: ignore[arg-type]
        return leave_one_out(log, seen=seen)  # type: ignore[arg-type]

    def _describe(self, log: Interactions, at: int) -> None:
        """Learn the items' popularity as of a moment."""
        age = np.maximum((at - log.time) / DAY, 0.0) if log.clock else np.zeros(len(log))
        self._popularity = np.log1p(np.bincount(log.item, minlength=log.n_items))
        recent = np.bincount(log.item, np.exp2(-age / 14.0), log.n_items)
        self._recent = np.log1p(recent).astype(np.float64)

    def _examples(self, split: Split) -> tuple[F32, npt.NDArray[np.int8], I64]:
        """Return features, labels and rows per user of the held-out part."""
        n = len(split)
        rng = np.random.default_rng(self._seed)
        users = np.sort(rng.permutation(n)[:_MOST_USERS])
        features, labels, groups = [], [], []
        histories = split.train.histories(split.users[users])
        width = np.int64(split.train.n_items)
        owner = np.repeat(np.arange(n), np.diff(split.offsets))
        right = owner * width + split.truth
        for start, block in self._blocks(histories):
            row, item, X = self._candidates(block, split.at)
            y = np.isin(users[start + row] * width + item, right)
            useful = np.isin(row, np.unique(row[y]))  # a user without a hit teaches nothing
            features.append(X[useful])
            labels.append(y[useful].astype(np.int8))
            groups.append(np.unique(row[useful], return_counts=True)[1])
        return np.concatenate(features), np.concatenate(labels), np.concatenate(groups)

    def _candidates(self, block: Histories, at: int) -> tuple[I64, I64, F32]:
        """Return the pool of a block: row and item of each pair, sorted, and its features float32 [m, d]."""
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
        keys = np.unique(np.concatenate(pool))
        row, item = keys // n_items, keys % n_items
        columns: list[npt.NDArray[Any]] = []
        for values, (known, place) in zip(scores, places, strict=True):
            score = values[row, item]
            columns.append(np.where(np.isfinite(score), score, np.nan))
            columns.append(_look_up(keys, known, 1.0 / (1.0 + place), 0.0))
        columns += [self._popularity[item], self._recent[item]]
        columns += self._met(block, keys, row, at, n_items)
        return row, item, np.stack(columns, axis=1).astype(np.float32)

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
            _look_up(keys, known, count, 0.0),
            _look_up(keys, known, last, np.nan),
        ]

    def _score(self, histories: Histories, at: int) -> F32:
        out = np.full((len(histories), self._fitted().n_items), NO_OPINION, np.float32)
        row, item, X = self._candidates(histories, at)
        if len(row):
            out[row, item] = self._ranker.predict(X, num_threads=1)
        out[np.diff(histories.offsets) == 0] = NO_OPINION  # it learnt from users with a history
        return out

    def _state(self) -> State:
        state = self._stage_states()
        state.header["repeats"] = bool(self.repeats)
        state.texts["ranker"] = self._ranker.model_to_string()
        state.arrays.update({"popularity": self._popularity, "recent": self._recent})
        return state

    def _restore(self, state: State) -> None:
        import lightgbm

        self.repeats = state.header["repeats"]  # type: ignore[misc]
        self._ranker = lightgbm.Booster(model_str=state.texts["ranker"])
        self._popularity, self._recent = state.arrays["popularity"], state.arrays["recent"]
        self._restore_stages(state)


def _look_up(keys: I64, known: I64, values: npt.ArrayLike, missing: float) -> F64:
    """Return the values of ``keys`` among the ascending ``known``, ``missing`` where a key is not there."""
    given = np.asarray(values, np.float64)
    if not len(known):
        return np.full(len(keys), missing)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, given[at], missing)
