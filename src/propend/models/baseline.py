"""The trivial models every other model must beat: a rate, a mean, one column, an RFM score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["AlwaysZero", "BaseRate", "ConstantQuantile", "Mean", "RfmScore", "Scorecard"]

Codes: TypeAlias = npt.NDArray[np.int64]
_NUMBERS: frozenset[Answer] = frozenset({"amount", "count"})
_RATES: frozenset[Answer] = frozenset({"yes_no", "amount", "count"})


class _Constant(Model):
    """The same score for everyone."""

    missing: ClassVar[Missing] = "native"
    _value: Array

    def _predict(self, X: Array) -> Array:
        return (
            np.tile(self._value, (len(X), 1))
            if self.answer == "which"
            else np.full(len(X), self._value[0])
        )

    def _contributions(self, X: Array) -> Array:
        out = np.zeros((len(X), self.width + 1))
        out[:, -1] = _logit(self._value[0]) if self.link == "logit" else self._value[0]
        return out

    def _importance(self) -> Array:
        return np.zeros(self.width)

    def _state(self) -> State:
        return State({}, {"value": self._value})

    def _restore(self, state: State) -> None:
        self._value = state.arrays["value"]


class BaseRate(_Constant):
    """Everyone gets the share of each label among the training rows.

    >>> BaseRate("yes_no").fit([[0.0], [0.0], [0.0], [0.0]], [1, 0, 0, 0]).predict([[7.0]])
    array([0.25])
    """

    name: ClassVar[str] = "base_rate"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "which"})

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        if self.answer == "which":
            counts = np.bincount(
                data.y.astype(np.int64), weights=data.weight, minlength=self.classes
            )
            self._value = counts / counts.sum()
        else:
            self._value = np.array([np.average(data.y, weights=data.weight)])


class Mean(_Constant):
    """Everyone gets the mean of the training rows."""

    name: ClassVar[str] = "mean"
    answers: ClassVar[frozenset[Answer]] = _NUMBERS

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._value = np.array([np.average(data.y, weights=data.weight)])


class AlwaysZero(_Constant):
    """Everyone gets 0: hard to beat on MAE where few buy, so judge by RMSE and bias."""

    name: ClassVar[str] = "always_zero"
    answers: ClassVar[frozenset[Answer]] = _NUMBERS

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._value = np.zeros(1)


@dataclass(frozen=True, slots=True)
class QuantileParameters:
    """Settings of :class:`ConstantQuantile`."""

    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5


class ConstantQuantile(_Constant):
    """Everyone gets the same quantile of the training rows' amounts.

    >>> ConstantQuantile("amount").fit([[0.0]] * 3, [1, 2, 9]).predict([[7.0]])
    array([2.])
    """

    name: ClassVar[str] = "constant_quantile"
    answers: ClassVar[frozenset[Answer]] = _NUMBERS
    Parameters: ClassVar[type[Any]] = QuantileParameters
    parameters: QuantileParameters

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        order = np.argsort(data.y, kind="stable")
        mass = np.cumsum(data.weights[order])
        at = np.searchsorted(mass, self.parameters.quantile * mass[-1], side="left")
        self._value = data.y[order][[min(int(at), len(order) - 1)]]


@dataclass(frozen=True, slots=True)
class ScorecardParameters:
    """Settings of :class:`Scorecard`."""

    column: int | str = 0
    bins: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 20
    direction: Literal["auto", "up", "down", "any"] = "auto"
    """Whether the rate rises or falls with the column (``auto``: what fits better), or neither."""
    smoothing: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """Rows of the base rate mixed into every bin."""


class Scorecard(Model):
    """The rate of one column's quantile bins, smoothed and monotone (pool adjacent violators).

    With the days since the last event as its column this is the recency baseline. Missing values
    have a bin of their own.

    >>> import numpy as np
    >>> days = np.repeat([1.0, 5.0, 30.0, 90.0], 50).reshape(-1, 1)
    >>> bought = np.r_[np.arange(50) < 30, np.arange(50) < 20, np.arange(50) < 10, np.zeros(50)]
    >>> model = Scorecard("yes_no", column="days", smoothing=0).fit(days, bought, columns=("days",))
    >>> model.predict([[1.0], [4.0], [365.0]])
    array([0.6, 0.4, 0. ])
    """

    name: ClassVar[str] = "scorecard"
    answers: ClassVar[frozenset[Answer]] = _RATES
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = ScorecardParameters
    parameters: ScorecardParameters
    _edges: Array
    _rates: Array  # one per bin, the last for missing

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        values = data.X[:, self.column(self.parameters.column)]
        self._base = float(np.average(data.y, weights=data.weight))
        self._edges = _edges(values[~np.isnan(values)], self.parameters.bins)
        sums, weights = _sums(self._bin(values), len(self._edges) + 2, data)
        rates = _smoothed(sums, weights, self._base, self.parameters.smoothing)
        rates[:-1] = _monotone(rates[:-1], weights[:-1], self.parameters.direction)
        self._rates = rates

    def _bin(self, values: Array) -> Codes:
        bins = np.searchsorted(self._edges, values, side="left")
        return np.where(np.isnan(values), len(self._edges) + 1, bins)

    def _predict(self, X: Array) -> Array:
        return self._rates[self._bin(X[:, self.column(self.parameters.column)])]

    def _contributions(self, X: Array) -> Array:
        out = np.zeros((len(X), self.width + 1))
        rates, base = self._predict(X), np.array(self._base)
        if self.link == "logit":
            rates, base = _logit(rates), _logit(base)
        out[:, self.column(self.parameters.column)] = rates - base
        out[:, -1] = base
        return out

    def _importance(self) -> Array:
        out = np.zeros(self.width)
        out[self.column(self.parameters.column)] = 1.0
        return out

    def _state(self) -> State:
        return State({"base": self._base}, {"edges": self._edges, "rates": self._rates})

    def _restore(self, state: State) -> None:
        self._base = float(state.header["base"])
        self._edges, self._rates = state.arrays["edges"], state.arrays["rates"]


@dataclass(frozen=True, slots=True)
class RfmParameters:
    """Settings of :class:`RfmScore`: where its three columns are (index or name)."""

    recency: int | str = 0
    """Time since the last event: smaller is better."""
    frequency: int | str = 1
    money: int | str = 2
    smoothing: Annotated[float, msgspec.Meta(ge=0)] = 10.0


class RfmScore(Model):
    """The rate of a recency-frequency-money score: quintiles 1–5 each, summed to 3–15.

    The marketer's rule of thumb (Hughes, *Strategic Database Marketing*, 1994), made into a rate
    by smoothing each sum's rate towards the base. A missing value scores 1.
    """

    name: ClassVar[str] = "rfm"
    answers: ClassVar[frozenset[Answer]] = _RATES
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = RfmParameters
    parameters: RfmParameters
    _quintiles: Array  # [3, 4]
    _rates: Array  # [16], by score

    def score(self, X: Array) -> Codes:
        """The sum of the three quintile scores, 3…15, per row."""
        total = np.zeros(len(X), dtype=np.int64)
        for values, edges, better in zip(self._three(X), self._quintiles, (-1, 1, 1), strict=True):
            rank = np.searchsorted(edges, better * values, side="left")
            total += np.where(np.isnan(values), 1, 1 + rank)
        return total

    def _three(self, X: Array) -> list[Array]:
        chosen = self.parameters
        wanted = (chosen.recency, chosen.frequency, chosen.money)
        return [X[:, self.column(column)] for column in wanted]

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._quintiles = np.zeros((3, 4))
        for row, (values, better) in enumerate(zip(self._three(data.X), (-1, 1, 1), strict=True)):
            present = better * values[~np.isnan(values)]
            if len(present):
                self._quintiles[row] = np.quantile(present, (0.2, 0.4, 0.6, 0.8))
        base = float(np.average(data.y, weights=data.weight))
        sums, weights = _sums(self.score(data.X), 16, data)
        self._rates = _smoothed(sums, weights, base, self.parameters.smoothing)

    def _predict(self, X: Array) -> Array:
        return self._rates[self.score(X)]

    def _importance(self) -> Array:
        out = np.zeros(self.width)
        chosen = self.parameters
        for column in (chosen.recency, chosen.frequency, chosen.money):
            out[self.column(column)] += 1.0
        return out

    def _state(self) -> State:
        return State({}, {"quintiles": self._quintiles, "rates": self._rates})

    def _restore(self, state: State) -> None:
        self._quintiles, self._rates = state.arrays["quintiles"], state.arrays["rates"]


def _logit(rate: Any) -> Array:
    held = np.clip(rate, 1e-15, 1 - 1e-15)
    return np.asarray(np.log(held) - np.log1p(-held))


def _edges(values: Array, bins: int) -> Array:
    """Inner edges of equal-mass bins; bin b holds edge[b-1] < value ≤ edge[b]."""
    if not len(values):
        return np.empty(0)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    return edges[edges < values.max()]


def _sums(bins: Codes, count: int, data: Data) -> tuple[Array, Array]:
    weights: Array = data.weights
    sums: Any = np.bincount(bins, weights=weights * data.y, minlength=count)
    masses: Any = np.bincount(bins, weights=weights, minlength=count)
    return sums, masses


def _smoothed(sums: Array, weights: Array, base: float, strength: float) -> Array:
    total = weights + strength
    return np.where(total > 0, (sums + strength * base) / np.where(total > 0, total, 1.0), base)


def _monotone(rates: Array, weights: Array, direction: str) -> Array:
    """The closest rates that only rise or only fall."""
    if direction == "any":
        return rates
    from sklearn.isotonic import isotonic_regression

    mass = np.maximum(weights, 1e-9)
    ways = [way for way in (True, False) if direction in ("auto", "up" if way else "down")]
    fits = [isotonic_regression(rates, sample_weight=mass, increasing=way) for way in ways]
    return min(fits, key=lambda fit: float(np.sum(mass * (fit - rates) ** 2)))
