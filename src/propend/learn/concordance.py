"""Comparable pairs of times to an event, counted in n log n."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["pairs"]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def pairs(
    watched: Any, event: Any, place: Any, weight: Any
) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Return the weight of comparable pairs ranked rightly, ranked wrongly, and of all of them.

    Rows come by ``watched`` descending, those without an event first at equal times; ``place`` is the dense rank of the
    score. A Fenwick tree over places holds the weight of the rows watched longer.
    """
    size = 0
    for i in range(len(place)):
        size = max(size, place[i] + 1)
    tree = np.zeros(size + 1)
    seen = better = worse = everyone = 0.0
    i = 0
    while i < len(watched):
        end = i
        while end < len(watched) and watched[end] == watched[i] and event[end] == event[i]:
            end += 1
        if event[i]:
            for r in range(i, end):
                below, at = 0.0, place[r]
                while at > 0:  # weight of places before this one
                    below += tree[at]
                    at -= at & -at
                upto, at = 0.0, place[r] + 1
                while at > 0:
                    upto += tree[at]
                    at -= at & -at
                better += weight[r] * (seen - upto)
                worse += weight[r] * below
                everyone += weight[r] * seen
        for r in range(i, end):
            at = place[r] + 1
            while at <= size:
                tree[at] += weight[r]
                at += at & -at
            seen += weight[r]
        i = end
    return better, worse, everyone
