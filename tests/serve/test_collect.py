"""The collector: golden answers per dialect, limits, faults, privacy; every body a stock client sends has its case."""

from __future__ import annotations

import base64
import gzip
import json
import random
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from propend.serve.collect import Collector
from propend.serve.dialects import BY_NAME
from propend.serve.dialects.port import Event, Fact, Refused
from propend.serve.inbox import InboxError, SqliteInbox
from propend.serve.limits import Limits

NOW = time.time()


class Server:
    """A collector, its inbox, and a client."""

    def __init__(self, url: str, inbox: SqliteInbox, app: Collector) -> None:
        self.http, self.inbox, self.app = httpx.Client(base_url=url, timeout=300), inbox, app

    def read(self) -> list[Event | Fact | Refused]:
        return [
            found for batch in self.inbox.read(0) for found in BY_NAME[batch.dialect].events(batch)
        ]

    def events(self) -> list[Event]:
        return [found for found in self.read() if isinstance(found, Event)]

    def fresh(self) -> None:
        self.inbox.trim(self.inbox.last())
        self.inbox.release([r.number for r in self.inbox.rejected(100_000)])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, running: Any) -> Iterator[Server]:
    inbox = SqliteInbox(tmp_path_factory.mktemp("inbox"))
    app = Collector(
        inbox, {"key": "shop", "other": "app"}, Limits(body=1 << 20, inflated=4 << 20, events=3_000)
    )
    with running(app) as url:
        server = Server(url, inbox, app)
        yield server
        server.http.close()
    inbox.close()


@pytest.fixture
def server(shared: Server) -> Server:
    shared.fresh()
    return shared


BASIC = {"Authorization": "Basic " + base64.b64encode(b"key:").decode()}
TRACK = {"type": "track", "event": "Product Viewed", "userId": "u1", "messageId": "m1", "timestamp": "2026-01-02T03:04:05.678Z",
         "properties": {"product_id": "p1", "price": 3.5}}  # fmt: skip


def test_segment_batch_and_siblings(server: Server) -> None:
    got = server.http.post(
        "/v1/batch", json={"batch": [TRACK, {**TRACK, "messageId": "m2"}], "writeKey": "key"}
    )
    assert (got.status_code, got.json()) == (200, {"success": True})
    for path in ("/v1/track", "/v1/t", "/api/s/track", "/api/s/s2s/track"):
        assert server.http.post(path, json=TRACK, headers=BASIC).status_code == 200
    assert len(server.inbox.read(0)) == 5
    first = server.events()[0]
    assert (first.user, first.type, first.item, first.price, first.value, first.message) == (
        "u1",
        "view",
        "p1",
        3.5,
        3.5,
        "m1",
    )
    assert first.time == 1767323045678000
    assert {b.source for b in server.inbox.read(0)} == {"shop"}


def test_headers_win_over_a_masked_key_and_bytes_over_the_content_type(server: Server) -> None:
    body = {"batch": [TRACK], "writeKey": "s:***"}
    assert (
        server.http.post("/api/s/batch", json=body, headers={"X-Write-Key": "mistyped"}).status_code
        == 200
    )
    assert [r.reason for r in server.inbox.rejected()] == ["unknown write key"]
    server.http.post("/api/s/batch", json=body, headers={"X-Write-Key": "other:secret"})
    zipped = gzip.compress(json.dumps({"batch": [TRACK]}).encode())
    form = {**BASIC, "Content-Type": "application/x-www-form-urlencoded"}
    assert server.http.post("/v1/batch", content=zipped, headers=form).status_code == 200
    deflated = zlib.compress(json.dumps({"batch": [TRACK]}).encode())
    assert (
        server.http.post(
            "/v1/batch", content=deflated, headers={**BASIC, "Content-Encoding": "deflate"}
        ).status_code
        == 200
    )
    assert [b.source for b in server.inbox.read(0)] == ["app", "shop", "shop"]


def test_zstd(server: Server) -> None:
    import pyarrow as pa

    body = pa.compress(
        json.dumps({"batch": [TRACK], "writeKey": "key"}).encode(), "zstd", asbytes=True
    )
    assert server.http.post("/v1/batch", content=body).status_code == 200
    assert server.events()[0].user == "u1"


