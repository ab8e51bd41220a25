"""Impressions: rows agree with plain loops over the events, and nothing after an impression is in its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.engine import connect
from propend.errors import ExpressionError, NotEnoughDataError
from propend.expression.duration import Duration
from propend.learn import metrics
from propend.learn.leaks import LeakError
from propend.learn.strata import within
from propend.learn.train import train
from propend.pipeline.predict import predict_impressions
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.impressions import Impressions, build_impressions

HOUR = 3_600_000_000
Event = tuple[int, int, str, str]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[Event]]:
    """120 users see items for 40 days; cheap items in the slot on top are taken more often."""
    folder: Path = tmp_path_factory.mktemp("impressions")
    rng = np.random.default_rng(0)
    lines, events = ["user,time,event,item,slot,dwell"], []
    start = np.datetime64("2024-03-01T00:00:00")
    for u in range(120):
        at = rng.uniform(0, 48)
        while at < 40 * 24:
            item, slot = int(rng.integers(12)), int(rng.integers(3))
            rows = [(at, "impression")]
            if rng.random() < 0.05 + 0.05 * (item % 4) + 0.25 * (slot == 0):
                rows.append((at + rng.uniform(0.01, 2), "click"))
            dwell = f"{rng.random() * (300 if len(rows) > 1 else 30):.0f}"  # written when the visit was over
            for hour, kind in rows:
                second = int(hour * 3600)
                at_ = start + np.timedelta64(second, "s")
                lines.append(
                    f"u{u},{at_},{kind},i{item},s{slot},{dwell if kind == 'impression' else ''}"
                )
                events.append((u, second, kind, f"i{item}"))
            at += rng.exponential(20)
    (folder / "log.csv").write_text("\n".join(lines))
    (folder / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[events]]\nfiles = ["log.csv"]\nproperties = { slot = "slot" }\n'
        '[events.roles]\nuser = "user"\ntime = "time"\ntype = "event"\nitem = "item"\n'
    )
    workspace = open_workspace(folder)
    workspace.ingest()
    return workspace, events


def test_a_field_written_afterwards_is_refused(
    shop: tuple[Workspace, list[Event]], tmp_path: Path
) -> None:
    declared = (
        (shop[0].folder / "propend.toml")
        .read_text()
        .replace("log.csv", str(shop[0].folder / "log.csv"))
    )
    (tmp_path / "propend.toml").write_text(
        declared.replace('slot = "slot"', 'slot = "slot", dwell = "dwell"').replace(
            "[events.roles]", 'numbers = ["dwell"]\n[events.roles]'
        )
    )
    late = open_workspace(tmp_path)
    late.ingest()
    with pytest.raises(LeakError, match=r"'impression.dwell' alone reaches .*--known"):
        predict_impressions(
            late.store,
            late.schema,
            late.engine,
            "impression",
            "click",
            Duration.parse("2h"),
            folds=2,
        )


def build(workspace: Workspace, **options: int) -> Impressions:
    return build_impressions(
        workspace.store, workspace.schema, workspace.engine, "impression", "click", Duration.parse("1h"), **options,
    )  # fmt: skip


def test_rows_agree_with_plain_loops(shop: tuple[Workspace, list[Event]]) -> None:
    workspace, events = shop
    made = build(workspace)
    users = workspace.store.names_of(made.frame.user)
    zero = int(np.datetime64("2024-03-01T00:00:00", "us").astype(np.int64))
    column = {str(f): j for j, f in enumerate(made.frame.features)}
    rng = np.random.default_rng(1)
    for row in rng.integers(0, len(made.time), 60):
        user, item = users[row], workspace.schema.item_ids[made.item[row]]
        second = (int(made.time[row]) - zero) // 1_000_000
        same = [e for e in events if e[3] == item]
        own = [e for e in same if f"u{e[0]}" == user]
        clicked = any(e[2] == "click" and second < e[1] < second + 3600 for e in own)
        assert made.frame.y[row] == clicked
        X = made.frame.X[row]
        earlier = [e for e in own if e[1] < second]
        kinds = [e[2] for e in earlier]
        assert X[column['impression."of this item to this user before"']] == kinds.count("impression")  # fmt: skip
        assert X[column['click."of this item by this user before"']] == kinds.count("click")
        before = [e[2] for e in same if e[1] < second]
        assert X[column['item."times shown"']] == before.count("impression")
        assert X[column['item."times taken"']] == before.count("click")


def test_nothing_after_an_impression_is_in_its_row(
    shop: tuple[Workspace, list[Event]], tmp_path: Path
) -> None:
    """The same log, ended after 30 days: every row before the end is the same, to the bit."""
    workspace, _ = shop
    end = np.datetime64("2024-03-31T00:00:00")
    header, *lines = (workspace.folder / "log.csv").read_text().splitlines()
    early = [line for line in lines if np.datetime64(line.split(",")[1]) < end]
    assert len(early) < 0.9 * len(lines)
    (tmp_path / "log.csv").write_text("\n".join([header, *early]))
    (tmp_path / "propend.toml").write_text((workspace.folder / "propend.toml").read_text())
    short = open_workspace(tmp_path)
    short.ingest()

    def rows(of: Workspace) -> dict[tuple[str, int, str], list[float | str]]:
        made = build(of)
        users = of.store.names_of(made.frame.user)
        found = {}
        for i, (user, time, item) in enumerate(zip(users, made.time, made.item, strict=True)):
            told: list[float | str] = [float(v) for v in made.frame.X[i]]
            for j, texts in made.frame.categories.items():
                told[j] = texts[int(made.frame.X[i, j])]
            found[user, int(time), of.schema.item_ids[item]] = [str(v) for v in told]
        return found

    whole, cut = rows(workspace), rows(short)
    assert len(cut) > 500
    assert {key: whole[key] for key in cut} == cut


def test_training_is_forward_and_purged(shop: tuple[Workspace, list[Event]]) -> None:
    workspace, _ = shop
    made = build(workspace)
    for fold in made.plan.folds:
        train_rows, test_rows = made.frame.at(fold.train), made.frame.at([fold.test])
        assert (made.time[train_rows] + HOUR <= fold.test).all()
        assert made.time[test_rows].min() >= fold.test
    assert (made.time + HOUR <= workspace.schema.last + 1).all()
    fitted = train(made.frame, made.task, made.plan, models=(("trees", {"threads": 1}),), draws=20)
    assert fitted.card["metrics"]["auroc"] > 0.58
    tests = fitted.tests
    rate = made.frame.X[tests["row"], [str(f) for f in made.frame.features].index('item."share taken"')]  # fmt: skip
    base = within(metrics.auroc, tests["truth"], rate, strata=tests["fold"])
    assert fitted.card["metrics"]["auroc"] > base
    assert any("slot" in d["feature"] for d in fitted.card["drivers"][:3])


def test_what_cannot_be_asked_is_said(shop: tuple[Workspace, list[Event]]) -> None:
    workspace, _ = shop
    args = (workspace.store, workspace.schema, connect())
    with pytest.raises(ExpressionError, match="did you mean 'click'"):
        build_impressions(*args, "impression", "clik", Duration.parse("1h"))
    with pytest.raises(NotEnoughDataError, match="ask for a shorter time"):
        build_impressions(*args, "impression", "click", Duration.parse("10d"))
