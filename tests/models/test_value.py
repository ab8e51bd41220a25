from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from propend.errors import ModelError
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
    with pytest.raises(ModelError, match=r"explain its parts, \.chance and \.size"):
        TwoPart("amount", base="linear").fit(X, y).contributions(X)


def test_edges_survive_saving(tmp_path: Any) -> None:
    X, y, _ = spenders(300, 5)
    for k, values in enumerate((y + 1, np.where(y > 0, 10.0, 0.0))):
        model = TwoPart("amount", base="linear").fit(X, values)
        model.save(tmp_path / str(k))
        assert np.array_equal(TwoPart.load(tmp_path / str(k)).predict(X), model.predict(X))
