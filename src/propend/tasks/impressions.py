"""One question per impression: this user was shown this item in this context; did they take it?

An impression is an event of one type (``view``, ``impression``), a click one of another (``click``, ``purchase``) of the
same user and item within a time. Everything a row holds was known before its impression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.engine import Engine
from propend.errors import ConfigError, ExpressionError, NotEnoughDataError, nearest
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Arithmetic, Expression, Field, Window
from propend.features.evaluate import Rows, Values, evaluate, event_column, first_at
from propend.features.schema import Schema
from propend.names import DAY, ITEM
from propend.tasks.cutoffs import Fold, Plan
from propend.tasks.frame import Frame, _stack
from propend.tasks.task import Task

__all__ = ["Impressions", "build_impressions"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

STRETCHES: Final = 8
MOST_ROWS: Final = 300_000
SMOOTHING: Final = 20.0
"""Impressions at the overall rate that are mixed into an item's rate."""
SHOWN_BEFORE: Final = "of this item to this user before"
TAKEN_BEFORE: Final = "of this item by this user before"
HISTORY: Final = ("times shown", "times taken", "share taken")
COUNTED: Final = frozenset(
    (*(str(Field((ITEM, n))) for n in HISTORY), str(Field((ITEM, "itself"))))
)
"""Fields of a row that are counted from earlier events, or are the item: they cannot be written afterwards."""


@dataclass(frozen=True)
class Impressions:
    """Impressions as rows: a frame and a plan for the trainer, and whom, when and what each row shows."""

    frame: Frame
    plan: Plan
    task: Task
    time: I64
    item: I64


@dataclass(frozen=True)
class _Part:
    user: I64
    time: I64
    item: I64
    y: F64
    values: list[Values]
    shown_before: F64
    taken_before: F64
    taken: tuple[I64, I64]
    """Item and time of every click."""


def build_impressions(
    store: Store,
    schema: Schema,
    engine: Engine,
    shown: str,
    taken: str,
    within: Duration,
    *,
    folds: int = 3,
    most_rows: int = MOST_ROWS,
    unanswered: bool = False,
) -> Impressions:
    """Return a row per event of type ``shown``: features of user, item, the pair and the context, and whether it was taken.

    The log is cut into equal stretches of time; the last ``folds`` of them are tests. Impressions whose answer was not
    known when a test began (the last ``within`` before it) do not train for it. Beyond ``most_rows`` the latest count.
    ``unanswered`` returns instead the rows whose time is not over when the log ends, to be scored; no fold is planned.
    Raises ``ExpressionError`` for unknown types and ``NotEnoughDataError`` where nothing was shown or taken.
    """
    for name in (shown, taken):
        if name not in schema.types:
            raise ExpressionError(f"no event type {name!r} in the log{nearest(name, schema.types)}")
    if not schema.item_ids:
        raise NotEnoughDataError(
            "the log names no items, so no impression shows one; give the column its role 'item'"
        )
    asked = _user_features(shown, taken)
    context = [
        n for n in (*schema.numbers, *schema.texts) if n not in ("value", "quantity", "session")
    ]
    columns = [*schema.columns_for(list(asked)), *context]

    def work(bucket: int) -> _Part:
        timelines = store.timelines(bucket, list(dict.fromkeys(columns)))
        return _rows(timelines, schema, shown, taken, within.microseconds, asked, context)

    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    user, time, item, y, before, took = (
        np.concatenate([getattr(p, name) for p in parts])
        for name in ("user", "time", "item", "y", "shown_before", "taken_before")
    )
    known = time + within.microseconds <= schema.last + 1
    if unanswered:
        if known.all():
            raise NotEnoughDataError(
                f"no {shown!r} is still open: the time of each ({within}) was over before the log's end; bring newer events"
            )
        known = ~known
    elif not (y[known] > 0).any():
        raise NotEnoughDataError(
            f"no {shown!r} of an item was followed by {taken!r} of the same item and user within {within}; ask for a longer time"
        )
    X, categories = _stack([part.values for part in parts], len(parts[0].values), {})
    clicks = (np.concatenate([part.taken[i] for part in parts]) for i in (0, 1))
    history = _item_history(item, time, *clicks)
    X = np.column_stack([X, before, took, *history, item.astype(np.float64)])
    names: list[Expression] = [*asked, *(Field((shown, n)) for n in _told(schema, context))]
    names += [Field((shown, SHOWN_BEFORE)), Field((taken, TAKEN_BEFORE))]
    names += [Field((ITEM, n)) for n in HISTORY]
    names.append(Field((ITEM, "itself")))
    categories[len(names) - 1] = schema.item_ids
    keep = np.flatnonzero(known)
    keep = np.sort(keep[np.argsort(-time[keep], kind="stable")[:most_rows]])
    plan, cutoff = Plan((), (), schema.last + 1, within), time[keep]
    if not unanswered:
        plan, cutoff = _plan(time[keep], within, folds, schema.last + 1)
    task = Task(f"{taken}_of_{shown}", Aggregate("any", (taken,), None, None, Window("next", within)),
                Aggregate("any", (shown,)), f"Which {shown} leads to {taken} of the same item within {within}?")  # fmt: skip
    frame = Frame(np.asfortranarray(X[keep]), y[keep], user[keep], cutoff, tuple(names), categories)
    return Impressions(frame, plan, task, time[keep], item[keep])


