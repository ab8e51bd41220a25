"""Expressions over timelines: one answer per (user, cutoff). The only evaluation there is, offline and live.

Windows are half-open: ``last 30d`` reads ``[cutoff − 30 d, cutoff)`` and sees only what had arrived by the cutoff;
``next 30d`` reads ``[cutoff, cutoff + 30 d)``. They touch, never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import DataError, ExpressionError, nearest
from propend.events.clock import local_day, local_hour, local_weekday, wall
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import (
    FORWARD_ONLY,
    PICKS,
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Expression,
    Field,
    In,
    IsMissing,
    Literal_,
    Not,
    Or,
    Probability,
    Says,
    Window,
)
from propend.expression.terms import spelled
from propend.features import kernels as k
from propend.features.schema import Schema
from propend.names import ITEM, TYPE

__all__ = ["Rows", "Values", "evaluate", "event_column", "event_mask", "first_at", "matrix"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Values = F64 | Column

_FIRST_MOMENT: Final = -(1 << 62)
_NONE: Final = np.zeros(0, np.int64)
_NONE.flags.writeable = False
_NO_NUMBERS: Final = np.zeros(0)
_NO_NUMBERS.flags.writeable = False
_NO_INDICES: Final = np.zeros(0, np.int32)
_COUNTS: Final = {"any": k.ANY, "none": k.NONE, "count": k.COUNT}
_TOTALS: Final = {"sum": k.SUM, "mean": k.MEAN}
_SCANS: Final = {
    "min": k.MIN,
    "max": k.MAX,
    "std": k.STD,
    "first": k.FIRST,
    "last": k.LAST,
    "second_last": k.SECOND_LAST,
    "third_last": k.THIRD_LAST,
    "next": k.FIRST,
    "days_since": k.DAYS_SINCE,
    "days_since_first": k.DAYS_SINCE_FIRST,
    "days_until": k.DAYS_UNTIL,
    "mean_gap": k.MEAN_GAP,
    "std_gap": k.STD_GAP,
    "active_days": k.ACTIVE_DAYS,
    "trend": k.TREND,
}


@dataclass(frozen=True)
class Rows:
    """Questions: ``user`` int64 [m] indexes ``timelines.users``, ``cutoff`` int64 [m] is UTC microseconds.

    Sorted by (user, cutoff); ``Rows.of`` sorts.
    """

    user: I64
    cutoff: I64

    @classmethod
    def of(cls, user: npt.ArrayLike, cutoff: npt.ArrayLike) -> Rows:
        """Return sorted rows."""
        users, cutoffs = np.asarray(user, np.int64), np.asarray(cutoff, np.int64)
        order = np.lexsort((cutoffs, users))
        return cls(users[order], cutoffs[order])

    @classmethod
    def every(cls, users: int, cutoffs: Sequence[int]) -> Rows:
        """Return one row for each of ``users`` users at each cutoff."""
        moments = np.sort(np.asarray(cutoffs, np.int64))
        return cls(np.repeat(np.arange(users), len(moments)), np.tile(moments, users))

    def __len__(self) -> int:
        return len(self.user)

    def select(self, keep: Bool) -> Rows:
        """Return the rows where ``keep`` is true."""
        return Rows(self.user[keep], self.cutoff[keep])


@dataclass
class _Evaluation:
    """One bucket's timelines and rows, with everything that expressions share computed once."""

    schema: Schema
    timelines: Timelines
    rows: Rows
    profile: Mapping[str, Values]
    scores: Mapping[str, F64]
    _bounds: dict[object, Any] = field(default_factory=dict)
    _masks: dict[object, Bool] = field(default_factory=dict)
    _prefixes: dict[object, Any] = field(default_factory=dict)
    _columns: dict[str, Values] = field(default_factory=dict)
    _spelled: dict[int, tuple[tuple[str, ...], Any]] = field(default_factory=dict)

    # ---- windows

    def at(self, moments: I64, shift: int = 0) -> I32:
        """Return the index of each row's first event at or after a moment."""
        out = np.empty(len(self.rows), np.int32)
        t = self.timelines
        k.bounds(t.offsets, t.time, self.rows.user, _fixed(moments), shift, out)
        return out

    def window(self, window: Window, *, forward: bool) -> tuple[I32, I32]:
        """Return per row the first index of a window and the index after its last."""
        key = (window, forward)
        if key not in self._bounds:
            if "cutoff" not in self._bounds:
                self._bounds["cutoff"] = self.at(self.rows.cutoff)
            here = self._bounds["cutoff"]
            if window.length is None:
                edges = self.timelines.offsets[self.rows.user + int(forward)].astype(np.int32)
            elif window.length.unit in ("mo", "y"):
                edges = self.at(self._calendar_shift(window))
            else:
                step = window.length.microseconds
                edges = self.at(self.rows.cutoff, step if forward else -step)
            self._bounds[key] = (here, edges) if forward else (edges, here)
        return self._bounds[key]

    def start(self, window: Window) -> I64:
        """Return per row the first moment of a backward window."""
        if window.length is None:
            return np.full(len(self.rows), _FIRST_MOMENT, np.int64)
        if window.length.unit in ("mo", "y"):
            return self._calendar_shift(window)
        return self.rows.cutoff - window.length.microseconds

    def _calendar_shift(self, window: Window) -> I64:
        """Return each cutoff moved by calendar months, which have no length of their own."""
        assert window.length is not None
        move = window.length.after if window.forward else window.length.before
        distinct, inverse = np.unique(self.rows.cutoff, return_inverse=True)
        return np.array([move(int(m), self.schema.zone) for m in distinct], np.int64)[inverse]

    def arrival(self, forward: bool) -> I64:
        """Return arrival times; empty where nothing is held back: read forwards, or a log without them."""
        return _NONE if forward or self.timelines.arrival is None else self.timelines.arrival

    def late(self) -> I32:
        """Return per row the first index from which an event may still have been under way at the cutoff."""
        if "late" not in self._bounds:
            t = self.timelines
            if t.arrival is None:
                self._bounds["late"] = _NO_INDICES
            else:
                delay = np.zeros(len(t.users), np.int64)
                filled = np.diff(t.offsets) > 0
                delay[filled] = np.maximum.reduceat(t.arrival - t.time, t.offsets[:-1][filled])
                self._bounds["late"] = self.at(self.rows.cutoff - delay[self.rows.user])
        return self._bounds["late"]

    # ---- events

    def column(self, name: str) -> Values:
        """Return a canonical event column: numbers with NaN, or coded text."""
        if name not in self._columns:
            made = self._make_column(name)
            self._columns[name] = made if isinstance(made, Column) else _fixed(made)
        return self._columns[name]

    def _make_column(self, name: str) -> Values:
        t = self.timelines
        if name in t.numbers:
            return t.numbers[name]
        if name in t.texts:
            return t.texts[name]
        if name == ITEM:
            return Column(t.item, self.schema.item_ids)
        if name == TYPE:
            return Column(t.type.astype(np.int32), self.schema.types)
        if name == "hour":
            return local_hour(t.time, self.schema.zone).astype(np.float64)
        if name == "weekday":
            return local_weekday(t.time, self.schema.zone).astype(np.float64)
        if name == "month":
            days = local_day(t.time, self.schema.zone).astype("datetime64[D]")
            return (days.astype("datetime64[M]").astype(np.int64) % 12 + 1).astype(np.float64)
        attribute = self.schema.items[name.removeprefix(f"{ITEM}.")]
        if isinstance(attribute, Column):
            return Column(np.append(attribute.codes, -1)[t.item].astype(np.int32), attribute.values)
        return np.append(attribute, np.nan)[t.item]

    def mask(self, types: tuple[str, ...], where: Expression | None) -> Bool:
        """Return which events count."""
        key = (types, where)
        if key not in self._masks:
            n = len(self.timelines)
            if types:
                codes = [self.schema.types.index(t) for t in types]
                chosen = (
                    self.timelines.type == codes[0]
                    if len(codes) == 1
                    else np.isin(self.timelines.type, codes)
                )
            else:
                chosen = np.ones(n, np.bool_)
            if where is not None:
                chosen = chosen & _truth(_Where(self).value(where))
            if _reads_words(where):
                return chosen
            self._masks[key] = chosen
        return self._masks[key]

    def day(self) -> I64:
        """Return each event's calendar day in the workspace's zone."""
        if "day" not in self._columns:
            days = local_day(self.timelines.time, self.schema.zone)
            self._columns["day"] = days  # type: ignore[assignment]
        return self._columns["day"]  # type: ignore[return-value]

    def present(self, a: Aggregate) -> tuple[Bool, Values | None, object]:
        """Return which events count and have the field, the field, and a key that equal answers share (none: not kept)."""
        mask = self.mask(a.types, a.where)
        kept = not _reads_words(a.where)
        if a.field is None:
            return mask, None, (a.types, a.where, None) if kept else None
        column = self.schema.event_column(tuple(a.field.split(".")))
        values = self.column(column)
        key = (a.types, a.where, column)
        chosen = self._masks.get(key)
        if chosen is None:
            there = values.codes >= 0 if isinstance(values, Column) else ~np.isnan(values)
            both = mask & there
            chosen = mask if np.array_equal(both, mask) else both
            if not kept:
                return chosen, values, None
            self._masks[key] = chosen
        return chosen, values, (a.types, a.where, None) if chosen is mask else key

    # ---- aggregates

    def aggregate(self, a: Aggregate) -> Values:
        """Return one answer per row."""
        forward = a.window.forward or a.function in FORWARD_ONLY
        low, high = self.window(a.window, forward=forward)
        if a.function in _COUNTS:
            return self._count(a, low, high, forward)
        if a.function in _TOTALS:
            return self._total(a, low, high, forward)
        if a.function == "distinct":
            return self._distinct(a, low, high, forward)
        return self._scan(a, low, high, forward)

    def _counts(self, mask: Bool, key: object) -> I32:
        if ("counts", key) not in self._prefixes:
            out = np.empty(len(mask) + 1, np.int32)
            k.counts_before(mask, out)
            if key is None:
                return out
            self._prefixes["counts", key] = out
        return self._prefixes["counts", key]

    def _count(self, a: Aggregate, low: I32, high: I32, forward: bool) -> F64:
        mask, _, key = self.present(a)
        arrival = self.arrival(forward)
        late = self.late() if len(arrival) else _NO_INDICES
        out = np.empty(len(self.rows), np.float64)
        counts = self._counts(mask, key)
        what = _COUNTS[a.function]
        k.counts_within(what, low, high, counts, late, arrival, self.rows.cutoff, mask, out)
        return out

    def _total(self, a: Aggregate, low: I32, high: I32, forward: bool) -> F64:
        mask, values, key = self.present(a)
        assert isinstance(values, np.ndarray)
        arrival, cutoff = self.arrival(forward), self.rows.cutoff
        out = np.empty(len(self.rows), np.float64)
        what = _TOTALS[a.function]
        at = ("totals", a.types, a.where, a.field)
        if at not in self._prefixes:
            self._prefixes[at] = self._running_totals(mask, values)
        if self._prefixes[at] is None:
            k.totals_of_large(what, low, high, arrival, cutoff, mask, values, out)
            return out
        units, totals = self._prefixes[at]
        late = self.late() if len(arrival) else _NO_INDICES
        counts = self._counts(mask, key)
        k.totals_within(what, low, high, counts, totals, late, arrival, cutoff, mask, units, out)
        return out

    def _running_totals(self, mask: Bool, values: F64) -> tuple[I64, I64] | None:
        """Return values in micro-units and their running total, or ``None`` where a user's might not fit."""
        size = np.abs(values[mask])
        longest = int(np.diff(self.timelines.offsets).max(initial=0))
        if float(size.max(initial=0.0)) * longest >= k.LARGEST / 2:
            filled = np.diff(self.timelines.offsets) > 0
            every = np.where(mask, np.abs(values), 0.0)
            with np.errstate(over="ignore"):
                by_user = np.add.reduceat(every, self.timelines.offsets[:-1][filled])
            if not float(by_user.max(initial=0.0)) < k.LARGEST / 2:
                return None
        units, totals = np.empty(len(mask), np.int64), np.empty(len(mask) + 1, np.int64)
        k.totals_before(mask, values, units, totals)
        return units, totals

    def _distinct(self, a: Aggregate, low: I32, high: I32, forward: bool) -> F64:
        mask, values, _ = self.present(a)
        assert values is not None
        key = ("distinct", a.types, a.where, a.field)
        if key not in self._prefixes:
            codes = values.codes if isinstance(values, Column) else _codes(values)
            previous = np.empty(len(mask), np.int32)
            last = np.full(int(codes.max(initial=-1)) + 1, -1, np.int32)
            k.previous(self.timelines.offsets, mask, _fixed(codes), last, previous)
            self._prefixes[key] = previous
        arrival, cutoff = self.arrival(forward), self.rows.cutoff
        out = np.empty(len(self.rows), np.float64)
        k.count_distinct(low, high, mask, self._prefixes[key], arrival, cutoff, out)
        return out

    def _scan(self, a: Aggregate, low: I32, high: I32, forward: bool) -> Values:
        mask, values, _ = self.present(a)
        numbers = _NO_NUMBERS
        if isinstance(values, Column):
            numbers = _fixed(values.codes.astype(np.float64))
        elif values is not None:
            numbers = values
        out = np.empty(len(self.rows), np.float64)
        k.scan(
            _SCANS[a.function],
            low,
            high,
            _fixed(self.start(a.window)) if a.function == "trend" else self.rows.cutoff,
            self.rows.cutoff,
            self.timelines.time,
            self.arrival(forward),
            mask,
            numbers,
            _fixed(self.day()) if a.function == "active_days" else _NONE,
            out,
        )
        if isinstance(values, Column) and a.function in PICKS:
            return Column(np.where(np.isnan(out), -1, out).astype(np.int32), values.values)
        return out

    # ---- the rest of the language

    def value(self, e: Expression) -> Values:
        """Return the expression's value per row: numbers with NaN for missing, or coded text."""
        n = len(self.rows)
        match e:
            case Aggregate():
                return self.aggregate(e)
            case Literal_(value=str() as text):
                return _text(text, n)
            case Literal_():
                return np.full(n, float(e.value))
            case Field(path=("calendar", name)):
                return self._calendar(name)
            case Field():
                values = _given(self.profile, ".".join(e.path[1:]), e)
                return (
                    values.take(self.rows.user)
                    if isinstance(values, Column)
                    else values[self.rows.user]
                )
            case Probability():
                return _given(self.scores, e.task, e)[self.rows.user]
            case Says():
                return self.says(e, self.value(e.left))
            case _:
                return _combine(e, self.value)

    def says(self, e: Says, of: Values) -> F64:
        """Return which texts hold a phrase: each different text is read once."""
        if not isinstance(of, Column):
            raise ExpressionError(f"{e} reads words, but {e.left} is no text")
        if id(of.values) not in self._spelled:
            made = pa.array([spelled(text) for text in of.values], pa.string())
            self._spelled[id(of.values)] = of.values, made  # kept together: an id may be used again
        held = pc.match_substring(self._spelled[id(of.values)][1], spelled(str(e.phrase.value)))
        return np.append(np.asarray(held, np.float64), 0.0)[of.codes]

    def _calendar(self, name: str) -> F64:
        distinct, inverse = np.unique(self.rows.cutoff, return_inverse=True)
        local = [wall(int(m), self.schema.zone) for m in distinct]
        parts = [
            float({"hour": t.hour, "weekday": t.weekday(), "month": t.month}[name]) for t in local
        ]
        return np.array(parts)[inverse]


