"""Monitoring: labels join when they mature, quality and drift are told apart from chance, the rule is carried out."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from propend.cli import main
from propend.learn import metrics
from propend.learn.calibration import Platt
from propend.names import DAY
from propend.pipeline.predict import score
from propend.pipeline.run import _live
from propend.pipeline.workspace import Workspace, open_workspace
from propend.serve.inbox import Batch, SqliteInbox
from propend.serve.log import AnswerLog, Predicted
from propend.serve.monitor import _lag, _retrain, benjamini_hochberg, monitor, psi
from propend.tasks.frame import build_frame


@pytest.fixture
def workspace(shop: Path, tmp_path: Path) -> Workspace:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    return open_workspace(folder)


def predict_live(workspace: Workspace, *, honest: bool) -> int:
    """Fill the log with predictions of five weeks ago to two weeks ago; dishonest ones are turned round."""
    fitted = workspace.registry.load("buys")
    log = AnswerLog(workspace.folder / "live" / "log.db")
    n = 0
    for back in (35, 28, 21, 15):
        at = workspace.now - back * DAY
        made = score(workspace.store, workspace.schema, workspace.engine, fitted, at)
        for user, s in zip(made.users, made.score, strict=True):
            log.predicted(Predicted(at, str(user), "buys", 1, float(s if honest else 1 - s), 0, 0))
            n += 1
    log.predicted(Predicted(workspace.now - DAY, "u1", "buys", 1, 0.5, 0, 0))
    log.close()
    return n


def test_honest_predictions_hold(workspace: Workspace) -> None:
    n = predict_live(workspace, honest=True)
    report = monitor(workspace)
    task = report["tasks"][0]
    assert task["matured"] == n
    assert task["overall"]["auroc"] > 0.6
    assert task["overall"]["log_loss"] < task["overall"]["baseline_log_loss"] + 0.05
    assert len(task["periods"]) >= 3
    assert "fit again: live AUROC" not in task["verdict"]


@pytest.mark.slow
def test_bad_predictions_are_fitted_again(workspace: Workspace) -> None:
    predict_live(workspace, honest=False)
    report = monitor(workspace, retrain=True, folds=1)
    assert report["tasks"][0]["due"]
    done = report["retrained"][0]
    assert done["new_version"] == 2
    assert current(workspace) == (2 if done["promoted"] else 1)


def test_the_current_version_is_judged_by_its_own_answers(workspace: Workspace) -> None:
    """A bad version answered before; the current one is good: nothing is due for it. Strangers to the task are not counted."""
    n = predict_live(workspace, honest=False)
    workspace.registry.save(workspace.registry.load("buys", 1))
    fitted = workspace.registry.load("buys")
    log = AnswerLog(workspace.folder / "live" / "log.db")
    at = workspace.now - 16 * DAY
    made = score(workspace.store, workspace.schema, workspace.engine, fitted, at)
    for user, s in zip(made.users, made.score, strict=True):
        log.predicted(Predicted(at, str(user), "buys", 2, float(s), 0, 0))
        log.predicted(Predicted(at + DAY, str(user), "buys", 2, float(1 - s), 0, 0, asked=0))
        log.predicted(Predicted(at, str(user), "buys", 1, float(1 - s), 1, 0))
    log.close()
    task = monitor(workspace)["tasks"][0]
    assert task["version"] == 2
    assert (task["predictions"], task["matured"]) == (len(made.users), len(made.users))
    assert task["outside"] == len(made.users)
    assert task["overall"]["auroc"] > 0.6
    assert "fit again: live AUROC" not in task["verdict"]
    others = {(o["version"], o["shadow"]): o for o in task["others"]}
    assert others[(1, False)]["matured"] == n
    assert others[(1, False)]["overall"]["auroc"] < 0.5
    assert others[(1, True)]["overall"]["auroc"] < 0.5


def test_amounts_have_a_live_quality(workspace: Workspace) -> None:
    from propend.serve.monitor import _periods, _quality, _verdict

    fitted = workspace.registry.load("buys")
    amount = SimpleNamespace(
        task=SimpleNamespace(answer="amount"),
        card={"metrics": {"gini": 0.9}},
        features=fitted.features,
    )
    rng = np.random.default_rng(2)
    y = rng.gamma(2.0, 10.0, 300) * (rng.random(300) < 0.6)
    rows = [Predicted(n % 3 * 7 * DAY, f"u{n}", "spends", 1, float(v), 0, 0) for n, v in enumerate(rng.gamma(2.0, 10.0, 300))]  # fmt: skip
    found = _quality(amount, rows, y)  # type: ignore[arg-type]
    assert found is not None
    assert found["gini_low"] < 0.1 < 0.9
    assert found["mae"] > found["baseline_mae"] > 0
    report = {"drift": [], "overall": found}
    assert _verdict(amount, report)[0]  # type: ignore[arg-type]
    assert "live Gini" in _verdict(amount, report)[1]  # type: ignore[arg-type]
    good = _quality(amount, [r._replace(score=float(v)) for r, v in zip(rows, y, strict=True)], y)  # type: ignore[arg-type]
    assert not _verdict(amount, {"drift": [], "overall": good})[0]  # type: ignore[arg-type]
    periods = _periods(amount, rows, y, 7 * DAY)  # type: ignore[arg-type]
    assert [p["predictions"] for p in periods] == [100, 100, 100]
    assert all(p["auroc"] is None and p["mae"] > 0 for p in periods)


def current(workspace: Workspace) -> int:
    return next(e.version for e in workspace.registry.entries() if e.task == "buys" and e.current)


@pytest.mark.parametrize("better", [True, False])
def test_only_what_is_better_forward_is_promoted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    """The fresh model is the old one with its probabilities made certain, or the old one is: the other must win."""
    registry = workspace.registry
    good = registry.load("buys", 1)
    wild = dataclasses.replace(good, calibrator=Platt(25.0, 0.0))
    if better:
        registry.save(wild)
    before = current(workspace)
    seen = []

    def fresh(task: str, *, folds: int, promote: bool) -> Any:
        assert (task, folds, promote) == ("buys", 1, False)
        fitted = good if better else wild
        entry = registry.save(fitted, promote=promote)
        seen.append(current(workspace))
        cutoff = fitted.card["by_fold"][-1]["cutoff"]
        frame = build_frame(workspace.store, workspace.schema, workspace.engine, fitted.task, fitted.features, [cutoff])  # fmt: skip
        loss = metrics.log_loss(frame.y, fitted.score(frame.X))
        card = {**fitted.card, "by_fold": [{"cutoff": cutoff, "log_loss": loss}]}
        return SimpleNamespace(entry=entry, card=card)

    monkeypatch.setattr(workspace, "predict", fresh)
    done = _retrain(workspace, "buys", 1)
    assert done["promoted"] is better
    assert seen == [before]  # nothing answers with it before it was judged
    assert current(workspace) == (before + 1 if better else before)


def test_profit_over_time_beside_silence_and_everybody(workspace: Workspace) -> None:
    """Half of the users are pushed at random without effect: what silence would have made is known exactly."""
    rng = np.random.default_rng(3)
    log = AnswerLog(workspace.folder / "live" / "log.db")
    users = [f"u{n}" for n in range(200)]
    rows = []
    for back in (40, 25, 20, 2):
        for user in users:
            at = workspace.now - back * DAY
            push = bool(rng.random() < 0.5)
            log.decided(at, user, "push" if push else "silent", 0.5, {"task": "buys", "push_propensity": 0.5, "group": "explore"})  # fmt: skip
            if back in (40, 25):  # 20 overlaps with 25, and 2 is not over
                rows.append((user, at, push))
    log.decided(workspace.now - 40 * DAY, "u1", "silent", 1.0, {"task": "buys", "push_propensity": 0.0, "group": "excluded"})  # fmt: skip
    log.close()
    report = monitor(workspace)
    found = report["profit"]
    assert (found["matured"], found["waiting"]) == (400, 400)
    bought = []
    with (workspace.folder / "log.csv").open() as lines:
        for line in csv.DictReader(lines):
            if line["type"] == "purchase":
                when = int(datetime.fromisoformat(line["time"]).timestamp() * 1e6)
                bought.append((line["user"], when, float(line["value"])))
    config = workspace.config.decide
    earned = [
        config.margin * sum(v for u, t, v in bought if u == user and at <= t < at + 14 * DAY) - config.cost * push
        for user, at, push in rows
    ]  # fmt: skip
    assert found["overall"]["made"] == pytest.approx(np.mean(earned), abs=1e-6)
    free = np.mean(earned) + config.cost * np.mean([push for *_, push in rows])
    assert found["overall"]["silence"]["low"] < free < found["overall"]["silence"]["high"]
    low, high = (found["overall"]["everybody"][k] for k in ("low", "high"))
    assert low < free - config.cost < high
    assert [p["decisions"] for p in found["periods"]] == [200, 200]
    assert sum(p["total"] for p in found["periods"]) == pytest.approx(found["overall"]["total"])


def test_the_page_shows_it(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    predict_live(workspace, honest=True)
    (workspace.out).mkdir()
    (workspace.out / "results.json").write_text("{}")
    main(["monitor", str(workspace.folder)])
    said = capsys.readouterr().out
    assert "holds: live AUROC" in said or "fit again" in said
    assert "events in the last seven days" in said
    page = (workspace.out / "report.html").read_text()
    assert "Live answers" in page
    assert "came true" in page
    kept = json.loads((workspace.folder / "live" / "monitor.json").read_text())
    assert kept["tasks"][0]["periods"]
    assert json.loads((workspace.out / "results.json").read_text())["live"] == kept
    assert _live(workspace) == kept  # the next run takes it up


def test_drift_missing_features_volume_and_lag(shop: Path, tmp_path: Path) -> None:
    """A month in which everybody views, without items, and nobody buys."""
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    workspace = open_workspace(folder)
    rng = np.random.default_rng(5)
    lines = ["user,time,type,item,value"]
    for n in range(200):
        for _ in range(20):
            stamp = datetime.fromtimestamp(
                (workspace.now + int(rng.integers(0, 30 * DAY))) / 1e6, UTC
            )
            lines.append(f"u{n},{stamp.isoformat()},view,,")
    (folder / "more.csv").write_text("\n".join(lines) + "\n")
    workspace.ingest([folder / "more.csv"])
    log = AnswerLog(folder / "live" / "log.db")
    features = len(workspace.registry.load("buys").features)
    log.predicted(Predicted(workspace.now - DAY, "u1", "buys", 1, 0.5, 0, features // 2))
    log.close()
    inbox = SqliteInbox(folder / "live" / "inbox")
    inbox.append([Batch(1, "web", "own", "/", "", "", "", b"[]")] * 3)
    inbox.close()
    report = monitor(workspace)
    task = report["tasks"][0]
    drifted = {d["feature"] for d in task["drift"]}
    assert "count(purchase) last 30d" in drifted
    assert all(d["psi"] > 0.1 and d["q"] < 0.05 for d in task["drift"])
    assert any(d["missing_now"] > d["missing_before"] for d in task["drift"])
    assert task["due"]
    assert "drifted" in task["verdict"]
    assert task["missing_share"] == pytest.approx(0.5, abs=0.02)
    assert report["lag"]["waiting"] == 3
    assert report["lag"]["oldest_seconds"] > 1e9
    assert any(d["unusual"] for d in report["volume"])
    assert any("unusual volume" in n for n in report["notes"])


def test_the_lag_of_a_declared_inbox_is_told(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is declared under ``live.inbox`` is opened, a PostgreSQL URL as well as the file."""
    inbox = SqliteInbox(tmp_path / "elsewhere")
    inbox.append([Batch(1, "web", "own", "/", "", "", "", b"[]")] * 2)
    asked = []

    def opened(where: object) -> SqliteInbox:
        asked.append(where)
        return inbox

    monkeypatch.setattr("propend.serve.monitor.open_inbox", opened)
    url = "postgresql://db.example/inbox"
    live = msgspec.structs.replace(workspace.config.live, inbox=url)
    workspace.config = msgspec.structs.replace(workspace.config, live=live)
    assert _lag(workspace, workspace.store)["waiting"] == 2
    assert asked == [url]


def test_an_empty_log_is_said(workspace: Workspace) -> None:
    report = monitor(workspace)
    assert "no prediction was given live yet" in report["notes"][0]
    assert not report["tasks"][0]["due"] or "drift" in report["tasks"][0]["verdict"]


def test_drift_without_change_is_rarely_called() -> None:
    rng = np.random.default_rng(1)
    from scipy.stats import ks_2samp

    called = 0
    for _ in range(40):
        p = np.array(
            [
                ks_2samp(rng.normal(size=300), rng.normal(size=300), method="asymp").pvalue
                for _ in range(20)
            ]
        )
        called += bool((benjamini_hochberg(p) < 0.05).any())
    assert called <= 6
    assert psi(np.full(100, np.nan), np.full(100, np.nan)) == 0
    assert psi(np.ones(500), np.r_[np.ones(250), np.full(250, np.nan)]) > 0.2
