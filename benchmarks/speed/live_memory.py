"""Memory of the running server: a million known users, a hundred thousand of them active, a model and recommendations.

    python benchmarks/speed/live_memory.py [--known 1000000] [--active 100000] [--events 40] [--items 50000] [--memory-mb 512]

``propend serve`` runs as it is started by hand, both sides on one port, and is asked for predictions (about people in
memory and others, with reasons), recommendations and decisions, while events come in that the mover moves. Its memory
is read from ``/proc``: at rest, in use, the most it ever was, and the most of what moves and fits beside it. The floor in the same run
is the same server, with the same model, over a store of 2,000 users. The model is fitted there and copied: what it
takes does not depend on the rows it learnt from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from live import Visitors, memory, start, stop, stored

CONFIG = """[workspace]
zone = "UTC"
buckets = 16
[live]
move = "5s"
memory_mb = {memory_mb}
[live.keys]
key = "web"
[[events]]
name = "log"
files = ["log.parquet"]
[events.roles]
user = "who"
time = "at"
type = "what"
item = "thing"
value = "money"
[[tasks]]
name = "buys"
ask = "any(purchase) next 14d for any(*) last 60d"
"""


def build(folder: Path, known: int, active: int, events: int, items: int, memory_mb: int) -> str:
    """Write and ingest a log in which everybody has an event, and active users more of them; returns its hash."""
    rng = np.random.default_rng(7)
    user = np.concatenate([np.arange(known), np.repeat(np.arange(active), events - 1)])
    base = np.datetime64("2026-06-01T00:00:00", "us").astype(np.int64)
    day = np.concatenate([rng.uniform(0, 100, known), rng.uniform(100, 150, active * (events - 1))])
    kind = rng.choice(3, len(user), p=[0.7, 0.2, 0.1])
    thing = np.minimum((rng.pareto(0.8, len(user)) * 20).astype(int), items - 1)
    thing[:items] = np.arange(items)[: len(thing[:items])]
    table = pa.table({
        "who": pa.array(np.char.add("u", user.astype(str))), "at": pa.array(base + (day * 86_400e6).astype(np.int64), pa.timestamp("us", "UTC")),
        "what": pa.array(["view", "cart", "purchase"]).take(pa.array(kind)), "thing": pa.array(np.char.add("p", thing.astype(str))),
        "money": pa.array(np.where(kind == 2, rng.uniform(1, 90, len(user)).round(2), np.nan), from_pandas=True),
    })  # fmt: skip
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "log.parquet")
    (folder / "propend.toml").write_text(CONFIG.format(memory_mb=memory_mb))
    subprocess.run([sys.executable, "-m", "propend", "ingest", str(folder)], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return hashlib.sha256((folder / "log.parquet").read_bytes()).hexdigest()[:16]


def peak(pid: int) -> float:
    """The largest memory of a process so far, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM"))


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return found


class Apart:
    """Watches how large the processes become that a server has move events and fit recommendations; they come and go."""

    def __init__(self, server: int) -> None:
        self.server, self.most, self._stop = server, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for child in children(self.server):
                try:
                    self.most = max(self.most, peak(child))
                except (OSError, StopIteration):
                    continue

    def close(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.most


def gauge(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    return float(next(x.split()[1] for x in text.splitlines() if x.startswith(f"propend_{name} ")))


def restored(url: str, patience: float = 600) -> float:
    """Wait until the memory of active users is full or holds everybody; returns the seconds."""
    began, before, still = time.perf_counter(), -1.0, 0
    while still < 4 and time.perf_counter() < began + patience:
        time.sleep(0.5)
        now = gauge(url, "state_active_users")
        still = still + 1 if now == before else 0
        before = now
    return time.perf_counter() - began - 2.0


def ask(url: str, path: str, body: bytes | None = None) -> float:
    """Ask once; returns the milliseconds it took. An answer other than 200 ends the benchmark."""
    begun = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url + path, body)) as answer:
        answer.read()
    return (time.perf_counter() - begun) * 1e3


