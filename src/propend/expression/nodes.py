"""The frozen values of the language: each prints back as text, compares, hashes and can be parsed again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Final, Literal

from propend.errors import ExpressionError, nearest
from propend.expression.duration import Duration
from propend.expression.terms import spelled

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "And",
    "Arithmetic",
    "Compare",
    "Expression",
    "Field",
    "In",
    "IsMissing",
    "Literal_",
    "Not",
    "Or",
    "Probability",
    "Says",
    "Window",
    "lift",
]

AGGREGATES: Final[dict[str, str]] = {
    "any": "1 if the window holds such an event, else 0",
    "none": "1 if the window holds no such event, else 0",
    "count": "number of events, or of non-missing values of a field",
    "sum": "sum of a field (missing values count nothing)",
    "mean": "mean of a field's non-missing values",
    "min": "smallest value of a field",
    "max": "largest value of a field",
    "std": "standard deviation of a field (population)",
    "first": "earliest non-missing value of a field",
    "last": "latest non-missing value of a field",
    "second_last": "the non-missing value of a field before its latest",
    "third_last": "the non-missing value of a field two before its latest",
    "next": "first non-missing value of a field in the window (read forwards)",
    "distinct": "number of different values of a field",
    "days_since": "days from the latest such event to the cutoff",
    "days_since_first": "days from the earliest such event in the window to the cutoff",
    "days_until": "days from the cutoff to the first such event (read forwards)",
    "mean_gap": "mean days between consecutive events",
    "std_gap": "standard deviation of the days between consecutive events",
    "active_days": "number of calendar days, in the workspace's zone, with such an event",
    "trend": "(events in the window's later half − in its earlier half) / all; between −1 and 1",
}
"""Every aggregate of the language with its meaning."""

NEEDS_FIELD: Final = frozenset(
    {
        "sum",
        "mean",
        "min",
        "max",
        "std",
        "first",
        "last",
        "second_last",
        "third_last",
        "next",
        "distinct",
    }
)
PICKS: Final = frozenset({"first", "last", "second_last", "third_last", "next"})
"""Aggregates that pick one event's value, which may be a text."""
FORWARD_ONLY: Final = frozenset({"next", "days_until"})
BACKWARD_ONLY: Final = frozenset({"days_since", "days_since_first", "trend"})

_NAME: Final = re.compile(r"[^\W\d]\w*")
KEYWORDS: Final = frozenset(
    {
        "and",
        "or",
        "not",
        "in",
        "is",
        "missing",
        "where",
        "for",
        "last",
        "next",
        "ever",
        "true",
        "false",
    }
)


def _name(text: str) -> str:
    """Print a name, in double quotes where it is not a plain word."""
    if _NAME.fullmatch(text) and text not in KEYWORDS:
        return text
    return '"' + text.replace('"', '""') + '"'


