"""The replay gate: a log replayed event by event; every feature, at every event, is the same bits as batch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from propend.config import parse as parse_config
from propend.engine import connect
from propend.events.people import join, links_of, resolve
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.parse import parse
from propend.features.derive import derive_features
from propend.features.evaluate import Rows, evaluate, matrix
from propend.features.program import Program
from propend.features.schema import Schema
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, SqliteInbox
from propend.serve.move import Mover
from propend.serve.state import LiveState, plain_value

DAY = 86_400_000_000
START = 1_767_000_000_000_000
CONFIG = parse_config(
    {
        "workspace": {"zone": "Europe/Berlin"},
        "live": {"properties": {"depth": "number"}, "traits": ["plan"]},
    }
)
WORDS = (
    "count(* where marks = 'denied') last 90d",
    "count(* where text = 't 3')",
    "last(*.channel) = 'mail'",
    "last(*.channel)",
    "last(*.text)",
    "count(* where channel is missing)",
)
"""Asked beside the derived features: what those leave out."""
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
            "text": f"t {rng.integers(6)}", "channel": ["mail", "web", ""][rng.integers(3)], "consent": bool(rng.random() < 0.8),
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
    events = log(260, 12, 3)
    inbox, mover, _ = parts(folder)
    inbox.append(events)
    mover.drain()
    store = Store(folder / "store")
    return store, Schema.of(store, "Europe/Berlin"), events


def test_replay_gate(tmp_path: Path, batch_side: tuple[Store, Schema, list[Batch]]) -> None:
    store, schema, events = batch_side
    every = (
        *(f for f in derive_features(schema) if "profile." not in str(f)),
        *map(parse, WORDS),
    )
    probe = evaluate(every, store.timelines(0, [*schema.numbers, *schema.texts]), Rows.of([0], [START]), schema)  # fmt: skip
    # a text's code is its own in each schema: texts are compared as what they say
    features = tuple(f for f, v in zip(every, probe, strict=True) if not isinstance(v, Column))
    texts = [f for f in every if f not in features]
    assert {"last(*.text)", "last(*.channel)"} <= {str(f) for f in texts}
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
            said = evaluate(texts, whole[arrived.event.user], Rows.of([0], [at]), schema)
            for text, value in zip(texts, said, strict=True):
                assert state.value(text, arrived.event.user, at) == plain_value(value), str(text)
            compared += len(every)
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


def plain(values: dict[str, Any]) -> dict[str, float | str | None]:
    return {name: plain_value(v) for name, v in values.items()}


def test_attributes_are_those_of_batch_before_and_after_each_move(tmp_path: Path) -> None:
    """Traits of linked ids, told again and again: live says before a move what the people store says after it."""
    inbox = SqliteInbox(tmp_path / "live" / "inbox")
    identity = Identity(tmp_path / "live" / "identity.db")
    config = parse_config({"workspace": {"zone": "UTC"}, "live": {"traits": ["plan", "country"]}})
    mover = Mover(config, tmp_path, tmp_path / "store", connect("local"), inbox, identity)
    state = LiveState(tmp_path / "store", inbox, identity, traits=config.live.traits)
    rng = np.random.default_rng(11)
    at, compared = START, 0
    for turn in range(6):
        for _ in range(25):
            at += 1_000_000
            who = int(rng.integers(8))
            event: dict[str, Any] = {"id": str(at), "type": "view", "time": at}
            event |= {"anonymous": f"a{who}"} if rng.random() < 0.6 else {"user": f"u{who}"}
            if rng.random() < 0.1:
                event |= {"anonymous": f"a{who}", "user": f"u{who}"}
            if rng.random() < 0.5:
                plan = str(rng.choice(["pro", "free", " "]))
                event["traits"] = {"plan": plan} | ({"country": "de"} if turn > 2 else {})
            body = msgspec.json.encode({"events": [event]})
            inbox.append([Batch(at, "shop", "own", "/v1/events", "", "", "", body)])
        state.refresh()
        names = [f"{kind}{n}" for kind in "au" for n in range(8)]
        before = {name: plain(state.profile(name, at + 1)) for name in names}
        assert "plan" in state.schema.users
        mover.drain()
        state.refresh()
        assert {name: plain(state.profile(name, at + 1)) for name in names} == before
        people = join(
            Store(tmp_path / "store"),
            links_of(tmp_path / "live" / "identity.db"),
            tmp_path / "people",
        )
        table = people.table("users")
        known = {} if table is None else {row["user"]: row for row in table.to_pylist()}
        person = {
            i: p for i, (p, _) in resolve(links_of(tmp_path / "live" / "identity.db")).items()
        }
        for name in names:
            row = known.get(person.get(name, name), {})
            assert before[name] == {n: row.get(n) for n in ("plan", "country")}, name
            compared += before[name]["plan"] is not None
    assert compared > 20


def test_a_trait_is_seen_at_once_under_every_id(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "live" / "inbox")
    state = LiveState(
        tmp_path / "store", inbox, Identity(tmp_path / "live" / "identity.db"), traits=("plan",)
    )
    events = [
        {"id": "1", "type": "view", "anonymous": "a", "time": START, "traits": {"plan": "pro"}},
        {"id": "2", "type": "view", "anonymous": "a", "user": "u", "time": START + 1},
    ]
    body = msgspec.json.encode({"events": events})
    inbox.append([Batch(START + 2, "shop", "own", "/", "", "", "", body)])
    state.refresh()
    for user in ("a", "u"):
        assert plain(state.profile(user, START + 9)) == {"plan": "pro"}
        assert state.value(parse("profile.plan = 'pro'"), user, START + 9) == 1


def test_marks_can_be_asked_for_and_refused_consent_is_known(tmp_path: Path) -> None:
    inbox, mover, state = parts(tmp_path)
    events = [
        {"id": "1", "type": "view", "user": "u", "time": START, "consent": False},
        {"id": "2", "type": "view", "user": "v", "time": START},
    ]
    body = msgspec.json.encode({"events": events})
    inbox.append([Batch(START + 2, "shop", "own", "/", "", "", "gpc", body)])
    state.refresh()
    asked = parse("count(* where marks = 'gpc denied')")
    for _ in range(2):  # waiting, then stored
        assert [state.value(asked, user, START + 9) for user in "uv"] == [1, 0]
        assert [state.denied(user, START + 9) for user in "uv"] == [True, False]
        assert not state.denied("u", START + 31 * DAY)
        mover.drain()
        state.refresh()
    assert Schema.of(Store(tmp_path / "store")).is_text("marks")


def test_reading_somebody_from_the_disk_holds_up_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, mover, state = parts(tmp_path)
    inbox.append(log(60, 4, 9))
    mover.drain()
    state.refresh()
    length = len(state.timelines("u1"))
    state.timelines("u2")
    del state._slices["u1"]
    read, reading, go = state._read, threading.Event(), threading.Event()

    def slow(store: Store, user: str) -> Timelines | None:
        reading.set()
        go.wait(600)  # longer than the other is waited for
        return read(store, user)

    monkeypatch.setattr(state, "_read", slow)
    cold = threading.Thread(target=state.timelines, args=("u1",))
    cold.start()
    assert reading.wait(300)
    hot = threading.Thread(target=state.timelines, args=("u2",))
    hot.start()
    hot.join(60)
    answered = not hot.is_alive()
    send = {"id": "late", "user": "u1", "type": "view", "time": START}
    inbox.append([Batch(START + 400 * DAY, "shop", "own", "/", "", "", "", msgspec.json.encode({"events": [send]}))])  # fmt: skip
    state.refresh()  # an event of the one who is being read
    go.set()
    cold.join(300)
    assert answered
    assert len(state.timelines("u1")) == length + 1


def test_moves_leave_the_memory_full_and_what_empties_it_says_so(tmp_path: Path) -> None:
    inbox, mover, state = parts(tmp_path)

    def put(n: int) -> None:
        events = [{"id": f"{n}-{u}", "type": "view", "user": f"u{u}", "time": START + n} for u in range(20)]  # fmt: skip
        inbox.append([Batch(START + n + 1, "shop", "own", "/", "", "", "", msgspec.json.encode({"events": events}))])  # fmt: skip
        state.refresh()

    put(0)
    mover.drain()
    state.refresh()
    assert state.emptied
    assert state.restore() == 20
    assert not state.emptied
    for n in (1, 2):
        put(n)
        mover.drain()
        state.refresh()
        assert (state.counts()["active_users"], state.counts()["loaded"], state.emptied) == (20, 0, False)  # fmt: skip
    state.properties["colour"] = "text"  # a column that the timelines in memory do not have
    state._extend_schema()
    assert (state.counts()["active_users"], state.emptied) == (0, True)
    assert state.restore() == 20
    assert len(state.timelines("u3")) == 3
