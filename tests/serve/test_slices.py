"""A user's slice against sorting: events in any order, several ids as one, answers that later events do not change."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.serve.dialects.port import Event
from propend.serve.move import Arrived
from propend.serve.slices import Encoded, Slice

COLUMNS = (("value", "size"), ("channel", "plan"))
TYPES, ITEMS = {"view": 0, "cart": 1}, {"i0": 0, "i1": 1}

EVENTS = st.lists(
    st.builds(
        lambda time, type_, item, value, channel, plan: Event(
            user="u", time=time, type=type_, item=item, value=value, channel=channel, message="m",
            properties={} if plan is None else {"plan": plan, "size": len(plan)},
        ),
        st.integers(0, 20), st.sampled_from(["view", "cart"]), st.sampled_from([None, "i0", "i1"]),
        st.none() | st.floats(0, 9), st.none() | st.sampled_from(["ads", "mail"]), st.none() | st.text("ab", min_size=1, max_size=2),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


def filled(events: list[tuple[int, Event]]) -> Slice:
    held = Slice(COLUMNS, 1)
    for position, event in events:
        held.insert(Arrived(position, 0, event.time, "s", event), COLUMNS, TYPES, ITEMS)
    return held


def rows(held: Slice) -> list[tuple[object, ...]]:
    t = held.timelines(COLUMNS)
    texts = [
        [None if c < 0 else column.values[c] for c in column.codes]
        for column in (t.texts[name] for name in COLUMNS[1])
    ]
    numbers = [[None if v != v else v for v in t.numbers[name].tolist()] for name in COLUMNS[0]]
    return list(zip(t.time.tolist(), t.type.tolist(), t.item.tolist(), *numbers, *texts, strict=True))  # fmt: skip


def oracle(events: list[tuple[int, Event]]) -> list[tuple[object, ...]]:
    ordered = sorted(events, key=lambda pair: (pair[1].time, pair[0]))
    return [
        (
            e.time, TYPES[e.type], -1 if e.item is None else ITEMS[e.item],
            e.value, e.properties.get("size"), e.channel, e.properties.get("plan"),
        )
        for _, e in ordered
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_events_in_any_order_lie_sorted(events: list[Event]) -> None:
    numbered = list(enumerate(events, 1))
    assert rows(filled(numbered)) == oracle(numbered)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.lists(st.integers(0, 2), min_size=30, max_size=30))
def test_several_ids_are_one_timeline(events: list[Event], whose: list[int]) -> None:
    numbered = list(enumerate(events, 1))
    parts = [[pair for pair, w in zip(numbered, whose, strict=False) if w == k] for k in range(3)]
    merged = Slice.merged([filled(part) for part in parts], COLUMNS)
    assert rows(merged) == oracle(numbered)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_a_stored_timeline_comes_back_as_it_was(events: list[Event]) -> None:
    held = filled(list(enumerate(events, 1)))
    again = Slice.of(Encoded(held.timelines(COLUMNS), COLUMNS), 0)
    assert rows(again) == rows(held)


def test_an_answer_does_not_see_what_comes_later() -> None:
    event = Event(user="u", time=10, type="view", value=1.0, message="m")
    held = filled([(1, event)])
    before = held.timelines(COLUMNS)
    earlier = Event(user="u", time=5, type="cart", value=2.0, channel="ads", message="n")
    held.insert(Arrived(2, 0, 5, "s", earlier), COLUMNS, TYPES, ITEMS)
    assert before.time.tolist() == [10]
    assert before.numbers["value"].tolist() == [1.0]
    assert np.array_equal(held.timelines(COLUMNS).numbers["value"], [2.0, 1.0])
