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
    """What contacting one user costs, what a positive contacted is worth, and the most that contacts may cost.

    Raises ``ConfigError`` at once for an amount below 0 or one that is no number.

    >>> Contact(5.0, cost=-1.0)
    Traceback (most recent call last):
    propend.errors.ConfigError: a cost must be a number of 0 or more, not -1
    """

    value: float
    cost: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "cost", "budget"):
            amount = getattr(self, name)
            if amount is not None and not 0 <= amount < float("inf"):
                raise ConfigError(f"a {name} must be a number of 0 or more, not {amount:g}")


@dataclass(frozen=True)
class ProfitCurve:
    """Profit against the share of people contacted, best scores first; the curve's fields are [101], one more with a budget."""

    share: F64
    threshold: F64
    """Score of the last test row contacted at each share (∞ at share 0)."""
    profit: F64
    low: F64
    """Lower end of the bootstrap interval of the profit."""
    high: F64
    best: int
    """Index of the most profitable share that the budget allows."""
    break_even: float
    """Probability at which a contact pays for itself (NaN where the value differs by row)."""
    level: float
    people: int
    """How many could be contacted; profits are for so many."""
    contacts: int
    """How many of them are, at the cut."""
    affordable: int
    """How many the budget pays for."""
    cut: float
    """Contact scores of at least this; ∞: nobody pays for the contact, or the budget pays for nobody."""

    def said(self) -> dict[str, Any]:
        """Return the curve as a card keeps it."""
        curve = {name: getattr(self, name).tolist() for name in ("share", "profit", "low", "high")}
        return {
            "sentence": self.sentence,
            "cut": self.cut,
            "people": self.people,
            "contacts": self.contacts,
            "break_even": self.break_even,
            "best_share": float(self.share[self.best]),
            "best_profit": float(self.profit[self.best]),
            **curve,
        }

    @property
    def sentence(self) -> str:
        """The advice in words."""
        if self.best == 0:
            return "no share of the people that the budget allows pays for the contact; do not send"
        if self.contacts == 0:
            return f"none of the {self.people:,} people can be told apart from more than the budget pays for; do not send"
        paid = (
            "" if self.affordable >= self.people else f"; the budget pays for {self.affordable:,}"
        )
        return (
            f"contact the best {self.contacts:,} of {self.people:,} (score at least {self.cut:.3f}{paid}): profit "
            f"{self.profit[self.best]:,.2f} ({self.low[self.best]:,.2f} to {self.high[self.best]:,.2f}), "
            f"everyone: {self.profit[-1]:,.2f}"
        )


def profit_curve(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    *,
    value: float | npt.ArrayLike = 1.0,
    cost: float = 0.0,
    budget: float | None = None,
    people: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> ProfitCurve:
    """Return the profit of contacting the best-scored share of held-out rows.

    Profit = Σ over contacted rows of ``y`` · ``value`` − ``cost``. ``value`` is one number or one per row; ``budget``
    is the most that contacts may cost. ``people`` are the scores of those who could be contacted now (default: the
    rows themselves): the budget is spent on them, and profits are scaled to their number. It counts every positive contacted as won by the contact: for what the contact
    itself changes, use an experiment (``propend.decide``).

    >>> curve = profit_curve([1, 1, 0, 0], [0.9, 0.6, 0.4, 0.1], value=10.0, cost=3.0)
    >>> curve.cut, float(curve.profit[curve.best]), curve.break_even
    (0.6, 14.0, 0.3)
    """
    labels, scores = np.asarray(y, np.float64), np.asarray(p, np.float64)
    worth = np.broadcast_to(np.asarray(value, np.float64), labels.shape)
    if labels.ndim != 1 or labels.shape != scores.shape or not len(labels):
        raise DataError("labels and scores must be of one length, and not empty")
    if not all((np.isfinite(v) & (v >= 0)).all() for v in (worth, np.array([cost, budget or 0.0]))):
        raise ConfigError("cost, value and budget must be numbers of 0 or more")
    order = np.argsort(-scores, kind="stable")
    gain, ranked = (labels * worth - cost)[order], scores[order]
    ends = np.unique(np.r_[np.flatnonzero(np.diff(ranked)) + 1, len(ranked)])  # ties go together
    at = ends[np.minimum(np.searchsorted(ends, np.linspace(0, len(ranked), POINTS)), len(ends) - 1)]
    at[0] = 0
    now = scores if people is None else np.asarray(people, np.float64)
    most = len(now) if budget is None or cost == 0 else min(len(now), int(budget / cost + 1e-9))
    spent = (
        most / max(len(now), 1) * len(ranked)
    )  # test rows that stand for what the budget pays for
    if budget is not None:  # the budget seldom ends where a hundredth of the rows does
        at = np.sort(np.r_[at, int(spent)])
    each = len(now) / len(ranked)
    profit = np.r_[0.0, np.cumsum(gain)][at] * each
    codes = np.arange(len(labels))
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng, drawn = np.random.default_rng(seed), np.empty((draws, len(at)))
    users = int(codes.max()) + 1
    for i in range(draws):
        times = np.bincount(rng.integers(0, users, users), minlength=users)[codes][order]
        drawn[i] = np.r_[0.0, np.cumsum(gain * times)][at] * each
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    best = int(np.argmax(np.where(at <= spent, profit, -np.inf)))
    threshold = np.r_[np.inf, ranked][at]
    cut = max(float(threshold[best]), _affordable(now, most))
    single = np.ptp(worth) == 0
    even = cost / worth[0] if single and worth[0] > 0 else float("nan")
    return ProfitCurve(
        at / len(ranked), threshold, profit, low, high, best, float(even), level,
        len(now), int((now >= cut).sum()), most, cut,
    )  # fmt: skip


def _affordable(scores: F64, most: int) -> float:
    """Return the lowest cut that at most so many scores reach; equal scores go together."""
    if most >= len(scores):
        return -np.inf
    ranked = np.sort(scores)[::-1]
    reached = ranked[:most][ranked[:most] > ranked[most]]
    return float(reached[-1]) if len(reached) else np.inf
