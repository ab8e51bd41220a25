"""Segments: who they are, how many, and how much of the money they bring."""

from __future__ import annotations

from typing import Any

from propend.pipeline.report.formats import Formats, change, decimal, percent, short
from propend.pipeline.report.values import View, number, records, text

__all__ = ["view"]


def view(results: dict[str, Any], of: Formats) -> View:
    """Return each segment with its share of users beside its share of value."""
    rows = [_segment(s, of) for s in records(results.get("segments"))]
    if not rows:
        return {
            "missing": "No segments were made: there are too few users, or none has a history yet."
        }
    shares = [v for r in rows for v in (r["share"], r["value_share"]) if v is not None]
    top = max(shares, default=1.0) or 1.0
    for row in rows:
        row["width"] = _part(row["share"], top)
        row["value_width"] = _part(row["value_share"], top)
    return {
        "rows": rows,
        "caption": _caption(rows),
        "priced": any(r["value_share"] for r in rows),
        "moving": any(r["trend"] for r in rows),
    }


def _part(x: float | None, top: float) -> float:
    return 0.0 if x is None else max(0.0, min(1.0, x / top))


def _segment(segment: dict[str, Any], of: Formats) -> View:
    trend = number(segment.get("trend"))
    recency = number(segment.get("recency"))
    frequency = number(segment.get("frequency"))
    facts = []
    if recency is not None:
        facts.append(f"last purchase {short(recency)} days ago on average")
    if frequency is not None:
        facts.append(f"{decimal(frequency, 1)} purchase days each")
    return {
        "name": text(segment.get("name"), 80),
        "rule": text(segment.get("rule"), 240),
        "advice": text(segment.get("advice"), 240),
        "users": number(segment.get("users")),
        "share": number(segment.get("share")),
        "value": of.money(segment.get("value")),
        "value_share": number(segment.get("value_share")),
        "trend": change(trend) if trend is not None else text(segment.get("trend"), 30),
        "facts": ", ".join(facts),
    }


def _caption(rows: list[View]) -> str:
    known = [r for r in rows if r["value_share"] is not None and r["share"]]
    if not known:
        return "The bars show what part of all users each segment holds."
    best = max(known, key=lambda r: r["value_share"] / r["share"])
    return (
        f"“{best['name']}” are {percent(best['share'])} of users and bring {percent(best['value_share'])} "
        "of the money. Where the lower bar is longer than the upper one, a segment is worth more than its size."
    )
