"""Bodies as they arrive: decompressed within bounds, not absurdly deep, without whole IP addresses."""

from __future__ import annotations

import ipaddress
import re
import zlib
from functools import lru_cache
from typing import Final

from propend.serve.dialects.port import BadBody

__all__ = ["TooLarge", "cut_ip", "cut_ips", "depth_fault", "inflate"]

_IP: Final = re.compile(rb'("(?:\$?ip|ip_address|\$ip_address)"\s*:\s*)"([^"\\]{2,45})"')
_TOO_DEEP: Final = 200


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
    engine = zlib.decompressobj(bits)
    try:
        out = engine.decompress(raw, most + 1)
    except zlib.error as error:
        raise BadBody(f"the compressed body is damaged ({error})") from None
    if len(out) > most:
        raise TooLarge
    if not engine.eof:
        raise BadBody("the compressed body ends too early")
    return out


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


_BRACKETS: Final = re.compile(rb"[\[{]{200}|(?:[\[{][^\[\]{}]{0,40}){200}")


def depth_fault(body: bytes) -> str:
    """Name a body that is nested absurdly deep, by a cheap look at runs of opening brackets."""
    if body.count(b"[", 0, 4_000) + body.count(b"{", 0, 4_000) > _TOO_DEEP and _BRACKETS.search(
        body, 0, 65_536
    ):
        return "the body is nested too deep"
    return ""


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
    """Cut the addresses that a body carries itself."""
    if b'ip"' not in body and b'ip_address"' not in body:
        return body
    return _IP.sub(lambda m: m[1] + b'"' + cut_ip(m[2].decode("latin-1")).encode() + b'"', body)
