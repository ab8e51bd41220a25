"""Neighbourhood methods over the sparse core: items (or users) that are met together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.interactions import Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.similarity import Sparse, nearest_columns

__all__ = ["ItemNeighbours", "ItemNeighboursParameters", "likeness"]

F64 = npt.NDArray[np.float64]
Measure = Literal["cosine", "pearson", "adjusted_cosine", "jaccard"]
Weighting = Literal["binary", "given", "log", "tfidf", "bm25"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemNeighboursParameters(ProfileParameters):
    """``neighbours`` kept per item, ``shrink`` added to the denominator of the likeness.

    ``weighting`` is what the table of users × items holds before items are compared; ``measure`` is how.
    """

    neighbours: Annotated[int, Meta(ge=1)] = 100
    shrink: Annotated[float, Meta(ge=0)] = 0.0
    measure: Measure = "cosine"
    weighting: Weighting = "binary"


class ItemNeighbours(ItemToItem):
    """Item-to-item: items met by the same users (Sarwar et al., WWW 2001; Linden et al., 2003).

    Measures: ``cosine``; ``pearson`` (values less the item's mean), ``adjusted_cosine`` (less the
    user's mean), both over all of an item's entries; ``jaccard`` on who met it. Weightings ``tfidf``
    and ``bm25`` (k1 1.2, b 0.75) make users who met everything say less.

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
    Parameters = ItemNeighboursParameters
    parameters: ItemNeighboursParameters

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        p = self.parameters
        table = weighted(log, p.weighting)
        self._table = likeness(table.T.tocsr(), p.measure, p.neighbours, p.shrink)


def weighted(log: Interactions, weighting: Weighting) -> Any:
    """Return users × items with the weighting's values, a SciPy CSR array.

    ``tfidf``: w · log(users / users of the item); ``bm25``: Robertson & Zaragoza (2009), a user being
    the document and an item the term.
    """
    table = log.matrix(binary=weighting == "binary")
    if weighting == "log":
        table.data = np.log1p(table.data)
    if weighting in ("tfidf", "bm25"):
        met = np.bincount(table.indices, minlength=log.n_items)
        rare = np.log((log.n_users + 1) / (met + 0.5)).astype(np.float32)
        if weighting == "bm25":
            length = np.diff(table.indptr)
            norm = 1.2 * (0.25 + 0.75 * length / length.mean())
            table.data = table.data * 2.2 / (table.data + np.repeat(norm, length))
        table.data = (table.data * rare[table.indices]).astype(np.float32)
    return table


def likeness(rows: Any, measure: Measure, neighbours: int, shrink: float) -> Sparse:
    """Return each row's nearest other rows: a SciPy CSR array [n, d] in, n × n sparse out."""
    if measure == "jaccard":
        rows = rows.copy()
        rows.data[:] = 1.0
        sizes = np.diff(rows.indptr).astype(np.float64)
        return nearest_columns(
            Sparse.of(rows),
            Sparse.of(rows.T),
            neighbours,
            row_norm=sizes,
            column_norm=sizes,
            shrink=shrink,
            union=True,
        )
    rows = _centred(rows, measure)
    norm = np.sqrt(rows.multiply(rows).sum(axis=1)).astype(np.float64)
    return nearest_columns(
        Sparse.of(rows),
        Sparse.of(rows.T),
        neighbours,
        row_norm=norm,
        column_norm=norm,
        shrink=shrink,
    )


def _centred(rows: Any, measure: Measure) -> Any:
    """Take from each value its row's mean (pearson) or its column's (adjusted cosine), over what is there."""
    if measure == "cosine":
        return rows
    out = rows.copy().astype(np.float64)
    if measure == "pearson":
        index = np.repeat(np.arange(out.shape[0]), np.diff(out.indptr))
        size = out.shape[0]
    else:
        index, size = out.indices, out.shape[1]
    count = np.maximum(np.bincount(index, minlength=size), 1)
    mean = np.bincount(index, out.data, size) / count
    out.data = out.data - mean[index]
    return out
