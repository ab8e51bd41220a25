"""The funnel ahead meets the decision floor through data: each user's stage beside the action that was decided."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propend.analytics.stages import Stages
from propend.config import DecideConfig
from propend.decide.audiences import write_decisions
from propend.decide.policy import decide
from propend.expression.duration import Duration
from propend.learn.funnel_forecast import FunnelForecast
from propend.pipeline.workspace import open_workspace


@pytest.fixture
def shop(tmp_path):
    lines = ["user,time,event", *(f"u{u},2024-01-{d:02},buy" for u in range(40) for d in (1, 9))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    (tmp_path / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[events]]\nfiles = ["log.csv"]\n[events.roles]\nuser = "user"\ntime = "time"\ntype = "event"\n'
        '[stages]\naction = ["buy"]\n'
    )
    workspace = open_workspace(tmp_path)
    workspace.ingest()
    return workspace


def forecast_of(shop) -> FunnelForecast:
    codes = np.sort([shop.store.code_of(f"u{u}") for u in range(40)])[::-1]
    stages = Stages.of(shop.schema, shop.config.stages)
    half = np.linspace(0.1, 0.9, 40)
    stage = np.full(40, stages.names.index("loyalty"))
    return FunnelForecast(stages, Duration.parse("30d"), codes, stage, half, 1 - half, 30 / half)


def test_the_action_is_the_one_decided(shop):
    forecast = forecast_of(shop)
    assert shop.stage_table(forecast)["next_action"].null_count == 40  # nothing was decided yet
    ids = [f"u{u}" for u in range(30)]  # ten users were not eligible
    worth = np.where(np.arange(30) % 2, 0.5, 0.001)
    decided = decide(ids, worth, 20.0, DecideConfig(explore=0), now=shop.now)
    write_decisions(decided, shop.out)
    table = shop.stage_table(forecast)
    assert table.column_names == ["user", "stage", "advance", "days", "leave", "next_action"]
    assert table["user"].to_pylist() == shop.store.names_of(forecast.user).tolist()
    action = dict(zip(ids, decided.column("action").tolist(), strict=True))
    assert table["next_action"].to_pylist() == [action.get(u) for u in table["user"].to_pylist()]
    assert set(action.values()) == {"push", "silent"}
    assert table["stage"].to_pylist() == ["loyalty"] * 40


def test_a_table_without_actions_is_no_decision(shop):
    shop.out.mkdir(exist_ok=True)
    pq.write_table(pa.table({"user": ["u1"], "offer": ["x"]}), shop.out / "decisions.parquet")
    assert shop.stage_table(forecast_of(shop))["next_action"].null_count == 40
