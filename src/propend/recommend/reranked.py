"""A recommender whose lists are put together by the shop's rules: variety, margin, stock, pins, exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import ModelError, nearest
from propend.events.timelines import Column
from propend.names import DAY
from propend.recommend.attributes import grouped
from propend.recommend.fallback import Staged
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.recommender import Recommendations, Recommender, State
from propend.recommend.rerank import PINNED, Reranker, not_too_often, scaled, shares_of

__all__ = ["PINNED_REASON", "Reranked", "RerankedParameters", "replenishable"]

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

PINNED_REASON: Final = "pinned by the shop"
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(ge=0)]

_NO = frozenset({"", "0", "no", "false", "out", "none", "n", "sold out", "out of stock"})
"""Texts of a stock attribute that mean there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedParameters:
    """Names of item attributes, weights, and what is shown always or never; see ``rerank.Reranker``.

    ``novelty`` and ``freshness`` are added to the relevance (1 for the best candidate, 0 for the last) of
    what few users have met and of what was first met lately; ``profit`` of what has a high ``margin``.
    ``stock``: attribute that is 0, false or "no" for what cannot be delivered.
    ``bought``: offer again what was bought (``offer``), only what is bought again by at least a share
    ``repeat`` of its buyers, or is marked by the attribute ``replenishable`` (``replenish``), or never
    (``hide``). ``at_most`` times is an item shown to one user, given past exposures; ``most_shown``
    users at most see it in one call. ``deep``: candidates per place of the list.
    """

    category: str | None = None
    diversity: Share = 0.0
    calibration: Share = 0.0
    cap: Annotated[int, Meta(ge=1)] | None = None
    novelty: Weight = 0.0
    freshness: Weight = 0.0
    margin: str | None = None
    profit: Weight = 0.0
    stock: str | None = None
    pin: tuple[int, ...] = ()
    bury: tuple[int, ...] = ()
    bought: Literal["offer", "replenish", "hide"] = "offer"
    replenishable: str | None = None
    repeat: Share = 0.1
    at_most: Annotated[int, Meta(ge=1)] | None = None
    most_shown: Annotated[int, Meta(ge=1)] | None = None
    deep: Annotated[int, Meta(ge=1)] = 5


