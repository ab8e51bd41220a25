"""Neighbourhood methods over the sparse core: items (or users) that are met together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import ModelError
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.recommender import Recommender, State
from propend.recommend.similarity import Sparse, nearest_columns, nearest_rows, spread

__all__ = [
    "ItemNeighbours",
    "ItemNeighboursParameters",
    "RandomWalk",
    "RandomWalkParameters",
    "UserNeighbours",
    "UserNeighboursParameters",
    "Weighter",
    "likeness",
]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
Measure = Literal["cosine", "pearson", "adjusted_cosine", "jaccard"]
Weighting = Literal["binary", "given", "log", "tfidf", "bm25", "unit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemNeighboursParameters(ProfileParameters):
    """``neighbours`` kept per item, ``shrink`` added to the denominator of the likeness.

    ``weighting`` is what the table of users × items holds before items are compared; ``measure`` is how.
    """

    neighbours: Annotated[int, Meta(ge=1)] = 100
    shrink: Annotated[float, Meta(ge=0)] = 10.0
    measure: Measure = "cosine"
    weighting: Weighting = "binary"


class ItemNeighbours(ItemToItem):
    """Item-to-item: items met by the same users (Sarwar et al., WWW 2001; Linden et al., 2003).

    Measures: ``cosine``; ``pearson`` (values less the item's mean), ``adjusted_cosine`` (less the
    user's mean), both over all of an item's entries; ``jaccard`` on who met it. Weightings ``tfidf``,
    ``bm25`` and ``unit`` make users who met everything, or items everyone met, say less.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [1, 2]])
    >>> shelf = ItemNeighbours().fit(log)
    >>> shelf.recommend([0], k=3).lists()
    [[2]]
    >>> shelf.similar([0], k=1).items.tolist(), shelf.reason(0, 2)
    ([[1]], 'goes with item 1')
    """

    name = "item_neighbours"
    shares = True
    likeness = "chosen by the same users as"
    Parameters = ItemNeighboursParameters
    parameters: ItemNeighboursParameters

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        p = self.parameters
        table = Weighter.of(log, p.weighting).table(log.histories())
        check_centred(self.name, p.measure, table.data)
        each = np.maximum(np.diff(table.indptr), 1)
        mean = np.asarray(table.sum(axis=1)).ravel() / each
        self._table = likeness(table.T.tocsr(), p.measure, p.neighbours, p.shrink, mean)


@dataclass(frozen=True)
class Weighter:
    """What the table of users × items holds, learnt once and applied to any histories.

    ``tfidf``: w · log((users + 1) / (users of the item + ½)); ``bm25``: Robertson & Zaragoza (2009), a
    user being the document and an item the term, k1 1.2, b 0.75; ``unit``: each user's row brought to
    length 1 (Deshpande & Karypis, "Item-based top-N recommendation algorithms", TOIS 2004).
    """

    weighting: Weighting
    rare: F32
    length: float
    """Mean number of items per user."""

    @classmethod
    def of(cls, log: Interactions, weighting: Weighting) -> Weighter:
        """Learn the weights of a log."""
        table = log.matrix(binary=True)
        met = np.bincount(table.indices, minlength=log.n_items)
        rare = np.log((log.n_users + 1) / (met + 0.5)).astype(np.float32)
        return cls(weighting, rare, len(table.data) / log.n_users)

    def table(self, histories: Histories) -> Any:
        """Return histories × items as a SciPy CSR array."""
        table = histories.matrix(len(self.rare), binary=self.weighting in ("binary", "unit"))
        if self.weighting == "log":
            table.data = np.log1p(table.data)
        if self.weighting == "bm25":
            length = np.diff(table.indptr)
            norm = 1.2 * (0.25 + 0.75 * length / self.length)
            table.data = table.data * 2.2 / (table.data + np.repeat(norm, length))
        if self.weighting == "unit":
            length = np.diff(table.indptr)
            table.data = np.repeat(1 / np.sqrt(np.maximum(length, 1)), length)
        if self.weighting in ("tfidf", "bm25"):
            table.data = table.data * self.rare[table.indices]
        table.data = table.data.astype(np.float32)
        return table

    def state(self) -> State:
        """Return what was learnt."""
        return State({"weighting": self.weighting, "length": self.length}, {"rare": self.rare})

    @classmethod
    def from_state(cls, state: State) -> Weighter:
        """Undo ``state``."""
        return cls(**state.header, rare=state.arrays["rare"])


def check_centred(name: str, measure: Measure, values: F32) -> None:
    """Refuse a measure that takes means from the values where all values are equal: nothing would be left.

    >>> check_centred("item_neighbours", "pearson", np.ones(3, np.float32))
    Traceback (most recent call last):
    propend.errors.ModelError: 'item_neighbours' by pearson compares how strongly items were liked, and all weights are equal here; choose measure="cosine", or weighting="given" on a log with ratings or several types
    """
    if measure in ("pearson", "adjusted_cosine") and float(values.min()) == float(values.max()):
        raise ModelError(
            f"'{name}' by {measure.replace('_', ' ')} compares how strongly items were liked, and all weights "
            'are equal here; choose measure="cosine", or weighting="given" on a log with ratings or several types'
        )


def likeness(
    rows: Any, measure: Measure, neighbours: int, shrink: float, mean: F64 | None = None
) -> Sparse:
    """Return each row's nearest other rows: a SciPy CSR array [n, d] in, n × n sparse out.

    ``mean`` [d] is taken from the values for the adjusted cosine.
    """
    if measure == "jaccard":
        rows = rows.copy()
        rows.data[:] = 1.0
    else:
        rows = _centred(rows, measure, mean)
    rows.sum_duplicates()
    size = _size(rows, measure)
    return nearest_rows(rows, neighbours, size, shrink=shrink, union=measure == "jaccard")


def _size(rows: Any, measure: Measure) -> F64:
    """Return each row's length (or, for Jaccard, its number of entries), float64 [n]."""
    if measure == "jaccard":
        return np.diff(rows.indptr).astype(np.float64)
    squares = np.square(rows.data.astype(np.float64))
    index = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    return np.sqrt(np.bincount(index, squares, rows.shape[0]))


