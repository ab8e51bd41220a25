"""kill -9 under load: how many acknowledged events are lost or doubled (both must be 0).

    python benchmarks/reliability.py [--kills 200] [--seconds 900]
    python benchmarks/reliability.py --faults [--garbage 2.0]

Stock clients with their own queues and retries (``stock_clients.py``) send to a server whose parts are killed at random
moments: the collector, the mover, the API, and all in one process. Afterwards everything is moved, and every event that
a client took on and did not report as given up is looked up in the store. ``--faults``: a full disk, a clock that jumps
back, garbage (``reliability_faults.py``).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import stock_clients
from propend.errors import DataError
from propend.events.store import Store
from propend.pipeline.workspace import open_workspace
from propend.serve.live import moving
from reliability_faults import CONFIG, faults, free_port, launch, up

TURNS = ("collector", "mover", "collector", "mover", "collector", "api", "collector", "mover", "collector", "server")  # fmt: skip


def mover(folder: Path) -> subprocess.Popen[bytes]:
    """A process that moves again and again."""
    script = f"from propend.cli import main\nwhile True:\n try: main(['move', {str(folder)!r}, '--json'])\n except SystemExit: pass\n"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(*processes: subprocess.Popen[Any]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def drive(kind: str, url: str, first: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, stock_clients.__file__, kind, url, str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def turn(
    what: str, folder: Path, port: int, draw: random.Random, collector: Any, moving_: Any
) -> tuple[Any, Any]:
    """Kill one part at a random moment and start it again; returns the collector and the mover that run now."""
    if what == "collector":
        up(port)
        time.sleep(draw.random() * 0.4)
        kill(collector)
        collector = launch(folder, port, "--only", "collect")
    elif what == "mover":
        time.sleep(0.3 + draw.random() * 1.2)
        kill(moving_)
        moving_ = mover(folder)
    elif what == "api":  # beside the collector, with a mover of its own
        other = free_port()
        api = launch(folder, other, "--only", "api")
        up(other)
        time.sleep(draw.random() * 2.5)
        kill(api)
    else:  # all in one process
        kill(collector, moving_)
        whole = launch(folder, port)
        up(port)
        time.sleep(draw.random() * 2.5)
        kill(whole)
        collector, moving_ = launch(folder, port, "--only", "collect"), mover(folder)
    return collector, moving_


def kills(folder: Path, most: int, seconds: float) -> dict[str, Any]:
    """Kill, let the clients finish, and count."""
    (folder / "propend.toml").write_text(CONFIG)
    port, draw, done = free_port(), random.Random(7), Counter[str]()
    collector, moving_ = launch(folder, port, "--only", "collect"), mover(folder)
    up(port)
    kinds = stock_clients.available()
    clients = [
        drive(kind, f"http://127.0.0.1:{port}", (i + 1) * 100_000_000)
        for i, kind in enumerate(kinds)
    ]
    end = time.time() + seconds
    while done.total() < most and time.time() < end:
        what = TURNS[done.total() % len(TURNS)]
        collector, moving_ = turn(what, folder, port, draw, collector, moving_)
        done[what] += 1
        if done.total() % 20 == 0:
            print(f"{done.total()} kills", file=sys.stderr, flush=True)
    up(port)
    for client in clients:
        assert client.stdin is not None
        client.stdin.close()
    reports = []
    for client in clients:  # their backoff may be long by now
        assert client.stdout is not None
        reports.append(json.loads(client.stdout.read()))
        client.wait()
    kill(collector, moving_)
    return {"kills": dict(done), "total": done.total(), **check(folder, reports)}


def check(folder: Path, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Move the rest and compare what was acknowledged with what is in the store."""
    workspace = open_workspace(folder)
    with moving(workspace) as last:
        for _ in range(600):  # a killed server's mover may still be at work
            try:
                last.drain()
                break
            except DataError:
                time.sleep(0.1)
        left, rejected = last.inbox.counts()["batches"], len(last.inbox.rejected(100_000))
    store = Store(workspace.store_folder)
    stored: list[int] = []
    for bucket in range(store.buckets):
        stored += [int(n) for n in store.read_bucket(bucket, ["number"])["number"].to_pylist()]
    once = set(stored)
    clients: dict[str, Any] = {}
    for report in reports:
        given_up = set(report["given_up"])
        acknowledged = set(range(*report["given"])) - given_up
        clients[report["kind"]] = {
            "acknowledged": len(acknowledged), "lost": len(acknowledged - once), "given_up": len(given_up), "of_these_stored": len(given_up & once),
        }  # fmt: skip
    return {
        "acknowledged": sum(c["acknowledged"] for c in clients.values()), "stored": len(stored), "lost": sum(c["lost"] for c in clients.values()),
        "doubled": len(stored) - len(once), "quarantined": store.quarantine().num_rows, "rejected": rejected, "left_in_inbox": left, "clients": clients,
    }  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--faults", action="store_true", help="a full disk, a clock, garbage")
    arguments.add_argument("--garbage", type=float, default=2.0, help="gigabytes of garbage")
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seconds", type=float, default=900, help="at most so long")
    asked = arguments.parse_args()
    if asked.faults:
        result = faults(asked.garbage)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            result = kills(Path(scratch), asked.kills, asked.seconds)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
