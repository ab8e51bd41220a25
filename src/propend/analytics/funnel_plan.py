"""A funnel made ready for a log: what is read of each bucket, and how a bucket is answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from propend.analytics import funnel_kernels as kernels
from propend.analytics.breakdown import Labeller, reads
from propend.analytics.entries import Entries
from propend.analytics.steps import MOST_STEPS, Step, columns_for, lookup, masks
from propend.analytics.units import Units, codes_of, split
from propend.errors import ConfigError, ExpressionError, nearest
from propend.events.timelines import Column, Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Expression
from propend.features.schema import Schema
from propend.names import SESSION

__all__ = ["Exclusion", "Funnel", "Plan"]

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Order = Literal["ordered", "strict", "any"]
Ties = Literal["sequence", "step"]
Reentry = Literal["latest", "first"]
Per = Literal["user", "session", "total"]

EARLIEST: Final = -(1 << 62)
LATEST: Final = (1 << 62) - 1
HALF_AN_HOUR: Final = Duration(30, "min")


@dataclass(frozen=True)
class Exclusion:
    """Events that may not lie between two neighbouring steps: before step ``before`` (1 is the first), or before any.

    >>> Exclusion.parse("3: remove where item = 'i1'").before
    3
    """

    select: Aggregate
    before: int | None = None

    @classmethod
    def parse(cls, text: str | Exclusion) -> Exclusion:
        """Read ``remove where …`` (between any two steps) or ``3: remove`` (between steps 2 and 3)."""
        if isinstance(text, Exclusion):
            return text
        numbered = re.match(r"\s*(\d+)\s*:(.*)$", text, re.DOTALL)
        step = Step.single(numbered.group(2) if numbered else text)
        return cls(step.select, int(numbered.group(1)) if numbered else None)

    @property
    def label(self) -> str:
        """The exclusion as text."""
        return (f"{self.before}: " if self.before else "") + Step(self.select).label


@dataclass(frozen=True)
class Funnel:
    """The definition of a funnel; :func:`propend.analytics.funnel.funnel` says what each word means."""

    steps: tuple[Step, ...]
    window: Duration
    order: Order = "ordered"
    ties: Ties = "sequence"
    reentry: Reentry = "latest"
    per: Per = "user"
    hold: tuple[str, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    session_gap: Duration = HALF_AN_HOUR

    @classmethod
    def of(
        cls,
        steps: Sequence[str | Expression | Step],
        within: str | Duration = "7d",
        order: str = "ordered",
        *,
        ties: str = "sequence",
        reentry: str = "latest",
        per: str = "user",
        hold: Sequence[str] = (),
        exclude: Sequence[str | Exclusion] = (),
        session_gap: str | Duration = "30min",
    ) -> Funnel:
        """Check and build; raises ``ConfigError`` or ``ExpressionError`` in one sentence."""
        for word, value, known in (
            ("order", order, get_args(Order)),
            ("ties", ties, get_args(Ties)),
            ("reentry", reentry, get_args(Reentry)),
            ("per", per, get_args(Per)),
        ):
            if value not in known:
                raise ConfigError(f"no {word} {value!r} of a funnel{nearest(value, known)}")
        made = cls(
            tuple(map(Step.parse, steps)),
            _length(within),
            order,  # type: ignore[arg-type]
            ties,  # type: ignore[arg-type]
            reentry,  # type: ignore[arg-type]
            per,  # type: ignore[arg-type]
            tuple(hold),
            tuple(map(Exclusion.parse, exclude)),
            _length(session_gap),
        )
        made._check()
        return made

    def _check(self) -> None:
        if len(self.steps) < 2:
            raise ConfigError(
                f"a funnel needs at least two steps, not {len(self.steps)}; for example: view,cart,purchase"
            )
        if self.steps[0].optional or self.steps[-1].optional:
            raise ExpressionError("the first and the last step of a funnel cannot be optional")
        if self.steps[0].least or self.steps[0].most:
            raise ExpressionError("the first step has no step before it; remove its [..] bounds")
        if any(s.optional and s.times > 1 for s in self.steps):
            raise ExpressionError("an optional step cannot be repeated; write it once")
        if len(self.expanded) + len(self.exclude) > MOST_STEPS:
            raise ConfigError(
                f"a funnel holds at most {MOST_STEPS} steps and exclusions, repeats counted; "
                f"this one has {len(self.expanded) + len(self.exclude)}"
            )
        for exclusion in self.exclude:
            if exclusion.before is not None and not 2 <= exclusion.before <= len(self.steps):
                raise ConfigError(
                    f"exclusion {exclusion.label!r}: the step it stands before is 2 to {len(self.steps)}"
                )
        if self.order == "any" and any(s.times > 1 for s in self.steps):
            raise ConfigError(
                "order 'any' counts single steps; write a repeated step several times"
            )
        if self.order == "any" and (
            self.bounded or self.reentry == "first" or any(s.optional for s in self.steps)
        ):
            raise ConfigError(
                "order 'any' knows no exclusions, time bounds, optional steps or first re-entry; use order 'ordered'"
            )
        if self.ties == "step" and (self.bounded or self.order != "ordered" or self.per == "total"):
            raise ConfigError(
                "ties by step work with plain ordered funnels per user or session only; use ties 'sequence'"
            )
        if self.ties == "step" and any(s.optional for s in self.steps):
            raise ConfigError("ties by step know no optional steps; use ties 'sequence'")
        if self.per == "total" and self.order == "any":
            raise ConfigError("totals count ordered or strict attempts; use order 'ordered'")

    @property
    def bounded(self) -> bool:
        """Whether neighbouring steps are bound to each other by time or exclusions."""
        return bool(self.exclude) or any(s.least or s.most for s in self.steps)

    @cached_property
    def expanded(self) -> tuple[Step, ...]:
        """The steps with each repeat as a step of its own (time bounds stay with the first of them)."""
        found = []
        for step in self.steps:
            found.append(replace(step, times=1))
            found += [Step(step.select, 1, step.optional)] * (step.times - 1)
        return tuple(found)

    @property
    def ends(self) -> list[int]:
        """The position among the expanded steps at which each step is complete."""
        return [int(e) for e in np.cumsum([step.times for step in self.steps]) - 1]

    @property
    def selections(self) -> list[Aggregate]:
        """What each bit of an event's mask stands for: the expanded steps, then the exclusions."""
        return [step.select for step in self.expanded] + [e.select for e in self.exclude]

    def label(self, step: int) -> str:
        """What a row of the answer is called: the step, or in any order how many of them."""
        if self.order == "any":
            return f"any {step + 1} of {len(self.steps)}"
        return self.steps[step].label

    def check(self, schema: Schema) -> None:
        """Check every name against the log."""
        for select in self.selections:
            schema.check(select)
        for name in self.hold:
            if name != SESSION:
                schema.event_column(tuple(name.split(".")))


