"""A person out of the live side: what waits, what was refused, what was answered and fired, who they were.

A server may go on meanwhile. The store's commit publishes the erasure (:class:`~propend.serve.forgotten.Forgotten`):
from then on every process leaves the ids out of what it writes, and this module removes what was written before.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import sqlite3
import time as clock
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote_plus

import msgspec

from propend.errors import DataError
from propend.events.store import Store
from propend.pipeline.workspace import Workspace
from propend.serve.dialects.port import BadBody, decode
from propend.serve.inbox import Inbox, InboxError, Rejected
from propend.serve.live import moving, open_identity, open_live_inbox
from propend.serve.log import AnswerLog

__all__ = ["Mentions", "erase", "known", "person"]

T = TypeVar("T")
_PATIENCE: Final = 60.0
"""Seconds to wait for another process to let go of a folder."""
_FOREVER: Final = 1 << 62
_NAMING: Final = (
    ("log.db", "predictions"), ("log.db", "decisions"), ("triggers.db", "held"), ("triggers.db", "outbox"), ("triggers.db", "watched"), ("identity.db", "facts"),
)  # fmt: skip
"""Files and tables of the live side that name users."""


def person(workspace: Workspace, user: str) -> tuple[str, ...]:
    """Bring what waits into the store and return every id of the person behind an id, that id first."""
    with moving(workspace) as mover:
        _patiently(mover.drain)
        return (user, *(i for i in mover.identity.ids(user, _FOREVER) if i != user))


def known(workspace: Workspace, ids: Sequence[str]) -> bool:
    """Whether the live side holds anything of ids beside their events; then the store is there to block them."""
    folder = workspace.folder / "live"
    found = len(ids) > 1 or any(
        _rows(folder / file, table, ids) for file, table in _NAMING if (folder / file).exists()
    )
    if not found:
        mentions, inbox = Mentions(ids), open_live_inbox(workspace)
        try:
            found = any(
                mentions.within(part)
                for page in _refused(inbox)
                for e in page
                for part in (e.body, e.asked.encode())
            )
        finally:
            inbox.close()
    if found and not Store.exists(workspace.store_folder):
        Store.create(workspace.store_folder, workspace.config.workspace.buckets or 4)
    return found


def erase(workspace: Workspace, ids: Sequence[str]) -> dict[str, int]:
    """Remove ids that the store has erased from every live file; returns how many rows went from where.

    What still waits is moved first, which leaves it out; what was refused loses the events that mention an id. The
    files are rewritten afterwards, so that no byte stays in their free pages. Raises ``DataError`` where another
    process does not let go of them; asking again goes on from there.
    """
    folder = workspace.folder / "live"
    with moving(workspace) as mover:
        _patiently(mover.drain)
    inbox = open_live_inbox(workspace)
    try:
        refused = _from_refused(inbox, Mentions(ids))
    finally:
        inbox.close()
    log = AnswerLog(folder / "log.db")
    try:
        answers = sum(log.forget(i) for i in ids)
    finally:
        log.close()
    fired = _from_triggers(folder / "triggers.db", ids)
    identity = open_identity(workspace)
    try:  # last: should this be cut off before, the next try still knows the person's other ids
        facts = sum(identity.forget(i) for i in ids)
    finally:
        identity.close()
    for path in sorted(folder.rglob("*.db")):
        if path.name != "names.db":  # hashes of message ids
            _scrub(path)
    return {"refused": refused, "answers": answers, "fired": fired, "facts": facts}


def _patiently(work: Callable[[], T]) -> T:
    """Do something that another process may hold up for a while."""
    until = clock.monotonic() + _PATIENCE
    while True:
        try:
            return work()
        except InboxError:
            raise
        except DataError:
            if clock.monotonic() > until:
                raise
            clock.sleep(0.1)


def _from_refused(inbox: Inbox, mentions: Mentions) -> int:
    """Take every refused event that mentions an id out; returns how many entries were touched."""
    touched = 0
    for page in _refused(inbox):
        for entry in page:
            named = mentions.within(entry.asked.encode())  # sent with GET
            rest = b"" if named else mentions.without(entry.body)
            if named or rest != entry.body:
                touched += 1
                if rest:
                    inbox.reject([entry._replace(body=rest)])
                inbox.release([entry.number])
    return touched


def _refused(inbox: Inbox) -> Iterator[list[Rejected]]:
    """Yield what was refused in pages; what is put back meanwhile comes at the end and changes no more."""
    after = 0
    while page := inbox.rejected(500, after):
        after = page[-1].number
        yield page


def _rows(path: Path, table: str, ids: Sequence[str]) -> int:
    """Return how many rows of a table name one of the ids."""
    columns = ("one", "other") if table == "facts" else ("user",)
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=_PATIENCE, uri=True)
    try:
        where = " or ".join(f"{c} = ?" for c in columns)
        query = f"select count(*) from {table} where {where}"
        return sum(db.execute(query, (i,) * len(columns)).fetchone()[0] for i in ids)
    finally:
        db.close()


def _from_triggers(path: Path, ids: Sequence[str]) -> int:
    from propend.serve.triggers import forget

    if not path.exists():
        return 0
    with sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None) as db:
        gone = sum(forget(db, user) for user in ids)
    db.close()
    return gone


def _scrub(path: Path) -> None:
    """Rewrite a database without what was deleted, and carry its log over."""
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        db.execute("vacuum")
        for _ in range(50):
            if db.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0:
                return
            clock.sleep(0.1)
        raise DataError(
            f"{path} is in use, so that deleted bytes are still in its log; stop the server and ask again"
        )
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be rewritten ({error}); ask again") from None
    finally:
        db.close()


class Mentions:
    """Finds ids as words of their own in a request's body: as text, escaped, in a form, in base64, compressed.

    >>> who = Mentions(["ada"])
    >>> who.within(b'{"userId": "ad\\\\u0061"}'), who.within(b'{"userId": "adam"}')
    (True, False)
    >>> who.without(b'{"batch": [{"userId": "ada"}, {"userId": "bob"}]}')
    b'{"batch":[{"userId":"bob"}]}'
    """

    def __init__(self, ids: Sequence[str]) -> None:
        found = "|".join(re.escape(i) for i in ids)
        self._pattern = re.compile(rf"(?<![0-9A-Za-z_])(?:{found})(?![0-9A-Za-z_])")

    def within(self, body: bytes) -> bool:
        """Whether a body mentions an id."""
        return any(self._pattern.search(text) for text in _readings(body))

    def without(self, body: bytes) -> bytes:
        """Return a body without the list elements that mention an id; nothing where it still would."""
        if not self.within(body):
            return body
        try:
            data = decode(body)
        except BadBody:
            return b""
        if isinstance(data, list):
            data = self._others(data)
        elif isinstance(data, dict):
            data = {k: self._others(v) if isinstance(v, list) else v for k, v in data.items()}
        rest = msgspec.json.encode(data)
        lists = data.values() if isinstance(data, dict) else [data]
        if self.within(rest) or not any(isinstance(part, list) and part for part in lists):
            return b""
        return rest

    def _others(self, rows: list[Any]) -> list[Any]:
        return [row for row in rows if not self.within(msgspec.json.encode(row))]


_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{8,}")
_MOST: Final = 4 << 20


def _readings(body: bytes, depth: int = 0) -> Iterator[str]:
    """Yield what a body may say: as it is, unescaped, from a form, from base64, decompressed."""
    text = body.decode("utf-8", "replace")
    yield text
    try:
        yield "\0".join(_words(decode(body)))
    except BadBody:
        yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    if "%" in text or "+" in text:
        yield unquote_plus(text)
    if depth >= 2:
        return
    if body[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda"):
        engine = zlib.decompressobj(47)
        with contextlib.suppress(zlib.error):
            yield from _readings(engine.decompress(body, _MOST), depth + 1)
    for token in _BASE64.findall(unquote_plus(text).replace(" ", "+").encode()):
        try:
            said = base64.b64decode(token.translate(_URL_SAFE) + b"=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            continue
        if said[:1] in (b"{", b"[", b"\x1f"):
            yield from _readings(said, depth + 1)


def _words(value: Any) -> Iterator[str]:
    """Yield every key and value of a JSON value as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
    else:
        yield str(value)


_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
