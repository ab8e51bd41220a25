"""What a vendor's dialect must do: say how a request is answered, and later what its body means."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

import msgspec

from propend.serve.inbox import Batch
from propend.serve.vocabulary import BLOCKED_IDS, is_bot, of_role, type_of

__all__ = [
    "Accepted",
    "BadBody",
    "Dialect",
    "Event",
    "Fact",
    "Refused",
    "Request",
    "basic_user",
    "corrected",
    "decode",
    "expand",
    "flatten",
    "given_key",
    "message_id",
    "moment_of",
    "name_of",
    "number_of",
    "payload_of_form",
    "source_of",
    "text_of",
    "wrapper_of",
]

JSON: Final = b"application/json"
TEXT: Final = b"text/plain"
_AROUND: Final = 4 << 10
"""Bytes of what stands beside the list of events that each refused event keeps with it."""
MOST_FIELDS: Final = 1_000
MOST_BYTES: Final = 1 << 20
EARLIEST: Final = 0
LATEST: Final = 4_102_444_800_000_000
"""The year 2100: a time beyond it is a broken clock, not a future event."""
SKEW: Final = 5_000_000
"""A client's clock is corrected when it is off by more than this (µs); below it, it is the way that took the time."""


class BadBody(ValueError):  # noqa: N818 - it names what is wrong, as the answers do
    """The body cannot be read; the message is the reason."""


