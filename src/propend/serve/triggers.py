"""Triggers: an expression watched live fires once when it becomes true for a user, into an outbox that never doubles.

Whether an expression held is kept per trigger and user in the same transaction as the outbox and the position up to
which events were judged, and what is judged is evaluated inside that transaction: neither a crash nor another process
that judges beside this one misses or repeats a crossing. The store's mover goes no further than that position.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time as clock
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from propend.config import TriggerConfig
from propend.errors import ConfigError, PropendError
from propend.expression.nodes import Aggregate, Expression
from propend.expression.parse import parse
from propend.features.program import Program
from propend.features.schema import Schema
from propend.names import DAY
from propend.serve.move import Arrived
from propend.serve.outbox import TABLES, WAITS, Outbox
from propend.serve.state import LiveState

__all__ = ["Triggers", "forget", "reach"]

_TABLES: Final = (
    "create table if not exists held (trigger text, user text, primary key (trigger, user)) without rowid",
    "create table if not exists watched (user text primary key, seen integer not null) without rowid",
    "create table if not exists place (one integer primary key check (one = 1), position integer not null)",
    *TABLES,
)
_SLICE: Final = 0.005
"""Seconds of a sweep between pauses, which are four times as long."""
_CHUNK: Final = 0.05
"""Seconds of judging events in one transaction, about; others wait for the file so long."""
_PAGE: Final = 500
"""Users of a sweep that are read at once."""
_AGEING: Final = frozenset({"days_since", "days_since_first"})
"""Aggregates that change as time passes; the others change only as events leave their window."""


def forget(db: sqlite3.Connection, user: str) -> int:
    """Remove what fired for a user and what held from the triggers' file, sent or not; returns how many rows."""
    return sum(
        db.execute(f"delete from {table} where user = ?", (user,)).rowcount
        for table in ("held", "outbox", "watched")
    )


def reach(when: Expression) -> int | None:
    """Return how long after somebody's last event an expression may still turn true by time alone; ``None``: for ever.

    >>> reach(parse("any(cart) last 1d and none(*) last 30min")) == DAY
    True
    >>> reach(parse("days_since(cart) > 30")) is None
    True
    """
    spans = [0]
    for part in when.parts():
        if isinstance(part, Aggregate):
            if part.window.length is not None:
                spans.append(part.window.length.microseconds)
            if part.function in _AGEING:
                return None
    return max(spans)


