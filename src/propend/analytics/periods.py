"""Calendar periods on a zone's wall clock: days, weeks from Monday, months, as boundaries in UTC microseconds."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from propend.errors import ConfigError, nearest
from propend.events.clock import to_utc, wall
from propend.names import DAY

__all__ = ["Unit", "boundaries", "check_unit", "iso"]

I64 = npt.NDArray[np.int64]
Unit = Literal["day", "week", "month"]

_EPOCH: Final = date(1970, 1, 1)


def check_unit(unit: str) -> Unit:
    """Return the unit; raises ``ConfigError`` naming the nearest one.

    >>> check_unit("weeks")
    Traceback (most recent call last):
    ...
    propend.errors.ConfigError: no period 'weeks'; did you mean 'week'?
    """
    if unit not in get_args(Unit):
        raise ConfigError(f"no period {unit!r}{nearest(unit, get_args(Unit))}")
    return unit  # type: ignore[return-value]


def _floor(day: date, unit: Unit) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next(day: date, unit: Unit) -> date:
    if unit == "month":
        return (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return day + timedelta(days=7 if unit == "week" else 1)


def boundaries(first: int, last: int, unit: str, zone: str = "UTC") -> I64:
    """Return period starts in UTC microseconds [periods + 1]: the first holds ``first``, the last but one ``last``.

    >>> [iso(b) for b in boundaries(0, 40 * DAY, "month")]
    ['1970-01-01', '1970-02-01', '1970-03-01']
    """
    kind = check_unit(unit)
    day = _floor(wall(first, zone).date(), kind)
    end = wall(last, zone).date()
    days = [day]
    while day <= end:
        day = _next(day, kind)
        days.append(day)
    walls = np.array([(d - _EPOCH).days for d in days], np.int64) * DAY
    return to_utc(walls, zone)


def iso(moment: int, zone: str = "UTC") -> str:
    """Return the day on which a period starts, as ISO 8601."""
    return wall(int(moment), zone).date().isoformat()
