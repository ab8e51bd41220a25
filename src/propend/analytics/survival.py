"""Time until something happens, with those to whom it has not happened yet counted honestly (Kaplan–Meier)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.analytics.kept import Part, Question, ask, grown
from propend.analytics.statistics import normal_quantile
from propend.analytics.steps import Step, columns_for, masks
from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import DAY

__all__ = ["SurvivalQuestion", "kaplan_meier", "survival"]


@nb.njit(cache=True, nogil=True)
def note_waits(offsets: Any, time: Any, bits: Any, owner: Any, begun: Any, ended: Any) -> None:
    """Go on noting each user's first start (bit 0; ``begun`` [w], −1: none yet) and the first end (bit 1) after it."""
    for u in range(len(offsets) - 1):
        w = owner[u]
        for i in range(offsets[u], offsets[u + 1]):
            if ended[w] >= 0:
                break
            if begun[w] >= 0 and bits[i] & 2:
                ended[w] = time[i]
            elif begun[w] < 0 and bits[i] & 1:
                begun[w] = time[i]


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


class SurvivalQuestion(Question):
    """Time from a first start to the end after it; see :func:`survival`."""

    def __init__(
        self,
        schema: Schema,
        start: str | Expression | Step,
        end: str | Expression | Step,
        *,
        points: int = 60,
    ) -> None:
        self.schema, self.points = schema, points
        self.sides = [Step.single(start), Step.single(end)]
        for side in self.sides:
            side.check(schema)
        self.selections = [side.select for side in self.sides]
        self.columns = columns_for(schema, self.selections)
        self.rest_on(schema, self.selections)
        self.key = f"survival {[str(s) for s in self.selections]}"

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Note the starts and ends of further events."""

        def empty(n: int) -> Any:
            return np.full(n, -1, np.int64)

        found, owner = grown(state, timelines.users, {"begun": empty, "ended": empty})
        bits = masks(self.schema, timelines, self.selections)
        note_waits(timelines.offsets, timelines.time, bits, owner, found["begun"], found["ended"])
        return found

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the curve, and how many are censored."""
        kept = list(parts)
        begun, ended = (np.concatenate([p[n] for p in kept]) for n in ("begun", "ended"))
        begun, ended = begun[begun >= 0], ended[begun >= 0]
        happened = ended >= 0
        wait = (np.where(happened, ended, self.schema.last) - begun) / DAY
        if not happened.any():
            raise NotEnoughDataError(
                f"of {len(wait):,} users with {self.sides[0].label} none did {self.sides[1].label} after it; there is no curve to draw"
            )
        curve = kaplan_meier(wait, happened)
        step = max(1, math.ceil(len(curve["time"]) / self.points))
        shown = {k: v[::step] if isinstance(v, list) else v for k, v in curve.items()}
        return {
            "start": self.sides[0].label,
            "end": self.sides[1].label,
            "users": len(wait),
            "happened": int(happened.sum()),
            "censored": int((~happened).sum()),
            "unit": "days",
            **shown,
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
    return ask(SurvivalQuestion(schema, start, end, points=points), store, engine)
