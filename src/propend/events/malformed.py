"""Lines that are no rows, on their way into the quarantine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from propend.engine import Rejected
from propend.events.hashing import hash_text
from propend.events.store import QUARANTINE

__all__ = ["rejected_table", "without_erased"]


def without_erased(rejected: list[Rejected], erased: Sequence[int]) -> list[Rejected]:
    """Return lines that are no rows without the text of those that have an erased user's id among their words."""
    if not erased:
        return rejected
    gone = set(erased)
    return [
        replace(line, text="") if any(hash_text(w) in gone for w in _words(line.text)) else line
        for line in rejected
    ]


def _words(line: str) -> set[str]:
    cells = {cell.strip(" \"'") for cell in re.split(r"[,;|\t]|[\"'\s]*[:{}\[\]][\"'\s]*", line)}
    return {*cells, *line.split()}


def rejected_table(source: str, rejected: list[Rejected]) -> pa.Table:
    return pa.table(
        {
            "source": [source] * len(rejected),
            "file": [r.file for r in rejected],
            "row": [r.line for r in rejected],
            "user": pa.nulls(len(rejected), pa.string()),
            "reason": ["malformed line"] * len(rejected),
            "original": [r.text or None for r in rejected],
        },
        schema=QUARANTINE,
    )
