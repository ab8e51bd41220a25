"""Files of decisions: whole, readable, and the same as the decisions."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from propend.config import DecideConfig
from propend.decide.audiences import AUDIENCE, write_audiences, write_decisions
from propend.decide.decision import SCHEMA, Decisions
from propend.decide.policy import decide


def made(value: float = 20.0) -> Decisions:
    ids = [f'用户"{i}"' for i in range(300)]
    names = pa.array(["Can't lose", "At risk", None] * 100)
    return decide(ids, 0.5, value, DecideConfig(), now=0, item=["i,1"] * 300, segments=names)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_written_as_parquet_and_csv(tmp_path: Path) -> None:
    decisions = made()
    parquet, text = write_decisions(decisions, tmp_path)
    assert pq.read_table(parquet, schema=SCHEMA).equals(decisions.table)
    rows = read(text)
    assert list(rows[0]) == SCHEMA.names
    assert [r["user"] for r in rows] == decisions.column("user").tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decisions.csv", "decisions.parquet"]


def test_audiences_hold_each_pushed_user_once_and_the_holdout_apart(tmp_path: Path) -> None:
    decisions = made()
    paths = write_audiences(decisions, tmp_path)
    assert list(paths) == ["push", "push-at-risk", "push-cant-lose", "holdout"]
    users = {name: {r["user"] for r in read(path)} for name, path in paths.items()}
    assert users["push"] == set(decisions.column("user")[decisions.pushed])
    assert not users["push"] & users["holdout"]
    assert not users["push-at-risk"] & users["push-cant-lose"]
    row = read(paths["push"])[0]
    assert tuple(row) == AUDIENCE
    assert row["item"] == "i,1"
    assert row["at"].endswith("Z")
    assert row["reason"]


def test_an_empty_audience_leaves_no_stale_file(tmp_path: Path) -> None:
    write_audiences(made(), tmp_path)
    (tmp_path / "own.csv").write_text("kept")
    decisions = decide(["a"], 0.5, 0.0, DecideConfig(explore=0), now=0, segments=pa.array(["X"]))
    paths = write_audiences(decisions, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["holdout.csv", "own.csv", "push.csv"]
    assert read(paths["push"]) == []


def test_the_summary_adds_up() -> None:
    summary = made().summary()
    assert summary["push"] + summary["silent"] == summary["users"] == 300
    assert sum(summary["by_hour"].values()) == summary["push"]
    parts = summary["by_segment"]
    assert set(parts) == {"At risk", "Can't lose"}
    assert sum(p["users"] for p in parts.values()) == 200
    assert abs(summary["cost"] - 0.05 * summary["push"]) < 1e-9
