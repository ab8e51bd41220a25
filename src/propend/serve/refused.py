"""What is refused: kept with all it takes to try it again, as long as there is room, and tried again on demand."""

from __future__ import annotations

import asyncio
import time as clock
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from propend.serve.bodies import cut_ips
from propend.serve.dialects import dialect_of
from propend.serve.dialects.port import (
    BadBody,
    Event,
    Request,
    given_key,
    payload_of_form,
    source_of,
    wrapper_of,
)
from propend.serve.inbox import Batch, Inbox, Rejected
from propend.serve.meaning import meaning

__all__ = ["Refusals", "refused_entry", "replay_rejected"]

_READ: Final = (b"posthog-request-timestamp",)
"""Headers that change what a body means; the write key is kept by itself."""
_AGAIN: Final = 60.0
"""Seconds until somebody without room asks whether there is some again."""


class Refusals:
    """Keeps refused requests in an inbox, within a number and a size."""

    def __init__(self, inbox: Inbox, most: int, most_bytes: int) -> None:
        self._inbox, self._most, self._most_bytes = inbox, most, most_bytes
        self._kept = self._bytes = 0
        self._looked = 0.0

    def look(self) -> None:
        """See how much is kept already."""
        self._kept, self._bytes = self._inbox.refused(), self._inbox.refused_bytes()
        self._looked = clock.monotonic()

    async def keep(self, entries: Sequence[Rejected]) -> int:
        """Keep what there is room for, its addresses cut, in one transaction; returns how many found none."""
        fitting = self._fitting(entries)
        if len(fitting) < len(entries) and clock.monotonic() - self._looked > _AGAIN:
            await asyncio.to_thread(self.look)
            fitting = self._fitting(entries)
        if fitting:
            self._kept += len(fitting)
            self._bytes += sum(len(e.body) for e in fitting)
            await asyncio.to_thread(self._store, fitting)
        return len(entries) - len(fitting)

    def _fitting(self, entries: Sequence[Rejected]) -> list[Rejected]:
        room = self._most_bytes - self._bytes
        found: list[Rejected] = []
        for entry in entries:
            if len(entry.body) <= room and len(found) < self._most - self._kept:
                room -= len(entry.body)
                found.append(entry)
        return found

    def _store(self, entries: list[Rejected]) -> None:
        self._inbox.reject([e._replace(body=cut_ips(e.body)) for e in entries])


def refused_entry(request: Request, received: int, dialect: str, reason: str, *, body: bytes | None = None, **more: Any) -> Rejected:  # fmt: skip
    """Return a refused request, or one event of it (``body``), with all it takes to try it again; ``more`` are fields of the entry."""
    key = (more.pop("key", "") or given_key(request))[:200]
    asked = "" if more.get("taken") else _asked(request)
    said = _readable(request.body) if body is None else body
    route = request.path[:500].replace("#", "")
    return Rejected(received, key, dialect, route, reason, said, asked=asked, **more)


def _asked(request: Request) -> str:
    """Return query and headers that it takes to read a body again."""
    headers = {n.decode(): request.header(n) for n in _READ if n in request.headers}
    if not request.query and not headers:
        return ""
    return cut_ips(msgspec.json.encode({"query": request.query, "headers": headers})).decode()


def _readable(body: bytes) -> bytes:
    """Return the JSON in a form, so that its addresses can be cut; what is no form is returned as it is."""
    try:
        said = payload_of_form(body)[0]
    except BadBody:
        return body
    return said if said.lstrip()[:1] in (b"{", b"[") else body


def replay_rejected(inbox: Inbox, keys: dict[str, str], limit: int = 100_000) -> tuple[int, int]:
    """Try what was refused again, under the keys and dialects as they are now; returns how many were taken and stayed."""
    taken = stayed = after = 0
    while taken + stayed < limit and (page := inbox.rejected(min(500, limit), after)):
        after = page[-1].number
        for entry in page:
            try:
                batch, refused = _again(entry, keys)
            except (BadBody, AttributeError, TypeError, LookupError, ValueError, ArithmeticError):
                stayed += 1
                continue
            inbox.append([batch])
            inbox.reject(refused)
            inbox.release([entry.number])
            taken += 1
    return taken, stayed


def _again(entry: Rejected, keys: dict[str, str]) -> tuple[Batch, list[Rejected]]:
    """Return a refused entry as a batch, and what of it is still refused by itself; raises ``BadBody`` where all of it is."""
    route, body, key = entry.route.partition("#")[0], entry.body, entry.key
    name, refused = entry.dialect, []
    if not entry.taken:
        dialect = dialect_of(route, body)
        if dialect is None:
            raise BadBody("no such route")
        asked = msgspec.json.decode(entry.asked or "{}", type=dict[str, dict[str, str]])
        headers = {
            k.encode("latin-1"): v.encode("latin-1") for k, v in asked.get("headers", {}).items()
        }
        request = Request(route, asked.get("query", {}), headers, body)
        accepted = dialect.accept(request)
        name, body, key = dialect.name, accepted.body, key or accepted.key
        wrap = wrapper_of(request.body)
        refused = [
            entry._replace(reason=reason, body=wrap(original))
            for reason, original in accepted.refused
        ]
    source = entry.source or source_of(key, keys)
    if source is None and not key and len(keys) == 1:
        source = next(iter(keys.values()))
    if source is None:
        raise BadBody("no source")
    batch = Batch(entry.received, source, name, route, entry.agent, "", entry.marks, body)
    if not any(isinstance(found, Event) for found in meaning(batch)):
        raise BadBody("still no event")
    return batch, refused
