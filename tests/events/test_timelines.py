from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from propend.events.timelines import Column, Timelines, offsets_of

events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=30
)
Event = tuple[int, int, int, bool]


def made(rows: list[Event], users: int = 5) -> tuple[list[Event], Timelines]:
    """Timelines of users 0 to 4 (× 10), some of them without an event; and the rows in their order."""
    rows = sorted(rows, key=lambda r: (r[0], r[1]))
    who = np.array([r[0] for r in rows], np.int64)
    n = len(rows)
    lines = Timelines(
        np.arange(users, dtype=np.int64) * 10,
        np.searchsorted(who, np.arange(users + 1)).astype(np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.zeros(n, np.int16),
        np.arange(n, dtype=np.int32),
        np.arange(n, dtype=np.int64),
        {"value": np.arange(n, dtype=np.float64)},
        {"text": Column(np.arange(n, dtype=np.int32), tuple(map(str, range(n))))},
        np.array([r[1] + r[2] for r in rows], np.int64),
    )
    return rows, lines


def check(lines: Timelines, rows: list[Event], chosen: list[int], users: list[int]) -> None:
    assert len(lines) == len(chosen)
    assert lines.users.tolist() == [u * 10 for u in users]
    assert lines.users[lines.user_of_row].tolist() == [rows[i][0] * 10 for i in chosen]
    assert lines.time.tolist() == [rows[i][1] for i in chosen]
    for column in (lines.item, lines.seq, lines.numbers["value"], lines.texts["text"].codes):
        assert column.tolist() == chosen
    assert lines.arrival is not None
    assert lines.arrival.tolist() == [rows[i][1] + rows[i][2] for i in chosen]


@given(events)
def test_select_keeps_the_users(made_of: list[Event]) -> None:
    rows, lines = made(made_of)
    mask = np.array([r[3] for r in rows], bool)
    check(lines.select(mask), rows, np.flatnonzero(mask).tolist(), list(range(5)))


@given(events, st.integers(0, 20))
def test_before_sees_what_had_happened_and_arrived(made_of: list[Event], cutoff: int) -> None:
    rows, lines = made(made_of)
    known = [i for i, r in enumerate(rows) if r[1] < cutoff and r[1] + r[2] <= cutoff]
    check(lines.before(cutoff), rows, known, list(range(5)))


@given(events, st.permutations(range(5)), st.integers(0, 5))
def test_some_users_in_any_order(made_of: list[Event], order: list[int], count: int) -> None:
    rows, lines = made(made_of)
    users = order[:count]
    chosen = [i for u in users for i, r in enumerate(rows) if r[0] == u]
    check(lines.users_at(users), rows, chosen, users)
    check(lines.of(3), rows, [i for i, r in enumerate(rows) if r[0] == 3], [3])


@given(st.lists(st.integers(0, 5)))
def test_offsets_of_a_sorted_column(users: list[int]) -> None:
    users = sorted(users)
    distinct, offsets = offsets_of(np.array(users, np.int32))
    assert distinct.tolist() == sorted(set(users))
    assert np.repeat(distinct, np.diff(offsets)).tolist() == users


def test_no_users_at_all() -> None:
    _, lines = made([], users=0)
    assert len(lines.select(np.zeros(0, bool))) == 0
