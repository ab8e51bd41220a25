"""The inbox: what was acknowledged and is not yet in the store. A request is answered after its batch is on the disk.

A batch is one request as it came (decompressed, IP addresses cut), so that accepting costs one row whatever the
number of events; dialects turn it into events later, and a mended dialect can read it again. Two implementations
pass the same suite (``propend.testing.inboxes``): SQLite in WAL mode with ``synchronous=FULL``, and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from propend.errors import ConfigError, DataError, MissingExtraError

__all__ = ["Batch", "Claim", "Inbox", "InboxError", "Rejected", "SqliteInbox", "open_inbox"]

FORMAT: Final = 1


class InboxError(DataError):
    """The inbox cannot take anything: the disk is full or broken, or the database is away."""


class Batch(NamedTuple):
    """One request as it was taken in."""

    received: int
    """When the server had it, UTC microseconds."""
    source: str
    dialect: str
    route: str
    """Path and query, without keys."""
    agent: str
    ip: str
    """Cut: the last octet (IPv4), or all after the first 48 bits (IPv6)."""
    marks: str
    """Words such as ``bot`` and ``gpc``, separated by spaces."""
    body: bytes
    position: int = 0
    """Order of acceptance; given by the inbox."""


class Rejected(NamedTuple):
    """Something that could not be taken, kept with the reason so that it can be tried again."""

    received: int
    key: str
    """The write key it came with."""
    dialect: str
    route: str
    reason: str
    body: bytes
    number: int = 0


class Claim(NamedTuple):
    """An event's name and where it stands: the first to claim a name keeps it."""

    name: bytes
    """16 bytes: the hash of source and message id."""
    position: int
    place: int
    """Place of the event within its batch."""


