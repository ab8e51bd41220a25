"""Ours in scikit-learn, scikit-learn's in ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from propend.errors import ModelError
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
