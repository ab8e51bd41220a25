"""UTC microseconds and the wall clocks of a zone, on whole arrays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from propend.names import DAY, MICROSECONDS

__all__ = ["local_day", "local_hour", "local_weekday", "moment", "to_local", "to_utc", "wall"]

I64 = npt.NDArray[np.int64]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(when: datetime) -> int:
    """Return UTC microseconds of a time that carries a zone.

    >>> moment(datetime(1970, 1, 2, tzinfo=UTC)) == DAY
    True
    """
    return (when - _EPOCH) // timedelta(microseconds=1)


def wall(when: int, zone: str = "UTC") -> datetime:
    """Return UTC microseconds as a time on the zone's wall clock."""
    return (_EPOCH + timedelta(microseconds=int(when))).astimezone(ZoneInfo(zone))


@lru_cache(maxsize=64)
def _offsets(zone: str, first_year: int, last_year: int) -> tuple[I64, I64]:
    """Return the UTC moments from which each UTC offset holds, and the offsets, both in microseconds."""
    tz = ZoneInfo(zone)

    def offset(second: int) -> int:
        return int((_EPOCH + timedelta(seconds=second)).astimezone(tz).utcoffset().total_seconds())  # type: ignore[union-attr]

    start = int(datetime(first_year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(last_year + 1, 1, 1, tzinfo=UTC).timestamp())
    starts, values = [start], [offset(start)]
    for low in range(start, end, 7 * 86_400):
        high = min(low + 7 * 86_400, end)
        target = offset(high)
        if target == values[-1]:
            continue
        lo, hi = low, high
        while hi - lo > 1:
            mid = (lo + hi) // 2
            lo, hi = (mid, hi) if offset(mid) == values[-1] else (lo, mid)
        starts.append(hi)
        values.append(target)
    starts[0] = -(2**40)
    return np.array(starts, np.int64) * MICROSECONDS, np.array(values, np.int64) * MICROSECONDS


def _years(times: I64) -> tuple[int, int]:
    """Return a decade-rounded year range that covers the times, so that the table of offsets is reused."""
    low, high = int(times.min()), int(times.max())
    first = 1970 + int(low // (366 * DAY)) if low > 0 else 1900
    last = 1971 + int(high // (365 * DAY))
    return max(1900, first // 10 * 10 - 10), min(2200, max(last, 1970) // 10 * 10 + 10)


def to_local(times: I64, zone: str) -> I64:
    """Return wall-clock microseconds of UTC microseconds."""
    if zone == "UTC" or len(times) == 0:
        return times
    starts, offsets = _offsets(zone, *_years(times))
    local: I64 = times + offsets[np.searchsorted(starts, times, side="right") - 1]
    return local


def to_utc(walls: I64, zone: str) -> I64:
    """Return UTC microseconds of wall-clock microseconds.

    A wall time that occurs twice (clocks set back) is read as the first; one that does not occur (clocks set
    forward) with the offset before the change, as Python's ``fold=0`` does.

    >>> noon = np.array([moment(datetime(2024, 7, 1, 12, tzinfo=UTC))])
    >>> int((noon - to_utc(noon, "Europe/Berlin"))[0]) // 3_600_000_000
    2
    """
    if zone == "UTC" or len(walls) == 0:
        return walls
    starts, offsets = _offsets(zone, *_years(walls))
    breaks = starts.copy()
    breaks[1:] += np.maximum(offsets[1:], offsets[:-1])
    utc: I64 = walls - offsets[np.searchsorted(breaks, walls, side="right") - 1]
    return utc


def local_day(times: I64, zone: str) -> I64:
    """Return the calendar day (days since 1970-01-01) of each moment on the zone's wall clock."""
    return to_local(times, zone) // DAY


def local_hour(times: I64, zone: str) -> I64:
    """Return the hour of the day, 0 to 23."""
    return to_local(times, zone) % DAY // (3_600 * MICROSECONDS)


def local_weekday(times: I64, zone: str) -> I64:
    """Return the day of the week, Monday 0 to Sunday 6."""
    return (local_day(times, zone) + 3) % 7
