"""Support vector machines, linear and radial, with probabilities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from propend.models.encode import Design
from propend.models.kernels import radial
from propend.models.linear import _quietly
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["LinearSvm", "LinearSvmParameters", "RadialSvm", "RadialSvmParameters"]

_FOLDS = 3
_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class LinearSvmParameters:
    """Settings of :class:`LinearSvm`."""

    cost: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    """Weight of a margin error (scikit-learn's C)."""
    bends: Annotated[int, msgspec.Meta(ge=0, le=50)] = 0
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1000


@dataclass(frozen=True, slots=True)
class RadialSvmParameters:
    """Settings of :class:`RadialSvm`."""

    cost: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    width: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Kernel width as a multiple of the usual one: gamma = 1 / (width² · columns · variance)."""
    exact_rows: Annotated[int, msgspec.Meta(ge=0)] = 4_000
    """Up to so many rows the machine is exact; above, Nyström's approximation stands in."""
    landmarks: Annotated[int, msgspec.Meta(ge=2)] = 400


class _Margin(Model):
    """A decision value turned into a probability by Platt's curve over out-of-fold values."""

    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no"})
    missing: ClassVar[Missing] = "imputed"
    _design: Design
    _slope: float
    _intercept: float

    @abstractmethod
    def _machine(self, rows: int, columns: int, seed: int) -> Any: ...

    def _learn_curve(self, Z: Array, data: Data, seed: int) -> None:
        from sklearn.linear_model import LogisticRegression

        fold = _stratified(data.y, np.random.default_rng(seed))
        decision = np.zeros(len(Z))
        for k in range(_FOLDS):
            inside = fold != k
            if inside.all():
                continue
            if len(np.unique(data.y[inside])) < 2:
                decision[~inside] = 0.0
                continue
            weight = None if data.weight is None else data.weight[inside]
            machine = self._machine(int(inside.sum()), Z.shape[1], seed)
            _quietly(machine, Z[inside], data.y[inside], weight)
            decision[~inside] = machine.decision_function(Z[~inside])
        curve = LogisticRegression(C=1e6).fit(decision[:, None], data.y, sample_weight=data.weight)
        self._slope = max(float(curve.coef_[0, 0]), 0.0)
        self._intercept = float(curve.intercept_[0])

    @abstractmethod
    def _decision(self, Z: Array) -> Array: ...

    def _predict(self, X: Array) -> Array:
        out = np.empty(len(X))
        for start in range(0, len(X), _ROWS):
            Z = self._design.transform(X[start : start + _ROWS])
            out[start : start + _ROWS] = self._decision(Z)
        margin = self._slope * out + self._intercept
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))


class LinearSvm(_Margin):
    """Linear support vector machine, squared hinge loss (Fan et al., LIBLINEAR, 2008).

    >>> import numpy as np
    >>> X = np.r_[np.linspace(-2, -0.5, 30), np.linspace(0.5, 2, 30)].reshape(-1, 1)
    >>> (LinearSvm("yes_no").fit(X, X[:, 0] > 0).predict([[-1.0], [1.0]]) > 0.5)
    array([False,  True])
    """

    name: ClassVar[str] = "svm_linear"
    Parameters: ClassVar[type[Any]] = LinearSvmParameters
    parameters: LinearSvmParameters

    def _machine(self, rows: int, columns: int, seed: int) -> Any:  # noqa: ARG002
        from sklearn.svm import LinearSVC

        return LinearSVC(
            C=self.parameters.cost, dual=False, max_iter=self.parameters.steps, random_state=seed
        )

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._design = Design.fit(data.X, self.categories, self.parameters.bends)
        Z = self._design.transform(data.X)
        machine = self._machine(len(Z), Z.shape[1], seed)
        _quietly(machine, Z, data.y, data.weight)
        self._beta = np.ascontiguousarray(machine.coef_[0], dtype=np.float64)
        self._bias = float(machine.intercept_[0])
        self._learn_curve(Z, data, seed)

    def _decision(self, Z: Array) -> Array:
        return np.asarray((Z * self._beta).sum(axis=1) + self._bias)

    def _contributions(self, X: Array) -> Array:
        out = np.zeros((len(X), self.width + 1))
        out[:, -1] = self._slope * self._bias + self._intercept
        Z = self._design.transform(X)
        for j in np.flatnonzero(self._beta):
            out[:, self._design.source[j]] += self._slope * Z[:, j] * self._beta[j]
        return out

    def _importance(self) -> Array:
        size = np.bincount(self._design.source, np.abs(self._beta), minlength=self.width)
        return np.asarray(size, dtype=np.float64)

    def _state(self) -> State:
        header = {"bias": self._bias, "slope": self._slope, "intercept": self._intercept}
        state = State(header, {"beta": self._beta})
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        self._beta = state.arrays["beta"]
        self._bias, self._slope, self._intercept = (
            float(state.header[name]) for name in ("bias", "slope", "intercept")
        )


