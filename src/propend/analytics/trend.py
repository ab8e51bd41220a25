"""Trends: a measure over time, by any property, with what is odd, what changed, and which groups moved it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numba as nb
import numpy as np

from propend.analytics.nodes import nodes_of
from propend.analytics.people import profiles
from propend.analytics.periods import boundaries, check_unit, iso
from propend.analytics.scan import sweep
from propend.analytics.series import anomalies, changes, contribution, decompose
from propend.analytics.steps import Step, columns_for, masks
from propend.engine import Engine
from propend.errors import ConfigError, ExpressionError, nearest
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Aggregate
from propend.expression.parse import parse
from propend.features.evaluate import event_column
from propend.features.schema import Schema
from propend.names import MICROSECONDS

__all__ = ["Measure", "trend"]

_SEASON: Final = {"day": 7, "week": 1, "month": 12}
_COMPARED: Final = {"day": 7, "week": 4, "month": 1}


@dataclass(frozen=True)
class Measure:
    """``users(purchase)``, ``count(view where …)``, ``sum(purchase.value)`` or ``mean(purchase.value)`` per period.

    >>> Measure.parse("sum(purchase.value)").function
    'sum'
    """

    function: Literal["users", "count", "sum", "mean"]
    select: Aggregate
    field: str | None = None

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read a measure; raises ``ExpressionError`` that names what may stand there."""
        bare = text.strip()
        if bare.startswith("users(") and bare.endswith(")"):
            return cls("users", Step.parse(bare[6:-1]).select)
        found = parse(bare)
        if (
            not isinstance(found, Aggregate)
            or found.function not in ("count", "sum", "mean")
            or found.window.length is not None
        ):
            raise ExpressionError(
                f"{text!r} is no measure over time; write users(purchase), count(view), sum(purchase.value) or mean(purchase.value)"
            )
        return cls(found.function, Aggregate("any", found.types, None, found.where), found.field)  # type: ignore[arg-type]