@dataclass(slots=True)
class Request:
    """A request as a dialect sees it: body decompressed, header names in small letters."""

    path: str
    query: dict[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header, or nothing."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def agent(self) -> str:
        """Return who says to be asking, cut."""
        return self.header(b"user-agent")[:500]


@dataclass(slots=True)
class Accepted:
    """What to answer once the body is on the disk."""

    key: str
    count: int
    body: bytes
    """What is stored: the body as one JSON value."""
    reply: bytes = b'{"success": true}'
    status: int = 200
    type: bytes = JSON
    refused: list[tuple[str, bytes]] = field(default_factory=list)
    """Reasons and originals of events that are known to be bad already."""
    store: bool = True


class Event(msgspec.Struct, kw_only=True):
    """One event in the workspace's words. Times are UTC microseconds."""

    user: str
    anonymous: str = ""
    time: int
    type: str
    name: str = ""
    item: str | None = None
    value: float | None = None
    quantity: float | None = None
    price: float | None = None
    session: str | None = None
    text: str | None = None
    channel: str | None = None
    message: str
    properties: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    marks: str = ""


class Fact(msgspec.Struct, kw_only=True):
    """Two ids are one person, from ``time`` on, says ``message``; a fact can be undone."""

    time: int
    kind: str
    """``identify`` (an anonymous visitor logged in), ``alias`` or ``merge``."""
    one: str
    other: str
    message: str
    arrival: int = 0
    """When it became known; 0 until it is read from the inbox."""


class Refused(msgspec.Struct, kw_only=True):
    """An event that cannot be used, with the reason."""

    reason: str
    original: bytes


class Dialect(Protocol):
    """One vendor's wire format."""

    name: str

    def accept(self, request: Request) -> Accepted:
        """Judge a request as a whole. Raises :class:`BadBody` where the body is unreadable."""
        ...

    def bad(self, request: Request, reason: str) -> tuple[int, bytes, bytes]:
        """Return status, body and content type for a body that cannot be read."""
        ...

    def events(self, batch: Batch) -> Iterator[Event | Fact | Refused]:
        """Yield what a stored batch means, in its order."""
        ...


_decoder = msgspec.json.Decoder()


def decode(body: bytes) -> Any:
    """Return a JSON value; raises :class:`BadBody` in one sentence for anything else, however deep."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadBody(f"the body is not JSON ({type(error).__name__}: {str(error)[:80]})") from None


def payload_of_form(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the JSON in a form's ``data`` field (plain or base64) and the other fields; JSON is returned as it is.

    >>> payload_of_form(b"data=eyJhIjogMX0%3D&verbose=1")
    (b'{"a": 1}', {'verbose': '1'})
    """
    start = body.lstrip()[:1]
    if start in (b"{", b"["):
        return body, {}
    if b"data=" not in body[:65_536] and b"=" not in body[:64]:
        return unbase64(body), {}
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise BadBody("the body is neither JSON nor a form") from None
    values = {name: parts[-1] for name, parts in fields.items()}
    data = values.pop("data", "")
    return unbase64(data.encode()), values


def unbase64(data: bytes) -> bytes:
    """Return JSON that may be wrapped in base64 (with ``+`` read as a space by form decoding)."""
    if data.lstrip()[:1] in (b"{", b"["):
        return data
    try:
        return base64.b64decode(
            data.replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/")
            + b"=" * (-len(data) % 4)
        )
    except (binascii.Error, ValueError):
        raise BadBody("the data is neither JSON nor base64") from None


def basic_user(request: Request) -> str:
    """Return the user of HTTP Basic authentication, or the Bearer token, or nothing."""
    given = request.header(b"authorization")
    if given[:6].lower() == "basic ":
        try:
            return base64.b64decode(given[6:]).decode("utf-8", "replace").partition(":")[0]
        except (binascii.Error, ValueError):
            return ""
    return given[7:].strip() if given[:7].lower() == "bearer " else ""


def given_key(request: Request) -> str:
    """Return the write key that stands outside the body, or nothing."""
    named = (request.query.get(name) for name in ("writeKey", "key", "api_secret"))
    return (
        request.header(b"x-write-key") or basic_user(request) or next((n for n in named if n), "")
    )


def source_of(key: str, keys: Mapping[str, str]) -> str | None:
    """Return the source of a write key, ``None`` for an unknown one; without any keys declared, every key will do.

    >>> source_of("id:secret", {"id": "web"}), source_of("x", {"id": "web"}), source_of("x", {})
    ('web', None, 'live')
    """
    if not keys:
        return "live"
    return keys.get(key) or keys.get(key.partition(":")[0])  # Jitsu's keys are KEY:SECRET


def wrapper_of(body: bytes) -> Callable[[bytes], bytes]:
    """Return what makes a body of one event of a request, with what the request says of all of them, to be read again.

    >>> wrapper_of(b'{"batch": [{"a": 1}, 7], "sentAt": "x"}')(b"7")
    b'{"batch":[7],"sentAt":"x"}'
    """
    before = behind = b""
    try:
        data = decode(body)
    except BadBody:
        data = None
    if isinstance(data, list):
        before, behind = b"[", b"]"
    elif isinstance(data, dict):
        name = next((n for n in ("batch", "events") if isinstance(data.get(n), list)), None)
        if name is not None:
            before, behind = b'{"' + name.encode() + b'":[', b"]"
            del data[name]
            for key, value in data.items():
                field = b"," + msgspec.json.encode(key) + b":" + msgspec.json.encode(value)
                if len(behind) + len(field) <= _AROUND:
                    behind += field
            behind += b"}"

    def wrap(original: bytes) -> bytes:
        try:
            decode(original)
        except BadBody:  # cut, or never was JSON
            return original
        return before + original + behind

    return wrap


def text_of(value: Any) -> str:
    """Return an id as text; nothing for what is no id.

    >>> text_of(12), text_of(" a "), text_of(None), text_of({}), text_of("null")
    ('12', 'a', '', '', '')
    """
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, bool) or value is None:
        return ""
    elif isinstance(value, int):
        text = str(value)
    elif isinstance(value, float):
        text = str(int(value)) if value.is_integer() and abs(value) < 1e18 else str(value)
    else:
        return ""
    return "" if (text.casefold() in BLOCKED_IDS and text != "0") or len(text) > 1_000 else text


