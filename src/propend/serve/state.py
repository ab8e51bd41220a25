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
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import DataError
from propend.events.consent import MARKS, denied
from propend.events.store import NUMBERS, TEXTS, Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Expression
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.program import Program
from propend.features.schema import Schema
from propend.names import USER
from propend.serve.forgotten import Forgotten
from propend.serve.identity import Identity
from propend.serve.inbox import Inbox
from propend.serve.move import Arrived, Taken, is_live, moved_to, take
from propend.serve.slices import Columns, Encoded, Slice
from propend.serve.traits import Traits, own_first

__all__ = ["LiveState"]

I64 = npt.NDArray[np.int64]


class LiveState:
    """Everything the API answers from. ``refresh`` takes in what is new; questions may come from any thread."""

    def __init__(
        self, store_folder: Path, inbox: Inbox, identity: Identity, *, zone: str = "UTC", tasks: tuple[str, ...] = (),
        memory_mb: int = 512, properties: Mapping[str, str] | None = None, traits: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self.inbox, self.identity = store_folder, inbox, identity
        self.forgotten = Forgotten(store_folder)
        self.zone, self.tasks, self.budget = zone, tasks, memory_mb << 20
        self.properties = {**(properties or {}), MARKS: "text"}
        self.lock = threading.RLock()
        self.store: Store | None = None
        self.position = 0
        self.moved = 0
        self.events_seen = 0
        self.newest = 0
        self.evicted = 0
        self.loaded = 0
        self.emptied = True
        """Whether the memory holds nobody since it was last restored."""
        self._slices: OrderedDict[str, Slice] = OrderedDict()
        self._bytes = 0
        self._tail: dict[str, list[Arrived]] = {}
        self._types: list[str] = []
        self._type_codes: dict[str, int] = {}
        self._items: list[str] = []
        self._item_codes: dict[str, int] = {}
        self._print: Any = None
        self._generation = -1
        self._stamp: Any = None
        self._user_entry: Any = None
        self.traits = Traits(traits)
        self._base = Schema(types=())
        self._schema: Schema | None = None
        self.schema_version = 0
        """Grows when programs must be compiled again: new types, new columns, another store."""
        self._columns: Columns = ((), ())
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
                held.insert(arrived, self._columns, self._type_codes, self._item_codes)
                self._bytes += held.size - before
                self._slices.move_to_end(e.user)
            self.newest = max(self.newest, arrived.received)
        self.events_seen += len(taken.events)
        self.position = max(self.position, taken.last)
        self._evict()

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

    def _empty(self) -> None:
        """Let all timelines go: what they were cut from is no more."""
        self._slices.clear()
        self._bytes = 0
        self.emptied = True

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
                self._empty()
            self.store, self._print = store, print_
            self.moved = moved_to(store)
            if self.moved > self.position:  # moved by another process before it was seen here
                self._empty()
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
                self.traits.load(store.table("users"))
            self._extend_schema()

    def _follow_codes(self, store: Store) -> None:
        """Take the store's codes for types and items; what is only in the tail comes after them."""
        waiting = [a.event for events in self._tail.values() for a in events]
        types, items = list(store.types), list(store.item_ids())
        if types != self._types[: len(types)] or items != self._items[: len(items)]:
            self._empty()
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
            self._empty()

    def _extend_schema(self) -> None:
        """Read the store's schema and settle the columns; what arrived since comes on top when it is asked for."""
        store = self.store
        base = Schema(types=(), zone=self.zone, tasks=self.tasks)
        if store is not None and store.rows:
            base = Schema.of(store, self.zone, self.tasks)
        declared = self.properties.items()
        # in one order, wherever a name came from: another would empty the memory
        numbers = tuple(sorted({*base.numbers, *NUMBERS, *(p for p, k in declared if k == "number")}))  # fmt: skip
        texts = tuple(sorted({*base.texts, *TEXTS, *(p for p, k in declared if k == "text")}))
        if (numbers, texts) != self._columns:
            self._empty()
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
                    users={**base.users, **self.traits.kinds},
                    items=items,
                    item_ids=tuple(self._items),
                )
            return self._schema

    # ---- memory

    def restore(self, share: float = 0.9) -> int:
        """Load the most recently active users until memory is filled to a share; returns how many are in memory.

        Questions are answered meanwhile. Where the store moves on under a bucket, the rest of it is left to be loaded
        when it is asked for. ``emptied`` says when it is time to do so again.
        """
        self.emptied = False
        buckets = 0 if self.store is None else self.store.buckets
        for bucket in range(buckets):
            store, columns = self.store, self._columns
            if store is None or not store.rows or store.buckets != buckets:
                break
            per_bucket = self.budget * share / buckets
            t = store.timelines(bucket, self._stored_columns(store))
            whole = Encoded(t, columns)
            last = t.time[t.offsets[1:] - 1]
            names = store.names_of(t.users)
            used = 0
            for index in np.argsort(-last, kind="stable").tolist():
                user = str(names[index])
                with self.lock:
                    if self.store is not store or self._columns is not columns:
                        break
                    if user in self._slices:
                        continue
                    one = self._with_tail(whole, index, user)
                    used += one.size
                    if used > per_bucket:
                        break
                    self._hold(user, one)
        return len(self._slices)

    def _hold(self, user: str, held: Slice) -> None:
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

    def _with_tail(self, whole: Encoded, index: int, user: str) -> Slice:
        """Return one user's stored timeline with what waits on top."""
        tail = self._tail.get(user, ())
        held = Slice.of(whole, index, len(tail))
        for arrived in tail:
            held.insert(arrived, self._columns, self._type_codes, self._item_codes)
        return held

    def _load(self, user: str) -> Slice:
        t = None if self.store is None else self._read(self.store, user)
        return self._with_tail(self._encoded(t), 0, user)

    def _encoded(self, t: Timelines | None) -> Encoded:
        self.loaded += 1
        if t is None:
            codes, times = np.zeros(0, np.int32), np.zeros(0, np.int64)
            ends = np.zeros(2, np.int64)
            t = Timelines(np.zeros(1, np.int64), ends, times, codes.astype(np.int16), codes, times)
        return Encoded(t, self._columns)

    def _fetch(self, ids: Sequence[str]) -> None:
        """Read users who are not in memory before the lock is taken: answers about others do not wait for the disk.

        Where the store moved on meanwhile, what was read is dropped; they are read again under the lock.
        """
        store, columns = self.store, self._columns
        if store is None:
            return
        for user in ids:
            if user in self._slices:
                continue
            t = self._read(store, user)
            with self.lock:
                if t is None or self.store is not store or self._columns is not columns:
                    continue
                if user not in self._slices:
                    self._hold(user, self._with_tail(self._encoded(t), 0, user))
                    self._evict()

    def _read(self, store: Store, user: str) -> Timelines | None:
        """Return a user's timeline in a store, ``None`` where there is none."""
        try:
            code = store.code_of(user)
        except DataError:
            return None
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

    def waits(self, user: str, after: int, at: int) -> bool:
        """Whether the person behind an id has an event in memory that came in after a position."""
        with self.lock:
            tails = [self._tail.get(u) for u in self.identity.ids(user, at)]
            return any(tail and tail[-1].position > after for tail in tails)

    def timelines(self, user: str, at: int | None = None) -> Timelines:
        """Return the timeline of the person behind an id, as timelines of one user; empty for an unknown id."""
        moment = clock.time_ns() // 1_000 if at is None else at
        ids = self.identity.ids(user, moment)
        self._fetch(ids)
        with self.lock:
            return self._joined(ids).timelines(self._columns)

    def block(self, user: str, at: int) -> tuple[I64, tuple[str, ...]]:
        """Return the same as one block int64 [rows, events], and the names of its numbers; see ``Program.run_block``."""
        ids = self.identity.ids(user, at)
        self._fetch(ids)
        with self.lock:
            one = self._joined(ids)
            return one.block[:, : one.n].copy(), self._columns[0]

    def _joined(self, ids: Sequence[str]) -> Slice:
        found = [self._slice(u) for u in ids]
        return found[0] if len(found) == 1 else Slice.merged(found, self._columns)

    def _slice(self, user: str) -> Slice:
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

    def profile(self, user: str, at: int | None = None) -> dict[str, Values]:
        """Return the attributes of the person behind an id as columns of one row, missing ones too."""
        moment = clock.time_ns() // 1_000 if at is None else at
        with self.lock:
            ids: Sequence[str] = self.identity.ids(user, moment)
            if len(ids) > 1:
                facts = [f for i in ids for f in self.identity.facts(i)]
                ids = own_first(ids, facts, moment)
            return self.traits.of(ids, self._tail)

    def denied(self, user: str, at: int) -> bool:
        """Whether the person behind an id refused consent with any event of the last time before a moment."""
        return bool(denied(self.timelines(user, at), at)[0])

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
            profile=self.profile(user, at),
            scores=given,
        )[0]
        return plain_value(answer)

    def features(self, program: Program, user: str, at: int) -> npt.NDArray[np.float64]:
        """Return a program's answers for one user at a moment."""
        return program.run(self.timelines(user, at), at, self.profile(user, at))

    def counts(self) -> dict[str, int]:
        """Return how much is held."""
        return {
            "active_users": len(self._slices), "bytes": self._bytes, "waiting_users": len(self._tail), "position": self.position,
            "moved": self.moved, "events_seen": self.events_seen, "evicted": self.evicted, "loaded": self.loaded,
        }  # fmt: skip


def plain_value(answer: Values) -> float | str | None:
    """Return one answer as a plain value."""
    if isinstance(answer, Column):
        return None if answer.codes[0] < 0 else answer.values[answer.codes[0]]
    number = float(answer[0])
    return None if number != number else number
