"""The cleaning rules over a bucket of users, and what was found: every row is kept or set aside with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

__all__ = ["REASONS", "Finding", "Reservoir", "is_bot", "link_returns", "repeats"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

REASONS: Final = (
    "kept",
    "malformed line",
    "exact duplicate",
    "already ingested",
    "missing user",
    "missing time",
    "unreadable time",
    "impossible time",
    "time in the future",
    "unreadable number",
    "impossible amount",
    "negative price",
    "zero quantity",
    "missing value",
    "duplicate message id",
    "erased user",
    "test user",
    "bot-like user",
    "price outlier",
)
"""Why a row is set aside; a row that breaks several rules gets the first of these."""

CODE: Final = {name: code for code, name in enumerate(REASONS)}


@dataclass(frozen=True)
class Finding:
    """Something the data-quality report names: how many rows, what was done, and a few examples."""

    name: str
    rows: int
    share: float
    """Of the rows that came in."""
    done: str
    """``set aside``, ``kept``, ``kept and marked`` or what else was done."""
    examples: tuple[str, ...] = field(default=())


class Reservoir:
    """A uniform sample of up to ``size`` values per item, for robust statistics in constant memory.

    Algorithm R (Vitter 1985), one reservoir per item; exact for items with at most ``size`` values.
    """

    def __init__(self, size: int = 101, seed: int = 7) -> None:
        self._size = size
        self._values = np.zeros((0, size))
        self._seen = np.zeros(0, np.int64)
        self._rng = np.random.default_rng(seed)

    def add(self, item: npt.NDArray[np.int32], value: F64) -> None:
        """Take in values; items are codes, −1 and NaN are passed over."""
        good = (item >= 0) & np.isfinite(value)
        if not good.any():
            return
        item, value = item[good], value[good]
        top = int(item.max()) + 1
        if top > len(self._seen):
            grown = max(top, 2 * len(self._seen))
            self._values = np.vstack(
                [self._values, np.zeros((grown - len(self._seen), self._size))]
            )
            self._seen = np.concatenate([self._seen, np.zeros(grown - len(self._seen), np.int64)])
        _fill(item, value, self._rng.random(len(item)), self._values, self._seen)

    def medians(self) -> tuple[F64, F64]:
        """Return per item the median and the median absolute deviation; NaN for an item never seen."""
        median = np.full(len(self._seen), np.nan)
        mad = np.full(len(self._seen), np.nan)
        for item in np.flatnonzero(self._seen):
            values = self._values[item, : min(self._seen[item], self._size)]
            median[item] = np.median(values)
            mad[item] = np.median(np.abs(values - median[item]))
        return median, mad

    def median(self) -> float:
        """Return the median over all sampled values, or NaN."""
        kept = [self._values[i, : min(n, self._size)] for i, n in enumerate(self._seen) if n]
        return float(np.median(np.concatenate(kept))) if kept else float("nan")


@nb.njit(cache=True, nogil=True)
def _fill(item: Any, value: Any, draw: Any, values: Any, seen: Any) -> None:
    size = values.shape[1]
    for i in range(len(item)):
        row = item[i]
        n = seen[row]
        if n < size:
            values[row, n] = value[i]
        else:
            slot = int(draw[i] * (n + 1))
            if slot < size:
                values[row, slot] = value[i]
        seen[row] = n + 1


def repeats(*keys: npt.NDArray[Any], among: Bool | None = None) -> Bool:
    """Return which rows repeat an earlier row's keys (bool [n]); rows outside ``among`` neither count nor repeat.

    >>> repeats(np.array([5, 7, 5, 5]), among=np.array([True, True, False, True])).tolist()
    [False, False, False, True]
    """
    out = np.zeros(len(keys[0]), np.bool_)
    rows = np.arange(len(keys[0])) if among is None else np.flatnonzero(among)
    if len(rows) < 2:
        return out
    chosen = [key[rows] for key in keys]
    order = np.lexsort((rows, *chosen))
    same = np.ones(len(rows) - 1, np.bool_)
    for key in chosen:
        same &= key[order][1:] == key[order][:-1]
    out[rows[order[1:][same]]] = True
    return out


@nb.njit(cache=True, nogil=True)
def _bots(offsets: Any, time: Any, per_day: float, regularity: float, out: Any) -> None:
    for user in range(len(offsets) - 1):
        low, high = offsets[user], offsets[user + 1]
        n = high - low
        first = low
        for i in range(low, high):  # most events within any 24 hours
            while time[i] - time[first] >= 86_400_000_000:
                first += 1
            if i - first + 1 > per_day:
                out[user] = True
                break
        if n >= 200 and not out[user]:
            mean = (time[high - 1] - time[low]) / (n - 1)
            spread = 0.0
            for i in range(low + 1, high):
                gap = time[i] - time[i - 1] - mean
                spread += gap * gap
            if mean > 0 and np.sqrt(spread / (n - 1)) / mean < regularity:
                out[user] = True


def is_bot(offsets: I64, time: I64, per_day: float, regularity: float) -> Bool:
    """Return which users look like programs, bool [u].

    A user is bot-like with more than ``per_day`` events within some 24 hours, or with at least 200 events whose
    gaps have a coefficient of variation below ``regularity``. ``time`` is sorted within each user.

    >>> even = np.arange(300) * 60_000_000
    >>> is_bot(np.array([0, 300]), even, 1_000, 0.05).tolist()
    [True]
    """
    out = np.zeros(len(offsets) - 1, np.bool_)
    _bots(offsets, time, per_day, regularity, out)
    return out


@nb.njit(cache=True, nogil=True)
def _link(user: Any, item: Any, kind: Any, quantity: Any, seq: Any, out: Any) -> None:
    n = len(user)
    stack = np.empty(n, np.int64)
    left = np.empty(n, np.float64)
    top = 0
    for i in range(n):
        if i == 0 or user[i] != user[i - 1] or item[i] != item[i - 1]:
            top = 0
        if item[i] < 0:
            continue
        if kind[i] == 1:
            stack[top] = seq[i]
            left[top] = max(abs(quantity[i]), 1e-9)
            top += 1
        elif kind[i] == 2 and top > 0:
            out[i] = stack[top - 1]
            back = max(abs(quantity[i]), 1e-9)
            while top > 0 and back > 0:
                taken = min(back, left[top - 1])
                back -= taken
                left[top - 1] -= taken
                if left[top - 1] <= 1e-9:
                    top -= 1


def link_returns(
    user: I64,
    time: I64,
    seq: I64,
    item: npt.NDArray[np.int32],
    kind: npt.NDArray[np.int8],
    quantity: F64,
) -> I64:
    """Return for each row the sequence of the purchase it returns, −1 where it is no return or has none, int64 [n].

    ``kind`` is 1 for purchases and 2 for returns. A return takes back the latest purchase of the same item by the
    same user that is not yet returned in full; a missing quantity counts as one piece.

    >>> link_returns(np.zeros(3, int), np.array([1, 2, 3]), np.array([10, 11, 12]),
    ...              np.array([4, 5, 4], np.int32), np.array([1, 1, 2], np.int8), np.array([2.0, 1.0, -1.0])).tolist()
    [-1, -1, 10]
    """
    order = np.lexsort((seq, time, item, user))
    pieces = np.where(np.isnan(quantity), 1.0, quantity)
    linked = np.full(len(user), -1, np.int64)
    _link(user[order], item[order], kind[order], pieces[order], seq[order], linked)
    out = np.empty_like(linked)
    out[order] = linked
    return out
