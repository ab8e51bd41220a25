"""What a task asks, in a marketer's words: the question, and how one speaks of those for whom it came true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from propend.errors import PropendError
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Expression
from propend.expression.parse import parse_question
from propend.features.words import question_in_words
from propend.pipeline.report.values import text

__all__ = ["Outcome", "outcome", "span_in_words"]

Kind = Literal["happens", "silent", "amount", "label"]

_BOUGHT: Final = frozenset(
    {"purchase", "purchases", "order", "buy", "sale", "transaction", "购买", "下单", "订单"}
)
_UNITS: Final = {
    "s": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}


@dataclass(frozen=True)
class Outcome:
    """A task in words.

    >>> o = outcome({"task": "t", "ask": "any(purchase) next 30d for any(*) last 90d", "answer": "yes_no"})
    >>> o.kind, o.did, o.who, o.within
    ('happens', 'bought', 'buyers', 'within 30 days')
    """

    kind: Kind
    title: str
    question: str
    did: str
    """What those did for whom it came true: ``bought``, ``went silent``."""
    others: str
    """What the rest did: ``did not``."""
    who: str
    """What they are called: ``buyers``."""
    within: str = ""
    """In which time, as ``within 30 days``; empty where the question has no time."""


def outcome(card: dict[str, Any]) -> Outcome:
    """Return a task card's question in words; a question that cannot be read stands as it was written."""
    ask = text(card.get("ask"), 240)
    title = text(card.get("title")) or _spaced(text(card.get("task"))) or ask or "Task"
    try:
        target, population = parse_question(ask)
        question = question_in_words(target, Aggregate("any") if population is None else population)
    except (PropendError, RecursionError):
        amount = card.get("answer") in ("amount", "count")
        kind: Kind = "amount" if amount else "label"
        return Outcome(kind, title, ask, "had this outcome", "did not", "such users")
    return _of(target, title, question, card)


def _of(target: Expression, title: str, question: str, card: dict[str, Any]) -> Outcome:
    within = _within(target)
    if card.get("answer") in ("amount", "count"):
        return Outcome("amount", title, question, "brought", "did not", "customers", within)
    if not isinstance(target, Aggregate) or target.function not in ("any", "none"):
        return Outcome(
            "label", title, question, "had this outcome", "did not", "such users", within
        )
    types = [t.casefold() for t in target.types]
    buying = bool(types) and all(t in _BOUGHT for t in types)
    names = " or ".join(_spaced(t) for t in target.types) or "event"
    if target.function == "none":
        did = "stayed away" if not types else "did not buy" if buying else f"had no {names}"
        others = "came back" if not types else "did"
        return Outcome("silent", title, question, did, others, "leavers", within)
    did = "bought" if buying else "came back" if not types else f"had a {names}"
    who = "buyers" if buying else "returners" if not types else f"users with a {names}"
    return Outcome("happens", title, question, did, "did not", who, within)


def _spaced(word: str) -> str:
    return word.replace("_", " ")


def _within(target: Expression) -> str:
    length = next((a.window.length for a in target.aggregates() if a.window.length), None)
    return f"within {span_in_words(length)}" if length is not None else ""


def span_in_words(d: Duration) -> str:
    """Return a length of time in words.

    >>> span_in_words(Duration.parse("7d"))
    '7 days'
    """
    unit = _UNITS.get(d.unit, d.unit)
    return f"a {unit}" if d.amount == 1 else f"{d.amount} {unit}s"