def _user_features(shown: str, taken: str) -> tuple[Expression, ...]:
    """What is known of the user: how often and how lately they were shown and took anything."""
    week, month = (Window("last", Duration.parse(t)) for t in ("7d", "30d"))
    found: list[Expression] = []
    for name in (shown, taken):
        found += [Aggregate("count", (name,), window=w) for w in (week, month, Window())]
        found.append(Aggregate("days_since", (name,)))
    count = Aggregate("count", (taken,)), Aggregate("count", (shown,))
    found += [Arithmetic("/", *count), Aggregate("days_since"), Aggregate("days_since_first")]
    return (*found, Aggregate("count", window=Window("last", Duration.parse("1h"))))


def _told(schema: Schema, context: list[str]) -> list[str]:
    """Fields of an impression that go in: its own, its item's and the calendar's."""
    return [*context, *(f"{ITEM}.{name}" for name in schema.items), "hour", "weekday"]


def _rows(
    t: Timelines,
    schema: Schema,
    shown: str,
    taken: str,
    within: int,
    asked: tuple[Expression, ...],
    context: list[str],
) -> _Part:
    owner = np.repeat(np.arange(len(t.users)), np.diff(t.offsets))
    has_item = t.item >= 0
    at = np.flatnonzero((t.type == schema.types.index(shown)) & has_item)
    clicks = np.flatnonzero((t.type == schema.types.index(taken)) & has_item)
    pair = owner.astype(np.int64) * (len(schema.item_ids) + 1) + t.item
    before = _earlier(pair[at], at, pair[at], at)
    took = _earlier(pair[at], at, pair[clicks], clicks)
    order = np.lexsort((t.time[at], owner[at]))
    assert np.array_equal(order, np.arange(len(at)))  # timelines lie by user and time
    rows_ = Rows(owner[at], t.time[at].astype(np.int64))
    # the same item taken by the same user after this event and before the time is over
    ends = first_at(t, rows_, within).astype(np.int64)
    y = (
        _earlier(pair[at], ends, pair[clicks], clicks)
        - _earlier(pair[at], at + 1, pair[clicks], clicks)
        > 0
    )
    values: list[Values] = (
        list(evaluate(asked, t, rows_, schema)) if len(at) else [np.empty(0) for _ in asked]
    )
    for name in _told(schema, context):
        column = event_column(name, t, schema)
        values.append(
            Column(column.codes[at], column.values)
            if isinstance(column, Column)
            else np.asarray(column)[at]
        )
    return _Part(
        t.users[owner[at]], t.time[at].astype(np.int64), t.item[at].astype(np.int64), y.astype(np.float64), values,
        before, took, (t.item[clicks].astype(np.int64), t.time[clicks].astype(np.int64)),
    )  # fmt: skip


def _earlier(key: I64, place: I64, events: I64, at: I64) -> F64:
    """Return for each (key, place) how many events have the same key and a lower place."""
    order = np.lexsort((at, events))
    events, at = events[order], at[order]
    span = int(max(place.max(initial=0), at.max(initial=0))) + 2
    whole = np.unique(np.r_[events, key], return_inverse=True)[1]
    ordered, asked = whole[: len(events)] * span + at, whole[len(events) :] * span
    found = np.searchsorted(ordered, asked + place) - np.searchsorted(ordered, asked)
    return found.astype(np.float64)


def _item_history(item: I64, time: I64, clicked: I64, when: I64) -> tuple[F64, F64, F64]:
    """Return how often an item had been shown and taken by anyone before each impression, and its smoothed share."""
    place = np.unique(np.r_[time, when], return_inverse=True)[1]
    shown = _earlier(item, place[: len(time)], item, place[: len(time)])
    taken = _earlier(item, place[: len(time)], clicked, place[len(time) :])
    # the overall rate so far: one over the whole log would tell every row of the time to come
    all_shown, all_taken = (
        np.searchsorted(np.sort(moments), time, side="left") for moments in (time, when)
    )
    base = all_taken / np.maximum(all_shown, 1)
    return shown, taken, (taken + SMOOTHING * base) / (shown + SMOOTHING)


def _plan(time: I64, within: Duration, folds: int, now: int) -> tuple[Plan, I64]:
    """Cut time into stretches; a row's cutoff is its stretch's start, or just before its end where its answer comes later."""
    if folds < 1:
        raise ConfigError(f"at least 1 forward fold is needed, not {folds}")
    first, last = int(time.min()), int(time.max()) + 1
    count = max(STRETCHES, folds + 2)
    edges = np.linspace(first, last, count + 1).astype(np.int64)
    if within.microseconds * 2 > edges[1] - edges[0]:
        raise NotEnoughDataError(
            f"the impressions cover {(last - first) / DAY:.1f} days; {count} stretches of at least twice {within} are needed: "
            "ask for a shorter time, or bring a longer log"
        )
    stretch = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, count - 1)
    late = time + within.microseconds > edges[stretch + 1]
    cutoff = np.where(late, edges[stretch + 1] - 1, edges[stretch])
    made = []
    for k in range(count - folds, count):
        whole = [int(e) for e in edges[:k]]
        tails = [int(e) - 1 for e in edges[1:k]]  # all but the stretch just before the test
        made.append(Fold(tuple(sorted((*whole, *tails))), int(edges[k])))
    final = tuple(sorted({int(c) for c in np.unique(cutoff)}))
    return Plan(tuple(made), final, now, within), cutoff
