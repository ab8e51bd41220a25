"""Funnels: how many go from step to step, how long it takes, who they are, and how sure the figures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import NONE, labeller
from propend.analytics.entries import Entries
from propend.analytics.funnel_plan import Exclusion, Funnel, Plan
from propend.analytics.people import profiles, who_filter
from propend.analytics.scan import sweep
from propend.analytics.statistics import benjamini_hochberg, two_shares, wilson
from propend.analytics.steps import Step
from propend.engine import Engine
from propend.errors import ConfigError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import MICROSECONDS

__all__ = ["FunnelResult", "compare", "funnel", "funnels"]

I64 = npt.NDArray[np.int64]
MOST_GROUPS: Final = 12
"""Most groups of a breakdown that are shown; the smaller ones are one group, ``(other)``."""


@dataclass(frozen=True)
class FunnelResult:
    """The answer: ``entries`` hold every figure; :meth:`to_dict` is the document that is printed."""

    definition: Funnel
    entries: Entries
    by: str | None = None
    level: float = 0.95
    end: int | None = None
    """The last moment of the log (UTC microseconds)."""

    def users(self, step: int) -> int:
        """Return how many reached a step (0 is the first)."""
        return int((self.entries.took[:, step] >= 0).sum())

    def audience(self, step: int, *, dropped: bool = False) -> I64:
        """Return the codes of the users who reached a step, ascending; ``dropped``: of those who came no further.

        Raises ``ConfigError`` for a step that is not there.
        """
        if not 0 <= step < len(self.definition.steps):
            raise ConfigError(
                f"no step {step + 1}; the funnel has steps 1 to {len(self.definition.steps)}"
            )
        took = self.entries.took
        reached = np.unique(self.entries.user[took[:, step] >= 0])
        if not dropped:
            return reached
        if step == len(self.definition.steps) - 1:
            raise ConfigError("nobody can drop out after the last step; name an earlier step")
        further = (took[:, step + 1 :] >= 0).any(axis=1)
        return np.setdiff1d(reached, self.entries.user[further])

    def membership(
        self, step: int, users: I64, *, dropped: bool = False
    ) -> npt.NDArray[np.float64]:
        """Return 1.0 for those of ``users`` (codes) in the audience, else 0.0.

        Given to :func:`propend.features.evaluate.evaluate` as the score of a name, the audience stands in expressions:
        ``p(left_cart) >= 1 and none(purchase) last 1d``.
        """
        return np.isin(users, self.audience(step, dropped=dropped)).astype(np.float64)

    def histogram(self, step: int = -1, bins: int = 20) -> dict[str, list[float]]:
        """Return the distribution of the time to reach a step: edges in seconds [bins + 1] and counts [bins]."""
        took = self.entries.took[:, step]
        seconds = took[took >= 0] / MICROSECONDS
        most = float(seconds.max(initial=0.0)) or 1.0
        counts, edges = np.histogram(seconds, bins, (0.0, most))
        return {"edges": edges.tolist(), "counts": counts.tolist()}

    def groups(self) -> dict[str, FunnelResult]:
        """Return the result of each group of the breakdown, the largest first, small ones as ``(other)``.

        A group is the funnel of its entries alone, so who entered by several is in each of them.
        """
        entries = self.entries if self.entries.groups is None else self.entries.groups
        label = entries.label
        if label is None:
            return {}
        sizes = np.bincount(label.codes + 1, minlength=len(label.values) + 1)
        names = (NONE, *label.values)
        ranked = sorted(np.flatnonzero(sizes), key=lambda c: (-sizes[c], names[c]))
        shown = ranked if len(ranked) <= MOST_GROUPS else ranked[: MOST_GROUPS - 1]
        found = {names[c]: self._with(entries.select(label.codes + 1 == c)) for c in shown}
        if len(shown) < len(ranked):
            rest = entries.select(~np.isin(label.codes + 1, shown))
            found["(other)"] = self._with(rest.merged())
        return found

    def _with(self, entries: Entries) -> FunnelResult:
        return replace(self, entries=replace(entries, label=None), by=None)

    @property
    def closed(self) -> npt.NDArray[np.bool_]:
        """Which of the entries [m] had a whole window, from the first entry on, before the log ended."""
        first = self.entries.at[:, 0] - self.entries.took[:, 0]
        end = first.max(initial=0) + self.definition.window.microseconds
        return first + self.definition.window.microseconds <= (
            end if self.end is None else self.end
        )

    def whole(self) -> FunnelResult:
        """Return the funnel of those who had a whole window: what comparisons are made of."""
        return self._with(self.entries.select(self.closed))

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"steps": [{"event", "users", "conversion", "low", "high", "median_seconds", …}], "window", "order", …}``.

        ``conversion`` is the share of those who entered, ``from_previous`` of those who reached the last required
        step before; ``low`` and ``high`` are Wilson's interval of ``conversion``; times are seconds since the entry.
        """
        d = self.definition
        document: dict[str, Any] = {
            "steps": self._steps(),
            "window": str(d.window),
            "order": d.order,
            "per": d.per,
            "ties": d.ties,
            "reentry": "first chance" if d.per == "total" else d.reentry,
            "level": self.level,
            "time_to_convert": self.histogram(),
            "open": self._open(),
        }
        if d.hold:
            document["hold"] = list(d.hold)
        if d.exclude:
            document["exclude"] = [e.label for e in d.exclude]
        if self.by is not None:
            document["by"] = self.by
            document["groups"] = self._group_rows()
        return document

    def _open(self) -> int:
        """Return how many have not reached the last step and had no whole window yet: they may still."""
        return int((~self.closed & (self.entries.took[:, -1] < 0)).sum())

    def _steps(self) -> list[dict[str, Any]]:
        rows, before = [], self.users(0)
        for k, step in enumerate(self.definition.steps):
            row = self._step(k, before)
            rows.append(row)
            if not step.optional:
                before = row["users"]
        return rows

    def _step(self, k: int, before: int) -> dict[str, Any]:
        entered, reached = self.users(0), self.users(k)
        low, high = wilson(reached, entered, self.level)
        previous_low, previous_high = wilson(reached, before, self.level)
        took = self.entries.took[:, k]
        seconds = took[took >= 0] / MICROSECONDS
        quartiles = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist() if len(seconds) else [None] * 3
        return {
            "event": self.definition.label(k),
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

    def _group_rows(self) -> list[dict[str, Any]]:
        """Each group's steps, and its last conversion against those who never entered by it, with the false-discovery rate.

        Only those who had a whole window are compared.
        """
        found: list[dict[str, Any]] = []
        whole = self.whole()
        for name, group in self.groups().items():
            one = group.whole()
            others = ~np.isin(whole.entries.unit, group.entries.unit)
            rest = whole._with(whole.entries.select(others))
            test = two_shares(
                one.users(-1), one.users(0), rest.users(-1), rest.users(0), self.level
            )
            found.append(
                {
                    "group": name,
                    "steps": group._steps(),
                    "open": group._open(),
                    "against_rest": test,
                }
            )
        q = benjamini_hochberg([row["against_rest"]["p_value"] for row in found])
        for row, value in zip(found, q, strict=True):
            row["against_rest"]["q_value"] = float(value)
        return found


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
    per: str = "user",
    hold: Sequence[str] = (),
    exclude: Sequence[str | Exclusion] = (),
    by: str | None = None,
    who: str | Expression | None = None,
    session_gap: str | Duration = "30min",
    since: int | None = None,
    until: int | None = None,
    as_of: int | None = None,
) -> FunnelResult:
    """Count users from step to step, in one pass over each bucket.

    ``steps``: see :meth:`Step.parse`. ``within`` bounds the time from the entry to each step (inclusive). ``order``:
    ``ordered`` (other events may lie between), ``strict`` (none may), ``any``. ``ties``: events of one moment count in their
    stored ``sequence``, or by ``step`` as ClickHouse does. ``reentry``: the clock starts at the ``latest`` entry that still
    leads to the step (every chance counts; ClickHouse's meaning), or at the ``first``. ``per``: a user counts once, each
    ``session`` counts, or in ``total`` every attempt does; a breakdown has a user (or session) in every group entered.
     ``hold``: properties that must be the same at every step.
    ``exclude``: see :meth:`Exclusion.parse`. ``by``: see :func:`propend.analytics.breakdown.labeller`. ``who``: only users
    for whom this holds at the end of the period. Entries lie in [``since``, ``until``), UTC microseconds; ``as_of`` hides
    what had not arrived by then. In order ``any``, row k counts those who did k of the steps within one window.
    """
    definition = Funnel.of(
        steps, within, order, ties=ties, reentry=reentry, per=per, hold=hold, exclude=exclude,
        session_gap=session_gap,
    )  # fmt: skip
    return funnels(
        store, schema, engine, [definition], by=by, who=who, since=since, until=until, as_of=as_of
    )[0]


