"""Snowplow tracker protocol 2: ``POST /com.snowplowanalytics.snowplow/tp2`` and ``GET /i``; any 2xx will do.

Source: docs.snowplow.io, tracker protocol. ``e`` is pv (page view), se (structured), ue (self-describing), tr, ti.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from propend.serve.dialects import port
from propend.serve.dialects.port import Accepted, BadBody, Event, Fact, Refused, Request
from propend.serve.inbox import Batch

__all__ = ["Snowplow"]


class Snowplow:
    """Payloads of string fields; the write key is the application id (``aid``)."""

    name = "snowplow"

    def accept(self, request: Request) -> Accepted:
        """Take a payload."""
        if not request.body:
            rows: Any = [request.query]
        else:
            data = port.decode(request.body)
            rows = data.get("data") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise BadBody('the body has no list "data"')
        rows = [_unwrapped(row) if isinstance(row, dict) else row for row in rows]
        first = rows[0] if rows and isinstance(rows[0], dict) else {}
        return Accepted(
            port.text_of(first.get("aid")),
            len(rows),
            msgspec.json.encode(rows),
            b"ok",
            type=port.TEXT,
        )

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Answer 400 in plain text."""
        del request
        return 400, reason.encode(), port.TEXT

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what the rows mean."""
        for place, row in enumerate(port.decode(batch.body)):
            if not isinstance(row, dict):
                yield Refused(
                    reason="a row that is no object",
                    original=msgspec.json.encode(row)[: port.MOST_BYTES],
                )
                continue
            yield from self._row(row, batch, place)

    def _row(
        self, row: dict[str, Any], batch: Batch, place: int
    ) -> Iterator[Event | Fact | Refused]:
        raw = msgspec.json.encode(row)
        user = port.text_of(row.get("uid"))
        anonymous = port.text_of(row.get("duid") or row.get("nuid") or row.get("tnuid"))
        given_time = port.moment_of(row.get("ttm") or row.get("dtm"))
        name = port.text_of(row.get("eid")) or port.name_of(
            raw, batch, place, timed=given_time is not None
        )
        when = port.corrected(given_time, port.moment_of(row.get("stm")), batch.received)
        if user and anonymous and user != anonymous:
            yield Fact(time=when, kind="identify", one=anonymous, other=user, message=name)
        kind = row.get("e")
        props: dict[str, Any] = {}
        title, fixed = str(kind or ""), None
        match kind:
            case "pv":
                props, fixed = {"url": row.get("url"), "title": row.get("page")}, "page"
            case "se":
                title = str(row.get("se_ac") or "structured")
                props = {
                    "category": row.get("se_ca"),
                    "label": row.get("se_la"),
                    "property": row.get("se_pr"),
                    "value": row.get("se_va"),
                }
            case "tr":
                props = {
                    "order_id": row.get("tr_id"),
                    "value": row.get("tr_tt"),
                    "channel": row.get("tr_af"),
                }
                fixed = "purchase"
            case "ti":
                props = {
                    "order_id": row.get("ti_id"),
                    "sku": row.get("ti_sk"),
                    "price": row.get("ti_pr"),
                    "quantity": row.get("ti_qu"),
                }
                fixed = "purchase_line"
            case "pp":
                fixed = "page_ping"
            case "ue":
                title, props = _described(row)
            case _:
                yield Refused(
                    reason=f"no event kind {str(kind)[:20]!r}", original=raw[: port.MOST_BYTES]
                )
                return
        yield from port.expand(
            user=user, anonymous=anonymous, time=when, name=title, message=name, properties=props, marks=batch.marks,
            lines=props.get("products"), agent=str(row.get("ua") or batch.agent), session=port.text_of(row.get("sid")) or None,
            channel=_campaign(str(row.get("url") or "")), type=fixed,
            original=row,
        )  # fmt: skip


def _unwrapped(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with JSON in place of JSON in base64, so that nothing in it is hidden from who cuts addresses."""
    for wrapped, plain in (("ue_px", "ue_pr"), ("cx", "co")):
        text = row.get(wrapped)
        if isinstance(text, str) and text:
            try:
                said = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, ValueError):
                continue
            row = {k: v for k, v in row.items() if k != wrapped} | {plain: row.get(plain) or said}
    return row


def _described(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and data of a self-describing event (``ue_pr``)."""
    try:
        outer = port.decode(str(row.get("ue_pr")).encode())
        inner = outer["data"]
        schema = str(inner["schema"])  # iglu:vendor/name/jsonschema/1-0-0
        return schema.removeprefix("iglu:").split("/")[1], inner["data"] if isinstance(
            inner["data"], dict
        ) else {}
    except (BadBody, KeyError, TypeError, IndexError):
        return "self_describing", {}


def _campaign(url: str) -> str | None:
    query = dict(parse_qsl(url.partition("?")[2]))
    return query.get("utm_source")
