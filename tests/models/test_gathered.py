"""Rows that stay in their matrix: every model learns from them what it learns from a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from propend.errors import ModelError
from propend.models import create, gathered, linear
from propend.models.gathered import Gathered
from propend.testing.models import sample


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is small."""
    monkeypatch.setattr(gathered, "LARGE", 0)


def test_it_reads_like_the_copy() -> None:
    rng = np.random.default_rng(0)
    X = np.asfortranarray(rng.normal(size=(10_000, 6)))
    mask, columns = rng.random(len(X)) < 0.7, np.array([4, 0, 5])
    some, copy = Gathered(X, mask, columns), X[mask][:, columns]
    few = rng.random(len(copy)) < 0.2
    assert some.shape == copy.shape
    assert np.array_equal(np.asarray(some), copy)
    assert np.array_equal(np.vstack([some[rows] for rows in some.blocks()]), copy)
    for at in (slice(7, 90), few, np.array([3, 3, 1])):
        assert np.array_equal(some[at], copy[at])
        assert np.array_equal(some[at, 1], copy[at, 1])
    assert np.array_equal(some.where(few), copy[few])


@pytest.mark.parametrize("name", ["trees", "logistic", "encoded", "random_forest", "naive_bayes"])
@pytest.mark.usefixtures("whole")
def test_models_learn_the_same(name: str) -> None:
    rows = sample("yes_no", 3_000)
    mask = np.random.default_rng(1).random(3_000) < 0.6
    X, y = rows.pop("X"), rows.pop("y")[mask]
    settings: dict[str, Any] = {"most_levels": 2} if name == "encoded" else {}
    of_copy = create(name, "yes_no", **settings).fit(X[mask], y, **rows)
    model = create(name, "yes_no", **settings).fit(Gathered(np.asfortranarray(X), mask), y, **rows)
    assert np.array_equal(model.predict(X), of_copy.predict(X))


@pytest.mark.usefixtures("whole")
def test_trees_find_the_same_bins_where_only_some_rows_are_drawn_for_them() -> None:
    """LightGBM looks at 200,000 rows to find its bins."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(420_000, 2))
    X[:, 1] = rng.integers(0, 5, len(X))
    y, mask = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(float), rng.random(len(X)) < 0.6
    texts = [
        create("trees", "yes_no", trees=2).fit(given, y[mask], categories={1: 5}, seed=3).state().texts
        for given in (X[mask], Gathered(X, mask))
    ]  # fmt: skip
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("whole")
def test_an_infinite_value_is_named() -> None:
    rows = sample("yes_no")
    rows["X"][399, 1] = np.inf
    rows["X"] = Gathered(rows["X"], np.ones(400, np.bool_))
    with pytest.raises(ModelError, match="'frequency' holds an infinite value"):
        create("trees", "yes_no").fit(**rows)


@pytest.mark.parametrize("more", ["", "weight", "validation", "strength"])
def test_logistic_regression_by_block_is_the_one_of_all_rows(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, later = sample("yes_no", 9_000), sample("yes_no", 3_000, seed=8)
    settings: dict[str, Any] = {"strength": 30.0} if more == "strength" else {}
    if more == "weight":
        rows["weight"] = np.random.default_rng(0).random(9_000)
    if more == "validation":
        rows["validation"] = later["X"], later["y"], None
    of_all: Any = create("logistic", "yes_no", **settings).fit(**rows)
    monkeypatch.setattr(linear, "_WHOLE", 0)
    by_block: Any = create("logistic", "yes_no", **settings).fit(**rows)
    assert by_block.strength == of_all.strength
    for ours, theirs in zip(by_block.coefficients(), of_all.coefficients(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert not np.array_equal(ours, theirs)
