from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from propend.errors import ModelError
from propend.models.encode import HINGE, LEVEL, LIMIT, MISSING, OTHER, Design
from propend.models.linear import LinearRegression, LogisticRegression
from propend.testing.models import sample


def test_same_as_scikit_learn_on_plain_numbers() -> None:
    from sklearn.linear_model import LogisticRegression as Peer
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    y = (rng.random(3000) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.0]))).astype(float)
    ours = LogisticRegression("yes_no", bends=0)
    Z = ours.fit(X, y).design.transform(X)
    peer = Peer(C=1.0, tol=1e-8, solver="newton-cholesky").fit(Z, y)
    assert np.allclose(ours.predict(X), peer.predict_proba(Z)[:, 1], atol=1e-6)
    amount = 5 + X @ [1.0, 2.0, 3.0]
    line = LinearRegression("amount", bends=0).fit(X, amount)
    assert np.allclose(line.predict(X), Ridge(1.0).fit(Z, amount).predict(Z), atol=1e-9)


def test_bends_follow_a_curve() -> None:
    rng = np.random.default_rng(1)
    X = rng.uniform(-3, 3, size=(2000, 1))
    y = np.abs(X[:, 0])
    straight = LinearRegression("amount", bends=0).fit(X, y).predict(X)
    bent = LinearRegression("amount", bends=5).fit(X, y).predict(X)
    assert np.mean((bent - y) ** 2) < 0.1 * np.mean((straight - y) ** 2)


def test_a_wild_value_does_not_run_away() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(500, 1))
    y = 10 + X[:, 0]
    y[0], X[0, 0] = 10.0, 1e12
    model = LinearRegression("amount").fit(X, y)
    assert np.abs(model.predict(X[1:]) - y[1:]).mean() < 0.1
    assert abs(model.predict([[1e300]])[0] - 10) < 20


def test_heavy_tails_take_the_logarithm() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.normal(size=2000), np.exp(2 * rng.normal(size=2000))])
    design = Design.fit(X, {})
    assert design.unit[0] == 0
    assert design.unit[1] == pytest.approx(1.0, rel=0.2)
    assert np.abs(design.transform(X)).max() < LIMIT


def test_rare_new_and_missing_categories() -> None:
    codes = np.r_[np.zeros(50), np.ones(30), [2.0, 2.0], np.full(8, np.nan)]
    design = Design.fit(codes[:, None], {0: 5})
    assert design.kind.tolist() == [LEVEL, LEVEL, OTHER, MISSING]
    Z = design.transform(np.array([[2.0], [4.0], [np.nan]]))
    assert np.array_equal(Z[0], Z[1])  # rare and never seen share a column
    assert Z[2, 3] > 0 > Z[2, 2]


def test_many_categories_stay_few_columns() -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 100_000, size=(20_000, 1)).astype(float)
    assert Design.fit(codes, {0: 100_000}).width <= 101


finite = st.floats(-1e9, 1e9, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (12, 2), elements=st.one_of(finite, st.just(np.nan))))
def test_the_design_is_always_finite_and_centred(X: np.ndarray) -> None:
    design = Design.fit(X, {}, bends=3)
    Z = design.transform(X)
    assert np.isfinite(Z).all()
    assert np.abs(Z).max() <= LIMIT
    assert np.allclose(Z[:, design.kind == HINGE].mean(axis=0), 0, atol=1e-6)


def test_classes_without_a_row_get_nothing() -> None:
    X = np.arange(40.0).reshape(-1, 1)
    y = np.where(X[:, 0] < 20, 0, 2)
    for labels in (y, np.r_[1, y[1:]], np.r_[3, 1, y[2:]]):
        P = LogisticRegression("which").fit(X, labels).predict(X)
        absent = sorted(set(range(P.shape[1])) - set(labels.tolist()))
        assert not P[:, absent].any()
        assert P[-1].argmax() == 2


def test_families() -> None:
    rows = sample("count", rows=2000)
    model = LinearRegression("count").fit(**rows)
    assert model.link == "log"
    assert model.predict(rows["X"]).sum() == pytest.approx(rows["y"].sum(), rel=1e-3)
    with pytest.raises(ModelError, match="y must be above 0"):
        LinearRegression("amount", family="gamma").fit(**rows)
    with pytest.raises(ModelError, match="penalty l2 only"):
        LinearRegression("count", penalty="l1").fit(**rows)


def test_unregularised_weights_are_repetitions() -> None:
    rows = sample("yes_no", rows=120)
    times = np.arange(120) % 3 + 1
    X, y = rows["X"][:, :1], rows["y"]
    weighted = LogisticRegression("yes_no", bends=0, strength=1e-6).fit(X, y, weight=times)
    repeated = LogisticRegression("yes_no", bends=0, strength=1e-6).fit(
        np.repeat(X, times, axis=0), np.repeat(y, times)
    )
    assert np.allclose(weighted.predict(X), repeated.predict(X), atol=1e-4)


def test_scoring_needs_no_scikit_learn(tmp_path: Path) -> None:
    LogisticRegression("yes_no").fit(**sample("yes_no")).save(tmp_path / "m")
    code = (
        "import sys, numpy as np, propend.models as m\n"
        f"print(m.load({str(tmp_path / 'm')!r}).predict(np.zeros((1, 4)))[0])\n"
        "assert not {'sklearn', 'scipy', 'lightgbm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_line_does_not_go_on_beyond_what_was_seen() -> None:
    """What only grows with time is asked about at values no training row had: they count as the largest seen."""
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.uniform(0, 100, 2_000), rng.exponential(5, 2_000)])
    y = rng.random(2_000) < 1 / (1 + np.exp(-(X[:, 0] - 50) / 20))
    model = LogisticRegression("yes_no", bends=0).fit(X, y)
    edge = np.array([[X[:, 0].max(), 1.0], [X[:, 0].min(), 1.0], [50.0, X[:, 1].max()]])
    beyond = np.array([[400.0, 1.0], [-400.0, 1.0], [50.0, 1e9]])
    assert np.array_equal(model.predict(beyond), model.predict(edge))
    assert np.array_equal(model.contributions(beyond), model.contributions(edge))
    again = LogisticRegression.from_state(model.state())
    assert np.array_equal(again.predict(beyond), model.predict(edge))
    state = model.design.state()
    assert Design.from_state(state).high.tolist() == X.max(axis=0).tolist()
    del state.arrays["low"], state.arrays["high"]  # saved before there were bounds
    assert np.array_equal(Design.from_state(state).transform(X), model.design.transform(X))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_row_alone_is_encoded_to_the_same_bits(seed: int) -> None:
    import propend.models.kernels  # noqa: F401 - with it loaded, a row alone has compiled code of its own

    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 60))
    X = np.column_stack([
        np.where(rng.random(n) < 0.2, 0.0, np.exp(3 * rng.normal(size=n))) * rng.choice([-1, 1], n), rng.normal(size=n),
        rng.integers(0, 6, n), rng.integers(0, 2, n), np.full(n, 2.5), rng.integers(0, 3, n),
    ])  # fmt: skip
    X[rng.random(X.shape) < rng.choice([0.0, 0.15])] = np.nan
    design = Design.fit(X, {2: 6, 5: 4}, int(rng.integers(0, 5)))
    odd = np.full((2, X.shape[1]), np.nan)
    odd[1] = [1e300, -1e200, 5.0, -0.0, 0.0, 3.0]
    rows = np.concatenate([X, odd])
    alone = np.concatenate([design.transform(rows[i : i + 1]) for i in range(len(rows))])
    assert np.array_equal(alone, design.transform(rows))
