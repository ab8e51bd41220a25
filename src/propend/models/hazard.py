"""Time to an event with censoring: a chance per period, learnt by a yes/no model (discrete-time hazard)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError
from propend.models.linear import LogisticRegression
from propend.models.model import Answer, Array, Data, Missing, Model, Validation
from propend.models.storage import State
from propend.models.trees import Trees

__all__ = ["Hazard", "HazardParameters", "KaplanMeier", "TreesHazard", "TreesHazardParameters"]

_MOST_ROWS = 1_000_000
_NODES = 12
"""Of the quadrature of contributions."""
Periods = Annotated[int, msgspec.Meta(ge=2, le=100)]


class _Survival(Model):
    """Periods between ``_edges`` [k + 1], from 0 to the longest time watched; a prediction is the expected time within.

    ``y`` is the time of the event, or minus the time for which none was seen (censored): all above or below 0.
    """

    answers: ClassVar[frozenset[Answer]] = frozenset({"time"})
    _edges: Array

    def survival(self, X: npt.ArrayLike) -> Array:
        """Return the chance that no event has come by the end of each period [n, k] (ends: ``ends``)."""
        return self._survival(self._ready(X))

    @property
    def ends(self) -> Array:
        """Where each period ends, in the unit of ``y``."""
        self._check_fitted()
        return self._edges[1:]

    @abstractmethod
    def _survival(self, X: Array) -> Array: ...

    def _predict(self, X: Array) -> Array:
        """The restricted mean: the area under the survival curve, straight inside a period (Royston & Parmar 2013)."""
        left = self._survival(X)
        before = np.column_stack([np.ones(len(X)), left[:, :-1]])
        area = np.zeros(len(X))
        for k, width in enumerate(
            np.diff(self._edges)
        ):  # one order of sums: a row alone is the same
            area += width * (before[:, k] + left[:, k]) / 2
        return area

    def _periods(self, y: Array, weight: Array, count: int) -> Array:
        """Return edges with about as many events in each period."""
        events = y[(y > 0) & (weight > 0)]
        if not len(events):
            raise NotEnoughDataError(
                f"none of {len(y):,} rows saw the event: nothing can be learnt; look further ahead or bring a longer log"
            )
        last = float(np.abs(y).max())
        inner = np.quantile(events, np.arange(1, count) / count)
        inner = inner[(inner > 0) & (inner < last)]
        return np.r_[0.0, np.unique(inner), last]


class KaplanMeier(_Survival):
    """Everyone gets the same survival curve (Kaplan & Meier 1958, by periods).

    >>> model = KaplanMeier().fit([[0.0]] * 4, [1.0, 1.0, -2.0, -2.0])
    >>> model.survival([[7.0]])[0, -1].round(2), model.predict([[7.0]]).round(2)
    (np.float64(0.5), array([1.25]))
    """

    name: ClassVar[str] = "kaplan_meier"
    missing: ClassVar[Missing] = "native"
    _curve: Array

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._edges = self._periods(data.y, data.weights, 50)
        rows, period, label = _expanded(data.y, self._edges, np.arange(len(data)))
        weight = data.weights[rows]
        count = len(self._edges) - 1
        risk = np.bincount(period, weight, minlength=count)
        met = np.bincount(period, weight * label, minlength=count)
        self._curve = np.cumprod(1 - np.divide(met, risk, out=np.zeros(count), where=risk > 0))

    def _survival(self, X: Array) -> Array:
        return np.tile(self._curve, (len(X), 1))

    def _importance(self) -> Array:
        return np.zeros(self.width)

    def _state(self) -> State:
        return State({}, {"edges": self._edges, "curve": self._curve})

    def _restore(self, state: State) -> None:
        self._edges, self._curve = state.arrays["edges"], state.arrays["curve"]


@dataclass(frozen=True, slots=True)
class HazardParameters:
    """Settings of :class:`Hazard`."""

    periods: Periods = 10
    strength: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    bends: Annotated[int, msgspec.Meta(ge=0, le=50)] = 0


@dataclass(frozen=True, slots=True)
class TreesHazardParameters:
    """Settings of :class:`TreesHazard`."""

    periods: Periods = 10
    trees: Annotated[int, msgspec.Meta(ge=1)] | None = None
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    leaves: Annotated[int, msgspec.Meta(ge=2)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0


class Hazard(_Survival):
    """Discrete-time hazard by logistic regression (Cox 1972; Singer & Willett 1993).

    Each row becomes one row per period it was watched in: did the event come in this period? The period itself is a
    column. Censored rows stay in until they are no longer watched, so that they count for what is known of them.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 1))
    >>> time = rng.exponential(np.exp(2 - X[:, 0]))
    >>> y = np.where(time < 20, np.maximum(time, 1e-9), -20.0)
    >>> soon, late = Hazard().fit(X, y).predict([[1.5], [-1.5]])
    >>> bool(soon < 4 < 10 < late < 20)
    True
    """

    name: ClassVar[str] = "hazard"
    missing: ClassVar[Missing] = "imputed"
    Parameters: ClassVar[type[Any]] = HazardParameters
    parameters: HazardParameters
    chance: Model
    """P(event in this period | none before): columns of X, and the period last."""

    def _base(self) -> Model:
        chosen = self.parameters
        return LogisticRegression("yes_no", strength=chosen.strength, bends=chosen.bends)

    def _kinds(self) -> dict[int, int]:
        return {**self.categories, self.width: len(self._edges) - 1}

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        self._edges = self._periods(data.y, data.weights, self.parameters.periods)
        X, label, weight = self._long(data, seed)
        held = None if validation is None else self._long(validation, seed)
        self.chance = self._base().fit(
            X, label, weight=weight, categories=self._kinds(), validation=_both(held), seed=seed
        )
        self.remark = f"{len(data):,} rows became {len(X):,} rows of one period each"

    def _long(self, data: Data, seed: int) -> tuple[Array, Array, Array | None]:
        drawn = np.arange(len(data))
        most = _MOST_ROWS // (len(self._edges) - 1)
        if len(drawn) > most:
            drawn = np.sort(np.random.default_rng(seed).permutation(drawn)[:most])
        row, period, label = _expanded(data.y[drawn], self._edges, drawn)
        weight = None if data.weight is None else data.weight[row]
        return np.column_stack([data.X[row], period]), label, weight

    def _survival(self, X: Array) -> Array:
        count = len(self._edges) - 1
        left = np.ones((len(X), count))
        alive = np.ones(len(X))
        for k in range(count):
            alive = alive * (
                1 - self.chance.predict(np.column_stack([X, np.full(len(X), float(k))]))
            )
            left[:, k] = alive
        return left

    def _contributions(self, X: Array) -> Array:
        """In the unit of time: what each column added to the expected time, over all periods.

        The chance of each period is a sum on its logit, the expected time is a function of these sums. Each column gets what
        it adds along the straight way from the bias (and the period) to the row (Aumann & Shapley 1974; Sundararajan et al.,
        ICML 2017), by Gauss-Legendre quadrature; the rest of the quadrature goes to the bias, so that the sum is exact.
        """
        count = len(self._edges) - 1
        start, moved = np.empty((2, count, len(X)))
        parts = np.empty((count, len(X), X.shape[1]))
        for k in range(count):
            found = self.chance.contributions(np.column_stack([X, np.full(len(X), float(k))]))
            parts[k], start[k] = found[:, :-2], found[:, -2:].sum(axis=1)
            moved[k] = parts[k].sum(axis=1)
        width = np.diff(self._edges)
        spans = (width + np.r_[width[1:], 0.0])[:, None] / 2  # of each period's end in the area
        total = np.zeros((len(X), X.shape[1] + 1))
        for at, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
            met = 1 / (1 + np.exp(-(start + (at + 1) / 2 * moved)))
            later = np.cumsum((np.cumprod(1 - met, axis=0) * spans)[::-1], axis=0)[::-1]
            for k in range(count):
                total[:, :-1] -= weight / 2 * (met[k] * later[k])[:, None] * parts[k]
        total[:, -1] = self._predict(X) - total[:, :-1].sum(axis=1)
        return total

    def _importance(self) -> Array:
        return self.chance.importance()[:-1]

    def _state(self) -> State:
        state = State({}, {"edges": self._edges})
        state.nest("chance", self.chance.state())
        return state

    def _restore(self, state: State) -> None:
        self._edges = state.arrays["edges"]
        self.chance = type(self._base()).from_state(state.part("chance"))


class TreesHazard(Hazard):
    """Discrete-time hazard by boosted trees: effects may change with the period.

    >>> TreesHazard(leaves=8)
    TreesHazard('time', leaves=8)
    """

    name: ClassVar[str] = "hazard_trees"
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = TreesHazardParameters
    parameters: TreesHazardParameters  # type: ignore[assignment]

    @property
    def settled(self) -> dict[str, Any]:
        self._check_fitted()
        return self.chance.settled

    def _base(self) -> Model:
        chosen = self.parameters
        return Trees(
            "yes_no", trees=chosen.trees, learning_rate=chosen.learning_rate, leaves=chosen.leaves,
            threads=chosen.threads,
        )  # fmt: skip

    def _kinds(self) -> dict[int, int]:
        return self.categories


def _both(held: Validation | None) -> Validation | None:
    """Held-out rows where they hold both answers; else there is nothing to stop by."""
    if held is None:
        return None
    label = np.asarray(held[1])
    return held if label.size and label.min() < label.max() else None


def _expanded(
    y: Array, edges: Array, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Return for every period a row was watched in: the row, the period, and whether the event came in it.

    A period that censoring cuts short counts where at least half of it was watched.
    """
    watched = np.abs(y)
    last = np.clip(np.searchsorted(edges, watched, side="left") - 1, 0, len(edges) - 2)
    middle = (edges[last] + edges[last + 1]) / 2
    periods = last + ((y > 0) | (watched >= middle))
    row = np.repeat(np.arange(len(y)), periods)
    start = np.repeat(np.cumsum(periods) - periods, periods)
    period = np.arange(len(row)) - start
    label = (y[row] > 0) & (period == last[row])
    return rows[row], period, label.astype(np.float64)
