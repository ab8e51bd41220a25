"""Activity over time: users, events by type and value, by day, week or month."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from propend.analytics.periods import boundaries, check_unit, iso
from propend.analytics.scan import sweep
from propend.engine import Engine
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.features.schema import Schema
from propend.names import MICROSECONDS, VALUE

__all__ = ["activity"]


@nb.njit(cache=True, nogil=True)
def count_activity(
    offsets: Any, time: Any, kind: Any, value: Any, bounds: Any, users: Any, events: Any, total: Any
) -> None:
    """Add users [p], events [p, types] and value [p] (int64 micro-units) of each period; ``value`` may be empty."""
    valued = len(value) > 0
    for u in range(len(offsets) - 1):
        p = -1
        for i in range(offsets[u], offsets[u + 1]):
            if p < 0 or (time[i] >= bounds[p + 1] and p + 2 < len(bounds)):
                p = max(p, 0)
                while p + 2 < len(bounds) and time[i] >= bounds[p + 1]:
                    p += 1
                users[p] += 1
            events[p, kind[i]] += 1
            if valued and not np.isnan(value[i]):
                total[p] += np.int64(np.rint(value[i] * 1e6))


def activity(store: Store, schema: Schema, engine: Engine, unit: str = "week") -> dict[str, Any]:
    """Return active users, events by type and value per period of the workspace's calendar.

    ``{"unit", "start": [iso], "users": […], "events": {type: […]}, "value": […], "complete": […]}``; the first and last
    period are seldom whole, ``complete`` says which are. ``value`` is ``None`` where the log carries no money.
    """
    check_unit(unit)
    bounds = boundaries(schema.first, schema.last, unit, schema.zone)
    columns = [VALUE] if VALUE in schema.numbers else []
    periods, types = len(bounds) - 1, max(len(schema.types), 1)

    def work(timelines: Timelines) -> tuple[Any, Any, Any]:
        users = np.zeros(periods, np.int64)
        events = np.zeros((periods, types), np.int64)
        total = np.zeros(periods, np.int64)
        value = timelines.numbers.get(VALUE, np.zeros(0))
        count_activity(
            timelines.offsets, timelines.time, timelines.type, value, bounds, users, events, total
        )
        return users, events, total

    users = np.zeros(periods, np.int64)
    events = np.zeros((periods, types), np.int64)
    total = np.zeros(periods, np.int64)
    for u, e, t in sweep(store, engine, work, columns):
        users, events, total = users + u, events + e, total + t
    return {
        "unit": unit,
        "start": [iso(b, schema.zone) for b in bounds[:-1]],
        "users": users.tolist(),
        "events": {name: events[:, code].tolist() for code, name in enumerate(schema.types)},
        "value": (total / MICROSECONDS).tolist() if columns else None,
        "complete": [
            bool(bounds[p] >= schema.first and bounds[p + 1] <= schema.last + 1)
            for p in range(periods)
        ],
    }
