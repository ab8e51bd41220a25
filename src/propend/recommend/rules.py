"""Association rules over baskets: exact counts, measures, and how sure one can be after so many looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import DataError, NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Interactions

__all__ = ["Baskets", "ItemSets", "Rules", "find_rules", "frequent_sets"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Baskets:
    """Sets of items: basket ``i`` owns ``items[offsets[i]:offsets[i + 1]]``, distinct and ascending."""

    offsets: I64
    items: I32
    n_items: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]], n_items: int | None = None) -> Baskets:
        """Build from lists of item codes; repeats inside a basket count once, empty baskets stay.

        >>> Baskets.from_lists([[2, 0, 2], []]).items.tolist()
        [0, 2]
        """
        parts = [np.unique(np.asarray(part, np.int32)) for part in lists]
        items = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        if len(items) and items.min() < 0:
            raise DataError("item codes of baskets must be 0 or more; encode ids first")
        size = int(items.max(initial=-1)) + 1 if n_items is None else n_items
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return cls(offsets.astype(np.int64), items.astype(np.int32), size)

    @classmethod
    def of(cls, log: Interactions, *, gap: float | None = None) -> Baskets:
        """Build from interactions: all of a user's items, or a new basket after a pause of ``gap`` days."""
        start = np.ones(len(log), np.bool_)
        start[1:] = log.user[1:] != log.user[:-1]
        if gap is not None:
            if not log.clock:
                raise NotEnoughDataError("baskets by pauses need times; leave gap out")
            start[1:] |= np.diff(log.time) > gap * DAY
        owner = np.cumsum(start) - 1
        pairs = np.unique(owner * np.int64(log.n_items) + log.item)
        owner, item = pairs // log.n_items, pairs % log.n_items
        offsets = np.searchsorted(owner, np.arange(int(start.sum()) + 1))
        return cls(offsets.astype(np.int64), item.astype(np.int32), log.n_items)


@dataclass(frozen=True)
class ItemSets:
    """Frequent sets: each an ascending tuple of item codes, with the number of baskets that hold it."""

    counts: dict[tuple[int, ...], int]
    baskets: int

    def __len__(self) -> int:
        return len(self.counts)


def frequent_sets(baskets: Baskets, support: float, *, longest: int | None = None) -> ItemSets:
    """Return every set of items held by at least a share ``support`` of the baskets, with exact counts.

    Eclat (Zaki, "Scalable algorithms for association mining", TKDE 2000): sets grow depth first by
    intersecting bitmaps of the baskets that hold them.

    Raises
    ------
    DataError
        a support that is not above 0 and at most 1.
    NotEnoughDataError
        no basket.

    Examples
    --------
    >>> found = frequent_sets(Baskets.from_lists([[0, 1], [0, 1, 2], [0, 2], [1]]), 0.5)
    >>> found.counts
    {(0,): 3, (0, 1): 2, (0, 2): 2, (1,): 3, (2,): 2}
    """
    if not 0 < support <= 1:
        raise DataError(
            f"support must be above 0 and at most 1, got {support:g}; 0.001 means one basket in a thousand"
        )
    if not len(baskets):
        raise NotEnoughDataError("there is no basket to look for rules in; bring purchases")
    least = max(1, int(np.ceil(support * len(baskets) - 1e-9)))
    count = np.bincount(baskets.items, minlength=baskets.n_items)
    items = np.flatnonzero(count >= least).astype(np.int64)
    bits = _bitmaps(baskets, items)
    return ItemSets(dict(_grow((), items, count[items], bits, least, longest)), len(baskets))


