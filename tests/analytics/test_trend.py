"""Trends, survival and series against plain loops, planted truths and their false-alarm rates."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from propend.analytics.series import anomalies, changes, contribution, decompose
from propend.analytics.survival import kaplan_meier, survival
from propend.analytics.trend import trend
from propend.errors import NotEnoughDataError, PropendError
from propend.names import DAY

START = 1_704_067_200_000_000
WEEK = np.array([1.0, 1.0, 1.1, 1.1, 1.3, 0.7, 0.6])


def quantile(values, share):
    return float(np.quantile(values, share)) if values else None


POOLED = {
    "users(view)": lambda rows: len({u for u, _ in rows}),
    "count(view)": len,
    "sum(view.value)": lambda rows: sum(e.value for _, e in rows),
    "mean(view.value)": lambda rows: np.mean([e.value for _, e in rows]) if rows else None,
    "min(view.value)": lambda rows: min((e.value for _, e in rows), default=None),
    "max(view.value)": lambda rows: max((e.value for _, e in rows), default=None),
    "std(view.value)": lambda rows: np.std([e.value for _, e in rows]) if rows else None,
    "median(view.value)": lambda rows: quantile([e.value for _, e in rows], 0.5),
    "quantile(view.value, 0.9)": lambda rows: quantile([e.value for _, e in rows], 0.9),
    "distinct(view.item)": lambda rows: len({e.item for _, e in rows}),
    "distinct(view.channel)": lambda rows: len({e.channel for _, e in rows} - {None}),
    "distinct(view.value)": lambda rows: len({e.value for _, e in rows}),
    "count(view) / users(view)": lambda rows: (
        len(rows) / len({u for u, _ in rows}) if rows else None
    ),
    "count(view where item = 'i1') / count(view)": lambda rows: (
        sum(e.item == 1 for _, e in rows) / len(rows) if rows else None
    ),
}


@pytest.mark.parametrize("measure", POOLED)
def test_measures(make_log, measure):
    log = make_log(14, days=60)
    found = trend(*log.asked, measure, "day", "channel")
    groups = defaultdict(lambda: defaultdict(list))
    for user, events in log.users.items():
        for e in events:
            if e.type == "view":
                day = (e.time - START) // DAY
                for g in {e.channel, "(all)"} - {None}:
                    groups[g][day].append((user, e))
    for name, series in [("(all)", found["values"]), *found["groups"].items()]:
        for day, value in enumerate(series):
            want = POOLED[measure](groups[name][day])
            assert value == (None if want is None else pytest.approx(want))
    assert list(found["groups"]) == sorted(
        found["groups"], key=lambda g: -sum(e.channel == g for ev in log.users.values() for e in ev)
    )
    change = found["change"]
    assert change["change"] == pytest.approx(change["after"] - change["before"])
    if measure.startswith(("mean", "count(view where")):
        parts = sum(g["contribution"] for g in change["groups"])
        assert parts == pytest.approx(change["change"])
        assert all(
            g["mix"] + g["rate"] == pytest.approx(g["contribution"]) for g in change["groups"]
        )


PER_USER = {
    "any(purchase) last 3d": lambda ev, end: any(
        e.type == "purchase" and e.time >= end - 3 * DAY for e in ev
    ),
    "count(view) >= 2 and none(cart)": lambda ev, _: (
        sum(e.type == "view" for e in ev) >= 2 and not any(e.type == "cart" for e in ev)
    ),
    "days_since(view)": lambda ev, end: next(
        ((end - e.time) / DAY for e in reversed(ev) if e.type == "view"), None
    ),
}


@pytest.mark.parametrize("measure", PER_USER)
def test_expressions_of_users(make_log, measure):
    log = make_log(14, days=60)
    found = trend(*log.asked, measure, "week", "channel")
    for name in ("(all)", *found["groups"]):
        for week, value in enumerate(found["values"] if name == "(all)" else found["groups"][name]):
            begin, end = START + 7 * week * DAY, START + 7 * (week + 1) * DAY
            asked = []
            for events in log.users.values():
                known = [e for e in events if e.time < end]
                if any(e.time >= begin and name in ("(all)", e.channel) for e in known):
                    asked.append(PER_USER[measure](known, end))
            asked = [float(x) for x in asked if x is not None]
            assert value == (pytest.approx(np.mean(asked)) if asked else None)


@pytest.mark.parametrize("by", ["first.channel", "cohort.week", "item", "value"])
def test_breakdowns_of_events_add_up(make_log, by):
    log = make_log(14, days=60)
    found = trend(*log.asked, "count(view)", "week", by, most=40)
    total = np.sum(list(found["groups"].values()), axis=0)
    assert (total <= np.array(found["values"])).all()
    if by != "first.channel":
        assert total.tolist() == found["values"]


def quiet_counts(rng):
    return rng.poisson(np.tile(WEEK, 9) * 80).astype(float)


def quiet_echoes(phi, days=90):
    def draw(rng):
        noise = rng.normal(size=days + 50)
        for t in range(1, len(noise)):
            noise[t] += phi * noise[t - 1]
        return 1000 + 10 * noise[50:]

    return draw


@pytest.mark.parametrize(
    "draw",
    [quiet_counts, *(quiet_echoes(phi) for phi in (0.0, 0.4, 0.7))],
    ids=["counts", "echo 0", "echo 0.4", "echo 0.7"],
)
def test_quiet_series_seldom_alarm(draw):
    """Odd values and changes together keep to 5 %, whether a day echoes the day before or not."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(150):
        d = decompose(draw(rng))
        assert d.period == 7
        alarms += bool(anomalies(d, 0.025)) or bool(changes(d, 0.025, draws=399))
    assert alarms <= 15  # 5 % of 150 is 7.5; 15 is beyond the 99 % point


