"""Triggers: the outbox never doubles, webhooks are signed and tried again, and what keeps failing is a dead letter."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propend.config import TriggerConfig
from propend.errors import ConfigError
from propend.serve.identity import Identity
from propend.serve.inbox import Batch, SqliteInbox
from propend.serve.outbox import signature
from propend.serve.state import LiveState
from propend.serve.triggers import Triggers

START = 1_767_000_000_000_000
HOUR = 3_600_000_000
ABANDONS = TriggerConfig(
    name="abandons",
    when="any(cart) last 1d and none(*) last 30min",
    url="http://x/hook",
    secret="s",
)
SPENDS = TriggerConfig(
    name="spends", when="sum(purchase.value) >= 100", url="http://x/hook", secret="s"
)


def make(
    folder: Path, *declared: TriggerConfig, waits: tuple[float, ...] = (0.0, 0.0)
) -> tuple[SqliteInbox, LiveState, Triggers]:
    inbox = SqliteInbox(folder / "inbox")
    state = LiveState(folder / "store", inbox, Identity(folder / "identity.db"))
    return inbox, state, Triggers(declared, folder / "triggers.db", state, waits)


def send(inbox: SqliteInbox, number: int, at: int, **event: object) -> None:
    body = msgspec.json.encode({"events": [{"id": str(number), "user": "u", "time": at, **event}]})
    inbox.append([Batch(at + 1, "shop", "own", "/v1/events", "", "", "", body)])


def judge(state: LiveState, triggers: Triggers) -> int:
    events = state.refresh()
    return triggers.judge(events, state.position)


def test_once_per_crossing_even_after_a_crash(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, SPENDS)
    for n in range(4):
        send(inbox, n, START + n * HOUR, type="purchase", value=40)
    events = state.refresh()
    assert triggers.judge(events[:3], events[2].position) == 1
    triggers.close()
    inbox, state, triggers = make(tmp_path, SPENDS)  # the process died; the inbox is read again
    assert judge(state, triggers) == 0
    assert [f["user"] for f in triggers.outbox.rows()] == ["u"]
    triggers.close()


def test_time_alone_can_cross(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, ABANDONS)
    send(inbox, 1, START, type="cart")
    assert judge(state, triggers) == 0
    assert triggers.sweep(START + HOUR // 4) == 0
    assert triggers.sweep(START + HOUR) == 1
    assert triggers.sweep(START + HOUR + 1) == 0
    send(inbox, 2, START + 2 * HOUR, type="view")
    assert judge(state, triggers) == 0
    assert triggers.sweep(START + 3 * HOUR) == 1
    triggers.close()


def test_deliveries_are_signed_tried_again_and_end_as_dead_letters(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, SPENDS)
    send(inbox, 1, START, type="purchase", value=200)
    judge(state, triggers)
    seen: list[tuple[bytes, dict[str, str]]] = []

    def broken(url: str, body: bytes, headers: dict[str, str]) -> None:
        del url
        seen.append((body, headers))
        raise OSError("the receiver answered 500")

    for _ in range(5):
        triggers.outbox.deliver(broken)
    assert len(seen) == 3
    assert triggers.outbox.rows("dead")[0]["fault"] == "the receiver answered 500"
    body, headers = seen[0]
    assert headers["X-Propend-Signature"] == signature("s", headers["X-Propend-Time"], body)
    assert len({h["X-Propend-Delivery"] for _, h in seen}) == 1
    triggers.outbox.revive(triggers.outbox.rows()[0]["number"])
    assert triggers.outbox.deliver(lambda *_: None) == 1
    assert triggers.outbox.rows("sent")
    triggers.close()


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    amounts=st.lists(st.sampled_from([-60.0, 10.0, 40.0, 120.0]), min_size=1, max_size=12),
    crashes=st.sets(st.integers(0, 11)),
    lost=st.booleans(),
)
def test_the_outbox_holds_each_crossing_once(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[float], crashes: set[int], lost: bool
) -> None:
    """Against a slow oracle, with the process dying after any event, before or after it was judged."""
    folder = tmp_path_factory.mktemp("crossings")
    inbox, state, triggers = make(folder, SPENDS)
    for n, amount in enumerate(amounts):
        send(inbox, n, START + n * HOUR, type="purchase", value=amount)
        events = state.refresh()
        if not (lost and n in crashes):
            triggers.judge(events, state.position)
        if n in crashes:
            triggers.close()
            inbox.close()
            inbox, state, triggers = make(folder, SPENDS)
            judge(state, triggers)
    expected, total, held = [], 0.0, False
    for n, amount in enumerate(amounts):
        total += amount
        if total >= 100 and not held:
            expected.append(START + n * HOUR + 2)  # judged just after it was received
        held = total >= 100
    assert [f["at"] for f in triggers.outbox.rows()] == expected
    triggers.close()
    inbox.close()


def test_a_real_receiver_gets_it_signed_once_more_after_a_fault(tmp_path: Path) -> None:
    got: list[tuple[str, bytes, dict[str, str]]] = []
    answers = [500, 302, 204]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, body, dict(self.headers)))
            status = answers[len(got) - 1]
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    hook = TriggerConfig(
        name="spends", when="any(purchase)", url=f"http://127.0.0.1:{receiver.server_port}/hook", secret="s",
    )  # fmt: skip
    inbox, state, triggers = make(tmp_path, hook, waits=(0.0, 0.0, 0.0))
    send(inbox, 1, START, type="purchase", value=200)
    judge(state, triggers)
    assert [triggers.outbox.deliver() for _ in range(4)] == [0, 0, 1, 0]
    assert triggers.outbox.rows("sent")[0]["tries"] == 3
    assert [path for path, _, _ in got] == ["/hook"] * 3  # a redirect is not followed
    for _, body, headers in got:
        assert headers["X-Propend-Signature"] == signature("s", headers["X-Propend-Time"], body)
    assert len({headers["X-Propend-Delivery"] for _, _, headers in got}) == 1
    triggers.close()
    receiver.shutdown()
    receiver.server_close()
    thread.join(300)


def test_what_has_no_address_stays_in_the_outbox_and_holds_up_nobody(tmp_path: Path) -> None:
    silent = TriggerConfig(name="silent", when="any(purchase)")
    inbox, state, triggers = make(tmp_path, silent, SPENDS)
    send(inbox, 1, START, type="purchase", value=200)
    judge(state, triggers)
    seen: list[str] = []
    assert triggers.outbox.deliver(lambda url, *_: seen.append(url), most=1) == 1
    assert [f["trigger"] for f in triggers.outbox.rows("waiting")] == ["silent"]
    triggers.close()


def test_an_unknown_word_is_told(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, TriggerConfig(name="typo", when="any(purchse)"))
    send(inbox, 1, START, type="purchase", value=200)
    assert judge(state, triggers) == 0
    assert "purchase" in triggers.faults["typo"]
    triggers.close()


def test_a_bad_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no http"):
        make(tmp_path, TriggerConfig(name="x", when="any(view)", url="ftp://x"))


def test_a_sweep_after_a_restart_knows_whom_it_watches(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, ABANDONS)
    send(inbox, 1, START, type="cart")
    judge(state, triggers)
    triggers.close()
    inbox, state, triggers = make(tmp_path, ABANDONS)
    judge(state, triggers)
    assert triggers.sweep(START + HOUR) == 1
    assert triggers.sweep(START + HOUR + 1) == 0
    triggers.close()


def test_a_sweep_reaches_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propend.serve.triggers._PAGE", 7)
    monkeypatch.setattr("propend.serve.triggers._SLICE", 1e-9)
    inbox, state, triggers = make(tmp_path, ABANDONS)
    for n in range(30):
        send(inbox, n, START, type="cart", user=f"u{n}")
    judge(state, triggers)
    assert triggers.sweep(START + HOUR) == 30
    triggers.close()


def test_what_still_waits_to_be_judged_is_left_to_the_judge(tmp_path: Path) -> None:
    """A sweep that sees an event before it is judged must not fire for it as well."""
    inbox, state, triggers = make(tmp_path, SPENDS)
    send(inbox, 0, START, type="purchase", value=10)
    judge(state, triggers)
    for n, value in enumerate((-5, 200), 1):
        send(inbox, n, START + n * HOUR, type="purchase", value=value)
    events = state.refresh()
    assert triggers.sweep(START + 3 * HOUR) == 0
    assert triggers.judge(events, state.position) == 1
    assert triggers.sweep(START + 4 * HOUR) == 0
    assert len(triggers.outbox.rows()) == 1
    triggers.close()


def test_sweeps_judges_and_another_process_fire_each_crossing_once(tmp_path: Path) -> None:
    """Events are judged by two triggers on one file while sweeps run; every user crosses exactly once."""
    inbox, state, triggers = make(tmp_path, SPENDS, ABANDONS)
    _, other_state, other = make(tmp_path, SPENDS, ABANDONS)
    stop = threading.Event()
    faults: list[BaseException] = []

    def again(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            faults.append(error)

    works: tuple[Callable[[], object], ...] = (
        lambda: judge(state, triggers),
        lambda: judge(other_state, other),
        lambda: triggers.sweep(START + 2 * HOUR),
        lambda: other.sweep(START + 2 * HOUR),
    )
    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    number = 0
    for user in range(40):
        for value in (60, 60, 5):
            number += 1
            send(inbox, number, START + number, type="purchase", value=value, user=f"u{user}")
        send(inbox, 1_000 + number, START + number, type="cart", user=f"u{user}")
    until = time.monotonic() + 300
    while len(triggers.outbox.rows()) < 80 and time.monotonic() < until:
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(300)
    assert not faults
    fired = Counter((f["trigger"], f["user"]) for f in triggers.outbox.rows())
    assert fired == {(t, f"u{n}"): 1 for t in ("spends", "abandons") for n in range(40)}
    triggers.close()
    other.close()


def test_imported_history_fires_nothing_and_counts_as_having_held(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, SPENDS)
    event = {"id": "1", "user": "u", "type": "purchase", "value": 200, "time": START}
    body = msgspec.json.encode({"events": [event]})
    inbox.append([Batch(START + HOUR, "old", "own", "/v1/events", "", "", "import", body)])
    assert judge(state, triggers) == 0
    send(inbox, 2, START + 2 * HOUR, type="purchase", value=1)
    assert judge(state, triggers) == 0
    send(inbox, 3, START + 3 * HOUR, type="purchase", value=-150)
    send(inbox, 4, START + 4 * HOUR, type="purchase", value=150)
    assert judge(state, triggers) == 1
    triggers.close()


def test_moving_by_hand_judges_first(tmp_path: Path) -> None:
    from propend.pipeline.workspace import open_workspace
    from propend.serve.live import moving

    (tmp_path / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[live.triggers]]\nname = "spends"\nwhen = "sum(purchase.value) >= 100"\n'
    )
    inbox = SqliteInbox(tmp_path / "live" / "inbox")
    for n in range(2):
        send(inbox, n, START + n * HOUR, type="purchase", value=80)
    with moving(open_workspace(tmp_path)) as mover:
        assert mover.drain(upto=1) == 1
        assert mover.drain() == 1
    state = LiveState(
        tmp_path / "out" / "store", inbox, Identity(tmp_path / "live" / "identity.db")
    )
    triggers = Triggers((SPENDS,), tmp_path / "live" / "triggers.db", state)
    assert [f["at"] for f in triggers.outbox.rows()] == [START + HOUR + 2]
    triggers.close()


def test_a_slow_receiver_holds_up_nobody_else(tmp_path: Path) -> None:
    slow = TriggerConfig(name="slow", when="any(purchase)", url="http://slow/h")
    fast = TriggerConfig(name="fast", when="any(purchase)", url="http://fast/h")
    inbox, state, triggers = make(tmp_path, slow, fast)
    for n in range(3):
        send(inbox, n, START, type="purchase", user=f"u{n}")
    judge(state, triggers)
    done = threading.Event()
    seen: list[str] = []
    in_time: list[bool] = []

    def send_to(url: str, *_: object) -> None:
        seen.append(url)
        if "slow" in url:
            in_time.append(done.wait(60))
        elif seen.count(url) == 3:
            done.set()

    assert triggers.outbox.deliver(send_to) == 6
    assert in_time == [True] * 3
    triggers.close()


def test_a_failed_write_is_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from propend.pipeline.workspace import open_workspace
    from propend.serve.live import Live

    (tmp_path / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[live.triggers]]\nname = "spends"\nwhen = "sum(purchase.value) >= 100"\n'
    )
    live = Live(open_workspace(tmp_path))
    send(live.inbox, 1, START, type="purchase", value=200)  # type: ignore[arg-type]
    cross = live.triggers._cross
    monkeypatch.setattr(live.triggers, "_cross", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        live.tail()
    assert live.triggers.position == 0
    monkeypatch.setattr(live.triggers, "_cross", cross)
    live.tail()
    assert len(live.triggers.outbox.rows()) == 1
    live.stop()


def test_who_refused_consent_is_not_told_of(tmp_path: Path) -> None:
    inbox, state, triggers = make(tmp_path, SPENDS)
    send(inbox, 1, START, type="purchase", value=200, consent=False)
    send(inbox, 2, START, type="purchase", value=200, user="v")
    assert judge(state, triggers) == 2
    seen: list[bytes] = []
    assert triggers.outbox.deliver(lambda *sent: seen.append(sent[1])) == 1
    assert b'"v"' in seen[0]
    assert [f["user"] for f in triggers.outbox.rows("withheld")] == ["u"]
    triggers.close()
