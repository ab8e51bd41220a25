"""The exact top-k of rows of scores, compiled; and what may not be shown."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

__all__ = ["NO_OPINION", "forbid_seen", "top_k"]

NO_OPINION: Final = -np.inf
"""Score of an item a recommender has no opinion of: it is never shown."""


def top_k(
    scores: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the k best items of each row and their scores, exactly.

    Order: score descending, then item code ascending. ``NO_OPINION``, NaN and items that are not
    ``allowed`` are never taken; what is missing is item −1 with score ``NO_OPINION``.

    Examples
    --------
    >>> items, best = top_k(np.array([[1, 3, 3, np.nan]], np.float32), 3)
    >>> items.tolist(), best.tolist()
    ([[1, 2, 0]], [[3.0, 3.0, 1.0]])
    """
    rows = len(scores)
    items = np.full((rows, k), -1, np.int32)
    best = np.full((rows, k), NO_OPINION, np.float32)
    may = np.ones(scores.shape[1], np.bool_) if allowed is None else allowed
    _top_k(np.ascontiguousarray(scores, np.float32), may, items, best)
    return items, best


@nb.njit(cache=True, nogil=True)
def _top_k(scores: Any, allowed: Any, items: Any, best: Any) -> None:
    k = items.shape[1]
    if k == 0:
        return
    for row in range(scores.shape[0]):
        worst = best[row, k - 1]
        for item in range(scores.shape[1]):
            score = scores[row, item]
            if score > worst and allowed[item]:  # a later item with an equal score stays behind
                place = k - 1
                while place > 0 and best[row, place - 1] < score:
                    best[row, place] = best[row, place - 1]
                    items[row, place] = items[row, place - 1]
                    place -= 1
                best[row, place] = score
                items[row, place] = item
                worst = best[row, k - 1]


@nb.njit(cache=True, nogil=True)
def forbid_seen(scores: Any, offsets: Any, seen: Any) -> None:
    """Set the scores of each row's own items to ``NO_OPINION``, in place."""
    for row in range(scores.shape[0]):
        for at in range(offsets[row], offsets[row + 1]):
            scores[row, seen[at]] = -np.inf
