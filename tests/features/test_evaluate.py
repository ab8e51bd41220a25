from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from benchmarks.speed.features import measure
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features import worlds as w
from tests.features.oracle import World, answer

from propend.errors import DataError, ExpressionError
from propend.events.clock import moment
from propend.events.timelines import Column, Timelines
from propend.expression import AGGREGATES, Aggregate, Expression, parse
from propend.features.evaluate import Rows, evaluate, matrix
from propend.features.schema import Schema
from propend.names import DAY

QUICK = settings(max_examples=200, deadline=None, derandomize=True)


def agree(es: list[Expression], world: World, cutoffs: list[int]) -> None:
    """Assert that the kernels and the oracle give the same bits for every user at every cutoff."""
    rows = Rows.every(len(world.users), cutoffs)
    for e, found in zip(es, w.answers(es, world, rows), strict=True):
        expected = [
            answer(e, world, int(user), int(cutoff))
            for user, cutoff in zip(rows.user, rows.cutoff, strict=True)
        ]
        assert w.bits(found) == w.bits(expected), str(e)


@pytest.mark.parametrize("function", sorted(AGGREGATES))
@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_each_aggregate_agrees_with_the_oracle(function: str, data: Any) -> None:
    asked: list[Expression] = data.draw(st.lists(w.aggregates((function,)), min_size=1, max_size=4))
    agree(asked, data.draw(w.worlds()), data.draw(w.CUTOFFS))


@QUICK
@given(st.lists(w.expressions(), min_size=1, max_size=3), w.worlds(), w.CUTOFFS)
def test_whole_expressions_agree_with_the_oracle(
    es: list[Expression], world: World, cutoffs: list[int]
) -> None:
    agree(es, world, cutoffs)


@pytest.mark.parametrize("seed", range(3))
def test_whole_families_agree_with_the_oracle_on_busy_users(seed: int) -> None:
    """Every aggregate × selection × window, at moments that fall on events, arrivals and window halves."""
    world = w.dense_world(seed)
    cutoffs = [w.BASE, w.BASE, w.BASE + 1, w.BASE + 36 * w.HOUR]
    agree(w.family(forward=False) + w.family(forward=True), world, cutoffs)


@settings(QUICK, max_examples=120)
@given(st.lists(w.expressions(), min_size=1, max_size=4), w.worlds(), w.CUTOFFS)
def test_answers_do_not_depend_on_the_partition(
    es: list[Expression], world: World, cutoffs: list[int]
) -> None:
    """All users at once, user by user, one row at a time: the same bits. Batch = live rests on this."""
    schema, timelines = w.schema_of(world), w.timelines_of(world)
    profile, scores = w.profile_of(world), w.scores_of(world)
    rows = Rows.every(len(world.users), cutoffs)
    whole = [w.bits(v) for v in w.answers(es, world, rows)]
    for user in range(len(world.users)):
        mine = rows.user == user
        alone = evaluate(
            es,
            timelines.of(user),
            Rows(np.zeros(int(mine.sum()), np.int64), rows.cutoff[mine]),
            schema,
            profile={n: v.take(np.array([user])) for n, v in profile.items()},
            scores={n: v[[user]] for n, v in scores.items()},
        )
        for all_rows, own in zip(whole, alone, strict=True):
            assert [all_rows[i] for i in np.flatnonzero(mine)] == w.bits(w.plain(own))
    order = np.arange(len(timelines.users))[::-1]
    turned = evaluate(
        es,
        timelines.users_at(order),
        Rows(order[rows.user], rows.cutoff),
        schema,
        profile={n: v.take(order) for n, v in profile.items()},
        scores={n: v[order] for n, v in scores.items()},
    )
    assert [w.bits(w.plain(v)) for v in turned] == whole


@settings(QUICK, max_examples=120)
@given(st.lists(w.expressions(forward=False), min_size=1, max_size=4), w.worlds(), w.CUTOFFS)
def test_what_was_known_before_the_cutoff_is_all_a_feature_needs(
    es: list[Expression], world: World, cutoffs: list[int]
) -> None:
    schema, timelines = w.schema_of(world), w.timelines_of(world)
    known = {"profile": w.profile_of(world), "scores": w.scores_of(world)}
    backward = [
        e for e in es if not any(a.function in ("next", "days_until") for a in e.aggregates())
    ]
    for cutoff in cutoffs:
        rows = Rows.every(len(world.users), [cutoff])
        then = evaluate(backward, timelines.before(cutoff), rows, schema, **known)  # type: ignore[arg-type]
        now = evaluate(backward, timelines, rows, schema, **known)  # type: ignore[arg-type]
        for a, b in zip(then, now, strict=True):
            assert w.bits(w.plain(a)) == w.bits(w.plain(b))


