"""Hypothesis strategies: small worlds full of edge cases, expressions that fit them, and worlds as timelines."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from tests.features.oracle import Event, Value, World

from propend.events.timelines import Column, Timelines
from propend.expression import (
    AGGREGATES,
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
    Window,
    parse,
)
from propend.expression.nodes import BACKWARD_ONLY, FORWARD_ONLY, NEEDS_FIELD, PICKS
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.schema import Schema

HOUR = 3_600_000_000
BASE = 1_711_843_200_000_000
"""2024-03-31 00:00 UTC: an hour before Berlin's clocks go forward, on a day that February lacks."""
TYPES = ("view", "cart", "purchase", "never")
ITEMS: dict[str, dict[str, Value]] = {
    "a": {"category": "shoes", "cost": 10.0},
    "b": {"category": "鞋子", "cost": None},
    "c": {"category": None, "cost": 0.1},
}
NUMBERS = ("value", "big")
TEXTS = ("channel", "empty")
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns")

# ---- worlds: few distinct moments, so that ties and exact window edges are the rule

MOMENTS = st.builds(
    lambda half_days, jitter: BASE + half_days * 12 * HOUR + jitter,
    st.one_of(st.integers(-4, 4), st.sampled_from([-62, -60, -58, -14, 14, 60, 62])),
    st.sampled_from([0, 0, 0, 0, -1, 1, HOUR]),
)
VALUES = st.sampled_from([None, 0.0, -0.0, 0.1, 0.2, 0.3, 19.99, -5.0, 5e-7, 1.5e-6, 1e9, 7.0])
BIG = st.sampled_from([None, 1.0, 0.1, 4.6e12, -4.6e12, 1e13, 1e300, -1e300, 2.3e12])
DELAYS = st.sampled_from([0, 0, 0, 1, 12 * HOUR, 12 * HOUR + 1, 24 * 20 * HOUR, -5 * HOUR])
EVENTS = st.builds(
    lambda time, type_, item, value, big, channel, delay: {
        "time": time,
        "type": type_,
        "item": item,
        "value": value,
        "big": big,
        "channel": channel,
        "empty": None,
        "arrival": time + delay,
    },
    MOMENTS,
    st.sampled_from(TYPES[:3]),
    st.sampled_from([None, "a", "b", "c"]),
    VALUES,
    BIG,
    st.sampled_from([None, "email", "app", "鞋子"]),
    DELAYS,
)


