from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propend.events.clean import (
    CODE,
    REASONS,
    Reservoir,
    Tally,
    is_bot,
    link_returns,
    repeats,
    timeline_order,
)

DAY = 86_400_000_000
small = st.integers(0, 3)


@given(st.lists(st.tuples(small, small, st.booleans()), max_size=40))
def test_repeats_agree_with_a_set(rows: list[tuple[int, int, bool]]) -> None:
    first, second = (np.array([r[i] for r in rows], np.uint64) for i in (0, 1))
    among = np.array([r[2] for r in rows], bool)
    seen: set[tuple[int, int]] = set()
    expected = []
    for a, b, counts in rows:
        expected.append(counts and (a, b) in seen)
        if counts:
            seen.add((a, b))
    assert repeats(first, second.astype(np.int64), among=among).tolist() == expected


def test_repeats_of_many_and_of_extreme_keys() -> None:
    keys = np.arange(100_000, dtype=np.uint64) << np.uint64(40)
    twice = np.concatenate([keys, keys])
    assert repeats(twice, np.full(200_000, -1)).sum() == 100_000
    assert not repeats(twice, np.arange(200_000)).any()


@given(st.lists(st.tuples(small, small, st.booleans()), max_size=40))
def test_timeline_order_is_a_stable_sort(rows: list[tuple[int, int, bool]]) -> None:
    user, time = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
    chosen = np.flatnonzero([r[2] for r in rows]).astype(np.int64)
    expected = sorted(chosen.tolist(), key=lambda i: (user[i], time[i], i))
    assert timeline_order(user, time, chosen).tolist() == expected


def slow_links(rows: list[tuple[int, int, int, int, float]]) -> list[int]:
    """Each return takes back the latest open purchases of its user and item, piece by piece."""
    out = [-1] * len(rows)
    open_pieces: dict[tuple[int, int], list[list[float]]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (rows[i][1], i)):
        user, _, item, kind, pieces = rows[i]
        count = 1.0 if np.isnan(pieces) else abs(pieces)
        stack = open_pieces.setdefault((user, item), [])
        if item < 0:
            continue
        if kind == 1:
            stack.append([i, max(count, 1e-9)])
        elif kind == 2:
            out[i] = int(stack[-1][0]) if stack else -1
            while stack and count > 0:
                taken = min(count, stack[-1][1])
                count -= taken
                stack[-1][1] -= taken
                if stack[-1][1] <= 1e-9:
                    stack.pop()
    return out


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 5),
            st.integers(-1, 1),
            st.integers(0, 2),
            st.sampled_from([1.0, 2.0, -1.0, -3.0, float("nan")]),
        ),
        max_size=25,
    )
)
def test_returns_agree_with_the_slow_oracle(rows: list[tuple[int, int, int, int, float]]) -> None:
    columns: list[Any] = list(zip(*rows, strict=True)) or [(), (), (), (), ()]
    user, time, item, kind, pieces = columns
    linked = link_returns(
        np.array(user, np.int64),
        np.array(time, np.int64),
        np.arange(len(rows)),
        np.array(item, np.int32),
        np.array(kind, np.int8),
        np.array(pieces, np.float64),
    )
    assert linked.tolist() == slow_links(rows)


def bot(times: list[int] | Any, per_day: float = 1e9, regularity: float = 0.05) -> bool:
    array = np.asarray(times, np.int64)
    return bool(is_bot(np.array([0, len(array)]), array, per_day, regularity)[0])


def test_bots_are_too_busy_or_too_even() -> None:
    burst = list(range(100))
    assert bot(burst, per_day=99)
    assert not bot(burst, per_day=100)
    assert bot([0, DAY - 1], per_day=1)
    assert not bot([0, DAY], per_day=1)  # 24 hours apart are two days
    even = np.arange(200) * 60_000_000
    assert bot(even)
    assert not bot(even[:199])  # too few to tell
    people = np.cumsum(np.random.default_rng(7).exponential(6e7, 500)).astype(np.int64)
    assert not bot(people)
    assert not bot([5] * 300)  # one batch upload is no rhythm
    offsets = np.array([0, 200, 200, 700])
    both = np.concatenate([even, people])
    assert is_bot(offsets, both, 1e9, 0.05).tolist() == [True, False, False]


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(-9, 9) | st.just(np.nan)), max_size=60))
def test_a_reservoir_that_holds_all_is_exact(rows: list[tuple[int, float]]) -> None:
    reservoir = Reservoir(size=64)
    for part in (rows[:20], rows[20:]):
        reservoir.add(
            np.array([r[0] for r in part], np.int32), np.array([r[1] for r in part], float)
        )
    median, mad = reservoir.medians()
    for item in range(len(median)):
        mine = [v for i, v in rows if i == item and not np.isnan(v)]
        if not mine:
            assert np.isnan(median[item])
            continue
        assert median[item] == np.median(mine)
        assert mad[item] == np.median(np.abs(np.array(mine) - np.median(mine)))
    known = [v for i, v in rows if i >= 0 and not np.isnan(v)]
    assert reservoir.median() == pytest.approx(np.median(known) if known else np.nan, nan_ok=True)


def test_a_full_reservoir_is_a_fair_sample() -> None:
    reservoir = Reservoir(size=101, seed=3)
    values = np.random.default_rng(5).normal(10, 2, 200_000)
    reservoir.add(np.zeros(len(values), np.int32), values)
    median, mad = reservoir.medians()
    assert abs(median[0] - 10) < 0.8
    assert abs(mad[0] - 2 * 0.6745) < 0.6


def test_a_tally_shows_the_earliest_rows() -> None:
    tally = Tally(2)
    tally.note("x", np.array([True, False, True]), np.array([7, 8, 9]))
    tally.note("x", np.array([True, True]), np.array([1, 2]))
    tally.note("y", np.array([True]), np.array([1]), show=False)
    tally.note("z", np.array([False]), np.array([1]))
    assert tally.rows == {"x": 4, "y": 1}
    assert tally.examples == {"x": [1, 2]}


def test_reasons_have_one_code_each() -> None:
    assert CODE["kept"] == 0
    assert len(CODE) == len(REASONS) < 256
