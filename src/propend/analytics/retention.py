"""Retention: of those who started in a period, what share came back in each period after."""

from __future__ import annotations

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

__all__ = ["retention"]

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
