"""Quick SHAP values against LightGBM's own, on every kind of split."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from propend.errors import ModelError
from propend.models import Model, create, forest
from propend.models.attribution import Attribution
from propend.models.storage import State
from propend.testing.models import sample


@pytest.mark.parametrize("answer", ["yes_no", "count"])
def test_they_are_lightgbms_own(answer: str) -> None:
    rows = sample(answer, rows=1500)  # type: ignore[arg-type]
    model = create("trees", answer, trees=20, leaves=15, threads=1).fit(**rows)  # type: ignore[arg-type]
    ours = Attribution.of(model._text, 4).of_rows(rows["X"])
    theirs = model._booster.predict(rows["X"], pred_contrib=True, num_threads=1)
    assert np.abs(ours - theirs).max() < 1e-10
    one = Attribution.of(model._text, 4)
    alone = np.concatenate([one.of_rows(rows["X"][i : i + 1]) for i in range(200)])
    assert np.array_equal(alone, ours[:200])  # a row by itself has a kernel of its own
    odd = np.array([[np.nan] * 4, [0.0, 0.0, 0.0, 9.0]])
    theirs = model._booster.predict(odd, pred_contrib=True, num_threads=1)
    assert np.abs(Attribution.of(model._text, 4).of_rows(odd) - theirs).max() < 1e-10


@pytest.mark.parametrize("rows", [1, 63, 65, 513])
def test_any_number_of_rows_and_threads(rows: int) -> None:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(600, 2)).round(
        1
    )  # two columns, deep trees: every path splits again by the same one
    X[rng.random(X.shape) < 0.1] = np.nan
    y = np.nansum(np.sin(3 * X), axis=1)
    model = create("trees", "amount", trees=15, leaves=40, rows_per_leaf=3, threads=1).fit(X, y)
    theirs = model._booster.predict(X[:rows], pred_contrib=True, num_threads=1)
    ours = Attribution.of(model._text, 2)
    assert np.abs(ours.of_rows(X[:rows]) - theirs).max() < 1e-10
    assert np.array_equal(ours.of_rows(X[:rows]), ours.of_rows(X[:rows], threads=2))


def test_zero_as_missing_goes_the_way_of_missing() -> None:
    import lightgbm

    rng = np.random.default_rng(0)
    X = rng.integers(-2, 3, (500, 3)).astype(float)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = (np.nan_to_num(X) ** 2).sum(1)
    settings = {"zero_as_missing": True, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, y), 10)
    ours = Attribution.of(booster.model_to_string(), 3).of_rows(X)
    assert np.abs(ours - booster.predict(X, pred_contrib=True)).max() < 1e-10
    of = Attribution.of(booster.model_to_string(), 3)
    assert np.array_equal(
        np.concatenate([of.of_rows(X[i : i + 1]) for i in range(100)]), ours[:100]
    )


@pytest.mark.parametrize(
    ("answer", "settings"),
    [
        ("yes_no", {}),
        ("count", {}),
        ("amount", {}),
        ("amount", {"loss": "quantile", "quantile": 0.7}),
        ("count", {"loss": "tweedie"}),
    ],
)
def test_a_row_alone_scores_to_lightgbms_bits(answer: str, settings: dict[str, object]) -> None:
    rows = sample(answer, rows=1500)  # type: ignore[arg-type]
    model = create("trees", answer, trees=60, leaves=15, threads=1, **settings).fit(**rows)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    X = np.concatenate([rows["X"], np.where(rng.random((200, 4)) < 0.5, np.nan, 0.0), 1e9 * rng.normal(size=(50, 4))])  # fmt: skip
    theirs = model.predict(X)
    assert model._attribution is None
    before = model.predict(X[:1])  # LightGBM's call
    model.contributions(X[:1])
    ours = np.concatenate([model.predict(X[i : i + 1]) for i in range(len(X))])
    assert np.array_equal(ours, theirs)
    assert np.array_equal(before, ours[:1])


def test_trees_of_several_classes_are_refused() -> None:
    rows = sample("which", rows=300)
    model = create("trees", "which", trees=3, threads=1).fit(**rows)
    with pytest.raises(ValueError, match="several classes"):
        Attribution.of(model._text, 4)


def test_one_answer_of_many_is_told_against_the_others() -> None:
    """As LightGBM's own contributions of every class, less their mean; rows may ask for different answers."""
    rows = sample("which", rows=700)
    model = create("trees", "which", trees=5, threads=1).fit(**rows)
    X, width, classes = np.asarray(rows["X"])[:600], model.width, model.classes
    raw = model._booster.predict(X, pred_contrib=True, num_threads=1)
    theirs = raw.reshape(600, classes, width + 1)
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    for code in range(classes):
        assert np.allclose(model.contributions(X, of=code), theirs[:, code], atol=1e-9)
    codes = np.arange(600) % classes
    assert np.allclose(model.contributions(X, of=codes), theirs[np.arange(600), codes], atol=1e-9)
    with pytest.raises(ModelError, match="say which answer to explain"):
        model.contributions(X)
    with pytest.raises(ModelError, match="knows answers 0 to"):
        model.contributions(X, of=classes)
    other = create("trees", "yes_no", trees=2, threads=1).fit(X, X[:, 0] > np.median(X[:, 0]))
    with pytest.raises(ModelError, match="leave 'of' out"):
        other.contributions(X, of=0)


