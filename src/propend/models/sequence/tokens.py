"""Events as tokens: ragged arrays of items, types, channels, times and amounts, user by user."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.names import DAY

__all__ = [
    "NONE",
    "ItemFeatures",
    "SequenceArrays",
    "SequenceWriter",
    "Vocabulary",
    "active_days",
    "hashed_rows",
    "hour_of_week",
]

F32 = npt.NDArray[np.float32]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

NONE: Final = -1
"""Code of an event without an item, or without a channel."""
_COLUMNS: Final = {
    "offsets": np.int64,
    "item": np.int32,
    "type": np.int16,
    "channel": np.int16,
    "time": np.int64,
    "amount": np.float32,
    "days": np.int32,
    "hour": np.int16,
}
_HEAD: Final = "sequences.json"


@dataclass(frozen=True)
class Vocabulary:
    """What the codes of a log range over; a model and its data must agree on it.

    ``rows``: most rows of the item table; a larger catalogue is hashed into it. ``features`` names the
    coded item attributes with their numbers of values; ``dense`` is the width of item vectors brought along. ``days``:
    events say on how many days the user had come by then.
    """

    items: int
    types: int = 1
    channels: int = 0
    clock: bool = True
    amounts: bool = False
    days: bool = False
    rows: int = 1 << 20
    features: tuple[tuple[str, int], ...] = ()
    dense: int = 0

    @property
    def hashed(self) -> bool:
        """Whether items share rows of the table."""
        return self.items > self.rows


@dataclass(frozen=True)
class ItemFeatures:
    """What is known of each item besides its id: coded attributes (−1 missing) and vectors [n_items, w].

    Numbers (a price) are cut into bins of equal mass by ``of``.
    """

    codes: Mapping[str, I32] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)
    vectors: F32 | None = None

    @classmethod
    def of(
        cls,
        coded: Mapping[str, tuple[npt.NDArray[np.integer], int]],
        numbers: Mapping[str, npt.NDArray[np.floating]] | None = None,
        vectors: F32 | None = None,
        *,
        bins: int = 16,
        learnt: Mapping[str, npt.NDArray[np.floating]] | None = None,
    ) -> ItemFeatures:
        """Build from coded attributes (codes, number of values) and numbers with NaN for missing.

        ``learnt``: the numbers that the bins are made from, where these are not ``numbers`` themselves.

        >>> made = ItemFeatures.of({}, {"price": np.array([1.0, np.nan, 3.0, 9.0])}, bins=2)
        >>> made.codes["price"].tolist(), made.values["price"]
        ([0, -1, 1, 1], 2)
        """
        codes = {name: np.asarray(c, np.int32) for name, (c, _) in coded.items()}
        values = {name: int(n) for name, (_, n) in coded.items()}
        for name, column in (numbers or {}).items():
            whole = column if learnt is None else learnt[name]
            sure = whole[np.isfinite(whole)]
            edges = (
                np.unique(np.quantile(sure, np.linspace(0, 1, bins + 1)[1:-1]))
                if len(sure)
                else np.zeros(0)
            )
            known = np.isfinite(column)
            cut = np.searchsorted(edges, np.where(known, column, 0.0), side="right")
            codes[name] = np.where(known, cut, NONE).astype(np.int32)
            values[name] = len(edges) + 1
        return cls(codes, values, vectors)

    @property
    def described(self) -> tuple[tuple[str, int], ...]:
        """Names and numbers of values, for the vocabulary."""
        return tuple(self.values.items())

    @property
    def width(self) -> int:
        """The width of the vectors; 0 without any."""
        return 0 if self.vectors is None else int(self.vectors.shape[1])

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Whether anything is known of each item.

        >>> ItemFeatures.of({}, {"price": np.array([1.0, np.nan])}).known.tolist()
        [True, False]
        """
        parts = [codes >= 0 for codes in self.codes.values()]
        if self.vectors is not None:
            parts.append(np.asarray(self.vectors.any(axis=1)))
        told: npt.NDArray[np.bool_] = np.logical_or.reduce(parts)
        return told


