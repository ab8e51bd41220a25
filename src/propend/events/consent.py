"""Consent as events tell it: whoever refused it lately is not reached."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.names import DAY

__all__ = ["DENIED", "LATELY", "MARKS", "denied", "refusing"]

MARKS: Final = "marks"
"""Property of every live event: ``bot``, ``gpc``, ``dnt``, ``denied``, separated by spaces."""
DENIED: Final = "denied"
LATELY: Final = 30 * DAY


def denied(timelines: Timelines, at: int, within: int = LATELY) -> npt.NDArray[np.bool_]:
    """Return for each user [u] whether an event of the last time before a moment (both in microseconds) refused consent.

    >>> from propend.events.timelines import Column
    >>> marks = {MARKS: Column(np.array([0, -1, 1], np.int32), ("bot denied", "gpc"))}
    >>> t = Timelines(np.array([3, 8]), np.array([0, 2, 3]), np.array([5, 6, 7]), np.zeros(3, np.int16), np.full(3, -1, np.int32), np.arange(3), {}, marks)
    >>> denied(t, 10).tolist(), denied(t, 5).tolist()
    ([True, False], [False, False])
    """
    found = np.zeros(len(timelines.users), np.bool_)
    marks = timelines.texts.get(MARKS)
    if marks is None:
        return found
    says = np.array(
        [*(DENIED in text.split() for text in marks.values), False]
    )  # code −1: the last
    refusal = says[marks.codes] & (timelines.time >= at - within) & (timelines.time < at)
    if timelines.arrival is not None:
        refusal &= timelines.arrival <= at
    found[timelines.user_of_row[refusal]] = True
    return found


def refusing(store: Store, at: int) -> set[str]:
    """Return the users of a store who refused consent lately, as of a moment."""
    if MARKS not in store.manifest.properties:
        return set()
    found: set[str] = set()
    for bucket in range(store.buckets):
        t = store.timelines(bucket, [MARKS])
        found.update(map(str, store.names_of(t.users[denied(t, at)])))
    return found
