"""Measures over time: an aggregate of each period's events, a ratio of two of them, or an expression of its users.

What a bucket gives is a part: arrays by period and group that add, so that the same measure serves the whole log and the
events that came since. Values that must be told apart (distinct, median, quantile) are kept as counted values.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.analytics.kept import Part
from propend.analytics.steps import Step, columns_for, masks
from propend.errors import ExpressionError
from propend.events.hashing import hash_column
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Aggregate, Expression
from propend.expression.parse import parse
from propend.features.evaluate import Rows, Values, evaluate, event_column
from propend.features.schema import Schema
from propend.names import MICROSECONDS

__all__ = ["Cells", "Measure"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Profile = Callable[[Timelines], Mapping[str, Values]]

_COUNTED: Final = ("distinct", "median", "quantile")
_POOLED: Final = ("count", "sum", "mean", "min", "max", "std", "distinct")
_EXAMPLES: Final = (
    "users(purchase), count(view), sum(purchase.value), median(purchase.value), quantile(purchase.value, 0.9), "
    "distinct(purchase.item), users(purchase) / users(*), or an expression of users such as any(purchase) last 30d"
)


@dataclass(frozen=True)
class Cells:
    """Where events fall: the period [n] and the group [n] (−1: none) of each; answers are [periods, groups + 1], all last."""

    timelines: Timelines
    bounds: I64
    group: npt.NDArray[np.integer[Any]]
    groups: int
    schema: Schema
    profile: Profile

    @property
    def shape(self) -> tuple[int, int]:
        """Periods, and groups with everyone."""
        return len(self.bounds) - 1, self.groups + 1

    @property
    def period(self) -> I64:
        """The period of each event, int64 [n]."""
        return np.searchsorted(self.bounds[1:-1], self.timelines.time, side="right")

    def of(self, rows: I64) -> tuple[I64, I64]:
        """Return cells of events, each once in its group and once in all, and the events they are of."""
        period, group = self.period[rows], np.asarray(self.group)[rows].astype(np.int64)
        grouped = group >= 0
        wide = self.groups + 1
        cells = [period[grouped] * wide + group[grouped], period * wide + self.groups]
        return np.concatenate(cells), np.concatenate([rows[grouped], rows])


@nb.njit(cache=True, nogil=True)
def count_cells(
    offsets: Any,
    time: Any,
    mask: Any,
    group: Any,
    value: Any,
    bounds: Any,
    users: Any,
    counts: Any,
    totals: Any,
) -> None:
    """Add users, events and totals (micro-units) [p, g + 1]; the last column is everyone."""
    groups = users.shape[1]
    valued = len(value) > 0
    seen = np.empty(groups, np.int64)
    for u in range(len(offsets) - 1):
        seen[:] = -1
        p = 0
        for i in range(offsets[u], offsets[u + 1]):
            if mask[i] == 0 or (valued and np.isnan(value[i])):
                continue
            while p + 2 < len(bounds) and time[i] >= bounds[p + 1]:
                p += 1
            g = np.int64(group[i])
            micro = np.int64(np.rint(value[i] * 1e6)) if valued else np.int64(0)
            for c in (g, groups - 1):
                if c < 0:
                    continue
                counts[p, c] += 1
                totals[p, c] += micro
                if seen[c] != p:
                    users[p, c] += 1
                    seen[c] = p


@dataclass(frozen=True)
class Measure:
    """What is measured: ``function`` over the events of ``select``, a ratio (``top`` / ``over``), or ``asked`` of each user.

    >>> Measure.parse("sum(purchase.value)").function
    'sum'
    >>> Measure.parse("users(purchase) / users(*)").over.function
    'users'
    >>> Measure.parse("quantile(purchase.value, 0.9)").share
    0.9
    >>> Measure.parse("any(purchase) last 30d").function
    'per user'
    """

    function: str
    select: Aggregate | None = None
    field: str | None = None
    share: float = 0.5
    top: Measure | None = None
    over: Measure | None = None
    asked: Expression | None = None

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read a measure; raises ``ExpressionError`` that says what may stand there."""
        bare = text.strip()
        found = cls._pooled(bare)
        if found is not None:
            return found
        sides = re.split(r"\s*/\s*(?![^()]*\))", bare)
        if len(sides) == 2:
            top, over = map(cls._pooled, sides)
            if top is not None and over is not None:
                return cls("ratio", top=top, over=over)
        try:
            return cls("per user", asked=parse(bare))
        except ExpressionError as error:
            raise ExpressionError(
                f"{text!r} is no measure over time ({error}); write {_EXAMPLES}"
            ) from None

    @classmethod
    def _pooled(cls, text: str) -> Measure | None:
        """Return an aggregate over the events of a period, or ``None`` where the text is none."""
        share = 0.5
        named = re.fullmatch(r"(users|median|quantile)\((.*)\)", text, re.DOTALL)
        if named is None:
            function, inner = "", text
        else:
            function, inner = named.groups()
            cut = re.fullmatch(r"(.*),\s*(0?\.\d+)\s*", inner, re.DOTALL)
            if (cut is not None) != (function == "quantile"):
                if function == "quantile":
                    raise ExpressionError(
                        f"{text!r} says no quantile between 0 and 1; write for example quantile(purchase.value, 0.9)"
                    )
                return None
            if cut is not None:
                inner, share = cut.group(1), float(cut.group(2))
        if function == "users":
            return cls("users", Step.single(inner).select) if _balanced(inner) else None
        try:
            found = parse(f"mean({inner})" if function else inner)
        except ExpressionError:
            if function and _balanced(inner):
                raise
            return None
        if (
            not isinstance(found, Aggregate)
            or found.function not in _POOLED
            or found.window.length is not None
        ):
            return None
        select = Aggregate("any", found.types, None, found.where)
        return cls(function or found.function, select, found.field, share)

    def check(self, schema: Schema) -> None:
        """Check every name against the log."""
        for side in (self.top, self.over):
            if side is not None:
                side.check(schema)
        if self.asked is not None:
            schema.check(self.asked, forward=False)
        if self.select is not None:
            schema.check(self.select)
        if self.field is not None and self.function != "distinct":
            column = schema.event_column(tuple(self.field.split(".")))
            if schema.is_text(column):
                raise ExpressionError(
                    f"{self.function}() needs a number, but {self.field!r} is text; use distinct({self.field})"
                )

    def columns(self, schema: Schema) -> list[str]:
        """Return the event columns the measure reads."""
        found: list[str] = []
        for side in (self.top, self.over):
            found += [] if side is None else side.columns(schema)
        aggregates = [self.select] if self.select is not None else []
        if self.asked is not None:
            aggregates += self.asked.aggregates()
        for aggregate in aggregates:
            field = self.field if aggregate is self.select else aggregate.field
            found += columns_for(schema, [aggregate])
            if field is not None:
                column = schema.event_column(tuple(field.split(".")))
                found.append("item" if column.startswith("item") else column)
        known = ("item", *schema.numbers, *schema.texts)
        return [c for c in dict.fromkeys(found) if c in known]

    def reads(self) -> tuple[list[Expression], list[str]]:
        """Return the selections and the event fields that the measure reads."""
        selections: list[Expression] = [e for e in (self.select, self.asked) if e is not None]
        fields = [] if self.field is None else [self.field]
        for side in (self.top, self.over):
            if side is not None:
                more, names = side.reads()
                selections, fields = selections + more, fields + names
        return selections, fields

    @property
    def sums(self) -> bool:
        """Whether the measure of all is the sum of the measures of groups that share no event."""
        return self.function in ("count", "sum")

    # ---- a bucket's part

    def part(self, cells: Cells) -> Part:
        """Return what a bucket gives."""
        if self.function == "ratio":
            assert self.top is not None
            assert self.over is not None
            sides = {"top": self.top.part(cells), "over": self.over.part(cells)}
            return {f"{s}.{k}": v for s, part in sides.items() for k, v in part.items()}
        if self.asked is not None:
            return self._per_user(self.asked, cells)
        assert self.select is not None
        t = cells.timelines
        mask = masks(cells.schema, t, [self.select])
        if self.function in ("users", "count", "sum", "mean"):
            found = np.zeros((3, *cells.shape), np.int64)
            value = np.zeros(0) if self.field is None else self._numbers(cells)
            count_cells(t.offsets, t.time, mask, cells.group, value, cells.bounds, *found)
            return dict(zip(("users", "counts", "totals"), found, strict=True))
        if self.function == "distinct":
            at, rows = cells.of(np.flatnonzero(mask))
            keys = self._keys(cells)
            there = keys[1][rows]
            return _counted(at[there], keys[0][rows][there], np.ones(int(there.sum()), np.int64))
        value = self._numbers(cells)
        at, rows = cells.of(np.flatnonzero((mask != 0) & ~np.isnan(value)))
        if self.function in _COUNTED:
            return _counted(at, value[rows].view(np.int64), np.ones(len(rows), np.int64))
        return _moments(at, value[rows], cells.shape)

    def _numbers(self, cells: Cells) -> F64:
        assert self.field is not None
        column = cells.schema.event_column(tuple(self.field.split(".")))
        values = event_column(column, cells.timelines, cells.schema)
        assert not isinstance(values, Column)
        return np.ascontiguousarray(values + 0.0)  # −0 is 0

    def _keys(self, cells: Cells) -> tuple[I64, npt.NDArray[np.bool_]]:
        """Return a number for each distinct value (texts: a 64-bit hash) [n], and where there is one."""
        assert self.field is not None
        column = cells.schema.event_column(tuple(self.field.split(".")))
        values = event_column(column, cells.timelines, cells.schema)
        if not isinstance(values, Column):
            return np.ascontiguousarray(values + 0.0).view(np.int64), ~np.isnan(values)
        hashed = np.append(hash_column(pa.array(values.values, pa.string())).view(np.int64), 0)
        return hashed[values.codes], values.codes >= 0

    def _per_user(self, asked: Expression, cells: Cells) -> Part:
        """Return sums and users [p, g + 1]: each user who was active in a period (and group), as of its end."""
        t, (periods, wide) = cells.timelines, cells.shape
        user = t.user_of_row
        pairs, pair_of = np.unique(user * periods + cells.period, return_inverse=True)
        rows = Rows(pairs // periods, cells.bounds[1:][pairs % periods])
        value = evaluate([asked], t, rows, cells.schema, profile=cells.profile(t))[0]
        if isinstance(value, Column):
            raise ExpressionError(f"{asked} is a text; a measure is a number or a condition")
        group = np.asarray(cells.group).astype(np.int64)
        inside = np.flatnonzero(group >= 0)
        both = np.unique(pair_of[inside] * wide + group[inside])
        pair = np.concatenate([both // wide, np.arange(len(pairs))])
        at = (pairs[pair] % periods) * wide + np.concatenate(
            [both % wide, np.full(len(pairs), wide - 1)]
        )
        known = ~np.isnan(value[pair])
        sums = np.bincount(at[known], value[pair][known], periods * wide)
        counts = np.bincount(at[known], minlength=periods * wide)
        return {"sums": sums.reshape(periods, wide), "counts": counts.reshape(periods, wide)}

    # ---- parts together

    def add(self, a: Part, b: Part) -> Part:
        """Return the sum of two parts; one may know fewer periods."""
        if self.function == "ratio":
            assert self.top is not None
            assert self.over is not None
            found: Part = {}
            for name, side in (("top", self.top), ("over", self.over)):
                added = side.add(side_of(a, name), side_of(b, name))
                found |= {f"{name}.{k}": v for k, v in added.items()}
            return found
        if self.function in _COUNTED:
            return _counted(*(np.concatenate([a[n], b[n]]) for n in ("cells", "values", "counts")))
        periods = max(len(a["counts"]), len(b["counts"]))
        a, b = ({k: _longer(v, periods, k) for k, v in x.items()} for x in (a, b))
        if self.function in ("min", "max", "std"):
            return _moments_added(a, b)
        return {name: a[name] + b[name] for name in a}

    def values(self, part: Part, shape: tuple[int, int]) -> F64:
        """Return the measure [p, g + 1]; NaN where there is none."""
        if self.function == "ratio":
            assert self.top is not None
            assert self.over is not None
            top = self.top.values(side_of(part, "top"), shape)
            return _divided(top, self.over.values(side_of(part, "over"), shape))
        if self.function in _COUNTED:
            return self._of_counted(part, shape)
        part = {k: _longer(v, shape[0], k) for k, v in part.items()}
        if self.function in ("users", "count"):
            return part["users" if self.function == "users" else "counts"].astype(np.float64)
        if self.function == "sum":
            return part["totals"] / MICROSECONDS
        if self.function == "mean":
            return _divided(part["totals"] / MICROSECONDS, part["counts"])
        if self.asked is not None:
            return _divided(part["sums"], part["counts"])
        if self.function == "std":
            return np.sqrt(_divided(part["squares"], part["counts"]))
        return part[self.function]

    def _of_counted(self, part: Part, shape: tuple[int, int]) -> F64:
        size = shape[0] * shape[1]
        if self.function == "distinct":
            return np.bincount(part["cells"], minlength=size).astype(np.float64).reshape(shape)
        found = np.full(size, np.nan)
        value = part["values"].view(np.float64)
        order = np.lexsort((value, part["cells"]))
        cells, value, counts = part["cells"][order], value[order], part["counts"][order]
        edges = np.flatnonzero(np.append(True, cells[1:] != cells[:-1]))[: len(cells)].tolist()
        for low, high in itertools.pairwise([*edges, len(cells)]):
            upto = np.cumsum(counts[low:high])
            place = self.share * (upto[-1] - 1)
            below, above = np.searchsorted(upto, [int(place), int(np.ceil(place))], side="right")
            step = value[low + above] - value[low + below]
            found[cells[low]] = value[low + below] + (place - int(place)) * step
        return found.reshape(shape)


def _balanced(text: str) -> bool:
    """Whether no bracket closes that was not opened: ``a) / count(b`` is two measures."""
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return False
    return depth == 0


def side_of(part: Part, name: str) -> Part:
    """Return one side of a ratio's part."""
    return {k.removeprefix(f"{name}."): v for k, v in part.items() if k.startswith(f"{name}.")}


def _divided(a: Any, b: Any) -> F64:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _longer(values: Any, periods: int, name: str) -> Any:
    """Return values [p, g] with further periods: nothing in them."""
    if len(values) == periods:
        return values
    empty = np.nan if name in ("min", "max") else 0
    return np.pad(values, ((0, periods - len(values)), (0, 0)), constant_values=empty)


def _counted(cells: I64, values: I64, counts: I64) -> Part:
    """Return distinct pairs of cell and value with how often each occurs, sorted."""
    order = np.lexsort((values, cells))
    cells, values, counts = cells[order], values[order], counts[order]
    if not len(cells):
        return {"cells": cells, "values": values, "counts": counts}
    new = np.append(True, (cells[1:] != cells[:-1]) | (values[1:] != values[:-1]))
    starts = np.flatnonzero(new)
    return {
        "cells": cells[starts],
        "values": values[starts],
        "counts": np.add.reduceat(counts, starts),
    }


def _moments(cells: I64, values: F64, shape: tuple[int, int]) -> Part:
    """Return count, mean, sum of squared deviations, least and greatest of each cell."""
    size = shape[0] * shape[1]
    counts = np.bincount(cells, minlength=size)
    mean = _divided(np.bincount(cells, values, size), counts)
    squares = np.bincount(cells, (values - mean[cells]) ** 2, size)
    least, most = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(least, cells, values)
    np.maximum.at(most, cells, values)
    found = {
        "counts": counts,
        "mean": np.nan_to_num(mean),
        "squares": squares,
        "min": np.where(counts > 0, least, np.nan),
        "max": np.where(counts > 0, most, np.nan),
    }
    return {name: value.reshape(shape) for name, value in found.items()}


def _moments_added(a: Part, b: Part) -> Part:
    """Return the moments of both together (Chan, Golub and LeVeque 1979)."""
    counts = a["counts"] + b["counts"]
    weight = np.nan_to_num(_divided(b["counts"] * 1.0, counts))
    gap = b["mean"] - a["mean"]
    return {
        "counts": counts,
        "mean": a["mean"] + gap * weight,
        "squares": a["squares"] + b["squares"] + gap**2 * a["counts"] * weight,
        "min": np.fmin(a["min"], b["min"]),
        "max": np.fmax(a["max"], b["max"]),
    }
