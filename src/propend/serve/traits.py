"""What is known of users themselves: the store's attributes, with those on top that came with events not yet moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from propend.events.people import Link, resolve
from propend.events.timelines import Column
from propend.features.evaluate import Values
from propend.features.schema import attribute_columns
from propend.names import USER
from propend.serve.move import Arrived

__all__ = ["Traits", "own_first"]

_MISSING = Column(np.array([-1], np.int32), ())


class Traits:
    """Attributes of users, by the rules of the store: what events repeat most replaces what was known before, and a person's
    own values come before those of the ids that were linked to them, the earliest first.

    ``declared`` names what events may tell of their user (``live.traits``).
    """

    def __init__(self, declared: Sequence[str] = ()) -> None:
        self.declared = tuple(declared)
        self.table: pa.Table | None = None
        self._rows: dict[str, int] = {}
        self._columns: dict[str, Values] = {}

    def load(self, table: pa.Table | None) -> None:
        """Take the store's table of users."""
        self.table = table
        ids = () if table is None else tuple(table[USER].to_pylist())
        self._rows = {user: i for i, user in enumerate(ids)}
        self._columns = {} if table is None else attribute_columns(table, USER, ids)

    @property
    def kinds(self) -> dict[str, str]:
        """``text`` or ``number`` of every attribute that may be asked for."""
        known = {n: "text" if isinstance(v, Column) else "number" for n, v in self._columns.items()}
        return {**dict.fromkeys(self.declared, "text"), **known}

    def of(self, ids: Sequence[str], waiting: Mapping[str, Sequence[Arrived]]) -> dict[str, Values]:
        """Return a person's attributes as columns of one row, missing ones too; ``ids`` are theirs, own first."""
        told = [_told(waiting.get(i, ()), self.declared) for i in ids]
        rows = [self._rows.get(i, -1) for i in ids]
        found: dict[str, Values] = {}
        for name in dict.fromkeys((*self._columns, *self.declared)):
            column = self._columns.get(name)
            if column is None or isinstance(column, Column):
                text = _first(
                    said[name] if name in said else _text(column, row)
                    for said, row in zip(told, rows, strict=True)
                )
                found[name] = _MISSING if text is None else Column(np.zeros(1, np.int32), (text,))
            else:
                number = _first(
                    _number(said[name]) if name in said else _there(column, row)
                    for said, row in zip(told, rows, strict=True)
                )
                found[name] = np.array([np.nan if number is None else number])
        return found


def own_first(ids: Sequence[str], facts: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    """Return the ids of a person in the order in which their attributes count.

    >>> fact = {"number": 1, "time": 5, "one": "a", "other": "u", "undone": None}
    >>> own_first(["a", "u"], [fact], 9)
    ['u', 'a']
    """
    links = {
        f["number"]: Link(f["time"], f["one"], f["other"])
        for f in facts
        if f["time"] <= at and (f["undone"] is None or f["undone"] > at)
    }
    since = resolve(sorted(links[n] for n in sorted(links)))
    return sorted(ids, key=lambda i: since.get(i, ("", -1))[1])


def _told(events: Sequence[Arrived], names: Sequence[str]) -> dict[str, str]:
    """Return what events repeat most of each attribute; ties go to the smaller text."""
    if not events or not names:
        return {}
    found = {}
    for name in names:
        counts: Counter[str] = Counter()
        for arrived in events:
            value = arrived.event.traits.get(name)
            if value is not None and not isinstance(value, dict | list):
                counts[str(value)[:1_000].strip()] += 1
        counts.pop("", None)
        if counts:
            found[name] = min(counts, key=lambda text: (-counts[text], text))
    return found


def _first(values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _text(column: Column | None, row: int) -> str | None:
    if column is None or row < 0 or column.codes[row] < 0:
        return None
    return column.values[column.codes[row]]


def _there(column: Any, row: int) -> float | None:
    return None if row < 0 or np.isnan(column[row]) else float(column[row])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
