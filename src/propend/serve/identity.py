"""Who is who: dated facts that two ids are one person, which can be undone and are resolved as of a moment."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from propend.errors import DataError
from propend.serve.dialects.port import Fact
from propend.serve.forgotten import Forgotten

__all__ = ["Identity"]

_COLUMNS: Final = (
    "number",
    "time",
    "arrival",
    "kind",
    "one",
    "other",
    "source",
    "message",
    "undone",
)
_TABLE: Final = """create table if not exists facts (number integer primary key, time integer not null, arrival integer not null,
  kind text not null, one text not null, other text not null, source text not null, message text not null, undone integer)"""
_PAIR: Final = "kind, min(one, other), max(one, other)"
"""What a fact says: said again it is the same fact, so that one undo takes it back."""
_ADD: Final = f"""insert into facts (time, arrival, kind, one, other, source, message) values (?,?,?,?,?,?,?)
  on conflict ({_PAIR}) do update set time = excluded.time, arrival = excluded.arrival, source = excluded.source,
  message = excluded.message where max(excluded.time, excluded.arrival) < max(time, arrival)"""
_KNOWN: Final = "max(time, arrival)"
"""Since when a fact holds: what was not known at a moment is not seen from it."""
MOST: Final = 500
"""Ids of one person; a cluster beyond it is an accident (a shared device, a test id) and is answered by its own id."""


class Identity:
    """The facts of a workspace, in one SQLite file; each holds from when it happened or became known, whichever is later.

    >>> import tempfile
    >>> who = Identity(Path(tempfile.mkdtemp()) / "identity.db")
    >>> who.add([("shop", Fact(time=10, kind="identify", one="anon", other="u1", message="m"))])
    >>> who.ids("u1", 11), who.ids("u1", 9)
    (('anon', 'u1'), ('u1',))
    >>> who.undo(1, at=20)
    >>> who.ids("u1", 21), who.ids("u1", 11)
    (('u1',), ('anon', 'u1'))
    >>> who.close()
    """

    def __init__(self, path: Path, forgotten: Forgotten | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        for statement in ("pragma journal_mode=wal", "pragma synchronous=full"):
            self._db.execute(statement)
        with self._writing() as db:
            _carry_over(db)
            db.execute(_TABLE)
            db.execute(f"create unique index if not exists facts_pair on facts ({_PAIR})")
            for column in ("one", "other"):
                db.execute(f"create index if not exists facts_{column} on facts ({column})")
        self._any = self._db.execute("select 1 from facts limit 1").fetchone() is not None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which whatever goes wrong within it leaves undone and closed."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def add(self, facts: Sequence[tuple[str, Fact]]) -> None:
        """Take in facts with their sources; one that names an erased id is passed over.

        A pair that is known already stays one fact of its kind, holds from the earlier of both moments, and stays undone
        where it was: many events say again who somebody is.
        """
        if not facts:
            return
        with self._writing() as db:
            named = {i for _, f in facts for i in (f.one, f.other)}
            gone = self._forgotten.among(named) if self._forgotten else set()
            rows = [
                (f.time, f.arrival or f.time, f.kind, f.one, f.other, source, f.message)
                for source, f in facts
                if not gone & {f.one, f.other}
            ]
            db.executemany(_ADD, rows)
        self._any = True

    def ids(self, user: str, at: int) -> tuple[str, ...]:
        """Return every id of the person behind an id, as known at a moment (UTC microseconds), sorted."""
        if not self._any:
            return (user,)
        known, front = {user}, [user]
        with self._lock:
            while front and len(known) <= MOST:
                marks = ",".join("?" * len(front))
                rows = self._db.execute(
                    f"select one, other from facts where (one in ({marks}) or other in ({marks}))"
                    f" and {_KNOWN} <= ? and (undone is null or undone > ?)",
                    (*front, *front, at, at),
                ).fetchall()
                front = list({i for row in rows for i in row} - known)[:MOST]
                known.update(front)
        return tuple(sorted(known)) if len(known) <= MOST else (user,)

    def facts(self, user: str) -> list[dict[str, Any]]:
        """Return the facts that name an id, oldest first."""
        with self._lock:
            rows = self._db.execute(
                f"select {', '.join(_COLUMNS)} from facts where one = ? or other = ? order by {_KNOWN}, number",
                (user, user),
            ).fetchall()
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def undo(self, number: int, at: int) -> None:
        """Let a fact hold no longer from a moment on; raises ``DataError`` where there is no such fact."""
        with self._lock:
            done = self._db.execute(
                "update facts set undone = ? where number = ? and undone is null", (at, number)
            ).rowcount
        if not done:
            raise DataError(f"no identity fact {number} that still holds")

    def forget(self, user: str) -> int:
        """Remove every fact that names an id, for good; returns how many."""
        with self._lock:
            return self._db.execute(
                "delete from facts where one = ? or other = ?", (user, user)
            ).rowcount

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def _carry_over(db: sqlite3.Connection) -> None:
    """Make one fact per pair and kind of a table that had one per message; a pair that was undone once stays undone."""
    there = {row[1] for row in db.execute("pragma table_info(facts)")}
    if not there or "arrival" in there:
        return
    for column in ("one", "other"):
        db.execute(f"drop index if exists facts_{column}")
    db.execute("alter table facts rename to facts_by_message")
    db.execute(_TABLE)
    db.execute(
        f"insert into facts ({', '.join(_COLUMNS)}) select min(number), min(time), min(time), kind, one, other, source, message,"
        f" max(undone) from facts_by_message group by {_PAIR}"
    )
    db.execute("drop table facts_by_message")
