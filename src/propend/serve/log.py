"""What was answered: one log of predictions and decisions, so that they can be judged when the truth is known."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time as clock
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from propend.errors import DataError
from propend.serve.forgotten import Forgotten

__all__ = ["AnswerLog", "Decided", "LogError", "Predicted"]

_TABLES: Final = (
    """create table if not exists predictions (number integer primary key, at integer not null, user text not null,
       task text not null, version integer not null, score real not null, shadow integer not null, missing integer not null,
       asked integer not null default 1)""",
    """create table if not exists decisions (number integer primary key, at integer not null, user text not null,
       action text not null, propensity real not null, detail text not null)""",
)


_MOST: Final = 200_000
"""Predictions that wait for a disk that cannot be written; beyond them the oldest are dropped, and counted."""


class LogError(DataError):
    """The answer log cannot be written: the disk is full or broken."""


class Decided(NamedTuple):
    """One decision as it was made."""

    user: str
    action: str
    propensity: float
    detail: dict[str, Any]


class Predicted(NamedTuple):
    """One prediction as it was given."""

    at: int
    user: str
    task: str
    version: int
    score: float
    shadow: int
    missing: int
    asked: int = 1
    """Whether the user was in the task's population; others are not judged."""


class AnswerLog:
    """A SQLite file; predictions are written by a thread a moment later, decisions are on the disk before they are answered.

    What cannot be written stays in memory, so many rows at most, and is tried again; ``fault`` says why, ``dropped`` counts
    what was given up.

    >>> import tempfile
    >>> log = AnswerLog(Path(tempfile.mkdtemp()) / "log.db")
    >>> log.predicted(Predicted(1, "u1", "buys", 2, 0.5, 0, 0))
    >>> log.flush()
    >>> [p.score for p in log.predictions("buys")]
    [0.5]
    >>> log.close()
    """

    def __init__(self, path: Path, forgotten: Forgotten | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")  # a decision that was answered must not be lost
        for table in _TABLES:
            self._db.execute(table)
        columns = {row[1] for row in self._db.execute("pragma table_info(predictions)")}
        if "asked" not in columns:
            self._db.execute("alter table predictions add column asked integer not null default 1")
        self._db.execute("create index if not exists predictions_task on predictions (task, at)")
        self._pending: deque[Predicted] = deque()
        self.fault = ""
        self.dropped = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answer-log", daemon=True)
        self._thread.start()

    def predicted(self, prediction: Predicted) -> None:
        """Note a prediction."""
        self._pending.append(prediction)

    def decided(
        self, at: int, user: str, action: str, propensity: float, detail: dict[str, Any]
    ) -> int:
        """Write a decision with its propensity; returns its number. See :meth:`decide`."""
        return self.decide(at, [Decided(user, action, propensity, detail)])[0]

    def decide(self, at: int, decided: Sequence[Decided]) -> list[int]:
        """Write decisions, all or none, and return their numbers; on return they are on the disk.

        Raises :class:`LogError` where they cannot be written.
        """
        statement = (
            "insert into decisions (at, user, action, propensity, detail) values (?,?,?,?,?)"
        )
        with self._writing():
            return [
                int(self._db.execute(statement, (at, d.user, d.action, d.propensity, msgspec.json.encode(d.detail).decode())).lastrowid or 0)
                for d in decided
            ]  # fmt: skip

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("begin immediate")
                yield
                self._db.execute("commit")
                self.fault = ""
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                if not isinstance(error, sqlite3.Error):
                    raise
                self.fault = f"the answer log cannot be written ({error}); make room on its disk"
                raise LogError(self.fault) from None

    def predictions(self, task: str, since: int = 0, until: int = 1 << 62) -> list[Predicted]:
        """Return the predictions of a task between two moments, oldest first."""
        self.flush()
        with self._lock:
            rows = self._db.execute(
                "select at, user, task, version, score, shadow, missing, asked from predictions where task = ? and at >= ? and at < ? order by number",
                (task, since, until),
            ).fetchall()
        return [Predicted(*row) for row in rows]

    def decisions(self, user: str | None = None) -> list[dict[str, Any]]:
        """Return the decisions (of one user), oldest first."""
        where, given = ("where user = ?", (user,)) if user is not None else ("", ())
        with self._lock:
            rows = self._db.execute(
                f"select at, user, action, propensity, detail from decisions {where} order by number",
                given,
            ).fetchall()
        return [
            {
                "at": r[0],
                "user": r[1],
                "action": r[2],
                "propensity": r[3],
                **msgspec.json.decode(r[4]),
            }
            for r in rows
        ]

    def tasks(self) -> list[str]:
        """Return the tasks that were answered."""
        with self._lock:
            return [
                r[0]
                for r in self._db.execute("select distinct task from predictions order by task")
            ]

    def flush(self) -> None:
        """Write what is pending; raises :class:`LogError` where it cannot be, and keeps it."""
        with self._flushing:
            pending = [self._pending.popleft() for _ in range(len(self._pending))]
            try:
                if pending:
                    self._write(pending)
            except BaseException:
                self._pending.extendleft(reversed(pending))
                while len(self._pending) > _MOST:
                    self._pending.popleft()
                    self.dropped += 1
                raise

    def _write(self, pending: Sequence[Predicted]) -> None:
        with self._writing():
            gone = self._forgotten.among({p.user for p in pending}) if self._forgotten else ()
            self._db.executemany(
                "insert into predictions (at, user, task, version, score, shadow, missing, asked) values (?,?,?,?,?,?,?,?)",
                [p for p in pending if p.user not in gone],
            )

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            started = clock.monotonic()
            try:
                self.flush()
            except (
                Exception
            ) as error:  # it must outlive whatever it meets; what is pending is tried again
                self.fault = self.fault or f"the answer log failed ({type(error).__name__})"
            if self.fault or clock.monotonic() - started > 5:
                self._stop.wait(1)

    def forget(self, user: str) -> int:
        """Remove every prediction and decision about a user, for good; returns how many."""
        self.flush()
        with self._lock:
            return sum(
                self._db.execute(f"delete from {table} where user = ?", (user,)).rowcount
                for table in ("predictions", "decisions")
            )

    def close(self) -> None:
        """Write what is pending and close the file."""
        self._stop.set()
        self._thread.join(10)
        with contextlib.suppress(LogError):
            self.flush()
        with self._lock:
            self._db.close()
