"""How long a log must be for a behaviour model, and its past for the pair that competes at the side of a question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.learn.sequences import Coding, half_of
from propend.models.sequence.tokens import SequenceArrays
from propend.names import MICROSECONDS
from propend.tasks.cutoffs import plan_cutoffs

__all__ = ["check_enough", "competing"]

LEAST_USERS: Final = 100
"""Fewest users with two events that pretraining accepts."""
LEAST_EVENTS: Final = 1_000
HORIZONS: Final = (7, 14, 30, 60, 90)
"""Days ahead of the questions for which the past is looked at."""
_NEEDED: Final = f"{LEAST_EVENTS:,} events of {LEAST_USERS} users with two or more"


@dataclass(frozen=True)
class _Counted:
    """Events, and users with two or more."""

    events: int = 0
    able: int = 0

    @property
    def enough(self) -> bool:
        return self.events >= LEAST_EVENTS and self.able >= LEAST_USERS

    def and_of(self, data: SequenceArrays) -> _Counted:
        able = int((np.diff(data.offsets) >= 2).sum())
        return _Counted(self.events + len(data), self.able + able)


def check_enough(
    parts: Iterable[SequenceArrays], until: int | None = None, *, half: bool = False
) -> None:
    """Raise ``NotEnoughDataError`` where sequences are too few to pretrain on.

    ``until`` (UTC microseconds) and ``half`` say what part of the log they are: what was known by then, of half of the users.
    """
    found = _Counted()
    for data in parts:
        found = found.and_of(data)
    if found.enough:
        return
    has = f"{found.events:,} events of {found.able:,} users with two or more"
    if until is None:
        raise NotEnoughDataError(
            f"the log has {has}; a behaviour model needs {_NEEDED}: "
            "boosted trees on aggregates (propend predict) do without"
        )
    day = datetime.fromtimestamp(until / MICROSECONDS, UTC).strftime("%Y-%m-%d")
    whose = "half of the users have" if half else "the log has"
    raise NotEnoughDataError(
        f"{whose} {has} up to {day}; a behaviour model of the past needs {_NEEDED}"
        f"{' in each half' if half else ''}, so bring an older log"
    )


def competing(store: Store, schema: Schema, coding: Coding) -> dict[str, Any]:
    """Return for which ``days`` ahead (of 7 to 90) the past is long enough for a behaviour model to compete, and a ``sentence``.

    What competes are two models of what was known by a question's first held-out cutoff, each of half of the users.
    """
    able: list[int] = []
    short: list[int] = []
    for days in HORIZONS:
        try:
            plan = plan_cutoffs(schema.first, schema.last + 1, Duration(days, "d"))
        except NotEnoughDataError:  # no question so far ahead can be asked
            continue
        kept = able if _halves_enough(store, coding, plan.held_out) else short
        kept.append(days)
    said = []
    if able:
        said.append(f"it can compete in questions about {_days(able)} ahead")
    if short:
        said.append(
            f"for {_days(short)} ahead the log before the first held-out cutoff is too short for it to compete "
            f"({_NEEDED} in each half of the users)"
        )
    told = "; ".join(said) or "the log is too short for any question in which it could compete"
    return {"days": able, "sentence": told}


def _halves_enough(store: Store, coding: Coding, until: int) -> bool:
    """Whether each half of the users has enough before a moment; a long log is read no further than needed."""
    halves, columns = [_Counted(), _Counted()], coding.columns(store)
    for bucket in sorted(store.manifest.runs):
        lines = store.timelines(bucket, columns).before(until)
        made, half = coding.encode(lines, store.types, until), half_of(lines.users)
        halves = [c.and_of(made.take(np.flatnonzero(half == h))) for h, c in enumerate(halves)]
        if all(counted.enough for counted in halves):
            return True
    return False


def _days(days: list[int]) -> str:
    """Return days in words: ``7, 14 and 30 days``."""
    *first, last = map(str, days)
    return f"{', '.join(first)} and {last} days" if first else f"{last} days"