@dataclass
class _Where:
    """The same language one event at a time, inside ``where``."""

    of: _Evaluation

    def value(self, e: Expression) -> Values:
        """Return the expression's value per event."""
        n = len(self.of.timelines)
        match e:
            case Literal_(value=str() as text):
                return _text(text, n)
            case Literal_():
                return np.full(n, float(e.value))
            case Field():
                return self.of.column(self.of.schema.event_column(e.path))
            case Says():
                return self.of.says(e, self.value(e.left))
            case _:
                return _combine(e, self.value)


def _combine(e: Expression, value: Any) -> F64:
    """Return the value of an operator over its operands' values."""
    match e:
        case Compare():
            return _compare(e, value(e.left), value(e.right))
        case In():
            left = value(e.left)
            hits = [
                _compare(Compare("=", e.left, o), left, _literal_like(left, o)) for o in e.options
            ]
            return np.any([h > 0 for h in hits], axis=0).astype(np.float64)
        case IsMissing():
            left = value(e.left)
            return (left.codes < 0 if isinstance(left, Column) else np.isnan(left)).astype(
                np.float64
            )
        case Not():
            return (~_truth(value(e.inner))).astype(np.float64)
        case And():
            return np.all([_truth(value(t)) for t in e.terms], axis=0).astype(np.float64)
        case Or():
            return np.any([_truth(value(t)) for t in e.terms], axis=0).astype(np.float64)
        case Arithmetic():
            return _arithmetic(e, _number(value(e.left), e), _number(value(e.right), e))
    raise ExpressionError(f"{e} cannot be evaluated here")


