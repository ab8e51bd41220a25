"""Mixpanel: ``/track`` (form, JSON, or GET), ``/import`` (JSON lines, strict or form), ``/engage`` and ``/groups``.

Sources: mixpanel/docs ``openapi/ingestion.openapi.yaml``, ``reference/import-events.mdx``. Stock Python raises unless
``status`` is 1; stock Node wants exactly ``1``; 204 is a failure for both.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from typing import Any

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["Mixpanel", "MixpanelImport"]


class Mixpanel:
    """``/track``, ``/engage`` and ``/groups``: answered ``1``, or with a status where ``verbose=1`` was asked."""

    name = "mixpanel"

    def accept(self, request: Request) -> Accepted:
        """Take events or profile updates."""
        data = request.query.get("data")
        body, fields = port.payload_of_form(
            data.encode() if data and not request.body else request.body
        )
        parsed = port.decode(body)
        rows = parsed if isinstance(parsed, list) else [parsed]
        verbose = request.query.get("verbose") == "1" or fields.get("verbose") == "1"
        reply = b'{"status":1,"error":null}' if verbose else b"1"
        return Accepted(
            _token(rows) or port.basic_user(request) or fields.get("api_key", ""),
            len(rows),
            body,
            reply,
            type=port.JSON if verbose else port.TEXT,
        )

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 with status 0."""
        del request
        return 400, msgspec.json.encode({"status": 0, "error": reason}), port.JSON

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the rows mean."""
        data = port.decode(batch.body)
        for place, row in enumerate(data if isinstance(data, list) else [data]):
            if not isinstance(row, dict):
                yield Refused(
                    reason="a row that is no object",
                    original=msgspec.json.encode(row)[: port.MOST_BYTES],
                )
            elif "event" in row:
                yield from self._event(row, batch, place)
            else:
                yield from self._update(row, batch, place)

    def _event(
        self, row: dict[str, Any], batch: Batch, place: int
    ) -> Iterator[Event | Fact | Refused]:
        raw = msgspec.json.encode(row)
        given = row.get("properties")
        props = given if isinstance(given, dict) else {}
        title = str(row.get("event") or "")
        if not title or len(raw) > port.MOST_BYTES:
            yield Refused(
                reason="no event name" if not title else "an event of more than 1 MB",
                original=raw[: port.MOST_BYTES],
            )
            return
        given_time = port.moment_of(props.get("time"))
        when = given_time or batch.received
        given_name = port.text_of(props.get("$insert_id"))
        who = port.text_of(props.get("$user_id") or props.get("distinct_id"))
        name = (
            f"{title}|{who}|{given_time or ''}|{given_name}"
            if given_name
            else port.name_of(raw, batch, place, timed=given_time is not None)
        )
        device = port.text_of(props.get("$device_id"))
        anonymous = (
            f"$device:{device}"
            if device and port.text_of(props.get("distinct_id")).startswith("$device:")
            else device
        )
        if title == "$create_alias":
            other = port.text_of(props.get("alias"))
            if who and other and who != other:
                yield Fact(time=when, kind="alias", one=other, other=who, message=name)
        elif title in ("$merge", "$identify"):
            ids = props.get("$distinct_ids") or [props.get("$anon_id"), props.get("$identified_id")]
            pair = [port.text_of(i) for i in ids] if isinstance(ids, list) else []
            if len(pair) >= 2 and pair[0] and pair[1] and pair[0] != pair[1]:
                yield Fact(time=when, kind="merge", one=pair[0], other=pair[1], message=name)
                who = who or pair[0]
        elif anonymous and who and anonymous != who:
            yield Fact(time=when, kind="identify", one=anonymous, other=who, message=name)
        kinds = {
            "$create_alias": "alias",
            "$merge": "alias",
            "$identify": "identify",
            "$mp_web_page_view": "page",
        }
        marks = batch.marks + (" bot" if props.get("$ignore") else "")
        yield from port.expand(
            user=who, anonymous=anonymous, time=when, name=title, message=name, properties=props, lines=props.get("items"),
            marks=marks.strip(), agent=batch.agent, type=kinds.get(title), original=row,
        )  # fmt: skip

    def _update(
        self, row: dict[str, Any], batch: Batch, place: int
    ) -> Iterator[Event | Fact | Refused]:
        who = port.text_of(row.get("$distinct_id"))
        group = port.text_of(row.get("$group_id"))
        raw = msgspec.json.encode(row)
        if not who and not group:
            yield Refused(
                reason="no event name and no $distinct_id", original=raw[: port.MOST_BYTES]
            )
            return
        traits = {**_dict(row.get("$set_once")), **_dict(row.get("$set"))}
        given_time = port.moment_of(row.get("$time"))
        yield from port.expand(
            user=who or f"group:{group}", anonymous="", time=given_time or batch.received, name="identify" if who else "group",
            message=port.name_of(raw, batch, place, timed=given_time is not None), properties={}, traits=traits,
            marks=batch.marks, type="identify" if who else "group", original=row,
        )  # fmt: skip


class MixpanelImport(Mixpanel):
    """``/import``: JSON or JSON lines with per-event faults under ``strict=1``; a form as ``/track``."""

    name = "mixpanel_import"

    def accept(self, request: Request) -> Accepted:
        """Take an import."""
        if request.body.lstrip()[:1] not in (b"{", b"["):
            return super().accept(request)
        rows = _rows(request.body)
        failed: list[dict[str, Any]] = []
        good: list[Any] = []
        refused: list[tuple[str, bytes]] = []
        for index, row in enumerate(rows):
            fault = _fault(row)
            if fault is None:
                good.append(row)
                continue
            properties = row.get("properties") if isinstance(row, dict) else None
            insert = properties.get("$insert_id") if isinstance(properties, dict) else None
            failed.append(
                {"index": index, "insert_id": insert, "field": fault[0], "message": fault[1]}
            )
            refused.append((fault[1], msgspec.json.encode(row)[: port.MOST_BYTES]))
        strict = request.query.get("strict", "1") == "1"
        key = port.basic_user(request) or _token(rows)
        body = msgspec.json.encode(good)
        if failed and strict:
            reply = {
                "code": 400, "error": "some data points in the request failed validation", "status": "Bad Request",
                "num_records_imported": len(good), "failed_records": failed,
            }  # fmt: skip
            return Accepted(
                key,
                len(good),
                body,
                msgspec.json.encode(reply),
                400,
                refused=refused,
                store=bool(good),
            )
        reply = {"code": 200, "num_records_imported": len(good), "status": "OK"}
        return Accepted(
            key, len(good), body, msgspec.json.encode(reply), refused=refused, store=bool(good)
        )


def _rows(body: bytes) -> list[Any]:
    start = body.lstrip()[:1]
    if start == b"[":
        parsed = port.decode(body)
        return parsed if isinstance(parsed, list) else [parsed]
    try:
        return msgspec.json.Decoder().decode_lines(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(
            f"the body is neither a JSON array nor JSON lines ({str(error)[:60]})"
        ) from None


def _fault(row: Any) -> tuple[str, str] | None:
    if not isinstance(row, dict) or not isinstance(row.get("properties"), dict):
        return "properties", "an event needs an object 'properties'"
    if not isinstance(row.get("event"), str) or not row["event"]:
        return "event", "'event' must be a text"
    when = port.moment_of(row["properties"].get("time"))
    if when is None:
        return "properties.time", "'properties.time' is missing or no time"
    if not 31_536_000_000_000 < when < (clock.time() + 3_600) * 1e6:
        return "properties.time", "'properties.time' is before 1971 or more than an hour ahead"
    return None


def _token(rows: list[Any]) -> str:
    for row in rows[:1]:
        if isinstance(row, dict):
            props = row.get("properties")
            return port.text_of(
                row.get("$token") or (props.get("token") if isinstance(props, dict) else "")
            )
    return ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
