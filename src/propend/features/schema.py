"""What a log can be asked: its event types, fields, item and user attributes; names are checked against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import ExpressionError, nearest
from propend.events.store import NUMBERS, TEXTS, Store
from propend.events.timelines import Column
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
)
from propend.names import DAY, ITEM, TYPE, USER

__all__ = ["CALENDAR", "Attribute", "Schema", "attribute_columns"]

CALENDAR = ("hour", "weekday", "month")
"""Fields every event has on the workspace's wall clock: hour 0–23, weekday 0 (Monday) – 6, month 1–12."""

Attribute = npt.NDArray[np.float64] | Column


@dataclass(frozen=True)
class Schema:
    """The names a log knows. ``items`` maps an attribute to values by item code, ``users`` names user attributes."""

    types: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    items: Mapping[str, Attribute] = field(default_factory=dict)
    item_ids: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    """User attribute → ``number`` or ``text``."""
    tasks: tuple[str, ...] = ()
    zone: str = "UTC"
    first: int = 0
    """Earliest event, UTC microseconds."""
    last: int = 0
    """Latest event."""

    @classmethod
    def of(cls, store: Store, zone: str = "UTC", tasks: tuple[str, ...] = ()) -> Schema:
        """Read the schema of a store."""
        there = set(store.manifest.columns)
        kinds = store.manifest.properties
        items = store.table("items")
        users = store.table("users")
        first, last = store.span
        return cls(
            types=store.types,
            numbers=tuple(n for n in NUMBERS if n in there)
            + tuple(p for p, k in kinds.items() if k == "number"),
            texts=tuple(n for n in TEXTS if n in there)
            + tuple(p for p, k in kinds.items() if k == "text"),
            items={} if items is None else attribute_columns(items, ITEM, store.item_ids()),
            item_ids=store.item_ids(),
            users={}
            if users is None
            else {
                f.name: "text" if pa.types.is_string(f.type) else "number"
                for f in users.schema
                if f.name != USER
            },
            tasks=tasks,
            zone=zone,
            first=first,
            last=last,
        )

    @property
    def days(self) -> float:
        """Days from the first event to the last."""
        return (self.last - self.first) / DAY

    @property
    def event_fields(self) -> tuple[str, ...]:
        """Every field that may stand after an event or inside ``where``."""
        return (ITEM, TYPE, *self.numbers, *self.texts, *CALENDAR, *(n for n in self.items))

    def event_column(self, path: tuple[str, ...]) -> str:
        """Return the canonical name of an event field: ``value``, ``item``, ``item.category``, ``hour`` …

        Raises ``ExpressionError`` naming the nearest field.
        """
        name = ".".join(path)
        if name in (ITEM, TYPE, *self.numbers, *self.texts, *CALENDAR):
            return name
        attribute = ".".join(path[1:]) if path[0] == ITEM and len(path) > 1 else name
        if attribute in self.items:
            return f"{ITEM}.{attribute}"
        raise ExpressionError(f"no event field {name!r}{nearest(name, self.event_fields)}")

    def is_text(self, column: str) -> bool:
        """Whether a canonical event column holds text."""
        if column in (ITEM, TYPE) or column in self.texts:
            return True
        return isinstance(self.items.get(column.removeprefix(f"{ITEM}.")), Column) and (
            column not in (*self.numbers, *CALENDAR)
        )

    def attributes_of(
        self, expressions: Iterable[Expression], fields: Iterable[str] = ()
    ) -> dict[str, Attribute]:
        """Return the items' attributes that expressions and event fields read, by name; they change without any event."""
        names = list(fields)
        for expression in expressions:
            for part in expression.parts():
                if isinstance(part, Aggregate) and part.field is not None:
                    names.append(part.field)
                elif isinstance(part, Field):
                    names.append(".".join(part.path))
        found: dict[str, Attribute] = {}
        for name in names:
            head, _, tail = name.partition(".")
            attribute = tail if head == ITEM and tail else name
            if name not in (*self.numbers, *self.texts) and attribute in self.items:
                found[attribute] = self.items[attribute]
        return found

    def check(self, expression: Expression, *, forward: bool | None = None) -> None:
        """Check every name in an expression; ``forward`` demands (or forbids) that windows look ahead.

        Raises ``ExpressionError`` in one sentence that names the word at fault and the nearest known one.
        """
        for part in _outside_where(expression):
            if isinstance(part, Aggregate):
                self._check_aggregate(part, forward)
            elif isinstance(part, Field):
                self._check_profile(part)
            elif isinstance(part, Probability) and part.task not in self.tasks:
                raise ExpressionError(
                    f"no task {part.task!r} to take p() of{nearest(part.task, self.tasks)}"
                )
        self._check_kinds(expression, self._is_text_outside)

    def _check_aggregate(self, aggregate: Aggregate, forward: bool | None) -> None:
        for name in aggregate.types:
            if name not in self.types:
                raise ExpressionError(
                    f"no event type {name!r} in the log{nearest(name, self.types)}"
                )
        looks_ahead = aggregate.window.forward or aggregate.function in FORWARD_ONLY
        if forward is True and not looks_ahead:
            raise ExpressionError(
                f"{aggregate} looks back, but a target looks ahead; write 'next' and a length, for example next 30d"
            )
        if forward is False and looks_ahead:
            raise ExpressionError(
                f"{aggregate} looks past the cutoff, which a feature or population may not; write 'last' instead of 'next'"
            )
        if aggregate.field is not None:
            column = self.event_column(tuple(aggregate.field.split(".")))
            if aggregate.function in ("sum", "mean", "min", "max", "std") and self.is_text(column):
                raise ExpressionError(
                    f"{aggregate.function}() needs a number, but {aggregate.field!r} is text; use distinct({aggregate.field}) or count()"
                )
        if aggregate.where is not None:
            for part in aggregate.where.parts():
                if isinstance(part, Aggregate):
                    raise ExpressionError(
                        f"where may not hold another aggregate ({part}); combine aggregates with 'and' outside"
                    )
                if isinstance(part, Probability):
                    raise ExpressionError(
                        f"where may not hold {part}, which is about the user; combine it with 'and' outside"
                    )
                if isinstance(part, Field):
                    self.event_column(part.path)
            self._check_kinds(aggregate.where, self._is_text_inside)

    def _is_text_inside(self, leaf: Expression) -> bool:
        return isinstance(leaf, Field) and self.is_text(self.event_column(leaf.path))

    def _is_text_outside(self, leaf: Expression) -> bool:
        if isinstance(leaf, Aggregate):
            return (
                leaf.function in PICKS
                and leaf.field is not None
                and self.is_text(self.event_column(tuple(leaf.field.split("."))))
            )
        return (
            isinstance(leaf, Field)
            and leaf.path[0] == "profile"
            and self.users[".".join(leaf.path[1:])] == "text"
        )

    def _check_kinds(self, e: Expression, leaf_is_text: Callable[[Expression], bool]) -> bool:
        """Return whether an expression is text; refuse operators whose operands do not fit."""

        def text(inner: Expression) -> bool:
            return self._check_kinds(inner, leaf_is_text)

        match e:
            case Literal_():
                return isinstance(e.value, str)
            case Compare():
                one, other = text(e.left), text(e.right)
                if one != other:
                    raise ExpressionError(
                        f"{e} compares text with a number; put text in single quotes, numbers in none"
                    )
                if one and e.op not in ("=", "!="):
                    raise ExpressionError(f"{e} orders text; only = and != (and in) compare text")
            case In():
                kind = text(e.left)
                if any(isinstance(option.value, str) != kind for option in e.options):
                    raise ExpressionError(
                        f"{e} compares text with a number; put text in single quotes, numbers in none"
                    )
            case Says():
                if not text(e.left):
                    raise ExpressionError(f"{e} reads words, but {e.left} is no text")
            case Arithmetic():
                if text(e.left) | text(e.right):
                    raise ExpressionError(
                        f"{e} calculates with text; only numbers can be added or multiplied"
                    )
            case And() | Or():
                for term in e.terms:
                    text(term)
            case Not():
                text(e.inner)
            case IsMissing():
                text(e.left)
            case _:
                return leaf_is_text(e)
        return False

    def _check_profile(self, part: Field) -> None:
        if part.path[0] == "profile" and len(part.path) > 1:
            name = ".".join(part.path[1:])
            if name in self.users:
                return
            raise ExpressionError(f"no user attribute {name!r}{nearest(name, self.users)}")
        if part.path[0] == "calendar" and part.path[1:] in {(name,) for name in CALENDAR}:
            return
        raise ExpressionError(
            f"{part} means nothing here; write an aggregate such as any(purchase) last 30d, or profile.{part.path[-1]}"
        )

    def columns_for(self, expressions: tuple[Expression, ...] | list[Expression]) -> list[str]:
        """Return the event columns the expressions read, beyond time, type and item."""
        wanted: dict[str, None] = {}
        for expression in expressions:
            for part in expression.parts():
                if isinstance(part, Aggregate) and part.field is not None:
                    wanted[self.event_column(tuple(part.field.split(".")))] = None
                if isinstance(part, Aggregate) and part.where is not None:
                    for inner in part.where.parts():
                        if isinstance(inner, Field):
                            wanted[self.event_column(inner.path)] = None
        return [name for name in wanted if name in self.numbers or name in self.texts]


def _outside_where(expression: Expression) -> Iterator[Expression]:
    """Yield the parts of an expression, without those inside a ``where``."""
    yield expression
    if not isinstance(expression, Aggregate):
        for inner in expression.operands():
            yield from _outside_where(inner)


def attribute_columns(table: pa.Table, key: str, ids: tuple[str, ...]) -> dict[str, Attribute]:
    """Return a table's attributes as arrays in the order of ``ids``: float64 with NaN, or coded text."""
    at = pc.index_in(pa.array(ids, pa.string()), value_set=table[key].combine_chunks())
    rows = np.asarray(pc.fill_null(at, -1))
    found: dict[str, Attribute] = {}
    for name in table.column_names:
        if name == key:
            continue
        values = table[name].combine_chunks()
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            coded = values.dictionary_encode()
            codes = np.append(np.asarray(pc.fill_null(coded.indices, -1)), -1).astype(np.int32)
            found[name] = Column(codes[rows], tuple(coded.dictionary.to_pylist()))
        else:
            numbers = np.append(np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan)), np.nan)
            found[name] = numbers[rows]
    return found
