"""Each item explained by the others: EASE and SLIM, dense where the catalogue is small, local where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.interactions import Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.neighbours import likeness
from propend.recommend.similarity import Sparse

__all__ = ["Ease", "EaseParameters", "Slim", "SlimParameters"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_DENSE: Final = 20_000
"""Most items for which the whole inverse is made."""
_EXACT: Final = 8_000
"""Most items for which it is made in double precision."""
_SUPPORT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EaseParameters(ProfileParameters):
    """``strength``: the ridge λ. ``support``: explain each item by its so many nearest ones only.

    Without ``support`` all items explain each other up to 20,000 of them, the 200 nearest beyond.
    ``user_power``: a user who met n items speaks n^−power as loud while learning. ``item_power``: an item
    met by n users, m on average, has the ridge λ (n / m)^power. Both 0 is plain EASE.
    """

    strength: Annotated[float, Meta(gt=0)] = 300.0
    support: Annotated[int, Meta(ge=1)] | None = None
    user_power: Annotated[float, Meta(ge=0, le=1)] = 0.0
    item_power: Annotated[float, Meta(ge=-1, le=1)] = 0.0


class Ease(ItemToItem):
    """EASEᴿ: B = I − P · diag(1 / diag P), P = (XᵀX + λI)⁻¹ (Steck, WWW 2019).

    Column j of B is the ridge regression of item j on all other items; ``support`` restricts each
    regression to j's nearest items by cosine, as feature selection does for SLIM (Ning & Karypis, ICDM
    2011); items never met together with j are not in its support. Where all pairs are met together and
    the support is everything, both forms are the same. Weighing users and ridges by popularity does what
    normalising X does (Park et al., "Why is normalization necessary for linear recommenders?", SIGIR 2025). Memory of the dense form: about 2 × 4 bytes ×
    items² (8 below 8,000 items).

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [1, 2], [2, 3]])
    >>> Ease(strength=1).fit(log).recommend([0], k=1).lists()
    [[2]]
    """

    name = "ease"
    Parameters = EaseParameters
    parameters: EaseParameters

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        p = self.parameters
        table = log.matrix(binary=p.profile == "binary")
        met = np.bincount(table.indices, minlength=log.n_items)
        lengths = np.diff(table.indptr)
        if p.user_power:
            table.data = table.data * np.repeat(lengths**-p.user_power, lengths).astype(np.float32)
        ridge = np.full(log.n_items, p.strength)
        if p.item_power:
            ridge *= (np.maximum(met, 1) / met[met > 0].mean()) ** p.item_power
        if p.support is None and log.n_items <= _DENSE:
            self._table = _inverse_weights(table, ridge)
        else:
            support = p.support or _SUPPORT
            self._table = _local(table, support, ridge=ridge, lasso=0.0, positive=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimParameters(ProfileParameters):
    """``ridge`` and ``lasso``: strengths of the squared and the absolute penalty; ``support`` as for EASE."""

    ridge: Annotated[float, Meta(gt=0)] = 10.0
    lasso: Annotated[float, Meta(ge=0)] = 1.0
    support: Annotated[int, Meta(ge=1)] = 100


class Slim(ItemToItem):
    """SLIM: the same regressions with weights of 0 or more, most of them 0 (Ning & Karypis, ICDM 2011).

    Solved by coordinate descent on the Gram matrix of each item's nearest ``support`` items (their fsSLIM).

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [1, 2], [2, 3]])
    >>> Slim(ridge=0.1, lasso=0.1).fit(log).recommend([0], k=1).lists()
    [[2]]
    """

    name = "slim"
    Parameters = SlimParameters
    parameters: SlimParameters

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        p = self.parameters
        table = log.matrix(binary=p.profile == "binary")
        ridge = np.full(log.n_items, p.ridge)
        self._table = _local(table, p.support, ridge=ridge, lasso=p.lasso, positive=True)


def _inverse_weights(table: Any, ridge: F64) -> F32:
    """Return EASE's weights, float32 [n, n], by one Cholesky inverse in place."""
    from scipy.linalg import lapack

    n = table.shape[1]
    double = n <= _EXACT
    kind = np.float64 if double else np.float32
    gram = np.asfortranarray((table.T @ table).toarray().astype(kind))
    gram[np.diag_indices(n)] += ridge
    factor, inverse = (lapack.dpotrf, lapack.dpotri) if double else (lapack.spotrf, lapack.spotri)
    low, _ = factor(gram, lower=1, overwrite_a=1, clean=0)
    del gram
    full, _ = inverse(low, lower=1, overwrite_c=1)
    del low
    diagonal = np.diag(full).copy()
    for start in range(0, n, 1024):  # mirror the lower triangle, block by block
        stop = min(start + 1024, n)
        full[start:stop, stop:] = full[stop:, start:stop].T
        square = np.tril(full[start:stop, start:stop])
        full[start:stop, start:stop] = square + np.tril(square, -1).T
    weights = np.ascontiguousarray((full / -diagonal[None, :]).astype(np.float32))
    weights[np.diag_indices(n)] = 0.0
    return weights


