"""Who is who: dated facts that two ids are one person, which can be undone and are resolved as of a moment."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

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
    "redone",
)
_TABLE: Final = """create table if not exists facts (number integer primary key, time integer not null, arrival integer not null,
  kind text not null, one text not null, other text not null, source text not null, message text not null, undone integer,
  redone integer not null default 0)"""
_PAIR: Final = "kind, min(one, other), max(one, other)"
"""What a fact says: said again it is the same fact, so that one undo takes it back."""
_ADD: Final = f"""insert into facts (time, arrival, kind, one, other, source, message) values (?,?,?,?,?,?,?)
  on conflict ({_PAIR}) do update set time = excluded.time, arrival = excluded.arrival, source = excluded.source,
  message = excluded.message where max(excluded.time, excluded.arrival) < max(time, arrival)"""
_KNOWN: Final = "max(time, arrival, redone)"
"""Since when a fact holds: what was not known at a moment is not seen from it."""
_REMEMBERED: Final = 200_000
"""Ids whose person is remembered."""
_ALWAYS: Final = 1 << 63
MOST: Final = 500
"""Ids of one person; a cluster beyond it is an accident (a shared device, a test id) and is answered by its own id."""


class _Person(NamedTuple):
    """All ids of a person, as they are between two moments."""

    ids: tuple[str, ...]
    since: int
    until: int


class Identity:
    """The facts of a workspace, in one SQLite file; each holds from when it happened or became known, whichever is later.

    Who somebody is is remembered until a fact names one of their ids. Facts that the inbox still has reach the disk with
    those that the mover adds (``durable``), before it lets go of what they came from.

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
        self._db.execute("pragma journal_mode=wal")
        self._people: dict[str, _Person] = {}
        self._version = -1
        self._any = True
        with self._writing(durable=True) as db:
            _carry_over(db)
            db.execute(_TABLE)
            db.execute(f"create unique index if not exists facts_pair on facts ({_PAIR})")
            for column in ("one", "other"):
                db.execute(f"create index if not exists facts_{column} on facts ({column})")

    @contextlib.contextmanager
    def _writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction, which whatever goes wrong within it leaves undone and closed.

        A durable one is on the disk at its end with all before it, even where it changed nothing itself.
        """
        with self._lock:
            self._db.execute(f"pragma synchronous={'full' if durable else 'normal'}")
            self._db.execute("begin immediate")
            try:
                yield self._db
                if durable:  # a transaction without a change is not flushed
                    (turn,) = self._db.execute("pragma user_version").fetchone()
                    self._db.execute(f"pragma user_version={(turn + 1) % (1 << 31)}")
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def _forget_people(self, named: Iterable[str]) -> None:
        """Work the people of these ids out again when they are next asked for."""
        for one in named:
            person = self._people.get(one)
            for other in () if person is None else person.ids:
                self._people.pop(other, None)

    def _look(self) -> None:
        """See whether another process wrote; what is remembered then counts no more."""
        (version,) = self._db.execute("pragma data_version").fetchone()
        if version != self._version:
            self._version = version
            self._people.clear()
            self._any = self._db.execute("select 1 from facts limit 1").fetchone() is not None

    def add(self, facts: Sequence[tuple[str, Fact]], *, durable: bool = False) -> None:
        """Take in facts with their sources; one that names an erased id is passed over.

        A pair that is known already stays one fact of its kind, holds from the earlier of both moments, and stays undone
        where it was: many events say again who somebody is.
        """
        if not facts:
            return
        with self._writing(durable=durable) as db:
            named = {i for _, f in facts for i in (f.one, f.other)}
            gone = self._forgotten.among(named) if self._forgotten else set()
            rows = [
                (f.time, f.arrival or f.time, f.kind, f.one, f.other, source, f.message)
                for source, f in facts
                if not gone & {f.one, f.other}
            ]
            self._any = True
            self._forget_people(named)
            db.executemany(_ADD, rows)

    def ids(self, user: str, at: int) -> tuple[str, ...]:
        """Return every id of the person behind an id, as known at a moment (UTC microseconds), sorted."""
        with self._lock:
            self._look()
            if not self._any:
                return (user,)
            person = self._people.get(user)
            if person is None or not person.since <= at < person.until:
                person = self._person(user, at)
                if person is None:
                    return (user,)
                if len(self._people) > _REMEMBERED:
                    self._people.clear()
                # what is remembered of one id is remembered of all ids of the person
                self._forget_people(person.ids)
                self._people.update(dict.fromkeys(person.ids, person))
            return person.ids

    def _person(self, user: str, at: int) -> _Person | None:
        """Return the person behind an id at a moment, and how long that holds; ``None`` for one with too many ids."""
        known, front = {user}, [user]
        since, until = -_ALWAYS, _ALWAYS
        while front:
            marks = ",".join("?" * len(front))
            rows = self._db.execute(
                f"select one, other, {_KNOWN}, undone from facts where one in ({marks}) or other in ({marks})", (*front, *front)
            ).fetchall()  # fmt: skip
            named: set[str] = set()
            for one, other, begun, undone in rows:
                ended = _ALWAYS if undone is None else undone
                for moment in (begun, ended):
                    if moment <= at:
                        since = max(since, moment)
                    else:
                        until = min(until, moment)
                if begun <= at < ended:
                    named |= {one, other}
            front = list(named - known)[:MOST]
            known.update(front)
            if len(known) > MOST:
                return None
        return _Person(tuple(sorted(known)), since, until)

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
        if not self._change("undone = ?", "undone is null", number, at):
            raise DataError(f"no identity fact {number} that still holds")

    def redo(self, number: int, at: int) -> None:
        """Let an undone fact hold again, from a moment on; raises ``DataError`` where there is no such fact.

        At the moments before it is not seen, those before the undo among them.
        """
        if not self._change("undone = null, redone = ?", "undone is not null", number, at):
            raise DataError(f"no identity fact {number} that was undone")

    def _change(self, change: str, where: str, number: int, at: int) -> bool:
        with self._writing(durable=True) as db:
            query = f"update facts set {change} where number = ? and {where} returning one, other"
            named = db.execute(query, (at, number)).fetchall()
            self._forget_people(i for pair in named for i in pair)
        return bool(named)

    def forget(self, user: str) -> int:
        """Remove every fact that names an id, for good; returns how many."""
        with self._writing(durable=True) as db:
            self._forget_people([user])
            return db.execute("delete from facts where one = ? or other = ?", (user, user)).rowcount

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def _carry_over(db: sqlite3.Connection) -> None:
    """Make one fact per pair and kind of a table that had one per message; a pair that was undone once stays undone."""
    there = {row[1] for row in db.execute("pragma table_info(facts)")}
    if there and "redone" not in there and "arrival" in there:
        db.execute("alter table facts add column redone integer not null default 0")
    if not there or "arrival" in there:
        return
    for column in ("one", "other"):
        db.execute(f"drop index if exists facts_{column}")
    db.execute("alter table facts rename to facts_by_message")
    db.execute(_TABLE)
    db.execute(
        f"insert into facts ({', '.join(_COLUMNS)}) select min(number), min(time), min(time), kind, one, other, source, message,"
        f" max(undone), 0 from facts_by_message group by {_PAIR}"
    )
    db.execute("drop table facts_by_message")
