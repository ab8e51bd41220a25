"""Activity and retention against plain loops over events."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from propend.analytics.activity import activity
from propend.analytics.retention import elapsed_retention, retention
from propend.errors import ConfigError
from propend.names import DAY, MICROSECONDS


def period(time: int, unit: str, zone: str) -> date:
    day = (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time // MICROSECONDS))
        .astimezone(ZoneInfo(zone))
        .date()
    )
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


@pytest.mark.parametrize("unit", ["day", "week", "month"])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_activity(make_log, unit, zone):
    log = make_log(3, days=70, zone=zone)
    found = activity(*log.asked, unit)
    users, views, value = defaultdict(set), defaultdict(int), defaultdict(float)
    for user, events in log.users.items():
        for e in events:
            p = period(e.time, unit, zone).isoformat()
            users[p].add(user)
            views[p] += e.type == "view"
            value[p] += e.value
    for i, start in enumerate(found["start"]):
        assert found["users"][i] == len(users[start])
        assert found["events"]["view"][i] == views[start]
        assert found["value"][i] == pytest.approx(value[start])
    assert set(users) <= set(found["start"])


@pytest.mark.parametrize("unit", ["day", "week", "month"])
@pytest.mark.parametrize("mode", ["on", "unbounded"])
@pytest.mark.parametrize("recurring", [False, True])
def test_retention(make_log, unit, mode, recurring):
    log = make_log(4, days=70)
    found = retention(*log.asked, unit, "view", "purchase", mode=mode, recurring=recurring)
    starts = [date.fromisoformat(c["start"]) for c in found["cohorts"]]
    size, back = defaultdict(int), defaultdict(int)
    for events in log.users.values():
        views = [i for i, e in enumerate(events) if e.type == "view"]
        if not views:
            continue
        at = [starts.index(period(e.time, unit, "UTC")) for e in events]
        bought = {at[i] for i, e in enumerate(events) if e.type == "purchase" and i > views[0]}
        joined = {at[i] for i in views} if recurring else {at[views[0]]}
        for c in joined:
            size[c] += 1
            for p in range(c, len(starts)):
                back[c, p - c] += p in bought if mode == "on" else any(q >= p for q in bought)
    for c, cohort in enumerate(found["cohorts"]):
        assert cohort["size"] == size[c]
        if size[c]:
            assert cohort["rates"] == [back[c, k] / size[c] for k in range(len(starts) - c)]
    assert found["curve"][0]["low"] <= found["curve"][0]["rate"] <= found["curve"][0]["high"]


def test_bad_units(make_log):
    with pytest.raises(ConfigError, match="did you mean 'month'"):
        retention(*make_log(0).asked, "monht")
    with pytest.raises(ConfigError, match="no period"):
        activity(*make_log(0).asked, "hour")


def test_elapsed_brackets(make_log):
    log = make_log(4, days=70)
    brackets = [(0, 1), (1, 4), (4, 8), (30, 31)]
    found = elapsed_retention(*log.asked, brackets, "view", "purchase")
    for b, (a, z) in enumerate(brackets):
        observed = back = 0
        for events in log.users.values():
            views = [e.time for e in events if e.type == "view"]
            if not views or views[0] + z * DAY > log.schema.last + 1:
                continue
            observed += 1
            first = next(i for i, e in enumerate(events) if e.type == "view")
            at = [e.time - views[0] for e in events[first:] if e.type == "purchase"]
            back += any(a * DAY <= x < z * DAY for x in at)
        row = found["curve"][b]
        assert (row["users"], row["rate"]) == (observed, back / observed)
    with pytest.raises(ConfigError, match="from < to"):
        elapsed_retention(*log.asked, [(3, 3)])
