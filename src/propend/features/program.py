"""Many expressions of one user at one moment in one compiled call: what the live server asks a thousand times a second.

``evaluate`` shares work between the rows of a bucket; here there is one row, and what costs is the number of calls. A
program is the same expressions as tables of numbers; one compiled pass builds the masks and calls the same kernels as
``evaluate``, so the answers are the same bits. What a program cannot say (text answers, unusual ``where`` clauses) is
left to ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.events.clock import local_day, local_hour, local_weekday, to_local
from propend.events.timelines import BLOCK, Column, Timelines
from propend.expression.nodes import (
    FORWARD_ONLY,
    PICKS,
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Expression,
    Field,
    Literal_,
    Says,
    Window,
)
from propend.expression.terms import spelled
from propend.features import kernels as k
from propend.features.evaluate import Rows, Values, matrix
from propend.features.program_kernels import (
    HOUR_OF,
    ITEM_OF,
    TYPE_OF,
    WEEKDAY_OF,
    run_block,
    run_program,
)
from propend.features.schema import Schema
from propend.names import ITEM, TYPE

__all__ = ["Program"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_TIME: Final = BLOCK.index("time")
_EVER: Final = -(1 << 62)
_COUNT, _TOTAL, _DISTINCT, _SCAN = range(4)
_KINDS: Final = {
    "any": (_COUNT, k.ANY),
    "none": (_COUNT, k.NONE),
    "count": (_COUNT, k.COUNT),
    "sum": (_TOTAL, k.SUM),
    "mean": (_TOTAL, k.MEAN),
    "distinct": (_DISTINCT, 0),
    "min": (_SCAN, k.MIN),
    "max": (_SCAN, k.MAX),
    "std": (_SCAN, k.STD),
    "first": (_SCAN, k.FIRST),
    "last": (_SCAN, k.LAST),
    "second_last": (_SCAN, k.SECOND_LAST),
    "third_last": (_SCAN, k.THIRD_LAST),
    "days_since": (_SCAN, k.DAYS_SINCE),
    "days_since_first": (_SCAN, k.DAYS_SINCE_FIRST),
    "mean_gap": (_SCAN, k.MEAN_GAP),
    "std_gap": (_SCAN, k.STD_GAP),
    "active_days": (_SCAN, k.ACTIVE_DAYS),
    "trend": (_SCAN, k.TREND),
}
_OPS: Final = {"+": 0, "-": 1, "*": 2, "/": 3}
_COMPARE: Final = {"=": 0, "!=": 1, "<": 2, "<=": 3, ">": 4, ">=": 5}


class _Beyond(Exception):  # noqa: N818 - the expression is answered elsewhere
    """A program cannot say this."""


@dataclass(frozen=True)
class _Tables:
    """A program as arrays; see :func:`~propend.features.program_kernels.run_program`."""

    masks: I64
    tests: I64
    constants: F64
    selections: npt.NDArray[np.bool_]
    aggregates: I64
    operations: I64
    literals: F64
    out: I64
    coded: I64
    """Columns whose different values are counted."""


class Program:
    """Expressions compiled for a schema; ``run`` answers them for one user.

    >>> from propend.expression.parse import parse
    >>> t = Timelines(np.array([7]), np.array([0, 3]), np.array([0, 10, 20]), np.array([0, 1, 0], np.int16),
    ...               np.array([5, 5, 6], np.int32), np.arange(3))
    >>> asked = [parse("count(view)"), parse("count(view) / count(buy)"), parse("any(buy) last 1s")]
    >>> Program(asked, Schema(types=("view", "buy"))).run(t, 21).tolist()
    [2.0, 2.0, 1.0]
    """

    def __init__(self, expressions: Sequence[Expression], schema: Schema) -> None:
        self.expressions, self.schema = tuple(expressions), schema
        self._columns: dict[str, int] = {}
        self._coded: dict[str, int] = {}
        self._phrases: dict[str, tuple[str, str]] = {}
        self._windows: dict[Window, int] = {}
        self._masks: dict[tuple[Any, ...], int] = {}
        self._mask_rows: list[tuple[int, int, int, int]] = []
        self._tests: list[tuple[int, int]] = []
        self._constants: list[float] = []
        self._selections: dict[tuple[str, ...], int] = {}
        self._slots: dict[Expression, int] = {}
        self._aggregates: list[tuple[int, int, int, int, int, int]] = []
        self._operations: list[tuple[int, int, int, int]] = []
        self._literals: list[tuple[int, float]] = []
        self._profiles: list[tuple[int, str]] = []
        self._next = 0
        self.rest: list[int] = []
        """Places of the expressions that are left to ``evaluate``."""
        self.texts: dict[int, Sequence[str]] = {}
        """By place of an expression whose answer is a text: what its codes stand for."""
        self._planned: tuple[tuple[str, ...], I64 | None] | None = None
        places = [self._place(i, e) for i, e in enumerate(self.expressions)]
        self._tables = self._finish(places)

    def _place(self, index: int, expression: Expression) -> int:
        saved = (
            dict(self._slots),
            len(self._aggregates),
            len(self._operations),
            len(self._literals),
            len(self._profiles),
            self._next,
        )
        try:
            slot = self._slot(expression)
            if isinstance(expression, Aggregate) and expression.function in PICKS:
                column = self._event_column(expression)
                if self.schema.is_text(column):
                    self.texts[index] = self._values_of(column)
            return slot
        except _Beyond:
            self._slots = saved[0]
            del (
                self._aggregates[saved[1] :],
                self._operations[saved[2] :],
                self._literals[saved[3] :],
                self._profiles[saved[4] :],
            )
            self._next = saved[5]
            self.rest.append(index)
            return -1

    # ---- compiling

    def _slot(self, e: Expression) -> int:
        """Return the slot that will hold an expression's number."""
        if e in self._slots:
            return self._slots[e]
        if isinstance(e, Aggregate):
            slot = self._aggregate(e)
        elif isinstance(e, Arithmetic):
            left, right = self._slot(e.left), self._slot(e.right)
            slot = self._new()
            self._operations.append((_OPS[e.op], left, right, slot))
        elif isinstance(e, Literal_) and not isinstance(e.value, str):
            slot = self._new()
            self._literals.append((slot, float(e.value)))
        elif (
            isinstance(e, Field)
            and e.path[0] == "profile"
            and self.schema.users.get(".".join(e.path[1:])) == "number"
        ):
            slot = self._new()
            self._profiles.append((slot, ".".join(e.path[1:])))
        else:
            raise _Beyond
        self._slots[e] = slot
        return slot

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _aggregate(self, a: Aggregate) -> int:
        if a.function not in _KINDS or a.window.forward or a.function in FORWARD_ONLY:
            raise _Beyond
        kind, what = _KINDS[a.function]
        column = "" if a.field is None else self._event_column(a)
        # a text's codes are numbers too, where they are the schema's: which one was picked is one of them
        text = column and kind not in (_DISTINCT, _COUNT) and self.schema.is_text(column)
        if text and not (a.function in PICKS and self._fixed_codes(column)):
            raise _Beyond
        values = self._column(column) if column else -1
        mask = self._mask(a.types, a.where, values)
        if kind == _DISTINCT:
            values = self._coded.setdefault(column, len(self._coded))
        window = self._windows.setdefault(a.window, len(self._windows))
        slot = self._new()
        self._aggregates.append((kind, what, window, mask, values, slot))
        return slot

    def _event_column(self, a: Aggregate) -> str:
        assert a.field is not None
        return self.schema.event_column(tuple(a.field.split(".")))

    def _column(self, name: str) -> int:
        return self._columns.setdefault(name, len(self._columns))

    def _mask(self, types: tuple[str, ...], where: Expression | None, present: int) -> int:
        key = (types, where, present)
        if key not in self._masks:
            tests = [] if where is None else self._conjuncts(where)
            first = len(self._tests)
            for column, op, constant in tests:
                self._tests.append((column, op))
                self._constants.append(constant)
            selection = self._selections.setdefault(types, len(self._selections))
            self._mask_rows.append((selection, first, len(self._tests), present))
            self._masks[key] = len(self._mask_rows) - 1
        return self._masks[key]

    def _conjuncts(self, where: Expression) -> list[tuple[int, int, float]]:
        """Return a ``where`` as comparisons of a column with a constant, all of which must hold."""
        if isinstance(where, And):
            return [test for term in where.terms for test in self._conjuncts(term)]
        if isinstance(where, Says) and isinstance(where.left, Field):
            column = self.schema.event_column(where.left.path)
            if column not in self.schema.texts:
                raise _Beyond
            self._phrases[str(where)] = column, spelled(str(where.phrase.value))
            return [(self._column(str(where)), _COMPARE["="], 1.0)]
        if not (
            isinstance(where, Compare)
            and isinstance(where.left, Field)
            and isinstance(where.right, Literal_)
        ):
            raise _Beyond
        column = self.schema.event_column(where.left.path)
        text = self.schema.is_text(column)
        constant = where.right.value
        if text != isinstance(constant, str) or (
            text and (where.op not in ("=", "!=") or not self._fixed_codes(column))
        ):
            raise _Beyond
        code = float(self._code(column, str(constant))) if text else float(constant)
        return [(self._column(column), _COMPARE[where.op], code)]

    def _fixed_codes(self, column: str) -> bool:
        """Whether a text column's codes are the schema's (and not each timeline's own)."""
        return column in (TYPE, ITEM) or column.startswith(f"{ITEM}.")

    def _code(self, column: str, text: str) -> int:
        values = self._values_of(column)
        return values.index(text) if text in values else -2

    def _values_of(self, column: str) -> Sequence[str]:
        """Return the texts that a column's codes stand for."""
        if column == TYPE:
            return self.schema.types
        if column == ITEM:
            return self.schema.item_ids
        attribute = self.schema.items[column.removeprefix(f"{ITEM}.")]
        assert isinstance(attribute, Column)
        return attribute.values

    def _finish(self, places: list[int]) -> _Tables:
        types = self.schema.types
        selections = np.zeros((max(len(self._selections), 1), len(types) + 1), np.bool_)
        for chosen, row in self._selections.items():
            selections[row, :-1] = [not chosen or t in chosen for t in types]
        literals = np.zeros(self._next)
        for slot, value in self._literals:
            literals[slot] = value

        def table(rows: Sequence[tuple[int, ...]], width: int) -> I64:
            return np.array(rows, np.int64).reshape(-1, width)

        return _Tables(
            table(self._mask_rows, 4), table(self._tests, 2), np.array(self._constants, np.float64), selections,
            table(self._aggregates, 6), table(self._operations, 4), literals, np.array(places, np.int64),
            np.array([self._columns[name] for name in self._coded], np.int64),
        )  # fmt: skip

    # ---- running

    def run(
        self, timelines: Timelines, cutoff: int, profile: Mapping[str, Values] | None = None
    ) -> F64:
        """Return the answers [number of expressions] for the one user in ``timelines`` at a moment; text as codes."""
        n = len(timelines)
        time = np.ascontiguousarray(timelines.time, np.int64)
        columns = np.empty((len(self._columns), n))
        heard = self._heard(timelines)
        for name, row in self._columns.items():
            if name in self._phrases:
                of, phrase = self._phrases[name]
                texts, at = heard[of]
                columns[row] = np.array([phrase in text for text in texts], np.float64)[at]
            else:
                columns[row] = self._values(name, timelines)
        starts, slots = self._starts(cutoff), self._slots_of(profile)
        arrival = (
            time if timelines.arrival is None else np.ascontiguousarray(timelines.arrival, np.int64)
        )
        t = self._tables
        day = local_day(time, self.schema.zone)
        run_program(
            t.masks, t.tests, t.constants, t.selections, t.aggregates, t.operations, np.ascontiguousarray(timelines.type, np.int64),
            time, arrival, day, columns, t.coded, starts, cutoff, slots,
        )  # fmt: skip
        out = self._out(slots)
        if self.rest:
            asked = [self.expressions[i] for i in self.rest]
            rows = Rows(np.zeros(1, np.int64), np.array([cutoff], np.int64))
            out[self.rest] = matrix(asked, timelines, rows, self.schema, profile=profile)[0]
        return out

    def run_block(
        self, block: I64, numbers: tuple[str, ...], cutoff: int, profile: Callable[[], Mapping[str, Values]]
    ) -> F64 | None:  # fmt: skip
        """Return what ``run`` does, from one user's timeline as a block int64 [rows, events] in a third of the time.

        Its rows are those of ``propend.events.timelines.BLOCK``, then the bits of the ``numbers``; it is not changed. ``None``
        where the program needs more of the timeline than that: a text, or an attribute of items.
        """
        planned = self._planned
        if planned is None or planned[0] is not numbers:
            planned = self._planned = numbers, self._plan(numbers)
        plan = planned[1]
        if plan is None:
            return None
        slots = self._slots_of(profile() if self._profiles else None)
        t, local = self._tables, to_local(block[_TIME], self.schema.zone)
        run_block(
            block, local, plan, t.masks, t.tests, t.constants, t.selections, t.aggregates, t.operations, t.coded,
            self._starts(cutoff), cutoff, slots,
        )  # fmt: skip
        return self._out(slots)

    def _plan(self, numbers: Sequence[str]) -> I64 | None:
        rows = {
            **{n: len(BLOCK) + i for i, n in enumerate(numbers)}, TYPE: TYPE_OF, ITEM: ITEM_OF, "hour": HOUR_OF,
            "weekday": WEEKDAY_OF,
        }  # fmt: skip
        if self.rest or not rows.keys() >= self._columns.keys():
            return None
        return np.array([rows[name] for name in self._columns], np.int64)

    def _starts(self, cutoff: int) -> I64:
        return np.array([self._start(w, cutoff) for w in self._windows], np.int64)

    def _slots_of(self, profile: Mapping[str, Values] | None) -> F64:
        """Return the slots with what needs no events."""
        slots = self._tables.literals.copy()
        for slot, name in self._profiles:
            given = (profile or {})[name]
            slots[slot] = np.nan if isinstance(given, Column) else given[0]
        return slots

    def _out(self, slots: F64) -> F64:
        """Return the answers, by expression."""
        t = self._tables
        return (
            np.where(t.out < 0, np.nan, slots[t.out]) if len(slots) else np.full(len(t.out), np.nan)
        )

    def _start(self, window: Window, cutoff: int) -> int:
        if window.length is None:
            return _EVER
        if window.length.unit in ("mo", "y"):
            return window.length.before(cutoff, self.schema.zone)
        return cutoff - window.length.microseconds

    def _heard(self, t: Timelines) -> dict[str, tuple[list[str], I64]]:
        """Return the different texts of each column that phrases are looked for in, and which of them each event has."""
        found = {}
        for name in {of for of, _ in self._phrases.values()}:
            column = t.texts[name]
            codes, at = np.unique(column.codes, return_inverse=True)
            texts = [spelled(column.values[c]) if c >= 0 else "" for c in codes.tolist()]
            found[name] = texts, at
        return found

    def _values(self, name: str, t: Timelines) -> Any:
        """Return an event column as numbers: texts as codes with NaN for missing."""
        if name in t.numbers:
            return t.numbers[name]
        if name == "hour":
            return local_hour(t.time, self.schema.zone)
        if name == "weekday":
            return local_weekday(t.time, self.schema.zone)
        if name == "month":
            days = local_day(t.time, self.schema.zone).astype("datetime64[D]")
            return days.astype("datetime64[M]").astype(np.int64) % 12 + 1
        if name == TYPE:
            return t.type
        if name in t.texts:
            codes = t.texts[name].codes
        elif name == ITEM:
            codes = t.item
        else:
            attribute = self.schema.items[name.removeprefix(f"{ITEM}.")]
            inside = (t.item >= 0) & (
                t.item < len(attribute.codes if isinstance(attribute, Column) else attribute)
            )
            at = np.where(inside, t.item, 0)
            if not isinstance(attribute, Column):
                return (
                    np.where(inside, attribute[at], np.nan)
                    if len(attribute)
                    else np.full(len(t), np.nan)
                )
            codes = (
                np.where(inside, attribute.codes[at], -1)
                if len(attribute.codes)
                else np.full(len(t), -1)
            )
        return np.where(codes < 0, np.nan, codes)
