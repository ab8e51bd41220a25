"""Compiled passes over timelines: arrays in, arrays out; they know no files, engines or models.

A *row* is a question asked of one user at one cutoff. Rows come sorted by (user, cutoff), so that two pointers per
window answer all of a user's rows in one pass (any other order is answered too, only slower). Money is carried as
int64 micro-units (10⁻⁶): integer addition is associative, so batch, live and cluster give the same bits whatever the
order of their sums. Indices are int32: one call sees less than 2³¹ events.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

__all__ = [
    "ACTIVE_DAYS",
    "ANY",
    "COUNT",
    "DAYS_SINCE",
    "DAYS_SINCE_FIRST",
    "DAYS_UNTIL",
    "FIRST",
    "LARGEST",
    "LAST",
    "MAX",
    "MEAN",
    "MEAN_GAP",
    "MICRO",
    "MIN",
    "NONE",
    "SECOND_LAST",
    "STD",
    "STD_GAP",
    "SUM",
    "THIRD_LAST",
    "TREND",
    "bounds",
    "count_distinct",
    "counts_before",
    "counts_within",
    "previous",
    "scan",
    "totals_before",
    "totals_of_large",
    "totals_within",
]

MICRO: Final = 1_000_000
LARGEST: Final = float(2**62) / MICRO
"""Absolute values of a window that add up to this much or more leave micro-units for double precision."""
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
    SECOND_LAST,
    THIRD_LAST,
) = range(14)
ANY, NONE, COUNT, SUM, MEAN = range(5)


@nb.njit(cache=True, nogil=True)
def bounds(offsets: Any, time: Any, user: Any, moment: Any, shift: int, out: Any) -> None:
    """Write, for each row, the index of its user's first event at or after ``moment[row] + shift``."""
    before = -1
    at = 0
    for row in range(len(user)):
        u = user[row]
        if u != before or moment[row] < moment[row - 1]:
            at = offsets[u]
            before = u
        end = offsets[u + 1]
        asked = moment[row] + shift
        near = min(at + 8, end)  # most steps are short: look before you leap
        while at < near and time[at] < asked:
            at += 1
        if at == near and at < end:  # gallop, then halve: a long way costs a logarithm
            step = 8
            low = at
            high = at
            while high < end and time[high] < asked:
                low = high + 1
                high += step
                step *= 2
            high = min(high, end)
            while low < high:
                middle = (low + high) // 2
                if time[middle] < asked:
                    low = middle + 1
                else:
                    high = middle
            at = low
        out[row] = at


@nb.njit(cache=True, nogil=True)
def counts_before(mask: Any, out: Any) -> None:
    """Write how many masked events lie before each index, [n + 1]."""
    n = 0
    out[0] = 0
    for i in range(len(mask)):
        if mask[i]:
            n += 1
        out[i + 1] = n


@nb.njit(cache=True, nogil=True)
def totals_before(mask: Any, value: Any, units: Any, out: Any) -> None:
    """Write each masked value in micro-units [n], and their running total [n + 1].

    The running total may wrap around; differences of it are right all the same wherever they fit in 64 bits.
    """
    total = np.int64(0)
    out[0] = 0
    for i in range(len(mask)):
        units[i] = np.int64(np.rint(value[i] * MICRO)) if mask[i] else 0
        total += units[i]
        out[i + 1] = total


@nb.njit(cache=True, nogil=True)
def counts_within(
    what: int,
    low: Any,
    high: Any,
    counts: Any,
    late: Any,
    arrival: Any,
    cutoff: Any,
    mask: Any,
    out: Any,
) -> None:
    """Write COUNT, ANY or NONE of the masked events in [low, high) that had arrived by the cutoff.

    ``late[row]`` is the first index from which an event may not have arrived yet; no ``arrival``: all have.
    """
    check = len(arrival) > 0
    for row in range(len(low)):
        lo, hi = low[row], high[row]
        n = counts[hi] - counts[lo] if hi > lo else 0
        if check:
            for i in range(max(lo, late[row]), hi):
                if mask[i] and arrival[i] > cutoff[row]:
                    n -= 1
        if what == COUNT:
            out[row] = n
        else:
            out[row] = (n > 0) == (what == ANY)