def test_segment_identity_orders_and_clock(server: Server) -> None:
    order = {"type": "track", "event": "Order Completed", "userId": "u1", "anonymousId": "a1", "messageId": "o1",
             "timestamp": "2026-01-01T00:00:00Z",
             "properties": {"order_id": "77", "total": 30, "products": [{"sku": "x", "price": 10, "quantity": 2}, {"sku": "y", "price": 10}]}}  # fmt: skip
    ahead = {**TRACK, "messageId": "c1", "originalTimestamp": "2030-01-01T00:00:00Z"}
    alias = {"type": "alias", "previousId": "old", "userId": "u1", "messageId": "al"}
    batch = {"batch": [order, ahead, alias, {"type": "identify", "userId": "u1", "traits": {"country": "DE"}, "messageId": "i1"}],
             "sentAt": "2030-01-01T00:00:10Z", "writeKey": "key"}  # fmt: skip
    server.http.post("/v1/batch", json=batch)
    found = server.read()
    lines = [e for e in found if isinstance(e, Event) and e.type == "purchase"]
    assert [(e.item, e.quantity, e.value, e.session, e.message) for e in lines] == [
        ("x", 2.0, 20.0, "77", "o1"), ("y", None, 10.0, "77", "o1#1"),
    ]  # fmt: skip
    skewed = next(e for e in found if isinstance(e, Event) and e.message == "c1")
    assert abs(skewed.time / 1e6 - (time.time() - 10)) < 5
    assert [(f.kind, f.one, f.other) for f in found if isinstance(f, Fact)] == [
        ("identify", "a1", "u1"),
        ("alias", "old", "u1"),
    ]
    assert next(e for e in found if isinstance(e, Event) and e.type == "identify").traits == {
        "country": "DE"
    }


def test_bad_messages_are_set_aside_one_by_one(server: Server) -> None:
    batch = [TRACK, 7, {"type": "nonsense", "userId": "u"}, {"type": "track", "event": "x"}, {"type": "track", "event": "x", "userId": "null"},
             {"type": "track", "userId": "u"}]  # fmt: skip
    assert (
        server.http.post("/v1/batch", json={"batch": batch, "writeKey": "key"}).status_code == 200
    )
    found = server.read()
    assert len([e for e in found if isinstance(e, Event)]) == 1
    assert len([e for e in found if isinstance(e, Refused)]) == 5


def test_posthog_v0_and_v1(server: Server) -> None:
    event = {
        "event": "$pageview",
        "distinct_id": "u1",
        "uuid": "e1",
        "timestamp": "2026-01-02T00:00:00+00:00",
        "properties": {},
    }
    for path in ("/batch/", "/batch", "/e/", "/i/v0/e/", "/capture/", "/track"):
        body: Any = (
            {"api_key": "key", "batch": [event]} if "batch" in path else {"api_key": "key", **event}
        )
        got = server.http.post(path, json=body)
        assert (got.status_code, got.json()) == (200, {"status": "Ok"}), path
    packed = server.http.post(
        "/e/?compression=gzip-js",
        content=gzip.compress(json.dumps({"api_key": "key", **event}).encode()),
    )
    assert packed.status_code == 200
    got = server.http.post("/i/v1/analytics/events", json={"created_at": "2026-01-02T00:00:00Z", "batch": [event, {"uuid": "bad"}]},
                           headers={"Authorization": "Bearer key"})  # fmt: skip
    assert got.json()["results"]["e1"] == {"result": "ok"}
    assert got.json()["results"]["bad"]["result"] == "drop"
    assert server.http.post("/i/v1/analytics/events", json={"batch": [event]}).status_code == 401
    assert {e.type for e in server.events()} == {"page"}
    assert len(server.events()) == 8


def test_mixpanel_track_import_engage(server: Server) -> None:
    event = {
        "event": "Sign Up",
        "properties": {"token": "key", "distinct_id": "u1", "time": NOW - 5, "$insert_id": "i1"},
    }
    data = base64.b64encode(json.dumps(event).encode()).decode()
    assert server.http.post("/track", data={"data": json.dumps(event), "verbose": 1}).json() == {
        "status": 1,
        "error": None,
    }
    assert server.http.get("/track", params={"data": data, "ip": 0, "verbose": 0}).text == "1"
    assert server.http.post("/track?verbose=1", json=[event]).json()["status"] == 1
    assert (
        server.http.post(
            "/engage",
            data={
                "data": json.dumps({"$token": "key", "$distinct_id": "u1", "$set": {"plan": "pro"}})
            },
        ).text
        == "1"
    )
    assert server.http.post("/import", data={"data": data}, headers=BASIC).text == "1"
    lines = "\n".join(json.dumps(event) for _ in range(3)).encode()
    got = server.http.post("/import?strict=1", content=gzip.compress(lines), headers=BASIC)
    assert got.json() == {"code": 200, "num_records_imported": 3, "status": "OK"}
    bad = {"event": "x", "properties": {"time": 5}}
    partial = server.http.post("/import?strict=1", json=[event, bad], headers=BASIC)
    assert partial.status_code == 400
    assert partial.json()["num_records_imported"] == 1
    assert partial.json()["failed_records"][0]["index"] == 1
    server.http.post(
        "/track",
        json={
            "event": "$create_alias",
            "properties": {"token": "key", "distinct_id": "u1", "alias": "anon"},
        },
    )
    server.http.post(
        "/import",
        json=[{"event": "$merge", "properties": {"$distinct_ids": ["a", "b"], "time": NOW}}],
        headers=BASIC,
    )
    assert {(f.kind, f.one, f.other) for f in server.read() if isinstance(f, Fact)} == {
        ("alias", "anon", "u1"),
        ("merge", "a", "b"),
    }
    assert len({e.message for e in server.events() if e.type == "sign_up"} | {"signup"}) <= 2


