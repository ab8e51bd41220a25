"""Everyone's score in one pass over the store: features, model and file, bucket by bucket, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.durable import sync_file
from propend.events.store import Store
from propend.features.schema import Schema
from propend.features.words import in_words
from propend.learn.fitted import Fitted
from propend.learn.intervals import bounder
from propend.tasks.frame import Frame, map_population

__all__ = ["population_sample", "score_store"]

Progress = Callable[[str, int, int | None], None]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

ENOUGH: Final = 2_000


def score_store(
    store: Store,
    schema: Schema,
    engine: Engine,
    fitted: Fitted,
    now: int,
    file: str | Path,
    *,
    reasons: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score everyone in a fitted task's population at ``now`` into a Parquet file; returns users, seconds and a summary.

    Columns: user, score with the ends of its interval (``low``, ``high``) where the card keeps one, the card's verdict
    (whether the model is to be used) and, for each of the strongest ``reasons``, ``reason_k`` (words), ``reason_k_value`` (the
    feature's value; a category's code) and ``reason_k_effect`` (on the margin; empty where nothing moved the score). Of many
    answers the likeliest stands in ``answer`` and its probability in ``score``.
    Rows are in the order of the store, not of the scores. The file appears whole or not at all.

    Raises ``NotEnoughDataError`` where nobody is in the population, ``ModelError`` where the model cannot give reasons.
    """
    start = time.perf_counter()
    words = [in_words(f) for f in fitted.features]
    kept = fitted.card.get("uncertainty", {})
    ends = bounder(kept) if kept.get("kind", "none") != "none" else None
    classes = pa.array(fitted.classes, pa.string())
    verdict = pa.array([str(fitted.card.get("verdict", {}).get("answer", ""))])

    def use(frame: Frame, ids: pa.Array) -> pa.Table:
        scores = fitted.score(frame.X)
        columns: dict[str, Any] = {"user": ids, "score": scores}
        best: I64 | None = None
        if scores.ndim == 2:
            best = scores.argmax(axis=1)
            columns["answer"] = pa.DictionaryArray.from_arrays(best.astype(np.int32), classes)
            columns["score"] = scores[np.arange(len(scores)), best]
        elif ends is not None:
            columns["low"], columns["high"] = ends(scores)
        columns["verdict"] = pa.DictionaryArray.from_arrays(np.zeros(len(ids), np.int32), verdict)
        if reasons:
            columns |= _reasons(fitted, frame.X, words, reasons, best)
        return pa.table(columns)

    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    total, buckets, summed, writer = 0, len(store.manifest.runs), 0.0, None
    try:
        tables = map_population(
            store,
            schema,
            engine,
            fitted.task,
            fitted.features,
            now,
            fitted.categories,
            use,
            fitted.beside,
        )
        for done, table in enumerate(tables):
            writer = writer or pq.ParquetWriter(
                part, table.schema, compression="lz4", use_dictionary=_dictionaries(table)
            )
            writer.write_table(table)
            total += table.num_rows
            summed += float(np.asarray(table["score"]).sum())
            if progress:
                progress("score", done + 1, buckets)
        if writer is None:
            raise NotEnoughDataError(
                f"no user is in the population {fitted.task.population} now; bring newer events or ask a wider population"
            )
        writer.close()
        sync_file(part)
        part.replace(target)
    finally:
        if writer is not None:
            writer.close()
        part.unlink(missing_ok=True)
    return {
        "task": fitted.task.ask,
        "name": fitted.task.name,
        "model": fitted.name,
        "file": str(target),
        "users": total,
        "verdict": fitted.card.get("verdict", {}),
        "reasons": str(fitted.card.get("reasons", "")) if reasons else "",
        "mean_score": summed / total,
        "seconds": time.perf_counter() - start,
    }


def population_sample(
    store: Store, schema: Schema, engine: Engine, fitted: Fitted, now: int, most: int = ENOUGH
) -> F64:
    """Return feature rows [n, d] of some users of a fitted task's population, as its model takes them."""
    found: list[F64] = []
    parts = map_population(
        store, schema, engine, fitted.task, fitted.features, now, fitted.categories,
        lambda frame, _: np.ascontiguousarray(frame.X[:most]), fitted.beside,
    )  # fmt: skip
    for X in parts:
        found.append(X)
        if sum(map(len, found)) >= most:
            break
    if not found:
        raise NotEnoughDataError(f"no user is in the population {fitted.task.population} now")
    return np.vstack(found)[:most]


def _reasons(
    fitted: Fitted, X: F64, words: list[str], most: int, of: I64 | None = None
) -> dict[str, Any]:
    """Columns of the strongest contributions of each row, as :meth:`Fitted.reasons` gives them one by one."""
    parts = fitted.model.contributions(X, of)[:, :-1]
    top = np.argsort(-np.abs(parts), axis=1)[:, : min(most, parts.shape[1])]
    names = pa.array(words, pa.string())
    columns: dict[str, Any] = {}
    rows = np.arange(len(X))
    for k in range(top.shape[1]):
        chosen = top[:, k]
        effect = parts[rows, chosen]
        none = effect == 0
        code = pa.array(chosen.astype(np.int32), mask=none)
        columns[f"reason_{k + 1}"] = pa.DictionaryArray.from_arrays(code, names)
        columns[f"reason_{k + 1}_value"] = pa.array(
            X[rows, chosen], from_pandas=True, mask=none | np.isnan(X[rows, chosen])
        )
        columns[f"reason_{k + 1}_effect"] = pa.array(effect, mask=none)
    return columns


def _dictionaries(table: pa.Table) -> list[str]:
    return [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
