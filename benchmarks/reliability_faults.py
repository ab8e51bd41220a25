"""A collector under a full disk, a clock that jumps back, and garbage: what became of the good events between them."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from propend.serve.inbox import SqliteInbox

CONFIG = '[workspace]\nzone = "UTC"\n[live]\nmove = "1s"\n[live.keys]\nkey = "web"\n[live.properties]\nnumber = "number"\n'
JUMPING = """
import signal, sys, time
from propend.serve import collect
real, behind = time.time_ns, 0
def jump(*_):
    global behind
    behind = 7200 * 10**9
class Clock:
    def __getattr__(self, name): return getattr(time, name)
    def time_ns(self): return real() - behind
collect.clock = Clock()
signal.signal(signal.SIGUSR1, jump)
from propend.cli import main
main(sys.argv[1:])
"""


def launch(folder: Path, port: int, *only: str, script: str = "") -> subprocess.Popen[bytes]:
    """Start a server; ``script`` instead of the command line's own module."""
    program = ["-c", script] if script else ["-m", "propend"]
    return subprocess.Popen(
        [sys.executable, *program, "serve", str(folder), "--port", str(port), *only],
        stderr=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def up(port: int, seconds: float = 120) -> bool:
    """Wait until a server answers requests: it listens before it does."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.02)
    return False


def post(port: int, body: bytes) -> int:
    """Send a batch; returns the status, 0 where the server hung up."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/batch", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def good(number: int, size: int = 0) -> bytes:
    """One event; ``size`` bytes of ballast, which the inbox stores."""
    event = {"type": "track", "event": "x", "userId": "u", "messageId": str(number)}
    return json.dumps({"writeKey": "key", "batch": [event], "ballast": "x" * size}).encode()


@contextlib.contextmanager
def collecting(folder: Path, script: str = "") -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A running collector: its port and process."""
    (folder / "propend.toml").write_text(CONFIG)
    port = free_port()
    server = launch(folder, port, "--only", "collect", script=script)
    up(port)
    try:
        yield port, server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def kept(folder: Path) -> list[tuple[int, int]]:
    """Return number and time of reception of each event in an inbox, in order."""
    inbox = SqliteInbox(folder / "live" / "inbox")
    found = inbox.read(0, 1_000_000, 1 << 40)
    inbox.close()
    return [(int(json.loads(b.body)["batch"][0]["messageId"]), b.received) for b in found]


def peak(server: subprocess.Popen[bytes]) -> float:
    """Largest memory of a process so far, MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(s.split()[1]) / 1024 for s in status.splitlines() if s.startswith("VmHWM"))


def full_disk(events: int = 400) -> dict[str, Any]:
    """Let the disk run full under load, then give it room again.

    A file system of 12 MB where one may be mounted (root); otherwise the kernel's limit on the size of a file, which
    refuses the same writes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", scratch]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        answers, acknowledged = Counter[int](), set[int]()
        try:
            with collecting(folder) as (port, server):
                if not mounted:
                    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (12 << 20, -1))
                for number in range(2 * events):
                    if number == events:  # there is room again
                        if mounted:
                            room = ["mount", "-o", "remount,size=256m", scratch]
                            subprocess.run(room, check=True)
                        else:
                            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (-1, -1))
                    status = post(port, good(number, 50_000))
                    answers[status] += 1
                    if status == 200:
                        acknowledged.add(number)
                healed = post(port, good(2 * events)) == 200
                acknowledged |= {2 * events} if healed else set()
                alive = server.poll() is None
            stored = [number for number, _ in kept(folder)]
        finally:
            if mounted:
                subprocess.run(["umount", scratch], check=True)
    return {
        "how": "a file system of 12 MB" if mounted else "RLIMIT_FSIZE of 12 MB", "answers": {str(k): n for k, n in answers.items()},
        "acknowledged": len(acknowledged), "lost": len(acknowledged - set(stored)), "doubled": len(stored) - len(set(stored)), "healed": healed, "alive": alive,
    }  # fmt: skip


def clock_back(events: int = 200) -> dict[str, Any]:
    """Put the collector's clock back by two hours under load (the process's own: the machine's stays)."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with collecting(folder, JUMPING) as (port, server):
            acknowledged = set()
            for number in range(events):
                if number == events // 2:
                    os.kill(server.pid, signal.SIGUSR1)
                if post(port, good(number)) == 200:
                    acknowledged.add(number)
        found = kept(folder)
    stored, received = [n for n, _ in found], [t for _, t in found]
    return {
        "acknowledged": len(acknowledged), "lost": len(acknowledged - set(stored)), "doubled": len(stored) - len(set(stored)),
        "times_in_order": received == sorted(received), "in_order_of_sending": stored == sorted(stored),
    }  # fmt: skip


def garbage(gigabytes: float) -> dict[str, Any]:
    """Send garbage of every kind, good events between it; returns what became of both, and the memory it took."""
    fields = {
        "writeKey": "key",
        "batch": [
            {"type": "track", "event": "x", "userId": "u", "properties": {f"f{i}": i for i in range(10_000)}}
        ],
    }  # fmt: skip
    kinds = {
        "noise": random.Random(1).randbytes(4 << 20), "zip bomb": gzip.compress(b"0" * (256 << 20), 9), "deep": b"[" * 1_000_000,
        "deep objects": b'{"a":' * 300_000, "10 k fields": json.dumps(fields).encode(), "wrong types": b'{"batch": {"a": 1}, "writeKey": 5}',
        "too large": b"x" * (30 << 20), "wrong key": b'{"writeKey":"no","batch":[]}',
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sent, number, answers, acknowledged = 0, 0, Counter[str](), set[int]()
        with collecting(folder) as (port, server):
            while sent < gigabytes * 1e9:
                for name, body in kinds.items():
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    try:
                        connection.request("POST", "/v1/batch", body)
                        answers[f"{name}: {connection.getresponse().status}"] += 1
                    except OSError as error:  # the server hangs up on a body that is too large
                        answers[f"{name}: {type(error).__name__}"] += 1
                    connection.close()
                    sent += len(body)
                number += 1
                if post(port, good(number)) == 200:
                    acknowledged.add(number)
            highest, alive = peak(server), server.poll() is None
        inbox = SqliteInbox(folder / "live" / "inbox")
        stored = {
            json.loads(b.body)["batch"][0].get("messageId")
            for b in inbox.read(0, 1_000_000, 1 << 40)
            if b.body.startswith(b'{"writeKey": "key"')
        }
        inbox.close()
    lost = sum(str(n) not in stored for n in acknowledged)
    return {
        "bytes": sent, "answers": dict(answers), "good_sent": number, "acknowledged": len(acknowledged), "lost": lost, "peak_mb": highest, "alive": alive,
    }  # fmt: skip


def faults(gigabytes: float) -> dict[str, Any]:
    """Run all three."""
    return {"full_disk": full_disk(), "clock_back": clock_back(), "garbage": garbage(gigabytes)}
