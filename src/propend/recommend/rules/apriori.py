"""Apriori: candidates of each length from the frequent sets one shorter, counted in one pass over the baskets."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["levels"]


def levels(offsets: Any, items: Any, n: int, least: int, longest: int, most: int) -> Any:
    """Find every set of codes that at least ``least`` rows hold, of at most ``longest`` codes.

    Agrawal & Srikant, "Fast algorithms for mining association rules", VLDB 1994. Arguments and result
    as in ``fpgrowth.grow``, sets in the order of their length.
    """
    single = np.arange(n, dtype=np.int32)[:, None]
    found = [(single, np.bincount(items, minlength=n).astype(np.int64))]
    if longest > 1 and n > 1:
        found.append(_pairs(offsets, items, n, least, most))
    while len(found[-1][0]) > 1 and found[-1][0].shape[1] < longest:
        sets = found[-1][0]
        candidates = _join(sets, 4 * most)
        if not len(candidates) or sum(len(s) for s, _ in found) > most:
            break
        counts = np.zeros(len(candidates), np.int64)
        _count(offsets, items, candidates, _runs(candidates), counts)
        found.append((candidates[counts >= least], counts[counts >= least]))
    sizes = np.concatenate([np.full(len(s), s.shape[1], np.int64) for s, _ in found])
    flat = np.concatenate([s.ravel() for s, _ in found])
    return np.cumsum(sizes), flat, np.concatenate([c for _, c in found])


@nb.njit(cache=True, nogil=True)
def _pairs(offsets: Any, items: Any, n: int, least: int, most: int) -> Any:
    """Count pairs one first item at a time, so that no table of all pairs is made."""
    first = np.zeros(n + 1, np.int64)
    for at in range(len(items)):
        first[items[at] + 1] += 1
    for code in range(n):
        first[code + 1] += first[code]
    place = np.empty(len(items), np.int64)  # where each code stands, and where its row ends
    stop = np.empty(len(items), np.int64)
    fill = first[:-1].copy()
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            place[fill[items[at]]] = at
            stop[fill[items[at]]] = offsets[row + 1]
            fill[items[at]] += 1
    sets, counts, size = np.empty((256, 2), np.int32), np.empty(256, np.int64), 0
    held = np.zeros(n, np.int64)
    for code in range(n):
        if size > most:
            break
        held[:] = 0
        for entry in range(first[code], first[code + 1]):
            for at in range(place[entry] + 1, stop[entry]):
                held[items[at]] += 1
        for other in range(code + 1, n):
            if held[other] >= least:
                if size == len(sets):
                    more = np.empty((2 * size, 2), np.int32)
                    more[:size] = sets
                    sets = more
                    more_counts = np.empty(2 * size, np.int64)
                    more_counts[:size] = counts
                    counts = more_counts
                sets[size, 0], sets[size, 1], counts[size] = code, other, held[other]
                size += 1
    return sets[:size].copy(), counts[:size].copy()


@nb.njit(cache=True, nogil=True)
def _before(a: Any, b: Any) -> bool:
    for place in range(len(a)):
        if a[place] != b[place]:
            return a[place] < b[place]
    return False


@nb.njit(cache=True, nogil=True)
def _has(sets: Any, wanted: Any) -> bool:
    """Whether an ascending table of sets holds one."""
    low, high = 0, len(sets)
    while low < high:
        middle = (low + high) // 2
        if _before(sets[middle], wanted):
            low = middle + 1
        else:
            high = middle
    return low < len(sets) and not _before(wanted, sets[low])


@nb.njit(cache=True, nogil=True)
def _join(sets: Any, most: int) -> Any:
    """Join ascending sets [m, k] that differ in the last item only; keep those whose every part is frequent."""
    m, k = sets.shape
    out, size = np.empty((max(m, 16), k + 1), np.int32), 0
    part = np.empty(k, np.int32)
    for a in range(m):
        for b in range(a + 1, m):
            same = True
            for place in range(k - 1):
                if sets[a, place] != sets[b, place]:
                    same = False
                    break
            if not same or size > most:
                break
            if size == len(out):
                more = np.empty((2 * size, k + 1), np.int32)
                more[:size] = out
                out = more
            out[size, :k] = sets[a]
            out[size, k] = sets[b, k - 1]
            frequent = True
            for left_out in range(k - 1):
                part[:left_out] = out[size, :left_out]
                part[left_out:] = out[size, left_out + 1 :]
                if not _has(sets, part):
                    frequent = False
                    break
            if frequent:
                size += 1
    return out[:size].copy()


@nb.njit(cache=True, nogil=True)
def _runs(sets: Any) -> Any:
    """Return, for each set and place, where the run of sets with the same beginning up to there ends: [k, m]."""
    m, k = sets.shape
    ends = np.empty((k, m), np.int64)
    for place in range(k):
        ends[place, m - 1] = m
    for a in range(m - 2, -1, -1):
        same = True
        for place in range(k):
            same = same and sets[a, place] == sets[a + 1, place]
            ends[place, a] = ends[place, a + 1] if same else a + 1
    return ends


@nb.njit(cache=True, nogil=True)
def _count(offsets: Any, items: Any, sets: Any, ends: Any, counts: Any) -> None:
    """Count the rows that hold each ascending candidate: the candidates are walked as a prefix tree."""
    m, k = sets.shape
    high = np.empty(k, np.int64)
    at = np.empty(k, np.int64)  # the candidate looked at, at each depth
    place = np.empty(k, np.int64)  # the place in the row, at each depth
    for row in range(len(offsets) - 1):
        stop = offsets[row + 1]
        if stop - offsets[row] < k:
            continue
        depth = 0
        at[0], high[0], place[0] = 0, m, offsets[row]
        while depth >= 0:
            if at[depth] >= high[depth] or place[depth] + k - depth > stop:
                depth -= 1
                if depth >= 0:
                    at[depth] = ends[depth, at[depth]]
                    place[depth] += 1
                continue
            wanted, there = sets[at[depth], depth], items[place[depth]]
            if wanted < there:
                at[depth] = ends[depth, at[depth]]
            elif wanted > there:
                place[depth] += 1
            elif depth + 1 == k:
                counts[at[depth]] += 1
                at[depth] += 1
                place[depth] += 1
            else:
                at[depth + 1], high[depth + 1] = at[depth], ends[depth, at[depth]]
                place[depth + 1] = place[depth] + 1
                depth += 1
