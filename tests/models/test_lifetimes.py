"""BG/NBD and Gamma-Gamma against the papers' numbers, simulation and finite differences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from propend.errors import DataError, ModelError, NotEnoughDataError
from propend.models.lifetimes import (
    BgNbd,
    GammaGamma,
    _bgnbd_loss,
    _spend_loss,
    customer_value,
)

DATA = Path(os.environ.get("PROPEND_DATA", Path(__file__).parents[3] / "shared" / "data"))
PAPER = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)


@dataclass(frozen=True)
class History:
    frequency: np.ndarray
    recency: np.ndarray
    age: np.ndarray
    spend: np.ndarray
    later: np.ndarray


@pytest.fixture(scope="module")
def cdnow() -> History:
    """Weeks to 1997-09-30, and the purchase days of the 39 weeks after it."""
    file = DATA / "cdnow" / "CDNOW_sample.txt"
    if not file.exists():
        pytest.skip("the CDNOW sample is not here; set PROPEND_DATA to the folder of data sets")
    rows = [line.split() for line in file.read_text().splitlines()]
    user = np.array([int(row[1]) for row in rows])
    day = np.array([date.fromisoformat(row[2]).toordinal() for row in rows])
    bought, at = np.unique(np.column_stack([user, day]), axis=0, return_inverse=True)
    paid = np.bincount(at, weights=[float(row[4]) for row in rows])
    end = date(1997, 9, 30).toordinal()
    _, code = np.unique(bought[:, 0], return_inverse=True)
    n, days, seen = code.max() + 1, bought[:, 1], bought[:, 1] <= end
    first, last = np.full(n, 10**9), np.zeros(n, dtype=int)
    np.minimum.at(first, code, days)
    np.maximum.at(last, code[seen], days[seen])
    repeat = seen & (days > first[code])
    x = np.bincount(code[repeat], minlength=n)
    spend = np.bincount(code[repeat], weights=paid[repeat], minlength=n) / np.maximum(x, 1)
    later = np.bincount(code[~seen], minlength=n)
    return History(x, (last - first) / 7, (end - first) / 7, spend, later)


@pytest.mark.data
def test_cdnow_is_reproduced(cdnow: History) -> None:
    assert len(cdnow.age) == 2357
    model = BgNbd.fit(cdnow.frequency, cdnow.recency, cdnow.age)
    assert (model.r, model.alpha) == pytest.approx((0.243, 4.414), abs=6e-4)
    assert (model.a, model.b) == pytest.approx((0.793, 2.426), abs=6e-4)
    assert model.log_likelihood == pytest.approx(-9582.4, abs=0.05)
    expected = model.expected_purchases(39, cdnow.frequency, cdnow.recency, cdnow.age)
    error = expected - cdnow.later
    assert np.sqrt(np.mean(error**2)) == pytest.approx(1.608, abs=6e-4)
    assert np.abs(error).mean() == pytest.approx(0.786, abs=1e-3)
    assert error.sum() / cdnow.later.sum() == pytest.approx(-0.122, abs=1e-3)


@pytest.mark.data
def test_cdnow_spend_is_reproduced(cdnow: History) -> None:
    assert (cdnow.frequency > 0).sum() == 946
    spend = GammaGamma.fit(cdnow.frequency, cdnow.spend)
    assert (spend.p, spend.q, spend.gamma) == pytest.approx((6.25, 3.74, 15.44), abs=0.01)
    assert spend.mean == pytest.approx(35.17, abs=0.05)


def simulated(seed: int, n: int = 4000) -> tuple[History, BgNbd]:
    """Customers drawn from the model itself, event by event."""
    truth = BgNbd(r=0.8, alpha=6.0, a=1.2, b=4.0)
    rng = np.random.default_rng(seed)
    rate, leave = rng.gamma(truth.r, 1 / truth.alpha, n), rng.beta(truth.a, truth.b, n)
    age = rng.uniform(20, 52, n)
    x, tx, later = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        t = 0.0
        while (t := t + rng.exponential(1 / rate[i])) < age[i] + 26:
            if t < age[i]:
                x[i], tx[i] = x[i] + 1, t
            else:
                later[i] += 1
            if rng.random() < leave[i]:
                break
    return History(x, tx, age, np.zeros(n), later), truth


def test_simulated_customers_are_recovered() -> None:
    known, truth = simulated(0)
    model = BgNbd.fit(known.frequency, known.recency, known.age)
    for name in ("r", "alpha", "a", "b"):
        assert getattr(model, name) == pytest.approx(getattr(truth, name), rel=0.35)
    expected = truth.expected_purchases(26, known.frequency, known.recency, known.age)
    assert expected.sum() == pytest.approx(known.later.sum(), rel=0.06)
    for group in (known.frequency == 0, known.frequency >= 3):
        assert expected[group].sum() == pytest.approx(known.later[group].sum(), rel=0.12)


def test_weights_are_repetitions_and_units_do_not_matter() -> None:
    known, _ = simulated(1, n=300)
    rows = (known.frequency, known.recency, known.age)
    times = np.arange(300) % 3 + 1
    weighted = BgNbd.fit(*rows, weight=times)
    repeated = BgNbd.fit(*(np.repeat(v, times) for v in rows))
    assert weighted.alpha == pytest.approx(repeated.alpha, rel=1e-4)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood)
    days = BgNbd.fit(rows[0], rows[1] * 7, rows[2] * 7, weight=times)
    assert days.alpha == pytest.approx(7 * weighted.alpha, rel=1e-4)
    assert days.b == pytest.approx(weighted.b, rel=1e-4)


def test_gradients_are_the_finite_differences() -> None:
    rng = np.random.default_rng(2)
    rows = np.array([[0, 0, 0.7], [3, 0.4, 0.9], [1, 0.1, 1.0], [40, 0.8, 0.8]])
    mass = np.array([5.0, 1.0, 2.0, 1.0])
    for log in rng.normal(size=(5, 4)):
        slopes = approx_fprime(log, lambda at: _bgnbd_loss(at, rows, mass)[0], 1e-7)
        assert np.allclose(_bgnbd_loss(log, rows, mass)[1], slopes, atol=1e-5)
    x, z = np.array([1.0, 2.0, 30.0]), np.array([0.5, 2.0, 1.0])
    for log in rng.normal(size=(5, 3)):
        slopes = approx_fprime(log, lambda at: _spend_loss(at, x, z, mass[:3])[0], 1e-7)
        assert np.allclose(_spend_loss(log, x, z, mass[:3])[1], slopes, atol=1e-5)


def test_expected_purchases_agree_with_the_papers_formula() -> None:
    from scipy.special import hyp2f1

    m = PAPER
    for x, tx, T, t in [(0, 0.0, 30.0, 39.0), (2, 30.43, 38.86, 39.0), (9, 20.0, 38.0, 10.0)]:
        top, shrink = m.a + m.b + x - 1, (m.alpha + T) / (m.alpha + T + t)
        F = hyp2f1(m.r + x, m.b + x, top, t / (m.alpha + T + t))
        bought = top / (m.a - 1) * (1 - shrink ** (m.r + x) * F)
        gone = (x > 0) * m.a / (m.b + max(x, 1) - 1)
        gone *= ((m.alpha + T) / (m.alpha + tx)) ** (m.r + x)
        ours = m.expected_purchases(t, x, tx, T)
        assert ours == pytest.approx(bought / (1 + gone), rel=1e-9)


def test_extremes_stay_finite() -> None:
    x, tx = np.array([0.0, 5000.0, 5000.0]), np.array([0.0, 0.1, 399.0])
    assert np.isfinite(PAPER.expected_purchases([1.0, 1e4, 30.0], x, tx, 400.0)).all()
    alive = PAPER.probability_alive(x, tx, 400.0)
    assert alive[0] == 1
    assert alive[1] < 1e-12 < alive[2]
    at_pole = BgNbd(0.243, 4.414, 1.0, 2.426).expected_purchases(39, 2, 30.43, 38.86)
    near = BgNbd(0.243, 4.414, 1.0001, 2.426).expected_purchases(39, 2, 30.43, 38.86)
    assert at_pole == pytest.approx(near, rel=1e-3)
    assert PAPER.expected_purchases_of_new(0.0) == 0
    assert BgNbd(**PAPER.state()).state() == PAPER.state()


def test_customer_value_discounts() -> None:
    spend = GammaGamma(6.25, 3.74, 15.44)
    history = ([0, 2], [0.0, 30.0], [38.0, 38.0], [0.0, 25.0])
    full = customer_value(PAPER, spend, *history, horizon=39)
    assert np.allclose(customer_value(PAPER, spend, *history, horizon=39, discount=1e-12), full)
    less = customer_value(PAPER, spend, *history, horizon=39, discount=0.01)
    assert ((less < full) & (less > 0.6 * full)).all()
    half = customer_value(PAPER, spend, *history, horizon=39, margin=0.5)
    assert np.allclose(half, full / 2)


def test_bad_histories_get_a_sentence() -> None:
    with pytest.raises(DataError, match="at most age"):
        BgNbd.fit([1], [5.0], [4.0])
    with pytest.raises(DataError, match="finite"):
        BgNbd.fit([1], [np.nan], [4.0])
    with pytest.raises(DataError, match="one length"):
        BgNbd.fit([1, 2], [1.0, 1.0, 1.0], [4.0])
    with pytest.raises(NotEnoughDataError, match="nobody bought twice"):
        BgNbd.fit([0, 0], [0.0, 0.0], [4.0, 5.0])
    with pytest.raises(NotEnoughDataError, match="got 1"):
        GammaGamma.fit([0, 2], [0.0, 5.0])
    with pytest.raises(ModelError, match="no mean"):
        GammaGamma(1.0, 0.5, 1.0).expected_spend([0], [0.0])
