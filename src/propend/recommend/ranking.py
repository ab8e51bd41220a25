"""The exact top-k of rows of scores, compiled; and what may not be shown."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

__all__ = ["NO_OPINION", "forbid_seen", "top_k", "top_k_products"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

NO_OPINION: Final = -np.inf
"""Score of an item a recommender has no opinion of: it is never shown."""

_TILE_ROWS: Final = 1_024
_TILE_CELLS: Final = 1 << 18
"""Products held at once: 1 MB of float32, about a core's cache."""
_STRIDE: Final = 64
"""Scores compared with the worst kept before any is looked at alone."""


def top_k(scores: F32, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[I32, F32]:
    """Return the k best items of each row and their scores, exactly.

    Order: score descending, then item code ascending. ``NO_OPINION``, NaN and items that are not
    ``allowed`` are never taken; what is missing is item −1 with score ``NO_OPINION``.

    Examples
    --------
    >>> items, best = top_k(np.array([[1, 3, 3, np.nan]], np.float32), 3)
    >>> items.tolist(), best.tolist()
    ([[1, 2, 0]], [[3.0, 3.0, 1.0]])
    """
    items, best = _nothing(len(scores), k)
    _take(np.ascontiguousarray(scores, np.float32), 0, _bias(scores.shape[1], allowed), items, best)
    return items, best


def top_k_products(
    left: F32,
    right: F32,
    k: int,
    *,
    bias: F32 | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
    seen: tuple[I64, I32] | None = None,
) -> tuple[I32, F32]:
    """Return the top-k of ``left @ right.T + bias``, which is never held as a whole: [q, k] items and scores.

    Exact. The product is made in tiles that stay in the cache, each searched at once. Memory beside the
    answer: 1 MB. A tile's products may differ from another shape's in the last bit.

    Parameters
    ----------
    left, right
        float32 [q, d] of those asked for and [n, d] of the items.
    bias
        float32 [n] added to each row; ``NO_OPINION`` hides an item.
    seen
        offsets [q + 1] and item codes that row i is not shown: ``codes[offsets[i]:offsets[i + 1]]``.

    Examples
    --------
    >>> x = np.eye(3, dtype=np.float32)
    >>> items, best = top_k_products(x[:1] * 2, x, 2)
    >>> items.tolist(), best.tolist()
    ([[0, 1]], [[2.0, 0.0]])
    """
    rows, n = len(left), len(right)
    items, best = _nothing(rows, k)
    added = _bias(n, allowed)
    if bias is not None:
        added += bias
    nothing = (np.zeros(rows + 1, np.int64), np.zeros(0, np.int32))
    offsets, codes = nothing if seen is None else seen
    hidden = np.sort(np.repeat(np.arange(rows), np.diff(offsets)) * n + codes.astype(np.int64))
    turned = np.ascontiguousarray(right, np.float32).T
    for start in range(0, rows, _TILE_ROWS):
        stop = min(start + _TILE_ROWS, rows)
        block = np.ascontiguousarray(left[start:stop], np.float32)
        width = _TILE_CELLS // (stop - start)
        room = np.empty((stop - start, min(width, n)), np.float32)
        at = offsets[start:stop].copy()
        for first in range(0, n, width):
            last = min(first + width, n)
            tile = room if last - first == room.shape[1] else room[:, : last - first].copy()
            np.matmul(block, turned[:, first:last], out=tile)
            if len(hidden):
                _hide(tile, start, first, n, hidden, at, offsets[start + 1 : stop + 1])
            _take(tile, first, added[first:last], items[start:stop], best[start:stop])
    return items, best


def _nothing(rows: int, k: int) -> tuple[I32, F32]:
    return np.full((rows, k), -1, np.int32), np.full((rows, k), NO_OPINION, np.float32)


def _bias(n: int, allowed: npt.NDArray[np.bool_] | None) -> F32:
    if allowed is None:
        return np.zeros(n, np.float32)
    return np.where(allowed, np.float32(0.0), np.float32(NO_OPINION))


@nb.njit(cache=True, nogil=True)
def _hide(tile: Any, start: int, first: int, n: int, codes: Any, at: Any, end: Any) -> None:
    """Set what each row has seen to ``NO_OPINION``; ``at`` moves on to what later tiles hold."""
    for row in range(tile.shape[0]):
        base = (start + row) * n + first
        while at[row] < end[row] and codes[at[row]] < base + tile.shape[1]:
            tile[row, codes[at[row]] - base] = -np.inf
            at[row] += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _any_above(scores: Any, bias: Any, worst: Any) -> Any:
    """Whether some score beats the worst kept: without a branch, so that it runs in vectors."""
    hit = np.int32(0)
    for j in range(len(scores)):
        hit |= np.int32(scores[j] + bias[j] > worst)
    return hit


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _take(tile: Any, first: int, bias: Any, items: Any, best: Any) -> None:
    """Offer each row's scores of the items from ``first`` on to its k best so far."""
    k = items.shape[1]
    width = tile.shape[1]
    if k == 0:
        return
    for row in range(tile.shape[0]):
        scores, kept, score_of = tile[row], items[row], best[row]
        worst = score_of[k - 1]
        for low in range(0, width, _STRIDE):
            high = min(low + _STRIDE, width)
            if not _any_above(scores[low:high], bias[low:high], worst):
                continue
            for j in range(low, high):
                score = scores[j] + bias[j]
                if score > worst:  # a later item with an equal score stays behind
                    place = k - 1
                    while place > 0 and score_of[place - 1] < score:
                        score_of[place] = score_of[place - 1]
                        kept[place] = kept[place - 1]
                        place -= 1
                    score_of[place] = score
                    kept[place] = first + j
                    worst = score_of[k - 1]


@nb.njit(cache=True, nogil=True)
def forbid_seen(scores: Any, offsets: Any, seen: Any) -> None:
    """Set the scores of each row's own items to ``NO_OPINION``, in place."""
    for row in range(scores.shape[0]):
        for at in range(offsets[row], offsets[row + 1]):
            scores[row, seen[at]] = -np.inf
