"""The forward trainer: honest on what can be learnt, silent on what cannot."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from propend.errors import ModelError, NotEnoughDataError
from propend.expression import parse
from propend.learn import metrics
from propend.learn.fitting import Rows
from propend.learn.fusion import ablation
from propend.learn.leaks import LeakError
from propend.learn.registry import Registry
from propend.learn.train import Options, train
from propend.models import gathered
from propend.models.gathered import Gathered
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


def test_what_parts_add_is_judged_inside_the_folds_as_training_is() -> None:
    frame, plan = make(200, seed=3)
    moved = (frame.cutoff == plan.folds[-1].test) & (frame.user % 3 > 0)
    frame = alike(np.where(moved, 1.0, frame.y), frame)  # the level moves between the folds
    views = frame.X[:, 3:4], (parse("count(*)"),)
    rows, fitted = ablation(frame, BUYS, plan, {"views": lambda _users, _cutoffs: views})
    said = {row["features"]: row for row in rows}
    tests, card = fitted.tests, fitted.card["metrics"]
    for name in ("auroc", "average_precision", "log_loss"):
        assert said["fusion"][name] == pytest.approx(card[name], abs=1e-12)
    assert abs(card["auroc"] - metrics.auroc(tests["truth"], tests["champion"])) > 1e-3
    gained = said["fusion"]["auroc gained"]
    assert gained[0] == pytest.approx(said["fusion"]["auroc"] - said["aggregates"]["auroc"])


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
    last = before.tests["fold"] == 2
    assert not np.array_equal(before.tests["truth"][last], after.tests["truth"][last])
    for name in ("champion", *before.card["models"], *before.card["baseline"]):
        assert np.array_equal(before.tests[name][last], after.tests[name][last]), name
    assert after.card["by_fold"][-1]["auroc"] < 0.6 < before.card["by_fold"][-1]["auroc"]


def test_training_is_seeded_and_saved_without_change(tmp_path: Path) -> None:
    frame, plan = make(users=150)
    fitted, again = (train(frame, BUYS, plan, draws=5) for _ in range(2))
    assert np.array_equal(fitted.score(frame.X), again.score(frame.X))
    taken = fitted.card["seconds"]  # of a fit inside the folds, by the clock
    assert taken.keys() == {*fitted.card["models"], *fitted.card["baseline"]}
    assert min(taken.values()) > 0
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


def test_rows_of_a_large_frame_stay_in_it_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, plan = make(users=150)
    usual = train(frame, BUYS, plan, draws=2)
    monkeypatch.setattr(gathered, "LARGE", 0)
    blockwise = train(frame, BUYS, plan, draws=2)
    for name, scores in usual.tests.items():
        assert np.array_equal(scores, blockwise.tests[name]), name
    assert {**usual.card, "seconds": 0} == {**blockwise.card, "seconds": 0}
    some = Rows.of(frame, frame.y > 0, frame.y).X
    assert isinstance(some, Gathered)
    assert some.source is frame.X


def test_the_hash_of_a_frame_is_that_of_its_rows_in_one_piece() -> None:
    frame, _ = make(users=1_000)
    X, y = np.nan_to_num(frame.X, nan=-1.0), np.nan_to_num(frame.y, nan=-1.0)
    whole = b"".join(a.tobytes() for a in (frame.user, frame.cutoff, y, X))
    assert frame.data_hash() == hashlib.sha256(whole).hexdigest()[:16]
    standing = replace(frame, X=np.asfortranarray(frame.X))
    assert standing.data_hash() == frame.data_hash()


def test_a_missing_or_damaged_version_is_one_sentence(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ModelError, match="no model was fitted for task 'buys'"):
        registry.load("buys")
    frame, plan = make(users=150)
    registry.save(train(frame, BUYS, plan, draws=2))
    with pytest.raises(ModelError, match="did you mean 'buys'"):
        registry.load("buyz")
    for ask in (registry.promote, registry.load, lambda task, v: registry.compare(task, 1, v)):
        with pytest.raises(ModelError, match=r"task 'buys' has no version 9; it has 1$"):
            ask("buys", 9)
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


# -------------------------------------------------------------------------------- other answers, options


def alike(y: np.ndarray, frame: Frame, classes: tuple[str, ...] = ()) -> Frame:
    return Frame(
        frame.X, y, frame.user, frame.cutoff, frame.features, frame.categories, classes=classes
    )


def test_one_of_many_beats_the_commonest_and_gives_every_class_a_column() -> None:
    task = Task.parse("kind", "next(type) next 10d")
    frame, plan = make(users=200)
    rng = np.random.default_rng(4)
    y = np.where(rng.random(len(frame)) < 0.7, frame.X[:, 4], rng.integers(0, 3, len(frame)))
    y[frame.cutoff == plan.cutoffs[-1]] = np.minimum(y[frame.cutoff == plan.cutoffs[-1]], 2)
    y[rng.random(len(frame)) < 0.1] = np.nan  # nothing happened: no row
    fitted = train(alike(y, frame, ("a", "b", "c", "(another)")), task, plan, draws=10)
    card = fitted.card
    assert card["metrics"]["top_1"] > 0.6 > card["baseline"]["base_rate"]["top_1"]
    assert card["margins"]["base_rate"]["log_loss"]["high"] < 0
    assert card["unanswered"] == int(np.isnan(y).sum())
    assert card["verdict"]["answer"] == "use"
    assert fitted.tests["champion"].shape[1] == 4
    assert np.allclose(fitted.tests["champion"].sum(axis=1), 1)
    assert fitted.classes == ("a", "b", "c", "(another)")
    first = [r[0].feature for r in fitted.reasons(frame.X[:60])]
    assert first.count(frame.names[4]) > 50


def test_times_learn_from_rows_whose_horizon_is_not_over() -> None:
    task = Task.parse("until", "days_until(purchase) next 10d")
    plan = plan_cutoffs(0, 120 * DAY, task.horizon, censored=True)
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(200), len(plan.cutoffs))
    cutoff = np.tile(np.array(plan.cutoffs), 200)
    X = np.column_stack([rng.exponential(20, len(user)), rng.poisson(3, len(user))]).astype(float)
    wait = rng.exponential(np.exp(1 + 0.05 * X[:, 0]))
    y = np.where(wait <= 10, wait, np.nan)
    made = Frame(X, y, user, cutoff, FEATURES[:2], {})
    fitted = train(made, task, plan, draws=10)
    assert fitted.card["metrics"]["c_index"] > 0.6
    assert fitted.card["baseline"]["kaplan_meier"]["c_index"] == 0.5
    assert fitted.card["verdict"]["answer"] == "use"
    score = fitted.score(X)
    assert score.min() >= 0
    assert score.max() <= 10
    low, high = fitted.bounds(X)
    assert ((low <= score) & (score <= high) & (low >= 0) & (high <= 10)).all()
    waited = np.where(np.isnan(y), 10.0, y)
    assert ((waited >= low - 1e-9) & (waited <= high + 1e-9)).mean() > 0.85
    assert fitted.card["uncertainty"]["forward"]["coverage"] == pytest.approx(0.9, abs=0.05)
    # what happened after the test's cutoff is not in the training labels: other answers there, the same scores
    test = plan.folds[-1].test
    late = (cutoff < test) & (cutoff + np.nan_to_num(y, nan=1e9) * DAY > test)
    other = y.copy()
    other[late] = np.nan
    again = train(Frame(X, other, user, cutoff, FEATURES[:2], {}), task, plan, draws=2)
    last = fitted.tests["fold"] == fitted.tests["fold"].max()
    assert np.array_equal(fitted.tests["hazard"][last], again.tests["hazard"][last])


def test_weights_selection_and_quantiles() -> None:
    frame, plan = make(users=150)
    rare = alike(frame.y * (np.random.default_rng(6).random(len(frame)) < 0.3), frame)
    logistic = (("logistic", {"bends": 0}),)
    card = train(rare, BUYS, plan, models=logistic, options=Options(balance=True), draws=5).card
    assert card["metrics"]["auroc"] > 0.65
    assert card["metrics"]["ece"] < 0.06
    fitted = train(frame, BUYS, plan, models=logistic, options=Options(select=True), draws=5)
    kept = [str(f) for f in fitted.features]
    assert {"days_since(purchase)", "count(view) last 7d"} <= set(kept)
    assert "sum(purchase.value)" not in kept
    place = [frame.names.index(name) for name in kept]
    assert np.isfinite(fitted.score(frame.X[:, place])).all()
    assert fitted.card["selection"]["kept"] == len(kept) < 5
    amounts = Task.parse("spend", "sum(purchase.value) next 10d")
    rng = np.random.default_rng(7)
    y = rng.exponential(1 + frame.X[:, 1])
    options = Options(quantile=0.9)
    card = train(alike(y, frame), amounts, plan, options=options, draws=10).card
    assert abs(card["metrics"]["below"] - 0.9) < 0.05
    assert card["margins"]["constant_quantile"]["pinball"]["high"] < 0


def test_each_user_stands_inside_the_interval_learnt_for_the_model_that_serves() -> None:
    frame, plan = make(users=200)
    fitted = train(frame, BUYS, plan, draws=2)
    scores = fitted.score(frame.X)
    low, high = fitted.bounds(frame.X)
    assert ((low <= scores) & (scores <= high)).all()
    # learnt from the served model's own raw scores through the served calibration
    name = fitted.card["champion"]
    assert name in fitted.tests
    x = np.array(fitted.card["uncertainty"]["state"]["x"])
    served = fitted.calibrator.apply(np.array([0.0, 1.0]))
    assert served.min() - 1e-12 <= x.min()
    assert x.max() <= served.max() + 1e-12
    assert fitted.card["uncertainty"]["width"] < 0.35


def test_an_attribute_of_the_item_that_knows_the_answer_is_refused() -> None:
    frame, plan = make(users=150)
    X = frame.X.copy()
    X[:, 4] = np.where(frame.y > 0, 0, 1)
    features = (*FEATURES[:4], parse("last(view.item.colour)"))
    leaky = Frame(X, frame.y, frame.user, frame.cutoff, features, {4: ("sold", "free")})
    with pytest.raises(LeakError, match=r"last\(view.item.colour\).*--known"):
        train(leaky, BUYS, plan, suspects=["last(view.item.colour)"], draws=2)
    profile = Frame(X, frame.y, frame.user, frame.cutoff, FEATURES, {4: ("sold", "free")})
    with pytest.raises(LeakError, match=r"profile\.country"):
        train(profile, BUYS, plan, draws=2)
    quick = (("logistic", {"bends": 0}),)
    known = Options(known=("profile.country",))
    assert train(profile, BUYS, plan, models=quick, options=known, draws=2).card["leaks"] == []
