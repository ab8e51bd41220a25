"""Ensembles of other models: stacking on out-of-fold scores, blending with weights that sum to 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from propend.errors import ModelError, NotEnoughDataError
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["BlendParameters", "Blending", "StackParameters", "Stacking"]

_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class StackParameters:
    """Settings of :class:`Stacking`."""

    models: tuple[str, ...] = ()
    """Names in the catalogue; empty: a linear model, boosted trees and extra trees."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    folds: Annotated[int, msgspec.Meta(ge=2, le=20)] = 4


@dataclass(frozen=True, slots=True)
class BlendParameters:
    """Settings of :class:`Blending`."""

    models: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    held: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    """Share of rows the weights are learnt on where no ``validation`` is given."""


class _Ensemble(Model):
    """Base models and a non-negative weight for each, on the margin scale for yes/no."""

    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count"})
    missing: ClassVar[Missing] = "native"
    parts: list[Model]
    weights: Array
    """One per part."""
    _bias: float

    @property
    def members(self) -> tuple[str, ...]:
        """The base models' names."""
        if self.parameters.models:
            return tuple(self.parameters.models)
        first = "logistic" if self.answer == "yes_no" else "linear"
        return (first, "trees", "extra_trees")

    def _new(self, name: str) -> Model:
        from propend.models import catalog

        kind = catalog.find(name)
        if issubclass(kind, _Ensemble):
            raise ModelError(f"'{self.name}' holds single models, '{name}' is an ensemble itself")
        return kind(self.answer, **self.parameters.settings.get(name, {}))

    def _fit_part(self, name: str, data: Data, seed: int) -> Model:
        return self._new(name).fit(
            data.X,
            data.y,
            weight=data.weight,
            columns=self.columns,
            categories=self.categories,
            groups=data.groups,
            seed=seed,
        )

    def _scaled(self, scores: Array) -> Array:
        if self.answer != "yes_no":
            return scores
        held = np.clip(scores, _EDGE, 1 - _EDGE)
        return np.asarray(np.log(held) - np.log1p(-held))

    def _unscaled(self, margin: Array) -> Array:
        if self.answer == "yes_no":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))
        return np.maximum(margin, 0.0) if self.answer == "count" else margin

    def _mix(self, scores: Array, data: Data) -> None:
        """Learn weights ≥ 0 (and a bias) that minimise the answer's loss on scores nobody was fitted on."""
        from scipy.optimize import minimize

        S = np.column_stack([self._scaled(s) for s in scores])
        w = data.weights / data.weights.sum()
        unit = 1.0 if self.answer == "yes_no" else float(data.y.std()) or 1.0
        S, y = S / unit, data.y / unit

        def loss(theta: Array) -> tuple[float, Array]:
            margin = S @ theta[:-1] + theta[-1]
            if self.answer == "yes_no":
                value = np.logaddexp(0.0, margin) - y * margin
                slope = 0.5 * (1.0 + np.tanh(0.5 * margin)) - y
            else:
                value, slope = (margin - y) ** 2, 2 * (margin - y)
            small = 1e-4 * float((theta[:-1] ** 2).sum())
            gradient = np.r_[S.T @ (w * slope) + 2e-4 * theta[:-1], float(w @ slope)]
            return float(w @ value) + small, gradient

        count = S.shape[1]
        start = np.r_[np.full(count, 1.0 / count), 0.0]
        bounds = [(0.0, None)] * count + [self._bias_bounds()]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        self.weights, self._bias = np.asarray(found.x[:-1]), float(found.x[-1]) * unit

    def _bias_bounds(self) -> tuple[float | None, float | None]:
        return (None, None)

    def _predict(self, X: Array) -> Array:
        margin = np.full(len(X), self._bias)
        for weight, part in zip(self.weights, self.parts, strict=True):
            if weight > 0:
                margin = margin + weight * self._scaled(part.predict(X))
        return self._unscaled(margin)

    def _importance(self) -> Array:
        total = np.zeros(self.width)
        for weight, part in zip(self.weights, self.parts, strict=True):
            try:
                total += weight * part.importance()
            except ModelError:
                continue
        return total

    def _state(self) -> State:
        state = State(
            {"bias": self._bias, "names": [part.name for part in self.parts]},
            {"mix": self.weights},
        )
        for i, part in enumerate(self.parts):
            state.nest(f"part{i}", part.state())
        return state

    def _restore(self, state: State) -> None:
        from propend.models import catalog

        self._bias, self.weights = float(state.header["bias"]), state.arrays["mix"]
        self.parts = [
            catalog.find(name).from_state(state.part(f"part{i}"))
            for i, name in enumerate(state.header["names"])
        ]


