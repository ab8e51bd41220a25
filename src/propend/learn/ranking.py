"""Rows in the order of their scores: checked once, ties as one, binned by mass, and where each fold's rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from propend.errors import DataError

__all__ = [
    "NAN",
    "Array",
    "Ranked",
    "by_score",
    "checked",
    "equal_mass_bins",
    "groups_of",
    "rows_of",
]

Array: TypeAlias = npt.NDArray[np.float64]
NAN: Final = float("nan")


@dataclass(frozen=True, slots=True)
class Ranked:
    """Distinct scores, ascending: the weight and the weighted sum of y at each."""

    score: Array
    weight: Array
    total: Array


def checked(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Return labels, scores and weights as float64 [n].

    Raises ``DataError`` where they are of different lengths or missing.

    >>> checked([0, 1], [0.2, 0.7], None)[2]
    array([1., 1.])
    """
    labels = np.asarray(y, dtype=np.float64)
    scores = np.asarray(p, dtype=np.float64)
    weights = np.ones(labels.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or labels.shape != weights.shape:
        raise DataError(
            f"labels, scores and weights must be of one length, got {labels.shape}, "
            f"{scores.shape} and {weights.shape}"
        )
    if np.isnan(labels).any() or np.isnan(scores).any() or np.isnan(weights).any():
        raise DataError("labels, scores and weights must not be missing (NaN); leave the rows out")
    return labels, scores, weights


def by_score(y: Array, p: Array, weight: Array) -> Ranked:
    """Return the distinct scores, ascending, with the weight and the weighted sum of ``y`` at each.

    >>> by_score(np.array([1.0, 0.0, 1.0]), np.array([0.7, 0.7, 0.2]), np.ones(3)).total
    array([1., 1.])
    """
    if not len(p):
        return Ranked(p, weight, y)
    order = np.argsort(p, kind="stable")
    scores = p[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return Ranked(
        scores[starts],
        np.add.reduceat(weight[order], starts),
        np.add.reduceat((weight * y)[order], starts),
    )


def equal_mass_bins(p: Array, weight: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin 0…bins-1 of each row, by the middle of its score's place in the ranking."""
    _, inverse = np.unique(p, return_inverse=True)
    mass: Array = np.asarray(np.bincount(inverse, weights=weight), dtype=np.float64)
    middle = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    return np.minimum((middle * bins).astype(np.int64), bins - 1)[inverse]


def rows_of(
    strata: npt.ArrayLike | None, count: int, order: npt.NDArray[np.int64] | None = None
) -> list[npt.NDArray[np.int64] | slice]:
    """Where each stratum's rows are, among rows that stand in ``order``.

    >>> rows_of([3, 1, 3], 3)
    [array([1]), array([0, 2])]
    """
    if strata is None:
        return [slice(None)]
    codes = np.asarray(strata)
    if codes.shape != (count,):
        raise DataError(f"strata must name one fold per row: {count} rows, got {codes.shape}")
    codes = codes if order is None else codes[order]
    return [np.flatnonzero(codes == code) for code in np.unique(codes)] or [slice(None)]


def groups_of(groups: npt.ArrayLike | None, count: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return each row's group as a code, and how many groups there are; without groups every row by itself.

    >>> groups_of(["u2", "u1", "u2"], 3)
    (array([1, 0, 1]), 2)
    """
    if groups is None:
        return np.arange(count), count
    found, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != (count,):
        raise DataError(f"groups must name one group per row: {count} rows, got {codes.shape}")
    return codes, len(found)