@nb.njit(cache=True, nogil=True)
def count_trend(
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


def trend(
    store: Store,
    schema: Schema,
    engine: Engine,
    measure: str | Measure = "users(*)",
    unit: str = "day",
    by: str | None = None,
    *,
    rate: float = 0.05,
    compared: int | None = None,
    most: int = 12,
) -> dict[str, Any]:
    """Return a measure per period, seasonally adjusted, with anomalies and change points, and who moved it.

    ``by`` is an event field or ``profile.NAME``. The last ``compared`` whole periods are set against as many before
    (days: 7, weeks: 4, months: 1); with ``by`` the change is given by group, for a mean split into mix and rate.
    ``rate`` is the chance that a quiet series raises any alarm. Periods that the log does not cover whole are not judged.
    """
    check_unit(unit)
    asked = Measure.parse(measure) if isinstance(measure, str) else measure
    schema.check(asked.select)
    names, columns, groups = _groups(store, schema, engine, by, most)
    column = None if asked.field is None else schema.event_column(tuple(asked.field.split(".")))
    if column is not None and schema.is_text(column):
        raise ExpressionError(f"{asked.field} is text; a measure adds numbers, for example value")
    columns = [*columns, *columns_for(schema, [asked.select])]
    if column is not None:
        columns.append("item" if column.startswith("item") else column)
    columns = [
        c for c in dict.fromkeys(columns) if c == "item" or c in (*schema.numbers, *schema.texts)
    ]
    bounds = boundaries(schema.first, schema.last, unit, schema.zone)
    shape = (len(bounds) - 1, len(names) + 1)

    def work(timelines: Timelines) -> Any:
        parts = np.zeros((3, *shape), np.int64)
        value = np.zeros(0) if column is None else event_column(column, timelines, schema)
        count_trend(
            timelines.offsets, timelines.time, masks(schema, timelines, [asked.select]),
            groups(timelines), value, bounds, *parts,
        )  # fmt: skip
        return parts

    total = np.zeros((3, *shape), np.int64)
    for part in sweep(store, engine, work, columns):
        total += part
    return _document(asked, str(measure), unit, by, names, bounds, total, schema, rate, compared)


def _groups(
    store: Store, schema: Schema, engine: Engine, by: str | None, most: int
) -> tuple[tuple[str, ...], list[str], Callable[[Timelines], Any]]:
    if by is None:
        return (), [], lambda t: np.broadcast_to(np.int32(-1), len(t))
    if not by.startswith("profile."):
        nodes = nodes_of(store, schema, engine, by, most)
        return nodes.names, nodes.columns, nodes.codes
    name = by.removeprefix("profile.")
    if schema.users.get(name) != "text":
        texts = [n for n, kind in schema.users.items() if kind == "text"]
        raise ConfigError(f"no user attribute {name!r} with texts{nearest(name, texts)}")
    profile = profiles(store, schema)
    table = store.table("users")
    assert table is not None
    counts = table[name].combine_chunks().value_counts().to_pylist()
    ranked = sorted(
        (c for c in counts if c["values"] is not None), key=lambda c: (-c["counts"], c["values"])
    )
    names = tuple(c["values"] for c in ranked[:most])
    index = {value: code for code, value in enumerate(names)}

    def codes(t: Timelines) -> Any:
        column = profile(t)[name]
        assert isinstance(column, Column)
        mapping = np.array([*(index.get(v, -1) for v in column.values), -1], np.int32)
        return mapping[column.codes][t.user_of_row]

    return names, [], codes


def _document(
    asked: Measure,
    text: str,
    unit: str,
    by: str | None,
    names: tuple[str, ...],
    bounds: Any,
    total: Any,
    schema: Schema,
    rate: float,
    compared: int | None,
) -> dict[str, Any]:
    users, counts, totals = total
    money = totals / MICROSECONDS
    values: Any = {
        "users": users,
        "count": counts,
        "sum": money,
        "mean": np.divide(money, counts, out=np.full(money.shape, np.nan), where=counts > 0),
    }[asked.function]
    first = int(bounds[0] < schema.first)
    last = len(values) - int(bounds[-1] > schema.last + 1)
    start = [iso(b, schema.zone) for b in bounds[:-1]]
    series = values[first:last, -1].astype(np.float64)
    d = decompose(np.nan_to_num(series), _SEASON[unit])
    document: dict[str, Any] = {
        "measure": text,
        "unit": unit,
        "start": start,
        "values": [None if v != v else float(v) for v in values[:, -1]],
        "whole": [first, last],
        "adjusted": d.adjusted.tolist(),
        "season": d.period if d.period > 1 else None,
        "false_alarm_rate": rate,
        "anomalies": [{"start": start[first + a.pop("at")], **a} for a in anomalies(d, rate)],
        "changes": [{"start": start[first + c.pop("at")], **c} for c in changes(d, rate)],
    }
    if by is not None:
        document["by"] = by
        document["groups"] = {
            name: [None if v != v else float(v) for v in values[:, g]]
            for g, name in enumerate(names)
        }
    span = _COMPARED[unit] if compared is None else compared
    if last - first >= 2 * span:
        document["change"] = _change(asked, names, users, counts, money, last, span)
    return document


def _change(
    asked: Measure,
    names: tuple[str, ...],
    users: Any,
    counts: Any,
    money: Any,
    last: int,
    span: int,
) -> dict[str, Any]:
    """Set the last ``span`` periods against those before, by group."""
    after, before = slice(last - span, last), slice(last - 2 * span, last - span)
    by_function = {"users": users, "count": counts, "sum": money}
    rows: list[dict[str, Any]]
    if asked.function != "mean":
        x = by_function[asked.function]
        a, b = x[before].sum(axis=0), x[after].sum(axis=0)
        rows = [
            {
                "group": n,
                "before": float(a[g]),
                "after": float(b[g]),
                "contribution": float(b[g] - a[g]),
            }
            for g, n in enumerate(names)
        ]
        whole = {"before": float(a[-1]), "after": float(b[-1]), "change": float(b[-1] - a[-1])}
    else:
        w0, w1 = counts[before].sum(axis=0), counts[after].sum(axis=0)
        t0, t1 = money[before].sum(axis=0), money[after].sum(axis=0)
        whole = {"before": _mean(t0[-1], w0[-1]), "after": _mean(t1[-1], w1[-1])}
        whole["change"] = whole["after"] - whole["before"]
        # events of no shown group are a group of their own, so that mix and rate add up
        w0[-1], w1[-1] = w0[-1] - w0[:-1].sum(), w1[-1] - w1[:-1].sum()
        t0[-1], t1[-1] = t0[-1] - t0[:-1].sum(), t1[-1] - t1[:-1].sum()
        parts = contribution(w0, t0, w1, t1)
        rows = [
            {
                "group": n,
                "before": _mean(t0[g], w0[g]),
                "after": _mean(t1[g], w1[g]),
                "mix": float(parts["mix"][g]),
                "rate": float(parts["rate"][g]),
                "contribution": float(parts["mix"][g] + parts["rate"][g]),
            }
            for g, n in enumerate((*names, "(none)"))
        ]
    rows.sort(key=lambda r: (-abs(r["contribution"]), r["group"]))
    return {"periods": span, **whole, "groups": rows}


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else 0.0
