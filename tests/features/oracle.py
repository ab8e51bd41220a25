"""The expression language, slow and obvious: plain loops over plain event dicts, one user and one cutoff at a time.

It follows ``docs/language.md`` and shares no code with ``propend.features`` but the frozen expression values.
An event is a dict: ``time`` and ``arrival`` (UTC microseconds), ``seq``, ``type``, ``item`` and any other field;
``None`` is missing. Answers are a float, a text, or ``None`` for missing.
"""

from __future__ import annotations

import calendar
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from propend.expression import (
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Duration,
    Expression,
    Field,
    In,
    IsMissing,
    Literal_,
    Not,
    Or,
    Probability,
    Says,
)

Event = dict[str, Any]
Value = float | str | None
DAY = 86_400_000_000.0
LARGEST = 2.0**62 / 1e6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass
class World:
    """Users with their events, and all that is known about users and items."""

    users: list[list[Event]]
    items: dict[str, dict[str, Value]] = field(default_factory=dict)
    profiles: list[dict[str, Value]] = field(default_factory=list)
    scores: list[dict[str, Value]] = field(default_factory=list)
    zone: str = "UTC"


def answer(e: Expression, world: World, user: int, cutoff: int) -> Value:
    """Return an expression's value for one user at one cutoff."""

    def of_user(part: Expression) -> Value:
        if isinstance(part, Aggregate):
            return aggregate(part, world, user, cutoff)
        if isinstance(part, Probability):
            return world.scores[user][part.task]
        if isinstance(part, Field) and part.path[0] == "calendar":
            return on_the_wall(cutoff, world.zone)[part.path[1]]
        if isinstance(part, Field) and part.path[0] == "profile":
            return world.profiles[user][part.path[1]]
        raise AssertionError(part)

    return evaluate(e, of_user)


def evaluate(e: Expression, leaf: Any) -> Value:
    """Return the value of operators and literals; ``leaf`` answers the rest."""
    if isinstance(e, Literal_):
        return e.value if isinstance(e.value, str) else float(e.value)
    if isinstance(e, And):
        return float(all(true(evaluate(term, leaf)) for term in e.terms))
    if isinstance(e, Or):
        return float(any(true(evaluate(term, leaf)) for term in e.terms))
    if isinstance(e, Not):
        return float(not true(evaluate(e.inner, leaf)))
    if isinstance(e, IsMissing):
        return float(evaluate(e.left, leaf) is None)
    if isinstance(e, In):
        left = evaluate(e.left, leaf)
        return float(left is not None and left in [option.value for option in e.options])
    if isinstance(e, Says):
        left = evaluate(e.left, leaf)
        return float(left is not None and says(str(left), str(e.phrase.value)))
    if isinstance(e, Compare):
        return compare(e.op, evaluate(e.left, leaf), evaluate(e.right, leaf))
    if isinstance(e, Arithmetic):
        return calculate(e.op, evaluate(e.left, leaf), evaluate(e.right, leaf))
    value: Value = leaf(e)
    return value


def says(text: str, phrase: str) -> bool:
    """Whether the words of a phrase stand in a row in a text; signs between two words part them."""
    heard, wanted = words(text), words(phrase)
    return any(heard[i : i + len(wanted)] == wanted for i in range(len(heard)))


def words(text: str) -> list[str]:
    """Return a text's words letter by letter; "." where something else than a blank stands between two."""
    found: list[str] = []
    word, gap = "", ""
    small = text.lower() + "  "
    for letter, after in pairwise(small):
        sign = "\u3040" <= letter <= "\u30ff" or "\u3400" <= letter <= "\u4dbf" or "\u4e00" <= letter <= "\u9fff"  # fmt: skip
        inside = letter.isalnum() or (letter == "_" and word != "")
        joins = letter in "'\u2019-" and word != "" and (after.isalnum() or after == "_") and not "\u3040" <= after <= "\u9fff"  # fmt: skip
        if (inside or joins) and not sign:
            if word == "" and found and gap.strip():
                found.append(".")
            word, gap = word + letter, ""
            continue
        if word:
            found.append(word)
            word = ""
        if sign:
            found += (["."] if found and gap.strip() else []) + [letter]
            gap = ""
        else:
            gap += letter
    return found


def true(value: Value) -> bool:
    return value is not None and value != 0


def value_of(found: Any) -> Value:
    assert found is None or isinstance(found, float | str)
    return found


def compare(op: str, left: Any, right: Any) -> float:
    if left is None or right is None:
        return 0.0
    assert isinstance(left, str) == isinstance(right, str)
    return float(
        {
            "=": left == right,
            "!=": left != right,
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
        }[op]
    )


def calculate(op: str, left: Any, right: Any) -> Value:
    if left is None or right is None or (op == "/" and right == 0):
        return None
    if op == "+":
        result = left + right
    elif op == "-":
        result = left - right
    elif op == "*":
        result = left * right
    else:
        result = left / right
    return None if math.isnan(result) else float(result)


