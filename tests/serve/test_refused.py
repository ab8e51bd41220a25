"""What is refused: kept with all it takes to try it again, within bounds; and what is held while it comes in is bounded too."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from propend.config import parse
from propend.engine import connect
from propend.serve import move as moving
from propend.serve.collect import Collector
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, Rejected, SqliteInbox
from propend.serve.limits import Limits
from propend.serve.move import Mover, take
from propend.serve.refused import replay_rejected

START = 1_767_000_000_000_000
KEYS = {"a": "web", "b": "app"}


def ask(collector: Collector, path: str, body: bytes, query: bytes = b"", **headers: str) -> int:
    """Send one request to a collector that is started for it."""

    async def go() -> int:
        out: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            out.append(message)

        named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": named, "query_string": query, "client": ("1.1.1.1", 1)}  # fmt: skip
        await collector.start()
        await collector(scope, receive, send)
        await collector.stop()
        return int(out[0]["status"])

    return asyncio.run(go())


@pytest.fixture
def inbox(tmp_path: Path) -> SqliteInbox:
    return SqliteInbox(tmp_path / "live" / "inbox")


def collect(inbox: SqliteInbox, path: str, message: Any, query: bytes = b"", keys: Any = KEYS, **headers: str) -> int:  # fmt: skip
    body = message if isinstance(message, bytes) else msgspec.json.encode(message)
    return ask(Collector(inbox, keys), path, body, query, **headers)


def make(inbox: SqliteInbox, folder: Path) -> Mover:
    return Mover(parse({"workspace": {"zone": "UTC"}}), folder, folder / "store", connect("local"), inbox, Identity(folder / "live" / "identity.db"))  # fmt: skip


def test_a_large_batch_of_an_unknown_key_comes_in_whole_once_the_key_is_known(inbox: SqliteInbox) -> None:  # fmt: skip
    events = [{"type": "track", "event": "e", "userId": "u", "messageId": str(n), "properties": {"t": "x" * 900}} for n in range(1_500)]  # fmt: skip
    message = {"writeKey": "late", "batch": events}
    assert collect(inbox, "/v1/batch", message, user_agent="Googlebot/2.1", sec_gpc="1") == 200
    assert replay_rejected(inbox, KEYS) == (0, 1)
    assert replay_rejected(inbox, {**KEYS, "late": "x"}) == (1, 0)
    (batch,) = inbox.read(0)
    assert (batch.source, batch.marks, batch.agent) == ("x", "bot gpc", "Googlebot/2.1")
    assert len(take(inbox, 0).events) == 1_500


@pytest.mark.parametrize(("path", "message", "query", "headers"), [
    ("/api/s/track", {"type": "track", "event": "x", "userId": "u", "messageId": "1"}, b"", {"x_write_key": "late:secret"}),
    ("/v1/events", {"events": [{"type": "x", "user": "u"}], "sent": "2026-01-01T00:00:00Z"}, b"key=late", {}),
    ("/mp/collect", {"client_id": "u", "events": [{"name": "x"}]}, b"api_secret=late", {}),
    ("/track", b"data=eyJldmVudCI6IngiLCJwcm9wZXJ0aWVzIjp7InRva2VuIjoibGF0ZSIsImRpc3RpbmN0X2lkIjoidSIsImlwIjoiMjAzLjAuMTEzLjc3In19", b"", {}),
    ("/track", b"", b"data=eyJldmVudCI6IngiLCJwcm9wZXJ0aWVzIjp7InRva2VuIjoibGF0ZSIsImRpc3RpbmN0X2lkIjoidSJ9fQ==", {}),
    ("/import", {"event": "x", "properties": {"time": 1767000000, "distinct_id": "u", "token": "late"}}, b"strict=1", {}),
    ("/2/httpapi", {"api_key": "late", "events": [{"event_type": "x", "user_id": "u"}]}, b"", {}),
    ("/batch", {"api_key": "late", "batch": [{"event": "x", "distinct_id": "u"}], "sent_at": "2026-01-01"}, b"", {}),
    ("/i/v1/analytics/events", {"batch": [{"event": "x", "distinct_id": "u", "uuid": "1"}]}, b"",
     {"authorization": "Bearer late", "posthog_request_timestamp": "2026-01-01T00:00:00Z"}),
    ("/com.snowplowanalytics.snowplow/tp2", {"data": [{"e": "pv", "uid": "u", "aid": "late"}]}, b"", {}),
])  # fmt: skip
def test_every_dialect_can_be_tried_again(inbox: SqliteInbox, path: str, message: Any, query: bytes, headers: dict[str, str]) -> None:  # fmt: skip
    collect(inbox, path, message, query, **headers)
    assert [r.reason for r in inbox.rejected()] == ["unknown write key"]
    assert b"113.77" not in inbox.rejected()[0].body
    assert replay_rejected(inbox, KEYS) == (0, 1)
    assert replay_rejected(inbox, {**KEYS, "late": "x"}) == (1, 0)
    assert [(a.event.user, a.source) for a in take(inbox, 0).events] == [("u", "x")]


BAD: dict[str, tuple[str, Any, dict[str, str]]] = {
    "own": ("/v1/events", lambda e: {"events": [{"type": "ok", "user": "v", "id": "1"}, e], "key": "a"}, {"type": "x", "user": "u", "id": "2"}),
    "segment": ("/v1/batch", lambda e: {"batch": [e], "writeKey": "a", "context": {"campaign": {"source": "mail"}}}, {"type": "track", "event": "x", "userId": "u", "messageId": "2"}),
    "posthog": ("/batch", lambda e: {"batch": [e], "api_key": "a"}, {"event": "x", "distinct_id": "u", "uuid": "2"}),
    "posthog_v1": ("/i/v1/analytics/events", lambda e: {"batch": [e]}, {"event": "x", "distinct_id": "u", "uuid": "2"}),
    "mixpanel": ("/track", lambda e: [e, {"event": "ok", "properties": {"distinct_id": "v"}}], {"event": "x", "properties": {"token": "a", "distinct_id": "u"}}),
    "amplitude": ("/2/httpapi", lambda e: {"events": [e], "api_key": "a"}, {"event_type": "x", "user_id": "u"}),
    "ga4": ("/mp/collect", lambda e: {"events": [e], "client_id": "u"}, {"name": "x"}),
    "snowplow": ("/com.snowplowanalytics.snowplow/tp2", lambda e: {"data": [e]}, {"e": "pv", "uid": "u", "aid": "a"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_refused_event_is_taken_once_its_dialect_is_mended(inbox: SqliteInbox, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The rule that refused it is gone; source, marks and what the request said of all its events are still there."""
    from propend.serve.dialects import port
    from propend.serve.dialects.own import Own

    path, wrap, event = BAD[name]
    if name == "own":
        monkeypatch.setattr("propend.serve.dialects.own._fault", lambda e: "no" if e["id"] == "2" else "")  # fmt: skip
    elif name == "posthog_v1":
        event = {**event, "uuid": ""}
    else:
        monkeypatch.setattr(port, "LATEST", 0)
    collect(inbox, path, wrap(event), b"api_secret=a", authorization="Bearer a", user_agent="Googlebot/2.1")  # fmt: skip
    make(inbox, tmp_path).drain()
    assert [r for r in inbox.rejected() if b'"v"' in r.body] == [] or name == "mixpanel"
    kept = inbox.rejected()
    assert all(r.source == "web" for r in kept)
    assert replay_rejected(inbox, KEYS) == (0, len(kept))
    monkeypatch.undo()
    if name == "posthog_v1":  # nothing to mend: it has no name
        return
    assert replay_rejected(inbox, KEYS) == (len(kept), 0)
    found = [a for a in take(inbox, 0).events if a.event.user == "u"]
    assert [(a.source, a.event.marks) for a in found] == [("web", "bot")]
    assert isinstance(Own().name, str)
    if name == "segment":
        assert found[0].event.channel == "mail"


