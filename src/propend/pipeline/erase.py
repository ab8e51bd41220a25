"""A user out of what was written: tables, audience files, pages that show them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propend.events.durable import write_parquet
from propend.names import USER
from propend.pipeline.predict import write_csv

__all__ = ["erase_outputs"]


def erase_outputs(folder: Path, user: str) -> int:
    """Take a user's rows out of every table below ``folder`` and remove pages that name them; returns the rows taken out."""
    gone = 0
    for path in sorted(folder.rglob("*.parquet")) if folder.is_dir() else []:
        table = pq.read_table(path, partitioning=None)
        kept = _without(table, user)
        if kept.num_rows < table.num_rows:
            gone += table.num_rows - kept.num_rows
            write_parquet(kept, path, dictionary=False)
            if path.with_suffix(".csv").exists():
                write_csv(kept, path.with_suffix(".csv"))
    for path in sorted(folder.rglob("*.csv")) if folder.is_dir() else []:
        if not path.with_suffix(".parquet").exists():
            gone += _erase_csv(path, user)
    for path in (folder / "report.html", folder / "results.json"):
        if path.is_file() and user in path.read_text(encoding="utf-8"):
            path.unlink()
    return gone


def _without(table: pa.Table, user: str) -> pa.Table:
    for name in (USER, "user_id"):
        if name in table.column_names and pa.types.is_string(table.schema.field(name).type):
            return table.filter(pc.fill_null(pc.not_equal(table[name], user), True))
    return table


def _erase_csv(path: Path, user: str) -> int:
    """Take a user's rows out of a CSV file that has no Parquet beside it (an audience file)."""
    from pyarrow import csv

    options = csv.ConvertOptions(column_types={USER: pa.string()})
    table = csv.read_csv(path, convert_options=options)
    kept = _without(table, user)
    if kept.num_rows < table.num_rows:
        write_csv(kept, path)
    return table.num_rows - kept.num_rows