@settings(QUICK, max_examples=40)
@given(w.worlds(), st.lists(st.booleans(), max_size=60), w.MOMENTS)
def test_selecting_keeps_every_user(world: World, picks: list[bool], at: int) -> None:
    timelines = w.timelines_of(world)
    keep = np.zeros(len(timelines), np.bool_)
    keep[: len(picks)] = picks[: len(timelines)]
    assert timelines.arrival is not None
    known = (timelines.time < at) & (timelines.arrival <= at)
    for chosen, mask in ((timelines.select(keep), keep), (timelines.before(at), known)):
        per_user = np.bincount(timelines.user_of_row[mask], minlength=len(timelines.users))
        assert chosen.offsets.tolist() == [0, *np.cumsum(per_user)]
        assert chosen.users.tolist() == timelines.users.tolist()
        assert chosen.seq.tolist() == timelines.seq[mask].tolist()


# ---- edges, by hand

EVERY = [
    Aggregate(f, field="value" if f in ("sum", "mean", "min", "max", "std") else "channel")
    for f in AGGREGATES
]


def empty(users: int) -> Timelines:
    none = np.zeros(0, np.int64)
    return Timelines(
        np.arange(users),
        np.zeros(users + 1, np.int64),
        none,
        none.astype(np.int16),
        none.astype(np.int32),
        none,
        {"value": np.zeros(0)},
        {"channel": Column(none.astype(np.int32), ())},
        none,
    )


@pytest.mark.parametrize("users", [0, 1, 3])
def test_no_events(users: int) -> None:
    schema = Schema(types=("view",), numbers=("value",), texts=("channel",), zone="Asia/Shanghai")
    rows = Rows.every(users, [0, 5 * DAY])
    for e, values in zip(EVERY, evaluate(EVERY, empty(users), rows, schema), strict=True):
        zero = e.function in ("any", "count", "sum", "distinct", "active_days")
        expected = 0.0 if zero else 1.0 if e.function == "none" else None
        assert w.plain(values) == [expected] * len(rows), e
    assert len(empty(users).before(0)) == 0
    assert len(empty(users).users_at([]).users) == 0


def test_no_rows() -> None:
    world = World([[]], w.ITEMS, [{"country": None, "age": None}], [{"buy": None}])
    nobody = Rows.of([], [])
    more = [parse("calendar.hour > 3"), parse("any(view) last 1mo and profile.age > 3")]
    assert w.answers([*EVERY, *more], world, nobody) == [[]] * (len(EVERY) + 2)


def one(*times: int, value: float = 1.0) -> Timelines:
    n = len(times)
    return Timelines(
        np.array([4]),
        np.array([0, n]),
        np.array(times, np.int64),
        np.zeros(n, np.int16),
        np.full(n, -1, np.int32),
        np.arange(n),
        {"value": np.full(n, value)},
    )


def ask(text: str, timelines: Timelines, cutoff: int, zone: str = "UTC") -> float | None:
    schema = Schema(types=("view",), numbers=("value",), zone=zone)
    e = parse(text)
    schema.check(e)
    (found,) = evaluate([e], timelines, Rows.of([0], [cutoff]), schema)
    return w.plain(found)[0]  # type: ignore[return-value]


def test_windows_touch_and_never_overlap() -> None:
    timelines = one(0, DAY, 2 * DAY)
    assert ask("count(*) last 1d", timelines, DAY) == 1  # the one at 0
    assert ask("count(*) next 1d", timelines, DAY) == 1  # the one at the cutoff itself
    assert ask("count(*)", timelines, DAY) == 1
    assert ask("days_until(*)", timelines, DAY) == 0
    assert ask("days_since(*)", timelines, 2 * DAY) == 1