def test_a_row_alone_reads_unknown_codes_as_missing_too() -> None:
    rng = np.random.default_rng(4)
    X = np.column_stack(
        [rng.integers(0, 3, 400), rng.integers(0, 5, 400), rng.normal(size=400)]
    ).astype(float)
    y = (X[:, 0] + X[:, 1] > 3).astype(float)
    model = create("trees", "yes_no", trees=10, threads=1).fit(X, y, categories={0: 3, 1: 5})
    odd = np.array([[7.0, 1.0, 0.0], [1.0, 2.5, 0.0], [np.nan, -1.0, 0.0], [2.0, 4.0, 1.0]])
    given = odd.copy()
    alone = np.concatenate([model.predict(odd[i : i + 1]) for i in range(4)])
    assert np.array_equal(alone, model.predict(odd))
    assert np.array_equal(odd, given, equal_nan=True)


def slow(model: Model, x: np.ndarray) -> np.ndarray:
    """Shapley values of one row by their definition, over all coalitions of columns: [values of a leaf, d + 1]."""
    t, width = model._trees, model.width
    z = model._design.transform(x[None]).astype(np.float32)[0]

    def worth(node: int, inside: frozenset[int]) -> np.ndarray:
        column = int(t["column"][node])
        if column < 0:
            return t["value"][node]
        sides = int(t["left"][node]), int(t["right"][node])
        if int(model._design.source[column]) in inside:
            return worth(sides[int(z[column] > t["threshold"][node])], inside)
        weight = np.array([model._weight[side] for side in sides]) / model._weight[node]
        return weight[0] * worth(sides[0], inside) + weight[1] * worth(sides[1], inside)

    def paid(inside: frozenset[int]) -> np.ndarray:
        return np.mean([worth(int(root), inside) for root in t["root"]], axis=0)

    out = np.zeros((width + 1, t["value"].shape[1]))
    out[-1] = paid(frozenset())
    for j in range(width):
        others = [k for k in range(width) if k != j]
        for size in range(width):
            for chosen in combinations(others, size):
                gain = paid(frozenset({*chosen, j})) - paid(frozenset(chosen))
                out[j] += gain / (width * comb(width - 1, size))
    return out.T


@pytest.mark.parametrize("name", ["decision_tree", "random_forest", "extra_trees"])
@pytest.mark.parametrize("answer", ["yes_no", "amount", "which"])
def test_forests_are_told_as_by_the_definition(
    name: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gaps and categories are encoded into several columns, which are in a coalition together."""
    rows = sample(answer, rows=300)  # type: ignore[arg-type]
    few = {"depth": 7, "rows_per_leaf": 3}
    settings = few if name == "decision_tree" else {**few, "trees": 4, "threads": 1}
    model = create(name, answer, **settings).fit(**rows)  # type: ignore[arg-type]
    assert model._design.width > model.width
    assert model.link == "identity"
    X = np.asarray(rows["X"])[:6]
    every = np.array([slow(model, x) for x in X])
    if answer == "which":
        for code in range(model.classes):
            told = every[:, code] - every.mean(axis=1)
            assert np.allclose(model.contributions(X, of=code), told, atol=1e-12)
    else:
        assert np.allclose(model.contributions(X), every[:, 0], atol=1e-12)
        assert np.allclose(model.contributions(X).sum(axis=1), model.predict(X), atol=1e-12)
    whole = model._contributions_by_class(X)
    monkeypatch.setattr(forest, "_TOGETHER", 20)  # trees in several lots
    model._explainer = None
    assert np.allclose(model._contributions_by_class(X), whole, atol=1e-14)


def test_what_a_forest_cannot_tell_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample("yes_no", rows=200)
    model = create("random_forest", "yes_no", trees=3, threads=1).fit(**rows)
    blend = create("blending", "yes_no", models=("logistic", "decision_tree")).fit(**rows)
    blend.weights = np.array([0.5, 0.5])
    with pytest.raises(ModelError, match="'decision_tree' tells its reasons on another scale"):
        blend.contributions(rows["X"])
    assert model._explainer is None  # nothing was told yet
    monkeypatch.setattr(forest, "MOST_NODES", 10)
    with pytest.raises(ModelError, match="nodes, more than the 10 up to which"):
        model.contributions(rows["X"])
    old = State({**model.state().header}, {k: v for k, v in model.state().arrays.items() if k != "weight"})  # fmt: skip
    saved_before = type(model).from_state(old)
    assert np.array_equal(saved_before.predict(rows["X"]), model.predict(rows["X"]))
    with pytest.raises(ModelError, match="saved before its reasons could be told"):
        saved_before.contributions(rows["X"])
