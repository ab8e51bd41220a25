"""Buy-till-you-die: how often a customer will buy, whether they still will, and for how much.

Time may be in any unit, the same throughout (weeks, by custom). ``frequency`` is the number of
*repeat* purchases, ``recency`` the time from the first purchase to the last (0 without a repeat),
``age`` the time from the first purchase to now.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, ModelError, NotEnoughDataError

__all__ = ["BgNbd", "GammaGamma", "customer_value"]

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BgNbd:
    """BG/NBD (Fader, Hardie & Lee, *Marketing Science* 24(2), 2005).

    While alive a customer buys as a Poisson process of rate λ ~ Gamma(r, α); after each purchase
    they leave for good with probability p ~ Beta(a, b).

    Examples
    --------
    The paper's fit on CDNOW, and a customer with 2 repeat purchases, the last in week 30.43 of
    38.86:

    >>> model = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)
    >>> float(model.expected_purchases(39, 2, 30.43, 38.86).round(3))
    1.226
    >>> float(model.probability_alive(2, 30.43, 38.86).round(3))
    0.727
    """

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float = float("nan")

    @classmethod
    def fit(
        cls,
        frequency: npt.ArrayLike,
        recency: npt.ArrayLike,
        age: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Maximum likelihood with the analytic gradient, equal customers counted once.

        Raises
        ------
        DataError
            arrays of other lengths, negative values, recency above age.
        NotEnoughDataError
            nobody bought twice.
        """
        x, tx, T, w = _history(frequency, recency, age, weight)
        if not (w * x).any():
            raise NotEnoughDataError(
                "nobody bought twice, so no rate can be learnt; bring a longer history"
            )
        unit = float(T.max())
        rows, inverse = np.unique(
            np.column_stack([x, tx / unit, T / unit]), axis=0, return_inverse=True
        )
        mass = np.asarray(np.bincount(inverse, weights=w), dtype=np.float64)
        best = _minimise(
            lambda log: _bgnbd_loss(log, rows, mass), [[0.0] * 4, [-1.0, -2.0, 0.0, 1.0]]
        )
        r, alpha, a, b = np.exp(best.x)
        likelihood = -float(best.fun) * float(w.sum()) - float((w * x).sum()) * np.log(unit)
        return cls(float(r), float(alpha) * unit, float(a), float(b), float(likelihood))

    def expected_purchases(
        self,
        t: npt.ArrayLike,
        frequency: npt.ArrayLike,
        recency: npt.ArrayLike,
        age: npt.ArrayLike,
    ) -> Array:
        """Expected purchases in the next ``t``, given the history; broadcasts (eq. 10).

        The hypergeometric function is taken after Euler's transformation, whose arguments stay
        small, so that frequent buyers do not overflow.
        """
        from scipy.special import hyp2f1

        x, tx, T, _ = _history(frequency, recency, age)
        ahead = np.asarray(t, dtype=np.float64)
        a = self.a + 1e-7 * (abs(self.a - 1) < 1e-7)  # a removable pole
        top = a + self.b + x - 1
        shrink = (self.alpha + T) / (self.alpha + T + ahead)
        with np.errstate(all="ignore"):
            F = hyp2f1(top - x - self.r, a - 1, top, 1 - shrink)
            bought = top / (a - 1) * (1 - shrink ** (a - 1) * F)
        # where dropout is too rare for the function's range, buying goes on at the customer's own rate
        bought = np.where(np.isfinite(bought), bought, (self.r + x) / (self.alpha + T) * ahead)
        return np.asarray(bought * self.probability_alive(x, tx, T))

    def expected_purchases_of_new(self, t: npt.ArrayLike) -> Array:
        """Expected repeat purchases of a random new customer in their first ``t`` (eq. 9)."""
        return self.expected_purchases(t, 0.0, 0.0, 0.0)

    def probability_alive(
        self, frequency: npt.ArrayLike, recency: npt.ArrayLike, age: npt.ArrayLike
    ) -> Array:
        """Probability of still being a customer; 1 without a repeat purchase, by the model."""
        x, tx, T, _ = _history(frequency, recency, age)
        repeat = np.maximum(x, 1.0)
        log_odds = (
            np.log(self.a)
            - np.log(self.b + repeat - 1)
            + (self.r + repeat) * (np.log(self.alpha + T) - np.log(self.alpha + tx))
        )
        return np.where(x > 0, np.exp(-np.logaddexp(0.0, log_odds)), 1.0)

    def state(self) -> dict[str, float]:
        """The parameters as JSON values (``BgNbd(**state)`` reads them back)."""
        return {"r": self.r, "alpha": self.alpha, "a": self.a, "b": self.b}


