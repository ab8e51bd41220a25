"""Models of the house inside scikit-learn: a classifier and a regressor that follow its rules."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from propend.errors import PropendError
from propend.models import catalog
from propend.models.model import Array

__all__ = ["PropendClassifier", "PropendRegressor"]


class _Wrapped(BaseEstimator):
    def __init__(
        self, model: str = "logistic", settings: dict[str, Any] | None = None, random_state: int = 0
    ) -> None:
        self.model = model
        self.settings = settings
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _learn(self, answer: Any, X: Array, y: Any, sample_weight: Any) -> Any:
        """Fit a model of the catalogue; its sentences come as the errors scikit-learn expects."""
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        model = catalog.create(self.model, answer, **(self.settings or {}))
        try:
            return model.fit(X, y, weight=weight, seed=self.random_state)
        except PropendError as error:
            raise ValueError(
                f"{error} (n_samples = {len(X)}, labels of one class tell nothing apart)"
            ) from error

    def _checked(self, X: Any, y: Any = None, *, fitting: bool = False) -> Any:
        rules = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
        if fitting and y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if not fitting:
            return validate_data(self, X, reset=False, **rules)
        return validate_data(self, X, y, y_numeric=isinstance(self, RegressorMixin), **rules)


class PropendClassifier(ClassifierMixin, _Wrapped):
    """Any yes/no or which-of-many model of the catalogue as a scikit-learn classifier.

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = np.arange(40.0).reshape(-1, 1), np.array(["no", "yes"]).repeat(20)
    >>> pipe = make_pipeline(StandardScaler(), PropendClassifier("logistic")).fit(X, y)
    >>> pipe.predict([[1.0], [39.0]]).tolist()
    ['no', 'yes']
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit on rows and labels of any kind."""
        X, y = self._checked(X, y, fitting=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: {self.classes_[0]!r}"
            )
        answer: Any = "yes_no" if len(self.classes_) == 2 else "which"
        self.fitted_ = self._learn(answer, X, codes, sample_weight)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities [n, classes]."""
        check_is_fitted(self)
        scores = self.fitted_.predict(self._checked(X))
        return np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each row."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class PropendRegressor(RegressorMixin, _Wrapped):
    """Any amount model of the catalogue as a scikit-learn regressor.

    >>> X = np.arange(40.0).reshape(-1, 1)
    >>> PropendRegressor("linear", {"bends": 0, "strength": 1e-6}).fit(X, 2 * X[:, 0]).predict([[10.0]]).round(0)
    array([20.])
    """

    def __init__(
        self, model: str = "linear", settings: dict[str, Any] | None = None, random_state: int = 0
    ) -> None:
        super().__init__(model, settings, random_state)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit on rows and amounts."""
        X, y = self._checked(X, y, fitting=True)
        self.fitted_ = self._learn("amount", X, y, sample_weight)
        return self

    def predict(self, X: Any) -> Array:
        """Return expected amounts [n]."""
        check_is_fitted(self)
        return self.fitted_.predict(self._checked(X))
