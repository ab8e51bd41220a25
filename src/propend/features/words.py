"""Expressions in the words of a marketer."""

from __future__ import annotations

from typing import Final

from propend.expression.duration import Duration
from propend.expression.nodes import (
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Expression,
    Field,
    Literal_,
    Not,
    Or,
    Says,
    Window,
)

__all__ = ["in_words", "question_in_words"]

_UNITS: Final = {
    "s": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}
_PLURAL: Final = {
    "purchase": "purchases",
    "search": "searches",
    "push": "pushes",
    "category": "categories",
    "city": "cities",
}


def in_words(e: Expression) -> str:
    """Return what an expression means, in a phrase.

    >>> from propend.expression.parse import parse
    >>> in_words(parse("days_since(purchase)"))
    'days since the last purchase'
    >>> in_words(parse("sum(purchase.value) last 30d"))
    'total value of purchases in the last 30 days'
    >>> in_words(parse("count(view) last 7d / count(view) last 30d"))
    'number of views in the last 7 days, relative to number of views in the last 30 days'
    >>> in_words(parse("count(review where comment says 'refund') last 90d"))
    "number of reviews whose comment says 'refund' in the last 90 days"
    """
    known = _known_ratio(e)
    if known is not None:
        return known
    match e:
        case Aggregate():
            return _aggregate(e)
        case Field(path=("profile", name)) if name.startswith("behaviour_"):
            what = name.removeprefix("behaviour_").replace("_", " ")
            plain = {"within any": "any event", "silent": "silence"}.get(what, what)
            chance = f"the chance of {plain.removeprefix('within ')}"
            return f"{'the value' if what == 'value' else chance} ahead, by the behaviour model"
        case Field():
            return e.path[-1].replace("_", " ")
        case Arithmetic(op="/"):
            return f"{in_words(e.left)}, relative to {in_words(e.right)}"
        case Compare():
            return f"{in_words(e.left)} {e.op} {e.right}"
        case Says():
            return f"{in_words(e.left)} says {e.phrase}"
        case And():
            return " and ".join(in_words(t) for t in e.terms)
        case Or():
            return " or ".join(in_words(t) for t in e.terms)
        case Not():
            return f"not: {in_words(e.inner)}"
    return str(e)


def question_in_words(target: Expression, population: Expression) -> str:
    """Return a task as a question.

    >>> from propend.expression.parse import parse_question
    >>> question_in_words(*parse_question("any(purchase) next 30d for any(*) last 90d"))
    'Who will have a purchase in the next 30 days? Asked of users with any event in the last 90 days.'
    """
    who = _condition(population)
    if isinstance(target, Aggregate) and target.function in ("any", "none"):
        return f"Who will have {_some(target)}{_when(target.window)}? Asked of users with {who}."
    return f"{in_words(target)[0].upper()}{in_words(target)[1:]}? Asked of users with {who}."


def _condition(e: Expression) -> str:
    if isinstance(e, Aggregate) and e.function in ("any", "none"):
        return f"{_some(e)}{_when(e.window)}"
    return in_words(e)


def _some(a: Aggregate) -> str:
    if not a.types:
        return ("any event" if a.function == "any" else "no event at all") + _where(a)
    names = " or ".join(t.replace("_", " ") for t in a.types)
    return (f"a {names}" if a.function == "any" else f"no {names}") + _where(a)


def _known_ratio(e: Expression) -> str | None:
    """Return the words of ratios that have a name."""
    if not (isinstance(e, Arithmetic) and e.op == "/"):
        return None
    left, right = e.left, e.right
    if (
        isinstance(left, Arithmetic)
        and left.op == "-"
        and isinstance(right, Arithmetic)
        and right.op == "-"
        and right.right == Literal_(1)
    ):
        return f"mean days between days with {_events(_first(left))}"
    if (
        isinstance(left, Aggregate)
        and left.function == "days_since"
        and isinstance(right, Arithmetic)
    ):
        return f"days since the last {_event(left)}, relative to the user's usual gap"
    if isinstance(left, Aggregate) and isinstance(right, Aggregate):
        if left.function == "days_since" and right.function == "days_since_first":
            return f"time since the last {_event(left)} as a share of time since the first"
        if left.function == "sum" and right.function == "active_days":
            return f"mean {left.field} of {_events(left)} per active day"
        if (
            left.function == "count"
            and left.where is not None
            and right.where is None
            and left.window == right.window
        ):
            return f"share of {_events(right)}{_where(left)}{_when(left.window)}"
        if left.function == "distinct" and right.function == "count":
            return f"share of different {_plural(left.field or '')} among {_events(left)}"
        if left.function == "count" and right.function == "distinct":
            return f"{_events(left)} per {right.field}"
    return None


def _first(e: Expression) -> Aggregate:
    return e.aggregates()[0]


def _aggregate(a: Aggregate) -> str:
    when, events = _when(a.window), _events(a)
    of = (a.field or "").replace("item.", "").replace("_", " ")
    match a.function:
        case "any":
            return f"has {_some(a)}{when}"
        case "none":
            return f"has {_some(a)}{when}"
        case "count":
            return (
                f"number of {events}{when}"
                if a.field is None
                else f"number of {events} with a {of}{when}"
            )
        case "sum":
            return f"total {of} of {events}{when}"
        case "mean" | "min" | "max" | "std" | "first" | "last" | "second_last" | "third_last":
            word = {
                "mean": "average",
                "min": "smallest",
                "max": "largest",
                "std": "spread of the",
                "first": "first",
                "last": "latest",
                "second_last": "latest but one",
                "third_last": "latest but two",
            }[a.function]
            return f"{word} {of} of {events}{when}"
        case "next":
            return f"next {of}" + ("" if not a.types else f" of {events}") + when
        case "distinct":
            return f"number of different {_plural(of)} in {events}{when}"
        case "days_since":
            return f"days since the last {_event(a)}"
        case "days_since_first":
            return f"days since the first {_event(a)}"
        case "days_until":
            return f"days until the next {_event(a)}"
        case "mean_gap":
            return f"mean days between {events}{when}"
        case "std_gap":
            return f"irregularity of {events}{when}"
        case "active_days":
            return f"days with {events}{when}"
        case "trend":
            return f"trend of {events}{when}"
    return str(a)


def _event(a: Aggregate) -> str:
    return (" or ".join(t.replace("_", " ") for t in a.types) or "event") + _where(a)


def _events(a: Aggregate) -> str:
    return (" or ".join(_plural(t.replace("_", " ")) for t in a.types) or "events") + _where(a)


def _plural(word: str) -> str:
    return _PLURAL.get(word, word if word.endswith("s") else f"{word}s")


def _where(a: Aggregate) -> str:
    if a.where is None:
        return ""
    text = str(a.where)
    if isinstance(a.where, Says):
        return f" whose {text.replace('item.', '')}"
    fixed = {
        "weekday >= 5": " at the weekend",
        "hour < 9": " before 9 in the morning",
        "hour >= 18": " in the evening",
    }
    return fixed.get(text, f" where {text.replace('item.', '')}")


def _when(w: Window) -> str:
    if w.length is None:
        return ""
    return f" in the {w.direction} {_length(w.length)}"


def _length(d: Duration) -> str:
    unit = _UNITS[d.unit]
    return unit if d.amount == 1 else f"{d.amount} {unit}s"
