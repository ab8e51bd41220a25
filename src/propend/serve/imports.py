"""What rivals export, read as if their SDKs had sent it: the same meanings, the same dedupe, the same cleaning.

Shapes, from the published schemas: Segment and RudderStack warehouse tables (CSV or Parquet), Mixpanel's raw export
(JSON lines), Amplitude's export (zip of gzipped JSON lines), GA4's BigQuery export (Parquet or JSON lines), PostHog's
batch export (Parquet), Snowplow's enriched events (TSV). Imported events count as known when they happened.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import time as clock
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

import msgspec

from propend.errors import ConfigError, DataError, nearest
from propend.serve.dialects.port import BadBody, decode, moment_of
from propend.serve.inbox import Batch, Inbox

__all__ = ["SHAPES", "import_files"]

Row = dict[str, Any]
_CHUNK: Final = 500
_LONGEST: Final = 64 << 20
"""Bytes of a line."""
_GA4_KEY: Final = (
    "user_pseudo_id", "event_timestamp", "event_name", "event_bundle_sequence_id", "batch_page_id", "batch_ordering_id", "batch_event_index",
)  # fmt: skip
"""GA4 has no event id; these seven columns name an event (a table changes for three days, so files overlap)."""
_SNOWPLOW: Final = {
    "aid": 0, "collector": 3, "created": 4, "e": 5, "eid": 6, "uid": 12, "duid": 15, "nuid": 17, "url": 29, "page": 30, "se_ca": 53, "se_ac": 54,
    "se_la": 55, "se_pr": 56, "se_va": 57, "ue_pr": 58, "tr_id": 59, "tr_af": 60, "tr_tt": 61, "ti_id": 67, "ti_sk": 68, "ti_pr": 71, "ti_qu": 72,
}  # fmt: skip
"""Columns of the enriched event that are read, by position (Snowplow canonical event model)."""
_SNOWPLOW_KINDS: Final = {
    "page_view": "pv",
    "struct": "se",
    "unstruct": "ue",
    "transaction": "tr",
    "transaction_item": "ti",
    "page_ping": "pp",
}


def import_files(inbox: Inbox, files: Sequence[Path], shape: str, source: str) -> dict[str, int]:
    """Put exported files into an inbox; returns rows read, batches made and lines that were no rows.

    Raises ``ConfigError`` for an unknown shape, ``DataError`` for a missing file or one of another kind. Reading a file
    twice, or overlapping files, changes nothing: events keep their names.
    """
    if shape not in SHAPES:
        raise ConfigError(f"no export shape {shape!r}{nearest(shape, SHAPES)}")
    dialect, convert, wrap = SHAPES[shape]
    counts = {"rows": 0, "batches": 0, "unreadable": 0}
    for path in files:
        if not path.is_file():
            raise DataError(f"no file {path}; give files, or a shell pattern such as export/*.json")
        chunk: list[Row] = []
        try:
            for row in rows_of(path, shape, counts):
                counts["rows"] += 1
                chunk.append(convert(row))
                if len(chunk) == _CHUNK:
                    _put(inbox, chunk, dialect, wrap, source, counts)
                    chunk = []
        except (zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path} is a damaged archive ({error}); what came before the damage may be in already, repeats are left out: bring a whole one"
            ) from None
        except csv.Error as error:
            raise DataError(f"{path} is no CSV file as {shape} exports it ({error})") from None
        if chunk:
            _put(inbox, chunk, dialect, wrap, source, counts)
    return counts


def _put(
    inbox: Inbox,
    chunk: list[Row],
    dialect: str,
    wrap: Callable[[list[Row]], Any],
    source: str,
    counts: dict[str, int],
) -> None:
    body = msgspec.json.encode(wrap(chunk), enc_hook=str)
    inbox.append(
        [
            Batch(
                clock.time_ns() // 1_000,
                source,
                dialect,
                f"/import/{dialect}",
                "",
                "",
                "import",
                body,
            )
        ]
    )
    counts["batches"] += 1


def rows_of(path: Path, shape: str, counts: dict[str, int]) -> Iterator[Row]:
    """Yield the rows of a file, by its ending: parquet, csv, json lines, tsv, gzipped or in a zip.

    A file is read as it goes, however large it is; a single line beyond 64 MB is no row.
    """
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as whole:
            for name in sorted(whole.namelist()):
                if not name.endswith("/"):
                    with whole.open(name) as member:
                        yield from _rows(name, cast("_File", member), shape, counts)
    elif path.suffix in (".parquet", ".pq"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            for batch in pq.ParquetFile(path).iter_batches(_CHUNK):
                yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is no Parquet file ({error})") from None
    else:
        with path.open("rb") as file:
            yield from _rows(path.name, file, shape, counts)


class _File(Protocol):
    """What plain files, members of a zip and gzipped streams have in common."""

    def peek(self, n: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


def _rows(name: str, file: _File, shape: str, counts: dict[str, int]) -> Iterator[Row]:
    if file.peek(2)[:2] == b"\x1f\x8b":
        name = name.removesuffix(".gz")
        with gzip.GzipFile(fileobj=cast("IO[bytes]", file)) as opened:
            yield from _rows(name, opened, shape, counts)
        return
    if shape == "snowplow":
        for raw in _lines(file, counts):
            cells = raw.decode("utf-8", "replace").rstrip("\n").split("\t")
            if len(cells) > max(_SNOWPLOW.values()):
                yield {key: cells[at] for key, at in _SNOWPLOW.items()}
            elif raw.strip():
                counts["unreadable"] += 1
    elif name.endswith(".csv"):
        csv.field_size_limit(_LONGEST)
        texts = (raw.decode("utf-8", "replace") for raw in _lines(file, counts))
        yield from csv.DictReader(text.removeprefix("\ufeff") for text in texts)
    else:
        for raw in _lines(file, counts):
            if not raw.strip():
                continue
            try:
                row = decode(raw)
            except BadBody:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                counts["unreadable"] += 1


def _lines(file: _File, counts: dict[str, int]) -> Iterator[bytes]:
    """Yield lines; what goes on beyond the longest one is passed over and counted as unreadable."""
    while line := file.readline(_LONGEST):
        if len(line) < _LONGEST or line.endswith(b"\n"):
            yield line
            continue
        counts["unreadable"] += 1
        while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
            pass


# ---- shapes


def _segment(row: Row) -> Row:
    """A row of a warehouse table: tracks, pages, identifies, or one table per event (Snowflake shouts the names)."""
    row = {str(name).lower(): value for name, value in row.items()}
    skip = ("id", "message_id", "user_id", "anonymous_id", "event", "event_text", "received_at", "sent_at", "timestamp", "original_timestamp", "uuid_ts", "channel", "type")  # fmt: skip
    filled = {k: v for k, v in row.items() if v not in (None, "")}
    properties: Row = {}
    for name, value in filled.items():
        if name in skip or name.startswith("context_"):
            continue
        properties[name] = _json(value)
    event = filled.get("event_text") or filled.get("event")
    kind = filled.get("type") or (
        "track" if event else "page" if "url" in filled or "path" in filled else "identify"
    )
    context = {
        "campaign": {"source": filled.get("context_campaign_source")},
        "userAgent": filled.get("context_user_agent"),
    }
    return {
        "type": kind, "event": event, "userId": filled.get("user_id"), "anonymousId": filled.get("anonymous_id"),
        "messageId": filled.get("id") or filled.get("message_id"), "originalTimestamp": _time(filled.get("timestamp") or filled.get("original_timestamp")),
        "properties": properties, "traits": properties if kind == "identify" else None, "context": context,
    }  # fmt: skip


def _mixpanel(row: Row) -> Row:
    return row


def _amplitude(row: Row) -> Row:
    when = moment_of(str(row.get("event_time") or ""))
    return {
        **{k: row.get(k) for k in ("user_id", "device_id", "event_type", "event_properties", "user_properties", "session_id")},
        "insert_id": row.get("$insert_id") or row.get("insert_id") or row.get("uuid"), "time": None if when is None else when // 1_000,
    }  # fmt: skip


def _ga4(row: Row) -> Row:
    params = _params(row.get("event_params"))
    ecommerce = row.get("ecommerce") if isinstance(row.get("ecommerce"), dict) else {}
    key = "\0".join(str(row.get(name)) for name in _GA4_KEY)
    session = params.get("ga_session_id")
    lines = row.get("items")
    return {
        "id": hashlib.blake2b(key.encode(), digest_size=16).hexdigest(), "type": row.get("event_name"), "user": row.get("user_id"),
        "anonymous": row.get("user_pseudo_id"), "time": _whole(row.get("event_timestamp")),
        "properties": {**{k: v for k, v in (ecommerce or {}).items() if v is not None}, **params}, "lines": lines if isinstance(lines, list) else None,
        "session": None if session is None else f"{row.get('user_pseudo_id')}.{session}", "traits": _params(row.get("user_properties")),
        "value": (ecommerce or {}).get("purchase_revenue"),
    }  # fmt: skip


def _params(given: Any) -> Row:
    """Return GA4's list of key and typed value as a dictionary."""
    found: Row = {}
    for pair in given if isinstance(given, list) else []:
        value = pair.get("value") if isinstance(pair, dict) else None
        if not isinstance(value, dict):
            continue
        found[pair.get("key")] = next(
            (
                value[k]
                for k in ("string_value", "int_value", "float_value", "double_value")
                if value.get(k) is not None
            ),
            None,
        )
    return {k: v for k, v in found.items() if k and v is not None}