def test_amplitude_ga4_snowplow(server: Server) -> None:
    event = {"user_id": "user1", "device_id": "dev1", "event_type": "add_to_cart", "time": 1767323045678, "insert_id": "x1",
             "event_properties": {"sku": "p"}}  # fmt: skip
    for path in ("/2/httpapi", "/batch"):
        got = server.http.post(path, json={"api_key": "key", "events": [event]}).json()
        assert (got["code"], got["events_ingested"]) == (200, 1)
    assert "missing_field" in server.http.post("/2/httpapi", json={"api_key": "key"}).json()
    body = {
        "client_id": "c.1",
        "user_id": "u1",
        "events": [
            {
                "name": "purchase",
                "params": {"transaction_id": "t", "items": [{"item_id": "i", "price": 2}]},
            }
        ],
    }
    got = server.http.post("/mp/collect?measurement_id=G-1&api_secret=key", json=body)
    assert (got.status_code, got.content) == (204, b"")
    payload = {
        "schema": "iglu:…",
        "data": [
            {
                "e": "pv",
                "eid": "e1",
                "dtm": "1767323045678",
                "aid": "key",
                "uid": "u1",
                "url": "http://x/?utm_source=ads",
            }
        ],
    }
    got = server.http.post("/com.snowplowanalytics.snowplow/tp2", json=payload)
    assert (got.status_code, got.text) == (200, "ok")
    assert [(e.type, e.item) for e in server.events()] == [
        ("cart", "p"),
        ("cart", "p"),
        ("purchase", "i"),
        ("page", None),
    ]
    assert server.events()[-1].channel == "ads"


def test_own_route_has_a_result_per_event(server: Server) -> None:
    events = [
        {"id": "1", "type": "view", "user": "u1", "item": "p"},
        {"type": "view"},
        {"id": "3", "type": "view", "anonymous": "a", "time": "nonsense"},
        5,
    ]
    got = server.http.post(
        "/v1/events", json={"events": events}, headers={"Authorization": "Bearer key"}
    )
    assert [r["result"] for r in got.json()["results"]] == ["ok", "refused", "refused", "refused"]
    assert server.http.post("/v1/events", json={"events": events}).status_code == 401
    assert len(server.events()) == 1
    assert (
        server.http.post(
            "/v1/events", json={"nothing": 1}, headers={"Authorization": "Bearer key"}
        ).status_code
        == 200
    )
    assert server.http.post(
        "/v1/events", json=[], headers={"Authorization": "Bearer key"}
    ).json() == {"results": []}


def test_browser_start_stubs_and_cors(server: Server) -> None:
    assert "Segment.io" in server.http.get("/v1/projects/key/settings").json()["integrations"]
    assert server.http.get("/array/key/config").status_code == 200
    assert server.http.post("/flags/", json={}).status_code == 200
    preflight = server.http.options("/v1/t")
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert server.http.get("/nothing").status_code == 404


def test_marks_and_privacy(server: Server) -> None:
    message = {
        **TRACK,
        "context": {
            "ip": "203.0.113.77",
            "userAgent": "Googlebot/2.1",
            "consent": {"categoryPreferences": {"Analytics": False}},
        },
    }
    server.http.post("/v1/track", json=message, headers={**BASIC, "Sec-GPC": "1"})
    stored = server.inbox.read(0)[0]
    assert b"203.0.113.77" not in stored.body
    assert b"203.0.113.0" in stored.body
    assert stored.ip == "127.0.0.0"
    assert set(server.events()[0].marks.split()) == {"gpc", "bot", "denied"}


