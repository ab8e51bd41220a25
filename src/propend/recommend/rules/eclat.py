"""Eclat: sets grow depth first by intersecting bitmaps of the baskets that hold them."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from propend.recommend.rules.fpgrowth import _more

__all__ = ["intersect"]


@nb.njit(cache=True, nogil=True)
def _bitmaps(offsets: Any, items: Any, n: int) -> Any:
    """Return which rows hold each code, one bit per row: uint64 [n, words]."""
    bits = np.zeros((n, (len(offsets) + 62) // 64), np.uint64)
    for row in range(len(offsets) - 1):
        bit = np.uint64(1) << np.uint64(row % 64)
        for at in range(offsets[row], offsets[row + 1]):
            bits[items[at], row // 64] |= bit
    return bits


@nb.njit(cache=True, nogil=True)
def _together(a: Any, b: Any) -> Any:
    """Return how many bits two bitmaps share."""
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    m1, m2 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    m4, h = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    total = np.uint64(0)
    for w in range(len(a)):
        x = a[w] & b[w]
        x -= (x >> one) & m1
        x = (x & m2) + ((x >> two) & m2)
        x = (x + (x >> four)) & m4
        total += (x * h) >> np.uint64(56)
    return np.int64(total)


@nb.njit(cache=True, nogil=True)
def intersect(offsets: Any, items: Any, n: int, least: int, longest: int, most: int) -> Any:
    """Find every set of codes that at least ``least`` rows hold, of at most ``longest`` codes.

    Zaki, "Scalable algorithms for association mining", TKDE 2000. Arguments and result as in
    ``fpgrowth.grow``.
    """
    flat, size = np.empty(1024, np.int32), 0
    ends, counts, found = np.empty(256, np.int64), np.empty(256, np.int64), 0
    prefix = np.empty(n + 1, np.int32)
    cursor = np.empty(n + 1, np.int64)
    bits = _bitmaps(offsets, items, n)
    held = np.zeros(n, np.int64)
    for at in range(len(items)):
        held[items[at]] += 1
    maps, names, supports = [bits], [np.arange(n).astype(np.int32)], [held]
    cursor[0] = -1
    while len(maps) > 0 and found <= most:
        depth = len(maps) - 1
        cursor[depth] += 1
        i = cursor[depth]
        bits, name, held = maps[depth], names[depth], supports[depth]
        if i >= len(name):
            maps.pop()
            names.pop()
            supports.pop()
            continue
        prefix[depth] = name[i]
        flat = _more(flat, size + depth + 1)
        flat[size : size + depth + 1] = prefix[: depth + 1]
        size += depth + 1
        ends, counts = _more(ends, found + 1), _more(counts, found + 1)
        ends[found], counts[found] = size, held[i]
        found += 1
        if depth + 1 >= longest:
            continue
        kept = np.empty(len(name) - i - 1, np.int64)
        both = np.empty(len(kept), np.int64)
        m = 0
        for j in range(i + 1, len(name)):
            shared = _together(bits[i], bits[j])
            if shared >= least:
                kept[m], both[m] = j, shared
                m += 1
        if m == 0:
            continue
        next_bits = np.empty((m, bits.shape[1]), np.uint64)
        next_names = np.empty(m, np.int32)
        for j in range(m):
            next_bits[j] = bits[kept[j]] & bits[i]
            next_names[j] = name[kept[j]]
        maps.append(next_bits)
        names.append(next_names)
        supports.append(both[:m].copy())
        cursor[depth + 1] = -1
    return ends[:found], flat[:size], counts[:found]
