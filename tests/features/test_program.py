"""A program answers bit for bit what ``evaluate`` does, on random timelines with ties, gaps and late events."""

from __future__ import annotations

import numpy as np
import pytest

from propend.events.timelines import Column, Timelines
from propend.expression.parse import parse
from propend.features.derive import derive_features
from propend.features.evaluate import Rows, matrix
from propend.features.program import Program
from propend.features.schema import Schema

DAY = 86_400_000_000
ITEMS = 40
SCHEMA = Schema(
    types=("view", "cart", "purchase"), numbers=("value", "quantity"), texts=("session",),
    items={"category": Column(np.arange(ITEMS, dtype=np.int32) % 8 - 1, tuple("abcdefg")), "cost": np.where(np.arange(ITEMS) % 5, 2.5, np.nan)},
    item_ids=tuple(map(str, range(ITEMS))), users={"age": "number", "country": "text"}, zone="Europe/Berlin", last=800 * DAY,
)  # fmt: skip
MORE = (
    "count(view where hour < 9 and category = 'b') last 30d", "sum(purchase.value where value >= 0.5) last 1mo", "distinct(*.item where item != '3')",
    "count(cart where category = 'nowhere')", "any(purchase) last 7d", "last(*.session)", "first(purchase.value)", "count(view where session = 's1')",
    "profile.age * 2", "none(cart) last 1y", "any(view) last 1d and none(cart)", "mean(*.cost)", "max(*.hour) - min(*.hour)",
    "count(view where session says 's1') last 30d", "any(* where session says 's' and hour < 12)", "count(* where category says 'b')",
)  # fmt: skip


def timeline(rng: np.random.Generator, n: int, *, late: bool) -> Timelines:
    time = np.sort(rng.integers(0, 800 * DAY // 1_000_000_000, n) * 1_000_000_000)
    numbers = {
        "value": np.where(rng.random(n) < 0.3, np.nan, np.round(rng.normal(size=n), 3)),
        "quantity": rng.integers(0, 3, n).astype(float),
    }
    if n and rng.random() < 0.2:
        numbers["value"][0] = 3e12
    session = Column(rng.integers(-1, 4, n).astype(np.int32), ("s0", "s1", "s2", "s3"))
    arrival = time + rng.integers(0, 5 * DAY, n) if late else None
    return Timelines(
        np.array([3]), np.array([0, n]), time, rng.integers(0, 3, n).astype(np.int16), rng.integers(-1, ITEMS, n).astype(np.int32),
        np.arange(n), numbers, {"session": session}, arrival,
    )  # fmt: skip


@pytest.mark.parametrize("late", [False, True])
def test_bits_equal(late: bool) -> None:
    rng = np.random.default_rng(11)
    asked = [*derive_features(SCHEMA), *map(parse, MORE)]
    asked = [e for e in asked if "country" not in str(e)]
    program = Program(asked, SCHEMA)
    assert len(program.rest) <= 8
    profile = {"age": np.array([41.0])}
    for n in (0, 1, 2, 5, 40, 150):
        for _ in range(4):
            t = timeline(rng, n, late=late)
            for cutoff in (*rng.integers(0, 810 * DAY, 3), *t.time[:2]):
                expected = matrix(asked, t, Rows.of([0], [int(cutoff)]), SCHEMA, profile=profile)[0]
                got = program.run(t, int(cutoff), profile)
                wrong = [
                    str(asked[i])
                    for i in np.flatnonzero(got.view(np.int64) != expected.view(np.int64))
                    if not (np.isnan(got[i]) and np.isnan(expected[i]))
                ]
                assert not wrong, (n, cutoff, wrong)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_block_answers_as_timelines_do(zone: str) -> None:
    from dataclasses import replace

    rng = np.random.default_rng(3)
    schema = replace(SCHEMA, zone=zone)
    beyond = ("country", "session", "category", "cost", "month", "and none")
    asked = [e for e in (*derive_features(schema), *map(parse, MORE)) if not any(b in str(e) for b in beyond)]  # fmt: skip
    program = Program(asked, schema)
    assert not program.rest
    profile = {"age": np.array([41.0])}
    for n in (0, 1, 3, 60):
        for _ in range(6):
            t = timeline(rng, n, late=True)
            assert t.arrival is not None
            numbers = [t.numbers[name].view(np.int64) for name in ("value", "quantity")]
            block = np.array([t.time, t.arrival, t.seq, t.type, t.item, *numbers], np.int64).reshape(7, n)  # fmt: skip
            given = block.copy()
            for cutoff in (*rng.integers(0, 810 * DAY, 3), *t.time[:2]):
                got = program.run_block(block, ("value", "quantity"), int(cutoff), lambda: profile)
                assert got is not None
                assert np.array_equal(got, program.run(t, int(cutoff), profile), equal_nan=True)
            assert np.array_equal(block, given)
    text = Program([parse("last(*.session)"), parse("count(view where category = 'b')")], schema)
    assert text.run_block(np.zeros((7, 0), np.int64), ("value", "quantity"), 0, dict) is None


def test_texts_that_a_program_picks_are_codes_of_the_schema() -> None:
    asked = [parse(t) for t in ("last(*.type)", "first(view.item)", "last(*.category)", "last(*.session)", "last(*.value)")]  # fmt: skip
    program = Program(asked, SCHEMA)
    assert set(program.texts) == {0, 1, 2}
    t = timeline(np.random.default_rng(2), 30, late=False)
    got = program.run(t, 801 * DAY)
    assert program.texts[0][int(got[0])] == SCHEMA.types[int(t.type[-1])]
    assert program.texts[2][int(got[2])] in "abcdefg"
