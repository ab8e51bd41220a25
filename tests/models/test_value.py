from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from propend.models.model import Model
from propend.models.value import TwoPart


def spenders(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, values and the true expected values of a log-normal hurdle."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 2))
    chance = 1 / (1 + np.exp(1 - X[:, 0]))
    mu = 3 + 0.5 * X[:, 1]
    y = np.where(rng.random(rows) < chance, np.exp(mu + 0.8 * rng.normal(size=rows)), 0.0)
    return X, y, chance * np.exp(mu + 0.32)


@pytest.mark.parametrize("base", ["trees", "linear"])
@pytest.mark.parametrize("size", ["lognormal", "gamma"])
def test_recovers_the_expected_value(base: str, size: str) -> None:
    X, y, _ = spenders(6000, 1)
    new, _, truth = spenders(3000, 2)
    held = spenders(1500, 3)
    model = TwoPart("amount", base=base, size=size, threads=1)
    p = model.fit(X, y, validation=(held[0], held[1], None)).predict(new)
    assert p.sum() == pytest.approx(truth.sum(), rel=0.06)
    assert np.corrcoef(np.log(p), np.log(truth))[0, 1] > 0.95


def fitted(y: Any, X: np.ndarray) -> np.ndarray:
    return TwoPart("amount", base="linear").fit(X, y).predict(X)


def test_edges() -> None:
    X, y, _ = spenders(300, 4)
    assert (fitted(y + 1, X) > 0).all()  # everyone pays
    same = fitted(np.where(y > 0, 10.0, 0.0), X)  # all payers pay the same
    assert ((same > 0) & (same < 10)).all()
    assert np.isfinite(fitted(np.where(np.arange(300) == 7, 5.0, 0.0), X)).all()  # one payer


@pytest.mark.parametrize("base", ["linear", "trees"])
def test_contributions_add_up_to_the_logarithm_and_name_the_right_column(base: Any) -> None:
    """One column moves the chance, one the size, one nothing; a row at the bias is told nothing, and not by a division by 0."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(3_000, 3))
    pays = rng.random(3_000) < 1 / (1 + np.exp(-2 * X[:, 0]))
    y = np.where(pays, np.exp(2 + X[:, 1] + 0.3 * rng.normal(size=3_000)), 0.0)
    model = TwoPart("amount", base=base, threads=1).fit(X, y)
    parts = model.contributions(X)
    assert np.allclose(parts.sum(axis=1), np.log(model.predict(X)), atol=1e-9)
    assert isinstance(model.chance, Model)
    assert isinstance(model.size, Model)
    for j in (0, 1):
        assert np.corrcoef(parts[:, j], X[:, j])[0, 1] > 0.8
    assert np.abs(parts[:, 2]).mean() < 0.25 * np.abs(parts[:, :2]).mean()
    chance = model.chance.contributions(X)
    slope = parts[:, 0] - model.size.contributions(X)[:, 0]
    told = np.abs(chance[:, 0]) > 1e-9
    ratio = slope[told] / chance[told, 0]
    assert ((ratio > 0) & (ratio < 1)).all()  # d log p / d logit p is 1 − p
    flat = TwoPart("amount", base="linear").fit(X, np.where(pays, 10.0, 0.0))
    assert np.allclose(flat.contributions(X).sum(axis=1), np.log(flat.predict(X)), atol=1e-9)
    assert np.isfinite(flat.contributions(np.zeros((1, 3)))).all()


def test_edges_survive_saving(tmp_path: Any) -> None:
    X, y, _ = spenders(300, 5)
    for k, values in enumerate((y + 1, np.where(y > 0, 10.0, 0.0))):
        model = TwoPart("amount", base="linear").fit(X, values)
        model.save(tmp_path / str(k))
        assert np.array_equal(TwoPart.load(tmp_path / str(k)).predict(X), model.predict(X))
