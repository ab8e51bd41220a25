"""Two-part model of customer value: will they pay at all, and if so, how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.models.linear import LinearRegression, LogisticRegression
from propend.models.model import Answer, Array, Data, Link, Missing, Model, Validation
from propend.models.storage import State
from propend.models.trees import Trees

__all__ = ["TwoPart", "TwoPartParameters"]

_ENOUGH = 50
_STILL = 1e-6
"""Moves of a logit below this are straight."""


@dataclass(frozen=True, slots=True)
class TwoPartParameters:
    """Settings of :class:`TwoPart`."""

    base: Literal["trees", "linear"] = "trees"
    size: Literal["lognormal", "gamma"] = "lognormal"
    """How the amount of those who pay is modelled."""
    threads: int = 0


class TwoPart(Model):
    """Expected value = P(value > 0) · E[value | value > 0] (Cragg 1971; Duan et al. 1983).

    ``lognormal`` fits log value and turns it back with Duan's smearing factor (JASA 1983), weighted
    so that the predicted total of the payers is the true one, on ``validation`` where it has at
    least 50 payers; ``gamma`` fits the mean directly with a log link. For one model of both parts
    see ``Trees("amount", loss="tweedie")``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 1))
    >>> pays = rng.random(2000) < 1 / (1 + np.exp(1 - X[:, 0]))
    >>> y = np.where(pays, np.exp(3 + 0.5 * X[:, 0] + rng.normal(size=2000)), 0.0)
    >>> model = TwoPart("amount", base="linear").fit(X, y)
    >>> bool(abs(model.predict(X).sum() / y.sum() - 1) < 0.05)
    True
    """

    name: ClassVar[str] = "two_part"
    answers: ClassVar[frozenset[Answer]] = frozenset({"amount", "count"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = TwoPartParameters
    parameters: TwoPartParameters
    chance: Model | float
    """P(value > 0): a model, or a number where all rows pay."""
    size: Model | float
    """E[value | value > 0], or of its logarithm; a number where all payers pay the same."""
    smearing: float

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        if data.y.min() < 0:
            negative = int((data.y < 0).sum())
            raise ModelError(
                f"'{self.name}' needs values of 0 or more, {negative} are negative; "
                "set them to 0, or use 'trees' or 'linear'"
            )
        paid = data.y > 0 if data.weight is None else (data.y > 0) & (data.weight > 0)
        held = None if validation is None else validation.y > 0
        self.chance = self._fit_chance(data, validation, seed)
        payers = data.where(paid)
        held_payers = None if validation is None or held is None else validation.where(held)
        self.size = self._fit_size(payers, _enough(held_payers), seed)
        self.smearing = self._smearing(_enough(held_payers) or payers)

    def _fit_chance(self, data: Data, validation: Data | None, seed: int) -> Model | float:
        if data.y.min() > 0:
            return 1.0
        return self._part("chance").fit(
            data.X,
            data.y > 0,
            weight=data.weight,
            categories=self.categories,
            validation=None if validation is None else _told(validation, validation.y > 0),
            seed=seed,
        )

    def _fit_size(self, payers: Data, held: Data | None, seed: int) -> Model | float:
        if payers.y.min() == payers.y.max():
            return float(self._scaled(payers.y[:1])[0])
        return self._part("size").fit(
            payers.X,
            self._scaled(payers.y),
            weight=payers.weight,
            categories=self.categories,
            validation=None if held is None else _told(held, self._scaled(held.y)),
            seed=seed,
        )

    def _part(self, part: Literal["chance", "size"]) -> Model:
        trees = {"threads": self.parameters.threads}
        gamma = self.parameters.size == "gamma"
        if self.parameters.base == "trees":
            if part == "chance":
                return Trees("yes_no", **trees)
            return Trees("amount", loss="gamma" if gamma else "l2", **trees)
        if part == "chance":
            return LogisticRegression("yes_no")
        return LinearRegression("amount", family="gamma" if gamma else "normal")

    def _scaled(self, y: Array) -> Array:
        return y if self.parameters.size == "gamma" else np.log(y)

    def _smearing(self, payers: Data) -> float:
        if self.parameters.size == "gamma" or isinstance(self.size, float):
            return 1.0
        expected = np.exp(_score(self.size, payers.X))
        return float((payers.weights * payers.y).sum() / (payers.weights * expected).sum())

    def _predict(self, X: Array) -> Array:
        size = _score(self.size, X)
        if self.parameters.size == "lognormal":
            size = np.exp(size) * self.smearing
        return np.asarray(_score(self.chance, X) * size)

    @property
    def link(self) -> Link:
        return "log"

    def _contributions(self, X: Array) -> Array:
        """On the logarithm: of the chance and of the size, added.

        The chance's parts are of its logit; they are carried over by its rescale rule, the change of the logarithm over the
        change of the logit from the bias to the row (DeepLIFT, Shrikumar et al., ICML 2017), so that they add up exactly.
        """
        total = np.zeros((len(X), X.shape[1] + 1))
        if isinstance(self.chance, Model):
            parts = self.chance.contributions(X)
            start = parts[:, -1]
            moved = parts[:, :-1].sum(axis=1)
            begin, end = (-np.logaddexp(0.0, -margin) for margin in (start, start + moved))
            slope = 1 / (1 + np.exp(start))  # of log p at the bias, where nothing moved
            far = np.abs(moved) > _STILL
            slope[far] = (end - begin)[far] / moved[far]
            total[:, :-1] += parts[:, :-1] * slope[:, None]
            total[:, -1] += begin
        if isinstance(self.size, Model):
            total += self.size.contributions(X)
        else:
            total[:, -1] += self.size if self.parameters.size == "lognormal" else np.log(self.size)
        total[:, -1] += np.log(self.smearing)
        return total

    def _importance(self) -> Array:
        parts = [part for part in (self.chance, self.size) if isinstance(part, Model)]
        return np.sum([part.importance() for part in parts] or [np.zeros(self.width)], axis=0)

    def _state(self) -> State:
        state = State({"smearing": self.smearing})
        for name, part in (("chance", self.chance), ("size", self.size)):
            state.nest(name, part.state() if isinstance(part, Model) else State({"value": part}))
        return state

    def _restore(self, state: State) -> None:
        self.smearing = float(state.header["smearing"])
        self.chance = self._restored("chance", state.part("chance"))
        self.size = self._restored("size", state.part("size"))

    def _restored(self, name: Literal["chance", "size"], state: State) -> Model | float:
        if "value" in state.header:
            return float(state.header["value"])
        return type(self._part(name)).from_state(state)


def _score(part: Model | float, X: Array) -> Array:
    return np.full(len(X), part) if isinstance(part, float) else part.predict(X)


def _enough(payers: Data | None) -> Data | None:
    if payers is None or len(payers) < _ENOUGH:
        return None
    return payers if payers.weights.sum() > 0 else None


def _told(data: Data, labels: npt.ArrayLike) -> Validation:
    return data.X, labels, data.weight
