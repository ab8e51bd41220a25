"""What comes next in a session: alike sessions, and rules on what follows what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numba as nb
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.interactions import Histories, Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.recommender import Recommender, State
from propend.recommend.similarity import Sparse, nearest_columns, once_each

__all__ = [
    "SequentialRules",
    "SequentialRulesParameters",
    "SessionNeighbours",
    "SessionNeighboursParameters",
]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionNeighboursParameters:
    """``neighbours`` sessions asked out of the ``recent`` latest ones of each item.

    ``fade``: steps back after which an item of the session speaks 1/e as loud; ``near``: steps from the
    matched item after which an item of the neighbour does; ``longest``: items of a session that are
    read, the last ones; ``rare``: rare items count more.
    """

    neighbours: Annotated[int, Meta(ge=1)] = 500
    recent: Annotated[int, Meta(ge=1)] = 2_500
    fade: Annotated[float, Meta(gt=0)] = 1.5
    near: Annotated[float, Meta(gt=0)] = 2.0
    longest: Annotated[int, Meta(ge=1)] = 50
    rare: bool = True


class SessionNeighbours(Recommender):
    """Vector session kNN with STAN's weights: late items, near matches, rare items count more.

    Each user's history is read as one session (build ``Interactions`` with a session's code as the
    user). Ludewig & Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 2018
    (V-SKNN); Garg et al., "Sequence and time aware neighborhood for session-based recommendations"
    (STAN), SIGIR 2019. Repeats inside a session are offered unless told otherwise.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1, 2], [0, 1, 2], [3, 1, 4]])
    >>> SessionNeighbours().fit(log).recommend([[0, 1]], k=1, exclude_seen=True).lists()
    [[2]]
    """

    name = "session_neighbours"
    ordered = True
    Parameters = SessionNeighboursParameters
    repeats = True
    parameters: SessionNeighboursParameters
    _by_item: Sparse
    _norm: npt.NDArray[np.float64]
    _loud: F32

    def _learn(self, log: Interactions) -> None:
        met = np.bincount(log.matrix(binary=True).indices, minlength=log.n_items)
        self._loud = np.ones(log.n_items, np.float32)
        if self.parameters.rare:
            self._loud = np.log((log.n_users + 1) / np.maximum(met, 1)).astype(np.float32)
        self._prepare(log)

    def _prepare(self, log: Interactions) -> None:
        """Index the sessions by item, the latest ones only."""
        table = log.matrix(binary=True)
        self._norm = np.sqrt(np.maximum(np.diff(table.indptr), 1).astype(np.float64))
        end = log.time[log.offsets[1:] - 1]
        newest = np.argsort(-end, kind="stable")
        age = np.empty(len(newest), np.int64)
        age[newest] = np.arange(len(newest))
        by_item = table.T.tocoo()
        item, session = by_item.coords
        order = np.lexsort((age[session], item))
        item, session = item[order], session[order]
        first = np.searchsorted(item, np.arange(log.n_items + 1))
        keep = np.arange(len(item)) - first[item] < self.parameters.recent
        count = np.bincount(item[keep], minlength=log.n_items)
        self._by_item = Sparse(
            np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            session[keep].astype(np.int32),
            np.ones(int(keep.sum()), np.float32),
            log.n_users,
        )

    def _profile(self, histories: Histories) -> Sparse:
        """Return each session's items as a table: late items loud, rare ones louder."""
        back = histories.offsets[1:][histories.row] - 1 - np.arange(len(histories.items))
        last = once_each(histories.offsets, histories.items, len(self._loud))
        last &= back < self.parameters.longest
        loud = np.exp(-back / self.parameters.fade) * self._loud[histories.items]
        count = np.bincount(histories.row[last], minlength=len(histories))
        return Sparse(
            np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            histories.items[last],
            loud[last].astype(np.float32),
            len(self._loud),
        )

    def _score(self, histories: Histories, at: int) -> F32:
        del at
        log = self._fitted()
        profile = self._profile(histories)
        near = nearest_columns(
            profile,
            self._by_item,
            self.parameters.neighbours + 1,
            column_norm=self._norm,
            skip_self=False,
        )
        own = log.rows_of(histories.users)
        scores = np.full((len(histories), log.n_items), -np.inf, np.float32)
        _vote(
            (profile.offsets, profile.columns),
            (near.offsets, near.columns, near.values),
            (log.offsets, log.item),
            own,
            np.float32(self.parameters.near),
            self._loud,
            scores,
        )
        return scores

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        out = []
        for row, shown in enumerate(items.tolist()):
            had = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            last = "an empty session"
            if len(had):
                last = names[int(had[-1])] if names is not None else f"item {had[-1]}"
            out.append([f"alike sessions went on so after {last}" if i >= 0 else "" for i in shown])
        return out

    def _state(self) -> State:
        return State({}, {"loud": self._loud})

    def _restore(self, state: State) -> None:
        self._loud = state.arrays["loud"]
        self._prepare(self._fitted())