class Expression:
    """A question with one answer per (user, cutoff). Combine with ``& | ~`` and compare with ``> >= < <=`` or ``equals``."""

    __slots__ = ()
    binding: int = 9
    """How tightly the outermost operator binds (or 1, and 2, not 3, compare 4, + 5, * 6, atoms 9)."""

    def __and__(self, other: Expression) -> And:
        return And((self, other))

    def __or__(self, other: Expression) -> Or:
        return Or((self, other))

    def __invert__(self) -> Not:
        return Not(self)

    def __bool__(self) -> bool:
        """Refuse: ``a and b``, ``not a`` and ``1 < a < 3`` of Python would drop half of the question in silence."""
        raise ExpressionError(
            f"{self} has no truth value until it is asked of users; combine expressions with & | ~ and brackets"
        )

    def __gt__(self, other: object) -> Compare:
        return Compare(">", self, lift(other))

    def __ge__(self, other: object) -> Compare:
        return Compare(">=", self, lift(other))

    def __lt__(self, other: object) -> Compare:
        return Compare("<", self, lift(other))

    def __le__(self, other: object) -> Compare:
        return Compare("<=", self, lift(other))

    def __add__(self, other: object) -> Arithmetic:
        return Arithmetic("+", self, lift(other))

    def __sub__(self, other: object) -> Arithmetic:
        return Arithmetic("-", self, lift(other))

    def __mul__(self, other: object) -> Arithmetic:
        return Arithmetic("*", self, lift(other))

    def __truediv__(self, other: object) -> Arithmetic:
        return Arithmetic("/", self, lift(other))

    def __radd__(self, other: object) -> Arithmetic:
        return Arithmetic("+", lift(other), self)

    def __rsub__(self, other: object) -> Arithmetic:
        return Arithmetic("-", lift(other), self)

    def __rmul__(self, other: object) -> Arithmetic:
        return Arithmetic("*", lift(other), self)

    def __rtruediv__(self, other: object) -> Arithmetic:
        return Arithmetic("/", lift(other), self)

    def equals(self, other: object) -> Compare:
        """Return the comparison ``self = other`` (``==`` itself compares the two expressions as values)."""
        return Compare("=", self, lift(other))

    def differs(self, other: object) -> Compare:
        """Return the comparison ``self != other``."""
        return Compare("!=", self, lift(other))

    def is_in(self, options: Iterable[str | int | float | bool]) -> In:
        """Return ``self in (…)``."""
        return In(self, tuple(Literal_(option) for option in options))

    def says(self, phrase: str) -> Says:
        """Return ``self says 'phrase'``."""
        return Says(self, Literal_(phrase))

    def is_missing(self) -> IsMissing:
        """Return ``self is missing``."""
        return IsMissing(self)

    def parts(self) -> Iterator[Expression]:
        """Yield this expression and every expression inside it, outermost first."""
        yield self
        for inner in self.operands():
            yield from inner.parts()

    def operands(self) -> Iterator[Expression]:
        """Yield the expressions directly inside this one."""
        for slot in fields(self):  # type: ignore[arg-type]
            value = getattr(self, slot.name)
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Expression):
                    yield inner

    def aggregates(self) -> tuple[Aggregate, ...]:
        """Return the aggregates inside, in order of appearance, without repeats."""
        return tuple(dict.fromkeys(part for part in self.parts() if isinstance(part, Aggregate)))

    def _inside(self, inner: Expression, binding: int) -> str:
        return str(inner) if inner.binding >= binding else f"({inner})"


