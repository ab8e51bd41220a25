"""A file of each rival's export shape, made from the published schema: users, times, types, and overlaps once."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propend.errors import ConfigError, DataError
from propend.serve import imports
from propend.serve.imports import _GA4_KEY, _SNOWPLOW, SHAPES, import_files
from propend.serve.inbox import SqliteInbox
from propend.serve.move import take

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
MICROS = int(WHEN.timestamp()) * 1_000_000


def segment(folder: Path) -> Path:
    path = folder / "tracks.csv"
    path.write_text(
        "id,anonymous_id,user_id,event,event_text,timestamp,received_at,product_id,price,context_campaign_source\n"
        "m1,a1,u1,product_added,Product Added,2026-03-04 05:06:07.000 UTC,2026-03-04 05:06:09 UTC,p1,3.5,ads\n"
        "m2,a1,,product_viewed,Product Viewed,2026-03-04 05:06:07.000 UTC,2026-03-04 05:06:09 UTC,p1,3.5,\n"
    )
    return path


def rudderstack(folder: Path) -> Path:
    """The tracks table as RudderStack loads it into Snowflake: names in capitals, typed times, the client's own time too."""
    path = folder / "TRACKS.parquet"
    rows = [
        {"ID": f"m{n}", "ANONYMOUS_ID": "a1", "USER_ID": "u1", "EVENT": e.lower().replace(" ", "_"), "EVENT_TEXT": e, "TIMESTAMP": WHEN,
         "ORIGINAL_TIMESTAMP": WHEN + timedelta(hours=3), "SENT_AT": WHEN, "RECEIVED_AT": WHEN, "UUID_TS": WHEN, "CHANNEL": "web",
         "CONTEXT_LIBRARY_NAME": "RudderLabs JavaScript SDK", "CONTEXT_USER_AGENT": "Mozilla/5.0", "PRODUCT_ID": "p1", "PRICE": 3.5}
        for n, e in enumerate(["Product Added", "Product Viewed"])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def mixpanel(folder: Path) -> Path:
    path = folder / "export.jsonl"
    rows = [
        {
            "event": e,
            "properties": {
                "time": MICROS // 1_000_000,
                "distinct_id": "u1",
                "$insert_id": f"i{n}",
                "product_id": "p1",
            },
        }
        for n, e in enumerate(["Product Added", "view_item"])
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    return path


def amplitude(folder: Path) -> Path:
    path = folder / "export.zip"
    rows = [
        {
            "event_type": e,
            "user_id": "user1",
            "device_id": "d1",
            "event_time": "2026-03-04 05:06:07.000000",
            "$insert_id": f"i{n}",
            "event_properties": {"product_id": "p1"},
        }
        for n, e in enumerate(["Product Added", "Product Viewed"])
    ]
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(
            "1/1_2026-03-04_5#0.json.gz", gzip.compress("\n".join(map(json.dumps, rows)).encode())
        )
    return path


def ga4(folder: Path) -> Path:
    path = folder / "events_20260304.parquet"
    value = pa.struct(
        [
            ("string_value", pa.string()),
            ("int_value", pa.int64()),
            ("float_value", pa.float64()),
            ("double_value", pa.float64()),
        ]
    )
    param = pa.list_(pa.struct([("key", pa.string()), ("value", value)]))
    item = pa.list_(
        pa.struct([("item_id", pa.string()), ("price", pa.float64()), ("quantity", pa.int64())])
    )
    rows: list[dict[str, Any]] = [
        {"event_date": "20260304", "event_timestamp": MICROS, "event_name": name, "user_id": None, "user_pseudo_id": "c.1", "event_bundle_sequence_id": n,
         "batch_page_id": 1, "batch_ordering_id": 1, "batch_event_index": n, "event_params": [{"key": "ga_session_id", "value": {"int_value": 77}}],
         "user_properties": [], "ecommerce": {"purchase_revenue": None}, "items": [{"item_id": "p1", "price": 3.5, "quantity": 1}]}
        for n, name in enumerate(["add_to_cart", "view_item", "view_item"])
    ]  # fmt: skip
    rows[2] = rows[1]  # the table of the next day repeats it
    schema = pa.schema([
        ("event_date", pa.string()), ("event_timestamp", pa.int64()), ("event_name", pa.string()), ("user_id", pa.string()), ("user_pseudo_id", pa.string()),
        ("event_bundle_sequence_id", pa.int64()), ("batch_page_id", pa.int64()), ("batch_ordering_id", pa.int64()), ("batch_event_index", pa.int64()),
        ("event_params", param), ("user_properties", param), ("ecommerce", pa.struct([("purchase_revenue", pa.float64())])), ("items", item),
    ])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def posthog(folder: Path) -> Path:
    path = folder / "posthog.parquet"
    rows = [
        {
            "uuid": f"e{n}",
            "event": e,
            "distinct_id": "u1",
            "timestamp": WHEN,
            "properties": json.dumps({"product_id": "p1", "$session_id": "s"}),
        }
        for n, e in enumerate(["Product Added", "Product Viewed"])
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def snowplow(folder: Path) -> Path:
    path = folder / "enriched.tsv"
    described = {
        "schema": "iglu:x/unstruct_event/jsonschema/1-0-0",
        "data": {"schema": "iglu:com.shop/view_item/jsonschema/1-0-0", "data": {"item_id": "p1"}},
    }
    lines = []
    for n, kind in enumerate(["struct", "unstruct"]):
        cells = [""] * 131
        given = {"aid": "shop", "collector": "2026-03-04 05:06:09.000", "created": "2026-03-04 05:06:07.000", "e": kind, "eid": f"e{n}", "uid": "u1", "duid": "d1",
                 "se_ac": "add_to_cart" if n == 0 else "", "ue_pr": json.dumps(described) if n else ""}  # fmt: skip
        for name, text in given.items():
            cells[_SNOWPLOW[name]] = text
        lines.append("\t".join(cells))
    path.write_text("\n".join(lines) + "\nbroken line\n")
    return path


MAKE = {
    "segment": segment,
    "rudderstack": rudderstack,
    "mixpanel": mixpanel,
    "amplitude": amplitude,
    "ga4": ga4,
    "posthog": posthog,
    "snowplow": snowplow,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape(shape: str, tmp_path: Path) -> None:
    path = MAKE[shape](tmp_path)
    inbox = SqliteInbox(tmp_path / "inbox")
    counts = import_files(inbox, [path, path], shape, "old")
    events = take(inbox, 0).events
    assert sorted(a.event.type for a in events) == ["cart", "view"]
    assert {a.event.time for a in events} == {MICROS}
    assert all(a.received == a.event.time for a in events)
    assert {a.event.user or a.event.anonymous for a in events} <= {"u1", "a1", "user1", "c.1"}
    if shape != "snowplow":
        assert {a.event.item for a in events} == {"p1"}
    assert counts["rows"] in (4, 6)
    assert counts["unreadable"] == (2 if shape in ("mixpanel", "snowplow") else 0)
    inbox.close()


def ga4_row(**changed: Any) -> dict[str, Any]:
    row = {"event_date": "20260304", "event_timestamp": MICROS, "event_name": "view_item", "user_pseudo_id": "c.1", "event_bundle_sequence_id": 7,
           "batch_page_id": 1, "batch_ordering_id": 2, "batch_event_index": 3, "event_params": [{"key": "page", "value": {"string_value": "a"}}]}  # fmt: skip
    return {**row, **changed}


def ga4_file(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_ga4_events_are_named_by_seven_columns(tmp_path: Path) -> None:
    """Each of the seven columns alone makes another event; what lies outside them does not."""
    seven = {"user_pseudo_id": "c.2", "event_timestamp": MICROS + 1, "event_name": "add_to_cart", "event_bundle_sequence_id": 8, "batch_page_id": 9,
             "batch_ordering_id": 9, "batch_event_index": 9}  # fmt: skip
    assert set(seven) == set(_GA4_KEY)
    others = {"event_date": "20260305", "event_params": [], "device": {"category": "mobile"}}
    rows = [ga4_row(), *(ga4_row(**{name: value}) for name, value in {**seven, **others}.items())]
    inbox = SqliteInbox(tmp_path / "inbox")
    import_files(inbox, [ga4_file(tmp_path / "events_20260304.json", *rows)], "ga4", "ga")
    assert len(take(inbox, 0).events) == 8
    inbox.close()


def test_ga4_days_that_change_for_three_days_add_what_is_late_once(tmp_path: Path) -> None:
    """The same day's table exported on three days: each time a few late events more, under other file names."""
    day = [ga4_row(batch_event_index=n, event_timestamp=MICROS + n) for n in range(9)]
    inbox = SqliteInbox(tmp_path / "inbox")
    exports = [day[:5], day[:7][::-1], day]
    for n, rows in enumerate(exports):
        path = ga4_file(tmp_path / f"events_20260304_export{n}.json", *rows)
        assert import_files(inbox, [path], "ga4", "ga")["rows"] == len(rows)
    taken = take(inbox, 0)
    assert sorted(a.event.time for a in taken.events) == [MICROS + n for n in range(9)]
    assert taken.repeats == 12
    assert all(
        a.received == a.event.time for a in taken.events
    )  # known when it happened, late or not
    inbox.close()


def test_mixpanel_repeats_are_told_by_four_fields(tmp_path: Path) -> None:
    def row(**changed: Any) -> dict[str, Any]:
        properties = {"time": MICROS // 1_000_000, "distinct_id": "u1", "$insert_id": "i"}
        return {"event": "x", "properties": {**properties, **changed}}

    rows = [row(), row(), row(colour="red"), row(distinct_id="u2"), row(**{"$insert_id": "j"}), row(time=MICROS // 1_000_000 + 1)]  # fmt: skip
    path = tmp_path / "export.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    inbox = SqliteInbox(tmp_path / "inbox")
    import_files(inbox, [path], "mixpanel", "mp")
    assert len(take(inbox, 0).events) == 4
    inbox.close()


def test_faults_are_one_sentence(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox")
    with pytest.raises(ConfigError, match="mixpanel"):
        import_files(inbox, [], "mixpannel", "x")
    with pytest.raises(DataError, match="no file"):
        import_files(inbox, [tmp_path / "none.csv"], "segment", "x")
    (tmp_path / "torn.zip").write_bytes(amplitude(tmp_path).read_bytes()[:-30])
    (tmp_path / "torn.json.gz").write_bytes(gzip.compress(b'{"event_name": "x"}' * 99)[:-20])
    for name, shape in (("torn.zip", "amplitude"), ("torn.json.gz", "ga4")):
        with pytest.raises(DataError, match="damaged archive"):
            import_files(inbox, [tmp_path / name], shape, "x")
    odd = ga4_file(tmp_path / "odd.json", ga4_row(event_params=[5, {"key": "a", "value": 3}, None]))
    assert import_files(inbox, [odd], "ga4", "x")["rows"] == 1
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match="no Parquet"):
        import_files(inbox, [tmp_path / "x.parquet"], "posthog", "x")
    inbox.close()


def test_files_are_read_as_they_go(tmp_path: Path) -> None:
    """Sixty megabytes, plain, gzipped and in a zip, take a few of memory."""
    row = json.dumps(ga4_row()).encode() + b"\n"
    data = row + (b"x" * (1 << 20) + b"\n") * 60 + row
    (tmp_path / "a.json").write_bytes(data)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(data, 1))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as whole:
        whole.writestr("1/a.json.gz", gzip.compress(data, 1))
        whole.write(tmp_path / "a.json", "1/a.json", zipfile.ZIP_DEFLATED)
    del data
    inbox = SqliteInbox(tmp_path / "inbox")
    for name, rows in (("a.json", 2), ("a.json.gz", 2), ("a.zip", 4)):
        tracemalloc.start()
        counts = import_files(inbox, [tmp_path / name], "ga4", "x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (counts["rows"], counts["unreadable"]) == (rows, 30 * rows)
        assert peak < 12 << 20, name
    inbox.close()


def test_a_line_without_end_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_LONGEST", 2_000)
    row = json.dumps(ga4_row())
    (tmp_path / "a.json").write_text(f"{row}\n{'[' * 7_000}\n{row}\n{'x' * 2_000}")
    inbox = SqliteInbox(tmp_path / "inbox")
    counts = import_files(inbox, [tmp_path / "a.json"], "ga4", "x")
    assert (counts["rows"], counts["unreadable"]) == (2, 2)
    (tmp_path / "t.csv").write_text('id,user_id\n1,"' + "u\n" * 3_000)
    with pytest.raises(DataError, match="no CSV"):
        import_files(inbox, [tmp_path / "t.csv"], "segment", "x")
    inbox.close()
