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
from propend.recommend.attributes import grouped
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
    ``by``: a user attribute whose groups have a list each (numbers: fifths); ``prior``: how many users of
    the whole stand beside a group's own, so that small groups follow everybody.
    """

    half_life: Annotated[float, Meta(gt=0)] | None = None
    count: Literal["users", "events", "weight"] = "users"
    by: str | None = None
    prior: Annotated[float, Meta(gt=0)] = 20.0


class Popularity(Recommender):
    """The same list for everyone, or for a group: how many users chose an item, recent ones counting more if asked.

    With a half-life h an interaction of age a counts 2^(−a/h): an exponential window, which as a
    baseline is much harder to beat than all-time popularity (Ji et al., "A re-visit of the popularity
    baseline in recommender systems", SIGIR 2020).

    By group s the score is (n_si + prior · p_i) / (n_s + prior), with n_si what the group gave the item,
    n_s its users and p_i everybody's share: a user without a group, or a session, gets p_i. A user who
    met nothing yet but whose attribute is known has the group's list.

    Raises ``NotEnoughDataError`` for a half-life where the interactions have no clock, ``ModelError``
    for a group that is no user attribute.

    Examples
    --------
    >>> from propend.names import DAY
    >>> log = Interactions.of([1, 2, 3], [0, 0, 1], [0, 0, 60 * DAY])
    >>> Popularity().fit(log).recommend([9], k=1).lists()
    [[0]]
    >>> Popularity(half_life=30).fit(log).recommend([9], k=1).lists()
    [[1]]
    >>> log = Interactions.from_lists([[0], [0], [0], [1], [1]])
    >>> from propend.events.timelines import Column
    >>> country = Column(np.array([0, 0, 0, 1, 1, 1], np.int32), ("DE", "FR"))
    >>> shelf = Popularity(by="country", prior=1.0).fit(log, users={"country": country})
    >>> shelf.recommend([5], k=1).lists(), shelf.reason(5, 1)     # user 5 of FR met nothing yet
    ([[1]], 'popular where country = FR: chosen by 2 of 2 users')
    """

    name = "popularity"
    shares = True
    Parameters = PopularityParameters
    personal = False

    parameters: PopularityParameters
    _strength: F64
    _buyers: npt.NDArray[np.int64]
    """Users who chose the item; by group: int64 [groups, n_items], the last row everybody."""
    _group: npt.NDArray[np.int64]
    """Group of each user code, −1 for none; empty where nothing is grouped."""
    _sizes: npt.NDArray[np.int64]
    _groups: tuple[str, ...]

    @property
    def label(self) -> str:
        """Whether it fades and what it is grouped by stand in it."""
        p = self.parameters
        fading = "_recent" if p.half_life is not None else ""
        return f"{self.name}{fading}" + (f"_by_{p.by}" if p.by is not None else "")

    def _learn(self, log: Interactions) -> None:
        half_life = self.parameters.half_life
        if half_life is not None and not log.clock:
            raise NotEnoughDataError(
                "'popularity' can fade with time only where interactions have times; leave half_life out"
            )
        self._group, self._groups = np.zeros(0, np.int64), ()
        if self.parameters.by is not None:
            self._group, self._groups = grouped(self._people, self.parameters.by, "user")
        pairs = last_of_pair(log)
        rows = pairs if self.parameters.count == "users" else np.arange(len(log))
        value: Any = np.ones(len(rows))
        if self.parameters.count == "weight":
            value = np.asarray(log.weight[rows], np.float64)
        if half_life is not None:
            value = value * np.exp2((log.time[rows] - self._at) / (half_life * DAY))
        self._buyers = self._by_group(log, pairs, None).astype(np.int64)
        self._strength = self._by_group(log, rows, value)
        self._sizes = np.bincount(self._group_of(log.users), minlength=len(self._groups) + 1)
        self._sizes[-1] = log.n_users
        if self._groups:
            prior, everybody = self.parameters.prior, self._strength[-1] / log.n_users
            given = self._strength[:-1] + prior * everybody
            self._strength[:-1] = given / (self._sizes[:-1, None] + prior)
            self._strength[-1] = everybody

    def _by_group(self, log: Interactions, rows: Any, value: Any) -> F64:
        """Add up by group and item: float64 [groups + 1, n_items], the last row everybody."""
        group = self._group_of(log.user[rows])
        size = (len(self._groups) + 1) * log.n_items
        key = group * log.n_items + log.item[rows]
        out = np.bincount(key, value, size).reshape(-1, log.n_items).astype(np.float64)
        out[-1] = np.bincount(log.item[rows], value, log.n_items)
        return out

    def _group_of(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of each user's group; the last for one without."""
        known = (users >= 0) & (users < len(self._group))
        group = np.full(len(users), -1, np.int64)
        group[known] = self._group[users[known]]
        return np.where(group >= 0, group, len(self._groups))

    def _score(self, histories: Histories, at: int) -> F32:
        del at  # everything fades alike, so the order stays
        known = np.where(self._strength[-1] > 0, self._strength, NO_OPINION).astype(np.float32)
        return known[self._group_of(histories.users)]

    def _because(
        self, histories: Histories, items: npt.NDArray[np.int32], names: Sequence[str] | None
    ) -> list[list[str]]:
        del names
        word = "popular" if self.parameters.half_life is None else "popular lately"
        told: dict[tuple[int, int], str] = {}
        out = []
        for group, row in zip(
            self._group_of(histories.users).tolist(), items.tolist(), strict=True
        ):
            for item in row:
                if (group, item) not in told:
                    told[group, item] = self._sentence(word, group, item) if item >= 0 else ""
            out.append([told[group, item] for item in row])
        return out

    def _sentence(self, word: str, group: int, item: int) -> str:
        """Say how many chose it, in the group if anybody there did."""
        where = ""
        if group < len(self._groups) and self._buyers[group, item]:
            where = f" where {self._groups[group]}"
        else:
            group = len(self._groups)
        return f"{word}{where}: chosen by {self._buyers[group, item]:,} of {self._sizes[group]:,} users"

    def _state(self) -> State:
        arrays = {"strength": self._strength, "buyers": self._buyers}
        arrays |= {"group": self._group, "sizes": self._sizes}
        return State({"groups": list(self._groups)}, arrays)

    def _restore(self, state: State) -> None:
        self._strength, self._buyers = state.arrays["strength"], state.arrays["buyers"]
        self._group, self._sizes = state.arrays["group"], state.arrays["sizes"]
        self._groups = tuple(state.header["groups"])


def last_of_pair(log: Interactions) -> npt.NDArray[Any]:
    """Return the row of the latest interaction of each (user, item) pair."""
    order = np.lexsort((log.item, log.user))  # stable: time stays ascending within a pair
    user, item = log.user[order], log.item[order]
    last = np.append((user[1:] != user[:-1]) | (item[1:] != item[:-1]), True)
    return order[last[: len(order)]]
