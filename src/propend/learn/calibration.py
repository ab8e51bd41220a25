"""From scores to probabilities that come true, learnt on scores of rows the model never saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, ModelError, NotEnoughDataError, nearest
from propend.learn.ranking import equal_mass_bins, groups_of

__all__ = [
    "Calibrator",
    "Identity",
    "Isotonic",
    "Platt",
    "ReliabilityTable",
    "VennAbers",
    "choose",
    "from_state",
    "reliability",
]

Array: TypeAlias = npt.NDArray[np.float64]

_TINY = 1e-12


class Calibrator(ABC):
    """A monotone map from scores in [0, 1] to probabilities."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, p: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> Self:
        """Learn from held-out scores ``p`` [n] and what came true, ``y`` [n] of 0/1."""

    @abstractmethod
    def apply(self, p: npt.ArrayLike) -> Array:
        """Probabilities [n] for scores [n]."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON values that ``from_state`` reads back to the same map, bit for bit."""


class Identity(Calibrator):
    """Scores as they are."""

    name: ClassVar[str] = "identity"

    def fit(
        self,
        p: npt.ArrayLike,  # noqa: ARG002
        y: npt.ArrayLike,  # noqa: ARG002
        weight: npt.ArrayLike | None = None,  # noqa: ARG002
    ) -> Self:
        return self

    def apply(self, p: npt.ArrayLike) -> Array:
        return np.array(p, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"calibrator": self.name}