@st.composite
def worlds(draw: Any, most_events: int = 12) -> World:
    """Draw one to four users; some without events, some with one."""
    sizes = st.sampled_from([0, 1, 2, most_events // 2, most_events])
    users: list[list[Event]] = [
        [draw(EVENTS) for _ in range(size)]
        for size in draw(st.lists(sizes, min_size=1, max_size=4))
    ]
    seq = 0
    for events in users:
        for event in events:
            event["seq"] = seq = seq + 1
    profiles: list[dict[str, Value]] = [
        {
            "country": draw(st.sampled_from(["DE", "AT", None])),
            "age": draw(st.sampled_from([33.0, 18.0, None])),
        }
        for _ in users
    ]
    scores: list[dict[str, Value]] = [
        {"buy": draw(st.sampled_from([0.0, 0.25, 1.0, None]))} for _ in users
    ]
    return World(users, ITEMS, profiles, scores, draw(st.sampled_from(ZONES)))


CUTOFFS = st.lists(MOMENTS, min_size=1, max_size=4)

# ---- expressions that fit

DURATIONS = st.builds(
    lambda pair: Duration(*pair),
    st.sampled_from(
        [
            (1, "s"),
            (43_200, "s"),
            (720, "min"),
            (12, "h"),
            (1, "d"),
            (5, "d"),
            (1, "w"),
            (3, "w"),
            (1, "mo"),
            (2, "mo"),
            (1, "y"),
        ]
    ),
)
NUMBER_FIELDS = ["value", "big", "cost", "item.cost", "hour", "weekday", "month"]
TEXT_FIELDS = ["item", "type", "channel", "empty", "category", "item.category"]
NUMBER_LITERALS = st.builds(Literal_, st.sampled_from([0, 1, -1, 2, 0.5, 10, True, 1e9]))
TEXT_LITERALS = st.builds(
    Literal_, st.sampled_from(["shoes", "鞋子", "email", "a", "b", "view", "DE", "unheard of"])
)
PHRASES = st.builds(Literal_, st.sampled_from(["鞋", "鞋子", "Email", "mail", "app", "shoes", "a"]))
ORDER = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
EQUAL = st.sampled_from(["=", "!="])
CALCULATE = st.sampled_from(["+", "-", "*", "/"])


def _path(name: str) -> Field:
    return Field(tuple(name.split(".")))


def _logic(
    numbers: st.SearchStrategy[Expression], texts: st.SearchStrategy[Expression]
) -> st.SearchStrategy[Expression]:
    """Yes/no expressions, and numbers, over numbers and texts."""
    any_of = st.one_of(numbers, texts)
    base = st.one_of(
        st.builds(Compare, ORDER, numbers, st.one_of(NUMBER_LITERALS, numbers)),
        st.builds(Compare, EQUAL, texts, st.one_of(TEXT_LITERALS, texts)),
        st.builds(Compare, EQUAL, TEXT_LITERALS, texts),
        st.builds(In, texts, st.lists(TEXT_LITERALS, min_size=1, max_size=3).map(tuple)),
        st.builds(In, numbers, st.lists(NUMBER_LITERALS, min_size=1, max_size=3).map(tuple)),
        st.builds(IsMissing, any_of),
        st.builds(Says, texts, PHRASES),
        st.builds(Arithmetic, CALCULATE, numbers, st.one_of(NUMBER_LITERALS, numbers)),
        any_of,
    )
    return st.recursive(
        base,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
            st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        ),
        max_leaves=3,
    )


WHERE = _logic(st.sampled_from(NUMBER_FIELDS).map(_path), st.sampled_from(TEXT_FIELDS).map(_path))


@st.composite
def aggregates(
    draw: Any, functions: tuple[str, ...] = tuple(AGGREGATES), forward: bool | None = None
) -> Aggregate:
    """Draw an aggregate; ``forward`` chooses the direction of its window."""
    function = draw(st.sampled_from(functions))
    ahead = draw(st.booleans()) if forward is None else forward
    ahead = (ahead or function in FORWARD_ONLY) and function not in BACKWARD_ONLY
    window = Window("next" if ahead else "last", draw(DURATIONS))
    if (function in FORWARD_ONLY or not ahead) and draw(st.integers(0, 3)) == 0:
        window = Window()
    name = None
    if function in ("sum", "mean", "min", "max", "std"):
        name = draw(st.sampled_from(NUMBER_FIELDS))
    elif function in NEEDS_FIELD or draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(NUMBER_FIELDS + TEXT_FIELDS))
    types = draw(st.sampled_from([(), (), ("view",), ("cart", "view"), ("never",)]))
    where = draw(WHERE) if draw(st.integers(0, 2)) == 0 else None
    return Aggregate(function, types, name, where, window)


def _is_text(a: Aggregate) -> bool:
    return a.function in PICKS and a.field in TEXT_FIELDS


def expressions(forward: bool | None = None) -> st.SearchStrategy[Expression]:
    """Whole expressions: aggregates, profile, calendar and scores under every operator."""
    any_aggregate = aggregates(forward=forward)
    picks = tuple(
        f
        for f in sorted(PICKS)
        if forward is None or (f in FORWARD_ONLY) == forward or f not in FORWARD_ONLY
    )
    return _logic(
        st.one_of(
            any_aggregate.filter(lambda a: not _is_text(a)),
            st.sampled_from(
                [
                    Field(("profile", "age")),
                    Field(("calendar", "hour")),
                    Field(("calendar", "month")),
                    Probability("buy"),
                ]
            ),
        ),
        st.one_of(
            st.just(Field(("profile", "country"))),
            aggregates(picks, forward=forward).filter(_is_text),
        ),
    )


WINDOWS = ("12h", "1d", "7d", "3w", "1mo", "1y", None)


def family(*, forward: bool) -> list[Expression]:
    """Every aggregate over every window, of any event, one type, a field, and with a filter."""
    found = []
    for function in AGGREGATES:
        if function in (BACKWARD_ONLY if forward else FORWARD_ONLY):
            continue
        name = {"sum": "value", "mean": "value", "min": "value", "max": "value", "std": "value"}
        fields = [name.get(function, "item")] if function in NEEDS_FIELD else ["", "channel"]
        for field in fields:
            for events in ("*", "view", "purchase"):
                for where in ("", " where category = 'shoes' or value > 1 or weekday in (5, 6)"):
                    of = f"{events}.{field}" if field else events
                    found += [
                        f"{function}({of}{where}) {'next' if forward else 'last'} {length}"
                        if length
                        else f"{function}({of}{where})"
                        for length in WINDOWS
                        if length or not forward or function in FORWARD_ONLY
                    ]
    return [parse(text) for text in found]


