"""How good scores are: for yes/no, for amounts, with intervals that draw whole users.

Every metric takes ``y`` [n], the scores ``p`` [n] and optionally ``weight`` [n], treats tied scores
as one (so the order of rows never matters), and returns NaN where it is not defined, as AUROC on
one class. They agree with scikit-learn, which the tests check.

Rows tested in several folds are judged inside each fold (``strata``): a level that moves from fold
to fold would otherwise look like skill, even a constant's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from propend.errors import DataError

__all__ = [
    "AT_THRESHOLD",
    "ECE_BINS",
    "Interval",
    "LiftTable",
    "Metric",
    "accuracy",
    "amount_metrics",
    "auroc",
    "average_precision",
    "best_f1_threshold",
    "bias",
    "bootstrap_difference",
    "bootstrap_interval",
    "brier",
    "c_index",
    "ece",
    "equal_mass_bins",
    "f1",
    "gini",
    "lift_by_decile",
    "log_loss",
    "mae",
    "mae_of_time",
    "mean",
    "pinball",
    "poisson_deviance",
    "precision",
    "r2",
    "rate_threshold",
    "recall",
    "rmse",
    "share_below",
    "spearman",
    "top_decile_lift",
    "within",
    "yes_no_metrics",
]

Array: TypeAlias = npt.NDArray[np.float64]
AT_THRESHOLD: Final = ("accuracy", "precision", "recall", "f1")
"""Metrics of flagging from a score on: each says nothing without that score."""

Metric: TypeAlias = Callable[[Array, Array, Array | None], float]
"""``metric(y, p, weight)``: every function here whose third argument is the weight."""

NAN: Final = float("nan")
ECE_BINS: Final = 15


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


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Distinct scores, ascending: the weight and the weighted sum of y at each."""

    score: Array
    weight: Array
    total: Array


# -------------------------------------------------------------------------------- yes / no


