"""From a long list of good items to the short list to show: variety, margin, stock, rules, exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommendations

__all__ = ["Reranker", "not_too_often", "scaled"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


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
    ) -> Recommendations:
        """Choose and order k of each user's candidates.

        Parameters
        ----------
        shown
            candidates, best first; ask for several times k.
        shares
            [n, categories] each user's own share of each category, for ``calibration``.
        allowed
            bool [n, candidates] what may be shown to whom: already bought and not to be bought again,
            or seen too often (see ``not_too_often``).

        Returns
        -------
        Recommendations
            ``scores`` are the candidates' own. A pinned item that was no candidate has the first score.
        """
        if k < 1:
            raise ModelError(f"k must be 1 or more, got {k}")
        if self.calibration > 0 and shares is None:
            raise ModelError("calibration needs shares: each user's share of each category")
        relevance = self._relevance(shown, allowed)
        category = self._categories(shown)
        width = int(category.max(initial=-1)) + 1
        wanted = np.zeros((len(shown), width)) if shares is None else np.asarray(shares, np.float64)
        chosen = np.full((len(shown), k), -1, np.int64)
        room = np.full(int(shown.items.max(initial=-1)) + 1, len(shown), np.int64)
        if self.most_shown is not None:
            room[:] = self.most_shown
        order = np.argsort(-relevance.max(axis=1, initial=-np.inf), kind="stable")
        _choose(
            shown.items,
            relevance,
            category,
            wanted,
            (float(self.diversity), float(self.calibration), k if self.cap is None else self.cap),
            room,
            order,
            chosen,
        )
        return self._pinned(_take(shown, chosen), k)

    def _relevance(self, shown: Recommendations, allowed: npt.ArrayLike | None) -> F64:
        """Return each candidate's relevance: its place in the list from 1 down to 0, plus its bonus."""
        there = shown.items >= 0
        size = shown.items.shape[1]
        value = np.tile(1.0 - np.arange(size) / max(size, 1), (len(shown), 1))
        at = np.maximum(shown.items, 0)
        if self.bonus is not None:
            value += np.asarray(self.bonus, np.float64)[at]
        if self.bury:
            value -= 10.0 * np.isin(shown.items, self.bury)
        if self.stock is not None:
            there &= np.asarray(self.stock, np.bool_)[at]
        if allowed is not None:
            there &= np.asarray(allowed, np.bool_)
        there &= ~np.isin(shown.items, self.pin)
        return np.where(there, value, NO_OPINION)

    def _categories(self, shown: Recommendations) -> I64:
        if self.category is None:
            return np.full(shown.items.shape, -1, np.int64)
        return np.asarray(self.category, np.int64)[np.maximum(shown.items, 0)]

    def _pinned(self, shown: Recommendations, k: int) -> Recommendations:
        pins = [i for i in self.pin if self.stock is None or np.asarray(self.stock)[i]][:k]
        if not pins:
            return shown
        n, m = len(shown), len(pins)
        items = np.hstack([np.tile(np.array(pins, np.int32), (n, 1)), shown.items[:, : k - m]])
        first = np.repeat(shown.scores[:, :1], m, axis=1)
        scores = np.hstack([first, shown.scores[:, : k - m]])
        pinned = np.full((n, m), len(shown.sources), np.int8)
        source = np.hstack([pinned, shown.source[:, : k - m]])
        return Recommendations(shown.users, items, scores, source, (*shown.sources, "pinned"))


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


@nb.njit(cache=True, nogil=True)
def _choose(
    items: Any,
    relevance: Any,
    category: Any,
    wanted: Any,
    rule: Any,
    room: Any,
    order: Any,
    chosen: Any,
) -> None:
    """Fill each list greedily; users in the order of how much their best candidate is worth."""
    diversity, calibration, cap = rule
    k, width = chosen.shape[1], wanted.shape[1]
    count = np.zeros(width, np.int64)
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
                            wanted[row, kind] - max(0.0, share - wanted[row, kind])
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
