"""Point-in-time features on sorted arrays: ours, a DuckDB range join and NumPy's searchsorted, in one run.

Question: 4 windows × (count, sum) of one event type for every (user, cutoff). The measure is rows per CPU-second, where a
row is one (user, cutoff) with its 8 answers and CPU-seconds count all threads. Every contender starts from the
same sorted arrays in memory and all answers must be equal, bit for bit.

    python -m benchmarks.speed.features [--users 100000] [--events 20] [--cutoffs 12] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt

from propend.events.timelines import Timelines
from propend.expression import build
from propend.features.evaluate import Rows, matrix
from propend.features.schema import Schema
from propend.names import DAY

WINDOWS = (1, 7, 30, 90)
SPAN = 365
SEED = 7
Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """One contender: the best of several runs."""

    name: str
    rows_per_cpu_second: float
    cpu_seconds: float
    wall_seconds: float


def log(users: int, events: int) -> Timelines:
    """Return a seeded log with a geometric number of events per user (mean ``events``) over one year."""
    rng = np.random.default_rng(SEED)
    per_user = rng.geometric(1 / events, users) - 1
    offsets = np.concatenate([[0], np.cumsum(per_user)]).astype(np.int64)
    n = int(offsets[-1])
    user = np.repeat(np.arange(users), per_user)
    moments = rng.integers(0, SPAN * DAY, n)
    return Timelines(
        np.arange(users, dtype=np.int64),
        offsets,
        moments[np.lexsort((moments, user))],
        rng.integers(0, 2, n).astype(np.int16),
        np.full(n, -1, np.int32),
        np.arange(n, dtype=np.int64),
        {"value": np.round(rng.lognormal(3, 1, n), 2)},
    )


def ours(timelines: Timelines, rows: Rows) -> Table:
    """Evaluate the language."""
    questions = [
        question
        for days in WINDOWS
        for question in (
            build.count("purchase", last=f"{days}d"),
            build.sum_("purchase.value", last=f"{days}d"),
        )
    ]
    schema = Schema(types=("view", "purchase"), numbers=("value",))
    return matrix(questions, timelines, rows, schema)


def numpy_searchsorted(timelines: Timelines, rows: Rows) -> Table:
    """Search one composite key per window edge; windows are differences of running totals."""
    chosen = timelines.type == 1
    stride = np.int64(2 * SPAN * DAY)
    owner = timelines.user_of_row[chosen]
    key = owner * stride + timelines.time[chosen] + SPAN * DAY // 2
    micro = np.rint(timelines.numbers["value"][chosen] * 1e6).astype(np.int64)
    totals = np.concatenate([[0], np.cumsum(micro)])
    asked = rows.user * stride + rows.cutoff + SPAN * DAY // 2
    high = np.searchsorted(key, asked)
    out = np.empty((len(rows), 2 * len(WINDOWS)))
    for position, days in enumerate(WINDOWS):
        low = np.searchsorted(key, asked - days * DAY)
        out[:, 2 * position] = high - low
        out[:, 2 * position + 1] = (totals[high] - totals[low]) / 1e6
    return out


def duckdb_range_join(timelines: Timelines, rows: Rows) -> Table:
    """Join rows to events on the user and the longest window; one aggregate with a filter per answer."""
    con = duckdb.connect()
    con.register(
        "events",
        {
            "user": timelines.user_of_row,
            "time": timelines.time,
            "type": timelines.type,
            "micro": np.rint(timelines.numbers["value"] * 1e6).astype(np.int64),
        },
    )
    con.register("rows", {"row": np.arange(len(rows)), "user": rows.user, "cutoff": rows.cutoff})
    answers = ", ".join(
        f"count(e.time) FILTER (e.time >= r.cutoff - {days * DAY}) AS n{days}, "
        f"coalesce(sum(e.micro) FILTER (e.time >= r.cutoff - {days * DAY}), 0) / 1e6 AS s{days}"
        for days in WINDOWS
    )
    found = con.execute(
        f"""
        SELECT r.row, {answers}
        FROM rows r LEFT JOIN (SELECT * FROM events WHERE type = 1) e
          ON e.user = r.user AND e.time < r.cutoff AND e.time >= r.cutoff - {max(WINDOWS) * DAY}
        GROUP BY r.row ORDER BY r.row
        """
    ).fetchnumpy()
    con.close()
    names = [name for days in WINDOWS for name in (f"n{days}", f"s{days}")]
    return np.stack([np.asarray(found[name], np.float64) for name in names], axis=1)


CONTENDERS: dict[str, Callable[[Timelines, Rows], Table]] = {
    "propend": ours,
    "NumPy searchsorted": numpy_searchsorted,
    "DuckDB range join": duckdb_range_join,
}


def measure(users: int, events: int, cutoffs: int, repeats: int) -> list[Result]:
    """Run every contender on the same log and assert that their answers are equal."""
    timelines = log(users, events)
    rows = Rows.every(users, [int(c) for c in np.linspace(100 * DAY, SPAN * DAY, cutoffs)])
    small = Rows.every(10, [SPAN * DAY])
    ours(timelines.users_at(np.arange(10)), small)  # compile before the clock starts
    results, expected = [], None
    for name, run in CONTENDERS.items():
        best = (float("inf"), float("inf"))
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            answers = run(timelines, rows)
            best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        if expected is None:
            expected = answers
        if not np.array_equal(answers, expected):
            raise AssertionError(f"{name} answers differently")
        results.append(Result(name, len(rows) / best[0], *best))
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=20, help="mean events per user")
    parser.add_argument("--cutoffs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = measure(given.users, given.events, given.cutoffs, given.repeats)
    if given.json:
        print(json.dumps({r.name: r.__dict__ for r in results}))
        return
    print(
        f"{given.users:,} users x {given.cutoffs} cutoffs, about {given.events} events each, "
        f"4 windows x (count, sum), seed {SEED}, best of {given.repeats}, {platform.machine()}"
    )
    for r in results:
        print(
            f"{r.name:20} {r.rows_per_cpu_second / 1e6:7.2f} M rows per CPU-second   "
            f"{r.cpu_seconds:7.3f} CPU s   {r.wall_seconds:7.3f} s   "
            f"1 : {results[0].rows_per_cpu_second / r.rows_per_cpu_second:.1f}"
        )


if __name__ == "__main__":
    main()
