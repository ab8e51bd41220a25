"""Lifecycle and stickiness: who is new, came back, was woken or fell asleep; how many days people use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numba as nb
import numpy as np

from propend.analytics.kept import Part, Question, ask, grown
from propend.analytics.periods import boundaries, iso
from propend.analytics.steps import Step, coded, columns_for
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema

__all__ = ["LifecycleQuestion", "StickinessQuestion", "lifecycle", "stickiness"]

_REACH: Final = (1, 7, 30)
"""Trailing days of daily, weekly and monthly active users."""


@nb.njit(cache=True, nogil=True)
def count_lifecycle(
    offsets: Any, time: Any, code: Any, table: Any, bounds: Any, owner: Any, before: Any, out: Any
) -> None:
    """Go on adding new, returning, resurrected and dormant users [p, 4]; ``before`` [w] is a user's last period (−1: none).

    Who has not come back yet is not counted as dormant; see :meth:`LifecycleQuestion.of_state`.
    """
    periods = len(bounds) - 1
    for u in range(len(offsets) - 1):
        w = owner[u]
        p = 0
        for i in range(offsets[u], offsets[u + 1]):
            if table[code[i]] == 0:
                continue
            while p + 1 < periods and time[i] >= bounds[p + 1]:
                p += 1
            if p == before[w]:
                continue
            if before[w] < 0:
                out[p, 0] += 1
            elif p == before[w] + 1:
                out[p, 1] += 1
            else:
                out[p, 2] += 1
                out[before[w] + 1, 3] += 1
            before[w] = p


@nb.njit(cache=True, nogil=True)
def count_active(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    bounds: Any,
    reach: Any,
    owner: Any,
    last: Any,
    lately: Any,
    out: Any,
) -> None:
    """Go on adding to ``out`` [days + 31, r] the change in users active within the last ``reach[r]`` days.

    ``last`` [w] is a user's last active day (−1: none yet), bit j of ``lately`` [w] says that they were active j days before it.
    """
    days = len(bounds) - 1
    for u in range(len(offsets) - 1):
        w = owner[u]
        d = 0
        for i in range(offsets[u], offsets[u + 1]):
            if table[code[i]] == 0:
                continue
            while d + 1 < days and time[i] >= bounds[d + 1]:
                d += 1
            before = last[w]
            if d == before:
                continue
            for r in range(len(reach)):
                if before < 0 or d > before + reach[r] - 1:
                    out[d, r] += 1
                else:  # still counted from the day before: only the end moves
                    out[before + reach[r], r] += 1
                out[d + reach[r], r] -= 1
            passed = d - before
            if before < 0 or passed > 63:
                lately[w] = np.uint64(1)
            else:
                lately[w] = (lately[w] << np.uint64(passed)) | np.uint64(1)
            last[w] = d


class _Active(Question):
    """What lifecycle and stickiness share: the events that make a user active, and periods."""

    def __init__(
        self, schema: Schema, unit: str, of: str | Expression | Step | None, name: str
    ) -> None:
        self.schema, self.unit = schema, unit
        self.step = Step.single("*" if of is None else of)
        self.step.check(schema)
        self.columns = columns_for(schema, [self.step.select])
        self.bounds = boundaries(schema.first, schema.last, unit, schema.zone)
        self.rest_on(schema, [self.step.select], more=int(self.bounds[0]))
        self.key = f"{name} {unit} {self.step.select}"

    @property
    def periods(self) -> int:
        """Number of periods."""
        return len(self.bounds) - 1

    @property
    def starts(self) -> list[str]:
        """The day on which each period starts."""
        return [iso(b, self.schema.zone) for b in self.bounds[:-1]]


class LifecycleQuestion(_Active):
    """Users by state and period; see :func:`lifecycle`. A state holds a user's last period."""

    def __init__(
        self, schema: Schema, unit: str = "week", of: str | Expression | Step | None = None
    ) -> None:
        super().__init__(schema, unit, of, "lifecycle")

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Count further events."""
        found, owner = grown(state, timelines.users, {"before": _none_yet})
        found["out"] = _longer(state, self.periods, 4)
        table, code = coded(self.schema, timelines, [self.step.select])
        count_lifecycle(
            timelines.offsets, timelines.time, code, table, self.bounds, owner, found["before"],
            found["out"],
        )  # fmt: skip
        return found

    def of_state(self, state: Part) -> Part:
        """Return the counts [p, 4], with those dormant who have not come back."""
        out = _longer(state, self.periods, 4)
        after = state["before"][state["before"] >= 0] + 1
        out[:, 3] += np.bincount(after, minlength=self.periods + 1)[: self.periods]
        return {"out": out}

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return users per period by state."""
        total = np.zeros((self.periods, 4), np.int64)
        for part in parts:
            total += part["out"]
        names = ("new", "returning", "resurrected", "dormant")
        return {
            "unit": self.unit,
            "of": self.step.label,
            "start": self.starts,
            **{name: total[:, i].tolist() for i, name in enumerate(names)},
            "active": total[:, :3].sum(axis=1).tolist(),
            "last_period_complete": bool(self.bounds[-1] <= self.schema.last + 1),
        }


