"""Trends: a measure over time, by any property, with what is odd, what changed, and which groups moved it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from propend.analytics.kept import Part, Question, ask
from propend.analytics.measure import Cells, Measure, Profile, side_of
from propend.analytics.nodes import Nodes, nodes_of
from propend.analytics.people import profiles
from propend.analytics.periods import boundaries, check_unit, iso
from propend.analytics.series import anomalies, changes, contribution, decompose
from propend.analytics.steps import masks
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.features.schema import Schema

__all__ = ["MOST_GROUPS", "TrendQuestion", "trend"]

_SEASON: Final = {"day": 7, "week": 1, "month": 12}
MOST_GROUPS: Final = 12
"""Most groups of a breakdown that are told apart."""
_COMPARED: Final = {"day": 7, "week": 4, "month": 1}


class TrendQuestion(Question):
    """A measure by period and group; see :func:`trend`. A state holds the sums, and who was seen in the last period."""

    def __init__(
        self,
        schema: Schema,
        measure: str | Measure = "users(*)",
        unit: str = "day",
        groups: Nodes | None = None,
        *,
        profile: Profile,
        rate: float = 0.05,
        compared: int | None = None,
    ) -> None:
        check_unit(unit)
        if not 0.001 <= rate <= 0.5:
            raise ConfigError(f"a false-alarm rate lies from 0.001 to 0.5, not at {rate:g}")
        self.measure = Measure.parse(measure) if isinstance(measure, str) else measure
        self.measure.check(schema)
        self.schema, self.unit, self.groups, self.profile = schema, unit, groups, profile
        self.text = str(measure)
        self.rate, self.compared = rate, compared
        self.names = () if groups is None else groups.names
        columns = [*(() if groups is None else groups.columns), *self.measure.columns(schema)]
        self.columns = list(dict.fromkeys(columns))
        self.bounds = boundaries(schema.first, schema.last, unit, schema.zone)
        self.shape = (len(self.bounds) - 1, len(self.names) + 1)
        selections, fields = self.measure.reads()
        if groups is not None:
            fields.append(groups.of)
        self.rest_on(schema, selections, fields, (int(self.bounds[0]), self.names))
        self.key = f"trend {self.measure} {unit} {None if groups is None else groups.of}"

    def refused(self) -> str:
        """Return why the trend cannot be kept, or nothing."""
        if self.measure.function == "per user":
            return f"{self.text} looks back over whole timelines, not only the new events"
        return "" if self.groups is None else self.groups.refused()

    def fits(self, timelines: Timelines) -> bool:
        """Whether the groups are still the same."""
        return self.groups is None or self.groups.knows(timelines)

    def whole(self, timelines: Timelines) -> Part:
        """Return a bucket's sums by period and group."""
        return self.measure.part(self._cells(timelines))

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Add further events; a user counts once in the period in which the state ended."""
        cells = self._cells(timelines)
        part = self.measure.part(cells)
        period = int(cells.period.max(initial=0))
        found: Part = {"seen/period": np.int64(period)}
        for name, side in self._sides():
            if side.function != "users":
                continue
            assert side.select is not None
            keys = _who(cells, masks(self.schema, timelines, [side.select]))
            latest = keys[:, 0] == period
            if state is not None:
                there = np.int64(state["seen/period"])
                known = state[f"seen/{name}"]
                again = keys[keys[:, 0] == there][:, 1:]
                twice = again[_in(again, known)]
                users = part[f"{name}users"]
                np.subtract.at(users[there], twice[:, 1], 1)
                if there == period:
                    found[f"seen/{name}"] = np.unique(np.concatenate([known, again]), axis=0)
            found.setdefault(f"seen/{name}", keys[latest][:, 1:])
        if state is not None:
            part = self.measure.add(self.of_state(state), part)
        return {**found, **part}

    def of_state(self, state: Part) -> Part:
        """Return the sums."""
        return {k: v for k, v in state.items() if not k.startswith("seen/")}

    def _sides(self) -> list[tuple[str, Measure]]:
        m = self.measure
        if m.top is not None and m.over is not None:
            return [("top.", m.top), ("over.", m.over)]
        return [("", m)]

    def _cells(self, timelines: Timelines) -> Cells:
        group = (
            np.broadcast_to(np.int32(-1), len(timelines))
            if self.groups is None
            else self.groups.codes(timelines)
        )
        return Cells(timelines, self.bounds, group, len(self.names), self.schema, self.profile)

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the series with its alarms, and who moved it."""
        total: Part | None = None
        for part in parts:
            total = part if total is None else self.measure.add(total, part)
        assert total is not None
        return _document(self, total)


