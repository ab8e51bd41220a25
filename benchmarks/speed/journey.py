"""The whole journey on Online Retail, and how quickly the program starts: wall and CPU seconds, peak memory.

``python -m benchmarks.speed.journey [--data FOLDER]``; targets: a run within 60 s and 2 GB on two cores after the first
compile, ``import propend`` within 0.2 s, ``propend --help`` within 0.5 s. Each is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Run a command; return wall seconds, CPU seconds and peak memory in GB of the largest process so far."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = os.environ.get(
        "PROPEND_DATA", str(Path(__file__).resolve().parents[3] / "shared" / "data")
    )
    parser.add_argument("--data", default=default, help="folder of the public data sets")
    parser.add_argument(
        "--runs", type=int, default=2, help="runs of the journey; the first compiles"
    )
    options = parser.parse_args()
    bare = [measured([sys.executable, "-c", "pass"])[0] for _ in range(5)]
    for what, command, target in (
        ("import propend", [sys.executable, "-c", "import propend"], 0.2),
        ("propend --help", [sys.executable, "-m", "propend", "--help"], 0.5),
    ):
        walls = [measured(command)[0] for _ in range(5)]
        print(
            f"{what:<16} {statistics.median(walls):.3f} s (bare Python {statistics.median(bare):.3f} s; target {target} s)"
        )
    source = Path(options.data) / "online-retail"
    if not source.is_dir():
        print(
            f"no Online Retail at {source}: the journey is not measured; name the folder with --data"
        )
        return
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            shop = str(Path(folder) / "shop")
            subprocess.run(
                [sys.executable, "-m", "propend", "init", shop, "--from", str(source), "--json"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            wall, cpu, peak = measured([sys.executable, "-m", "propend", "run", shop, "--json"])
        note = " (compiles)" if run == 0 else ""
        print(
            f"propend run      {wall:.1f} s wall, {cpu:.1f} CPU-s, {peak:.2f} GB{note}; target 60 s, 2 GB"
        )


if __name__ == "__main__":
    main()