def on_the_wall(moment: int, zone: str) -> dict[str, float]:
    local = (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(zone))
    return {
        "hour": float(local.hour),
        "weekday": float(local.weekday()),
        "month": float(local.month),
        "day": float(local.toordinal()),
    }


def moved(moment: int, length: Duration, sign: int, zone: str) -> int:
    """Return a moment moved by a length of time; months and years on the zone's wall calendar."""
    if length.unit in SECONDS:
        return moment + sign * length.amount * SECONDS[length.unit] * 1_000_000
    local = (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(zone))
    year, month = local.year, local.month
    for _ in range(length.amount * (12 if length.unit == "y" else 1)):
        month += sign
        if month == 0:
            year, month = year - 1, 12
        if month == 13:
            year, month = year + 1, 1
    day = min(local.day, calendar.monthrange(year, month)[1])
    there = local.replace(year=year, month=month, day=day).astimezone(UTC) - EPOCH
    return there // timedelta(microseconds=1)


def event_field(event: Event, path: str, world: World) -> Value:
    """Return a field of an event, or of its item."""
    name = path.removeprefix("item.")
    if path == name and path in event:
        value: Value = event[path]
        return value
    if path == name and path in ("hour", "weekday", "month"):
        return on_the_wall(event["time"], world.zone)[path]
    item = event["item"]
    return None if item is None else world.items[item][name]


def in_window(a: Aggregate, world: World, user: int, cutoff: int) -> tuple[list[Event], int | None]:
    """Return the events of an aggregate's window in (time, sequence) order, and the window's first moment."""
    forward = a.window.direction == "next" or a.function in ("next", "days_until")
    seen = []
    start = None
    if a.window.length is not None:
        sign = 1 if forward else -1
        start = moved(cutoff, a.window.length, sign, world.zone)
    for event in sorted(world.users[user], key=lambda event: (event["time"], event["seq"])):
        if forward:
            inside = event["time"] >= cutoff and (start is None or event["time"] < start)
        else:
            inside = event["time"] < cutoff and (start is None or event["time"] >= start)
            inside = inside and event["arrival"] <= cutoff
        if inside:
            seen.append(event)
    return seen, start


def aggregate(a: Aggregate, world: World, user: int, cutoff: int) -> Value:
    """Return one aggregate's value."""
    events, start = in_window(a, world, user, cutoff)
    kept, values = [], []
    for event in events:
        if a.types and event["type"] not in a.types:
            continue
        if a.where is not None and not true(
            evaluate(
                a.where, lambda part, event=event: event_field(event, ".".join(part.path), world)
            )
        ):
            continue
        if a.field is not None:
            value = event_field(event, a.field, world)
            if value is None:
                continue
            values.append(value)
        kept.append(event)
    times: list[int] = [event["time"] for event in kept]
    n = len(kept)
    match a.function:
        case "any":
            return float(n > 0)
        case "none":
            return float(n == 0)
        case "count":
            return float(n)
        case "sum":
            return total(values)
        case "mean":
            return total(values) / n if n else None
        case "distinct":
            return float(len(set(values)))
        case "active_days":
            return float(len({on_the_wall(t, world.zone)["day"] for t in times}))
    if n == 0:
        return None
    match a.function:
        case "min":
            return value_of(min(values))
        case "max":
            return value_of(max(values))
        case "first" | "next":
            return value_of(values[0])
        case "last":
            return value_of(values[-1])
        case "second_last":
            return value_of(values[-2]) if n > 1 else None
        case "third_last":
            return value_of(values[-3]) if n > 2 else None
        case "days_since":
            return (cutoff - times[-1]) / DAY
        case "days_since_first":
            return (cutoff - times[0]) / DAY
        case "days_until":
            return (times[0] - cutoff) / DAY
        case "trend":
            begin = times[0] if start is None else start
            middle = begin + (cutoff - begin) // 2
            later = len([t for t in times if t >= middle])
            return (later - (n - later)) / n
        case "std":
            return spread(values)
    if n == 1:
        return None
    gaps = [(after - before) / DAY for before, after in pairwise(times)]
    match a.function:
        case "mean_gap":
            return (times[-1] - times[0]) / DAY / (n - 1)
        case "std_gap":
            return spread(gaps)
    raise AssertionError(a.function)


def total(values: list[Any]) -> float:
    """Return the sum in micro-units; in double precision where the values are too large for them."""
    size, plain, units = 0.0, 0.0, 0
    for value in values:
        size += abs(value)
        plain += value
        if size < LARGEST:
            units += round(value * 1e6)
    return float(units) / 1e6 if size < LARGEST else plain


def spread(values: list[Any]) -> Value:
    """Return the population standard deviation, added up in order."""
    added = 0.0
    for value in values:
        added += value
    mean = added / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) * (value - mean)
    return None if math.isnan(squares) else math.sqrt(squares / len(values))