@nb.njit(cache=True, nogil=True)
def totals_within(
    what: int,
    low: Any,
    high: Any,
    counts: Any,
    totals: Any,
    late: Any,
    arrival: Any,
    cutoff: Any,
    mask: Any,
    units: Any,
    out: Any,
) -> None:
    """Write SUM or MEAN of the masked values in [low, high) that had arrived by the cutoff; no value: 0 or NaN."""
    check = len(arrival) > 0
    for row in range(len(low)):
        lo, hi = low[row], high[row]
        total = totals[hi] - totals[lo] if hi > lo else np.int64(0)
        n = counts[hi] - counts[lo] if what == MEAN and hi > lo else 0
        if check:
            for i in range(max(lo, late[row]), hi):
                if mask[i] and arrival[i] > cutoff[row]:
                    n -= 1
                    total -= units[i]
        if what == SUM:
            out[row] = total / MICRO
        else:
            out[row] = total / MICRO / n if n > 0 else np.nan


@nb.njit(cache=True, nogil=True)
def totals_of_large(
    what: int, low: Any, high: Any, arrival: Any, cutoff: Any, mask: Any, value: Any, out: Any
) -> None:
    """Write SUM or MEAN where values are too large for running totals in micro-units.

    A window whose absolute values add up to less than ``LARGEST`` is summed in micro-units as everywhere; any
    other in double precision, in (time, sequence) order. The slow road, for columns that hold such values.
    """
    check = len(arrival) > 0
    for row in range(len(low)):
        n = 0
        units = np.int64(0)
        total = 0.0
        size = 0.0
        for i in range(low[row], high[row]):
            if not mask[i] or (check and arrival[i] > cutoff[row]):
                continue
            n += 1
            total += value[i]
            size += abs(value[i])
            if size < LARGEST:
                units += np.int64(np.rint(value[i] * MICRO))
        if size < LARGEST:
            total = units / MICRO
        if what == SUM:
            out[row] = total
        else:
            out[row] = total / n if n > 0 else np.nan


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
    low: Any, high: Any, mask: Any, prev: Any, arrival: Any, cutoff: Any, out: Any
) -> None:
    """Write the number of different keys among masked events in [low, high): those with no equal one before in it.

    ``prev`` is what ``previous`` wrote for the same mask; masked events have a key.
    """
    check = len(arrival) > 0
    for row in range(len(low)):
        n = 0
        for i in range(low[row], high[row]):
            if not mask[i] or (check and arrival[i] > cutoff[row]):
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

    ``value`` are numbers (or codes, for FIRST and LAST and their like of a text); ``start`` is the window's first moment; ``day`` the
    calendar day of each event. Only what had arrived by the cutoff is seen.
    """
    check = len(arrival) > 0
    for row in range(len(low)):
        lo, hi, now = low[row], high[row], cutoff[row]
        out[row] = np.nan
        if what in (LAST, SECOND_LAST, THIRD_LAST, DAYS_SINCE):  # read backwards: a few steps
            wanted = 2 if what == SECOND_LAST else 3 if what == THIRD_LAST else 1
            for i in range(hi - 1, lo - 1, -1):
                if mask[i] and not (check and arrival[i] > now):
                    wanted -= 1
                    if wanted == 0:
                        out[row] = (now - time[i]) / _DAY if what == DAYS_SINCE else value[i]
                        break
            continue
        n = 0
        first = 0
        last = 0
        best = 0.0
        total = 0.0
        days = 0
        later = 0
        newest = 0
        day_before = False
        middle = start[row] + (now - start[row]) // 2
        for i in range(lo, hi):
            if not mask[i] or (check and arrival[i] > now):
                continue
            n += 1
            if n == 1:
                first = i
                if what in (FIRST, DAYS_UNTIL, DAYS_SINCE_FIRST):
                    break
                best = value[i] if what in (MIN, MAX) else 0.0
                newest = day[i] - 1 if what == ACTIVE_DAYS else 0
                if what == TREND and start[row] < -(
                    1 << 61
                ):  # window 'ever': from the first event on
                    middle = time[i] + (now - time[i]) // 2
            if what == MIN:
                if value[i] < best:
                    best = value[i]
            elif what == MAX:
                if value[i] > best:
                    best = value[i]
            elif what == STD:
                total += value[i]
            elif what == ACTIVE_DAYS:
                # a clock set back over midnight repeats the day before: count it once
                if day[i] > newest:
                    day_before = n > 1 and day[i] == newest + 1
                    newest = day[i]
                    days += 1
                elif day[i] < newest and not day_before:
                    day_before = True
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
        elif what in (MIN, MAX):
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