class RadialSvm(_Margin):
    """Support vector machine with a radial kernel (Cortes & Vapnik 1995).

    Up to ``exact_rows`` it is the exact machine (LIBSVM); above, a linear machine over Nyström
    features of ``landmarks`` training rows (Williams & Seeger 2001). ``remark`` says which.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> model = RadialSvm("yes_no").fit(X, (X ** 2).sum(axis=1) < 1)
    >>> bool(model.predict([[0.0, 0.0]])[0] > 0.5 > model.predict([[2.0, 2.0]])[0])
    True
    >>> model.remark
    'exact: 300 rows'
    """

    name: ClassVar[str] = "svm_rbf"
    Parameters: ClassVar[type[Any]] = RadialSvmParameters
    parameters: RadialSvmParameters
    remark: str = ""

    def _machine(self, rows: int, columns: int, seed: int) -> Any:
        from sklearn.kernel_approximation import Nystroem
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC, LinearSVC

        gamma = self._gamma(columns)
        if rows <= self.parameters.exact_rows:
            return SVC(C=self.parameters.cost, gamma=gamma, cache_size=500)
        parts = min(self.parameters.landmarks, rows)
        return _Weighted(
            make_pipeline(
                Nystroem(gamma=gamma, n_components=parts, random_state=seed),
                LinearSVC(C=self.parameters.cost, dual=False, random_state=seed),
            )
        )

    def _gamma(self, columns: int) -> float:
        return 1.0 / (self.parameters.width**2 * max(columns, 1) * self._variance)

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._design = Design.fit(data.X, self.categories)
        Z = self._design.transform(data.X)
        self._variance = float(Z.var()) or 1.0
        machine = self._machine(len(Z), Z.shape[1], seed)
        _quietly(machine, Z, data.y, data.weight)
        if len(Z) <= self.parameters.exact_rows:
            self.remark = f"exact: {len(Z):,} rows"
            self._landmarks = np.ascontiguousarray(machine.support_vectors_)
            self._weights = np.ascontiguousarray(machine.dual_coef_[0], dtype=np.float64)
            self._bias = float(machine.intercept_[0])
        else:
            nystroem, linear = (step for _, step in machine.pipeline.steps)
            self.remark = (
                f"approximated by Nyström with {len(nystroem.components_)} landmarks: "
                f"{len(Z):,} rows, exact up to {self.parameters.exact_rows:,}"
            )
            self._landmarks = np.ascontiguousarray(nystroem.components_)
            self._weights = np.ascontiguousarray(nystroem.normalization_.T @ linear.coef_[0])
            self._bias = float(linear.intercept_[0])
        self._learn_curve(Z, data, seed)

    def _decision(self, Z: Array) -> Array:
        out = np.empty(len(Z))
        radial(Z, self._landmarks, self._gamma(Z.shape[1]), self._weights, out)
        return out + self._bias

    def _importance(self) -> Array:
        return np.zeros(self.width)

    def _state(self) -> State:
        names = ("bias", "slope", "intercept", "variance")
        header: dict[str, Any] = {name: getattr(self, f"_{name}") for name in names}
        arrays = {"landmarks": self._landmarks, "weights": self._weights}
        state = State({**header, "remark": self.remark}, arrays)
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        self._landmarks, self._weights = state.arrays["landmarks"], state.arrays["weights"]
        for name in ("bias", "slope", "intercept", "variance"):
            setattr(self, f"_{name}", float(state.header[name]))
        self.remark = str(state.header["remark"])


class _Weighted:
    """A pipeline whose last step takes the sample weights."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def fit(self, Z: Array, y: Array, sample_weight: Array | None = None) -> _Weighted:
        """Fit all steps; only the last is weighted."""
        last = self.pipeline.steps[-1][0]
        self.pipeline.fit(Z, y, **{f"{last}__sample_weight": sample_weight})
        return self

    def decision_function(self, Z: Array) -> Array:
        """Return decision values [n]."""
        return np.asarray(self.pipeline.decision_function(Z))


def _stratified(y: Array, rng: np.random.Generator) -> Any:
    fold = np.empty(len(y), dtype=np.int64)
    for value in (0.0, 1.0):
        rows = rng.permutation(np.flatnonzero(y == value))
        fold[rows] = np.arange(len(rows)) % _FOLDS
    return fold