def _bitmaps(baskets: Baskets, items: I64) -> U64:
    """Return which baskets hold each item, one bit per basket: uint64 [items, words]."""
    place = np.full(baskets.n_items, -1, np.int64)
    place[items] = np.arange(len(items))
    bits = np.zeros((len(items), (len(baskets) + 63) // 64), np.uint64)
    row = np.repeat(np.arange(len(baskets)), np.diff(baskets.offsets))
    at = place[baskets.items]
    row, at = row[at >= 0], at[at >= 0]
    np.bitwise_or.at(bits, (at, row // 64), np.uint64(1) << (row % 64).astype(np.uint64))
    return bits


def _grow(
    prefix: tuple[int, ...], items: I64, counts: I64, bits: U64, least: int, longest: int | None
) -> Iterator[tuple[tuple[int, ...], int]]:
    for n in range(len(items)):
        here = (*prefix, int(items[n]))
        yield here, int(counts[n])
        if n + 1 == len(items) or len(here) == longest:
            continue
        kept = np.empty(len(items) - n - 1, np.int64)
        held = np.empty(len(kept), np.int64)
        size = _meet(bits, n, least, kept, held)
        if size:
            more = kept[:size]
            yield from _grow(here, items[more], held[:size], bits[more] & bits[n], least, longest)


@nb.njit(cache=True, nogil=True)
def _meet(bits: Any, n: int, least: int, kept: Any, held: Any) -> int:
    """Find the later items held together with item n by enough baskets; returns how many."""
    size = 0
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    m1, m2 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    m4, h = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    for j in range(n + 1, bits.shape[0]):
        total = np.uint64(0)
        for w in range(bits.shape[1]):
            x = bits[n, w] & bits[j, w]
            x -= (x >> one) & m1
            x = (x & m2) + ((x >> two) & m2)
            x = (x + (x >> four)) & m4
            total += (x * h) >> np.uint64(56)
        if total >= least:
            kept[size] = j
            held[size] = total
            size += 1
    return size


@dataclass(frozen=True)
class Rules:
    """Rules antecedent → consequent [r], the surest first; every column is aligned with ``antecedent``.

    ``support`` share of baskets with both; ``confidence`` P(c | a); ``lift`` confidence / P(c);
    ``leverage`` P(a, c) − P(a) P(c) (Piatetsky-Shapiro 1991); ``conviction`` P(a) P(not c) / P(a, not c)
    (Brin et al. 1997), ∞ for a rule without exception. ``p`` is Fisher's one-sided exact test that they
    go together by chance, ``q`` the same after Benjamini & Hochberg (1995) over all ``tested`` rules.
    """

    antecedent: tuple[tuple[int, ...], ...]
    consequent: I64
    count: I64
    support: F64
    confidence: F64
    lift: F64
    leverage: F64
    conviction: F64
    p: F64
    q: F64
    baskets: int
    tested: int

    def __len__(self) -> int:
        return len(self.antecedent)

    def table(
        self, names: Sequence[str] | None = None, margin: npt.ArrayLike | None = None
    ) -> pa.Table:
        """Return the rules as a table; ``names`` and ``margin`` (money earned by one sale) by item code.

        With margins the column ``expected_margin`` is confidence × the consequent's margin: what a
        cross-sell earns per basket that already holds the antecedent.
        """
        label = (lambda i: names[i]) if names is not None else str
        columns: dict[str, Any] = {
            "antecedent": pa.array(
                [[label(i) for i in a] for a in self.antecedent], pa.list_(pa.string())
            ),
            "consequent": pa.array([label(int(c)) for c in self.consequent], pa.string()),
        }
        for name in ("count", "support", "confidence", "lift", "leverage", "conviction", "p", "q"):
            columns[name] = getattr(self, name)
        if margin is not None:
            columns["expected_margin"] = self.confidence * np.asarray(margin)[self.consequent]
        return pa.table(columns)


def find_rules(
    baskets: Baskets,
    support: float,
    *,
    confidence: float = 0.0,
    significance: float | None = 0.05,
    longest: int | None = 4,
) -> Rules:
    """Return the rules a → c with one consequent that are frequent, confident and not explained by chance.

    Parameters
    ----------
    support
        least share of baskets with antecedent and consequent, above 0.
    confidence
        least P(c | a).
    significance
        most false discovery rate over all frequent rules tested; none: all are kept.
    longest
        most items of antecedent and consequent together.

    Examples
    --------
    >>> rules = find_rules(Baskets.from_lists([[0, 1]] * 8 + [[2]] * 8 + [[0, 2]]), 0.1)
    >>> [(a, int(c)) for a, c in zip(rules.antecedent, rules.consequent)]
    [((1,), 0), ((0,), 1)]
    >>> round(float(rules.lift[0]), 3), round(float(rules.confidence[1]), 3)
    (1.889, 0.889)
    """
    found = frequent_sets(baskets, support, longest=longest)
    pairs = [
        (items[:n] + items[n + 1 :], items[n], count)
        for items, count in found.counts.items()
        if len(items) > 1
        for n in range(len(items))
    ]
    antecedent = tuple(a for a, _, _ in pairs)
    consequent = np.array([c for _, c, _ in pairs], np.int64)
    both = np.array([count for _, _, count in pairs], np.int64)
    left = np.array([found.counts[a] for a, _, _ in pairs], np.int64)
    right = np.array([found.counts[(c,)] for _, c, _ in pairs], np.int64)
    n = len(baskets)
    p, q = _chance(both, left, right, n)
    sure = both / np.maximum(left, 1)
    keep = sure >= confidence
    if significance is not None:
        keep &= q <= significance
    order = np.flatnonzero(keep)
    order = order[np.lexsort((order, -sure[order], p[order]))]
    both, left, right, sure = both[order], left[order], right[order], sure[order]
    missed = left - both
    with np.errstate(divide="ignore"):
        conviction = np.where(missed > 0, left * (n - right) / (n * np.maximum(missed, 1)), np.inf)
    return Rules(
        tuple(antecedent[i] for i in order),
        consequent[order],
        both,
        both / n,
        sure,
        sure * n / right,
        both / n - left * right / n**2,
        conviction,
        p[order],
        q[order],
        n,
        len(pairs),
    )


def _chance(both: I64, left: I64, right: I64, n: int) -> tuple[F64, F64]:
    """Return Fisher's one-sided p and the Benjamini–Hochberg q of each pair of counts."""
    from scipy.stats import false_discovery_control, hypergeom

    if not len(both):
        return np.zeros(0), np.zeros(0)
    p = np.clip(hypergeom.sf(both - 1, n, left, right), 0.0, 1.0)
    return p, np.asarray(false_discovery_control(p))
