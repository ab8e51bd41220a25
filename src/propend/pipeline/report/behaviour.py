"""Funnel and retention at a glance."""

from __future__ import annotations

from typing import Any, Final

from propend.errors import PropendError
from propend.expression.duration import Duration
from propend.pipeline.report.formats import Formats, duration, many, percent
from propend.pipeline.report.outcomes import span_in_words
from propend.pipeline.report.values import View, moment, number, numbers, part, records, text

__all__ = ["view"]

MOST_PERIODS: Final = 13
MOST_COHORTS: Final = 18


def view(results: dict[str, Any], of: Formats) -> View:
    """Return the funnel's steps and the retention table; each says for itself why it is not there."""
    return {
        "funnel": _funnel(part(results, "funnel")),
        "retention": _retention(part(results, "retention"), of),
    }


def _funnel(funnel: dict[str, Any]) -> View:
    steps = records(funnel.get("steps"))
    first = number(steps[0].get("users")) if steps else None
    if len(steps) < 2:
        return {
            "missing": "No funnel is shown: the log has no two of the usual steps (view, cart, purchase); declare your own steps under [[funnels]] in propend.toml."
        }
    if not first:
        return {"missing": "No funnel is shown: nobody took its first step."}
    rows = []
    before: float | None = None
    for step in steps:
        rows.append(_step(step, first, before))
        before = number(step.get("users"))
    within = text(funnel.get("within") or funnel.get("window"), 20)
    return {
        "steps": rows,
        "within": _span(within),
        "order": text(funnel.get("order"), 30),
        "caption": _funnel_caption(rows),
    }


def _span(within: str) -> str:
    try:
        return span_in_words(Duration.parse(within))
    except PropendError:
        return within


def _step(step: dict[str, Any], first: float, before: float | None) -> View:
    users = number(step.get("users")) or 0.0
    of_before = users / before if before else None
    low, high = number(step.get("low")), number(step.get("high"))
    if of_before is None or low is None or high is None:
        low = high = None
    return {
        "name": text(step.get("event"), 80),
        "users": users,
        "of_first": users / first,
        "of_before": of_before,
        "lost": before - users if before is not None else None,
        "low": low,
        "high": high,
        "range_of_first": low is not None and high is not None and low <= users / first <= high,
        "time": duration(step.get("median_seconds")) if before is not None else "",
    }


def _funnel_caption(rows: list[View]) -> str:
    last, name = rows[-1], rows[-1]["name"]
    said = (
        f"Of {many(rows[0]['users'], 'user')} who start with “{rows[0]['name']}”, "
        f"{percent(last['of_first'])} get to “{name}”."
    )
    drops = [r for r in rows[1:] if r["lost"] and r["lost"] > 0]
    if len(rows) < 3 or not drops:
        return said
    worst = max(drops, key=lambda r: r["lost"])
    return f"{said} The biggest loss is on the way to “{worst['name']}”: {many(worst['lost'], 'user')} go no further."


def _retention(retention: dict[str, Any], of: Formats) -> View:
    unit = text(retention.get("unit"), 20) or "period"
    cohorts = [c for c in records(retention.get("cohorts")) if number(c.get("size"))]
    if not cohorts:
        return {
            "missing": "No retention is shown: the log is too short to see whether users come back."
        }
    left_out = max(0, len(cohorts) - MOST_COHORTS)
    cohorts = cohorts[-MOST_COHORTS:]
    rows = [_cohort(c, unit, of) for c in cohorts]
    open_ = retention.get("last_period_complete") is False
    for row in rows:
        row["whole"] = row["rates"][:-1] if open_ and row["untrimmed"] else row["rates"]
    width = max((len(r["rates"]) for r in rows), default=0)
    later = [v for r in rows for v in r["whole"][1:] if v is not None]
    top, low = max(later, default=1.0) or 1.0, 0.6 * min(later, default=0.0)
    for row in rows:
        row["cells"] = [
            {**_cell(v, i, low, top), "open": i >= len(row["whole"])}
            for i, v in enumerate(row["rates"])
        ]
        row["blank"] = width - len(row["rates"])
    return {
        "unit": unit,
        "rows": rows,
        "columns": list(range(width)),
        "left_out": left_out,
        "open": open_,
        "caption": _retention_caption(rows, unit),
    }


def _cohort(cohort: dict[str, Any], unit: str, of: Formats) -> View:
    start = cohort.get("start")
    rates = numbers(cohort.get("rates"))
    named = of.month(start) if unit == "month" else of.day(start)
    return {
        "name": named if moment(start) else text(start, 30),
        "size": number(cohort.get("size")),
        "rates": rates[:MOST_PERIODS],
        "untrimmed": len(rates) <= MOST_PERIODS,
    }


def _cell(rate: float | None, at: int, low: float, top: float) -> View:
    depth = 0.0 if rate is None else max(0.0, min(1.0, (rate - low) / max(top - low, 1e-9)))
    return {"rate": rate, "depth": round(0.06 + 0.62 * depth, 3), "first": at == 0}


def _retention_caption(rows: list[View], unit: str) -> str:
    """Return the average over the cohorts, each weighted by its size, one period on and at the middle of the table."""
    parts = []
    for at in (1, 3, 6):
        seen = [(r["whole"][at], r["size"]) for r in rows if len(r["whole"]) > at]
        seen = [(rate, size) for rate, size in seen if rate is not None]
        if seen:
            mean = sum(rate * size for rate, size in seen) / sum(size for _, size in seen)
            parts.append(f"{percent(mean)} after {at} {unit}{'' if at == 1 else 's'}")
    if not parts:
        return "Each row is the users who first came in that period."
    return (
        f"Of those whose first visit is long enough ago, {', '.join(parts)} were active again; "
        "a stronger colour means that more came back."
    )
