"""Several ways to put offers together, of which the one serves that did best on a held-out horizon."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import ModelError, NotEnoughDataError
from propend.names import DAY
from propend.recommend.evaluate import measure, per_user
from propend.recommend.fallback import Staged
from propend.recommend.fits import shared
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.protocols import Split, forward, leave_one_out, seen_as
from propend.recommend.recommender import Recommendations, Recommender, State

__all__ = ["Choice", "ChoiceParameters", "simplest"]

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceParameters:
    """``horizon`` days held out at each of ``cuts`` (default a tenth of the log); NDCG at ``k`` of at most ``users`` decides.

    ``repeats``: offer again what was met; default where a tenth of the held-out answers are repeats. ``doubt``: standard errors of the difference by which a simpler way may stand behind the best one.
    """

    horizon: Annotated[float, Meta(gt=0)] | None = None
    cuts: Literal[1, 2] = 2
    repeats: bool | None = None
    doubt: Annotated[float, Meta(ge=0)] = 0.5
    k: Annotated[int, Meta(ge=1)] = 10
    users: Annotated[int, Meta(ge=1)] = 3_000


class Choice(Staged):
    """Chooses among ``ways``, the simplest first, forward in time: each is fitted on the past of a cut and asked about what came after.

    The simplest way whose NDCG is not behind the best one's by more than half a standard error of the
    difference (same users; Breiman et al. 1984 take a whole one) is fitted on everything and serves. Where the
    log is too short to hold out a horizon, nothing is compared and the last way that can be fitted serves. What users had met is offered again where a tenth of what they went on to meet was met
    before, unless told otherwise. A loaded one keeps its choice when it is updated; fitted anew it chooses anew.

    Parameters
    ----------
    ways
        recommenders by the name the choice is told by; a list takes their labels.
    beside
        recommenders that are fitted as well, to say what items are alike and who would like one where
        the chosen way cannot.
    rivals
        further ways, behind the others in the order; one serves only where it was compared and won.

    Examples
    --------
    >>> from propend.recommend.neighbours import ItemNeighbours
    >>> from propend.recommend.popularity import Popularity
    >>> from propend.testing.recommenders import sample
    >>> log, _ = sample()
    >>> shelf = Choice([Popularity(), ItemNeighbours()]).fit(log)
    >>> shelf.chosen, sorted(shelf.judged)
    ('item_neighbours', ['item_neighbours', 'popularity'])
    """

    name = "choice"
    Parameters = ChoiceParameters
    listwise = True
    parameters: ChoiceParameters
    chosen: str
    """Name of the way that serves."""
    judged: dict[str, float]
    """NDCG of each way on the held-out horizon; empty where nothing was compared."""

    def __init__(
        self,
        ways: Mapping[str, Recommender] | Sequence[Recommender] = (),
        beside: Sequence[Recommender] = (),
        rivals: Mapping[str, Recommender] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.ways = (
            dict(ways) if isinstance(ways, Mapping) else {stage.label: stage for stage in ways}
        )
        self.rivals = dict(rivals or {})
        self.ways |= self.rivals
        self.beside = tuple(beside)
        self.stages = (*self.ways.values(), *self.beside)
        self.chosen, self.judged = "", {}

    @property
    def stage(self) -> Recommender:
        """The way that serves."""
        return self.stages[0]

    def _learn(self, log: Interactions) -> None:
        with shared():
            self._choose(log)

    def _choose(self, log: Interactions) -> None:
        sure = [name for name in self.ways if name not in self.rivals]
        if not sure:
            raise ModelError("'choice' needs at least one way to choose, such as [Popularity()]")
        self.stages = (*self.ways.values(), *self.beside)
        self.judged = self._judge(log)
        names = list(self.judged) or sure[::-1]
        for number, name in enumerate(names):
            self.chosen, self.stages = name, (self.ways[name], *self.beside)
            try:
                self._fit_stages(log, self._at)
                return
            except NotEnoughDataError:
                if number == len(names) - 1:
                    raise

    def _judge(self, log: Interactions) -> dict[str, float]:
        """Return the mean NDCG of each way over the cuts; the one that serves stands first."""
        given = self.parameters.repeats
        self.repeats = self.stages[0].repeats if given is None else given
        if len(self.ways) == 1:
            return {}
        try:
            splits = self._held_out(log)
        except NotEnoughDataError:
            return {}
        self.repeats = splits[0].seen == "allowed"
        k, gains = self.parameters.k, {}
        known: dict[str, Any] = {"items": self._items, "users": self._people, "seed": self._seed}
        for name, way in self.ways.items():
            try:
                fitted = (way.fit(split.train, at=split.at, **known) for split in splits)
                pairs = zip(fitted, splits, strict=True)
                parts = [per_user(measure(one, split, k), k)["ndcg"] for one, split in pairs]
            except NotEnoughDataError:
                continue
            gains[name] = np.concatenate(parts)
        means = {name: round(float(gain.mean()), 6) for name, gain in gains.items()}
        ranked = dict(sorted(means.items(), key=lambda pair: -pair[1]))
        first = simplest(gains, self.parameters.doubt)
        return {first: ranked[first], **ranked} if first else {}

    def _held_out(self, log: Interactions) -> list[Split]:
        """Cut the history once more, and again one horizon earlier: what the ways may learn from, and what they are asked."""
        p = self.parameters
        seen = seen_as(p.repeats)
        if not log.clock:
            return [leave_one_out(log, seen=seen).sample(p.users, self._seed)]
        days = (log.last - log.first) / DAY / 10 if p.horizon is None else p.horizon
        splits = [forward(log, days, seen=seen)]
        with contextlib.suppress(NotEnoughDataError):
            splits += [forward(splits[0].train, days, seen=splits[0].seen)] * (p.cuts > 1)
        return [split.sample(p.users, self._seed) for split in splits]

    @property
    def members(self) -> tuple[str, ...]:
        """Those of the way that serves."""
        return self.stage.members if self.stages else ()

    def _spans(self) -> list[tuple[int, int]]:
        return [(0, len(self.stage.members)), *((0, 0) for _ in self.beside)]

    def _speaker(self, item: int) -> Recommender:
        """Ask those beside first: they say of everybody what the chosen way says of its candidates."""
        for stage in (*self.beside, self.stage):
            speaker = stage._speaker(item)
            if speaker._knows(item):
                return speaker
        return self.stage._speaker(item)

    def _hide(self, hide_seen: bool | None) -> bool | None:
        """Decide whether what was met is hidden; where nothing was compared or told, each stage does as it is used to."""
        if hide_seen is None and (self.judged or self.parameters.repeats is not None):
            return not self.repeats
        return hide_seen

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        return self.stage._recommend(histories, k, self._hide(hide_seen), allowed, at)

    def _propose(self, histories: Histories, at: int) -> tuple[F32, npt.NDArray[np.int8] | None]:
        return self.stage._propose(histories, at)

    def _score(self, histories: Histories, at: int) -> F32:
        return self.stage._score(histories, at)

    def _because(
        self, histories: Histories, items: npt.NDArray[np.int32], names: Sequence[str] | None
    ) -> list[list[str]]:
        return self.stage._because(histories, items, names)

    def _state(self) -> State:
        state = self._stage_states()
        state.header["chosen"], state.header["judged"] = self.chosen, self.judged
        state.header["repeats"] = bool(self.repeats)
        return state

    def _restore(self, state: State) -> None:
        self._restore_stages(state)
        self.chosen, self.judged = state.header["chosen"], state.header["judged"]
        self.repeats = state.header["repeats"]
        self.ways, self.beside = {self.chosen: self.stages[0]}, self.stages[1:]
        self.rivals = {}


def simplest(gains: Mapping[str, F64], doubt: float) -> str:
    """Return the first name whose gains per user are not surely behind the best ones; empty where there are none.

    >>> gains = {"plain": np.array([0.1, 0.9, 0.0]), "best": np.array([0.9, 0.1, 0.1])}
    >>> simplest(gains, 0.5), simplest(gains, 0.0)
    ('plain', 'best')
    """
    if not gains:
        return ""
    best = gains[max(gains, key=lambda name: float(gains[name].mean()))]
    for name, gain in gains.items():
        behind = best - gain
        error = float(behind.std()) / np.sqrt(len(behind))
        if behind.mean() <= doubt * error:
            return name
    raise AssertionError("the best is not behind itself")
