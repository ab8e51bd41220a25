"""A labelled table without any time: k-fold cross-validation, said loudly, since no fold can be forward."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from propend.learn.intervals import uncertainty
from propend.learn.leaks import leak_report, refuse
from propend.learn.power import stated, verdict
from propend.models import catalog

__all__ = ["Candidate", "LabelledTable", "TableFit", "cross_validate", "read_table"]

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
    malformed: int = 0
    """Lines of the files that are no rows (too few or too many cells)."""
    groups: npt.NDArray[np.int64] | None = None
    """Code of what each row belongs to (a customer, a policy); rows of one group share a fold."""
    time: F64 | None = None
    """When each row was known, in any unit; folds then go forward."""

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
    by_model: dict[str, F64] = field(default_factory=dict)
    """Out-of-fold scores of every model compared; NaN where a row only trained."""


def read_table(
    files: Sequence[str],
    label: str,
    engine: Engine,
    base: Path,
    *,
    ignore: Sequence[str] = (),
    group: str | None = None,
    order: str | None = None,
) -> LabelledTable:
    """Read a labelled table from CSV, JSON lines or Parquet.

    Columns that are numbers throughout are numbers, the others categories; a column whose every row differs is an id
    and is left out, and said. Rows without a label are left out, and counted. ``group`` names the column of what rows
    belong to, ``order`` the column of time (dates, times or numbers); both are kept out of the features.
    Raises ``DataError`` or ``ConfigError`` in one sentence where the label is unknown, blank or constant.
    """
    source = Source(name="table", files=tuple(files))
    kinds = engine.columns(source, base)
    for name in (label, *ignore, *(c for c in (group, order) if c is not None)):
        if name not in kinds:
            raise ConfigError(f"{files[0]}: no column {name!r}{nearest(name, kinds)}")
    select = {name: '"' + name.replace('"', '""') + '"' for name in kinds}
    scan = engine.scan(source, base, select)
    batches = [b.select(list(kinds)) for b in scan.batches]
    if sum(b.num_rows for b in batches) == 0:
        why = (
            f"its {len(scan.rejected):,} lines are no rows, for example {scan.rejected[0].text.strip()!r}: {scan.rejected[0].reason}"
            if scan.rejected
            else "bring a table with at least one row per class"
        )
        raise DataError(f"{files[0]} holds no row; {why}")
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
        if name == label or name in left_out:
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
        len(scan.rejected),
        None if group is None else _group_codes(table[group]),
        None if order is None else _moments(table[order], order, files[0]),
    )


def _group_codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return a code per value; rows without one stand alone."""
    coded = _clean_text(column).dictionary_encode()
    codes = np.asarray(pc.fill_null(coded.indices, -1)).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(coded.dictionary) + np.arange(len(alone))
    return codes


def _moments(column: pa.ChunkedArray, name: str, where: str) -> F64:
    """Return times as numbers that order the rows."""
    text = _clean_text(column)
    numbers = _numbers(text)
    if numbers is None:
        try:
            when = pc.cast(text, pa.timestamp("us"))
        except pa.ArrowInvalid:
            raise DataError(
                f"{where}: {name!r} is not a time in every row; write dates as 2024-03-01 or give numbers"
            ) from None
        numbers = np.where(
            np.asarray(pc.is_valid(when)),
            np.asarray(pc.fill_null(when, 0)).astype(np.int64),
            np.nan,
        )
    if np.isnan(numbers).any():
        raise DataError(
            f"{where}: {name!r} is missing in {int(np.isnan(numbers).sum()):,} rows; forward folds need it in every row"
        )
    return numbers


def _clean_text(column: pa.ChunkedArray) -> pa.Array:
    """Return values as trimmed text, blanks missing."""
    text = pc.utf8_trim_whitespace(column.combine_chunks().cast(pa.string()))
    blank = pc.is_in(
        pc.utf8_lower(text), value_set=pa.array(["", "nan", "null", "na", "n/a", "none"])
    )
    return pc.if_else(pc.fill_null(blank, True), pa.scalar(None, pa.string()), text)


