"""The contract of the inbox: what was acknowledged and is not yet in the store.

A batch is one request as it came (decompressed, IP addresses cut), so that accepting costs one row whatever the
number of events; dialects turn it into events later, and a mended dialect can read it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from propend.errors import DataError

__all__ = [
    "MOST_REFUSED",
    "MOST_REFUSED_BYTES",
    "REFUSED",
    "Batch",
    "Claim",
    "Inbox",
    "InboxError",
    "Rejected",
    "firsts",
]


class InboxError(DataError):
    """The inbox cannot take anything: the disk is full or broken, or the database is away."""


class Batch(NamedTuple):
    """One request as it was taken in."""

    received: int
    """When the server had it, UTC microseconds."""
    source: str
    dialect: str
    route: str
    """Path and query, without keys."""
    agent: str
    ip: str
    """Cut: the last octet (IPv4), or all after the first 48 bits (IPv6)."""
    marks: str
    """Words such as ``bot`` and ``gpc``, separated by spaces."""
    body: bytes
    position: int = 0
    """Order of acceptance; given by the inbox."""


class Rejected(NamedTuple):
    """Something that could not be taken, kept with the reason so that it can be tried again."""

    received: int
    key: str
    """The write key it came with."""
    dialect: str
    route: str
    """Path; what the mover refused has its place behind a ``#``."""
    reason: str
    body: bytes
    source: str = ""
    """Where the key is known already: its source."""
    agent: str = ""
    marks: str = ""
    asked: str = ""
    """JSON of the query and of the headers that a dialect reads, for a body that has not been through one."""
    taken: bool = False
    """Whether a dialect accepted the body: then it is what a batch would hold."""
    number: int = 0


REFUSED: Final = "received, key, dialect, route, reason, body, source, agent, marks, asked, taken"
"""Columns of a rejected entry; its number comes behind them."""
MOST_REFUSED: Final = 100_000
MOST_REFUSED_BYTES: Final = 256 << 20
"""How many rejected entries, and how many bytes of them, are kept; later ones are only counted."""


class Claim(NamedTuple):
    """An event's name and where it stands: the first to claim a name keeps it."""

    name: bytes
    """16 bytes: the hash of source and message id."""
    position: int
    place: int
    """Place of the event within its batch."""


class Inbox(Protocol):
    """What an inbox must do. Every verb raises :class:`InboxError` where the storage fails."""

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches, all or none, and return their positions; on return they are on the disk."""
        ...

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position in order; at least one where there is one."""
        ...

    def last(self) -> int:
        """Return the position of the latest batch, 0 where there never was one."""
        ...

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name, over the whole history. Asking again answers the same."""
        ...

    def trim(self, upto: int) -> int:
        """Remove the batches up to a position (they are in the store); names stay known. Returns how many went."""
        ...

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; durable on return."""
        ...

    def rejected(
        self, limit: int = 1_000, after: int = 0, most_bytes: int = 64 << 20
    ) -> list[Rejected]:
        """Return what could not be taken, oldest first; at least one where there is one."""
        ...

    def refused_routes(self, routes: Sequence[str]) -> set[str]:
        """Return which of these routes a rejected entry has; reads no body."""
        ...

    def refused_bytes(self) -> int:
        """Return the bytes of all rejected bodies; reads none of them."""
        ...

    def refused(self) -> int:
        """Return how many rejected entries are kept; quick, however many names and batches there are."""
        ...

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries that were taken after all."""
        ...

    def check(self) -> None:
        """Write something that changes nothing, down to the disk: where that fails, nothing can be taken in."""
        ...

    def counts(self) -> dict[str, int]:
        """Return ``batches`` waiting, ``rejected`` kept, ``names`` known and ``last`` position."""
        ...

    def close(self) -> None:
        """Let go of the storage."""
        ...


def firsts(claims: Sequence[Claim], ordered: Sequence[int]) -> list[Claim]:
    """Return one claim per name, the earliest, in the order of names (neighbouring pages are written together)."""
    best: dict[bytes, Claim] = {}
    for i in ordered:
        claim = claims[i]
        if claim.name not in best or claim[1:] < best[claim.name][1:]:
            best[claim.name] = claim
    return list(best.values())
