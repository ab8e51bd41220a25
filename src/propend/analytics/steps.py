"""Steps of a funnel: which events count, how often, and whether the step may be left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import ExpressionError
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Compare, Expression, Literal_
from propend.expression.parse import parse
from propend.features.evaluate import event_mask
from propend.features.schema import Schema

__all__ = ["MOST_STEPS", "Step", "coded", "columns_for", "masks", "split_steps"]

MOST_STEPS: Final = 63
"""Most steps of one funnel, each repeat counted (a step is a bit of a machine word)."""

_BOUNDS: Final = re.compile(r"^(.*\S)\s*\[\s*(\w*)\s*\.\.\s*(\w*)\s*\]$", re.DOTALL)
_REPEAT: Final = re.compile(r"^(.*\S)\s+x\s*(\d+)$", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One step: events of any of ``select.types`` for which ``select.where`` holds, ``times`` in a row.

    >>> Step.parse("view | search where hour >= 18").label
    'view | search where hour >= 18'
    >>> Step.parse("view x 3").times, Step.parse("cart?").optional
    (3, True)
    >>> Step.parse("purchase [1h..2d]").most
    Duration(amount=2, unit='d')
    """

    select: Aggregate
    times: int = 1
    optional: bool = False
    least: Duration | None = None
    """Least time since the step before."""
    most: Duration | None = None
    """Most time since the step before."""

    @classmethod
    def parse(cls, step: str | Expression | Step) -> Step:
        """Read ``view``, ``view | search``, ``view where price > 9``, ``view x 3`` (three times) or ``cart?`` (optional).

        ``purchase [1h..2d]`` bounds the time since the step before (``[..2d]``, ``[1h..]``: one side only). An
        expression may be given too: ``any(view where …)``, or ``count(view) >= 3``. Raises ``ExpressionError``.
        """
        if isinstance(step, Step):
            return step
        if isinstance(step, Expression):
            return cls._of(step)
        text = step.strip()
        bounds = _BOUNDS.match(text)
        least, most = (
            (Duration.parse(b) if b else None for b in bounds.groups()[1:])
            if bounds
            else (None, None)
        )
        text = bounds.group(1) if bounds else text
        optional = text.endswith("?")
        text = text.removesuffix("?").rstrip()
        repeat = _REPEAT.match(text)
        times = int(repeat.group(2)) if repeat else 1
        text = repeat.group(1) if repeat else text
        if not text:
            raise ExpressionError("a step is empty; write an event type, for example: view")
        if re.match(r"(any|count)\(", text):
            return replace(cls._of(parse(text)), optional=optional, least=least, most=most)
        try:
            found = parse(f"any({text})")
        except ExpressionError:
            quoted = re.fullmatch(r"[\w \-./:]+", text) and " where " not in text
            if not quoted:
                raise
            found = Aggregate("any", (text,))
        step_of = cls._of(found)
        if times < 1:
            raise ExpressionError(f"step {step!r} must be repeated at least once")
        return cls(step_of.select, max(times, step_of.times), optional, least, most)

    @classmethod
    def _of(cls, e: Expression) -> Step:
        if isinstance(e, Aggregate) and e.function in ("any", "count") and e.field is None:
            if e.window.length is None:
                return cls(Aggregate("any", e.types, None, e.where))
            raise ExpressionError(f"a step has no window of its own ({e}); use within= instead")
        if (
            isinstance(e, Compare)
            and e.op == ">="
            and isinstance(e.left, Aggregate)
            and e.left.function == "count"
            and isinstance(e.right, Literal_)
            and isinstance(e.right.value, int)
        ):
            return cls(cls._of(e.left).select, e.right.value)
        raise ExpressionError(
            f"{e} is no step; a step is events of one user, for example: view where category = 'shoes'"
        )

    @classmethod
    def single(cls, event: str | Expression | Step) -> Step:
        """Read what counts one event at a time: no repeats, no ``?``, no bounds, which only mean something in a funnel.

        Raises ``ExpressionError``.

        >>> Step.single("view where price > 9").label
        'view where price > 9'
        """
        found = cls.parse(event)
        if found.times > 1 or found.optional or found.least or found.most:
            raise ExpressionError(
                f"{str(event)!r} is a step of a funnel, but here each event counts by itself; "
                f"write {cls(found.select).label} without a repeat, '?' or bounds (a funnel has steps that repeat)"
            )
        return found

    @property
    def label(self) -> str:
        """The step as text."""
        bare = str(self.select).removeprefix("any(").removesuffix(")")
        return (
            bare + (f" x {self.times}" if self.times > 1 else "") + ("?" if self.optional else "")
        )

    def check(self, schema: Schema) -> None:
        """Check every name; raises ``ExpressionError`` naming the nearest one."""
        schema.check(self.select)


def split_steps(text: str) -> list[str]:
    """Split ``a,b where x in ('p', 'q'),c`` at the commas outside of brackets and quotes.

    >>> split_steps("view, cart where size in ('s', 'm'), purchase")
    ['view', "cart where size in ('s', 'm')", 'purchase']
    """
    found, depth, quote, start = [], 0, "", 0
    for at, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def columns_for(schema: Schema, selections: Sequence[Aggregate]) -> list[str]:
    """Return the event columns that selections read (``item`` where one asks for the item or its attributes)."""
    wanted = schema.columns_for(list(selections))
    if any(_reads_item(schema, s) for s in selections):
        wanted.append("item")
    return wanted


def _reads_item(schema: Schema, select: Aggregate) -> bool:
    from propend.expression.nodes import Field

    if select.where is None:
        return False
    fields = [p for p in select.where.parts() if isinstance(p, Field)]
    return any(schema.event_column(f.path).split(".")[0] == "item" for f in fields)


def lookup(schema: Schema, selections: Sequence[Aggregate]) -> npt.NDArray[np.int64] | None:
    """Return a table type code → bits of the selections it satisfies, or ``None`` where one has a filter."""
    if any(s.where is not None for s in selections):
        return None
    table = np.zeros(max(len(schema.types), 1), np.int64)
    for bit, select in enumerate(selections):
        for code, name in enumerate(schema.types):
            if not select.types or name in select.types:
                table[code] |= np.int64(1) << np.int64(bit)
    return table


def masks(
    schema: Schema, timelines: Timelines, selections: Sequence[Aggregate]
) -> npt.NDArray[np.int64]:
    """Return per event the bits of the selections it satisfies, int64 [n]."""
    table = lookup(schema, selections)
    if table is not None:
        return table[timelines.type]
    bits = np.zeros(len(timelines), np.int64)
    for bit, select in enumerate(selections):
        bits |= event_mask(select, timelines, schema).astype(np.int64) << np.int64(bit)
    return bits


def coded(
    schema: Schema, timelines: Timelines, selections: Sequence[Aggregate]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return a table and codes into it: ``table[code[i]]`` are the bits of event ``i``.

    The codes are the event types themselves where no selection has a filter.
    """
    table = lookup(schema, selections)
    if table is not None:
        return table, timelines.type
    table, code = np.unique(masks(schema, timelines, selections), return_inverse=True)
    return table, code
