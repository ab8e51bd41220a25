"""Columns kept at hand are the columns of the store, whatever is added, merged or erased in between."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analytics.test_incremental import add_runs, copy_runs

from propend.analytics.decoded import Decoded
from propend.analytics.funnel import funnel
from propend.analytics.scan import remember
from propend.events.store import Store, lean_timelines


def same(a, b):
    for name in ("users", "offsets", "time", "type", "item", "seq"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)
    assert a.numbers.keys() == b.numbers.keys()
    assert all(np.array_equal(a.numbers[n], b.numbers[n], equal_nan=True) for n in a.numbers)
    assert a.texts.keys() == b.texts.keys()


@pytest.mark.parametrize("columns", [[], ["value"], ["item"], ["item", "value"], ["channel"]])
def test_what_is_mapped_is_what_was_read(make_log, tmp_path, columns):
    log = make_log(31, runs=3)
    store = copy_runs(log, tmp_path / "s", [0, 1])
    decoded = Decoded(tmp_path)

    def check():
        for bucket in store.manifest.runs:
            for _ in range(2):
                same(
                    decoded.timelines(store, bucket, columns),
                    lean_timelines(store, bucket, columns),
                )

    check()
    mapped = decoded.timelines(store, 1, columns)
    add_runs(log, store, [2])
    check()
    store.compact()
    check()
    assert len(mapped) < sum(r.rows for r in store.manifest.runs[1])  # an old map stays readable
    assert [p.name for p in tmp_path.iterdir()] == ["s"]  # its files have no names


def test_no_room(make_log, tmp_path):
    log = make_log(31, runs=3)
    for decoded in (Decoded(tmp_path, most=10), Decoded(tmp_path / "not there")):
        for _ in range(2):
            same(decoded.timelines(log.store, 0, []), lean_timelines(log.store, 0))


def test_a_remembered_store_answers_the_same(make_log, tmp_path):
    log = make_log(31, runs=3)
    store = remember(copy_runs(log, tmp_path / "s", [0, 1, 2]))
    asked = (log.schema, log.engine, ["view", "cart", "purchase"], "2d")
    first = funnel(store, *asked).to_dict()
    assert first == funnel(store, *asked).to_dict() == funnel(Store(store.folder), *asked).to_dict()
    store.forget(next(f"u{u}" for u in range(50) if store.bucket_of(f"u{u}") == u % 4))
    assert funnel(store, *asked).to_dict() == funnel(Store(store.folder), *asked).to_dict()
