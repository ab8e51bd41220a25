"""Retention: of those who started in a period, what share came back in each period after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numba as nb
import numpy as np

from propend.analytics.kept import Part, Question, ask, grown
from propend.analytics.periods import boundaries, check_unit, iso
from propend.analytics.statistics import wilson
from propend.analytics.steps import Step, coded, columns_for
from propend.engine import Engine
from propend.errors import ConfigError, nearest
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import DAY

__all__ = ["ElapsedQuestion", "RetentionQuestion", "elapsed_retention", "retention"]

Mode = Literal["on", "unbounded"]


@nb.njit(cache=True, nogil=True)
def mark_periods(
    offsets: Any, time: Any, code: Any, table: Any, bounds: Any, owner: Any, first: Any, marks: Any
) -> None:
    """Go on marking users' periods: ``first`` [w] is the period of the first start (−1: none yet), ``marks`` [w, 2, words]
    have a bit for every period with a start and with a return (a return counts from the first start on).

    Bit 0 of ``table[code[i]]`` marks a start, bit 1 a return; user ``u`` of the events is row ``owner[u]``.
    """
    periods = len(bounds) - 1
    for u in range(len(offsets) - 1):
        w = owner[u]
        begun = first[w]
        p = 0
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            if time[i] >= bounds[p + 1]:
                while p + 1 < periods and time[i] >= bounds[p + 1]:
                    p += 1
            one = np.uint64(1) << np.uint64(p & 63)
            if bits & 1:
                if begun < 0:
                    begun = p
                marks[w, 0, p >> 6] |= one
            if bits & 2 and begun >= 0:
                marks[w, 1, p >> 6] |= one
        first[w] = begun


@nb.njit(cache=True, nogil=True)
def count_periods(first: Any, marks: Any, recurring: bool, unbounded: bool, back: Any) -> None:
    """Add to ``back`` [p, k] the users of cohort p who were back k periods later; ``back[p, periods]`` is the cohort's size.

    First-time: a user's cohort is the period of the first start; recurring: every period with a start. Unbounded: back
    in that period or any later one.
    """
    periods = back.shape[1] - 1
    came = np.empty(periods, np.int64)
    for w in range(len(first)):
        begun = first[w]
        if begun < 0:
            continue
        count = 0
        for p in range(begun, periods):
            if (marks[w, 1, p >> 6] >> np.uint64(p & 63)) & np.uint64(1):
                came[count] = p
                count += 1
        for c in range(begun, periods if recurring else begun + 1):
            if not (marks[w, 0, c >> 6] >> np.uint64(c & 63)) & np.uint64(1):
                continue
            back[c, periods] += 1
            if unbounded:
                for p in range(c, came[count - 1] + 1 if count else 0):
                    back[c, p - c] += 1
            else:
                for j in range(count):
                    if came[j] >= c:
                        back[c, came[j] - c] += 1


class _Sides(Question):
    """What retention and survival share: a start and a return, read from the log."""

    def __init__(
        self,
        schema: Schema,
        start: str | Expression | Step | None,
        back: str | Expression | Step | None,
        unit: str,
    ) -> None:
        self.schema, self.unit = schema, check_unit(unit)
        self.sides = [Step.single("*" if side is None else side) for side in (start, back)]
        for side in self.sides:
            side.check(schema)
        self.selections = [side.select for side in self.sides]
        self.columns = columns_for(schema, self.selections)
        self.bounds = boundaries(schema.first, schema.last, unit, schema.zone)
        self.rest_on(schema, self.selections, more=int(self.bounds[0]))
        self.key = f"{type(self).__name__} {unit} {[str(s) for s in self.selections]}"


class RetentionQuestion(_Sides):
    """Retention by calendar period; see :func:`retention`. A state holds two bits per user and period."""

    def __init__(
        self,
        schema: Schema,
        unit: str = "month",
        start: str | Expression | Step | None = None,
        back: str | Expression | Step | None = None,
        *,
        mode: str = "on",
        recurring: bool = False,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"no retention mode {mode!r}{nearest(mode, get_args(Mode))}")
        super().__init__(schema, start, back, unit)
        self.mode, self.recurring = mode, recurring

    @property
    def periods(self) -> int:
        """Number of periods."""
        return len(self.bounds) - 1

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Mark the periods of further events."""
        words = -(-self.periods // 64)

        def empty(n: int) -> Any:
            return np.zeros((n, 2, words), np.uint64)

        if state is not None and state["marks"].shape[2] < words:
            more = words - state["marks"].shape[2]
            state = {**state, "marks": np.pad(state["marks"], ((0, 0), (0, 0), (0, more)))}
        found, owner = grown(
            state, timelines.users, {"first": lambda n: np.full(n, -1, np.int64), "marks": empty}
        )
        table, code = coded(self.schema, timelines, self.selections)
        mark_periods(
            timelines.offsets, timelines.time, code, table, self.bounds, owner, found["first"],
            found["marks"],
        )  # fmt: skip
        return found

    def of_state(self, state: Part) -> Part:
        """Return cohort sizes and returns [p, p + 1]."""
        back = np.zeros((self.periods, self.periods + 1), np.int64)
        count_periods(
            state["first"], state["marks"], self.recurring, self.mode == "unbounded", back
        )
        return {"back": back}

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the cohort table."""
        back = np.zeros((self.periods, self.periods + 1), np.int64)
        for part in parts:
            back += part["back"]
        return _document(
            self.unit, self.mode, self.recurring, self.sides, self.bounds, back[:, -1],
            back[:, :-1], self.schema,
        )  # fmt: skip


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
    question = RetentionQuestion(schema, unit, start, back, mode=mode, recurring=recurring)
    return ask(question, store, engine, as_of=as_of)


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
def mark_elapsed(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    low: Any,
    high: Any,
    owner: Any,
    first: Any,
    came: Any,
) -> None:
    """Go on noting each user's first start (``first`` [w], −1: none yet) and the brackets they were back in (``came`` [w, b]).

    A bracket is [first start + ``low[b]``, first start + ``high[b]``).
    """
    for u in range(len(offsets) - 1):
        w = owner[u]
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            if first[w] < 0:
                if bits & 1 == 0:
                    continue
                first[w] = time[i]
            if bits & 2:
                passed = time[i] - first[w]
                for b in range(len(low)):
                    if low[b] <= passed < high[b]:
                        came[w, b] = True


class ElapsedQuestion(_Sides):
    """Retention on each user's own clock; see :func:`elapsed_retention`."""

    def __init__(
        self,
        schema: Schema,
        brackets: Sequence[tuple[int, int]],
        start: str | Expression | Step | None = None,
        back: str | Expression | Step | None = None,
        *,
        unit: str = "month",
    ) -> None:
        if not brackets or any(not 0 <= a < b for a, b in brackets):
            raise ConfigError(
                f"brackets are days from–to with from < to, for example 1-2,7-8,30-31; not {list(brackets)}"
            )
        super().__init__(schema, start, back, unit)
        self.brackets = [(int(a), int(b)) for a, b in brackets]
        self.low, self.high = (np.array([b[i] for b in brackets], np.int64) * DAY for i in (0, 1))
        self.key += f" {self.brackets}"

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Note the brackets of further events."""
        empty = {
            "first": lambda n: np.full(n, -1, np.int64),
            "came": lambda n: np.zeros((n, len(self.low)), np.bool_),
        }
        found, owner = grown(state, timelines.users, empty)
        table, code = coded(self.schema, timelines, self.selections)
        mark_elapsed(
            timelines.offsets, timelines.time, code, table, self.low, self.high, owner,
            found["first"], found["came"],
        )  # fmt: skip
        return found

    def of_state(self, state: Part) -> Part:
        """Return per cohort its size, who was observed to the end of each bracket, and who of them was back."""
        there = state["first"] >= 0
        first, came = state["first"][there], state["came"][there]
        periods, brackets = len(self.bounds) - 1, len(self.low)
        p = np.searchsorted(self.bounds[1:-1], first, side="right")
        closed = first[:, None] + self.high <= self.schema.last + 1

        def by_cohort(keep: Any) -> Any:
            columns = [np.bincount(p, keep[:, b], periods) for b in range(brackets)]
            return np.stack(columns, axis=1).astype(np.int64)

        return {
            "size": np.bincount(p, minlength=periods),
            "observed": by_cohort(closed),
            "back": by_cohort(closed & came),
        }

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the cohorts and the curve."""
        periods, brackets = len(self.bounds) - 1, len(self.low)
        size = np.zeros(periods, np.int64)
        observed, came = np.zeros((2, periods, brackets), np.int64)
        for part in parts:
            size, observed, came = (
                size + part["size"], observed + part["observed"], came + part["back"],
            )  # fmt: skip
        rows = [
            {
                "start": iso(self.bounds[p], self.schema.zone),
                "size": int(size[p]),
                "observed": observed[p].tolist(),
                "rates": [
                    int(c) / int(o) if o else None
                    for c, o in zip(came[p], observed[p], strict=True)
                ],
            }
            for p in range(periods)
        ]
        curve = []
        for b, (a, z) in enumerate(self.brackets):
            n, c = int(observed[:, b].sum()), int(came[:, b].sum())
            low, high = wilson(c, n)
            rate = c / n if n else None
            curve.append({"from": a, "to": z, "users": n, "rate": rate, "low": low, "high": high})
        return {
            "unit": self.unit,
            "mode": "bracket",
            "start": self.sides[0].label,
            "back": self.sides[1].label,
            "brackets": [list(b) for b in self.brackets],
            "cohorts": rows,
            "curve": curve,
        }


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
    return ask(
        ElapsedQuestion(schema, brackets, start, back, unit=unit), store, engine, as_of=as_of
    )
