"""FP-Growth: baskets folded into a prefix tree, mined from the rarest item up without candidates."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["grow"]


@nb.njit(cache=True, nogil=True)
def _sorted(offsets: Any, items: Any, n: int) -> Any:
    """Return the order that sorts ragged rows of codes below n (radix sort, last place first); empty rows are left out."""
    rows = len(offsets) - 1
    longest = 0
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    of_length = np.zeros(longest + 2, np.int64)
    for row in range(rows):
        of_length[offsets[row + 1] - offsets[row] + 1] += 1
    for length in range(1, longest + 2):
        of_length[length] += of_length[length - 1]
    by_length = np.empty(rows, np.int64)
    at = of_length.copy()
    for row in range(rows):
        length = offsets[row + 1] - offsets[row]
        by_length[at[length]] = row
        at[length] += 1
    order = np.empty(rows, np.int64)
    spare = np.empty(rows, np.int64)
    size = 0
    first = np.empty(n + 1, np.int64)
    for place in range(longest - 1, -1, -1):
        low, high = of_length[place + 1], of_length[place + 2]
        if high > low:  # rows that end here come before longer ones
            for row in range(size - 1, -1, -1):
                order[row + high - low] = order[row]
            order[: high - low] = by_length[low:high]
            size += high - low
        first[:] = 0
        for row in range(size):
            first[items[offsets[order[row]] + place] + 1] += 1
        for code in range(n):
            first[code + 1] += first[code]
        for row in range(size):
            code = items[offsets[order[row]] + place]
            spare[first[code]] = order[row]
            first[code] += 1
        order, spare = spare, order
    return order[:size]


@nb.njit(cache=True, nogil=True)
def _tree(offsets: Any, items: Any, weight: Any, n: int) -> Any:
    """Fold weighted rows, each ascending, into a prefix tree.

    Returns item, parent, count and link (the next node of the same item) of each node, and head (the
    first node) and total weight of each item. Rows are sorted first, so that equal beginnings are
    neighbours and no child has to be looked up.
    """
    item = np.empty(len(items), np.int32)
    parent = np.empty(len(items), np.int32)
    link = np.empty(len(items), np.int32)
    count = np.zeros(len(items), np.int64)
    head = np.full(n, -1, np.int32)
    total = np.zeros(n, np.int64)
    path = np.empty(n + 1, np.int32)
    depth, size, before = 0, 0, np.int64(-1)
    for row in _sorted(offsets, items, n):
        low, length = offsets[row], offsets[row + 1] - offsets[row]
        same = 0
        while same < depth and same < length and items[low + same] == items[before + same]:
            same += 1
        for place in range(same, length):
            code = items[low + place]
            item[size] = code
            parent[size] = path[place - 1] if place > 0 else -1
            link[size] = head[code]
            head[code] = size
            path[place] = size
            size += 1
        for place in range(length):
            count[path[place]] += weight[row]
            total[items[low + place]] += weight[row]
        depth, before = length, low
    return (
        item[:size].copy(),
        parent[:size].copy(),
        count[:size].copy(),
        link[:size].copy(),
        head,
        total,
    )


@nb.njit(cache=True, nogil=True)
def _above(tree: Any, i: int, held: Any) -> int:
    """Add up how often each item stands above item i in the tree; returns the length of all paths."""
    item, parent, count, link, head, _ = tree
    length = 0
    node = head[i]
    while node >= 0:
        up = parent[node]
        while up >= 0:
            held[item[up]] += count[node]
            length += 1
            up = parent[up]
        node = link[node]
    return length


@nb.njit(cache=True, nogil=True)
def _paths(tree: Any, i: int, code: Any, length: int) -> Any:
    """Return the paths above item i as weighted rows, with new codes; items with code −1 are left out."""
    item, parent, count, link, head, _ = tree
    rows = 0
    node = head[i]
    while node >= 0:
        rows += 1
        node = link[node]
    offsets = np.zeros(rows + 1, np.int64)
    items = np.empty(length, np.int32)
    weight = np.empty(rows, np.int64)
    row, end = 0, 0
    node = head[i]
    while node >= 0:
        low = end
        up = parent[node]
        while up >= 0:
            if code[item[up]] >= 0:
                items[end] = code[item[up]]
                end += 1
            up = parent[up]
        items[low:end] = items[low:end][::-1].copy()
        weight[row] = count[node]
        row += 1
        offsets[row] = end
        node = link[node]
    return offsets, items[:end], weight


@nb.njit(cache=True, nogil=True)
def _more(array: Any, size: int) -> Any:
    """Return the array with room for at least ``size``."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@nb.njit(cache=True, nogil=True)
def grow(offsets: Any, items: Any, n: int, least: int, longest: int, most: int) -> Any:
    """Find every set of codes that at least ``least`` rows hold, of at most ``longest`` codes.

    Han, Pei & Yin, "Mining frequent patterns without candidate generation", SIGMOD 2000. Rows are
    ascending; codes are best in descending order of frequency (each held by ``least`` rows or more).
    Ends early once there are more than ``most`` sets. Returns ends int64 [s] of the sets in the flat codes int32, and the count int64 [s] of each.
    """
    flat, size = np.empty(1024, np.int32), 0
    ends, counts, found = np.empty(256, np.int64), np.empty(256, np.int64), 0
    prefix = np.empty(n + 1, np.int32)
    cursor = np.empty(n + 1, np.int64)
    trees = [_tree(offsets, items, np.ones(len(offsets) - 1, np.int64), n)]
    names = [np.arange(n).astype(np.int32)]
    cursor[0] = n
    while len(trees) > 0 and found <= most:
        depth = len(trees) - 1
        cursor[depth] -= 1
        i = cursor[depth]
        if i < 0:
            trees.pop()
            names.pop()
            continue
        tree, name = trees[depth], names[depth]
        prefix[depth] = name[i]
        flat = _more(flat, size + depth + 1)
        flat[size : size + depth + 1] = prefix[: depth + 1]
        size += depth + 1
        ends, counts = _more(ends, found + 1), _more(counts, found + 1)
        ends[found], counts[found] = size, tree[5][i]
        found += 1
        if depth + 1 >= longest or i == 0:
            continue
        held = np.zeros(i, np.int64)
        length = _above(tree, i, held)
        code = np.full(i, -1, np.int32)
        kept = 0
        for j in range(i):
            if held[j] >= least:
                code[j] = kept
                kept += 1
        if kept == 0:
            continue
        if kept == 1 or depth + 2 >= longest:  # what is left are the pairs themselves
            flat = _more(flat, size + kept * (depth + 2))
            ends, counts = _more(ends, found + kept), _more(counts, found + kept)
            for j in range(i):
                if code[j] >= 0:
                    flat[size : size + depth + 1] = prefix[: depth + 1]
                    flat[size + depth + 1] = name[j]
                    size += depth + 2
                    ends[found], counts[found] = size, held[j]
                    found += 1
            continue
        low, row, weight = _paths(tree, i, code, length)
        kept_names = np.empty(kept, np.int32)
        for j in range(i):
            if code[j] >= 0:
                kept_names[code[j]] = name[j]
        trees.append(_tree(low, row, weight, kept))
        names.append(kept_names)
        cursor[depth + 1] = kept
    return ends[:found], flat[:size], counts[:found]
