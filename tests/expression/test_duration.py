from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.errors import ExpressionError
from propend.events.clock import moment, wall
from propend.expression import Duration
from propend.names import DAY

UNITS = ["s", "min", "h", "d", "w", "mo", "y"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 1000), st.sampled_from(UNITS))
def test_a_length_prints_and_reads_back(amount: int, unit: str) -> None:
    length = Duration(amount, unit)  # type: ignore[arg-type]
    assert Duration.parse(str(length)) == length
    assert Duration.parse(f" {amount} {unit} ") == length
    assert length.days == length.microseconds / DAY


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 60 * 365 * DAY),
    st.integers(1, 60),
    st.sampled_from(UNITS),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
)
def test_before_and_after_move_the_right_way(at: int, amount: int, unit: str, zone: str) -> None:
    length = Duration(amount, unit)  # type: ignore[arg-type]
    assert length.before(at, zone) < at < length.after(at, zone)
    if unit not in ("mo", "y"):
        assert length.after(length.before(at, zone), zone) == at


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("2024-01-31", "1mo", "2024-02-29"),
        ("2023-01-31", "1mo", "2023-02-28"),
        ("2024-02-29", "1y", "2025-02-28"),
        ("2024-12-15", "1mo", "2025-01-15"),
        ("2024-11-30", "15mo", "2026-02-28"),
    ],
)
def test_months_follow_the_calendar(start: str, length: str, end: str) -> None:
    for zone in ("UTC", "Europe/Berlin", "Asia/Shanghai"):
        at = moment(datetime.fromisoformat(start + "T12:00").replace(tzinfo=UTC))
        assert wall(Duration.parse(length).after(at, zone), zone).date().isoformat() == end


def test_a_month_keeps_the_wall_clock_over_a_clock_change() -> None:
    at = moment(datetime(2024, 4, 15, 10, tzinfo=UTC))  # noon in Berlin, summer time
    before = Duration(1, "mo").before(at, "Europe/Berlin")
    assert wall(before, "Europe/Berlin").isoformat() == "2024-03-15T12:00:00+01:00"


@pytest.mark.parametrize("text", ["7", "d", "", "7 days", "1.5d", "7m", "7D", "d7", "7d 2h"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match="not a length of time"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "words"), [("-7d", "positive"), ("0d", "positive"), ("400000d", "1000 years")]
)
def test_lengths_out_of_range_are_refused(text: str, words: str) -> None:
    with pytest.raises(ExpressionError, match=words):
        Duration.parse(text)


def test_unknown_units_are_refused() -> None:
    with pytest.raises(ExpressionError, match="no unit of time"):
        Duration(3, "q")  # type: ignore[arg-type]
