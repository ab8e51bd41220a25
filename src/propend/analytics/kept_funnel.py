"""Funnels that are kept up to date: which state each kind needs so that only new events are read.

Plain ordered funnels keep, per user and step, the latest entry that leads to it and when it was first reached. Funnels with
conditions between steps keep the events of the last window, too: an older entry leads to nothing new. Funnels per session
keep each user's last session, totals the attempt that is still open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import labeller, merge_labels
from propend.analytics.entries import Entries
from propend.analytics.funnel import FunnelResult
from propend.analytics.funnel_plan import EARLIEST, Funnel, Plan
from propend.analytics.kept import Adding, Part, Question, grown, join, pack, unpack
from propend.analytics.nodes import beyond
from propend.analytics.paths import last_sessions
from propend.analytics.steps import coded
from propend.events.timelines import Column, Timelines
from propend.features.schema import Schema
from propend.names import SESSION

__all__ = ["funnel_question"]

I64 = npt.NDArray[np.int64]


def funnel_question(definition: Funnel, schema: Schema, by: str | None = None) -> Question:
    """Return the question to keep; :class:`propend.analytics.kept.Kept` says where it cannot be.

    A breakdown is by a field of the entry event or by its day, week or month.
    """
    definition.check(schema)
    d = definition
    if d.per == "session":
        return _OfSessions(d, schema, by)
    if d.per == "total":
        return _OfTotals(d, schema, by)
    if (
        by is None
        and d.order == "ordered"
        and d.ties == "sequence"
        and not d.hold
        and not d.bounded
    ):
        return _Plain(d, schema, by)
    return _Windowed(d, schema, by)


class _OfFunnel(Question):
    """What kept funnels share."""

    def __init__(self, definition: Funnel, schema: Schema, by: str | None) -> None:
        self.definition, self.schema, self.by = definition, schema, by
        self.plan = Plan(definition, schema)
        label, more = None, list[str]()
        if by is not None and not self.refused():
            more, label = labeller(by, schema, lambda _: {})
        self.plan = Plan(definition, schema, label=label)
        self.columns = list(dict.fromkeys([*self.plan.columns(), *more]))
        fields = [*definition.hold, *([] if by is None else [by])]
        self.rest_on(schema, definition.selections, fields)
        self.key = f"{type(self).__name__} {definition!r} {by}"

    def refused(self) -> str:
        """Return why the funnel cannot be kept, or nothing."""
        if self.by is not None and self.definition.per == "user" and not self.plan.one_group:
            return "a user counts in every group that was entered, which is not kept; write reentry 'first' or per 'total'"
        return "" if self.by is None else beyond(self.by)

    def document(self, parts: Iterable[Part]) -> FunnelResult:
        """Return the funnel."""
        steps = len(self.definition.steps)
        found = [_entries(p) for p in parts if len(p["user"])]
        return FunnelResult(
            self.definition, Entries.join(found, steps), self.by, end=self.schema.last
        )


def _part(e: Entries) -> Part:
    """Return entries as arrays that add."""
    found: Part = {"user": e.user, "at": e.at, "took": e.took, "unit": e.unit}
    if e.label is not None:
        found |= {"label": e.label.codes, "labels": np.array(e.label.values, np.str_)}
    if e.groups is not None:
        found |= {f"groups/{name}": value for name, value in _part(e.groups).items()}
    return found


def _entries(p: Part) -> Entries:
    label = Column(p["label"], tuple(p["labels"].tolist())) if "label" in p else None
    inner = {n.removeprefix("groups/"): v for n, v in p.items() if n.startswith("groups/")}
    groups = _entries(inner) if inner else None
    return Entries(p["user"], p["at"], p["took"], p["unit"], label, groups)


@nb.njit(cache=True, nogil=True)
def advance(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    optional: Any,
    window: int,
    first_only: bool,
    owner: Any,
    state: Any,
    start: Any,
    done: Any,
) -> None:
    """Go on with the users' states over further events: as ``latest_start``, with moments in place of rows.

    User ``u`` of the events is row ``owner[u]`` of ``state``, ``start`` and ``done`` [users, steps]; EARLIEST is none.
    """
    none = np.int64(-(1 << 62))
    steps = len(optional)
    for u in range(len(offsets) - 1):
        w = owner[u]
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            now = time[i]
            for k in range(steps - 1, 0, -1):
                if (bits >> k) & 1 == 0:
                    continue
                best = state[w, k - 1]
                p = k - 1
                while p > 0 and optional[p]:
                    p -= 1
                    if state[w, p] > best:
                        best = state[w, p]
                if best == none or now - best > window:
                    continue
                if best > state[w, k]:
                    state[w, k] = best
                if done[w, k] == none:
                    done[w, k] = now
                    start[w, k] = best
            if bits & 1 and not (first_only and state[w, 0] != none):
                state[w, 0] = now
                if done[w, 0] == none:
                    done[w, 0] = now
                    start[w, 0] = now


class _Plain(_OfFunnel):
    """An ordered funnel per user; nothing but each user's state is kept."""

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Go on with the users' states."""
        d = self.definition
        steps = len(d.expanded)

        def none(n: int) -> I64:
            return np.full((n, steps), EARLIEST, np.int64)

        found, owner = grown(state, timelines.users, {"state": none, "start": none, "done": none})
        table, code = coded(self.schema, timelines, d.selections)
        optional = np.array([step.optional for step in d.expanded])
        advance(
            timelines.offsets, timelines.time, code, table, optional, d.window.microseconds,
            d.reentry == "first", owner, found["state"], found["start"], found["done"],
        )  # fmt: skip
        return found

    def of_state(self, state: Part) -> Part:
        """Return the entries."""
        ends = self.definition.ends
        keep = state["done"][:, ends[0]] != EARLIEST
        done, start = state["done"][keep][:, ends], state["start"][keep][:, ends]
        reached = done != EARLIEST
        took = np.where(reached, done - start, -1)
        user = state["users"][keep]
        return _part(Entries(user, np.where(reached, done, -1), took, np.arange(len(user))))