def _length(text: str | Duration) -> Duration:
    return text if isinstance(text, Duration) else Duration.parse(text)


@dataclass(frozen=True)
class Plan:
    """A checked funnel with its period, its population and its breakdown."""

    definition: Funnel
    schema: Schema
    since: int | None = None
    until: int | None = None
    who: Callable[[Timelines], Bool] | None = None
    label: Labeller | None = None

    def columns(self) -> list[str]:
        """Return the event columns to read (those of ``who`` and ``label`` apart)."""
        d = self.definition
        wanted = dict.fromkeys(columns_for(self.schema, d.selections))
        if SESSION in self.schema.texts and (d.per == "session" or SESSION in d.hold):
            wanted[SESSION] = None
        for name in d.hold:
            if name != SESSION:
                wanted.update(dict.fromkeys(reads(self.schema, name)))
        return list(wanted)

    def entries(self, timelines: Timelines) -> Entries:
        """Answer a bucket."""
        who = None if self.who is None else self.who(timelines)
        found, user, entry = self._answer(timelines, None, who)
        if self.label is None or not len(found):
            return found
        if self.one_group:
            return replace(found, label=self.label(timelines, user, entry))
        return replace(found, groups=self._groups(timelines, who))

    @property
    def one_group(self) -> bool:
        """Whether whatever is counted has a single entry, so that a breakdown has it in one group."""
        d = self.definition
        return d.per == "total" or (d.reentry == "first" and not d.hold)

    def _answer(
        self, timelines: Timelines, opens: Bool | None, who: Bool | None
    ) -> tuple[Entries, I64, I64]:
        """Return what entered by the events that ``opens`` [n] allows, each one's user index, and its deepest entry's row.

        ``unit`` is the user index, or the row of the first event that is walked.
        """
        d = self.definition
        user, start, done, unit = self.rows(timelines, opens)
        if who is not None:
            keep = who[user]
            user, start, done, unit = user[keep], start[keep], done[keep], unit[keep]
        ends = np.array(d.ends if d.order != "any" else range(len(d.expanded)))
        n = len(user)
        kept, entry = np.empty((2, n), np.int64)
        at, took = np.empty((2, n, len(ends)), np.int64)
        n = kernels.resolve(timelines.time, start, done, ends, kept, entry, at, took)
        user, unit = user[kept[:n]], unit[kept[:n]]
        return Entries(timelines.users[user], at[:n], took[:n], unit), user, entry[:n]

    def _groups(self, timelines: Timelines, who: Bool | None) -> Entries:
        """Return for each unit and each group that it entered the funnel of the entries in that group.

        Every user is walked once per group, as if the user's other entries had not been; some at a time, so that the copies
        take no more memory than the bucket.
        """
        assert self.label is not None
        owner = timelines.user_of_row
        row = self._entry_rows(timelines)
        if who is not None:
            row = row[who[owner[row]]]
        label = self.label(timelines, owner[row], row)
        group = np.full(len(timelines), -2, np.int64)
        group[row] = label.codes
        width = len(label.values) + 1
        pair = np.unique(owner[row] * width + label.codes + 1)
        user, code = pair // width, pair % width - 1
        before = np.cumsum(np.diff(timelines.offsets)[user])
        parts = []
        for some in np.split(
            np.arange(len(pair)), np.flatnonzero(np.diff(before // max(len(timelines), 1))) + 1
        ):
            rows, copies = _copies(timelines, user[some])
            opens = group[rows] == code[some][copies.user_of_row]
            found, index, _ = self._answer(copies, opens, None)
            unit = user[some][index] if self.definition.per == "user" else rows[found.unit]
            names = Column(code[some][index].astype(np.int32), label.values)
            parts.append(replace(found, unit=unit, label=names))
        return Entries._join(parts, np.zeros(len(parts), np.int64))

    def _entry_rows(self, timelines: Timelines) -> I64:
        """Return the rows of the events that are entries."""
        d = self.definition
        bits = masks(self.schema, timelines, d.selections)
        steps = 1 if d.order != "any" else (1 << len(d.expanded)) - 1
        _, since, until, first = self._settings
        opens = (bits & steps != 0) & (timelines.time >= since) & (timelines.time < until)
        if first:
            units = self._units(timelines)[0]
            order = np.arange(len(timelines)) if units.rows is None else units.rows
            at = np.flatnonzero(opens[order])
            unit = np.repeat(np.arange(len(units.user)), np.diff(units.offsets))[at]
            return order[at[np.unique(unit, return_index=True)[1]]]
        return np.flatnonzero(opens)

    def rows(self, timelines: Timelines, opens: Bool | None = None) -> tuple[I64, I64, I64, I64]:
        """Return user index [m], per expanded step the entry's row and the row it was first reached at [m, k], and the unit [m].

        ``opens`` [n] says which events may be entries (``None``: any of the first step).
        """
        d = self.definition
        units, bits, keys = self._units(timelines)
        if d.per == "total":
            user, start, done, _ = self._attempts(timelines, units, bits)
            return user, start, done, np.arange(len(user))
        start, done = self._walk(timelines, units, bits, opens)
        if units.rows is not None:
            start, done = _original(start, units.rows), _original(done, units.rows)
        if d.per == "session":
            rows = np.arange(len(timelines)) if units.rows is None else units.rows
            return units.user, start, done, rows[units.offsets[:-1]]
        if keys:
            users = len(timelines.users)
            user, start, done = _earliest(units.user, users, timelines.time, start, done)
        else:
            user = units.user
        return user, start, done, user

    def unended(self, timelines: Timelines) -> Bool:
        """Return the events [n] since the entry of each attempt (``per`` total) that has not ended."""
        units, bits, _ = self._units(timelines)
        entry = self._attempts(timelines, units, bits)[3]
        unit = np.repeat(np.arange(len(units.user)), np.diff(units.offsets))
        at = np.arange(len(unit))
        since = (entry[unit] >= 0) & (at >= entry[unit])
        found = np.zeros(len(timelines), np.bool_)
        found[at[since] if units.rows is None else units.rows[since]] = True
        return found

    def _units(self, timelines: Timelines) -> tuple[Units, I64 | None, bool]:
        """Return whose events are walked, the events' bits where they were needed, and whether users are split."""
        d = self.definition
        gap = d.session_gap.microseconds
        keys = [codes_of(name, timelines, self.schema, gap) for name in d.hold]
        if d.per == "session":
            keys.insert(0, codes_of(SESSION, timelines, self.schema, gap))
        if not keys and d.order == "ordered" and d.per != "total" and not d.bounded:
            units, bits = Units(np.arange(len(timelines.users)), timelines.offsets), None
        else:
            bits = masks(self.schema, timelines, d.selections)
            units = split(timelines, keys, None if d.order == "strict" or not keys else bits != 0)
        return units, bits, bool(keys)

    def _walk(
        self, timelines: Timelines, units: Units, bits: I64 | None, opens: Bool | None
    ) -> tuple[I64, I64]:
        """Run the pass that the definition needs."""
        d = self.definition
        start = np.full((len(units.user), len(d.expanded)), -1, np.int64)
        done = np.full_like(start, -1)
        window, since, until, first = self._settings
        time = units.take(timelines.time)
        if d.order == "any":
            code = units.take(self._bits(timelines, bits))
            allowed = np.ones(len(time), np.bool_) if opens is None else units.take(opens)
            kernels.any_order(
                units.offsets, time, code, allowed, self._same, window, since, until, start, done
            )
        elif d.order == "strict" or d.bounded:
            all_bits = self._bits(timelines, bits)
            if opens is not None:
                all_bits = np.where(opens, all_bits, all_bits & ~1)
            code = units.take(all_bits)
            kernels.constrained(
                units.offsets, time, code, self._optional, window, since, until, first,
                d.order == "strict", *self._bounds, start, done,
            )  # fmt: skip
        else:
            table, code = self._coded(timelines, bits)
            if opens is not None:  # the second half of the table is of events that are no entries
                code = np.where(opens, code, code + np.int64(len(table)))
                table = np.append(table, table & ~1)
            code = units.take(code)
            if d.ties == "step":
                kernels.latest_start_by_step(
                    units.offsets, time, code, table, window, since, until, first,
                    len(d.expanded), start, done,
                )  # fmt: skip
            else:
                kernels.latest_start(
                    units.offsets, time, code, table, self._optional, window, since, until, first,
                    start, done,
                )  # fmt: skip
        return start, done

    def _attempts(
        self, timelines: Timelines, units: Units, bits: I64 | None
    ) -> tuple[I64, I64, I64, I64]:
        """Return every attempt as if it were a user of its own, and per unit the entry of the one still open (or −1)."""
        d = self.definition
        code = units.take(self._bits(timelines, bits))
        most = int((code & 1).sum())
        unit = np.empty(most, np.int64)
        done = np.full((most, len(d.expanded)), -1, np.int64)
        unended = np.empty(len(units.user), np.int64)
        window, since, until, _ = self._settings
        count = kernels.greedy(
            units.offsets, units.take(timelines.time), code, self._optional, window, since, until,
            d.order == "strict", *self._bounds, unit, done, unended,
        )  # fmt: skip
        done = done[:count]
        if units.rows is not None:
            done = _original(done, units.rows)
        start = np.where(done >= 0, done[:, :1], -1)
        return units.user[unit[:count]], start, done, unended

    def _bits(self, timelines: Timelines, bits: I64 | None) -> I64:
        return masks(self.schema, timelines, self.definition.selections) if bits is None else bits

    def _coded(self, timelines: Timelines, bits: I64 | None) -> tuple[I64, Any]:
        """Return a table and codes into it: the event types themselves where no step has a filter."""
        table = lookup(self.schema, self.definition.selections)
        if table is not None:
            return table, timelines.type
        table, code = np.unique(self._bits(timelines, bits), return_inverse=True)
        return table, code

    @property
    def _settings(self) -> tuple[int, int, int, bool]:
        since = EARLIEST if self.since is None else self.since
        until = LATEST if self.until is None else self.until
        return self.definition.window.microseconds, since, until, self.definition.reentry == "first"

    @property
    def _optional(self) -> Bool:
        return np.array([step.optional for step in self.definition.expanded])

    @property
    def _same(self) -> I64:
        selects = [step.select for step in self.definition.expanded]
        return np.array([selects.index(s) for s in selects], np.int64)

    @property
    def _bounds(self) -> tuple[I64, I64, I64]:
        """Return least and most time before each expanded step, and the bits of the events excluded before it."""
        d = self.definition
        least = np.array([s.least.microseconds if s.least else 0 for s in d.expanded], np.int64)
        most = np.array([s.most.microseconds if s.most else LATEST for s in d.expanded], np.int64)
        number = np.repeat(np.arange(1, len(d.steps) + 1), [s.times for s in d.steps])
        excluded = np.zeros(len(d.expanded), np.int64)
        for bit, exclusion in enumerate(d.exclude, start=len(d.expanded)):
            here = True if exclusion.before is None else number == exclusion.before
            excluded |= np.where(here, np.int64(1) << np.int64(bit), np.int64(0))
        return least, most, excluded


def _copies(timelines: Timelines, users: I64) -> tuple[I64, Timelines]:
    """Return the rows of some users, by index, again for each time one is named, and the timelines of these rows."""
    lengths = np.diff(timelines.offsets)[users]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(timelines.offsets[users] - offsets[:-1], lengths)
    return rows, timelines.users_at(users)


def _original(rows: I64, order: I64) -> I64:
    """Map rows of a reordered log back; −1 stays."""
    return np.where(rows >= 0, order[np.maximum(rows, 0)], -1) if len(order) else rows


def _earliest(unit_user: I64, users: int, time: I64, start: I64, done: I64) -> tuple[I64, I64, I64]:
    """Return per user and step the unit that reached it first (among equals the one with the latest entry)."""
    steps = done.shape[1]
    first, entry = np.full((users, steps), -1, np.int64), np.full((users, steps), -1, np.int64)
    for k in range(steps):
        there = np.flatnonzero(done[:, k] >= 0)
        order = there[np.lexsort((-start[there, k], time[done[there, k]], unit_user[there]))]
        owner, at = np.unique(unit_user[order], return_index=True)
        first[owner, k], entry[owner, k] = done[order[at], k], start[order[at], k]
    return np.arange(users), entry, first
