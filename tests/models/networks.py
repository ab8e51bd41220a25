"""Networks as a person brings them, and a stand-in for a wrapper: same calls, same demands, no framework."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression


class Net:
    """What the stand-in wraps."""

    def __init__(self, steps: int) -> None:
        self.inner = LogisticRegression(max_iter=steps)


class WrappedClassifier(ClassifierMixin, BaseEstimator):
    """Like skorch's: given a class, built when fitted, single precision only, no row weights."""

    def __init__(self, module: Any = None, module__steps: int = 50) -> None:
        self.module = module
        self.module__steps = module__steps

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        if X.dtype != np.float32 or y.dtype != np.int64:
            raise RuntimeError(f"expected float32 and int64, got {X.dtype} and {y.dtype}")
        self.classes_ = np.unique(y)
        self.net_ = self.module(self.module__steps).inner.fit(X, y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        if X.dtype != np.float32:
            raise RuntimeError(f"expected float32, got {X.dtype}")
        found: np.ndarray = self.net_.predict_proba(X)
        return found


def torch_net() -> Any:
    """A network for skorch; it says what it was built for on first use."""
    from torch import nn

    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(dim=-1))


def keras_net(X: np.ndarray, y: np.ndarray) -> Any:  # noqa: ARG001
    """A network for Keras's scikit-learn wrapper, built from the first rows it sees."""
    import keras

    made = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(y.shape[1], activation="softmax"),
        ]
    )
    made.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.Adam(0.02))
    return made
