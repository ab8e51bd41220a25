"""Ingest of a Parquet log into the store, against plain sorting copies by DuckDB and Polars in the same run.

    python -m benchmarks.speed.ingest --events 10000000

The peers do less: they drop exact duplicates and sort by user and time. They check no row, keep no quarantine, code no
user or item and cannot be added to. Each measurement is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed.logs import EventLog

WARM = 20_000
"""Events of a first small ingest, so that compiling the kernels is not measured."""


def ingest(log: Path, out: Path) -> None:
    """Ingest with Propend."""
    from propend.config import Config, EventSource, WorkspaceConfig
    from propend.engine import connect
    from propend.events.ingest import ingest

    roles = {name: name for name in ("user", "time", "type", "item", "value")}
    config = Config(
        workspace=WorkspaceConfig(zone="UTC"),
        events=(EventSource(files=(str(log),), roles=roles),),
    )
    ingest(config, log, out, connect())


def duckdb(log: Path, out: Path) -> None:
    """Copy with DuckDB: distinct rows in order of user and time."""
    import duckdb

    con = duckdb.connect()
    con.execute(f"SET temp_directory = '{out}.spill'")
    con.execute(
        f"COPY (SELECT DISTINCT * FROM '{log}/*.parquet' ORDER BY user, time) TO '{out}' (FORMAT parquet)"
    )


def polars(log: Path, out: Path) -> None:
    """Copy with Polars: distinct rows in order of user and time."""
    import polars as pl

    pl.scan_parquet(f"{log}/*.parquet").unique().sort("user", "time").sink_parquet(out)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "propend": ingest,
    "duckdb": duckdb,
    "polars": polars,
}


def measure(way: str, log: Path, warm: Path) -> None:
    """Run one way in this process and print what it took as JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        WAYS[way](warm, Path(scratch) / "warm")
        wall, cpu = time.perf_counter(), time.process_time()
        WAYS[way](log, Path(scratch) / "out")
        spent = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
    print(json.dumps(spent))


def main() -> None:
    """Make a log, measure each way in a fresh process, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--only", choices=sorted(WAYS), action="append")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        way, log, warm = chosen.measure
        measure(way, Path(log), Path(warm))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        EventLog(chosen.events).write(folder / "log")
        EventLog(WARM).write(folder / "warm")
        print(f"{chosen.events:,} events, {os.cpu_count()} processors")
        print(f"{'':10}{'events/s':>12}{'per CPU-s':>12}{'peak GiB':>10}{'wall':>8}")
        base = 0.0
        for way in chosen.only or WAYS:
            if way != "propend" and importlib.util.find_spec(way) is None:
                print(f"{way:10}not installed, skipped (pip install 'propend[bench]')")
                continue
            command = [sys.executable, "-m", "benchmarks.speed.ingest", "--measure", way]
            done = subprocess.run(
                [*command, str(folder / "log"), str(folder / "warm")],
                check=True,
                capture_output=True,
                text=True,
            )
            spent = json.loads(done.stdout.splitlines()[-1])
            rate = chosen.events / spent["wall"]
            base = base or rate
            print(
                f"{way:10}{rate:12,.0f}{chosen.events / spent['cpu']:12,.0f}{spent['rss']:10.2f}"
                f"{spent['wall']:7.1f}s   {rate / base:.2f} x propend"
            )


if __name__ == "__main__":
    main()
