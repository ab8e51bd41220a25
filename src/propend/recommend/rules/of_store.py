"""Rules, bundles and cross-selling of a whole store, as tables with the items' names and the money in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import DataError, ExpressionError, NotEnoughDataError, nearest
from propend.events.store import Store
from propend.events.timelines import Column
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.names import PRICE, QUANTITY, SESSION, VALUE
from propend.recommend.interactions import IGNORED, WEIGHTS, Histories
from propend.recommend.rules.baskets import Baskets, starts
from propend.recommend.rules.measures import Control, find_rules
from propend.recommend.rules.offers import bundles, cross_sales

__all__ = ["bundle_table", "margins_of", "rule_table", "store_baskets"]

F64 = npt.NDArray[np.float64]

_PAUSE = 30 / (24 * 60)
"""Days of pause that end a visit where the log has no sessions of its own."""


def store_baskets(
    store: Store,
    per: str = "session",
    *,
    types: Sequence[str] | None = None,
    until: int | None = None,
) -> Baskets:
    """Return the baskets of a store's timelines.

    Parameters
    ----------
    per
        ``session`` (the log's own sessions, orders or baskets; where it has none, visits with pauses of
        30 minutes), ``user`` (everything a user ever took), or a length such as ``7d`` (windows of the
        timeline, from the epoch's midnight UTC).
    types
        event types that put an item into a basket; default the strongest sign of interest in the log
        (purchase before cart before view).

    Raises
    ------
    DataError
        an unknown event type, or a word that is none of these.
    NotEnoughDataError
        no such event carries an item.
    """
    window = _window(per)
    own = per == "session" and SESSION in store.manifest.columns
    chosen = list(types) if types is not None else _strongest(store)
    codes = store.type_codes(chosen)
    owner, items, size = [], [], 0
    for bucket in range(store.buckets):
        lines = store.timelines(bucket, [SESSION] if own else [])
        lines = lines if until is None else lines.before(until)
        lines = lines.select(np.isin(lines.type, codes) & (lines.item >= 0))
        row = lines.user_of_row
        if not len(row):
            continue
        histories = Histories(
            lines.users, lines.offsets, lines.item, np.ones(len(row), np.float32), lines.time
        )
        gap = _PAUSE if per == "session" else None
        begins = np.cumsum(starts(histories, True, gap, window)) - 1
        if own:
            session = lines.texts[SESSION]
            named = row * np.int64(len(session.values) + 1) + session.codes
            key = np.where(session.codes >= 0, named, -1 - begins)  # no session told: by pauses
            begins = np.unique(key, return_inverse=True)[1]
        owner.append(begins + size)
        items.append(lines.item)
        size += int(begins.max()) + 1
    if not size:
        raise NotEnoughDataError(
            f"no event of type {', '.join(chosen) or 'any'} carries an item, so there is no basket; "
            "declare the item column of the source in propend.toml"
        )
    basket, item = np.concatenate(owner), np.concatenate(items)
    made = Baskets.from_pairs(basket, item, size, len(store.item_ids()))
    if len(made.items) == len(made):
        raise NotEnoughDataError(
            f"each of the {len(made):,} baskets per {per} holds one item, so nothing goes with anything; "
            "take larger ones, such as per user or per 7d"
        )
    return made


def rule_table(
    store: Store,
    schema: Schema,
    names: Sequence[str],
    *,
    support: float = 0.001,
    confidence: float = 0.0,
    significance: float | None = 0.05,
    control: Control = "discoveries",
    longest: int = 3,
    per: str = "session",
    types: Sequence[str] | None = None,
    margin: str | None = None,
    share: float = 0.3,
) -> pa.Table:
    """Return the rules of a store with what each earns as a cross-sell; see ``find_rules`` and ``cross_sales``.

    ``margin``: item attribute; see ``margins_of``, also for ``share``. Where no margin is known the
    columns ``expected_margin`` and ``extra_margin`` are left out and the surest rule comes first.
    """
    baskets = store_baskets(store, per, types=types)
    found = find_rules(
        baskets,
        support,
        confidence=confidence,
        significance=significance,
        control=control,
        longest=longest,
    )
    worth = margins_of(store, schema, margin, share)
    return found.table(names) if worth is None else cross_sales(found, worth, names=names)


def bundle_table(
    store: Store,
    schema: Schema,
    names: Sequence[str],
    *,
    support: float = 0.001,
    significance: float | None = 0.05,
    control: Control = "discoveries",
    longest: int = 3,
    discount: float = 0.1,
    per: str = "session",
    types: Sequence[str] | None = None,
    margin: str | None = None,
    share: float = 0.3,
) -> pa.Table:
    """Return the bundles of a store; see ``bundles`` and, for the money, ``margins_of``.

    Raises ``NotEnoughDataError`` where neither margins nor prices are known.
    """
    worth = margins_of(store, schema, margin, share)
    if worth is None:
        raise NotEnoughDataError(
            "bundles are chosen by what they earn, and neither a margin of the items nor a price is in the log; "
            "give the items table a column margin, or the source a value"
        )
    baskets = store_baskets(store, per, types=types)
    return bundles(
        baskets,
        support,
        worth,
        discount=discount,
        significance=significance,
        control=control,
        longest=longest,
        names=names,
    )


def margins_of(
    store: Store, schema: Schema, attribute: str | None = None, share: float = 0.3
) -> F64 | None:
    """Return what one sale of each item leaves, float64 [n_items], NaN where it is not known.

    That is the item attribute (default ``margin``, where the items have one), or else ``share`` of the
    item's mean price in the log; none where there is neither.

    Raises ``DataError`` for an attribute that is not there, or is text.
    """
    if attribute is not None or "margin" in schema.items:
        name = attribute or "margin"
        if name not in schema.items:
            known = nearest(name, schema.items) or "; items have no attributes here"
            raise DataError(f"no item attribute {name!r}{known}")
        values = schema.items[name]
        if isinstance(values, Column):
            raise DataError(f"the item attribute {name!r} is text; a margin must be a number")
        return np.asarray(values, np.float64)
    there = set(store.manifest.columns)
    money = next((column for column in (PRICE, VALUE) if column in there), None)
    if money is None:
        return None
    wanted = [money, *([QUANTITY] if money == VALUE and QUANTITY in there else [])]
    total, pieces = np.zeros(len(store.item_ids())), np.zeros(len(store.item_ids()))
    for bucket in range(store.buckets):
        lines = store.timelines(bucket, wanted)
        paid = lines.numbers[money]
        count = lines.numbers[QUANTITY] if QUANTITY in lines.numbers else np.ones(len(paid))
        keep = (lines.item >= 0) & (paid > 0) & (count > 0)
        total += np.bincount(lines.item[keep], paid[keep], len(total))
        pieces += np.bincount(lines.item[keep], count[keep], len(total))
    return share * np.divide(total, pieces, out=np.full(len(total), np.nan), where=pieces > 0)


def _window(per: str) -> float | None:
    """Return the days of a window, none for the words that mean something else."""
    if per in ("session", "user"):
        return None
    try:
        days = Duration.parse(per).days
    except ExpressionError:
        days = 0.0
    if not days > 0:
        raise DataError(
            f"baskets are per session, per user, or per length such as 7d, not per {per!r}"
        )
    return days


def _strongest(store: Store) -> list[str]:
    """Return the event types that say most about interest."""
    known = [name for name in store.types if name not in IGNORED]
    most = max((WEIGHTS.get(name, 1.0) for name in known), default=0.0)
    return [name for name in known if WEIGHTS.get(name, 1.0) == most]
