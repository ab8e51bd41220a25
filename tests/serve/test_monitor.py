"""Monitoring: labels join when they mature, quality and drift are told apart from chance, the rule is carried out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from propend.names import DAY
from propend.pipeline.predict import score
from propend.pipeline.workspace import Workspace, open_workspace
from propend.serve.log import AnswerLog, Predicted
from propend.serve.monitor import benjamini_hochberg, monitor, psi


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
    current = next(
        e.version for e in workspace.registry.entries() if e.task == "buys" and e.current
    )
    assert current == (2 if done["promoted"] else 1)


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
