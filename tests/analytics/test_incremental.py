"""Yesterday's answer plus today's events is the full answer, for every kind of question and whatever arrives in which order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from propend.analytics.attribution import AttributionQuestion
from propend.analytics.funnel import FunnelResult, funnel
from propend.analytics.funnel_plan import Funnel
from propend.analytics.kept import Kept, ask
from propend.analytics.kept_funnel import funnel_question
from propend.analytics.lifecycle import LifecycleQuestion, StickinessQuestion
from propend.analytics.nodes import Nodes, NodesQuestion, nodes_of
from propend.analytics.paths import PathsQuestion
from propend.analytics.retention import ElapsedQuestion, RetentionQuestion
from propend.analytics.sankey import SankeyQuestion
from propend.analytics.survival import SurvivalQuestion
from propend.analytics.trend import TrendQuestion
from propend.errors import ConfigError
from propend.events.store import Store
from propend.events.timelines import Column
from propend.features.schema import Schema

STEPS = ["view", "cart", "purchase"]
FUNNELS = {
    "plain": (STEPS, {}),
    "first": (STEPS, {"reentry": "first"}),
    "optional": (["view", "cart?", "search x 2", "purchase"], {}),
    "filters": (["view where item = 'i1'", "purchase where value > 5"], {}),
    "strict": (["view", "cart"], {"order": "strict"}),
    "any": (["view", "cart", "view", "purchase"], {"order": "any"}),
    "ties": (["view", "cart", "view"], {"ties": "step"}),
    "bounds": (["view", "cart [3h..]", "purchase [..2d]"], {"exclude": ["remove"]}),
    "bounds first": (["view", "cart [3h..]"], {"reentry": "first"}),
    "hold": (STEPS, {"hold": ["item", "channel"]}),
    "session": (["view", "cart"], {"per": "session", "session_gap": "9h"}),
    "total": (STEPS, {"per": "total"}),
    "total strict": (["view", "cart"], {"per": "total", "order": "strict"}),
    "total hold": (STEPS, {"per": "total", "hold": ["item"], "exclude": ["remove"]}),
    "by channel": (STEPS, {"by": "channel"}),
    "by week": (STEPS, {"by": "week", "reentry": "first"}),
    "by item, total": (STEPS, {"by": "item", "per": "total"}),
    "by day, session": (["view", "cart"], {"by": "day", "per": "session"}),
}


def of_funnel(name):
    steps, options = FUNNELS[name]
    options = dict(options)
    by = options.pop("by", None)
    return lambda _, schema, __: funnel_question(Funnel.of(steps, "3d", **options), schema, by)


def of_trend(measure, unit="week", by=None):
    def make(store, schema, engine):
        groups = None if by is None else nodes_of(store, schema, engine, by, 12)
        return TrendQuestion(schema, measure, unit, groups, profile=lambda _: {})

    return make


QUESTIONS = {
    **{f"funnel {name}": of_funnel(name) for name in FUNNELS},
    "retention": lambda _, schema, __: RetentionQuestion(schema, "day", "view", "purchase"),
    "retention, recurring": lambda _, schema, __: RetentionQuestion(
        schema, "week", "view", "cart where item = 'i1'", mode="unbounded", recurring=True
    ),
    "brackets": lambda _, schema, __: ElapsedQuestion(schema, [(0, 1), (1, 8)], "view", "cart"),
    "survival": lambda _, schema, __: SurvivalQuestion(schema, "view", "purchase"),
    "lifecycle": lambda _, schema, __: LifecycleQuestion(schema, "day", "view | cart"),
    "stickiness": lambda _, schema, __: StickinessQuestion(schema, "view | cart", 9),
    "paths": lambda *asked: PathsQuestion(nodes_of(*asked), asked[1], gap="6h", length=4),
    "paths by channel": lambda *asked: PathsQuestion(
        nodes_of(*asked, "channel"), asked[1], gap="1d", collapse=False
    ),
    "sankey": lambda *asked: SankeyQuestion(
        nodes_of(*asked), asked[1], "cart", direction="before", gap="1d"
    ),
    "attribution": lambda *asked: AttributionQuestion(
        nodes_of(*asked, "channel"), asked[1], "purchase", lookback="4d"
    ),
    "trend users": of_trend("users(view)"),
    "trend users by channel": of_trend("users(view | cart)", "week", "channel"),
    "trend sum by item": of_trend("sum(purchase.value)", "day", "item"),
    "trend mean": of_trend("mean(view.value)", "week", "channel"),
    "trend greatest": of_trend("max(view.value)"),
    "trend spread": of_trend("std(view.value)"),
    "trend distinct": of_trend("distinct(*.item)", "day", "channel"),
    "trend median": of_trend("median(purchase.value)", "week", "channel"),
    "trend ratio": of_trend("users(purchase) / users(*)", "week", "channel"),
}


def copy_runs(log, folder, runs):
    """Return a store with the same dictionaries and only some runs of each bucket."""
    store = Store.create(folder, log.store.buckets)
    with store.writing() as writer:
        writer.next.types = list(log.store.types)
        for b in range(store.buckets):
            writer.add_users(b, log.store.user_ids(b))
        writer.add_items(list(log.store.item_ids()))
        writer.commit()
    add_runs(log, store, runs)
    return store


def add_runs(log, store, runs):
    with store.writing() as writer:
        for b, there in log.store.manifest.runs.items():
            for i in runs:
                if i < len(there):
                    table = log.store.read_runs([there[i]], log.store.schema().names, None)
                    writer.add_run(b, table)
        writer.commit()


def plain(answer):
    if isinstance(answer, Nodes):
        return [list(answer.names), list(answer.ranked)]
    return answer.to_dict() if isinstance(answer, FunnelResult) else answer


def assert_same(a, b, where="answer"):
    """Equal to the figure; sums of broken shares to the last bits of a float."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        same = math.isclose(a, b, rel_tol=1e-11, abs_tol=1e-9) or (a != a and b != b)
        assert same, (where, a, b)
    else:
        assert a == b, where


