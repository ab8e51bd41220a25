"""The browser snippet in real Chromium: page, track, identify, consent; one beacon on leave; each event once."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from propend.serve.collect import Collector
from propend.serve.dialects import BY_NAME
from propend.serve.dialects.port import Event
from propend.serve.inbox import SqliteInbox
from propend.serve.move import take
from propend.serve.stubs import snippet

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def test_the_snippet_is_small() -> None:
    print(f"the snippet has {len(snippet()):,} bytes as served")  # noqa: T201
    assert len(snippet()) <= 3_000


BLOCKED = """
const sent = [];
const w = {navigator: {sendBeacon: (to, b) => b.size <= 65536 && (sent.push(["beacon", b.size]), true)}, crypto};
Object.defineProperty(w, "localStorage", {get() { throw new Error("Access is denied for this document."); }});
globalThis.location = {origin: "http://shop", pathname: "/"};
globalThis.fetch = (to, o) => o.keepalive && o.body.size > 65536 ? Promise.reject(new TypeError("Failed to fetch"))
  : (sent.push([o.keepalive ? "keepalive" : "fetch", o.body.size]), Promise.resolve({ok: true, status: 200}));
const heard = {};
const d = {currentScript: null, title: "", referrer: "", visibilityState: "visible", addEventListener: (name, f) => { heard[name] = f; }};
new Function("window", "document", require("fs").readFileSync(0, "utf8"))(w, d);
w.propend.page();
for (let n = 0; n < 29; n++) w.propend.track("view", {text: "x".repeat(4000)});
setTimeout(() => {
  for (let n = 0; n < 40; n++) w.propend.track("view", {text: "x".repeat(4000)});
  d.visibilityState = "hidden";
  heard.visibilitychange();
  console.log(JSON.stringify(sent));
  process.exit(0);
}, 900);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_blocked_storage_and_large_batches_stop_nothing() -> None:
    """A page without storage keeps working; what is beyond the 64 kB that may outlive a page goes another way, or in part."""
    done = subprocess.run(
        ["node", "-e", BLOCKED], input=snippet(), capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()
    first, last = json.loads(done.stdout)
    assert first[0] == "fetch"
    assert first[1] > 29 * 4_000
    assert last[0] == "beacon"
    assert 4_000 < last[1] <= 65_536


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page on an origin of its own."""
    holder: dict[str, str] = {"html": ""}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(holder["html"].encode())

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def visit(html: str, profile: str) -> None:
        holder["html"] = html
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                   "--no-first-run", f"--user-data-dir={tmp_path / profile}", "--virtual-time-budget=4000", "--dump-dom",
                   f"http://127.0.0.1:{server.server_address[1]}/"]  # fmt: skip
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600, check=True
        )

    yield visit
    server.shutdown()
    server.server_close()
    thread.join(300)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_chromium_sends_each_event_once(tmp_path: Path, running: Any, page: Any) -> None:
    inbox = SqliteInbox(tmp_path / "inbox")
    with running(Collector(inbox, {"key": "shop"})) as url:
        script = f'<title>shop</title><script src="{url}/propend.js" data-host="{url}" data-key="key"></script>'
        calls = 'propend.page(); propend.track("cart", {item: "p1", value: 3.5, size: "XL"}); propend.identify("u1", {plan: "pro"}); propend.track("purchase", {item: "p1", value: 3.5});'
        page(f"{script}<script>{calls}</script>", "one")
        page(f'{script}<script>propend.consent(false); propend.track("cart");</script>', "two")
        for _ in range(10_000):
            if len(take(inbox, 0).events) >= 4:
                break
            time.sleep(0.05)
    events = [a.event for a in take(inbox, 0).events]
    assert sorted(e.type for e in events) == ["cart", "identify", "page", "purchase"]
    bought = next(e for e in events if e.type == "purchase")
    assert (bought.user, bought.item, bought.value) == ("u1", "p1", 3.5)
    assert len({e.session for e in events}) == 1
    assert all(
        isinstance(f, Event) or f.kind == "identify"
        for b in inbox.read(0)
        for f in BY_NAME[b.dialect].events(b)
    )
    inbox.close()


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_what_is_done_last_leaves_with_a_beacon(tmp_path: Path, running: Any, page: Any) -> None:
    """The page goes away before the timer that would send by fetch; fetch itself is broken, so only the beacon can."""
    inbox = SqliteInbox(tmp_path / "inbox")
    with running(Collector(inbox, {"key": "shop"})) as url:
        script = f'<script src="{url}/propend.js" data-host="{url}" data-key="key"></script>'
        leave = 'window.fetch = function () { return new Promise(function () {}); }; propend.track("cart", {item: "last"}); location.href = "about:blank";'
        page(f"{script}<script>{leave}</script>", "three")
        for _ in range(10_000):
            if inbox.last():
                break
            time.sleep(0.05)
    assert [(a.event.type, a.event.item) for a in take(inbox, 0).events] == [("cart", "last")]
    inbox.close()


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_chromium_sends_more_than_may_outlive_a_page(
    tmp_path: Path, running: Any, page: Any
) -> None:
    inbox = SqliteInbox(tmp_path / "inbox")
    with running(Collector(inbox, {"key": "shop"})) as url:
        script = f'<script src="{url}/propend.js" data-host="{url}" data-key="key"></script>'
        calls = 'for (var n = 0; n < 29; n++) propend.track("view", {text: "x".repeat(4000)});'
        page(f"{script}<script>{calls}</script>", "four")
        for _ in range(10_000):
            if inbox.last():
                break
            time.sleep(0.05)
    assert len(take(inbox, 0).events) == 29
    inbox.close()