def _reads_words(where: Expression | None) -> bool:
    """Whether a ``where`` reads words: there are many such, each asked once, so that what they need is not kept."""
    return where is not None and any(isinstance(part, Says) for part in where.parts())


def _given(known: Mapping[str, Any], name: str, e: Expression) -> Any:
    if name not in known:
        raise ExpressionError(f"{e} was not given to the evaluation{nearest(name, known)}")
    return known[name]


def _text(text: str, n: int) -> Column:
    return Column(np.broadcast_to(np.zeros(1, np.int32), n), (text,))


def _fixed(values: Any) -> Any:
    """Return a read-only contiguous view, so that each kernel is compiled for one kind of array only."""
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view


def _literal_like(left: Values, option: Literal_) -> Values:
    n = len(left.codes) if isinstance(left, Column) else len(left)
    if isinstance(option.value, str):
        return _text(option.value, n)
    return np.full(n, float(option.value))


def _truth(values: Values) -> Bool:
    if isinstance(values, Column):
        return values.codes >= 0
    return (values != 0) & ~np.isnan(values)


def _number(values: Values, e: Expression) -> F64:
    if isinstance(values, Column):
        raise ExpressionError(
            f"{e} calculates with text; only numbers can be added, multiplied or compared by size"
        )
    return values


