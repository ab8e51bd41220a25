"""Decisions: whom to reach, when, at what cost, and what it should earn."""

from __future__ import annotations

from typing import Any, Final

from propend.pipeline.report.formats import DASH, Formats, count, many, percent
from propend.pipeline.report.values import View, number, part, records, text

__all__ = ["split", "view"]

MOST_SAMPLES: Final = 12
_GROUPS: Final = (
    ("push", "reach", "Gets a message that should earn more than it costs."),
    ("silent", "leave in peace", "A message would not pay, or the budget is used up."),
    (
        "holdout",
        "hold back at random",
        "Kept silent by lot, so that the true effect can be measured.",
    ),
    ("excluded", "not allowed", "Gave no consent to be written to."),
)


def view(results: dict[str, Any], of: Formats) -> View:
    """Return the split of users, the money, the hours and sample decisions with their reasons."""
    made = part(results, "decisions")
    users = split(made)
    groups: list[View] = [
        {"key": key, "name": name, "meaning": meaning, "users": users[key]}
        for key, name, meaning in _GROUPS
        if users[key] or key != "excluded"
    ]
    total = sum(g["users"] for g in groups)
    if not made or total <= 0:
        return {
            "missing": text(made.get("skipped"), 400)
            or "Nothing was decided: no user is eligible, or no yes/no task could be answered."
        }
    for g in groups:
        g["share"] = g["users"] / total
    return {
        "groups": groups,
        "total": total,
        "profit": of.money(made.get("expected_profit")),
        "cost": of.money(made.get("cost")),
        "budget": of.money(made.get("budget")),
        "has_budget": number(made.get("budget")) is not None,
        "explore": number(made.get("explore")),
        "caption": _caption(groups, total),
        "note": _note(made),
        "notes": [text(n, 300) for n in made.get("notes") or []][:5],
        "hours": _hours(part(made, "by_hour")),
        "segments": _segments(records(made.get("by_segment")), of),
        "samples": [_sample(s, of) for s in records(made.get("samples"))[:MOST_SAMPLES]],
    }


def split(made: dict[str, Any]) -> dict[str, float]:
    """Return how many users fall to each group, no user in two.

    The decisions count those held out and those excluded among the silent ones: everyone is pushed or silent.

    >>> split({"users": 10, "push": 4, "silent": 6, "holdout": 1})
    {'push': 4.0, 'silent': 5.0, 'holdout': 1.0, 'excluded': 0.0}
    """
    keys = ("push", "silent", "holdout", "excluded")
    push, silent, holdout, excluded = (max(0.0, number(made.get(k)) or 0.0) for k in keys)
    if push + silent + holdout + excluded != number(made.get("users")):
        silent = max(0.0, silent - holdout - excluded)
    return {"push": push, "silent": silent, "holdout": holdout, "excluded": excluded}


def _caption(groups: list[View], total: float) -> str:
    push, silent, holdout = groups[:3]
    return (
        f"Of {many(total, 'user')}, reach {count(push['users'])} ({percent(push['share'])}), leave "
        f"{count(silent['users'])} in peace and hold back {count(holdout['users'])} at random."
    )


def _note(made: dict[str, Any]) -> str:
    """Return the honest note: the profit rests on an assumption until the holdout has measured it."""
    lift, margin = number(made.get("lift_assumed")), number(made.get("margin"))
    assumed = (
        f"a message raises the chance to buy by {percent(lift)}"
        if lift is not None
        else "a message helps"
    )
    kept = f" and that {percent(margin)} of a sale is profit" if margin is not None else ""
    return (
        f"The expected profit assumes that {assumed}{kept}. This is an assumption, not a measurement: only the "
        "users held back at random will show what the messages truly changed."
    )


def _hours(by_hour: dict[str, Any]) -> View | None:
    counts = [0.0] * 24
    for hour, n in by_hour.items():
        if hour.isdecimal() and int(hour) < 24:
            counts[int(hour)] = max(0.0, number(n) or 0.0)
    top, total = max(counts), sum(counts)
    if top <= 0:
        return None
    best = counts.index(top)
    return {
        "bars": [
            {"hour": h, "users": n, "height": n / top, "best": h == best}
            for h, n in enumerate(counts)
        ],
        "caption": f"Each message at the hour its reader is usually active; most at {best:02d}:00 "
        f"({percent(top / total)} of all messages).",
    }


def _segments(rows: list[dict[str, Any]], of: Formats) -> View | None:
    """Return the table by segment with whatever columns it has."""
    columns = list(dict.fromkeys(str(k) for row in rows for k in row))[:7]
    if not columns:
        return None
    return {
        "columns": [text(c, 40).replace("_", " ") for c in columns],
        "rows": [[_cell(c, row.get(c), of) for c in columns] for row in rows],
    }


def _cell(column: str, x: Any, of: Formats) -> View:
    value = number(x)
    if value is None:
        return {"text": text(x, 80) or DASH, "number": False}
    if any(word in column for word in ("profit", "cost", "value", "budget")):
        return {"text": of.money(value), "number": True}
    if any(word in column for word in ("share", "rate", "probability")):
        return {"text": percent(value), "number": True}
    return {"text": count(value), "number": True}


def _action(sample: dict[str, Any]) -> str:
    held = sample.get("group") == "holdout"
    return "holdout" if held else text(sample.get("action"), 20) or DASH


def _sample(sample: dict[str, Any], of: Formats) -> View:
    hour = number(sample.get("hour"))
    return {
        "user": text(sample.get("user"), 60),
        "action": _action(sample),
        "item": text(sample.get("item"), 80) or DASH,
        "hour": f"{int(hour):02d}:00" if hour is not None and 0 <= hour < 24 else DASH,
        "probability": percent(sample.get("probability")),
        "profit": of.money(sample.get("expected_profit")),
        "cost": of.money(sample.get("cost")),
        "reason": text(sample.get("reason"), 240),
    }
