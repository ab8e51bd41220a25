"""Google Analytics 4 Measurement Protocol: ``/mp/collect``, answered 204 with no body.

Source: developers.google.com/analytics/devguides/collection/protocol/ga4. There is no event id; the name is a hash of
the tuple of client, time, event and parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["GA4"]


class GA4:
    """Events of a ``client_id`` or ``app_instance_id``; the write key is the ``api_secret``."""

    name = "ga4"

    def accept(self, request: Request) -> Accepted:
        """Take up to 25 events (more are taken too)."""
        data = port.decode(request.body)
        if not isinstance(data, dict) or not isinstance(data.get("events"), list):
            raise BadBody('the body has no list "events"')
        key = request.query.get("api_secret", "") or request.query.get("measurement_id", "")
        return Accepted(key, len(data["events"]), request.body, b"", 204, port.TEXT)

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 with the reason; the real service would say nothing."""
        del request
        return 400, msgspec.json.encode({"error": reason}), port.JSON

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the events mean."""
        data = port.decode(batch.body)
        user = port.text_of(data.get("user_id"))
        client = port.text_of(data.get("client_id") or data.get("app_instance_id"))
        when = port.moment_of(data.get("timestamp_micros")) or batch.received
        consent = data.get("consent")
        denied = isinstance(consent, dict) and "DENIED" in [
            str(v).upper() for v in consent.values()
        ]
        marks = (batch.marks + (" denied" if denied else "")).strip()
        stamp = (
            str(data["timestamp_micros"]) if data.get("timestamp_micros") else str(batch.position)
        )
        if user and client and user != client:
            yield Fact(
                time=when,
                kind="identify",
                one=client,
                other=user,
                message=port.message_id(batch.body, stamp),
            )
        for place, e in enumerate(data["events"]):
            if not isinstance(e, dict) or not isinstance(e.get("name"), str):
                yield Refused(
                    reason="an event without a name",
                    original=msgspec.json.encode(e)[: port.MOST_BYTES],
                )
                continue
            given = e.get("params")
            params: dict[str, Any] = given if isinstance(given, dict) else {}
            own = port.moment_of(params.get("timestamp_micros")) or when
            yield from port.expand(
                user=user, anonymous=client, time=own, name=e["name"],
                message=port.message_id(msgspec.json.encode(e), client, user, stamp, str(place)), properties=params,
                lines=params.get("items"), traits=_values(data.get("user_properties")), marks=marks, agent=batch.agent, original=e,
            )  # fmt: skip


def _values(properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        return {}
    return {k: v.get("value") if isinstance(v, dict) else v for k, v in properties.items()}
