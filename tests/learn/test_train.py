"""The forward trainer: honest on what can be learnt, silent on what cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.errors import ModelError, NotEnoughDataError
from propend.expression import parse
from propend.learn.registry import Registry
from propend.learn.train import train
from propend.names import DAY
from propend.tasks.cutoffs import Plan, plan_cutoffs
from propend.tasks.frame import Frame
from propend.tasks.task import Task

BUYS = Task.parse("buys", "any(purchase) next 10d")
FEATURES = tuple(
    map(
        parse,
        (
            "days_since(purchase)",
            "count(purchase)",
            "sum(purchase.value)",
            "count(view) last 7d",
            "profile.country",
        ),
    )
)


def make(
    users: int = 300, signal: float = 2.0, seed: int = 0, days: int = 120
) -> tuple[Frame, Plan]:
    """Rows whose answer depends on recency and on recent views, as strongly as ``signal`` says."""
    plan = plan_cutoffs(0, days * DAY, BUYS.horizon)
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), len(plan.cutoffs))
    cutoff = np.tile(np.array(plan.cutoffs), users)
    n = len(user)
    X = np.column_stack(
        [
            rng.exponential(20, n),
            rng.poisson(3, n),
            rng.exponential(50, n),
            rng.poisson(2, n),
            rng.integers(0, 3, n),
        ]
    ).astype(float)
    X[rng.random(n) < 0.1, 0] = np.nan
    margin = signal * (X[:, 3] - 2) / 2 - signal * np.nan_to_num(X[:, 0] - 20) / 20 - 1
    y = (rng.random(n) < 1 / (1 + np.exp(-margin))).astype(float)
    return Frame(X, y, user, cutoff, FEATURES, {4: ("DE", "FR", "US")}), plan


def test_a_signal_is_found_beats_every_baseline_and_is_calibrated() -> None:
    frame, plan = make()
    fitted = train(frame, BUYS, plan, draws=50)
    card = fitted.card
    assert card["folds"] == 3
    assert card["metrics"]["auroc"] > 0.8
    assert card["metrics"]["ece"] < 0.06
    assert set(card["baseline"]) == {"base_rate", "scorecard", "rfm"}
    assert all(margin["auroc"]["low"] > 0 for margin in card["margins"].values())
    assert card["drivers"][0]["feature"] in ("days_since(purchase)", "count(view) last 7d")
    recency = next(d for d in card["drivers"] if d["feature"] == "days_since(purchase)")
    assert recency["direction"] < 0
    assert recency["words"] == "days since the last purchase"
    reasons = fitted.reasons(frame.X[:5])
    assert all(1 <= len(r) <= 3 for r in reasons)


def test_noise_is_not_found() -> None:
    frame, plan = make(signal=0.0)
    card = train(frame, BUYS, plan, draws=50).card
    assert card["intervals"]["auroc"]["low"] < 0.52


def test_test_rows_choose_nothing() -> None:
    """Shuffling the labels of the last test changes neither its predictions nor the champion it got."""
    frame, plan = make()
    before = train(frame, BUYS, plan, draws=2)
    rows = frame.at([plan.folds[-1].test])
    y = frame.y.copy()
    y[rows] = np.random.default_rng(1).permutation(y[rows])
    after = train(
        Frame(frame.X, y, frame.user, frame.cutoff, frame.features, frame.categories),
        BUYS,
        plan,
        draws=2,
    )
    assert before.card["champions"] == after.card["champions"]
    assert after.card["by_fold"][-1]["auroc"] < 0.6 < before.card["by_fold"][-1]["auroc"]


def test_training_is_seeded_and_saved_without_change(tmp_path: Path) -> None:
    frame, plan = make(users=150)
    fitted, again = (train(frame, BUYS, plan, draws=5) for _ in range(2))
    assert np.array_equal(fitted.score(frame.X), again.score(frame.X))
    registry = Registry(tmp_path)
    entry = registry.save(fitted)
    loaded = registry.load("buys")
    assert np.array_equal(loaded.score(frame.X), fitted.score(frame.X))
    assert loaded.task == BUYS
    assert loaded.features == FEATURES
    second = registry.save(again)
    assert [(e.version, e.current) for e in registry.entries()] == [(1, False), (2, True)]
    registry.promote("buys", entry.version)
    assert [e.current for e in registry.entries()] == [True, False]
    assert second.version == 2
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_missing_or_damaged_version_is_one_sentence(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ModelError, match="no model was fitted for task 'buys'"):
        registry.load("buys")
    frame, plan = make(users=150)
    registry.save(train(frame, BUYS, plan, draws=2))
    with pytest.raises(ModelError, match="did you mean 'buys'"):
        registry.load("buyz")
    with pytest.raises(ModelError, match="no version 9"):
        registry.promote("buys", 9)
    (tmp_path / "buys" / "v1" / "fitted.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="missing or damaged"):
        registry.load("buys")


def test_too_little_says_what_is_needed() -> None:
    frame, plan = make()
    same = Frame(
        frame.X, np.ones(len(frame)), frame.user, frame.cutoff, frame.features, frame.categories
    )
    with pytest.raises(NotEnoughDataError, match="all of them did"):
        train(same, BUYS, plan)
    y = np.zeros(len(frame))
    y[:20] = 1
    with pytest.raises(NotEnoughDataError, match="at least 30 of each answer"):
        train(
            Frame(frame.X, y, frame.user, frame.cutoff, frame.features, frame.categories),
            BUYS,
            plan,
        )


def test_amounts_are_judged_against_zero_and_the_mean() -> None:
    task = Task.parse("value", "sum(purchase.value) next 10d")
    frame, plan = make(users=200)
    rng = np.random.default_rng(3)
    y = frame.y * np.exp(rng.normal(3, 0.4, len(frame)) + 0.3 * frame.X[:, 3])
    card = train(
        Frame(frame.X, y, frame.user, frame.cutoff, frame.features, frame.categories),
        task,
        plan,
        draws=30,
    ).card
    assert {"mean", "always_zero"} <= set(card["baseline"])
    assert card["metrics"]["rmse"] < card["baseline"]["mean"]["rmse"]
    assert {"rmse", "mae", "bias", "gini"} <= set(card["metrics"])