def _compare(e: Compare, left: Values, right: Values) -> F64:
    if isinstance(left, Column) or isinstance(right, Column):
        if not (isinstance(left, Column) and isinstance(right, Column)):
            raise ExpressionError(
                f"{e} compares text with a number; put the text in single quotes, or compare with a number"
            )
        if e.op not in ("=", "!="):
            raise ExpressionError(f"{e} orders text; only = and != (and in) compare text")
        wanted = set(right.values)
        index = {text: code for code, text in enumerate(left.values) if text in wanted}
        mapping = np.array([*(index.get(text, -2) for text in right.values), -1])
        other = mapping[right.codes]
        there = (left.codes >= 0) & (right.codes >= 0)
        equal = left.codes == other
        return (there & (equal if e.op == "=" else ~equal)).astype(np.float64)
    there = ~np.isnan(left) & ~np.isnan(right)
    compare = {
        "=": np.equal,
        "!=": np.not_equal,
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
    }
    return (there & compare[e.op](left, right)).astype(np.float64)


def _arithmetic(e: Arithmetic, left: F64, right: F64) -> F64:
    with np.errstate(all="ignore"):  # beyond 1e308 is inf, inf − inf is missing
        match e.op:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
        return np.where(right == 0, np.nan, left / np.where(right == 0, 1.0, right))


