"""The replay gate: a log replayed event by event; every feature, at every event, is the same bits as batch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from propend.config import parse as parse_config
from propend.engine import connect
from propend.events.store import Store
from propend.features.derive import derive_features
from propend.features.evaluate import Rows, matrix
from propend.features.program import Program
from propend.features.schema import Schema
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, SqliteInbox
from propend.serve.move import Mover
from propend.serve.state import LiveState

DAY = 86_400_000_000
START = 1_767_000_000_000_000
CONFIG = parse_config(
    {
        "workspace": {"zone": "Europe/Berlin"},
        "live": {"properties": {"depth": "number"}, "traits": ["plan"]},
    }
)
NAMES = ("Product Viewed", "Product Added", "Order Completed")


def log(n: int, users: int, seed: int) -> list[Batch]:
    """Events with ties, late and repeated ones, in batches of one."""
    rng = np.random.default_rng(seed)
    found = []
    received = START
    for i in range(n):
        received += int(rng.integers(0, DAY // 2))
        lag = int(rng.choice([0, 1_000_000, 3 * DAY], p=[0.6, 0.3, 0.1]))
        tick = (received - lag) // (DAY // 4) * (DAY // 4) + 1
        event = {
            "id": f"e{i if rng.random() > 0.05 else max(0, i - 1)}", "type": NAMES[rng.integers(3)], "user": f"u{rng.integers(users)}",
            "time": tick, "item": f"i{rng.integers(12)}", "value": round(float(rng.normal(20, 5)), 2), "quantity": int(rng.integers(1, 4)),
            "session": f"s{rng.integers(5)}", "properties": {"depth": float(rng.random())},
        }  # fmt: skip
        found.append(
            Batch(
                received,
                "shop",
                "own",
                "/v1/events",
                "",
                "",
                "",
                msgspec.json.encode({"events": [event]}),
            )
        )
    return found


def parts(folder: Path) -> tuple[SqliteInbox, Mover, LiveState]:
    inbox = SqliteInbox(folder / "live" / "inbox")
    identity = Identity(folder / "live" / "identity.db")
    mover = Mover(CONFIG, folder, folder / "store", connect("local"), inbox, identity)
    state = LiveState(
        folder / "store", inbox, identity, zone="Europe/Berlin", properties=CONFIG.live.properties
    )
    return inbox, mover, state


@pytest.fixture(scope="module")
def batch_side(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Schema, list[Batch]]:
    """The whole log in a store, as batch sees it."""
    folder = tmp_path_factory.mktemp("batch")
    events = log(260, 5, 3)
    inbox, mover, _ = parts(folder)
    inbox.append(events)
    mover.drain()
    store = Store(folder / "store")
    return store, Schema.of(store, "Europe/Berlin"), events


def test_replay_gate(tmp_path: Path, batch_side: tuple[Store, Schema, list[Batch]]) -> None:
    store, schema, events = batch_side
    features = tuple(f for f in derive_features(schema) if "profile." not in str(f))
    whole = {}
    for bucket in range(store.buckets):
        t = store.timelines(bucket, [*schema.numbers, *schema.texts])
        for i, code in enumerate(t.users):
            whole[str(store.names_of(np.array([code]))[0])] = t.of(i)
    inbox, mover, state = parts(tmp_path)
    compared = 0
    program, version = None, -1
    for number, batch in enumerate(events):
        inbox.append([batch])
        for arrived in state.refresh():
            at = arrived.received + 1
            if state.schema_version != version and set(schema.types) <= set(state.schema.types):
                program, version = Program(features, state.schema), state.schema_version
            if program is None:
                continue
            live = state.features(program, arrived.event.user, at)
            expected = matrix(features, whole[arrived.event.user], Rows.of([0], [at]), schema)[0]
            same = (live.view(np.int64) == expected.view(np.int64)) | (
                np.isnan(live) & np.isnan(expected)
            )
            assert same.all(), [
                (str(features[i]), live[i], expected[i]) for i in np.flatnonzero(~same)
            ][:5]
            compared += len(features)
        if number % 60 == 59:  # the mover comes by
            mover.drain()
        if number % 97 == 96:  # the server restarts
            state = LiveState(
                tmp_path / "store",
                inbox,
                mover.identity,
                zone="Europe/Berlin",
                properties=CONFIG.live.properties,
            )
            state.restore()
            version = -1
        if number % 41 == 40:  # memory is short
            state._slices.clear()
    assert compared > 10_000


def test_identity_joins_timelines_and_undo_parts_them(tmp_path: Path) -> None:
    inbox, mover, state = parts(tmp_path)

    def send(**event: object) -> None:
        inbox.append(
            [
                Batch(
                    START + 10,
                    "shop",
                    "own",
                    "/",
                    "",
                    "",
                    "",
                    msgspec.json.encode({"events": [event]}),
                )
            ]
        )
        state.refresh()

    send(id="1", type="view", anonymous="a", time=START, session="s1")
    send(id="2", type="cart", user="u", anonymous="a", time=START + 5, session="s2")
    assert len(state.timelines("u", START + 20)) == 2
    assert state.timelines("u", START + 20).texts["session"].values == ("s1", "s2")
    assert len(state.timelines("u", START + 4)) == 1
    number = mover.identity.facts("u")[0]["number"]
    mover.identity.undo(number, START + 30)
    assert len(state.timelines("u", START + 31)) == 1
    mover.drain()
    state.refresh()
    assert len(state.timelines("u", START + 20)) == 2


def test_memory_is_bounded_and_answers_stay_right(tmp_path: Path) -> None:
    inbox, mover, state = parts(tmp_path)
    state.budget = 20_000
    inbox.append(log(300, 60, 5))
    state.refresh()
    lengths = {f"u{i}": len(state.timelines(f"u{i}")) for i in range(60)}
    assert state.counts()["bytes"] <= 30_000
    assert state.evicted > 0
    mover.drain()
    state.refresh()
    assert {u: len(state.timelines(u)) for u in lengths} == lengths
    assert sum(lengths.values()) == state.events_seen
    assert not state.knows("nobody")
    assert len(state.timelines("nobody")) == 0


def test_another_process_moves_behind_our_back(tmp_path: Path) -> None:
    inbox, mover, state = parts(tmp_path)
    events = log(80, 4, 9)
    inbox.append(events[:40])
    state.refresh()
    assert sum(len(state.timelines(f"u{i}")) for i in range(4)) == state.events_seen
    inbox.append(events[40:])
    mover.drain()  # moved and trimmed before the state ever saw them
    state.refresh()
    store = Store(tmp_path / "store")
    assert sum(len(state.timelines(f"u{i}")) for i in range(4)) == store.rows
