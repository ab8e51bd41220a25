"""No log says who: ids, addresses and keys stay out of it whatever goes wrong, and every process goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from propend.pipeline.workspace import open_workspace
from propend.serve.api import Api
from propend.serve.collect import Collector
from propend.serve.inbox import InboxError
from propend.serve.live import Live
from propend.serve.server import Both

SECRETS = ("ada@x.org", "ada%40x.org", "203.0.113.77", "wk-secret", "Ada Lovelace")
ALL = {"Authorization": "Bearer all"}


class Lines(logging.Handler):
    """Keeps every line as it would be written, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(0)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):  # the test's own client
            self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "propend.serve", "asyncio")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(1)
    yield handler.lines
    for name in names:
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).setLevel(levels[name])


def explode(*_: Any, **__: Any) -> Any:
    raise KeyError("ada@x.org bought something at 203.0.113.77")


def test_no_line_of_any_log_names_a_person(
    shop: Path, tmp_path: Path, running: Any, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    live = Live(open_workspace(folder))
    app = Collector(live.inbox, {"key": "web"})
    event = {"type": "track", "event": "x", "userId": "ada@x.org", "messageId": "m", "context": {"ip": "203.0.113.77", "traits": {"name": "Ada Lovelace"}}}  # fmt: skip
    with (
        running(Both(app, Api(live).app)) as url,
        httpx.Client(base_url=url, timeout=300) as http,
    ):
        for key in ("key", "wk-secret"):
            assert http.post("/v1/batch", json={"batch": [event], "writeKey": key}).status_code == 200  # fmt: skip
        assert http.post("/v1/batch", content=b"{ada@x.org 203.0.113.77").status_code == 400
        assert http.post("/v1/track", json={"userId": 7, "event": "ada@x.org"}).status_code == 200
        live.tail()
        live.move()
        assert http.get("/v1/users/ada%40x.org/profile", headers=ALL).status_code == 200
        wrong = {"Authorization": "Bearer wk-secret"}
        assert http.get("/v1/users/ada%40x.org/profile", headers=wrong).status_code == 401
        with monkeypatch.context() as patch:
            patch.setattr(live.state, "timelines", explode)
            got = http.get("/v1/users/ada%40x.org/profile", headers=ALL)
            assert (got.status_code, "ada" in got.text) == (500, False)
        with monkeypatch.context() as patch:
            patch.setattr(app.writer, "put", explode)
            got = http.post("/v1/batch", json={"batch": [event], "writeKey": "key"})
            assert (got.status_code, got.headers["retry-after"]) == (503, "5")
        with monkeypatch.context() as patch:
            patch.setattr(live.inbox, "append", _full)
            assert http.post("/v1/batch", json={"batch": [event], "writeKey": "key"}).status_code == 503  # fmt: skip
        assert http.post("/v1/batch", json={"batch": [event], "writeKey": "key"}).status_code == 200
    live.stop()
    assert any("unexpected" in line for line in lines)  # what went wrong is said, and where
    assert [line for line in lines for secret in SECRETS if secret in line] == []


def _full(_: Any) -> list[int]:
    raise InboxError("the inbox cannot be written (database or disk is full)")


def test_a_thread_outlives_what_it_meets_and_tells_no_message(
    shop: Path, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    live = Live(open_workspace(folder))
    monkeypatch.setattr(live, "tail", explode)
    thread = threading.Thread(target=live._loop, args=("tail", live.tail, 0.0), daemon=True)
    thread.start()
    for _ in range(10_000):
        if live.faults:
            break
        time.sleep(0.01)
    assert live.faults["tail"].startswith("KeyError at test_privacy.py:")
    assert thread.is_alive()
    live.stop()
    thread.join(300)
    assert [line for line in lines for secret in SECRETS if secret in line] == []
