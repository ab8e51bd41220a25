"""BG/NBD behind the contract: the papers' figures, its unit, its level and its bad input."""

from __future__ import annotations

import numpy as np
import pytest

from propend.errors import ModelError
from propend.models.buying import RepeatBuying
from propend.models.lifetimes import BgNbd, GammaGamma

COLUMNS = ("days_since(purchase)", "days_since_first(purchase)", "active_days(purchase)", "total")
SETTINGS = {
    "since": COLUMNS[0],
    "first": COLUMNS[1],
    "days": COLUMNS[2],
    "horizon": 91.0,
}


def customers(n: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns as the trainer has them, and purchase days in the next 91 days, of simulated customers."""
    rng = np.random.default_rng(seed)
    rate, leave = rng.gamma(0.8, 1 / 40, n), rng.beta(1.2, 4.0, n)
    X, later = np.full((n, 4), np.nan), np.zeros(n)
    for i in range(n):
        age, t, days, last = rng.uniform(100, 300), 0.0, 1, 0.0
        while rng.random() >= leave[i] and (t := t + rng.exponential(1 / rate[i])) < age + 91:
            if t < age:
                days, last = days + 1, t
            else:
                later[i] += 1
        X[i] = age - last, age, days, days * rng.gamma(6, 5)
    return X, later


def test_it_is_the_bare_model_where_the_level_is_left_alone() -> None:
    X, y = customers()
    model = RepeatBuying("count", level=False, **SETTINGS).fit(X, y, columns=COLUMNS)
    x, tx, T = X[:, 2] - 1, np.where(X[:, 2] > 1, X[:, 1] - X[:, 0], 0.0), X[:, 1]
    bare = BgNbd.fit(x, tx, T)
    assert np.allclose(model.predict(X), bare.expected_purchases(91, x, tx, T))
    assert model.predict(X).sum() == pytest.approx(y.sum(), rel=0.1)


def test_the_level_is_the_labels_own() -> None:
    X, y = customers()
    model = RepeatBuying("count", **SETTINGS).fit(X, 3 * y, columns=COLUMNS)  # three lines a day
    assert model.predict(X).sum() == pytest.approx(3 * y.sum())


def test_amounts_take_gamma_gamma() -> None:
    X, y = customers()
    settings = {**SETTINGS, "total": "total"}
    model = RepeatBuying("amount", **settings).fit(X, y * X[:, 3] / X[:, 2], columns=COLUMNS)
    assert isinstance(model.spend, GammaGamma)
    big, small = X[:1].copy(), X[:1].copy()
    big[0, 3] *= 5
    assert model.predict(big)[0] > model.predict(small)[0]


def test_strangers_get_the_mean_of_strangers() -> None:
    X, y = customers(400)
    X[:100], y[:100] = np.nan, 0.25
    model = RepeatBuying("count", **SETTINGS).fit(X, y, columns=COLUMNS)
    assert model.predict(np.full((1, 4), np.nan))[0] == pytest.approx(0.25)


def test_customers_who_never_return_get_their_mean() -> None:
    X = np.array([[50.0, 50.0, 1.0, 9.0], [20.0, 20.0, 1.0, 5.0]] * 30)
    y = np.array([0.0, 1.0] * 30)
    model = RepeatBuying("count", **SETTINGS).fit(X, y, columns=COLUMNS)
    assert model.purchases is None
    assert model.predict(X[:1])[0] == pytest.approx(0.5)


def test_a_missing_column_is_named() -> None:
    X, y = customers(50)
    with pytest.raises(ModelError, match="needs the column"):
        RepeatBuying("count", since="days_since(buy)").fit(X, y, columns=COLUMNS)
