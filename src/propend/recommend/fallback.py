"""A declared chain: what the first cannot fill, the next one does; each item says where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION, forbid_seen, top_k
from propend.recommend.recommender import Recommendations, Recommender, State

__all__ = ["Fallback", "Staged"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class Staged(Recommender):
    """Base of recommenders made of others, its ``stages``, which are fitted on the same history."""

    stages: tuple[Recommender, ...] = ()

    def __repr__(self) -> str:
        own = super().__repr__().removeprefix(f"{type(self).__name__}(")
        return f"{type(self).__name__}({list(self.stages)!r}{', ' if own != ')' else ''}{own}"

    def ready(self) -> None:
        """Ask for what each stage needs."""
        for stage in self.stages:
            stage.ready()

    def _fit_stages(self, log: Interactions, at: int) -> None:
        if not self.stages:
            raise ModelError(f"'{self.name}' needs at least one stage, such as Popularity()")
        for stage in self.stages:
            stage.fit(log, items=self._items, users=self._people, at=at, seed=self._seed)

    def similar(
        self, items: npt.ArrayLike, k: int = 10, *, within: npt.ArrayLike | None = None
    ) -> Recommendations:
        """Return the k items most like each given one, from the first stage that knows any; ``source`` says which."""
        codes = self._checked_items(items)
        if len(codes) != 1:
            parts = [self.similar([code], k, within=within) for code in codes]
            labels = tuple(dict.fromkeys(label for part in parts for label in part.sources))
            told = [np.full((1, k), labels.index(part.sources[0]), np.int8) for part in parts]
            return Recommendations(
                np.full(len(codes), -1, np.int64),
                np.concatenate([p.items for p in parts] or [np.zeros((0, k), np.int32)]),
                np.concatenate([p.scores for p in parts] or [np.zeros((0, k), np.float32)]),
                np.concatenate(told or [np.zeros((0, k), np.int8)]),
                labels,
            )
        found = None
        for stage in self.stages:
            try:
                part = stage.similar(codes, k, within=within)
            except ModelError:
                continue
            if found is None or found.items[0, 0] < 0:
                found = part
        return super().similar(codes, k, within=within) if found is None else found

    def _speaker(self, item: int) -> Recommender:
        """Ask the first stage that needs a history and knows the item, then any."""
        for stage in sorted(self.stages, key=lambda stage: not stage.personal):
            speaker = stage._speaker(item)
            if speaker._knows(item):
                return speaker
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """The members of all stages, one stage after the other."""
        return tuple(label for stage in self.stages for label in stage.members)

    def _spans(self) -> list[tuple[int, int]]:
        """Return from where to where each stage's members stand among all."""
        ends = np.cumsum([0, *(len(stage.members) for stage in self.stages)]).tolist()
        return list(pairwise(ends))

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        """Ask the first stage that has an opinion of the item."""
        rows = np.arange(len(histories))[:, None]
        source = np.full(items.shape, -1, np.int64)
        for (first, _), stage in zip(self._spans(), self.stages, strict=True):
            scores, member = stage._propose(histories, self._at)
            mine = (source < 0) & np.isfinite(scores[rows, np.maximum(items, 0)])
            given = 0 if member is None else member[rows, np.maximum(items, 0)].astype(np.int64)
            source = np.where(mine, first + given, source)
        return self._told(histories, items, np.maximum(source, 0).astype(np.int8), (), names)

    def _told(
        self,
        histories: Histories,
        items: I32,
        source: npt.NDArray[np.int8],
        sources: tuple[str, ...],
        names: Sequence[str] | None,
    ) -> list[list[str]]:
        """Ask of each item the stage it came from, which may ask its own."""
        del sources
        out = [[""] * items.shape[1] for _ in range(len(items))]
        for (first, stop), stage in zip(self._spans(), self.stages, strict=True):
            inside = (source >= first) & (source < stop)
            mine = np.where(inside, items, -1).astype(np.int32)
            if not (mine >= 0).any():
                continue
            own = np.where(inside, source - first, 0).astype(np.int8)
            told = stage._told(histories, mine, own, stage.members, names)
            for row, place in zip(*np.nonzero(mine >= 0), strict=True):
                out[row][place] = told[row][place]
        return out

    def _stage_states(self) -> State:
        state = State({"stages": len(self.stages)})
        for number, stage in enumerate(self.stages):
            state.nest(f"stage{number}", stage._part())
        return state

    def _restore_stages(self, state: State) -> None:
        from propend.recommend.catalog import find

        parts = [state.part(f"stage{number}") for number in range(state.header["stages"])]
        self.stages = tuple(find(p.header["recommender"])._of_part(p, self) for p in parts)