class Platt(Calibrator):
    """A logistic curve of the score's log-odds: ``σ(slope · logit(p) + intercept)``.

    Platt's smoothed targets, (N₊+1)/(N₊+2) and 1/(N₋+2), keep it off the edges (Platt 1999; fitted
    by Newton steps as Lin, Lin & Weng 2007 advise). A slope below 0 is held at 0: calibration may
    flatten a ranking, never turn it round.

    >>> p = np.repeat([0.1, 0.9], 100)
    >>> y = np.r_[np.arange(100) < 30, np.arange(100) < 70]
    >>> Platt().fit(p, y).apply([0.1, 0.5, 0.9]).round(2)
    array([0.3, 0.5, 0.7])
    """

    name: ClassVar[str] = "platt"

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        self.slope, self.intercept = slope, intercept

    def fit(self, p: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> Self:
        scores, labels, weights = _checked(p, y, weight)
        positive = float((weights * labels).sum())
        negative = float(weights.sum()) - positive
        targets = np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
        slope, intercept = _newton(_logit(scores), targets, weights)
        if slope < 0:
            slope, intercept = 0.0, float(_logit(np.average(targets, weights=weights)))
        self.slope, self.intercept = slope, intercept
        return self

    def apply(self, p: npt.ArrayLike) -> Array:
        return _sigmoid(self.slope * _logit(p) + self.intercept)

    def state(self) -> dict[str, Any]:
        return {"calibrator": self.name, "slope": self.slope, "intercept": self.intercept}


class Isotonic(Calibrator):
    """The closest non-decreasing steps, joined by lines (Zadrozny & Elkan 2002).

    Steps at 0 and 1 are held at 1/(n+2) from the edge, since n rows cannot show certainty.

    >>> Isotonic().fit([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]).apply([0.1, 0.25, 0.4]).round(2)
    array([0.17, 0.5 , 0.83])
    """

    name: ClassVar[str] = "isotonic"

    def __init__(self, x: npt.ArrayLike = (0.0, 1.0), y: npt.ArrayLike = (0.0, 1.0)) -> None:
        self.x, self.y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    def fit(self, p: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> Self:
        from sklearn.isotonic import IsotonicRegression

        scores, labels, weights = _checked(p, y, weight)
        used = weights > 0
        edge = 1.0 / (float(weights.sum()) + 2.0)
        fitted = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip")
        fitted.fit(scores[used], labels[used], sample_weight=weights[used])
        self.x = np.asarray(fitted.X_thresholds_, dtype=np.float64)
        self.y = np.asarray(fitted.y_thresholds_, dtype=np.float64)
        return self

    def apply(self, p: npt.ArrayLike) -> Array:
        return np.asarray(np.interp(np.asarray(p, dtype=np.float64), self.x, self.y))

    def state(self) -> dict[str, Any]:
        return {"calibrator": self.name, "x": self.x.tolist(), "y": self.y.tolist()}


class VennAbers(Calibrator):
    """An interval of probabilities per score that is valid on average (Vovk & Petej 2014).

    Isotonic regression is fitted twice with the new row among the old ones, once as a 0 and once as
    a 1: the two values are the interval (``bounds``), wide where little is known. ``apply`` gives
    the one probability with least regret, ``p1 / (1 - p0 + p1)``. Up to ``KNOTS`` distinct scores
    it is exact; more are first averaged into as many equal-mass groups.

    >>> p = np.repeat([0.1, 0.9], 50)
    >>> y = np.r_[np.arange(50) < 10, np.arange(50) < 40]
    >>> low, high = VennAbers().fit(p, y).bounds([0.1, 0.9])
    >>> low.round(2), high.round(2)
    (array([0.2 , 0.78]), array([0.22, 0.8 ]))
    """

    name: ClassVar[str] = "venn_abers"
    KNOTS: ClassVar[int] = 300

    def __init__(
        self,
        x: npt.ArrayLike = (0.5,),
        low: npt.ArrayLike = (0.0, 0.0, 0.0),
        high: npt.ArrayLike = (1.0, 1.0, 1.0),
    ) -> None:
        self.x, self.low, self.high = (np.asarray(v, dtype=np.float64) for v in (x, low, high))

    def fit(self, p: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> Self:
        scores, labels, weights = _checked(p, y, weight)
        used = weights > 0
        scores, labels, weights = scores[used], labels[used], weights[used]
        self.x, bins = np.unique(scores, return_inverse=True)
        if len(self.x) > self.KNOTS:
            bins = equal_mass_bins(scores, weights, self.KNOTS)
        mass: Array = np.asarray(np.bincount(bins, weights), dtype=np.float64)
        kept = mass > 0
        mass = mass[kept]
        if len(self.x) > self.KNOTS:
            self.x = np.bincount(bins, weights * scores)[kept] / mass
        rate = np.bincount(bins, weights * labels)[kept] / mass
        self.low, self.high = (_with_one_more(rate, mass, label) for label in (0.0, 1.0))
        return self

    def bounds(self, p: npt.ArrayLike) -> tuple[Array, Array]:
        """The lower and upper probability [n] of scores [n]."""
        scores = np.asarray(p, dtype=np.float64)
        left = self.x.searchsorted(scores, side="left")
        tied = self.x.take(left, mode="clip") == scores  # beyond the last: the last, which is less
        slot = 2 * left + tied
        return self.low[slot], self.high[slot]

    def apply(self, p: npt.ArrayLike) -> Array:
        low, high = self.bounds(p)
        return np.asarray(high / (1 - low + high))

    def state(self) -> dict[str, Any]:
        return {
            "calibrator": self.name,
            "x": self.x.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
        }


def _with_one_more(rate: Array, mass: Array, label: float) -> Array:
    """The isotonic value of one more row of ``label`` at each place: between knots (even), on them."""
    from sklearn.isotonic import isotonic_regression

    out = np.empty(2 * len(rate) + 1)
    for slot in range(len(out)):
        at, tied = divmod(slot, 2)
        if tied:
            value, weight = rate.copy(), mass.copy()
            value[at] = (rate[at] * mass[at] + label) / (mass[at] + 1)
            weight[at] += 1
        else:
            value, weight = np.insert(rate, at, label), np.insert(mass, at, 1.0)
        out[slot] = isotonic_regression(value, sample_weight=weight)[at]
    return np.clip(out, 0.0, 1.0)


_KNOWN: dict[str, type[Calibrator]] = {c.name: c for c in (Identity, Platt, Isotonic)}
_ALL: dict[str, type[Calibrator]] = {**_KNOWN, VennAbers.name: VennAbers}


def from_state(state: dict[str, Any]) -> Calibrator:
    """The calibrator of a ``state``.

    Raises
    ------
    ModelError
        an unknown calibrator or missing values.

    >>> from_state({"calibrator": "platt", "slope": 1.0, "intercept": 0.0}).apply([0.25])
    array([0.25])
    """
    values = dict(state)
    name = str(values.pop("calibrator", ""))
    if name not in _ALL:
        raise ModelError(f"there is no calibrator '{name}'{nearest(name, _ALL)}")
    try:
        return _ALL[name](**values)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the saved calibrator '{name}' is damaged: {error}") from None


def choose(
    p: npt.ArrayLike,
    y: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    folds: int = 5,
    noise: float = 2.0,
    seed: int = 0,
) -> Calibrator:
    """The calibrator with the best cross-validated log-loss, fitted on all rows given.

    Tried from simple to flexible (identity, Platt, isotonic); the next is taken only if it beats
    the one in hand by more than ``noise`` standard errors of the paired difference. Rows of a group
    (a user) share a fold and count once in the standard error. With under 10 positives or
    negatives, or too few groups, scores stay as they are.

    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(2000)
    >>> choose(p, rng.random(2000) < p).name
    'identity'
    >>> choose(p, rng.random(2000) < 0.1 + 0.3 * p).name
    'platt'
    """
    scores, labels, weights = _checked(p, y, weight)
    unit, count = groups_of(groups, len(scores))
    rarer = min(float((weights * labels).sum()), float((weights * (1 - labels)).sum()))
    if rarer < 10 or count < 2 * folds:
        return Identity()
    fold = np.random.default_rng(seed).permutation(np.arange(count) % folds)[unit]
    losses = {name: _held_out_loss(c, scores, labels, weights, fold) for name, c in _KNOWN.items()}
    best = Identity.name
    for name in (Platt.name, Isotonic.name):
        gain = np.bincount(unit, weights=weights * (losses[best] - losses[name]), minlength=count)
        if gain.sum() > noise * np.sqrt(count) * gain.std():
            best = name
    return _KNOWN[best]().fit(scores, labels, weights)


@dataclass(frozen=True, slots=True)
class ReliabilityTable:
    """Equal-mass bins of the scores, lowest first; every field is [bins that hold rows]."""

    weight: Array
    predicted: Array
    """Mean probability."""
    observed: Array
    """Rate that came true."""
    low: Array
    high: Array
    """Wilson interval (1927) of ``observed``."""


def reliability(
    p: npt.ArrayLike,
    y: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    level: float = 0.95,
) -> ReliabilityTable:
    """What a calibration chart draws: predicted against observed rate.

    >>> table = reliability([0.2, 0.2, 0.8, 0.8], [0, 0, 1, 1], bins=2)
    >>> table.predicted, table.observed
    (array([0.2, 0.8]), array([0., 1.]))
    """
    from scipy.special import ndtri

    scores, labels, weights = _checked(p, y, weight)
    bin_of = equal_mass_bins(scores, weights, bins)
    columns = (weights, weights * scores, weights * labels)
    sums: Array = np.array([np.bincount(bin_of, weights=c, minlength=bins) for c in columns])
    n, predicted, observed = sums[:, sums[0] > 0]
    predicted, observed = predicted / n, observed / n
    z = float(ndtri((1 + level) / 2))
    middle = (observed + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(observed * (1 - observed) / n + z * z / (4 * n * n))
    low, high = np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
    return ReliabilityTable(n, predicted, observed, low, high)


def _held_out_loss(
    kind: type[Calibrator],
    scores: Array,
    labels: Array,
    weights: Array,
    fold: npt.NDArray[np.int64],
) -> Array:
    held = np.empty(len(scores))
    for k in range(int(fold.max()) + 1):
        out = fold == k
        held[out] = kind().fit(scores[~out], labels[~out], weights[~out]).apply(scores[out])
    held = np.clip(held, _TINY, 1 - _TINY)
    return -(labels * np.log(held) + (1 - labels) * np.log1p(-held))


def _checked(
    p: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
    scores, labels = np.asarray(p, dtype=np.float64), np.asarray(y, dtype=np.float64)
    weights = np.ones(scores.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != labels.shape or scores.shape != weights.shape:
        raise DataError(
            f"scores, labels and weights must be of one length, got {scores.shape}, "
            f"{labels.shape} and {weights.shape}"
        )
    if not weights.sum() > 0:
        raise NotEnoughDataError("there is no row to calibrate on; pass held-out scores")
    if not ((scores >= 0) & (scores <= 1)).all() or not np.isin(labels, (0.0, 1.0)).all():
        raise DataError("calibration needs scores between 0 and 1 and labels of 0 or 1")
    return scores, labels, weights


def _logit(p: npt.ArrayLike) -> Array:
    held = np.minimum(np.maximum(np.asarray(p, dtype=np.float64), _TINY), 1 - _TINY)
    return cast("Array", np.log(held) - np.log1p(-held))


def _sigmoid(margin: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))


def _newton(x: Array, targets: Array, weights: Array, steps: int = 100) -> tuple[float, float]:
    """Slope and intercept of a logistic curve through fractional targets, damped Newton."""
    A = np.column_stack([x, np.ones_like(x)])
    beta = np.array([0.0, float(_logit(np.average(targets, weights=weights)))])

    def loss(b: Array) -> float:
        margin = A @ b
        return float((weights * (np.logaddexp(0.0, margin) - targets * margin)).sum())

    now = loss(beta)
    for _ in range(steps):
        rate = _sigmoid(A @ beta)
        gradient = A.T @ (weights * (rate - targets))
        hessian = (A * (weights * rate * (1 - rate))[:, None]).T @ A + 1e-10 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while (then := loss(beta - step)) > now and np.abs(step).max() > 1e-12:
            step = step / 2
        beta = beta - step
        if now - then <= 1e-12 * abs(now):
            break
        now = then
    return float(beta[0]), float(beta[1])
