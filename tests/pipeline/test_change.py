"""What would have to change: towards the better side a user does more, away from it less, and the past stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from propend.expression import parse
from propend.learn.calibration import Identity
from propend.learn.fitted import Fitted
from propend.models.linear import LogisticRegression
from propend.pipeline.prediction import Prediction
from propend.tasks.task import Task

FEATURES = (
    "count(buy) last 30d",
    "count(buy)",
    "days_since(buy)",
    "count(review where text says 'refund') last 30d",
    "profile.age",
)
WAY = {"count(buy) last 30d": 1, "count(buy)": 1, "days_since(buy)": -1}


def asked(ask: str, sign: float) -> Prediction:
    """Everyone's score by a line that rises (or falls) with what a user does."""
    rng = np.random.default_rng(4)
    X = np.abs(rng.normal(size=(1_500, 5))) * (4, 9, 30, 3, 40)
    margin = X[:, 0] / 4 + X[:, 1] / 9 - X[:, 2] / 30 - X[:, 3] + X[:, 4] / 40
    y = rng.random(1_500) < 1 / (1 + np.exp(-3 * sign * (margin - margin.mean())))
    model = LogisticRegression("yes_no", bends=0).fit(X, y)
    fitted = Fitted(
        Task.parse("t", ask), "logistic", model, Identity(), tuple(map(parse, FEATURES)), {}, 0.5
    )
    users = np.array([f"u{i}" for i in range(1_500)], object)
    return Prediction(fitted, None, users, np.arange(1_500), fitted.score(X), X)


@pytest.mark.parametrize(
    ("ask", "sign"), [("any(buy) next 30d for any(*)", 1.0), ("none(*) next 30d for any(*)", -1.0)]
)
@pytest.mark.parametrize("side", [-1, 1])
def test_users_move_as_users_can(ask: str, sign: float, side: int) -> None:
    made = asked(ask, sign)
    assert made.lower_is_better == (sign < 0)
    assert made.mark == (0.5, "the cut")
    order = np.argsort(np.abs(made.score - 0.5 - side * 0.1))
    found = 0
    for row in order[:10]:
        above = made.score[row] > 0.5
        changes = made.would_change(f"u{row}")
        worse = above == made.lower_is_better
        for change in changes or []:
            direction = np.sign(change.becomes - change.was)
            assert direction == WAY[change.column] * (1 if worse else -1)
            assert worse or change.column != "count(buy)"
        if changes:
            found += 1
            assert (changes[-1].score > 0.5) != above or changes[-1].score == 0.5
    assert found >= 5


def test_without_a_cut_the_better_quarter_counts() -> None:
    made = asked("sum(buy.value) next 30d for any(*)", 1.0)
    made.fitted.threshold = None
    assert made.mark == (pytest.approx(np.quantile(made.score, 0.75)), "the upper quartile of the scores")  # fmt: skip
    made = asked("days_until(buy) next 30d for any(*)", 1.0)
    made.fitted.threshold = None
    assert made.mark == (pytest.approx(np.quantile(made.score, 0.25)), "the lower quartile of the scores")  # fmt: skip
