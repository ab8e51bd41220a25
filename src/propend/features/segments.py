"""Segments with names a marketer knows: the RFM grid, how large each field is, what it is worth, where it goes.

The grid has recency (R) in rows and the mean of frequency and money (FM, halves rounded up) in columns, after
Hughes, *Strategic Database Marketing* (1994), with the names that the trade settled on. Users who never bought
have no scores and are prospects.

==  =======================  =======================  ================  ==========  ==========
R   FM 1                     FM 2                     FM 3              FM 4        FM 5
==  =======================  =======================  ================  ==========  ==========
5   Promising newcomers      Promising newcomers      Loyal             Champions   Champions
4   Promising newcomers      Promising newcomers      Loyal             Champions   Champions
3   Needs attention          Needs attention          Needs attention   Loyal       Loyal
2   Hibernating              Hibernating              At risk           At risk     Can't lose
1   Lost                     Lost                     Hibernating       At risk     Can't lose
==  =======================  =======================  ================  ==========  ==========
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from propend.features.profile import Profiles

__all__ = ["RULES", "SEGMENTS", "Segment", "segment_codes", "segments"]

I64 = npt.NDArray[np.int64]

RULES: Final[dict[str, tuple[str, str]]] = {
    "Champions": ("R 4–5 and FM 4–5: buy often, much and lately", "thank them, early access"),
    "Loyal": ("R 4–5 and FM 3, or R 3 and FM 4–5: come back steadily", "cross-sell, ask reviews"),
    "Promising newcomers": (
        "R 4–5 and FM 1–2: bought lately, little so far",
        "help to a second order",
    ),
    "Needs attention": ("R 3 and FM 1–3: average, beginning to fade", "a reason to come now"),
    "At risk": (
        "R 2 and FM 3–4, or R 1 and FM 4: were good, fell silent",
        "win back with what they liked",
    ),
    "Can't lose": ("R 1–2 and FM 5: were among the best, fell silent", "call, a personal offer"),
    "Hibernating": (
        "R 2 and FM 1–2, or R 1 and FM 3: little, some time ago",
        "cheap channels only",
    ),
    "Lost": ("R 1 and FM 1–2: little, long ago", "leave alone, or one last offer"),
    "Prospects": ("seen, never bought", "a first offer"),
}
"""Segment → the rule in words, and what is usually done."""

SEGMENTS: Final = tuple(RULES)
_CHAMPIONS, _LOYAL, _NEW, _ATTENTION, _RISK, _CANT, _SLEEP, _LOST, PROSPECTS = range(len(SEGMENTS))
_GRID: Final = np.array(
    [
        [_LOST, _LOST, _SLEEP, _RISK, _CANT],
        [_SLEEP, _SLEEP, _RISK, _RISK, _CANT],
        [_ATTENTION, _ATTENTION, _ATTENTION, _LOYAL, _LOYAL],
        [_NEW, _NEW, _LOYAL, _CHAMPIONS, _CHAMPIONS],
        [_NEW, _NEW, _LOYAL, _CHAMPIONS, _CHAMPIONS],
    ]
)
"""Segment by [R − 1, FM − 1]."""


def segment_codes(r: I64, f: I64, m: I64) -> I64:
    """Return indices into ``SEGMENTS``, int64 [n]; scores are 1–5, and 0 where the user never bought.

    >>> [SEGMENTS[i] for i in segment_codes(np.array([5, 1, 0]), np.array([4, 1, 0]), np.array([5, 2, 0]))]
    ['Champions', 'Lost', 'Prospects']
    """
    combined = (f + m + 1) // 2
    bought = r > 0
    at = np.where(bought, r, 1) - 1, np.where(bought, combined, 1) - 1
    return np.where(bought, _GRID[at], PROSPECTS).astype(np.int64)


@dataclass(frozen=True)
class Segment:
    """A group of users at a moment. Shares are of all users and of all value; value is net money so far."""

    name: str
    rule: str
    advice: str
    users: int
    share: float
    value: float
    value_share: float
    recency: float
    """Mean days since the last purchase; NaN where nobody has bought."""
    frequency: float
    """Mean number of days with a purchase."""
    users_before: int
    """Size at the earlier moment; its name is kept for users who were there."""
    value_before: float

    @property
    def growth(self) -> float:
        """Relative change of the size since the earlier moment; NaN from nothing."""
        return self.users / self.users_before - 1 if self.users_before else float("nan")

    @property
    def value_growth(self) -> float:
        """Relative change of the value since the earlier moment; NaN from nothing."""
        return self.value / self.value_before - 1 if self.value_before > 0 else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what is not defined is ``None``."""
        plain = {**asdict(self), "trend": self.growth, "value_trend": self.value_growth}
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in plain.items()}


def segments(profiles: Profiles, previous: Profiles | None = None) -> list[Segment]:
    """Return every segment that has, or had, users, in the order of ``SEGMENTS``; each user is in exactly one.

    ``previous`` holds the same users' profiles at an earlier moment (30 days is usual); the trend compares
    sizes and values then and now. Without it, the trend is that of a shop that began today.
    """
    now, before = _totals(profiles.table), _totals(None if previous is None else previous.table)
    users, value = max(now[0].sum(), 1), now[1].sum()
    found = []
    for i, (name, (rule, advice)) in enumerate(RULES.items()):
        n, worth, recency, frequency = (float(column[i]) for column in now)
        if n == 0 and before[0][i] == 0:
            continue
        found.append(
            Segment(
                name,
                rule,
                advice,
                int(n),
                n / users,
                worth,
                worth / value if value > 0 else 0.0,
                recency / n if n else float("nan"),
                frequency / n if n else float("nan"),
                int(before[0][i]),
                float(before[1][i]),
            )
        )
    return found


def _totals(table: pa.Table | None) -> tuple[npt.NDArray[np.float64], ...]:
    """Return users, value, summed recency and summed frequency by segment."""
    if table is None:
        return (np.zeros(len(SEGMENTS)),) * 4
    code = np.asarray(table["segment"].combine_chunks().indices)
    size = len(SEGMENTS)
    counts = np.bincount(code, minlength=size).astype(np.float64)
    sums = [
        np.bincount(code, np.asarray(table[name], np.float64), size).astype(np.float64)
        for name in ("money", "recency", "frequency")
    ]
    return (counts, *sums)
