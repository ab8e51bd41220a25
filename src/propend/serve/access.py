"""Who may ask what, and how often."""

from __future__ import annotations

import hashlib
import hmac
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, field

from propend.config import ApiKey

__all__ = ["Access", "Refusal"]


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    reason: str
    retry: int = 0


@dataclass
class _Bucket:
    tokens: float
    at: float = field(default_factory=clock.monotonic)


class Access:
    """Keys with scopes and a token bucket each. Without any key, only this machine may ask.

    >>> access = Access([ApiKey(key="k", scopes=("read",))])
    >>> access.check("k", "read", "10.0.0.1"), access.check("x", "read", "127.0.0.1").status, access.check("k", "decide", "").status
    (None, 401, 403)
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(_digest(k.key), k) for k in keys]
        self._buckets: dict[bytes, _Bucket] = {}
        self._known: dict[str, tuple[bytes, ApiKey] | None] = {}

    def check(self, key: str, scope: str, client: str) -> Refusal | None:
        """Return why a request is refused, or ``None``."""
        if not self._keys:
            local = client in ("127.0.0.1", "::1", "testclient", "")
            return (
                None
                if local
                else Refusal(
                    401, "this server answers its own machine only; declare [[live.api]] keys"
                )
            )
        found = self._find(key)
        if found is None:
            return Refusal(401, "unknown key; send Authorization: Bearer KEY")
        digest, known = found
        if scope not in known.scopes:
            return Refusal(403, f"this key has no scope {scope!r}")
        now = clock.monotonic()
        bucket = self._buckets.setdefault(digest, _Bucket(2 * known.per_second, now))
        bucket.tokens = min(
            2 * known.per_second, bucket.tokens + (now - bucket.at) * known.per_second
        )
        bucket.at = now
        if bucket.tokens < 1:
            return Refusal(
                429,
                "too many requests for this key",
                max(1, round((1 - bucket.tokens) / known.per_second)),
            )
        bucket.tokens -= 1
        return None

    def _find(self, key: str) -> tuple[bytes, ApiKey] | None:
        if key in self._known:
            return self._known[key]
        digest = hashlib.sha256(key.encode()).digest()
        found = next(((d, k) for d, k in self._keys if hmac.compare_digest(d, digest)), None)
        if found is not None or len(self._known) < 1_000:
            self._known[key] = found
        return found


def _digest(key: str) -> bytes:
    if key.startswith("sha256:"):
        return bytes.fromhex(key.removeprefix("sha256:"))
    return hashlib.sha256(key.encode()).digest()