@pytest.mark.parametrize(
    ("measure", "figure"),
    [
        ("users(view)", "mean per period"),
        ("count(view)", "sum"),
        ("mean(view.value)", "over all events"),
        ("median(view.value)", "mean per period"),
    ],
)
def test_periods_are_compared_by_a_figure_that_is_said(make_log, measure, figure):
    """Users of several weeks are not added up: 100 users a week are 100, not 400."""
    log = make_log(14, days=60)
    found = trend(*log.asked, measure, "week", "item", compared=3)
    last = found["whole"][1]
    change = found["change"]
    assert change["figure"] == figure
    series = {"(all)": found["values"], **found["groups"]}
    rows = {"(all)": change, **{g["group"]: g for g in change["groups"]}}
    for name, values in series.items():
        for side, periods in (
            ("after", values[last - 3 : last]),
            ("before", values[last - 6 : last - 3]),
        ):
            if figure == "sum":
                assert rows[name][side] == pytest.approx(sum(periods))
            elif figure == "mean per period":
                assert rows[name][side] == pytest.approx(np.mean(periods))
            else:
                assert min(periods) <= rows[name][side] <= max(periods)
    if measure.startswith("users"):
        assert change["after"] <= len(log.users)


def test_the_rate_is_of_any_alarm(make_log):
    found = trend(*make_log(14, days=60).asked, "count(view)", rate=0.5)
    assert found["false_alarm_rate"] == 0.5
    series = decompose(np.array(found["values"][slice(*found["whole"])]))
    assert len(found["anomalies"]) == len(anomalies(series, 0.25))
    assert len(found["changes"]) == len(changes(series, 0.25))
    for rate in (0, -0.1, 0.7, 5.0, float("nan")):
        with pytest.raises(PropendError, match="a false-alarm rate lies from"):
            trend(*make_log(14, days=60).asked, "count(view)", rate=rate)


def test_a_change_is_found_in_spite_of_echoes():
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(20):
        x = quiet_echoes(0.4)(rng)
        x[45:] += 40
        found += any(abs(c["at"] - 45) <= 3 for c in changes(decompose(x), 0.025, draws=399))
    assert found >= 18