def offered(url: str, until: float) -> float | None:
    """Return when recommendations were first answered; ``None`` where they are still being fitted."""
    while time.perf_counter() < until:
        try:
            ask(url, "/v1/users/u1/recommendations")
        except urllib.error.HTTPError:
            time.sleep(0.5)
        else:
            return time.perf_counter()
    return None


def use(url: str, known: int, active: int, questions: int, offers: bool) -> dict[str, float]:
    """Ask for everything an API is asked for; returns how long people took that were not in memory."""
    rng = np.random.default_rng(3)
    for user in rng.integers(0, active, questions):
        ask(url, f"/v1/users/u{user}/predictions/buys")
    for user in rng.integers(0, active, questions // 10):
        if offers:
            ask(url, f"/v1/users/u{user}/recommendations")
        ask(url, f"/v1/users/u{user}/decision", b"")
    cold = [ask(url, f"/v1/users/u{u}/predictions/buys?reasons=0") for u in rng.integers(active, known, questions // 10)]  # fmt: skip
    return {"cold_p50_ms": float(np.quantile(cold, 0.5)), "cold_p99_ms": float(np.quantile(cold, 0.99))}  # fmt: skip


def measure(
    folder: Path, known: int, active: int, questions: int, patience: float
) -> dict[str, Any]:
    """Start a server, let it fill its memory and fit its recommendations, use it, and read its memory."""
    server, url = start([sys.executable, "-m", "propend", "serve", str(folder), "--port", "0"])
    apart = Apart(server.pid)
    try:
        began = time.perf_counter()
        seconds = restored(url)
        offers = offered(url, began + patience)
        rest, held = memory(server.pid), gauge(url, "state_active_users")
        before = stored(url)
        with Visitors(url, active):
            cold = use(url, known, active, questions, offers is not None)
            time.sleep(6)  # the mover moves what came meanwhile
        return {
            "rss_at_rest_mb": rest, "rss_mb": memory(server.pid), "peak_mb": peak(server.pid), "largest_beside_it_mb": apart.close(),
            "restore_seconds": seconds, "offers_after_seconds": None if offers is None else offers - began, "users_in_memory_at_rest": held, "users_in_memory": gauge(url, "state_active_users"), "timelines_mb": gauge(url, "state_bytes") / 2**20,
            "evicted": gauge(url, "state_evicted"), "requests_moved_meanwhile": stored(url) - before, **cold,
        }  # fmt: skip
    finally:
        stop(server)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--known", type=int, default=1_000_000)
    arguments.add_argument("--active", type=int, default=100_000)
    arguments.add_argument("--events", type=int, default=40)
    arguments.add_argument("--items", type=int, default=50_000)
    arguments.add_argument("--memory-mb", type=int, default=512, help="as live.memory_mb; 512 is the default of a workspace")  # fmt: skip
    arguments.add_argument("--questions", type=int, default=3_000)
    arguments.add_argument("--patience", type=float, default=150, help="seconds to wait for recommendations; without them they are not asked for")  # fmt: skip
    asked = arguments.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        build(small, 2_000, 2_000, asked.events, min(asked.items, 2_000), asked.memory_mb)
        subprocess.run([sys.executable, "-m", "propend", "predict", str(small), "buys", "--folds", "1"], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        log = build(large, asked.known, asked.active, asked.events, asked.items, asked.memory_mb)
        shutil.copytree(small / "models", large / "models")
        built = time.perf_counter() - began
        floor = measure(small, 2_000, 1_900, min(asked.questions, 500), asked.patience)
        result = measure(large, asked.known, asked.active, asked.questions, asked.patience)
    json.dump(
        {
            "protocol": f"{asked.known:,} known users, {asked.active:,} of them with {asked.events} events, {asked.items:,} items, memory_mb {asked.memory_mb}; propend serve, both sides",
            "target": "rss_mb <= 1536", "log": log, "load": os.getloadavg()[0], "built_seconds": built, "seconds": time.perf_counter() - began,
            "server": result, "floor: 2,000 users": floor,
        },
        sys.stdout, indent=1,
    )  # fmt: skip
    print()


if __name__ == "__main__":
    main()
