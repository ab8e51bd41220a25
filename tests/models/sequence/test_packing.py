"""Packing loses nothing, mixes nothing, and is cut where it says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.sequence.worlds import random_sequences

from propend.errors import ModelError
from propend.models.sequence.packing import batches, lay_out, piece_batch, pieces
from propend.models.sequence.targets import asked_of, future_of, next_of
from propend.models.sequence.tokens import (
    ItemFeatures,
    SequenceArrays,
    SequenceWriter,
    Vocabulary,
    hashed_rows,
)
from propend.names import DAY

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=40)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 30))
def test_every_event_has_one_place_and_every_piece_one_row(lengths: list[int], width: int) -> None:
    layout = lay_out(lengths, width)
    count = sum(lengths)
    assert sorted(layout.rows[layout.rows < count].tolist()) == list(range(count))
    assert (layout.rows.ravel()[layout.place] == np.arange(count)).all()
    for piece in range(len(lengths)):
        row, column = np.nonzero(layout.piece == piece)
        assert len(set(row.tolist())) == 1
        assert (np.diff(column) == 1).all()
        events = layout.rows[row, column]
        assert events.tolist() == list(range(layout.offsets[piece], layout.offsets[piece + 1]))
    assert (layout.piece < 0).sum() == layout.rows.size - count


@settings(deadline=None)
@given(LENGTHS)
def test_rows_are_no_more_than_one_per_piece_and_no_fewer_than_needed(lengths: list[int]) -> None:
    layout = lay_out(lengths, 12)
    rows, width = layout.rows.shape
    assert -(-sum(lengths) // width) <= rows <= len(lengths)
    assert rows <= 2 * -(-sum(lengths) // width)  # best fit never wastes half


@settings(deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=20), st.integers(2, 9), st.integers(0, 99))
def test_pieces_cover_each_history_once(sizes: list[int], length: int, seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    user, start, stop = pieces(offsets, length, np.random.default_rng(seed))
    seen = np.zeros(int(offsets[-1]), np.int64)
    for u, a, b in zip(user, start, stop, strict=True):
        assert offsets[u] <= a < b <= offsets[u + 1]
        assert b - a <= length
        seen[a:b] += 1
    wanted = np.repeat(np.array(sizes) >= 2, sizes)
    assert (seen == wanted).all()
    last = pieces(offsets, length)
    assert (last[2] - last[1] == np.minimum(np.array(sizes)[last[0]], length)).all()


def test_batches_keep_the_budget_repeat_under_a_seed_and_go_on_where_they_stopped() -> None:
    data = random_sequences(60)
    whole = list(batches(data, 6, 30, seed=(1, 2)))
    assert max(len(b) for b in whole) <= 30
    again = list(batches(data, 6, 30, seed=(1, 2)))
    assert all((a.index == b.index).all() for a, b in zip(whole, again, strict=True))
    rest = list(batches(data, 6, 30, seed=(1, 2), skip=3))
    assert all((a.index == b.index).all() for a, b in zip(whole[3:], rest, strict=True))
    other = list(batches(data, 6, 30, seed=(1, 3)))
    assert any(
        len(a) != len(b) or (a.index != b.index).any() for a, b in zip(whole, other, strict=False)
    )


def test_memory_mapped_sequences_give_the_same_batches(tmp_path: Path) -> None:
    data = random_sequences(40)
    data.save(tmp_path / "log")
    opened = SequenceArrays.open(tmp_path / "log")
    assert isinstance(opened.item, np.memmap)
    assert opened.data_hash() == data.data_hash()
    for a, b in zip(batches(data, 8, 50, seed=1), batches(opened, 8, 50, seed=1), strict=True):
        assert (data.item[a.index] == opened.item[b.index]).all()
    with pytest.raises(ModelError, match="write them again"):
        SequenceArrays.open(tmp_path / "nothing")


def test_an_epoch_takes_the_memory_of_its_batches_not_of_the_log(tmp_path: Path) -> None:
    peaks = []
    for users in (500, 500, 2_000):  # the first one warms up
        one = SequenceArrays.of(np.arange(users + 1) * 100, np.zeros(users * 100, int))
        with SequenceWriter(tmp_path / str(users)) as writer:
            writer.append(one)
        del one
        data = SequenceArrays.open(tmp_path / str(users))
        tracemalloc.start()
        for batch in batches(data, 50, 2_048, seed=1):
            next_of(data, batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    log = 1_500 * 100 * 30  # bytes that the larger log has more
    assert peaks[2] - peaks[1] < 0.1 * log


def test_what_comes_next_agrees_with_a_slow_look() -> None:
    data = random_sequences(30)
    for batch in batches(data, 5, 40, seed=3):
        after = next_of(data, batch)
        for t, (index, user) in enumerate(zip(batch.index, batch.user, strict=True)):
            ends = index + 1 == data.offsets[user + 1]
            assert after.known[t] == (not ends)
            assert after.item[t] == (-1 if ends else data.item[index + 1])
            until = data.end if ends else data.time[index + 1]
            assert after.gap[t] == pytest.approx((until - data.time[index]) / DAY, rel=1e-5)


def test_active_days_agree_with_a_slow_count_and_stay_when_a_history_is_cut() -> None:
    data = random_sequences(30)
    for user in range(data.users):
        days = [t // DAY for t in data.user(user)["time"].tolist()]
        slow = [len(set(days[: i + 1])) for i in range(len(days))]
        assert data.user(user)["days"].tolist() == slow
    some = data.take([3, 7]).before(int(data.time.max()) // 2)
    whole = data.user(3)["days"][: len(some.user(0)["days"])]
    assert some.user(0)["days"].tolist() == whole.tolist()


def test_the_future_agrees_with_a_slow_look() -> None:
    data = random_sequences(30, types=3)
    for batch in batches(data, 6, 50, seed=4):
        asked = asked_of(data, batch, (2.0, 9.0), np.random.default_rng(5))
        found = future_of(data, batch, 3, asked)
        for t, (index, user) in enumerate(zip(batch.index, batch.user, strict=True)):
            stop = data.offsets[user + 1]
            moment, until = asked.moment[t], asked.moment[t] + int(asked.horizon[t]) * DAY
            assert data.time[index] <= moment
            assert index + 1 == stop or moment <= data.time[index + 1]
            assert asked.weight[t] == 0 or until <= data.end
            later = np.arange(index + 1, stop)
            inside = later[(data.time[later] >= moment) & (data.time[later] < until)]
            for kind in range(3):
                assert found.any[t, kind] == (data.type[inside] == kind).any()
            assert found.any[t, 3] == (len(inside) > 0)
            assert found.value[t] == pytest.approx(
                np.nansum(data.amount[inside]), rel=1e-4, abs=1e-4
            )


def test_a_wait_does_not_say_how_soon_the_next_event_comes() -> None:
    days = np.tile([1, 50], 4_000)  # one gap of a day and one of fifty for as many users each
    time = np.stack([np.zeros(len(days), np.int64), days * DAY], axis=1).ravel()
    data = SequenceArrays.of(
        np.arange(len(days) + 1) * 2, np.zeros(len(time), int), time=time, end=300 * DAY
    )
    batch = piece_batch(
        np.arange(len(days)), np.arange(len(days)) * 2, np.arange(len(days)) * 2 + 1, 2
    )
    asked = asked_of(data, batch, (7.0,), np.random.default_rng(0))
    early = asked.wait < 0.9
    soon = asked.weight[early & (days == 1)].sum(), asked.weight[early & (days == 50)].sum()
    assert soon[0] / sum(soon) == pytest.approx(0.5, abs=0.02)  # evenly drawn waits would say .98
    assert (asked.wait <= days).all()
    assert (asked.weight > 0).all()


def test_bad_sequences_are_refused_in_a_sentence() -> None:
    with pytest.raises(ModelError, match="one value per event"):
        SequenceArrays.of([0, 2], [1, 2], type=[0])
    with pytest.raises(ModelError, match="order of time"):
        SequenceArrays.of([0, 2], [1, 2], time=[5, 3])
    with pytest.raises(ModelError, match="not finite"):
        SequenceArrays.of([0, 2], [1, 2], amount=[1.0, np.inf])
    assert len(SequenceArrays.of([0, 1, 2], [1, 2], time=[5, 3])) == 2  # two users: any order


@settings(max_examples=20, deadline=None)
@given(st.integers(400, 5_000))
def test_few_items_share_both_rows_of_a_hashed_table(items: int) -> None:
    rows = hashed_rows(items, items // 4)
    assert rows.min() >= 0
    assert rows.max() < items // 4
    pairs = len(np.unique(np.sort(rows, axis=1), axis=0))
    assert pairs >= 0.9 * items
    assert Vocabulary(items=items, rows=items // 4).hashed
    assert not Vocabulary(items=items, rows=items).hashed


def test_prices_are_cut_into_bins_of_equal_mass() -> None:
    made = ItemFeatures.of(
        {"colour": (np.array([0, 1, -1, 0]), 2)},
        {"price": np.array([1.0, 2.0, 3.0, np.nan])},
        bins=3,
    )
    assert made.codes["price"].tolist() == [0, 1, 2, -1]
    assert made.described == (("colour", 2), ("price", 3))
