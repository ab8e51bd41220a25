"""From rules and sets to offers: what to suggest beside an item, and what to sell as one, with the money in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import DataError
from propend.recommend.rules.baskets import Baskets
from propend.recommend.rules.itemsets import frequent_sets
from propend.recommend.rules.measures import Control, Rules, corrected, together_by_chance

__all__ = ["bundles", "cross_sales"]

F64 = npt.NDArray[np.float64]


def cross_sales(
    rules: Rules,
    margin: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    most: int | None = None,
) -> pa.Table:
    """Return what to suggest beside what is in the basket, the most rewarding first.

    Parameters
    ----------
    margin
        money one sale of each item leaves, by item code; an item whose margin is missing is left out.
    names
        by item code.
    most
        most suggestions for one antecedent.

    Returns
    -------
    table
        that of ``Rules.table`` and, per basket with the antecedent: ``expected_margin``, confidence ×
        margin of the consequent; ``extra_margin``, what is above those who take it in any basket,
        (confidence − P(c)) × margin. Both are what baskets were like, not what a suggestion causes: that
        is for an experiment to say.

    Examples
    --------
    >>> from propend.recommend.rules.measures import find_rules
    >>> rules = find_rules(Baskets.from_lists([[0, 1]] * 8 + [[2]] * 8 + [[0, 2]]), 0.1)
    >>> table = cross_sales(rules, [1.0, 10.0, 5.0], names=["tea", "pot", "cup"])
    >>> table.select(["antecedent", "consequent", "expected_margin"]).to_pylist()[0]
    {'antecedent': ['tea'], 'consequent': 'pot', 'expected_margin': 8.88888888888889}
    """
    worth = _margins(margin, int(rules.consequent.max(initial=-1)) + 1)
    value = worth[rules.consequent] if len(rules) else np.zeros(0)
    base = rules.confidence / np.where(rules.lift > 0, rules.lift, 1.0)
    expected = rules.confidence * value
    extra = (rules.confidence - base) * value
    order = np.flatnonzero(np.isfinite(value))
    order = order[np.argsort(-extra[order], kind="stable")]
    if most is not None:
        shown: dict[tuple[int, ...], int] = {}
        kept = []
        for row in order.tolist():
            here = shown.get(rules.antecedent[row], 0)
            if here < most:
                shown[rules.antecedent[row]] = here + 1
                kept.append(row)
        order = np.array(kept, np.int64)
    table = rules.table(names)
    table = table.append_column("expected_margin", pa.array(expected))
    table = table.append_column("extra_margin", pa.array(extra))
    return table.take(pa.array(order))


def bundles(
    baskets: Baskets,
    support: float,
    margin: npt.ArrayLike,
    *,
    discount: float = 0.1,
    significance: float | None = 0.05,
    control: Control = "discoveries",
    longest: int = 3,
    names: Sequence[str] | None = None,
) -> pa.Table:
    """Return sets of items worth selling as one, the most rewarding first.

    A set is proposed where it is bought together more often than chance explains: more often than its
    likeliest two parts would meet by accident (the largest Fisher p over all ways to cut it in two),
    corrected over all sets tested.

    Parameters
    ----------
    margin
        money one sale of each item leaves, by item code; sets with a missing margin are left out.
    discount
        share of the bundle's margin given away for buying it whole, 0 to below 1.
    longest
        most items of a bundle.

    Returns
    -------
    table
        items; ``count`` and ``support`` of baskets that held them all; ``lift`` over independence;
        ``p``, ``q``; ``margin`` of one bundle after the discount; ``expected_margin`` per basket of the
        shop if the bundle sells as often as the items now go together; ``break_even``: how many times as
        often it must sell for the discount to cost nothing, 1 / (1 − discount).

    Raises
    ------
    DataError
        a discount outside 0 … 1, and whatever ``frequent_sets`` refuses.

    Examples
    --------
    >>> table = bundles(Baskets.from_lists([[0, 1]] * 8 + [[2]] * 8), 0.1, [1.0, 3.0, 9.0])
    >>> table.to_pylist()[0]["items"], round(table.to_pylist()[0]["expected_margin"], 3)
    (['0', '1'], 1.8)
    """
    if not 0 <= discount < 1:
        raise DataError(f"a bundle's discount is a share of its margin below 1, got {discount:g}")
    found = frequent_sets(baskets, support, longest=longest)
    n = len(baskets)
    several = [(s, c) for s, c in found.counts.items() if len(s) > 1]
    p = _cut_in_two(several, found.counts, n)
    q = corrected(p, control)
    worth = _margins(margin, baskets.n_items)
    single = np.bincount(baskets.items, minlength=baskets.n_items) / max(n, 1)
    together = np.array([c for _, c in several], np.float64) / n
    lift = together / np.array([single[list(s)].prod() for s, _ in several]).reshape(-1)
    whole = np.array([worth[list(s)].sum() for s, _ in several]).reshape(-1) * (1 - discount)
    keep = np.isfinite(whole) & (q <= (1.0 if significance is None else significance)) & (lift > 1)
    order = np.flatnonzero(keep)
    order = order[np.argsort(-(whole * together)[order], kind="stable")]
    label: Callable[[int], str] = str if names is None else names.__getitem__
    columns: dict[str, Any] = {
        "items": pa.array(
            [[label(i) for i in several[r][0]] for r in order], pa.list_(pa.string())
        ),
        "count": pa.array([several[r][1] for r in order], pa.int64()),
        "support": together[order],
        "lift": lift[order],
        "p": p[order],
        "q": q[order],
        "margin": whole[order],
        "expected_margin": (whole * together)[order],
        "break_even": np.full(len(order), 1 / (1 - discount)),
    }
    return pa.table(columns)


def _cut_in_two(
    several: list[tuple[tuple[int, ...], int]], counts: dict[tuple[int, ...], int], n: int
) -> F64:
    """Return the largest chance of each set over all ways to cut it into two parts."""
    owner, both, left, right = [], [], [], []
    for number, (items, count) in enumerate(several):
        for mask in range(
            1, 1 << (len(items) - 1)
        ):  # the last item stays on the right: each cut once
            part = tuple(i for place, i in enumerate(items) if mask >> place & 1)
            rest = tuple(i for place, i in enumerate(items) if not mask >> place & 1)
            owner.append(number)
            both.append(count)
            left.append(counts[part])
            right.append(counts[rest])
    together, one, other = (np.array(values, np.int64) for values in (both, left, right))
    out = np.zeros(len(several))
    np.maximum.at(out, np.array(owner, np.int64), together_by_chance(together, one, other, n))
    return out


def _margins(margin: npt.ArrayLike, n_items: int) -> F64:
    worth = np.asarray(margin, np.float64)
    if worth.ndim != 1 or len(worth) < n_items:
        raise DataError(
            f"margins are one number per item code: {worth.size} were given for {n_items} items"
        )
    return worth
