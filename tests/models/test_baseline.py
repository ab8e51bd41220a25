from __future__ import annotations

import numpy as np
import pytest

from propend.models import create
from propend.models.baseline import RfmScore, Scorecard
from propend.testing.models import sample


def test_constants() -> None:
    X = np.zeros((4, 1))
    mean = create("mean", "amount").fit(X, [0, 0, 4, 8], weight=[1, 1, 1, 2])
    assert mean.predict(X).tolist() == [4.0] * 4
    assert not create("always_zero", "amount").fit(X, [0, 1, 2, 3]).predict(X).any()
    shares = create("base_rate", "which").fit(X, [0, 2, 2, 1]).predict(X[:1])
    assert shares.tolist() == [[0.25, 0.25, 0.5]]


@pytest.mark.parametrize(
    ("sign", "direction"), [(1, "up"), (-1, "down"), (1, "auto"), (-1, "auto")]
)
def test_scorecard_is_monotone(sign: int, direction: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    y = rng.random(3000) < 1 / (1 + np.exp(-2 * sign * x))
    model = Scorecard("yes_no", direction=direction).fit(x[:, None], y)
    rates = sign * model.predict(np.linspace(-4, 4, 200)[:, None])
    assert (np.diff(rates) >= 0).all()
    assert rates[-1] - rates[0] > 0.6


def test_scorecard_gives_missing_its_own_rate() -> None:
    x = np.r_[np.linspace(0, 1, 100), np.full(100, np.nan)]
    y = np.r_[np.arange(100) % 2, np.ones(100)]
    model = Scorecard("yes_no", smoothing=0.0).fit(x[:, None], y)
    assert model.predict([[np.nan]])[0] == 1.0
    assert model.predict([[0.5]])[0] == pytest.approx(0.5, abs=0.11)


def test_smoothing_pulls_small_bins_to_the_base() -> None:
    x = np.repeat([0.0, 1.0], [1000, 2])
    y = np.r_[np.arange(1000) % 10 == 0, [1, 1]]
    rough, smooth = (
        Scorecard("yes_no", smoothing=s, bins=500).fit(x[:, None], y).predict([[1.0]])[0]
        for s in (0.0, 10.0)
    )
    assert rough == 1.0
    assert smooth == pytest.approx((2 + 10 * y.mean()) / 12)


def test_rfm_scores_from_3_to_15() -> None:
    X = np.column_stack([np.arange(100.0, 0, -1), np.arange(100.0), np.arange(100.0)])
    y = np.arange(100) >= 50
    model = RfmScore("yes_no").fit(X, y)
    scores = model.score(X)
    assert (scores[0], scores[-1]) == (3, 15)
    assert (np.diff(scores) >= 0).all()
    p = model.predict(X)
    assert p[0] < 0.4 < 0.6 < p[-1]
    assert model.score(np.full((1, 3), np.nan)).tolist() == [3]


def test_rfm_finds_its_columns_by_name() -> None:
    rows = sample("yes_no")
    named = create("rfm", "yes_no", recency="recency", frequency="frequency", money="money")
    placed = create("rfm", "yes_no")
    assert np.array_equal(
        named.fit(**rows).predict(rows["X"]), placed.fit(**rows).predict(rows["X"])
    )
