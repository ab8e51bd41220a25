"""The Python client: batches, retries under the same ids, and nothing dropped in silence."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from propend.client import Client
from propend.errors import ConfigError, DataError


class Server:
    """Answers as told, and remembers."""

    def __init__(self, *answers: int | str) -> None:
        self.answers, self.batches = list(answers), []  # type: ignore[var-annotated]

    def __call__(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        del url, headers
        events = json.loads(body)["events"]
        self.batches.append([e["id"] for e in events])
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "away":
            raise OSError("refused")
        if answer == "half":
            results = [
                {"id": e["id"], "result": "retry" if i % 2 else "ok"} for i, e in enumerate(events)
            ]
            return 200, {}, json.dumps({"results": results}).encode()
        if answer == "bad":
            return (
                200,
                {},
                json.dumps(
                    {
                        "results": [
                            {"id": e["id"], "result": "refused", "reason": "no"} for e in events
                        ]
                    }
                ).encode(),
            )
        return (
            int(answer),
            {"retry-after": "0"},
            json.dumps({"results": [{"id": e["id"], "result": "ok"} for e in events]}).encode(),
        )


def test_many_events_go_in_batches() -> None:
    server = Server()
    client = Client("http://x", send=server, batch=50)
    for n in range(120):
        client.track("u", "view", id=str(n))
    assert client.flush()
    assert [i for b in server.batches for i in b] == [str(n) for n in range(120)]
    assert len(server.batches) <= 5
    client.close()


def test_faults_are_tried_again_under_the_same_ids() -> None:
    server = Server(429, 503, "half", 200)
    client = Client("http://x", send=server, every=0.05)
    for n in range(4):
        client.track("u", "view", id=str(n))
    assert client.flush()
    assert server.batches[0] == server.batches[1] == server.batches[2]
    assert server.batches[3] == [server.batches[0][i] for i in (1, 3)][: len(server.batches[3])]
    assert client.dropped == []
    client.close()


def test_what_is_refused_is_kept() -> None:
    client = Client("http://x", send=Server("bad", 401))
    client.track("u", "view")
    client.flush()
    client.track("u", "view")
    client.flush()
    assert [d["reason"] for d in client.dropped] == ["no", "the server answered 401"]
    client.close()


@pytest.mark.parametrize(
    "bad", [{"when": datetime.now(UTC)}, {"x": float("nan")}, {"s": "\ud800"}], ids=["moment", "nan", "half a sign"]
)  # fmt: skip
def test_what_json_cannot_say_is_refused_at_once(bad: dict[str, object]) -> None:
    server = Server()
    client = Client("http://x", send=server, every=0.01)
    with pytest.raises(DataError, match="cannot be sent as JSON"):
        client.track("u", "x", properties=bad)
    given = {"size": "L"}
    client.track("u", "y", id="1", properties=given)
    given["size"] = "M"  # what was tracked stays as it was
    assert client.flush(5)
    assert server.batches == [["1"]]
    client.close()


def test_no_answer_ends_the_thread() -> None:
    """Killed while it answered, a proxy's page under 200, an answer of another shape, a fault of ours: the next try delivers."""
    taken: list[str] = []
    faults: list[Any] = [http.client.IncompleteRead(b""), b"<html>", b'{"results": 5}', b'{"results": [7]}', b"[]"]  # fmt: skip

    def send(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
        del url, headers
        events = json.loads(body)["events"]
        if faults:
            fault = faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return 200, {"retry-after": "0"}, fault
        if events[0]["type"] == "boom":
            raise RuntimeError("boom")
        taken.extend(e["id"] for e in events)
        return 200, {}, json.dumps({"results": [{"id": e["id"], "result": "ok"} for e in events]}).encode()  # fmt: skip

    client = Client("http://x", send=send, every=0.01)
    client.track("u", "x", id="1")
    assert client.flush(20)
    client.track("u", "boom", id="2")
    assert client.flush(5)
    client.track("u", "x", id="3")
    assert client.flush(5)
    assert taken == ["1", "3"]
    assert [(d["id"], d["reason"]) for d in client.dropped] == [("2", "it could not be sent (RuntimeError: boom)")]  # fmt: skip
    client.close()


def test_closing_while_the_server_is_away_loses_nothing_in_silence() -> None:
    for answer in (503, "slow"):
        going = threading.Event()

        def send(url: str, body: bytes, headers: Mapping[str, str], answer: object = answer, going: threading.Event = going) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
            del url, body, headers
            if answer == "slow":
                going.wait(300)
            return 503, {}, b""

        client = Client("http://x", send=send, every=0.01, batch=2, timeout=0.2)
        for n in range(10):
            client.track("u", "x", id=str(n))
        flush = client.flush
        client.flush = lambda _timeout=0.2, flush=flush: flush(0.2)  # type: ignore[method-assign]
        client.close()
        assert sorted(d["id"] for d in client.dropped) == [str(n) for n in range(10)]
        assert all(d["reason"] for d in client.dropped)
        with pytest.raises(DataError, match="closed"):
            client.track("u", "x")
        going.set()


def test_bad_input_is_one_sentence() -> None:
    client = Client("http://x", send=Server(), room=1)
    with pytest.raises(DataError, match="needs a user"):
        client.track(None, "view")
    with pytest.raises(DataError, match="zone"):
        client.track("u", "view", time=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="http"):
        Client("localhost")
    client.close()
    lost = Client("http://127.0.0.1:9", tries=1)
    with pytest.raises(DataError, match="cannot be reached"):
        lost.profile("u")
    lost.close()
