from __future__ import annotations

import numpy as np
import pytest

from propend.errors import ModelError
from propend.models.trees import Trees
from propend.testing.models import sample


def test_growth_stops_where_it_no_longer_helps() -> None:
    rows, held = sample("yes_no", rows=1500), sample("yes_no", rows=800, seed=8)
    watched = Trees("yes_no", trees=1000, learning_rate=0.2, threads=1)
    watched.fit(**rows, validation=(held["X"], held["y"], None))
    assert watched.rounds < 200
    full = Trees("yes_no", trees=1000, learning_rate=0.2, threads=1).fit(**rows)
    assert full.rounds == 1000

    def loss(model: Trees) -> float:
        p = model.predict(held["X"])
        return float(-np.log(np.where(held["y"] == 1, p, 1 - p)).mean())

    assert loss(watched) < loss(full)


def test_threads_change_nothing() -> None:
    rows = sample("yes_no", rows=3000)
    one, two = (Trees("yes_no", trees=40, threads=t).fit(**rows) for t in (1, 2))
    assert np.array_equal(one.predict(rows["X"]), two.predict(rows["X"]))


def test_the_seed_matters_and_decides() -> None:
    rows = sample("yes_no", rows=1000)
    rows.pop("seed")
    first, again, other = (
        Trees("yes_no", trees=20, threads=1).fit(**rows, seed=s).predict(rows["X"])
        for s in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_categories_are_not_ordered() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, 4000).astype(float)
    y = np.isin(codes, [3, 17, 22, 39])
    model = Trees("yes_no", trees=60, leaves=2, learning_rate=0.3, rows_per_leaf=20, threads=1)
    p = model.fit(codes[:, None], y, categories={0: 40}).predict(codes[:, None])
    assert p[y].min() > p[~y].max()


def test_losses_need_amounts_that_suit_them() -> None:
    rows = sample("amount")
    with pytest.raises(ModelError, match="y must be above 0"):
        Trees("amount", loss="gamma").fit(**rows)
    with pytest.raises(ModelError, match="y must be 0 or more"):
        Trees("amount", loss="tweedie").fit(**{**rows, "y": rows["y"] - 5})
    with pytest.raises(ModelError, match="loss is for amounts and counts"):
        Trees("yes_no", loss="tweedie").fit(**sample("yes_no"))


def test_tweedie_is_unbiased_in_sum() -> None:
    rows = sample("amount", rows=4000)
    model = Trees("amount", loss="tweedie", threads=1).fit(**rows)
    assert model.link == "log"
    assert model.predict(rows["X"]).sum() == pytest.approx(rows["y"].sum(), rel=0.03)
