"""What was together: sets of items from lists, from users' histories, from sessions or windows of a timeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Histories, Interactions

__all__ = ["Baskets"]

Bool = npt.NDArray[np.bool_]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Baskets:
    """Sets of items: basket ``i`` owns ``items[offsets[i]:offsets[i + 1]]``, distinct and ascending."""

    offsets: I64
    items: I32
    n_items: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]], n_items: int | None = None) -> Baskets:
        """Build from lists of item codes; repeats inside a basket count once, empty baskets stay.

        >>> Baskets.from_lists([[2, 0, 2], []]).items.tolist()
        [0, 2]
        """
        parts = list(lists)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.fromiter(chain.from_iterable(parts), np.int64, int(offsets[-1]))
        if len(items) and items.min() < 0:
            raise DataError("item codes of baskets must be 0 or more; encode ids first")
        size = int(items.max(initial=-1)) + 1 if n_items is None else n_items
        if len(items) and items.max() >= size:
            raise DataError(
                f"item code {items.max()} is past the catalogue of {size} items; pass a larger n_items"
            )
        return cls._once_each(offsets, items.astype(np.int32), size)

    @classmethod
    def _once_each(cls, offsets: I64, items: I32, n_items: int) -> Baskets:
        """Build from ragged rows in any order, which are sorted in place."""
        ends = np.empty_like(offsets)
        size = _distinct(offsets, items, ends)
        return cls(ends, items[:size], n_items)

    @classmethod
    def from_pairs(
        cls, basket: npt.ArrayLike, item: npt.ArrayLike, n_baskets: int, n_items: int
    ) -> Baskets:
        """Build from (basket, item) pairs in any order; a pair given twice counts once.

        >>> Baskets.from_pairs([1, 0, 1], [4, 2, 3], 2, 5).items.tolist()
        [2, 3, 4]
        """
        owner, items = np.asarray(basket, np.int64), np.asarray(item, np.int32)
        if (np.diff(owner) < 0).any():
            order = np.argsort(owner, kind="stable")
            owner, items = owner[order], items[order]
        offsets = np.searchsorted(owner, np.arange(n_baskets + 1)).astype(np.int64)
        return cls._once_each(offsets, items.copy(), n_items)

    @classmethod
    def of(
        cls, log: Interactions, *, gap: float | None = None, window: float | None = None
    ) -> Baskets:
        """Build from interactions: all of a user's items, unless cut into sessions or windows.

        Parameters
        ----------
        gap
            days of pause after which a new basket begins (sessions).
        window
            days of each window of the timeline, counted from midnight UTC of the epoch: a user's items
            of one window are one basket.

        Raises
        ------
        NotEnoughDataError
            baskets by time of interactions without a clock.
        DataError
            both, or a length that is not above 0.

        >>> log = Interactions.of([0, 0, 0], [5, 6, 7], np.array([0.0, 0.1, 3.0]) * DAY)
        >>> [len(Baskets.of(log, **cut)) for cut in ({}, {"gap": 1}, {"window": 2})]
        [1, 2, 2]
        """
        start = starts(log.histories(), log.clock, gap, window)
        owner = np.cumsum(start) - 1
        return cls.from_pairs(owner, log.item, int(start.sum()), log.n_items)


@nb.njit(cache=True, nogil=True)
def _distinct(offsets: Any, items: Any, ends: Any) -> int:
    """Sort each row and drop what repeats, in place; writes the new offsets and returns the new length."""
    ends[0] = 0
    end = 0
    for row in range(len(offsets) - 1):
        mine = items[offsets[row] : offsets[row + 1]]
        mine.sort()
        for place in range(len(mine)):
            if place == 0 or mine[place] != mine[place - 1]:
                items[end] = mine[place]
                end += 1
        ends[row + 1] = end
    return end


def starts(
    histories: Histories, clock: bool, gap: float | None = None, window: float | None = None
) -> Bool:
    """Return which entries of histories begin a new basket; see ``Baskets.of``."""
    if gap is not None and window is not None:
        raise DataError("cut baskets by a pause (gap) or by windows, not by both")
    for name, days in (("gap", gap), ("window", window)):
        if days is not None and not days > 0:
            raise DataError(f"the {name} of baskets is a length in days above 0, got {days:g}")
    start = np.zeros(len(histories.items), np.bool_)
    start[histories.offsets[:-1][np.diff(histories.offsets) > 0]] = True
    if gap is None and window is None:
        return start
    if not clock:
        raise NotEnoughDataError(
            "baskets by pauses or windows need times; leave gap and window out"
        )
    if gap is not None:
        start[1:] |= np.diff(histories.time) > gap * DAY
    else:
        start[1:] |= np.diff(histories.time // int((window or 0) * DAY)) != 0
    return start
