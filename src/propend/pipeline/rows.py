"""Models of rows instead of users, from tables and impressions: kept in ``row-models``, scored and exported by name."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.config import FILE_NAME
from propend.engine import Engine, connect
from propend.errors import ConfigError, ModelError
from propend.events.durable import write_parquet
from propend.expression.duration import Duration
from propend.learn.fitted import Fitted
from propend.learn.kept_table import reading
from propend.learn.labelled import read_like
from propend.learn.registry import Registry
from propend.pipeline.workspace import open_workspace
from propend.tasks.frame import Frame
from propend.tasks.impressions import build_impressions

__all__ = ["export_rows", "holds_rows", "kept_name", "registries", "row_models", "score_rows"]

F64 = npt.NDArray[np.float64]

FOLDER: Final = "row-models"


def row_models(folder: Path) -> Registry:
    """Return the registry of a folder's models of tables and impressions; the folder need not be a workspace."""
    return Registry(folder / FOLDER)


def kept_name(wanted: str) -> str:
    """Return a name that can be a folder's.

    >>> kept_name("default payment/next month")
    'default_payment_next_month'
    """
    return re.sub(r"[^\w.-]+", "_", wanted).strip("._") or "label"


def registries(folder: Path) -> list[Registry]:
    """Return the registries of a folder: its tasks', where it is a workspace, and its rows'.

    Raises ``ConfigError`` where it is neither a workspace nor holds models of rows.
    """
    _check_not_rows(folder)
    rows = row_models(folder)
    found = [rows] if rows.folder.is_dir() else []
    if (folder / FILE_NAME).is_file() or not found:
        found.insert(0, open_workspace(folder).registry)
    return found


def holds_rows(folder: Path, name: str) -> bool:
    """Whether a name is a model of rows there, and not a task's."""
    _check_not_rows(folder)
    return (row_models(folder).folder / name).is_dir() and not (folder / "models" / name).is_dir()


def _check_not_rows(folder: Path) -> None:
    if folder.absolute().name == FOLDER and folder.is_dir() and not (folder / FILE_NAME).is_file():
        raise ConfigError(
            f"{folder} is where models of rows are kept; name the folder it stands in: {folder.absolute().parent}"
        )


def score_rows(
    folder: Path,
    name: str,
    files: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    version: int | None = None,
    reasons: int = 0,
) -> dict[str, Any]:
    """Score rows by a kept model: those of ``files`` for a table's, the impressions still open for impressions.

    An impression is open while it may yet be taken: the log ends before its time does. Columns written: the row (or user,
    item and time), score (of many answers: ``answer`` and its probability; of a yes/no label: ``positive``, the answer it is
    the probability of), the verdict and the strongest reasons.
    Raises ``ConfigError`` where the files do not fit the kind of model.
    """
    start = time.perf_counter()
    fitted = row_models(folder).load(name, version)
    engine = connect()
    X, columns, noted = _rows(folder, fitted, files, engine)
    scores = fitted.score(X)
    if scores.ndim == 2:
        columns["answer"] = pa.array([fitted.classes[c] for c in scores.argmax(1)], pa.string())
        scores = scores.max(axis=1)
    if fitted.card.get("positive") is not None:
        columns["positive"] = [fitted.card["positive"]] * len(X)
    columns["score"] = scores
    columns["verdict"] = [str(fitted.card.get("verdict", {}).get("answer", ""))] * len(X)
    said = ""
    if reasons:
        from propend.pipeline.prediction import reasons_in_words

        said = str(fitted.card.get("reasons", ""))
        columns["reasons"] = [reasons_in_words(r) for r in fitted.reasons(X, reasons)]
    target = folder / f"{name}-rows.parquet" if out is None else Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(pa.table(columns), target, dictionary=True)
    return {
        "task": fitted.task.ask,
        "name": name,
        "model": fitted.name,
        "file": str(target),
        "rows": len(X),
        "noted": noted,
        "verdict": fitted.card.get("verdict", {}),
        "reasons": said,
        "mean_score": float(scores.mean()),
        "seconds": time.perf_counter() - start,
    }


def export_rows(
    folder: Path,
    name: str,
    files: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    version: int | None = None,
) -> dict[str, Any]:
    """Write a kept model of rows as ONNX, checked on the rows that :func:`score_rows` would score."""
    from propend.learn.export import export_fitted

    fitted = row_models(folder).load(name, version)
    X, _, _ = _rows(folder, fitted, files, connect())
    return export_fitted(fitted, folder / f"{name}.onnx" if out is None else out, X)


def _rows(
    folder: Path, fitted: Fitted, files: Sequence[str], engine: Engine
) -> tuple[F64, dict[str, Any], dict[str, str]]:
    """Return what is scored: its matrix, the columns that say which row is which, and what was odd."""
    name, shown = fitted.task.name, fitted.card.get("impressions")
    if shown is None:
        table = reading(fitted)
        if not files:
            raise ConfigError(f"{name!r} was learnt from a table: say which rows with --rows FILE")
        X, noted = read_like(files, table, engine, Path.cwd())
        return X, {"row": range(len(X))}, noted
    if files:
        raise ConfigError(f"{name!r} scores the log's open impressions; leave --rows out")
    workspace = open_workspace(folder)
    schema = workspace.schema
    asked = build_impressions(
        workspace.store, schema, engine, shown["shown"], shown["taken"], Duration.parse(shown["within"]),
        unanswered=True,
    )  # fmt: skip
    items = np.array(schema.item_ids, dtype=object)
    told = {
        "user": pa.array(workspace.store.names_of(asked.frame.user), pa.string()),
        "item": pa.array(items[asked.item], pa.string()),
        "time": pa.array(asked.time, pa.timestamp("us", "UTC")),
    }
    return _as_fitted(asked.frame, fitted), told, {}


def _as_fitted(frame: Frame, fitted: Fitted) -> F64:
    """Return a frame's rows in the columns and category codes of a fitted model; an unknown text is missing."""
    place = {name: j for j, name in enumerate(frame.names)}
    gone = [str(f) for f in fitted.features if str(f) not in place]
    if gone:
        raise ModelError(
            f"{fitted.task.name!r} needs {gone[0]}, which the log no longer has; fit it again"
        )
    columns = []
    for j, feature in enumerate(fitted.features):
        at = place[str(feature)]
        values = frame.X[:, at]
        if j in fitted.categories:
            known = {text: float(code) for code, text in enumerate(fitted.categories[j])}
            codes = np.array([known.get(text, np.nan) for text in frame.categories[at]] or [np.nan])
            missing = np.isnan(values)
            values = np.where(missing, np.nan, codes[np.where(missing, 0, values).astype(np.int64)])
        columns.append(values)
    return np.column_stack(columns)
