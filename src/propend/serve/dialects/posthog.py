"""PostHog V0 (``/batch/``, ``/e/``, ``/capture/``, ``/i/v0/e/``) and V1 (``/i/v1/analytics/events``).

Sources: PostHog/posthog ``rust/capture/src/router.rs``, ``api.rs``; ``posthog-python`` ``capture_v1.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["PostHog", "PostHogV1"]


class PostHog:
    """V0: answered ``{"status":"Ok"}`` with exactly 200."""

    name = "posthog"

    def accept(self, request: Request) -> Accepted:
        """Take a batch or a single event."""
        body, _ = port.payload_of_form(request.body)
        data = port.decode(body)
        events = (
            data
            if isinstance(data, list)
            else data.get("batch", [data])
            if isinstance(data, dict)
            else None
        )
        if not isinstance(events, list):
            raise BadBody("the body has no events")
        key = (
            port.text_of(data.get("api_key") or data.get("token")) if isinstance(data, dict) else ""
        )
        if not key and events and isinstance(events[0], dict):
            props = events[0].get("properties")
            key = port.text_of(
                events[0].get("api_key") or (props.get("token") if isinstance(props, dict) else "")
            )
        return Accepted(key, len(events), body, b'{"status":"Ok"}')

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 in plain text."""
        del request
        return 400, reason.encode(), port.TEXT

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the events mean."""
        data = port.decode(batch.body)
        events = data if isinstance(data, list) else data.get("batch", [data])
        sent = (
            None
            if isinstance(data, list)
            else port.moment_of(data.get("sent_at") or data.get("created_at"))
        )
        for place, e in enumerate(events):
            if isinstance(e, dict):
                yield from self._event(e, sent, batch, place)
            else:
                yield Refused(
                    reason="an event that is no object",
                    original=msgspec.json.encode(e)[: port.MOST_BYTES],
                )

    def _event(
        self, e: dict[str, Any], sent: int | None, batch: Batch, place: int
    ) -> Iterator[Event | Fact | Refused]:
        given = e.get("properties")
        props = given if isinstance(given, dict) else {}
        title = str(e.get("event") or "")
        user = port.text_of(
            e.get("distinct_id") or e.get("$distinct_id") or props.get("distinct_id")
        )
        raw = msgspec.json.encode(e)
        if not title or len(raw) > port.MOST_BYTES:
            yield Refused(
                reason="no event name" if not title else "an event of more than 1 MB",
                original=raw[: port.MOST_BYTES],
            )
            return
        given_time = port.moment_of(e.get("timestamp"))
        name = str(
            e.get("uuid")
            or props.get("$insert_id")
            or port.name_of(raw, batch, place, timed=given_time is not None)
        )
        when = port.corrected(given_time, sent, batch.received)
        anonymous = port.text_of(props.get("$anon_distinct_id"))
        if title in ("$create_alias", "$merge_dangerously"):
            other = port.text_of(props.get("alias"))
            if other and user and other != user:
                kind = "merge" if title == "$merge_dangerously" else "alias"
                yield Fact(time=when, kind=kind, one=other, other=user, message=name)
        elif anonymous and user and anonymous != user:
            yield Fact(time=when, kind="identify", one=anonymous, other=user, message=name)
        traits = {
            **_dict(e.get("$set_once") or props.get("$set_once")),
            **_dict(e.get("$set") or props.get("$set")),
        }
        kind_of = {
            "$identify": "identify",
            "$create_alias": "alias",
            "$set": "identify",
            "$groupidentify": "group",
        }
        marks = batch.marks + (" bot" if props.get("$is_bot") else "")
        yield from port.expand(
            user=user, anonymous=anonymous, time=when, name=title, message=name, properties=props, lines=props.get("products"),
            traits=traits, marks=marks.strip(), agent=str(props.get("$raw_user_agent") or batch.agent),
            session=port.text_of(e.get("session_id") or props.get("$session_id")) or None, type=kind_of.get(title),
            original=e,
        )  # fmt: skip


class PostHogV1(PostHog):
    """V1: a result per event; only those marked ``retry`` are sent again."""

    name = "posthog_v1"

    def accept(self, request: Request) -> Accepted:
        """Judge each event by itself."""
        data = port.decode(request.body)
        events = data.get("batch") if isinstance(data, dict) else None
        if not isinstance(events, list):
            raise BadBody('the body has no list "batch"')
        results: dict[str, dict[str, str]] = {}
        good: list[Any] = []
        refused: list[tuple[str, bytes]] = []
        for e in events:
            name = port.text_of(e.get("uuid")) if isinstance(e, dict) else ""
            if not name or not e.get("event") or not port.text_of(e.get("distinct_id")):
                reason = "an event needs uuid, event and distinct_id"
                refused.append((reason, msgspec.json.encode(e)[: port.MOST_BYTES]))
                if name:
                    results[name] = {"result": "drop", "details": reason}
            else:
                good.append(e)
                results[name] = {"result": "ok"}
        sent = request.header(b"posthog-request-timestamp") or data.get("created_at")
        body = msgspec.json.encode({"batch": good, "sent_at": sent})
        return Accepted(
            port.basic_user(request),
            len(good),
            body,
            msgspec.json.encode({"results": results}),
            refused=refused,
            store=bool(good),
        )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
