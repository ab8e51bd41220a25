"""Bootstrap intervals of a metric and of the difference of two scores; whole users are drawn, with all of their folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from propend.learn.metrics import Metric
from propend.learn.ranking import NAN, Array, checked, groups_of, rows_of
from propend.learn.strata import within_rows

__all__ = [
    "Interval",
    "bootstrap_difference",
    "bootstrap_interval",
]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its bootstrap percentile interval."""

    value: float
    low: float
    high: float
    level: float
    draws: int
    groups: int
    """How many users (or rows) were drawn from."""


def bootstrap_interval(
    metric: Metric,
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    n: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over whole groups (Efron 1979; Field & Welsh 2007 for clusters).

    Drawing a user draws all of its rows, as a weight on each; draws where the metric is not defined
    are left out.

    Parameters
    ----------
    metric
        ``metric(y, p, weight)``, as ``auroc``; ``partial`` or a lambda fixes a threshold.
    groups
        [n] which rows belong together (users); default every row by itself.
    strata
        [n] the fold each row was tested in: the metric is taken ``within`` each.

    Examples
    --------
    >>> from propend.learn.metrics import auroc
    >>> y = [0, 1] * 100
    >>> p = [0.3, 0.6] * 50 + [0.6, 0.3] * 50
    >>> got = bootstrap_interval(auroc, y, p, n=50)
    >>> got.low < got.value == 0.5 < got.high
    True
    """
    labels, scores, weights = checked(y, p, weight)
    order = np.argsort(scores, kind="stable")  # once; ranking sorted rows again is quick
    labels, scores, weights = labels[order], scores[order], weights[order]
    codes, count = groups_of(groups, len(labels))
    codes = codes[order]
    rows = rows_of(strata, len(labels), order)
    rng = np.random.default_rng(seed)
    draws = np.empty(n)
    for i in range(n):
        draws[i] = within_rows(metric, labels, scores, weights * _times(rng, count)[codes], rows)
    return _interval(within_rows(metric, labels, scores, weights, rows), draws, level, count)


def bootstrap_difference(
    metric: Metric,
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    other: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    n: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of ``metric(p) − metric(other)`` on the same rows, paired: both see each draw.

    ``groups`` and ``strata`` as in ``bootstrap_interval``.

    >>> from propend.learn.metrics import auroc
    >>> y = [0, 1] * 50
    >>> good, coin = [0.2, 0.7] * 50, [0.5] * 100
    >>> bootstrap_difference(auroc, y, good, coin, n=20).value
    0.5
    """
    labels, first, weights = checked(y, p, weight)
    _, second, _ = checked(y, other, weight)
    orders = [np.argsort(scores, kind="stable") for scores in (first, second)]
    sides = [
        (labels[o], s[o], o, rows_of(strata, len(labels), o))
        for s, o in zip((first, second), orders, strict=True)
    ]
    codes, count = groups_of(groups, len(labels))
    rng = np.random.default_rng(seed)

    def difference(drawn: Array) -> float:
        a, b = (within_rows(metric, truth, p_, drawn[o], rows) for truth, p_, o, rows in sides)
        return a - b

    draws = np.empty(n)
    for i in range(n):
        draws[i] = difference(weights * _times(rng, count)[codes])
    return _interval(difference(weights), draws, level, count)


def _times(rng: np.random.Generator, count: int) -> Array:
    """How often each of ``count`` groups is drawn in ``count`` draws with replacement."""
    drawn = np.bincount(rng.integers(0, count, count), minlength=count)
    return np.asarray(drawn, dtype=np.float64)


def _interval(value: float, draws: Array, level: float, groups: int) -> Interval:
    kept = draws[~np.isnan(draws)]
    low, high = NAN, NAN
    if len(kept):
        low, high = np.quantile(kept, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high), level, len(kept), groups)
