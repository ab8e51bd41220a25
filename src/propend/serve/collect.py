"""The collector: takes what stock SDKs send, puts it on the disk, and only then answers what they need to hear.

It is its own small process that only appends to the inbox, so that no model, query or migration can make it refuse
an event. Requests that arrive together share one flush to the disk (group commit).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time as clock
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from propend.serve.bodies import TooLarge, cut_ip, cut_ips, depth_fault, inflate
from propend.serve.commit import GroupWriter, Overload
from propend.serve.dialects import dialect_of
from propend.serve.dialects.port import (
    JSON,
    TEXT,
    Accepted,
    BadBody,
    Dialect,
    Request,
    source_of,
    wrapper_of,
)
from propend.serve.inbox import Batch, Inbox, InboxError, Rejected
from propend.serve.limits import Held, Limits
from propend.serve.refused import Refusals, refused_entry
from propend.serve.stubs import stub
from propend.serve.vocabulary import is_bot

__all__ = ["Collector"]

_log = logging.getLogger("propend.serve")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


_CORS: Final = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, content-encoding, x-retry-count, x-write-key",
    ),
    (b"access-control-max-age", b"86400"),
]


_SMALL: Final = 64 << 10
"""Bytes of a body that is opened at once; a larger one is opened by another thread if it is compressed."""


class Collector:
    """An ASGI application over an inbox. ``keys`` maps write keys to sources; without any, every key is taken.

    ``GET /health`` and ``GET /metrics`` (Prometheus) say how it is.
    """

    def __init__(
        self, inbox: Inbox, keys: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        self.inbox, self.keys, self.limits = inbox, dict(keys or {}), limits or Limits()
        self.writer = GroupWriter(inbox, self.limits.pending)
        self.counts: Counter[str] = Counter()
        self.events: Counter[tuple[str, str]] = Counter()
        self.receiving = 0
        """Bytes of bodies held at the moment."""
        self._latest = 0
        self.refusals = Refusals(inbox, self.limits.rejected, self.limits.rejected_bytes)
        self._opening = asyncio.Semaphore(2)
        self.healthy = True
        self._tried = 0.0

    async def start(self) -> None:
        """Start the writer inside the running loop."""
        self.refusals.look()
        self.writer.start()

    async def stop(self) -> None:
        """Write what is waiting."""
        await self.writer.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self.http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method, path = scope["method"], scope["path"]
        if method == "OPTIONS":
            await _answer(send, 204, b"", TEXT)
            return
        if method in ("GET", "HEAD"):
            if path == "/health":
                await self.mended()
            found = self._get(path)
            if found is not None:
                await _answer(send, *found)
                return
        held = Held(self, self.limits.receiving)
        try:
            status, body, kind = await self._take(scope, receive, held)
        except Overload:
            self.counts["overload"] += 1
            await _answer(send, 429, b'{"error":"busy; try again"}', JSON, [(b"retry-after", b"2")])
        except InboxError:
            self.healthy, self._tried = False, clock.monotonic()
            self.counts["unavailable"] += 1
            await _answer(
                send,
                503,
                b'{"error":"the inbox cannot be written; try again"}',
                JSON,
                [(b"retry-after", b"5")],
            )
        except _Gone:
            return
        except (
            Exception
        ) as error:  # further up it would be logged with its message, which may quote a body
            self.counts["failed"] += 1
            _log.error("unexpected %s", type(error).__name__)
            await _answer(
                send,
                503,
                b'{"error":"the server failed; try again"}',
                JSON,
                [(b"retry-after", b"5")],
            )
        else:
            self.counts[f"status_{status}"] += 1
            await _answer(send, status, body, kind)
        finally:
            self.receiving -= held.bytes

    # ---- taking

    async def _take(self, scope: Scope, receive: Receive, held: Held) -> tuple[int, bytes, bytes]:
        headers = dict(scope["headers"])
        raw = await self._body(headers, receive, held)
        if raw is None:
            self.counts["too_large"] += 1
            return 413, b'{"error":"the body is too large"}', JSON
        query = _query(scope["query_string"])
        path = scope["path"]
        try:
            encoding = headers.get(b"content-encoding", b"").decode("latin-1")
            encoding = encoding or query.get("compression", "")
            if len(raw) <= _SMALL or raw[:1] in (b"{", b"["):
                body = inflate(raw, encoding, self.limits.inflated)
            else:  # may be a bomb, and the others need not wait for it
                async with self._opening:
                    body = await asyncio.to_thread(inflate, raw, encoding, self.limits.inflated)
            if body is not raw:
                held.hold(len(body))
        except TooLarge:
            self.counts["too_large"] += 1
            reason = "the body grows too large when decompressed"
            request = Request(path, {}, headers, raw[:10_000])
            await self._keep_refused(refused_entry(request, self._now(), "", reason))
            return 413, b'{"error":"the body is too large"}', JSON
        except BadBody as error:
            body, fault = raw, str(error)
        else:
            fault = ""
        dialect = dialect_of(path, body)
        if dialect is None:
            found = self._get(path)
            return (
                found
                if found is not None and scope["method"] == "POST"
                else (404, b'{"error":"no such route"}', JSON)
            )
        if scope["method"] not in ("POST", "GET") or (scope["method"] == "GET" and not query):
            return 405, b'{"error":"send this with POST"}', JSON
        request = Request(path, query, headers, body)
        accepted: Accepted | None = None
        if not fault:
            fault = depth_fault(body)
        if not fault:
            try:
                accepted = dialect.accept(request)
                if accepted.count > self.limits.events:
                    fault = f"more than {self.limits.events} events in one request"
            except BadBody as error:
                fault = str(error)
            except (
                AttributeError,
                TypeError,
                LookupError,
                ValueError,
                ArithmeticError,
                RecursionError,
            ) as error:
                fault = f"the body has not the shape it should ({type(error).__name__})"
        if fault or accepted is None:
            marks = _marks(request, request.agent)
            entry = refused_entry(
                request, self._now(), dialect.name, fault, agent=request.agent, marks=marks
            )
            await self._keep_refused(entry)
            return dialect.bad(request, fault)
        return await self._keep(scope, request, dialect, accepted)

    async def _keep(
        self, scope: Scope, request: Request, dialect: Dialect, accepted: Accepted
    ) -> tuple[int, bytes, bytes]:
        """Store what was accepted and return the reply."""
        source = source_of(accepted.key, self.keys)
        agent, now = request.agent, self._now()
        marks = _marks(request, agent)
        told: dict[str, Any] = {"key": accepted.key, "agent": agent, "marks": marks}
        wrap = wrapper_of(request.body if accepted.refused else b"")
        refused = [
            refused_entry(
                request, now, dialect.name, reason, body=wrap(original), source=source or "", **told,
            )
            for reason, original in accepted.refused
        ]  # fmt: skip
        if source is None and accepted.store:
            reason = "unknown write key"
            refused.append(refused_entry(request, now, dialect.name, reason, body=accepted.body, taken=True, **told))  # fmt: skip
        if refused:
            await self._keep_refused(*refused)
        if source is None:
            if dialect.name in ("own", "posthog_v1", "mixpanel_import"):
                return (
                    401,
                    b'{"code":401,"error":"unknown write key","status":"Unauthorized"}',
                    JSON,
                )
            return accepted.status, accepted.reply, accepted.type
        if accepted.store:
            await self.writer.put(
                Batch(
                    now,
                    source,
                    dialect.name,
                    request.path,
                    agent,
                    cut_ip(_client(scope)),
                    marks,
                    await _without_ips(accepted.body),
                )
            )
            self.healthy = True
            self.events[(source, dialect.name)] += accepted.count
        return accepted.status, accepted.reply, accepted.type

    def _now(self) -> int:
        """Return the moment in UTC microseconds; it never runs backwards, even where the machine's clock does."""
        self._latest = max(self._latest, clock.time_ns() // 1_000)
        return self._latest

    async def _keep_refused(self, *entries: Rejected) -> None:
        """Keep what was refused, as long as there is room for it."""
        self.counts["refused"] += len(entries)
        unkept = await self.refusals.keep(entries)
        if unkept:
            self.counts["refused_not_kept"] += unkept

    async def _body(
        self, headers: dict[bytes, bytes], receive: Receive, held: Held
    ) -> bytes | None:
        """Return the body as sent, ``None`` where it is too large. Raises ``Overload`` while too much is under way."""
        length = headers.get(b"content-length", b"0")
        size = int(length) if length.isdigit() and len(length) < 20 else 0
        if size > self.limits.body:
            return None
        held.hold(size)  # what is announced has its place before it comes
        message = await receive()
        if not message.get("more_body"):
            if message["type"] == "http.disconnect":
                raise _Gone
            whole: bytes = message.get("body", b"")
            held.hold(len(whole) - size)
            return whole if len(whole) <= self.limits.body else None
        chunks: list[bytes] = []
        got = 0
        try:
            async with asyncio.timeout(self.limits.slow):
                while True:
                    chunk = message.get("body", b"")
                    got += len(chunk)
                    if got > self.limits.body:
                        return None
                    held.hold(got - held.bytes)
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
        except TimeoutError:
            raise _Gone from None

    # ---- what is not an event

    async def mended(self) -> bool:
        """Whether the inbox can be written; where it could not be that is tried again, once a second at most."""
        if not self.healthy and clock.monotonic() - self._tried > 1.0:
            self._tried = clock.monotonic()
            with contextlib.suppress(InboxError):
                await asyncio.to_thread(self.inbox.check)
                self.healthy = True
        return self.healthy

    def _get(self, path: str) -> tuple[int, bytes, bytes] | None:
        """Return health, metrics, and what browser libraries ask for at start."""
        if path == "/health":
            state = (
                b'{"status":"ok"}' if self.healthy else b'{"status":"the inbox cannot be written"}'
            )
            return (200 if self.healthy else 503), state, JSON
        if path == "/metrics":
            return 200, self.metrics().encode(), b"text/plain; version=0.0.4"
        return stub(path)

    def metrics(self) -> str:
        """Return counters in Prometheus' text format."""
        lines = ["# TYPE propend_events_accepted_total counter"]
        for (source, dialect), n in sorted(self.events.items()):
            lines.append(
                f'propend_events_accepted_total{{source="{source}",dialect="{dialect}"}} {n}'
            )
        for name, n in sorted(self.counts.items()):
            lines += [
                f"# TYPE propend_collect_{name}_total counter",
                f"propend_collect_{name}_total {n}",
            ]
        lines += [
            "# TYPE propend_commits_total counter",
            f"propend_commits_total {self.writer.commits}",
        ]
        return "\n".join(lines) + "\n"


class _Gone(Exception):  # noqa: N818 - the client went away
    pass


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _marks(request: Request, agent: str) -> str:
    marks = "bot" if is_bot(agent) else ""
    if request.headers.get(b"sec-gpc") == b"1":
        marks = f"{marks} gpc".strip()
    if request.headers.get(b"dnt") == b"1":
        marks = f"{marks} dnt".strip()
    return marks


async def _without_ips(body: bytes) -> bytes:
    return cut_ips(body) if len(body) <= _SMALL else await asyncio.to_thread(cut_ips, body)


def _query(raw: bytes) -> dict[str, str]:
    if not raw:
        return {}
    from urllib.parse import parse_qsl

    try:
        return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return {}


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    kind: bytes,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [*_CORS] if status == 204 and not body else [_CORS[0]]
    if status != 204:
        headers += [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if extra:
        headers += extra
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if status == 204 else body})
