"""Whose events are walked together: a user's, a session's, or a user's events with the same value of a property."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.events.timelines import Column, Timelines
from propend.features.evaluate import event_column
from propend.features.schema import Schema
from propend.names import SESSION

__all__ = ["Units", "sessions", "split"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """Units [u] over the rows of timelines: unit ``i`` owns ``rows[offsets[i]:offsets[i + 1]]``, of user ``user[i]``."""

    user: I64
    offsets: I64
    rows: I64 | None = None
    """``None``: every row as it stands."""

    def take(self, values: Any) -> Any:
        """Return a column in the units' order."""
        return values if self.rows is None else values[self.rows]


@nb.njit(cache=True, nogil=True)
def number_sessions(offsets: np.ndarray, time: np.ndarray, gap: int, out: np.ndarray) -> int:
    """Write each event's session: a new one for each user, and after more than ``gap`` microseconds of silence."""
    session = -1
    for u in range(len(offsets) - 1):
        for i in range(offsets[u], offsets[u + 1]):
            if i == offsets[u] or time[i] - time[i - 1] > gap:
                session += 1
            out[i] = session
    return session + 1


def sessions(timelines: Timelines, gap: int, *, declared: bool = False) -> I64:
    """Return each event's session: the log's own where ``declared``, else by ``gap`` microseconds of silence."""
    if declared:
        return timelines.texts[SESSION].codes.astype(np.int64)
    out = np.empty(len(timelines), np.int64)
    number_sessions(timelines.offsets, timelines.time, gap, out)
    return out


def codes_of(name: str, timelines: Timelines, schema: Schema, gap: int) -> I64:
    """Return a property of events as codes; −1 is missing."""
    if name == SESSION:
        return sessions(timelines, gap, declared=SESSION in timelines.texts)
    values = event_column(name, timelines, schema)
    if isinstance(values, Column):
        return values.codes.astype(np.int64)
    _, codes = np.unique(values, return_inverse=True)
    return np.where(np.isnan(values), -1, codes)


def split(
    timelines: Timelines,
    keys: Sequence[I64],
    keep: npt.NDArray[np.bool_] | None = None,
) -> Units:
    """Return units: each user's events, split by the values of ``keys``; events with a missing key (−1) are left out.

    ``keep`` leaves out further events. Inside a unit events stay in their order.
    """
    users = len(timelines.users)
    if not keys and keep is None:
        return Units(np.arange(users), timelines.offsets)
    chosen = np.ones(len(timelines), np.bool_) if keep is None else keep.copy()
    for key in keys:
        chosen &= key >= 0
    rows = np.flatnonzero(chosen)
    user = timelines.user_of_row[rows]
    columns = [user, *(key[rows] for key in keys)]
    if keys:
        order = np.lexsort((rows, *reversed(columns)))
        rows, columns = rows[order], [c[order] for c in columns]
    new = np.ones(len(rows), np.bool_)
    if len(rows):
        new[1:] = np.any([c[1:] != c[:-1] for c in columns], axis=0)
    starts = np.flatnonzero(new)
    offsets = np.append(starts, len(rows)).astype(np.int64)
    return Units(columns[0][starts], offsets, rows)
