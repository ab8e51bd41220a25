"""From the store's timelines to the arrays a sequence model reads: whole logs, and histories as of cutoffs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError
from propend.events.clock import to_local
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.models.sequence.tokens import (
    NONE,
    ItemFeatures,
    SequenceArrays,
    SequenceWriter,
    Vocabulary,
    active_days,
    hour_of_week,
)
from propend.names import CHANNEL, VALUE

__all__ = ["Coding", "half_of", "histories", "last_events", "read_sequences", "snapshots"]

I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]

MOST_CHANNELS: Final = 200
MOST_ROWS: Final = 8_192
"""Most histories that are held at a time."""
MOST_AT_ONCE: Final = 8
"""Most events of one user, instant and type that a model reads: the lines of a large basket say little one by one."""


@dataclass(frozen=True)
class Coding:
    """What a model's codes mean: names of event types and channels, how many items there were and ``prints`` of their ids, and
    the ``zone`` of the wall clock by which hours and days are told.

    A type the model never saw is left out of what it reads, a channel or item it never saw is none.
    """

    types: tuple[str, ...]
    channels: tuple[str, ...]
    items: int
    amounts: bool
    prints: str = ""
    zone: str = "UTC"

    @classmethod
    def of(cls, store: Store, zone: str = "UTC", *, until: int | None = None) -> Coding:
        """Return the coding of a store: its types, its most used channels, its items.

        With ``until`` (UTC microseconds) only what was known before: types and channels met by then, and items up to the
        latest code met, since codes must stay those of the store.
        """
        types, items = store.types, len(store.item_ids())
        columns = [CHANNEL] if CHANNEL in store.manifest.columns else []
        counts: dict[str, int] = {}
        seen, last = np.zeros(len(types), np.bool_), -1
        for bucket in sorted(store.manifest.runs) if columns or until is not None else ():
            lines = store.timelines(bucket, columns)
            if until is not None:
                lines = lines.before(until)
                seen[lines.type] = True
                last = max(last, int(lines.item.max(initial=-1)))
            for name in columns:
                column = lines.texts[name]
                met = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
                for value, n in zip(column.values, met.tolist(), strict=True):
                    counts[value] = counts.get(value, 0) + n
        if until is not None:
            types = tuple(name for name, met in zip(types, seen, strict=True) if met)
            items = last + 1
            counts = {name: n for name, n in counts.items() if n}
        common = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CHANNELS]
        return cls(
            tuple(types),
            tuple(sorted(common)),
            items,
            VALUE in store.manifest.columns,
            _prints(store.item_ids()[:items]),
            zone,
        )

    def refused(self, store: Store) -> str:
        """Return in words what a store lacks that the codes stand for; empty where they mean the same there."""
        for name in self.types:
            if name not in store.types:
                return f"the event type {name!r}, which this one does not have"
        ids = store.item_ids()
        if self.items > len(ids):
            return f"{self.items:,} items, of which this one has {len(ids):,}"
        if _prints(ids[: self.items]) != self.prints:
            return "other items, or the same in another order"
        return ""

    def vocabulary(
        self, features: ItemFeatures | None = None, *, rows: int = 1 << 20
    ) -> Vocabulary:
        """Return the vocabulary of a model with this coding."""
        return Vocabulary(
            items=max(self.items, 1),
            types=len(self.types),
            channels=len(self.channels),
            amounts=self.amounts,
            days=True,
            rows=rows,
            features=() if features is None else features.described,
            dense=0 if features is None else features.width,
        )

    def columns(self, store: Store) -> list[str]:
        """Return the columns to read beside the fixed ones."""
        wanted = [VALUE] if self.amounts else []
        return [
            n
            for n in (*wanted, *([CHANNEL] if self.channels else []))
            if n in store.manifest.columns
        ]

    def encode(self, lines: Timelines, names: Sequence[str], end: int) -> SequenceArrays:
        """Return timelines in this coding, without events of unknown types; ``names`` are those of their type codes."""
        types = np.array(
            [self.types.index(t) if t in self.types else NONE for t in names], np.int16
        )
        kind = types[lines.type]
        if (kind < 0).any():
            lines, kind = lines.select(kind >= 0), kind[kind >= 0]
        channel = np.full(len(lines), NONE, np.int16)
        if CHANNEL in lines.texts:
            column = lines.texts[CHANNEL]
            index = {name: code for code, name in enumerate(self.channels)}
            mapping = np.array([*(index.get(name, NONE) for name in column.values), NONE], np.int16)
            channel = mapping[column.codes]
        amount = lines.numbers.get(VALUE, np.full(len(lines), np.nan))
        amount = np.where(np.isfinite(amount), amount, np.nan)
        keep, amount = _lean(lines, kind, amount)
        local = to_local(lines.time, self.zone)
        kept = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return SequenceArrays(
            kept[lines.offsets],
            np.where(lines.item < self.items, lines.item, NONE).astype(np.int32)[keep],
            kind[keep],
            channel[keep],
            lines.time[keep],
            amount[keep].astype(np.float32),
            active_days(lines.offsets, local)[keep],
            hour_of_week(local[keep]),
            end,
        )


def _prints(ids: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:16]


def _lean(
    lines: Timelines, kind: npt.NDArray[np.int16], amount: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return which events to keep of those of one user, instant and type (the first ``MOST_AT_ONCE``), and amounts.

    The last one kept carries what the others were worth, so that sums stay what they were.
    """
    n = len(lines)
    new = np.ones(n, np.bool_)
    new[1:] = (np.diff(lines.time) != 0) | (np.diff(kind) != 0)
    inner = lines.offsets[1:-1]
    new[inner[inner < n]] = True
    run = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    place = np.arange(n) - first[run] if n else np.zeros(0, np.int64)
    keep = place < MOST_AT_ONCE
    rest = np.bincount(run[~keep], np.nan_to_num(amount[~keep]), minlength=len(first))
    worth = np.bincount(run[~keep], ~np.isnan(amount[~keep]), minlength=len(first)) > 0
    last = np.flatnonzero(place == MOST_AT_ONCE - 1)
    last = last[worth[run[last]]]
    out = amount.copy()
    out[last] = np.nan_to_num(out[last]) + rest[run[last]]
    return keep, out


