"""Triggers: an expression watched live fires once when it becomes true for a user, into an outbox that never doubles.

Whether an expression held is kept per trigger and user in the same transaction as the outbox and the position up to
which events were judged; a crash therefore neither misses nor repeats a crossing. Webhooks are sent from the outbox
with a signature and the same delivery id at every try; what keeps failing becomes a dead letter.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import threading
import time as clock
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from propend.config import TriggerConfig
from propend.errors import ConfigError, PropendError
from propend.expression.nodes import Expression
from propend.expression.parse import parse
from propend.features.program import Program
from propend.features.schema import Schema
from propend.serve.move import Arrived
from propend.serve.state import LiveState

__all__ = ["Triggers", "forget", "signature"]

_TABLES: Final = (
    "create table if not exists held (trigger text, user text, primary key (trigger, user)) without rowid",
    "create table if not exists place (one integer primary key check (one = 1), position integer not null)",
    """create table if not exists outbox (number integer primary key, trigger text not null, user text not null, at integer not null,
       fired integer not null, cause text not null, tries integer not null default 0, due real not null default 0,
       state text not null default 'waiting', fault text not null default '', unique (trigger, user, cause))""",
    "create index if not exists outbox_waiting on outbox (due) where state = 'waiting'",
)
WAITS: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0)
"""Seconds until each further try; after the last the delivery is a dead letter."""
_SLICE: Final = 0.005
"""Seconds of a sweep between pauses, which are four times as long."""
_NOTED: Final = 0.05
"""Seconds of sending that are sent again, under the same ids, where the process dies before it has noted them."""


def signature(secret: str, moment: str, body: bytes) -> str:
    """Return the signature of a webhook: HMAC-SHA256 over the moment, a dot and the body.

    >>> signature("s", "1", b"{}")[:14]
    'sha256=b253639'
    """
    return (
        "sha256="
        + hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    )


def forget(db: sqlite3.Connection, user: str) -> int:
    """Remove what fired for a user and what held from the triggers' file, sent or not; returns how many rows."""
    return sum(
        db.execute(f"delete from {table} where user = ?", (user,)).rowcount
        for table in ("held", "outbox")
    )