def _numbers(text: pa.Array) -> F64 | None:
    """Return texts as numbers with NaN for missing, or ``None`` where any of them is neither a number nor an amount.

    >>> _numbers(pa.array(["¥1,234.50", None, "-3"])).tolist()
    [1234.5, nan, -3.0]
    """
    try:
        return np.asarray(pc.fill_null(pc.cast(text, pa.float64()), np.nan))
    except pa.ArrowInvalid:
        pass
    amounts = pc.match_substring_regex(
        text, r"^[-+(]?\s*[\p{Sc}￥元]?\s*-?\d[\d,]*(\.\d+)?\s*[\p{Sc}￥元%]?\)?$"
    )
    if not pc.all(amounts).as_py():
        return None
    minus = pc.match_substring_regex(text, r"^\s*[-(]|^[^\d]*-")
    size = pc.cast(pc.replace_substring_regex(text, r"[^\d.]", ""), pa.float64())
    values = np.asarray(pc.fill_null(size, np.nan))
    return np.where(np.asarray(pc.fill_null(minus, False)), -values, values)


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


@dataclass(frozen=True)
class Candidate:
    """A model of a comparison: how it is called, its name in the catalogue, its settings."""

    label: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: str | Candidate) -> Candidate:
        """Return a candidate; a bare name is a model with its own settings."""
        return cls(given, given) if isinstance(given, str) else given


def cross_validate(
    table: LabelledTable,
    *,
    folds: int = 5,
    seed: int = 7,
    draws: int = 200,
    models: Sequence[str | Candidate] | None = None,
    beside: Sequence[str | Candidate] = (),
    known_before: Sequence[str] = (),
    progress: Callable[[str, int, int | None], None] | None = None,
) -> TableFit:
    """Judge models and return the champion's out-of-fold scores.

    Folds go forward in time where the table has a time, keep groups whole where it has groups, and are stratified
    otherwise. Within each training fold a quarter is held out (the latest, whole groups, or at random) to stop the
    trees, to calibrate and to choose the champion among ``models``, from simple to flexible, so the test fold chooses
    nothing. Models ``beside`` are only compared: fitted once a fold, scored as they are. The trivial baseline stands in
    the card, and so does the time each model took to fit.

    Raises ``LeakError`` where a column knows the answer and is not among ``known_before``, the columns a person has
    confirmed to be known in time.
    """
    plain = ("logistic", "trees") if table.answer == "yes_no" else ("linear", "trees")
    names = tuple(map(Candidate.of, models or plain))
    others = tuple(map(Candidate.of, beside))
    trivial = Candidate.of("base_rate" if table.answer == "yes_no" else "mean")
    fold_of = _fold_of(table, folds, seed)
    leaks = leak_report(
        table.X,
        table.y,
        table.columns,
        {j: len(levels) for j, levels in table.categories.items()},
        fold_of=fold_of if table.time is None else None,
        groups=table.groups,
        known_before=known_before,
    )
    refuse(
        [leak for leak in leaks if leak.column or "rows" not in known_before],
        "to go on nevertheless, confirm it with --known "
        + (leaks[0].column if leaks and leaks[0].column else "rows"),
    )
    scores = {c.label: np.full(len(table.y), np.nan) for c in (*names, *others, trivial)}
    scores["champion"] = np.full(len(table.y), np.nan)
    seconds: dict[str, list[float]] = {label: [] for label in scores if label != "champion"}
    remarks: dict[str, str] = {}
    chosen: list[str] = []
    cuts: list[float] = []
    tested = [k for k in range(folds) if (fold_of == k).any()]
    for done, k in enumerate(tested):
        test = fold_of == k
        train = (fold_of < k) if table.time is not None else ~test
        held = train & _held_out(table, train, seed + k)
        inner = train & ~held
        on_held: dict[str, F64] = {}
        for candidate in (*names, *others, trivial):
            fitted = _fit_predict(
                table, candidate, inner, train, held, test, seed, nested=candidate in names
            )
            on_held[candidate.label] = fitted.held
            scores[candidate.label][test] = fitted.test
            seconds[candidate.label].append(fitted.seconds)
            if fitted.remark:
                remarks[candidate.label] = fitted.remark
        best, best_scores = _best(table, [c.label for c in names], on_held, held, seed)
        scores["champion"][test] = scores[best][test]
        chosen.append(best)
        if table.answer == "yes_no":
            cuts.append(metrics.best_f1_threshold(table.y[held], best_scores))
        if progress:
            progress("folds", done + 1, len(tested))
    card = _card(
        table,
        [c.label for c in (*names, *others)],
        trivial.label,
        scores,
        chosen,
        fold_of,
        seed,
        draws,
        float(np.mean(cuts)) if cuts else None,
    )
    card["seconds"] = {label: float(np.mean(each)) for label, each in seconds.items()}
    card["remarks"] = remarks
    card["nested"] = [c.label for c in names]
    card["leaks"] = [asdict(leak) for leak in leaks]
    tested_rows = fold_of >= 0
    of_folds = [(table.y[fold_of == k], scores["champion"][fold_of == k]) for k in tested]
    card["uncertainty"] = uncertainty(table.answer, of_folds)
    metric = "auroc" if table.answer == "yes_no" else "rmse"
    gain = metrics.bootstrap_difference(
        getattr(metrics, metric),
        table.y[tested_rows],
        scores["champion"][tested_rows],
        scores[trivial.label][tested_rows],
        n=draws,
        seed=seed,
    )
    card["margins"] = {trivial.label: {metric: _range(gain)}}
    card["verdict"] = verdict(card)
    card["power"] = stated(card, metric)
    return TableFit(scores["champion"], card, scores)


