"""kill -9 under load: how many acknowledged events are lost or doubled (both must be 0).

    python benchmarks/reliability.py [--kills 200] [--seconds 240]

Retrying senders keep sending batches with known ids to a server that is killed at random moments: in turn the collector,
the mover and the whole server with its API. Afterwards everything is moved, and every acknowledged id is looked up in the store.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from propend.engine import connect
from propend.events.store import Store
from propend.pipeline.workspace import open_workspace
from propend.serve.identity import Identity
from propend.serve.inbox import SqliteInbox
from propend.serve.move import Mover

CONFIG = '[workspace]\nzone = "UTC"\n[live]\nmove = "1s"\n[live.keys]\nkey = "web"\n[live.properties]\nnumber = "number"\n'


class Sender(threading.Thread):
    """Sends batches of ten until told to stop; a batch is repeated under the same ids until it is acknowledged."""

    def __init__(self, url: str, first: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.next, self.halt = url, first, stop
        self.acknowledged: list[int] = []
        self.retries = 0

    def run(self) -> None:
        while not self.halt.is_set():
            numbers = range(self.next, self.next + 10)
            self.next += 10
            batch = [
                {"type": "track", "event": "Product Viewed", "userId": f"u{n % 97}", "messageId": f"m{n}", "properties": {"number": n}, "timestamp": f"2026-11-20T10:{n // 60 % 60:02d}:{n % 60:02d}Z"}
                for n in numbers
            ]  # fmt: skip
            body = json.dumps({"batch": batch, "writeKey": "key"}).encode()
            while True:
                try:
                    with urllib.request.urlopen(
                        urllib.request.Request(self.url + "/v1/batch", body), timeout=10
                    ) as answer:
                        if answer.status == 200:
                            self.acknowledged += numbers
                            break
                except (OSError, urllib.error.HTTPError):
                    pass
                self.retries += 1
                if self.halt.is_set():
                    return
                time.sleep(0.02)


def launch(folder: Path, port: int, what: str) -> subprocess.Popen[bytes]:
    only = ["--only", "collect"] if what != "server" else []
    return subprocess.Popen(
        [sys.executable, "-m", "propend", "serve", str(folder), "--port", str(port), *only],
        stderr=subprocess.DEVNULL,
    )


def mover(folder: Path) -> subprocess.Popen[bytes]:
    script = f"import subprocess,sys\nfrom propend.cli import main\nwhile True:\n try: main(['move', {str(folder)!r}, '--json'])\n except SystemExit: pass\n"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def up(port: int, seconds: float = 30) -> bool:
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def garbage(gigabytes: float) -> dict[str, Any]:
    """Send garbage of every kind to a collector, good events between it; returns what became of both, and its memory."""
    deep = b"[" * 1_000_000
    fields = json.dumps(
        {
            "writeKey": "key",
            "batch": [
                {
                    "type": "track",
                    "event": "x",
                    "userId": "u",
                    "properties": {f"f{i}": i for i in range(10_000)},
                }
            ],
        }
    ).encode()
    kinds = {
        "noise": random.Random(1).randbytes(4 << 20), "zip bomb": gzip.compress(b"0" * (256 << 20), 9), "deep": deep, "deep objects": b'{"a":' * 300_000,
        "10 k fields": fields, "wrong types": b'{"batch": {"a": 1}, "writeKey": 5}', "too large": b"x" * (30 << 20), "wrong key": b'{"writeKey":"no","batch":[]}',
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "propend.toml").write_text(CONFIG)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = launch(folder, port, "collector")
        up(port)
        sent, good, answers, peak = 0, 0, Counter[str](), 0.0
        while sent < gigabytes * 1e9:
            for name, body in kinds.items():
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                try:
                    connection.request("POST", "/v1/batch", body)
                    answers[f"{name}: {connection.getresponse().status}"] += 1
                except OSError as error:  # the server hangs up on a body that is too large
                    answers[f"{name}: {type(error).__name__}"] += 1
                connection.close()
                sent += len(body)
            event = {"type": "track", "event": "x", "userId": "u", "messageId": str(good)}
            body = json.dumps({"writeKey": "key", "batch": [event]}).encode()
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v1/batch", body, timeout=30
            ) as answer:
                good += answer.status == 200
            status = Path(f"/proc/{server.pid}/status").read_text()
            peak = max(
                peak,
                *(
                    int(line.split()[1]) / 1024
                    for line in status.splitlines()
                    if line.startswith("VmHWM")
                ),
            )
        alive = server.poll() is None
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        inbox = SqliteInbox(folder / "live" / "inbox")
        kept = len(inbox.read(0, 1_000_000))
        inbox.close()
    return {
        "bytes": sent,
        "answers": dict(answers),
        "good_sent": good,
        "batches_kept": kept,
        "peak_mb": peak,
        "alive": alive,
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument(
        "--garbage", type=float, default=0.0, help="gigabytes of garbage to send instead"
    )
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seconds", type=float, default=300)
    asked = arguments.parse_args()
    if asked.garbage:
        print(json.dumps(garbage(asked.garbage), indent=1))
        return
    draw = random.Random(7)
    kills = {"collector": 0, "mover": 0, "server": 0}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "propend.toml").write_text(CONFIG)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        stop = threading.Event()
        senders = [Sender(f"http://127.0.0.1:{port}", i * 10_000_000, stop) for i in range(4)]
        for sender in senders:
            sender.start()
        end = time.time() + asked.seconds
        collector = launch(folder, port, "collector")
        moving = mover(folder)
        while sum(kills.values()) < asked.kills and time.time() < end:
            turn = sum(kills.values()) % 10
            if turn == 9:  # now and then the whole server, API and its own mover together
                for process in (collector, moving):
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                whole = launch(folder, port, "server")
                up(port)
                time.sleep(draw.random() * 1.5)
                whole.send_signal(signal.SIGKILL)
                whole.wait()
                kills["server"] += 1
                collector, moving = launch(folder, port, "collector"), mover(folder)
            elif turn % 3 == 0:
                time.sleep(0.3 + draw.random() * 0.9)
                moving.send_signal(signal.SIGKILL)
                moving.wait()
                kills["mover"] += 1
                moving = mover(folder)
            else:
                up(port)
                time.sleep(draw.random() * 0.3)
                collector.send_signal(signal.SIGKILL)
                collector.wait()
                kills["collector"] += 1
                collector = launch(folder, port, "collector")
        up(port)
        time.sleep(1)
        stop.set()
        for sender in senders:
            sender.join(20)
        for process in (collector, moving):
            process.send_signal(signal.SIGKILL)
            process.wait()
        print(json.dumps({"kills": kills, **check(folder, senders)}, indent=1))


def check(folder: Path, senders: list[Sender]) -> dict[str, Any]:
    """Move the rest and compare what was acknowledged with what is in the store."""
    workspace = open_workspace(folder)
    inbox = SqliteInbox(folder / "live" / "inbox")
    identity = Identity(folder / "live" / "identity.db")
    last = Mover(
        workspace.config, folder, workspace.store_folder, connect("local"), inbox, identity
    )
    last.drain()
    store = Store(workspace.store_folder)
    stored: list[int] = []
    for bucket in range(store.buckets):
        stored += [int(n) for n in store.read_bucket(bucket, ["number"])["number"].to_pylist()]
    acknowledged = {n for sender in senders for n in sender.acknowledged}
    result = {
        "acknowledged": len(acknowledged), "stored": len(stored), "lost": len(acknowledged - set(stored)), "doubled": len(stored) - len(set(stored)),
        "quarantined": store.quarantine().num_rows, "retries": sum(s.retries for s in senders), "left_in_inbox": inbox.counts()["batches"],
    }  # fmt: skip
    inbox.close()
    identity.close()
    return result


if __name__ == "__main__":
    main()
