"""Data quality: where every row went, and what was noticed on the way."""

from __future__ import annotations

import json
from typing import Any, Final

from propend.pipeline.report.formats import Formats, count, percent
from propend.pipeline.report.values import View, number, part, records, text

__all__ = ["MEANING", "view"]

MEANING: Final = {
    "malformed line": "The line could not be split into its columns.",
    "exact duplicate": "The same row again, letter by letter; the first one is kept.",
    "already ingested": "The row is in the store from an earlier run.",
    "missing user": "Nobody can be told apart without a user, so the row says nothing about a customer.",
    "missing time": "The row does not say when it happened.",
    "unreadable time": "The time is in no format that is known here.",
    "impossible time": "The time lies before anything could have been recorded.",
    "time in the future": "The time lies after the moment the row arrived or was read.",
    "unreadable number": "An amount is not a number.",
    "impossible amount": "An amount is far beyond what is possible.",
    "negative price": "A price below zero.",
    "zero quantity": "Nothing was bought or returned.",
    "missing value": "A value that this workspace insists on is missing.",
    "duplicate message id": "The sender's unique id was seen before: the same event sent twice.",
    "erased user": "The user asked to be forgotten.",
    "test user": "The name looks like a test account.",
    "bot-like user": "Too fast or too regular for a person.",
    "price outlier": "The price is far from what this item usually costs.",
}
"""Each reason of ``events.clean.REASONS``, in a sentence."""

MOST_COLUMNS: Final = 9


def view(results: dict[str, Any], of: Formats) -> View:  # noqa: ARG001
    """Return the accounting of rows, the reasons with examples, and what was noticed but kept."""
    rows_in = number(results.get("rows_in"))
    if not rows_in:
        return {"missing": "No rows were read in this run, so there is nothing to check yet."}
    kept = number(results.get("rows_kept"))
    aside = number(results.get("rows_quarantined"))
    findings = records(results.get("findings"))
    reasons = _reasons(part(results, "quarantine"), findings, rows_in)
    named = {r["name"] for r in reasons}
    return {
        "rows_in": rows_in,
        "kept": kept,
        "aside": aside,
        "balance": _balance(rows_in, kept, aside),
        "balanced": kept is not None and aside is not None and kept + aside == rows_in,
        "kept_share": max(0.0, min(1.0, (kept or 0.0) / rows_in)),
        "reasons": reasons,
        "noticed": [_finding(f) for f in findings if text(f.get("name")) not in named],
    }


def _balance(rows_in: float, kept: float | None, aside: float | None) -> str:
    if kept is None or aside is None:
        return "How many rows were kept was not recorded."
    if kept + aside != rows_in:
        return (
            f"The books do not balance: {count(rows_in)} rows came in, but {count(kept + aside)} are "
            "accounted for. Please report this as a fault."
        )
    if aside == 0:
        return f"Every one of the {count(rows_in)} rows could be used."
    return (
        f"Of {count(rows_in)} rows that came in, {count(kept)} ({percent(kept / rows_in, 1)}) were kept and "
        f"{count(aside)} ({percent(aside / rows_in, 1)}) set aside with a reason. Nothing was dropped in silence."
    )


def _reasons(
    quarantine: dict[str, Any], findings: list[dict[str, Any]], rows_in: float
) -> list[View]:
    counted = [(text(name), number(n) or 0.0) for name, n in quarantine.items()]
    found = sorted((c for c in counted if c[1] > 0), key=lambda c: -c[1])
    most = found[0][1] if found else 1.0
    return [
        {
            "name": name,
            "meaning": MEANING.get(name, ""),
            "rows": rows,
            "share": rows / rows_in,
            "width": rows / most,
            "examples": _examples([f for f in findings if text(f.get("name")) == name]),
        }
        for name, rows in found
    ]


def _finding(finding: dict[str, Any]) -> View:
    name = text(finding.get("name"))
    return {
        "name": name,
        "source": text(finding.get("source")),
        "rows": number(finding.get("rows")),
        "share": number(finding.get("share")),
        "done": text(finding.get("done")),
        "meaning": MEANING.get(name, ""),
        "examples": _examples([finding]),
    }


def _examples(findings: list[dict[str, Any]]) -> View | None:
    """Return the examples as one table, or ``None`` where there are none."""
    rows = [_example(e) for f in findings for e in (f.get("examples") or [])][:5]
    if not rows:
        return None
    columns = list(dict.fromkeys(c for row in rows for c in row))[:MOST_COLUMNS]
    return {"columns": columns, "rows": [[row.get(c, "") for c in columns] for row in rows]}


def _example(example: Any) -> dict[str, str]:
    try:
        row = json.loads(example) if isinstance(example, str) else example
    except ValueError:
        row = example
    if not isinstance(row, dict):
        return {"row": text(row)}
    return {text(k, 40): text(v, 60) for k, v in row.items()}
