"""The outbox of triggers: what fired, and the webhooks that tell of it, each address in its own turn."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import threading
import time as clock
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Final

import msgspec

from propend.config import TriggerConfig

__all__ = ["TABLES", "WAITS", "Outbox", "signature"]

TABLES: Final = (
    """create table if not exists outbox (number integer primary key, trigger text not null, user text not null, at integer not null,
       fired integer not null, cause text not null, tries integer not null default 0, due real not null default 0,
       state text not null default 'waiting', fault text not null default '', unique (trigger, user, cause))""",
    "create index if not exists outbox_waiting on outbox (due) where state = 'waiting'",
)
WAITS: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0)
"""Seconds until each further try; after the last the delivery is a dead letter."""
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


Send = Callable[[str, bytes, dict[str, str]], None]


class Outbox:
    """What fired, on a connection and under a lock that the triggers own.

    A slow or dead receiver holds up nobody but itself: what goes to one address is sent in order, addresses side by side.
    """

    def __init__(
        self, db: sqlite3.Connection, lock: threading.RLock, declared: Mapping[str, TriggerConfig], waits: Sequence[float],
    ) -> None:  # fmt: skip
        self._db, self._lock, self.declared, self.waits = db, lock, declared, tuple(waits)
        self.addresses = tuple(dict.fromkeys(t.url for t in declared.values() if t.url))
        self._fresh = {address: threading.Event() for address in self.addresses}

    def tell(self, names: Sequence[str]) -> None:
        """Wake whoever sends for these triggers."""
        for name in names:
            if url := self.declared[name].url:
                self._fresh[url].set()

    def rows(self, state: str | None = None, most: int = -1) -> list[dict[str, Any]]:
        """Return what fired, oldest first: only ``waiting``, ``sent``, ``dead`` or ``withheld`` (no consent), only the latest, where asked."""
        names = ("number", "trigger", "user", "at", "fired", "tries", "state", "fault")
        where, given = ("where state = ?", (state,)) if state else ("", ())
        with self._lock:
            rows = self._db.execute(
                f"select {', '.join(names)} from outbox {where} order by number desc limit ?",
                (*given, most),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in reversed(rows)]

    def deliver_soon(self, address: str, patience: float = 0.2) -> int:
        """Send what is due at an address as soon as something fires, or after a while; returns how many went out."""
        self._fresh[address].wait(patience)
        self._fresh[address].clear()
        return self._deliver(_post, 100, address)

    def deliver(self, send: Send | None = None, most: int = 100) -> int:
        """Send what is due, so many to each address; returns how many went out. ``send`` raises ``OSError`` where it could not."""
        if not self.addresses:
            return 0
        with ThreadPoolExecutor(len(self.addresses)) as pool:
            return sum(pool.map(partial(self._deliver, send or _post, most), self.addresses))

    def _deliver(self, send: Send, most: int, address: str) -> int:
        hooks = [t.name for t in self.declared.values() if t.url == address]
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
