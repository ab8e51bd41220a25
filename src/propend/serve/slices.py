"""One user's timeline in memory: compact, ready for the kernels, open for the next event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.events.consent import MARKS
from propend.events.store import NUMBERS, TEXTS
from propend.events.timelines import BLOCK, NO_ITEM, Column, Timelines
from propend.serve.move import Arrived

__all__ = ["Columns", "Encoded", "Slice"]

I64 = npt.NDArray[np.int64]
Columns = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the number columns and of the text columns that are held."""

_TIME, _ARRIVAL, _SEQ, _TYPE, _ITEM = (BLOCK.index(n) for n in ("time", "arrival", "seq", "type", "item"))  # fmt: skip
_FIRST: Final = len(BLOCK)
"""Row of the first number column; texts come after the numbers."""
_LATER: Final = 1 << 50
"""Sequence of the first event that is not in the store: later than every one that is."""
_PLACES: Final = 1 << 16
_ONE: Final = np.zeros(1, np.int64)


class Encoded:
    """Timelines of many users as one block of int64 [columns, events], from which slices are cut."""

    def __init__(self, t: Timelines, columns: Columns) -> None:
        numbers, texts = columns
        self.columns, self.offsets = columns, t.offsets
        self.block = block = np.empty((_FIRST + len(numbers) + len(texts), len(t)), np.int64)
        block[_TIME], block[_SEQ] = t.time, t.seq
        block[_ARRIVAL] = t.time if t.arrival is None else t.arrival
        block[_TYPE], block[_ITEM] = t.type, t.item
        for i, name in enumerate(numbers, _FIRST):
            block[i].view(np.float64)[:] = t.numbers.get(name, np.nan)
        self.values: dict[int, Sequence[str]] = {}
        for i, name in enumerate(texts, _FIRST + len(numbers)):
            column = t.texts.get(name)
            block[i] = -1 if column is None else column.codes
            if column is not None and (column.codes >= 0).any():
                self.values[i] = column.values


class Slice:
    """A block of int64 [columns, room], sorted by (time, sequence); texts as codes of its own."""

    __slots__ = ("block", "n", "texts")

    def __init__(self, columns: Columns, room: int) -> None:
        self.block = np.empty((_FIRST + len(columns[0]) + len(columns[1]), room), np.int64)
        self.n = 0
        self.texts: list[str] = []

    @classmethod
    def of(cls, whole: Encoded, user: int, more: int = 0) -> Slice:
        """Return the timeline of one user among the encoded, with room for so many events more."""
        start, stop = whole.offsets[user], whole.offsets[user + 1]
        n = int(stop - start)
        held = cls(whole.columns, n + more + 2)
        held.block[:, :n] = whole.block[:, start:stop]
        for i, values in whole.values.items():
            part = held.block[i, :n]
            if (part >= 0).any():
                codes, inverse = np.unique(part, return_inverse=True)
                own = [-1 if c < 0 else held.code(values[c]) for c in codes.tolist()]
                held.block[i, :n] = np.array(own, np.int64)[inverse]
        held.n = n
        return held

    @classmethod
    def merged(cls, slices: Sequence[Slice], columns: Columns) -> Slice:
        """Return the slices of several ids as one."""
        numbers, texts = columns
        whole = cls(columns, sum(s.n for s in slices))
        blocks = []
        for held in slices:
            block = held.block[:, : held.n].copy()
            mapping = np.array([*(whole.code(t) for t in held.texts), -1], np.int64)
            for i in range(_FIRST + len(numbers), _FIRST + len(numbers) + len(texts)):
                block[i] = mapping[block[i]]
            blocks.append(block)
        joined = np.concatenate(blocks, axis=1)
        whole.block[:] = joined[:, np.lexsort((joined[_SEQ], joined[_TIME]))]
        whole.n = joined.shape[1]
        return whole

    @property
    def size(self) -> int:
        """Bytes it takes, about."""
        return self.block.nbytes + 300 + 60 * len(self.texts)

    def insert(
        self, arrived: Arrived, columns: Columns, types: Mapping[str, int], items: Mapping[str, int]
    ) -> None:
        """Put an event in its place; ``types`` and ``items`` give the codes of both."""
        row = self._row(arrived, columns, types, items)
        n = self.n
        if n == self.block.shape[1]:
            grown = np.empty((len(self.block), max(8, n + n // 2)), np.int64)
            grown[:, :n] = self.block
            self.block = grown
        at = n
        times, seqs = self.block[_TIME], self.block[_SEQ]
        while at > 0 and (times[at - 1], seqs[at - 1]) > (row[_TIME], row[_SEQ]):
            at -= 1
        if at < n:
            self.block[:, at + 1 : n + 1] = self.block[:, at:n]
        self.block[:, at] = row
        self.n = n + 1

    def _row(
        self, arrived: Arrived, columns: Columns, types: Mapping[str, int], items: Mapping[str, int]
    ) -> I64:
        """Return an event as a column of the block."""
        numbers, texts = columns
        e = arrived.event
        row = np.empty(len(self.block), np.int64)
        row[_TIME], row[_ARRIVAL] = e.time, max(arrived.received, e.time)
        row[_SEQ] = _LATER + arrived.position * _PLACES + arrived.place
        row[_TYPE] = types[e.type]
        row[_ITEM] = NO_ITEM if e.item is None else items[e.item]
        values = row[_FIRST : _FIRST + len(numbers)].view(np.float64)
        for i, name in enumerate(numbers):
            given = getattr(e, name) if name in NUMBERS else e.properties.get(name)
            values[i] = float(given) if isinstance(given, int | float) else np.nan
        for i, name in enumerate(texts, _FIRST + len(numbers)):
            text = getattr(e, name) if name in TEXTS or name == MARKS else e.properties.get(name)
            cut = None if text is None else str(text) if name in TEXTS else str(text)[:1_000]
            row[i] = self.code((cut or "").strip() or None)
        return row

    def code(self, text: str | None) -> int:
        """Return the code of a text in this timeline."""
        if text is None:
            return -1
        try:
            return self.texts.index(text)
        except ValueError:
            self.texts.append(text)
            return len(self.texts) - 1

    def timelines(self, columns: Columns) -> Timelines:
        """Return a copy as timelines of one user: events that come later do not change it."""
        numbers, texts = columns
        n, values = self.n, tuple(self.texts)
        block = self.block[:, :n].copy()
        first = _FIRST + len(numbers)
        return Timelines(
            _ONE,
            np.array([0, n], np.int64),
            block[_TIME],
            block[_TYPE].astype(np.int16),
            block[_ITEM].astype(np.int32),
            block[_SEQ],
            {name: block[i].view(np.float64) for i, name in enumerate(numbers, _FIRST)},
            {
                name: Column(block[i].astype(np.int32), values)
                for i, name in enumerate(texts, first)
            },
            block[_ARRIVAL],
        )
