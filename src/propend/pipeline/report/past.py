"""What people did lately: who is new, back or asleep, what sessions look like, what was odd and what changed."""

from __future__ import annotations

from typing import Any, Final

from propend.pipeline.report.formats import Formats
from propend.pipeline.report.values import View, number, numbers, part, records, text

__all__ = ["view"]

MOST: Final = 6
_STATES: Final = ("new", "returning", "resurrected", "dormant")


def view(results: dict[str, Any], of: Formats) -> View:
    """Return the last whole period's lifecycle, the commonest paths, and alarms of the trend."""
    found = {
        "lifecycle": _lifecycle(part(results, "lifecycle"), of),
        "paths": _paths(part(results, "paths")),
        "trend": _trend(part(results, "trend"), of),
        "attribution": _attribution(part(results, "attribution")),
        "stages": _stages(part(results, "stages"), part(results, "forecast")),
        "saved": [_saved(r) for r in records(results.get("saved"))],
    }
    if not any(found.values()):
        return {"missing": "No look at lifecycle, paths or changes was taken in this run."}
    return found


def _lifecycle(d: dict[str, Any], of: Formats) -> View:
    starts = d.get("start")
    at = -1 if d.get("last_period_complete") else -2
    if not isinstance(starts, list) or len(starts) < 3:
        return {}
    rows = []
    for name in _STATES:
        values = numbers(d.get(name))
        if len(values) == len(starts):
            rows.append({"name": name, "users": values[at], "before": values[at - 1]})
    return (
        {"rows": rows, "unit": text(d.get("unit"), 20), "start": of.day(starts[at])} if rows else {}
    )


def _paths(d: dict[str, Any]) -> View:
    rows = [
        {
            "path": " → ".join(text(n, 40) for n in p.get("path", [])[:8]),
            "sessions": number(p.get("sessions")),
            "share": number(p.get("share")),
        }
        for p in records(d.get("paths"))[:MOST]
    ]
    return (
        {"rows": rows, "gap": text(d.get("gap"), 20), "sessions": number(d.get("sessions"))}
        if rows
        else {}
    )


def _trend(d: dict[str, Any], of: Formats) -> View:
    if not d or "missing" in d:
        return {}
    odd = [
        f"{of.day(a['start'])}: {_level(a['value'])}, expected {_level(a['expected'])}"
        for a in records(d.get("anomalies"))[-MOST:]
    ]
    moved = [
        f"from {of.day(c['start'])} the level went from {_level(c['before'])} to {_level(c['after'])}"
        for c in records(d.get("changes"))[-MOST:]
    ]
    return {
        "measure": text(d.get("measure"), 60),
        "unit": text(d.get("unit"), 20),
        "rate": number(d.get("false_alarm_rate")),
        "odd": odd,
        "moved": moved,
    }


def _level(x: Any) -> str:
    """Return a figure with as many digits as tell small levels apart.

    >>> _level(14418.2), _level(0.1811), _level(5.6e-17)
    ('14,418', '0.181', '0')
    """
    value = round(number(x) or 0.0, 12)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _attribution(d: dict[str, Any]) -> View:
    rows = []
    for c in records(d.get("channels"))[:MOST]:
        shares = part(c, "conversions")
        rows.append(
            {
                "channel": text(c.get("channel"), 60),
                "touches": number(c.get("touches")),
                **{m: number(shares.get(m)) for m in ("first", "last", "markov", "shapley")},
            }
        )
    said = text(d.get("conversion"), 60)
    return {"rows": rows, "conversion": said, "note": text(d.get("note"), 200)} if rows else {}


def _stages(d: dict[str, Any], ahead: dict[str, Any]) -> View:
    """Return where users stand, and, where a forecast was made, how many move on, with the forward test."""
    next_ = {s.get("stage"): s for s in records(ahead.get("stages"))}
    rows = [
        {
            "stage": text(s.get("stage"), 40),
            "events": ", ".join(text(e, 40) for e in s.get("events", [])[:6]),
            "users": number(s.get("users")),
            **{
                name: number(next_.get(s.get("stage"), {}).get(name))
                for name in ("advance", "advance_low", "advance_high", "likely_to_leave")
            },
        }
        for s in records(d.get("stages"))
    ]
    if not rows:
        return {}
    judged = part(ahead, "validation")
    names = ("cutoffs", "brier", "brier_same_rate", "ece", "coverage")
    return {
        "rows": rows,
        "memory": text(d.get("memory"), 20),
        "horizon": text(ahead.get("horizon"), 20),
        "missing": text(ahead.get("missing"), 300),
        "judged": {n: number(judged.get(n)) for n in names} if judged.get("tests") else {},
    }


def _saved(d: dict[str, Any]) -> View:
    """Return a saved definition with its picture, or the sentence that stands in its place."""
    from propend.pipeline.pictures import picture

    answer, kind, name = part(d, "answer"), text(d.get("kind"), 20), text(d.get("name"), 80)
    missing = text(answer.get("missing"), 300)
    svg = "" if missing or not answer else picture(kind, answer)
    return {"name": name, "kind": kind, "missing": missing, "svg": svg}
