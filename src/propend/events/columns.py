"""What a column of text holds: numbers (in which notation), times (in which format) or words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

import numpy as np

from propend.errors import ConfigError

__all__ = ["Column", "TimeFormat", "parse_number", "time_format"]

_DOT: Final = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?|\d*\.?\d+([eE][-+]?\d+)?|\d+\.")
_COMMA: Final = re.compile(r"\d{1,3}([. ]\d{3})+(,\d+)?|\d+(,\d+)?")
_AROUND: Final = re.compile(
    r"^([-+(]?)\s*(?:[A-Za-z]{3}\b|[$£€¥￥₹₩₽元])?\s*([-+]?)(.*?)\s*(?:[A-Za-z]{3}|[$£€¥￥₹₩₽元%])?\)?$"
)
_SIGN: Final = re.compile(r"[$£€¥￥₹₩₽元]")
_ENOUGH: Final = 0.98
_EPOCHS: Final = (("epoch_s", 1.0), ("epoch_ms", 1e3), ("epoch_us", 1e6))
_EPOCH_RANGE: Final = (631_152_000.0, 2_208_988_800.0)
"""1990 to 2040, in seconds."""

_DATES: Final = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"\d{4}-\d{1,2}-\d{1,2}", "%Y-%m-%d"),
        (r"\d{4}/\d{1,2}/\d{1,2}", "%Y/%m/%d"),
        (r"\d{4}\.\d{1,2}\.\d{1,2}", "%Y.%m.%d"),
        (r"\d{4}年\d{1,2}月\d{1,2}日", "%Y年%m月%d日"),
        (r"(?:19|20)\d{6}", "%Y%m%d"),
        (r"\d{1,2}/\d{1,2}/\d{4}", "<1>/<2>/%Y"),
        (r"\d{1,2}-\d{1,2}-\d{4}", "<1>-<2>-%Y"),
        (r"\d{1,2}\.\d{1,2}\.\d{4}", "%d.%m.%Y"),
        (r"\d{1,2}\.\d{1,2}\.\d{2}", "%d.%m.%y"),
        (r"\d{1,2}/\d{1,2}/\d{2}", "<1>/<2>/%y"),
        (r"\d{1,2} [A-Za-z]{3} \d{4}", "%d %b %Y"),
        (r"\d{1,2}-[A-Za-z]{3}-\d{4}", "%d-%b-%Y"),
        (r"\d{1,2}-[A-Za-z]{3}-\d{2}", "%d-%b-%y"),
        (r"\d{1,2} [A-Za-z]{4,9} \d{4}", "%d %B %Y"),
        (r"[A-Za-z]{3} \d{1,2}, \d{4}", "%b %d, %Y"),
        (r"[A-Za-z]{4,9} \d{1,2}, \d{4}", "%B %d, %Y"),
    )
)
_CLOCKS: Final = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"\d{1,2}:\d{2}:\d{2}\.\d{1,9}", "%H:%M:%S.%f"),
        (r"\d{1,2}:\d{2}:\d{2} ?[AaPp][Mm]", "%I:%M:%S %p"),
        (r"\d{1,2}:\d{2} ?[AaPp][Mm]", "%I:%M %p"),
        (r"\d{1,2}:\d{2}:\d{2}", "%H:%M:%S"),
        (r"\d{1,2}:\d{2}", "%H:%M"),
        (r"\d{1,2}时\d{1,2}分\d{1,2}秒", "%H时%M分%S秒"),
        (r"\d{6}", "%H%M%S"),
    )
)
_ZONED: Final = re.compile(r"( ?(?:Z|UTC|[+-]\d{2}:?\d{2}))$")
_ISO: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?(Z|UTC|[+-]\d{2}(:?\d{2})?))?)?"
)


@dataclass(frozen=True)
class TimeFormat:
    """How a column writes its times: ``formats`` as in ``propend.toml`` (empty: ISO 8601)."""

    formats: tuple[str, ...]
    zoned: bool
    """Whether each time says its own zone (an offset, or an epoch)."""
    share: float
    """Share of the filled cells that are times."""
    epoch: float = 0.0
    """Units per second of an epoch; 0 for text."""
    example: str = ""


@dataclass(frozen=True)
class Column:
    """A column's sampled cells as stripped text; empty cells are ``None``."""

    name: str
    kind: str
    cells: tuple[str | None, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs."""
        return Counter(cell for cell in self.cells if cell is not None)

    @cached_property
    def filled(self) -> int:
        """Number of cells that hold something."""
        return self.counts.total()

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return len(self.counts)

    @property
    def uniqueness(self) -> float:
        """Different values per filled cell: 1 for a key."""
        return self.distinct / self.filled if self.filled else 0.0

    @property
    def is_text(self) -> bool:
        """Whether the source holds it as text (numbers are then read through ``numbers``)."""
        return self.kind.upper() in ("VARCHAR", "JSON")

    @property
    def is_native_time(self) -> bool:
        """Whether the source holds it as dates or timestamps."""
        return self.kind.upper().startswith(("TIMESTAMP", "DATE"))

    @cached_property
    def decimal(self) -> str | None:
        """The sign that alone makes the cells numbers (``.`` or ``,``), ``both``, or ``None``."""
        dot = self._fits(".")
        comma = self._fits(",") if self.is_text else 0.0
        if max(dot, comma) < _ENOUGH:
            return None
        if min(dot, comma) >= _ENOUGH:
            return "both"
        return "." if dot >= comma else ","

    @property
    def is_number(self) -> bool:
        """Whether nearly all cells read as numbers."""
        return self.decimal is not None

    def _fits(self, decimal: str) -> float:
        fit = sum(n for v, n in self.counts.items() if parse_number(v, decimal) is not None)
        return fit / self.filled if self.filled else 0.0

    @cached_property
    def numbers(self) -> np.ndarray:
        """Cells as floats, shape (rows,), NaN where empty or not a number."""
        sign = "," if self.decimal == "," else "."
        known = {value: parse_number(value, sign) for value in self.counts}
        return np.array(
            [_nan(known.get(cell)) if cell is not None else math.nan for cell in self.cells]
        )

    @cached_property
    def is_whole(self) -> bool:
        """Whether all cells are whole numbers."""
        numbers = self.numbers[~np.isnan(self.numbers)]
        return self.is_number and len(numbers) > 0 and bool(np.all(numbers == np.round(numbers)))

    @cached_property
    def currency_sign(self) -> str | None:
        """The currency sign in at least half of the cells, if the cells are numbers."""
        if not self.is_number or not self.is_text:
            return None
        signs: Counter[str] = Counter()
        for value, n in self.counts.items():
            found = _SIGN.search(value)
            if found:
                signs[found.group()] += n
        best = signs.most_common(1)
        return best[0][0] if best and best[0][1] >= self.filled / 2 else None

    def seconds(self, written: TimeFormat) -> np.ndarray:
        """Cells as seconds since 1970, shape (rows,); naive times are taken as UTC."""
        known = {value: _seconds(value, written) for value in self.counts}
        return np.array([known[cell] if cell is not None else math.nan for cell in self.cells])

    def examples(self, count: int = 3) -> str:
        """Return a few of the commonest values for a comment."""
        shown = [v if len(v) <= 24 else v[:23] + "…" for v, _ in self.counts.most_common(count)]
        return ", ".join(shown)


def parse_number(text: str, decimal: str = ".") -> float | None:
    """Read a number with currency signs and thousands separators; ``None`` where it is none.

    >>> parse_number("¥1,234.50"), parse_number("1.234,50 €", ",")
    (1234.5, 1234.5)
    >>> parse_number("(12.5)"), parse_number("A1")
    (-12.5, None)
    """
    around = _AROUND.match(text.strip())
    if around is None:
        return None
    lead, sign, body = around.groups()
    if not (_COMMA if decimal == "," else _DOT).fullmatch(body):
        return None
    if decimal == ",":
        body = body.replace(".", "").replace(" ", "").replace(",", ".")
    number = float(body.replace(",", ""))
    return -number if "-" in (lead, sign) or lead == "(" else number


def time_format(column: Column, hints: Sequence[str] = (), where: str = "") -> TimeFormat | None:
    """Find how a column writes times; ``None`` where it holds none.

    ``hints`` are formats that settle day-first or month-first. Raises ``ConfigError`` where nothing
    settles it.

    >>> time_format(Column("t", "VARCHAR", ("31/12/2010 8:26", "1/12/2010 9:00"))).formats
    ('%d/%m/%Y %H:%M',)
    """
    if not column.filled:
        return None
    if column.is_native_time:
        return TimeFormat((), "ZONE" in column.kind.upper(), 1.0, example=next(iter(column.counts)))
    shapes: Counter[str] = Counter()
    of_shape: dict[str, list[str]] = {}
    for value, n in column.counts.items():
        shape = _shape(value)
        if shape is not None:
            shapes[shape] += n
            of_shape.setdefault(shape, []).append(value)
    share = shapes.total() / column.filled
    if share < 0.8:
        return _epoch(column)
    if not shapes or _is_day_number(column, of_shape):
        return None
    example = of_shape[shapes.most_common(1)[0][0]][0]
    zoned = (
        sum(n for s, n in shapes.items() if s.endswith("%z") or s == "iso z")
        >= 0.9 * shapes.total()
    )
    if set(shapes) <= {"iso", "iso z"}:
        return TimeFormat((), zoned, share, example=example)
    formats: dict[str, None] = {}
    for shape, _ in shapes.most_common(8):
        for written in _written(shape, of_shape[shape], column.name, hints, where):
            formats[written] = None
    return TimeFormat(tuple(formats), zoned, share, example=example)


def _shape(value: str) -> str | None:
    """Return a value's format; ``<1>`` and ``<2>`` stand for day and month in either order."""
    if _ISO.fullmatch(value):
        return "iso z" if _ZONED.search(value[10:]) else "iso"
    for date, date_format in _DATES:
        found = date.match(value)
        if found is None:
            continue
        rest = value[found.end() :]
        if not rest:
            return date_format
        joint = "T" if rest[0] == "T" else " " if rest[0] == " " else ""
        clock_text = rest[len(joint) :]
        zone = _ZONED.search(clock_text)
        zone_format = ""
        if zone is not None:
            clock_text = clock_text[: zone.start()]
            zone_format = (" " if zone.group().startswith(" ") else "") + "%z"
        for clock, clock_format in _CLOCKS:
            if clock.fullmatch(clock_text):
                if clock_format.endswith(" %p") and " " not in clock_text:
                    clock_format = clock_format.replace(" %p", "%p")
                return date_format + joint + clock_format + zone_format
    return None


def _is_day_number(column: Column, of_shape: dict[str, list[str]]) -> bool:
    """Whether eight-digit numbers are no calendar days after all."""
    days = of_shape.get("%Y%m%d", [])
    good = sum(math.isfinite(_strptime(day, "%Y%m%d")) for day in days)
    return len(days) > column.distinct / 2 and good < _ENOUGH * len(days)


def _written(
    shape: str, values: list[str], column: str, hints: Sequence[str], where: str
) -> list[str]:
    if shape in ("iso", "iso z"):
        return []  # always understood, whatever else is declared
    if "<1>" not in shape:
        return [shape]
    day_first = shape.replace("<1>", "%d").replace("<2>", "%m")
    month_first = shape.replace("<1>", "%m").replace("<2>", "%d")
    hinted = [
        f
        for f in hints
        if f in (day_first, month_first) or f == day_first[:8] or f == month_first[:8]
    ]
    if hinted:
        return [day_first if hinted[0].startswith("%d") else month_first]
    parts = [re.match(r"(\d+)\D(\d+)", value) for value in values]
    pairs = [(int(p.group(1)), int(p.group(2))) for p in parts if p is not None]
    over = (any(a > 12 for a, _ in pairs), any(b > 12 for _, b in pairs))
    if over == (True, False):
        return [day_first]
    if over == (False, True):
        return [month_first]
    example = values[0]
    what = "both orders of day and month occur" if over[0] else "no value tells day from month"
    raise ConfigError(
        f"{where}: {what} in column {column!r} (for example {example!r}); "
        f"say which it is with the time format "
        f"{day_first!r} (day first) or {month_first!r} (month first)"
    )


def _epoch(column: Column) -> TimeFormat | None:
    if not column.is_number:
        return None
    numbers = column.numbers[~np.isnan(column.numbers)]
    for name, unit in _EPOCHS:
        low, high = (bound * unit for bound in _EPOCH_RANGE)
        share = float(np.mean((numbers >= low) & (numbers <= high)))
        if share >= 0.95:
            return TimeFormat((name,), True, share, epoch=unit, example=next(iter(column.counts)))
    return None


def _seconds(value: str, written: TimeFormat) -> float:
    if written.epoch:
        return _nan(parse_number(value)) / written.epoch
    known = next((s for f in written.formats if math.isfinite(s := _strptime(value, f))), math.nan)
    if math.isfinite(known):
        return known
    try:
        return _stamp(datetime.fromisoformat(value.removesuffix(" UTC")))
    except ValueError:
        return math.nan


def _strptime(value: str, written: str) -> float:
    try:
        return _stamp(datetime.strptime(value, written))  # noqa: DTZ007 - naive on purpose, see Column.seconds
    except ValueError:
        return math.nan


def _stamp(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _nan(number: float | None) -> float:
    return math.nan if number is None else number