def test_many_refused_events_of_one_request_cost_one_reading_and_one_commit(inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from propend.serve.dialects import port

    read: list[int] = []
    decode = port.decode
    monkeypatch.setattr(port, "decode", lambda body: (read.append(len(body)), decode(body))[1])
    events = [{"type": "", "user": "u", "id": str(n)} for n in range(2_000)]
    message = {"events": events, "sent": "2026-01-01T00:00:00Z", "note": "x" * 5_000, "key": "a"}
    whole = len(msgspec.json.encode(message))
    calls: list[int] = []
    reject = SqliteInbox.reject
    monkeypatch.setattr(SqliteInbox, "reject", lambda self, rows: (calls.append(len(rows)), reject(self, rows))[1])  # fmt: skip
    assert collect(inbox, "/v1/events", message) == 200
    assert calls == [2_000]
    assert sum(read) < 4 * whole
    kept = inbox.rejected(5_000)
    assert len(kept) == 2_000
    assert all(b'"sent":"2026' in r.body and len(r.body) < 200 for r in kept)


def test_a_file_from_before_is_completed(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "inbox.db")
    db.execute(
        "create table rejected (number integer primary key autoincrement, received integer not null, key text not null,"
        " dialect text not null, route text not null, reason text not null, body blob not null)"
    )
    body = b'{"type":"track","event":"ok","userId":"u","messageId":"1"}'
    db.execute("insert into rejected (received, key, dialect, route, reason, body) values (5, 'a', 'segment', '/v1/track', 'unknown write key', ?)", (body,))  # fmt: skip
    db.commit()
    db.close()
    for _ in range(2):
        inbox = SqliteInbox(tmp_path)
        assert inbox.rejected()[0][:7] == (5, "a", "segment", "/v1/track", "unknown write key", body, "")  # fmt: skip
        inbox.close()
    assert replay_rejected(SqliteInbox(tmp_path), KEYS) == (1, 0)


def test_refused_bodies_are_bounded_in_bytes(inbox: SqliteInbox) -> None:
    app = Collector(inbox, KEYS, Limits(rejected_bytes=5_000))
    message = msgspec.json.encode({"writeKey": "no", "type": "track", "event": "x" * 2_000})
    for _ in range(4):
        ask_again = Collector(inbox, KEYS, app.limits)
        ask(ask_again, "/v1/track", message)
    assert inbox.refused() == 2
    assert inbox.refused_bytes() <= 5_000
    assert "propend_collect_refused_not_kept_total 1" in ask_again.metrics()
    inbox.release([r.number for r in inbox.rejected()])
    ask_again.refusals._looked = -1e9  # a minute later
    asyncio.run(_refuse(ask_again, message))
    assert inbox.refused() == 1


async def _refuse(app: Collector, body: bytes) -> None:
    await app.refusals.keep([Rejected(START, "", "segment", "/v1/track", "no", body)])


def test_the_mover_reads_no_refused_body_and_keeps_within_bounds(inbox: SqliteInbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    mover = make(inbox, tmp_path)
    bad = Batch(START, "shop", "segment", "/v1/track", "", "", "", b'{"type":"track","userId":"u"}')
    inbox.append([bad])
    monkeypatch.setattr(SqliteInbox, "rejected", lambda *_: pytest.fail("reads bodies"))
    mover.drain()
    assert inbox.refused() == 1
    mover._refuse([Rejected(START, "", "segment", "/v1/track#1.0", "again", b"", taken=True)])
    assert inbox.refused() == 1  # stands there already
    monkeypatch.setattr(moving, "MOST_REFUSED_BYTES", inbox.refused_bytes() + 10)
    inbox.append([bad])
    mover.drain()
    assert (inbox.refused(), mover.unkept) == (1, 1)


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_under_way_never_hold_more_than_they_may(inbox: SqliteInbox, announced: bool) -> None:  # fmt: skip
    """Forty requests of 1 MB are all half way at once; four find room, the others are told to come again."""
    app = Collector(inbox, {}, Limits(receiving=4 << 20))
    peak = 0

    async def one() -> int:
        sent = 0
        out: list[Any] = []

        async def receive() -> Any:
            nonlocal sent, peak
            await asyncio.sleep(0)
            peak = max(peak, app.receiving)
            sent += 1 << 16
            if sent == 1 << 19:
                await asyncio.sleep(0.2)
            return {"type": "http.request", "body": b" " * (1 << 16), "more_body": sent < 1 << 20}

        async def send(message: Any) -> None:
            out.append(message)

        headers = [(b"content-length", b"1048576")] if announced else []
        await app({"type": "http", "method": "POST", "path": "/v1/batch", "headers": headers, "query_string": b"", "client": ("1.1.1.1", 1)}, receive, send)  # fmt: skip
        return int(out[0]["status"])

    async def all_of_them() -> Counter[int]:
        await app.start()
        found = Counter(await asyncio.gather(*(one() for _ in range(40))))
        await app.stop()
        return found

    found = asyncio.run(all_of_them())
    assert peak <= 4 << 20
    assert app.receiving == 0
    assert found[429] >= 30
    if announced:
        assert found == {400: 4, 429: 36}


def test_a_person_named_in_a_query_can_be_erased(inbox: SqliteInbox) -> None:
    from propend.serve.erase import Mentions, _from_refused

    asked = '{"query":{"uid":"%s"},"headers":{}}'
    inbox.reject([Rejected(START, "", "snowplow", "/i", "no", b"", asked=asked % user) for user in ("ada", "bob")])  # fmt: skip
    assert _from_refused(inbox, Mentions(["ada"])) == 1
    assert [r.asked for r in inbox.rejected()] == [asked % "bob"]
