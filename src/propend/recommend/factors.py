"""Factor models: users and items as short vectors whose product is the score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numba as nb
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.events.timelines import Column
from propend.recommend.index import EXACT_UP_TO, Index
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION, top_k_products
from propend.recommend.recommender import Items, Recommendations, Recommender, State
from propend.recommend.similarity import Sparse

__all__ = ["Als", "AlsParameters", "Factors", "one_hot"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class Factors(Recommender):
    """Base of factor models: ``_user`` [users, d], ``_item`` [n_items, d], ``_bias`` [n_items].

    A known user has the vector that was learnt; a session gets one folded in from its items.
    """

    likeness = "tastes like"
    _user: F32
    _item: F32
    _bias: F32
    _graph: tuple[F32, Index] | None = None

    @abstractmethod
    def _fold(self, histories: Histories) -> F32:
        """Return vectors [b, d] of histories that are no known user's."""

    def _vectors(self, histories: Histories) -> F32:
        at = self._fitted().rows_of(histories.users)
        vectors = self._user[at].copy()
        new = np.flatnonzero(at < 0)
        if len(new):
            lengths = np.diff(histories.offsets)[new]
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            rows = np.arange(offsets[-1]) + np.repeat(
                histories.offsets[new] - offsets[:-1], lengths
            )
            joined = Histories(
                histories.users[new],
                offsets.astype(np.int64),
                histories.items[rows],
                histories.weight[rows],
                histories.time[rows],
            )
            vectors[new] = self._fold(joined)
        return vectors

    def _score(self, histories: Histories, at: int) -> F32:
        del at
        scores = self._vectors(histories) @ self._item.T + self._bias
        scores[np.diff(histories.offsets) == 0] = NO_OPINION
        return scores

    def _near(self) -> Index:
        """Return the index of a catalogue too large to be looked through, made when first asked."""
        if self._graph is None or self._graph[0] is not self._item:
            self._graph = (
                self._item,
                Index(self._item, bias=self._bias, queries=self._user, seed=self._seed),
            )
        return self._graph[1]

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        """Rank without ever holding the scores of a block."""
        del at
        hide = not self.repeats if hide_seen is None else hide_seen
        vectors = self._vectors(histories)
        seen = (histories.offsets, histories.items) if hide else None
        if len(self._item) > EXACT_UP_TO:
            items, scores = self._near().search(vectors, k, allowed=allowed, seen=seen)
        else:
            items, scores = top_k_products(
                vectors, self._item, k, bias=self._bias, allowed=allowed, seen=seen
            )
        nobody = np.diff(histories.offsets) == 0
        items[nobody], scores[nobody] = -1, NO_OPINION
        source = np.zeros(items.shape, np.int8)
        return Recommendations(histories.users, items, scores, source, self.members)

    def _alike(self, items: I64) -> F32:
        size = np.maximum(np.linalg.norm(self._item, axis=1), 1e-12)
        unit = self._item / size[:, None]
        return unit[items] @ unit.T

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        size = np.maximum(np.linalg.norm(self._item, axis=1), 1e-12)
        unit = self._item / size[:, None]
        out = []
        for row, shown in enumerate(items.tolist()):
            had = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            told = ["" if item < 0 else "fits the taste of this history" for item in shown]
            if len(had):
                nearest = had[(unit[had] @ unit[np.maximum(items[row], 0)].T).argmax(axis=0)]
                for place, item in enumerate(shown):
                    if item >= 0:
                        code = int(nearest[place])
                        told[place] = f"tastes like {names[code] if names else f'item {code}'}"
            out.append(told)
        return out

    def _state(self) -> State:
        return State({}, {"user": self._user, "item": self._item, "bias": self._bias})

    def _restore(self, state: State) -> None:
        a = state.arrays
        self._user, self._item, self._bias = a["user"], a["item"], a["bias"]


