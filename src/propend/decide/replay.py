"""What another policy would have earned, from decisions that were logged with their propensities.

For a user whose logged action was taken with probability ``p`` and whom the other policy would treat so with
probability ``π``, the weight is ``w = π / p``. With reward ``y`` and predictions ``q`` of it:

* IPS: mean of ``w y`` (Horvitz and Thompson 1952): unbiased, wide;
* SNIPS: ``Σ w y / Σ w`` (Swaminathan and Joachims 2015): a ratio, biased by O(1/n), narrower;
* DR: mean of ``Σ_a π_a q_a + w (y − q_action)`` (Dudík, Langford and Li 2011): unbiased if either the
  propensities or the predictions are right, narrow where the predictions are good.

Intervals are normal, from the spread over users. They are honest only where weights are not carried by a few
users, so the effective sample size ``(Σ w)² / Σ w²`` (Kish 1965) is told, and too small a one refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError

__all__ = ["LEAST_EFFECTIVE", "Estimate", "Logged", "cross_predict", "evaluate", "uplift"]

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LEAST_EFFECTIVE: Final = 50.0
"""Smallest effective sample size that gets an answer."""


@dataclass(frozen=True)
class Logged:
    """What was done and what came of it. Users who could not be reached are not in it.

    ``pushed`` bool [n]; ``push_propensity`` [n], the probability with which a push was chosen; ``reward`` [n], for
    example margin · value − cost. Raises ``DataError`` where these cannot be.
    """

    pushed: Bool
    push_propensity: F64
    reward: F64

    def __post_init__(self) -> None:
        n = len(self.pushed)
        if self.pushed.dtype != np.bool_ or not n:
            raise DataError("replay needs one true or false per logged decision, and at least one")
        if self.push_propensity.shape != (n,) or self.reward.shape != (n,):
            raise DataError(f"replay needs a propensity and a reward for each of {n:,} decisions")
        taken = self.propensity
        if not ((taken > 0) & (taken <= 1)).all():
            raise DataError(
                "a logged action has propensity 0 or above 1, so it cannot have been taken; check the log"
            )
        if not np.isfinite(self.reward).all():
            raise DataError(
                "a logged decision has no reward; leave it out or wait until it is known"
            )

    @property
    def propensity(self) -> F64:
        """Probability of the action that was taken."""
        return np.where(self.pushed, self.push_propensity, 1 - self.push_propensity)


@dataclass(frozen=True)
class Estimate:
    """A mean reward per user with its interval, and what it rests on."""

    method: str
    value: float
    low: float
    high: float
    level: float
    users: int
    effective: float


def evaluate(
    log: Logged,
    push: npt.ArrayLike,
    *,
    method: str = "dr",
    predicted: tuple[F64, F64] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return the mean reward per user that a policy which pushes with probability ``push`` [n] would have had.

    ``method`` is ``ips``, ``snips`` or ``dr``; ``predicted`` are the rewards expected of silence and of a push
    [n] (made without these users' rewards; without them the mean rewards by action stand in).
    Raises ``DataError`` for arrays that do not fit, and ``NotEnoughDataError`` where the policy does what the log
    never did, or rests on too few users.

    >>> rng = np.random.default_rng(0)
    >>> pushed = rng.random(4000) < 0.5
    >>> log = Logged(pushed, np.full(4000, 0.5), 2.0 * pushed + rng.normal(size=4000))
    >>> found = evaluate(log, np.ones(4000))
    >>> found.low < 2.0 < found.high
    True
    """
    target = np.broadcast_to(np.asarray(push, np.float64), log.reward.shape)
    weight = _weights(log, target)
    y = log.reward
    if method == "ips":
        value, spread = _mean(weight * y)
    elif method == "snips":
        value = float((weight * y).sum() / weight.sum())
        spread = _mean(weight * (y - value))[1] / float(weight.mean())
    elif method == "dr":
        silent, pushed = _by_action(log) if predicted is None else predicted
        own = np.where(log.pushed, pushed, silent)
        value, spread = _mean(target * pushed + (1 - target) * silent + weight * (y - own))
    else:
        raise DataError(f"no estimator {method!r}; use ips, snips or dr")
    return _estimate(method, value, spread, level, len(y), _effective(weight))