HOSTILE = {
    "empty": b"",
    "not json": b"hello",
    "half json": b'{"batch": [',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "deep inside": json.dumps({"batch": [TRACK]}).encode()[:-2] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
    "wrong types": b'{"batch": 5}',
    "list": b"[1,2,3]",
    "bad utf-8": b'{"batch": [{"event": "\xff\xfe"}]}',
    "bomb": gzip.compress(b"0" * (64 << 20)),
    "torn gzip": gzip.compress(b'{"batch": []}')[:-6],
    "fields": json.dumps({"batch": [{**TRACK, "properties": {f"f{i}": i for i in range(10_000)}}], "writeKey": "key"}).encode(),
    "numbers": b'{"writeKey":"key","batch":[{"type":"track","event":"x","userId":1e400}]}',
    "nan": b'{"writeKey":"key","batch":[{"type":"track","event":"x","userId":"u","timestamp":-1e300}]}',
    "nulls": b'{"writeKey":null,"batch":[null,null]}',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_never_stop_it(server: Server, name: str) -> None:
    for path in ("/v1/batch", "/batch", "/track", "/import", "/2/httpapi", "/mp/collect", "/com.snowplowanalytics.snowplow/tp2",
                 "/v1/events", "/i/v1/analytics/events", "/engage", "/e/"):  # fmt: skip
        status = server.http.post(path, content=HOSTILE[name], headers=BASIC).status_code
        assert status in (200, 204, 400, 401, 413), (path, status)
    for batch in server.inbox.read(0):
        list(_calm(batch))
    assert server.http.post("/v1/track", json=TRACK, headers=BASIC).status_code == 200
    assert server.http.get("/health").status_code == 200


def _calm(batch: Any) -> Iterator[Any]:
    from propend.serve.meaning import meaning

    yield from meaning(batch)


def test_too_large_is_413(server: Server) -> None:
    assert server.http.post("/v1/batch", content=b"x" * (2 << 20)).status_code == 413


def test_a_broken_disk_is_503_and_heals(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> list[int]:
        raise InboxError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(server.inbox, "append", broken)
        patch.setattr(server.inbox, "check", lambda: broken(()))
        got = server.http.post("/v1/track", json=TRACK, headers=BASIC)
        assert got.status_code == 503
        assert int(got.headers["retry-after"]) >= 1
        for tried in (server.app._tried, 0.0):  # a moment ago, and long ago
            server.app._tried = tried
            assert server.http.get("/health").status_code == 503
    server.app._tried = 0.0
    assert server.http.get("/health").status_code == 200  # by itself
    assert server.http.post("/v1/track", json=TRACK, headers=BASIC).status_code == 200
    assert server.http.get("/health").status_code == 200


def test_others_are_answered_while_a_bomb_is_opened(server: Server) -> None:
    import threading

    bomb = gzip.compress(b"0" * (256 << 20), 9)  # 250 kB
    assert len(bomb) > 64 << 10
    statuses: list[int] = []

    def attack() -> None:
        with httpx.Client(base_url=str(server.http.base_url), timeout=300) as other:
            statuses.extend(other.post("/v1/batch", content=bomb).status_code for _ in range(3))

    thread = threading.Thread(target=attack)
    thread.start()
    good = [server.http.post("/v1/track", json=TRACK, headers=BASIC).status_code for _ in range(5)]
    thread.join()
    assert statuses == [413] * 3
    assert good == [200] * 5


def test_a_large_zipped_batch_is_taken(server: Server) -> None:
    draw = random.Random(1)
    batch = [{**TRACK, "messageId": draw.randbytes(30).hex()} for _ in range(2_500)]
    zipped = gzip.compress(json.dumps({"batch": batch}).encode(), 1)
    assert len(zipped) > 64 << 10
    assert server.http.post("/v1/batch", content=zipped, headers=BASIC).status_code == 200
    assert len(server.events()) == 2_500


def test_overload_is_429(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.app.writer, "_most", -1)
    got = server.http.post("/v1/track", json=TRACK, headers=BASIC)
    assert got.status_code == 429
    assert 1 <= int(got.headers["retry-after"]) <= 30


def test_metrics_count(server: Server) -> None:
    server.http.post("/v1/track", json=TRACK, headers=BASIC)
    assert (
        'propend_events_accepted_total{source="shop",dialect="segment"}'
        in server.http.get("/metrics").text
    )


def test_a_clock_that_jumps_back_changes_no_order(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.http.post("/v1/track", json=TRACK, headers=BASIC)
    behind = time.time_ns() - 7_200 * 10**9
    monkeypatch.setattr("propend.serve.collect.clock.time_ns", lambda: behind)
    server.http.post("/v1/track", json={**TRACK, "messageId": "later"}, headers=BASIC)
    received = [b.received for b in server.inbox.read(0)]
    assert received == sorted(received)
