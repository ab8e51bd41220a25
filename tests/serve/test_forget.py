"""Erasure reaches the live side: after it no byte of a person's ids is under the workspace, and nobody else lost anything."""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propend.cli import main
from propend.errors import DataError
from propend.events.store import Store
from propend.pipeline.workspace import open_workspace
from propend.serve.erase import Mentions
from propend.serve.inbox import Batch, Rejected
from propend.serve.live import Live
from propend.serve.log import Predicted

START = 1_767_000_000_000_000
CONFIG = """
[workspace]
zone = "UTC"
buckets = 2
[live]
traits = ["plan"]
[live.keys]
key = "web"
[live.properties]
note = "text"
[[live.triggers]]
name = "spends"
when = "sum(purchase.value) >= 10"
[[live.triggers]]
name = "quiet"
when = "none(purchase) last 1d"
"""


def batch(n: int, *events: dict[str, Any]) -> Batch:
    body = msgspec.json.encode({"events": list(events)})
    return Batch(START + n, "web", "own", "/v1/events", "", "", "", body)


def event(id: str, user: str, type: str = "view", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": type, "user": user, "time": START, "item": "i1", **more}


def holding(folder: Path, ids: list[str]) -> list[tuple[str, str]]:
    """Return files that hold an id: as bytes, escaped for JSON, or inside a Parquet file's pages."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data += repr(pq.read_table(path, partitioning=None).to_pydict()).encode()
            found += [
                (path.name, i)
                for i in ids
                if i.encode() in data or json.dumps(i)[1:-1].encode() in data
            ]
    return found


def fill(live: Live, user: str, alias: str) -> None:
    """Leave traces of a person everywhere: moved and waiting events, refusals, facts, answers, crossings."""
    live.inbox.append(
        [
            batch(0, event("a", alias), event("b", "bob", "purchase", value=20, traits={"plan": "pro"})),
            batch(1, event("c", user, "purchase", value=20, anonymous=alias, traits={"plan": "pro"}), event("d", "bob")),
        ]
    )  # fmt: skip
    live.tail()
    live.move()
    live.inbox.append([batch(2, event("e", user, note=f"from {user}"), event("f", "bob"))])
    live.tail()
    waiting = {
        "batch": [
            {"type": "track", "event": "x", "userId": u, "messageId": u} for u in (user, "bob")
        ]
    }
    hidden = base64.b64encode(
        json.dumps({"event": "x", "properties": {"distinct_id": alias}}).encode()
    )
    bodies = [
        json.dumps(waiting).encode(),
        b"data=" + hidden,
        gzip.compress(json.dumps({"u": user}).encode())[:-6],
        f"not json {user}".encode(),
        b"bob alone",
    ]
    live.inbox.reject(
        [Rejected(START, "late", "segment", "/v1/batch", "unknown write key", b) for b in bodies]
    )
    for who in (user, alias, "bob"):
        live.log.predicted(Predicted(START, who, "buys", 1, 0.5, 0, 0))
        live.log.decided(START, who, "push", 0.5, {"task": "buys"})
    live.log.flush()


def open_live(folder: Path) -> Live:
    folder.mkdir(exist_ok=True)
    (folder / "propend.toml").write_text(CONFIG)
    return Live(open_workspace(folder))


IDS = st.text(alphabet="ab9-.@\"'\\%+ é漢$", min_size=1, max_size=8).map(lambda t: f"Zq{t}7")


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(user=IDS, other=IDS)
def test_no_byte_of_a_person_stays_and_nobody_else_loses_any(user: str, other: str) -> None:
    alias = f"anon-{other}"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shop"
        live = open_live(folder)
        fill(live, user, alias)
        assert {name for name, _ in holding(folder, [user, alias])} >= {"inbox.db-wal", "log.db-wal", "identity.db-wal", "triggers.db-wal"}  # fmt: skip
        bob = live.state.value(parse("count(*)"), "bob", START + 10)
        gone = open_workspace(folder).forget(user)
        assert set(gone["ids"]) == {user, alias}
        assert (gone["events"], gone["refused"], gone["answers"], gone["facts"]) == (3, 4, 4, 1)
        assert gone["fired"] >= 2
        assert holding(folder, [user, alias]) == []
        # nobody else lost anything, and the running server knows
        live.tail()
        assert live.state.value(parse("count(*)"), "bob", START + 10) == bob == 3.0
        assert live.state.value(parse("count(*)"), user, START + 10) == 0.0
        assert {p.user for p in live.log.predictions("buys")} == {"bob"}
        assert {f["user"] for f in live.triggers.outbox.rows()} == {"bob"}
        kept = [r.body for r in live.inbox.rejected()]
        assert sorted(len(b) > 0 and b"bob" in b for b in kept) == [True, True]
        live.stop()


def parse(text: str) -> Any:
    from propend.expression.parse import parse as parsed

    return parsed(text)


def test_a_running_server_writes_the_erased_no_more(tmp_path: Path) -> None:
    live = open_live(tmp_path / "shop")
    fill(live, "ada@x.org", "anon-1")
    live.log.predicted(Predicted(START, "ada@x.org", "buys", 1, 0.5, 0, 0))  # waits in memory
    open_workspace(tmp_path / "shop").forget("ada@x.org")
    live.log.flush()
    # a sweep that read whom it watches before; quiet() holds for whoever has no purchase any more
    live.triggers._swept(["ada@x.org", "bob"], START + 3_600_000_000)
    live.triggers.sweep(START + 3_600_000_000)
    live.inbox.append([batch(9, event("z", "ada@x.org", anonymous="anon-2"), event("y", "bob"))])
    live.tail()
    assert live.state.value(parse("count(*)"), "ada@x.org", START + 100) == 0.0
    live.move()
    assert live.identity.facts("ada@x.org") == []
    assert {p.user for p in live.log.predictions("buys")} == {"bob"}
    assert "ada@x.org" not in {f["user"] for f in live.triggers.outbox.rows()}
    store = Store(tmp_path / "shop" / "store")
    names = {str(n) for b in range(2) for n in store.user_ids(b).to_pylist() if n}
    assert names == {"bob"}
    assert "erased user" in store.quarantine()["reason"].to_pylist()
    live.stop()


def test_alone_leaves_the_other_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = open_live(tmp_path / "shop")
    fill(live, "ada", "anon-1")
    live.stop()
    main(["forget", str(tmp_path / "shop"), "ada", "--alone", "--json"])
    assert json.loads(capsys.readouterr().out)["erased"]["ids"] == ["ada"]
    store = Store(tmp_path / "shop" / "store")
    assert len(store.timelines(store.bucket_of("anon-1")).of(0).time) >= 1
    assert store.code_of("anon-1") >= 0


def test_nobody_is_one_sentence_and_blocks_nobody(tmp_path: Path) -> None:
    live = open_live(tmp_path / "shop")
    fill(live, "ada", "anon-1")
    live.stop()
    workspace = open_workspace(tmp_path / "shop")
    with pytest.raises(DataError, match="nothing was erased"):
        workspace.forget("nobody")
    assert workspace.store.manifest.erased == []


def test_who_was_only_refused_is_erased_too(tmp_path: Path) -> None:
    live = open_live(tmp_path / "shop")
    live.inbox.reject([Rejected(START, "k", "own", "/v1/events", "unknown write key", b'{"events":[{"user":"Zeno-9"}]}')])  # fmt: skip
    live.stop()
    assert open_workspace(tmp_path / "shop").forget("Zeno-9")["refused"] == 1
    assert holding(tmp_path, ["Zeno-9"]) == []


def test_erasure_of_a_fitted_shop(shop: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    (folder / "log.csv").unlink()  # the source is the owner's own; the store blocks the id
    workspace = open_workspace(folder)
    names = {str(n) for n in workspace.store.names_of(np.arange(8))}
    user = sorted(names, key=len)[-1]
    workspace.forget(user)
    left = [name for name, _ in holding(folder, [f'"{user}"', f"'{user}'"])]
    assert left == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"userId": "ad\\u0061"}', True), (b"data=%7B%22u%22%3A%22ada%22%7D", True), (b"adam", False), (b"", False), (b'{"n": 12}', False),
        (b'{"ada": 1}', True), (base64.b64encode(b'{"user": "ada"}'), True), (gzip.compress(b'{"user":"ada"}', mtime=0), True), (b"\xff\xfe ada \xff", True),
    ],
)  # fmt: skip
def test_mentions(body: bytes, found: bool) -> None:
    assert Mentions(["ada"]).within(body) is found
    assert Mentions(["ada"]).without(body) == (b"" if found else body)
