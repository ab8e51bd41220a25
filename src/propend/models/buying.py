"""BG/NBD and Gamma-Gamma behind the contract: the classic customer base model beside every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from propend.errors import ModelError, NotEnoughDataError
from propend.models.lifetimes import BgNbd, GammaGamma
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["BgNbdParameters", "RepeatBuying"]

_MOST: int = 50_000
"""Most rows the likelihood is taken over (a seeded draw); its four parameters need no more."""


@dataclass(frozen=True, slots=True)
class BgNbdParameters:
    """Settings of :class:`RepeatBuying`: where its columns are (index or name), and how far ahead."""

    since: int | str = 0
    """Days since the last purchase."""
    first: int | str = 1
    """Days since the first purchase."""
    days: int | str = 2
    """Different days with a purchase."""
    total: int | str | None = None
    """Money spent over all of them; for amounts."""
    horizon: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """Days ahead."""
    level: bool = True
    """Whether the total is brought to the labels' own (purchases counted in lines or pieces, prices
    that moved); ``False`` gives the bare model, which never looks at the labels."""


class RepeatBuying(Model):
    """BG/NBD (Fader, Hardie & Lee 2005) for counts, times Gamma-Gamma for amounts.

    The parameters are learnt from the histories in the columns, not from the labels: a customer's
    repeat days, the time between first and last, and the time since the first. Labels set the level
    only. Rows without a purchase get the mean label of such rows. Where nobody bought twice, every
    customer gets the mean of customers. A row counts as often as its user was asked.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[2.0, 60.0, 6.0], [50.0, 60.0, 2.0], [60.0, 60.0, 1.0]] * 20)
    >>> y = np.array([4.0, 1.0, 0.0] * 20)
    >>> model = RepeatBuying("count", horizon=30).fit(X, y, columns=("since", "first", "days"))
    >>> bool(model.predict(X[:1])[0] > 4 * model.predict(X[1:3]).max())
    True
    """

    name: ClassVar[str] = "bg_nbd"
    answers: ClassVar[frozenset[Answer]] = frozenset({"amount", "count"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = BgNbdParameters
    parameters: BgNbdParameters
    purchases: BgNbd | None
    spend: GammaGamma | None

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        x, tx, age, value, known = self._history(data.X)
        mean = float(np.average(data.y, weights=data.weight))
        self._stranger = _average(data, ~known, mean)
        self._customer = _average(data, known, mean)
        self.purchases = self.spend = None
        self._level = 1.0
        rows = np.flatnonzero(known & (data.weights > 0))
        if len(rows) > _MOST:
            rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))
        weight = data.weights[rows]
        try:
            self.purchases = BgNbd.fit(x[rows], tx[rows], age[rows], weight=weight)
        except NotEnoughDataError:
            return
        if value is not None:
            self.spend = _spend(x[rows] + 1, value[rows], weight)
        if self.parameters.level:
            expected = float((data.weights * self._expected(data.X))[known].sum())
            found = float((data.weights * data.y)[known].sum())
            self._level = found / expected if expected > 0 else 1.0

    def _history(self, X: Array) -> tuple[Array, Array, Array, Array | None, Any]:
        """Repeat days, days from first to last, days since the first, value a day; who has any."""
        chosen = self.parameters
        since, first, days = (
            np.maximum(X[:, self.column(c)], 0.0) for c in (chosen.since, chosen.first, chosen.days)
        )
        known = ~(np.isnan(since) | np.isnan(first) | np.isnan(days)) & (days > 0)
        x = np.where(known, np.maximum(days - 1.0, 0.0), 0.0)
        age = np.where(known, first, 0.0)
        tx = np.where(x > 0, np.clip(age - np.where(known, since, 0.0), 0.0, age), 0.0)
        if chosen.total is None:
            return x, tx, age, None, known
        total = np.nan_to_num(np.maximum(X[:, self.column(chosen.total)], 0.0))
        return x, tx, age, np.where(known, total / np.where(known, days, 1.0), 0.0), known

    def _expected(self, X: Array) -> Array:
        x, tx, age, value, known = self._history(X)
        if self.purchases is None:
            return np.where(known, self._customer, self._stranger)
        count = _count(self.purchases, self.parameters.horizon, x, tx, age)
        each = np.ones(len(X))
        if value is not None and self.answer == "amount":
            each = value if self.spend is None else self.spend.expected_spend(x + 1, value)
        return np.where(known, self._level * count * each, self._stranger)

    def _predict(self, X: Array) -> Array:
        return self._expected(X)

    def _importance(self) -> Array:
        out = np.zeros(self.width)
        chosen = self.parameters
        for column in (chosen.since, chosen.first, chosen.days, chosen.total):
            if column is not None:
                out[self.column(column)] += 1.0
        return out

    def _state(self) -> State:
        return State(
            {
                "purchases": None if self.purchases is None else self.purchases.state(),
                "spend": None if self.spend is None else self.spend.state(),
                "level": self._level,
                "stranger": self._stranger,
                "customer": self._customer,
            }
        )

    def _restore(self, state: State) -> None:
        own = state.header
        self.purchases = None if own["purchases"] is None else BgNbd(**own["purchases"])
        self.spend = None if own["spend"] is None else GammaGamma(**own["spend"])
        self._level, self._stranger = float(own["level"]), float(own["stranger"])
        self._customer = float(own["customer"])


def _count(model: BgNbd, horizon: float, x: Array, tx: Array, age: Array) -> Array:
    """Expected purchases; where the hypergeometric function leaves its range, without later leaving."""
    with np.errstate(all="ignore"):
        count = model.expected_purchases(horizon, x, tx, age)
    steady = horizon * (model.r + x) / (model.alpha + age) * model.probability_alive(x, tx, age)
    return np.where(np.isfinite(count) & (count >= 0), count, steady)


def _average(data: Data, rows: Any, otherwise: float) -> float:
    weight = data.weights[rows]
    return float(np.average(data.y[rows], weights=weight)) if weight.sum() > 0 else otherwise


def _spend(purchases: Array, value: Array, weight: Array) -> GammaGamma | None:
    """Gamma-Gamma, or none where the values have no such mean; each customer's own mean then."""
    try:
        spend = GammaGamma.fit(purchases, value, weight=weight)
        spend.expected_spend([1.0], [0.0])
    except (ModelError, NotEnoughDataError):
        return None
    return spend