@nb.njit(cache=True, nogil=True)
def _vote(
    profile: Any, near: Any, sessions: Any, own: Any, reach: Any, loud: Any, scores: Any
) -> None:
    """Let each neighbour vote for its items, louder near the latest item it shares with the session."""
    po, pc = profile
    no, nc, nv = near
    so, si = sessions
    position = np.full(scores.shape[1], -1, np.int64)
    for row in range(len(po) - 1):
        for at in range(po[row], po[row + 1]):
            position[pc[at]] = at
        for x in range(no[row], no[row + 1]):
            session = nc[x]
            if session == own[row]:
                continue
            match, latest = -1, -1
            for y in range(so[session], so[session + 1]):
                if position[si[y]] > latest or (latest >= 0 and position[si[y]] == latest):
                    latest, match = position[si[y]], y
            for y in range(so[session], so[session + 1]):
                item = si[y]
                vote = nv[x] * np.exp(-np.float32(abs(y - match)) / reach) * loud[item]
                old = scores[row, item]
                scores[row, item] = vote if old == -np.inf else old + vote
        for at in range(po[row], po[row + 1]):
            position[pc[at]] = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialRulesParameters(ProfileParameters):
    """``ahead``: how many steps later still follow; a pair counts 1 / its steps. ``step`` as for profiles."""

    ahead: Annotated[int, Meta(ge=1)] = 10
    neighbours: Annotated[int, Meta(ge=1)] = 200
    step: Annotated[float, Meta(gt=0, le=1)] = 0.3


class SequentialRules(ItemToItem):
    """What follows what: i → j counts 1/d for each j met d steps after i, per occurrence of i.

    Ludewig & Jannach, UMUAI 2018 (SR). Repeats are offered unless told otherwise.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1, 2], [0, 1], [2, 0]])
    >>> SequentialRules().fit(log).recommend([[0]], k=2).lists()
    [[1, 2]]
    """

    name = "sequential_rules"
    ordered = True
    Parameters = SequentialRulesParameters
    repeats = True
    parameters: SequentialRulesParameters

    def _learn(self, log: Interactions) -> None:
        import scipy.sparse as sp

        self._check_clock(log)
        p = self.parameters
        make: Any = sp.csr_array
        shape = (log.n_items, log.n_items)
        total = make(shape, dtype=np.float32)
        for gap in range(1, min(p.ahead, len(log) - 1) + 1):
            same = log.user[gap:] == log.user[:-gap]
            pair = (log.item[:-gap][same], log.item[gap:][same])
            weight = np.full(int(same.sum()), 1.0 / gap, np.float32)
            total = total + make((weight, pair), shape=shape)
        met = np.maximum(np.bincount(log.item, minlength=log.n_items), 1).astype(np.float64)
        each: Any = sp.eye_array(log.n_items, format="csr", dtype=np.float32)
        self._table = nearest_columns(
            Sparse.of(each), Sparse.of(total), p.neighbours, row_norm=met, skip_self=False
        )
