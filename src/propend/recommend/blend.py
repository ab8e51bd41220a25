"""Candidates from several sources, put in order by weights of the sources that are learnt forward in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.candidates import Examples, Pooled, PoolParameters
from propend.recommend.interactions import Histories
from propend.recommend.recommender import State

__all__ = ["Blend", "BlendParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendParameters(PoolParameters):
    """Beside those of the pool: ``strength`` of the ridge on the weights."""

    strength: Annotated[float, Meta(ge=0)] = 1e-3


class Blend(Pooled):
    """A weighted sum of what the sources say; the weights, none below 0, are learnt forward in time.

    Each source says two things of a candidate: its score, brought to 0 … 1 between the user's best and
    worst candidate, and 1 / place in its list. The weights minimise the listwise loss of Cao et al.,
    "Learning to rank: from pairwise approach to listwise approach" (ListNet), ICML 2007: −log of the
    softmax of the scores at what the user then met. It is convex, so there is one answer; what the
    sources propose is as of the cut, so no weight has seen its label (see ``candidates.Pooled``). Where
    there is little to learn from, a few weights are safer than the trees of ``hybrid``.

    Examples
    --------
    >>> from propend.recommend.neighbours import ItemNeighbours
    >>> from propend.recommend.popularity import Popularity
    >>> from propend.testing.recommenders import sample
    >>> log, _ = sample()
    >>> shelf = Blend([ItemNeighbours(), Popularity()]).fit(log)
    >>> sorted(shelf.weights), min(shelf.weights.values()) >= 0
    (['item_neighbours', 'popularity'], True)
    """

    name = "blend"
    Parameters = BlendParameters
    parameters: BlendParameters
    _weights: F64

    @property
    def weights(self) -> dict[str, float]:
        """How much each source counts: the most it can add to a score."""
        each = self._weights.reshape(2, -1).sum(axis=0)
        return {label: round(float(w), 6) for label, w in zip(self.members, each, strict=True)}

    def _order(self, examples: Examples) -> None:
        from scipy.optimize import minimize

        X, y = examples.X.astype(np.float64), examples.y.astype(np.float64)
        starts = np.concatenate([[0], np.cumsum(examples.groups)])[:-1].astype(np.int64)
        owner = np.repeat(np.arange(len(starts)), examples.groups)
        target = y / np.add.reduceat(y, starts)[owner]
        ridge = self.parameters.strength

        def loss(w: F64) -> tuple[float, F64]:
            score = X @ w
            score -= np.maximum.reduceat(score, starts)[owner]
            raised = np.exp(score)
            total = np.add.reduceat(raised, starts)
            value = (np.log(total).sum() - target @ score) / len(starts)
            slope = X.T @ (raised / total[owner] - target) / len(starts)
            return float(value + ridge * w @ w), slope + 2 * ridge * w

        found = minimize(
            loss,
            np.ones(X.shape[1]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * X.shape[1],
        )
        self._weights = np.asarray(found.x, np.float64)

    def _value(self, X: F32) -> npt.NDArray[Any]:
        return X @ self._weights

    def _features(
        self, block: Histories, keys: I64, row: I64, item: I64, at: int, score: F32, near: F64
    ) -> npt.NDArray[Any]:
        del keys, item, at
        known = np.isfinite(score) & (near > 0)
        high = np.full((len(score), len(block)), -np.inf)
        low = np.full((len(score), len(block)), np.inf)
        for source in range(len(score)):
            mine = known[source]
            np.maximum.at(high[source], row[mine], score[source, mine])
            np.minimum.at(low[source], row[mine], score[source, mine])
        span = np.where(high > low, high - low, 1.0)[:, row]
        floor = np.where(high > low, low, low - 1.0)[:, row]  # all equal: all are the best
        level = np.divide(score - floor, span, out=np.zeros(near.shape), where=known)
        return np.concatenate([level, near]).T

    def _state(self) -> State:
        state = self._stage_states()
        state.header["repeats"] = bool(self.repeats)
        state.arrays["weights"] = self._weights
        return state

    def _restore(self, state: State) -> None:
        self.repeats = state.header["repeats"]
        self._weights = state.arrays["weights"]
        self._restore_stages(state)
