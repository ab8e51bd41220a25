"""What came after each event: the answers that training asks for, from the arrays alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.models.sequence.packing import Batch
from propend.models.sequence.tokens import NONE, SequenceArrays
from propend.names import DAY, MICROSECONDS

__all__ = [
    "AMOUNT_BINS",
    "DAYS_BINS",
    "Asked",
    "Events",
    "Future",
    "Next",
    "amount_bin",
    "asked_of",
    "days_bin",
    "events_of",
    "future_of",
    "gap_bin",
    "next_of",
]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

AMOUNT_BINS: Final = 129
"""Two bins to each doubling, for amounts above and below 0; the last is for none."""
GAP_BINS: Final = 65
DAYS_BINS: Final = 40
"""Four bins to each doubling of the days on which a user came, up to a thousand."""
SOONEST: Final = 60 * MICROSECONDS
LONGEST: Final = 400 * DAY
"""The waits after an event at which a question is asked, microseconds, every doubling as often as the next."""


@dataclass(frozen=True)
class Events:
    """The tokens of a batch as codes [t]; ``time`` in whole seconds."""

    item: I64
    type: I64
    channel: I64
    amount: I64
    gap: I64
    hour: I64
    weekday: I64
    days: I64
    time: I64


@dataclass(frozen=True)
class Next:
    """The next event of each [t]: ``known`` whether there is one; ``gap`` in days, up to the log's end where not."""

    known: Bool
    item: I64
    type: I64
    gap: F32
    amount: F32
    query: I64
    """The time of the next event in seconds, the log's end where there is none."""


@dataclass(frozen=True)
class Asked:
    """Random moments, one after each event [t] and before the next: what a question at a cutoff looks like.

    ``moment`` UTC microseconds; ``wait`` days since the event; ``horizon`` days ahead; ``weight`` how much the answer
    counts, 0 where there is no moment to ask at.
    """

    moment: I64
    wait: F32
    horizon: F32
    weight: F32


@dataclass(frozen=True)
class Future:
    """What happens within the horizon after a moment [t].

    ``any`` [t, types + 1]: whether an event of each type happens, and of any; ``value`` the sum of amounts.
    """

    any: F32
    value: F32


def amount_bin(amount: npt.NDArray[np.floating]) -> I64:
    """Return the log bin of amounts; NaN has its own.

    >>> amount_bin(np.array([0.0, 1.0, 9.0, -9.0, np.nan])).tolist()
    [0, 2, 6, 70, 128]
    """
    there = np.isfinite(amount)
    size = np.where(there, np.abs(amount), 0.0)
    bins = np.minimum(2 * np.log2(1 + size), 63).astype(np.int64)
    return np.where(there, bins + 64 * (np.where(there, amount, 0) < 0), AMOUNT_BINS - 1)


def gap_bin(seconds: I64, first: Bool) -> I64:
    """Return the log bin of seconds since the event before; the first event has its own."""
    bins = np.minimum(2 * np.log2(1.0 + np.maximum(seconds, 0)), GAP_BINS - 2).astype(np.int64)
    return np.where(first, GAP_BINS - 1, bins)


def days_bin(days: npt.NDArray[np.integer]) -> I64:
    """Return the log bin of a number of active days.

    >>> days_bin(np.array([1, 2, 3, 4, 2_000])).tolist()
    [0, 4, 6, 8, 39]
    """
    bins = 4 * np.log2(np.maximum(days, 1).astype(np.float64))
    return np.minimum(bins, DAYS_BINS - 1).astype(np.int64)


