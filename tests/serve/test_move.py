"""The mover: every event once in the store, through kill -9 at every step; quarantine, identity, replay."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from propend.config import Config, parse
from propend.engine import connect
from propend.events.store import Store
from propend.pipeline.sql import answer
from propend.serve.dialects import BY_NAME
from propend.serve.dialects.port import Request
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, Rejected, SqliteInbox
from propend.serve.move import Mover, moved_to, take
from propend.serve.refused import replay_rejected

START = 1_767_000_000_000_000
DAY = 86_400_000_000
CONFIG = parse(
    {
        "workspace": {"zone": "UTC"},
        "live": {
            "keys": {"key": "shop"},
            "properties": {"plan": "text", "size": "number"},
            "traits": ["country"],
        },
    }
)


def batch(numbers: range, user: str = "u", at: int = START, source: str = "shop") -> Batch:
    events = [
        {"type": "track", "event": "Product Viewed", "userId": f"{user}{n % 7}", "messageId": f"m{n}", "originalTimestamp": (at + n * 1_000_000) / 1e6,
         "properties": {"sku": f"i{n % 5}", "price": n, "plan": "pro", "size": n}}
        for n in numbers
    ]  # fmt: skip
    return Batch(
        at + 86_400_000_000,
        source,
        "segment",
        "/v1/batch",
        "",
        "",
        "",
        msgspec.json.encode({"batch": events}),
    )


def make(folder: Path, config: Config = CONFIG) -> tuple[SqliteInbox, Mover]:
    inbox = SqliteInbox(folder / "live" / "inbox")
    return inbox, Mover(
        config,
        folder,
        folder / "store",
        connect("local"),
        inbox,
        Identity(folder / "live" / "identity.db"),
    )


def stored(folder: Path, *columns: str) -> list[dict[str, Any]]:
    store = Store(folder / "store")
    rows: list[dict[str, Any]] = []
    for bucket in range(store.buckets):
        rows += store.read_bucket(bucket, ["user", "time", "type", *columns]).to_pylist()
    return rows


def test_every_event_is_in_the_store_once(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    inbox.append([batch(range(20)), batch(range(10, 30)), batch(range(5), source="app")])
    assert mover.drain() == 35
    assert mover.repeats == 10
    rows = stored(tmp_path, "size", "plan", "price")
    assert len(rows) == 35
    assert {r["plan"] for r in rows} == {"pro"}
    assert inbox.read(0) == []
    inbox.append([batch(range(30))])
    assert mover.drain() == 0
    inbox.append([batch(range(30, 40))])
    assert mover.drain() == 10
    assert len(stored(tmp_path)) == 45
    assert not list((tmp_path / "live" / "segments").iterdir())
    assert (
        len(
            [
                e
                for e in Store(tmp_path / "store").manifest.ledger
                if e["source"].startswith("live-")
            ]
        )
        == 1
    )


def test_a_workspace_may_be_named_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inbox, mover = make(Path("shop"))
    inbox.append([batch(range(20))])
    assert mover.drain() == 20
    assert len(stored(tmp_path / "shop")) == 20


def test_sql_answers_where_no_event_has_a_value_in_a_column(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    inbox.append([batch(range(20))])
    mover.drain()
    asked = "select marks, typeof(marks) kind, plan, count(*) n from events group by all"
    found = answer(Store(tmp_path / "store"), connect("local"), asked).to_pylist()
    assert found == [{"marks": None, "kind": "VARCHAR", "plan": "pro", "n": 20}]


def test_a_changed_rule_holds_for_later_events_only(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    inbox.append([batch(range(20))])
    mover.drain()
    stricter = msgspec.structs.replace(
        CONFIG, clean=msgspec.structs.replace(CONFIG.clean, max_amount=25.0)
    )
    mover.config = stricter
    inbox.append([batch(range(20, 40))])
    mover.drain()
    assert len(stored(tmp_path)) == 26
    assert Store(tmp_path / "store").quarantine().num_rows == 14
    mover.config = CONFIG
    mover.replay()
    assert len(stored(tmp_path)) == 40


@pytest.mark.parametrize("ahead", [100, 1_500])
def test_a_wrong_clock_does_not_move_what_is_now(tmp_path: Path, ahead: int) -> None:
    """Neither a time that has not come yet nor one that came while the event waited in the inbox."""
    inbox, mover = make(tmp_path)
    received = int(time.time() * 1e6) - 200 * DAY
    inbox.append([batch(range(20), at=received - DAY)])
    mover.drain()
    span = Store(tmp_path / "store").span
    wrong = batch(range(20, 21), at=received + ahead * DAY)
    right = batch(range(21, 22), at=received - DAY)
    inbox.append([wrong._replace(received=received), right])
    assert mover.drain() == 2
    inbox.append([batch(range(22, 23), at=received - DAY)])
    assert mover.drain() == 1
    assert mover.set_aside == {"time in the future": 1}
    store = Store(tmp_path / "store")
    assert store.span == (span[0], span[1] + 3_000_000)
    aside = store.quarantine().to_pylist()
    assert [(row["reason"], row["user"]) for row in aside] == [("time in the future", "u6")]
    mover.replay()
    assert len(stored(tmp_path)) == 22
    mover.config = msgspec.structs.replace(
        CONFIG, clean=msgspec.structs.replace(CONFIG.clean, future_times="keep")
    )
    mover.replay()
    assert len(stored(tmp_path)) == 23  # nothing is lost


def test_only_repeats_and_refusals_still_advance(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    inbox.append(
        [Batch(START, "shop", "segment", "/v1/batch", "", "", "", b'{"batch":[{"type":"track"}]}')]
    )
    assert mover.step() is not None
    assert mover.step() is None
    assert len(inbox.rejected()) == 1
    assert moved_to(Store(tmp_path / "store")) == 1


def test_identity_facts_are_dated_and_idempotent(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    identify = {
        "batch": [
            {
                "type": "identify",
                "userId": "u1",
                "anonymousId": "a1",
                "messageId": "x",
                "originalTimestamp": START / 1e6,
                "traits": {"country": "DE"},
            }
        ]
    }
    inbox.append(
        [Batch(START, "shop", "segment", "/v1/batch", "", "", "", json.dumps(identify).encode())]
        * 2
    )
    mover.drain()
    assert mover.identity.ids("a1", START + 1) == ("a1", "u1")
    assert len(mover.identity.facts("u1")) == 1
    table = Store(tmp_path / "store").table("users")
    assert table is not None
    assert table.to_pylist() == [{"user": "u1", "country": "DE"}]


UNNAMED: dict[str, tuple[str, str, bytes, bytes]] = {
    "segment": ("/v1/track", "timestamp", b'{"type":"track","event":"click","userId":"u"%}', b'"2025-12-29"'),
    "own": ("/v1/events", "time", b'{"events":[{"type":"click","user":"u"%}]}', b'"2025-12-29"'),
    "posthog": ("/capture", "timestamp", b'{"api_key":"key","event":"click","distinct_id":"u"%}', b'"2025-12-29"'),
    "mixpanel": ("/track", "time", b'[{"event":"click","properties":{"token":"key","distinct_id":"u"%}}]', b"1767000000"),
    "amplitude": ("/2/httpapi", "time", b'{"api_key":"key","events":[{"event_type":"click","user_id":"u"%}]}', b"1767000000000"),
    "ga4": ("/mp/collect", "timestamp_micros", b'{"client_id":"u"%,"events":[{"name":"click"}]}', b"1767000000000000"),
    "snowplow": ("/com.snowplowanalytics.snowplow/tp2", "dtm", b'{"data":[{"e":"pv","uid":"u"%}]}', b'"1767000000000"'),
}  # fmt: skip


@pytest.mark.parametrize("name", UNNAMED)
def test_events_without_id_and_time_are_all_kept(tmp_path: Path, name: str) -> None:
    """Three that look alike are three; where they say when it was, they are one that was sent three times."""
    route, field, body, when = UNNAMED[name]
    for expected, filled in (
        (3, body.replace(b"%", b"")),
        (1, body.replace(b"%", b',"' + field.encode() + b'":' + when)),
    ):
        inbox = SqliteInbox(tmp_path / str(expected))
        for n in range(3):
            accepted = BY_NAME[name].accept(Request(route, {}, {}, filled))
            inbox.append([Batch(START + n * 86_400_000_000, "shop", name, route, "", "", "", accepted.body)])  # fmt: skip
        taken = take(inbox, 0)
        assert (len(taken.events), taken.repeats) == (expected, 3 - expected)
        assert [a.event.message for a in take(inbox, 0).events] == [a.event.message for a in taken.events]  # fmt: skip
        inbox.close()


def test_two_alike_in_one_batch_are_two(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    one = b'{"type":"track","event":"click","userId":"u"}'
    inbox.append([Batch(START, "shop", "segment", "/v1/batch", "", "", "", b'{"batch":[%b,%b]}' % (one, one))])  # fmt: skip
    own = BY_NAME["own"].accept(Request("/v1/events", {}, {}, b'{"events":[{"id":{},"type":"v","user":"u"},{"id":"null","type":"v","user":"u"}]}'))  # fmt: skip
    inbox.append([Batch(START, "shop", "own", "/v1/events", "", "", "", own.body)])
    assert mover.drain() == 4
    inbox.append([Batch(START, "shop", "segment", "/import/segment", "", "", "import", b'{"batch":[%b]}' % one)] * 2)  # fmt: skip
    assert mover.drain() == 1  # the same file again


def test_a_mended_key_brings_refused_requests_in(tmp_path: Path) -> None:
    inbox, mover = make(tmp_path)
    body = msgspec.json.encode(
        {
            "writeKey": "late",
            "batch": [{"type": "track", "event": "x", "userId": "u", "messageId": "m"}],
        }
    )
    inbox.reject(
        [
            Rejected(START, "late", "segment", "/v1/batch", "unknown write key", body),
            Rejected(START, "", "segment", "/v1/batch", "not JSON", b"no"),
        ]
    )
    assert replay_rejected(inbox, {"key": "shop"}) == (0, 2)
    assert replay_rejected(inbox, {"key": "shop", "late": "app"}) == (1, 1)
    assert mover.drain() == 1


CHILD = """
import os, sys, random, time, threading
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_move import make
inbox, mover = make(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    mover.step(limit=3)
"""


@pytest.mark.slow
def test_kill_9_of_the_mover_neither_loses_nor_doubles(tmp_path: Path) -> None:
    draw = random.Random(7)
    inbox, mover = make(tmp_path)
    sent = 0
    for _ in range(6):
        inbox.append([batch(range(sent + i * 10, sent + i * 10 + 10)) for i in range(20)])
        sent += 200
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), "", str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            env={**os.environ},
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(draw.random() * 0.5)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    mover.drain()
    rows = stored(tmp_path, "size")
    assert sorted(int(r["size"]) for r in rows) == list(range(sent))
