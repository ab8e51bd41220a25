"""Lift and gain by tenths of the ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from propend.learn.ranking import Array, by_score, checked, rows_of

__all__ = [
    "LiftTable",
    "lift_by_decile",
]


@dataclass(frozen=True, slots=True)
class LiftTable:
    """Tenths of the rows, best scores first; every field is [10]."""

    weight: Array
    """Rows (their weight) in the tenth."""
    total: Array
    """Positives, or the amount, in it."""
    rate: Array
    lift: Array
    """Rate over the overall rate."""
    cumulative_lift: Array
    cumulative_share: Array
    """Share of all positives reached by contacting the tenths down to this one."""


def lift_by_decile(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    strata: npt.ArrayLike | None = None,
) -> LiftTable:
    """Lift and gain by tenths of the ranking, best first; a tie that spans two tenths is shared.

    With ``strata`` [n] each stratum is ranked by itself and the tenths are added up.

    >>> table = lift_by_decile([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    >>> table.cumulative_share[:3]
    array([0.5, 1. , 1. ])
    >>> table.lift[:3]
    array([5., 5., 0.])
    """
    labels, scores, weights = checked(y, p, weight)
    edges, reached = np.zeros(11), np.zeros(11)
    for rows in rows_of(strata, len(labels)):
        ranked = by_score(labels[rows], scores[rows], weights[rows])
        masses = np.r_[0.0, np.cumsum(ranked.weight[::-1])]
        tenths = masses[-1] * np.arange(11) / 10
        reached += np.interp(tenths, masses, np.r_[0.0, np.cumsum(ranked.total[::-1])])
        edges += tenths
    weights, found = np.diff(edges), np.diff(reached)
    with np.errstate(invalid="ignore", divide="ignore"):
        base = reached[-1] / edges[-1]
        rate = found / weights
        cumulative = reached[1:] / edges[1:]
        return LiftTable(
            weights, found, rate, rate / base, cumulative / base, reached[1:] / reached[-1]
        )
