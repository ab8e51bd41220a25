"""The inbox in a folder, as SQLite databases."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from propend.serve.inbox.port import REFUSED, Batch, Claim, InboxError, Rejected, firsts

__all__ = ["SqliteInbox"]

_TABLES: Final = (
    """create table if not exists batches (position integer primary key autoincrement, received integer not null,
       source text not null, dialect text not null, route text not null, agent text not null, ip text not null,
       marks text not null, body blob not null)""",
    """create table if not exists rejected (number integer primary key autoincrement, received integer not null,
       key text not null, dialect text not null, route text not null, reason text not null, body blob not null,
       size integer not null default 0, source text not null default '', agent text not null default '',
       marks text not null default '', asked text not null default '', taken integer not null default 0)""",
)
_LATER: Final = (
    "size integer not null default 0", "source text not null default ''", "agent text not null default ''", "marks text not null default ''",
    "asked text not null default ''", "taken integer not null default 0",
)  # fmt: skip
"""Columns of ``rejected`` that a file from before may lack."""
_INDEXES: Final = (
    "create index if not exists rejected_size on rejected (size)",  # counting reads it, and no body
    "create index if not exists rejected_route on rejected (route)",
)
_NAMES: Final = "create table if not exists names (name blob primary key, position integer not null, place integer not null) without rowid"


_NAMED: Final = "received, source, dialect, route, agent, ip, marks, body"
_TOGETHER: Final = 64
"""Rows of one insert statement."""
_WHOLE: Final = 128 << 20
"""Bytes of log after which it is begun again from its start."""
_TRIMMED: Final = 32
"""Batches that one transaction removes, so that no request waits long behind it."""
_BETWEEN: Final = 0.01
"""Seconds from one such transaction to the next, at least: SQLite's waiting writers look again after 1 to 25 ms."""


@lru_cache(maxsize=_TOGETHER)
def _insert(rows: int) -> str:
    """Return the statement that stores so many batches at once.

    One statement is one call into SQLite: the interpreter's lock, which the event loop wants, is let go and taken
    again once and not once per row.
    """
    return f"insert into batches ({_NAMED}) values " + ",".join(["(?,?,?,?,?,?,?,?)"] * rows)


