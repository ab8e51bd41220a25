"""Whom to contact: the cut that earns most, from cost, value and budget, with its profit curve and interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import ConfigError, DataError

__all__ = ["Contact", "ProfitCurve", "profit_curve"]

F64 = npt.NDArray[np.float64]
POINTS = 101


@dataclass(frozen=True)
class Contact:
    """What contacting one user costs, what a positive contacted is worth, and the most that contacts may cost."""

    value: float
    cost: float = 0.0
    budget: float | None = None


@dataclass(frozen=True)
class ProfitCurve:
    """Profit against the share of rows contacted, best scores first; the curve's fields are [101]."""

    share: F64
    threshold: F64
    """Score of the last row contacted at each share (∞ at share 0)."""
    profit: F64
    low: F64
    """Lower end of the bootstrap interval of the profit."""
    high: F64
    best: int
    """Index of the most profitable share that the budget allows."""
    break_even: float
    """Probability at which a contact pays for itself (NaN where the value differs by row)."""
    level: float

    def said(self) -> dict[str, Any]:
        """Return the curve as a card keeps it."""
        curve = {name: getattr(self, name).tolist() for name in ("share", "profit", "low", "high")}
        return {
            "sentence": self.sentence,
            "cut": self.cut,
            "break_even": self.break_even,
            "best_share": float(self.share[self.best]),
            "best_profit": float(self.profit[self.best]),
            **curve,
        }

    @property
    def cut(self) -> float:
        """Contact scores of at least this; ∞: nobody pays for the contact."""
        return float(self.threshold[self.best])

    @property
    def sentence(self) -> str:
        """The advice in words."""
        if self.best == 0:
            return "no share of the users pays for the contact; do not send"
        return (
            f"contact the best {self.share[self.best]:.0%} (score at least {self.cut:.3f}): profit {self.profit[self.best]:,.2f} "
            f"({self.low[self.best]:,.2f} to {self.high[self.best]:,.2f}), everyone: {self.profit[-1]:,.2f}"
        )


def profit_curve(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    *,
    value: float | npt.ArrayLike = 1.0,
    cost: float = 0.0,
    budget: float | None = None,
    groups: npt.ArrayLike | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> ProfitCurve:
    """Return the profit of contacting the best-scored share of held-out rows.

    Profit = Σ over contacted rows of ``y`` · ``value`` − ``cost``. ``value`` is one number or one per row; ``budget``
    is the most that contacts may cost. It counts every positive contacted as won by the contact: for what the contact
    itself changes, use an experiment (``propend.decide``).

    >>> curve = profit_curve([1, 1, 0, 0], [0.9, 0.6, 0.4, 0.1], value=10.0, cost=3.0)
    >>> curve.cut, float(curve.profit[curve.best]), curve.break_even
    (0.6, 14.0, 0.3)
    """
    labels, scores = np.asarray(y, np.float64), np.asarray(p, np.float64)
    worth = np.broadcast_to(np.asarray(value, np.float64), labels.shape)
    if labels.ndim != 1 or labels.shape != scores.shape or not len(labels):
        raise DataError("labels and scores must be of one length, and not empty")
    if cost < 0 or (budget is not None and budget < 0) or (worth < 0).any():
        raise ConfigError("cost, value and budget must be 0 or more")
    order = np.argsort(-scores, kind="stable")
    gain, ranked = (labels * worth - cost)[order], scores[order]
    ends = np.unique(np.r_[np.flatnonzero(np.diff(ranked)) + 1, len(ranked)])  # ties go together
    at = ends[np.minimum(np.searchsorted(ends, np.linspace(0, len(ranked), POINTS)), len(ends) - 1)]
    at[0] = 0
    profit = np.r_[0.0, np.cumsum(gain)][at]
    codes = np.arange(len(labels))
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng, drawn = np.random.default_rng(seed), np.empty((draws, POINTS))
    users = int(codes.max()) + 1
    for i in range(draws):
        times = np.bincount(rng.integers(0, users, users), minlength=users)[codes][order]
        drawn[i] = np.r_[0.0, np.cumsum(gain * times)][at]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    allowed = np.ones(POINTS, np.bool_) if budget is None else at * cost <= budget
    best = int(np.argmax(np.where(allowed, profit, -np.inf)))
    threshold = np.r_[np.inf, ranked][at]
    single = np.ptp(worth) == 0
    even = cost / worth[0] if single and worth[0] > 0 else float("nan")
    return ProfitCurve(at / len(ranked), threshold, profit, low, high, best, float(even), level)
