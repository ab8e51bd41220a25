"""Segment, RudderStack and Jitsu: one message format, three sets of paths.

Sources: segment-docs ``connections/spec/common.md``; RudderStack ``gateway/openapi.yaml``; Jitsu ``HTTPApi.tsx``.
RudderStack's Node client labels gzipped JSON as a form and sends ``originalTimestamp``; Jitsu masks the key in the
body and sends the real one in ``X-Write-Key``: so bytes decide the format, and headers win over the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["LETTERS", "Segment"]

LETTERS: Final = {
    "t": "track",
    "i": "identify",
    "p": "page",
    "s": "screen",
    "g": "group",
    "a": "alias",
    "b": "batch",
}
TYPES: Final = frozenset({"track", "identify", "page", "screen", "group", "alias"})


class _Head(msgspec.Struct):
    """The part of a body that is read before answering."""

    batch: list[msgspec.Raw] | None = None
    writeKey: Any = None  # noqa: N815 - the vendor's name


_head = msgspec.json.Decoder(_Head)


class Segment:
    """Messages of type track, identify, page, screen, group and alias, alone or in a batch."""

    name = "segment"

    def accept(self, request: Request) -> Accepted:
        """Take one message or a batch."""
        try:
            head = _head.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadBody(f"the body is not JSON ({str(error)[:80]})") from None
        key = (
            request.header(b"x-write-key")
            or port.basic_user(request)
            or port.text_of(head.writeKey)
        )
        if not key and "writeKey" in request.query:
            key = request.query["writeKey"]
        return Accepted(key, len(head.batch) if head.batch is not None else 1, request.body)

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400, as Segment does for invalid JSON only."""
        del request
        return 400, msgspec.json.encode({"success": False, "message": reason}), port.JSON

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the messages mean."""
        try:
            data = port.decode(batch.body)
        except BadBody as error:
            yield Refused(reason=str(error), original=batch.body[: port.MOST_BYTES])
            return
        if isinstance(data, list):
            data = {"batch": data}
        if not isinstance(data, dict):
            yield Refused(reason="the body is no object", original=batch.body[: port.MOST_BYTES])
            return
        messages = data.get("batch")
        kind = batch.route.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        kind = LETTERS.get(kind, kind)
        for place, message in enumerate(messages if isinstance(messages, list) else [data]):
            if not isinstance(message, dict):
                yield Refused(
                    reason="a message that is no object",
                    original=msgspec.json.encode(message)[: port.MOST_BYTES],
                )
                continue
            raw = (
                msgspec.json.encode(message)
                if not message.get("messageId") or len(batch.body) > port.MOST_BYTES
                else b""
            )
            if len(raw) > port.MOST_BYTES:
                yield Refused(reason="a message of more than 1 MB", original=raw[:10_000])
                continue
            yield from self._message(message, data, batch, kind, raw, place)

    def _message(
        self,
        m: dict[str, Any],
        data: dict[str, Any],
        batch: Batch,
        kind: str,
        raw: bytes,
        place: int,
    ) -> Iterator[Event | Fact | Refused]:
        what = m.get("type") if m.get("type") in TYPES else kind
        if what not in TYPES:
            yield Refused(
                reason=f"no message type {str(m.get('type'))[:40]!r}",
                original=raw or msgspec.json.encode(m),
            )
            return
        sent = port.moment_of(m.get("sentAt")) or port.moment_of(data.get("sentAt"))
        given_time = port.moment_of(m.get("originalTimestamp") or m.get("timestamp"))
        when = port.corrected(given_time, sent, batch.received)
        timed = given_time is not None
        name = str(m.get("messageId") or port.name_of(raw, batch, place, timed=timed))[:200]
        user, anonymous = port.text_of(m.get("userId")), port.text_of(m.get("anonymousId"))
        shared = data.get("context") if data is not m else None
        context = {
            **(shared if isinstance(shared, dict) else {}),
            **(m["context"] if isinstance(m.get("context"), dict) else {}),
        }
        properties = m.get("properties")
        props = properties if isinstance(properties, dict) else {}
        given = m.get("traits") or context.get("traits")
        traits = given if isinstance(given, dict) else {}
        marks = batch.marks + (" denied" if _denied(context) else "")
        if what == "alias":
            previous = port.text_of(m.get("previousId"))
            if user and previous and user != previous:
                yield Fact(time=when, kind="alias", one=previous, other=user, message=name)
            user = user or previous
        elif user and anonymous and user != anonymous:
            yield Fact(time=when, kind="identify", one=anonymous, other=user, message=name)
        title = str(m.get("event") or "") if what == "track" else what
        if what == "track" and not title:
            yield Refused(
                reason="a track message without an event name",
                original=raw or msgspec.json.encode(m),
            )
            return
        if what in ("page", "screen") and m.get("name"):
            props = {"name": m["name"], **props}
        if what == "group":
            props = {"group": m.get("groupId"), **traits}
        yield from port.expand(
            user=user, anonymous=anonymous, time=when, name=title, message=name, properties=props, lines=props.get("products"),
            context=context, traits=traits if what == "identify" else None, marks=marks.strip(), agent=batch.agent,
            type=None if what == "track" else what, original=m,
        )  # fmt: skip


def _denied(context: dict[str, Any]) -> bool:
    consent = context.get("consent")
    choices = consent.get("categoryPreferences") if isinstance(consent, dict) else None
    if not isinstance(choices, dict) or not choices:
        return False
    named = [v for k, v in choices.items() if "analytic" in str(k).lower()]
    return not any(named or choices.values())
