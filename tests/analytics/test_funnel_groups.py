"""Breakdowns, periods, exclusions in totals and open windows of funnels, against oracles that try everything."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analytics.conftest import START
from tests.analytics.test_funnel import every_path, is_type

from propend.analytics.funnel import compare, funnel
from propend.names import DAY

NAMES = ["view", "cart", "purchase"]


def labels(events, by):
    """Return the label of each event as an entry."""
    head = by.partition(".")[0]
    found = []
    for i, e in enumerate(events):
        known = [x.channel for x in events[: i + 1] if x.channel is not None]
        week = (events[0] if head == "cohort" else e).time - START
        found.append(
            {
                "channel": e.channel,
                "item": f"i{e.item}",
                "first": known[0] if known else None,
                "last": known[-1] if known else None,
                "week": week // (7 * DAY),
                "cohort": week // (7 * DAY),
            }[head]
        )
    return found


def any_paths(events, names, window, opens):
    """Return (k, entry time, time): by event ``time`` an entry has ``k + 1`` different steps behind it, in any order."""
    found = []
    for b, e in enumerate(events):
        reach: dict[int, int] = {}  # the latest entry with k + 1 steps behind it by this event
        for a, first in enumerate(events[: b + 1]):
            if first.type in names and opens(first) and e.time - first.time <= window:
                inside = [x.type for x in events[a : b + 1]]
                steps = sum(min(inside.count(n), names.count(n)) for n in set(names))
                reach |= dict.fromkeys(range(steps), first.time)
        found += [(k, t, e.time) for k, t in reach.items() if k not in {s for s, _, _ in found}]
    return found


def best(found, steps):
    """Return per step the first moment and the time it took from the latest entry; −1 where it was not reached."""
    at, took = [-1] * steps, [-1] * steps
    for k in range(steps):
        there = [(time, -entry) for step, entry, time in found if step == k]
        if there:
            time, entry = min(there)
            at[k], took[k] = time, time + entry
    return at, took


def expected(log, by, opens, finder, split=lambda _: 0):
    """Return {(user, label): (at, took)} of the funnel of each label's entries alone."""
    answer = {}
    for user, events in log.users.items():
        label = {id(e): x for e, x in zip(events, labels(events, by), strict=True)}
        for group in set(label.values()):
            found = []
            for value in {split(e) for e in events} - {None}:
                part = [e for e in events if split(e) == value]
                found += finder(part, lambda e, g=group: label[id(e)] == g and opens(e))  # noqa: B023
            at, took = best(found, 3)
            if at[0] >= 0:
                answer[user, group] = at, took
    return answer


