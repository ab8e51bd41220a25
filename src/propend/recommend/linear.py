"""Recommenders that score by a table of items × items: what you had points to what you may want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommender, State
from propend.recommend.similarity import Sparse, evidence, once_each, spread

__all__ = ["ItemToItem", "ProfileParameters"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileParameters:
    """How a history speaks when it is scored.

    ``profile``: each item once (``binary``) or with the sum of its weights (``given``).
    ``half_life``: days after which an interaction speaks half as loud; none: it never fades.
    ``step``: factor per step back in the order of the history (1: no fading); needs no clock.
    """

    profile: Literal["binary", "given"] = "binary"
    half_life: Annotated[float, Meta(gt=0)] | None = None
    step: Annotated[float, Meta(gt=0, le=1)] = 1.0


class ItemToItem(Recommender):
    """Base of recommenders with weights B [n_items, n_items]: scores are profile · B.

    A derived class sets ``_table``, sparse or dense, in ``_learn``.
    """

    _table: Sparse | F32

    def _profile(self, histories: Histories, at: int) -> F32:
        """Return how loud each entry of the histories speaks, float32 [n]."""
        p: Any = self.parameters
        weight = histories.weight.copy()
        if p.profile == "binary":
            last = once_each(histories.offsets, histories.items, self._fitted().n_items)
            weight = last.astype(np.float32)
        if p.half_life is not None:
            weight *= np.exp2((histories.time - at) / (p.half_life * DAY)).astype(np.float32)
        if p.step < 1:
            back = histories.offsets[1:][histories.row] - 1 - np.arange(len(weight))
            weight *= (p.step ** back.astype(np.float32)).astype(np.float32)
        return weight

    def _check_clock(self, log: Interactions) -> None:
        if self.parameters.half_life is not None and not log.clock:
            raise NotEnoughDataError(
                f"'{self.name}' can fade by days only where interactions have times; set step instead"
            )

    def _score(self, histories: Histories, at: int) -> F32:
        weight = self._profile(histories, at)
        if isinstance(self._table, Sparse):
            return spread(histories.offsets, histories.items, weight, self._table)
        loud = replace(histories, weight=weight)
        scores = loud.matrix(len(self._table)) @ self._table
        scores[np.diff(histories.offsets) == 0] = NO_OPINION
        return scores

    def _alike(self, items: I64) -> F32:
        if not isinstance(self._table, Sparse):
            return self._table[items].copy()
        each = np.arange(len(items) + 1)
        ones = np.ones(len(items), np.float32)
        return spread(each, items.astype(np.int32), ones, self._table)

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        weight = self._profile(histories, self._at)
        found = np.full(items.shape, -1, np.int32)
        if isinstance(self._table, Sparse):
            t = self._table
            part = (histories.offsets, histories.items, weight)
            evidence(*part, t.offsets, t.columns, t.values, items, found)
        else:
            _dense_evidence(histories, weight, self._table, items, found)
        places = range(items.shape[1])
        return [
            [self._sentence(int(items[row, at]), int(found[row, at]), names) for at in places]
            for row in range(len(items))
        ]

    def _sentence(self, item: int, because: int, names: Sequence[str] | None) -> str:
        if item < 0:
            return ""
        if because < 0:
            return "goes with nothing in this history"
        return f"goes with {names[because] if names is not None else f'item {because}'}"

    def _state(self) -> State:
        if isinstance(self._table, Sparse):
            return self._table.state()
        return State({"width": -1}, {"table": self._table})

    def _restore(self, state: State) -> None:
        dense = state.header["width"] < 0
        self._table = state.arrays["table"] if dense else Sparse.from_state(state)


def _dense_evidence(histories: Histories, weight: F32, table: F32, shown: I32, found: I32) -> None:
    for row in range(len(shown)):
        part = slice(histories.offsets[row], histories.offsets[row + 1])
        if part.start == part.stop:
            continue
        had = histories.items[part]
        added = table[np.ix_(had, np.maximum(shown[row], 0))] * weight[part][:, None]
        best = added.argmax(axis=0)
        found[row] = np.where(added[best, np.arange(len(best))] > 0, had[best], -1)
