"""What the data can show: how small a difference would be seen, and how many rows a smaller one needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, sqrt
from typing import Any, Final

from propend.learn.bootstrap import Interval

__all__ = ["Power", "auroc_error", "counted", "power_of", "stated", "verdict"]


@dataclass(frozen=True)
class Power:
    """Half-width of a metric's interval, the smallest paired gain that would show, and rows for a wanted one."""

    metric: str
    rows: int
    positives: int | None
    """Rows that count as the answer (``counted``); ``None`` where none does."""
    half_width: float
    smallest_gain: float | None
    """Smallest difference to the model compared with that its interval would hold apart from 0."""
    wanted: float
    rows_needed: int | None
    """Rows at which a gain of ``wanted`` would show."""
    answer: str = "yes_no"

    @property
    def sentence(self) -> str:
        """The statement in words."""
        tested = f"with {self.rows:,} test rows{counted(self.answer, self.positives)}"
        text = f"{tested} the {self.metric} is known to ± {_fine(self.half_width)}"
        if self.smallest_gain is not None:
            text += f"; a gain below {_fine(self.smallest_gain)} over the baseline would not be told from none"
        if self.rows_needed is not None and self.rows_needed > self.rows:
            text += f"; to see a gain of {self.wanted:.2g} about {self.rows_needed:,} test rows are needed"
        return text


def _fine(width: float) -> str:
    """Return a width with three decimals, or with one figure where these would all be 0.

    >>> _fine(0.0142), _fine(0.00041)
    ('0.014', '0.0004')
    """
    return f"{width:.3f}" if abs(width) >= 0.0005 or width == 0 else f"{width:.1g}"


def auroc_error(auroc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUROC (Hanley & McNeil 1982), before there is any model.

    >>> round(auroc_error(0.8, 100, 900), 4)
    0.0272
    """
    if not (0 <= auroc <= 1) or positives < 1 or negatives < 1:
        return float("nan")
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    own = auroc * (1 - auroc)
    pairs = (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return sqrt((own + pairs) / (positives * negatives))


_WORDS: Final = {
    "yes_no": "positive",
    "amount": "above zero",
    "count": "above zero",
    "time": "seen to happen",
}


def counted(answer: str, positives: int | None) -> str:
    """Return how many rows carry what is asked about, in the answer's own words; nothing where there is no such row.

    >>> counted("yes_no", 412), counted("time", 80), counted("which", None)
    (', 412 positive,', ', 80 seen to happen,', '')
    """
    word = _WORDS.get(answer)
    return "" if word is None or positives is None else f", {positives:,} {word},"


def power_of(
    metric: str,
    rows: int,
    positives: int | None,
    interval: Interval | dict[str, float],
    gain: Interval | dict[str, float] | None = None,
    wanted: float = 0.01,
    answer: str = "yes_no",
) -> Power:
    """Return the power of a test from the intervals it gave (bootstrap over users).

    >>> print(power_of("auroc", 9000, 412, {"low": 0.77, "high": 0.83}, {"low": 0.0, "high": 0.024}).sentence)
    with 9,000 test rows, 412 positive, the auroc is known to ± 0.030; a gain below 0.012 over the baseline would not \
be told from none; to see a gain of 0.01 about 12,960 test rows are needed
    """
    half = _half(interval)
    smallest = None if gain is None else _half(gain)
    needed = None
    if smallest is not None and smallest > 0 and smallest == smallest:
        needed = ceil(rows * (smallest / wanted) ** 2)
    return Power(metric, rows, positives, half, smallest, wanted, needed, answer)


_NOTHING: Final = frozenset(
    {"base_rate", "mean", "always_zero", "constant_quantile", "kaplan_meier"}
)
"""Baselines that look at nothing: to be no better than they are is to know nothing."""


def verdict(card: dict[str, Any]) -> dict[str, Any]:
    """Return whether a task's model may be used, from its card: ``use``, ``use the rule`` or ``not enough data``.

    The model must beat the best trivial baseline by more than noise on the task's first metric. Where the rule is to be used,
    ``file`` says that a score file holds the model's scores all the same.

    >>> verdict({"answer": "yes_no", "margins": {"base_rate": {"auroc": {"low": 0.1, "value": 0.2, "high": 0.3}}}})["answer"]
    'use'
    """
    metric = next(
        iter(card.get("intervals", {})), "auroc" if card.get("answer") == "yes_no" else "rmse"
    )
    higher = metric in ("auroc", "c_index")
    margins = {
        name: m[metric]
        for name, m in card.get("margins", {}).items()
        if metric in m and m[metric]["value"] == m[metric]["value"]
    }
    if not margins:
        return {
            "answer": "not enough data",
            "why": "no baseline could be compared; bring a longer log",
        }
    sign = 1.0 if higher else -1.0
    name, hardest = min(margins.items(), key=lambda kv: sign * kv[1]["value"])
    won = hardest["low"] > 0 if higher else hardest["high"] < 0
    lost = hardest["high"] < 0 if higher else hardest["low"] > 0
    if won:
        return {
            "answer": "use",
            "why": f"beats {name}, the best trivial rule, by more than noise in {metric}",
        }
    if lost:
        return {
            "answer": "use the rule",
            "file": _not_the_rule(name),
            "why": f"{name} does better by more than noise in {metric}; the model is worse than the simple rule",
        }
    if name not in _NOTHING:
        return {
            "answer": "use the rule",
            "file": _not_the_rule(name),
            "why": f"{name} does as well within noise in {metric}; the simple rule is enough",
        }
    return {
        "answer": "not enough data",
        "why": f"no gain over {name} can be told from noise in {metric}; bring more users or a longer log",
    }


def _not_the_rule(name: str) -> str:
    return f"score files hold the model's scores all the same, not those of {name}"


def stated(card: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return the power of a card's test against its hardest baseline, with the sentence."""
    margins = [m[metric] for m in card.get("margins", {}).values() if metric in m]
    hardest = min(margins, key=lambda m: abs(m["value"])) if margins else None
    own = card["intervals"][metric]
    rows = int(card.get("tested", card["rows"]))
    wanted = 0.01 if metric in ("auroc", "c_index") else 0.01 * own["value"]
    answer = str(card.get("answer", "yes_no"))
    positives = card.get("tested_positives", card.get("positives"))
    found = power_of(metric, rows, positives, own, hardest, wanted, answer)
    return {**asdict(found), "sentence": found.sentence}


def _half(interval: Interval | dict[str, float]) -> float:
    if isinstance(interval, Interval):
        return (interval.high - interval.low) / 2
    return (interval["high"] - interval["low"]) / 2