def _local(table: Any, support: int, *, ridge: F64, lasso: float, positive: bool) -> Sparse:
    """Return the weights of each item's regression on its nearest items, by row of the explaining item."""
    by_item = table.T.tocsr()
    near = likeness(by_item, "cosine", support, 0.0)
    values = np.zeros(len(near.columns), np.float32)
    x, t = Sparse.of(table), Sparse.of(by_item)
    _regress(
        (x.offsets, x.columns, x.values),
        (t.offsets, t.columns, t.values),
        (near.offsets, near.columns),
        (ridge, lasso, positive),
        values,
    )
    found = Sparse(near.offsets, near.columns, values, near.width).scipy().T.tocsr()
    found.eliminate_zeros()
    return Sparse.of(found)


@nb.njit(cache=True, nogil=True)
def _regress(users: Any, items: Any, near: Any, rule: Any, values: Any) -> None:
    xo, xc, xv = users
    to, tc, _ = items
    no, nc = near
    ridge, lasso, positive = rule
    n = len(to) - 1
    slot = np.full(n, -1, np.int32)
    stamp = np.full(len(xo) - 1, -1, np.int64)
    place = np.empty(n + 1, np.int32)
    worth = np.empty(n + 1)
    for j in range(n):
        chosen = nc[no[j] : no[j + 1]]
        k = len(chosen)
        if k == 0:
            continue
        for a in range(k):
            slot[chosen[a]] = a
        slot[j] = k  # the explained item is the last row of the Gram matrix
        gram = np.zeros((k + 1, k + 1))
        for a in range(k + 1):
            source = chosen[a] if a < k else j
            for at in range(to[source], to[source + 1]):
                user = tc[at]
                if stamp[user] == j:
                    continue
                stamp[user] = j
                m = 0
                for x in range(xo[user], xo[user + 1]):
                    if slot[xc[x]] >= 0:
                        place[m] = slot[xc[x]]
                        worth[m] = xv[x]
                        m += 1
                for p in range(m):
                    for q in range(m):
                        gram[place[p], place[q]] += worth[p] * worth[q]
        for a in range(k):
            slot[chosen[a]] = -1
        slot[j] = -1
        if positive:
            values[no[j] : no[j + 1]] = _descend(gram, k, ridge[j], lasso)
        else:
            for a in range(k):
                gram[a, a] += ridge[chosen[a]]
            values[no[j] : no[j + 1]] = _solve(np.linalg.cholesky(gram[:k, :k].copy()), gram[:k, k])


@nb.njit(cache=True, nogil=True)
def _solve(low: Any, right: Any) -> Any:
    """Return A⁻¹ right, given A's lower Cholesky factor."""
    k = len(low)
    out = right.copy()
    for a in range(k):
        s = out[a]
        for b in range(a):
            s -= low[a, b] * out[b]
        out[a] = s / low[a, a]
    for a in range(k - 1, -1, -1):
        out[a] /= low[a, a]
        for b in range(a):
            out[b] -= low[a, b] * out[a]
    return out


@nb.njit(cache=True, nogil=True)
def _descend(gram: Any, k: int, ridge: float, lasso: float) -> Any:
    """Return the non-negative elastic net of the last row of a Gram matrix on the others."""
    weight = np.zeros(k)
    slope = gram[:k, k].copy()  # what is left to explain: Xᵀ(y − Xw)
    for _ in range(100):
        moved = 0.0
        for a in range(k):
            old = weight[a]
            new = (slope[a] + gram[a, a] * old - lasso) / (gram[a, a] + ridge)
            new = max(new, 0.0)
            step = new - old
            if step != 0.0:
                weight[a] = new
                for b in range(k):
                    slope[b] -= gram[a, b] * step
                moved = max(moved, abs(step))
        if moved < 1e-4:
            break
    return weight