class Triggers:
    """The declared triggers over a live state; what fired is in ``outbox``."""

    def __init__(
        self,
        declared: Sequence[TriggerConfig],
        path: Path,
        state: LiveState,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self.declared, self.state = {t.name: t for t in declared}, state
        self.when: dict[str, Expression] = {}
        for trigger in declared:
            self.when[trigger.name] = parse(trigger.when)
            if trigger.url and not trigger.url.startswith(("http://", "https://")):
                raise ConfigError(
                    f"trigger {trigger.name!r}: the url {trigger.url!r} is no http(s) address"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        for statement in ("pragma journal_mode=wal", "pragma synchronous=full", *_TABLES):
            self._db.execute(statement)
        self.outbox = Outbox(self._db, self._lock, self.declared, waits)
        self._programs: dict[str, Program] = {}
        self._schema_version = -1
        self.latencies: list[float] = []
        self.faults: dict[str, str] = {}

    @property
    def position(self) -> int:
        """Position up to which events were judged."""
        with self._lock:
            row = self._db.execute("select position from place").fetchone()
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the file against this process's threads and every other process; all or nothing is kept."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def judge(self, events: Sequence[Arrived], upto: int) -> int:
        """Judge new events, in order; returns how many triggers fired. Events judged before are passed over.

        Imported history fires nothing: what holds after it is kept as having held.
        """
        fired: list[tuple[str, int]] = []
        batches = [list(group) for _, group in groupby(events, lambda a: a.position)]
        done = 0
        while done < len(batches) or not batches:
            crossed: list[tuple[str, int]] = []
            with self._writing():
                began, judged = clock.monotonic(), self.position
                for batch in batches[done:]:
                    if batch[0].position > judged:
                        crossed += self._batch(batch)
                    done += 1
                    if clock.monotonic() - began > _CHUNK:
                        break
                last = upto if done == len(batches) else batches[done - 1][0].position
                self._db.execute(
                    "insert into place values (1, ?) on conflict (one) do update set position = max(position, excluded.position)",
                    (last,),
                )
            fired += crossed
            if not batches:
                break
        self.outbox.tell([name for name, _ in fired])
        now = clock.time()
        self.latencies += [now - at / 1e6 for _, at in fired]
        del self.latencies[:-10_000]
        return len(fired)

    def _batch(self, events: Sequence[Arrived]) -> list[tuple[str, int]]:
        """Judge the events of one request inside the transaction."""
        fired = []
        history: dict[str, None] = {}
        gone = self.state.forgotten.among({a.event.user for a in events})
        for arrived in events:
            user, at = arrived.event.user, arrived.received + 1
            if user in gone:
                continue
            self._db.execute(
                "insert into watched values (?,?) on conflict (user) do update set seen = max(seen, excluded.seen)",
                (user, at),
            )
            if arrived.imported:
                history[user] = None
            else:
                fired += self._cross(user, at, f"{arrived.position}.{arrived.place}")
        for user in history:
            self._cross(user, clock.time_ns() // 1_000, None)
        return fired

    def sweep(self, at: int) -> int:
        """Judge everybody for whom an expression may have turned true as time passed; returns how many triggers fired.

        That is whoever was seen within the expressions' reach (see :func:`reach`). It pauses as it goes.
        """
        spans = [reach(when) for when in self.when.values()]
        known = [span for span in spans if span is not None]
        # a little more, so that what leaves a window is seen to have left
        since = at - max(known, default=0) - DAY if len(known) == len(spans) else -1
        fired = 0
        after = ""
        while True:
            with self._lock:
                page = self._db.execute(
                    "select user from watched where user > ? and seen > ? order by user limit ?", (after, since, _PAGE),
                ).fetchall()  # fmt: skip
            if not page:
                return fired
            users = [user for (user,) in page]
            after = users[-1]
            while users:
                users, crossed = self._swept(users, at)
                fired += crossed
                clock.sleep(4 * _SLICE if users else 0)  # events and questions do not wait for it

    def _swept(self, users: list[str], at: int) -> tuple[list[str], int]:
        """Judge users at a moment for a while; returns who is left, and how many triggers fired."""
        fired: list[tuple[str, int]] = []
        done = 0
        with self._writing():
            began, judged = clock.monotonic(), self.position
            if self.state.position < judged:  # another process judged what is not seen here yet
                return [], 0
            gone = self.state.forgotten.among(users)
            for user in users:
                # whoever has an event that waits to be judged is judged by it
                if user not in gone and not self.state.waits(user, judged, at):
                    fired += self._cross(user, at, f"t{at}")
                done += 1
                if clock.monotonic() - began > _SLICE:
                    break
        self.outbox.tell([name for name, _ in fired])
        return users[done:], len(fired)

    def warm(self) -> None:
        """Load the compiled kernels, which takes seconds, before the first event has to wait for them."""
        if self.declared:
            schema = Schema(types=("a",), numbers=self.state.schema.numbers)
            program = Program([parse("sum(a.value) last 1d > 1 and count(a) > 1")], schema)
            self.state.features(program, "", 0)

    def _compile(self) -> None:
        """Compile the expressions for the state's schema; one that it cannot answer yet is a fault that is told."""
        state = self.state
        if self._schema_version == state.schema_version:
            return
        version, schema = state.schema_version, state.schema
        programs: dict[str, Program] = {}
        faults: dict[str, str] = {}
        for name, when in self.when.items():
            try:
                schema.check(when, forward=False)
                programs[name] = Program([when], schema)
            except (PropendError, ValueError) as error:
                faults[name] = str(error)
        self._programs, self.faults, self._schema_version = programs, faults, version

    def _cross(self, user: str, at: int, cause: str | None) -> list[tuple[str, int]]:
        """Keep what holds for a user now, and what fired if there is a cause; returns what did."""
        self._compile()
        fired = []
        for name, program in self._programs.items():
            answer = float(self.state.features(program, user, at)[0])
            if answer != 0 and answer == answer:  # missing does not hold
                asked = (name, user)
                if self._db.execute("insert or ignore into held values (?,?)", asked).rowcount and (
                    cause is not None
                ):
                    told = not (self.declared[name].url and self.state.denied(user, at))
                    self._db.execute(
                        "insert or ignore into outbox (trigger, user, at, fired, cause, state, fault) values (?,?,?,?,?,?,?)",
                        (
                            name, user, at, clock.time_ns() // 1_000, cause,
                            *(("waiting", "") if told else ("withheld", "consent was denied")),
                        ),
                    )  # fmt: skip
                    fired.append((name, at))
            else:
                self._db.execute("delete from held where trigger = ? and user = ?", (name, user))
        return fired

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
