"""Items like those one had, by what they are: attributes, words, embeddings. Serves items nobody met yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import NotEnoughDataError
from propend.events.timelines import Column
from propend.recommend.factors import one_hot
from propend.recommend.interactions import Interactions
from propend.recommend.linear import ItemToItem, ProfileParameters
from propend.recommend.neighbours import likeness
from propend.recommend.recommender import Items
from propend.recommend.similarity import Sparse

__all__ = ["Content", "ContentParameters", "describe"]

F64 = npt.NDArray[np.float64]


_PAIRS: Final = 300_000_000
"""Pairs of items that share a descriptor, counted once for each: some seconds of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentParameters(ProfileParameters):
    """``texts``: attributes read as words (default: text that is mostly different from item to item).

    ``text_weight`` and ``embedding_weight``: how much they count beside one-hot attributes.
    """

    neighbours: Annotated[int, Meta(ge=1)] = 200
    texts: tuple[str, ...] | None = None
    text_weight: Annotated[float, Meta(ge=0)] = 1.0
    embedding_weight: Annotated[float, Meta(ge=0)] = 1.0


class Content(ItemToItem):
    """Cosine between item descriptions: one-hot attributes, TF-IDF of characters, embeddings handed in.

    Texts are cut into runs of 1 to 3 characters inside words, weighted by TF-IDF: this needs no word
    list and serves Chinese and English alike (Lops, de Gemmis & Semeraro, "Content-based recommender
    systems", 2011; McNamee & Mayfield, "Character n-gram tokenization for European language text
    retrieval", 2004). In large catalogues the commonest descriptors are left out (``affordable``). A two-dimensional attribute [n_items, d] is an embedding.

    Raises ``NotEnoughDataError`` without item attributes.

    Examples
    --------
    >>> names = Column(np.array([0, 1, 2, 3], np.int32), ("红色毛衣", "蓝色毛衣", "red mug", "blue mug"))
    >>> log = Interactions.from_lists([[0], [2]], n_items=4)
    >>> shelf = Content().fit(log, items={"name": names})
    >>> shelf.recommend(k=1).lists(), shelf.reason(0, 1)
    ([[1], [3]], 'is like item 0')
    """

    name = "content"
    shares = True
    Parameters = ContentParameters
    likeness = "is like"
    parameters: ContentParameters
    _made_from: Sequence[Any] = ()

    def _learn(self, log: Interactions) -> None:
        self._check_clock(log)
        if not self._items:
            raise NotEnoughDataError(
                "'content' recommends by what items are; pass items=, or declare an items table in propend.toml"
            )
        made_from = [*self._items.values()]
        before = self._made_from
        if len(before) == len(made_from) and all(
            a is b for a, b in zip(before, made_from, strict=True)
        ):
            return  # what items are like does not change with the log
        p = self.parameters
        table = describe(
            self._items,
            log.n_items,
            texts=p.texts,
            text_weight=p.text_weight,
            embedding_weight=p.embedding_weight,
        )
        self._table = likeness(affordable(table), "cosine", p.neighbours, 0.0)
        self._made_from = made_from

    def _knows(self, item: int) -> bool:
        assert isinstance(self._table, Sparse)
        return bool((self._table.columns == item).any())

    def _sentence(self, item: int, because: int, names: Sequence[str] | None) -> str:
        return super()._sentence(item, because, names).replace("goes with", "is like")


def describe(
    items: Items,
    n_items: int,
    *,
    texts: tuple[str, ...] | None = None,
    text_weight: float = 1.0,
    embedding_weight: float = 1.0,
) -> Any:
    """Return items × descriptors (SciPy CSR): each kind's row of length 1 times its weight, or empty."""
    import scipy.sparse as sp

    wordy = set(_wordy(items) if texts is None else texts)
    plain: Items = {n: v for n, v in items.items() if n not in wordy and np.ndim(_raw(v)) == 1}
    known, _ = one_hot(plain, n_items)
    rare = np.log(n_items / np.maximum(known.sum(axis=0), 1)) + 1
    parts = [_unit(sp.csr_array(known.multiply(rare[None, :])))] if known.shape[1] else []
    for name in sorted(wordy & items.keys()):
        column = items[name]
        if isinstance(column, Column) and column.values:
            parts.append(_words(column) * text_weight)
    parts += [
        _unit(sp.csr_array(np.nan_to_num(values))) * embedding_weight
        for values in items.values()
        if not isinstance(values, Column) and values.ndim == 2
    ]
    make: Any = sp.csr_array
    return sp.hstack(parts).tocsr() if parts else make((n_items, 0), dtype=np.float64)


def affordable(table: Any, pairs: int = _PAIRS) -> Any:
    """Return items × descriptors less the commonest descriptors, so that about ``pairs`` pairs of items are compared.

    What half the catalogue shares says little (its weight is the smallest) and costs the most: its carriers, squared.

    >>> import scipy.sparse as sp
    >>> table = sp.csr_array(np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    >>> affordable(table, 5).toarray().tolist()
    [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    carriers = np.bincount(table.indices, minlength=table.shape[1]).astype(np.float64)
    order = np.argsort(carriers, kind="stable")
    kept = np.zeros(table.shape[1])
    kept[order[np.cumsum(np.square(carriers[order])) <= pairs]] = 1.0
    if kept.all():
        return table
    out = table.multiply(kept[None, :]).tocsr()
    out.eliminate_zeros()
    return out


def _raw(values: Any) -> Any:
    return values.codes if isinstance(values, Column) else values


def _wordy(items: Items) -> list[str]:
    """Return the text attributes with more than half as many values as items."""
    return [
        name
        for name, values in items.items()
        if isinstance(values, Column) and 2 * len(values.values) > (values.codes >= 0).sum() > 1
    ]


def _words(column: Column) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [*column.values, ""]
    vectors = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True, max_features=200_000
    ).fit_transform(texts)
    return vectors[np.where(column.codes < 0, len(texts) - 1, column.codes)]


def _unit(table: Any) -> Any:
    size = np.sqrt(np.asarray(table.multiply(table).sum(axis=1))).ravel()
    per_row = np.diff(table.indptr)
    out = table.copy()
    out.data = out.data / np.repeat(np.maximum(size, 1e-12), per_row)
    return out
