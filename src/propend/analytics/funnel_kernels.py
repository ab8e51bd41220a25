"""Compiled passes that follow users through steps. A unit is whose events are walked: a user, a session, a user's item.

Every pass writes, for each unit and step, the row at which the step was first reached (``done``) and the row of the
entry it counts from (``start``); −1 where it was not. Rows index the events; units own ``offsets[u]`` to ``offsets[u+1]``.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["any_order", "constrained", "greedy", "latest_start", "latest_start_by_step", "resolve"]


@nb.njit(cache=True, nogil=True)
def latest_start(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    optional: Any,
    window: int,
    since: int,
    until: int,
    first_only: bool,
    start: Any,
    done: Any,
) -> None:
    """Ordered funnel, exact: a step keeps the latest entry that leads to it (a later entry is never worse).

    ``table[code[i]]`` holds the bits of the steps that event ``i`` satisfies. One event takes a path one step further.
    """
    steps = len(optional)
    state = np.empty(steps, np.int64)
    for u in range(len(offsets) - 1):
        state[:] = -1
        deepest = -1
        left = steps
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            now = time[i]
            later = bits >> 1  # most events are of the first step only
            for k in range(min(deepest + 1, steps - 1) if later else 0, 0, -1):
                if (bits >> k) & 1 == 0:
                    continue
                best = state[k - 1]
                p = k - 1
                while p > 0 and optional[p]:
                    p -= 1
                    if state[p] > best:
                        best = state[p]
                if best <= state[k] or now - time[best] > window:
                    continue
                state[k] = best
                if done[u, k] < 0:
                    done[u, k] = i
                    start[u, k] = best
                    left -= 1
                reach = k
                while reach + 1 < steps and optional[reach + 1]:
                    reach += 1  # an optional step may be passed over
                if reach > deepest:
                    deepest = reach
            if bits & 1 and since <= now < until and not (first_only and state[0] >= 0):
                state[0] = i
                if done[u, 0] < 0:
                    done[u, 0] = i
                    start[u, 0] = i
                    left -= 1
                    reach = 0
                    while reach + 1 < steps and optional[reach + 1]:
                        reach += 1
                    if reach > deepest:
                        deepest = reach
            if left == 0:
                break


@nb.njit(cache=True, nogil=True)
def latest_start_by_step(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    window: int,
    since: int,
    until: int,
    first_only: bool,
    steps: int,
    start: Any,
    done: Any,
) -> None:
    """Ordered funnel in which events of one moment count in the order of the steps, and one event may be several.

    This is the meaning of ClickHouse's ``windowFunnel`` without a mode.
    """
    state = np.empty(steps, np.int64)
    for u in range(len(offsets) - 1):
        state[:] = -1
        i = offsets[u]
        end = offsets[u + 1]
        while i < end:
            j = i + 1
            now = time[i]
            bits = table[code[i]]
            entry = i
            while j < end and time[j] == now:
                bits |= table[code[j]]
                if table[code[j]] & 1:
                    entry = j
                j += 1
            for k in range(steps):
                if (bits >> k) & 1 == 0:
                    continue
                if k == 0:
                    if since <= now < until and not (first_only and state[0] >= 0):
                        state[0] = entry
                        if done[u, 0] < 0:
                            done[u, 0] = entry
                            start[u, 0] = entry
                    continue
                best = state[k - 1]
                if best < 0 or now - time[best] > window or best <= state[k]:
                    continue
                state[k] = best
                if done[u, k] < 0:
                    done[u, k] = i
                    start[u, k] = best
            i = j


@nb.njit(cache=True, nogil=True)
def constrained(
    offsets: Any,
    time: Any,
    bits: Any,
    optional: Any,
    window: int,
    since: int,
    until: int,
    first_only: bool,
    strict: bool,
    least: Any,
    most: Any,
    excluded: Any,
    start: Any,
    done: Any,
) -> None:
    """Ordered funnel with conditions between neighbouring steps, exact: the latest entry over every admissible path.

    ``least[k]`` and ``most[k]`` bound the time from the step before to step ``k``; an event with a bit of
    ``excluded[k]`` strictly between the two forbids the pair; ``strict`` allows no event between them. For each step
    a monotone queue holds the rows of the step before that are admissible, so the pass is linear in events.
    """
    steps = len(optional)
    longest = 0
    for u in range(len(offsets) - 1):
        longest = max(longest, offsets[u + 1] - offsets[u])
    best = np.empty((steps, longest), np.int64)
    queue = np.empty(longest, np.int64)
    for u in range(len(offsets) - 1):
        low = offsets[u]
        n = offsets[u + 1] - low
        entered = False
        for i in range(n):
            best[0, i] = -1
            now = time[low + i]
            if bits[low + i] & 1 and since <= now < until and not (first_only and entered):
                best[0, i] = low + i
                if not entered:
                    done[u, 0] = low + i
                    start[u, 0] = low + i
                entered = True
        if not entered:
            continue
        for k in range(1, steps):
            head = 0
            tail = 0
            pushed = 0
            barrier = -1
            for i in range(n):
                now = time[low + i]
                while pushed < i and now - time[low + pushed] >= least[k]:
                    value = best[k - 1, pushed]
                    p = k - 1
                    while p > 0 and optional[p]:
                        p -= 1
                        if best[p, pushed] > value:
                            value = best[p, pushed]
                    if value >= 0:
                        while tail > head and _value(best, optional, k, queue[tail - 1]) <= value:
                            tail -= 1
                        queue[tail] = pushed
                        tail += 1
                    pushed += 1
                if strict or (i > 0 and bits[low + i - 1] & excluded[k]):
                    barrier = i - 1
                while head < tail and (
                    queue[head] < barrier or now - time[low + queue[head]] > most[k]
                ):
                    head += 1
                best[k, i] = -1
                if (bits[low + i] >> k) & 1 and head < tail:
                    found = _value(best, optional, k, queue[head])
                    if now - time[found] <= window:
                        best[k, i] = found
                        if done[u, k] < 0:
                            done[u, k] = low + i
                            start[u, k] = found


@nb.njit(cache=True, nogil=True)
def _value(best: Any, optional: Any, k: int, row: int) -> int:
    """Return the latest entry of a path whose last step before ``k`` is at ``row``."""
    value = best[k - 1, row]
    p = k - 1
    while p > 0 and optional[p]:
        p -= 1
        if best[p, row] > value:
            value = best[p, row]
    return value


@nb.njit(cache=True, nogil=True)
def any_order(
    offsets: Any,
    time: Any,
    bits: Any,
    opens: Any,
    same: Any,
    window: int,
    since: int,
    until: int,
    start: Any,
    done: Any,
) -> None:
    """Steps in any order: column ``k`` of the answer is reached when ``k + 1`` steps lie within the window of one entry.

    An entry is any event of a step, of those that ``opens`` [n] allows; the latest that has ``k + 1`` steps behind it counts.
    ``same[k]`` is the first step with the same events as step ``k``; the r-th of them needs r such events. An event of
    several different steps takes all of them.
    """
    steps = len(same)
    last = np.empty(steps, np.int64)
    entry = np.empty(len(time), np.int64)  # of each row, the latest entry up to it
    for u in range(len(offsets) - 1):
        last[:] = -1
        latest = -1
        for i in range(offsets[u], offsets[u + 1]):
            if bits[i] != 0 and opens[i] and since <= time[i] < until:
                latest = i
            entry[i] = latest
        for i in range(offsets[u], offsets[u + 1]):
            now = time[i]
            b = bits[i]
            if b == 0 or now < since:
                continue
            for k in range(steps - 1, -1, -1):
                if (b >> k) & 1:
                    before = -1
                    for p in range(k - 1, -1, -1):
                        if same[p] == same[k]:
                            before = p
                            break
                    last[k] = last[before] if before >= 0 else i
            rows = np.sort(last)
            for k in range(steps):
                row = rows[steps - 1 - k]
                if row < 0 or entry[row] < 0 or now - time[entry[row]] > window:
                    break
                if done[u, k] < 0:
                    done[u, k] = i
                    start[u, k] = entry[row]


@nb.njit(cache=True, nogil=True)
def greedy(
    offsets: Any,
    time: Any,
    bits: Any,
    optional: Any,
    window: int,
    since: int,
    until: int,
    strict: bool,
    least: Any,
    most: Any,
    excluded: Any,
    unit: Any,
    done: Any,
    unended: Any,
) -> int:
    """Every attempt of every unit, one after another: enter at the first chance, take each next step at the first chance.

    An attempt ends when it is complete, when the window (or the most time to the next step) has passed, or at an excluded
    event; only then may the unit enter again. Writes ``unit[a]`` and ``done[a, k]``, and in ``unended`` [units] the entry of an
    attempt that is still open (−1: none); returns the number of attempts.
    """
    steps = len(optional)
    attempts = 0
    for u in range(len(offsets) - 1):
        at = -1  # the last step taken, −1 outside of an attempt
        row = -1
        seen = 0  # the bits of the events since the last step
        for i in range(offsets[u], offsets[u + 1]):
            now = time[i]
            b = bits[i]
            if at >= 0:
                a = attempts - 1
                taken = False
                k = at + 1
                while k < steps:
                    gap = now - time[row]
                    inside = now - time[done[a, 0]] <= window and gap <= most[k]
                    if inside and (b >> k) & 1 and gap >= least[k] and not seen & excluded[k]:
                        done[a, k] = i
                        at = k
                        row = i
                        seen = 0
                        taken = True
                        break
                    if not optional[k]:
                        break
                    k += 1
                if at == steps - 1:
                    at = -1
                    continue
                if taken:
                    continue
                k = at + 1
                seen |= b
                ended = strict or now - time[done[a, 0]] > window
                while not ended:  # a way on is left while one of the next steps is open
                    if not seen & excluded[k] and now - time[row] <= most[k]:
                        break
                    ended = not optional[k]
                    k += 1
                if ended:
                    at = -1
            if at < 0 and b & 1 and since <= now < until:
                unit[attempts] = u
                done[attempts, 0] = i
                attempts += 1
                at = 0
                row = i
                seen = 0
        unended[u] = done[attempts - 1, 0] if at >= 0 else -1
    return attempts


@nb.njit(cache=True, nogil=True)
def resolve(
    time: Any, start: Any, done: Any, ends: Any, kept: Any, entry: Any, at: Any, took: Any
) -> int:
    """Write for each row that entered (``kept`` is its number) the moments its steps ended ``at`` and how long they ``took``.

    ``ends`` are the expanded steps at which each step is complete; ``entry`` is the row that the deepest step counts from; −1 is none.
    Returns how many entered.
    """
    count = 0
    for u in range(len(done)):
        if done[u, ends[0]] < 0:
            continue
        deepest = np.int64(-1)
        for j in range(len(ends)):
            row = done[u, ends[j]]
            if row < 0:
                at[count, j] = -1
                took[count, j] = -1
                continue
            begin = start[u, ends[j]]
            at[count, j] = time[row]
            took[count, j] = time[row] - time[begin]
            deepest = begin
        entry[count] = deepest
        kept[count] = u
        count += 1
    return count
