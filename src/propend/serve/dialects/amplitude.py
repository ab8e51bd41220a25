"""Amplitude: ``/2/httpapi`` and its ``/batch``. The answer must be JSON with a numeric ``code``.

Source: amplitude.com/docs/apis/analytics/http-v2. On 400 without named faults stock clients resend the whole batch up
to 12 times, so single bad events are set aside and the rest is answered with 200.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from typing import Any

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["Amplitude"]


class Amplitude:
    """Events with ``user_id`` or ``device_id``, ``event_type`` and ``insert_id``."""

    name = "amplitude"

    def accept(self, request: Request) -> Accepted:
        """Take a batch."""
        data = port.decode(request.body)
        if not isinstance(data, dict) or not isinstance(data.get("events"), list):
            raise BadBody("missing_field:events")
        reply = {
            "code": 200, "events_ingested": len(data["events"]), "payload_size_bytes": len(request.body),
            "server_upload_time": int(clock.time() * 1_000),
        }  # fmt: skip
        return Accepted(
            port.text_of(data.get("api_key")),
            len(data["events"]),
            request.body,
            msgspec.json.encode(reply),
        )

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 and name the missing field, which keeps clients from resending."""
        del request
        missing = reason.partition(":")[2] if reason.startswith("missing_field:") else "events"
        return (
            400,
            msgspec.json.encode({"code": 400, "error": reason, "missing_field": missing}),
            port.JSON,
        )

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the events mean."""
        data = port.decode(batch.body)
        for place, e in enumerate(data["events"]):
            raw = msgspec.json.encode(e)
            if (
                not isinstance(e, dict)
                or not isinstance(e.get("event_type"), str)
                or len(raw) > port.MOST_BYTES
            ):
                yield Refused(
                    reason="an event without event_type, or of more than 1 MB",
                    original=raw[: port.MOST_BYTES],
                )
                continue
            yield from self._event(e, raw, batch, place)

    def _event(
        self, e: dict[str, Any], raw: bytes, batch: Batch, place: int
    ) -> Iterator[Event | Fact | Refused]:
        user, device = port.text_of(e.get("user_id")), port.text_of(e.get("device_id"))
        given_time = port.moment_of(e.get("time"))
        when = given_time or batch.received
        inserted = port.text_of(e.get("insert_id"))
        name = (
            f"{device}|{inserted}"
            if inserted
            else port.name_of(raw, batch, place, timed=given_time is not None)
        )
        if user and device and user != device:
            yield Fact(time=when, kind="identify", one=device, other=user, message=name)
        given, updates = e.get("event_properties"), e.get("user_properties")
        props = dict(given) if isinstance(given, dict) else {}
        for role, field in (
            ("price", "price"),
            ("quantity", "quantity"),
            ("value", "revenue"),
            ("product_id", "productId"),
        ):
            if e.get(field) is not None:
                props.setdefault(
                    role, port.number_of(e[field]) if role != "product_id" else e[field]
                )
        traits: dict[str, Any] = {}
        if isinstance(updates, dict):
            nested = [
                v for k, v in updates.items() if k in ("$set", "$setOnce") and isinstance(v, dict)
            ]
            traits = {k: v for part in nested for k, v in part.items()} or {
                k: v for k, v in updates.items() if k[:1] != "$"
            }
        kinds = {
            "$identify": "identify",
            "$groupidentify": "group",
            "revenue_amount": "purchase",
            "$exposure": "exposure",
        }
        session = e.get("session_id")
        yield from port.expand(
            user=user, anonymous=device, time=when, name=e["event_type"], message=name, properties=props,
            lines=props.get("products"), traits=traits, marks=batch.marks, agent=str(e.get("user_agent") or batch.agent),
            session=port.text_of(session) if session not in (None, -1) else None, type=kinds.get(e["event_type"]), original=e,
        )  # fmt: skip
