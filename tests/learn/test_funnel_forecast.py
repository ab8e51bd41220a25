"""The funnel ahead on a log whose rates are known: calibrated, better than the last period's rate, honest about leaving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from propend.analytics.stages import LAPSED, Stages, stage_now
from propend.engine import connect
from propend.errors import ConfigError, NotEnoughDataError
from propend.events.store import Store, event_schema
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.learn.funnel_forecast import (
    _expected_days,
    _judged_days,
    forecast_funnel,
)
from propend.names import DAY

START = 1_704_067_200_000_000
TYPES = ("view", "cart", "purchase")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """600 users whose own pace differs tenfold, 240 days; half of them stop for good at a random day."""
    rng = np.random.default_rng(4)
    pace = np.exp(rng.normal(-1.6, 0.9, 600))
    ends = np.where(rng.random(600) < 0.5, rng.uniform(60, 240, 600), 240.0)
    user, time, kind = [], [], []
    for u in range(600):
        at = rng.uniform(0, 40)
        while at < ends[u]:
            user.append(u)
            time.append(START + int(at * DAY))
            kind.append(rng.choice(3, p=[0.7, 0.2, 0.1]))
            at += rng.exponential(1 / pace[u])
    store = Store.create(Path(tmp_path_factory.mktemp("f")) / "store", 2)
    user, time, kind = np.array(user), np.array(time), np.array(kind, np.int16)
    schema = event_schema({})
    with store.writing() as writer:
        writer.next.types = list(TYPES)
        for b in range(2):
            writer.add_users(b, pa.array([f"u{i * 2 + b}" for i in range(300)]))
            rows = np.flatnonzero(user % 2 == b)
            given = {
                "user": user[rows].astype(np.int32),
                "time": pa.array(time[rows]).cast(pa.timestamp("us", "UTC")),
                "seq": rows,
                "type": kind[rows],
                "item": np.full(len(rows), -1, np.int32),
            }
            writer.add_run(
                b,
                pa.table(
                    [
                        pa.array(given[f.name]).cast(f.type)
                        if f.name in given
                        else pa.nulls(len(rows), f.type)
                        for f in schema
                    ],
                    schema=schema,
                ),
            )
        writer.commit()
    return store, Schema.of(store), connect("local", threads=2)


def test_stage_now_is_the_deepest_sign_within_memory(log):
    store, schema, _ = log
    stages = Stages.of(schema, None, "30d")
    assert stages.names == (LAPSED, "attention", "desire", "action", "loyalty")
    found = {s["stage"]: s["users"] for s in stage_now(*log, stages)["stages"]}
    expected = dict.fromkeys(stages.names, 0)
    now = schema.last + 1
    for bucket in range(2):
        t = store.timelines(bucket)
        for u in range(len(t.users)):
            rows = slice(t.offsets[u], t.offsets[u + 1])
            recent = {TYPES[k] for k in t.type[rows][t.time[rows] >= now - 30 * DAY]}
            bought = {x // DAY for x in t.time[rows][t.type[rows] == 2]}
            stage = (
                "loyalty" if "purchase" in recent and len(bought) >= 2
                else "action" if "purchase" in recent
                else "desire" if "cart" in recent
                else "attention" if "view" in recent
                else LAPSED
            )  # fmt: skip
            expected[stage] += 1
    assert found == expected


@pytest.mark.slow
def test_forecast_is_calibrated_and_beats_the_last_rate(log):
    found = forecast_funnel(*log, Stages.of(log[1], None, "30d"), "20d")
    v = found.to_dict()["validation"]
    assert v["cutoffs"] >= 3
    assert v["brier"] < v["brier_same_rate"]
    assert v["ece"] < 0.06
    assert v["coverage"] >= 0.75
    assert v["days"]["concordance"] > v["days"]["concordance_same_rate"] + 0.02
    assert v["days"]["by_median_rows"] > 200
    assert 0.35 < v["days"]["by_median"] < 0.65
    assert sum(v["reliability"]["rows"]) == v["rows"]
    assert found.to_dict()["protocol"].startswith(f"{v['cutoffs']} forward cutoffs")
    assert ((found.advance > 0) & (found.advance < 1)).all()
    assert (found.days > 0).all()
    gone = found.at_risk(LAPSED)
    assert len(gone) == found.to_dict()["stages"][0]["likely_to_leave"]
    again = forecast_funnel(*log, Stages.of(log[1], None, "30d"), "20d")
    assert np.array_equal(again.advance, found.advance)


def test_days_are_judged_by_what_came():
    """A planted constant hazard is met at its median; one that is said to be twice as slow is not."""
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.9, 4000)
    expected = _expected_days(p, Duration.parse("30d"))
    days = rng.exponential(expected)
    until = np.where(days <= 120, days, -120.0)
    rows = [{"_until": until, "_watched": 120.0, "_y": until}]
    found = _judged_days(rows, p, np.full(4000, 0.5), Duration.parse("30d"))
    assert found["by_median"] == pytest.approx(0.5, abs=0.03)
    assert found["concordance"] > 0.6
    assert found["concordance_same_rate"] == pytest.approx(0.5)
    slow = _judged_days(rows, p / 2, np.full(4000, 0.5), Duration.parse("30d"))
    assert slow["by_median"] > 0.6


def test_bad_stages(log):
    with pytest.raises(ConfigError, match="did you mean 'desire'"):
        Stages.of(log[1], {"desier": ["cart"]})
    with pytest.raises(ConfigError, match="did you mean 'cart'"):
        Stages.of(log[1], {"desire": ["cartt"], "action": ["purchase"]})
    with pytest.raises(NotEnoughDataError, match="means an action"):
        Stages.of(Schema(types=("ping",)))
