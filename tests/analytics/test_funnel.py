"""Funnels against an oracle that tries every path."""

from __future__ import annotations

import pytest

from propend.analytics.funnel import compare, funnel
from propend.errors import PropendError
from propend.names import DAY, MICROSECONDS


def paths(events, tests, window, *, first_only=False):
    """Yield (step, entry time, time) of every ordered path, the obvious way: extend each path by each later event."""
    open_paths = []  # (step reached, entry)
    found = []
    for e in events:
        new = []
        for step, entry in open_paths:
            if step + 1 < len(tests) and tests[step + 1](e) and e.time - entry <= window:
                new.append((step + 1, entry))
        if tests[0](e) and not (first_only and any(s == 0 for s, _ in open_paths)):
            new.append((0, e.time))
        found += [(step, entry, e.time) for step, entry in new]
        open_paths = list({*open_paths, *new}) if not first_only else open_paths + new
    return found


def oracle(log, tests, window, **options):
    """Return per step the multiset of times to convert: the first time a step is reached, from its latest entry."""
    took = [[] for _ in tests]
    for events in log.users.values():
        found = paths(events, tests, window, **options)
        for k in range(len(tests)):
            at_k = [(time, entry) for step, entry, time in found if step == k]
            if at_k:
                first = min(t for t, _ in at_k)
                took[k].append(first - max(e for t, e in at_k if t == first))
    return [sorted(t) for t in took]


def is_type(*names):
    return lambda e: e.type in names


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("window", ["1d", "3h", "30d"])
@pytest.mark.parametrize("reentry", ["latest", "first"])
def test_ordered_agrees_with_every_path(make_log, seed, window, reentry):
    log = make_log(seed)
    names = ["view", "cart", "view", "purchase"]
    result = funnel(*log.asked, names, window, reentry=reentry)
    span = result.definition.window.microseconds
    expected = oracle(log, [is_type(n) for n in names], span, first_only=reentry == "first")
    took = result.entries.took
    assert [sorted(took[took[:, k] >= 0, k].tolist()) for k in range(4)] == expected
    assert result.users(0) > result.users(3)


def test_filters_and_alternatives(make_log):
    log = make_log(1)
    result = funnel(*log.asked, ["view | search where item = 'i1'", "purchase where value > 5"])
    tests = [
        lambda e: e.type in ("view", "search") and e.item == 1,
        lambda e: e.type == "purchase" and e.value > 5,
    ]
    expected = oracle(log, tests, 7 * DAY)
    assert [len(e) for e in expected] == [result.users(0), result.users(1)]


def test_document(make_log):
    result = funnel(*make_log(0).asked, ["view", "purchase"], within="7d").to_dict()
    assert list(result)[:3] == ["steps", "window", "order"]
    first, second = result["steps"]
    assert list(second)[:6] == ["event", "users", "conversion", "low", "high", "median_seconds"]
    assert first["conversion"] == 1.0
    assert second["low"] < second["conversion"] < second["high"]


@pytest.mark.parametrize("runs", [2, 3])
def test_runs_do_not_matter(make_log, runs):
    a = funnel(*make_log(0).asked, ["view", "cart", "purchase"], "2d").to_dict()
    assert a == funnel(*make_log(0, runs=runs).asked, ["view", "cart", "purchase"], "2d").to_dict()


@pytest.mark.parametrize(
    ("steps", "options", "words"),
    [
        (["view"], {}, "at least two steps"),
        (["view", "purchse"], {}, "did you mean 'purchase'"),
        (["view", "cart"], {"order": "strct"}, "did you mean 'strict'"),
        (["view", "cart"], {"within": "7"}, "not a length of time"),
        (["view", "cart?"], {}, "cannot be optional"),
        (["view x 40", "cart x 40"], {}, "at most 63 steps"),
        (["any(view) last 3d", "cart"], {}, "no window of its own"),
    ],
)
def test_bad_input_is_one_sentence(make_log, steps, options, words):
    with pytest.raises(PropendError, match=words) as caught:
        funnel(*make_log(0).asked, steps, **options)
    assert "\n" not in str(caught.value)


def test_compare_two_periods(make_log):
    log = make_log(2)
    middle = log.schema.first + 10 * DAY
    a = funnel(*log.asked, ["view", "purchase"], "1d", until=middle)
    b = funnel(*log.asked, ["view", "purchase"], "1d", since=middle)
    row = compare(a, b)[1]
    assert row["low"] < row["difference"] < row["high"]
    assert 0 <= row["p_value"] <= 1
    assert (a.entries.entry < middle).all()
    assert a.entries.took.max() <= 86_400 * MICROSECONDS
