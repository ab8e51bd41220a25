"""Yesterday's answer plus today's events is the full answer, whatever arrives in which order."""

from __future__ import annotations

import numpy as np
import pytest

from propend.analytics.funnel import funnel
from propend.analytics.funnel_plan import Funnel
from propend.analytics.incremental import IncrementalFunnel
from propend.errors import ConfigError
from propend.events.store import Store

STEPS = [
    ["view", "cart", "purchase"],
    ["view", "cart?", "search x 2", "purchase"],
    ["view where item = 'i1'", "purchase where value > 5"],
]


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


def same(a, b):
    assert a.to_dict() == b.to_dict()
    for name in ("user", "entry", "at", "took"):
        assert np.array_equal(getattr(a.entries, name), getattr(b.entries, name))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("reentry", ["latest", "first"])
def test_day_by_day(make_log, tmp_path, steps, reentry):
    log = make_log(21, runs=5)
    definition = Funnel.of(steps, "3d", reentry=reentry)
    store = copy_runs(log, tmp_path / "s", [0])
    file = tmp_path / "kept.npz"
    for day in range(1, 6):
        kept = IncrementalFunnel(definition).load(file)
        result = kept.update(store, log.schema, log.engine)
        kept.save(file)
        same(result, funnel(store, log.schema, log.engine, steps, "3d", reentry=reentry))
        newest = sum(runs[-1].rows for runs in store.manifest.runs.values())
        assert kept.rows_read == newest if day > 1 else kept.rows_read == store.rows
        if day < 5:
            add_runs(log, store, [day])
    same(result, funnel(*log.asked, steps, "3d", reentry=reentry))
    assert kept.update(store, log.schema, log.engine).to_dict() == result.to_dict()
    assert kept.rows_read == 0


def test_late_events_and_compaction(make_log, tmp_path):
    log = make_log(21, runs=5)
    store = copy_runs(log, tmp_path / "s", [0, 2, 4])
    kept = IncrementalFunnel(Funnel.of(STEPS[0], "3d"))
    result = kept.update(store, log.schema, log.engine)
    add_runs(log, store, [1])
    same(
        kept.update(store, log.schema, log.engine),
        funnel(store, log.schema, log.engine, STEPS[0], "3d"),
    )
    store.compact()
    same(
        kept.update(store, log.schema, log.engine),
        funnel(store, log.schema, log.engine, STEPS[0], "3d"),
    )
    gone = next(int(u) for u in result.entries.user if store.bucket_of(f"u{u}") == u % 4)
    store.forget(f"u{gone}")
    again = kept.update(store, log.schema, log.engine)
    assert gone not in again.entries.user
    same(again, funnel(store, log.schema, log.engine, STEPS[0], "3d"))


def test_a_damaged_state_is_left_aside(make_log, tmp_path):
    log = make_log(21)
    file = tmp_path / "kept.npz"
    file.write_bytes(b"no archive")
    kept = IncrementalFunnel(Funnel.of(STEPS[0], "3d")).load(file)
    kept.update(*log.asked)
    assert kept.rows_read == log.store.rows


def test_what_is_not_kept():
    with pytest.raises(ConfigError, match="leave out 'incremental'"):
        IncrementalFunnel(Funnel.of(STEPS[0], "3d", "strict"))
