"""Who each user is at a moment: RFM, lifecycle stage, favourites, price level, tags and segment.

Two steps. Bucket by bucket, expressions and a few array passes say what is known of each user; then scores that
compare users (quintiles, price thirds, usual gaps) are taken over everybody. Nothing at or after the moment, and
nothing that had not arrived by then, is seen.

**Lifecycle.** A user's *usual gap* is ``(span + m) / days``: the days between the first and the last purchase, over
the days with one, pulled towards the population's median gap ``m`` by one gap; who bought on one day only gets
``m`` itself. *Quiet* is the days since the last purchase in usual gaps. The first rule that holds decides:

==========  ================================================================================
stage       rule
==========  ================================================================================
prospect    never bought
new         bought on one or two days, the first at most one population gap ``m`` ago
returning   quiet ≤ 1.5, and the pause before the last purchase was > 3 usual gaps till then
loyal       quiet ≤ 1.5 and bought on 4 days or more
active      quiet ≤ 1.5
at risk     quiet ≤ 3
dormant     quiet ≤ 6
lost        quiet > 6
==========  ================================================================================

Where the log has no purchases, the events of ``of`` (or all that users do) take their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.engine import Engine
from propend.errors import DataError, NotEnoughDataError, nearest
from propend.events.clock import local_day, local_hour, local_weekday
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Aggregate
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema
from propend.features.segments import SEGMENTS, segment_codes
from propend.names import DAY, ITEM, PRICE, QUANTITY, SESSION, USER, VALUE

__all__ = ["STAGES", "TAGS", "Profiles", "quintiles", "stages", "usual_gap"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Columns = dict[str, npt.NDArray[Any]]

STAGES: Final[dict[str, str]] = {
    "prospect": "never bought",
    "new": "bought on one or two days, the first at most one usual gap of the shop ago",
    "returning": "back after a pause of more than 3 usual gaps",
    "loyal": "last purchase at most 1.5 usual gaps ago, bought on 4 days or more",
    "active": "last purchase at most 1.5 usual gaps ago",
    "at risk": "last purchase 1.5 to 3 usual gaps ago",
    "dormant": "last purchase 3 to 6 usual gaps ago",
    "lost": "last purchase more than 6 usual gaps ago",
}
"""Lifecycle stage → its rule in words; the module states it exactly."""

TAGS: Final[dict[str, str]] = {
    "weekend shopper": "60 % or more of what they do is on Saturday or Sunday, over 3 days or more",
    "morning": "half or more of what they do is from 5 to 10, over 3 days or more",
    "evening": "half or more of what they do is from 18 to 22, over 3 days or more",
    "night owl": "half or more of what they do is from 23 to 4, over 3 days or more",
    "discount hunter": "half or more of 2 or more purchases at least 5 % below the item's list price",
    "big basket": "mean order in the top fifth of all buyers, over 2 orders or more",
    "returns often": "2 or more returns, and one for every five purchases or more",
    "true to one category": "80 % or more of 3 or more purchases in one category",
    "looks, does not buy": "active on 3 days or more, never bought",
}
"""Tag → its rule in words."""

LEVELS: Final = ("low", "mid", "high")
PASSIVE: Final = frozenset(
    {"push", "send", "sent", "delivered", "impression", "exposure", "bounce", "email_sent"}
)
"""Events that the shop, not the user, brings about: they are no sign of life."""
FALLBACK_GAP: Final = 30.0
"""Usual gap in days where no user has bought on two days."""


@dataclass(frozen=True)
class Profiles:
    """One row per user with an event before ``at``. Times are UTC; hours and weekdays are those of ``zone``.

    Columns: ``user`` (code), ``user_id``, ``first_seen``, ``last_seen``, ``active_days``, ``recency`` (days since the
    last purchase), ``frequency`` (days with a purchase), ``orders``, ``money`` (net of returns), ``returned``,
    ``mean_order``, ``r``, ``f``, ``m`` (1–5, 0 for who never bought), ``gap`` (usual days between purchases),
    ``quiet`` (recency in gaps), ``stage``, ``segment``, ``favourite_category``, ``favourite_item``,
    ``favourite_hour``, ``favourite_weekday`` (Monday 0; −1 unknown), ``price_level``, ``tags``.
    """

    table: pa.Table
    at: int
    zone: str
    of: tuple[str, ...]
    """Event types that count as a purchase; empty: everything a user does."""

    def __len__(self) -> int:
        return self.table.num_rows

    @classmethod
    def build(
        cls,
        store: Store,
        schema: Schema,
        engine: Engine,
        at: int | None = None,
        of: str | None = None,
    ) -> Profiles:
        """Build the profiles as of ``at`` (UTC microseconds; just after the last event if not given).

        ``of`` is the event type that counts as a purchase; if not given, ``purchase`` where the log has it, else
        everything users do. Raises ``DataError`` for an unknown type, ``NotEnoughDataError`` where nobody is there.
        """
        moment = schema.last + 1 if at is None else at
        plan = _Plan.of(schema, of)
        columns = schema.columns_for(list(plan.questions.values()))
        columns += [name for name in plan.reads if name not in columns]

        def work(bucket: int) -> Columns:
            timelines = store.timelines(bucket, columns).before(moment)
            return _known(timelines, schema, plan, moment)

        parts = [p for p in engine.map_buckets(work, sorted(store.manifest.runs)) if len(p[USER])]
        if not parts:
            raise NotEnoughDataError(
                "no user has an event before the moment asked about; ask for a later one"
            )
        known = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        order = np.argsort(known[USER], kind="stable")
        known = {name: values[order] for name, values in known.items()}
        prices = _item_prices(schema, known)
        table = _table(known, schema, plan, moment, prices, store.names_of(known[USER]))
        return cls(table, moment, schema.zone, plan.main)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column as an array, object for texts."""
        values = self.table[name].combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return np.asarray(values.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class _Plan:
    """Which events and fields of this log answer the questions of a profile."""

    main: tuple[str, ...]
    acts: tuple[str, ...]
    price: str | None
    category: str | None
    refund: tuple[str, ...]
    """Fields that say what a return gave back: its value, else price times quantity."""
    questions: Mapping[str, Aggregate]

    @property
    def reads(self) -> tuple[str, ...]:
        """Event columns that the array passes read."""
        wanted = () if self.price is None else (self.price,)
        return (*wanted, *self.refund) if "returns" in self.questions else wanted

    @classmethod
    def of(cls, schema: Schema, of: str | None) -> _Plan:
        if of is not None and of not in schema.types:
            raise DataError(f"no event type {of!r} in the log{nearest(of, schema.types)}")
        acts = tuple(t for t in schema.types if t not in PASSIVE)
        acts = () if len(acts) in (0, len(schema.types)) else acts
        named = of or ("purchase" if "purchase" in schema.types else None)
        main = acts if named is None else (named,)
        price = next((n for n in (PRICE, VALUE) if n in schema.numbers), None)
        refund = tuple(n for n in (VALUE, PRICE, QUANTITY) if n in schema.numbers)
        return cls(main, acts, price, _category(schema), refund, _questions(schema, main, acts))


def _questions(
    schema: Schema, main: tuple[str, ...], acts: tuple[str, ...]
) -> dict[str, Aggregate]:
    """Return the expressions of a profile by column."""
    found = {
        "since_act": Aggregate("days_since", acts),
        "since_first_act": Aggregate("days_since_first", acts),
        "active_days": Aggregate("active_days", acts),
        "recency": Aggregate("days_since", main),
        "tenure": Aggregate("days_since_first", main),
        "frequency": Aggregate("active_days", main),
        "purchases": Aggregate("count", main),
    }
    if SESSION in schema.texts:
        found["orders"] = Aggregate("distinct", main, SESSION)
    if VALUE in schema.numbers:
        found["paid"] = Aggregate("sum", main, VALUE)
    if "return" in schema.types and main != ("return",):
        found["returns"] = Aggregate("count", ("return",))
    return found


def _category(schema: Schema) -> str | None:
    """Return the item attribute that says what kind of thing an item is, or ``None``."""
    texts = {n: v for n, v in schema.items.items() if isinstance(v, Column)}
    for word in ("category", "department", "genre", "类", "kind", "group"):
        named = [n for n in texts if word in n.casefold()]
        if named:
            return min(named, key=lambda n: (len(texts[n].values), n))
    return None


# ---- step one: what is known of each user of a bucket


def _known(timelines: Timelines, schema: Schema, plan: _Plan, at: int) -> Columns:
    """Return one array per column for the users that have an event."""
    t = timelines.users_at(np.flatnonzero(np.diff(timelines.offsets) > 0))
    n = len(t.users)
    answers = evaluate(list(plan.questions.values()), t, Rows.every(n, [at]), schema)
    known: Columns = {USER: t.users}
    for name, values in zip(plan.questions, answers, strict=True):
        assert not isinstance(values, Column)
        known[name] = values
    zeros = np.zeros(n)
    for name in ("paid", "returns"):
        known.setdefault(name, zeros)
    known["returned"] = _returned(t, schema, plan) if "returns" in plan.questions else zeros
    has_orders = known.get("orders", zeros) > 0
    known["orders"] = np.where(has_orders, known.get("orders", zeros), known["frequency"])
    owner = t.user_of_row
    acts, main = _chosen(t, schema, plan.acts), _chosen(t, schema, plan.main)
    known["pause"] = _last_pause(owner[main], local_day(t.time[main], schema.zone), n)
    known |= _habits(owner[acts], t.time[acts], schema.zone, n)
    known |= _tastes(t, schema, plan, owner, acts, main)
    known |= _prices(t, schema, plan, owner, main)
    return known


def _chosen(t: Timelines, schema: Schema, types: tuple[str, ...]) -> Bool:
    if not types:
        return np.ones(len(t), np.bool_)
    return np.isin(t.type, [schema.types.index(name) for name in types])


def _returned(t: Timelines, schema: Schema, plan: _Plan) -> F64:
    """Return the money that each user's returns gave back, as a positive number."""
    rows = _chosen(t, schema, ("return",))
    missing = np.full(int(rows.sum()), np.nan)
    value, price, quantity = (
        np.abs(t.numbers[n][rows]) if n in plan.refund else missing
        for n in (VALUE, PRICE, QUANTITY)
    )
    money = np.nan_to_num(np.where(np.isnan(value), price * quantity, value))
    users = len(t.users)
    return np.bincount(t.user_of_row[rows], money, users).astype(np.float64)


def _last_pause(owner: I64, day: I64, users: int) -> F64:
    """Return the days between the last two different days of each user's events; NaN without two."""
    fresh = np.ones(len(owner), np.bool_)
    fresh[1:] = (owner[1:] != owner[:-1]) | (day[1:] != day[:-1])
    owner, day = owner[fresh], day[fresh]
    out = np.full(users, np.nan)
    ends = np.flatnonzero(np.append(owner[1:] != owner[:-1], True)) if len(owner) else owner
    ends = ends[ends > 0]
    ends = ends[owner[ends] == owner[ends - 1]]
    out[owner[ends]] = day[ends] - day[ends - 1]
    return out


def _habits(owner: I64, time: I64, zone: str, users: int) -> Columns:
    """Return favourite hour and weekday, and the shares of acts by part of the day and on weekends."""
    hour, weekday = local_hour(time, zone), local_weekday(time, zone)
    total = np.maximum(np.bincount(owner, minlength=users), 1)

    def share(rows: Bool) -> F64:
        return np.bincount(owner[rows], minlength=users) / total

    return {
        "favourite_hour": _commonest(owner, hour, users)[0],
        "favourite_weekday": _commonest(owner, weekday, users)[0],
        "weekend": share(weekday >= 5),
        "morning": share((hour >= 5) & (hour < 11)),
        "evening": share((hour >= 18) & (hour < 23)),
        "night": share((hour >= 23) | (hour < 5)),
    }


def _tastes(
    t: Timelines, schema: Schema, plan: _Plan, owner: I64, acts: Bool, main: Bool
) -> Columns:
    """Return favourite item and category: of purchases, else of all acts; and the category's share of purchases."""
    users = len(t.users)
    found: Columns = {}
    codes = {ITEM: t.item.astype(np.int64)}
    if plan.category is not None:
        attribute = schema.items[plan.category]
        assert isinstance(attribute, Column)
        codes["category"] = np.append(attribute.codes, -1)[t.item].astype(np.int64)
    for name, code in codes.items():
        bought, count, of = _commonest(owner[main], code[main], users)
        looked, _, _ = _commonest(owner[acts], code[acts], users)
        found[f"favourite_{name}"] = np.where(bought >= 0, bought, looked)
        found[f"{name}_share"] = np.where(of >= 3, count / np.maximum(of, 1), 0.0)
    return found


def _prices(t: Timelines, schema: Schema, plan: _Plan, owner: I64, main: Bool) -> Columns:
    """Return the mean price of what each user bought, and the share bought below list price."""
    users = len(t.users)
    none = np.full(users, np.nan)
    if plan.price is None:
        return {"price": none, "reduced": none}
    price = t.numbers[plan.price][main]
    buyer, item = owner[main], t.item[main]
    there = np.isfinite(price) & (price > 0)
    buyer, item, price = buyer[there], item[there], price[there]
    count = np.bincount(buyer, minlength=users)
    listed = schema.items.get(PRICE)
    if isinstance(listed, Column) or listed is None or plan.price != PRICE:
        reduced = none
    else:
        low = price < 0.95 * np.append(listed, np.nan)[item] + 1e-9
        reduced = _ratio(np.bincount(buyer[low], minlength=users), np.where(count > 1, count, 0))
    return {"price": _ratio(np.bincount(buyer, price, users), count), "reduced": reduced}


def _commonest(owner: I64, code: I64, users: int) -> tuple[I64, I64, I64]:
    """Return each user's most frequent code (the latest of equals; −1 without any), its count, and the total.

    Rows are in time order within each user; negative codes are missing.

    >>> [a.tolist() for a in _commonest(np.array([0, 0, 0, 0, 2]), np.array([7, 7, 3, 3, -1]), 3)]
    [[3, -1, -1], [2, 0, 0], [4, 0, 0]]
    """
    there = code >= 0
    owner, code = owner[there], code[there]
    best, count = np.full(users, -1, np.int64), np.zeros(users, np.int64)
    if len(owner):
        width = int(code.max()) + 1
        keys, first, counts = np.unique(
            (owner * width + code)[::-1], return_index=True, return_counts=True
        )
        order = np.lexsort((-first, counts, keys // width))
        keys, counts = keys[order], counts[order]
        ends = np.append(np.diff(keys // width) != 0, True)
        best[keys[ends] // width], count[keys[ends] // width] = keys[ends] % width, counts[ends]
    return best, count, np.bincount(owner, minlength=users)


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> F64:
    """Return the quotient, NaN where the divisor is 0."""
    bottom = np.asarray(below, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom == 0, np.nan, np.asarray(above, np.float64) / bottom)


# ---- step two: users against each other


def quintiles(values: F64, *, ties: str = "low") -> I64:
    """Return scores 1 (lowest) to 5; equal values share one, NaN scores 0.

    The score is ``1 + ⌊5 · below / n⌋`` with ``below`` the number of lower values, to which
    ``ties="middle"`` adds half of the equal ones.

    >>> quintiles(np.array([1.0, 1.0, 1.0, 2.0, 9.0, np.nan])).tolist()
    [1, 1, 1, 4, 5, 0]
    """
    there = ~np.isnan(values)
    ordered = np.sort(values[there])
    below = np.searchsorted(ordered, values).astype(np.float64)
    if ties == "middle":
        below = (below + np.searchsorted(ordered, values, "right")) / 2
    score = np.minimum(1 + np.floor(5 * below / max(len(ordered), 1)), 5)
    return np.where(there, score, 0).astype(np.int64)


def usual_gap(span: F64, days: F64) -> tuple[F64, float]:
    """Return each user's usual gap in days (see the module) and the population's median gap.

    >>> usual_gap(np.array([20.0, 0.0]), np.array([3.0, 1.0]))
    (array([10., 10.]), 10.0)
    """
    several = days > 1
    gaps = span[several] / (days[several] - 1)
    middle = max(float(np.median(gaps)), 1.0) if len(gaps) else FALLBACK_GAP
    return np.where(days > 0, (span + middle) / np.maximum(days, 1), np.nan), middle


def stages(recency: F64, tenure: F64, days: F64, pause: F64) -> tuple[I64, F64, F64]:
    """Return stage (index into ``STAGES``), usual gap and quiet of each user; NaN recency is a prospect.

    ``recency`` and ``tenure`` are days since the last and the first purchase, ``days`` the days with one,
    ``pause`` the days between the last two of those (NaN without).
    """
    span = np.where(days > 0, np.nan_to_num(tenure - recency), 0.0)
    gap, middle = usual_gap(span, days)
    quiet = recency / gap
    till_then = (span - np.nan_to_num(pause) + middle) / np.maximum(days - 1, 1)
    here = quiet <= 1.5
    rules = (
        np.isnan(recency),
        (days <= 2) & (tenure <= middle),
        here & (days >= 3) & (pause > 3 * till_then),
        here & (days >= 4),
        here,
        quiet <= 3,
        quiet <= 6,
    )
    return np.select(rules, range(len(rules)), len(rules)).astype(np.int64), gap, quiet


def _item_prices(schema: Schema, known: Columns) -> F64:
    """Return the bounds of the price thirds: of the items' list prices, else of what users paid on average."""
    listed = schema.items.get(PRICE)
    prices = known["price"] if listed is None or isinstance(listed, Column) else listed
    prices = prices[np.isfinite(prices) & (prices > 0)]
    return np.quantile(prices, [1 / 3, 2 / 3]) if len(prices) else np.full(2, np.nan)


def _tags(known: Columns, mean_order: F64) -> pa.Array:
    """Return the list of tags of each user, in the order of ``TAGS``."""
    often = known["active_days"] >= 3
    buyers = mean_order[known["orders"] > 0]
    buyers = buyers[~np.isnan(buyers)]
    big = float(np.quantile(buyers, 0.8)) if len(buyers) else np.inf
    purchases, returns = known["purchases"], known["returns"]
    bits = np.stack(
        [
            often & (known["weekend"] >= 0.6),
            often & (known["morning"] >= 0.5),
            often & (known["evening"] >= 0.5),
            often & (known["night"] >= 0.5),
            known["reduced"] >= 0.5,
            (known["orders"] >= 2) & (mean_order >= big),
            (returns >= 2) & (returns * 5 >= purchases),
            known.get("category_share", np.zeros(len(often))) >= 0.8,
            often & (purchases == 0),
        ],
        axis=1,
    )
    offsets = np.concatenate([[0], np.cumsum(bits.sum(axis=1))]).astype(np.int32)
    names = pa.array(list(TAGS)).take(pa.array(np.nonzero(bits)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)


def _table(
    known: Columns, schema: Schema, plan: _Plan, at: int, thirds: F64, ids: npt.NDArray[np.object_]
) -> pa.Table:
    """Score users against each other and return the profile table."""
    net = known["paid"] - known["returned"]
    bought = known["frequency"] > 0
    r = quintiles(-known["recency"], ties="middle")
    f = quintiles(np.where(bought, known["frequency"], np.nan))
    m = quintiles(np.where(bought, net, np.nan)) if VALUE in schema.numbers else f
    stage, gap, quiet = stages(
        known["recency"], known["tenure"], known["frequency"], known["pause"]
    )
    mean_order = _ratio(known["paid"], known["orders"])
    price = known["price"]
    level = np.where(np.isnan(price), -1, (price[:, None] > thirds).sum(axis=1))
    categories = () if plan.category is None else _values(schema, plan.category)
    missing = np.full(len(ids), -1)
    return pa.table(
        {
            USER: known[USER],
            "user_id": pa.array(ids, pa.string()),
            "first_seen": _moments(at, known["since_first_act"]),
            "last_seen": _moments(at, known["since_act"]),
            "active_days": known["active_days"].astype(np.int32),
            "recency": known["recency"],
            "frequency": known["frequency"].astype(np.int32),
            "orders": known["orders"].astype(np.int32),
            "money": net,
            "returned": known["returned"],
            "mean_order": mean_order,
            "r": r.astype(np.int8),
            "f": f.astype(np.int8),
            "m": m.astype(np.int8),
            "gap": gap,
            "quiet": quiet,
            "stage": _words(stage, tuple(STAGES)),
            "segment": _words(segment_codes(r, f, m), SEGMENTS),
            "favourite_category": _words(known.get("favourite_category", missing), categories),
            "favourite_item": _words(known["favourite_item"], schema.item_ids),
            "favourite_hour": known["favourite_hour"].astype(np.int8),
            "favourite_weekday": known["favourite_weekday"].astype(np.int8),
            "price_level": _words(level, LEVELS),
            "tags": _tags(known, mean_order),
        }
    )


def _values(schema: Schema, attribute: str) -> tuple[str, ...]:
    values = schema.items[attribute]
    assert isinstance(values, Column)
    return values.values


def _words(codes: npt.NDArray[Any], values: tuple[str, ...]) -> pa.Array:
    """Return coded text; a negative code is missing."""
    indices = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()))


def _moments(at: int, days: F64) -> pa.Array:
    """Return the moments so many days before ``at``; missing where the days are."""
    gone = np.isnan(days)
    times = np.rint(at - np.where(gone, 0.0, days) * DAY).astype(np.int64)
    return pa.array(times, mask=gone).cast(pa.timestamp("us", "UTC"))
