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


@pytest.mark.parametrize(
    "measure", ["users(view)", "count(view)", "sum(view.value)", "mean(view.value)"]
)
def test_measures(make_log, measure):
    log = make_log(14, days=60)
    found = trend(*log.asked, measure, "day", "channel")
    groups = defaultdict(lambda: defaultdict(list))
    for user, events in log.users.items():
        for e in events:
            if e.type == "view":
                day = (e.time - START) // DAY
                for g in {e.channel, "(all)"} - {None}:
                    groups[g][day].append((user, e.value))

    def expected(rows):
        values = [v for _, v in rows]
        return {
            "users": len({u for u, _ in rows}),
            "count": len(rows),
            "sum": sum(values),
            "mean": np.mean(values) if values else None,
        }[measure.split("(")[0]]

    for name, series in [("(all)", found["values"]), *found["groups"].items()]:
        for day, value in enumerate(series):
            want = expected(groups[name][day])
            assert value == (None if want is None else pytest.approx(want))
    change = found["change"]
    if not measure.startswith("users"):
        parts = sum(g["contribution"] for g in change["groups"])
        assert measure.startswith(("count", "sum")) or parts == pytest.approx(change["change"])


def test_quiet_series_seldom_alarm():
    rng = np.random.default_rng(5)
    odd = moved = 0
    for _ in range(150):
        d = decompose(rng.poisson(np.tile(WEEK, 9) * 80).astype(float))
        assert d.period == 7
        odd += bool(anomalies(d))
        moved += bool(changes(d, draws=199))
    assert odd <= 15  # 5 % of 150 is 7.5; 15 is beyond the 99 % point
    assert moved <= 15


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
        trend(*make_log(0).asked, "any(view)")
    with pytest.raises(PropendError, match="no event type"):
        trend(*make_log(0).asked, "users(vew)")
    with pytest.raises(NotEnoughDataError, match="no curve"):
        survival(*make_log(0).asked, "view", "purchase where value > 100000")
