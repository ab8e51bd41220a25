"""From a long list of good items to the short list to show: variety, margin, stock, rules, exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.recommend.interactions import Histories
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommendations

__all__ = ["PINNED", "Reranker", "not_too_often", "scaled", "shares_of"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

PINNED: Final = "pinned"
"""The source of an item that is pinned."""
_FAR: Final = 1e3
"""Above every relevance: pins stand before, buried items behind everything else."""


@dataclass(frozen=True)
class Reranker:
    """What matters beside the score; everything per item is an array [n_items].

    Parameters
    ----------
    diversity
        0 to 1: how much an item loses for each one of its category shown above it (maximal marginal
        relevance; Carbonell & Goldstein, SIGIR 1998, likeness being the same category).
    calibration
        0 to 1: how much the list's categories should match the user's own shares (Steck, "Calibrated
        recommendations", RecSys 2018).
    category, cap
        category code of each item (−1: none), and most items of one category in a list.
    bonus
        added to each item's relevance (0 to 1): margin, novelty, freshness, each scaled as wished; see
        ``scaled``.
    stock
        which items can be delivered; the others are not shown.
    pin, bury
        items shown first to everyone (in that order), and items shown only where nothing else is left.
    most_shown
        most users an item may be shown to in one call, for scarce stock: who ranks it highest gets it.

    Examples
    --------
    >>> from propend.recommend.popularity import Popularity
    >>> from propend.recommend.interactions import Interactions
    >>> log = Interactions.from_lists([[0, 1, 2], [0, 1, 2], [0, 1], [0, 3]])
    >>> long = Popularity().fit(log).recommend([9], k=4)
    >>> long.lists()
    [[0, 1, 2, 3]]
    >>> Reranker(category=np.array([0, 0, 0, 1]), cap=2).rerank(long, 3).lists()
    [[0, 1, 3]]
    >>> Reranker(pin=(3,), bury=(0,)).rerank(long, 3).lists()
    [[3, 1, 2]]
    """

    diversity: float = 0.0
    calibration: float = 0.0
    category: npt.ArrayLike | None = None
    cap: int | None = None
    bonus: npt.ArrayLike | None = None
    stock: npt.ArrayLike | None = None
    pin: tuple[int, ...] = ()
    bury: tuple[int, ...] = ()
    most_shown: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not (0 <= self.diversity <= 1 and 0 <= self.calibration <= 1):
            raise ModelError("diversity and calibration lie between 0 and 1")
        wants = self.diversity > 0 or self.calibration > 0 or self.cap is not None
        if wants and self.category is None:
            raise ModelError("diversity, calibration and cap need the category of each item")
        if self.cap is not None and self.cap < 1:
            raise ModelError(f"cap must be 1 or more, got {self.cap}")

    def rerank(
        self,
        shown: Recommendations,
        k: int,
        *,
        shares: npt.ArrayLike | None = None,
        allowed: npt.ArrayLike | None = None,
        pinned: npt.ArrayLike | None = None,
    ) -> Recommendations:
        """Choose and order k of each user's candidates.

        Parameters
        ----------
        shown
            candidates, best first; ask for several times k.
        shares
            [n, candidates] the user's own share of each candidate's category, for ``calibration``; see
            ``shares_of``.
        allowed
            bool [n, candidates] what may be shown to whom: not what was bought and is not bought again,
            nor what was seen too often (see ``not_too_often``).
        pinned
            bool [n, pins] which pins may be shown to whom; default all.

        Returns
        -------
        Recommendations
            ``scores`` are the candidates' own. A pinned item that was no candidate has the first score.
        """
        if k < 1:
            raise ModelError(f"k must be 1 or more, got {k}")
        if self.calibration > 0 and shares is None:
            raise ModelError(
                "calibration needs shares: the user's share of each candidate's category"
            )
        shown, allowed, shares = self._with_pins(shown, allowed, shares, pinned)
        relevance = self._relevance(shown, allowed)
        category = self._categories(shown)
        wanted = np.zeros(shown.items.shape) if shares is None else np.asarray(shares, np.float64)
        chosen = np.full((len(shown), k), -1, np.int64)
        room = np.full(int(shown.items.max(initial=-1)) + 1, len(shown), np.int64)
        if self.most_shown is not None:
            room[:] = self.most_shown
        order = np.argsort(-relevance.max(axis=1, initial=-np.inf), kind="stable")
        count = np.zeros(int(category.max(initial=-1)) + 1, np.int64)
        _choose(
            shown.items,
            relevance,
            category,
            wanted,
            (float(self.diversity), float(self.calibration), k if self.cap is None else self.cap),
            room,
            order,
            count,
            chosen,
        )
        return _take(shown, chosen)

    def _relevance(self, shown: Recommendations, allowed: npt.ArrayLike | None) -> F64:
        """Return each candidate's relevance: its place in the list from 1 down to 0, plus its bonus."""
        there = shown.items >= 0
        size = shown.items.shape[1]
        value = np.tile(1.0 - np.arange(size) / max(size, 1), (len(shown), 1))
        at = np.maximum(shown.items, 0)
        if self.bonus is not None:
            value += np.asarray(self.bonus, np.float64)[at]
        if self.bury:
            value -= _FAR * np.isin(shown.items, self.bury)
        if self.stock is not None:
            there &= np.asarray(self.stock, np.bool_)[at]
        if allowed is not None:
            there &= np.asarray(allowed, np.bool_)
        for place, item in enumerate(self.pin):
            value[shown.items == item] = _FAR * (1 + len(self.pin) - place)
        return np.where(there, value, NO_OPINION)

    def _categories(self, shown: Recommendations) -> I64:
        if self.category is None:
            return np.full(shown.items.shape, -1, np.int64)
        own = np.asarray(self.category, np.int64)[np.maximum(shown.items, 0)]
        return np.where(np.isin(shown.items, self.pin), -1, own)  # a pin is bound by no category

    def _with_pins(
        self,
        shown: Recommendations,
        allowed: npt.ArrayLike | None,
        shares: npt.ArrayLike | None,
        pinned: npt.ArrayLike | None,
    ) -> tuple[Recommendations, npt.ArrayLike | None, npt.ArrayLike | None]:
        """Put the pinned items among the candidates, in front, each once and from the source "pinned"."""
        m = len(self.pin)
        if not m:
            return shown, allowed, shares
        n = len(shown)
        pins = np.tile(np.asarray(self.pin, np.int32), (n, 1))
        rest = np.where(np.isin(shown.items, self.pin), -1, shown.items)
        first = np.where(np.isfinite(shown.scores[:, :1]), shown.scores[:, :1], 0.0)
        source = np.full((n, m), len(shown.sources), np.int8)
        together = Recommendations(
            shown.users,
            np.hstack([pins, rest]).astype(np.int32),
            np.hstack([np.repeat(first, m, axis=1), shown.scores]).astype(np.float32),
            np.hstack([source, shown.source]),
            (*shown.sources, PINNED),
        )
        first_may = np.ones((n, m), np.bool_) if pinned is None else np.asarray(pinned, np.bool_)
        may = np.ones(rest.shape, np.bool_) if allowed is None else np.asarray(allowed, np.bool_)
        own = np.zeros(rest.shape) if shares is None else np.asarray(shares, np.float64)
        return together, np.hstack([first_may, may]), np.hstack([np.zeros((n, m)), own])


def scaled(values: npt.ArrayLike, weight: float) -> F64:
    """Return values brought to 0 … ``weight`` by their ranks, for ``bonus``; missing values give 0.

    >>> scaled([10.0, 30.0, np.nan, 20.0], 0.2).round(2).tolist()
    [0.0, 0.2, 0.0, 0.1]
    """
    array = np.asarray(values, np.float64)
    known = np.isfinite(array)
    out = np.zeros(len(array))
    distinct, place = np.unique(array[known], return_inverse=True)
    out[known] = weight * place / max(len(distinct) - 1, 1)
    return out


def not_too_often(
    shown: Recommendations, users: npt.ArrayLike, items: npt.ArrayLike, most: int
) -> Bool:
    """Return which candidates were shown to their user fewer than ``most`` times, given past exposures.

    ``users`` and ``items`` are codes, one pair per exposure. For ``Reranker.rerank(allowed=…)``.
    """
    user, item = np.asarray(users, np.int64), np.asarray(items, np.int64)
    width = max(int(item.max(initial=0)), int(shown.items.max(initial=0))) + 1
    pairs, times = np.unique(user * width + item, return_counts=True)
    full = pairs[times >= most]
    return ~np.isin(shown.users[:, None] * width + shown.items, full)


def _take(shown: Recommendations, chosen: I64) -> Recommendations:
    rows = np.arange(len(shown))[:, None]
    at = np.maximum(chosen, 0)
    there = chosen >= 0
    return Recommendations(
        shown.users,
        np.where(there, shown.items[rows, at], -1).astype(np.int32),
        np.where(there, shown.scores[rows, at], NO_OPINION).astype(np.float32),
        np.where(there, shown.source[rows, at], 0).astype(np.int8),
        shown.sources,
    )


def shares_of(
    histories: Histories, category: npt.ArrayLike, shown: Recommendations
) -> npt.NDArray[np.float32]:
    """Return how much of each user's history, by weight, lies in each candidate's category: float32 [n, candidates].

    >>> from propend.recommend.interactions import Interactions
    >>> log = Interactions.from_lists([[0, 2, 0, 1]])
    >>> shown = Recommendations(np.array([0]), np.array([[1, 2, -1]], np.int32), None, None, ())
    >>> shares_of(log.histories(), [0, 1, 0], shown).tolist()
    [[0.25, 0.75, 0.0]]
    """
    kind = np.asarray(category, np.int64)
    width = int(kind.max(initial=-1)) + 1
    out = np.zeros(shown.items.shape, np.float32)
    _share(histories.offsets, histories.items, histories.weight, kind, shown.items, width, out)
    return out


@nb.njit(cache=True, nogil=True)
def _share(
    offsets: Any, items: Any, weight: Any, kind: Any, shown: Any, width: int, out: Any
) -> None:
    own = np.zeros(width, np.float64)
    for row in range(len(offsets) - 1):
        total = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            if kind[items[at]] >= 0:
                own[kind[items[at]]] += weight[at]
                total += weight[at]
        for place in range(shown.shape[1]):
            item = shown[row, place]
            if item >= 0 and kind[item] >= 0 and total > 0:
                out[row, place] = own[kind[item]] / total
        for at in range(offsets[row], offsets[row + 1]):
            if kind[items[at]] >= 0:
                own[kind[items[at]]] = 0.0


@nb.njit(cache=True, nogil=True)
def _choose(
    items: Any,
    relevance: Any,
    category: Any,
    wanted: Any,
    rule: Any,
    room: Any,
    order: Any,
    count: Any,
    chosen: Any,
) -> None:
    """Fill each list greedily; users in the order of how much their best candidate is worth."""
    diversity, calibration, cap = rule
    k = chosen.shape[1]
    for o in range(len(order)):
        row = order[o]
        count[:] = 0
        used = np.zeros(items.shape[1], np.bool_)
        for place in range(k):
            best, at = -np.inf, -1
            for c in range(items.shape[1]):
                value = relevance[row, c]
                if used[c] or value == -np.inf or room[items[row, c]] <= 0:
                    continue
                kind = category[row, c]
                if kind >= 0:
                    if count[kind] >= cap:
                        continue
                    value = (1 - diversity) * value - diversity * count[kind] / (place + 1.0)
                    if calibration > 0:
                        share = (count[kind] + 1.0) / (place + 1.0)
                        value = (1 - calibration) * value + calibration * (
                            wanted[row, c] - max(0.0, share - wanted[row, c])
                        )
                if value > best:
                    best, at = value, c
            if at < 0:
                break
            used[at] = True
            chosen[row, place] = at
            room[items[row, at]] -= 1
            if category[row, at] >= 0:
                count[category[row, at]] += 1
