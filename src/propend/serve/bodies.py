"""Bodies as they arrive: decompressed within bounds, not absurdly deep, without whole IP addresses."""

from __future__ import annotations

import ipaddress
import re
import zlib
from functools import lru_cache
from itertools import accumulate, islice
from typing import Final

from propend.serve.dialects.port import BadBody

__all__ = ["TooLarge", "cut_ip", "cut_ips", "depth_fault", "inflate"]

_V4: Final = re.compile(rb"\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\d)")
_V6: Final = re.compile(rb":(?::|(?:[0-9a-fA-F]{1,4}:){6}[0-9a-fA-F]{1,4})")
"""What is in every address and hardly in anything else; both begin with a sign that is found at the memory's speed."""
_SIGNS: Final = b"0123456789abcdefABCDEF:."
_SAYS_IP: Final = re.compile(r"(?:^|[^a-z])ip(?:$|[^a-z]|v[46]|addr|override)|[a-z]I[pP](?:$|[A-Z_])|[aA]ddr(?:ess)?$|forwarded|^ip", re.ASCII)  # fmt: skip
_BACK: Final = 2_000
"""Bytes before an address among which its name is looked for: a list of them may lie between."""
_MOST_ADDRESSES: Final = 100_000
_TOO_DEEP: Final = 200
_MEMBERS: Final = 1_000
"""Of one gzip body; each is copied from the rest of it."""


class TooLarge(Exception):  # noqa: N818 - an answer
    """The body is larger than it may be once decompressed."""


def inflate(raw: bytes, encoding: str, most: int) -> bytes:
    """Return a decompressed body: gzip by its first bytes or its header, deflate and zstd too.

    Raises ``BadBody`` for a damaged one and stops a zip bomb at ``most`` bytes.

    >>> import gzip
    >>> inflate(gzip.compress(b"[]"), "", 10)
    b'[]'
    """
    if raw[:2] == b"\x1f\x8b":
        return _unzip(raw, 31, most)
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        return _unzstd(raw, most)
    if "deflate" in encoding:
        try:
            return _unzip(raw, 15, most)
        except BadBody:
            return _unzip(raw, -15, most)
    if len(raw) > most:
        raise TooLarge
    return raw


def _unzip(raw: bytes, bits: int, most: int) -> bytes:
    parts: list[bytes] = []
    room = most
    while True:
        engine = zlib.decompressobj(bits)
        try:
            part = engine.decompress(raw, room + 1)
        except zlib.error as error:
            raise BadBody(f"the compressed body is damaged ({error})") from None
        if len(part) > room:
            raise TooLarge
        if not engine.eof:
            raise BadBody("the compressed body ends too early")
        parts.append(part)
        room -= len(part)
        raw = engine.unused_data
        if bits != 31 or raw[:2] != b"\x1f\x8b":  # gzip may have several members (RFC 1952)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if len(parts) == _MEMBERS:
            raise BadBody(f"the compressed body has more than {_MEMBERS} members")


def _unzstd(raw: bytes, most: int) -> bytes:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
            out: bytes = stream.read(most + 1)
    except OSError as error:
        raise BadBody(f"the compressed body is damaged ({error})") from None
    if len(out) > most:
        raise TooLarge
    return out


_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OTHERS: Final = bytes(b for b in range(256) if b not in b"[]{}")
_STEP: Final = bytes(1 if b in b"[{" else 255 if b in b"]}" else 0 for b in range(256))


def depth_fault(body: bytes) -> str:
    """Name a body that is nested absurdly deep, by its brackets outside of texts; takes one pass over 16 kB at most.

    >>> depth_fault(b"[" * 300), depth_fault(b'["' + b"[" * 300 + b'"]')
    ('the body is nested too deep', '')
    """
    if body.count(b"[", 0, 4_000) + body.count(b"{", 0, 4_000) <= _TOO_DEEP:
        return ""
    brackets = _TEXT.sub(b"", body[:16_384]).translate(_STEP, _OTHERS)
    depth = max(accumulate(1 if step == 1 else -1 for step in brackets), default=0)
    return "the body is nested too deep" if depth > _TOO_DEEP else ""


@lru_cache(maxsize=10_000)
def cut_ip(ip: str) -> str:
    """Return an address without the part that names a household.

    >>> cut_ip("203.0.113.77"), cut_ip("2001:db8:1:2:3::4"), cut_ip("nonsense")
    ('203.0.113.0', '2001:db8:1::', '')
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    keep = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, keep), strict=False).network_address)


def cut_ips(body: bytes) -> bytes:
    """Cut the addresses that a JSON body carries itself, one or a list, also in JSON within a text, where their name says so.

    >>> cut_ips(b'{"client_ip": "203.0.113.77", "version": "1.2.3.4", "x-forwarded-for": ["203.0.113.7, 10.0.0.9"]}')
    b'{"client_ip": "203.0.113.0", "version": "1.2.3.4", "x-forwarded-for": ["203.0.113.0, 10.0.0.0"]}'
    """
    found = [m.start() for p in (_V4, _V6) for m in islice(p.finditer(body), _MOST_ADDRESSES)]
    if not found:
        return body
    if len(found) >= _MOST_ADDRESSES:  # nobody's events: all of them, without a look at their names
        return _V6.sub(b"::", _V4.sub(b".0.0.0", body))
    parts: list[bytes] = []
    done = behind_last = 0
    named = False
    for place in sorted(found):
        if place < max(done, behind_last):
            continue
        before, behind = body[max(done, place - 45) : place], body[place : place + 45]
        start = place - len(before) + len(before.rstrip(_SIGNS))
        end = place + len(behind) - len(behind.lstrip(_SIGNS))
        between = body[behind_last:start] if behind_last else b":"
        if any(sign in between for sign in (b":", b"{", b"}", b"]")):  # not the same list
            named = _named(body, start)
        behind_last = end
        if not named:
            continue
        address = body[start:end]
        cut = cut_ip(address.decode())
        if not cut:  # with a port
            address = address.partition(b":")[0]
            cut = cut_ip(address.decode())
        if cut:
            parts += (body[done:start], cut.encode())
            done = start + len(address)
    parts.append(body[done:])
    return b"".join(parts)


def _named(body: bytes, start: int) -> bool:
    """Whether what begins at a place, or the list it is in, stands under a name that says that it is an address."""
    colon = body.rfind(b":", max(0, start - _BACK), start)
    name = body[max(0, colon - 64) : max(0, colon)].rstrip()
    if name[-1:] != b'"' or b"]" in body[colon:start] or b"}" in body[colon:start]:
        return False
    return _says_ip(name[:-1].rstrip(b"\\").rpartition(b'"')[2])


@lru_cache(maxsize=1_000)
def _says_ip(name: bytes) -> bool:
    text = name.decode("latin-1")
    return _SAYS_IP.search(text.lower() if text.isupper() else text) is not None
