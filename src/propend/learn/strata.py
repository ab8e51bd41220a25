"""Metrics inside each fold and averaged, and all metrics of an answer at once.

A level that moves from fold to fold would otherwise look like skill, even a constant's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.learn.metrics import (
    Metric,
    accuracy,
    auroc,
    average_precision,
    brier,
    c_index,
    ece,
    f1,
    gini,
    log_loss,
    precision,
    r2,
    rate_threshold,
    recall,
    spearman,
    top_decile_lift,
)
from propend.learn.ranking import NAN, Array, checked, rows_of

__all__ = [
    "within",
    "within_rows",
    "yes_no_metrics",
]


def within(
    metric: Metric,
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    strata: npt.ArrayLike | None = None,
) -> float:
    """The metric inside each stratum (fold), averaged: AUROC by pairs of a positive and a negative, others by rows.

    Metrics that rank or compare with a level (AUROC, average precision, C-index, Gini, R², Spearman, top-decile lift)
    are averaged, strata where they are not defined left out; those that add up row by row are the same either way.

    >>> y, level = [0, 0, 0, 1, 0, 1, 1, 1], [0.3] * 4 + [0.7] * 4
    >>> auroc(y, level), within(auroc, y, level, strata=[0] * 4 + [1] * 4)
    (0.75, 0.5)
    """
    labels, scores, weights = checked(y, p, weight)
    return within_rows(metric, labels, scores, weights, rows_of(strata, len(labels)))


def yes_no_metrics(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    threshold: float | None = None,
    strata: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """All yes/no metrics by name, with the ``threshold`` that those of ``AT_THRESHOLD`` were computed at.

    Pass the threshold chosen on other rows (``best_f1_threshold``); by default as many rows are
    flagged as are positive (``rate_threshold``). ``strata`` [n] as in ``within``.
    """
    cut = rate_threshold(y, p, weight) if threshold is None else threshold
    inside = partial(within, y=y, p=p, weight=weight, strata=strata)
    return {
        "auroc": inside(auroc),
        "average_precision": inside(average_precision),
        "threshold": cut,
        "accuracy": accuracy(y, p, cut, weight),
        "precision": precision(y, p, cut, weight),
        "recall": recall(y, p, cut, weight),
        "f1": f1(y, p, cut, weight),
        "log_loss": log_loss(y, p, weight),
        "brier": brier(y, p, weight),
        "ece": ece(y, p, weight),
        "top_decile_lift": inside(top_decile_lift),
    }


def _pairs(y: Array, weight: Array) -> float:
    positive = float((weight * y).sum())
    return positive * (float(weight.sum()) - positive)


def _mass(y: Array, weight: Array) -> float:  # noqa: ARG001
    return float(weight.sum())


_AVERAGED: Final[dict[Metric, Callable[[Array, Array], float]]] = {
    auroc: _pairs,
    average_precision: _mass,
    gini: _mass,
    top_decile_lift: _mass,
    r2: _mass,
    spearman: _mass,
    c_index: _mass,
}
"""What a stratum weighs in the average of a metric that has to be taken inside each."""


def within_rows(
    metric: Metric, y: Array, p: Array, weight: Array, rows: list[npt.NDArray[np.int64] | slice]
) -> float:
    """Return ``within`` of checked rows whose strata were found before (``rows_of``).

    >>> y, level = np.array([0.0, 0, 1, 1]), np.array([0.3, 0.3, 0.7, 0.7])
    >>> within_rows(auroc, y, level, np.ones(4), [np.array([0, 2]), np.array([1, 3])])
    1.0
    """
    weigh = _AVERAGED.get(metric)
    if weigh is None or len(rows) == 1:
        return metric(y, p, weight)
    total, mass = 0.0, 0.0
    for at in rows:
        value, size = metric(y[at], p[at], weight[at]), weigh(y[at], weight[at])
        if value == value and size > 0:
            total, mass = total + value * size, mass + size
    return total / mass if mass > 0 else NAN
