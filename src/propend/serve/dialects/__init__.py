"""One file per vendor's wire format, and which paths each answers."""

from __future__ import annotations

from typing import Final

from propend.serve.dialects.amplitude import Amplitude
from propend.serve.dialects.ga4 import GA4
from propend.serve.dialects.mixpanel import Mixpanel, MixpanelImport
from propend.serve.dialects.own import Own
from propend.serve.dialects.port import Dialect
from propend.serve.dialects.posthog import PostHog, PostHogV1
from propend.serve.dialects.segment import LETTERS, Segment
from propend.serve.dialects.snowplow import Snowplow

__all__ = ["BY_NAME", "PATHS", "dialect_of"]

_ALL: Final[tuple[Dialect, ...]] = (
    Segment(), Own(), PostHog(), PostHogV1(), Mixpanel(), MixpanelImport(), Amplitude(), GA4(), Snowplow(),
)  # fmt: skip
BY_NAME: Final = {dialect.name: dialect for dialect in _ALL}
_SEGMENT_TYPES: Final = (
    "track",
    "identify",
    "page",
    "screen",
    "group",
    "alias",
    "batch",
    "import",
    "merge",
)
PATHS: Final[dict[str, str]] = {
    **{f"/v1/{kind}": "segment" for kind in (*_SEGMENT_TYPES, *LETTERS)},
    **{f"/api/s/{kind}": "segment" for kind in _SEGMENT_TYPES},
    **{f"/api/s/s2s/{kind}": "segment" for kind in _SEGMENT_TYPES},
    "/v1/events": "own",
    "/i/v0/e": "posthog",
    "/e": "posthog",
    "/capture": "posthog",
    "/i/v1/analytics/events": "posthog_v1",
    "/groups": "mixpanel",
    "/import": "mixpanel_import",
    "/2/httpapi": "amplitude",
    "/mp/collect": "ga4",
    "/com.snowplowanalytics.snowplow/tp2": "snowplow",
    "/i": "snowplow",
}
"""Path (without a slash at the end) → dialect. ``/batch``, ``/track`` and ``/engage`` are told apart by the body."""


def dialect_of(path: str, body: bytes) -> Dialect | None:
    """Return the dialect that answers a request, or ``None`` for a path that nobody has.

    Amplitude's and PostHog's ``/batch`` differ by ``events`` and ``batch``; Mixpanel's and PostHog's ``/track`` and
    ``/engage`` by ``token`` and ``api_key``.

    >>> dialect_of("/batch", b'{"api_key": "k", "events": []}').name, dialect_of("/track", b"data=e30").name
    ('amplitude', 'mixpanel')
    """
    path = path.rstrip("/")
    name = PATHS.get(path)
    if name is None and path == "/batch":
        at = body.find(b'"batch"')
        name = (
            "amplitude"
            if b'"events"' in body and (at < 0 or body.find(b'"events"') < at)
            else "posthog"
        )
    elif name is None and path in ("/track", "/engage"):
        name = "posthog" if body[:1] == b"{" and b'"api_key"' in body else "mixpanel"
    return None if name is None else BY_NAME[name]