def funnels(
    store: Store,
    schema: Schema,
    engine: Engine,
    definitions: Sequence[Funnel],
    *,
    by: str | None = None,
    who: str | Expression | None = None,
    since: int | None = None,
    until: int | None = None,
    as_of: int | None = None,
) -> list[FunnelResult]:
    """Answer several funnels while each bucket is read once; see :func:`funnel`."""
    if since is not None and until is not None and since >= until:
        raise ConfigError("the period is empty: it ends before it begins; swap since and until")
    moment = min(x for x in (until, as_of, schema.last + 1) if x is not None)
    columns, holds = who_filter(store, schema, who, moment)
    label = None
    if by is not None:
        more, label = labeller(by, schema, profiles(store, schema))
        columns = [*columns, *more]
    plans = []
    for definition in definitions:
        definition.check(schema)
        plan = Plan(definition, schema, since, until, holds, label)
        plans.append(plan)
        columns = [*columns, *plan.columns()]

    def work(timelines: Timelines) -> list[Entries]:
        return [plan.entries(timelines) for plan in plans]

    parts = list(sweep(store, engine, work, list(dict.fromkeys(columns)), as_of=as_of))
    end = schema.last if as_of is None else min(schema.last, as_of)
    return [
        FunnelResult(d, Entries.join([part[i] for part in parts], len(d.steps)), by, end=end)
        for i, d in enumerate(definitions)
    ]


def compare(a: FunnelResult, b: FunnelResult) -> list[dict[str, Any]]:
    """Compare two periods or segments step by step: conversion of each, difference with interval, p- and q-value.

    Who had no whole window before the log ended is left out, converted or not. Raises ``NotEnoughDataError`` where nobody
    is left on a side.
    """
    a, b = a.whole(), b.whole()
    if not len(a.entries) or not len(b.entries):
        raise NotEnoughDataError(
            "a comparison needs entries on both sides whose window is over; widen the period or shorten the window"
        )
    found = []
    for k in range(len(a.definition.steps)):
        test = two_shares(a.users(k), a.users(0), b.users(k), b.users(0), a.level)
        found.append(
            {
                "event": a.definition.label(k),
                "users": [a.users(k), b.users(k)],
                "conversion": [a.users(k) / a.users(0), b.users(k) / b.users(0)],
                **test,
            }
        )
    q = benjamini_hochberg([row["p_value"] for row in found[1:]])
    for row, value in zip(found, [1.0, *q], strict=True):
        row["q_value"] = float(value)
    return found
