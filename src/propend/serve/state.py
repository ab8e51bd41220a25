"""Live state: the timelines of active users in memory, the inbox's tail on top, the same kernels as batch.

A user's timeline is whole: what the store holds, and what was acknowledged since. Users who are not in memory are
read from the store when they are asked for; the least recently active ones leave when memory is short.
"""

from __future__ import annotations

import threading
import time as clock
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import DataError
from propend.events.store import NUMBERS, TEXTS, Store
from propend.events.timelines import NO_ITEM, Column, Timelines
from propend.expression.nodes import Expression
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.program import Program
from propend.features.schema import Schema, attribute_columns
from propend.names import USER
from propend.serve.forgotten import Forgotten
from propend.serve.identity import Identity
from propend.serve.inbox import Inbox
from propend.serve.move import Arrived, Taken, is_live, moved_to, take

__all__ = ["LiveState"]

I64 = npt.NDArray[np.int64]

_TIME, _ARRIVAL, _SEQ, _TYPE, _ITEM = range(5)
_LATER: Final = 1 << 50
"""Sequence of the first event that is not in the store: later than every one that is."""
_PLACES: Final = 1 << 16


class _Slice:
    """One user's timeline: a block of int64 [columns, room], sorted by (time, sequence); texts as codes of its own."""

    __slots__ = ("block", "n", "texts")

    def __init__(self, width: int, room: int) -> None:
        self.block = np.empty((width, room), np.int64)
        self.n = 0
        self.texts: list[str] = []

    @property
    def size(self) -> int:
        """Bytes it takes, about."""
        return self.block.nbytes + 300 + 60 * len(self.texts)

    def insert(self, row: I64) -> None:
        """Put an event in its place."""
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

    def code(self, text: str | None) -> int:
        """Return the code of a text in this timeline."""
        if text is None:
            return -1
        try:
            return self.texts.index(text)
        except ValueError:
            self.texts.append(text)
            return len(self.texts) - 1