def _who(cells: Cells, mask: Any) -> Any:
    """Return the distinct (period, user, group) of masked events, int64 [k, 3]; everyone is the last group."""
    t, wide = cells.timelines, cells.groups + 1
    at, rows = cells.of(np.flatnonzero(mask))
    keys = np.stack([at // wide, t.users[t.user_of_row[rows]], at % wide], axis=1)
    return np.unique(keys, axis=0)


def _in(rows: Any, known: Any) -> Any:
    """Return which rows [k, 2] are among ``known``."""
    if not len(rows) or not len(known):
        return np.zeros(len(rows), np.bool_)
    wide = int(max(rows[:, 1].max(), known[:, 1].max())) + 1
    return np.isin(rows[:, 0] * wide + rows[:, 1], known[:, 0] * wide + known[:, 1])


def trend(
    store: Store,
    schema: Schema,
    engine: Engine,
    measure: str | Measure = "users(*)",
    unit: str = "day",
    by: str | None = None,
    *,
    rate: float = 0.05,
    compared: int | None = None,
    most: int = MOST_GROUPS,
) -> dict[str, Any]:
    """Return a measure per period, seasonally adjusted, with anomalies and change points, and who moved it.

    ``measure``: ``users``, ``count``, ``sum``, ``mean``, ``min``, ``max``, ``std``, ``median``, ``quantile`` or ``distinct`` of
    each period's events; a ratio of two of these; or any expression of the language, asked of each user who was active in
    the period as of its end, and averaged (of a condition: the share of users). ``by`` is whatever
    :func:`propend.analytics.breakdown.labeller` knows. The last ``compared`` whole periods are set against as many before
    (days: 7, weeks: 4, months: 1); with ``by`` the change is given by group, for a mean or ratio split into mix and rate.
    ``change["figure"]`` says what is compared: the ``sum`` of the periods (counts and sums), the measure ``over all events``
    of the periods (means and ratios), or the ``mean per period``: a user of two weeks is not two users.
    ``rate`` is the chance that a quiet series raises any alarm, half of it for odd values and half for changes. Periods that the log does not cover whole are not judged.
    """
    groups = None if by is None else nodes_of(store, schema, engine, by, most)
    question = TrendQuestion(
        schema, measure, unit, groups, profile=profiles(store, schema), rate=rate, compared=compared
    )
    return ask(question, store, engine)


def _document(q: TrendQuestion, total: Part) -> dict[str, Any]:
    schema, bounds, names, rate = q.schema, q.bounds, q.names, q.rate
    values = q.measure.values(total, q.shape)
    first = int(bounds[0] < schema.first)
    last = len(values) - int(bounds[-1] > schema.last + 1)
    start = [iso(b, schema.zone) for b in bounds[:-1]]
    series = values[first:last, -1]
    d = decompose(np.nan_to_num(series), _SEASON[q.unit])
    document: dict[str, Any] = {
        "measure": q.text,
        "unit": q.unit,
        "start": start,
        "values": [None if v != v else float(v) for v in values[:, -1]],
        "whole": [first, last],
        "adjusted": d.adjusted.tolist(),
        "season": d.period if d.period > 1 else None,
        "false_alarm_rate": rate,
        "anomalies": [{"start": start[first + a.pop("at")], **a} for a in anomalies(d, rate / 2)],
        "changes": [{"start": start[first + c.pop("at")], **c} for c in changes(d, rate / 2)],
    }
    if q.groups is not None:
        document["by"] = q.groups.of
        document["groups"] = {
            name: [None if v != v else float(v) for v in values[:, names.index(name)]]
            for name in q.groups.ranked
        }
    span = _COMPARED[q.unit] if q.compared is None else q.compared
    if last - first >= 2 * span:
        document["change"] = _change(q, total, values, last, span)
    return document


def _change(q: TrendQuestion, total: Part, values: Any, last: int, span: int) -> dict[str, Any]:
    """Set the last ``span`` periods against those before, by group."""
    after, before = slice(last - span, last), slice(last - 2 * span, last - span)
    m, names = q.measure, q.names
    rows: list[dict[str, Any]]
    weighted = _weighted(q, total)
    figure = "sum"
    if m.sums or m.function == "users":
        a, b = values[before].sum(axis=0), values[after].sum(axis=0)
        if m.function == "users":
            figure, a, b = "mean per period", a / span, b / span
        rows = [
            {
                "group": n,
                "before": float(a[g]),
                "after": float(b[g]),
                "contribution": float(b[g] - a[g]),
            }
            for g, n in enumerate(names)
        ]
        whole = {"before": float(a[-1]), "after": float(b[-1])}
    elif weighted is not None:
        (t0, t1), (w0, w1) = ([x[before].sum(axis=0), x[after].sum(axis=0)] for x in weighted)
        figure = "over all events"
        whole = {"before": _mean(t0[-1], w0[-1]), "after": _mean(t1[-1], w1[-1])}
        # events of no shown group are a group of their own, so that mix and rate add up
        w0[-1], w1[-1] = w0[-1] - w0[:-1].sum(), w1[-1] - w1[:-1].sum()
        t0[-1], t1[-1] = t0[-1] - t0[:-1].sum(), t1[-1] - t1[:-1].sum()
        parts = contribution(w0, t0, w1, t1)
        rows = [
            {
                "group": n,
                "before": _mean(t0[g], w0[g]),
                "after": _mean(t1[g], w1[g]),
                "mix": float(parts["mix"][g]),
                "rate": float(parts["rate"][g]),
                "contribution": float(parts["mix"][g] + parts["rate"][g]),
            }
            for g, n in enumerate((*names, "(none)") if names else ())
            if w0[g] or w1[g] or t0[g] or t1[g]
        ]
    else:  # periods cannot be added: their average, group by group
        figure = "mean per period"
        a, b = (_average(values[s]) for s in (before, after))
        rows = [{"group": n, "before": a[g], "after": b[g]} for g, n in enumerate(names)]
        whole = {"before": a[-1], "after": b[-1]}
    rows.sort(key=lambda r: (-abs(r.get("contribution", r["after"] - r["before"])), r["group"]))
    change = whole["after"] - whole["before"]
    return {"periods": span, "figure": figure, **whole, "change": change, "groups": rows}


def _weighted(q: TrendQuestion, total: Part) -> tuple[Any, Any] | None:
    """Return totals and weights [p, g + 1] of a mean or ratio whose groups share nothing, else ``None``."""
    m = q.measure
    if m.function == "mean":
        return Measure("sum", m.select, m.field).values(total, q.shape), total["counts"] * 1.0
    if m.top is None or m.over is None:
        return None
    apart = q.groups is None or q.groups.of.split(".")[0] in ("profile", "cohort")
    if not all(side.sums or (apart and side.function == "users") for side in (m.top, m.over)):
        return None
    top = m.top.values(side_of(total, "top"), q.shape)
    return top, m.over.values(side_of(total, "over"), q.shape)


def _average(values: Any) -> list[float]:
    """Return the mean of each column over the periods that have a value; 0 where none has."""
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    return [_mean(s, n) for s, n in zip(sums, counts, strict=True)]


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else 0.0
