"""Compiled passes over timelines: arrays in, arrays out; they know no files, engines or models.

A *row* is a question asked of one user at one cutoff. Rows come sorted by (user, cutoff), so that two pointers per
window answer all of a user's rows in one pass. Money is carried as int64 micro-units (10⁻⁶): integer addition is
associative, so batch, live and cluster give the same bits whatever the order of their sums.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

__all__ = [
    "ACTIVE_DAYS",
    "DAYS_SINCE",
    "DAYS_SINCE_FIRST",
    "DAYS_UNTIL",
    "FIRST",
    "LAST",
    "MAX",
    "MEAN_GAP",
    "MICRO",
    "MIN",
    "STD",
    "STD_GAP",
    "TREND",
    "bounds",
    "count_distinct",
    "previous",
    "scan",
    "sums",
]

MICRO: Final = 1_000_000
_DAY: Final = 86_400_000_000.0

(
    MIN,
    MAX,
    STD,
    FIRST,
    LAST,
    DAYS_SINCE,
    DAYS_SINCE_FIRST,
    DAYS_UNTIL,
    MEAN_GAP,
    STD_GAP,
    ACTIVE_DAYS,
    TREND,
) = range(12)


@nb.njit(cache=True, nogil=True)
def bounds(offsets: Any, time: Any, user: Any, moment: Any, out: Any) -> None:
    """Write, for each row, the index of its user's first event at or after ``moment[row]``."""
    before = -1
    at = 0
    for row in range(len(user)):
        u = user[row]
        if u != before or (row > 0 and moment[row] < moment[row - 1]):
            at = offsets[u]
            before = u
        end = offsets[u + 1]
        step = 1  # gallop, then halve: short steps cost one comparison, long ones a logarithm
        low = at
        high = at
        while high < end and time[high] < moment[row]:
            low = high + 1
            high += step
            step *= 2
        if high > end:
            high = end
        while low < high:
            middle = (low + high) // 2
            if time[middle] < moment[row]:
                low = middle + 1
            else:
                high = middle
        at = low
        out[row] = at


@nb.njit(cache=True, nogil=True)
def prefix(mask: Any, value: Any, counts: Any, totals: Any) -> None:
    """Write running counts and totals [n + 1] of the masked events; ``value`` may be empty (counts only)."""
    n = 0
    total = np.int64(0)
    with_values = len(value) > 0
    counts[0] = 0
    if with_values:
        totals[0] = 0
    for i in range(len(mask)):
        if mask[i]:
            n += 1
            if with_values:
                total += value[i]
        counts[i + 1] = n
        if with_values:
            totals[i + 1] = total


@nb.njit(cache=True, nogil=True)
def sums(
    low: Any,
    high: Any,
    counts: Any,
    totals: Any,
    late: Any,
    arrival: Any,
    cutoff: Any,
    mask: Any,
    value: Any,
    out_count: Any,
    out_total: Any,
) -> None:
    """Write count and total of masked events in [low, high) that had arrived by the cutoff.

    ``late[row]`` is the first index from which an event may not have arrived yet (``high`` where none may).
    """
    with_values = len(value) > 0
    check = len(arrival) > 0
    for row in range(len(low)):
        lo, hi = low[row], high[row]
        if hi <= lo:
            out_count[row] = 0
            if with_values:
                out_total[row] = 0
            continue
        n = counts[hi] - counts[lo]
        total = totals[hi] - totals[lo] if with_values else np.int64(0)
        if check:
            for i in range(max(lo, late[row]), hi):
                if mask[i] and arrival[i] > cutoff[row]:
                    n -= 1
                    if with_values:
                        total -= value[i]
        out_count[row] = n
        if with_values:
            out_total[row] = total


@nb.njit(cache=True, nogil=True)
def previous(offsets: Any, mask: Any, key: Any, last: Any, out: Any) -> None:
    """Write, for each masked event, the index of the user's previous masked event with the same key, or −1.

    ``last`` is scratch [number of keys] filled with −1; keys below 0 are missing and never match.
    """
    for u in range(len(offsets) - 1):
        for i in range(offsets[u], offsets[u + 1]):
            out[i] = -1
            if mask[i] and key[i] >= 0:
                before = last[key[i]]
                if before >= offsets[u]:
                    out[i] = before
                last[key[i]] = i


