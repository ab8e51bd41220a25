"""A labelled table as arrays: which columns are numbers, categories, dates, texts or ids, and what was odd in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Source
from propend.engine import Engine
from propend.errors import ConfigError, DataError, NotEnoughDataError, nearest
from propend.learn.fitting import MANY
from propend.learn.kinds import Kind, clean_text, dates_of, days, kind_of, numbers, of_rows
from propend.models.model import Answer

__all__ = ["LabelledTable", "read_like", "read_table"]

F64 = npt.NDArray[np.float64]

MOST_CLASSES: Final = 50
FEWEST: Final = 10
"""Fewest rows of an answer; rarer ones of many share a class."""
OTHER: Final = "(another)"
_POSITIVE: Final = (
    "1",
    "1.0",
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
    answer: Answer
    positive: str | None
    left_out: dict[str, str]
    unlabelled: int
    malformed: int = 0
    """Lines of the files that are no rows (too few or too many cells)."""
    groups: npt.NDArray[np.int64] | None = None
    """Code of what each row belongs to (a customer, a policy); rows of one group share a fold."""
    time: F64 | None = None
    """When each row was known, in any unit; folds then go forward."""
    classes: tuple[str, ...] = ()
    """What the codes of a which-of-many label stand for."""
    noted: dict[str, str] = field(default_factory=dict)
    """What was odd in a column that is used all the same, and how it was read."""
    kinds: tuple[Kind, ...] = ()
    """How each used column is read; other rows are read the same way (``read_like``)."""
    label: str = "the answer"
    """What the label's column is called."""
    negative: str | None = None
    """The other answer of a yes/no label, in its own words."""
    read: str = ""
    """How the label was read where nobody said, and how to ask otherwise; empty: there is one way only."""

    def told(self) -> list[Any]:
        """Return the labels for people: numbers of amounts, else the answers in their own words."""
        if self.positive is not None:
            return self.in_words(self.y > 0)
        if self.classes:
            return [self.classes[int(code)] for code in self.y]
        return [float(value) for value in self.y]

    def in_words(self, yes: npt.NDArray[np.bool_]) -> list[str | None]:
        """Return yes/no answers in the label's own words."""
        return [self.positive if said else self.negative for said in yes.tolist()]

    def data_hash(self) -> str:
        """Return a fingerprint of the rows and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(np.nan_to_num(self.X, nan=-1.0)).tobytes())
        digest.update(self.y.tobytes())
        return digest.hexdigest()[:16]


def read_table(
    files: Sequence[str],
    label: str,
    engine: Engine,
    base: Path,
    *,
    ignore: Sequence[str] = (),
    group: str | None = None,
    order: str | None = None,
    positive: str | None = None,
    answer: Answer | None = None,
) -> LabelledTable:
    """Read a labelled table from CSV, JSON lines or Parquet.

    Columns that are numbers throughout are numbers, dates are days since 1970, sentences are TF-IDF of their commonest
    words and pairs of words (Chinese: pairs of characters), the others categories; a column whose every row differs is
    an id and is left out, and said. Rows without a label are left out, and counted. ``group`` names the column of what rows
    belong to, ``order`` the column of time (dates, times or numbers); both are kept out of the features. ``positive`` is the
    answer whose probability is told, against all others; without it a word such as yes, true, 1 or churned, else the last
    of two by the alphabet. Without ``answer`` two answers are yes/no, numbers an amount and texts one of many.
    Raises ``DataError`` or ``ConfigError`` in one sentence where the label is unknown, blank or constant.
    """
    kinds = engine.columns(Source(name="table", files=tuple(files)), base)
    for name in (label, *ignore, *(c for c in (group, order) if c is not None)):
        if name not in kinds:
            _refuse_repeated(files, engine, base, (name,))
            raise ConfigError(f"{files[0]}: no column {name!r}{nearest(name, kinds)}")
    table, scan = _rows(files, engine, base)
    texts = clean_text(table[label])
    there = np.asarray(pc.is_valid(texts))
    if not there.any():
        raise DataError(
            f"{files[0]}: the label column {label!r} is blank in every row; choose another with --label"
        )
    table = table.filter(pa.array(there))
    noted: dict[str, str] = {}
    told = texts.filter(pa.array(there))
    y, kind, sides, classes = _labels(told, label, files[0], noted, positive, answer)
    columns: list[F64] = []
    kinds_of: list[Kind] = []
    left_out = dict.fromkeys(ignore, "asked to be ignored")
    for name in kinds:
        if name in (label, group, order) or name in left_out:
            continue
        found = kind_of(table[name], name)
        if isinstance(found, str):
            left_out[name] = found
            continue
        values, said = found.read(table[name])
        said = "; ".join(filter(None, (found.said, said)))
        if said:
            noted[name] = said
        if len(found.levels) > MANY:
            noted[name] = (
                f"{len(found.levels):,} different values, told by their rate inside each training fold"
            )
        kinds_of.append(found)
        columns.append(values)
    if not columns:
        raise DataError(
            f"{files[0]}: no column can explain {label!r} ({', '.join(f'{k}: {v}' for k, v in left_out.items()) or 'it is the only one'})"
        )
    names = tuple(n for kind in kinds_of for n in kind.columns)
    return LabelledTable(
        np.column_stack(columns),
        y,
        names,
        {names.index(k.name): k.levels for k in kinds_of if k.levels},
        kind,
        sides[0],
        left_out,
        int((~there).sum()),
        len(scan.rejected),
        None if group is None else _group_codes(table[group]),
        None if order is None else _moments(table[order], order, files[0]),
        classes,
        noted,
        tuple(kinds_of),
        label,
        sides[1],
        _read(told, label, kind) if answer is None and positive is None else "",
    )


def read_like(
    files: Sequence[str], table: LabelledTable, engine: Engine, base: Path
) -> tuple[F64, dict[str, str]]:
    """Read further rows the way a labelled table was read: X [n, d], and what was odd by column.

    A column that is not there is missing in every row, and said by file; a category never seen is missing and counted.
    """
    rows, _ = _rows(files, engine, base)
    gone = _gone(files, [k.name for k in table.kinds], engine, base)
    columns, noted = [], {}
    for kind in table.kinds:
        if kind.name not in rows.column_names:
            columns.append(np.full((rows.num_rows, len(kind.columns)), np.nan))
            noted[kind.name] = "the column is not there: read as missing in every row"
            continue
        values, said = kind.read(rows[kind.name])
        columns.append(values)
        said = "; ".join(filter(None, (gone.get(kind.name), said)))
        if said:
            noted[kind.name] = said
    if len([s for s in noted.values() if s.startswith("the column")]) == len(table.kinds):
        _refuse_repeated(files, engine, base, [k.name for k in table.kinds])
        raise DataError(
            f"{files[0]} has none of the columns the model learnt from ({', '.join(k.name for k in table.kinds[:8])}); "
            "bring a table with the same columns"
        )
    return np.column_stack(columns), noted


def _gone(files: Sequence[str], names: Sequence[str], engine: Engine, base: Path) -> dict[str, str]:
    """Return, for columns that some of several files lack, in which they are missing."""
    paths = engine.files(Source(name="table", files=tuple(files)), base)
    there = {p: engine.columns(Source(name="table", files=(str(p),)), base) for p in paths}
    lacking = {name: [p.name for p in paths if name not in there[p]] for name in names}
    return {
        name: f"not in {', '.join(of)}: read as missing in every row there"
        for name, of in lacking.items()
        if of
    }


def _refuse_repeated(
    files: Sequence[str], engine: Engine, base: Path, wanted: Sequence[str]
) -> None:
    """Raise ``DataError`` where a file's first row holds a wanted name and a name twice: it is a header, but was read as a row."""
    table, _ = _rows(files, engine, base)
    first = [str(value).strip() for value in table.slice(0, 1).to_pylist()[0].values()]
    twice = next((name for name in first if first.count(name) > 1), None)
    if twice is not None and set(wanted) & set(first):
        raise DataError(
            f"{files[0]}: two columns of the header are called {twice!r}; give each its own name"
        )


