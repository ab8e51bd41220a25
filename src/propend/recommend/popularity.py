"""What everybody likes: popularity, plain or fading with time. The baseline of every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommender, State

__all__ = ["Popularity", "PopularityParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PopularityParameters:
    """``half_life``: days after which an interaction counts half; none: it never fades.

    ``count``: each user once per item (``users``), every event (``events``) or its weight (``weight``).
    """

    half_life: Annotated[float, Meta(gt=0)] | None = None
    count: Literal["users", "events", "weight"] = "users"


class Popularity(Recommender):
    """The same list for everyone: how many users chose an item, recent ones counting more if asked.

    With a half-life h an interaction of age a counts 2^(−a/h): an exponential window, which as a
    baseline is much harder to beat than all-time popularity (Ji et al., "A re-visit of the popularity
    baseline in recommender systems", SIGIR 2020).

    Raises ``NotEnoughDataError`` for a half-life where the interactions have no clock.

    Examples
    --------
    >>> from propend.names import DAY
    >>> log = Interactions.of([1, 2, 3], [0, 0, 1], [0, 0, 60 * DAY])
    >>> Popularity().fit(log).recommend([9], k=1).lists()
    [[0]]
    >>> Popularity(half_life=30).fit(log).recommend([9], k=1).lists()
    [[1]]
    """

    name = "popularity"
    Parameters = PopularityParameters
    personal = False

    parameters: PopularityParameters
    _strength: F64
    _buyers: npt.NDArray[np.int64]

    def _learn(self, log: Interactions) -> None:
        half_life = self.parameters.half_life
        if half_life is not None and not log.clock:
            raise NotEnoughDataError(
                "'popularity' can fade with time only where interactions have times; leave half_life out"
            )
        rows = last_of_pair(log)
        self._buyers = np.bincount(log.item[rows], minlength=log.n_items)
        if self.parameters.count != "users":
            rows = np.arange(len(log))
        value: Any = np.ones(len(rows))
        if self.parameters.count == "weight":
            value = np.asarray(log.weight[rows], np.float64)
        if half_life is not None:
            value = value * np.exp2((log.time[rows] - self._at) / (half_life * DAY))
        self._strength = np.bincount(log.item[rows], value, log.n_items).astype(np.float64)

    def _score(self, histories: Histories, at: int) -> F32:
        del at  # everything fades alike, so the order stays
        one = np.where(self._strength > 0, self._strength, NO_OPINION).astype(np.float32)
        return np.tile(one, (len(histories), 1))

    def _because(
        self, histories: Histories, items: npt.NDArray[np.int32], names: Sequence[str] | None
    ) -> list[list[str]]:
        del histories, names
        told: dict[int, str] = {-1: ""}
        word = "popular" if self.parameters.half_life is None else "popular lately"
        users = self._fitted().n_users
        for item in np.unique(items[items >= 0]).tolist():
            told[item] = f"{word}: chosen by {self._buyers[item]:,} of {users:,} users"
        return [[told[item] for item in row] for row in items.tolist()]

    def _state(self) -> State:
        return State({}, {"strength": self._strength, "buyers": self._buyers})

    def _restore(self, state: State) -> None:
        self._strength, self._buyers = state.arrays["strength"], state.arrays["buyers"]


def last_of_pair(log: Interactions) -> npt.NDArray[Any]:
    """Return the row of the latest interaction of each (user, item) pair."""
    order = np.lexsort((log.item, log.user))  # stable: time stays ascending within a pair
    user, item = log.user[order], log.item[order]
    last = np.append((user[1:] != user[:-1]) | (item[1:] != item[:-1]), True)
    return order[last[: len(order)]]
