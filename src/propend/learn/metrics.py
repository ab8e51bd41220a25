"""How good scores are, in one number: for yes/no, for amounts and for the time to an event.

Every metric takes ``y`` [n], the scores ``p`` [n] and optionally ``weight`` [n], treats tied scores
as one (so the order of rows never matters), and returns NaN where it is not defined, as AUROC on
one class. They agree with scikit-learn, which the tests check. Rows tested in several folds are
judged inside each of them (``propend.learn.strata``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from propend.learn.lift import lift_by_decile
from propend.learn.ranking import NAN, Array, Ranked, by_score, checked, equal_mass_bins

__all__ = [
    "AT_THRESHOLD",
    "ECE_BINS",
    "Metric",
    "accuracy",
    "auroc",
    "average_precision",
    "best_f1_threshold",
    "bias",
    "brier",
    "c_index",
    "ece",
    "f1",
    "gini",
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
]

AT_THRESHOLD: Final = ("accuracy", "precision", "recall", "f1")
"""Metrics of flagging from a score on: each says nothing without that score."""

Metric: TypeAlias = Callable[[Array, Array, Array | None], float]
"""``metric(y, p, weight)``: every function here whose third argument is the weight."""
ECE_BINS: Final = 15


# -------------------------------------------------------------------------------- yes / no


def auroc(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Chance that a positive scores above a negative, ties half (Hanley & McNeil 1982).

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    ranked = by_score(*checked(y, p, weight))
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
    ranked = by_score(*checked(y, p, weight))
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
    ranked = by_score(*checked(y, p, weight))
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
    ranked = by_score(*checked(y, p, weight))
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
    labels, scores, weights = checked(y, p, weight)
    return _mean(_surprise(labels, scores), weights)


def brier(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean squared difference between probability and label (Brier 1950)."""
    labels, scores, weights = checked(y, p, weight)
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
    labels, scores, weights = checked(y, p, weight)
    if not weights.sum() > 0:
        return NAN
    bin_of = equal_mass_bins(scores, weights, bins)
    gap = np.bincount(bin_of, weights=weights * (scores - labels), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum())


# -------------------------------------------------------------------------------- amounts


def mae(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean absolute error."""
    labels, scores, weights = checked(y, p, weight)
    return _mean(np.abs(scores - labels), weights)


def rmse(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Root of the mean squared error."""
    labels, scores, weights = checked(y, p, weight)
    return float(np.sqrt(_mean((scores - labels) ** 2, weights)))


def bias(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Predicted total over true total, minus 1; NaN where the true total is 0.

    >>> round(bias([1, 3], [1, 2]), 4)
    -0.25
    """
    labels, scores, weights = checked(y, p, weight)
    return _ratio(float((weights * (scores - labels)).sum()), float((weights * labels).sum()))


def gini(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Normalised Gini: how much of the perfect ranking's concentration the scores reach.

    1 ranks perfectly, 0 like chance; for 0/1 labels it is 2·AUROC − 1.

    >>> round(gini([1, 2, 3], [10, 20, 30]), 4)
    1.0
    """
    labels, scores, weights = checked(y, p, weight)
    if not _varies(labels, weights):
        return NAN
    perfect = _concentration(by_score(labels, labels, weights))
    return _ratio(_concentration(by_score(labels, scores, weights)), perfect)


def top_decile_lift(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """Mean of the best-scored tenth over the mean of all."""
    return float(lift_by_decile(y, p, weight).lift[0])


def r2(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Share of the variance explained; NaN where y does not vary."""
    labels, scores, weights = checked(y, p, weight)
    if not _varies(labels, weights):
        return NAN
    centred = labels - _mean(labels, weights)
    left = float((weights * (scores - labels) ** 2).sum())
    return 1.0 - _ratio(left, float((weights * centred**2).sum()))


def spearman(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Correlation of the (mid-)ranks; NaN where one side does not vary."""
    labels, scores, weights = checked(y, p, weight)
    if not (_varies(labels, weights) and _varies(scores, weights)):
        return NAN
    a, b = _middle_ranks(labels, weights), _middle_ranks(scores, weights)
    a, b = a - _mean(a, weights), b - _mean(b, weights)
    spread = float((weights * a * a).sum() * (weights * b * b).sum())
    return _ratio(float((weights * a * b).sum()), float(np.sqrt(spread)))


def mean(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean of ``y``, whatever the scores: for figures that each row already has."""
    labels, _, weights = checked(y, p, weight)
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
    labels, scores, weights = checked(y, p, weight)
    short = labels - scores
    return _mean(np.maximum(quantile * short, (quantile - 1) * short), weights)


def share_below(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Share of rows at or below their score: what a quantile promises."""
    labels, scores, weights = checked(y, p, weight)
    return _mean((labels <= scores).astype(np.float64), weights)


def poisson_deviance(
    y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> float:
    """Mean Poisson deviance of counts; an expected count of 0 is held at machine epsilon.

    >>> round(poisson_deviance([0, 2], [1.0, 2.0]), 3)
    1.0
    """
    labels, scores, weights = checked(y, p, weight)
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
    labels, scores, weights = checked(y, p, weight)
    watched, event = np.abs(labels), labels > 0
    # events first at equal times when read forwards: who is censored then was still watched
    order = np.lexsort((event, -watched))
    _, place = np.unique(scores, return_inverse=True)
    from propend.learn.concordance import pairs

    better, worse, everyone = pairs(watched[order], event[order], place[order], weights[order])
    return _ratio(better + 0.5 * (everyone - better - worse), everyone)


def mae_of_time(y: npt.ArrayLike, p: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Mean absolute error of the time to an event, where none was seen up to the time watched."""
    labels, scores, weights = checked(y, p, weight)
    watched = np.abs(labels)
    return _mean(np.abs(np.minimum(scores, watched.max(initial=0.0)) - watched), weights)


# -------------------------------------------------------------------------------- private


def _varies(values: Array, weight: Array) -> bool:
    used = values[weight > 0]
    return len(used) > 0 and bool(used.min() < used.max())


def _table(
    y: npt.ArrayLike, p: npt.ArrayLike, threshold: float, weight: npt.ArrayLike | None
) -> tuple[float, float, float, float]:
    """True positives, false positives, false negatives, true negatives."""
    labels, scores, weights = checked(y, p, weight)
    flagged = scores >= threshold
    positive = weights * labels
    tp, all_flagged = float(positive[flagged].sum()), float(weights[flagged].sum())
    fn = float(positive[~flagged].sum())
    return tp, all_flagged - tp, fn, float(weights[~flagged].sum()) - fn


def _surprise(y: Array, p: Array) -> Array:
    tiny = float(np.finfo(np.float64).eps)
    held = np.clip(p, tiny, 1 - tiny)
    return -(y * np.log(held) + (1 - y) * np.log1p(-held))


def _concentration(ranked: Ranked) -> float:
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
