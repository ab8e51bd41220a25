"""A person out of everything: the store, what was written (tables, audience files, pages that show them), the live side."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propend.errors import DataError
from propend.events.durable import write_parquet
from propend.events.store import Store
from propend.learn.cross_fitted import PAST, kept_sizes
from propend.names import USER
from propend.pipeline.predict import write_csv

if TYPE_CHECKING:
    from propend.pipeline.workspace import Workspace

__all__ = ["erase", "erase_outputs"]

_LIVE: Final = "propend.serve.erase"
"""Erasing is the one verb that must reach what stands above this floor, so it is found by name, as the verbs are."""


def erase(workspace: Workspace, user: str, *, alone: bool = False) -> dict[str, Any]:
    """Erase a person; see :meth:`Workspace.forget`. Cut off at any point, it can be asked again and goes on."""
    folder = workspace.folder
    live = importlib.import_module(_LIVE) if (folder / "live").is_dir() else None
    ids: tuple[str, ...] = (user,) if live is None else live.person(workspace, user)
    if alone:
        ids = ids[:1]
    lively = live is not None and live.known(workspace, ids)
    if not Store.exists(workspace.store_folder) and not lively:
        raise DataError(f"{folder} has no events yet, so nobody was erased")
    total: dict[str, int] = {"events": 0, "quarantined": 0, "attributes": 0}
    for one in ids:
        for name, rows in Store(workspace.store_folder).forget(one, missing_ok=lively).items():
            total[name] += rows
    workspace._forget_cached()
    shutil.rmtree(folder / "people", ignore_errors=True)  # made anew when asked, from what is left
    shutil.rmtree(
        folder / "kept", ignore_errors=True
    )  # states and offers by user; made anew when asked
    learnt = _unlearn(folder / "behaviour")
    shutil.rmtree(folder / ".out-new", ignore_errors=True)  # of a run that was killed
    places = (workspace.out, folder / ".out-old", folder / "behaviour")
    total["outputs"] = sum(erase_outputs(place, one) for place in places for one in ids)
    if live is not None:
        total |= live.erase(workspace, ids)
    return {**total, "ids": list(ids), "behaviour": learnt}


def _unlearn(home: Path) -> list[str]:
    """Remove what competes of the behaviour models, and copies of the log; returns the sizes whose weights learnt of the erased.

    A model of the whole log stays, since only its vectors are read; it knows by how many were erased that it is to be
    made anew (``BehaviourModel.knows_erased``), as does a pair that is being pretrained meanwhile.
    """
    for run in [*home.rglob("training*")]:  # a broken-off run's copy of the log
        shutil.rmtree(run)
    for pairs in [*home.glob(f"*/{PAST}")]:  # pretrained anew when a question is asked
        shutil.rmtree(pairs)
    return sorted(kept_sizes(home))


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
