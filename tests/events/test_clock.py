# ruff: noqa: DTZ001 (wall times have no zone)
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propend.events.clock import (
    local_day,
    local_hour,
    local_weekday,
    moment,
    to_local,
    to_utc,
    wall,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Shanghai",
    "Africa/Casablanca",  # summer time but for Ramadan
    "Asia/Kathmandu",
    "Pacific/Apia",  # skipped a day
    "America/Sao_Paulo",
)
zones = st.sampled_from(ZONES)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2037, 12, 31))


def array(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


@given(zones, st.lists(moments, min_size=1, max_size=20))
def test_wall_clocks_agree_with_zoneinfo(zone: str, times: list[datetime]) -> None:
    tz = ZoneInfo(zone)
    utc = array(*(moment(t.replace(tzinfo=UTC)) for t in times))
    local = [t.replace(tzinfo=UTC).astimezone(tz).replace(tzinfo=UTC) for t in times]
    assert to_local(utc, zone).tolist() == [moment(t) for t in local]
    assert local_hour(utc, zone).tolist() == [t.hour for t in local]
    assert local_weekday(utc, zone).tolist() == [t.weekday() for t in local]
    days = [(t.date() - datetime(1970, 1, 1).date()).days for t in local]
    assert local_day(utc, zone).tolist() == days


@given(zones, st.lists(moments, min_size=1, max_size=20))
def test_wall_times_are_read_as_zoneinfo_does(zone: str, walls: list[datetime]) -> None:
    naive = array(*(moment(t.replace(tzinfo=UTC)) for t in walls))
    expected = [moment(t.replace(tzinfo=ZoneInfo(zone))) for t in walls]
    assert to_utc(naive, zone).tolist() == expected


@pytest.mark.parametrize("zone", ZONES[1:4])
@pytest.mark.parametrize("year", [1996, 2011, 2024])
def test_every_quarter_hour_of_a_year_is_read_as_zoneinfo_does(zone: str, year: int) -> None:
    start = datetime(year, 1, 1)
    walls = [start + timedelta(minutes=15 * i) for i in range(366 * 96)]
    naive = array(*(moment(t.replace(tzinfo=UTC)) for t in walls))
    assert to_utc(naive, zone).tolist() == [moment(t.replace(tzinfo=ZoneInfo(zone))) for t in walls]


def test_gaps_and_overlaps_in_berlin() -> None:
    def read(text: str) -> str:
        at = moment(datetime.fromisoformat(text).replace(tzinfo=UTC))
        return f"{wall(int(to_utc(array(at), 'Europe/Berlin')[0])):%H:%M}"

    assert read("2024-03-31T02:30") == "01:30"  # does not occur: with the offset before
    assert read("2024-10-27T02:30") == "00:30"  # occurs twice: the first
    assert read("2024-10-27T03:00") == "02:00"


def test_wild_times_do_not_fail() -> None:
    wild = array(-(2**62), -1, 0, 2**62)
    assert len(to_utc(wild, "Europe/Berlin")) == len(to_local(wild, "Asia/Shanghai")) == 4
    assert to_local(array(), "Europe/Berlin").tolist() == []
