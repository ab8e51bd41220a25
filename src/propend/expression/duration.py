"""Lengths of time as people write them: 30min, 12h, 7d, 2w, 3mo, 1y."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, cast
from zoneinfo import ZoneInfo

from propend.errors import ExpressionError
from propend.names import DAY, MICROSECONDS

__all__ = ["Duration", "Unit"]

Unit = Literal["s", "min", "h", "d", "w", "mo", "y"]

_EXACT: Final[dict[str, int]] = {
    "s": MICROSECONDS,
    "min": 60 * MICROSECONDS,
    "h": 3_600 * MICROSECONDS,
    "d": DAY,
    "w": 7 * DAY,
}
_MONTHS: Final = {"mo": 1, "y": 12}
_MONTH: Final = 487 * DAY // 16
"""30.4375 days, a twelfth of 365.25."""
_LONGEST: Final = 1_000 * 366 * DAY
_TEXT: Final = re.compile(r"(-?\d+)\s*(s|min|h|d|w|mo|y)")


@dataclass(frozen=True, slots=True)
class Duration:
    """An amount of a unit. Days and weeks are 24 and 168 hours; months and years follow the calendar.

    >>> Duration.parse("7d")
    Duration(amount=7, unit='d')
    >>> str(Duration(3, "mo"))
    '3mo'
    >>> Duration.parse("-7d")
    Traceback (most recent call last):
    ...
    propend.errors.ExpressionError: a length of time must be positive, not '-7d'; write for example 7d
    """

    amount: int
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in _EXACT and self.unit not in _MONTHS:
            raise ExpressionError(f"no unit of time {self.unit!r}; known: s min h d w mo y")
        if self.amount <= 0:
            raise ExpressionError(
                f"a length of time must be positive, not '{self.amount}{self.unit}'; write for example 7d"
            )
        if self.microseconds > _LONGEST:
            raise ExpressionError(
                f"'{self.amount}{self.unit}' is longer than 1000 years; leave the window out to read all there is"
            )

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``7d`` and its like; raises ``ExpressionError`` with the units where it cannot."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ExpressionError(
                f"not a length of time: {text!r}; write a number and a unit, s min h d w mo y, for example 7d"
            )
        return cls(int(found.group(1)), cast(Unit, found.group(2)))

    def __str__(self) -> str:
        return f"{self.amount}{self.unit}"

    @property
    def microseconds(self) -> int:
        """Length in microseconds; a month counts 30.4375 days and a year 365.25 (for ordering and spacing)."""
        if self.unit in _EXACT:
            return self.amount * _EXACT[self.unit]
        return self.amount * _MONTHS[self.unit] * _MONTH

    @property
    def days(self) -> float:
        """Length in days."""
        return self.microseconds / DAY

    def before(self, moment: int, zone: str = "UTC") -> int:
        """Return the moment this long before ``moment`` (UTC microseconds); months by ``zone``'s calendar."""
        return self._shift(moment, -1, zone)

    def after(self, moment: int, zone: str = "UTC") -> int:
        """Return the moment this long after ``moment`` (UTC microseconds); months by ``zone``'s calendar.

        A day that the target month lacks becomes its last day.

        >>> start = int(datetime(2024, 1, 31, tzinfo=UTC).timestamp()) * 1_000_000
        >>> datetime.fromtimestamp(Duration.parse("1mo").after(start) / 1e6, UTC).date().isoformat()
        '2024-02-29'
        """
        return self._shift(moment, 1, zone)

    def _shift(self, moment: int, sign: int, zone: str) -> int:
        if self.unit in _EXACT:
            return moment + sign * self.amount * _EXACT[self.unit]
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        local = (epoch + timedelta(microseconds=moment)).astimezone(ZoneInfo(zone))
        month = local.year * 12 + local.month - 1 + sign * self.amount * _MONTHS[self.unit]
        year, month0 = divmod(month, 12)
        next_month = datetime(year + (month0 == 11), (month0 + 1) % 12 + 1, 1, tzinfo=UTC)
        last_day = (next_month - timedelta(days=1)).day
        shifted = local.replace(year=year, month=month0 + 1, day=min(local.day, last_day))
        return (shifted.astimezone(UTC) - epoch) // timedelta(microseconds=1)
