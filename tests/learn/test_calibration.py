from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.errors import DataError, ModelError, NotEnoughDataError
from propend.learn.calibration import (
    Identity,
    Isotonic,
    Platt,
    choose,
    from_state,
    reliability,
)
from propend.learn.metrics import auroc, ece, log_loss


def drawn(n: int, seed: int, bend: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels whose true rate is a bent version of the score."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    rate = {
        "none": p,
        "logistic": 1 / (1 + np.exp(-(0.4 * np.log(p / (1 - p)) - 1.5))),
        "step": np.where(p < 0.5, 0.1, np.where(p < 0.8, 0.25, 0.9)),
    }[bend]
    return p, (rng.random(n) < rate).astype(float)


@pytest.mark.parametrize(
    ("bend", "name"), [("none", "identity"), ("logistic", "platt"), ("step", "isotonic")]
)
def test_choose_takes_the_simplest_that_serves(bend: str, name: str) -> None:
    chosen = choose(*drawn(4000, 1, bend))
    assert chosen.name == name
    p, y = drawn(4000, 2, bend)
    assert ece(y, chosen.apply(p)) < 0.03
    assert log_loss(y, chosen.apply(p)) <= log_loss(y, p)


def test_noise_keeps_the_scores_as_they_are() -> None:
    kept = [choose(*drawn(300, seed)).name for seed in range(20)]
    assert kept.count("identity") >= 18
    assert choose([0.2] * 50, [1] * 9 + [0] * 41).name == "identity"  # too few positives


def test_groups_count_once() -> None:
    p, y = drawn(60, 3, "logistic")
    copies = np.repeat(np.arange(60), 100)
    alone = choose(np.repeat(p, 100), np.repeat(y, 100))
    together = choose(np.repeat(p, 100), np.repeat(y, 100), groups=copies, noise=4.0)
    assert alone.name != "identity"
    assert together.name == "identity"


def test_platt_is_maximum_likelihood_with_smoothed_targets() -> None:
    from scipy.optimize import minimize

    p, y = drawn(500, 4, "logistic")
    s = np.log(p / (1 - p))
    targets = np.where(y > 0, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))

    def loss(beta: np.ndarray) -> float:
        margin = beta[0] * s + beta[1]
        return float((np.logaddexp(0, margin) - targets * margin).sum())

    best = minimize(loss, [1.0, 0.0], tol=1e-10).x
    fitted = Platt().fit(p, y)
    assert (fitted.slope, fitted.intercept) == pytest.approx(tuple(best), abs=1e-4)


def test_platt_survives_perfect_separation_and_refuses_to_turn_a_ranking() -> None:
    apart = Platt().fit([0.1] * 20 + [0.9] * 20, [0] * 20 + [1] * 20)
    assert apart.apply([0.1])[0] == pytest.approx(1 / 22, rel=1e-3)
    p, y = drawn(500, 5)
    assert Platt().fit(p, 1 - y).slope == 0


def test_isotonic_agrees_with_scikit_learn_inside_its_edges() -> None:
    from sklearn.isotonic import IsotonicRegression

    p, y = drawn(800, 6, "step")
    peer = IsotonicRegression(y_min=1 / 802, y_max=801 / 802, out_of_bounds="clip").fit(p, y)
    grid = np.linspace(0, 1, 501)
    assert np.allclose(Isotonic().fit(p, y).apply(grid), peer.predict(grid))
    assert Isotonic().fit(p, y).apply(grid).min() > 0


score = st.floats(0, 1)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(score, st.sampled_from([0.0, 1.0])), min_size=1, max_size=40))
def test_any_scores_give_monotone_probabilities_that_survive_json(
    rows: list[tuple[float, float]],
) -> None:
    p, y = np.array(rows).T
    grid = np.linspace(0, 1, 101)
    for kind in (Identity, Platt, Isotonic):
        fitted = kind().fit(p, y)
        out = fitted.apply(grid)
        assert ((out >= 0) & (out <= 1)).all()
        assert (np.diff(out) >= -1e-12).all()
        again = from_state(json.loads(json.dumps(fitted.state())))
        assert np.array_equal(again.apply(grid), out)


def test_ranking_is_kept() -> None:
    p, y = drawn(1000, 7, "logistic")
    assert auroc(y, Platt().fit(p, y).apply(p)) == pytest.approx(auroc(y, p))


def test_reliability_holds_the_truth_in_its_intervals() -> None:
    p, y = drawn(5000, 8)
    table = reliability(p, y, bins=10)
    assert table.weight.tolist() == [500.0] * 10
    inside = (table.low <= table.predicted) & (table.predicted <= table.high)
    assert inside.sum() >= 8
    assert len(reliability(np.full(10, 0.3), [0, 1] * 5).weight) == 1


def test_bad_input_gets_a_sentence() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        Platt().fit([2.0], [1])
    with pytest.raises(DataError, match="labels of 0 or 1"):
        Isotonic().fit([0.5], [2])
    with pytest.raises(DataError, match="one length"):
        choose([0.5], [1, 0])
    with pytest.raises(NotEnoughDataError, match="no row to calibrate"):
        choose([], [])
    with pytest.raises(ModelError, match="did you mean 'platt'"):
        from_state({"calibrator": "plat"})
    with pytest.raises(ModelError, match="damaged"):
        from_state({"calibrator": "platt", "tilt": 1})