@pytest.mark.parametrize("name", QUESTIONS)
def test_day_by_day(make_log, tmp_path, name):
    log = make_log(21, runs=5)
    store = copy_runs(log, tmp_path / "s", [0])
    file, rows = tmp_path / "kept.npz", []
    for day in range(1, 6):
        schema = Schema.of(store)
        question = QUESTIONS[name](store, schema, log.engine)
        kept = Kept(question).load(file)
        answer = kept.update(store, log.engine)
        kept.save(file)
        rows.append(kept.rows_read)
        assert_same(plain(answer), plain(ask(question, store, log.engine)))
        if day < 5:
            add_runs(log, store, [day])
    newest = sum(runs[-1].rows for runs in store.manifest.runs.values())
    assert rows[0] > 0
    assert rows[-1] == newest < store.rows
    assert_same(plain(kept.update(store, log.engine)), plain(answer))
    assert kept.rows_read == 0


@pytest.mark.parametrize("name", FUNNELS)
def test_funnels_are_those_of_the_full_pass(make_log, tmp_path, name):
    log = make_log(23, runs=4)
    steps, options = FUNNELS[name]
    store = copy_runs(log, tmp_path / "s", [0])
    kept = Kept(of_funnel(name)(*log.asked))
    for day in range(1, 5):
        result = kept.update(store, log.engine)
        full = funnel(store, log.schema, log.engine, steps, "3d", **options)
        assert_same(result.to_dict(), full.to_dict())
        ours, theirs = result.entries, full.entries
        assert np.array_equal(ours.user, theirs.user)
        assert np.array_equal(ours.entry, theirs.entry) or "total hold" in name
        assert result.users(0) > 0
        if day < 4:
            add_runs(log, store, [day])


