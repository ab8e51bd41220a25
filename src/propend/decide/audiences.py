"""Decisions as files: one table of all of them, and one CSV per audience to hand to a sender."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from propend.decide.decision import Decisions

__all__ = ["AUDIENCE", "write_audiences", "write_decisions"]

AUDIENCE: Final = ("user", "channel", "item", "hour", "at", "reason")
"""Columns of an audience file."""


def write_decisions(decisions: Decisions, folder: Path) -> list[Path]:
    """Write ``decisions.parquet`` and ``decisions.csv`` and return their paths; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet, csv = folder / "decisions.parquet", folder / "decisions.csv"
    _whole(parquet, lambda path: pq.write_table(decisions.table, path, compression="zstd"))
    _whole(csv, lambda path: pa_csv.write_csv(_plain(decisions.table), path))
    return [parquet, csv]


def write_audiences(decisions: Decisions, folder: Path) -> dict[str, Path]:
    """Write ``push.csv``, ``holdout.csv`` (to be suppressed everywhere) and ``push-SEGMENT.csv`` for each segment.

    Returns path by audience. Audiences of an earlier run that are empty now are removed; other files stay.

    >>> import tempfile
    >>> from propend.config import DecideConfig
    >>> from propend.decide.policy import decide
    >>> made = decide(["a"], 0.5, 20.0, DecideConfig(holdout=0, explore=0), now=0, segments=pa.array(["At risk"]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     list(write_audiences(made, Path(folder)))
    ['push', 'push-at-risk', 'holdout']
    """
    folder.mkdir(parents=True, exist_ok=True)
    pushed, group = decisions.pushed, decisions.column("group")
    chosen = {"push": pushed}
    if decisions.segments is not None:
        for name in sorted(pc.unique(decisions.segments).drop_null().to_pylist()):
            rows = np.asarray(pc.fill_null(pc.equal(decisions.segments, name), False))
            if (pushed & rows).any():
                slug = _slug(name)
                chosen[slug] = chosen.get(slug, np.zeros(len(pushed), np.bool_)) | (pushed & rows)
    chosen["holdout"] = group == "holdout"
    table = _plain(decisions.table.select(list(AUDIENCE)))
    written = {}
    for name, rows in chosen.items():
        path, audience = folder / f"{name}.csv", table.filter(pa.array(rows))
        _whole(path, lambda part, audience=audience: pa_csv.write_csv(audience, part))  # type: ignore[misc]
        written[name] = path
    for stale in set(folder.glob("push-*.csv")) - set(written.values()):
        stale.unlink()
    return written


def _slug(segment: str) -> str:
    """Return the audience's name for a segment: lower case, words joined by hyphens.

    >>> _slug("Can't lose")
    'push-cant-lose'
    """
    words = re.sub(r"[^\w]+", "-", segment.casefold().replace("'", "")).strip("-")
    return f"push-{words or 'other'}"


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with coded text as text, and times as ISO 8601 in UTC, as CSV wants them."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table[name]
        if pa.types.is_dictionary(values.type):
            values = values.cast(pa.string())
        elif pa.types.is_timestamp(values.type):
            values = pc.strftime(values.cast(pa.timestamp("s", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
        columns[name] = values
    return pa.table(columns)


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the path and move there, so that a reader never sees half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
