"""What browser libraries ask of a collector before they send anything, and our own browser snippet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from propend.serve.dialects.port import JSON

__all__ = ["snippet", "stub"]


def stub(path: str) -> tuple[int, bytes, bytes] | None:
    """Return status, body and type of what is asked for at start, ``None`` for any other path.

    >>> stub("/v1/m")[1], stub("/v1/batch")
    (b'{"success":true}', None)
    """
    if path.startswith("/v1/projects/") and path.endswith("/settings"):
        key = path.split("/")[3]
        settings = {
            "integrations": {
                "Segment.io": {
                    "apiKey": key,
                    "unbundledIntegrations": [],
                    "addBundledMetadata": True,
                }
            },
            "plan": {},
        }
        return 200, msgspec.json.encode(settings), JSON
    if path.startswith("/array/") and path.endswith(("/config", "/config.js")):
        return 200, b'{"supportedCompression":["gzip","gzip-js"],"hasFeatureFlags":false}', JSON
    if path.rstrip("/") in ("/flags", "/decide"):
        return (
            200,
            b'{"featureFlags":{},"config":{"enable_collect_everything":true},"supportedCompression":["gzip","gzip-js"]}',
            JSON,
        )
    if path == "/propend.js":
        return 200, snippet(), b"text/javascript; charset=utf-8"
    if path == "/v1/m":
        return 200, b'{"success":true}', JSON
    return None


@lru_cache(maxsize=1)
def snippet() -> bytes:
    """Return the browser snippet without comment and indentation (at most 3 kB).

    >>> len(snippet()) <= 3_000
    True
    """
    text = (Path(__file__).parent / "browser.js").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()[1:]]
    code = "\n".join(line for line in lines if line)
    for wide, narrow in ((" = ", "="), (", ", ","), (": ", ":"), (" && ", "&&"), (" || ", "||")):
        code = code.replace(wide, narrow)  # the snippet holds no text in which these stand
    return code.encode()