def _fold_of(table: LabelledTable, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each row's fold; −1 for rows that only train (the first stretch of time)."""
    if folds < 2:
        raise ConfigError(f"{folds} folds cannot judge a model; use at least 2")
    if table.time is not None:
        # whole moments stay together: rows of one moment are never on both sides
        _, moment = np.unique(table.time, return_inverse=True)
        cumulative = np.cumsum(np.bincount(moment)) / len(moment)
        stretch = np.minimum((cumulative * (folds + 1) - 1e-9).astype(np.int64), folds)
        fold = np.unique(stretch, return_inverse=True)[1] - 1  # the first stretch only trains
        if fold.max() < 0:
            raise NotEnoughDataError(
                "the time column has too few different moments to test forward; leave it out or bring a longer table"
            )
        return fold[moment]
    rng = np.random.default_rng(seed)
    if table.groups is not None:
        found, group = np.unique(table.groups, return_inverse=True)
        if len(found) < folds:
            raise NotEnoughDataError(
                f"{len(found)} groups cannot fill {folds} folds; use fewer folds or another group column"
            )
        return (rng.permutation(len(found)) % folds)[group]
    strata = (
        table.y
        if table.answer == "yes_no"
        else np.argsort(np.argsort(table.y, kind="stable")) * 10 // len(table.y)
    )
    fold = np.empty(len(table.y), np.int64)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def _held_out(
    table: LabelledTable, train: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.bool_]:
    """Return a quarter of the training rows: the latest, whole groups, or at random."""
    if table.time is not None:
        edge = np.quantile(table.time[train], 0.75)
        for late in (table.time > edge, table.time >= edge):
            if (train & late).any() and (train & ~late).any():
                return np.asarray(late, np.bool_)
        return np.random.default_rng([seed, 1]).random(len(train)) < 0.25  # one moment only
    rng = np.random.default_rng([seed, 1])
    if table.groups is not None:
        found, group = np.unique(table.groups, return_inverse=True)
        return (rng.random(len(found)) < 0.25)[group]
    return rng.random(len(train)) < 0.25


@dataclass(frozen=True)
class _Part:
    held: F64
    test: F64
    seconds: float
    remark: str


def _fit_predict(
    table: LabelledTable,
    candidate: Candidate,
    inner: npt.NDArray[np.bool_],
    train: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    seed: int,
    *,
    nested: bool,
) -> _Part:
    """Return calibrated scores of the held-out rows (from the inner fit) and of the test rows (from the whole fit)."""
    categories = {j: len(levels) for j, levels in table.categories.items()}
    fit = partial(_fit, table, categories=categories, seed=seed)
    settings = dict(candidate.settings)
    if not nested:
        start = time.perf_counter()
        model = fit(candidate.model, settings, train, None)
        seconds = time.perf_counter() - start
        return _Part(np.empty(0), model.predict(table.X[test]), seconds, model.remark)
    start = time.perf_counter()
    first = fit(candidate.model, settings, inner, held)
    on_held = first.predict(table.X[held])
    rounds = int(getattr(first, "rounds", 0))
    again = {**settings, "trees": max(10, round(1.1 * rounds))} if rounds else settings
    second = fit(candidate.model, again, train, None)
    seconds = time.perf_counter() - start
    on_test = second.predict(table.X[test])
    if table.answer == "yes_no":
        calibrator = calibration.choose(on_held, table.y[held], seed=seed)
        on_held, on_test = calibrator.apply(on_held), calibrator.apply(on_test)
    return _Part(on_held, on_test, seconds, second.remark)


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
    scored: dict[str, F64],
    held: npt.NDArray[np.bool_],
    seed: int,
) -> tuple[str, F64]:
    """Return the model that does best on held-out rows; a simpler one stays where the gain is noise."""
    loss = metrics.log_loss if table.answer == "yes_no" else metrics.rmse
    best = names[0]
    for name in names[1:]:
        gain = metrics.bootstrap_difference(
            loss, table.y[held], scored[name], scored[best], n=100, seed=seed
        )
        if gain.high < 0:
            best = name
    return best, scored[best]