def uplift(
    log: Logged,
    push: npt.ArrayLike,
    against: npt.ArrayLike = 0.0,
    *,
    predicted: tuple[F64, F64] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return by how much a policy earns more per user than another (silence for all, if not given), by DR.

    What both would do alike cancels, so this interval is narrower than those of the two.
    """
    one, two = (
        np.broadcast_to(np.asarray(p, np.float64), log.reward.shape) for p in (push, against)
    )
    first, second = _weights(log, one), _weights(log, two)
    silent, pushed = _by_action(log) if predicted is None else predicted
    own = np.where(log.pushed, pushed, silent)
    gain = (one - two) * (pushed - silent) + (first - second) * (log.reward - own)
    value, spread = _mean(gain)
    effective = min(_effective(first), _effective(second))
    return _estimate("dr", value, spread, level, len(gain), effective)


def _weights(log: Logged, target: F64) -> F64:
    """Return π / p after checking that the log tried what the policy would do."""
    if not ((target >= 0) & (target <= 1)).all():
        raise DataError("a policy's probability of a push must be from 0 to 1")
    never = ((target > 0) & (log.push_propensity == 0)) | (
        (target < 1) & (log.push_propensity == 1)
    )
    if never.any():
        raise NotEnoughDataError(
            f"for {never.mean():.1%} of users the policy would do what the log never did; "
            "explore (decide.explore above 0) before judging it"
        )
    weight = np.where(log.pushed, target, 1 - target) / log.propensity
    effective = _effective(weight)
    if effective < LEAST_EFFECTIVE:
        raise NotEnoughDataError(
            f"the policy's actions rest on {effective:.0f} effective users of {len(weight):,}; "
            f"at least {LEAST_EFFECTIVE:.0f} are needed: explore more, or wait for more decisions"
        )
    return np.asarray(weight, np.float64)


def _by_action(log: Logged) -> tuple[F64, F64]:
    """Return the propensity-weighted mean reward of silence and of a push, for each user the same."""
    means = []
    for rows in (~log.pushed, log.pushed):
        w = 1 / log.propensity[rows]
        mean = float((w * log.reward[rows]).sum() / w.sum()) if rows.any() else 0.0
        means.append(np.full(len(log.reward), mean))
    return means[0], means[1]


def _effective(weight: F64) -> float:
    total = float(weight.sum())
    return total**2 / float((weight**2).sum()) if total > 0 else 0.0


def _mean(values: F64) -> tuple[float, float]:
    """Return the mean and its standard error."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("inf")


def _estimate(
    method: str, value: float, spread: float, level: float, users: int, effective: float
) -> Estimate:
    from scipy.stats import norm

    if not 0 < level < 1:
        raise DataError(f"the level of an interval must be between 0 and 1, not {level:g}")
    half = float(norm.ppf(0.5 + level / 2)) * spread
    return Estimate(method, value, value - half, value + half, level, users, effective)


def cross_predict(
    X: F64, log: Logged, *, parts: int = 2, alpha: float = 1.0, seed: int = 7
) -> tuple[F64, F64]:
    """Return rewards predicted of silence and of a push, each part's by ridge regressions on the other parts.

    Cross-fitting keeps a user's own reward out of the prediction that DR corrects (Chernozhukov et al. 2018).
    """
    part = np.random.default_rng(seed).permutation(len(X)) % parts
    scale = X.std(axis=0)
    Z = np.column_stack([np.ones(len(X)), (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0)])
    found: Sequence[F64] = [np.zeros(len(X)), np.zeros(len(X))]
    for p in range(parts):
        for action, out in enumerate(found):
            rows = (part != p) & (log.pushed == bool(action))
            A = Z[rows]
            penalty = alpha * np.eye(A.shape[1])
            penalty[0, 0] = 1e-9
            out[part == p] = Z[part == p] @ np.linalg.solve(
                A.T @ A + penalty, A.T @ log.reward[rows]
            )
    return found[0], found[1]
