"""Identity facts: one per pair and kind, undone for good, never seen before they were known, and never in the way of events."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propend.config import parse
from propend.engine import connect
from propend.errors import DataError
from propend.events.people import links_of
from propend.serve.dialects import BY_NAME, dialect_of
from propend.serve.dialects.port import BadBody, Event, Fact, Request
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, SqliteInbox
from propend.serve.move import Mover, segment_table, take
from propend.serve.state import LiveState

START = 1_767_000_000_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR
CONFIG = parse({"workspace": {"zone": "UTC"}, "live": {"properties": {"a": "number", "b": "text"}, "traits": ["t"]}})  # fmt: skip


class Parts:
    """Inbox, facts, mover and live state of one folder."""

    def __init__(self, folder: Path) -> None:
        self.inbox = SqliteInbox(folder / "live" / "inbox")
        self.who = Identity(folder / "live" / "identity.db")
        self.mover = Mover(CONFIG, folder, folder / "store", connect("local"), self.inbox, self.who)
        self.state = LiveState(folder / "store", self.inbox, self.who)

    def put(self, message: dict[str, Any], received: int, marks: str = "") -> None:
        body = msgspec.json.encode(message)
        self.inbox.append([Batch(received, "shop", "segment", "/v1/batch", "", "", marks, body)])


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def said(n: int, user: str = "u", anonymous: str = "a", time: Any = None) -> dict[str, Any]:
    return {"type": "track", "event": "x", "userId": user, "anonymousId": anonymous, "messageId": f"m{n}", "timestamp": time}  # fmt: skip


@pytest.mark.parametrize("time", ["1e300", -5, "0001-01-01T00:00:00", "9999-12-31T00:00:00Z", 10**300])  # fmt: skip
def test_an_impossible_time_stops_nothing(parts: Parts, time: Any) -> None:
    parts.put(said(1, time=time), START)
    parts.put(said(2, user="good", anonymous=""), START + 1)
    assert [a.event.user for a in parts.state.refresh()] == ["good"]
    assert parts.mover.drain() == 1
    assert [r.reason for r in parts.inbox.rejected()] == ["the time is impossible"]
    assert parts.who.facts("u") == []


def test_a_failed_write_leaves_no_transaction_open(tmp_path: Path) -> None:
    who = Identity(tmp_path / "identity.db")
    good = Fact(time=5, kind="identify", one="a", other="u", message="m")
    with pytest.raises(OverflowError):
        who.add([("s", good), ("s", Fact(time=1 << 70, kind="alias", one="b", other="u", message="n"))])  # fmt: skip
    assert who.facts("u") == []
    who.add([("s", good)])
    assert len(who.facts("u")) == 1
    other = Identity(tmp_path / "identity.db")  # nobody holds the file
    other.add([("s", Fact(time=6, kind="alias", one="c", other="u", message="o"))])


def test_one_undo_holds_against_what_says_it_again(parts: Parts) -> None:
    for n in range(3):
        parts.put(said(n), START + n)
    parts.state.refresh()
    (fact,) = parts.who.facts("u")
    assert (fact["arrival"], fact["message"]) == (START, "m0")
    parts.who.undo(fact["number"], START + HOUR)
    parts.put(said(9), START + 2 * HOUR)
    parts.put(said(10, user="a", anonymous="u"), START + 3 * HOUR)  # the same pair the other way
    parts.state.refresh()
    parts.mover.drain()
    assert parts.who.ids("u", START + DAY) == ("u",)
    assert parts.who.ids("u", START + HOUR - 1) == ("a", "u")
    assert len(parts.who.facts("u")) == 1


def test_an_undone_pair_can_be_linked_again(parts: Parts, tmp_path: Path) -> None:
    parts.put(said(1), START)
    parts.state.refresh()
    (fact,) = parts.who.facts("u")
    with pytest.raises(DataError, match="no identity fact 1 that was undone"):
        parts.who.redo(fact["number"], START + HOUR)
    parts.who.undo(fact["number"], START + HOUR)
    parts.who.redo(fact["number"], START + 2 * HOUR)
    parts.put(said(2), START)  # told again: it does not hold from before
    parts.state.refresh()
    parts.mover.drain()
    assert parts.who.ids("u", START + 2 * HOUR) == ("a", "u")
    assert parts.who.ids("u", START + 2 * HOUR - 1) == ("u",)
    assert [link.time for link in links_of(tmp_path / "live" / "identity.db")] == [START + 2 * HOUR]
    parts.who.undo(fact["number"], START + 3 * HOUR)
    assert parts.who.ids("u", START + 3 * HOUR) == ("u",)
    assert parts.who.ids("u", START + 3 * HOUR - 1) == ("a", "u")


def together(facts: list[dict[str, Any]], user: str, at: int) -> tuple[str, ...]:
    """Who is one person with somebody at a moment, by going through all facts again and again."""
    found = {user}
    while True:
        more = set(found)
        for f in facts:
            begun = max(f["time"], f["arrival"], f["redone"])
            holds = begun <= at and (f["undone"] is None or f["undone"] > at)
            if holds and {f["one"], f["other"]} & more:
                more |= {f["one"], f["other"]}
        if more == found:
            return tuple(sorted(found))
        found = more


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_remembered_of_people_is_what_the_facts_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = [f"u{i}" for i in range(7)]
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (Identity(Path(folder) / "identity.db") for _ in range(2))
        for _ in range(40):
            who = ours if rng.random() < 0.7 else theirs  # another process
            known = {f["number"]: f for u in users for f in ours.facts(u)}
            what, at = rng.random(), int(rng.integers(0, 100))
            if what < 0.3:
                one, other = rng.choice(users, 2, replace=False).tolist()
                time, arrival = rng.integers(0, 100, 2).tolist()
                fact = Fact(time=time, arrival=arrival, kind="identify", one=one, other=other, message="m")  # fmt: skip
                who.add([("s", fact)], durable=bool(rng.random() < 0.3))
            elif what < 0.4 and known:
                number = int(rng.choice([*known]))
                (who.undo if known[number]["undone"] is None else who.redo)(number, at)
            elif what < 0.43:
                who.forget(str(rng.choice(users)))
            facts = [*{f["number"]: f for u in users for f in ours.facts(u)}.values()]
            for user in users:
                for moment in (at, 200, int(rng.integers(0, 100))):
                    assert ours.ids(user, moment) == together(facts, user, moment)
        ours.close()
        theirs.close()


def test_the_earlier_of_two_tellings_counts(parts: Parts) -> None:
    parts.put(said(1, time="2090-01-01T00:00:00Z"), START)  # a clock far ahead
    parts.put(said(2), START + HOUR)
    parts.state.refresh()
    assert parts.who.ids("u", START + HOUR - 1) == ("u",)
    assert parts.who.ids("u", START + HOUR) == ("a", "u")


def test_a_late_link_is_not_seen_before_it_came(parts: Parts, tmp_path: Path) -> None:
    early = (START + HOUR) / 1e6
    parts.put({**said(1, user="", anonymous="a", time=START / 1e6)}, START + 1)
    parts.put(said(2, time=early), START + 3 * DAY)
    parts.state.refresh()
    parts.mover.drain()
    assert parts.who.ids("u", START + DAY) == ("u",)
    assert parts.who.ids("u", START + 3 * DAY) == ("a", "u")
    assert [link.time for link in links_of(tmp_path / "live" / "identity.db")] == [START + 3 * DAY]
    parts.put(said(3, user="v", anonymous="b", time=early), START + 3 * DAY, "import")
    parts.mover.drain()
    assert parts.who.ids("v", START + DAY) == (
        "b",
        "v",
    )  # imported history is known when it happened


def test_facts_of_a_file_from_before_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "identity.db"
    db = sqlite3.connect(path)
    db.execute(
        "create table facts (number integer primary key, time integer not null, kind text not null, one text not null,"
        " other text not null, source text not null, message text not null, undone integer, unique (source, message, one, other))"
    )
    db.execute("create index facts_one on facts (one)")
    rows = [(7, "a", "u", "m1", None), (5, "a", "u", "m2", 50), (9, "b", "v", "m3", None)]
    db.executemany("insert into facts (time, kind, one, other, source, message, undone) values (?,'identify',?,?,'s',?,?)", rows)  # fmt: skip
    db.commit()
    db.close()
    assert [(k.time, k.one) for k in links_of(path)] == [(7, "a"), (9, "b")]
    for _ in range(2):
        who = Identity(path)
        assert [(f["time"], f["undone"]) for f in who.facts("u")] == [(5, 50)]
        assert who.ids("v", 9) == ("b", "v")
        who.add([("s", Fact(time=11, arrival=12, kind="identify", one="a", other="u", message="m9"))])  # fmt: skip
        assert who.ids("u", 60) == ("u",)
        who.close()
    assert [(k.time, k.one) for k in links_of(path)] == [(9, "b")]


ROUTES = {
    "segment": ("/v1/batch", lambda e: {"batch": e, "writeKey": "k"}),
    "own": ("/v1/events", lambda e: {"events": e}),
    "posthog": ("/batch", lambda e: {"batch": e, "api_key": "k"}),
    "posthog_v1": ("/i/v1/analytics/events", lambda e: {"batch": e}),
    "mixpanel": ("/track", lambda e: e),
    "mixpanel_import": ("/import", lambda e: e),
    "amplitude": ("/2/httpapi", lambda e: {"events": e, "api_key": "k"}),
    "ga4": ("/mp/collect", lambda e: {"events": e, "client_id": "c", "user_id": "u"}),
    "snowplow": ("/com.snowplowanalytics.snowplow/tp2", lambda e: {"data": e}),
}
WORDS = (
    "type event name userId anonymousId previousId messageId timestamp originalTimestamp sentAt properties traits context user anonymous id time "
    "distinct_id uuid $set $set_once $anon_distinct_id alias $distinct_id $insert_id $device_id $distinct_ids $time user_id device_id event_type "
    "event_properties user_properties insert_id session_id params timestamp_micros items e uid duid eid dtm stm url ue_pr ue_px se_ac sid lines "
    "products price quantity revenue value a b t $ignore userAgent campaign source consent categoryPreferences"
)
NAMES = WORDS.split()
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.sampled_from(["1e300", "track", "identify", "alias", "$create_alias", "$merge", "$identify", "pv", "ue", "u", "a", 10**300, 10**19, -(10**25),
                     "2026-01-01T00:00:00Z", "9999-12-31", "null", "\0", "😀", 1e308, "x" * 1_500]),
)  # fmt: skip
VALUE = st.recursive(ODD, lambda c: st.one_of(st.lists(c, max_size=3), st.dictionaries(st.sampled_from(NAMES), c, max_size=4)), max_leaves=8)  # fmt: skip
PLAUSIBLE = st.fixed_dictionaries(
    {"type": st.sampled_from(["track", "alias", "identify"]), "event": st.sampled_from(["x", "$merge", "$create_alias"]), "userId": ODD, "anonymousId": ODD,
     "user": ODD, "anonymous": ODD, "distinct_id": ODD, "uuid": st.just("n"), "event_type": st.just("x"), "user_id": ODD, "device_id": ODD,
     "name": st.just("x"), "e": st.sampled_from(["pv", "se", "ti", "ue"]), "uid": ODD, "duid": ODD, "$distinct_id": ODD}
)  # fmt: skip
EVENT = st.one_of(
    st.builds(lambda a, b: {**a, **b}, PLAUSIBLE, st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=6)), VALUE
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip
@given(name=st.sampled_from(sorted(ROUTES)), events=st.lists(EVENT, min_size=1, max_size=4))
def test_whatever_a_dialect_takes_can_be_taken_in(
    tmp_path_factory: pytest.TempPathFactory, name: str, events: list[Any]
) -> None:
    """Accepted, read, dated, linked and written as a segment: nothing that was answered 200 stops what comes after it."""
    route, wrap = ROUTES[name]
    body = msgspec.json.encode(wrap(events))
    dialect = dialect_of(route, body)
    assert dialect is not None
    try:
        accepted = dialect.accept(Request(route, {}, {}, body))
    except (BadBody, AttributeError, TypeError, LookupError, ValueError, ArithmeticError):
        return  # the collector answers 400
    folder = tmp_path_factory.mktemp("odd")
    inbox, who = SqliteInbox(folder), Identity(folder / "identity.db")
    last = Batch(START, "shop", "own", "/v1/events", "", "", "", b'{"events":[{"type":"view","user":"last","id":"1"}]}')  # fmt: skip
    inbox.append([Batch(START, "shop", dialect.name, route, "", "", "", accepted.body), last])
    taken = take(inbox, 0)
    who.add(taken.facts)
    inbox.reject(taken.refused)
    assert segment_table(taken.events, CONFIG).num_rows == len(taken.events)
    assert taken.events[-1].event.user == "last"
    read = BY_NAME[dialect.name].events(Batch(*inbox.read(0)[0]))
    assert sum(isinstance(f, Event) for f in read) + 1 == len(taken.events) + taken.repeats
    inbox.close()
    who.close()
