"""What was answered: one log of predictions and decisions, so that they can be judged when the truth is known."""

from __future__ import annotations

import sqlite3
import threading
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from propend.serve.forgotten import Forgotten

__all__ = ["AnswerLog", "Predicted"]

_TABLES: Final = (
    """create table if not exists predictions (number integer primary key, at integer not null, user text not null,
       task text not null, version integer not null, score real not null, shadow integer not null, missing integer not null)""",
    """create table if not exists decisions (number integer primary key, at integer not null, user text not null,
       action text not null, propensity real not null, detail text not null)""",
)


class Predicted(NamedTuple):
    """One prediction as it was given."""

    at: int
    user: str
    task: str
    version: int
    score: float
    shadow: int
    missing: int


class AnswerLog:
    """A SQLite file; predictions are written by a thread a moment later, decisions before they are answered.

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
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        for table in _TABLES:
            self._db.execute(table)
        self._db.execute("create index if not exists predictions_task on predictions (task, at)")
        self._pending: list[Predicted] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answer-log", daemon=True)
        self._thread.start()

    def predicted(self, prediction: Predicted) -> None:
        """Note a prediction."""
        self._pending.append(prediction)

    def decided(
        self, at: int, user: str, action: str, propensity: float, detail: dict[str, Any]
    ) -> int:
        """Write a decision with its propensity; returns its number."""
        with self._lock:
            row = self._db.execute(
                "insert into decisions (at, user, action, propensity, detail) values (?,?,?,?,?)",
                (at, user, action, propensity, msgspec.json.encode(detail).decode()),
            )
            return int(row.lastrowid or 0)

    def predictions(self, task: str, since: int = 0, until: int = 1 << 62) -> list[Predicted]:
        """Return the predictions of a task between two moments, oldest first."""
        self.flush()
        with self._lock:
            rows = self._db.execute(
                "select at, user, task, version, score, shadow, missing from predictions where task = ? and at >= ? and at < ? order by number",
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
        """Write what is pending."""
        pending, self._pending = self._pending, []
        if pending:
            self._write(pending)

    def _write(self, pending: Sequence[Predicted]) -> None:
        with self._lock:
            self._db.execute("begin immediate")
            gone = self._forgotten.among({p.user for p in pending}) if self._forgotten else ()
            self._db.executemany(
                "insert into predictions (at, user, task, version, score, shadow, missing) values (?,?,?,?,?,?,?)",
                [p for p in pending if p.user not in gone],
            )
            self._db.execute("commit")

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            started = clock.monotonic()
            self.flush()
            if clock.monotonic() - started > 5:
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
        self.flush()
        with self._lock:
            self._db.close()
