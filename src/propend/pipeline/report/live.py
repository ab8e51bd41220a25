"""Live answers: how good they were once the truth was known, what they earned, what drifts and what lags."""

from __future__ import annotations

from typing import Any, Final

from propend.pipeline.report.formats import DASH, Formats, count, decimal, duration, many, percent
from propend.pipeline.report.values import View, number, part, records, text

__all__ = ["view"]

MOST_PERIODS: Final = 12
MOST_DRIFTS: Final = 8


def view(results: dict[str, Any], of: Formats) -> View:
    """Return each task's quality over time against the naive baseline, profit over time, drift, volume and lag."""
    found = part(results, "live")
    if not found:
        return {
            "missing": "Nothing was answered live, or nobody asked how good it was: propend monitor puts it here."
        }
    return {
        "at": of.minute(found.get("at")),
        "rule": text(found.get("rule"), 400),
        "tasks": [_task(t) for t in records(found.get("tasks"))],
        "profit": _profit(part(found, "profit"), of),
        "flow": _flow(found),
        "notes": [text(n, 300) for n in found.get("notes") or []][:5],
        "retrained": [_retrained(r) for r in records(found.get("retrained"))],
    }


def _task(task: dict[str, Any]) -> View:
    rows = [
        {
            "from": text(p.get("from"), 20),
            "predictions": count(p.get("predictions")),
            "auroc": decimal(p.get("auroc")),
            "base_auroc": decimal(p.get("baseline_auroc")),
            "log_loss": decimal(p.get("log_loss")),
            "base_log_loss": decimal(p.get("baseline_log_loss")),
            "said": percent(p.get("mean_score"), 1),
            "came": percent(p.get("rate"), 1),
        }
        for p in records(task.get("periods"))[-MOST_PERIODS:]
    ]
    drifts = [
        {
            "feature": text(d.get("feature"), 120),
            "psi": decimal(d.get("psi"), 2),
            "q": decimal(d.get("q"), 4),
            "missing": f"{percent(d.get('missing_before'), 1)} → {percent(d.get('missing_now'), 1)}",
        }
        for d in records(task.get("drift"))[:MOST_DRIFTS]
    ]
    missing = number(task.get("missing_share"))
    return {
        "name": text(task.get("task"), 60),
        "verdict": text(task.get("verdict"), 300),
        "due": task.get("due") is True,
        "caption": f"{many(number(task.get('predictions')) or 0, 'prediction')}, {count(task.get('matured') or 0)} of them old enough to be judged"
        + ("" if missing is None else f"; {percent(missing, 1)} of the features had no value"),
        "rows": rows,
        "drifts": drifts,
        "more_drifts": max(0, len(records(task.get("drift"))) - MOST_DRIFTS),
    }


def _profit(found: dict[str, Any], of: Formats) -> View | None:
    if not found or "note" in found:
        return {"note": text(found.get("note"), 300)} if found else None

    def row(entry: dict[str, Any], title: str) -> View:
        return {
            "from": title,
            "decisions": count(entry.get("decisions")),
            "pushed": count(entry.get("pushed")),
            "made": of.money(entry.get("made")),
            "silence": _estimate(part(entry, "silence"), of),
            "everybody": _estimate(part(entry, "everybody"), of),
            "gain": _estimate(part(entry, "gain"), of),
        }

    overall = part(found, "overall")
    rows = [row(p, text(p.get("from"), 20)) for p in records(found.get("periods"))[-MOST_PERIODS:]]
    return {
        "rows": [*rows, row(overall, "all")] if number(found.get("matured")) else [],
        "caption": f"{many(number(found.get('matured')) or 0, 'decision')} old enough to be judged, {count(found.get('waiting') or 0)} waiting or overlapping",
        "why": text(overall.get("gain_unknown"), 300),
    }


def _estimate(found: dict[str, Any], of: Formats) -> str:
    if not found:
        return DASH
    return f"{of.money(found.get('value'))} ({of.money(found.get('low'))} to {of.money(found.get('high'))})"


def _flow(found: dict[str, Any]) -> str:
    days = records(found.get("volume"))
    odd = [text(d.get("day"), 12) for d in days if d.get("unusual") is True]
    lag = part(found, "lag")
    waiting, age = number(lag.get("waiting")), number(lag.get("oldest_seconds"))
    said = f"{count(sum(number(d.get('events')) or 0 for d in days[-7:]))} events in the last seven days"
    said += (
        f"; unusual volume on {', '.join(odd[-3:])}" if odd else "; no day had an unusual volume"
    )
    if waiting is not None:
        said += f"; {many(waiting, 'request')} not in the store yet"
        if waiting and age is not None:
            said += f", the oldest since {duration(age)}"
    return said + "."


def _retrained(done: dict[str, Any]) -> str:
    what = "promoted" if done.get("promoted") is True else "not promoted"
    return f"{text(done.get('task'), 60)}: {what}; {text(done.get('why'), 300)}"