def auroc(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Chance that a positive scores above a negative, ties half (Hanley & McNeil 1982).

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    ranked = _ranked(*_clean(y, p, weight))
    positive, negative = ranked.total, ranked.weight - ranked.total
    pairs = positive.sum() * negative.sum()
    if pairs <= 0:
        return NAN
    below = np.cumsum(negative) - 0.5 * negative
    return float((positive * below).sum() / pairs)


def average_precision(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """Precision averaged over the recall gained at each distinct score, no interpolation.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    ranked = _ranked(*_clean(y, p, weight))
    found, flagged = np.cumsum(ranked.total[::-1]), np.cumsum(ranked.weight[::-1])
    if not len(found) or found[-1] <= 0:
        return NAN
    at = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return float((np.diff(found, prepend=0.0) * at).sum() / found[-1])


def accuracy(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None = None
) -> float:
    """Share of rows where ``p >= threshold`` is right."""
    tp, fp, fn, tn = _table(y, p, threshold, weight)
    return _ratio(tp + tn, tp + fp + fn + tn)


def precision(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None = None
) -> float:
    """Share of the flagged (``p >= threshold``) that are positive; NaN if none is flagged."""
    tp, fp, _, _ = _table(y, p, threshold, weight)
    return _ratio(tp, tp + fp)


def recall(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None = None
) -> float:
    """Share of the positives that are flagged."""
    tp, _, fn, _ = _table(y, p, threshold, weight)
    return _ratio(tp, tp + fn)


def f1(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None = None
) -> float:
    """Harmonic mean of precision and recall."""
    tp, fp, fn, _ = _table(y, p, threshold, weight)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def best_f1_threshold(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """The score at and above which flagging gives the best F1. Choose it on rows that are not
    the ones it is judged on. Of equally good scores, the highest; NaN without a positive.

    >>> best_f1_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.35
    """
    ranked = _ranked(*_clean(y, p, weight))
    found, flagged = np.cumsum(ranked.total[::-1]), np.cumsum(ranked.weight[::-1])
    if not len(found) or found[-1] <= 0:
        return NAN
    return float(ranked.score[::-1][np.argmax(2 * found / (flagged + found[-1]))])


def rate_threshold(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """The highest score at and above which at least as many rows lie as are positive.

    >>> rate_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.4
    """
    ranked = _ranked(*_clean(y, p, weight))
    if not len(ranked.score):
        return NAN
    flagged = np.cumsum(ranked.weight[::-1])
    wanted = ranked.total.sum() * (1 - 1e-12)
    return float(ranked.score[::-1][min(np.searchsorted(flagged, wanted), len(flagged) - 1)])


def log_loss(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean of −ln of the probability given to what happened (0 and 1 held at machine epsilon).

    >>> round(log_loss([0, 1], [0.25, 0.75]), 4)
    0.2877
    """
    labels, scores, weights = _clean(y, p, weight)
    return _mean(_surprise(labels, scores), weights)


def brier(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean squared difference between probability and label (Brier 1950)."""
    labels, scores, weights = _clean(y, p, weight)
    return _mean((scores - labels) ** 2, weights)


def ece(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bins: int = ECE_BINS,
) -> float:
    """Expected calibration error over equal-mass bins (15 unless told; Nixon et al. 2019).

    The mean, weighted by bin, of |mean probability − observed rate|. Tied scores share a bin.

    >>> round(ece([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]), 4)
    0.0
    """
    labels, scores, weights = _clean(y, p, weight)
    if not weights.sum() > 0:
        return NAN
    bin_of = equal_mass_bins(scores, weights, bins)
    gap = np.bincount(bin_of, weights=weights * (scores - labels), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum())


def equal_mass_bins(p: Array, weight: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin 0…bins-1 of each row, by the middle of its score's place in the ranking."""
    _, inverse = np.unique(p, return_inverse=True)
    mass: Array = np.asarray(np.bincount(inverse, weights=weight), dtype=np.float64)
    middle = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    return np.minimum((middle * bins).astype(np.int64), bins - 1)[inverse]


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
    labels, scores, weights = _clean(y, p, weight)
    edges, reached = np.zeros(11), np.zeros(11)
    for rows in _rows_of(strata, len(labels)):
        ranked = _ranked(labels[rows], scores[rows], weights[rows])
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


# -------------------------------------------------------------------------------- amounts


def mae(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean absolute error."""
    labels, scores, weights = _clean(y, p, weight)
    return _mean(np.abs(scores - labels), weights)


def rmse(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Root of the mean squared error."""
    labels, scores, weights = _clean(y, p, weight)
    return float(np.sqrt(_mean((scores - labels) ** 2, weights)))


def bias(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Predicted total over true total, minus 1; NaN where the true total is 0.

    >>> round(bias([1, 3], [1, 2]), 4)
    -0.25
    """
    labels, scores, weights = _clean(y, p, weight)
    return _ratio(float((weights * (scores - labels)).sum()), float((weights * labels).sum()))


def gini(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Normalised Gini: how much of the perfect ranking's concentration the scores reach.

    1 ranks perfectly, 0 like chance; for 0/1 labels it is 2·AUROC − 1.

    >>> round(gini([1, 2, 3], [10, 20, 30]), 4)
    1.0
    """
    labels, scores, weights = _clean(y, p, weight)
    if not _varies(labels, weights):
        return NAN
    perfect = _concentration(_ranked(labels, labels, weights))
    return _ratio(_concentration(_ranked(labels, scores, weights)), perfect)


def top_decile_lift(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """Mean of the best-scored tenth over the mean of all."""
    return float(lift_by_decile(y, p, weight).lift[0])


def r2(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Share of the variance explained; NaN where y does not vary."""
    labels, scores, weights = _clean(y, p, weight)
    if not _varies(labels, weights):
        return NAN
    centred = labels - _mean(labels, weights)
    left = float((weights * (scores - labels) ** 2).sum())
    return 1.0 - _ratio(left, float((weights * centred**2).sum()))


def spearman(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Correlation of the (mid-)ranks; NaN where one side does not vary."""
    labels, scores, weights = _clean(y, p, weight)
    if not (_varies(labels, weights) and _varies(scores, weights)):
        return NAN
    a, b = _middle_ranks(labels, weights), _middle_ranks(scores, weights)
    a, b = a - _mean(a, weights), b - _mean(b, weights)
    spread = float((weights * a * a).sum() * (weights * b * b).sum())
    return _ratio(float((weights * a * b).sum()), float(np.sqrt(spread)))


def mean(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean of ``y``, whatever the scores: for figures that each row already has."""
    labels, _, weights = _clean(y, p, weight)
    return _mean(labels, weights)


def pinball(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    quantile: float = 0.5,
) -> float:
    """Mean pinball loss of a predicted quantile (Koenker & Bassett 1978).

    >>> pinball([0.0, 10.0], [2.0, 2.0], quantile=0.9)
    3.7
    """
    labels, scores, weights = _clean(y, p, weight)
    short = labels - scores
    return _mean(np.maximum(quantile * short, (quantile - 1) * short), weights)


def share_below(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Share of rows at or below their score: what a quantile promises."""
    labels, scores, weights = _clean(y, p, weight)
    return _mean((labels <= scores).astype(np.float64), weights)


def poisson_deviance(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """Mean Poisson deviance of counts; an expected count of 0 is held at machine epsilon.

    >>> round(poisson_deviance([0, 2], [1.0, 2.0]), 3)
    1.0
    """
    labels, scores, weights = _clean(y, p, weight)
    expected = np.maximum(scores, np.finfo(np.float64).eps)
    told = labels * np.log(np.where(labels > 0, labels, 1.0) / expected)
    return _mean(2 * (told - labels + expected), weights)


# -------------------------------------------------------------------------------- time to event


def c_index(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Chance that of two comparable rows the one with the later event was given the longer time (Harrell 1982).

    ``y`` is the time of the event, or minus the time for which none was seen; ``p`` the expected time. Two rows are
    comparable where one has its event while the other is still watched. Tied scores count half.

    >>> c_index([1.0, 3.0, -5.0, -0.5], [2.0, 1.0, 9.0, 9.0])
    0.6666666666666666
    """
    labels, scores, weights = _clean(y, p, weight)
    watched, event = np.abs(labels), labels > 0
    # events first at equal times when read forwards: who is censored then was still watched
    order = np.lexsort((event, -watched))
    _, place = np.unique(scores, return_inverse=True)
    from propend.learn.concordance import pairs

    better, worse, everyone = pairs(watched[order], event[order], place[order], weights[order])
    return _ratio(better + 0.5 * (everyone - better - worse), everyone)


def mae_of_time(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean absolute error of the time to an event, where none was seen up to the time watched."""
    labels, scores, weights = _clean(y, p, weight)
    watched = np.abs(labels)
    return _mean(np.abs(np.minimum(scores, watched.max(initial=0.0)) - watched), weights)


# -------------------------------------------------------------------------------- all at once


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
    labels, scores, weights = _clean(y, p, weight)
    return _within(metric, labels, scores, weights, _rows_of(strata, len(labels)))


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


def amount_metrics(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    strata: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """All amount metrics by name; ``strata`` [n] as in ``within``."""
    known: tuple[Metric, ...] = (mae, rmse, bias, gini, top_decile_lift, r2, spearman)
    return {m.__name__: within(m, y, p, weight, strata=strata) for m in known}


# -------------------------------------------------------------------------------- intervals


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
    >>> y = [0, 1] * 100
    >>> p = [0.3, 0.6] * 50 + [0.6, 0.3] * 50
    >>> got = bootstrap_interval(auroc, y, p, n=50)
    >>> got.low < got.value == 0.5 < got.high
    True
    """
    labels, scores, weights = _clean(y, p, weight)
    order = np.argsort(scores, kind="stable")  # once; ranking sorted rows again is quick
    labels, scores, weights = labels[order], scores[order], weights[order]
    codes, count = _codes(groups, len(labels))
    codes = codes[order]
    rows = _rows_of(strata, len(labels), order)
    rng = np.random.default_rng(seed)
    draws = np.empty(n)
    for i in range(n):
        draws[i] = _within(metric, labels, scores, weights * _times(rng, count)[codes], rows)
    return _interval(_within(metric, labels, scores, weights, rows), draws, level, count)


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

    >>> y = [0, 1] * 50
    >>> good, coin = [0.2, 0.7] * 50, [0.5] * 100
    >>> bootstrap_difference(auroc, y, good, coin, n=20).value
    0.5
    """
    labels, first, weights = _clean(y, p, weight)
    _, second, _ = _clean(y, other, weight)
    orders = [np.argsort(scores, kind="stable") for scores in (first, second)]
    sides = [
        (labels[o], s[o], o, _rows_of(strata, len(labels), o))
        for s, o in zip((first, second), orders, strict=True)
    ]
    codes, count = _codes(groups, len(labels))
    rng = np.random.default_rng(seed)

    def difference(drawn: Array) -> float:
        a, b = (_within(metric, truth, p_, drawn[o], rows) for truth, p_, o, rows in sides)
        return a - b

    draws = np.empty(n)
    for i in range(n):
        draws[i] = difference(weights * _times(rng, count)[codes])
    return _interval(difference(weights), draws, level, count)


# -------------------------------------------------------------------------------- private


def _clean(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
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


def _within(
    metric: Metric, y: Array, p: Array, weight: Array, rows: list[npt.NDArray[np.int64] | slice]
) -> float:
    weigh = _AVERAGED.get(metric)
    if weigh is None or len(rows) == 1:
        return metric(y, p, weight)
    total, mass = 0.0, 0.0
    for at in rows:
        value, size = metric(y[at], p[at], weight[at]), weigh(y[at], weight[at])
        if value == value and size > 0:
            total, mass = total + value * size, mass + size
    return total / mass if mass > 0 else NAN


def _rows_of(
    strata: npt.ArrayLike | None, count: int, order: npt.NDArray[np.int64] | None = None
) -> list[npt.NDArray[np.int64] | slice]:
    """Where each stratum's rows are, among rows that stand in ``order``."""
    if strata is None:
        return [slice(None)]
    codes = np.asarray(strata)
    if codes.shape != (count,):
        raise DataError(f"strata must name one fold per row: {count} rows, got {codes.shape}")
    codes = codes if order is None else codes[order]
    return [np.flatnonzero(codes == code) for code in np.unique(codes)] or [slice(None)]


def _varies(values: Array, weight: Array) -> bool:
    used = values[weight > 0]
    return len(used) > 0 and bool(used.min() < used.max())


def _ranked(y: Array, p: Array, weight: Array) -> _Ranked:
    if not len(p):
        return _Ranked(p, weight, y)
    order = np.argsort(p, kind="stable")
    scores = p[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return _Ranked(
        scores[starts],
        np.add.reduceat(weight[order], starts),
        np.add.reduceat((weight * y)[order], starts),
    )


def _table(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None
) -> tuple[float, float, float, float]:
    """True positives, false positives, false negatives, true negatives."""
    labels, scores, weights = _clean(y, p, weight)
    flagged = scores >= threshold
    positive = weights * labels
    tp, all_flagged = float(positive[flagged].sum()), float(weights[flagged].sum())
    fn = float(positive[~flagged].sum())
    return tp, all_flagged - tp, fn, float(weights[~flagged].sum()) - fn


def _surprise(y: Array, p: Array) -> Array:
    tiny = float(np.finfo(np.float64).eps)
    held = np.clip(p, tiny, 1 - tiny)
    return -(y * np.log(held) + (1 - y) * np.log1p(-held))


def _concentration(ranked: _Ranked) -> float:
    """1 − twice the area under the Lorenz curve of y in the order of the scores."""
    mass, total = ranked.weight.sum(), ranked.total.sum()
    if mass <= 0 or total == 0:
        return NAN
    reached = np.cumsum(ranked.total)
    area = (ranked.weight * (2 * reached - ranked.total)).sum()
    return float(1.0 - area / (mass * total))


def _middle_ranks(values: Array, weight: Array) -> Array:
    _, inverse = np.unique(values, return_inverse=True)
    mass = np.bincount(inverse, weights=weight)
    return np.asarray((np.cumsum(mass) - 0.5 * mass)[inverse], dtype=np.float64)


def _mean(values: Array, weight: Array) -> float:
    return _ratio(float((values * weight).sum()), float(weight.sum()))


def _ratio(above: float, below: float) -> float:
    return above / below if below != 0 else NAN


def _codes(groups: npt.ArrayLike | None, rows: int) -> tuple[npt.NDArray[np.int64], int]:
    if groups is None:
        return np.arange(rows), rows
    found, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != (rows,):
        raise DataError(f"groups must name one group per row: {rows} rows, got {codes.shape}")
    return codes, len(found)


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
