"""Funnels against an oracle that tries every path."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analytics.conftest import START, TYPES, as_log, write_store

from propend.analytics.breakdown import touch
from propend.analytics.funnel import compare, funnel, funnels
from propend.analytics.funnel_plan import Funnel
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


# ---- every option against an oracle that tries every path


def every_path(events, tests, forbidden=None, gaps=None, optional=(), strict=False, window=0):
    """Return (step, entry time, time) of every admissible path, by extending every path by every later event."""
    found = set()
    frontier = [(0, i, i) for i, e in enumerate(events) if tests[0](e)]
    while frontier:
        step, entry, last = frontier.pop()
        if (step, entry, last) in found:
            continue
        found.add((step, entry, last))
        for nxt in range(step + 1, len(tests)):
            if any(s not in optional for s in range(step + 1, nxt)):
                break
            low, high = (gaps or {}).get(nxt, (0, 1 << 60))
            for j in range(last + 1, len(events)):
                if strict and j != last + 1:
                    break
                wait = events[j].time - events[last].time
                between = events[last + 1 : j]
                if (
                    tests[nxt](events[j])
                    and low <= wait <= high
                    and events[j].time - events[entry].time <= window
                    and not any(forbidden(b, nxt) for b in between if forbidden)
                ):
                    frontier.append((nxt, entry, j))
    return [(s, events[a].time, events[b].time) for s, a, b in found]


def times(log, steps, finder, split=bool):
    took = [[] for _ in range(steps)]
    for events in log.users.values():
        found = []
        for value in {split(e) for e in events}:
            found += finder([e for e in events if split(e) == value])
        for k in range(steps):
            at_k = [(time, entry) for step, entry, time in found if step == k]
            if at_k:
                first = min(t for t, _ in at_k)
                took[k].append(first - max(e for t, e in at_k if t == first))
    return [sorted(t) for t in took]


def found_times(result):
    took = result.entries.took
    return [sorted(took[took[:, k] >= 0, k].tolist()) for k in range(took.shape[1])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("optional", [(), (1,), (1, 2)])
@pytest.mark.parametrize("bound", ["none", "gaps", "exclude", "all"])
def test_constraints(make_log, seed, strict, optional, bound):
    log = make_log(seed, users=60, most=18)
    names = ["view", "cart", "search", "purchase"]
    gaps = {1: (3 * 3600 * 10**6, 1 << 60), 3: (0, 2 * DAY)} if bound in ("gaps", "all") else {}
    marks = {1: " [3h..]", 3: " [..2d]"} if gaps else {}
    exclude = ["remove", "4: view where item = 'i1'"] if bound in ("exclude", "all") else []

    def forbidden(e, step):
        return bool(exclude) and (
            e.type == "remove" or (step == 3 and e.type == "view" and e.item == 1)
        )

    steps = [n + ("?" if k in optional else "") + marks.get(k, "") for k, n in enumerate(names)]
    result = funnel(*log.asked, steps, "10d", "strict" if strict else "ordered", exclude=exclude)
    tests = [is_type(n) for n in names]
    assert found_times(result) == times(
        log, 4, lambda ev: every_path(
            ev, tests, forbidden, gaps, optional, strict, 10 * DAY
        )
    )  # fmt: skip


@pytest.mark.parametrize("hold", [["item"], ["channel"], ["item", "channel"]])
@pytest.mark.parametrize("exclude", [[], ["remove"]])
@pytest.mark.parametrize("order", ["ordered", "strict"])
def test_hold_constant(make_log, hold, exclude, order):
    """Events of another value, or of none, neither break strict order nor exclude."""
    log = make_log(5)
    names = ["view", "cart", "purchase"]
    result = funnel(*log.asked, names, "10d", order, hold=hold, exclude=exclude)

    def split(e):
        key = tuple(getattr(e, h) for h in hold)
        return None if None in key else key

    def finder(ev):
        if ev and split(ev[0]) is None:
            return []
        tests = [is_type(n) for n in names]
        return every_path(
            ev, tests, lambda e, _: bool(exclude) and e.type == "remove",
            strict=order == "strict", window=10 * DAY,
        )  # fmt: skip

    assert found_times(result) == times(log, 3, finder, split)


@pytest.mark.parametrize("seed", range(3))
def test_any_order(make_log, seed):
    log = make_log(seed)
    names = ["view", "cart", "view", "purchase"]
    result = funnel(*log.asked, names, "2d", "any")
    expected = [0] * 4
    for events in log.users.values():
        best = 0
        for i, e in enumerate(events):
            inside = [x.type for x in events[: i + 1] if e.time - x.time <= 2 * DAY]
            done = min(inside.count("view"), 2) + ("cart" in inside) + ("purchase" in inside)
            best = max(best, done)
        for k in range(best):
            expected[k] += 1
    assert [result.users(k) for k in range(4)] == expected


def clickhouse(events, names, window):
    """windowFunnel's algorithm on (time, step) pairs, sorted; see AggregateFunctionWindowFunnel.cpp."""
    pairs = sorted((e.time, k) for e in events for k, n in enumerate(names) if e.type == n)
    started = [None] * len(names)
    for time, k in pairs:
        if k == 0:
            started[0] = time
        elif started[k - 1] is not None and time <= started[k - 1] + window:
            started[k] = started[k - 1]
            if k + 1 == len(names):
                return len(names)
    return max((k + 1 for k, s in enumerate(started) if s is not None), default=0)


