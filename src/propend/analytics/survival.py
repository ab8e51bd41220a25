"""Time until something happens, with those to whom it has not happened yet counted honestly (Kaplan–Meier)."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.analytics.scan import sweep
from propend.analytics.statistics import normal_quantile
from propend.analytics.steps import Step, columns_for, masks
from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import DAY

__all__ = ["kaplan_meier", "survival"]


@nb.njit(cache=True, nogil=True)
def waits(offsets: Any, time: Any, bits: Any, end: int, wait: Any, happened: Any) -> int:
    """Write for each user with a start (bit 0) the time to the first end (bit 1) after it, or to ``end`` of the log."""
    count = 0
    for u in range(len(offsets) - 1):
        start = np.int64(-1)
        done = False
        for i in range(offsets[u], offsets[u + 1]):
            if start >= 0 and bits[i] & 2:
                wait[count] = time[i] - start
                done = True
                break
            if start < 0 and bits[i] & 1:
                start = time[i]
        if start >= 0:
            if not done:
                wait[count] = end - start
            happened[count] = done
            count += 1
    return count


def kaplan_meier(
    wait: npt.NDArray[np.float64], happened: npt.NDArray[np.bool_], level: float = 0.95
) -> dict[str, Any]:
    """Return the share to whom it has not happened by each time: ``time``, ``share``, ``low``, ``high``, ``at_risk``.

    Kaplan and Meier (1958); Greenwood's variance on the log-log scale. Waits that ended with the log are censored, and at
    equal times leave after those to whom it happened. ``median`` is ``None`` where more than half are still waiting.

    >>> km = kaplan_meier(np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, True, False]))
    >>> km["time"], [round(s, 3) for s in km["share"]], km["median"]
    ([1.0, 2.0, 3.0], [0.8, 0.6, 0.3], 3.0)
    """
    times = np.unique(wait[happened])
    order = np.sort(wait)
    at_risk = len(wait) - np.searchsorted(order, times, side="left")
    deaths = np.searchsorted(np.sort(wait[happened]), times, side="right") - np.searchsorted(
        np.sort(wait[happened]), times, side="left"
    )
    share = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        half = normal_quantile(level) * np.sqrt(greenwood) / np.abs(np.log(share))
        low, high = share ** np.exp(half), share ** np.exp(-half)
    edge = (share <= 0) | (share >= 1)
    below = np.flatnonzero(share <= 0.5)
    return {
        "time": times.tolist(),
        "share": share.tolist(),
        "low": np.where(edge, share, low).tolist(),
        "high": np.where(edge, share, high).tolist(),
        "at_risk": at_risk.tolist(),
        "median": float(times[below[0]]) if len(below) else None,
    }


def survival(
    store: Store,
    schema: Schema,
    engine: Engine,
    start: str | Expression | Step,
    end: str | Expression | Step,
    *,
    points: int = 60,
) -> dict[str, Any]:
    """Return how long users stay without ``end`` after their first ``start`` (days), by Kaplan–Meier.

    Users for whom the log ends first are censored, and their number is said. At most ``points`` times are returned.
    """
    sides = [Step.parse(start), Step.parse(end)]
    for side in sides:
        side.check(schema)
    selections = [side.select for side in sides]

    def work(timelines: Timelines) -> tuple[Any, Any]:
        users = len(timelines.users)
        wait, happened = np.empty(users, np.int64), np.zeros(users, np.bool_)
        bits = masks(schema, timelines, selections)
        count = waits(timelines.offsets, timelines.time, bits, schema.last, wait, happened)
        return wait[:count], happened[:count]

    parts = list(sweep(store, engine, work, columns_for(schema, selections)))
    wait = np.concatenate([p[0] for p in parts]) / DAY
    happened = np.concatenate([p[1] for p in parts])
    if not happened.any():
        raise NotEnoughDataError(
            f"of {len(wait):,} users with {sides[0].label} none did {sides[1].label} after it; there is no curve to draw"
        )
    curve = kaplan_meier(wait, happened)
    step = max(1, math.ceil(len(curve["time"]) / points))
    kept = {k: v[::step] if isinstance(v, list) else v for k, v in curve.items()}
    return {
        "start": sides[0].label,
        "end": sides[1].label,
        "users": len(wait),
        "happened": int(happened.sum()),
        "censored": int((~happened).sum()),
        "unit": "days",
        **kept,
    }
