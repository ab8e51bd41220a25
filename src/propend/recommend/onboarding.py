"""Getting to know a newcomer by few clicks: which items to show, so that what is clicked says most."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.recommend.interactions import Interactions

__all__ = ["questions"]

I64 = npt.NDArray[np.int64]


def questions(
    log: Interactions,
    k: int = 12,
    *,
    answered: npt.ArrayLike = (),
    within: npt.NDArray[np.bool_] | None = None,
    follow: float = 0.25,
) -> I64:
    """Return k items to show to a newcomer, int64: each likely to be known to somebody the others miss.

    The items are chosen one after the other; each adds most to Σ_users w_u (1 + 1/2 + … + 1/m_u), with
    m_u how many of the chosen items a user has met: a second item of the same taste gains half as much,
    a third a third (greedy for a monotone submodular function: within 1 − 1/e of the best choice;
    Nemhauser, Wolsey & Fisher, Math. Prog. 1978; representative questions as in Liu et al., "Wisdom of
    the better few: cold start recommendation via representative based rating elicitation", RecSys 2011).

    Parameters
    ----------
    answered
        item codes clicked so far: users who met them count w_u = 1, the others ``follow``, and the items
        are not asked about again. Ask, take the clicks, ask again: the next question follows the answers.
    within
        mask [n_items] of what may be shown.

    Returns
    -------
    items
        best first; fewer than k where nothing more is to be learnt. What the newcomer clicks is a
        session: ``recommend([clicks])``.

    Raises
    ------
    ModelError
        k below 1, or an unknown item code.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [0], [2], [2], [3], [3]])
    >>> questions(log, 3).tolist()      # not item 1: whoever met it has met item 0
    [0, 2, 3]
    >>> questions(log, 1, answered=[0]).tolist()
    [1]
    """
    if k < 1:
        raise ModelError(f"k must be 1 or more, got {k}")
    clicked = np.atleast_1d(np.asarray(answered, np.int64))
    if len(clicked) and not (clicked.min() >= 0 and clicked.max() < log.n_items):
        wrong = int(clicked[(clicked < 0) | (clicked >= log.n_items)][0])
        raise ModelError(f"no item with code {wrong}: codes are 0 to {log.n_items - 1}")
    table = log.matrix(binary=True)
    by_item = table.T.tocsr()
    weight = np.ones(log.n_users)
    met = np.zeros(log.n_users, np.int64)
    if len(clicked):
        alike = np.unique(np.concatenate([_row(by_item, item) for item in clicked]))
        weight[:] = follow
        weight[alike] = 1.0
    may = np.ones(log.n_items, np.bool_) if within is None else np.asarray(within, np.bool_).copy()
    may[clicked] = False
    return _greedy(by_item.indptr, by_item.indices, weight, met, may, k)


def _row(by_item: Any, item: int) -> npt.NDArray[np.int64]:
    indptr, indices = by_item.indptr, by_item.indices
    return np.asarray(indices[indptr[item] : indptr[item + 1]], np.int64)


@nb.njit(cache=True, nogil=True)
def _gain(start: int, stop: int, users: Any, weight: Any, met: Any) -> float:
    total = 0.0
    for at in range(start, stop):
        total += weight[users[at]] / (met[users[at]] + 1.0)
    return total


@nb.njit(cache=True, nogil=True)
def _greedy(offsets: Any, users: Any, weight: Any, met: Any, may: Any, k: int) -> Any:
    """Take the item of the largest gain k times; gains only fall, so an old one is an upper bound (lazy greedy)."""
    n = len(offsets) - 1
    bound = np.full(n, -1.0)
    for item in range(n):
        if may[item]:
            bound[item] = _gain(offsets[item], offsets[item + 1], users, weight, met)
    chosen = np.empty(min(k, n), np.int64)
    size = 0
    fresh = np.ones(n, np.bool_)
    while size < len(chosen):
        best = np.argmax(bound)
        if bound[best] <= 0.0:
            break
        if not fresh[best]:
            bound[best] = _gain(offsets[best], offsets[best + 1], users, weight, met)
            fresh[best] = True
            continue
        chosen[size] = best
        size += 1
        for at in range(offsets[best], offsets[best + 1]):
            met[users[at]] += 1
        bound[best] = -1.0
        fresh[:] = False
    return chosen[:size]