class Inbox(Protocol):
    """What an inbox must do. Every verb raises :class:`InboxError` where the storage fails."""

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches, all or none, and return their positions; on return they are on the disk."""
        ...

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position in order; at least one where there is one."""
        ...

    def last(self) -> int:
        """Return the position of the latest batch, 0 where there never was one."""
        ...

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name, over the whole history. Asking again answers the same."""
        ...

    def trim(self, upto: int) -> int:
        """Remove the batches up to a position (they are in the store); names stay known. Returns how many went."""
        ...

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; durable on return."""
        ...

    def rejected(self, limit: int = 1_000, after: int = 0) -> list[Rejected]:
        """Return what could not be taken, oldest first."""
        ...

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries that were taken after all."""
        ...

    def counts(self) -> dict[str, int]:
        """Return ``batches`` waiting, ``rejected`` kept, ``names`` known and ``last`` position."""
        ...

    def close(self) -> None:
        """Let go of the storage."""
        ...


_TABLES: Final = (
    """create table if not exists batches (position integer primary key autoincrement, received integer not null,
       source text not null, dialect text not null, route text not null, agent text not null, ip text not null,
       marks text not null, body blob not null)""",
    """create table if not exists rejected (number integer primary key autoincrement, received integer not null,
       key text not null, dialect text not null, route text not null, reason text not null, body blob not null)""",
)
_NAMES: Final = "create table if not exists names (name blob primary key, position integer not null, place integer not null) without rowid"


class SqliteInbox:
    """An inbox in a folder: ``inbox.db`` for batches, ``names.db`` for the names of all events ever seen.

    Two files, because their writers differ: the collector appends, the mover claims, and neither waits for the other.

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
        self._lock = threading.Lock()
        self._names_lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._unsaved = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._batches = self._open(folder / "inbox.db", _TABLES)
            self._names = self._open(folder / "names.db", (_NAMES,))
            self._copier = self._open(folder / "inbox.db", ())
        except (OSError, sqlite3.Error) as error:
            raise InboxError(f"the inbox {folder} cannot be opened ({error})") from None

    def _open(self, path: Path, tables: Sequence[str]) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=30, check_same_thread=False, isolation_level=None, cached_statements=64
        )
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("pragma wal_autocheckpoint=60000")
        for table in tables:
            connection.execute(table)
        return connection

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

    def _copy(self) -> None:
        """Carry the log over into the database from a thread of its own, so that no request waits for it.

        A passive checkpoint blocks no writer; the one that SQLite does inside a commit stalls it for 100 ms and more.
        """
        while not self._closing.wait(0.2):
            if self._unsaved > 4 << 20:
                self._unsaved = 0
                with contextlib.suppress(
                    sqlite3.Error
                ):  # the log stays, and the next try or commit does it
                    self._copier.execute("pragma wal_checkpoint(passive)").fetchall()

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one transaction with one flush to the disk; see :class:`Inbox`."""

        def work(connection: sqlite3.Connection) -> list[int]:
            insert = "insert into batches (received, source, dialect, route, agent, ip, marks, body) values (?,?,?,?,?,?,?,?)"
            connection.executemany(insert, [b[:8] for b in batches])
            last = int(connection.execute("select last_insert_rowid()").fetchone()[0])
            return list(range(last - len(batches) + 1, last + 1))

        if not batches:
            return []
        positions: list[int] = self._guarded(self._batches, self._lock, work)
        self._unsaved += sum(len(b.body) for b in batches)
        if self._thread is None and self._unsaved > 1 << 20:
            self._thread = threading.Thread(target=self._copy, name="inbox-copy", daemon=True)
            self._thread.start()
        return positions

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position; see :class:`Inbox`."""
        found: list[Batch] = []
        size = 0
        with self._lock:
            try:
                rows = self._batches.execute(
                    "select received, source, dialect, route, agent, ip, marks, body, position from batches where position > ? order by position limit ?",
                    (after, limit),
                )
                for row in rows:
                    found.append(Batch(*row))
                    size += len(row[7])
                    if size >= most_bytes:
                        break
                rows.close()
            except sqlite3.Error as error:
                raise InboxError(f"the inbox {self.folder} cannot be read ({error})") from None
        return found

    def last(self) -> int:
        """Return the position of the latest batch."""
        with self._lock:
            try:
                row = self._batches.execute(
                    "select seq from sqlite_sequence where name = 'batches'"
                ).fetchone()
            except sqlite3.Error as error:
                raise InboxError(f"the inbox {self.folder} cannot be read ({error})") from None
        return int(row[0]) if row else 0

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name; see :class:`Inbox`."""

        def work(connection: sqlite3.Connection) -> list[bool]:
            ordered = sorted(range(len(claims)), key=lambda i: claims[i].name)
            connection.executemany(
                "insert or ignore into names values (?,?,?)",
                _firsts(claims, ordered),
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
        """Remove the batches up to a position; see :class:`Inbox`."""
        return int(
            self._guarded(
                self._batches,
                self._lock,
                lambda c: c.execute("delete from batches where position <= ?", (upto,)).rowcount,
            )
        )

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; see :class:`Inbox`."""
        self._guarded(
            self._batches,
            self._lock,
            lambda c: c.executemany(
                "insert into rejected (received, key, dialect, route, reason, body) values (?,?,?,?,?,?)",
                [r[:6] for r in rejected],
            ),
        )

    def rejected(self, limit: int = 1_000, after: int = 0) -> list[Rejected]:
        """Return what could not be taken; see :class:`Inbox`."""
        with self._lock:
            rows = self._batches.execute(
                "select received, key, dialect, route, reason, body, number from rejected where number > ? order by number limit ?",
                (after, limit),
            ).fetchall()
        return [Rejected(*row) for row in rows]

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries; see :class:`Inbox`."""
        self._guarded(
            self._batches,
            self._lock,
            lambda c: c.executemany(
                "delete from rejected where number = ?", [(n,) for n in numbers]
            ),
        )

    def counts(self) -> dict[str, int]:
        """Return what is there; see :class:`Inbox`."""
        with self._lock:
            batches = self._batches.execute("select count(*) from batches").fetchone()[0]
            rejected = self._batches.execute("select count(*) from rejected").fetchone()[0]
        with self._names_lock:
            names = self._names.execute("select count(*) from names").fetchone()[0]
        return {"batches": batches, "rejected": rejected, "names": names, "last": self.last()}

    def close(self) -> None:
        """Close both files."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(30)
        self._copier.close()
        for connection, lock in ((self._batches, self._lock), (self._names, self._names_lock)):
            with lock:
                connection.close()


def _firsts(claims: Sequence[Claim], ordered: Sequence[int]) -> list[Claim]:
    """Return one claim per name, the earliest, in the order of names (neighbouring pages are written together)."""
    best: dict[bytes, Claim] = {}
    for i in ordered:
        claim = claims[i]
        if claim.name not in best or claim[1:] < best[claim.name][1:]:
            best[claim.name] = claim
    return list(best.values())