class Fallback(Staged):
    """Stages in order of trust: personal first, what is popular last.

    Parameters
    ----------
    stages
        recommenders, each with its own rule on items already met.
    most
        most items of a list each stage may fill; none: no limit.

    Examples
    --------
    >>> from propend.recommend.neighbours import ItemNeighbours
    >>> from propend.recommend.popularity import Popularity
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [1, 2], [3]])
    >>> shelf = Fallback([ItemNeighbours(), Popularity()]).fit(log)
    >>> shown = shelf.recommend([0, 99], k=2)     # 99 is cold
    >>> shown.lists(), [[shown.sources[s] for s in row] for row in shown.source]
    ([[2, 3], [1, 0]], [['item_neighbours', 'popularity'], ['popularity', 'popularity']])
    """

    name = "fallback"
    listwise = True

    def __init__(
        self, stages: Sequence[Recommender] = (), most: Sequence[int | None] | None = None
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.most = tuple(most) if most is not None else (None,) * len(self.stages)
        if len(self.most) != len(self.stages):
            raise ModelError(f"'most' has {len(self.most)} limits for {len(self.stages)} stages")

    def __repr__(self) -> str:
        return f"Fallback({list(self.stages)!r}, most={list(self.most)!r})"

    def _learn(self, log: Interactions) -> None:
        self._fit_stages(log, self._at)

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        shape = (len(histories), k)
        items, scores = np.full(shape, -1, np.int32), np.full(shape, NO_OPINION, np.float32)
        source = np.zeros(shape, np.int8)
        for start, block in self._blocks(histories):
            part = slice(start, start + len(block))
            self._fill(block, hide_seen, allowed, at, items[part], scores[part], source[part])
        return Recommendations(histories.users, items, scores, source, self.members)

    def _fill(
        self,
        block: Histories,
        hide_seen: bool | None,
        allowed: Bool,
        at: int,
        items: I32,
        scores: F32,
        source: npt.NDArray[np.int8],
    ) -> None:
        """Let each stage fill the free places of the lists, in place."""
        k = items.shape[1]
        rows = np.arange(len(block))
        for (first, _), stage, most in zip(self._spans(), self.stages, self.most, strict=True):
            taken = (items >= 0).sum(axis=1)
            open_rows = rows[taken < k]
            if not len(open_rows):
                return
            values, member = stage._propose(block, at)
            hide = not stage.repeats if hide_seen is None else hide_seen
            if hide:
                forbid_seen(values, block.offsets, block.items)
            shown = items >= 0
            values[np.nonzero(shown)[0], items[shown]] = NO_OPINION
            limit = k if most is None else min(most, k)
            found, best = top_k(values, limit, allowed)
            for place in range(limit):
                there = rows[(found[:, place] >= 0) & (taken + place < k)]
                at_place = taken[there] + place
                items[there, at_place] = found[there, place]
                scores[there, at_place] = best[there, place]
                given = 0 if member is None else member[there, found[there, place]]
                source[there, at_place] = first + given

    def _score(self, histories: Histories, at: int) -> F32:
        """Give each item the score of the first stage with an opinion, squeezed into that stage's band."""
        out: F32 | None = None
        for number, stage in enumerate(self.stages):
            values = stage._score(histories, at).astype(np.float64)
            known = np.isfinite(values)
            values[known] = 0.5 + 0.5 * values[known] / (1.0 + np.abs(values[known]))
            values[known] += len(self.stages) - 1 - number
            band = values.astype(np.float32)
            out = band if out is None else np.where(np.isfinite(out), out, band)
        assert out is not None
        return out

    def _state(self) -> State:
        state = self._stage_states()
        state.header["most"] = list(self.most)
        return state

    def _restore(self, state: State) -> None:
        self.most = tuple(state.header["most"])
        self._restore_stages(state)