def _flush(path: Path) -> None:
    """Have what was written to an open file reach the disk, through SQLite's own descriptor.

    Opening it anew would not do: closing any descriptor of a file drops this process's locks on it. Where the system
    does not list descriptors nothing is flushed, and the next sync of SQLite takes longer.
    """
    with contextlib.suppress(OSError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if descriptor.readlink() == path.resolve():
                    os.fdatasync(int(descriptor.name))
                    return


class SqliteInbox:
    """An inbox in a folder: ``inbox.db`` for batches, ``names.db`` for the names of all events ever seen.

    Two files, because their writers differ: the collector appends, the mover claims, and neither waits for the other.
    What is appended is read over a connection of its own, so that no answer waits for a reader.

    >>> import tempfile
    >>> inbox = SqliteInbox(Path(tempfile.mkdtemp()))
    >>> inbox.append([Batch(1, "shop", "own", "/v1/events", "", "", "", b"[]")])
    [1]
    >>> inbox.claim([Claim(b"a" * 16, 1, 0), Claim(b"a" * 16, 1, 1)])
    [True, False]
    >>> inbox.close()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock, self._names_lock = threading.Lock(), threading.Lock()
        self._reader_lock, self._keeper_lock = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._unsaved = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._batches = self._open(folder / "inbox.db", _TABLES)
            self._complete()
            self._names = self._open(folder / "names.db", (_NAMES,))
            self._reader = self._open(folder / "inbox.db", ())
            self._keeper = self._open(folder / "inbox.db", ())
            # what it removes may come back after a crash; the mover removes it again
            self._keeper.execute("pragma synchronous=normal")
        except (OSError, sqlite3.Error) as error:
            raise InboxError(f"the inbox {folder} cannot be opened ({error})") from None

    def _open(self, path: Path, tables: Sequence[str]) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path,
            timeout=30,
            check_same_thread=False,
            isolation_level=None,
            cached_statements=2 * _TOGETHER,
        )
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("pragma wal_autocheckpoint=60000")
        for table in tables:
            connection.execute(table)
        return connection

    def _complete(self) -> None:
        """Give a file from before the columns and indexes it lacks."""
        with self._lock:
            self._batches.execute("begin immediate")
            there = {row[1] for row in self._batches.execute("pragma table_info(rejected)")}
            for column in _LATER:
                if column.partition(" ")[0] not in there:
                    self._batches.execute(f"alter table rejected add column {column}")
            for index in _INDEXES:
                self._batches.execute(index)
            self._batches.execute("commit")

    def _guarded(
        self, connection: sqlite3.Connection, lock: threading.Lock, work: Callable[[Any], Any]
    ) -> Any:
        """Run ``work`` in one transaction; a failure rolls back and is an :class:`InboxError`."""
        with lock:
            try:
                connection.execute("begin immediate")
                try:
                    result = work(connection)
                    connection.execute("commit")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("rollback")
                    raise
                return result
            except sqlite3.Error as error:
                raise InboxError(f"the inbox {self.folder} cannot be written ({error})") from None

    def _read(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run ``work`` on the reading connection."""
        with self._reader_lock:
            try:
                return work(self._reader)
            except sqlite3.Error as error:
                raise InboxError(f"the inbox {self.folder} cannot be read ({error})") from None

    def _copy(self) -> None:
        """Carry the log over into the database from a thread of its own, so that no request waits for it.

        A passive checkpoint blocks no writer; the one that SQLite does inside a commit stalls it for 100 ms and more.
        Once the log is long it is begun again from its start: writing over what is there costs a third less than
        growing a file, because its size need not reach the disk too. Appends stand still meanwhile, and a passive
        checkpoint leaves all it wrote to the memory of the system: unless that is flushed before, they wait for the
        megabytes of a whole log (80 to 120 ms, a tenth of it after).
        """
        log = self.folder / "inbox.db-wal"
        since = 0
        while not self._closing.wait(0.2):
            if self._unsaved <= 4 << 20:
                continue
            since, self._unsaved = since + self._unsaved, 0
            again = since > _WHOLE and log.stat().st_size > _WHOLE
            with self._keeper_lock, contextlib.suppress(sqlite3.Error):
                # where it does not come off, the log stays, and the next try does it
                for _ in range(2 if again else 1):  # the second is short, and leaves little to do
                    self._keeper.execute("pragma wal_checkpoint(passive)").fetchall()
                    _flush(self.folder / "inbox.db")
                if again:  # waits for readers 20 ms at most, since writers wait with it
                    since = 0
                    self._keeper.execute("pragma busy_timeout=20")
                    try:
                        with self._lock:  # they wait here and not with SQLite, which looks again after up to 25 ms
                            self._keeper.execute("pragma wal_checkpoint(restart)").fetchall()
                    finally:
                        self._keeper.execute("pragma busy_timeout=30000")

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one transaction with one flush to the disk; see :class:`Inbox`."""
        n = len(batches)
        if not n:
            return []

        def work(connection: sqlite3.Connection) -> int:
            last = None
            for start in range(0, n, _TOGETHER):
                part = batches[start : start + _TOGETHER]
                values = [value for batch in part for value in batch[:8]]
                last = connection.execute(_insert(len(part)), values).lastrowid
            return int(last or 0)

        if n <= _TOGETHER:  # one statement is a transaction by itself
            with self._lock:
                try:
                    last = work(self._batches)
                except sqlite3.Error as error:
                    raise InboxError(
                        f"the inbox {self.folder} cannot be written ({error})"
                    ) from None
        else:
            last = self._guarded(self._batches, self._lock, work)
        self._unsaved += sum(len(b.body) for b in batches)
        if self._thread is None and self._unsaved > 1 << 20:
            self._thread = threading.Thread(target=self._copy, name="inbox-copy", daemon=True)
            self._thread.start()
        return list(range(last - n + 1, last + 1))

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position; see :class:`Inbox`."""

        query = (
            f"select {_NAMED}, position from batches where position > ? order by position limit ?"
        )
        return [Batch(*row) for row in self._some(query, (after, limit), 7, most_bytes)]

    def _some(
        self, query: str, bounds: tuple[int, int], body: int, most_bytes: int
    ) -> list[tuple[Any, ...]]:
        """Return rows of a query until their bodies, in column ``body``, are together ``most_bytes`` or more."""

        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = []
            size = 0
            rows = connection.execute(query, bounds)
            for row in rows:
                found.append(row)
                size += len(row[body])
                if size >= most_bytes:
                    break
            rows.close()
            return found

        found: list[tuple[Any, ...]] = self._read(work)
        return found

    def last(self) -> int:
        """Return the position of the latest batch."""
        row = self._read(
            lambda c: c.execute("select seq from sqlite_sequence where name = 'batches'").fetchone()
        )
        return int(row[0]) if row else 0

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name; see :class:`Inbox`."""

        def work(connection: sqlite3.Connection) -> list[bool]:
            ordered = sorted(range(len(claims)), key=lambda i: claims[i].name)
            connection.executemany(
                "insert or ignore into names values (?,?,?)",
                firsts(claims, ordered),
            )
            found: dict[bytes, tuple[int, int]] = {}
            for start in range(0, len(ordered), 500):
                part = [claims[i].name for i in ordered[start : start + 500]]
                marks = ",".join("?" * len(part))
                for name, position, place in connection.execute(
                    f"select name, position, place from names where name in ({marks})", part
                ):
                    found[name] = (position, place)
            return [found[c.name] == (c.position, c.place) for c in claims]

        return self._guarded(self._names, self._names_lock, work) if claims else []

    def trim(self, upto: int) -> int:
        """Remove the batches up to a position, a few at a time; see :class:`Inbox`."""
        total = 0
        while True:
            began = time.perf_counter()
            gone: int = self._guarded(
                self._keeper,
                self._keeper_lock,
                lambda c: (
                    c.execute(
                        "delete from batches where position in"
                        " (select position from batches where position <= ? order by position limit ?)",
                        (upto, _TRIMMED),
                    ).rowcount
                ),
            )
            total += gone
            if gone < _TRIMMED:
                return total
            time.sleep(max(_BETWEEN, time.perf_counter() - began))

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; see :class:`Inbox`."""
        self._guarded(
            self._batches,
            self._lock,
            lambda c: c.executemany(
                f"insert into rejected ({REFUSED}, size) values (?,?,?,?,?,?,?,?,?,?,?,?)",
                [(*r[:11], len(r.body)) for r in rejected],
            ),
        )

    def rejected(
        self, limit: int = 1_000, after: int = 0, most_bytes: int = 64 << 20
    ) -> list[Rejected]:
        """Return what could not be taken; see :class:`Inbox`."""

        query = f"select {REFUSED}, number from rejected where number > ? order by number limit ?"
        return [Rejected(*row) for row in self._some(query, (after, limit), 5, most_bytes)]

    def refused_routes(self, routes: Sequence[str]) -> set[str]:
        """Return which routes a rejected entry has; see :class:`Inbox`."""

        def work(connection: sqlite3.Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(routes), 500):
                part = routes[start : start + 500]
                query = f"select route from rejected where route in ({','.join('?' * len(part))})"
                found.update(row[0] for row in connection.execute(query, part))
            return found

        found: set[str] = self._read(work)
        return found

    def refused_bytes(self) -> int:
        """Return the bytes of all rejected bodies; see :class:`Inbox`."""
        query = "select coalesce(sum(size), 0) from rejected"
        return int(self._read(lambda c: c.execute(query).fetchone())[0])

    def refused(self) -> int:
        """Return how many rejected entries are kept; see :class:`Inbox`."""
        return int(self._read(lambda c: c.execute("select count(*) from rejected").fetchone())[0])

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries; see :class:`Inbox`."""
        self._guarded(
            self._batches,
            self._lock,
            lambda c: c.executemany(
                "delete from rejected where number = ?", [(n,) for n in numbers]
            ),
        )

    def check(self) -> None:
        """Write something that changes nothing; see :class:`Inbox`."""

        def work(connection: sqlite3.Connection) -> None:
            (turn,) = connection.execute("pragma user_version").fetchone()
            connection.execute(f"pragma user_version={(turn + 1) % (1 << 31)}")

        self._guarded(self._batches, self._lock, work)

    def counts(self) -> dict[str, int]:
        """Return what is there; see :class:`Inbox`."""
        query = "select (select count(*) from batches), (select count(*) from rejected)"
        batches, rejected = self._read(lambda c: c.execute(query).fetchone())
        with self._names_lock:
            names = self._names.execute("select count(*) from names").fetchone()[0]
        return {"batches": batches, "rejected": rejected, "names": names, "last": self.last()}

    def close(self) -> None:
        """Close both files."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(30)
        for connection, lock in (
            (self._reader, self._reader_lock),
            (self._keeper, self._keeper_lock),
            (self._batches, self._lock),
            (self._names, self._names_lock),
        ):
            with lock:
                connection.close()