@pytest.mark.parametrize(
    "name", ["funnel plain", "funnel any", "retention", "paths", "trend users"]
)
def test_late_events_compaction_and_erasure(make_log, tmp_path, name):
    log = make_log(21, runs=5)
    store = copy_runs(log, tmp_path / "s", [0, 2, 4])
    question = QUESTIONS[name](store, log.schema, log.engine)
    kept = Kept(question)
    kept.update(store, log.engine)
    add_runs(log, store, [1])
    assert_same(plain(kept.update(store, log.engine)), plain(ask(question, store, log.engine)))
    store.compact()
    assert_same(plain(kept.update(store, log.engine)), plain(ask(question, store, log.engine)))
    store.forget(next(f"u{u}" for u in range(9, 99) if store.bucket_of(f"u{u}") == u % 4))
    again = kept.update(store, log.engine)
    assert_same(plain(again), plain(ask(question, store, log.engine)))


def test_a_new_value_is_answered_afresh(make_log, tmp_path):
    log = make_log(21, runs=5)
    store = copy_runs(log, tmp_path / "s", [0])
    nodes = nodes_of(store, log.schema, log.engine, "channel")
    question = PathsQuestion(nodes, log.schema)
    assert nodes.knows(log.store.timelines(0, ["channel"]))
    fewer = PathsQuestion(
        type(nodes)("channel", nodes.names[:1], nodes.columns, nodes.label), log.schema
    )
    assert not fewer.fits(log.store.timelines(0, ["channel"]))
    file = tmp_path / "kept.npz"
    kept = Kept(question)
    kept.update(store, log.engine)
    kept.save(file)
    assert Kept(question).load(file).buckets
    assert not Kept(fewer).load(file).buckets  # kept for other nodes


