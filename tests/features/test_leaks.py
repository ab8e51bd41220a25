"""The leak test: nothing at or after the cutoff, and nothing not yet known, reaches a feature; nothing before it a label."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features import worlds as w
from tests.features.oracle import Event, World

from propend.expression import Expression
from propend.expression.nodes import FORWARD_ONLY
from propend.features.derive import derive_features
from propend.features.evaluate import Rows
from propend.names import DAY

QUICK = settings(max_examples=150, deadline=None, derandomize=True)
FEATURES, LABELS = w.family(forward=False), w.family(forward=True)
ONLY_BACK = w.expressions(forward=False).filter(
    lambda e: all(a.function not in FORWARD_ONLY for a in e.aggregates())
)
ONLY_AHEAD = w.expressions(forward=True).filter(
    lambda e: all(a.window.forward or a.function in FORWARD_ONLY for a in e.aggregates())
)


def answers(es: list[Expression], world: World, cutoff: int) -> list[list[str | None]]:
    found = w.answers(es, world, Rows.every(len(world.users), [cutoff]))
    return [w.bits(values) for values in found]


def changed(draw: Any, world: World, pick: Any, when: st.SearchStrategy[int]) -> World:
    """Return the world with some of the events that ``pick`` chooses shifted, altered or deleted, and others added."""
    other = copy.deepcopy(world)
    seq = 1_000
    for user, events in enumerate(other.users):
        kept: list[Event] = []
        for event in events:
            what = draw(st.sampled_from(["keep", "shift", "alter", "delete"]))
            if not pick(event) or what == "keep":
                kept.append(event)
            elif what != "delete":
                new = {**draw(w.EVENTS), "seq": event["seq"]}
                delay = new["arrival"] - new["time"]
                new["time"] = draw(when) if what == "shift" else event["time"]
                new["arrival"] = new["time"] + delay
                kept.append(new)
        for _ in range(draw(st.integers(0, 2))):
            at = draw(when)
            seq += 1
            kept.append({**draw(w.EVENTS), "time": at, "arrival": at, "seq": seq})
        other.users[user] = kept
    return other


def after(cutoff: int) -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, w.HOUR, 12 * w.HOUR, 24 * w.HOUR, 700 * w.HOUR]).map(
        lambda by: cutoff + by
    )


def before(cutoff: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1, w.HOUR, 12 * w.HOUR, 24 * w.HOUR, 700 * w.HOUR]).map(
        lambda by: cutoff - by
    )


@QUICK
@given(st.data(), w.worlds(), w.MOMENTS, st.lists(ONLY_BACK, max_size=3))
def test_no_event_at_or_after_the_cutoff_changes_a_feature(
    data: Any, world: World, cutoff: int, es: list[Expression]
) -> None:
    other = changed(data.draw, world, lambda e: e["time"] >= cutoff, after(cutoff))
    asked = es + data.draw(st.lists(st.sampled_from(FEATURES), min_size=8, max_size=8))
    assert answers(asked, world, cutoff) == answers(asked, other, cutoff)


@QUICK
@given(st.data(), w.worlds(), w.MOMENTS, st.lists(ONLY_AHEAD, max_size=3))
def test_no_event_before_the_cutoff_changes_a_label(
    data: Any, world: World, cutoff: int, es: list[Expression]
) -> None:
    other = changed(data.draw, world, lambda e: e["time"] < cutoff, before(cutoff))
    asked = es + data.draw(st.lists(st.sampled_from(LABELS), min_size=8, max_size=8))
    assert answers(asked, world, cutoff) == answers(asked, other, cutoff)


@QUICK
@given(st.data(), w.worlds(), w.MOMENTS, st.lists(ONLY_BACK, max_size=3))
def test_what_had_not_arrived_by_the_cutoff_is_not_seen(
    data: Any, world: World, cutoff: int, es: list[Expression]
) -> None:
    """Late events may be deleted, altered as long as they stay late, or added: no feature changes."""
    other = copy.deepcopy(world)
    for user, events in enumerate(other.users):
        kept = [e for e in events if e["arrival"] <= cutoff or data.draw(st.booleans())]
        for event in kept:
            if event["arrival"] > cutoff:
                event.update(type="purchase", item="a", value=1e6, channel="email")
        at = data.draw(before(cutoff))
        kept.append({**data.draw(w.EVENTS), "time": at, "arrival": cutoff + 1, "seq": 2_000})
        other.users[user] = kept
    asked = es + data.draw(st.lists(st.sampled_from(FEATURES), min_size=8, max_size=8))
    assert answers(asked, world, cutoff) == answers(asked, other, cutoff)


def busy() -> World:
    """One user with an event every half day around the cutoff, and ties on it."""
    events: list[Event] = []
    for step in [*range(-70, 71), 0, 0]:
        at = w.BASE + step * 12 * w.HOUR
        events.append(
            {
                "time": at,
                "seq": len(events),
                "type": w.TYPES[len(events) % 3],
                "item": "abc"[len(events) % 3],
                "value": float(len(events) % 7) + 0.1,
                "big": 1.0,
                "channel": "app" if step % 2 else "email",
                "empty": None,
                "arrival": at,
            }
        )
    nobody: dict[str, Any] = {"country": None, "age": None}
    return World([events], w.ITEMS, [nobody], [{"buy": None}], "Europe/Berlin")


@pytest.mark.parametrize("forward", [False, True])
def test_whole_families_see_only_their_side(forward: bool) -> None:
    """All expressions at once: throwing the other side away, or filling it, changes nothing; its own side matters."""
    world, cutoff = busy(), w.BASE
    schema = w.schema_of(world)
    derived = derive_features(replace(schema, first=w.BASE - 400 * DAY, last=w.BASE))
    asked = LABELS if forward else [*FEATURES, *derived]
    expected = answers(asked, world, cutoff)
    stripped, flooded, gone = copy.deepcopy(world), copy.deepcopy(world), copy.deepcopy(world)
    stripped.users[0] = [e for e in world.users[0] if (e["time"] >= cutoff) == forward]
    gone.users[0] = [e for e in world.users[0] if (e["time"] >= cutoff) != forward]
    step = -1 if forward else 1
    for i in range(50):
        at = cutoff + step * i * w.HOUR - (1 if forward else 0)
        flooded.users[0].append(
            {**world.users[0][0], "time": at, "arrival": at, "seq": 9_000 + i, "value": 1e9}
        )
    assert answers(asked, stripped, cutoff) == expected
    assert answers(asked, flooded, cutoff) == expected
    blind = [
        str(e)
        for e, a, b in zip(asked, answers(asked, gone, cutoff), expected, strict=True)
        if a == b and "1mo" in str(e)
    ]
    assert blind == []