class _Windowed(_OfFunnel):
    """Any funnel per user: what was reached, and the events of the last window, which alone can still lead further."""

    def refused(self) -> str:
        """Return why the funnel cannot be kept, or nothing."""
        if self.definition.hold and self.definition.reentry == "first":
            return "with held properties and the first entry only, every value's first entry would have to be remembered"
        return super().refused()

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Answer the events of the window and the new ones; what was reached before stays."""
        d = self.definition
        window, t = d.window.microseconds, timelines
        if state is not None:
            t = join(unpack(state), t)
            if d.reentry == "first":  # a user whose only entry is out of the window gets no further
                over = (state["at"][:, 0] >= 0) & (state["at"][:, 0] < state["high"] - window)
                t = t.select(~np.isin(t.users[t.user_of_row], state["users"][over]))
        ends = np.array(d.ends if d.order != "any" else range(len(d.expanded)))
        user, start, done, _ = self.plan.rows(t)
        start, done = start[:, ends], done[:, ends]

        def none(n: int) -> I64:
            return np.full((n, len(ends)), -1, np.int64)

        empty = {"at": none, "begin": none}
        if self.by is not None:
            empty["label"] = lambda n: np.full(n, -1, np.int64)
        found, owner = grown(state, t.users, empty)
        w = owner[user]
        new = (done >= 0) & (found["at"][w] < 0)
        at = np.where(new, t.time[done], found["at"][w])
        found["begin"][w] = np.where(new, t.time[start], found["begin"][w])
        found["at"][w] = at
        if self.plan.label is not None:  # every user has one entry, the first
            known = () if state is None else tuple(state["labels"].tolist())
            fresh = self.plan.label(t, user[new[:, 0]], start[new[:, 0], 0])
            both = merge_labels([Column(found["label"].astype(np.int32), known), fresh])
            n = len(found["label"])
            found["label"] = both.codes[:n].astype(np.int64)
            found["label"][w[new[:, 0]]] = both.codes[n:]
            found["labels"] = np.array(both.values, np.str_)
        found["high"] = np.int64(
            max(t.time.max(initial=EARLIEST), EARLIEST if state is None else state["high"])
        )
        return {**found, **pack(t.select(t.time >= found["high"] - window))}

    def of_state(self, state: Part) -> Part:
        """Return the entries."""
        keep = state["at"][:, 0] >= 0
        at = state["at"][keep]
        took = np.where(at >= 0, at - state["begin"][keep], -1)
        label = None
        if "label" in state:
            codes = state["label"][keep].astype(np.int32)
            label = Column(codes, tuple(state["labels"].tolist()))
        user = state["users"][keep]
        return _part(Entries(user, at, took, np.arange(len(user)), label))


class _AddingFunnel(_OfFunnel, Adding):
    """A funnel whose entries stand for themselves: sessions, or attempts."""

    def whole(self, timelines: Timelines) -> Part:
        """Return the entries of some events."""
        return _part(self.plan.entries(timelines))

    def add(self, a: Part, b: Part) -> Part:
        """Return the entries of both, user by user."""
        both = Entries.join([_entries(a), _entries(b)], len(self.definition.steps))
        order = np.argsort(both.user, kind="stable")
        return _part(replace(both.select(order), groups=both.groups))


class _OfSessions(_AddingFunnel):
    """A funnel per session; a state holds each user's last one."""

    def refused(self) -> str:
        """Return why the funnel cannot be kept, or nothing."""
        if SESSION in self.schema.texts:
            return "a session that the log names may go on at any later time"
        return super().refused()

    def open_(self, timelines: Timelines) -> Any:
        """Return the events of each user's last session."""
        out = np.zeros(len(timelines), np.bool_)
        none, gap = np.zeros(0, np.int32), self.definition.session_gap.microseconds
        last_sessions(timelines.offsets, timelines.time, none, gap, out)
        return out


class _OfTotals(_AddingFunnel):
    """Every attempt; a state holds the one that is open."""

    def refused(self) -> str:
        """Return why the funnel cannot be kept, or nothing."""
        if SESSION in self.definition.hold:
            return "attempts within a session need all of its events"
        return super().refused()

    def open_(self, timelines: Timelines) -> Any:
        """Return the events since the entry of each attempt that has not ended."""
        return self.plan.unended(timelines)
