"""Recommenders on the graph of users, items and item attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from propend.models.graph.hetero import Heterogeneous, HeteroSettings, fit_heterogeneous
from propend.models.graph.lightgcn import LightGCNSettings, fit_lightgcn, smooth, tempered
from propend.models.graph.propagation import torch_module
from propend.recommend.attributes import Attributes, check_attributes
from propend.recommend.factors import Factors, one_hot
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Items, State
from propend.recommend.similarity import once_each

__all__ = ["HeteroGraph", "LightGCN"]

F32 = npt.NDArray[np.float32]


class _Graph(Factors):
    """What both share: an update that keeps what was learnt."""

    appends: ClassVar[bool] = True
    spreads: ClassVar[bool] = True
    curve: Sequence[float] = ()
    """How the held-back edges were told, epoch by epoch, in the fit of this process."""

    def ready(self) -> None:
        """Ask for torch."""
        torch_module()

    def _appended(
        self, later: Interactions, items: Items | None, users: Attributes | None, at: int | None
    ) -> Interactions:
        """Take in the history and the attributes; return the joined history."""
        log = self._fitted().join(later)
        known = self._items if items is None else items
        check_attributes(known, "item", log.n_items)
        self._log, self._items = log, dict(known)
        self._people = self._people if users is None else dict(users)
        self._at = max(self._at, log.last + 1) if at is None else at
        return log


class LightGCN(_Graph):
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
    _own: tuple[F32, F32]
    _per_met: F32
    """What each met item adds to a newcomer's vector, before division by the root of the history's length."""
    _power: float
    """How much of an item's length counts in a score."""

    def _learn(self, log: Interactions) -> None:
        learnt = fit_lightgcn(log.matrix(binary=True), self.parameters, seed=self._seed)
        self._own, self._power = (learnt.user, learnt.item), learnt.power
        self.curve = learnt.curve
        self._smooth(log)

    def _smooth(self, log: Interactions) -> None:
        table = log.matrix(binary=True)
        self._user, item, self._per_met = smooth(table, *self._own, self.parameters.depth)
        self._item = tempered(item, self._power)
        met = np.bincount(table.indices, minlength=log.n_items)
        self._bias = np.where(met > 0, 0.0, NO_OPINION).astype(np.float32)

    def update(
        self,
        later: Interactions,
        *,
        items: Items | None = None,
        users: Attributes | None = None,
        at: int | None = None,
    ) -> LightGCN:
        """Add the edges of further interactions; users and items that are new start with the graph's word alone."""
        before = self._fitted()
        log = self._appended(later, items, users, at)
        own = np.zeros((log.n_users, self._own[0].shape[1]), np.float32)
        own[log.rows_of(before.users)] = self._own[0]
        grown = np.zeros((log.n_items - before.n_items, own.shape[1]), np.float32)
        self._own = (own, np.concatenate([self._own[1], grown]))
        self._smooth(log)
        return self

    def _fold(self, histories: Histories) -> F32:
        last = once_each(histories.offsets, histories.items, len(self._per_met))
        rows, items = histories.row[last], histories.items[last]
        out = np.zeros((len(histories), self._per_met.shape[1]), np.float32)
        np.add.at(out, rows, self._per_met[items])
        many = np.maximum(np.bincount(rows, minlength=len(histories)), 1)
        return (out / np.sqrt(many)[:, None]).astype(np.float32)

    def _state(self) -> State:
        state = super()._state()
        state.header["power"] = self._power
        state.arrays.update(own_user=self._own[0], own_item=self._own[1], part=self._per_met)
        return state

    def _restore(self, state: State) -> None:
        super()._restore(state)
        a, self._power = state.arrays, float(state.header.get("power", 1.0))
        self._own, self._per_met = (a["own_user"], a["own_item"]), a["part"]


class HeteroGraph(_Graph):
    """A network over users, items and attribute values, each kind of edge with weights of its own.

    Users have no vector of their own: whoever met something has one, sessions and newcomers too; an item
    that nobody met speaks through its attributes. ``update`` adds edges and computes again; what was
    learnt stays until ``fit``. Needs the extra ``deep`` to learn, not to answer.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4], [3, 4]] * 5)
    >>> HeteroGraph(width=8, epochs=5, threads=1).fit(log).recommend([0], k=1).lists()  # doctest: +SKIP
    [[2]]
    """

    name = "hetero_graph"
    Parameters = HeteroSettings
    parameters: HeteroSettings
    _network: Heterogeneous
    _labels: list[str]
    """The attribute values the network knows, as ``attribute = value``."""

    def _learn(self, log: Interactions) -> None:
        known, self._labels = one_hot(self._items, log.n_items)
        self._network = fit_heterogeneous(
            log.matrix(binary=True), known, self.parameters, seed=self._seed
        )
        self.curve = self._network.curve
        self._spread(log)

    def _spread(self, log: Interactions) -> None:
        """Compute everybody's vectors on the graph as it is now."""
        table = log.matrix(binary=True)
        known = self._known_values(log.n_items)
        self._per_item = np.asarray(table.sum(axis=0)).ravel().astype(np.float32)
        self._states = self._network.states(table, known)
        self._item = self._network.items(self._states)
        self._user = self._unit(self._network.users(self._states, table, self._per_item))
        reached = (self._per_item > 0) | (np.diff(known.indptr) > 0)
        self._bias = np.where(reached, 0.0, NO_OPINION).astype(np.float32)

    def _known_values(self, n_items: int) -> Any:
        """Return items × the values the network knows; values that came later say nothing until ``fit``."""
        import scipy.sparse as sp

        table, names = one_hot(self._items, n_items)
        place = {name: at for at, name in enumerate(self._labels)}
        cells = table.tocoo()
        column = np.array([place.get(name, -1) for name in names], np.int64)[cells.coords[1]]
        kept = column >= 0
        csr: Any = sp.csr_array
        shape = (n_items, len(self._labels))
        return csr((cells.data[kept], (cells.coords[0][kept], column[kept])), shape=shape)

    def update(
        self,
        later: Interactions,
        *,
        items: Items | None = None,
        users: Attributes | None = None,
        at: int | None = None,
    ) -> HeteroGraph:
        """Add the edges of further interactions and compute every vector again; items may be new."""
        log = self._appended(later, items, users, at)
        own = self._network.own
        grown = np.zeros((log.n_items - len(own), own.shape[1]), np.float32)
        self._network = replace(self._network, own=np.concatenate([own, grown]))
        self._spread(log)
        return self

    def _unit(self, vectors: F32) -> F32:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _fold(self, histories: Histories) -> F32:
        met = histories.matrix(len(self._item), binary=True)
        return self._unit(self._network.users(self._states, met, self._per_item))

    def _state(self) -> State:
        net = self._network
        header = {"labels": self._labels, "depth": net.depth}
        arrays = {"own": net.own, "value": net.value}
        return State(header, {**arrays, **{f"weight.{n}": w for n, w in net.weight.items()}})

    def _restore(self, state: State) -> None:
        a = state.arrays
        weight = {n.removeprefix("weight."): w for n, w in a.items() if n.startswith("weight.")}
        self._labels = list(state.header["labels"])
        self._network = Heterogeneous(a["own"], a["value"], weight, int(state.header["depth"]))
        self._spread(self._fitted())
