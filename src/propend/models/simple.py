"""Nearest neighbours and naive Bayes: baselines with a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from propend.models.encode import Design
from propend.models.kernels import nearest_rows
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["NaiveBayes", "NaiveBayesParameters", "Neighbours", "NeighboursParameters"]


@dataclass(frozen=True, slots=True)
class NeighboursParameters:
    """Settings of :class:`Neighbours`."""

    neighbours: Annotated[int, msgspec.Meta(ge=1)] = 50
    weighting: Literal["equal", "distance"] = "distance"
    most_rows: Annotated[int, msgspec.Meta(ge=1)] = 20_000
    """Of more training rows a seeded draw is remembered; ``remark`` says so."""


class Neighbours(Model):
    """The (weighted) mean label of the k nearest training rows, Euclidean over encoded columns.

    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(-1, 1)
    >>> Neighbours("amount", neighbours=3, weighting="equal").fit(X, X[:, 0]).predict([[10.1]])
    array([10.])
    """

    name: ClassVar[str] = "neighbours"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "imputed"
    Parameters: ClassVar[type[Any]] = NeighboursParameters
    parameters: NeighboursParameters
    remark: str = ""

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        rows = np.flatnonzero(data.weights > 0)
        most = self.parameters.most_rows
        self.remark = f"remembers all {len(rows):,} rows"
        if len(rows) > most:
            self.remark = f"remembers {most:,} of {len(rows):,} rows, drawn at random"
            rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        self._design = Design.fit(data.X, self.categories)
        self._known = self._design.transform(data.X[rows])
        self._told, self._mass = data.y[rows], data.weights[rows]

    def _predict(self, X: Array) -> Array:
        k = min(self.parameters.neighbours, len(self._told))
        near = np.empty((len(X), k), dtype=np.int64)
        apart = np.empty((len(X), k))
        nearest_rows(self._design.transform(X), self._known, near, apart)
        weight = self._mass[near]
        if self.parameters.weighting == "distance":
            weight = weight / (1e-6 + np.sqrt(apart))
        labels = self._told[near]
        total = weight.sum(axis=1)
        if self.answer != "which":
            return np.asarray((weight * labels).sum(axis=1) / total)
        return np.column_stack(
            [(weight * (labels == c)).sum(axis=1) / total for c in range(self.classes)]
        )

    def _importance(self) -> Array:
        return np.zeros(self.width)

    def _state(self) -> State:
        arrays = {"known": self._known, "labels": self._told, "mass": self._mass}
        state = State({"remark": self.remark}, arrays)
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        self._known, self._told = state.arrays["known"], state.arrays["labels"]
        self._mass = state.arrays["mass"]
        self.remark = str(state.header["remark"])


@dataclass(frozen=True, slots=True)
class NaiveBayesParameters:
    """Settings of :class:`NaiveBayes`."""

    bins: Annotated[int, msgspec.Meta(ge=2, le=100)] = 10
    """Equal-mass bins of a number; missing is a bin of its own."""
    smoothing: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Pseudo-counts added to each bin and class."""


class NaiveBayes(Model):
    """Each column votes with the log-odds of its bin, as if columns were independent.

    Numbers are cut into equal-mass bins (Dougherty, Kohavi & Sahami 1995), so no shape is assumed.

    >>> import numpy as np
    >>> X = np.arange(40.0).reshape(-1, 1)
    >>> NaiveBayes("yes_no", bins=2).fit(X, X[:, 0] >= 20).predict([[3.0], [30.0]]).round(2)
    array([0.02, 0.98])
    """

    name: ClassVar[str] = "naive_bayes"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "which"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = NaiveBayesParameters
    parameters: NaiveBayesParameters
    _edges: list[Array]
    _votes: list[Array]
    """Per column [bins + missing, classes]: log P(bin | class)."""

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        classes = self.classes or 2
        one_hot = data.weights[:, None] * (data.y[:, None] == np.arange(classes))
        self._prior = np.log((one_hot.sum(axis=0) + 1e-9) / (one_hot.sum() + 1e-9 * classes))
        self._edges, self._votes, self._spread = [], [], np.zeros(self.width)
        for j in range(self.width):
            self._edges.append(self._cut(data.X[:, j], j))
            bins = self._bin(data.X[:, j], j)
            counts = np.zeros((len(self._edges[j]) + 2, classes))
            np.add.at(counts, bins, one_hot)
            counts += self.parameters.smoothing / classes
            self._votes.append(np.log(counts / counts.sum(axis=0)))
            odds = self._votes[j] - self._votes[j].mean(axis=1, keepdims=True)
            self._spread[j] = float(
                np.average(np.abs(odds).sum(axis=1), weights=counts.sum(axis=1))
            )

    def _cut(self, values: Array, j: int) -> Array:
        """Inner edges: a category's codes lie between the halves."""
        if j in self.categories:
            return np.asarray(np.arange(self.categories[j] - 1) + 0.5, dtype=np.float64)
        present = values[~np.isnan(values)]
        if not len(present):
            return np.empty(0)
        shares = np.arange(1, self.parameters.bins) / self.parameters.bins
        edges = np.unique(np.quantile(present, shares, method="inverted_cdf"))
        return np.asarray(edges[edges < present.max()], dtype=np.float64)

    def _bin(self, values: Array, j: int) -> npt.NDArray[np.int64]:
        edges = self._edges[j]
        return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))

    def _log(self, X: Array) -> Array:
        total = np.tile(self._prior, (len(X), 1))
        for j in range(self.width):
            total += self._votes[j][self._bin(X[:, j], j)]
        return total

    def _predict(self, X: Array) -> Array:
        total = self._log(X)
        if self.answer == "yes_no":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (total[:, 1] - total[:, 0]))))
        odds = np.exp(total - total.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def _contributions(self, X: Array) -> Array:
        out = np.empty((len(X), self.width + 1))
        out[:, -1] = self._prior[1] - self._prior[0]
        for j in range(self.width):
            vote = self._votes[j][self._bin(X[:, j], j)]
            out[:, j] = vote[:, 1] - vote[:, 0]
        return out

    def _importance(self) -> Array:
        return self._spread

    def _state(self) -> State:
        arrays: dict[str, npt.NDArray[Any]] = {"prior": self._prior, "spread": self._spread}
        for j in range(self.width):
            arrays[f"edges{j}"], arrays[f"votes{j}"] = self._edges[j], self._votes[j]
        return State({}, arrays)

    def _restore(self, state: State) -> None:
        self._prior, self._spread = state.arrays["prior"], state.arrays["spread"]
        self._edges = [state.arrays[f"edges{j}"] for j in range(len(self._spread))]
        self._votes = [state.arrays[f"votes{j}"] for j in range(len(self._spread))]
