"""Whom to contact: the cut at which a contact pays, from cost, value and budget, and what tests saw of it, with its interval."""

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
    """Profit on held-out rows against the share of people contacted, best scores first [101], and the cut to use.

    The cut is not the curve's maximum: that is the luckiest of 101 noisy sums, and others are contacted than pay.
    """

    share: F64
    threshold: F64
    """Score of the last test row contacted at each share (∞ at share 0)."""
    profit: F64
    low: F64
    """Lower end of the bootstrap interval of the profit."""
    high: F64
    break_even: float
    """Score at which a contact pays for itself (NaN where the value differs by row; ∞ where nothing is earned)."""
    level: float
    people: int
    """How many could be contacted; profits are for so many."""
    contacts: int
    """How many of them are, at the cut."""
    affordable: int
    """How many the budget pays for."""
    worthwhile: int
    """How many have an expected value that is at least the cost."""
    cut: float
    """Contact scores of at least this; ∞: nobody pays for the contact, or the budget pays for nobody."""
    expected: float
    """Profit that the calibrated scores of those contacted promise."""
    tested: tuple[float, float, float]
    """Profit of as many held-out rows that reach the cut, and the ends of its interval; NaN where none reaches it."""

    def said(self) -> dict[str, Any]:
        """Return the curve as a card keeps it."""
        curve = {name: getattr(self, name).tolist() for name in ("share", "profit", "low", "high")}
        return {
            "sentence": self.sentence,
            "cut": self.cut,
            "people": self.people,
            "contacts": self.contacts,
            "affordable": self.affordable,
            "worthwhile": self.worthwhile,
            "break_even": self.break_even,
            "expected_profit": self.expected,
            "tested_profit": dict(zip(("value", "low", "high"), self.tested, strict=True)),
            **curve,
        }

    @property
    def sentence(self) -> str:
        """The advice in words."""
        if self.worthwhile == 0:
            return f"nobody of {self.people:,} has a score at which the contact pays; do not send"
        if self.affordable == 0:
            return "the budget pays for nobody; do not send"
        if self.contacts == 0:
            return f"none of the {self.people:,} people can be told apart from more than the budget pays for; do not send"
        why = ""
        if self.affordable < self.people:
            why = f"; the budget pays for {self.affordable:,}"
        if self.contacts < min(self.affordable, self.worthwhile):
            why += ", but the next ones share one score"
        elif self.worthwhile < self.people and self.worthwhile <= self.affordable:
            why += f"; the contact of the other {self.people - self.worthwhile:,} does not pay"
        value, low, high = self.tested
        seen = (
            f"as many tested rows of such scores earned {value:,.2f} ({low:,.2f} to {high:,.2f})"
            if value == value
            else "no tested row has such a score"
        )
        return (
            f"contact the best {self.contacts:,} of {self.people:,} (score at least {self.cut:.3f}{why}): expected profit "
            f"{self.expected:,.2f}; {seen}, everyone: {self.profit[-1]:,.2f}"
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
    """Return whom to contact by expected profit, and what contacting the best-scored share of held-out rows earned.

    Expected profit of a contact = score · ``value`` − ``cost``, the score a calibrated probability: everybody for whom it
    is not below 0 is contacted, best first, down to what ``budget`` (the most that contacts may cost) pays for; equal scores
    go together. This is Bayes' rule for the decision (Elkan, *The Foundations of Cost-Sensitive Learning*, IJCAI 2001); the
    labels ``y`` only show what it would have earned: Σ over contacted rows of ``y`` · ``value`` − ``cost``.
    ``value`` is one number or one per row; the cut is then the score that promises most over the rows. ``people`` are the scores of those who could be contacted now (default: the
    rows themselves): the budget is spent on them, and profits are scaled to their number. It counts every positive contacted as won by the contact: for what the contact
    itself changes, use an experiment (``propend.decide``).

    >>> curve = profit_curve([1, 1, 0, 0], [0.9, 0.6, 0.4, 0.1], value=10.0, cost=3.0)
    >>> curve.cut, curve.contacts, round(curve.expected, 6), curve.tested[0]
    (0.3, 3, 10.0, 11.0)
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
    even, pays = _break_even(ranked, worth[order], cost, ends)
    cut = max(pays, _affordable(now, most))
    contacted = now >= cut
    each_worth = worth if people is None else np.full(len(now), worth.mean())
    expected = float((now * each_worth - cost)[contacted].sum())
    each, reached = len(now) / len(ranked), int((ranked >= cut).sum())
    codes = np.arange(len(labels))
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng, drawn = np.random.default_rng(seed), np.empty((draws, len(at)))
    users, tested = int(codes.max()) + 1, np.full(draws, np.nan)
    for i in range(draws):
        times = np.bincount(rng.integers(0, users, users), minlength=users)[codes][order]
        drawn[i] = np.r_[0.0, np.cumsum(gain * times)][at] * each
        if times[:reached].any():
            tested[i] = np.average(gain[:reached], weights=times[:reached]) * contacted.sum()
    ends_of = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, ends_of, axis=0)
    seen = (np.nan, np.nan, np.nan)
    if reached:
        ends_seen = np.quantile(tested[~np.isnan(tested)], ends_of)
        won = float(gain[:reached].mean() * contacted.sum())
        seen = won, float(ends_seen[0]), float(ends_seen[1])
    return ProfitCurve(
        at / len(ranked), np.r_[np.inf, ranked][at], np.r_[0.0, np.cumsum(gain)][at] * each, low, high, even, level,
        len(now), int(contacted.sum()), most, int((now >= pays).sum()), cut, expected, seen,
    )  # fmt: skip


def _break_even(
    ranked: F64, worth: F64, cost: float, ends: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Return the score at which a contact pays for itself, and the cut from it; of differing values, the cut that the
    scores [n], best first, promise most at."""
    if np.ptp(worth) == 0:
        even = cost / float(worth[0]) if worth[0] > 0 else np.inf
        return even, even
    promised = np.cumsum(ranked * worth - cost)[ends - 1]
    best = int(np.argmax(promised))
    return np.nan, float(ranked[ends[best] - 1]) if promised[best] > 0 else np.inf


def _affordable(scores: F64, most: int) -> float:
    """Return the lowest cut that at most so many scores reach; equal scores go together."""
    if most >= len(scores):
        return -np.inf
    ranked = np.sort(scores)[::-1]
    reached = ranked[:most][ranked[:most] > ranked[most]]
    return float(reached[-1]) if len(reached) else np.inf