@dataclass(frozen=True, slots=True)
class GammaGamma:
    """Spend per purchase (Fader, Hardie & Lee 2005; note 025 of Fader & Hardie, 2013).

    A customer's purchases are Gamma(p, ν) with ν ~ Gamma(q, γ), independent of how often they buy.

    >>> spend = GammaGamma(p=6.25, q=3.74, gamma=15.44)
    >>> spend.expected_spend([0, 2, 50], [0.0, 60.0, 60.0]).round(1)
    array([35.2, 55.5, 59.8])
    """

    p: float
    q: float
    gamma: float
    log_likelihood: float = float("nan")

    @classmethod
    def fit(
        cls,
        frequency: npt.ArrayLike,
        mean_value: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Maximum likelihood over the customers with a purchase counted and a value above 0.

        Raises
        ------
        NotEnoughDataError
            fewer than 10 such customers, or nothing varies.
        """
        x, z, w = np.broadcast_arrays(
            *(np.asarray(v, dtype=np.float64) for v in (frequency, mean_value)),
            1.0 if weight is None else np.asarray(weight, dtype=np.float64),
        )
        used = (x > 0) & (z > 0) & (w > 0)
        if used.sum() < 10 or np.ptp(z[used]) == 0:
            raise NotEnoughDataError(
                f"spend needs 10 customers with differing values, got {int(used.sum())}"
            )
        x, z, w = x[used], z[used], w[used]
        unit = float(np.average(z, weights=w))
        best = _minimise(lambda log: _spend_loss(log, x, z / unit, w), [[0.0] * 3, [1.0, 1.0, 1.0]])
        p, q, gamma = np.exp(best.x)
        likelihood = -float(best.fun) * float(w.sum()) - float(w.sum()) * np.log(unit)
        return cls(float(p), float(q), float(gamma) * unit, float(likelihood))

    @property
    def mean(self) -> float:
        """Mean spend per purchase over customers; infinite for q ≤ 1."""
        return self.p * self.gamma / (self.q - 1) if self.q > 1 else float("inf")

    def expected_spend(self, frequency: npt.ArrayLike, mean_value: npt.ArrayLike) -> Array:
        """Expected spend per purchase given ``frequency`` purchases of mean ``mean_value``.

        Raises
        ------
        ModelError
            the fitted spend has no mean (q ≤ 1) and someone has no purchase to go by.
        """
        x, z = np.asarray(frequency, dtype=np.float64), np.asarray(mean_value, dtype=np.float64)
        z = np.where(x > 0, z, 0.0)
        below = self.p * x + self.q - 1
        if (below <= 0).any():
            raise ModelError("the fitted spend has no mean (q ≤ 1); cap the largest values")
        return np.asarray(self.p * (self.gamma + x * z) / below)

    def state(self) -> dict[str, float]:
        """The parameters as JSON values."""
        return {"p": self.p, "q": self.q, "gamma": self.gamma}


def customer_value(
    purchases: BgNbd,
    spend: GammaGamma,
    frequency: npt.ArrayLike,
    recency: npt.ArrayLike,
    age: npt.ArrayLike,
    mean_value: npt.ArrayLike,
    *,
    horizon: float,
    margin: float = 1.0,
    discount: float = 0.0,
    steps: int = 12,
) -> Array:
    """Discounted value of a customer's purchases in the next ``horizon``.

    Parameters
    ----------
    margin
        share of the spend that is profit.
    discount
        rate per unit of time, continuously compounded; purchases are discounted at the middle of
        ``steps`` equal parts of the horizon.

    >>> value = customer_value(BgNbd(0.243, 4.414, 0.793, 2.426), GammaGamma(6.25, 3.74, 15.44),
    ...                        [2], [30.43], [38.86], [25.0], horizon=39)
    >>> value.round(0)
    array([33.])
    """
    each = margin * spend.expected_spend(frequency, mean_value)
    if discount == 0:
        return np.asarray(each * purchases.expected_purchases(horizon, frequency, recency, age))
    times = np.linspace(0.0, horizon, steps + 1)
    total, before = np.zeros_like(each), np.zeros_like(each)
    for start, end in pairwise(times):
        after = purchases.expected_purchases(end, frequency, recency, age)
        total = total + (after - before) * np.exp(-discount * (start + end) / 2)
        before = after
    return np.asarray(each * total)


def _history(
    frequency: npt.ArrayLike,
    recency: npt.ArrayLike,
    age: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    parts = [np.asarray(v, dtype=np.float64) for v in (frequency, recency, age)]
    parts.append(np.ones(()) if weight is None else np.asarray(weight, dtype=np.float64))
    try:
        x, tx, T, w = np.broadcast_arrays(*parts)
    except ValueError:
        raise DataError("frequency, recency, age and weight must be of one length") from None
    if not all(np.isfinite(v).all() and (v >= 0).all() for v in (x, tx, T, w)):
        raise DataError("frequency, recency, age and weight must be finite and 0 or more")
    if (tx > T).any() or ((x == 0) & (tx > 0)).any():
        raise DataError("recency is first to last purchase: at most age, and 0 without a repeat")
    return x, tx, T, w


def _minimise(loss: Any, starts: list[list[float]]) -> Any:
    """The best of a few starts, over log-parameters, with the gradient the loss returns."""
    from scipy.optimize import minimize

    found = [
        minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-12.0, 12.0)] * len(start),
            options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 2000},
        )
        for start in starts
    ]
    return min(found, key=lambda result: float(result.fun))


def _bgnbd_loss(log: Array, rows: Array, mass: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood and its gradient in the logs of (r, α, a, b)."""
    from scipy.special import digamma, gammaln

    r, alpha, a, b = np.exp(log)
    x, tx, T = rows.T
    repeat, prior = x > 0, np.maximum(x, 1.0) - 1
    log_T, log_tx = np.log(alpha + T), np.log(alpha + tx)
    stay = -(r + x) * log_T
    leave = np.where(repeat, np.log(a) - np.log(b + prior) - (r + x) * log_tx, -np.inf)
    both = np.logaddexp(stay, leave)
    gone = np.exp(leave - both)
    here = 1 - gone
    value = (
        gammaln(r + x)
        - gammaln(r)
        + r * np.log(alpha)
        + gammaln(a + b)
        + gammaln(b + x)
        - gammaln(b)
        - gammaln(a + b + x)
        + both
    )
    joint = digamma(a + b) - digamma(a + b + x)
    slopes = np.stack(
        [
            r * (digamma(r + x) - digamma(r) + np.log(alpha) - here * log_T - gone * log_tx),
            r - alpha * (r + x) * (here / (alpha + T) + gone / (alpha + tx)),
            a * joint + gone,
            b * (joint + digamma(b + x) - digamma(b)) - b * gone / (b + prior),
        ]
    )
    total = mass.sum()
    return -float(mass @ value) / total, -(slopes @ mass) / total


def _spend_loss(log: Array, x: Array, z: Array, weight: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood and its gradient in the logs of (p, q, γ)."""
    from scipy.special import digamma, gammaln

    p, q, gamma = np.exp(log)
    reach = np.log(gamma + x * z)
    value = (
        gammaln(p * x + q)
        - gammaln(p * x)
        - gammaln(q)
        + q * np.log(gamma)
        + (p * x - 1) * np.log(z)
        + p * x * np.log(x)
        - (p * x + q) * reach
    )
    both = digamma(p * x + q)
    slopes = np.stack(
        [
            p * x * (both - digamma(p * x) + np.log(z) + np.log(x) - reach),
            q * (both - digamma(q) + np.log(gamma) - reach),
            q - gamma * (p * x + q) / (gamma + x * z),
        ]
    )
    total = weight.sum()
    return -float(weight @ value) / total, -(slopes @ weight) / total
