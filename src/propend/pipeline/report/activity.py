"""Activity over time: users, money and each event type, as small charts of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from propend.pipeline.report import charts
from propend.pipeline.report.formats import DASH, Formats, change, short
from propend.pipeline.report.values import View, moment, numbers, part, text

__all__ = ["view"]

MOST: Final = 6
"""Most event types that get a chart."""
RECENT: Final = 4
"""Periods that "lately" means."""
_DAYS: Final = {"day": 1, "week": 7, "month": 28}


def view(results: dict[str, Any], of: Formats) -> View:
    """Return a small chart for active users, for money and for each of the commonest event types."""
    activity = part(results, "activity")
    starts = activity.get("start")
    starts = list(starts) if isinstance(starts, list) else []
    if len(starts) < 2:
        return {"missing": "The log is too short to show a development over time."}
    unit = text(activity.get("unit")) or "period"
    unfinished = _unfinished(activity, results.get("span"), unit)
    dates = [of.day(s) for s in starts]
    panels = [("Active users", numbers(activity.get("users")), short)]
    panels.append(("Money", numbers(activity.get("value")), of.money))
    panels += [(f"Event: {name}", values, short) for name, values in _types(activity)]
    made = [
        _panel(i, title, values, dates, unit, unfinished, write)
        for i, (title, values, write) in enumerate(panels)
        if len(values) == len(starts) and any(values)
    ]
    if not made:
        return {"missing": "No activity was counted in this run."}
    return {"unit": unit, "panels": made, "unfinished": unfinished, "left_out": _left_out(activity)}


def _types(activity: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    rows = [(text(k, 60), numbers(v)) for k, v in part(activity, "events").items()]
    return sorted(rows, key=lambda r: -_sum(r[1]))[:MOST]


def _left_out(activity: dict[str, Any]) -> int:
    return max(0, len(part(activity, "events")) - MOST)


def _sum(values: Sequence[float | None]) -> float:
    return sum(v for v in values if v is not None)


def _unfinished(activity: dict[str, Any], span: Any, unit: str) -> bool:
    """Return whether the log ends before its last period does."""
    complete = activity.get("complete")
    if isinstance(complete, list) and complete:
        return complete[-1] is False
    start = moment(activity["start"][-1])
    end = moment(span[1]) if isinstance(span, list | tuple) and len(span) == 2 else None
    if start is None or end is None or unit not in _DAYS:
        return False
    return end < start + timedelta(days=_DAYS[unit]) - timedelta(hours=12)


def _panel(
    i: int,
    title: str,
    values: list[float | None],
    dates: list[str],
    unit: str,
    unfinished: bool,
    write: charts.Write,
) -> View:
    full = values[:-1] if unfinished else values
    latest = next((v for v in reversed(full) if v is not None), None)
    moved = _moved(full)
    caption = _caption(full, dates, unit, moved, write)
    svg = charts.trend(
        dates,
        values,
        key=f"activity{i}",
        alt=f"{title} per {unit}. {caption}",
        write=write,
        unfinished=unfinished,
    )
    return {
        "title": title,
        "latest": write(latest),
        "moved": moved,
        "change": DASH if moved is None else change(moved),
        "svg": svg,
        "caption": caption,
    }


def _moved(full: list[float | None]) -> float | None:
    """Return the relative change of the last periods' sum against as many before them."""
    span = min(RECENT, len(full) // 2)
    if span < 1:
        return None
    now, before = _sum(full[-span:]), _sum(full[-2 * span : -span])
    return now / before - 1 if before > 0 else None


def _caption(
    full: list[float | None],
    dates: list[str],
    unit: str,
    moved: float | None,
    write: charts.Write,
) -> str:
    known = [(v, i) for i, v in enumerate(full) if v is not None]
    if not known:
        return "Nothing was counted."
    peak, at = max(known)
    said = f"Highest in the {unit} of {dates[at]} with {write(peak)}"
    span = min(RECENT, len(full) // 2)
    if moved is None:
        return f"{said}."
    if abs(moved) < 0.03:
        return f"{said}; lately level."
    way = "up" if moved > 0 else "down"
    amount = change(abs(moved)).removeprefix("+")
    return f"{said}; the last {span} {unit}s are {way} {amount} on the {span} before."