class Stacking(_Ensemble):
    """A second model over the first ones' out-of-fold scores (Wolpert 1992; weights ≥ 0, Breiman 1996).

    The weights are learnt on scores of rows each base model had not seen; then the base models are
    fitted on all rows. Rows of one group (a user at many moments) stay in one fold.

    >>> Stacking("yes_no", models=("logistic", "naive_bayes"))
    Stacking('yes_no', models=('logistic', 'naive_bayes'))
    """

    name: ClassVar[str] = "stacking"
    Parameters: ClassVar[type[Any]] = StackParameters
    parameters: StackParameters

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        if len(data) < 4 * self.parameters.folds:
            raise NotEnoughDataError(
                f"stacking over {self.parameters.folds} folds needs at least {4 * self.parameters.folds} rows, got {len(data)}"
            )
        fold = _folds(data, self.parameters.folds, seed, self.answer)
        scores = np.empty((len(self.members), len(data)))
        for k in range(self.parameters.folds):
            inside = data.where(fold != k)
            for i, name in enumerate(self.members):
                part = self._fit_part(name, inside, seed)
                scores[i, fold == k] = part.predict(data.X[fold == k])
        self._mix(scores, data)
        self.parts = [self._fit_part(name, data, seed) for name in self.members]


class Blending(_Ensemble):
    """Base models averaged with weights learnt on held-out rows: ``validation``, else a random share.

    >>> Blending("amount", models=("linear", "trees"), held=0.3)
    Blending('amount', models=('linear', 'trees'), held=0.3)
    """

    name: ClassVar[str] = "blending"
    Parameters: ClassVar[type[Any]] = BlendParameters
    parameters: BlendParameters

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        inner, held = data, validation
        if held is None:
            folds = max(2, round(1 / self.parameters.held))
            out = _folds(data, folds, seed, self.answer) == 0
            inner, held = data.where(~out), data.where(out)
        firsts = [self._fit_part(name, inner, seed) for name in self.members]
        self._mix(np.array([part.predict(held.X) for part in firsts]), held)
        self.parts = (
            firsts if inner is data else [self._fit_part(name, data, seed) for name in self.members]
        )

    @classmethod
    def of(cls, parts: list[Model]) -> Blending:
        """Return the equal-weight mean (of margins, for yes/no) of models that are fitted on the same columns.

        Raises ``ModelError`` where they are not fitted, or not alike.
        """
        if len({(part.answer, part.width, part.columns) for part in parts}) != 1:
            raise ModelError(
                "only models fitted on the same columns for the same answer can be blended"
            )
        blend = cls(parts[0].answer, models=tuple(part.name for part in parts))
        blend._shape = parts[0]._shape
        blend.parts, blend._bias = list(parts), 0.0
        blend.weights = np.full(len(parts), 1.0 / len(parts))
        return blend

    def _contributions(self, X: Array) -> Array:
        total = np.zeros((len(X), X.shape[1] + 1))
        for weight, part in zip(self.weights, self.parts, strict=True):
            if weight > 0:
                if part.link != self.link:  # shares and logits have no sum
                    raise ModelError(
                        f"'{part.name}' tells its reasons on another scale than '{self.name}' adds up; explain it by itself"
                    )
                total += weight * part.contributions(X)
        total[:, -1] += self._bias
        return total

    def _bias_bounds(self) -> tuple[float | None, float | None]:
        return (0.0, 0.0)


def _folds(data: Data, folds: int, seed: int, answer: Answer) -> Any:
    """Fold of each row; both answers of yes/no are spread evenly. Groups, where there are any, stay whole."""
    rng, y = np.random.default_rng(seed), data.y
    if data.groups is not None:
        return (rng.permutation(int(data.groups.max()) + 1) % folds)[data.groups]
    strata = y if answer == "yes_no" else np.argsort(np.argsort(y, kind="stable")) * 8 // len(y)
    fold = np.empty(len(y), dtype=np.int64)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        fold[rows] = np.arange(len(rows)) % folds
    return fold
