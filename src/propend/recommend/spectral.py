"""Graph filtering: a history is a signal on the graph of users and items, smoothed in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.factors import Factors
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommendations, Recommender, State
from propend.recommend.similarity import Sparse, once_each

__all__ = ["GraphFilter", "GraphFilterParameters"]

F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFilterParameters:
    """``ideal``: weight of the low-pass part of ``factors`` singular vectors; ``sharpen``: of the step back."""

    factors: Annotated[int, Meta(ge=1)] = 512
    ideal: Annotated[float, Meta(ge=0)] = 0.3
    sharpen: Annotated[float, Meta(ge=0)] = 0.6


class GraphFilter(Factors):
    """Blur, low-pass and sharpen: r·P + ideal · r D^−½ V Vᵀ D^½ − sharpen · r·P².

    P = R̃ᵀR̃ with R̃ = D_u^−½ X D_i^−½, V its first right singular vectors. The first two terms are GF-CF
    (Shen et al., "How powerful is graph convolution for recommendation?", CIKM 2021), the last one a
    step of sharpening (Choi et al., "Blurring-sharpening process models", SIGIR 2023). Nothing is
    trained; a session is filtered like a user. P itself is never made.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4], [3, 4]])
    >>> GraphFilter(factors=2).fit(log).recommend([0, 99], k=1).lists()
    [[2], []]
    """

    name = "graph_filter"
    Parameters = GraphFilterParameters
    parameters: GraphFilterParameters
    _graph: Any
    """R̃, users × items, SciPy CSR."""
    _root: F32
    """Square root of each item's degree."""

    def _learn(self, log: Interactions) -> None:
        from sklearn.utils.extmath import randomized_svd

        graph = log.matrix(binary=True)
        per_user = np.diff(graph.indptr)
        met = np.bincount(graph.indices, minlength=log.n_items)
        self._root = np.sqrt(np.maximum(met, 1)).astype(np.float32)
        graph.data = 1 / (np.repeat(np.sqrt(per_user), per_user) * self._root[graph.indices])
        graph.data = graph.data.astype(np.float32)
        most = min(self.parameters.factors, min(graph.shape) - 1)
        if most > 0:
            _, _, right = randomized_svd(graph, most, n_iter=4, random_state=self._seed)
            self._item = np.ascontiguousarray(right.T, np.float32)
        else:
            self._item = np.zeros((log.n_items, 1), np.float32)
        self._bias = np.where(met > 0, 0.0, NO_OPINION).astype(np.float32)
        self._graph = graph

    def _fold(self, histories: Histories) -> F32:
        signal = self._signal(histories)
        signal /= self._root[None, :]
        return signal @ self._item

    def _signal(self, histories: Histories) -> F32:
        signal = np.zeros((len(histories), len(self._root)), np.float32)
        last = once_each(histories.offsets, histories.items, len(self._root))
        signal[histories.row[last], histories.items[last]] = 1.0
        return signal

    def _blur(self, signal: F32) -> F32:
        """Return signal · P, float32 [b, n_items]."""
        on_users = self._graph @ np.ascontiguousarray(signal.T)
        return np.ascontiguousarray((self._graph.T @ on_users).T)

    def _score(self, histories: Histories, at: int) -> F32:
        del at
        p = self.parameters
        signal = self._signal(histories)
        scores = self._blur(signal)
        if p.sharpen:
            scores = scores - p.sharpen * self._blur(scores)
        low = ((signal / self._root) @ self._item) @ self._item.T
        scores = (scores + p.ideal * low * self._root + self._bias).astype(np.float32)
        scores[np.diff(histories.offsets) == 0] = NO_OPINION
        return scores

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        """Rank by scores: they are no products of two vectors here."""
        return Recommender._recommend(self, histories, k, hide_seen, allowed, at)

    def _state(self) -> State:
        state = State({}, {"item": self._item, "bias": self._bias, "root": self._root})
        state.nest("graph", Sparse.of(self._graph).state())
        return state

    def _restore(self, state: State) -> None:
        a = state.arrays
        self._item, self._bias, self._root = a["item"], a["bias"], a["root"]
        self._graph = Sparse.from_state(state.part("graph")).scipy()
