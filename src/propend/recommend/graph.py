"""Recommenders on the graph of users, items and item attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from propend.models.graph.lightgcn import LightGCNSettings, fit_lightgcn, smooth
from propend.recommend.factors import Factors
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Items, State
from propend.recommend.similarity import once_each

__all__ = ["LightGCN"]

F32 = npt.NDArray[np.float32]


class LightGCN(Factors):
    """Light graph convolution: vectors learnt from edges after smoothing over the graph (He et al., SIGIR 2020).

    Needs the extra ``deep`` to learn; a saved one answers without it. ``update`` adds edges to the graph
    and smooths again, exactly as if the graph had had them with the vectors learnt before; what is
    learnt stays until ``fit``. A session or a new user is smoothed in from the items.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4], [3, 4]] * 5)
    >>> LightGCN(width=8, depth=2, epochs=5, threads=1).fit(log).recommend([0], k=1).lists()  # doctest: +SKIP
    [[2]]
    """

    name = "lightgcn"
    Parameters = LightGCNSettings
    parameters: LightGCNSettings
    appends: ClassVar[bool] = True
    _own: tuple[F32, F32]
    _part: F32
    """What each met item adds to a newcomer's vector, before division by the root of the history's length."""

    def _learn(self, log: Interactions) -> None:
        learnt = fit_lightgcn(log.matrix(binary=True), self.parameters, seed=self._seed)
        self._own = (learnt.user, learnt.item)
        self.curve = learnt.curve
        self._smooth(log)

    def _smooth(self, log: Interactions) -> None:
        table = log.matrix(binary=True)
        self._user, self._item, self._part = smooth(table, *self._own, self.parameters.depth)
        met = np.bincount(table.indices, minlength=log.n_items)
        self._bias = np.where(met > 0, 0.0, NO_OPINION).astype(np.float32)

    def update(
        self, later: Interactions, *, items: Items | None = None, at: int | None = None
    ) -> LightGCN:
        """Add the edges of further interactions; users and items that are new start with the graph's word alone."""
        before = self._fitted()
        log = before.join(later)
        users = np.zeros((log.n_users, self._own[0].shape[1]), np.float32)
        users[log.rows_of(before.users)] = self._own[0]
        grown = np.zeros((log.n_items - before.n_items, users.shape[1]), np.float32)
        self._own = (users, np.concatenate([self._own[1], grown]))
        if items is not None:
            self._check_items(items, log.n_items)
            self._items = dict(items)
        self._log = log
        self._at = max(self._at, log.last + 1) if at is None else at
        self._smooth(log)
        return self

    def _fold(self, histories: Histories) -> F32:
        last = once_each(histories.offsets, histories.items, len(self._part))
        rows, items = histories.row[last], histories.items[last]
        out = np.zeros((len(histories), self._part.shape[1]), np.float32)
        np.add.at(out, rows, self._part[items])
        many = np.maximum(np.bincount(rows, minlength=len(histories)), 1)
        return (out / np.sqrt(many)[:, None]).astype(np.float32)

    def _state(self) -> State:
        state = super()._state()
        state.arrays.update(own_user=self._own[0], own_item=self._own[1], part=self._part)
        return state

    def _restore(self, state: State) -> None:
        super()._restore(state)
        a = state.arrays
        self._own, self._part = (a["own_user"], a["own_item"]), a["part"]