def dense_world(seed: int, users: int = 3, events: int = 40) -> World:
    """Return a world whose users are busy on a half-day grid, often late, with many equal values."""
    rng = random.Random(seed)
    found: list[list[Event]] = []
    for _ in range(users):
        found.append([])
        for seq in range(events):
            at = BASE + rng.randint(-20, 14) * 12 * HOUR
            delay = rng.choice([0, 0, 1, 12 * HOUR, 12 * HOUR + 1, 36 * HOUR, 240 * HOUR])
            found[-1].append(
                {
                    "time": at,
                    "seq": rng.randint(0, 9) * 100 + seq,
                    "type": rng.choice(TYPES[:2]),
                    "item": rng.choice([None, "a", "b", "c"]),
                    "value": rng.choice([None, 0.1, 0.2, 0.3, 2.5e-6, -7.0]),
                    "big": rng.choice([1.0, 4.6e12, None]),
                    "channel": rng.choice([None, "email", "app"]),
                    "empty": None,
                    "arrival": at + delay,
                }
            )
    nobody: dict[str, Value] = {"country": None, "age": None}
    return World(found, ITEMS, [nobody] * users, [{"buy": None}] * users, ZONES[seed % len(ZONES)])


# ---- worlds as arrays


def schema_of(world: World) -> Schema:
    """Return the schema that all drawn worlds share."""
    return Schema(
        types=TYPES,
        numbers=NUMBERS,
        texts=TEXTS,
        items={
            "category": texts([item["category"] for item in world.items.values()]),
            "cost": numbers([item["cost"] for item in world.items.values()]),
        },
        item_ids=tuple(world.items),
        users={"country": "text", "age": "number"},
        tasks=("buy",),
        zone=world.zone,
    )


def timelines_of(world: World) -> Timelines:
    """Return the world's events as timelines."""
    rows = [
        event
        for events in world.users
        for event in sorted(events, key=lambda event: (event["time"], event["seq"]))
    ]
    items = list(world.items)
    return Timelines(
        np.arange(len(world.users), dtype=np.int64) * 3 + 5,
        np.cumsum([0, *(len(events) for events in world.users)], dtype=np.int64),
        np.array([r["time"] for r in rows], np.int64),
        np.array([TYPES.index(r["type"]) for r in rows], np.int16),
        np.array([-1 if r["item"] is None else items.index(r["item"]) for r in rows], np.int32),
        np.array([r["seq"] for r in rows], np.int64),
        {name: numbers([r[name] for r in rows]) for name in NUMBERS},
        {name: texts([r[name] for r in rows]) for name in TEXTS},
        np.array([r["arrival"] for r in rows], np.int64),
    )


def profile_of(world: World) -> dict[str, Values]:
    """Return user attributes by user index."""
    return {
        "country": texts([p["country"] for p in world.profiles]),
        "age": numbers([p["age"] for p in world.profiles]),
    }


def scores_of(world: World) -> dict[str, npt.NDArray[np.float64]]:
    """Return scores by user index."""
    return {"buy": numbers([s["buy"] for s in world.scores])}


def answers(es: list[Expression], world: World, rows: Rows) -> list[list[Value]]:
    """Evaluate over the whole world at once; missing is ``None``."""
    found = evaluate(
        es,
        timelines_of(world),
        rows,
        schema_of(world),
        profile=profile_of(world),
        scores=scores_of(world),
    )
    return [plain(values) for values in found]


def plain(values: Values) -> list[Value]:
    """Return values as floats or texts, missing as ``None``."""
    if isinstance(values, Column):
        return [None if code < 0 else values.values[code] for code in values.codes]
    return [None if math.isnan(v) else v for v in values.tolist()]


def bits(values: list[Value]) -> list[str | None]:
    """Return values in a form in which only equal bits are equal (0.0 and −0.0 differ)."""
    return [v.hex() if isinstance(v, float) else v for v in values]


def numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def texts(values: list[Any]) -> Column:
    known = sorted({v for v in values if v is not None})
    return Column(
        np.array([-1 if v is None else known.index(v) for v in values], np.int32), tuple(known)
    )
