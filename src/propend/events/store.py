"""The timeline store: a folder of Parquet runs, user by user in buckets, named by one manifest.

Layout (see ``docs/decisions/0003-store-file-format.md``)::

    manifest.json                 what exists: buckets, runs, dictionaries, quarantine, what was ingested
    events/b0007/g12-0.parquet    a run: events of bucket 7 sorted by (user, time, seq), written by generation 12
    users/b0007/g12.parquet       user code → user id, of bucket 7
    items/g12.parquet             item code → item id
    quarantine/g12-b0007.parquet  rows set aside, with the reason beside the original row

A user's bucket is a stable hash of the id; a user's code is ``local · buckets + bucket``, so the bucket can be
read off the code. Files never change once the manifest names them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propend.errors import DataError, nearest
from propend.events.durable import exclusive, replace_text, sync_folder, write_parquet
from propend.events.hashing import hash_column, hash_text
from propend.events.timelines import NO_ITEM, Column, Timelines, offsets_of
from propend.names import (
    ARRIVAL,
    CHANNEL,
    ITEM,
    PRICE,
    QUANTITY,
    SEQUENCE,
    SESSION,
    TEXT,
    TIME,
    TYPE,
    USER,
    VALUE,
)

__all__ = ["Manifest", "Run", "Store"]

T = TypeVar("T")

FORMAT: Final = 1
NUMBERS: Final = (VALUE, QUANTITY, PRICE)
TEXTS: Final = (SESSION, CHANNEL, TEXT)
MOMENT: Final = pa.timestamp("us", "UTC")
ROW_HASH: Final = "row_hash"
MESSAGE_HASH: Final = "message_hash"
SOURCE: Final = "source"
RETURN_OF: Final = "return_of"
COMPACT_RUNS: Final = 8
"""A bucket with more runs than this is compacted by the next writer."""


@dataclass(frozen=True)
class Run:
    """One sorted file of events of a bucket."""

    file: str
    rows: int
    low: int
    """Earliest time in it, UTC microseconds."""
    high: int
    """Latest time in it."""


@dataclass
class Manifest:
    """What exists. A new generation replaces the old one in a single atomic step."""

    buckets: int
    generation: int = 0
    next_seq: int = 0
    runs: dict[int, list[Run]] = field(default_factory=dict)
    users: dict[int, list[str]] = field(default_factory=dict)
    user_counts: dict[int, int] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)
    """Free properties: name → ``number`` or ``text``."""
    columns: list[str] = field(default_factory=list)
    """Standard columns that hold anything (value, quantity, …)."""
    quarantine: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    """Other tables of the store by name: item and user attributes."""
    ledger: list[dict[str, Any]] = field(default_factory=list)
    """What was ingested: source, files, fingerprints and counts."""
    erased: list[int] = field(default_factory=list)
    """Hashes of users erased for good; their rows are never taken in again."""
    format: int = FORMAT

    def dumps(self) -> str:
        """Return the manifest as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def loads(cls, text: str, path: Path) -> Manifest:
        """Read a manifest; raises ``DataError`` where it is damaged or of another format."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise DataError(
                    f"{path}: the store has format {data['format']}, this version reads {FORMAT}; ingest the sources again"
                )
            data["runs"] = {
                int(b): [Run(**run) for run in runs] for b, runs in data["runs"].items()
            }
            for key in ("users", "user_counts"):
                data[key] = {int(b): value for b, value in data[key].items()}
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: the store's manifest is damaged ({error}); restore it from a backup or ingest again"
            ) from None

    def files(self) -> set[str]:
        """Return every file the manifest names."""
        named = {run.file for runs in self.runs.values() for run in runs}
        named.update(file for files in self.users.values() for file in files)
        return named | set(self.items) | set(self.quarantine) | set(self.tables.values())


class Store:
    """Reader and writer of one store folder. Readers need no lock; one writer at a time holds :meth:`writing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._user_lists: dict[tuple[int, int], pa.Array] = {}
        self._items: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._lock = threading.Lock()
        self.reload()

    @classmethod
    def create(cls, folder: Path, buckets: int) -> Store:
        """Make an empty store; raises ``DataError`` where one exists."""
        if (folder / "manifest.json").exists():
            raise DataError(f"{folder} holds a store already; open it, or choose another folder")
        if buckets < 1 or buckets & (buckets - 1):
            raise DataError(f"the number of buckets must be a power of two, not {buckets}")
        replace_text(folder / "manifest.json", Manifest(buckets).dumps())
        return cls(folder)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds a store."""
        return (folder / "manifest.json").is_file()

    def reload(self) -> None:
        """Read the manifest again, to see what writers have added."""
        self._load()
        self._user_lists.clear()

    def _load(self) -> None:
        path = self.folder / "manifest.json"
        try:
            self.manifest = Manifest.loads(path.read_text(encoding="utf-8"), path)
        except FileNotFoundError:
            raise DataError(f"{self.folder} holds no store; run: propend ingest") from None

    # ---- what is in it

    @property
    def buckets(self) -> int:
        """Number of user buckets."""
        return self.manifest.buckets

    @property
    def rows(self) -> int:
        """Number of events."""
        return sum(run.rows for runs in self.manifest.runs.values() for run in runs)

    @property
    def types(self) -> tuple[str, ...]:
        """Event types by code."""
        return tuple(self.manifest.types)

    @property
    def span(self) -> tuple[int, int]:
        """Earliest and latest event time, UTC microseconds; raises ``DataError`` for an empty store."""
        runs = [run for runs in self.manifest.runs.values() for run in runs]
        if not runs:
            raise DataError(f"{self.folder} holds no event; ingest some first")
        return min(run.low for run in runs), max(run.high for run in runs)

    @property
    def user_count(self) -> int:
        """Number of users that were ever taken in."""
        return sum(self.manifest.user_counts.values())

    def bucket_of(self, user: str) -> int:
        """Return the bucket of a user id."""
        return hash_text(user) % self.buckets

    def user_ids(self, bucket: int) -> pa.Array:
        """Return the user ids of a bucket; a user's code is ``position · buckets + bucket``."""
        key = (self.manifest.generation, bucket)
        with self._lock:
            if key not in self._user_lists:
                parts = self._current(
                    lambda: [
                        self._read(file, ["user_id"]).column(0)
                        for file in self.manifest.users.get(bucket, [])
                    ]
                )
                chunks = [chunk for part in parts for chunk in part.chunks]
                self._user_lists[key] = (
                    pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
                )
            return self._user_lists[key]

    def names_of(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """Return the ids of user codes, object [n]."""
        out = np.empty(len(users), object)
        home = users % self.buckets
        for bucket in np.unique(home):
            rows = np.flatnonzero(home == bucket)
            out[rows] = (
                self.user_ids(int(bucket))
                .take(pa.array(users[rows] // self.buckets))
                .to_numpy(zero_copy_only=False)
            )
        return out

    def code_of(self, user: str) -> int:
        """Return the code of a user id; raises ``DataError`` for one that is not there."""
        bucket = self.bucket_of(user)
        position = pc.index(self.user_ids(bucket), user).as_py()
        if position < 0:
            raise DataError(f"no user {user!r} in the store; ids are matched letter by letter")
        return int(position) * self.buckets + bucket

    def item_ids(self) -> tuple[str, ...]:
        """Return the item ids by code."""
        files = tuple(self.manifest.items)
        if self._items[0] != files:
            parts = [self._read(file, ["item_id"]).column(0).to_pylist() for file in files]
            self._items = (files, tuple(chain.from_iterable(parts)))
        return self._items[1]

    def item_code(self, item: str) -> int:
        """Return the code of an item id; raises ``DataError`` naming the nearest one."""
        ids = self.item_ids()
        try:
            return ids.index(item)
        except ValueError:
            raise DataError(f"no item {item!r} in the log{nearest(item, ids[:20_000])}") from None

    def table(self, name: str) -> pa.Table | None:
        """Return another table of the store (``items``, ``users``), or ``None``."""

        def read() -> pa.Table | None:
            file = self.manifest.tables.get(name)
            return None if file is None else self._read(file)

        return self._current(read)

    def quarantine(self) -> pa.Table:
        """Return the rows set aside: source, file, row, user, reason, and the original row as JSON."""
        parts = self._current(lambda: [self._read(file) for file in self.manifest.quarantine])
        return pa.concat_tables(parts) if parts else QUARANTINE.empty_table()

    def type_codes(self, types: Sequence[str]) -> list[int]:
        """Return codes of event types; raises ``DataError`` that names the nearest known one."""
        known = {name: code for code, name in enumerate(self.types)}
        for name in types:
            if name not in known:
                raise DataError(f"no event type {name!r} in the log{nearest(name, known)}")
        return [known[name] for name in types]

    # ---- reading

    def timelines(self, bucket: int, columns: Sequence[str] = ()) -> Timelines:
        """Read a bucket as timelines with these further columns (value, quantity, session, properties …)."""
        wanted = list(dict.fromkeys(columns))
        for name in wanted:
            if (
                name not in NUMBERS
                and name not in TEXTS
                and name not in self.manifest.properties
                and name not in (RETURN_OF,)
            ):
                known = [*NUMBERS, *TEXTS, *self.manifest.properties]
                raise DataError(f"no column {name!r} in the log{nearest(name, known)}")
        has_arrival = ARRIVAL in self.manifest.columns
        base = [USER, TIME, SEQUENCE, TYPE, ITEM, *([ARRIVAL] if has_arrival else [])]
        table = self.read_bucket(bucket, [*base, *wanted])
        return as_timelines(
            table, wanted, has_arrival=has_arrival, properties=self.manifest.properties
        )

    def read_bucket(
        self, bucket: int, columns: Sequence[str], users: pa.Array | None = None
    ) -> pa.Table:
        """Read columns of a bucket's events, sorted by (user, time, seq); ``users`` keeps only those codes."""
        return self._current(
            lambda: self.read_runs(self.manifest.runs.get(bucket, []), columns, users)
        )

    def _current(self, read: Callable[[], T]) -> T:
        """Read files that the manifest names; a writer may have replaced them since it was read, then again."""
        for _ in range(5):
            try:
                return read()
            except FileNotFoundError:
                self._load()
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(self._damage(str(error))) from None
        return read()

    def _damage(self, message: str) -> str:
        """Name the file of the store that does not read, and the way out."""
        for path in sorted(self.folder.rglob("*.parquet")):
            try:
                pq.read_table(path, partitioning=None)
            except (pa.ArrowInvalid, OSError) as error:
                return (
                    f"{path} is damaged ({str(error).splitlines()[0].rstrip('.')}); put it back from a backup, or remove "
                    f"{self.folder} and run: propend ingest {self.folder.parent}"
                )
        return f"the store {self.folder} cannot be read: {message.splitlines()[0]}"

    def read_runs(
        self, runs: Sequence[Run], columns: Sequence[str], users: pa.Array | None
    ) -> pa.Table:
        schema = self.schema()
        keys = [USER, TIME, SEQUENCE] if len(runs) > 1 else []  # a single run is sorted already
        wanted = list(dict.fromkeys([*keys, *columns]))
        parts = []
        for run in runs:
            path = self.folder / run.file
            about = pq.read_metadata(path, memory_map=True)
            names = set(about.schema.names)
            there = [c for c in wanted if c in names]
            coded = [c for c in there if pa.types.is_dictionary(schema.field(c).type)]
            if users is None:  # mapped, nothing buffered: two thirds of the time of read_table
                with pq.ParquetFile(
                    path, metadata=about, memory_map=True, pre_buffer=False, read_dictionary=coded
                ) as file:
                    part = file.read(columns=there, use_threads=False)
            else:
                part = pq.read_table(
                    path,
                    columns=there,
                    filters=pc.field(USER).isin(users),
                    memory_map=True,
                    partitioning=None,
                    use_threads=False,
                    read_dictionary=coded,
                )
            for name in wanted:
                if name not in there:
                    part = part.append_column(
                        name, pa.nulls(part.num_rows, schema.field(name).type)
                    )
            parts.append(part.select(wanted).cast(pa.schema([schema.field(c) for c in wanted])))
        if not parts:
            return pa.schema([schema.field(c) for c in wanted]).empty_table()
        if len(parts) == 1:
            return parts[0].select(list(columns))
        table = pa.concat_tables(parts).unify_dictionaries()
        order = sort_order(table)
        return table.select(list(columns)).take(pa.array(order))

    def schema(self) -> pa.Schema:
        """Return the Arrow schema of the events."""
        return event_schema(self.manifest.properties)

    def _read(self, file: str, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self.folder / file, columns=columns, partitioning=None)

    # ---- writing

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the store for writing; what the writer committed is in the store, or nothing is."""
        with exclusive(self.folder, f"the store {self.folder}"):
            self.reload()
            self._sweep()
            writer = Writer(self)
            yield writer
            self._sweep()

    def _sweep(self) -> None:
        """Remove files that no manifest names: what a crashed or superseded writer left behind."""
        named = self.manifest.files()
        for path in self.folder.glob(".manifest.json.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("ingest-*"):
            shutil.rmtree(path, ignore_errors=True)
        for sub in ("events", "users", "items", "quarantine", "tables"):
            for path in (self.folder / sub).rglob("*.parquet"):
                if str(path.relative_to(self.folder)) not in named:
                    path.unlink(missing_ok=True)

    def commit(self, manifest: Manifest) -> None:
        """Make a manifest the current one, in one atomic step."""
        replace_text(self.folder / "manifest.json", manifest.dumps())
        self.reload()

    def compact(self, buckets: Sequence[int] | None = None, *, most_runs: int = 1) -> int:
        """Merge the runs of buckets that have more than ``most_runs``; returns how many buckets were merged."""
        with self.writing() as writer:
            return writer.compact(buckets, most_runs=most_runs)

    def forget(self, user: str, *, missing_ok: bool = False) -> dict[str, int]:
        """Erase a user: events, id, quarantined rows; returns how many rows went from where.

        The id's hash is kept, so that the same source ingested again does not bring the user back. Raises ``DataError``
        for an id that is not there, unless ``missing_ok``: then it is only kept from coming in.
        """
        with self.writing() as writer:
            return writer.forget(user, missing_ok=missing_ok)


QUARANTINE: Final = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("user", pa.string()),
        ("reason", pa.string()),
        ("original", pa.string()),
    ]
)
"""Columns of the quarantine; ``original`` is the row as it came, as JSON."""


class Writer:
    """Collects new files and commits them as the next generation. Made by :meth:`Store.writing`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.next = Manifest.loads(store.manifest.dumps(), store.folder)
        self.next.generation += 1
        self._count = 0
        self._touched: set[Path] = set()
        self._lock = threading.Lock()

    def _name(self, folder: str, suffix: str = "") -> str:
        """Return a new file name; its folder is flushed with the commit, so that the name survives a power cut."""
        with self._lock:
            self._touched |= {self.store.folder / folder, (self.store.folder / folder).parent}
            self._count += 1
            return f"{folder}/g{self.next.generation}-{os.getpid()}-{self._count}{suffix}.parquet"

    def add_run(self, bucket: int, table: pa.Table) -> None:
        """Write a run: a table in the store's schema, sorted by (user, time, seq)."""
        if table.num_rows == 0:
            return
        file = self._name(f"events/b{bucket:04d}")
        coded = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
        keep = [
            name
            for name in table.column_names
            if name in (USER, TIME, SEQUENCE, TYPE, ITEM) or table[name].null_count < table.num_rows
        ]
        write_parquet(
            table.select(keep), self.store.folder / file, dictionary=[c for c in coded if c in keep]
        )
        times = pc.min_max(table[TIME].cast(pa.int64())).as_py()
        with self._lock:
            self.next.runs.setdefault(bucket, []).append(
                Run(file, table.num_rows, times["min"], times["max"])
            )
            self.next.columns = sorted({*self.next.columns, *keep})

    def add_users(self, bucket: int, ids: pa.Array) -> None:
        """Append user ids to a bucket's dictionary."""
        if len(ids) == 0:
            return
        start = self.next.user_counts.get(bucket, 0)
        codes = (
            np.arange(start, start + len(ids), dtype=np.int64) * self.next.buckets + bucket
        ).astype(np.int32)
        file = self._name(f"users/b{bucket:04d}")
        write_parquet(pa.table({"user": codes, "user_id": ids}), self.store.folder / file)
        with self._lock:
            self.next.users.setdefault(bucket, []).append(file)
            self.next.user_counts[bucket] = start + len(ids)

    def add_items(self, ids: Sequence[str]) -> None:
        """Append item ids to the dictionary; their codes follow the last one."""
        if not ids:
            return
        start = len(self.store.item_ids())
        file = self._name("items")
        codes = np.arange(start, start + len(ids), dtype=np.int32)
        write_parquet(
            pa.table({"item": codes, "item_id": pa.array(ids, pa.string())}),
            self.store.folder / file,
        )
        self.next.items.append(file)

    def add_quarantine(self, table: pa.Table) -> None:
        """Set rows aside."""
        if table.num_rows:
            file = self._name("quarantine")
            write_parquet(
                table.cast(QUARANTINE),
                self.store.folder / file,
                dictionary=["source", "file", "reason"],
            )
            with self._lock:
                self.next.quarantine.append(file)

    def put_table(self, name: str, table: pa.Table) -> None:
        """Replace another table of the store (``items``, ``users``)."""
        file = self._name("tables", f"-{name}")
        write_parquet(table, self.store.folder / file, dictionary=True)
        self.next.tables[name] = file

    def commit(self) -> None:
        """Make everything that was added visible, at once."""
        for folder in sorted(self._touched):
            sync_folder(folder)
        self._touched.clear()
        self.store.commit(self.next)

    def drop_source(self, source: str) -> None:
        """Take out every event and quarantined row of a source (to ingest it afresh under new rules)."""
        if source not in self.next.sources:
            return
        code = self.next.sources.index(source)
        for bucket in list(self.next.runs):
            self._rewrite(bucket, lambda t: pc.not_equal(t[SOURCE], code))
        self.rewrite_quarantine(lambda t: pc.not_equal(t["source"], source))
        self.next.ledger = [entry for entry in self.next.ledger if entry["source"] != source]

    def compact(self, buckets: Sequence[int] | None = None, *, most_runs: int = 1) -> int:
        """Merge the runs of each bucket that has more than ``most_runs``, one commit per bucket."""
        done = 0
        for bucket in sorted(self.next.runs) if buckets is None else buckets:
            if len(self.next.runs.get(bucket, [])) > most_runs:
                self._rewrite(bucket, None)
                self.commit()
                self.next = Manifest.loads(self.store.manifest.dumps(), self.store.folder)
                self.next.generation += 1
                done += 1
        return done

    def forget(self, user: str, *, missing_ok: bool = False) -> dict[str, int]:
        """Erase a user; see :meth:`Store.forget`."""
        store = self.store
        bucket = store.bucket_of(user)
        ids = store.user_ids(bucket)
        position = pc.index(ids, user).as_py()
        events = 0
        if position >= 0:
            code = position * store.buckets + bucket
            before = sum(run.rows for run in self.next.runs.get(bucket, []))
            self._rewrite(bucket, lambda t: pc.not_equal(t[USER], code))
            events = before - sum(run.rows for run in self.next.runs.get(bucket, []))
            blank = pc.if_else(pc.equal(ids, user), pa.scalar(None, pa.string()), ids)
            self.next.users[bucket], self.next.user_counts[bucket] = [], 0
            self.add_users(bucket, blank)
        names_it = _bounded(user)
        set_aside = self.rewrite_quarantine(
            lambda t: pc.invert(
                pc.or_(
                    pc.fill_null(pc.equal(t["user"], user), False),
                    pc.and_(
                        pc.is_null(t["user"]),  # a line that was never read as a row
                        pc.fill_null(pc.match_substring_regex(t["original"], names_it), False),
                    ),
                )
            )
        )
        attributes = 0
        table = store.table("users")
        if table is not None:
            keep = table.filter(pc.not_equal(table[USER], user))
            attributes = table.num_rows - keep.num_rows
            self.put_table("users", keep)
        if position < 0 and set_aside == 0 and attributes == 0 and not missing_ok:
            raise DataError(f"no user {user!r} in the store; nothing was erased")
        self.next.erased = sorted({*self.next.erased, hash_text(user)})
        for entry in self.next.ledger:  # examples of findings show rows as they came
            for finding in entry["findings"]:
                finding["examples"] = [
                    e for e in finding["examples"] if not re.search(_bounded(user), e)
                ]
        self.commit()
        return {"events": events, "quarantined": set_aside, "attributes": attributes}

    def _rewrite(self, bucket: int, keep: Any) -> None:
        """Replace a bucket's runs by one sorted run of the rows for which ``keep`` holds."""
        runs = self.next.runs.get(bucket, [])
        table = self.store.read_runs(runs, self.store.schema().names, None)
        if keep is not None:
            table = _shed(table.filter(keep(table)))
        self.next.runs[bucket] = []
        self.add_run(bucket, table)

    def rewrite_quarantine(self, keep: Any) -> int:
        """Keep only the quarantined rows for which ``keep`` holds; returns how many went."""
        gone = 0
        for file in list(self.next.quarantine):
            table = self.store._read(file)
            kept = table.filter(keep(table))
            if kept.num_rows < table.num_rows:
                gone += table.num_rows - kept.num_rows
                self.next.quarantine.remove(file)
                self.add_quarantine(kept)
        return gone


def _bounded(user: str) -> str:
    """Return a pattern (RE2 and Python) that finds an id as a word of its own in a row as it came."""
    return rf"(^|[^0-9A-Za-z_]){re.escape(user)}($|[^0-9A-Za-z_])"


def _shed(table: pa.Table) -> pa.Table:
    """Return the table without dictionary values that no row uses: what was filtered out must not stay there."""
    for position, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            plain = table.column(position).cast(column.type.value_type).combine_chunks()
            table = table.set_column(position, column, plain.dictionary_encode().cast(column.type))
    return table


def event_schema(properties: dict[str, str]) -> pa.Schema:
    """Return the Arrow schema of events with these free properties (name → ``number`` or ``text``)."""
    coded = pa.dictionary(pa.int32(), pa.string())
    fields: list[tuple[str, pa.DataType]] = [
        (USER, pa.int32()),
        (TIME, MOMENT),
        (SEQUENCE, pa.int64()),
        (TYPE, pa.int16()),
        (ITEM, pa.int32()),
        *((name, pa.float64()) for name in NUMBERS),
        *((name, coded) for name in TEXTS),
        (ARRIVAL, MOMENT),
        (RETURN_OF, pa.int64()),
        (ROW_HASH, pa.uint64()),
        (MESSAGE_HASH, pa.uint64()),
        (SOURCE, pa.int16()),
    ]
    fields += [
        (name, pa.float64() if kind == "number" else coded) for name, kind in properties.items()
    ]
    return pa.schema(fields)


def sort_order(table: pa.Table) -> npt.NDArray[np.intp]:
    """Return the row order by (user, time, seq)."""
    user, time, seq = (
        np.asarray(table[name].combine_chunks().cast(pa.int64())) for name in (USER, TIME, SEQUENCE)
    )
    return np.lexsort((seq, time, user))


def as_timelines(
    table: pa.Table, columns: Sequence[str], *, has_arrival: bool, properties: dict[str, str]
) -> Timelines:
    """Turn sorted event rows into timelines: NumPy views, text as codes."""
    users, offsets = offsets_of(np.asarray(_flat(table[USER])))
    item = _or_constant(table, ITEM, NO_ITEM, np.int32)
    time = np.asarray(_flat(table[TIME]).cast(pa.int64()))
    arrival = None
    if has_arrival:
        known = _flat(table[ARRIVAL]).cast(pa.int64())
        arrival = np.asarray(pc.coalesce(known, pa.array(time)))
    numbers, texts = {}, {}
    for name in columns:
        values = _flat(table[name])
        if pa.types.is_dictionary(values.type):
            texts[name] = Column(
                np.asarray(pc.fill_null(values.indices, -1)).astype(np.int32),
                tuple(values.dictionary.to_pylist()),
            )
        else:
            numbers[name] = np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan))
    del properties
    return Timelines(
        users,
        offsets,
        time,
        np.asarray(_flat(table[TYPE])),
        item,
        _or_constant(table, SEQUENCE, 0, np.int64),
        numbers,
        texts,
        arrival,
    )


def _or_constant(table: pa.Table, name: str, missing: int, dtype: Any) -> Any:
    """Return a whole-number column without nulls, or a constant (without memory) where it was not read."""
    if name not in table.column_names:
        return np.broadcast_to(dtype(missing), table.num_rows)
    column = _flat(table[name])
    return np.asarray(pc.fill_null(column, missing) if column.null_count else column)


def lean_timelines(
    store: Store, bucket: int, columns: Sequence[str] = (), runs: Sequence[Run] | None = None
) -> Timelines:
    """Read a bucket's users, times, types and ``columns`` only; sequence and item are constants unless ``item`` is named.

    For questions that need the order of events but not those columns: a third of the time of :meth:`Store.timelines`.
    ``runs`` reads only some of the bucket's runs.
    """
    wanted = list(dict.fromkeys([USER, TIME, TYPE, *columns]))
    table = (
        store.read_bucket(bucket, wanted) if runs is None else store.read_runs(runs, wanted, None)
    )
    named = [name for name in columns if name != ITEM]
    return as_timelines(table, named, has_arrival=False, properties=store.manifest.properties)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def buckets_of(ids: pa.Array, buckets: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each user id, int64 [n]."""
    return (hash_column(ids) % np.uint64(buckets)).astype(np.int64)
