"""Factors learnt from pairs: a met item before an unmet one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numba as nb
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.factors import Factors
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION

__all__ = ["Bpr", "BprParameters"]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BprParameters:
    """``rate`` of learning, ``strength`` of the ridge; a round draws as many pairs as there are interactions."""

    factors: Annotated[int, Meta(ge=1)] = 64
    rounds: Annotated[int, Meta(ge=1)] = 60
    rate: Annotated[float, Meta(gt=0)] = 0.05
    strength: Annotated[float, Meta(ge=0)] = 0.005


class Bpr(Factors):
    """Bayesian personalised ranking: a met item before an unmet one, by stochastic gradients.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009. Seeded and in
    one thread, so the same seed gives the same model. A session's vector is the mean of its items'.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4], [3, 4]] * 5)
    >>> Bpr(factors=4).fit(log).recommend([0], k=1).lists()
    [[2]]
    """

    name = "bpr"
    Parameters = BprParameters
    parameters: BprParameters

    def _learn(self, log: Interactions) -> None:
        p = self.parameters
        table = log.matrix(binary=True)
        rng = np.random.default_rng(self._seed)
        shape = (log.n_users, log.n_items)
        self._user, self._item = (
            (rng.standard_normal((n, p.factors)) * 0.1 / np.sqrt(p.factors)).astype(np.float32)
            for n in shape
        )
        self._bias = np.zeros(log.n_items, np.float32)
        met = np.bincount(table.indices, minlength=log.n_items) > 0
        pool = np.flatnonzero(met).astype(np.int32)
        owner = np.repeat(np.arange(log.n_users, dtype=np.int32), np.diff(table.indptr))
        offsets = table.indptr.astype(np.int64)
        for _ in range(p.rounds):
            pairs = rng.integers(0, len(owner), len(owner))
            others = pool[rng.integers(0, len(pool), len(owner))]
            _descend_pairs(
                owner,
                table.indices.astype(np.int32),
                offsets,
                pairs,
                others,
                np.float32(p.rate),
                np.float32(p.strength),
                self._user,
                self._item,
                self._bias,
            )
        self._bias[~met] = NO_OPINION

    def _fold(self, histories: Histories) -> F32:
        total = np.zeros((len(histories), self._item.shape[1]), np.float32)
        np.add.at(total, histories.row, self._item[histories.items])
        total /= np.maximum(np.diff(histories.offsets), 1)[:, None]
        return total


@nb.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _descend_pairs(
    owner: Any,
    items: Any,
    offsets: Any,
    pairs: Any,
    others: Any,
    rate: Any,
    strength: Any,
    user: Any,
    item: Any,
    bias: Any,
) -> None:
    for n in range(len(pairs)):
        u, i, j = owner[pairs[n]], items[pairs[n]], others[n]
        low, high = offsets[u], offsets[u + 1]
        while low < high:  # is j among the user's sorted items?
            middle = (low + high) // 2
            if items[middle] < j:
                low = middle + 1
            else:
                high = middle
        if low < offsets[u + 1] and items[low] == j:
            continue
        margin = bias[i] - bias[j]
        for f in range(user.shape[1]):
            margin += user[u, f] * (item[i, f] - item[j, f])
        pull = np.float32(1.0) / (np.float32(1.0) + np.exp(margin))
        for f in range(user.shape[1]):
            x, y, z = user[u, f], item[i, f], item[j, f]
            user[u, f] += rate * (pull * (y - z) - strength * x)
            item[i, f] += rate * (pull * x - strength * y)
            item[j, f] += rate * (-pull * x - strength * z)
        bias[i] += rate * (pull - strength * bias[i])
        bias[j] += rate * (-pull - strength * bias[j])
