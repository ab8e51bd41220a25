"""The cleaning rules over a bucket of users, and what was found: every row is kept or set aside with a reason."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

__all__ = [
    "CODE",
    "REASONS",
    "Finding",
    "Reservoir",
    "Tally",
    "is_bot",
    "link_returns",
    "repeats",
    "timeline_order",
]

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


class Tally:
    """What was found: how many rows, and the first few of them; several threads may add to it."""

    def __init__(self, examples: int = 3) -> None:
        self.rows: Counter[str] = Counter()
        self.examples: dict[str, list[int]] = {}
        self._most = examples
        self._lock = threading.Lock()

    def note(self, name: str, rows: Bool, seq: I64, *, show: bool = True) -> None:
        """Count rows of a finding; the earliest few by sequence are its examples."""
        if not rows.any():
            return
        with self._lock:
            self.rows[name] += int(rows.sum())
            if show:
                shown = self.examples.setdefault(name, [])
                shown += [int(s) for s in seq[rows][: self._most]]
                shown.sort()
                del shown[self._most :]


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
        return _medians(self._values, self._seen)

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


@nb.njit(cache=True, nogil=True)
def _medians(values: Any, seen: Any) -> Any:
    median = np.full(len(seen), np.nan)
    mad = np.full(len(seen), np.nan)
    for item in range(len(seen)):
        if seen[item]:
            mine = values[item, : min(seen[item], values.shape[1])]
            median[item] = np.median(mine)
            mad[item] = np.median(np.abs(mine - median[item]))
    return median, mad


def repeats(first: npt.NDArray[Any], second: npt.NDArray[Any], among: Bool | None = None) -> Bool:
    """Return which rows repeat an earlier row's pair of 64-bit keys (bool [n]).

    Rows outside ``among`` neither count nor repeat. An open-addressing hash table, so linear in the rows.

    >>> repeats(np.array([5, 7, 5, 5]), np.zeros(4, int), among=np.array([True, True, False, True])).tolist()
    [False, False, False, True]
    """
    out = np.zeros(len(first), np.bool_)
    taken = np.ones(len(first), np.bool_) if among is None else among
    _repeats(_words(first), _words(second), taken, out)
    return out


def _words(keys: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    wide = keys if keys.dtype.itemsize == 8 else keys.astype(np.int64)
    return np.ascontiguousarray(wide).view(np.uint64)


@nb.njit(cache=True, nogil=True)
def _repeats(first: Any, second: Any, among: Any, out: Any) -> None:
    size = 16
    while size < 2 * len(first):
        size *= 2
    table = np.full(size, -1, np.int64)
    mask = np.uint64(size - 1)
    for i in range(len(first)):
        if not among[i]:
            continue
        h = first[i] ^ (second[i] * np.uint64(0x9E3779B97F4A7C15))
        h ^= h >> np.uint64(32)
        h *= np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(32)
        slot = h & mask
        while True:
            j = table[slot]
            if j < 0:
                table[slot] = i
                break
            if first[j] == first[i] and second[j] == second[i]:
                out[i] = True
                break
            slot = (slot + np.uint64(1)) & mask


def timeline_order(user: npt.NDArray[np.integer[Any]], time: I64, rows: I64) -> I64:
    """Return ``rows`` ordered by (user, time), ties as they stand; ``user`` holds small non-negative integers.

    A counting sort by user, then each user's rows by time; linear where the log came in order of time.

    >>> timeline_order(np.array([1, 0, 1]), np.array([5, 9, 2]), np.arange(3)).tolist()
    [1, 2, 0]
    """
    if len(rows) == 0:
        return rows
    return _timeline_order(user, time, rows, int(user[rows].max()) + 1)


@nb.njit(cache=True, nogil=True)
def _timeline_order(user: Any, time: Any, rows: Any, users: int) -> Any:
    ends = np.zeros(users + 1, np.int64)
    for row in rows:
        ends[user[row] + 1] += 1
    ends = np.cumsum(ends)
    place = ends[:-1].copy()
    out = np.empty(len(rows), np.int64)
    for row in rows:
        out[place[user[row]]] = row
        place[user[row]] += 1
    for u in range(users):
        low, high = ends[u], ends[u + 1]
        for i in range(low + 1, high):
            if time[out[i]] < time[out[i - 1]]:
                mine = out[low:high].copy()
                out[low:high] = mine[np.argsort(time[mine], kind="mergesort")]
                break
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
