"""Lifecycle and stickiness: who is new, came back, was woken or fell asleep; how many days people use."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from propend.analytics.periods import boundaries, iso
from propend.analytics.scan import sweep
from propend.analytics.steps import Step, columns_for, lookup, masks
from propend.engine import Engine
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema

__all__ = ["lifecycle", "stickiness"]


@nb.njit(cache=True, nogil=True)
def count_lifecycle(offsets: Any, time: Any, code: Any, table: Any, bounds: Any, out: Any) -> None:
    """Add new, returning, resurrected and dormant users [p, 4] of each period."""
    periods = len(bounds) - 1
    for u in range(len(offsets) - 1):
        before = -1
        p = 0
        for i in range(offsets[u], offsets[u + 1]):
            if table[code[i]] == 0:
                continue
            while p + 1 < periods and time[i] >= bounds[p + 1]:
                p += 1
            if p == before:
                continue
            if before < 0:
                out[p, 0] += 1
            elif p == before + 1:
                out[p, 1] += 1
            else:
                out[p, 2] += 1
                out[before + 1, 3] += 1
            before = p
        if before >= 0 and before + 1 < periods:
            out[before + 1, 3] += 1


@nb.njit(cache=True, nogil=True)
def count_active(
    offsets: Any, time: Any, code: Any, table: Any, bounds: Any, reach: Any, out: Any, power: Any
) -> None:
    """Add to ``out`` [days + 1, r] the change in users active within the last ``reach[r]`` days, and to ``power`` [w + 1]
    the users by how many of the last w days they were active."""
    days = len(bounds) - 1
    window = len(power) - 1
    for u in range(len(offsets) - 1):
        before = -1
        d = 0
        used = 0
        for i in range(offsets[u], offsets[u + 1]):
            if table[code[i]] == 0:
                continue
            while d + 1 < days and time[i] >= bounds[d + 1]:
                d += 1
            if d == before:
                continue
            for r in range(len(reach)):
                if before < 0 or d > before + reach[r] - 1:
                    out[d, r] += 1
                else:  # still counted from the day before: only the end moves
                    out[before + reach[r], r] += 1
                out[min(d + reach[r], days), r] -= 1
            if d >= days - window:
                used += 1
            before = d
        if used > 0:
            power[used] += 1


def _coded(schema: Schema, timelines: Timelines, step: Step) -> tuple[Any, Any]:
    table = lookup(schema, [step.select])
    if table is not None:
        return table, timelines.type
    table, code = np.unique(masks(schema, timelines, [step.select]), return_inverse=True)
    return table, code


def _step(schema: Schema, of: str | Expression | Step | None) -> Step:
    step = Step.parse("*" if of is None else of)
    step.check(schema)
    return step


def lifecycle(
    store: Store,
    schema: Schema,
    engine: Engine,
    unit: str = "week",
    of: str | Expression | Step | None = None,
) -> dict[str, Any]:
    """Return users per period by state: new, returning (active the period before too), resurrected, dormant.

    ``of`` says which events make a user active (default: any). Dormant counts those active the period before and not now,
    so active = new + returning + resurrected, and active before = returning + dormant.
    """
    step = _step(schema, of)
    bounds = boundaries(schema.first, schema.last, unit, schema.zone)
    periods = len(bounds) - 1

    def work(timelines: Timelines) -> Any:
        out = np.zeros((periods, 4), np.int64)
        table, code = _coded(schema, timelines, step)
        count_lifecycle(timelines.offsets, timelines.time, code, table, bounds, out)
        return out

    total = np.zeros((periods, 4), np.int64)
    for part in sweep(store, engine, work, columns_for(schema, [step.select])):
        total += part
    names = ("new", "returning", "resurrected", "dormant")
    return {
        "unit": unit,
        "of": step.label,
        "start": [iso(b, schema.zone) for b in bounds[:-1]],
        **{name: total[:, i].tolist() for i, name in enumerate(names)},
        "active": total[:, :3].sum(axis=1).tolist(),
        "last_period_complete": bool(bounds[-1] <= schema.last + 1),
    }


def stickiness(
    store: Store,
    schema: Schema,
    engine: Engine,
    of: str | Expression | Step | None = None,
    window: int = 28,
) -> dict[str, Any]:
    """Return daily, weekly and monthly active users (trailing 1, 7 and 30 days), their ratios, and the power-user curve.

    ``power[k]`` is how many users were active on k of the last ``window`` days of the log. Ratios are given from the day
    on which the longer window is full.
    """
    step = _step(schema, of)
    bounds = boundaries(schema.first, schema.last, "day", schema.zone)
    days = len(bounds) - 1
    reach = np.array([1, 7, 30], np.int64)

    def work(timelines: Timelines) -> tuple[Any, Any]:
        out = np.zeros((days + 31, 3), np.int64)
        power = np.zeros(window + 1, np.int64)
        table, code = _coded(schema, timelines, step)
        count_active(timelines.offsets, timelines.time, code, table, bounds, reach, out, power)
        return out, power

    change, power = np.zeros((days + 31, 3), np.int64), np.zeros(window + 1, np.int64)
    for c, p in sweep(store, engine, work, columns_for(schema, [step.select])):
        change, power = change + c, power + p
    active = np.cumsum(change, axis=0)[:days]
    daily, weekly, monthly = active.T
    return {
        "of": step.label,
        "start": [iso(b, schema.zone) for b in bounds[:-1]],
        "daily": daily.tolist(),
        "weekly": weekly.tolist(),
        "monthly": monthly.tolist(),
        "daily_of_weekly": _ratio(daily, weekly, 6),
        "daily_of_monthly": _ratio(daily, monthly, 29),
        "window": window,
        "power": power.tolist(),
    }


def _ratio(a: Any, b: Any, skip: int) -> list[float | None]:
    return [None if i < skip or not b[i] else float(a[i] / b[i]) for i in range(len(a))]