@pytest.mark.parametrize("seed", range(4))
def test_ties_by_step_are_clickhouse(make_log, seed):
    log = make_log(seed)
    names = ["view", "cart", "view", "purchase"]
    result = funnel(*log.asked, names, "2d", ties="step")
    levels = [clickhouse(events, names, 2 * DAY) for events in log.users.values()]
    assert [result.users(k) for k in range(4)] == [
        sum(level > k for level in levels) for k in range(4)
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("exclude", [[], ["remove"]])
def test_totals(make_log, strict, exclude):
    log = make_log(6)
    names = ["view", "cart", "purchase"]
    result = funnel(
        *log.asked, names, "3d", "strict" if strict else "ordered", per="total", exclude=exclude
    )
    counts = [0, 0, 0]
    for events in log.users.values():
        i = 0
        while i < len(events):
            if events[i].type != "view":
                i += 1
                continue
            level, j, ended = 0, i, None
            while ended is None:
                j += 1
                if j == len(events):
                    ended = j
                elif (
                    events[j].time - events[i].time <= 3 * DAY
                    and events[j].type == names[level + 1]
                ):
                    level += 1
                    if level == 2:
                        ended = j + 1
                elif (
                    strict
                    or events[j].time - events[i].time > 3 * DAY
                    or (exclude and events[j].type == "remove")
                ):
                    ended = j
            for k in range(level + 1):
                counts[k] += 1
            i = ended
    assert [result.users(k) for k in range(3)] == counts


def test_sessions(make_log):
    log = make_log(7, step=DAY // 96)
    result = funnel(*log.asked, ["view", "cart"], "1d", per="session", session_gap="2h")
    entered = done = 0
    for events in log.users.values():
        sessions, before = [], None
        for e in events:
            if before is None or e.time - before > 2 * 3600 * 10**6:
                sessions.append([])
            sessions[-1].append(e.type)
            before = e.time
        for types in sessions:
            if "view" in types:
                entered += 1
                done += "cart" in types[types.index("view") + 1 :]
    assert [result.users(0), result.users(1)] == [entered, done]
    held = funnel(*log.asked, ["view", "cart"], "1d", hold=["session"], session_gap="2h")
    one = funnel(*log.asked, ["view", "cart"], "1d", per="session", session_gap="2h")
    assert np.array_equal(held.audience(1), one.audience(1))
    assert held.users(1) > 0


def test_repeats_are_steps(make_log):
    log = make_log(8)
    a = funnel(*log.asked, ["view x 3", "purchase"], "5d")
    b = funnel(*log.asked, ["view", "view", "view", "purchase"], "5d")
    assert [a.users(0), a.users(1)] == [b.users(2), b.users(3)]
    assert len(a.entries) == a.users(0)


def test_many_steps(make_log):
    log = make_log(9, users=40, most=80, days=40)
    names = ["view", "search"] * 16
    result = funnel(*log.asked, names, "40d")
    tests = [is_type(n) for n in names]
    expected = times(log, 32, lambda ev: paths(ev, tests, 40 * DAY))
    assert found_times(result) == expected
    assert len(result.to_dict()["steps"]) == 32


@pytest.mark.parametrize("first", [True, False])
def test_touches_up_to_an_event(first):
    rng = np.random.default_rng(4)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 60))])
    known = rng.random(offsets[-1]) < 0.3
    user = np.repeat(np.arange(60), np.diff(offsets))
    found = touch(offsets, known, user, np.arange(len(user)), first=first)
    for row, u in enumerate(user):
        there = [i for i in range(offsets[u], row + 1) if known[i]]
        assert found[row] == ((there[0] if first else there[-1]) if there else -1)