def read_sequences(
    store: Store,
    coding: Coding,
    folder: Path,
    *,
    until: int,
    hold: float = 0.0,
    leave: int | None = None,
    progress: Progress | None = None,
) -> tuple[SequenceArrays, SequenceArrays]:
    """Write what was known before ``until`` (UTC microseconds) to a folder, bucket by bucket, and open it.

    A share ``hold`` of the users, drawn by a hash of their codes, is kept apart: returns (the others, them). ``leave``
    leaves out the users of one half (``half_of``) altogether. Memory is one bucket's. Raises ``NotEnoughDataError`` where nothing happened before ``until``.
    """
    columns = coding.columns(store)
    buckets = sorted(store.manifest.runs)
    with SequenceWriter(folder / "shown") as shown, SequenceWriter(folder / "held") as held:
        for done, bucket in enumerate(buckets):
            lines = store.timelines(bucket, columns).before(until)
            if leave is not None:
                lines = lines.users_at(np.flatnonzero(half_of(lines.users) != leave))
            made = coding.encode(lines, store.types, until)
            apart = (_mixed(lines.users) >> np.uint64(40)) / np.float64(1 << 24) < hold
            shown.append(made.take(np.flatnonzero(~apart)) if hold else made)
            held.append(made.take(np.flatnonzero(apart)))
            if progress:
                progress("read sequences", done + 1, len(buckets))
    found = SequenceArrays.open(folder / "shown"), SequenceArrays.open(folder / "held")
    if not len(found[0]):
        raise NotEnoughDataError(
            "nothing happened before the cutoff, so there is nothing to learn from"
        )
    return found


def half_of(users: I64) -> I64:
    """Return which half, 0 or 1, each user code belongs to, drawn by a hash.

    >>> half_of(np.arange(8)).tolist() == half_of(np.arange(8)).tolist()
    True
    >>> bool(400 < half_of(np.arange(1_000)).sum() < 600)
    True
    """
    return ((_mixed(users) >> np.uint64(20)) & np.uint64(1)).astype(np.int64)


def _mixed(users: I64) -> npt.NDArray[np.uint64]:
    mixed = (users.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(31)
    return mixed * np.uint64(0xBF58476D1CE4E5B9)


def snapshots(
    store: Store, coding: Coding, users: I64, cutoffs: I64, length: int
) -> Iterator[tuple[I64, SequenceArrays]]:
    """Yield rows of (user code, cutoff), and for each row the last ``length`` events known before its cutoff.

    A bucket's rows of one cutoff come at a time, in parts of 8,192, so that memory is one bucket's.
    """
    columns = coding.columns(store)
    bucket_of = users % store.buckets
    for bucket in np.unique(bucket_of).tolist():
        lines = store.timelines(bucket, columns)
        here = np.flatnonzero(bucket_of == bucket)
        for cutoff in np.unique(cutoffs[here]).tolist():
            rows = here[cutoffs[here] == cutoff]
            known = coding.encode(lines.before(cutoff), store.types, cutoff)
            for start in range(0, len(rows), MOST_ROWS):
                part = rows[start : start + MOST_ROWS]
                yield part, last_events(known, lines.users, users[part], length)


def histories(
    store: Store, coding: Coding, users: I64, cutoffs: I64, length: int
) -> SequenceArrays:
    """Return what ``snapshots`` yields in one piece, in the order given."""
    parts = list(snapshots(store, coding, users, cutoffs, length))
    if not parts:
        return SequenceArrays.of([0], [])
    place = np.empty(len(users), np.int64)
    place[np.concatenate([rows for rows, _ in parts])] = np.arange(len(users))
    return SequenceArrays.join([made for _, made in parts]).take(place)


def last_events(known: SequenceArrays, whose: I64, users: I64, length: int) -> SequenceArrays:
    """Return the last ``length`` events of some users; ``whose`` are the ascending codes of the users in ``known``."""
    if not len(whose):
        return SequenceArrays.of(np.zeros(len(users) + 1, np.int64), [], end=known.end)
    at = np.minimum(np.searchsorted(whose, users), len(whose) - 1)
    low = np.maximum(known.offsets[at], known.offsets[at + 1] - length)
    lengths = np.where(whose[at] == users, known.offsets[at + 1] - low, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], lengths)
    return SequenceArrays(
        offsets,
        known.item[index],
        known.type[index],
        known.channel[index],
        known.time[index],
        known.amount[index],
        known.days[index],
        known.hour[index],
        known.end,
    )
