"""Reading figures that may be missing: what cannot be read is ``None`` or empty, never an error."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, TypeAlias

from propend.names import MICROSECONDS

__all__ = ["View", "moment", "number", "numbers", "part", "records", "text"]

View: TypeAlias = dict[str, Any]
"""What a section's template is filled with; ``missing`` holds the sentence that stands in its place."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def number(x: Any) -> float | None:
    """Return a finite number, or ``None`` for anything else.

    >>> number(3), number(float("nan")), number("3"), number(True)
    (3.0, None, None, None)
    """
    if isinstance(x, bool) or not isinstance(x, int | float):
        return None
    try:
        value = float(x)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def numbers(x: Any) -> list[float | None]:
    """Return a list's values as finite numbers or ``None``; an empty list for anything else."""
    return [number(v) for v in x] if isinstance(x, list | tuple) else []


def text(x: Any, most: int = 160) -> str:
    """Return text for a person: without control characters, no longer than ``most``.

    >>> text("a\\x00b"), text(None), text("long " * 9, most=9)
    ('ab', '', 'long lon…')
    """
    if x is None or (isinstance(x, float) and not math.isfinite(x)):
        return ""
    clean = _CONTROL.sub("", str(x)).strip()
    return clean if len(clean) <= most else clean[: most - 1].rstrip() + "…"


def part(x: Any, key: str) -> dict[str, Any]:
    """Return a part of the results that is a table of names, or an empty one."""
    found = x.get(key) if isinstance(x, dict) else None
    return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}


def records(x: Any) -> list[dict[str, Any]]:
    """Return the dicts of a list; anything else is left out."""
    return [v for v in x if isinstance(v, dict)] if isinstance(x, list | tuple) else []


def moment(x: Any) -> datetime | None:
    """Return a moment from ISO 8601 text or UTC microseconds; without a zone it is taken as UTC.

    >>> moment("2011-12-09").isoformat(), moment(0).isoformat(), moment("soon")
    ('2011-12-09T00:00:00+00:00', '1970-01-01T00:00:00+00:00', None)
    """
    try:
        if isinstance(x, str):
            found = datetime.fromisoformat(x)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        value = number(x)
        return None if value is None else datetime.fromtimestamp(value / MICROSECONDS, UTC)
    except (ValueError, OverflowError, OSError):
        return None
