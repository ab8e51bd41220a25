"""Numbers, money, dates and durations as people write them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from propend.pipeline.report.values import moment, number, text

__all__ = ["DASH", "Formats", "change", "count", "decimal", "duration", "many", "percent", "short"]

DASH: Final = "–"
_THIN: Final = "\u202f"
_SYMBOLS: Final = {
    "AUD": "A$",
    "BRL": "R$",
    "CAD": "C$",
    "CNY": "¥",
    "CZK": "Kč",
    "EUR": "€",
    "GBP": "£",
    "HKD": "HK$",
    "ILS": "₪",
    "INR": "₹",
    "JPY": "¥",
    "KRW": "₩",
    "MXN": "MX$",
    "NGN": "₦",
    "NZD": "NZ$",
    "PHP": "₱",
    "PLN": "zł",
    "RUB": "₽",
    "SGD": "S$",
    "THB": "฿",
    "TRY": "₺",
    "TWD": "NT$",
    "UAH": "₴",
    "USD": "$",
    "VND": "₫",
}
_WHOLE: Final = frozenset({"JPY", "KRW", "VND"})
"""Currencies without a smaller coin."""
_STEPS: Final = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(x: Any) -> str:
    """Return a whole number in full, with separators.

    >>> count(541909), count(None)
    ('541,909', '–')
    """
    value = number(x)
    return DASH if value is None else f"{value:,.0f}"


def many(x: Any, one: str, more: str | None = None) -> str:
    """Return a count with its noun.

    >>> many(1, "row"), many(1200, "row"), many(2, "category", "categories")
    ('1 row', '1,200 rows', '2 categories')
    """
    return f"{count(x)} {one if number(x) == 1 else more or one + 's'}"


def short(x: Any) -> str:
    """Return a number to three figures at most.

    >>> short(1_234_567), short(12_345), short(999), short(4.25), short(999_999)
    ('1.2\\u202fM', '12\\u202fk', '999', '4.2', '1\\u202fM')
    """
    value = number(x)
    if value is None:
        return DASH
    size = abs(value)
    for step, name in _STEPS:
        if size >= step * 0.9995:
            return f"{_trim(value / step)}{_THIN}{name}"
    return _trim(value)


def _trim(value: float) -> str:
    whole = abs(value) >= 9.95 or value == round(value)
    return f"{value:,.0f}" if whole else f"{value:.1f}".removesuffix(".0")


def decimal(x: Any, digits: int = 3) -> str:
    """Return a figure with a fixed number of digits."""
    value = number(x)
    return DASH if value is None else f"{value:,.{digits}f}".replace("-", "−")


def percent(x: Any, digits: int | None = None) -> str:
    """Return a share in percent, with a digit more where it is small.

    >>> percent(0.34), percent(0.042), percent(0.00001), percent(1), percent(0.249, 1)
    ('34\\u202f%', '4.2\\u202f%', '<0.1\\u202f%', '100\\u202f%', '24.9\\u202f%')
    """
    value = number(x)
    if value is None:
        return DASH
    if 0 < abs(value) < 0.0005:
        return f"<0.1{_THIN}%"
    places = digits if digits is not None else (1 if abs(value) < 0.0995 else 0)
    shown = f"{100 * value:,.{places}f}"
    shown = shown.removesuffix(".0") if digits is None else shown
    return shown.replace("-", "−") + f"{_THIN}%"


def change(x: Any) -> str:
    """Return a relative change with its sign.

    >>> change(0.12), change(-0.034)
    ('+12\\u202f%', '−3.4\\u202f%')
    """
    value = number(x)
    return DASH if value is None else ("+" if value > 0 else "") + percent(value)


def duration(seconds: Any) -> str:
    """Return a time span in its natural unit.

    >>> duration(12), duration(300), duration(7200), duration(5 * 86400), duration(90_000)
    ('12 s', '5 min', '2 h', '5 days', '25 h')
    """
    value = number(seconds)
    if value is None or value < 0:
        return DASH
    for limit, size, unit in ((100, 1, "s"), (5_940, 60, "min"), (172_800, 3_600, "h")):
        if value < limit:
            shown = value / size
            return (
                f"{shown:.1f}".removesuffix(".0") + f" {unit}"
                if shown < 10
                else f"{shown:.0f} {unit}"
            )
    return f"{_trim(value / 86_400)} days"


@dataclass(frozen=True)
class Formats:
    """The formats that depend on the workspace: money and local time.

    >>> of = Formats("GBP", "Europe/London")
    >>> of.money(12.4), of.money(1_234_567), of.money(-3), of.day("2011-12-09T23:30:00Z")
    ('£12.40', '£1.2\\u202fM', '−\\u2060£3.00', '9 Dec 2011')
    >>> Formats("CHF").money(9_999), Formats("JPY").money(12.4)
    ('CHF\\u202f9,999', '¥12')
    """

    currency: str = ""
    zone: str = "UTC"

    def money(self, x: Any) -> str:
        """Return an amount of money; large ones are shortened."""
        value = number(x)
        if value is None:
            return DASH
        size = abs(value)
        if size >= 99_950:
            shown = short(size)
        else:
            whole = size >= 100 or self.currency in _WHOLE
            shown = f"{size:,.0f}" if whole else f"{size:,.2f}"
        return ("−\u2060" if value < 0 else "") + self._sign() + shown

    def _sign(self) -> str:
        code = text(self.currency, 6)
        return _SYMBOLS.get(code.upper(), f"{code}{_THIN}" if code else "")

    def local(self, x: Any) -> datetime | None:
        """Return a moment in the workspace's zone."""
        found = x if isinstance(x, datetime) else moment(x)
        if found is None:
            return None
        try:
            return found.astimezone(ZoneInfo(self.zone or "UTC"))
        except (ZoneInfoNotFoundError, ValueError, OverflowError):
            return found

    def day(self, x: Any) -> str:
        """Return the date of a moment."""
        local = self.local(x)
        return DASH if local is None else f"{local.day} {local:%b} {local.year}"

    def minute(self, x: Any) -> str:
        """Return date and time of a moment."""
        local = self.local(x)
        return DASH if local is None else f"{self.day(local)}, {local:%H:%M}"

    def month(self, x: Any) -> str:
        """Return the month of a moment."""
        local = self.local(x)
        return DASH if local is None else f"{local:%b} {local.year}"