class StickinessQuestion(_Active):
    """Trailing active users and the power-user curve; see :func:`stickiness`."""

    def __init__(
        self, schema: Schema, of: str | Expression | Step | None = None, window: int = 28
    ) -> None:
        if not 1 <= window <= 64:
            raise ConfigError(f"the power-user curve looks back 1 to 64 days, not {window}")
        super().__init__(schema, "day", of, "stickiness")
        self.window = window
        self.key += f" {window}"

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Count further events."""
        empty = {"last": _none_yet, "lately": lambda n: np.zeros(n, np.uint64)}
        found, owner = grown(state, timelines.users, empty)
        found["out"] = _longer(state, self.periods + _REACH[-1] + 1, len(_REACH))
        table, code = coded(self.schema, timelines, [self.step.select])
        count_active(
            timelines.offsets, timelines.time, code, table, self.bounds,
            np.array(_REACH, np.int64), owner, found["last"], found["lately"], found["out"],
        )  # fmt: skip
        return found

    def of_state(self, state: Part) -> Part:
        """Return the changes by day [days, r], and the users by active days of the last ``window`` [w + 1]."""
        last, lately = state["last"], state["lately"]
        inside = (
            last - (self.periods - self.window) + 1
        )  # days of ``lately`` that lie in the window
        there = (last >= 0) & (inside > 0)
        shown = np.minimum(inside[there], 64).astype(np.uint64)
        mask = np.where(
            shown >= 64, ~np.uint64(0), (np.uint64(1) << (shown % np.uint64(64))) - np.uint64(1)
        )
        used = np.bitwise_count(lately[there] & mask)
        return {
            "out": _longer(state, self.periods + _REACH[-1] + 1, len(_REACH))[: self.periods],
            "power": np.bincount(used, minlength=self.window + 1),
        }

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the series and the curve."""
        change = np.zeros((self.periods, len(_REACH)), np.int64)
        power = np.zeros(self.window + 1, np.int64)
        for part in parts:
            change, power = change + part["out"], power + part["power"]
        daily, weekly, monthly = np.cumsum(change, axis=0).T
        return {
            "of": self.step.label,
            "start": self.starts,
            "daily": daily.tolist(),
            "weekly": weekly.tolist(),
            "monthly": monthly.tolist(),
            "daily_of_weekly": _ratio(daily, weekly, 6),
            "daily_of_monthly": _ratio(daily, monthly, 29),
            "window": self.window,
            "power": power.tolist(),
        }


def _none_yet(n: int) -> Any:
    return np.full(n, -1, np.int64)


def _longer(state: Part | None, periods: int, columns: int) -> Any:
    """Return a state's counts as a new array that holds further periods."""
    out = np.zeros((periods, columns), np.int64)
    if state is not None:
        out[: len(state["out"])] = state["out"][:periods]
    return out


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
    return ask(LifecycleQuestion(schema, unit, of), store, engine)


def stickiness(
    store: Store,
    schema: Schema,
    engine: Engine,
    of: str | Expression | Step | None = None,
    window: int = 28,
) -> dict[str, Any]:
    """Return daily, weekly and monthly active users (trailing 1, 7 and 30 days), their ratios, and the power-user curve.

    ``power[k]`` is how many users were active on k of the last ``window`` (at most 64) days of the log. Ratios are given
    from the day on which the longer window is full.
    """
    return ask(StickinessQuestion(schema, of, window), store, engine)


def _ratio(a: Any, b: Any, skip: int) -> list[float | None]:
    return [None if i < skip or not b[i] else float(a[i] / b[i]) for i in range(len(a))]
