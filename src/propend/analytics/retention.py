"""Retention: of those who started in a period, what share came back in each period after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numba as nb
import numpy as np

from propend.analytics.periods import boundaries, check_unit, iso
from propend.analytics.scan import sweep
from propend.analytics.statistics import wilson
from propend.analytics.steps import Step, columns_for, lookup, masks
from propend.engine import Engine
from propend.errors import ConfigError, nearest
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import DAY

__all__ = ["elapsed_retention", "retention"]

Mode = Literal["on", "unbounded"]


@nb.njit(cache=True, nogil=True)
def count_retention(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    bounds: Any,
    recurring: bool,
    unbounded: bool,
    size: Any,
    back: Any,
) -> None:
    """Add to ``size`` [p] the users who started in a period, and to ``back`` [p, k] those who were back k periods later.

    Bit 0 of ``table[code[i]]`` marks a start, bit 1 a return. First-time: a user's cohort is the period of the first
    start; recurring: every period with a start. Unbounded: back in that period or any later one.
    """
    periods = len(bounds) - 1
    started = np.zeros(periods, np.bool_)
    returned = np.zeros(periods, np.bool_)
    for u in range(len(offsets) - 1):
        p = 0
        first = -1
        last = -1
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            while p + 1 < periods and time[i] >= bounds[p + 1]:
                p += 1
            if bits & 1 and (first < 0 or recurring):
                started[p] = True
                if first < 0:
                    first = p
            if bits & 2 and first >= 0:
                returned[p] = True
                last = p
        if first < 0:
            continue
        for c in range(first, periods):
            if not started[c]:
                continue
            size[c] += 1
            for k in range(periods - c):
                if (unbounded and c + k <= last) or returned[c + k]:
                    back[c, k] += 1
            if not recurring:
                break
        started[first:] = False
        returned[first:] = False


def retention(
    store: Store,
    schema: Schema,
    engine: Engine,
    unit: str = "month",
    start: str | Expression | Step | None = None,
    back: str | Expression | Step | None = None,
    *,
    mode: str = "on",
    recurring: bool = False,
    as_of: int | None = None,
) -> dict[str, Any]:
    """Return the cohort table ``{"unit", "cohorts": [{"start", "size", "rates": […], "low", "high"}], "curve", …}``.

    ``start`` and ``back`` are events (default: any). ``rates[k]`` is the share back k periods after the cohort's own;
    ``mode`` ``on``: in that very period, ``unbounded``: in it or later. ``recurring``: a user joins the cohort of every
    period with a start, not only of the first. The period in which the log ends is left out of the curve.
    """
    check_unit(unit)
    if mode not in get_args(Mode):
        raise ConfigError(f"no retention mode {mode!r}{nearest(mode, get_args(Mode))}")
    sides = [Step.parse("*" if side is None else side) for side in (start, back)]
    for side in sides:
        side.check(schema)
    selections = [side.select for side in sides]
    bounds = boundaries(schema.first, schema.last, unit, schema.zone)
    periods = len(bounds) - 1

    def work(timelines: Timelines) -> tuple[Any, Any]:
        size, table_back = np.zeros(periods, np.int64), np.zeros((periods, periods), np.int64)
        table = lookup(schema, selections)
        code: Any = timelines.type
        if table is None:
            table, code = np.unique(masks(schema, timelines, selections), return_inverse=True)
        count_retention(
            timelines.offsets, timelines.time, code, table, bounds, recurring,
            mode == "unbounded", size, table_back,
        )  # fmt: skip
        return size, table_back

    size, table_back = np.zeros(periods, np.int64), np.zeros((periods, periods), np.int64)
    for s, b in sweep(store, engine, work, columns_for(schema, selections), as_of=as_of):
        size, table_back = size + s, table_back + b
    return _document(unit, mode, recurring, sides, bounds, size, table_back, schema)


def _document(
    unit: str,
    mode: str,
    recurring: bool,
    sides: list[Step],
    bounds: Any,
    size: Any,
    back: Any,
    schema: Schema,
) -> dict[str, Any]:
    periods = len(size)
    whole = periods if bounds[-1] <= schema.last + 1 else periods - 1
    cohorts = []
    for c in range(periods):
        n = int(size[c])
        spans = [wilson(int(back[c, k]), n) for k in range(periods - c)]
        cohorts.append(
            {
                "start": iso(bounds[c], schema.zone),
                "size": n,
                "rates": [int(back[c, k]) / n if n else None for k in range(periods - c)],
                "low": [s[0] for s in spans],
                "high": [s[1] for s in spans],
            }
        )
    curve = []
    for k in range(whole):
        n, b = int(size[: whole - k].sum()), int(sum(back[c, k] for c in range(whole - k)))
        low, high = wilson(b, n)
        curve.append(
            {"after": k, "users": n, "rate": b / n if n else None, "low": low, "high": high}
        )
    return {
        "unit": unit,
        "mode": mode,
        "recurring": recurring,
        "start": sides[0].label,
        "back": sides[1].label,
        "cohorts": cohorts,
        "curve": curve,
        "last_period_complete": whole == periods,
    }


@nb.njit(cache=True, nogil=True)
def count_elapsed(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    bounds: Any,
    low: Any,
    high: Any,
    end: int,
    size: Any,
    observed: Any,
    back: Any,
) -> None:
    """Add to ``observed`` and ``back`` [p, b] the users whose bracket b lies inside the log, and those back within it.

    A bracket is [first start + ``low[b]``, first start + ``high[b]``); it is observed where it ends by ``end``.
    """
    periods = len(bounds) - 1
    count = len(low)
    came = np.zeros(count, np.bool_)
    for u in range(len(offsets) - 1):
        first = np.int64(-1)
        p = 0
        came[:] = False
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            if first < 0:
                if bits & 1:
                    while p + 1 < periods and time[i] >= bounds[p + 1]:
                        p += 1
                    first = time[i]
                else:
                    continue
            if bits & 2:
                passed = time[i] - first
                for b in range(count):
                    if low[b] <= passed < high[b]:
                        came[b] = True
        if first < 0:
            continue
        size[p] += 1
        for b in range(count):
            if first + high[b] <= end:
                observed[p, b] += 1
                if came[b]:
                    back[p, b] += 1


def elapsed_retention(
    store: Store,
    schema: Schema,
    engine: Engine,
    brackets: Sequence[tuple[int, int]],
    start: str | Expression | Step | None = None,
    back: str | Expression | Step | None = None,
    *,
    unit: str = "month",
    as_of: int | None = None,
) -> dict[str, Any]:
    """Return retention on each user's own clock: back within days [from, to) after the first start (24-hour days).

    ``[(1, 2), (7, 8), (30, 31)]`` is day 1, 7 and 30; ``[(1, 4), (4, 8)]`` are brackets. Only users whose bracket had
    closed when the log ended count (``observed``), so young cohorts are not made to look bad. Cohorts are by ``unit``.
    """
    if not brackets or any(not 0 <= a < b for a, b in brackets):
        raise ConfigError(
            f"brackets are days from–to with from < to, for example 1-2,7-8,30-31; not {list(brackets)}"
        )
    sides = [Step.parse("*" if side is None else side) for side in (start, back)]
    for side in sides:
        side.check(schema)
    selections = [side.select for side in sides]
    bounds = boundaries(schema.first, schema.last, check_unit(unit), schema.zone)
    low, high = (np.array([b[i] for b in brackets], np.int64) * DAY for i in (0, 1))
    shape = (len(bounds) - 1, len(brackets))

    def work(timelines: Timelines) -> tuple[Any, Any, Any]:
        size, observed, came = np.zeros(shape[0], np.int64), *np.zeros((2, *shape), np.int64)
        table = lookup(schema, selections)
        code: Any = timelines.type
        if table is None:
            table, code = np.unique(masks(schema, timelines, selections), return_inverse=True)
        count_elapsed(
            timelines.offsets, timelines.time, code, table, bounds, low, high, schema.last + 1,
            size, observed, came,
        )  # fmt: skip
        return size, observed, came

    size, observed, came = np.zeros(shape[0], np.int64), *np.zeros((2, *shape), np.int64)
    for s, o, c in sweep(store, engine, work, columns_for(schema, selections), as_of=as_of):
        size, observed, came = size + s, observed + o, came + c
    rows = [
        {
            "start": iso(bounds[p], schema.zone),
            "size": int(size[p]),
            "observed": observed[p].tolist(),
            "rates": [
                int(c) / int(o) if o else None for c, o in zip(came[p], observed[p], strict=True)
            ],
        }
        for p in range(shape[0])
    ]
    curve = []
    for b, (a, z) in enumerate(brackets):
        n, c = int(observed[:, b].sum()), int(came[:, b].sum())
        span = wilson(c, n)
        curve.append(
            {
                "from": a,
                "to": z,
                "users": n,
                "rate": c / n if n else None,
                "low": span[0],
                "high": span[1],
            }
        )
    return {
        "unit": unit,
        "mode": "bracket",
        "start": sides[0].label,
        "back": sides[1].label,
        "brackets": [list(b) for b in brackets],
        "cohorts": rows,
        "curve": curve,
    }