class Triggers:
    """The declared triggers over a live state."""

    def __init__(
        self,
        declared: Sequence[TriggerConfig],
        path: Path,
        state: LiveState,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self.declared, self.state, self.waits = {t.name: t for t in declared}, state, tuple(waits)
        self.when: dict[str, Expression] = {}
        for trigger in declared:
            self.when[trigger.name] = parse(trigger.when)
            if trigger.url and not trigger.url.startswith(("http://", "https://")):
                raise ConfigError(
                    f"trigger {trigger.name!r}: the url {trigger.url!r} is no http(s) address"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        for statement in ("pragma journal_mode=wal", "pragma synchronous=full", *_TABLES):
            self._db.execute(statement)
        self._watched: dict[str, int] = {}
        self._programs: dict[str, Program] = {}
        self._schema_version = -1
        self._fresh = threading.Event()
        self.latencies: list[float] = []
        self.faults: dict[str, str] = {}

    @property
    def position(self) -> int:
        """Position up to which events were judged."""
        with self._lock:
            row = self._db.execute("select position from place").fetchone()
        return int(row[0]) if row else 0

    def judge(self, events: Sequence[Arrived], upto: int) -> int:
        """Judge new events, in order; returns how many triggers fired. Events judged before are passed over."""
        done = self.position
        fired: list[tuple[str, str, int, str]] = []
        changes: list[tuple[str, str, bool]] = []
        held: dict[tuple[str, str], bool] = {}
        for arrived in events:
            if arrived.position <= done:
                continue
            at = arrived.received + 1
            self._watched[arrived.event.user] = at
            cause = f"{arrived.position}.{arrived.place}"
            self._cross(arrived.event.user, at, cause, held, changes, fired)
        self._write(fired, changes, max(upto, done))
        if fired:
            self._fresh.set()
        now = clock.time()
        self.latencies += [now - at / 1e6 for _, _, at, _ in fired]
        del self.latencies[:-10_000]
        return len(fired)

    def sweep(self, at: int, window: int = 86_400_000_000, most: int = 20_000) -> int:
        """Judge recently active users at a moment, for expressions that turn true as time passes."""
        fired: list[tuple[str, str, int, str]] = []
        changes: list[tuple[str, str, bool]] = []
        self._watched = {u: t for u, t in self._watched.items() if t > at - window}
        paused = clock.monotonic()
        for user in list(self._watched)[-most:]:
            self._cross(user, at, f"t{at}", {}, changes, fired)
            if (
                clock.monotonic() - paused > _SLICE
            ):  # events and questions must not wait for a sweep
                clock.sleep(4 * _SLICE)
                paused = clock.monotonic()
        if changes:
            self._write(fired, changes, None)
        if fired:
            self._fresh.set()
        return len(fired)

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

    def _cross(
        self, user: str, at: int, cause: str, held: dict[tuple[str, str], bool], changes: list[tuple[str, str, bool]],
        fired: list[tuple[str, str, int, str]],
    ) -> None:  # fmt: skip
        self._compile()
        for name, program in self._programs.items():
            answer = float(self.state.features(program, user, at)[0])
            holds = answer != 0 and answer == answer  # missing does not hold
            before = held.get((name, user))
            if before is None:
                with self._lock:
                    before = (
                        self._db.execute(
                            "select 1 from held where trigger = ? and user = ?", (name, user)
                        ).fetchone()
                        is not None
                    )
            if holds != before:
                changes.append((name, user, holds))
                if holds:
                    fired.append((name, user, at, cause))
            held[(name, user)] = holds

    def _write(
        self,
        fired: list[tuple[str, str, int, str]],
        changes: list[tuple[str, str, bool]],
        position: int | None,
    ) -> None:
        """Keep crossings, states and position in one transaction."""
        now = clock.time_ns() // 1_000
        with self._lock:
            self._db.execute("begin immediate")
            gone = self.state.forgotten.among({user for _, user, _ in changes})
            for name, user, holds in changes:
                if user in gone:
                    continue
                statement = (
                    "insert or ignore into held values (?,?)"
                    if holds
                    else "delete from held where trigger = ? and user = ?"
                )
                self._db.execute(statement, (name, user))
            self._db.executemany(
                "insert or ignore into outbox (trigger, user, at, fired, cause) values (?,?,?,?,?)",
                [
                    (name, user, at, now, cause)
                    for name, user, at, cause in fired
                    if user not in gone
                ],
            )
            if position is not None:
                self._db.execute(
                    "insert into place values (1, ?) on conflict (one) do update set position = excluded.position",
                    (position,),
                )
            self._db.execute("commit")

    # ---- the outbox

    def outbox(self, state: str | None = None, most: int = -1) -> list[dict[str, Any]]:
        """Return what fired, oldest first: only ``waiting``, ``sent`` or ``dead``, only the latest, where asked."""
        names = ("number", "trigger", "user", "at", "fired", "tries", "state", "fault")
        where, given = ("where state = ?", (state,)) if state else ("", ())
        with self._lock:
            rows = self._db.execute(
                f"select {', '.join(names)} from outbox {where} order by number desc limit ?",
                (*given, most),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in reversed(rows)]

    def deliver_soon(self, patience: float = 0.2) -> int:
        """Send what is due as soon as something fires, or after a while; see :meth:`deliver`."""
        self._fresh.wait(patience)
        self._fresh.clear()
        return self.deliver()

    def deliver(
        self, send: Callable[[str, bytes, dict[str, str]], None] | None = None, most: int = 100
    ) -> int:
        """Send what is due; returns how many went out. ``send`` raises ``OSError`` where it could not."""
        send = send or _post
        hooks = [
            t.name for t in self.declared.values() if t.url
        ]  # the others' wait for whoever reads the outbox
        marks = ",".join("?" * len(hooks))
        with self._lock:
            rows = self._db.execute(
                f"select number, trigger, user, at, tries from outbox where state = 'waiting' and due <= ? and trigger in ({marks}) order by number limit ?",
                (clock.time(), *hooks, most),
            ).fetchall()
        sent = 0
        notes: list[tuple[str, float, str, int]] = []
        noted = clock.monotonic()
        for number, name, user, at, tries in rows:
            declared = self.declared[name]
            body = msgspec.json.encode(
                {"delivery": number, "trigger": name, "user": user, "at": at, "when": declared.when}
            )
            moment = str(int(clock.time()))
            headers = {
                "Content-Type": "application/json", "X-Propend-Delivery": str(number), "X-Propend-Time": moment,
                "X-Propend-Signature": signature(declared.secret, moment, body),
            }  # fmt: skip
            try:
                send(declared.url, body, headers)
            except (OSError, ValueError) as error:
                dead = tries + 1 > len(self.waits)
                due = clock.time() + (0 if dead else self.waits[tries])
                notes.append(("dead" if dead else "waiting", due, str(error)[:300], number))
            else:
                notes.append(("sent", 0, "", number))
                sent += 1
            if clock.monotonic() - noted > _NOTED:
                self._note(notes)
                noted = clock.monotonic()
        self._note(notes)
        return sent

    def _note(self, notes: list[tuple[str, float, str, int]]) -> None:
        """Write what became of deliveries in one transaction: a commit for each would take longer than to send it."""
        if notes:
            with self._lock:
                self._db.execute("begin immediate")
                self._db.executemany(
                    "update outbox set state = ?, due = ?, fault = ?, tries = tries + 1 where number = ?",
                    notes,
                )
                self._db.execute("commit")
            notes.clear()

    def revive(self, number: int) -> None:
        """Try a dead letter again from the start."""
        with self._lock:
            self._db.execute(
                "update outbox set state = 'waiting', tries = 0, due = 0 where number = ? and state = 'dead'",
                (number,),
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook that redirects is not followed: the body was signed for one address."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with _opener().open(request, timeout=10) as answer:
            answer.read(1_000)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the receiver answered {error.code}") from None
