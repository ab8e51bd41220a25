"""Our own route: ``POST /v1/events`` with a result per event, so that a client resends only what failed.

Body: ``{"events": [{"id", "type", "user" | "anonymous", "time"?, "item"?, "value"?, …, "properties"?}], "sent"?}``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["Own"]


class Own:
    """Events in the workspace's own words."""

    name = "own"

    def accept(self, request: Request) -> Accepted:
        """Judge each event; the good ones are kept, the bad ones are named with their reason."""
        data = port.decode(request.body)
        if isinstance(data, dict) and "events" not in data:
            data = {"events": [data]}
        events = (
            data
            if isinstance(data, list)
            else data.get("events")
            if isinstance(data, dict)
            else None
        )
        if not isinstance(events, list):
            raise BadBody('the body has no list "events"')
        results: list[dict[str, Any]] = []
        good: list[Any] = []
        refused: list[tuple[str, bytes]] = []
        for event in events:
            reason = _fault(event)
            name = event.get("id") if isinstance(event, dict) else None
            if reason:
                refused.append((reason, msgspec.json.encode(event)[: port.MOST_BYTES]))
                results.append({"id": name, "result": "refused", "reason": reason})
            else:
                if not port.text_of(name):
                    raw = msgspec.json.encode(event)
                    # without a time either, what looks alike may well be two events
                    salt = () if event.get("time") is not None else (uuid.uuid4().hex,)
                    event["id"] = name = port.message_id(raw, *salt)
                good.append(event)
                results.append({"id": name, "result": "ok"})
        key = (
            port.basic_user(request)
            or request.query.get("key", "")
            or (port.text_of(data.get("key")) if isinstance(data, dict) else "")
        )
        sent = data.get("sent") if isinstance(data, dict) else None
        return Accepted(
            key, len(good), msgspec.json.encode({"events": good, "sent": sent}), msgspec.json.encode({"results": results}),
            refused=refused, store=bool(good),
        )  # fmt: skip

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 with the reason."""
        del request
        return 400, msgspec.json.encode({"error": reason}), port.JSON

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the events mean."""
        data = port.decode(batch.body)
        sent = port.moment_of(data.get("sent"))
        for place, e in enumerate(data["events"]):
            user, anonymous = port.text_of(e.get("user")), port.text_of(e.get("anonymous"))
            given_time = port.moment_of(e.get("time"))
            when = port.corrected(given_time, sent, batch.received)
            name = port.text_of(e.get("id")) or port.name_of(
                msgspec.json.encode(e), batch, place, timed=given_time is not None
            )
            if user and anonymous and user != anonymous:
                yield Fact(time=when, kind="identify", one=anonymous, other=user, message=name)
            given = e.get("properties")
            props = {
                k: v
                for k, v in e.items()
                if k in ("item", "value", "quantity", "price", "session", "text", "channel")
            }
            if isinstance(given, dict):
                props = {**given, **props}
            marks = batch.marks + (" denied" if e.get("consent") is False else "")
            traits = e.get("traits")
            yield from port.expand(
                user=user, anonymous=anonymous, time=when, name=str(e["type"]), message=name, properties=props,
                lines=e.get("lines"), session=port.text_of(e.get("session")) or None, marks=marks.strip(), agent=batch.agent,
                traits=traits if isinstance(traits, dict) else None, original=e,
            )  # fmt: skip


def _fault(event: Any) -> str:
    if not isinstance(event, dict):
        return "an event is an object"
    if not isinstance(event.get("type"), str) or not event["type"].strip():
        return "an event needs a type"
    if not port.text_of(event.get("user")) and not port.text_of(event.get("anonymous")):
        return "an event needs a user or an anonymous id"
    if event.get("time") is not None and port.moment_of(event["time"]) is None:
        return "the time is neither ISO 8601 nor an epoch"
    if len(event) > 1_000:
        return "more than 1000 fields"
    return ""