def _rows(files: Sequence[str], engine: Engine, base: Path) -> tuple[pa.Table, Any]:
    """Return a file's rows with the lines that are none; raises ``DataError`` where there is no row."""
    source = Source(name="table", files=tuple(files))
    kinds = engine.columns(source, base)
    scan = engine.scan(source, base, {n: '"' + n.replace('"', '""') + '"' for n in kinds})
    batches = [b.select(list(kinds)) for b in scan.batches]
    if sum(b.num_rows for b in batches) == 0:
        why = (
            f"its {len(scan.rejected):,} lines are no rows, for example {scan.rejected[0].text.strip()!r}: {scan.rejected[0].reason}"
            if scan.rejected
            else "bring a table with at least one row per class"
        )
        raise DataError(f"{files[0]} holds no row; {why}")
    return pa.Table.from_batches(batches), scan


def _group_codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return a code per value; rows without one stand alone."""
    coded = clean_text(column).dictionary_encode()
    codes = np.asarray(pc.fill_null(coded.indices, -1)).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(coded.dictionary) + np.arange(len(alone))
    return codes


def _moments(column: pa.ChunkedArray, name: str, where: str) -> F64:
    """Return times as numbers that order the rows."""
    text = clean_text(column)
    found = numbers(text)
    if found is None:
        written = dates_of(text, name)
        found = None if written is None else days(text, written)
    if found is None or np.isnan(found).sum() > text.null_count:
        raise DataError(
            f"{where}: {name!r} is not a time in every row; write dates as 2024-03-01 or give numbers"
        )
    if np.isnan(found).any():
        raise DataError(
            f"{where}: {name!r} is missing in {of_rows(int(np.isnan(found).sum()))}; forward folds need it in every row"
        )
    return found


_Sides = tuple[str | None, str | None]
"""The positive and the negative answer in their own words; nothing where the label is not yes/no."""
_NO_SIDES: Final[_Sides] = (None, None)


def _labels(
    text: pa.Array,
    label: str,
    where: str,
    noted: dict[str, str],
    positive: str | None,
    answer: Answer | None,
) -> tuple[F64, Answer, _Sides, tuple[str, ...]]:
    """Return the labels as numbers, the kind of answer, its two sides, and the classes of many."""
    if positive is not None and answer not in (None, "yes_no"):
        raise ConfigError(
            f"a positive answer is of a yes/no label, not of {answer!r}; leave one out"
        )
    levels = sorted(pc.unique(text).to_pylist())
    if len(levels) == 1:
        raise NotEnoughDataError(
            f"{where}: every row of {label!r} says {levels[0]!r}; there is nothing to tell apart"
        )
    found = None if answer == "which" else numbers(text)
    if answer is None:
        two = len(levels) == 2 or positive is not None
        answer = "yes_no" if two else "which" if found is None else "amount"
    if answer == "yes_no":
        return _two(text, levels, label, where, positive)
    if answer == "which":
        return _many(text, label, where, noted)
    if found is None:
        odd = next(v for v in levels if numbers(pa.array([v])) is None)
        raise DataError(f"{where}: {label!r} says {odd!r}, which is no number and so no {answer}")
    if np.isinf(found).any():
        raise DataError(f"{where}: {label!r} holds infinite values; take those rows out")
    if answer == "count" and not _whole(found):
        raise DataError(
            f"{where}: {label!r} holds numbers below 0 or with a fraction, and so no count; ask for an amount"
        )
    return found, answer, _NO_SIDES, ()


def _whole(values: F64) -> bool:
    return bool((values >= 0).all() and (values == np.round(values)).all())


def _read(text: pa.Array, label: str, answer: Answer) -> str:
    """Return how a label was read and what else it could be; nothing where it could be nothing else."""
    values, levels = numbers(text), pc.count_distinct(text).as_py()
    if values is None or (levels == 2 and set(values) == {0.0, 1.0}):
        return ""
    others: list[Answer] = [
        *(("which",) if levels <= MOST_CLASSES else ()),
        *(("count",) if _whole(values) else ()),
        *(("amount",) if answer == "yes_no" else ()),
    ]  # fmt: skip
    if not others:
        return ""
    read = "yes/no" if answer == "yes_no" else "an amount"
    return f"{label!r} is read as {read}; --answer {' or '.join(others)} asks otherwise"


def _two(
    text: pa.Array, levels: list[str], label: str, where: str, positive: str | None
) -> tuple[F64, Answer, _Sides, tuple[str, ...]]:
    """Return a yes/no label as 1 where it says the positive answer and 0 elsewhere."""
    if positive is None and len(levels) > 2:
        raise ConfigError(
            f"{where}: {label!r} has {len(levels):,} different answers; say which one is yes with --positive TEXT"
        )
    if positive is None:
        known = (v for v in levels if v.casefold() in _POSITIVE)
        positive = next(known, levels[1])
    elif positive not in levels:
        raise ConfigError(
            f"{where}: no row of {label!r} says {positive!r}{nearest(positive, levels)}"
        )
    others = [v for v in levels if v != positive]
    y = np.asarray(pc.equal(text, positive)).astype(np.float64)
    rarer = int(min(y.sum(), len(y) - y.sum()))
    if rarer < FEWEST:
        raise NotEnoughDataError(
            f"{where}: only {of_rows(rarer)} of {label!r} with the rarer answer; at least {FEWEST} are needed to train and to test"
        )
    negative = others[0] if len(others) == 1 else f"not {positive}"
    return y, "yes_no", (positive, negative), ()


def _many(
    text: pa.Array, label: str, where: str, noted: dict[str, str]
) -> tuple[F64, Answer, _Sides, tuple[str, ...]]:
    """Return a label of many texts as codes of the commonest; the rare ones share a class, and it is said."""
    counts = sorted(pc.value_counts(text).to_pylist(), key=lambda c: (-c["counts"], c["values"]))
    common = [c["values"] for c in counts[:MOST_CLASSES] if c["counts"] >= FEWEST]
    rest = len(text) - sum(c["counts"] for c in counts[: len(common)])
    if len(common) < 2 or rest > 0.5 * len(text):
        raise DataError(
            f"{where}: {label!r} has {len(counts):,} different texts, of which {len(common)} have {FEWEST} rows or more; "
            "a label is yes/no, a number, or one of a few texts"
        )
    if rest > 0:
        few = len(counts) - len(common)
        which = "1 answer" if few == 1 else f"{few:,} answers"
        told = "is told" if few == 1 else "are told together"
        noted[label] = f"{which} with few rows ({of_rows(rest)} in all) {told} as {OTHER!r}"
    codes = np.asarray(pc.fill_null(pc.index_in(text, value_set=pa.array(common)), len(common)))
    return codes.astype(np.float64), "which", _NO_SIDES, tuple(common) + ((OTHER,) if rest else ())
