"""Explanations mean something; counterfactuals reach their score by allowed moves only."""

from __future__ import annotations

import numpy as np
import pytest

from propend.errors import ModelError
from propend.learn.explain import counterfactual, deletion_test
from propend.models import create


def fitted(name: str) -> tuple[object, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 8))
    y = rng.random(1500) < 1 / (1 + np.exp(-2 * X[:, 0] + X[:, 1]))
    settings = {"trees": 40, "threads": 1} if name == "trees" else {}
    return create(name, "yes_no", **settings).fit(X, y), X


@pytest.mark.parametrize("name", ["trees", "logistic", "naive_bayes"])
def test_deleting_what_counts_moves_the_score_more(name: str) -> None:
    model, X = fitted(name)
    found = deletion_test(model, X, columns=2, rows=500)  # type: ignore[arg-type]
    assert found["ratio"] > 1.5
    assert found == deletion_test(model, X, columns=2, rows=500)  # type: ignore[arg-type]


def test_counterfactuals_move_only_what_may_move() -> None:
    model, X = fitted("trees")
    columns = [f"c{j}" for j in range(8)]
    low = X[int(np.argmin(model.predict(X)))]  # type: ignore[attr-defined]
    changes = counterfactual(model, low, columns, {"c0": "up", "c1": "down"}, X, 0.7)  # type: ignore[arg-type]
    assert changes is not None
    assert changes[-1].score >= 0.7
    for change in changes:
        up = change.becomes > change.was
        assert up == (change.column == "c0")
    assert counterfactual(model, low, columns, {"c0": "down"}, X, 0.7) is None  # type: ignore[arg-type]
    assert counterfactual(model, low, columns, {"c0": "any"}, X, 0.9, above=False) == []  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no column 'c9'"):
        counterfactual(model, low, columns, {"c9": "up"}, X, 0.7)  # type: ignore[arg-type]
