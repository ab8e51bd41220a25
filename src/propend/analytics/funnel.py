"""Funnels: how many go from step to step, how long it takes, who they are, and how sure the figures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from propend.analytics import funnel_kernels as kernels
from propend.analytics.scan import sweep
from propend.analytics.statistics import two_shares, wilson
from propend.analytics.steps import MOST_STEPS, Step, columns_for, lookup, masks
from propend.engine import Engine
from propend.errors import ConfigError, ExpressionError, NotEnoughDataError, nearest
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import MICROSECONDS

__all__ = ["Funnel", "FunnelResult", "compare", "funnel"]

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Order = Literal["ordered", "strict", "any"]
Ties = Literal["sequence", "step"]
Reentry = Literal["latest", "first"]

_EARLIEST: Final = -(1 << 62)
_LATEST: Final = (1 << 62) - 1


@dataclass(frozen=True)
class Funnel:
    """The definition of a funnel; see :func:`funnel` for what each word means."""

    steps: tuple[Step, ...]
    window: Duration
    order: Order = "ordered"
    ties: Ties = "sequence"
    reentry: Reentry = "latest"

    @classmethod
    def of(
        cls,
        steps: Sequence[str | Expression | Step],
        within: str | Duration = "7d",
        order: str = "ordered",
        ties: str = "sequence",
        reentry: str = "latest",
    ) -> Funnel:
        """Check and build; raises ``ConfigError`` or ``ExpressionError`` in one sentence."""
        for word, value, known in (
            ("order", order, get_args(Order)),
            ("ties", ties, get_args(Ties)),
            ("reentry", reentry, get_args(Reentry)),
        ):
            if value not in known:
                raise ConfigError(f"no {word} {value!r} of a funnel{nearest(value, known)}")
        parsed = tuple(map(Step.parse, steps))
        if len(parsed) < 2:
            raise ConfigError(
                f"a funnel needs at least two steps, not {len(parsed)}; for example: view,cart,purchase"
            )
        if parsed[0].optional or parsed[-1].optional:
            raise ExpressionError("the first and the last step of a funnel cannot be optional")
        window = within if isinstance(within, Duration) else Duration.parse(within)
        return cls(parsed, window, order, ties, reentry)  # type: ignore[arg-type]

    @property
    def expanded(self) -> tuple[Step, ...]:
        """The steps with each repeat as a step of its own."""
        return tuple(replace(step, times=1) for step in self.steps for _ in range(step.times))

    @property
    def ends(self) -> list[int]:
        """The position among the expanded steps at which each step is complete."""
        return (np.cumsum([step.times for step in self.steps]) - 1).tolist()


@dataclass(frozen=True)
class Entries:
    """Those who entered: user codes [m], entry times [m], and the time each step took from the entry, int64 [m, steps].

    −1 where a step was not reached. Entries of buckets (and of days) add by concatenation.
    """

    user: I64
    entry: I64
    took: I64

    @classmethod
    def join(cls, parts: Sequence[Entries], steps: int) -> Entries:
        """Return all parts as one."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, np.zeros((0, steps), np.int64))
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("user", "entry", "took")
            )
        )

    def select(self, keep: Bool) -> Entries:
        """Return some of them."""
        return Entries(self.user[keep], self.entry[keep], self.took[keep])

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class FunnelResult:
    """The answer: ``entries`` hold every figure; :meth:`to_dict` is the document that is printed."""

    definition: Funnel
    entries: Entries
    level: float = 0.95

    def users(self, step: int) -> int:
        """Return how many reached a step (0 is the first)."""
        return int((self.entries.took[:, step] >= 0).sum())

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"steps": [{"event", "users", "conversion", "low", "high", "median_seconds", …}], "window", "order"}``.

        ``conversion`` is the share of those who entered, ``from_previous`` of those who reached the last required
        step before; ``low`` and ``high`` are Wilson's interval of ``conversion``; times are seconds since the entry.
        """
        rows, before = [], self.users(0)
        for k, step in enumerate(self.definition.steps):
            row = self._step(k, before)
            rows.append(row)
            if not step.optional:
                before = row["users"]
        return {
            "steps": rows,
            "window": str(self.definition.window),
            "order": self.definition.order,
            "ties": self.definition.ties,
            "reentry": self.definition.reentry,
            "level": self.level,
        }

    def _step(self, k: int, before: int) -> dict[str, Any]:
        entered, reached = self.users(0), self.users(k)
        low, high = wilson(reached, entered, self.level)
        previous_low, previous_high = wilson(reached, before, self.level)
        took = self.entries.took[:, k]
        seconds = took[took >= 0] / MICROSECONDS
        quartiles = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist() if len(seconds) else [None] * 3
        return {
            "event": self.definition.steps[k].label,
            "users": reached,
            "conversion": reached / entered if entered else None,
            "low": low if entered else None,
            "high": high if entered else None,
            "median_seconds": quartiles[1],
            "quartile_seconds": [quartiles[0], quartiles[2]],
            "dropped": max(before - reached, 0),
            "from_previous": reached / before if before else None,
            "from_previous_low": previous_low if before else None,
            "from_previous_high": previous_high if before else None,
        }


def funnel(
    store: Store,
    schema: Schema,
    engine: Engine,
    steps: Sequence[str | Expression | Step],
    within: str | Duration = "7d",
    order: str = "ordered",
    *,
    ties: str = "sequence",
    reentry: str = "latest",
    since: int | None = None,
    until: int | None = None,
    as_of: int | None = None,
) -> FunnelResult:
    """Count users from step to step, in one pass over each bucket.

    ``within`` bounds the time from the entry to each step (inclusive). ``order``: ``ordered`` (other events may lie
    between), ``strict`` (none may), ``any``. ``ties``: events of one moment count in their stored ``sequence``, or by
    ``step`` as ClickHouse does. ``reentry``: the clock starts at the ``latest`` entry that still leads to the step
    (every chance counts; ClickHouse's meaning), or at the user's ``first``. Entries lie in [``since``, ``until``),
    UTC microseconds. ``as_of`` hides what had not arrived by then.
    """
    definition = Funnel.of(steps, within, order, ties, reentry)
    for step in definition.steps:
        step.check(schema)
    plan = _Plan(definition, schema, since, until)
    parts = list(sweep(store, engine, plan.entries, plan.columns, as_of=as_of))
    return FunnelResult(definition, Entries.join(parts, len(definition.steps)))


@dataclass(frozen=True)
class _Plan:
    """A funnel made ready for a log: what is read, and how a bucket is answered."""

    definition: Funnel
    schema: Schema
    since: int | None = None
    until: int | None = None

    def __post_init__(self) -> None:
        if len(self.definition.expanded) > MOST_STEPS:
            raise ConfigError(
                f"a funnel holds at most {MOST_STEPS} steps, repeats counted; this one has {len(self.definition.expanded)}"
            )

    @property
    def selections(self) -> list[Any]:
        return [step.select for step in self.definition.expanded]

    @property
    def columns(self) -> list[str]:
        return columns_for(self.schema, self.selections)

    def entries(self, timelines: Timelines) -> Entries:
        """Answer a bucket."""
        start, done = self.rows(timelines)
        ends = self.definition.ends
        entered = np.flatnonzero(done[:, 0] >= 0)
        done, start = done[entered][:, ends], start[entered][:, ends]
        first = timelines.time[start[:, 0]] if len(entered) else np.zeros(0, np.int64)
        took = (
            np.where(done >= 0, timelines.time[done] - timelines.time[start], -1)
            if len(entered)
            else np.zeros((0, len(ends)), np.int64)
        )
        return Entries(timelines.users[entered].astype(np.int64), first, took)

    def rows(self, timelines: Timelines) -> tuple[I64, I64]:
        """Return start and done rows, int64 [units, expanded steps]."""
        d = self.definition
        count = len(d.expanded)
        start = np.full((len(timelines.users), count), -1, np.int64)
        done = np.full_like(start, -1)
        window = d.window.microseconds
        since = _EARLIEST if self.since is None else self.since
        until = _LATEST if self.until is None else self.until
        table = lookup(self.schema, self.selections)
        code: Any = timelines.type
        if table is None:
            table, code = np.unique(
                masks(self.schema, timelines, self.selections), return_inverse=True
            )
        optional = np.array([step.optional for step in d.expanded])
        kernels.latest_start(
            timelines.offsets, timelines.time, code, table, optional, window, since, until,
            d.reentry == "first", start, done,
        )  # fmt: skip
        return start, done


def compare(a: FunnelResult, b: FunnelResult) -> list[dict[str, Any]]:
    """Compare two periods or segments step by step: conversion of each, difference with interval, p-value.

    Raises ``NotEnoughDataError`` where one of them was entered by nobody.
    """
    if not len(a.entries) or not len(b.entries):
        raise NotEnoughDataError("a comparison needs entries on both sides; widen the period")
    found = []
    for k, step in enumerate(a.definition.steps):
        test = two_shares(a.users(k), a.users(0), b.users(k), b.users(0), a.level)
        found.append(
            {
                "event": step.label,
                "users": [a.users(k), b.users(k)],
                "conversion": [a.users(k) / a.users(0), b.users(k) / b.users(0)],
                **test,
            }
        )
    return found


def labels(values: Mapping[str, int]) -> dict[str, int]:
    """Return counts sorted by size, then name."""
    return dict(sorted(values.items(), key=lambda kv: (-kv[1], kv[0])))