def one_hot(items: Items, n_items: int, *, bins: int = 5) -> tuple[Any, list[str]]:
    """Return item attributes as n_items × values of 0 and 1 (SciPy CSR), and the name of each value.

    Text attributes give a column per value; numbers are cut into ``bins`` of equal mass; missing
    values give nothing.

    >>> table, names = one_hot({"colour": Column(np.array([0, 1, -1], np.int32), ("red", "blue"))}, 3)
    >>> table.toarray().tolist(), names
    ([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], ['colour = red', 'colour = blue'])
    """
    import scipy.sparse as sp

    rows, columns, names = [], [], list[str]()
    for name, values in items.items():
        if isinstance(values, Column):
            codes, labels = values.codes.astype(np.int64), [f"{name} = {v}" for v in values.values]
        else:
            known = np.isfinite(values)
            edges = np.unique(np.quantile(values[known], np.linspace(0, 1, bins + 1)[1:-1]))
            codes = np.where(known, np.searchsorted(edges, values, side="right"), -1)
            labels = (
                [f"{name} about {edge:g}" for edge in (*edges, edges[-1])] if len(edges) else []
            )
            labels = labels or [f"{name} known"]
        there = np.flatnonzero(codes >= 0)
        rows.append(there)
        columns.append(codes[there] + len(names))
        names += labels
    make: Any = sp.csr_array
    if not names:
        return make((n_items, 0), dtype=np.float32), names
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (n_items, len(names))
    return make((np.ones(len(row), np.float32), (row, column)), shape=shape), names


@dataclass(frozen=True, slots=True, kw_only=True)
class AlsParameters:
    """``confidence``: weight of a met pair beside ``unmet`` of all others; more with ``weighted`` interactions.

    ``strength`` of the ridge grows with a row's observations to the power ``scale`` (Rendle et al.).
    ``features``: weight of item attributes, 0 to leave them out. From 16 ``factors`` on, two of them
    hold the biases: a width of 64 or 128 is much the fastest.
    """

    factors: Annotated[int, Meta(ge=1)] = 64
    rounds: Annotated[int, Meta(ge=1)] = 15
    confidence: Annotated[float, Meta(gt=0)] = 1.0
    unmet: Annotated[float, Meta(gt=0)] = 0.01
    strength: Annotated[float, Meta(gt=0)] = 0.1
    scale: Annotated[float, Meta(ge=0, le=1)] = 0.5
    biases: bool = True
    weighted: bool = False
    features: Annotated[float, Meta(ge=0)] = 0.0
    steps: Annotated[int, Meta(ge=1)] = 3


class Als(Factors):
    """iALS with user and item biases and item attributes, by conjugate gradients.

    Minimises Σ_met c (1 − ŷ)² + α₀ Σ_all ŷ² + λ-ridge with ŷ = x·y + b_u + b_i (Hu, Koren & Volinsky,
    ICDM 2008; regularisation as in Rendle et al., "Revisiting the performance of iALS", RecSys 2022;
    conjugate gradients: Takács, Pilászy & Tikk, RecSys 2011). Biases are two further columns of the
    factors, one of them held at 1. Attributes enter as further rows beside the users, each value having
    "met" its items with weight ``features`` (Singh & Gordon, KDD 2008), so a new item with known
    attributes has a vector.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4], [3, 4]] * 5)
    >>> Als(factors=4, unmet=0.1).fit(log).recommend([0], k=1).lists()
    [[2]]
    """

    name = "als"
    Parameters = AlsParameters
    parameters: AlsParameters

    def _learn(self, log: Interactions) -> None:
        p = self.parameters
        table = self._confidences(log.histories())
        extra = 0
        if p.features > 0 and self._items:
            import scipy.sparse as sp

            known, _ = one_hot(self._items, log.n_items)
            extra = known.shape[1]
            table = sp.vstack([table, known.T * np.float32(p.features)]).tocsr()
        rows, columns = Sparse.of(table), Sparse.of(table.T)
        rng = np.random.default_rng(self._seed)
        left, right = (self._start(rng, len(part)) for part in (rows, columns))
        if p.biases:  # left [x, b, 1] · right [y, 1, b]
            left[:, -1] = right[:, -2] = 1.0
        for _ in range(p.rounds):
            self._solve(rows, left, right, fixed=1)
            self._solve(columns, right, left, fixed=2)
        self._user = left[: len(rows) - extra]
        self._item = right
        self._bias = np.zeros(log.n_items, np.float32)
        met = np.diff(columns.offsets) > 0
        self._bias[~met] = NO_OPINION

    def _start(self, rng: np.random.Generator, n: int) -> F32:
        """Return small random vectors, the columns of the biases 0."""
        tastes, width = self._widths()
        start = np.zeros((n, width), np.float32)
        start[:, :tastes] = rng.standard_normal((n, tastes)) * 0.1 / np.sqrt(tastes)
        return start

    def _widths(self) -> tuple[int, int]:
        """Return how many columns hold tastes, and how many there are with the two of the biases."""
        p = self.parameters
        if not p.biases:
            return p.factors, p.factors
        tastes = p.factors - 2 if p.factors >= 16 else p.factors
        return tastes, tastes + 2

    def _confidences(self, histories: Histories) -> Any:
        p = self.parameters
        table = histories.matrix(self._fitted().n_items, binary=not p.weighted)
        table.data = (p.confidence * table.data).astype(np.float32)
        return table

    def _solve(self, rows: Sparse, mine: F32, other: F32, *, fixed: int) -> None:
        """Improve ``mine`` with ``other`` held; ``fixed`` counts from the end the column that stays at 1."""
        p = self.parameters
        width = other.shape[1]
        free = np.ones(width, np.float32)
        if p.biases:
            free[width - fixed] = 0.0
        gram = (p.unmet * (other.T @ other)).astype(np.float32)
        count = np.diff(rows.offsets) + p.unmet * len(other)
        ridge = (p.strength * count**p.scale).astype(np.float32)
        _conjugate(rows.offsets, rows.columns, rows.values, other, gram, ridge, free, p.steps, mine)

    def _fold(self, histories: Histories) -> F32:
        p = self.parameters
        width = self._item.shape[1]
        vectors = np.zeros((len(histories), width), np.float32)
        if p.biases:
            vectors[:, -1] = 1.0
        rows = Sparse.of(self._confidences(histories))
        for _ in range(3):
            self._solve(rows, vectors, self._item, fixed=1)
        return vectors