def shown(result, by):
    entries = result.entries if result.entries.groups is None else result.entries.groups
    names = [None if c < 0 else entries.label.values[c] for c in entries.label.codes]
    if by.endswith("week"):
        names = [(np.datetime64(n) - np.datetime64("2024-01-01")).astype(int) // 7 for n in names]
    rows = zip(
        entries.user.tolist(), names, entries.at.tolist(), entries.took.tolist(), strict=True
    )
    return {(user, name): (at, took) for user, name, at, took in rows}


@pytest.mark.parametrize(
    "by", ["channel", "item", "week", "cohort.week", "first.channel", "last.channel"]
)
@pytest.mark.parametrize("way", ["ordered", "strict", "exclude", "any", "hold", "ties"])
def test_a_group_is_the_funnel_of_its_entries(make_log, by, way):
    log = make_log(31, users=70, most=14)
    until = START + 13 * DAY
    options = {
        "ordered": {},
        "strict": {"order": "strict"},
        "exclude": {"exclude": ["3: remove"]},
        "any": {"order": "any"},
        "hold": {"hold": ["item"]},
        "ties": {"ties": "step"},
    }[way]
    result = funnel(*log.asked, NAMES, "4d", by=by, until=until, **options)

    def finder(events, opens):
        if way == "any":
            return any_paths(events, NAMES, 4 * DAY, opens)
        if way == "ties":
            return by_step(events, opens)
        tests = [lambda e: e.type == "view" and opens(e), is_type("cart"), is_type("purchase")]
        return every_path(
            events, tests, lambda e, step: way == "exclude" and step == 2 and e.type == "remove",
            strict=way == "strict", window=4 * DAY,
        )  # fmt: skip

    def by_step(events, opens):
        found = []
        for first in events:
            if first.type != "view" or not opens(first):
                continue
            found.append((0, first.time, first.time))
            for cart in events:
                if cart.type == "cart" and 0 <= cart.time - first.time <= 4 * DAY:
                    found.append((1, first.time, cart.time))
                    found += [
                        (2, first.time, e.time)
                        for e in events
                        if e.type == "purchase" and cart.time <= e.time <= first.time + 4 * DAY
                    ]
        return found

    split = (lambda e: e.item) if way == "hold" else (lambda _: 0)
    right = expected(log, by, lambda e: e.time < until, finder, split)
    assert shown(result, by) == right
    whole = funnel(*log.asked, NAMES, "4d", until=until, **options)
    assert np.array_equal(whole.entries.took, result.entries.took)
    assert {u for u, _ in right} == set(whole.entries.user.tolist())
    if by in ("channel", "item", "week"):
        assert len(right) > len(whole.entries)  # who entered by several is in each of them


@pytest.mark.parametrize("reentry", ["latest", "first"])
def test_groups_of_sessions(make_log, reentry):
    log = make_log(7, step=DAY // 96)
    result = funnel(
        *log.asked, ["view", "cart"], "1d", per="session", session_gap="2h", by="channel",
        reentry=reentry,
    )  # fmt: skip
    counts: dict[str, list[int]] = {}
    for events in log.users.values():
        sessions, before = [], None
        for e in events:
            if before is None or e.time - before > 2 * 3600 * 10**6:
                sessions.append([])
            sessions[-1].append(e)
            before = e.time
        for session in sessions:
            entries = [
                (i, e.channel or "(none)") for i, e in enumerate(session) if e.type == "view"
            ]
            if reentry == "first":
                entries = entries[:1]
            for channel in {c for _, c in entries}:
                first = min(i for i, c in entries if c == channel)
                row = counts.setdefault(channel, [0, 0])
                row[0] += 1
                row[1] += any(e.type == "cart" for e in session[first + 1 :])
    assert {g: [r.users(0), r.users(1)] for g, r in result.groups().items()} == counts


def test_small_groups_together_count_everyone_once(make_log):
    log = make_log(32, users=90, most=20)
    result = funnel(*log.asked, ["view", "purchase"], "3d", by="day")
    groups = result.groups()
    assert len(groups) == 12
    assert list(groups)[-1] == "(other)"
    shown_days = set(list(groups)[:-1])
    entered = {
        user
        for user, events in log.users.items()
        for e in events
        if e.type == "view"
        and str(np.datetime64(e.time, "us").astype("datetime64[D]")) not in shown_days
    }
    other = groups["(other)"].entries
    assert sorted(other.user.tolist()) == sorted(entered)


def test_a_month_is_that_period(make_log):
    log = make_log(33, days=60)
    by = funnel(*log.asked, ["view", "purchase"], "1d", by="week").groups()
    assert len(by) > 6
    for day, group in by.items():
        since = int(np.datetime64(day, "us").astype(np.int64))
        period = funnel(*log.asked, ["view", "purchase"], "1d", since=since, until=since + 7 * DAY)
        assert np.array_equal(group.entries.took, period.entries.took)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_in_a_period(make_log, seed):
    log = make_log(seed, users=80, most=16)
    since, until = START + 4 * DAY, START + 9 * DAY
    names = ["view", "cart", "view"]
    result = funnel(*log.asked, names, "2d", "any", since=since, until=until)
    right = {}
    for user, events in log.users.items():
        found = any_paths(events, names, 2 * DAY, lambda e: since <= e.time < until)
        at, took = best(found, 3)
        if at[0] >= 0:
            right[user] = took
    ours = dict(zip(result.entries.user.tolist(), result.entries.took.tolist(), strict=True))
    assert ours == right


@pytest.mark.parametrize("hold", [[], ["item"]])
@pytest.mark.parametrize("exclude", ["3: remove", "remove", "2: remove"])
@pytest.mark.parametrize("bound", ["", " [..1d]"])
def test_totals_with_optional_steps_and_exclusions(make_log, hold, exclude, bound):
    """An attempt takes each next step at the first chance, and fails once no next step can follow any more."""
    log = make_log(34, users=90, most=20)
    result = funnel(
        *log.asked, ["view", "cart?" + bound, "purchase"], "3d", per="total", hold=hold, exclude=[exclude]
    )  # fmt: skip
    barred = {"3": [2], "2": [1]}.get(exclude[0], [1, 2])
    counts = [0, 0, 0]
    for everything in log.users.values():
        for value in {e.item for e in everything} if hold else {None}:
            events = [e for e in everything if not hold or e.item == value]
            i = 0
            while i < len(events):
                if events[i].type != "view":
                    i += 1
                    continue
                reached, last, j = [0], i, i + 1
                while j < len(events) and reached[-1] < 2:
                    e = events[j]
                    since_last = [x.type for x in events[last + 1 : j]]
                    open_ = [
                        k
                        for k in range(reached[-1] + 1, 3)
                        if not (k in barred and "remove" in since_last)
                        and not (k == 1 and bound and e.time - events[last].time > DAY)
                        and e.time - events[i].time <= 3 * DAY
                    ]
                    if not open_:
                        break
                    if [k for k in open_ if e.type == NAMES[k]]:
                        reached.append(next(k for k in open_ if e.type == NAMES[k]))
                        last = j
                    elif e.type == "remove" and set(open_) <= set(barred):
                        break
                    j += 1
                for k in reached:
                    counts[k] += 1
                i = j
    assert [result.users(k) for k in range(3)] == counts
    assert counts[2] > 0


def test_open_windows_are_said_and_left_out_of_comparisons(make_log):
    log = make_log(35)
    result = funnel(*log.asked, ["view", "purchase"], "8d", by="week")
    end = max(e.time for events in log.users.values() for e in events)
    open_ = lost = 0
    for events in log.users.values():
        views = [e for e in events if e.type == "view"]
        if views and views[0].time + 8 * DAY > end:
            open_ += 1
            lost += not any(
                0 <= e.time - v.time <= 8 * DAY and events.index(e) > events.index(v)
                for v in views
                for e in events
                if e.type == "purchase"
            )
    document = result.to_dict()
    assert document["open"] == lost > 0
    assert len(result.whole().entries) == result.users(0) - open_
    last = document["groups"][-1]
    assert last["open"] > 0
    assert last["against_rest"]["test"] == "none"  # nothing of it is over
    middle = START + 8 * DAY
    sides = [
        funnel(*log.asked, ["view", "purchase"], "8d", **words)
        for words in ({"until": middle}, {"since": middle})
    ]
    rows = compare(*sides)
    assert rows[0]["users"] == [side.whole().users(0) for side in sides]
    assert sides[1].whole().users(0) < sides[1].users(0)


def test_two_periods_are_compared_by_their_counts(make_log):
    log = make_log(2)
    middle = START + 10 * DAY
    a = funnel(*log.asked, ["view", "purchase"], "1d", "any", until=middle)
    b = funnel(*log.asked, ["view", "purchase"], "1d", "any", since=middle)
    rows = compare(a, b)
    assert [r["event"] for r in rows] == ["any 1 of 2", "any 2 of 2"]
    x, y = a.whole(), b.whole()
    share = [side.users(1) / side.users(0) for side in (x, y)]
    assert rows[1]["conversion"] == share
    assert rows[1]["difference"] == pytest.approx(share[0] - share[1])
