"""Logistic and linear regression: fitted by scikit-learn, kept as arrays, scored by NumPy alone."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.models.encode import HINGE, VALUE, Design
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.newton import LogisticSteps
from propend.models.storage import State

__all__ = ["LinearParameters", "LinearRegression", "LogisticParameters", "LogisticRegression"]

Penalty = Literal["l2", "l1", "elastic_net"]
Bends = Annotated[int, msgspec.Meta(ge=0, le=50)]
_MIX = {"l2": 0.0, "l1": 1.0}
_ROWS = 16_384
_SAFE = 50.0
_MANY = 500
_WHOLE = 1 << 25
"""Numbers (256 MiB of them) above which a design matrix is made block by block, again at each step."""
_STRENGTHS = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
_FEW = 200


@dataclass(frozen=True, slots=True)
class LogisticParameters:
    """Settings of :class:`LogisticRegression`."""

    penalty: Penalty = "l2"
    strength: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Weight of the penalty beside the summed loss (scikit-learn's 1 / C). None: for yes/no under L2, what does best from
    3,000 down to 1 on ``validation`` (else on a fifth of the rows, whole groups); 1 otherwise."""
    mix: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Share of L1 in ``elastic_net``."""
    bends: Bends = 4
    """Places where a number's slope may change; 0 for a straight line."""
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1000


@dataclass(frozen=True, slots=True)
class LinearParameters:
    """Settings of :class:`LinearRegression`."""

    family: Literal["auto", "normal", "poisson", "gamma", "tweedie"] = "auto"
    """Error of the answer: ``auto`` is normal for amounts and Poisson for counts. All but normal
    have a log link, so their predictions are positive and their effects multiply."""
    penalty: Penalty = "l2"
    strength: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    mix: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    tweedie_power: Annotated[float, msgspec.Meta(gt=1, lt=2)] = 1.5
    bends: Bends = 4
    """Places where a number's slope may change; 0 for a straight line."""
    steps: Annotated[int, msgspec.Meta(ge=1)] = 1000


class _Linear(Model):
    """Design matrix times coefficients; [k] rows of them for which, one otherwise."""

    missing: ClassVar[Missing] = "imputed"
    _design: Design
    _coefficients: Array  # [k, p]
    _intercepts: Array  # [k]

    def coefficients(self) -> tuple[Array, Array]:
        """Coefficients [k, p] of the encoded columns (``design.source`` names theirs) and [k]."""
        self._check_fitted()
        return self._coefficients, self._intercepts

    @property
    def design(self) -> Design:
        """The encoding in front of the coefficients."""
        self._check_fitted()
        return self._design

    def _margins(self, X: Array) -> Array:
        """[n, k]; sums run along a row, so one row scores as it does among many."""
        out = np.empty((len(X), len(self._intercepts)))
        for start in range(0, len(X), _ROWS):
            Z = self._design.transform(X[start : start + _ROWS])
            out[start : start + _ROWS] = self._encoded_margins(Z)
        return out

    def _encoded_margins(self, Z: Array) -> Array:
        out = np.empty((len(Z), len(self._intercepts)))
        for k, beta in enumerate(self._coefficients):
            out[:, k] = (Z * beta).sum(axis=1) + self._intercepts[k]
        return out

    def _predict(self, X: Array) -> Array:
        return self._answered(self._margins(X))

    @abstractmethod
    def _answered(self, margins: Array) -> Array:
        """From margins [n, k] to what is answered."""

    def _contributions(self, X: Array) -> Array:
        if len(X) == 1:
            return self._shares(self._design.transform(X)[0])
        return self._contributions_by_class(X)[0]

    def _contributions_by_class(self, X: Array) -> Array:
        out = np.zeros((len(self._coefficients), len(X), self.width + 1))
        out[:, :, -1] = self._intercepts[:, None]
        for start in range(0, len(X), _ROWS):
            Z = self._design.transform(X[start : start + _ROWS])
            for k, beta in enumerate(self._coefficients):
                for j in np.flatnonzero(beta):
                    out[k, start : start + _ROWS, self._design.source[j]] += Z[:, j] * beta[j]
        return out

    def _shares(self, z: Array) -> Array:
        """Contributions [1, d + 1] of one encoded row; added up in the order in which they are for many rows."""
        weighted = z * self._coefficients[0]
        out: Array = np.bincount(self._design.source, weighted, self.width + 1).astype(np.float64)
        out[-1] = self._intercepts[0]
        return out[None]

    def _explain(self, X: Array) -> tuple[Array, Array]:
        if len(X) > 1:
            return super()._explain(X)
        Z = self._design.transform(X)
        return self._answered(self._encoded_margins(Z)), self._shares(Z[0])

    def _importance(self) -> Array:
        standard = np.isin(self._design.kind, (VALUE, HINGE))
        spread = np.where(standard, 1.0, np.sqrt(self._binary_variance()))
        size = np.abs(self._coefficients).sum(axis=0) * spread
        return np.asarray(
            np.bincount(self._design.source, weights=size, minlength=self.width), dtype=np.float64
        )

    def _binary_variance(self) -> Array:
        rate = np.clip(self._design.centre, 0.0, 1.0)
        return np.asarray(rate * (1.0 - rate))

    def _state(self) -> State:
        state = State({}, {"coefficients": self._coefficients, "intercepts": self._intercepts})
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        self._coefficients = state.arrays["coefficients"]
        self._intercepts = state.arrays["intercepts"]


