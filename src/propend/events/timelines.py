"""The one data structure: events of some users, user by user, each in (time, sequence) order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "NO_ITEM", "Column", "Timelines"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

NO_ITEM = -1
"""Code of an event without an item."""
BLOCK = ("time", "arrival", "seq", "type", "item")
"""First rows of one user's timeline as a block of int64 [rows, events]."""


@dataclass(frozen=True)
class Column:
    """Text per event as codes into ``values``; code −1 is missing."""

    codes: I32
    values: tuple[str, ...]

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Column:
        """Return the column at some rows."""
        return Column(self.codes[rows], self.values)


@dataclass(frozen=True)
class Timelines:
    """Events [n] of users [u]; user ``i`` owns rows ``offsets[i]`` to ``offsets[i + 1]``.

    ``time`` and ``arrival`` are UTC microseconds, ``type`` and ``item`` dense codes (item −1: none); ``numbers``
    holds float64 columns with NaN for missing, ``texts`` coded text columns. Rows are sorted by (user, time, seq).
    """

    users: I64
    offsets: I64
    time: I64
    type: npt.NDArray[np.int16]
    item: I32
    seq: I64
    numbers: Mapping[str, F64] = field(default_factory=dict)
    texts: Mapping[str, Column] = field(default_factory=dict)
    arrival: I64 | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def user_of_row(self) -> I64:
        """Index into ``users`` of each event, int64 [n]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def select(self, rows: npt.NDArray[np.bool_]) -> Timelines:
        """Return the timelines with only the events where ``rows`` is true; users stay, even without events."""
        kept = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        return replace(
            self,
            offsets=kept[self.offsets],
            time=self.time[rows],
            type=self.type[rows],
            item=self.item[rows],
            seq=self.seq[rows],
            numbers={name: values[rows] for name, values in self.numbers.items()},
            texts={name: column.take(rows) for name, column in self.texts.items()},
            arrival=None if self.arrival is None else self.arrival[rows],
        )

    def before(self, moment: int) -> Timelines:
        """Return what was known before ``moment``: events that happened, and had arrived, before it."""
        known = self.time < moment
        if self.arrival is not None:
            known &= self.arrival <= moment
        return self.select(known)

    def of(self, index: int) -> Timelines:
        """Return one user's timeline, by index into ``users``."""
        return self.users_at(np.array([index]))

    def users_at(self, indices: npt.NDArray[np.intp] | Sequence[int]) -> Timelines:
        """Return the timelines of some users, by index into ``users`` (in any order; one named twice is there twice)."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self.users)):
            raise IndexError(f"user indices must lie in 0 … {len(self.users) - 1}")
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = (
            np.arange(offsets[-1])
            - np.repeat(offsets[:-1], lengths)
            + np.repeat(self.offsets[chosen], lengths)
        )
        return Timelines(
            self.users[chosen],
            offsets,
            self.time[rows],
            self.type[rows],
            self.item[rows],
            self.seq[rows],
            {name: values[rows] for name, values in self.numbers.items()},
            {name: column.take(rows) for name, column in self.texts.items()},
            None if self.arrival is None else self.arrival[rows],
        )


def offsets_of(users: npt.NDArray[np.integer]) -> tuple[I64, I64]:
    """Return the distinct users of a sorted user column and the offsets of their runs.

    Read-only, as columns that come from a file are: kernels are compiled (and loaded) for one kind of array.
    """
    starts = np.flatnonzero(users[1:] != users[:-1]) + 1
    offsets = np.concatenate([[0], starts, [len(users)]]).astype(np.int64)
    if len(users) == 0:
        offsets = offsets[:1]
    found = users[offsets[:-1]].astype(np.int64)
    found.flags.writeable = offsets.flags.writeable = False
    return found, offsets