def test_a_clock_set_back_over_midnight_repeats_a_day_once() -> None:
    """St John's clocks went from 00:01 back to 23:01 of the day before."""
    change = moment(datetime(2010, 11, 7, 2, 31, tzinfo=UTC))
    minute = 60_000_000
    around = one(change - 10 * minute, change - minute // 2, change + minute, change + 61 * minute)
    assert ask("active_days(*)", around, change + DAY, "America/St_Johns") == 2
    late = one(change - minute // 2, change + minute, change + 2 * minute)
    assert ask("active_days(*)", late, change + DAY, "America/St_Johns") == 2


def test_sums_are_exact_and_do_not_overflow() -> None:
    assert ask("sum(view.value)", one(*range(10), value=0.1), DAY) == 1.0
    assert ask("sum(view.value)", one(*range(4), value=4e12), DAY) == 1.6e13
    assert ask("mean(view.value)", one(*range(4), value=-4e12), DAY) == -4e12
    assert ask("sum(view.value)", one(0, 1, value=1e308), DAY) == np.inf


def test_columns_and_rows_may_be_read_only_or_strided() -> None:
    timelines = one(*range(0, 10 * DAY, DAY))
    strided = Timelines(
        timelines.users,
        timelines.offsets,
        np.repeat(timelines.time, 2)[::2],
        timelines.type,
        timelines.item,
        timelines.seq,
        {"value": np.repeat(timelines.numbers["value"], 2)[::2]},
    )
    strided.time.flags.writeable = False
    for text in ("sum(view.value) last 3d", "distinct(view.value)", "std_gap(view)"):
        assert ask(text, strided, 9 * DAY) == ask(text, timelines, 9 * DAY)


def test_threads_share_nothing() -> None:
    timelines = one(*range(0, 400 * DAY, DAY))
    texts = ["count(view) last 1mo", "active_days(view) last 90d", "trend(view where hour < 9)"]
    schema = Schema(types=("view",), numbers=("value",), zone="Europe/Berlin")
    rows = Rows.every(1, [int(c) * DAY for c in range(50, 400, 7)])

    def run(_: int) -> list[float]:
        return matrix([parse(t) for t in texts], timelines, rows, schema).ravel().tolist()

    with ThreadPoolExecutor(4) as pool:
        first, *rest = pool.map(run, range(12))
    assert all(other == first for other in rest)


def test_matrix_gives_text_as_codes() -> None:
    world = World(
        [[{"time": 0, "seq": 0, "type": "view", "item": "b", "value": 1.0, "big": None,
           "channel": None, "empty": None, "arrival": 0}], []],
        w.ITEMS,
    )  # fmt: skip
    table = matrix(
        [parse("last(*.item)"), parse("count(*)")],
        w.timelines_of(world),
        Rows.every(2, [DAY]),
        w.schema_of(world),
    )
    assert table[0].tolist() == [1.0, 1.0]
    assert np.isnan(table[1, 0])
    assert table[1, 1] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("count(veiw)", "no event type 'veiw' in the log; did you mean 'view'?"),
        ("sum(view.valeu)", "no event field 'valeu'; did you mean 'value'?"),
        ("any(view where categry = 'a')", "did you mean 'category'?"),
        ("profile.contry = 'DE'", "no user attribute 'contry'; did you mean 'country'?"),
        ("p(by) > 0.5", "no task 'by' to take p() of; did you mean 'buy'?"),
        ("country = 'DE'", "write an aggregate such as any(purchase) last 30d, or profile.country"),
        ("sum(view.channel)", "sum() needs a number, but 'channel' is text"),
        ("any(view where any(cart))", "where may not hold another aggregate"),
        ("any(view where p(buy) > 0.5)", "where may not hold p(buy)"),
        ("any(view where value = 'a')", "compares text with a number"),
        ("any(view where channel < 'a')", "orders text"),
        ("any(view where channel + 1 > 2)", "calculates with text"),
        ("profile.country = 3", "compares text with a number"),
        ("profile.age in ('a')", "compares text with a number"),
        ("last(view.item) = count(view)", "compares text with a number"),
        ("any(view where value says 'a')", "reads words, but value is no text"),
        ("count(view) says 'a'", "reads words, but count(view) is no text"),
        ("last(view.item) + 1", "calculates with text"),
    ],
)
def test_meaningless_expressions_are_refused_before_any_data_is_read(text: str, words: str) -> None:
    schema = w.schema_of(World([], w.ITEMS))
    with pytest.raises(ExpressionError) as caught:
        schema.check(parse(text))
    assert words in str(caught.value)


def test_direction_is_checked() -> None:
    schema = w.schema_of(World([], w.ITEMS))
    with pytest.raises(ExpressionError, match="looks past the cutoff"):
        schema.check(parse("any(view) next 3d"), forward=False)
    with pytest.raises(ExpressionError, match="looks back, but a target looks ahead"):
        schema.check(parse("any(view) last 3d"), forward=True)
    schema.check(parse("next(item) = 'a' and days_until(view) < 3"), forward=True)


def test_a_part_shared_by_where_and_outside_is_checked_in_both_places() -> None:
    """The Python form may use one object twice."""
    shared = parse("value = 1")
    schema = w.schema_of(World([], w.ITEMS))
    both = Aggregate("any", ("view",), where=shared) & shared
    with pytest.raises(ExpressionError, match="means nothing here"):
        schema.check(both)


def test_users_that_are_not_there_are_refused() -> None:
    """A kernel checks no bounds: a wrong index must not reach it."""
    schema = Schema(types=("view",))
    for wrong in (-1, 1, 7):
        with pytest.raises(DataError, match="the timelines hold 1 users"):
            evaluate([parse("count(*)")], one(0, 1), Rows.of([wrong], [DAY]), schema)
        with pytest.raises(IndexError):
            one(0, 1).of(wrong)


def test_what_was_not_given_is_named() -> None:
    for text in ("profile.age > 3", "p(buy) > 0.5"):
        with pytest.raises(ExpressionError, match="was not given to the evaluation"):
            evaluate([parse(text)], one(0), Rows.of([0], [DAY]), Schema(types=("view",)))


def test_the_speed_benchmark_compares_equal_answers() -> None:
    results = measure(users=60, events=8, cutoffs=3, repeats=1)
    assert [r.name for r in results] == ["propend", "NumPy searchsorted", "DuckDB range join"]
