"""Forward folds and their purge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propend.errors import ExpressionError, NotEnoughDataError
from propend.expression import Duration
from propend.names import DAY
from propend.tasks.cutoffs import plan_cutoffs
from propend.tasks.task import Task


@given(days=st.integers(10, 2_000), horizon=st.integers(1, 200), folds=st.integers(1, 5))
def test_no_label_that_trains_was_unknown_at_the_test(days: int, horizon: int, folds: int) -> None:
    ahead = Duration(horizon, "d")
    if days < 2 * horizon + min(horizon, 30):
        with pytest.raises(NotEnoughDataError, match="days"):
            plan_cutoffs(0, days * DAY, ahead, folds=folds)
        return
    plan = plan_cutoffs(0, days * DAY, ahead, folds=folds)
    assert 1 <= len(plan.folds) <= folds
    assert plan.folds[-1].test == days * DAY - horizon * DAY
    for fold in plan.folds:
        assert fold.train
        assert fold.train == tuple(sorted(set(fold.train)))
        assert all(cutoff + ahead.microseconds <= fold.test for cutoff in fold.train)
        assert fold.test + ahead.microseconds <= plan.now
        assert min(fold.train) > 0
    assert all(cutoff + ahead.microseconds <= plan.now for cutoff in plan.final)
    tests = [fold.test for fold in plan.folds]
    assert tests == sorted(set(tests))


def test_three_folds_step_back_by_a_horizon_on_a_long_log() -> None:
    plan = plan_cutoffs(0, 373 * DAY, Duration(30, "d"))
    assert [fold.test // DAY for fold in plan.folds] == [283, 313, 343]
    assert "3 forward folds, purge 30d" in plan.protocol


def test_folds_that_overlap_are_said() -> None:
    apart = plan_cutoffs(0, 373 * DAY, Duration(30, "d"))
    assert "overlap" not in apart.protocol
    close = plan_cutoffs(0, 373 * DAY, Duration(30, "d"), folds=50)
    assert len(close.folds) > 10
    assert "overlap, so the folds are not independent" in close.protocol


def test_censored_training_rows_are_younger_but_never_of_the_test() -> None:
    plan = plan_cutoffs(0, 373 * DAY, Duration(30, "d"), censored=True)
    for fold in plan.folds:
        assert max(fold.train) == fold.test - 15 * DAY
    assert max(plan.final) == 358 * DAY
    assert "censored at the test's cutoff" in plan.protocol


def test_a_short_log_says_what_is_needed() -> None:
    with pytest.raises(NotEnoughDataError, match=r"covers 50 days.*needs 90"):
        plan_cutoffs(0, 50 * DAY, Duration(30, "d"))


@pytest.mark.parametrize(
    ("ask", "answer", "metric"),
    [
        ("any(purchase) next 30d for any(*) last 90d", "yes_no", "auroc"),
        ("none(*) next 60d", "yes_no", "auroc"),
        ("count(purchase) next 7d >= 2", "yes_no", "auroc"),
        ("sum(purchase.value) next 90d", "amount", "rmse"),
        ("count(purchase) next 30d", "count", "rmse"),
        ("next(item) next 7d", "which", "log_loss"),
        ("days_until(purchase) next 60d", "time", "c_index"),
    ],
)
def test_what_kind_of_answer_a_question_has(ask: str, answer: str, metric: str) -> None:
    task = Task.parse("t", ask)
    assert (task.answer, task.metric) == (answer, metric)
    assert Task.parse("t", task.ask) == task


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        ("any(purchase) last 30d", "has no window ahead"),
        ("any(purchase) next 30d and any(cart) last 1d", "looks back, but a target looks ahead"),
        ("any(purchase) next 30d for any(*) next 30d", "looks past the cutoff"),
        ("any(purchase) next -3d", "must be positive"),
    ],
)
def test_what_is_no_question_about_the_future_says_so(ask: str, sentence: str) -> None:
    with pytest.raises(ExpressionError, match=sentence):
        Task.parse("t", ask)