def _codes(values: F64) -> I32:
    """Return dense codes of numbers; NaN is −1."""
    _, codes = np.unique(values, return_inverse=True)
    return np.where(np.isnan(values), -1, codes).astype(np.int32)


def evaluate(
    expressions: Sequence[Expression],
    timelines: Timelines,
    rows: Rows,
    schema: Schema,
    *,
    profile: Mapping[str, Values] | None = None,
    scores: Mapping[str, F64] | None = None,
) -> list[Values]:
    """Return each expression's answers, one per row: float64 [m] with NaN for missing, or coded text.

    ``profile`` maps user attributes to values by user index, ``scores`` task names to probabilities by user index.
    Names must have been checked with :meth:`Schema.check`.

    >>> from propend.expression.parse import parse
    >>> t = Timelines(np.array([7]), np.array([0, 3]), np.array([0, 10, 20]), np.array([0, 1, 0], np.int16),
    ...               np.array([5, 5, 6], np.int32), np.arange(3))
    >>> schema = Schema(types=("view", "buy"))
    >>> questions = [parse("count(view)"), parse("any(buy) last 1s")]
    >>> [v.tolist() for v in evaluate(questions, t, Rows.of([0, 0], [20, 21]), schema)]
    [[1.0, 2.0], [1.0, 1.0]]
    """
    if len(timelines) >= 1 << 31:
        raise DataError(
            f"{len(timelines):,} events are too many for one pass; use a store with more buckets"
        )
    if len(rows) and not (rows.user.min() >= 0 and rows.user.max() < len(timelines.users)):
        raise DataError(
            f"rows ask for user {rows.user.max()} but the timelines hold {len(timelines.users)} users"
        )
    evaluation = _Evaluation(
        schema, _plain(timelines), _plain_rows(rows), profile or {}, scores or {}
    )
    return [evaluation.value(expression) for expression in expressions]