def number_of(value: Any) -> float | None:
    """Return a finite number, also from text; ``None`` for anything else.

    >>> number_of("12.5"), number_of(True), number_of("x"), number_of(float("inf"))
    (12.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def moment_of(value: Any) -> int | None:
    """Return UTC microseconds of an ISO 8601 text or an epoch in seconds, milli-, micro- or nanoseconds.

    A time without a zone is UTC, which is what every stock client means.

    >>> moment_of("2026-01-02T03:04:05.678Z"), moment_of(1767323045.678), moment_of(1767323045678)
    (1767323045678000, 1767323045678000, 1767323045678000)
    """
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            number = number_of(value)
            return None if number is None else moment_of(number)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        delta = when - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    number = number_of(value)
    if number is None or isinstance(value, str):
        return None
    size = abs(number)
    scale = 1e-3 if size > 1e17 else 1 if size > 1e14 else 1e3 if size > 1e11 else 1e6
    return int(value * scale) if isinstance(value, int) and scale >= 1 else round(number * scale)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def corrected(time: int | None, sent: int | None, received: int) -> int:
    """Return when an event happened on our clock: the client's clock is off by ``received − sent``.

    >>> corrected(100_000_000, 160_000_000, 1_000_000_000), corrected(7, None, 9), corrected(None, 1, 9)
    (940000000, 7, 9)
    """
    if time is None:
        return received
    if sent is None or abs(received - sent) <= SKEW:
        return time
    return time + (received - sent)


def flatten(properties: Mapping[str, Any], depth: int = 0, prefix: str = "") -> dict[str, Any]:
    """Return properties with nested ones as ``outer.inner``, two levels deep; lists are left out.

    >>> flatten({"a": 1, "b": {"c": "x"}, "d": [1]})
    {'a': 1, 'b.c': 'x'}
    """
    found: dict[str, Any] = {}
    for name, value in properties.items():
        if isinstance(value, dict):
            if depth < 2:
                found.update(flatten(value, depth + 1, f"{prefix}{name}."))
        elif value is not None and not isinstance(value, list):
            found[prefix + name] = value
    return found


def message_id(raw: bytes, *parts: str) -> str:
    """Return a name that is a hash of what an event says."""
    digest = hashlib.blake2b(raw, digest_size=12)
    for part in parts:
        digest.update(b"\0" + part.encode())
    return "h-" + digest.hexdigest()


def name_of(raw: bytes, batch: Batch, place: int, *, timed: bool) -> str:
    """Return a name for an event that came without one.

    One that says when it happened is named by what it says, so that a repeat is known as one. One that does not is named by
    where it stands too: two clicks that look alike are two clicks. A file imported again holds the same rows.
    """
    if timed or "import" in batch.marks.split():
        return message_id(raw)
    return message_id(raw, str(batch.position), str(place))


def expand(
    *,
    user: str,
    anonymous: str,
    time: int,
    name: str,
    message: str,
    properties: Mapping[str, Any],
    lines: Any = None,
    context: Mapping[str, Any] | None = None,
    traits: Mapping[str, Any] | None = None,
    marks: str = "",
    session: str | None = None,
    channel: str | None = None,
    agent: str = "",
    type: str | None = None,
    original: Any,
) -> Iterator[Event | Refused]:
    """Yield the events a vendor's event (``original``) stands for: one, or one per product of an order."""
    who = user or anonymous
    fault = ""
    if not who:
        fault = "no user or anonymous id"
    elif len(properties) > MOST_FIELDS:
        fault = f"more than {MOST_FIELDS} properties"
    elif not EARLIEST < time < LATEST:
        fault = "the time is impossible"
    if fault:
        yield Refused(reason=fault, original=msgspec.json.encode(original))
        return
    props = dict(properties)
    if context:
        campaign = context.get("campaign")
        if channel is None and isinstance(campaign, dict):
            channel = text_of(campaign.get("source")) or text_of(campaign.get("medium")) or None
        agent = str(context.get("userAgent") or agent)
    if agent and is_bot(agent) and "bot" not in marks:
        marks = f"{marks} bot".strip()
    common: dict[str, Any] = {
        "user": who[:1_000],
        "anonymous": anonymous,
        "time": time,
        "type": type or type_of(name),
        "name": name[:200],
        "session": session or _text(of_role(props, "session")),
        "text": _text(of_role(props, "text"), 10_000),
        "channel": channel or _text(of_role(props, "channel")),
        "traits": dict(traits or {}),
        "marks": marks,
    }
    flat = flatten(props)
    products = (
        [line for line in lines if isinstance(line, dict)][:500] if isinstance(lines, list) else []
    )
    if not products:
        yield Event(
            **common,
            item=_text(of_role(props, "item")),
            value=_value(props),
            quantity=number_of(of_role(props, "quantity")),
            price=number_of(of_role(props, "price")),
            message=message,
            properties=flat,
        )
        return
    total, single = _value(props), len(products) == 1
    for place, line in enumerate(products):
        price, quantity = number_of(of_role(line, "price")), number_of(of_role(line, "quantity"))
        value = price * (1.0 if quantity is None else quantity) if price is not None else None
        yield Event(
            **common,
            item=_text(of_role(line, "item")) or _text(of_role(props, "item")),
            value=total if single and value is None else value,
            quantity=quantity,
            price=price,
            message=message if place == 0 else f"{message}#{place}",
            properties={**flat, **flatten(line)},
        )


def _text(value: Any, most: int = 500) -> str | None:
    text = text_of(value) if not isinstance(value, str) else value.strip()
    return text[:most] or None


def _value(props: Mapping[str, Any]) -> float | None:
    given = number_of(of_role(dict(props), "value"))
    if given is not None:
        return given
    price, quantity = (
        number_of(of_role(dict(props), "price")),
        number_of(of_role(dict(props), "quantity")),
    )
    return None if price is None else price * (1.0 if quantity is None else quantity)