@nb.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _conjugate(
    offsets: Any,
    columns: Any,
    weight: Any,
    other: Any,
    gram: Any,
    ridge: Any,
    free: Any,
    steps: int,
    mine: Any,
) -> None:
    """Take ``steps`` of conjugate gradients on each row's normal equations, columns with ``free`` 0 held.

    The equations of a row: (α₀ Σ_all z zᵀ + Σ_met c z zᵀ + λ I) v = Σ_met (c + α₀) z − …; the target of
    a met pair is 1 under the weight c + α₀, of all others 0 under α₀.
    """
    width = other.shape[1]
    r = np.empty(width, np.float32)
    p = np.empty(width, np.float32)
    ap = np.empty(width, np.float32)
    for row in range(len(offsets) - 1):
        v = mine[row]
        lam = ridge[row]
        for a in range(width):
            s = np.float32(0.0)
            for b in range(width):
                s += gram[a, b] * v[b]
            r[a] = -s - lam * v[a] * free[a]
        for at in range(offsets[row], offsets[row + 1]):
            z = other[columns[at]]
            c = weight[at]
            dot = np.float32(0.0)
            for a in range(width):
                dot += z[a] * v[a]
            pull = c - c * dot
            for a in range(width):
                r[a] += pull * z[a]
        old = np.float32(0.0)
        for a in range(width):
            r[a] *= free[a]
            p[a] = r[a]
            old += r[a] * r[a]
        for _ in range(steps):
            if old < 1e-20:
                break
            for a in range(width):
                s = np.float32(0.0)
                for b in range(width):
                    s += gram[a, b] * p[b]
                ap[a] = s + lam * p[a]
            for at in range(offsets[row], offsets[row + 1]):
                z = other[columns[at]]
                dot = np.float32(0.0)
                for a in range(width):
                    dot += z[a] * p[a]
                dot *= weight[at]
                for a in range(width):
                    ap[a] += dot * z[a]
            below = np.float32(0.0)
            for a in range(width):
                ap[a] *= free[a]
                below += p[a] * ap[a]
            if below <= 0.0:
                break
            step = old / below
            new = np.float32(0.0)
            for a in range(width):
                v[a] += step * p[a]
                r[a] -= step * ap[a]
                new += r[a] * r[a]
            for a in range(width):
                p[a] = r[a] + (new / old) * p[a]
            old = new