class LogisticRegression(_Linear):
    """Penalised logistic regression; multinomial for which-of-many.

    Columns are encoded by :class:`~propend.models.encode.Design`. Contributions are exact:
    coefficient times centred value, summed over what was derived from a column. ``validation``
    decides how strong the penalty is, where ``strength`` is left open.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2))
    >>> y = rng.random(500) < 1 / (1 + np.exp(-2 * X[:, 0]))
    >>> model = LogisticRegression("yes_no", penalty="l1", strength=20.0).fit(X, y)
    >>> model.importance()
    array([1., 0.])
    """

    name: ClassVar[str] = "logistic"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "which"})
    Parameters: ClassVar[type[Any]] = LogisticParameters
    parameters: LogisticParameters

    strength: float
    """The penalty's weight, given or chosen."""

    @property
    def settled(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        self._design = Design.fit(data.rows, self.categories, self.parameters.bends)
        if self._by_block(data):
            self._fit_by_block(data, validation, seed)
            return
        Z = self._design.transform(data.X)
        self.strength = self._strength(Z, data, validation, seed)
        fitted = _sklearn_logistic(self.parameters, self.strength, self._design.width, seed)
        _quietly(fitted, Z, data.y, data.weight)
        beta, intercept = fitted.coef_, fitted.intercept_
        if self.answer == "which":
            beta, intercept = _all_classes(beta, intercept, fitted.classes_, self.classes)
        self._coefficients = np.ascontiguousarray(beta, dtype=np.float64)
        self._intercepts = np.ascontiguousarray(intercept, dtype=np.float64)

    def _strength(self, Z: Array, data: Data, validation: Data | None, seed: int) -> float:
        """Return the penalty's weight that does best on rows apart, from strong to weak until it has got worse twice."""
        given = self.parameters.strength
        if given is not None:
            return given
        if self.answer != "yes_no" or self.parameters.penalty != "l2":
            return 1.0
        inner, y, weight = Z, data.y, data.weight
        if validation is not None:
            Zv, held = self._design.transform(validation.X), validation
        else:
            out = _fifth(data, seed)
            held = data.where(out)
            inner, Zv, y = Z[~out], Z[out], data.y[~out]
            weight = None if data.weight is None else data.weight[~out]
        fitter = _sklearn_logistic(self.parameters, 1.0, self._design.width, seed)
        fitter.set_params(warm_start=True)

        def margins(strength: float) -> Array:
            _quietly(fitter.set_params(C=1.0 / strength), inner, y, weight)
            return np.asarray((Zv * fitter.coef_[0]).sum(axis=1) + fitter.intercept_[0])

        return _best_strength(margins, y, held)

    def _by_block(self, data: Data) -> bool:
        plain = self.answer == "yes_no" and self.parameters.penalty == "l2"
        width = self._design.width
        return plain and width <= _MANY and len(data) * width > _WHOLE

    def _fit_by_block(self, data: Data, validation: Data | None, seed: int) -> None:
        """The same minimum as scikit-learn's, but for what both leave open, without a design matrix of all rows."""
        strength, most = self.parameters.strength, self.parameters.steps
        steps = LogisticSteps(self._design, data, most)
        if strength is None:
            inner, held = data, validation
            if held is None:
                out = _fifth(data, seed)
                inner, held = data.where(~out), data.where(out)
                steps = LogisticSteps(self._design, inner, most)
            strength = _best_strength(partial(steps.margins, held), inner.y, held)
            if inner is not data:
                steps = steps.on(data)
        steps.fit(strength)
        self.strength = strength
        self._coefficients, self._intercepts = steps.coefficients[None], np.array([steps.intercept])

    def _state(self) -> State:
        state = super()._state()
        state.header["strength"] = self.strength
        return state

    def _restore(self, state: State) -> None:
        super()._restore(state)
        self.strength = state.header["strength"]

    def _answered(self, margins: Array) -> Array:
        if self.answer == "which":
            odds = np.exp(margins - margins.max(axis=1, keepdims=True))
            return np.asarray(odds / odds.sum(axis=1, keepdims=True))
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margins[:, 0])))