def _card(
    table: LabelledTable,
    names: Sequence[str],
    baseline: str,
    scores: dict[str, F64],
    chosen: list[str],
    fold_of: npt.NDArray[np.int64],
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
    tested = fold_of >= 0
    y, best = table.y[tested], scores["champion"][tested]
    groups = None if table.groups is None else table.groups[tested]
    interval = partial(metrics.bootstrap_interval, groups=groups, n=draws, seed=seed)
    folds = len(np.unique(fold_of[tested]))
    return {
        "rows": len(table.y),
        "tested": int(tested.sum()),
        "tested_positives": int((y > 0).sum()),
        "positives": int((table.y > 0).sum()),
        "answer": table.answer,
        "positive": table.positive,
        "folds": folds,
        "seed": seed,
        "protocol": _protocol(table, folds),
        "data_hash": table.data_hash(),
        "champion": max(set(chosen), key=chosen.count),
        "champions": chosen,
        "metrics": of(y, best),
        "intervals": {m.__name__: _range(interval(m, y, best)) for m in main},
        "baseline": {baseline: of(y, scores[baseline][tested])},
        "models": {name: of(y, scores[name][tested]) for name in names},
        "by_fold": {
            name: [
                main[0](table.y[fold_of == k], scores[name][fold_of == k]) for k in _order(fold_of)
            ]
            for name in ("champion", *names)
        },
        "columns": list(table.columns),
        "left_out": table.left_out,
        "rows_in": len(table.y) + table.unlabelled + table.malformed,
        "unlabelled": table.unlabelled,
        "malformed": table.malformed,
    }


def _order(fold_of: npt.NDArray[np.int64]) -> list[int]:
    return [int(k) for k in np.unique(fold_of) if k >= 0]


def _range(interval: metrics.Interval) -> dict[str, float]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
    }


def _protocol(table: LabelledTable, folds: int) -> str:
    inside = "champion and calibration chosen inside each training fold"
    if table.time is not None:
        return f"{folds} forward folds by the table's time, {inside}"
    if table.groups is not None:
        return f"{folds}-fold cross-validation with whole groups, {inside}; the table has no time, so no fold is forward and the figures flatter"
    return f"{folds}-fold stratified cross-validation, {inside}; the table has no time, so no fold is forward and the figures flatter"
