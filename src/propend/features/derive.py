"""Features made from the schema: windows × aggregates × event types, each an expression a person can read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from propend.events.timelines import Column
from propend.expression.duration import Duration
from propend.expression.nodes import (
    Aggregate,
    Arithmetic,
    Compare,
    Expression,
    Field,
    Literal_,
    Says,
    Window,
)
from propend.features.schema import Schema
from propend.names import CHANNEL, ITEM, QUANTITY, SESSION, TYPE, VALUE

__all__ = ["Sentences", "derive_features", "told_texts", "windows_for"]

_LADDER = ("1d", "7d", "30d", "90d", "180d", "365d")
_MOST_TYPES = 24
_MOST_FULL = 3
"""Event types that get every aggregate; the others get recency and frequency."""
_MAIN = ("purchase", "cart", "view", "rating", "return")
_MOST_VALUES = 8
_IDENTIFYING = re.compile(
    r"(?i)zip|postal|postcode|plz|phone|e-?mail|address|passport|birth|邮编|电话|手机|地址"
)
"""Attributes that point at a person or a doorstep: never a reason for a score."""
_REFERENCE = re.compile(
    r"(?i)(^|_)(id|no|nr|number|order|invoice|uuid|key|token|hash|url)s?$|编号|单号"
)
"""Texts that name one event and come back in no other."""
_WRITTEN = re.compile(
    r"(?i)(subject|body|text|content|comment|message|review)$|主题|正文|内容|评论|评价|留言"
)
"""Names of what somebody wrote, though of a mail or to an address."""
_LONGEST_SAID = 90
"""Days of the longest window in which words are counted, beside all there is."""
EVER = Window()


@dataclass(frozen=True)
class Sentences:
    """A column of a log that holds sentences: which event types carry it, and the words that are counted in it.

    ``features.sentences`` chooses them.
    """

    column: str
    types: tuple[str, ...]
    terms: tuple[str, ...]
    repeats: bool = False
    """Whether whole texts come back often enough that the latest one is told as it is, too."""


def told_texts(schema: Schema) -> list[str]:
    """Return the log's texts that may be a reason for a score: not sessions, not channels, nothing that names a person or an order.

    >>> told_texts(Schema(types=("view",), texts=("session", "comment", "email", "email_subject", "order_id")))
    ['comment', 'email_subject']
    """
    free = [n for n in schema.texts if n not in (SESSION, CHANNEL)]
    pointing = (n for n in free if _IDENTIFYING.search(n) or _REFERENCE.search(n))
    hidden = {n for n in pointing if not _WRITTEN.search(n)}
    return [n for n in free if n not in hidden]


def windows_for(days: float) -> tuple[Window, ...]:
    """Return the windows a log of so many days can fill: from a day up to half its length, and ever.

    >>> [str(w).strip() for w in windows_for(100)]
    ['last 1d', 'last 7d', 'last 30d', '']
    """
    lengths = [Duration.parse(text) for text in _LADDER]
    return (*(Window("last", d) for d in lengths if d.days <= days / 2), EVER)


def derive_features(
    schema: Schema, types: Sequence[str] | None = None, sentences: Sequence[Sentences] = ()
) -> tuple[Expression, ...]:
    """Return point-in-time features for every event type of the log (or those given), for the items and the profile.

    The three main types (purchase, cart, view where there are such) get every aggregate, the others recency and
    frequency, so that a log of twenty types stays at some 250 features. Of ``sentences`` how often each word was said.

    >>> features = derive_features(Schema(types=("view", "purchase"), numbers=("value",), last=200 * 86_400_000_000))
    >>> "sum(purchase.value) last 30d" in map(str, features)
    True
    """
    chosen = tuple(types if types is not None else schema.types)[:_MOST_TYPES]
    windows = windows_for(schema.days)
    found: dict[Expression, None] = {}
    main = sorted(chosen, key=lambda t: _MAIN.index(t) if t in _MAIN else len(_MAIN))[:_MOST_FULL]
    full: list[tuple[str, ...]] = (
        [(), *((t,) for t in main)] if len(chosen) > 1 else [(t,) for t in main]
    )
    for of in full:
        found.update(dict.fromkeys(_rhythm(of, windows)))
        found.update(dict.fromkeys(_volume(of, windows, schema)))
    for name in chosen:
        found.update(dict.fromkeys(_glance((name,), windows)))
    found.update(dict.fromkeys(_calendar(windows)))
    found.update(dict.fromkeys(_tastes(schema)))
    read = frozenset(s.column for s in sentences if not s.repeats)
    found.update(dict.fromkeys(_sequence(schema, main, read)))
    for column in sentences:
        found.update(dict.fromkeys(_said(column, windows)))
    told = (name for name in schema.users if not _IDENTIFYING.search(name))
    found.update(dict.fromkeys(Field(("profile", name)) for name in told))
    return tuple(found)


def _glance(of: tuple[str, ...], windows: tuple[Window, ...]) -> list[Expression]:
    """Recency and frequency alone, for event types beside the main ones."""
    recent = [w for w in windows if w.length is None or 7 <= w.length.days <= 90]
    return [Aggregate("days_since", of), *(Aggregate("count", of, window=w) for w in recent)]


def _rhythm(of: tuple[str, ...], windows: tuple[Window, ...]) -> list[Expression]:
    """Recency, frequency, regularity and trend of some events."""
    since, first = Aggregate("days_since", of), Aggregate("days_since_first", of)
    days = Aggregate("active_days", of)
    gap = Arithmetic("/", Arithmetic("-", first, since), Arithmetic("-", days, Literal_(1)))
    found: list[Expression] = [
        since,
        first,
        gap,
        Arithmetic("/", since, gap),
        Arithmetic("/", since, first),
    ]
    found += [Aggregate("count", of, window=w) for w in windows]
    found += [
        Aggregate("active_days", of, window=w)
        for w in windows
        if w.length is None or w.length.days >= 30
    ]
    found += [Aggregate("std_gap", of), Aggregate("mean_gap", of)]
    long = [w for w in windows if w.length is not None and w.length.days >= 7]
    found += [Aggregate("trend", of, window=w) for w in (*long[-2:], EVER)]
    pairs = list(pairwise(long))
    found += [
        Arithmetic("/", Aggregate("count", of, window=a), Aggregate("count", of, window=b))
        for a, b in pairs
    ]
    # regularity: how far gaps spread about their mean, and how the recent rhythm compares with all
    found.append(Arithmetic("/", Aggregate("std_gap", of), Aggregate("mean_gap", of)))
    if long:
        recent = Aggregate("mean_gap", of, window=long[-1])
        found.append(Arithmetic("/", recent, Aggregate("mean_gap", of)))
    return found


def _sequence(schema: Schema, main: Sequence[str], read: frozenset[str]) -> list[Expression]:
    """What the last events were, and of which item, kind of item and circumstance the latest was.

    Texts with many values (items) are encoded by their rate inside each training fold (``models.encoded``): a user is
    told by what others who last touched the same thing did.
    """
    found: list[Expression] = []
    if len(schema.types) > 1:
        found += [Aggregate(f, (), TYPE) for f in ("last", "second_last", "third_last")]
    of: tuple[tuple[str, ...], ...] = ((), *((t,) for t in main[:1] if len(schema.types) > 1))
    kinds = [n for n, values in schema.items.items() if isinstance(values, Column)]
    for types in of:
        if schema.item_ids:
            found.append(Aggregate("last", types, ITEM))
        found += [Aggregate("last", types, f"{ITEM}.{name}") for name in kinds[:_MOST_VALUES]]
    known = {CHANNEL, *told_texts(schema)} - read
    told = [n for n in schema.texts if n in known]
    return found + [Aggregate("last", (), name) for name in told[:_MOST_VALUES]]


def _said(of: Sentences, windows: tuple[Window, ...]) -> list[Expression]:
    """How often a user wrote, and said each of the words, lately and ever."""
    lately = [w for w in windows if w.length is not None and w.length.days <= _LONGEST_SAID]
    both = (*lately[-1:], EVER)
    found: list[Expression] = [Aggregate("count", of.types, of.column, window=w) for w in both]
    for term in of.terms:
        where = Says(Field((of.column,)), Literal_(term))
        found += [Aggregate("count", of.types, None, where, w) for w in both]
    return found


def _volume(of: tuple[str, ...], windows: tuple[Window, ...], schema: Schema) -> list[Expression]:
    """Money, pieces, sessions and variety of some events."""
    long = [w for w in windows if w.length is None or w.length.days >= 30]
    found: list[Expression] = []
    if VALUE in schema.numbers:
        found += [Aggregate("sum", of, VALUE, window=w) for w in windows]
        found += [Aggregate(f, of, VALUE) for f in ("mean", "max", "min", "std", "last")]
        found += [Arithmetic("/", Aggregate("sum", of, VALUE), Aggregate("active_days", of))]
        finite = [w for w in windows if w.length is not None and w.length.days >= 30]
        found += [
            Arithmetic(
                "/", Aggregate("sum", of, VALUE, window=a), Aggregate("sum", of, VALUE, window=b)
            )
            for a, b in pairwise(finite)
        ]
        found.append(Arithmetic("/", Aggregate("last", of, VALUE), Aggregate("mean", of, VALUE)))
    if QUANTITY in schema.numbers:
        found += [Aggregate("sum", of, QUANTITY, window=w) for w in long]
    if SESSION in schema.texts:
        found += [Aggregate("distinct", of, SESSION, window=w) for w in windows]
        found += [Arithmetic("/", Aggregate("count", of), Aggregate("distinct", of, SESSION))]
    if schema.item_ids:
        found += [Aggregate("distinct", of, ITEM, window=w) for w in long]
        found += [Arithmetic("/", Aggregate("distinct", of, ITEM), Aggregate("count", of))]
    return found


def _calendar(windows: tuple[Window, ...]) -> list[Expression]:
    """When in the week and the day a user acts, as shares."""
    window = next((w for w in reversed(windows) if w.length is not None), EVER)
    every = Aggregate("count", window=window)

    def share(where: Expression) -> Expression:
        return Arithmetic("/", Aggregate("count", (), None, where, window), every)

    hour, weekday = Field(("hour",)), Field(("weekday",))
    return [
        share(Compare(">=", weekday, Literal_(5))),
        share(Compare("<", hour, Literal_(9))),
        share(Compare(">=", hour, Literal_(18))),
        Aggregate("mean", (), "hour", None, window),
    ]


def _tastes(schema: Schema) -> list[Expression]:
    """Counts by the commonest values of item attributes that have few, and what is bought at which price."""
    found: list[Expression] = []
    for name, values in schema.items.items():
        if not isinstance(values, Column):
            found.append(Aggregate("mean", (), f"{ITEM}.{name}"))
            continue
        counts = np.bincount(values.codes[values.codes >= 0], minlength=len(values.values))
        if not 2 <= len(counts) <= 200:
            continue
        found.append(Aggregate("distinct", (), f"{ITEM}.{name}"))
        if len(counts) <= 50:
            for code in np.argsort(-counts, kind="stable")[:_MOST_VALUES]:
                where = Compare("=", Field((ITEM, name)), Literal_(values.values[code]))
                found.append(Aggregate("count", (), None, where))
    return found