def test_touches_of_one_moment_stand_in_stored_order(tmp_path):
    """The first touch is the first known channel in the stored order, the last one the entry's own or the latest before it."""
    user = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    channel = ["ads", "email", None, "search", None, None, "search", "email", "ads"]
    time = [0, 0, 0, 5, 0, 1, 2, 0, 0]
    kinds = ["search", "view", "view", "purchase", "view", "purchase", "cart", "cart", "view"]
    events = {
        "user": np.array(user),
        "time": START + np.array(time) * 10**6,
        "type": np.array([TYPES.index(k) for k in kinds]),
        "item": np.zeros(9, int),
        "value": np.zeros(9),
        "channel": np.array(channel, object),
    }
    log = as_log(write_store(tmp_path / "s", events), events)
    shown = {}
    for by in ("first.channel", "last.channel", "channel"):
        result = funnel(*log.asked, ["view", "purchase"], "1d", by=by)
        groups = result.entries.groups
        shown[by] = sorted(
            (u, "" if c < 0 else groups.label.values[c])
            for u, c in zip(groups.user.tolist(), groups.label.codes, strict=True)
        )
    assert shown["first.channel"] == [(0, "ads"), (1, ""), (2, "email")]
    assert shown["last.channel"] == [(0, "email"), (1, ""), (2, "ads")]
    assert shown["channel"] == [(0, ""), (0, "email"), (1, ""), (2, "ads")]


def test_audience_and_segments(make_log):
    log = make_log(2)
    result = funnel(*log.asked, ["view", "cart", "purchase"], "3d")
    reached, dropped = result.audience(1), result.audience(1, dropped=True)
    assert len(reached) == result.users(1)
    assert len(dropped) == result.users(1) - result.users(2)
    assert result.membership(1, reached).all()
    heavy = funnel(*log.asked, ["view", "cart"], "3d", who="count(view) >= 5")
    many = {u for u, ev in log.users.items() if sum(e.type == "view" for e in ev) >= 5}
    assert set(heavy.entries.user.tolist()) == many
    with pytest.raises(PropendError, match="steps 1 to 3"):
        result.audience(3)


def test_many_funnels_in_one_pass(make_log):
    log = make_log(3)
    definitions = [Funnel.of(["view", n], "2d") for n in ("cart", "search", "purchase")]
    together = funnels(*log.asked, definitions)
    for d, result in zip(definitions, together, strict=True):
        assert result.to_dict() == funnel(*log.asked, list(d.steps), "2d").to_dict()