class LiveState:
    """Everything the API answers from. ``refresh`` takes in what is new; questions may come from any thread."""

    def __init__(
        self, store_folder: Path, inbox: Inbox, identity: Identity, *, zone: str = "UTC", tasks: tuple[str, ...] = (),
        memory_mb: int = 512, properties: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.inbox, self.identity = store_folder, inbox, identity
        self.forgotten = Forgotten(store_folder)
        self.zone, self.tasks, self.budget = zone, tasks, memory_mb << 20
        self.properties = dict(properties or {})
        self.lock = threading.RLock()
        self.store: Store | None = None
        self.position = 0
        self.moved = 0
        self.events_seen = 0
        self.newest = 0
        self.evicted = 0
        self.loaded = 0
        self._slices: OrderedDict[str, _Slice] = OrderedDict()
        self._bytes = 0
        self._tail: dict[str, list[Arrived]] = {}
        self._types: list[str] = []
        self._type_codes: dict[str, int] = {}
        self._items: list[str] = []
        self._item_codes: dict[str, int] = {}
        self._print: Any = None
        self._generation = -1
        self._stamp: Any = None
        self._users: dict[str, int] = {}
        self._user_table: pa.Table | None = None
        self._user_entry: Any = None
        self._traits: dict[str, Values] = {}
        self._base = Schema(types=())
        self._schema: Schema | None = None
        self.schema_version = 0
        """Grows when programs must be compiled again: new types, new columns, another store."""
        self._columns: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._reload()

    # ---- taking in

    def refresh(self, limit: int = 2_000) -> list[Arrived]:
        """Take in what the inbox has since the last time; returns the new events, in order of acceptance."""
        taken = take(self.inbox, self.position, limit)
        gone = self.forgotten.among({a.event.user for a in taken.events})
        if gone:  # the mover sets these aside
            taken.events = [a for a in taken.events if a.event.user not in gone]
        with self.lock:
            self.check_store()
            if taken.last:
                self.identity.add(taken.facts)
                self._apply(taken)
        return taken.events

    def _apply(self, taken: Taken) -> None:
        for arrived in taken.events:
            if (
                arrived.position <= self.moved
            ):  # another process moved it meanwhile: it comes with the store
                continue
            e = arrived.event
            if e.type not in self._type_codes:
                self._type_codes[e.type] = len(self._types)
                self._types.append(e.type)
                self._schema = None
                self.schema_version += 1
            if e.item is not None and e.item not in self._item_codes:
                self._item_codes[e.item] = len(self._items)
                self._items.append(e.item)
                self._schema = None
            self._tail.setdefault(e.user, []).append(arrived)
            held = self._slices.get(e.user)
            if held is not None:
                before = held.size
                held.insert(self._row(arrived, held))
                self._bytes += held.size - before
                self._slices.move_to_end(e.user)
            self.newest = max(self.newest, arrived.received)
        self.events_seen += len(taken.events)
        self.position = max(self.position, taken.last)
        self._evict()

    def _row(self, arrived: Arrived, held: _Slice) -> I64:
        """Return an event as a column of a block."""
        numbers, texts = self._columns
        e = arrived.event
        row = np.empty(5 + len(numbers) + len(texts), np.int64)
        row[_TIME], row[_ARRIVAL] = e.time, max(arrived.received, e.time)
        row[_SEQ] = _LATER + arrived.position * _PLACES + arrived.place
        row[_TYPE] = self._type_codes[e.type]
        row[_ITEM] = NO_ITEM if e.item is None else self._item_codes[e.item]
        values = row[5 : 5 + len(numbers)].view(np.float64)
        for i, name in enumerate(numbers):
            given = getattr(e, name) if name in NUMBERS else e.properties.get(name)
            values[i] = float(given) if isinstance(given, int | float) else np.nan
        for i, name in enumerate(texts):
            text = getattr(e, name) if name in TEXTS else e.properties.get(name)
            cut = None if text is None else str(text) if name in TEXTS else str(text)[:1_000]
            row[5 + len(numbers) + i] = held.code((cut or "").strip() or None)
        return row

    # ---- the store beneath

    def check_store(self) -> bool:
        """Read the store's manifest again where it has changed; returns whether it had."""
        path = self.folder / "manifest.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._reload()
        return True

    def _reload(self) -> None:
        """Follow the store: drop the tail that is in it now, and every timeline where it changed beneath us."""
        if not Store.exists(self.folder):
            self._extend_schema()
            return
        store = Store(self.folder)
        with self.lock:
            print_ = (
                sum(e["rows_kept"] for e in store.manifest.ledger if not is_live(e)),
                sum(sum(e["quarantine"].values()) for e in store.manifest.ledger if is_live(e)),
                len(store.manifest.erased), store.buckets,
            )  # fmt: skip
            if print_ != self._print:
                self._slices.clear()
                self._bytes = 0
            self.store, self._print = store, print_
            self.moved = moved_to(store)
            if self.moved > self.position:  # moved by another process before it was seen here
                self._slices.clear()
                self._bytes = 0
            self.position = max(self.position, self.moved)
            for user in list(self._tail):
                kept = [a for a in self._tail[user] if a.position > self.moved]
                if kept:
                    self._tail[user] = kept
                else:
                    del self._tail[user]
            for user in self.forgotten.among(self._tail):
                del self._tail[user]
            self._follow_codes(store)
            entry = store.manifest.tables.get("users")
            if entry is None or entry != self._user_entry:  # reading a million users takes a second
                self._user_entry = entry
                self._user_table = store.table("users")
                self._users = (
                    {}
                    if self._user_table is None
                    else {u: i for i, u in enumerate(self._user_table[USER].to_pylist())}
                )
                self._traits = (
                    {}
                    if self._user_table is None
                    else attribute_columns(
                        self._user_table, USER, tuple(self._user_table[USER].to_pylist())
                    )
                )
            self._extend_schema()

    def _follow_codes(self, store: Store) -> None:
        """Take the store's codes for types and items; what is only in the tail comes after them."""
        waiting = [a.event for events in self._tail.values() for a in events]
        types, items = list(store.types), list(store.item_ids())
        if types != self._types[: len(types)] or items != self._items[: len(items)]:
            self._slices.clear()
            self._bytes = 0
        known = set(types)
        self._types = types + [t for t in dict.fromkeys(e.type for e in waiting) if t not in known]
        known = set(items)
        self._items = items + [
            i for i in dict.fromkeys(e.item for e in waiting if e.item) if i not in known
        ]
        held = (self._type_codes, self._item_codes)
        self._type_codes = {t: c for c, t in enumerate(self._types)}
        self._item_codes = {t: c for c, t in enumerate(self._items)}
        moved = any(self._type_codes.get(t) != c for t, c in held[0].items()) or any(
            self._item_codes.get(i) != c for i, c in held[1].items()
        )
        if moved:
            self._slices.clear()
            self._bytes = 0

    def _extend_schema(self) -> None:
        """Read the store's schema and settle the columns; what arrived since comes on top when it is asked for."""
        store = self.store
        base = Schema(types=(), zone=self.zone, tasks=self.tasks)
        if store is not None and store.rows:
            base = Schema.of(store, self.zone, self.tasks)
        numbers = tuple(
            dict.fromkeys(
                (*base.numbers, *NUMBERS, *(p for p, k in self.properties.items() if k == "number"))
            )
        )
        texts = tuple(
            dict.fromkeys(
                (*base.texts, *TEXTS, *(p for p, k in self.properties.items() if k == "text"))
            )
        )
        if (numbers, texts) != self._columns:
            self._slices.clear()
            self._bytes = 0
            self._columns = (numbers, texts)
        self._base, self._schema = base, None
        self.schema_version += 1

    @property
    def schema(self) -> Schema:
        """What can be asked: the store's schema and what arrived since; attributes of new items are missing."""
        with self.lock:
            if self._schema is None:
                base, (numbers, texts) = self._base, self._columns
                extra = len(self._items) - len(base.item_ids)
                items = {
                    name: Column(
                        np.append(a.codes, np.full(extra, -1, np.int32)).astype(np.int32), a.values
                    )
                    if isinstance(a, Column)
                    else np.append(a, np.full(extra, np.nan))
                    for name, a in base.items.items()
                }
                self._schema = replace(
                    base,
                    types=tuple(self._types),
                    numbers=numbers,
                    texts=texts,
                    items=items,
                    item_ids=tuple(self._items),
                )
            return self._schema

    # ---- memory

    def restore(self, share: float = 0.9) -> int:
        """Load the most recently active users until memory is filled to a share; returns how many are in memory.

        Questions are answered meanwhile. Where the store moves on under a bucket, the rest of it is left to be loaded
        when it is asked for.
        """
        store = self.store
        if store is None or not store.rows:
            return 0
        per_bucket = self.budget * share / store.buckets
        for bucket in range(store.buckets):
            t = store.timelines(bucket, self._stored_columns(store))
            last = t.time[t.offsets[1:] - 1]
            names = store.names_of(t.users)
            used = 0
            for index in np.argsort(-last, kind="stable"):
                user = str(names[index])
                with self.lock:
                    if self.store is not store:
                        break
                    if user in self._slices:
                        continue
                    one = self._from_store(t.of(int(index)), user)
                    used += one.size
                    if used > per_bucket:
                        break
                    self._hold(user, one)
        return len(self._slices)

    def _hold(self, user: str, held: _Slice) -> None:
        if user in self._slices:
            self._bytes -= self._slices[user].size
        self._slices[user] = held
        self._bytes += held.size

    def _evict(self) -> None:
        while self._bytes > self.budget and len(self._slices) > 1:
            _, gone = self._slices.popitem(last=False)  # the one longest unseen
            self._bytes -= gone.size
            self.evicted += 1

    def _stored_columns(self, store: Store) -> list[str]:
        there = set(store.manifest.columns)
        wanted = [c for part in self._columns for c in part]
        return [c for c in wanted if c in there or c in store.manifest.properties]

    def _from_store(self, t: Timelines, user: str) -> _Slice:
        """Return one user's stored timeline as a slice, with the tail on top."""
        numbers, texts = self._columns
        n = len(t)
        tail = self._tail.get(user, ())
        held = _Slice(5 + len(numbers) + len(texts), n + len(tail) + 2)
        block = held.block
        block[_TIME, :n], block[_SEQ, :n] = t.time, t.seq
        block[_ARRIVAL, :n] = t.time if t.arrival is None else t.arrival
        block[_TYPE, :n], block[_ITEM, :n] = t.type, t.item
        for i, name in enumerate(numbers):
            block[5 + i, :n].view(np.float64)[:] = t.numbers.get(name, np.nan)
        for i, name in enumerate(texts):
            column = t.texts.get(name)
            if column is None or not (column.codes >= 0).any():
                block[5 + len(numbers) + i, :n] = -1
            else:
                codes, inverse = np.unique(column.codes, return_inverse=True)
                own = np.array(
                    [-1 if c < 0 else held.code(column.values[c]) for c in codes], np.int64
                )
                block[5 + len(numbers) + i, :n] = own[inverse]
        held.n = n
        for arrived in tail:
            held.insert(self._row(arrived, held))
        return held

    def _load(self, user: str) -> _Slice:
        store = self.store
        empty = Timelines(
            np.zeros(1, np.int64),
            np.zeros(2, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int16),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
        )
        t = empty
        if store is not None:
            try:
                code = store.code_of(user)
            except DataError:
                pass
            else:
                t = self._read(store, code) or empty
        self.loaded += 1
        return self._from_store(t, user)

    def _read(self, store: Store, code: int) -> Timelines | None:
        from propend.events.store import as_timelines
        from propend.names import ARRIVAL, ITEM, SEQUENCE, TIME, TYPE

        wanted = self._stored_columns(store)
        has_arrival = ARRIVAL in store.manifest.columns
        base = [USER, TIME, SEQUENCE, TYPE, ITEM, *([ARRIVAL] if has_arrival else [])]
        table = store.read_bucket(
            code % store.buckets, [*base, *wanted], pa.array([code], pa.int32())
        )
        table = table.filter(pc.equal(table[USER], code))
        if table.num_rows == 0:
            return None
        return as_timelines(
            table, wanted, has_arrival=has_arrival, properties=store.manifest.properties
        )

    # ---- answering

    def knows(self, user: str) -> bool:
        """Whether a user has any event, stored or waiting."""
        with self.lock:
            if user in self._slices or user in self._tail:
                return True
            try:
                return self.store is not None and self.store.code_of(user) >= 0
            except DataError:
                return False

    def timelines(self, user: str, at: int | None = None) -> Timelines:
        """Return the timeline of the person behind an id, as timelines of one user; empty for an unknown id."""
        moment = clock.time_ns() // 1_000 if at is None else at
        with self.lock:
            ids = self.identity.ids(user, moment)
            found = [self._slice(u) for u in ids]
            return self._timelines(found[0] if len(found) == 1 else self._merged(found))

    def _slice(self, user: str) -> _Slice:
        held = self._slices.get(user)
        if held is None:
            held = self._load(user)
            if held.n == 0:  # nobody's name must not take memory
                return held
            self._hold(user, held)
            self._evict()
        else:
            self._slices.move_to_end(user)
        return held

    def _merged(self, slices: Sequence[_Slice]) -> _Slice:
        """Return several ids' slices as one."""
        numbers, texts = self._columns
        whole = _Slice(5 + len(numbers) + len(texts), sum(s.n for s in slices))
        blocks = []
        for held in slices:
            block = held.block[:, : held.n].copy()
            mapping = np.array([*(whole.code(t) for t in held.texts), -1], np.int64)
            for i in range(len(texts)):
                block[5 + len(numbers) + i] = mapping[block[5 + len(numbers) + i]]
            blocks.append(block)
        joined = np.concatenate(blocks, axis=1)
        whole.block[:] = joined[:, np.lexsort((joined[_SEQ], joined[_TIME]))]
        whole.n = joined.shape[1]
        return whole

    def _timelines(self, held: _Slice) -> Timelines:
        numbers, texts = self._columns
        n, block = held.n, held.block
        values = tuple(held.texts)
        first = 5 + len(numbers)
        return Timelines(
            _ONE, np.array([0, n], np.int64), block[_TIME, :n].copy(), block[_TYPE, :n].astype(np.int16), block[_ITEM, :n].astype(np.int32),
            block[_SEQ, :n].copy(), {name: block[5 + i, :n].view(np.float64) for i, name in enumerate(numbers)},
            {name: Column(block[first + i, :n].astype(np.int32), values) for i, name in enumerate(texts)}, block[_ARRIVAL, :n].copy(),
        )  # fmt: skip

    def profile(self, user: str) -> dict[str, Values]:
        """Return a user's attributes as columns of one row, missing ones too."""
        row = self._users.get(user, -1)
        return {
            name: (
                values.take(np.array([row]))
                if row >= 0
                else Column(np.array([-1], np.int32), values.values)
            )
            if isinstance(values, Column)
            else (values[row : row + 1] if row >= 0 else np.array([np.nan]))
            for name, values in self._traits.items()
        }

    def value(
        self, expression: Expression, user: str, at: int, scores: Mapping[str, float] | None = None
    ) -> float | str | None:
        """Return an expression's value for one user at a moment: a number, a text, or ``None`` for missing."""
        t = self.timelines(user, at)
        given = {name: np.array([s]) for name, s in (scores or {}).items()}
        answer = evaluate(
            [expression],
            t,
            Rows.of([0], [at]),
            self.schema,
            profile=self.profile(user),
            scores=given,
        )[0]
        return plain_value(answer)

    def features(self, program: Program, user: str, at: int) -> npt.NDArray[np.float64]:
        """Return a program's answers for one user at a moment."""
        return program.run(self.timelines(user, at), at, self.profile(user))

    def counts(self) -> dict[str, int]:
        """Return how much is held."""
        return {
            "active_users": len(self._slices), "bytes": self._bytes, "waiting_users": len(self._tail), "position": self.position,
            "moved": self.moved, "events_seen": self.events_seen, "evicted": self.evicted, "loaded": self.loaded,
        }  # fmt: skip


_ONE: Final = np.zeros(1, np.int64)


def plain_value(answer: Values) -> float | str | None:
    """Return one answer as a plain value."""
    if isinstance(answer, Column):
        return None if answer.codes[0] < 0 else answer.values[answer.codes[0]]
    number = float(answer[0])
    return None if number != number else number
