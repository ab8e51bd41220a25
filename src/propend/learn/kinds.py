"""What a column of a labelled table is (number, date, sentences, category, id) and how its cells become numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import ConfigError
from propend.events.columns import Column, TimeFormat, parse_number, time_format
from propend.features.sentences import MANY_TEXTS
from propend.learn.fitting import MANY
from propend.learn.words import Words
from propend.names import DAY

__all__ = ["Kind", "clean_text", "dates_of", "days", "kind_of", "numbers", "of_rows"]

F64 = npt.NDArray[np.float64]

MOST_LEVELS: Final = 200_000
"""Texts of one column that are kept apart; many of them go in as their rate (``models.encoded``)."""
NEARLY: Final = 0.95
"""Share of a column's texts that must be dates, or numbers of more than ``MANY`` values; the rest is read as missing, and counted."""
ALL_BUT_A_FEW: Final = 0.99
"""The same for numbers of few values, which do well as categories: "5+" among them is no slip."""
_ID: Final = re.compile(
    r"(^|_|\b)(id|key|no|nr|uuid|number)$|(ID|Id|No|Nr|Key|Number)$|编号$|单号$"
)
_DAY_FIRST: Final = tuple(f"%d{s}%m{s}{y}" for s in "/-" for y in ("%Y", "%y"))
_SECONDS: Final = DAY / 1e6


@dataclass(frozen=True)
class Kind:
    """How a source column becomes columns of the matrix."""

    name: str
    what: Literal["number", "category", "date", "text"]
    levels: tuple[str, ...] = ()
    words: Words | None = None
    decimal: str = "."
    formats: tuple[str, ...] = ()
    """How dates are written (strptime); empty: ISO 8601."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it becomes."""
        if self.words is None:
            return (self.name,)
        return tuple(f"{self.name} says {term!r}" for term in self.words.terms)

    @property
    def said(self) -> str:
        """What a person must know of how the column is read; empty: as it stands."""
        if self.what == "date":
            how = f" (written {', '.join(self.formats)})" if self.formats else ""
            return f"dates{how}, read as days since 1970"
        return "numbers with a decimal comma" if self.decimal == "," else ""

    def read(self, column: pa.ChunkedArray) -> tuple[F64, str]:
        """Return the columns [n, k], and what was odd (empty: nothing)."""
        text = clean_text(column)
        if self.words is not None:
            return self.words.matrix(text.to_pylist()), ""
        if self.what == "category":
            codes = np.asarray(pc.fill_null(pc.index_in(text, value_set=pa.array(self.levels)), -1))
            new = int((codes < 0).sum()) - text.null_count
            said = f"never seen before in {of_rows(new)}: read as missing" if new else ""
            return np.where(codes < 0, np.nan, codes).astype(np.float64)[:, None], said
        plain = None if self.what == "date" else _cast(text)
        if plain is not None:
            values = plain
        elif self.what == "date":
            values = days(text, self.formats)
        else:
            values = _parsed(text, self.decimal)
        bad = int(np.isnan(values).sum()) - text.null_count
        infinite = int(np.isinf(values).sum())
        said = "; ".join(
            f"{what} in {of_rows(count)}: read as missing"
            for what, count in ((f"no {self.what}", bad), ("infinite", infinite))
            if count
        )
        return np.where(np.isinf(values), np.nan, values)[:, None], said


def kind_of(column: pa.ChunkedArray, name: str) -> Kind | str:
    """Return how a column is read, or why it is left out.

    >>> kind_of(pa.chunked_array([["3,5", "12,25", "7"]]), "price").said
    'numbers with a decimal comma'
    >>> kind_of(pa.chunked_array([["13.5.2024", "1.12.2023"]]), "joined").formats
    ('%d.%m.%Y',)
    """
    text = clean_text(column)
    distinct = pc.count_distinct(text).as_py()
    if distinct == 0:
        return "every row is missing"
    if distinct == 1 and text.null_count == 0:
        return "every row is the same"
    found = _cast(text)
    if found is not None:
        if distinct == len(text) and np.all(found == np.round(found)):
            if _ID.search(name):
                return "an id: every row differs"
            if len(text) > MANY and _counts_rows(found):
                return "a number of the row: every row differs, in the order of the file or without gaps"
        return Kind(name, "number")
    decimal = _decimal(text, NEARLY if distinct > MANY else ALL_BUT_A_FEW)
    if decimal is not None:
        return Kind(name, "number", decimal=decimal)
    written = dates_of(text, name)
    if written is not None:
        return Kind(name, "date", formats=written)
    if distinct > 0.5 * len(text) or distinct > MANY_TEXTS:
        words = Words.of(text.to_pylist())
        if words is not None:
            return Kind(name, "text", words=words)
    if distinct > 0.9 * len(text) and distinct > MANY:
        return f"an id: {distinct:,} different values in {of_rows(len(text))}"
    counts = sorted(
        pc.value_counts(text.drop_null()).to_pylist(), key=lambda c: (-c["counts"], c["values"])
    )
    return Kind(name, "category", tuple(sorted(c["values"] for c in counts[:MOST_LEVELS])))