def test_planted_anomaly_and_change_are_found():
    rng = np.random.default_rng(6)
    found = shifted = 0
    for _ in range(20):
        level = np.tile(WEEK, 10) * 120
        level[40:] *= 1.25
        x = rng.poisson(level).astype(float)
        x[20] *= 2
        d = decompose(x)
        found += any(a["at"] == 20 for a in anomalies(d))
        shifted += any(abs(c["at"] - 40) <= 2 for c in changes(d))
    assert found >= 19
    assert shifted >= 19


@pytest.mark.parametrize("level", [0.0, 0.1, 7.0])
def test_a_constant_series_does_not_change(level):
    assert changes(decompose(np.full(60, level))) == []
    weekly = level + np.tile([0, 0, 0, 0, 0, 3.0, 1], 12)
    assert changes(decompose(weekly)) == []
    stopped = np.r_[np.tile([2.0, 3, 1, 4], 6), np.full(60, level)]
    assert len(changes(decompose(stopped, 1))) <= 1
    stepped = np.r_[np.full(30, level), np.full(30, level + 5)]
    assert [c["at"] for c in changes(decompose(stepped))] == [30]


def test_a_log_without_a_whole_period(make_log):
    log = make_log(14, users=5, most=3, days=3)
    found = trend(*log.asked, "users(*)", "month")
    assert found["whole"][0] >= found["whole"][1]
    assert (found["adjusted"], found["anomalies"], found["changes"]) == ([], [], [])


def test_season_is_removed():
    d = decompose(np.tile(WEEK, 12) * 1000)
    assert np.ptp(d.adjusted[7:-7]) < 0.05 * 1000
    assert decompose(np.arange(10.0)).period == 1


def test_contribution_adds_up():
    rng = np.random.default_rng(2)
    w0, w1 = rng.integers(0, 50, 6).astype(float), rng.integers(0, 50, 6).astype(float)
    w0[0] = w1[1] = 0
    t0, t1 = w0 * rng.random(6), w1 * rng.random(6)
    parts = contribution(w0, t0, w1, t1)
    total = t1.sum() / w1.sum() - t0.sum() / w0.sum()
    assert (parts["mix"] + parts["rate"]).sum() == pytest.approx(total)


def test_survival(make_log):
    log = make_log(15)
    found = survival(*log.asked, "view", "purchase", points=10_000)
    waits, happened = [], []
    for events in log.users.values():
        views = [i for i, e in enumerate(events) if e.type == "view"]
        if not views:
            continue
        later = [e.time for e in events[views[0] + 1 :] if e.type == "purchase"]
        start = events[views[0]].time
        waits.append(((later[0] if later else log.schema.last) - start) / DAY)
        happened.append(bool(later))
    assert found["users"] == len(waits)
    assert found["censored"] == len(waits) - sum(happened)
    share = 1.0
    for time, value in zip(found["time"], found["share"], strict=True):
        risk = sum(w >= time for w in waits)
        share *= 1 - sum(w == time and h for w, h in zip(waits, happened, strict=True)) / risk
        assert value == pytest.approx(share)
    assert all(
        a <= b <= c for a, b, c in zip(found["low"], found["share"], found["high"], strict=True)
    )


def test_without_censoring_it_is_the_empirical_share():
    x = np.random.default_rng(0).exponential(5, 200)
    km = kaplan_meier(x, np.ones(200, bool))
    assert km["share"][99] == pytest.approx(0.5)


def test_bad_input(make_log):
    with pytest.raises(PropendError, match="no measure over time"):
        trend(*make_log(0).asked, "1 +")
    with pytest.raises(PropendError, match="no event type"):
        trend(*make_log(0).asked, "users(vew)")
    with pytest.raises(PropendError, match="no quantile between"):
        trend(*make_log(0).asked, "quantile(view.value)")
    with pytest.raises(PropendError, match=r"use distinct\(view.channel\)|use distinct\(channel\)"):
        trend(*make_log(0).asked, "median(view.channel)")
    with pytest.raises(PropendError, match="is a text"):
        trend(*make_log(0).asked, "last(view.channel)")
    with pytest.raises(PropendError, match="write 'last' instead"):
        trend(*make_log(0).asked, "any(view) next 3d")
    with pytest.raises(NotEnoughDataError, match="no curve"):
        survival(*make_log(0).asked, "view", "purchase where value > 100000")
