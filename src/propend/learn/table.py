"""A labelled table without any time: k-fold cross-validation, said loudly, since no fold can be forward."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Source
from propend.engine import Engine
from propend.errors import ConfigError, DataError, NotEnoughDataError, nearest
from propend.learn import calibration, metrics
from propend.models import catalog

__all__ = ["LabelledTable", "TableFit", "cross_validate", "read_table"]

F64 = npt.NDArray[np.float64]

MOST_LEVELS: Final = 200
_POSITIVE: Final = (
    "1",
    "yes",
    "y",
    "true",
    "t",
    "是",
    "有",
    "positive",
    "churn",
    "churned",
    "fraud",
)


@dataclass(frozen=True)
class LabelledTable:
    """Columns as a matrix with NaN for missing; ``categories`` maps columns of codes to their texts.

    ``left_out`` says which columns are not used, and why.
    """

    X: F64
    y: F64
    columns: tuple[str, ...]
    categories: dict[int, tuple[str, ...]]
    answer: str
    positive: str | None
    left_out: dict[str, str]
    unlabelled: int

    def data_hash(self) -> str:
        """Return a fingerprint of the rows and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(np.nan_to_num(self.X, nan=-1.0)).tobytes())
        digest.update(self.y.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TableFit:
    """Scores out of fold, and the card with every figure and its protocol."""

    scores: F64
    card: dict[str, Any]


def read_table(
    files: Sequence[str], label: str, engine: Engine, base: Path, *, ignore: Sequence[str] = ()
) -> LabelledTable:
    """Read a labelled table from CSV, JSON lines or Parquet.

    Columns that are numbers throughout are numbers, the others categories; a column whose every row differs is an id
    and is left out, and said. Rows without a label are left out, and counted.
    Raises ``DataError`` or ``ConfigError`` in one sentence where the label is unknown, blank or constant.
    """
    source = Source(name="table", files=tuple(files))
    kinds = engine.columns(source, base)
    for name in (label, *ignore):
        if name not in kinds:
            raise ConfigError(f"{files[0]}: no column {name!r}{nearest(name, kinds)}")
    select = {name: '"' + name.replace('"', '""') + '"' for name in kinds}
    batches = [b.select(list(kinds)) for b in engine.scan(source, base, select).batches]
    if not batches:
        raise DataError(f"{files[0]} holds no row; bring a table with at least one row per class")
    table = pa.Table.from_batches(batches)
    texts = _clean_text(table[label])
    there = np.asarray(pc.is_valid(texts))
    if not there.any():
        raise DataError(
            f"{files[0]}: the label column {label!r} is blank in every row; choose another with --label"
        )
    table = table.filter(pa.array(there))
    y, answer, positive = _labels(texts.filter(pa.array(there)), label, files[0])
    columns: list[F64] = []
    kept: list[str] = []
    categories: dict[int, tuple[str, ...]] = {}
    left_out = dict.fromkeys(ignore, "asked to be ignored")
    for name in kinds:
        if name == label or name in ignore:
            continue
        values, levels, reason = _column(table[name], name)
        if reason is not None:
            left_out[name] = reason
            continue
        if levels is not None:
            categories[len(kept)] = levels
        kept.append(name)
        columns.append(values)
    if not columns:
        raise DataError(
            f"{files[0]}: no column can explain {label!r} ({', '.join(f'{k}: {v}' for k, v in left_out.items()) or 'it is the only one'})"
        )
    return LabelledTable(
        np.column_stack(columns),
        y,
        tuple(kept),
        categories,
        answer,
        positive,
        left_out,
        int((~there).sum()),
    )


def _clean_text(column: pa.ChunkedArray) -> pa.Array:
    """Return values as trimmed text, blanks missing."""
    text = pc.utf8_trim_whitespace(column.combine_chunks().cast(pa.string()))
    blank = pc.is_in(
        pc.utf8_lower(text), value_set=pa.array(["", "nan", "null", "na", "n/a", "none"])
    )
    return pc.if_else(pc.fill_null(blank, True), pa.scalar(None, pa.string()), text)


def _numbers(text: pa.Array) -> F64 | None:
    """Return texts as numbers with NaN for missing, or ``None`` where any of them is not a number."""
    try:
        return np.asarray(pc.fill_null(pc.cast(text, pa.float64()), np.nan))
    except pa.ArrowInvalid:
        return None


def _labels(text: pa.Array, label: str, where: str) -> tuple[F64, str, str | None]:
    levels = sorted(pc.unique(text).to_pylist())
    if len(levels) == 1:
        raise NotEnoughDataError(
            f"{where}: every row of {label!r} says {levels[0]!r}; there is nothing to tell apart"
        )
    if len(levels) == 2:
        positive = next(
            (v for v in levels if v.casefold() in _POSITIVE or v in ("1.0",)), levels[1]
        )
        y = np.asarray(pc.equal(text, positive)).astype(np.float64)
        rarer = int(min(y.sum(), len(y) - y.sum()))
        if rarer < 10:
            raise NotEnoughDataError(
                f"{where}: only {rarer} rows of {label!r} carry the rarer answer; at least 10 are needed for 5 folds"
            )
        return y, "yes_no", positive
    numbers = _numbers(text)
    if numbers is None:
        raise DataError(
            f"{where}: {label!r} has {len(levels):,} different texts; a label is yes/no or a number (for one of many, one column per answer)"
        )
    if np.isinf(numbers).any():
        raise DataError(f"{where}: {label!r} holds infinite values; take those rows out")
    return numbers, "amount", None


def _column(column: pa.ChunkedArray, name: str) -> tuple[F64, tuple[str, ...] | None, str | None]:
    """Return a column's values, its levels where it is a category, or why it is left out."""
    text = _clean_text(column)
    distinct = pc.count_distinct(text).as_py()
    if distinct == 0:
        return np.zeros(0), None, "every row is missing"
    if distinct == 1 and text.null_count == 0:
        return np.zeros(0), None, "every row is the same"
    numbers = _numbers(text)
    looks_like_id = (
        re.search(r"(^|_|\b)(id|key|no|nr|uuid|number)$|ID$|Id$|编号$", name) is not None
    )
    if numbers is not None:
        if distinct == len(text) and looks_like_id and np.all(numbers == np.round(numbers)):
            return np.zeros(0), None, "an id: every row differs"
        return np.where(np.isinf(numbers), np.nan, numbers), None, None
    if distinct > 0.5 * len(text) and distinct > MOST_LEVELS:
        return np.zeros(0), None, f"an id or free text: {distinct:,} different values"
    counts = sorted(
        pc.value_counts(text.drop_null()).to_pylist(), key=lambda c: (-c["counts"], c["values"])
    )
    common = sorted(c["values"] for c in counts[:MOST_LEVELS])
    codes = np.asarray(pc.fill_null(pc.index_in(text, value_set=pa.array(common)), -1)).astype(
        np.float64
    )
    return np.where(codes < 0, np.nan, codes), tuple(common), None


def cross_validate(
    table: LabelledTable,
    *,
    folds: int = 5,
    seed: int = 7,
    draws: int = 200,
    models: Sequence[str] | None = None,
) -> TableFit:
    """Judge models by stratified k-fold and return the champion's out-of-fold scores.

    Within each training fold a quarter is held out to stop the trees, to calibrate and to choose the champion, so the
    test fold chooses nothing. The trivial baseline stands in the card.
    """
    names = tuple(
        models or (("logistic", "trees") if table.answer == "yes_no" else ("linear", "trees"))
    )
    baseline = "base_rate" if table.answer == "yes_no" else "mean"
    fold_of = _fold_of(table, folds, seed)
    scores = {name: np.empty(len(table.y)) for name in (*names, baseline, "champion")}
    chosen: list[str] = []
    cuts: list[float] = []
    for k in range(folds):
        test = fold_of == k
        inner = ~test & (np.random.default_rng([seed, k]).random(len(test)) >= 0.25)
        held = ~test & ~inner
        raw_held = {
            name: _fit_predict(table, name, inner, ~test, held, test, seed)
            for name in (*names, baseline)
        }
        best, best_scores = _best(table, names, raw_held, held, seed)
        for name, (_, on_test) in raw_held.items():
            scores[name][test] = on_test
        scores["champion"][test] = scores[best][test]
        chosen.append(best)
        if table.answer == "yes_no":
            cuts.append(metrics.best_f1_threshold(table.y[held], best_scores))
    card = _card(
        table,
        names,
        baseline,
        scores,
        chosen,
        folds,
        seed,
        draws,
        float(np.mean(cuts)) if cuts else None,
    )
    return TableFit(scores["champion"], card)


def _fold_of(table: LabelledTable, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each row's fold, every class (or every tenth of the amounts) spread evenly."""
    rng = np.random.default_rng(seed)
    strata = (
        table.y
        if table.answer == "yes_no"
        else np.argsort(np.argsort(table.y)) * 10 // len(table.y)
    )
    fold = np.empty(len(table.y), np.int64)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def _fit_predict(
    table: LabelledTable,
    name: str,
    inner: npt.NDArray[np.bool_],
    train: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    seed: int,
) -> tuple[F64, F64]:
    """Return calibrated scores of the held-out rows (from the inner fit) and of the test rows (from the whole fit)."""
    categories = {j: len(levels) for j, levels in table.categories.items()}
    fit = partial(_fit, table, categories=categories, seed=seed)
    first = fit(name, {}, inner, held)
    on_held = first.predict(table.X[held])
    rounds = int(getattr(first, "rounds", 0))
    second = fit(name, {"trees": max(10, round(1.1 * rounds))} if rounds else {}, train, None)
    on_test = second.predict(table.X[test])
    if table.answer == "yes_no":
        calibrator = calibration.choose(on_held, table.y[held], seed=seed)
        return calibrator.apply(on_held), calibrator.apply(on_test)
    return on_held, on_test


def _fit(
    table: LabelledTable,
    name: str,
    settings: dict[str, Any],
    rows: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_] | None,
    *,
    categories: dict[int, int],
    seed: int,
) -> Any:
    model = catalog.create(name, table.answer, **settings)  # type: ignore[arg-type]
    validation = None if held is None else (table.X[held], table.y[held], None)
    return model.fit(
        table.X[rows],
        table.y[rows],
        columns=table.columns,
        categories=categories,
        validation=validation,
        seed=seed,
    )


def _best(
    table: LabelledTable,
    names: Sequence[str],
    scored: dict[str, tuple[F64, F64]],
    held: npt.NDArray[np.bool_],
    seed: int,
) -> tuple[str, F64]:
    """Return the model that does best on held-out rows; a simpler one stays where the gain is noise."""
    loss = metrics.log_loss if table.answer == "yes_no" else metrics.rmse
    best = names[0]
    for name in names[1:]:
        gain = metrics.bootstrap_difference(
            loss, table.y[held], scored[name][0], scored[best][0], n=100, seed=seed
        )
        if gain.high < 0:
            best = name
    return best, scored[best][0]


def _card(
    table: LabelledTable,
    names: Sequence[str],
    baseline: str,
    scores: dict[str, F64],
    chosen: list[str],
    folds: int,
    seed: int,
    draws: int,
    threshold: float | None,
) -> dict[str, Any]:
    yes_no = table.answer == "yes_no"
    of = partial(metrics.yes_no_metrics, threshold=threshold) if yes_no else metrics.amount_metrics
    main = (
        [metrics.auroc, metrics.average_precision, metrics.log_loss, metrics.brier]
        if yes_no
        else [metrics.rmse, metrics.mae, metrics.bias, metrics.gini]
    )
    intervals = {}
    for metric in main:
        i = metrics.bootstrap_interval(metric, table.y, scores["champion"], n=draws, seed=seed)
        intervals[metric.__name__] = {
            "value": i.value,
            "low": i.low,
            "high": i.high,
            "level": i.level,
        }
    return {
        "rows": len(table.y),
        "positives": int((table.y > 0).sum()),
        "answer": table.answer,
        "positive": table.positive,
        "folds": folds,
        "seed": seed,
        "protocol": f"{folds}-fold stratified cross-validation, champion and calibration chosen inside each training fold; the table has no time, so no fold is forward and the figures flatter",
        "data_hash": table.data_hash(),
        "champion": max(set(chosen), key=chosen.count),
        "champions": chosen,
        "metrics": of(table.y, scores["champion"]),
        "intervals": intervals,
        "baseline": {baseline: of(table.y, scores[baseline])},
        "models": {name: of(table.y, scores[name]) for name in names},
        "columns": list(table.columns),
        "left_out": table.left_out,
        "unlabelled": table.unlabelled,
    }
