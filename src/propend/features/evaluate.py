"""Expressions over timelines: one answer per (user, cutoff). The only evaluation there is, offline and live.

Windows are half-open: ``last 30d`` reads ``[cutoff − 30 d, cutoff)`` and sees only what had arrived by the cutoff;
``next 30d`` reads ``[cutoff, cutoff + 30 d)``. They touch, never overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import ExpressionError
from propend.events.clock import local_day, local_hour, local_weekday, wall
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import (
    FORWARD_ONLY,
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
    Window,
)
from propend.features import kernels as k
from propend.features.schema import Schema
from propend.names import ITEM, TYPE

__all__ = ["Rows", "Values", "evaluate", "event_column", "event_mask", "matrix"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Values = F64 | Column

_FIRST_MOMENT: Final = -(1 << 62)
_LAST_MOMENT: Final = (1 << 62) - 1
_NONE: Final = np.zeros(0, np.int64)
_SCANS: Final = {
    "min": k.MIN,
    "max": k.MAX,
    "std": k.STD,
    "first": k.FIRST,
    "last": k.LAST,
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

    # ---- windows

    def at(self, moments: I64) -> I64:
        """Return the index of each row's first event at or after a moment."""
        out = np.empty(len(self.rows), np.int64)
        k.bounds(self.timelines.offsets, self.timelines.time, self.rows.user, moments, out)
        return out

    def window(self, window: Window, *, forward: bool) -> tuple[I64, I64, I64]:
        """Return per row the first index, the index after the last, and the first moment of a window."""
        key = (window, forward)
        if key not in self._bounds:
            cutoffs = self.rows.cutoff
            if "cutoff" not in self._bounds:
                self._bounds["cutoff"] = self.at(cutoffs)
            here = self._bounds["cutoff"]
            if forward:
                ends = self._shift(window, _LAST_MOMENT)
                self._bounds[key] = (here, self.at(ends), cutoffs)
            else:
                starts = self._shift(window, _FIRST_MOMENT)
                low = (
                    self.timelines.offsets[self.rows.user]
                    if window.length is None
                    else self.at(starts)
                )
                self._bounds[key] = (low, here, starts)
        return self._bounds[key]

    def _shift(self, window: Window, otherwise: int) -> I64:
        """Return the far edge of the window for each row; calendar months need each cutoff's own answer."""
        if window.length is None:
            return np.full(len(self.rows), otherwise, np.int64)
        distinct, inverse = np.unique(self.rows.cutoff, return_inverse=True)
        move = window.length.after if window.forward else window.length.before
        if window.length.unit not in ("mo", "y"):
            step = window.length.microseconds
            return self.rows.cutoff + (step if window.forward else -step)
        return np.array([move(int(m), self.schema.zone) for m in distinct], np.int64)[inverse]

    @property
    def arrival(self) -> I64:
        """Arrival times, empty where the log has none (or every event arrives as it happens)."""
        return _NONE if self.timelines.arrival is None else self.timelines.arrival

    def late(self) -> I64:
        """Return per row the first index from which an event may still have been under way at the cutoff."""
        if "late" not in self._bounds:
            t = self.timelines
            if t.arrival is None:
                self._bounds["late"] = _NONE
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
            self._columns[name] = self._make_column(name)
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
            self._masks[key] = chosen
        return self._masks[key]

    # ---- aggregates

    def aggregate(self, a: Aggregate) -> Values:
        """Return one answer per row."""
        forward = a.window.forward or a.function in FORWARD_ONLY
        low, high, start = self.window(a.window, forward=forward)
        mask = self.mask(a.types, a.where)
        values = (
            None
            if a.field is None
            else self.column(self.schema.event_column(tuple(a.field.split("."))))
        )
        if a.function in ("any", "none", "count", "sum", "mean"):
            return self._sum(a, low, high, mask, values, forward)
        if a.function == "distinct":
            assert values is not None
            return self._distinct(a, low, high, mask, values, forward)
        return self._scan(a, low, high, start, mask, values, forward)

    def _sum(
        self, a: Aggregate, low: I64, high: I64, mask: Bool, values: Values | None, forward: bool
    ) -> F64:
        key = (a.types, a.where, a.field)
        if key not in self._prefixes:
            units, present = _NONE, mask
            if isinstance(values, Column):
                present = mask & (values.codes >= 0)
            elif values is not None:
                present = mask & ~np.isnan(values)
                units = np.rint(np.where(present, values, 0.0) * k.MICRO).astype(np.int64)
            counts = np.empty(len(mask) + 1, np.int64)
            totals = np.empty(len(units) + 1, np.int64)
            k.prefix(present, units, counts, totals)
            self._prefixes[key] = (present, units, counts, totals)
        present, units, counts, totals = self._prefixes[key]
        n = np.empty(len(self.rows), np.int64)
        total = np.empty(len(self.rows) if len(units) else 0, np.int64)
        arrival = _NONE if forward else self.arrival
        late = self.late() if len(arrival) else _NONE
        k.sums(low, high, counts, totals, late, arrival, self.rows.cutoff, present, units, n, total)
        match a.function:
            case "any":
                return (n > 0).astype(np.float64)
            case "none":
                return (n == 0).astype(np.float64)
            case "count":
                return n.astype(np.float64)
            case "sum":
                return total / k.MICRO if len(units) else np.zeros(len(self.rows))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                np.where(n > 0, total / k.MICRO / n, np.nan)
                if len(units)
                else np.full(len(self.rows), np.nan)
            )

    def _distinct(
        self, a: Aggregate, low: I64, high: I64, mask: Bool, values: Values, forward: bool
    ) -> F64:
        key = ("distinct", a.types, a.where, a.field)
        if key not in self._prefixes:
            codes = values.codes if isinstance(values, Column) else _codes(values)
            previous = np.empty(len(mask), np.int64)
            last = np.full(int(codes.max(initial=-1)) + 1, -1, np.int64)
            k.previous(self.timelines.offsets, mask, codes, last, previous)
            self._prefixes[key] = (codes, previous)
        codes, previous = self._prefixes[key]
        out = np.empty(len(self.rows), np.float64)
        k.count_distinct(
            low,
            high,
            mask,
            codes,
            previous,
            _NONE if forward else self.arrival,
            self.rows.cutoff,
            out,
        )
        return out

    def _scan(
        self,
        a: Aggregate,
        low: I64,
        high: I64,
        start: I64,
        mask: Bool,
        values: Values | None,
        forward: bool,
    ) -> Values:
        numbers = np.zeros(0)
        if isinstance(values, Column):
            numbers, mask = values.codes.astype(np.float64), mask & (values.codes >= 0)
        elif values is not None:
            numbers, mask = values, mask & ~np.isnan(values)
        day = (
            local_day(self.timelines.time, self.schema.zone)
            if a.function == "active_days"
            else _NONE
        )
        out = np.empty(len(self.rows), np.float64)
        arrival = _NONE if forward else self.arrival
        k.scan(
            _SCANS[a.function],
            low,
            high,
            start,
            self.rows.cutoff,
            self.timelines.time,
            arrival,
            mask,
            numbers,
            day,
            out,
        )
        if isinstance(values, Column):
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
                return Column(np.zeros(n, np.int32), (text,))
            case Literal_():
                return np.full(n, float(e.value))
            case Field(path=("calendar", name)):
                return self._calendar(name)
            case Field():
                values = self.profile[".".join(e.path[1:])]
                return (
                    values.take(self.rows.user)
                    if isinstance(values, Column)
                    else values[self.rows.user]
                )
            case Probability():
                return self.scores[e.task][self.rows.user]
            case _:
                return _combine(e, self.value)

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
                return Column(np.zeros(n, np.int32), (text,))
            case Literal_():
                return np.full(n, float(e.value))
            case Field():
                return self.of.column(self.of.schema.event_column(e.path))
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