def test_a_damaged_state_is_left_aside(make_log, tmp_path):
    log = make_log(21)
    file = tmp_path / "kept.npz"
    file.write_bytes(b"no archive")
    kept = Kept(QUESTIONS["funnel plain"](*log.asked)).load(file)
    kept.update(log.store, log.engine)
    assert kept.rows_read == log.store.rows


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_trend("any(purchase) last 30d"), "looks back over whole timelines"),
        (of_trend("count(view)", "week", "first.channel"), "looks beyond the new events"),
        (of_trend("count(view)", "week", "cohort.week"), "looks beyond the new events"),
        (
            lambda _, schema, __: funnel_question(Funnel.of(STEPS), schema, "last.channel"),
            "looks beyond the new events",
        ),
        (
            lambda _, schema, __: funnel_question(
                Funnel.of(STEPS, hold=["item"], reentry="first"), schema
            ),
            "would have to be remembered",
        ),
        (
            lambda _, schema, __: funnel_question(
                Funnel.of(STEPS, hold=["session"], per="total"), schema
            ),
            "need all of its events",
        ),
    ],
)
def test_what_is_not_kept_says_so(make_log, make, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Kept(make(*make_log(21).asked))
    assert str(caught.value).endswith("leave out 'incremental'")


def kinds(colours):
    return replace_schema(items={"colour": Column(np.array(colours, np.int32), ("red", "blue"))})


def replace_schema(**words):
    return lambda schema: dataclasses.replace(schema, **words)


READ_ATTRIBUTES = {
    "funnel filter": lambda s, *_: funnel_question(
        Funnel.of(["view where item.colour = 'red'", "purchase"], "3d"), s
    ),
    "funnel by": lambda s, *_: funnel_question(
        Funnel.of(["view", "purchase"], "3d", reentry="first"), s, "item.colour"
    ),
    "funnel hold": lambda s, *_: funnel_question(
        Funnel.of(["view", "purchase"], "3d", hold=["item.colour"]), s
    ),
    "retention": lambda s, *_: RetentionQuestion(s, "day", "view where colour = 'red'"),
    "brackets": lambda s, *_: ElapsedQuestion(s, [(0, 3)], "view where colour = 'red'", "cart"),
    "survival": lambda s, *_: SurvivalQuestion(s, "view where colour = 'red'", "purchase"),
    "lifecycle": lambda s, *_: LifecycleQuestion(s, "day", "view where colour = 'red'"),
    "stickiness": lambda s, *_: StickinessQuestion(s, "view where colour = 'red'"),
    "trend by": lambda s, log: TrendQuestion(
        s,
        "count(view)",
        "day",
        nodes_of(log.store, s, log.engine, "item.colour"),
        profile=lambda _: {},
    ),
    "trend ratio": lambda s, *_: TrendQuestion(
        s, "count(view where colour = 'red') / count(view)", profile=lambda _: {}
    ),
    "nodes": lambda s, log: NodesQuestion(log.store, s, "item.colour"),
    "paths": lambda s, log: PathsQuestion(nodes_of(log.store, s, log.engine, "item.colour"), s),
    "attribution": lambda s, log: AttributionQuestion(
        nodes_of(log.store, s, log.engine, "item.colour"), s
    ),
}
READ_ZONE = {
    "funnel by day": lambda s, *_: funnel_question(
        Funnel.of(["view", "cart"], "3d", reentry="first"), s, "day"
    ),
    "retention": lambda s, *_: RetentionQuestion(s, "day", "view", "cart"),
    "brackets": lambda s, *_: ElapsedQuestion(s, [(0, 3)], "view where hour < 9", "cart"),
    "survival": lambda s, *_: SurvivalQuestion(s, "view where hour < 9", "purchase"),
    "lifecycle": lambda s, *_: LifecycleQuestion(s, "day"),
    "trend": lambda s, *_: TrendQuestion(
        s, "count(view where hour < 9)", "month", profile=lambda _: {}
    ),
    "attribution": lambda s, log: AttributionQuestion(
        nodes_of(log.store, s, log.engine, "channel"), s, "purchase where hour < 9"
    ),
}


@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        *(
            pytest.param(q, kinds([0, 0, 1]), kinds([1, 0, 0]), id=f"attributes {name}")
            for name, q in READ_ATTRIBUTES.items()
        ),
        *(
            pytest.param(
                q,
                replace_schema(zone="UTC"),
                replace_schema(zone="Asia/Kolkata"),
                id=f"zone {name}",
            )
            for name, q in READ_ZONE.items()
        ),
    ],
)
def test_what_changed_beside_the_events_is_read_afresh(make_log, tmp_path, make, before, after):
    log, file = make_log(21, runs=5), tmp_path / "kept.npz"
    kept = Kept(make(before(log.schema), log))
    old = plain(kept.update(log.store, log.engine))
    kept.save(file)
    same = Kept(make(before(log.schema), log)).load(file)
    assert_same(plain(same.update(log.store, log.engine)), old)
    assert same.rows_read == 0
    question = make(after(log.schema), log)
    again = Kept(question).load(file)
    found = again.update(log.store, log.engine)
    assert_same(plain(found), plain(ask(question, log.store, log.engine)))
    assert again.rows_read == log.store.rows


def test_items_that_are_new_leave_a_state_as_it_is(make_log, tmp_path):
    log, file = make_log(21, runs=5), tmp_path / "kept.npz"
    make = READ_ATTRIBUTES["funnel filter"]
    kept = Kept(make(kinds([0, 0, 1])(log.schema)))
    kept.update(log.store, log.engine)
    kept.save(file)
    more = Kept(make(kinds([0, 0, 1, 1])(log.schema))).load(file)
    more.update(log.store, log.engine)
    assert more.rows_read == 0
    for words in ({"hold": ["item"]}, {}):  # attributes that are not read do not matter
        asked = Funnel.of(["view", "cart"], "3d", **words)
        kept = Kept(funnel_question(asked, kinds([0, 0, 1])(log.schema)))
        kept.update(log.store, log.engine)
        kept.save(file)
        other = Kept(funnel_question(asked, kinds([1, 1, 1])(log.schema))).load(file)
        other.update(log.store, log.engine)
        assert other.rows_read == 0
