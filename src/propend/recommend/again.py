"""What a user has bought before and is about due to buy again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommender, State

__all__ = ["BuyAgain", "BuyAgainParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BuyAgainParameters:
    """``least_weight``: interactions at least this strong are purchases (default: the strongest there are).

    ``prior``: how many days of everybody's behaviour stand beside an item's own. ``least_rate``:
    purchases per day below which an item is not offered again.
    """

    least_weight: float | None = None
    prior: Annotated[float, Meta(gt=0)] = 60.0
    least_rate: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class _Pairs:
    """Each (row, item) bought: times bought (on different days), first and last time."""

    row: I64
    item: I64
    count: I64
    first: I64
    last: I64


class BuyAgain(Recommender):
    """Repeat purchases by a Poisson–gamma rate, damped while the item is still fresh.

    A user who bought an item n times over T days buys it again at the rate λ = (n − 1 + α) / (T + β)
    per day, with α/β the item's own repeat rate over all its buyers, shrunk to everybody's (Bhagat et
    al., "Buy It Again: Modeling repeat purchase recommendations", KDD 2018). The score is λ times
    s / (s + g/2): s days since the last purchase, g = 1/λ the expected gap; just bought is not due.
    Purchases of one day count once.

    Examples
    --------
    >>> day = np.array([0, 10, 20, 0, 20]) * DAY
    >>> log = Interactions.of([1, 1, 1, 1, 2], [0, 0, 0, 1, 1], day)
    >>> again = BuyAgain().fit(log, at=30 * DAY)
    >>> again.recommend([1, 2, 3], k=2).lists()
    [[0, 1], [1], []]
    >>> again.reason(1, 0)
    'bought 3 times, about every 10 days, last 10 days ago'
    """

    name = "buy_again"
    shares = True
    Parameters = BuyAgainParameters
    repeats = True

    parameters: BuyAgainParameters
    _least: float
    _rate: F64
    """Repeats per day of owning the item, float64 [n_items]."""

    def _learn(self, log: Interactions) -> None:
        if not log.clock:
            raise NotEnoughDataError(
                "'buy_again' needs to know when things were bought; give interactions times"
            )
        least = self.parameters.least_weight
        self._least = float(log.weight.max()) if least is None else least
        pairs = self._pairs(log.histories())
        days = np.maximum((self._at - pairs.first) / DAY, 1.0)
        repeats = np.bincount(pairs.item, pairs.count - 1, log.n_items)
        owned = np.bincount(pairs.item, days, log.n_items)
        common = (repeats.sum() + 0.5) / (owned.sum() + 1.0)
        prior = self.parameters.prior
        self._rate = (repeats + common * prior) / (owned + prior)

    def _pairs(self, histories: Histories) -> _Pairs:
        bought = histories.weight >= self._least
        row, item = histories.row[bought], histories.items[bought].astype(np.int64)
        time = histories.time[bought]
        order = np.lexsort((item, row))  # stable: time stays ascending within a pair
        row, item, time = row[order], item[order], time[order]
        start = np.ones(len(row), np.bool_)
        start[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
        new_day = start.copy()
        new_day[1:] |= time[1:] // DAY != time[:-1] // DAY
        at = np.flatnonzero(start)
        end = np.append(at[1:], len(row)) - 1
        count = np.add.reduceat(new_day.astype(np.int64), at) if len(at) else at
        return _Pairs(row[at], item[at], count, time[at], time[end[: len(at)]])

    def _rates(self, pairs: _Pairs, at: int) -> tuple[F64, F64]:
        """Return each pair's purchases per day and the days since the last."""
        prior = self.parameters.prior
        days = np.maximum((at - pairs.first) / DAY, 0.0)
        rate = (pairs.count - 1 + self._rate[pairs.item] * prior) / (days + prior)
        return rate, np.maximum((at - pairs.last) / DAY, 0.0)

    def _knows(self, item: int) -> bool:
        del item  # who has not bought it will not buy it again
        return False

    def _score(self, histories: Histories, at: int) -> F32:
        scores = np.full((len(histories), self._fitted().n_items), NO_OPINION, np.float32)
        pairs = self._pairs(histories)
        rate, since = self._rates(pairs, at)
        value = rate * since / (since + 0.5 / rate)
        value[value < self.parameters.least_rate] = NO_OPINION
        scores[pairs.row, pairs.item] = value
        return scores

    def _because(
        self, histories: Histories, items: npt.NDArray[np.int32], names: Sequence[str] | None
    ) -> list[list[str]]:
        del names
        pairs = self._pairs(histories)
        _, since = self._rates(pairs, self._at)
        told = {}
        for n, row, item in zip(range(len(since)), pairs.row, pairs.item, strict=True):
            times = int(pairs.count[n])
            gap = (pairs.last[n] - pairs.first[n]) / DAY / max(times - 1, 1)
            often = f" {times} times, about every {gap:.0f} days," if times > 1 else ""
            last = " last" if times > 1 else ""
            told[int(row), int(item)] = f"bought{often}{last} {since[n]:.0f} days ago"
        return [
            [told.get((r, i), "bought before" if i >= 0 else "") for i in row]
            for r, row in enumerate(items.tolist())
        ]

    def _state(self) -> State:
        return State({"least": self._least}, {"rate": self._rate})

    def _restore(self, state: State) -> None:
        self._least, self._rate = state.header["least"], state.arrays["rate"]
