"""The k largest inner products: exact up to a million items, a graph index whose recall is checked beyond."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError
from propend.recommend.ranking import NO_OPINION, top_k_products

__all__ = ["EXACT_UP_TO", "Index"]

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

EXACT_UP_TO: Final = 1_000_000
"""Items from which neighbours are looked up in an index instead of by all products."""
_SAMPLE: Final = 200
_WIDEST: Final = 2_048


class Index:
    """Items as points of a small-world graph (HNSW; Malkov & Yashunin, TPAMI 2020), by the library usearch.

    The graph is made with the inner product itself (Morozov & Babenko, "Non-metric similarity graphs for
    maximum inner product search", NeurIPS 2018), the bias being one further coordinate; the detour over
    distances by a coordinate that gives every item the same length (Bachrach et al., RecSys 2014) found
    less than half as much here. The search is widened until, for 200 of the ``queries``, at least
    ``recall`` of the exact answers are found; ``measured`` is what was reached.

    Parameters
    ----------
    items
        float32 [n, d].
    bias
        float32 [n] added to each product; ``NO_OPINION`` leaves the item out.
    recall
        share of the exact top 20 to be found.
    queries
        float32 [q, d] like those to come; default the items.

    Raises
    ------
    MissingExtraError
        usearch is not installed; the message is the command that installs it.

    Examples
    --------
    >>> import pytest; _ = pytest.importorskip("usearch.index")
    >>> points = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    >>> index = Index(points)
    >>> index.measured >= 0.95
    True
    """

    def __init__(
        self,
        items: F32,
        *,
        bias: F32 | None = None,
        recall: float = 0.95,
        queries: F32 | None = None,
        seed: int = 0,
    ) -> None:
        self._items = np.ascontiguousarray(items, np.float32)
        self._bias = np.zeros(len(items), np.float32) if bias is None else bias
        known = np.flatnonzero(np.isfinite(self._bias))
        points = np.column_stack([self._items[known], self._bias[known]]).astype(np.float32)
        self._graph = _usearch()(
            ndim=points.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=128
        )
        self._graph.add(known.astype(np.uint64), points, threads=1)
        asked = self._items[known] if queries is None else queries
        self.measured = self._widen(recall, asked, seed)

    def _widen(self, recall: float, queries: F32, seed: int) -> float:
        """Widen the search until the recall is reached; returns what it is."""
        rng = np.random.default_rng(seed)
        queries = queries[np.sort(rng.permutation(len(queries))[:_SAMPLE])]
        k = min(20, len(self._graph))
        exact, _ = top_k_products(queries, self._items, k, bias=self._bias)
        width, reached = 64, 0.0
        while True:
            self._graph.expansion_search = width
            found, _ = self._near(queries, k)
            hits = [
                len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)
            ]
            reached = float(np.sum(hits)) / max(k * len(queries), 1)
            if reached >= recall or width >= _WIDEST:
                return reached
            width *= 2

    def _near(self, queries: F32, k: int) -> tuple[I32, F32]:
        """Return about the k largest products of each query with all items."""
        ones = np.ones((len(queries), 1), np.float32)
        asked = np.hstack([queries, ones])
        found = self._graph.search(asked, k, threads=1)
        keys = np.asarray(found.keys).reshape(len(queries), -1).astype(np.int64)
        counts = getattr(found, "counts", None)  # one query's answer comes without
        there = np.ones(keys.shape, np.bool_)
        if counts is not None:
            there = np.arange(keys.shape[1]) < np.asarray(counts).reshape(-1, 1)
        items = np.where(there, keys, -1).astype(np.int32)
        at = np.maximum(items, 0)
        scores = np.einsum("qd,qkd->qk", queries, self._items[at]) + self._bias[at]
        return items, np.where(items >= 0, scores, NO_OPINION).astype(np.float32)

    def search(
        self,
        queries: F32,
        k: int,
        *,
        allowed: Bool | None = None,
        seen: tuple[I64, I32] | None = None,
    ) -> tuple[I32, F32]:
        """Return about the k best items of each query, [q, k] items and scores, as ``top_k_products`` does.

        What is not ``allowed`` and what a row has ``seen`` is asked for on top and left out; a row that
        keeps fewer than k that way is answered exactly.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        items, scores = (
            np.full((len(queries), k), -1, np.int32),
            np.full((len(queries), k), NO_OPINION, np.float32),
        )
        lengths = np.zeros(len(queries), np.int64) if seen is None else np.diff(seen[0])
        n = len(self._graph)
        for start in range(0, len(queries), _BLOCK):
            part = slice(start, min(start + _BLOCK, len(queries)))
            more = min(n, 2 * k + int(lengths[part].max(initial=0)))
            found, best = self._near(queries[part], more)
            drop = found < 0
            if allowed is not None:
                drop |= ~allowed[np.maximum(found, 0)]
            if seen is not None:
                drop |= _seen(found, seen[0][part.start : part.stop + 1], seen[1])
            best[drop] = NO_OPINION
            order = np.lexsort((found, -best), axis=1)[:, :k]
            items[part, : order.shape[1]] = np.take_along_axis(found, order, axis=1)
            scores[part, : order.shape[1]] = np.take_along_axis(best, order, axis=1)
        items[np.isneginf(scores)] = -1
        few = np.flatnonzero((items < 0).any(axis=1))
        if len(few):
            own = None
            if seen is not None:
                rows = np.arange(lengths[few].sum()) + np.repeat(
                    seen[0][few] - np.concatenate([[0], np.cumsum(lengths[few])[:-1]]), lengths[few]
                )
                own = (np.concatenate([[0], np.cumsum(lengths[few])]), seen[1][rows])
            items[few], scores[few] = top_k_products(
                queries[few], self._items, k, bias=self._bias, allowed=allowed, seen=own
            )
        return items, scores


_BLOCK: Final = 1_024


def _seen(found: I32, offsets: I64, codes: I32) -> Bool:
    """Return which found items [q, m] stand in their row's codes."""
    rows = np.arange(len(found))
    width = np.int64(max(int(found.max(initial=0)), int(codes.max(initial=0))) + 1)
    owner = np.repeat(rows, np.diff(offsets))
    had = owner * width + codes[offsets[0] : offsets[-1]]
    return np.isin(rows[:, None] * width + found, had)


def _usearch() -> Any:
    try:
        from usearch.index import Index as Graph
    except ImportError:
        raise MissingExtraError(
            f"recommending from more than {EXACT_UP_TO:,} items", "index"
        ) from None
    return Graph
