"""Categories with very many values, each replaced by its rate and its count, learnt from the training rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.storage import State

__all__ = ["Encoded", "EncodedParameters"]

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class EncodedParameters:
    """Settings of :class:`Encoded`."""

    model: str | None = None
    """Which model of the catalogue sees the encoded columns; None: boosted trees."""
    settings: dict[str, Any] = field(default_factory=dict)
    """That model's settings."""
    most_levels: Annotated[int, msgspec.Meta(ge=2)] = 64
    """A category with more codes than this is encoded; the others stay categories."""
    smoothing: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    """Rows of the overall rate mixed into every value's."""


class Encoded(Model):
    """A model behind target encoding of its high-cardinality categories (Micci-Barreca 2001).

    Such a column becomes two: the smoothed mean of the answer among rows with its value, and the logarithm of how many
    there were. Training rows get the mean of the *other* folds' rows (five, drawn with the seed), so that no row sees its
    own answer, nor that of another row of its group (as ``sklearn.preprocessing.TargetEncoder`` cross-fits); a value never seen, or a missing one, gets the
    overall mean and a count of 0. Contributions are given back to the column they come from.

    >>> rng = np.random.default_rng(0)
    >>> shop = rng.integers(0, 100, 4000)
    >>> y = rng.random(4000) < np.where(shop % 2, 0.7, 0.3)
    >>> model = Encoded("yes_no", model="logistic").fit(shop[:, None], y, categories={0: 100})
    >>> scores = model.predict([[1.0], [2.0], [np.nan]])
    >>> bool(scores[0] > 0.55 > 0.45 > scores[1])
    True
    """

    name: ClassVar[str] = "encoded"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which", "time"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = EncodedParameters
    parameters: EncodedParameters
    inner: Model
    """The model that sees the encoded columns."""
    _rates: dict[int, Array]
    """Per encoded column: the smoothed mean by code, the overall mean last."""
    _counts: dict[int, Array]

    @property
    def link(self) -> Link:
        return self.inner.link if self.fitted else super().link

    @property
    def settled(self) -> dict[str, Any]:
        return self.inner.settled

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        goal = _goal(data.y, self.answer)
        many = [j for j, k in sorted(self.categories.items()) if k > self.parameters.most_levels]
        fold = np.random.default_rng([seed, 1]).integers(0, _FOLDS, len(data))
        if data.groups is not None:
            fold = fold[data.groups]  # a user's other moments know a part of the answer
        out_of_fold = {j: np.empty((len(data), 2)) for j in many}
        for part in range(_FOLDS):
            here = fold == part
            rates, counts = self._learnt(data.X[~here], goal[~here], data.weights[~here], many)
            for j in many:
                codes = _codes(data.X[here, j], len(rates[j]))
                out_of_fold[j][here] = np.column_stack([rates[j][codes], counts[j][codes]])
        self._rates, self._counts = self._learnt(data.X, goal, data.weights, many)
        self._many = np.array(many, dtype=np.int64)
        held = None
        if validation is not None:
            held = self._encoded(validation.X), validation.y, validation.weight
        self.inner = self._new().fit(
            self._encoded(data.X, out_of_fold),
            data.y,
            weight=data.weight,
            columns=None if self.columns is None else self._names_within(self.columns),
            categories={j: k for j, k in self.categories.items() if j not in out_of_fold},
            validation=held,
            seed=seed,
        )
        self.remark = self.inner.remark

    def _new(self) -> Model:
        from propend.models import catalog

        if self.parameters.model == self.name:
            raise ModelError(f"'{self.name}' holds another model, not itself; choose one")
        usual = "hazard_trees" if self.answer == "time" else "trees"
        model = self.parameters.model or usual
        return catalog.create(model, self.answer, **self.parameters.settings)

    def _learnt(
        self, X: Array, goal: Array, weight: Array, many: list[int]
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """Return by column the smoothed mean and the log count of every code, the overall mean and 0 last."""
        base = float(np.average(goal, weights=weight)) if weight.sum() > 0 else 0.0
        rates, counts = {}, {}
        for j in many:
            size = self.categories[j] + 1
            codes = _codes(X[:, j], size)
            there = codes < size - 1
            mass = np.bincount(codes[there], weight[there], minlength=size)
            total = np.bincount(codes[there], (weight * goal)[there], minlength=size)
            smooth = self.parameters.smoothing
            rates[j] = (total + smooth * base) / (mass + smooth)
            counts[j] = np.log1p(mass)
        return rates, counts

    def _encoded(self, X: Array, given: dict[int, Array] | None = None) -> Array:
        """Return the columns with each encoded one as its rate in place and its count at the end."""
        out = np.empty((len(X), self.width + len(self._many)))
        out[:, : self.width] = X
        if len(X) == 1 and given is None:  # plain numbers: for one row arrays are all overhead
            for i, j in enumerate(self._many.tolist()):
                code = -1 if np.isnan(X[0, j]) else int(X[0, j])
                out[0, j] = self._rates[j][code]
                out[0, self.width + i] = self._counts[j][code]
            return out
        for i, j in enumerate(map(int, self._many)):
            codes = _codes(X[:, j], len(self._rates[j]))
            here = self._rates[j][codes], self._counts[j][codes]
            out[:, j], out[:, self.width + i] = here if given is None else given[j].T
        return out

    def _names_within(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        return (*columns, *(f"rows with the same {columns[j]}" for j in self._many))

    def _predict(self, X: Array) -> Array:
        # clean already: its columns are checked as these
        return self.inner._predict(self._encoded(X))

    def _contributions(self, X: Array) -> Array:
        return self._as_given(self.inner.contributions(self._encoded(X)))

    def _contributions_by_class(self, X: Array) -> Array:
        return self._as_given(self.inner._contributions_by_class(self._encoded(X)))

    def _explain(self, X: Array) -> tuple[Array, Array]:
        scores, parts = self.inner._explain(self._encoded(X))
        return scores, self._as_given(parts)

    def _as_given(self, parts: Array) -> Array:
        """Give what encoded columns contribute, parts [..., columns within and bias], back to those they come from."""
        out = np.concatenate([parts[..., : self.width], parts[..., -1:]], axis=-1)
        for i, j in enumerate(self._many):
            out[..., j] += parts[..., self.width + i]
        return out

    def _importance(self) -> Array:
        shares = self.inner.importance()
        out = shares[: self.width].copy()
        np.add.at(out, self._many, shares[self.width :])
        return out

    def _state(self) -> State:
        arrays: dict[str, npt.NDArray[Any]] = {"many": self._many}
        for j in map(int, self._many):
            arrays |= {f"rates{j}": self._rates[j], f"counts{j}": self._counts[j]}
        state = State({}, arrays)
        state.nest("inner", self.inner.state())
        return state

    def _restore(self, state: State) -> None:
        self._many = state.arrays["many"]
        self._rates = {int(j): state.arrays[f"rates{j}"] for j in self._many}
        self._counts = {int(j): state.arrays[f"counts{j}"] for j in self._many}
        self.inner = type(self._new()).from_state(state.part("inner"))
        self.remark = self.inner.remark


def _codes(column: Array, size: int) -> npt.NDArray[np.int64]:
    """Return codes with missing ones as the last."""
    return np.where(np.isnan(column), size - 1, column).astype(np.int64)


def _goal(y: Array, answer: Answer) -> Array:
    """Return what a value's mean is taken of: the answer, or its rank where it has none that adds up."""
    if answer == "time":
        return np.abs(y)
    if answer == "which":
        return (y == np.bincount(y.astype(np.int64)).argmax()).astype(np.float64)
    return y