def events_of(data: SequenceArrays, index: I64, user: I64) -> Events:
    """Return the tokens of events ``index`` of users ``user`` (indices into the arrays)."""
    time = np.asarray(data.time[index])
    first = index == data.offsets[user]
    before = np.asarray(data.time[np.maximum(index - 1, 0)])
    hour = np.asarray(data.hour[index], np.int64)
    return Events(
        np.asarray(data.item[index], np.int64),
        np.asarray(data.type[index], np.int64),
        np.asarray(data.channel[index], np.int64),
        amount_bin(np.asarray(data.amount[index], np.float64)),
        gap_bin((time - before) // MICROSECONDS, first),
        hour % 24,
        hour // 24,
        days_bin(np.asarray(data.days[index])),
        time // MICROSECONDS,
    )


def next_of(data: SequenceArrays, batch: Batch) -> Next:
    """Return what follows each event of a batch, across the ends of pieces."""
    index = batch.index
    known = index + 1 < data.offsets[batch.user + 1]
    after = np.where(known, index + 1, index)
    time = np.asarray(data.time[index])
    later = np.where(known, data.time[after], max(data.end, 0))
    return Next(
        known,
        np.where(known, data.item[after], NONE).astype(np.int64),
        np.where(known, data.type[after], 0).astype(np.int64),
        (np.maximum(later - time, 0) / DAY).astype(np.float32),
        np.where(known, data.amount[after], np.nan).astype(np.float32),
        np.maximum(later, time) // MICROSECONDS,
    )


def asked_of(
    data: SequenceArrays, batch: Batch, horizons: tuple[float, ...], rng: np.random.Generator
) -> Asked:
    """Return a random moment after each event of a batch, before the next one and a horizon before the log's end.

    Horizons are drawn from ``horizons`` (days). A wait must not say how soon the next event comes: it is drawn from one
    law for all gaps (each doubling from a minute to 400 days as likely), cut where the gap ends, and weighs as much as
    the law has below that end. That equals drawing from the law and leaving out the moments at which the next event had
    come already, so that among users silent for so long the soon and the late to return stand as they do at a cutoff;
    a wait drawn evenly from each gap would show short gaps too often.
    """
    index = batch.index
    time = np.asarray(data.time[index])
    horizon = rng.choice(np.asarray(horizons), len(index))
    inner = index + 1 < data.offsets[batch.user + 1]
    gap = np.where(inner, data.time[np.minimum(index + 1, len(data) - 1)], data.end) - time
    room = np.minimum(gap, data.end - (horizon * DAY).astype(np.int64) - time)
    drawn, reach = rng.random(len(index)), np.clip(room, SOONEST, LONGEST) / SOONEST
    weight = np.log(reach) / np.log(LONGEST / SOONEST)
    wait = np.where(weight > 0, SOONEST * reach**drawn, drawn * np.maximum(gap, 0))
    wait = np.minimum(wait.astype(np.int64), np.maximum(np.where(weight > 0, room, gap), 0))
    return Asked(
        time + wait,
        (wait / DAY).astype(np.float32),
        horizon.astype(np.float32),
        weight.astype(np.float32),
    )


def future_of(data: SequenceArrays, batch: Batch, types: int, asked: Asked) -> Future:
    """Return what happens in the horizon that begins at each moment, the moment's own instant included."""
    found = np.zeros((len(batch), types + 1), np.float32)
    value = np.zeros(len(batch), np.float32)
    until = asked.moment + (asked.horizon.astype(np.float64) * DAY).astype(np.int64)
    stop = data.offsets[batch.user + 1]
    _look_ahead(
        data.time, data.type, data.amount, batch.index, stop, asked.moment, until, found, value
    )
    return Future(found, value)


@nb.njit(cache=True, nogil=True)
def _look_ahead(
    time: Any,
    kind: Any,
    amount: Any,
    index: Any,
    stop: Any,
    moment: Any,
    until: Any,
    found: Any,
    value: Any,
) -> None:
    last = found.shape[1] - 1
    for i in range(len(index)):
        total = 0.0
        for at in range(index[i] + 1, stop[i]):
            if time[at] >= until[i]:
                break
            if time[at] >= moment[i]:
                found[i, kind[at]] = 1.0
                found[i, last] = 1.0
                if amount[at] == amount[at]:
                    total += amount[at]
        value[i] = total