def _plain(t: Timelines) -> Timelines:
    """Return the same timelines with the array kinds the kernels are compiled for."""
    return replace(
        t,
        offsets=_fixed(t.offsets.astype(np.int64, copy=False)),
        time=_fixed(t.time.astype(np.int64, copy=False)),
        numbers={name: _fixed(v.astype(np.float64, copy=False)) for name, v in t.numbers.items()},
        arrival=None if t.arrival is None else _fixed(t.arrival.astype(np.int64, copy=False)),
    )


def _plain_rows(rows: Rows) -> Rows:
    return Rows(
        _fixed(rows.user.astype(np.int64, copy=False)),
        _fixed(rows.cutoff.astype(np.int64, copy=False)),
    )


def matrix(
    expressions: Sequence[Expression],
    timelines: Timelines,
    rows: Rows,
    schema: Schema,
    *,
    profile: Mapping[str, Values] | None = None,
    scores: Mapping[str, F64] | None = None,
) -> F64:
    """Return float64 [m, number of expressions]; text answers as their codes, −1 as NaN (see ``evaluate``)."""
    out = np.empty((len(rows), len(expressions)), np.float64, order="F")
    for position, values in enumerate(
        evaluate(expressions, timelines, rows, schema, profile=profile, scores=scores)
    ):
        if isinstance(values, Column):
            out[:, position] = np.where(values.codes < 0, np.nan, values.codes)
        else:
            out[:, position] = values
    return out


def first_at(timelines: Timelines, rows: Rows, shift: int = 0) -> I32:
    """Return for each row the index of its user's first event at or after ``cutoff + shift`` (the end where there is none).

    >>> t = Timelines(np.array([7, 8]), np.array([0, 3, 4]), np.array([0, 10, 20, 5]), np.zeros(4, np.int16),
    ...               np.zeros(4, np.int32), np.arange(4))
    >>> first_at(t, Rows.of([0, 0, 1], [0, 10, 6]), 5).tolist()
    [1, 2, 4]
    """
    t, asked, out = _plain(timelines), _plain_rows(rows), np.empty(len(rows), np.int32)
    k.bounds(t.offsets, t.time, asked.user, asked.cutoff, shift, out)
    return out


def event_mask(select: Aggregate, timelines: Timelines, schema: Schema) -> Bool:
    """Return which events an aggregate's types and ``where`` select, bool [n events]."""
    rows = Rows(_NONE, _NONE)
    return _Evaluation(schema, timelines, rows, {}, {}).mask(select.types, select.where)


def event_column(name: str, timelines: Timelines, schema: Schema) -> Values:
    """Return a canonical event column (see :meth:`Schema.event_column`) per event: numbers with NaN, or coded text."""
    return _Evaluation(schema, timelines, Rows(_NONE, _NONE), {}, {}).column(name)
