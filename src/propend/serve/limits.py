"""How much one request, and all of them together, may ask of the collector."""

from __future__ import annotations

from typing import Protocol

import msgspec

from propend.serve.commit import Overload
from propend.serve.inbox import MOST_REFUSED, MOST_REFUSED_BYTES

__all__ = ["Held", "Limits"]


class Limits(msgspec.Struct, frozen=True):
    """The bounds, as they are unless others are given."""

    body: int = 21 << 20
    """Bytes of a body as sent."""
    inflated: int = 64 << 20
    """Bytes of a body once decompressed: a zip bomb stops here."""
    events: int = 20_000
    """Events of one request."""
    pending: int = 64 << 20
    """Bytes waiting for the disk; beyond it requests are answered 429."""
    receiving: int = 256 << 20
    """Bytes of bodies held at once, from what a request announces until it is answered; beyond it requests are answered 429."""
    rejected: int = MOST_REFUSED
    """Refused requests that are kept; later ones are only counted."""
    rejected_bytes: int = MOST_REFUSED_BYTES
    """Bytes of them."""
    slow: float = 30.0
    """Seconds a body may take to arrive."""


class Receiving(Protocol):
    """Who counts the bytes of bodies that are held at the moment."""

    receiving: int


class Held:
    """What one request holds of the bytes that all may hold together."""

    __slots__ = ("_all", "_most", "bytes")

    def __init__(self, everybody: Receiving, most: int) -> None:
        self._all, self._most, self.bytes = everybody, most, 0

    def hold(self, more: int) -> None:
        """Hold more (nothing where it is not more); raises ``Overload`` where that is too much."""
        if more <= 0:
            return
        if self._all.receiving + more > self._most:
            raise Overload
        self._all.receiving += more
        self.bytes += more