def _literal_like(left: Values, option: Literal_) -> Values:
    n = len(left.codes) if isinstance(left, Column) else len(left)
    if isinstance(option.value, str):
        return Column(np.zeros(n, np.int32), (option.value,))
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
        index = {text: code for code, text in enumerate(left.values)}
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
    match e.op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(right == 0, np.nan, left / np.where(right == 0, 1.0, right))


def _codes(values: F64) -> npt.NDArray[np.int64]:
    """Return dense codes of numbers; NaN is −1."""
    _, codes = np.unique(values, return_inverse=True)
    return np.where(np.isnan(values), -1, codes)


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
    evaluation = _Evaluation(schema, timelines, rows, profile or {}, scores or {})
    return [evaluation.value(expression) for expression in expressions]


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


def event_mask(select: Aggregate, timelines: Timelines, schema: Schema) -> Bool:
    """Return which events an aggregate's types and ``where`` select, bool [n events]."""
    rows = Rows(_NONE, _NONE)
    return _Evaluation(schema, timelines, rows, {}, {}).mask(select.types, select.where)


def event_column(name: str, timelines: Timelines, schema: Schema) -> Values:
    """Return a canonical event column (see :meth:`Schema.event_column`) per event: numbers with NaN, or coded text."""
    return _Evaluation(schema, timelines, Rows(_NONE, _NONE), {}, {}).column(name)