@nb.njit(cache=True, nogil=True)
def count_distinct(
    low: Any, high: Any, mask: Any, key: Any, prev: Any, arrival: Any, cutoff: Any, out: Any
) -> None:
    """Write the number of different keys among masked events in [low, high): those with no equal one before in it."""
    check = len(arrival) > 0
    for row in range(len(low)):
        n = 0
        for i in range(low[row], high[row]):
            if not mask[i] or key[i] < 0 or (check and arrival[i] > cutoff[row]):
                continue
            p = prev[i]
            while check and p >= low[row] and arrival[p] > cutoff[row]:
                p = prev[p]
            if p < low[row]:
                n += 1
        out[row] = n


@nb.njit(cache=True, nogil=True)
def scan(
    what: int,
    low: Any,
    high: Any,
    start: Any,
    cutoff: Any,
    time: Any,
    arrival: Any,
    mask: Any,
    value: Any,
    day: Any,
    out: Any,
) -> None:
    """Write an order-dependent aggregate of the masked events in [low, high); NaN where it has none.

    ``value`` are numbers (or codes, for FIRST and LAST of a text); ``start`` is the window's first moment; ``day`` the
    calendar day of each event. Only what had arrived by the cutoff is seen.
    """
    check = len(arrival) > 0
    for row in range(len(low)):
        lo, hi, now = low[row], high[row], cutoff[row]
        out[row] = np.nan
        if what == LAST or what == DAYS_SINCE:  # read backwards: usually one step
            for i in range(hi - 1, lo - 1, -1):
                if mask[i] and not (check and arrival[i] > now):
                    out[row] = value[i] if what == LAST else (now - time[i]) / _DAY
                    break
            continue
        n = 0
        first = 0
        last = 0
        best = 0.0
        total = 0.0
        days = 0
        later = 0
        middle = start[row] + (now - start[row]) // 2
        for i in range(lo, hi):
            if not mask[i] or (check and arrival[i] > now):
                continue
            n += 1
            if n == 1:
                first = i
                if what == FIRST or what == DAYS_UNTIL or what == DAYS_SINCE_FIRST:
                    break
                best = value[i] if what == MIN or what == MAX else 0.0
                if what == TREND and start[row] < -(
                    1 << 61
                ):  # window 'ever': from the first event on
                    middle = time[i] + (now - time[i]) // 2
            if what == MIN:
                best = min(best, value[i])
            elif what == MAX:
                best = max(best, value[i])
            elif what == STD:
                total += value[i]
            elif what == ACTIVE_DAYS:
                if n == 1 or day[i] != day[last]:
                    days += 1
            elif what == TREND:
                if time[i] >= middle:
                    later += 1
            elif what == STD_GAP and n > 1:
                total += (time[i] - time[last]) / _DAY
            last = i
        if what == ACTIVE_DAYS:
            out[row] = days
        elif n == 0:
            continue
        elif what == MIN or what == MAX:
            out[row] = best
        elif what == FIRST:
            out[row] = value[first]
        elif what == DAYS_UNTIL:
            out[row] = (time[first] - now) / _DAY
        elif what == DAYS_SINCE_FIRST:
            out[row] = (now - time[first]) / _DAY
        elif what == TREND:
            out[row] = (2 * later - n) / n
        elif what == MEAN_GAP:
            if n > 1:
                out[row] = (time[last] - time[first]) / _DAY / (n - 1)
        elif what == STD or (what == STD_GAP and n > 1):
            k = n if what == STD else n - 1
            mean = total / k
            spread = 0.0
            before = -1
            for i in range(lo, hi):
                if not mask[i] or (check and arrival[i] > now):
                    continue
                if what == STD:
                    spread += (value[i] - mean) * (value[i] - mean)
                elif before >= 0:
                    gap = (time[i] - time[before]) / _DAY - mean
                    spread += gap * gap
                before = i
            out[row] = np.sqrt(spread / k)