class PostgresInbox:
    """An inbox in a PostgreSQL schema, for collectors on several machines; needs the extra ``postgres``.

    Positions are given under a lock, so that a reader never sees a later position before an earlier one.
    """

    def __init__(self, url: str, schema: str = "propend") -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("an inbox in PostgreSQL", "postgres") from None
        if not schema.isidentifier():
            raise ConfigError(
                f"the PostgreSQL schema {schema!r} is no plain name; use letters, digits and _"
            )
        self._errors = psycopg.Error
        self._connect: Callable[[], Any] = lambda: psycopg.connect(
            url, connect_timeout=10, options=f"-c search_path={schema}"
        )
        self._lock = threading.Lock()
        self._connection: Any = None
        self.schema = schema
        self._run(self._create)

    def _create(self, c: Any) -> None:
        c.execute(f"create schema if not exists {self.schema}")
        c.execute(
            "create table if not exists batches (position bigint primary key, received bigint not null, source text not null,"
            " dialect text not null, route text not null, agent text not null, ip text not null, marks text not null, body bytea not null)"
        )
        c.execute("create table if not exists tip (position bigint not null)")
        c.execute("insert into tip select 0 where not exists (select 1 from tip)")
        c.execute(
            "create table if not exists rejected (number bigserial primary key, received bigint not null, key text not null,"
            " dialect text not null, route text not null, reason text not null, body bytea not null)"
        )
        c.execute(
            "create table if not exists names (name bytea primary key, position bigint not null, place int not null)"
        )

    def _run(self, work: Callable[[Any], Any]) -> Any:
        """Run ``work`` in one transaction, on a fresh connection where the old one was lost."""
        with self._lock:
            for attempt in (0, 1):
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = self._connect()
                    with self._connection.transaction(), self._connection.cursor() as cursor:
                        return work(cursor)
                except self._errors as error:
                    held, self._connection = self._connection, None
                    if attempt == 0 and (held is None or held.closed or held.broken):
                        continue
                    if held is not None:
                        held.close()
                    raise InboxError(
                        f"the PostgreSQL inbox cannot be used ({str(error).strip()})"
                    ) from None
        raise AssertionError("unreachable")

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one transaction; see :class:`Inbox`."""

        def work(c: Any) -> list[int]:
            c.execute("update tip set position = position + %s returning position", (len(batches),))
            first = c.fetchone()[0] - len(batches) + 1
            c.executemany(
                "insert into batches values (%s,%s,%s,%s,%s,%s,%s,%s,%s)",
                [(first + i, *b[:8]) for i, b in enumerate(batches)],
            )
            return list(range(first, first + len(batches)))

        return self._run(work) if batches else []

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position; see :class:`Inbox`."""

        def work(c: Any) -> list[Batch]:
            c.execute(
                "select received, source, dialect, route, agent, ip, marks, body, position from"
                " (select *, sum(length(body)) over (order by position) - length(body) as before from batches where position > %s"
                " order by position limit %s) b where before < %s order by position",
                (after, limit, most_bytes),
            )
            return [Batch(*row) for row in c.fetchall()]

        return self._run(work)

    def last(self) -> int:
        """Return the position of the latest batch."""
        return int(self._run(lambda c: c.execute("select position from tip").fetchone()[0]))

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name; see :class:`Inbox`."""

        def work(c: Any) -> list[bool]:
            firsts = _firsts(claims, sorted(range(len(claims)), key=lambda i: claims[i].name))
            c.executemany("insert into names values (%s,%s,%s) on conflict do nothing", firsts)
            c.execute(
                "select name, position, place from names where name = any(%s)",
                ([f.name for f in firsts],),
            )
            found = {bytes(name): (position, place) for name, position, place in c.fetchall()}
            return [found[claim.name] == (claim.position, claim.place) for claim in claims]

        return self._run(work) if claims else []

    def trim(self, upto: int) -> int:
        """Remove the batches up to a position; see :class:`Inbox`."""
        return int(
            self._run(
                lambda c: c.execute("delete from batches where position <= %s", (upto,)).rowcount
            )
        )

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; see :class:`Inbox`."""
        self._run(
            lambda c: c.executemany(
                "insert into rejected (received, key, dialect, route, reason, body) values (%s,%s,%s,%s,%s,%s)",
                [r[:6] for r in rejected],
            )
        )

    def rejected(self, limit: int = 1_000, after: int = 0) -> list[Rejected]:
        """Return what could not be taken; see :class:`Inbox`."""
        query = "select received, key, dialect, route, reason, body, number from rejected where number > %s order by number limit %s"
        return [
            Rejected(*row)
            for row in self._run(lambda c: c.execute(query, (after, limit)).fetchall())
        ]

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries; see :class:`Inbox`."""
        self._run(
            lambda c: c.execute("delete from rejected where number = any(%s)", (list(numbers),))
        )

    def counts(self) -> dict[str, int]:
        """Return what is there; see :class:`Inbox`."""
        query = "select (select count(*) from batches), (select count(*) from rejected), (select count(*) from names), (select position from tip)"
        row = self._run(lambda c: c.execute(query).fetchone())
        return dict(zip(("batches", "rejected", "names", "last"), map(int, row), strict=True))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


def open_inbox(where: str | Path) -> Inbox:
    """Open an inbox: a folder, or a PostgreSQL URL (``postgresql://…``).

    Raises ``MissingExtraError`` where the driver is missing, :class:`InboxError` where the storage cannot be opened.
    """
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        return PostgresInbox(text)
    return SqliteInbox(Path(where))