@dataclass(frozen=True)
class SequenceArrays:
    """Events [n] of users [u], oldest first; user ``i`` owns ``offsets[i]`` to ``offsets[i + 1]``.

    ``item`` codes (−1: no item), ``type`` and ``channel`` codes, ``time`` UTC microseconds (any rising
    number without a clock), ``amount`` with NaN for none, ``days`` on how many days the user had events so far, this
    one included (what a model that reads the last events only cannot count), ``hour`` of the week, the first of Monday 0; both
    by UTC, unless they are given by another clock. ``end`` is the moment up to which the log is
    complete. The arrays may be memory-mapped: batches read what they need.

    >>> made = SequenceArrays.of([0, 2, 3], item=[4, 5, 4])
    >>> len(made), made.users, made.user(0)["item"].tolist()
    (3, 2, [4, 5])
    """

    offsets: I64
    item: I32
    type: I16
    channel: I16
    time: I64
    amount: F32
    days: I32
    hour: I16
    end: int

    @classmethod
    def of(
        cls,
        offsets: npt.ArrayLike,
        item: npt.ArrayLike,
        *,
        type: npt.ArrayLike | None = None,
        channel: npt.ArrayLike | None = None,
        time: npt.ArrayLike | None = None,
        amount: npt.ArrayLike | None = None,
        end: int | None = None,
    ) -> SequenceArrays:
        """Build from plain arrays; what is left out is none, and times are places in the log.

        Raises ``ModelError`` for arrays of different lengths, times that fall within a user, infinite amounts.
        """
        bounds, items = np.asarray(offsets, np.int64), np.asarray(item, np.int32)
        n = len(items)
        made = cls(
            bounds,
            items,
            np.zeros(n, np.int16) if type is None else np.asarray(type, np.int16),
            np.full(n, NONE, np.int16) if channel is None else np.asarray(channel, np.int16),
            np.arange(n) if time is None else np.asarray(time, np.int64),
            np.full(n, np.nan, np.float32) if amount is None else np.asarray(amount, np.float32),
            np.zeros(n, np.int32),
            np.zeros(n, np.int16),
            0,
        )
        lengths = {c: len(getattr(made, c)) for c in _COLUMNS if c != "offsets"}
        if len(set(lengths.values())) > 1 or not len(bounds) or bounds[-1] != n:
            told = ", ".join(f"{count} of {name}" for name, count in lengths.items())
            raise ModelError(f"sequences need one value per event in each column, got {told}")
        if np.isinf(made.amount).any():
            raise ModelError(
                "amounts of events must not be infinite, some are not finite; leave them out (NaN)"
            )
        same = np.ones(max(n - 1, 0), np.bool_)
        inner = bounds[1:-1]
        same[inner[(inner > 0) & (inner < n)] - 1] = False
        if n > 1 and (np.diff(made.time)[same] < 0).any():
            raise ModelError("the events of a user must be in order of time; sort them first")
        last = int(made.time.max()) + 1 if n else 0
        object.__setattr__(made, "end", last if end is None else end)
        object.__setattr__(made, "days", active_days(bounds, made.time))
        object.__setattr__(made, "hour", hour_of_week(made.time))
        return made

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def users(self) -> int:
        """Number of users, those without events too."""
        return len(self.offsets) - 1

    def item_counts(self, items: int) -> I64:
        """Return how often each of ``items`` was met, int64 [items], a part of the log at a time."""
        met = np.zeros(items, np.int64)
        for start in range(0, len(self), 1 << 22):
            part = self.item[start : start + (1 << 22)]
            met += np.bincount(part[part >= 0], minlength=items)
        return met

    def user(self, index: int) -> dict[str, Any]:
        """Return one user's columns."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return {c: getattr(self, c)[part] for c in _COLUMNS if c != "offsets"}

    def cut(self, stops: npt.ArrayLike) -> SequenceArrays:
        """Return each user's events up to row ``stops[i]`` of the columns (exclusive)."""
        stop = np.asarray(stops, np.int64)
        lengths = np.maximum(stop - self.offsets[:-1], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1] - offsets[:-1], lengths)
        kept = {c: getattr(self, c)[rows] for c in _COLUMNS if c != "offsets"}
        return SequenceArrays(offsets=offsets, **kept, end=self.end)

    def before(self, moment: int) -> SequenceArrays:
        """Return what happened before ``moment``, which becomes the end."""
        known = np.concatenate([[0], np.cumsum(self.time < moment)])
        made = self.cut(self.offsets[:-1] + known[self.offsets[1:]] - known[self.offsets[:-1]])
        object.__setattr__(made, "end", min(moment, self.end))
        return made

    def take(self, users: npt.ArrayLike) -> SequenceArrays:
        """Return the sequences of some users, by index."""
        chosen = np.asarray(users, np.int64)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        kept = {c: getattr(self, c)[rows] for c in _COLUMNS if c != "offsets"}
        return SequenceArrays(offsets=offsets, **kept, end=self.end)

    def data_hash(self) -> str:
        """Return a fingerprint of every event, to stand beside each figure."""
        digest = hashlib.sha256()
        for name in _COLUMNS:
            column = getattr(self, name)
            for start in range(0, len(column), 1 << 22):
                digest.update(np.ascontiguousarray(column[start : start + (1 << 22)]).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the columns to a folder, to be opened memory-mapped."""
        with SequenceWriter(folder) as writer:
            writer.append(self)

    @classmethod
    def open(cls, folder: Path) -> SequenceArrays:
        """Open what ``save`` or ``SequenceWriter`` wrote, without reading it into memory.

        Raises ``ModelError`` for a folder that holds none, or a part of them.
        """
        try:
            head = msgspec.json.decode((folder / _HEAD).read_bytes())
            rows, users, end = int(head["rows"]), int(head["users"]), int(head["end"])
            columns: dict[str, Any] = {}
            for name, kind in _COLUMNS.items():
                count = users + 1 if name == "offsets" else rows
                if count:
                    columns[name] = np.memmap(folder / f"{name}.bin", kind, "r", shape=(count,))
                else:
                    columns[name] = np.zeros(0, kind)
        except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
            raise ModelError(
                f"{folder} holds no readable sequences ({error}); write them again"
            ) from None
        return cls(**columns, end=end)

    @staticmethod
    def join(parts: Sequence[SequenceArrays]) -> SequenceArrays:
        """Return the users of several, one after another."""
        lengths = np.concatenate([np.diff(p.offsets) for p in parts])
        columns = {
            c: np.concatenate([getattr(p, c) for p in parts]) for c in _COLUMNS if c != "offsets"
        }
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return SequenceArrays(offsets=offsets, **columns, end=max(p.end for p in parts))


def hour_of_week(time: npt.NDArray[np.integer]) -> I16:
    """Return the hour of the week of moments (microseconds on any wall clock), the first of Monday 0.

    >>> hour_of_week(np.array([0, 4 * DAY + 3_600_000_000])).tolist()
    [72, 1]
    """
    hours = time // (DAY // 24)  # the first of January 1970 was a Thursday
    return ((hours + 72) % 168).astype(np.int16)


def active_days(offsets: I64, time: I64) -> I32:
    """Return on how many days (of the clock of ``time``) each event's user had events up to it, int32 [n].

    >>> active_days(np.array([0, 3, 4]), np.array([0, 1, 2]).repeat(2)[:4] * DAY).tolist()
    [1, 1, 2, 1]
    """
    day = time // DAY
    first = np.zeros(len(time), np.bool_)
    first[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
    new = first.copy()
    new[1:] |= day[1:] != day[:-1]
    count = np.cumsum(new)
    before = np.maximum.accumulate(np.where(first, count - 1, 0)) if len(time) else count
    return (count - before).astype(np.int32)


class SequenceWriter:
    """Writes sequences part by part in constant memory; the head comes last, so that a broken write is no log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _HEAD).unlink(missing_ok=True)
        self.folder, self.rows, self.users, self.end = folder, 0, 0, 0
        self.files = {name: (folder / f"{name}.bin").open("wb") for name in _COLUMNS}
        self.files["offsets"].write(np.zeros(1, np.int64).tobytes())

    def append(self, part: SequenceArrays) -> None:
        """Write further users."""
        for name, kind in _COLUMNS.items():
            column = np.asarray(getattr(part, name), kind)
            if name == "offsets":
                column = column[1:] + self.rows
            self.files[name].write(np.ascontiguousarray(column).tobytes())
        self.rows, self.users = self.rows + len(part), self.users + part.users
        self.end = max(self.end, part.end)

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self.files.values():
            file.close()
        if kind is None:
            head = {"rows": self.rows, "users": self.users, "end": self.end}
            (self.folder / _HEAD).write_bytes(msgspec.json.encode(head))


def hashed_rows(items: int, rows: int) -> I64:
    """Return two rows of a table for each item, int64 [items, 2]: few items share both.

    Svenstrup et al., "Hash embeddings for efficient word representations", NeurIPS 2017.

    >>> hashed_rows(5, 4).shape
    (5, 2)
    """
    code = np.arange(items, dtype=np.uint64)
    found = []
    for salt in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F):
        mixed = (code + np.uint64(1)) * np.uint64(salt)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        found.append((mixed % np.uint64(rows)).astype(np.int64))
    return np.stack(found, axis=1)
