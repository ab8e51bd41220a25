"""Labels for breakdowns: of the user, of the event someone entered with, of the first or last touch, of the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from propend.analytics.periods import Unit, boundaries, iso
from propend.errors import ConfigError, ExpressionError, nearest
from propend.events.timelines import Column, Timelines
from propend.features.evaluate import Values, event_column
from propend.features.schema import Schema

__all__ = ["Labeller", "labeller", "merge_labels"]

I64 = npt.NDArray[np.int64]
Labeller = Callable[[Timelines, I64, I64], Column]
"""Takes timelines, user index [m] and entry row [m]; returns a label per entry."""

NONE: Final = "(none)"


def reads(schema: Schema, name: str) -> list[str]:
    """Return the event columns an event field needs."""
    column = schema.event_column(tuple(name.split(".")))
    if column.split(".")[0] == "item":
        return ["item"]
    return [column] if column in schema.numbers or column in schema.texts else []


def labeller(
    by: str, schema: Schema, profile: Callable[[Timelines], Mapping[str, Values]]
) -> tuple[list[str], Labeller]:
    """Return the columns to read and the function that labels entries.

    ``by`` is ``profile.NAME`` (an attribute of the user), an event field such as ``channel`` or ``item.category`` (of the
    entry event), ``first.FIELD`` or ``last.FIELD`` (the user's first or last known value up to the entry: first and last
    touch), ``day``, ``week`` or ``month`` (of the entry), or ``cohort.UNIT`` (of the user's first event).
    """
    head, _, tail = by.partition(".")
    units = get_args(Unit)
    if by in units or (head == "cohort" and tail in units):
        return [], _by_time(schema, tail or by, cohort=head == "cohort")
    if head == "profile":
        if tail not in schema.users:
            raise ConfigError(f"no user attribute {tail!r}{nearest(tail, schema.users)}")

        def of_user(t: Timelines, user: I64, row: I64) -> Column:
            del row
            return as_column(profile(t)[tail], user)

        return [], of_user
    name = tail if head in ("first", "last") and tail else by
    try:
        columns = reads(schema, name)
    except ExpressionError as error:
        known = ", ".join((*units, "cohort.month", "first.FIELD", "last.FIELD", "profile.FIELD"))
        raise ConfigError(
            f"cannot break down by {by!r}: {error}; besides fields: {known}"
        ) from None
    canonical = schema.event_column(tuple(name.split(".")))

    def of_event(t: Timelines, user: I64, row: I64) -> Column:
        values = event_column(canonical, t, schema)
        if head in ("first", "last") and tail:
            known = values.codes >= 0 if isinstance(values, Column) else ~np.isnan(values)
            row = touch(t.offsets, known, user, row, first=head == "first")
        found = as_column(values, np.maximum(row, 0))
        return Column(np.where(row < 0, -1, found.codes).astype(np.int32), found.values)

    return columns, of_event


def touch(offsets: I64, known: npt.NDArray[np.bool_], user: I64, row: I64, *, first: bool) -> I64:
    """Return the row of the user's first or last known value at or before ``row``; −1 where there is none."""
    at = np.arange(len(known))
    if first:
        following = np.where(known, at, len(known))
        following = np.minimum.accumulate(following[::-1])[::-1]
        found = np.append(following, len(known))[offsets[user]]
        return np.where(found <= row, found, -1)
    previous = np.maximum.accumulate(np.where(known, at, -1)) if len(known) else at
    found = previous[row]
    return np.where(found >= offsets[user], found, -1)


def as_column(values: Values, rows: I64) -> Column:
    """Return values at some rows as labels; numbers print as they are (12, not 12.0)."""
    if isinstance(values, Column):
        return values.take(rows)
    found, codes = np.unique(values[rows], return_inverse=True)
    names = tuple(f"{v:g}" for v in found)
    return Column(np.where(np.isnan(values[rows]), -1, codes).astype(np.int32), names)


def _by_time(schema: Schema, unit: str, *, cohort: bool) -> Labeller:
    bounds = boundaries(schema.first, schema.last, unit, schema.zone)
    names = tuple(iso(b, schema.zone) for b in bounds[:-1])

    def label(t: Timelines, user: I64, row: I64) -> Column:
        moment = t.time[t.offsets[user] if cohort else row]
        codes = np.searchsorted(bounds[:-1], moment, side="right") - 1
        return Column(codes.astype(np.int32), names)

    return label


def merge_labels(columns: Sequence[Column]) -> Column:
    """Return the labels of several parts as one column."""
    index: dict[str, int] = {}
    codes = []
    for column in columns:
        used = np.unique(column.codes[column.codes >= 0])
        mapping = np.full(len(column.values) + 1, -1, np.int32)
        for code in used:
            mapping[code] = index.setdefault(column.values[code], len(index))
        codes.append(mapping[column.codes])
    return Column(np.concatenate(codes) if codes else np.zeros(0, np.int32), tuple(index))