def lift(value: object) -> Expression:
    """Return ``value`` as an expression: itself, or a literal."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, str | bool):
        return Literal_(value)
    if isinstance(value, Integral):
        return Literal_(int(value))
    if isinstance(value, Real):
        return Literal_(float(value))
    raise ExpressionError(
        f"{value!r} cannot stand in an expression; use a number, a text or an expression"
    )


@dataclass(frozen=True, slots=True)
class Window:
    """Which stretch of the timeline is read: ``last 30d``, ``next 30d`` or ``ever`` (all that is before the cutoff)."""

    direction: Literal["last", "next", "ever"] = "ever"
    length: Duration | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("last", "next", "ever") or (
            (self.direction == "ever") != (self.length is None)
        ):
            raise ExpressionError(
                "a window is 'ever', or 'last' or 'next' with a length such as 30d"
            )

    def __str__(self) -> str:
        return "" if self.length is None else f" {self.direction} {self.length}"

    @property
    def forward(self) -> bool:
        """Whether the window lies after the cutoff."""
        return self.direction == "next"


@dataclass(frozen=True, slots=True)
class Aggregate(Expression):
    """An aggregate of some events over a window, such as ``sum(purchase.value) last 30d``."""

    function: str
    types: tuple[str, ...] = ()
    """Event types that count; empty: every type (``*``)."""
    field: str | None = None
    where: Expression | None = None
    window: Window = Window()

    def __post_init__(self) -> None:
        if self.function not in AGGREGATES:
            raise ExpressionError(
                f"no aggregate {self.function!r}{nearest(self.function, AGGREGATES)}"
            )
        if self.field == "":
            raise ExpressionError("a field needs a name, for example purchase.value")
        if self.function in NEEDS_FIELD and self.field is None:
            of = self.types[0] if self.types else "*"
            raise ExpressionError(
                f"{self.function}() needs a field: write for example {self.function}({of}.value)"
            )
        if self.function in FORWARD_ONLY and self.window.direction == "last":
            raise ExpressionError(
                f"{self.function}() looks forward; write 'next {self.window.length}'"
            )
        if self.function in BACKWARD_ONLY and self.window.forward:
            raise ExpressionError(f"{self.function}() looks back; write 'last' instead of 'next'")

    def __str__(self) -> str:
        of = " | ".join(_name(t) for t in self.types) or "*"
        if self.field is not None:
            dotted = ".".join(_name(part) for part in self.field.split("."))
            if self.function == "next" and not self.types and "." not in self.field:
                of = dotted  # next(item): of whatever type
            elif len(self.types) > 1:
                of = f"({of}).{dotted}"
            else:
                of = f"{of}.{dotted}"
        where = f" where {self.where}" if self.where is not None else ""
        return f"{self.function}({of}{where}){self.window}"


@dataclass(frozen=True, slots=True)
class Field(Expression):
    """A named fact: inside ``where`` a field of the event or its item, outside ``profile.country`` and its like."""

    path: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.path:
            raise ExpressionError("a field needs a name, for example profile.country")

    def __str__(self) -> str:
        return ".".join(_name(part) for part in self.path)


@dataclass(frozen=True, slots=True)
class Literal_(Expression):  # noqa: N801 - Literal is the typing construct
    """A text, a number or a truth value."""

    value: str | int | float | bool

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            try:
                finite = math.isfinite(self.value)
            except OverflowError:
                finite = False
            if not finite:
                raise ExpressionError(
                    "a number must be finite and below 1e308; ask 'is missing' for missing values"
                )

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        return json.dumps(self.value)


@dataclass(frozen=True, slots=True)
class Probability(Expression):
    """The latest score of a named task: ``p(buy_30d)``."""

    task: str

    def __str__(self) -> str:
        return f"p({_name(self.task)})"


@dataclass(frozen=True, slots=True)
class Compare(Expression):
    """``left op right``; false where either side is missing."""

    op: Literal["=", "!=", "<", "<=", ">", ">="]
    left: Expression
    right: Expression
    binding = 4

    def __post_init__(self) -> None:
        if self.op not in ("=", "!=", "<", "<=", ">", ">="):
            raise ExpressionError(f"no comparison {self.op!r}; known: = != < <= > >=")

    def __str__(self) -> str:
        return f"{self._inside(self.left, 5)} {self.op} {self._inside(self.right, 5)}"


@dataclass(frozen=True, slots=True)
class In(Expression):
    """``left in ('a', 'b')``."""

    left: Expression
    options: tuple[Literal_, ...]
    binding = 4

    def __post_init__(self) -> None:
        if not self.options:
            raise ExpressionError("'in' needs at least one option, for example in ('a', 'b')")

    def __str__(self) -> str:
        return f"{self._inside(self.left, 5)} in ({', '.join(map(str, self.options))})"


@dataclass(frozen=True, slots=True)
class IsMissing(Expression):
    """``left is missing``."""

    left: Expression
    binding = 4

    def __str__(self) -> str:
        return f"{self._inside(self.left, 5)} is missing"


@dataclass(frozen=True, slots=True)
class Says(Expression):
    """``left says 'money back'``: a text holds these words in a row; false where it is missing."""

    left: Expression
    phrase: Literal_
    binding = 4

    def __post_init__(self) -> None:
        if not isinstance(self.phrase.value, str) or not spelled(self.phrase.value).strip():
            raise ExpressionError(
                f"'says' needs a word in single quotes, for example says 'refund', not {self.phrase}"
            )

    def __str__(self) -> str:
        return f"{self._inside(self.left, 5)} says {self.phrase}"


@dataclass(frozen=True, slots=True)
class Not(Expression):
    """``not inner``."""

    inner: Expression
    binding = 3

    def __str__(self) -> str:
        return f"not {self._inside(self.inner, 3)}"


@dataclass(frozen=True, slots=True)
class And(Expression):
    """All of the terms."""

    terms: tuple[Expression, ...]
    binding = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", _flatten(self.terms, And))

    def __str__(self) -> str:
        return " and ".join(self._inside(term, 3) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Or(Expression):
    """At least one of the terms."""

    terms: tuple[Expression, ...]
    binding = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", _flatten(self.terms, Or))

    def __str__(self) -> str:
        return " or ".join(self._inside(term, 2) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Arithmetic(Expression):
    """``left op right`` on numbers; missing where either side is missing or the divisor is 0."""

    op: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        if self.op not in ("+", "-", "*", "/"):
            raise ExpressionError(f"no operator {self.op!r}; known: + - * /")

    @property
    def binding(self) -> int:  # type: ignore[override]
        return 5 if self.op in "+-" else 6

    def __str__(self) -> str:
        return f"{self._inside(self.left, self.binding)} {self.op} {self._inside(self.right, self.binding + 1)}"


def _flatten(terms: tuple[Expression, ...], kind: type[And] | type[Or]) -> tuple[Expression, ...]:
    flat: list[Expression] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, kind) else (term,))
    if len(flat) < 2:
        raise ExpressionError(f"{kind.__name__}() joins two expressions or more, not {len(flat)}")
    return tuple(flat)