def _posthog(row: Row) -> Row:
    return {
        **{k: row.get(k) for k in ("uuid", "event", "distinct_id")},
        "timestamp": _time(row.get("timestamp")),
        "properties": _json(row.get("properties")) or {},
    }


def _snowplow(row: Row) -> Row:
    when = moment_of(row["created"]) or moment_of(row["collector"])
    filled = {k: v for k, v in row.items() if v and k not in ("created", "collector")}
    return {
        **filled,
        "e": _SNOWPLOW_KINDS.get(row["e"], row["e"]),
        "dtm": None if when is None else str(when // 1_000),
    }


def _whole(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        return None


def _time(value: Any) -> str | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return None if value is None else str(value).removesuffix(" UTC")


def _json(value: Any) -> Any:
    """Return a cell that holds JSON as what it says."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


SHAPES: Final[dict[str, tuple[str, Callable[[Row], Row], Callable[[list[Row]], Any]]]] = {
    "segment": ("segment", _segment, lambda rows: {"batch": rows}),
    "rudderstack": ("segment", _segment, lambda rows: {"batch": rows}),
    "mixpanel": ("mixpanel_import", _mixpanel, lambda rows: rows),
    "amplitude": ("amplitude", _amplitude, lambda rows: {"events": rows}),
    "ga4": ("own", _ga4, lambda rows: {"events": rows}),
    "posthog": ("posthog", _posthog, lambda rows: {"batch": rows}),
    "snowplow": ("snowplow", _snowplow, lambda rows: rows),
}
"""Export shape → dialect that gives it meaning, how a row becomes its message, and the body around them."""
