"""Memory and restart of the live state: a million known users, a hundred thousand of them active.

python benchmarks/speed/live_memory.py [--known 1000000] [--active 100000] [--events 40]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from propend.pipeline.workspace import open_workspace
from propend.serve.live import Live


def rss() -> float:
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def build(folder: Path, known: int, active: int, events: int) -> None:
    rng = np.random.default_rng(7)
    user = np.concatenate([np.arange(known), np.repeat(np.arange(active), events - 1)])
    base = np.datetime64("2026-06-01T00:00:00", "us").astype(np.int64)
    day = np.concatenate([rng.uniform(0, 100, known), rng.uniform(100, 150, active * (events - 1))])
    table = pa.table({
        "who": pa.array(np.char.add("u", user.astype(str))), "at": pa.array(base + (day * 86_400e6).astype(np.int64), pa.timestamp("us", "UTC")),
        "what": pa.array(["view", "cart", "purchase"]).take(pa.array(rng.integers(0, 3, len(user)))), "thing": pa.array(np.char.add("p", rng.integers(0, 50_000, len(user)).astype(str))),
        "money": rng.uniform(1, 90, len(user)),
    })  # fmt: skip
    pq.write_table(table, folder / "log.parquet")
    (folder / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\nbuckets = 16\n[live]\nmemory_mb = 1024\n[[events]]\nname = "log"\nfiles = ["log.parquet"]\n'
        '[events.roles]\nuser = "who"\ntime = "at"\ntype = "what"\nitem = "thing"\nvalue = "money"\n'
    )


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--known", type=int, default=1_000_000)
    arguments.add_argument("--active", type=int, default=100_000)
    arguments.add_argument("--events", type=int, default=40)
    arguments.add_argument("--folder", type=Path)
    asked = arguments.parse_args()
    if asked.folder is None:  # built in a child, so that its memory is not counted
        import subprocess
        import sys

        with tempfile.TemporaryDirectory() as scratch:
            build(Path(scratch), asked.known, asked.active, asked.events)
            subprocess.run(
                [sys.executable, "-m", "propend", "ingest", scratch],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            subprocess.run([sys.executable, __file__, "--folder", scratch], check=True)
        return
    started = time.perf_counter()
    live = Live(open_workspace(asked.folder))
    restored = live.state.restore(share=1.0)
    took = time.perf_counter() - started
    loads = []
    for n in range(200):  # users that are not in memory
        begun = time.perf_counter()
        live.state.timelines(f"u{999_999 - n}")
        loads.append(time.perf_counter() - begun)
    result = {
        "restored_users": restored, "state_mb": live.state.counts()["bytes"] / 2**20, "rss_mb": rss(), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "restore_seconds": took, "cold_user_p50_ms": float(np.quantile(loads, 0.5) * 1e3), "cold_user_p99_ms": float(np.quantile(loads, 0.99) * 1e3),
    }  # fmt: skip
    live.stop()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
