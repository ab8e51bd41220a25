"""How long from an event to what it triggers: sent by a client → in the outbox, and → at the receiver of the webhook.

    python -m benchmarks.speed.triggers [--users 10000] [--events 1500] [--rate 100]

The server runs as it is started by hand, in its own process, with two triggers and a webhook; the client and the receiver are
this process, on the same clock. Every event makes its user cross, so each fires once. Floors in the same run: ``/health``
over the same connection, and a bare ``fdatasync`` (an event is on the disk twice before its webhook goes: inbox and outbox).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.live import cpu, fsync_floor, start

CONFIG = """[workspace]
zone = "UTC"
[live]
move = "1h"
[live.keys]
key = "web"
[[live.triggers]]
name = "spends"
when = "sum(purchase.value) last 30d >= 100 and count(view) last 30d >= 3"
url = "http://127.0.0.1:{port}/hook"
secret = "s"
[[live.triggers]]
name = "browses"
when = "count(view) last 7d >= 1000"
"""


class Receiver(ThreadingHTTPServer):
    """Notes when each user's webhook came."""

    daemon_threads = True

    def __init__(self) -> None:
        self.came: dict[str, list[float]] = {}
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        now = time.time()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Receiver)
        self.server.came.setdefault(body["user"], []).append(now)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def ms(seconds: list[float]) -> dict[str, float]:
    low, high = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return {"p50_ms": round(float(low), 2), "p99_ms": round(float(high), 2), "n": len(seconds)}


def ask(connection: http.client.HTTPConnection, path: str, body: Any = None) -> Any:
    method = "GET" if body is None else "POST"
    headers = {"Authorization": "Bearer key"} if body is not None else {}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return json.loads(connection.getresponse().read())


def event(user: str, kind: str, number: str, **more: Any) -> dict[str, Any]:
    return {"events": [{"id": number, "type": kind, "user": user, **more}]}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--users", type=int, default=10_000)
    arguments.add_argument("--events", type=int, default=1_500)
    arguments.add_argument("--rate", type=float, default=100.0)
    asked = arguments.parse_args()
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "propend.toml").write_text(CONFIG.format(port=receiver.server_port))
        server, url = start([sys.executable, "-m", "propend", "serve", scratch, "--port", "0"])
        try:
            host = url.removeprefix("http://")
            connection = http.client.HTTPConnection(host, timeout=30)
            for first in range(0, asked.users, 200):  # everybody has a past
                past = [
                    {"id": f"p{u}.{i}", "type": "view", "user": f"u{u}", "item": f"i{i}"}
                    for u in range(first, min(first + 200, asked.users))
                    for i in range(5)
                ]
                ask(connection, "/v1/events", {"events": past})
            while ask(connection, "/lag")["not_visible"]:
                time.sleep(0.05)
            before = -1.0
            while (
                cpu(server.pid) - before > 0.15
            ):  # the past is judged, too, before the load begins
                before = cpu(server.pid)
                time.sleep(1.0)
            connection = http.client.HTTPConnection(host, timeout=30)
            floor = []
            for _ in range(300):
                begun = time.perf_counter()
                ask(connection, "/health")
                floor.append(time.perf_counter() - begun)
            sent: dict[str, float] = {}
            before, begun = cpu(server.pid), time.perf_counter()
            for n in range(asked.events):
                due = begun + n / asked.rate
                time.sleep(max(0.0, due - time.perf_counter()))
                user = f"u{n % asked.users}"
                sent[user] = time.time()
                ask(connection, "/v1/events", event(user, "purchase", f"e{n}", value=150.0))
            until = time.time() + 30
            while len(receiver.came) < len(sent) and time.time() < until:
                time.sleep(0.05)
            used = cpu(server.pid) - before
            connection = http.client.HTTPConnection(host, timeout=30)
            fired = {f["user"]: f for f in ask(connection, "/v1/outbox")["fired"]}
            hooks = [receiver.came[u][0] - sent[u] for u in sent if u in receiver.came]
            outbox = [fired[u]["fired"] / 1e6 - sent[u] for u in sent if u in fired]
            result = {
                "protocol": f"{asked.events} events at {asked.rate:g}/s over one connection, two triggers, {asked.users} users with 5 events in memory; synthetic, no data file",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
                "floor /health": ms(floor),
                "floor fdatasync": fsync_floor(folder),
                "sent → in the outbox": ms(outbox),
                "sent → webhook received": ms(hooks),
                "webhooks": {
                    "expected": len(sent),
                    "received": sum(map(len, receiver.came.values())),
                    "users": len(receiver.came),
                },
                "server CPU ms per event": round(used / asked.events * 1e3, 2),
            }
        finally:
            server.terminate()
            server.wait(30)
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
