"""Penalised logistic regression by Newton's steps over blocks of rows: its design matrix never stands in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from propend.models.encode import Design
from propend.models.model import Array, Data

__all__ = ["LogisticSteps"]

CLOSE: Final = 1e-6
"""Largest slope of the mean loss, and half the squared Newton decrement, at which it is done (as scikit-learn's ``tol``)."""
_HALVINGS: Final = 20


@dataclass(frozen=True, slots=True)
class _Sums:
    """Mean loss over the rows with its slopes [p + 1] and curvature [p + 1, p + 1], the intercept last."""

    loss: float
    slopes: Array
    curvature: Array


class LogisticSteps:
    """Coefficients [p] and intercept under an L2 penalty; each ``fit`` goes on from where the one before ended.

    One pass over the rows encodes them and sums loss, slopes and curvature; the penalty is added to the sums, so another
    strength begins without a pass.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 2))
    >>> y = (rng.random(1000) < 1 / (1 + np.exp(-X[:, 0]))).astype(float)
    >>> steps = LogisticSteps(Design.fit(X, {}), Data(X, y))
    >>> steps.fit(1.0)
    >>> bool(steps.coefficients[0] > 1 > 0.2 > abs(steps.coefficients[1]))
    True
    """

    def __init__(self, design: Design, data: Data, most: int = 1000) -> None:
        self.design, self.data, self.most = design, data, most
        self._weights = data.weights
        self._mass = float(self._weights.sum())
        self._beta = np.zeros(design.width + 1)
        self._at: _Sums | None = None

    def on(self, data: Data) -> LogisticSteps:
        """Return steps over other rows that begin at these coefficients."""
        other = LogisticSteps(self.design, data, self.most)
        other._beta = self._beta
        return other

    @property
    def coefficients(self) -> Array:
        """One for each encoded column."""
        return self._beta[:-1]

    @property
    def intercept(self) -> float:
        """The margin of the average row."""
        return float(self._beta[-1])

    def fit(self, strength: float) -> None:
        """Minimise the summed loss plus ``strength`` / 2 times the squared coefficients (not the intercept)."""
        from scipy.linalg import solve

        penalty = np.full(len(self._beta), strength / self._mass)
        penalty[-1] = 0.0
        at = self._at or self._summed(self._beta)
        for _ in range(self.most):
            slopes = at.slopes + penalty * self._beta
            step = solve(at.curvature + np.diag(penalty), slopes, assume_a="pos")
            if np.abs(slopes).max() <= CLOSE and slopes @ step / 2 <= CLOSE:
                break
            now = at.loss + penalty @ self._beta**2 / 2
            for _ in range(_HALVINGS):
                beta = self._beta - step
                at = self._summed(beta)
                if at.loss + penalty @ beta**2 / 2 <= now:
                    break
                step = step / 2
            else:  # no lower even by a millionth of the step: the bottom, but for rounding
                at = self._summed(self._beta)
                break
            self._beta = beta
        self._at = at

    def margins(self, data: Data, strength: float) -> Array:
        """Fit, and return the log-odds [n] of other rows."""
        self.fit(strength)
        parts = [self.design.transform(X) @ self.coefficients for _, X in data.blocks()]
        return np.asarray(np.concatenate(parts) + self.intercept)

    def _summed(self, beta: Array) -> _Sums:
        loss, slopes = 0.0, np.zeros_like(beta)
        curvature = np.zeros((len(beta), len(beta)))
        for rows, X in self.data.blocks():
            Z, y, weight = self.design.transform(X), self.data.y[rows], self._weights[rows]
            margin = Z @ beta[:-1] + beta[-1]
            rate = 0.5 * (1.0 + np.tanh(0.5 * margin))
            loss += float((weight * (np.logaddexp(0.0, margin) - y * margin)).sum())
            gap, bend = weight * (rate - y), weight * rate * (1.0 - rate)
            slopes[:-1] += gap @ Z
            slopes[-1] += gap.sum()
            curvature[-1, :-1] += bend @ Z
            curvature[-1, -1] += bend.sum()
            Z *= np.sqrt(bend)[:, None]
            # of one array: half the work, for NumPy sees the symmetry
            curvature[:-1, :-1] += Z.T @ Z
        curvature[:-1, -1] = curvature[-1, :-1]
        return _Sums(loss / self._mass, slopes / self._mass, curvature / self._mass)
