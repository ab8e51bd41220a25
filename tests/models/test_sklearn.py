"""Ours in scikit-learn, scikit-learn's in ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from propend.errors import ModelError
from propend.learn.metrics import auroc
from propend.models import create, load
from propend.models.sklearn import PropendClassifier, PropendRegressor

# what scikit-learn asks that the contract answers otherwise, each with its reason
OTHERWISE = {
    "check_sample_weight_equivalence_on_dense_data": "encodings count rows, not weights",
    "check_sample_weight_equivalence_on_sparse_data": "arrays are dense",
    "check_estimator_sparse_tag": "arrays are dense",
    "check_array_api_input": "needs an environment variable before SciPy is imported",
    "check_regressors_int": "labels are read as numbers",
}


@pytest.mark.parametrize(
    "estimator",
    [PropendClassifier(settings={"bends": 0}), PropendRegressor(settings={"bends": 0})],
    ids=str,
)
def test_scikit_learn_accepts_ours(estimator: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = []
        for each, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            if name in OTHERWISE:
                continue
            try:
                check(each)
            except SkipTest:  # the check itself asks for a library that is not here
                continue
            except Exception as error:
                failed.append(f"{name}: {str(error)[:200]}")
        assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "estimator", ["sklearn.linear_model.RidgeClassifier", "sklearn.naive_bayes.GaussianNB"]
)
def test_scikit_learns_own_are_saved_without_pickle(estimator: str, tmp_path: Path) -> None:
    pytest.importorskip("skops", reason="saving a scikit-learn estimator needs the extra sklearn")
    X = np.random.default_rng(0).normal(size=(200, 3))
    model = create("sklearn", "yes_no", estimator=estimator).fit(X, X[:, 0] > 0)
    model.save(tmp_path / "m")
    assert np.array_equal(load(tmp_path / "m").predict(X), model.predict(X))


def test_what_cannot_be_saved_safely_is_said(tmp_path: Path) -> None:
    pytest.importorskip("skops", reason="saving a scikit-learn estimator needs the extra sklearn")
    X = np.random.default_rng(0).normal(size=(200, 3))
    lightgbm = create(
        "sklearn", "yes_no", estimator="lightgbm.sklearn.LGBM", settings={"verbose": -1}
    ).fit(X, X[:, 0] > 0)
    with pytest.raises(ModelError, match=r"LGBM cannot be saved (safely|without pickle)"):
        lightgbm.save(tmp_path / "m")


def test_bad_estimators_get_a_sentence() -> None:
    X, y = np.zeros((20, 1)), np.arange(20) % 2
    for name, settings, words in [
        ("sklearn.ensemble.Nothing", {}, "there is no estimator"),
        ("sklearn.ensemble.AdaBoost", {"tress": 3}, "cannot be set so"),
        ("sklearn.cluster.KMeans", {}, "neither probabilities nor"),
    ]:
        with pytest.raises(ModelError, match=words):
            create("sklearn", "yes_no", estimator=name, settings=settings).fit(X, y).predict(X)
    with pytest.raises(ModelError, match="takes no row weights"):
        create("sklearn", "yes_no", estimator="sklearn.neighbors.KNeighbors").fit(
            X, y, weight=np.ones(20)
        )


NETWORKS = {
    "stand-in": (
        "tests.models.networks.Wrapped",
        {"module": "tests.models.networks:Net", "module__steps": 60},
        None,
    ),
    "skorch": (
        "skorch.NeuralNetClassifier",
        {"module": "tests.models.networks:torch_net", "max_epochs": 30, "lr": 0.3, "verbose": 0},
        "skorch",
    ),
    "keras": (
        "keras.wrappers.SKLearn",
        {"model": "tests.models.networks:keras_net", "fit_kwargs": {"epochs": 15, "verbose": 0}},
        "keras",
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_plug_in_by_name_through_their_wrapper(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, settings, library = NETWORKS[kind]
    if library is not None:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        pytest.importorskip("torch", reason="networks need the extra 'deep'")
        pytest.importorskip(library, reason=f"{library} is not installed")
    X = np.random.default_rng(0).normal(size=(600, 4))
    X[::7, 1] = np.nan
    y = X[:, 0] + np.nan_to_num(X[:, 1]) > 0
    made = create(
        "sklearn", "yes_no", estimator=estimator, settings=settings, precision="single"
    ).fit(X[:400], y[:400])
    assert auroc(y[400:], made.predict(X[400:])) > 0.9


def test_a_setting_that_names_nothing_is_said() -> None:
    X, y = np.zeros((20, 1)), np.arange(20) % 2
    with pytest.raises(ModelError, match="names nothing that can be imported"):
        create(
            "sklearn", "yes_no", estimator="tests.models.networks.Wrapped",
            settings={"module": "tests.models.networks:Nothing"},
        ).fit(X, y)  # fmt: skip


def test_ours_are_cloned_searched_and_piped() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = np.where(X[:, 0] + rng.normal(size=300) > 0, "yes", "no")
    pipe = make_pipeline(StandardScaler(), PropendClassifier("logistic", {"bends": 0}))
    grid = {"propendclassifier__settings": [{"bends": 0, "strength": s} for s in (1e4, 1.0)]}
    found = GridSearchCV(clone(pipe), grid, cv=3, scoring="roc_auc").fit(X, y)
    assert found.best_score_ > 0.75
    assert set(found.predict(X)) == {"no", "yes"}