def _centred(rows: Any, measure: Measure, mean: F64 | None) -> Any:
    """Take from each value its row's mean (pearson) or its column's (adjusted cosine), where values are."""
    if measure not in ("pearson", "adjusted_cosine"):
        return rows
    out = rows.copy().astype(np.float64)
    if measure == "pearson":
        index = np.repeat(np.arange(out.shape[0]), np.diff(out.indptr))
        count = np.maximum(np.diff(out.indptr), 1)
        mean = np.bincount(index, out.data, out.shape[0]) / count
    else:
        index = out.indices
    assert mean is not None
    out.data = out.data - mean[index]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNeighboursParameters:
    """``neighbours`` most alike users asked; otherwise as for items."""

    neighbours: Annotated[int, Meta(ge=1)] = 100
    shrink: Annotated[float, Meta(ge=0)] = 0.0
    measure: Measure = "cosine"
    weighting: Weighting = "binary"


class UserNeighbours(Recommender):
    """User-to-user: what the most alike users had (Resnick et al., GroupLens, 1994; Herlocker et al., 1999).

    Neighbours are found when asked, so a session or a new user is served as well as an old one. For
    users ``pearson`` takes the user's mean from the values, ``adjusted_cosine`` the item's.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1, 2], [3, 4]])
    >>> shelf = UserNeighbours(neighbours=1).fit(log)
    >>> shelf.recommend([0, 2], k=2).lists(), shelf.recommend([[3]], k=2).lists()
    ([[2], []], [[4]])
    """

    name = "user_neighbours"
    Parameters = UserNeighboursParameters
    parameters: UserNeighboursParameters
    _users: Sparse
    _weighter: Weighter
    _mean: F64
    """Mean value of each item, for the adjusted cosine."""

    def _learn(self, log: Interactions) -> None:
        p = self.parameters
        self._weighter = Weighter.of(log, p.weighting)
        table = self._weighter.table(log.histories())
        check_centred(self.name, p.measure, table.data)
        count = np.maximum(np.bincount(table.indices, minlength=log.n_items), 1)
        self._mean = np.bincount(table.indices, table.data, log.n_items) / count
        self._users = Sparse.of(table)
        self._prepare()

    def _prepare(self) -> None:
        """Make what ``_score`` needs of the users: their compared values by item, and their norms."""
        compared = self._compared(self._users.scipy())
        self._by_item = Sparse.of(compared.T)
        self._norm = _size(compared, self.parameters.measure)

    def _compared(self, table: Any) -> Any:
        measure = self.parameters.measure
        if measure == "jaccard":
            table = table.copy()
            table.data[:] = 1.0
            return table
        return _centred(table, measure, self._mean)

    def _near(self, histories: Histories) -> Sparse:
        """Return the most alike users of each history, itself left out."""
        p = self.parameters
        rows = self._compared(self._weighter.table(histories))
        near = nearest_columns(
            Sparse.of(rows),
            self._by_item,
            p.neighbours + 1,
            row_norm=_size(rows, p.measure),
            column_norm=self._norm,
            shrink=p.shrink,
            union=p.measure == "jaccard",
            skip_self=False,
        )
        own = np.repeat(self._fitted().rows_of(histories.users), np.diff(near.offsets))
        values = np.where(near.columns == own, 0.0, near.values).astype(np.float32)
        return Sparse(near.offsets, near.columns, values, near.width)

    def _score(self, histories: Histories, at: int) -> F32:
        del at
        near = self._near(histories)
        return spread(near.offsets, near.columns, near.values, self._users)

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        del names
        near = self._near(histories)
        votes = spread(near.offsets, near.columns, np.sign(near.values), self._met())
        rows = np.arange(len(items))[:, None]
        count = np.maximum(votes[rows, np.maximum(items, 0)], 0)
        return [
            [
                f"chosen by {n:.0f} of the {self.parameters.neighbours} most alike users"
                if item >= 0
                else ""
                for item, n in zip(row.tolist(), counts.tolist(), strict=True)
            ]
            for row, counts in zip(items, count, strict=True)
        ]

    def _met(self) -> Sparse:
        u = self._users
        return Sparse(u.offsets, u.columns, np.ones_like(u.values), u.width)

    def _state(self) -> State:
        state = State({}, {"mean": self._mean})
        state.nest("users", self._users.state())
        state.nest("weighter", self._weighter.state())
        return state

    def _restore(self, state: State) -> None:
        self._mean = state.arrays["mean"]
        self._users = Sparse.from_state(state.part("users"))
        self._weighter = Weighter.from_state(state.part("weighter"))
        self._prepare()


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWalkParameters(ProfileParameters):
    """``alpha`` sharpens each step's chances, ``beta`` divides by popularity."""

    neighbours: Annotated[int, Meta(ge=1)] = 100
    alpha: Annotated[float, Meta(gt=0)] = 0.8
    beta: Annotated[float, Meta(ge=0)] = 0.4


class RandomWalk(ItemToItem):
    """RP3β: three steps of a walk user → item → user → item, less the pull of what is popular.

    The weight from i to j is Σ_u p(u|i)^α p(j|u)^α / popularity(j)^β (Paudel, Christoffel, Newell &
    Bernstein, "Updatable, accurate, diverse, and scalable recommendations", TiiS 2017).

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [0, 1], [1, 2]])
    >>> RandomWalk().fit(log).recommend([0], k=3).lists()
    [[2]]
    """

    name = "random_walk"
    Parameters = RandomWalkParameters
    parameters: RandomWalkParameters

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        p = self.parameters
        table = log.matrix(binary=True)
        by_item = table.T.tocsr()
        users_of, items_of = np.diff(by_item.indptr), np.diff(table.indptr)
        by_item.data = np.repeat(np.maximum(users_of, 1.0) ** -p.alpha, users_of)
        table.data = np.repeat(np.maximum(items_of, 1.0) ** -p.alpha, items_of)
        self._table = nearest_columns(
            Sparse.of(by_item),
            Sparse.of(table),
            p.neighbours,
            column_norm=np.maximum(users_of, 1.0) ** p.beta,
        )