def _counts_rows(values: F64) -> bool:
    """Whether whole numbers, each once, run with the rows or fill their range: they name rows and tell of no other."""
    step = np.diff(values)
    return bool((step > 0).all() or (step < 0).all() or np.ptp(values) < 1.1 * len(values))


def of_rows(count: int) -> str:
    """Return a number of rows in words.

    >>> of_rows(1), of_rows(2000)
    ('1 row', '2,000 rows')
    """
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def clean_text(column: pa.ChunkedArray) -> pa.Array:
    """Return values as trimmed text, blanks missing."""
    text = pc.utf8_trim_whitespace(column.combine_chunks().cast(pa.string()))
    blank = pc.is_in(
        pc.utf8_lower(text), value_set=pa.array(["", "nan", "null", "na", "n/a", "none"])
    )
    return pc.if_else(pc.fill_null(blank, True), pa.scalar(None, pa.string()), text)


def numbers(text: pa.Array) -> F64 | None:
    """Return texts as numbers with NaN for missing, or ``None`` where any of them is neither a number nor an amount.

    >>> numbers(pa.array(["¥1,234.50", None, "-3"])).tolist(), numbers(pa.array(["12,5", "1.234,50 €"])).tolist()
    ([1234.5, nan, -3.0], [12.5, 1234.5])
    """
    found = _cast(text)
    if found is not None:
        return found
    decimal = _decimal(text, 1.0)
    return None if decimal is None else _parsed(text, decimal)


def _cast(text: pa.Array) -> F64 | None:
    """Return plain numbers, or ``None`` where any text is none."""
    try:
        return np.asarray(pc.fill_null(pc.cast(text, pa.float64()), np.nan))
    except pa.ArrowInvalid:
        return None


def _decimal(text: pa.Array, share: float) -> str | None:
    """Return the sign that makes at least this share of the texts numbers, the point where both do; ``None``: neither."""
    counts = pc.value_counts(text.drop_null()).to_pylist()
    fit = {
        sign: sum(c["counts"] for c in counts if parse_number(c["values"], sign) is not None)
        for sign in ".,"
    }
    best = "." if fit["."] >= fit[","] else ","
    return best if fit[best] >= share * sum(c["counts"] for c in counts) else None


def _parsed(text: pa.Array, decimal: str) -> F64:
    """Return texts as numbers; NaN for what is none."""
    coded = text.dictionary_encode()
    found = [parse_number(value, decimal) for value in coded.dictionary.to_pylist()]
    return _at(coded, [np.nan if value is None else value for value in found])


def dates_of(text: pa.Array, name: str) -> tuple[str, ...] | None:
    """Return how a column writes dates (empty: ISO 8601), or ``None`` where fewer than ``NEARLY`` of its texts are dates.

    Where no value tells day from month, the day comes first.
    """
    column = Column(name, "VARCHAR", tuple(text.to_pylist()))
    try:
        written = time_format(column)
    except ConfigError:
        written = time_format(column, _DAY_FIRST)
    if written is None or written.epoch:
        return None
    read = int((~np.isnan(days(text, written.formats))).sum())
    return written.formats if read >= NEARLY * column.filled else None


def days(text: pa.Array, formats: tuple[str, ...]) -> F64:
    """Return dates and times as days since 1970; NaN for what is none.

    >>> days(pa.array(["2024-01-02", None, "2024-01-02 12:00:00", "soon"]), ()).tolist()
    [19724.0, nan, 19724.5, nan]
    """
    coded = text.dictionary_encode()
    column = Column("", "VARCHAR", tuple(coded.dictionary.to_pylist()))
    return _at(coded, (column.seconds(TimeFormat(formats, False, 1.0)) / _SECONDS).tolist())


def _at(coded: pa.DictionaryArray, values: list[float]) -> F64:
    """Return each row's value, from one per different text."""
    return np.append(np.array(values, np.float64), np.nan)[
        np.asarray(pc.fill_null(coded.indices, len(values)))
    ]
