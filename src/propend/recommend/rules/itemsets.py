"""Frequent sets of items with exact counts, by any of three algorithms that must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError, nearest
from propend.recommend.rules.baskets import Baskets

__all__ = ["ItemSets", "Method", "frequent_sets"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Method = Literal["fpgrowth", "eclat", "apriori"]

_MOST: Final = 2_000_000
"""Frequent sets past which the question is at fault, not the patience: 21 items always together are as many."""


@dataclass(frozen=True)
class ItemSets:
    """Frequent sets [s] in the order of their items: set ``i`` holds ``items[ends[i − 1]:ends[i]]``, ascending.

    ``count`` int64 [s] is the number of baskets that hold the set, of ``baskets`` in all.
    """

    ends: I64
    items: I32
    count: I64
    baskets: int

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def sets(self) -> list[tuple[int, ...]]:
        """The sets as tuples of item codes."""
        flat, low, out = self.items.tolist(), 0, []
        for high in self.ends.tolist():
            out.append(tuple(flat[low:high]))
            low = high
        return out

    @cached_property
    def counts(self) -> dict[tuple[int, ...], int]:
        """The number of baskets that hold each set."""
        return dict(zip(self.sets, self.count.tolist(), strict=True))


def frequent_sets(
    baskets: Baskets,
    support: float,
    *,
    longest: int | None = None,
    method: Method = "fpgrowth",
) -> ItemSets:
    """Return every set of items held by at least a share ``support`` of the baskets, with exact counts.

    Parameters
    ----------
    support
        above 0, at most 1; at least one basket has to hold a set.
    longest
        most items of a set.
    method
        ``fpgrowth`` (Han et al. 2000), ``eclat`` (Zaki 2000) or ``apriori`` (Agrawal & Srikant 1994):
        the same sets and counts, see ``docs/recommend.md`` for which is quick where.

    Raises
    ------
    DataError
        a support that is not above 0 and at most 1, a length below 1, an unknown method, or more than two million sets.
    NotEnoughDataError
        no basket.

    Examples
    --------
    >>> found = frequent_sets(Baskets.from_lists([[0, 1], [0, 1, 2], [0, 2], [1]]), 0.5)
    >>> found.counts
    {(0,): 3, (0, 1): 2, (0, 2): 2, (1,): 3, (2,): 2}
    """
    if not 0 < support <= 1:
        raise DataError(
            f"support must be above 0 and at most 1, got {support:g}; 0.001 means one basket in a thousand"
        )
    if longest is not None and longest < 1:
        raise DataError(f"the longest set must have 1 item or more, got {longest}")
    if method not in _METHODS:
        raise DataError(f"no method {method!r} for frequent sets{nearest(method, _METHODS)}")
    if not len(baskets):
        raise NotEnoughDataError("there is no basket to look for rules in; bring purchases")
    least = max(1, int(np.ceil(support * len(baskets) - 1e-9)))
    count = np.bincount(baskets.items, minlength=baskets.n_items)
    frequent = np.flatnonzero(count >= least)
    # Rare items first suits intersections, frequent ones first suits trees; apriori keeps the codes.
    order = {"fpgrowth": -count[frequent], "eclat": count[frequent], "apriori": frequent}[method]
    name = frequent[np.argsort(order, kind="stable")].astype(np.int32)
    offsets, items = _recoded(baskets, name)
    size = len(baskets.items) + 1 if longest is None else longest
    ends, flat, counts = _METHODS[method]()(offsets, items, len(name), least, size, _MOST)
    if len(ends) > _MOST:
        raise DataError(
            f"more than {_MOST:,} sets of items reach a support of {support:g}; raise the support"
            " or shorten the longest set"
        )
    return _in_order(ends, name[flat], counts, len(baskets))


def _fpgrowth() -> Callable[..., Any]:
    from propend.recommend.rules.fpgrowth import grow

    return grow


def _eclat() -> Callable[..., Any]:
    from propend.recommend.rules.eclat import intersect

    return intersect


def _apriori() -> Callable[..., Any]:
    from propend.recommend.rules.apriori import levels

    return levels


_METHODS: Final[dict[str, Callable[[], Callable[..., Any]]]] = {
    "fpgrowth": _fpgrowth,
    "eclat": _eclat,
    "apriori": _apriori,
}


def _recoded(baskets: Baskets, name: I32) -> tuple[I64, I32]:
    """Return the baskets with item ``name[c]`` coded c, ascending, other items and empty baskets left out."""
    code = np.full(baskets.n_items, -1, np.int32)
    code[name] = np.arange(len(name))
    offsets, items = np.empty_like(baskets.offsets), np.empty_like(baskets.items)
    rows = _recode(baskets.offsets, baskets.items, code, offsets, items)
    return offsets[: rows + 1], items[: offsets[rows]]


@nb.njit(cache=True, nogil=True)
def _recode(offsets: Any, items: Any, code: Any, new_offsets: Any, new_items: Any) -> int:
    rows, end = 0, 0
    new_offsets[0] = 0
    for row in range(len(offsets) - 1):
        low = end
        for at in range(offsets[row], offsets[row + 1]):
            if code[items[at]] >= 0:
                new_items[end] = code[items[at]]
                end += 1
        if end > low:
            new_items[low:end].sort()
            rows += 1
            new_offsets[rows] = end
    return rows


def _in_order(ends: I64, flat: I32, counts: I64, baskets: int) -> ItemSets:
    """Return the sets with ascending items, in the order of their items."""
    sizes = np.diff(ends, prepend=0)
    width = int(sizes.max(initial=0))
    table = np.zeros((len(ends), width), np.int32)
    row = np.repeat(np.arange(len(ends)), sizes)
    place = np.arange(len(flat)) - np.repeat(ends - sizes, sizes)
    past = int(flat.max(initial=0)) + 1
    table[row, place] = flat - past  # below 0, so that sorting leaves the padding at the end
    table.sort(axis=1)
    inside = table < 0
    table = np.where(inside, table + past, -1)  # a shorter set comes before its extensions
    order = np.lexsort(table.T[::-1]) if width else np.zeros(0, np.int64)
    items = table[order][inside[order]].astype(np.int32)
    return ItemSets(np.cumsum(sizes[order]), items, counts[order], baskets)
