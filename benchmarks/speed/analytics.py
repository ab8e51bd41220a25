"""Funnel, retention and paths against ClickHouse (chdb), DuckDB and Polars: equal answers, CPU-seconds, wall, memory.

    python -m benchmarks.speed.analytics --events 10_000_000 --folder /tmp/bench

Every measurement runs in a process of its own. Peers read Parquet with the same dense codes (int32 user, int16 type, time in
microseconds) in order of arrival, as such logs come; our store is user-ordered, which ingest pays for once. Time counts from
after the imports to the answer, so it holds reading the files; ``cold`` also holds our imports and the loading of kernels.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.logs import START, TYPES

STEPS = ("view", "search", "cart", "purchase")
CODES = {name: code for code, name in enumerate(TYPES)}
WEEK = 7 * 86_400 * 1_000_000
DAYS = 60
DAY = 86_400 * 1_000_000
PART = 2_000_000
GAP = 30 * 60 * 1_000_000


def generate(folder: Path, events: int) -> None:
    """Write the log for the peers, and as our store."""
    from propend.events.store import Store, event_schema

    users = max(1, events // 100)
    rng = np.random.default_rng(7)
    weight = np.cumsum(rng.lognormal(0.0, 1.3, users))
    shares = np.cumsum(list(TYPES.values()))[:-1]
    (folder / "peers").mkdir(parents=True)
    columns: dict[str, list[np.ndarray]] = {"user": [], "time": [], "type": []}
    for number, low in enumerate(range(0, events, PART)):
        rows = min(PART, events - low)
        user = np.searchsorted(weight, rng.random(rows) * weight[-1]).astype(np.int32)
        begin, end = (START + DAYS * DAY * edge // events for edge in (low, low + rows))
        at, place = np.sort(rng.integers(begin, end, rows)), np.arange(rows)
        at = np.maximum.accumulate(at - place) + place  # no two events at once: no tie rule decides
        assert at[-1] < end + rows, "the days are too short for so many events"
        kind = np.searchsorted(shares, rng.random(rows)).astype(np.int16)
        part = pa.table({"user": user, "time": at, "type": kind})
        pq.write_table(part, folder / "peers" / f"p{number:04d}.parquet", compression="lz4")
        for name, values in (("user", user), ("time", at), ("type", kind)):
            columns[name].append(values)
    user, at, kind = (np.concatenate(columns.pop(n)) for n in ("user", "time", "type"))
    buckets = 1 << max(4, (events // 1_000_000 - 1).bit_length())
    store = Store.create(folder / "store", buckets)
    schema = event_schema({})
    home = (user % buckets).astype(np.uint16)
    order = np.argsort(home, kind="stable").astype(np.uint32)
    cuts = np.searchsorted(home[order], np.arange(buckets + 1))
    with store.writing() as writer:
        writer.next.types = list(TYPES)
        for b in range(buckets):
            rows = order[cuts[b] : cuts[b + 1]]
            rows = rows[np.lexsort((rows, at[rows], user[rows]))]
            given = {
                "user": user[rows],
                "time": pa.array(at[rows]).cast(pa.timestamp("us", "UTC")),
                "seq": rows.astype(np.int64),
                "type": kind[rows],
                "item": np.zeros(len(rows), np.int32),
            }
            arrays = [
                pa.array(given[f.name]) if f.name in given else pa.nulls(len(rows), f.type)
                for f in schema
            ]
            writer.add_run(b, pa.table(arrays, schema=schema))
        writer.commit()


# ---- ours

_OPEN: dict[Path, Any] = {}


def _ours(folder: Path, *, at_hand: bool = True) -> Any:
    """Return what questions are asked of; ``at_hand`` as the façade does: columns stay decoded for the next question."""
    from propend.analytics.scan import remember
    from propend.engine import connect
    from propend.events.store import Store
    from propend.features.schema import Schema

    if folder not in _OPEN:
        _OPEN[folder] = Store(folder / "store")
        if at_hand:
            remember(_OPEN[folder])
    return _OPEN[folder], Schema.of(_OPEN[folder]), connect("local", threads=2)


def propend_read(folder: Path) -> Any:
    from propend.analytics.scan import sweep

    store, _, engine = _ours(folder, at_hand=False)
    return sum(sweep(store, engine, lambda t: len(t)))


def propend_funnel(folder: Path, *, at_hand: bool = True) -> Any:
    from propend.analytics.funnel import funnel

    result = funnel(*_ours(folder, at_hand=at_hand), list(STEPS), "7d")
    return [result.users(k) for k in range(4)]


def propend_decoding_funnel(folder: Path) -> Any:
    """The same with nothing at hand, as the command line asks: each question decodes."""
    return propend_funnel(folder, at_hand=False)


FIVE = (STEPS, STEPS[1:], STEPS[::2], ("view", "cart"), ("cart", "purchase", "review"))


def propend_five_funnels(folder: Path) -> Any:
    from propend.analytics.funnel import funnels
    from propend.analytics.funnel_plan import Funnel

    found = funnels(*_ours(folder), [Funnel.of(list(steps), "7d") for steps in FIVE])
    return [[r.users(k) for k in range(len(s))] for r, s in zip(found, FIVE, strict=True)]


def _alone(folder: Path, number: int) -> Any:
    from propend.analytics.funnel import funnel

    result = funnel(*_ours(folder), list(FIVE[number]), "7d")
    return [result.users(k) for k in range(len(FIVE[number]))]


def propend_retention(folder: Path) -> Any:
    from propend.analytics.retention import retention

    found = retention(*_ours(folder), "day")
    return [[round(r * c["size"]) for r in c["rates"]] for c in found["cohorts"] if c["size"]]


def propend_paths(folder: Path) -> Any:
    from propend.analytics.paths import paths

    found = paths(*_ours(folder), collapse=False, top=20)
    return [found["sessions"], sorted(p["sessions"] for p in found["paths"])]


# ---- peers


def _chdb(sql: str, folder: Path) -> Any:
    import chdb

    # two threads as everybody else
    answer = chdb.query(
        sql.format(files=f"file('{folder}/peers/*.parquet')") + " SETTINGS max_threads=2",
        "JSONCompact",
    )
    return json.loads(answer.bytes())["data"]


def chdb_read(folder: Path) -> Any:
    rows = _chdb("SELECT count(), sum(user), max(time), max(type) FROM {files}", folder)
    return int(rows[0][0])


def chdb_funnel(folder: Path) -> Any:
    conditions = ", ".join(f"type = {CODES[s]}" for s in STEPS)
    rows = _chdb(
        f"SELECT level, count() FROM (SELECT user, windowFunnel({WEEK})(toUInt64(time), {conditions}) AS level "
        "FROM {files} GROUP BY user) GROUP BY level",
        folder,
    )
    counts = {int(level): int(n) for level, n in rows}
    return [sum(n for level, n in counts.items() if level > k) for k in range(4)]


def chdb_retention(folder: Path) -> Any:
    rows = _chdb(
        "SELECT days[1] AS c, arrayJoin(days) - c AS k, count() FROM (SELECT bitPositionsToArray(groupBitOr(bitShiftLeft("
        "toUInt64(1), toUInt8(intDiv(time - 1704067200000000, 86400000000))))) AS days FROM {files} GROUP BY user) GROUP BY c, k",
        folder,
    )
    table: dict[int, dict[int, int]] = {}
    for c, k, n in rows:
        table.setdefault(int(c), {})[int(k)] = int(n)
    return [[row.get(k, 0) for k in range(DAYS - c)] for c, row in sorted(table.items())]


def chdb_paths(folder: Path) -> Any:
    rows = _chdb(
        "SELECT path, count() AS n, sum(n) OVER () FROM (SELECT arrayJoin(arrayMap(s -> arrayStringConcat(arraySlice(arrayMap(e -> toString(e.2), s), 1, 8)), "
        f"arraySplit((e, g) -> g, events, arrayMap((e, i) -> i > 1 AND e.1 - events[i - 1].1 > {GAP}, events, arrayEnumerate(events))))) AS path "
        "FROM (SELECT user, arraySort(groupArray((time, type))) AS events FROM {files} GROUP BY user)) GROUP BY path ORDER BY n DESC LIMIT 20",
        folder,
    )
    return [int(rows[0][2]), sorted(int(r[1]) for r in rows)]


def _duck(sql: str, folder: Path) -> Any:
    import duckdb

    con = duckdb.connect()
    con.execute("SET threads=2")
    con.execute(f"CREATE VIEW log AS SELECT * FROM read_parquet('{folder}/peers/*.parquet')")
    return con.execute(sql).fetchall()


def duckdb_read(folder: Path) -> Any:
    return _duck("SELECT count(*), sum(user), max(time), max(type) FROM log", folder)[0][0]


def duckdb_funnel(folder: Path) -> Any:
    sql = f"WITH s0 AS (SELECT user, time, time AS start FROM log WHERE type = {CODES[STEPS[0]]})"
    for k in range(1, 4):
        sql += (
            f", s{k} AS (SELECT b.user, b.time, a.start FROM (SELECT * FROM log WHERE type = {CODES[STEPS[k]]}) b "
            f"ASOF JOIN s{k - 1} a ON a.user = b.user AND b.time > a.time WHERE b.time - a.start <= {WEEK})"
        )
    counts = ", ".join(f"(SELECT count(DISTINCT user) FROM s{k})" for k in range(4))
    return list(_duck(f"{sql} SELECT {counts}", folder)[0])


def duckdb_retention(folder: Path) -> Any:
    rows = _duck(
        "WITH d AS (SELECT DISTINCT user, (time - 1704067200000000) // 86400000000 AS day FROM log), "
        "f AS (SELECT user, min(day) AS c FROM d GROUP BY user) "
        "SELECT c, day - c AS k, count(*) FROM d JOIN f USING (user) GROUP BY ALL",
        folder,
    )
    table: dict[int, dict[int, int]] = {}
    for c, k, n in rows:
        table.setdefault(int(c), {})[int(k)] = int(n)
    return [[row.get(k, 0) for k in range(DAYS - c)] for c, row in sorted(table.items())]


def duckdb_paths(folder: Path) -> Any:
    leads = ", ".join(
        f"lead(type, {k}) OVER w AS t{k}, lead(time, {k}) OVER w AS m{k}" for k in range(1, 8)
    )
    path, alive = "type::VARCHAR", "true"
    for k in range(1, 8):
        before = "time" if k == 1 else f"m{k - 1}"
        alive = f"{alive} AND coalesce(m{k} - {before} <= {GAP}, false)"
        path += f" || CASE WHEN {alive} THEN t{k}::VARCHAR ELSE '' END"
    rows = _duck(
        f"SELECT path, n, sum(n) OVER () FROM (SELECT {path} AS path, count(*) AS n FROM (SELECT type, time, lag(time) OVER w AS b, {leads} "
        f"FROM log WINDOW w AS (PARTITION BY user ORDER BY time, type)) WHERE b IS NULL OR time - b > {GAP} GROUP BY path) ORDER BY n DESC LIMIT 20",
        folder,
    )
    return [int(rows[0][2]), sorted(int(r[1]) for r in rows)]


def _polars(folder: Path) -> Any:
    import polars as pl

    return pl, pl.scan_parquet(f"{folder}/peers/*.parquet")


def polars_read(folder: Path) -> Any:
    pl, log = _polars(folder)
    return int(
        log.select(
            pl.len(), pl.col("user").sum(), pl.col("time").max(), pl.col("type").max()
        ).collect()[0, 0]
    )


def polars_funnel(folder: Path) -> Any:
    pl, log = _polars(folder)

    def of(k: int) -> Any:
        return (
            log.filter(pl.col("type") == CODES[STEPS[k]])
            .select("user", "time")
            .collect()
            .sort("time")
        )

    state = of(0).with_columns(start=pl.col("time"))
    counts = [state["user"].n_unique()]
    for k in range(1, 4):
        state = (
            of(k)
            .join_asof(
                state, on="time", by="user", allow_exact_matches=False, check_sortedness=False
            )
            .drop_nulls("start")
            .filter(pl.col("time") - pl.col("start") <= WEEK)
        )
        counts.append(state["user"].n_unique())
    return counts


def polars_retention(folder: Path) -> Any:
    pl, log = _polars(folder)
    days = log.select("user", day=(pl.col("time") - 1704067200000000) // 86400000000).unique()
    first = days.group_by("user").agg(c=pl.col("day").min())
    rows = days.join(first, on="user").group_by("c", k=pl.col("day") - pl.col("c")).len().collect()
    table: dict[int, dict[int, int]] = {}
    for c, k, n in rows.iter_rows():
        table.setdefault(int(c), {})[int(k)] = int(n)
    return [[row.get(k, 0) for k in range(DAYS - c)] for c, row in sorted(table.items())]


TASKS: dict[str, Callable[[Path], Any]] = {
    name: f
    for name, f in list(globals().items())
    if name.split("_")[0] in ("propend", "chdb", "duckdb", "polars") and callable(f)
} | {f"propend_alone_{i}": partial(_alone, number=i) for i in range(len(FIVE))}


def measure(task: str, folder: Path) -> None:
    """Answer in this process and print the answer with what it cost (run as a child)."""
    begun = time.perf_counter()
    whole = resource.getrusage(resource.RUSAGE_SELF)
    library = task.split("_")[0]
    if library == "propend":
        import propend.analytics.funnel
        import propend.analytics.paths
        import propend.analytics.retention
        import propend.engine.local  # noqa: F401
    else:
        __import__(library)
    runs = []
    for _ in range(2 if library == "propend" else 1):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        answer = TASKS[task](folder)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        runs.append({"cpu": cpu, "wall": wall})
    cold = {
        "wall": runs[0]["wall"] + (start - begun if len(runs) == 1 else 0),
        "cpu": after.ru_utime + after.ru_stime - whole.ru_utime - whole.ru_stime,
    }
    print(json.dumps({"answer": answer, "runs": runs, "cold": cold, "rss": after.ru_maxrss / 1024}))


def child(task: str, folder: Path) -> dict[str, Any]:
    """Measure a task in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.analytics", "--task", task, "--folder", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or ["?"]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/propend-bench"))
    parser.add_argument("--task")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--against", nargs="*", default=["chdb", "duckdb", "polars"])
    parser.add_argument("--only", nargs="*", default=["read", "funnel", "retention", "paths"])
    args = parser.parse_args()
    if args.task == "generate":
        generate(args.folder, args.events)
        return
    if args.task:
        measure(args.task, args.folder)
        return
    folder = args.folder / str(args.events)
    if not (folder / "store").exists():
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.speed.analytics",
                "--task",
                "generate",
                "--events",
                str(args.events),
                "--folder",
                str(folder),
            ],
            check=True,
        )
        print(
            f"generated {args.events:,} events in {time.perf_counter() - start:.0f} s", flush=True
        )
    print(
        f"| question ({args.events:,} events) | engine | CPU s | wall s | MB | CPU, of ours | equal |"
    )
    print("|---|---|---|---|---|---|---|")
    for question in args.only:
        ours: dict[str, Any] = {}
        for library in ("propend", *args.against):
            task = f"{library}_{question}"
            if task not in TASKS:
                continue
            tries = [child(task, folder) for _ in range(args.repeat)]
            good = [t for t in tries if "failed" not in t]
            if not good:
                print(f"| {question} | {library} | failed: {tries[0]['failed']} |")
                continue
            best = min((r for t in good for r in t["runs"][:1]), key=lambda r: r["cpu"])
            rss = min(t["rss"] for t in good)
            if library == "propend":
                ours = {"answer": good[0]["answer"], **best}
                warm = min((t["runs"][1] for t in good), key=lambda r: r["cpu"])
                print(
                    f"| {question} | propend, asked again | {warm['cpu']:.2f} | {warm['wall']:.2f} | | | |"
                )
            same = "yes" if good[0]["answer"] == ours["answer"] else "NO"
            print(
                f"| {question} | {library} | {best['cpu']:.2f} | {best['wall']:.2f} | {rss:.0f} | {best['cpu'] / ours['cpu']:.1f} | {same} |",
                flush=True,
            )
            assert same == "yes", (good[0]["answer"], ours["answer"])
    alone = [f"propend_alone_{i}" for i in range(len(FIVE))]
    asked = {
        task: child(task, folder)
        for task in ("propend_decoding_funnel", "propend_five_funnels", *alone)
    }
    for task, found in asked.items():
        if "failed" in found:
            print(f"{task}: failed: {found['failed']}")
            continue
        first, again = (run["cpu"] for run in found["runs"])
        print(f"{task}: first {first:.2f}, again {again:.2f} CPU s, {found['rss']:.0f} MB")
    five, apart = asked["propend_five_funnels"], [asked[task] for task in alone]
    if not any("failed" in found for found in (five, *apart)):
        assert five["answer"] == [found["answer"] for found in apart]
        costs = [sum(found["runs"][i]["cpu"] for found in apart) for i in (0, 1)]
        first, again = (run["cpu"] for run in five["runs"])
        print(
            f"five funnels in one pass, of the same five each in a process of its own: first {first / costs[0]:.2f}, again {again / costs[1]:.2f}"
        )


if __name__ == "__main__":
    main()