class LinearRegression(_Linear):
    """Ridge, lasso or elastic net for amounts; log-link Poisson, gamma and Tweedie with ridge.

    Columns are encoded by :class:`~propend.models.encode.Design`; values far outside what was seen
    are held at 8 standard deviations, so a forecast does not run away. ``validation`` is not used.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(-1, 1)
    >>> model = LinearRegression("amount", strength=0.001).fit(X, 3 * X[:, 0] + 5)
    >>> float(model.predict([[10.0]])[0].round(1))
    35.0
    """

    name: ClassVar[str] = "linear"
    answers: ClassVar[frozenset[Answer]] = frozenset({"amount", "count"})
    Parameters: ClassVar[type[Any]] = LinearParameters
    parameters: LinearParameters

    @property
    def family(self) -> str:
        """The error family in use."""
        if self.parameters.family != "auto":
            return self.parameters.family
        return "poisson" if self.answer == "count" else "normal"

    @property
    def link(self) -> Link:
        return "identity" if self.family == "normal" else "log"

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        least = data.y.min()
        if self.link == "log" and (least < 0 or (self.family == "gamma" and least == 0)):
            bound = "above 0" if self.family == "gamma" else "0 or more"
            raise ModelError(f"y must be {bound} for '{self.name}' of family {self.family}")
        self._design = Design.fit(data.X, self.categories, self.parameters.bends)
        fitted = _sklearn_linear(self.parameters, self.family, data, self._design.width, seed)
        _quietly(fitted, self._design.transform(data.X), data.y, data.weight)
        self._coefficients = np.ascontiguousarray(fitted.coef_.reshape(1, -1))
        self._intercepts = np.array([fitted.intercept_], dtype=np.float64)

    def _answered(self, margins: Array) -> Array:
        margin = margins[:, 0]
        return margin if self.link == "identity" else np.exp(np.minimum(margin, _SAFE))


def _best_strength(margins: Callable[[float], Array], y: Array, held: Data) -> float:
    """Return the strength whose margins have the lowest loss on rows apart, from strong to weak until it got worse twice;
    1 where those rows or the ones learnt from, with answers ``y``, are too few to tell."""
    if min(len(held), len(y)) < _FEW or not 0 < y.mean() < 1:
        return 1.0
    best, least, worse = 1.0, np.inf, 0
    for strength in _STRENGTHS:
        margin = margins(strength)
        loss = float(np.average(np.logaddexp(0.0, margin) - held.y * margin, weights=held.weights))
        if loss < least:
            best, least, worse = strength, loss, 0
        else:
            worse += 1
            if worse == 2:
                break
    return best


def _fifth(data: Data, seed: int) -> npt.NDArray[np.bool_]:
    """Return a random fifth of the rows; groups stay whole."""
    rng = np.random.default_rng([seed, 2])
    if data.groups is None:
        return rng.random(len(data)) < 0.2
    return (rng.random(int(data.groups.max()) + 1) < 0.2)[data.groups]


def _sklearn_logistic(
    parameters: LogisticParameters, strength: float, columns: int, seed: int
) -> Any:
    import sklearn
    from sklearn.linear_model import LogisticRegression as Fitter

    settings: dict[str, Any] = {
        "solver": _newton(columns),
        "C": 1.0 / strength,
        "tol": 1e-6,
        "max_iter": parameters.steps,
        "random_state": seed,
    }
    if parameters.penalty != "l2":
        settings |= {
            "solver": "saga",
            "tol": 1e-4,
            "l1_ratio": _MIX.get(parameters.penalty, parameters.mix),
        }
        if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
            settings["penalty"] = "elasticnet"  # later versions read it off l1_ratio
    return Fitter(**settings)


def _sklearn_linear(
    parameters: LinearParameters, family: str, data: Data, columns: int, seed: int
) -> Any:
    from sklearn.linear_model import ElasticNet, Ridge, TweedieRegressor

    per_row = parameters.strength / float(data.weights.sum())
    if family == "normal":
        if parameters.penalty == "l2":
            return Ridge(alpha=parameters.strength)
        mix = _MIX.get(parameters.penalty, parameters.mix)
        return ElasticNet(alpha=per_row, l1_ratio=mix, max_iter=parameters.steps, random_state=seed)
    if parameters.penalty != "l2":
        raise ModelError(f"family {family} knows the penalty l2 only, not {parameters.penalty}")
    power = {"poisson": 1.0, "gamma": 2.0}.get(family, parameters.tweedie_power)
    return TweedieRegressor(
        power=power,
        alpha=per_row,
        link="log",
        max_iter=parameters.steps,
        solver=_newton(columns),
    )


def _newton(columns: int) -> str:
    """Newton's steps are few and exact, and dear only in columns."""
    return "newton-cholesky" if columns <= _MANY else "lbfgs"


def _quietly(fitter: Any, Z: Array, y: Array, weight: Array | None) -> None:
    """Fit; an optimum reached only nearly is still a model, and its metrics tell."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitter.fit(Z, y, sample_weight=weight)


def _all_classes(
    beta: Array, intercept: Array, present: Array, classes: int
) -> tuple[Array, Array]:
    """Spread the fitted classes over 0…classes-1; those without a row get probability 0."""
    if len(present) == 2 and len(beta) == 1:
        beta = np.vstack([np.zeros_like(beta), beta])
        intercept = np.array([0.0, intercept[0]])
    all_beta = np.zeros((classes, beta.shape[1]))
    all_intercepts = np.full(classes, -np.inf)
    codes = present.astype(np.int64)
    all_beta[codes], all_intercepts[codes] = beta, intercept
    return all_beta, all_intercepts