class Reranked(Staged):
    """One recommender's candidates, several per place, chosen and ordered by the shop's rules.

    Parameters
    ----------
    stages
        one recommender.
    exposures
        (users, items) codes, one pair each time an item was shown, for ``at_most``.
    settings
        the fields of ``RerankedParameters``.

    Raises
    ------
    ModelError
        from ``fit``: an attribute that is not among the items', a pin that is no item; the nearest
        attribute is named.

    Examples
    --------
    >>> from propend.recommend.popularity import Popularity
    >>> log = Interactions.from_lists([[0, 1, 2], [0, 1, 2], [0, 1], [0, 3]])
    >>> kinds = {"kind": Column(np.array([0, 0, 0, 1], np.int32), ("tea", "cup"))}
    >>> Popularity().fit(log).recommend([9], k=3).lists()
    [[0, 1, 2]]
    >>> shelf = Reranked([Popularity()], category="kind", cap=1).fit(log, items=kinds)
    >>> shelf.recommend([9], k=3).lists()
    [[0, 3]]
    """

    name = "reranked"
    Parameters = RerankedParameters
    listwise = True
    parameters: RerankedParameters

    def __init__(
        self,
        stages: Sequence[Recommender] = (),
        *,
        exposures: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.stages = tuple(stages)
        nobody: tuple[npt.ArrayLike, npt.ArrayLike] = ((), ())
        users, items = nobody if exposures is None else exposures
        self._shown_users = np.asarray(users, np.int64)
        self._shown_items = np.asarray(items, np.int64)

    @property
    def stage(self) -> Recommender:
        """The recommender whose lists are put together."""
        return self.stages[0]

    @property
    def personal(self) -> bool:  # type: ignore[override]
        """Whether what it orders needs a history."""
        return bool(self.stages) and self.stage.personal

    def _learn(self, log: Interactions) -> None:
        if len(self.stages) != 1:
            raise ModelError(f"'reranked' orders one recommender, got {len(self.stages)}")
        self._fit_stages(log, self._at)
        self._prepare()

    def _prepare(self) -> None:
        """Look everything up once, so that a wrong name is told by ``fit``."""
        for looked_up in ("_reranker", "_again"):
            self.__dict__.pop(looked_up, None)
        n_items = self._fitted().n_items
        for code in (*self.parameters.pin, *self.parameters.bury):
            if not 0 <= code < n_items:
                raise ModelError(f"no item with code {code} to pin or bury: there are {n_items}")
        _ = self._reranker

    @cached_property
    def _reranker(self) -> Reranker:
        p, log = self.parameters, self._fitted()
        category = None
        if p.category is not None:
            category = grouped(self._items, p.category, "item")[0]
        elif p.diversity > 0 or p.calibration > 0 or p.cap is not None:
            raise ModelError(
                "diversity, calibration and cap need the attribute that says an item's category; name it in category"
            )
        bonus = np.zeros(log.n_items)
        met = np.bincount(log.item, minlength=log.n_items)
        if p.novelty > 0:
            bonus += scaled(-met.astype(np.float64), p.novelty)
        if p.freshness > 0:
            first = np.full(log.n_items, self._at, np.int64)  # not met yet: as fresh as can be
            np.minimum.at(first, log.item, log.time)
            bonus += scaled(first, p.freshness)
        if p.profit > 0:
            if p.margin is None:
                raise ModelError("profit weighs an item's margin; name its attribute in margin")
            bonus += scaled(self._number(p.margin), p.profit)
        return Reranker(
            diversity=p.diversity,
            calibration=p.calibration,
            category=category,
            cap=p.cap,
            bonus=bonus,
            stock=None if p.stock is None else self._truth(p.stock),
            pin=p.pin,
            bury=p.bury,
            most_shown=p.most_shown,
        )

    def _attribute(self, name: str) -> Any:
        if name not in self._items:
            known = nearest(name, self._items) or "; there are no item attributes here"
            raise ModelError(f"no item attribute '{name}'{known}")
        return self._items[name]

    def _number(self, name: str) -> F64:
        values = self._attribute(name)
        if isinstance(values, Column):
            raise ModelError(f"the item attribute '{name}' is text; a margin must be a number")
        return np.asarray(values, np.float64)

    def _truth(self, name: str) -> Bool:
        """Return which items an attribute is true of: numbers but 0, texts but those of no; what is missing is true."""
        values = self._attribute(name)
        if not isinstance(values, Column):
            return ~(np.nan_to_num(np.asarray(values, np.float64), nan=1.0) <= 0)
        no = np.array([v.strip().casefold() in _NO for v in values.values] + [False])
        return np.asarray(~no[values.codes])

    @cached_property
    def _again(self) -> Bool:
        """Which items may be offered to who bought them."""
        p, log = self.parameters, self._fitted()
        if p.bought == "hide":
            return np.zeros(log.n_items, np.bool_)
        if p.replenishable is not None:
            return self._truth(p.replenishable)
        return replenishable(log, p.repeat)

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        p = self.parameters
        shown = self.stage._recommend(histories, p.deep * k, hide_seen, allowed, at)
        rules, may = self._reranker, np.ones(shown.items.shape, np.bool_)
        if p.bought != "offer":
            may &= self._not_bought(histories, shown)
        if p.at_most is not None and len(self._shown_users):
            may &= not_too_often(shown, self._shown_users, self._shown_items, p.at_most)
        shares = None
        if p.calibration > 0:
            shares = shares_of(histories, rules.category, shown)  # type: ignore[arg-type]
        pinned = np.tile(allowed[list(p.pin)], (len(histories), 1))
        if hide_seen and p.pin:  # nothing met is shown, not even what is pinned
            pinned &= ~_met(histories, np.tile(np.asarray(p.pin), (len(histories), 1)))
        return rules.rerank(shown, k, shares=shares, allowed=may, pinned=pinned)

    def _not_bought(self, histories: Histories, shown: Recommendations) -> Bool:
        """Return which candidates their user has not bought, or may be offered again."""
        bought = histories.weight >= self._fitted().weight.max()
        ends = np.concatenate([[0], np.cumsum(bought)]).astype(np.int64)[histories.offsets]
        had = Histories(
            histories.users, ends, histories.items[bought], histories.weight[bought], histories.time
        )
        return self._again[np.maximum(shown.items, 0)] | ~_met(had, shown.items)

    def _score(self, histories: Histories, at: int) -> F32:
        return self.stage._score(histories, at)

    @property
    def members(self) -> tuple[str, ...]:
        """Those of the recommender, and the pins."""
        return (*self.stage.members, PINNED) if self.stages else (PINNED,)

    def _spans(self) -> list[tuple[int, int]]:
        return [(0, len(self.stage.members))]

    def _told(
        self,
        histories: Histories,
        items: I32,
        source: npt.NDArray[np.int8],
        sources: tuple[str, ...],
        names: Sequence[str] | None,
    ) -> list[list[str]]:
        out = super()._told(histories, items, source, sources, names)
        pins = len(self.stage.members)
        for row, place in zip(*np.nonzero((source == pins) & (items >= 0)), strict=True):
            out[row][place] = PINNED_REASON
        return out

    def _state(self) -> State:
        state = self._stage_states()
        state.arrays.update({"shown_users": self._shown_users, "shown_items": self._shown_items})
        return state

    def _restore(self, state: State) -> None:
        self._shown_users = state.arrays["shown_users"]
        self._shown_items = state.arrays["shown_items"]
        self._restore_stages(state)


def replenishable(log: Interactions, share: float = 0.1) -> Bool:
    """Return which items are bought again, on another day, by at least a ``share`` of their buyers.

    Purchases are the strongest interactions there are. Without a clock nothing is known to be.

    >>> day = np.array([0, 9, 18, 0]) * DAY
    >>> replenishable(Interactions.of([1, 1, 2, 2], [0, 0, 0, 1], day), 0.5).tolist()
    [True, False]
    """
    if not log.clock:
        return np.zeros(log.n_items, np.bool_)
    bought = log.weight >= log.weight.max()
    key = np.stack([log.item[bought].astype(np.int64), log.user[bought], log.time[bought] // DAY])
    days = np.unique(key, axis=1)[:2]
    pairs, times = np.unique(days, axis=1, return_counts=True)
    buyers = np.bincount(pairs[0], minlength=log.n_items)
    again = np.bincount(pairs[0], times > 1, minlength=log.n_items)
    return np.asarray((again >= share * buyers) & (again > 0))


def _met(histories: Histories, items: npt.NDArray[Any]) -> Bool:
    """Return which of the items [n, c] stand in their row's history."""
    width = np.int64(max(int(items.max(initial=0)), int(histories.items.max(initial=0))) + 1)
    had = np.unique(histories.row * width + histories.items)
    rows = np.arange(len(items))[:, None]
    return np.isin(rows * width + items, had) & (items >= 0)
