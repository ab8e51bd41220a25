"""Training, explaining and scoring everyone: the default champion beside LightGBM bare.

    python -m benchmarks.speed.prediction [train] [champion] [explain] [batch] [--rows 1000000] [--users 1000000] [--threads 2]

``train``: one fit of the trees on rows × 100 seeded columns (a tenth missing), 60 fixed rounds, against ``lightgbm.train``
with the same settings and rounds, each in a process of its own, in turn; peak memory is the whole process over the
matrix. ``champion``: all of ``propend.learn.train.train`` on such rows, dealt to a log's cutoffs (three forward folds, every
candidate and baseline fitted twice a fold, calibration, choice, intervals, refit, card) against one such bare fit, and against
a bare fit of as many trees as early stopping left the champion. ``explain``:
exact contributions against LightGBM's ``pred_contrib`` on the same rows, equal values asserted, in rows per CPU second.
``batch``: features, model, calibration and file for everyone in a store, once warmed on a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.speed.logs import EventLog

F64 = npt.NDArray[np.float64]
WIDTH = 100
SEED = 7
ASK = "any(purchase) next 30d for any(*) last 365d"


def rows_of(rows: int, order: Literal["C", "F"] = "C") -> tuple[F64, F64]:
    """Return a seeded matrix [rows, 100] and yes/no labels that ten columns and two pairs explain."""
    rng = np.random.default_rng(SEED)
    X = np.empty((rows, WIDTH), order=order)
    for start in range(0, rows, 50_000):
        part = X[start : start + 50_000]
        part[:] = rng.normal(size=part.shape)
        part[rng.random(part.shape, dtype=np.float32) < 0.1] = np.nan
    weights = rng.normal(size=10)
    margin = np.zeros(rows)
    for start in range(0, rows, 50_000):
        known = np.nan_to_num(np.ascontiguousarray(X[start : start + 50_000, :10]))
        margin[start : start + 50_000] = (
            known @ weights + known[:, 0] * known[:, 1] - known[:, 2] * known[:, 3]
        )
    return X, (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)


def fit(way: str, rows: int, threads: int, trees: int | None = None) -> dict[str, float]:
    """Fit in this process: ``ours`` or ``bare``; ``trees`` instead of the fixed rounds."""
    import lightgbm

    from propend.models import create
    from propend.models.model import Data

    warm = rows_of(500)
    model: Any = create("trees", "yes_no", threads=threads).fit(*warm)
    X, y = rows_of(rows)
    settings = model._settings(Data(X, y), SEED)
    rounds = trees or model._rounds(settings["learning_rate"], False)
    wall, cpu = time.perf_counter(), time.process_time()
    if way == "ours":
        create("trees", "yes_no", threads=threads).fit(X, y, seed=SEED)
    else:
        lightgbm.train(settings, lightgbm.Dataset(X, y), num_boost_round=rounds)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / X.nbytes,
        "rounds": rounds,
    }


def train(rows: int, threads: int, repeats: int) -> None:
    """Print ours against bare."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for _ in range(repeats):
        for way in found:
            command = [sys.executable, "-m", "benchmarks.speed.prediction", "--measure", way]
            command += ["--rows", str(rows), "--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {
        way: {k: statistics.median(run[k] for run in runs) for k in runs[0]}
        for way, runs in found.items()
    }
    for way, spent in middle.items():
        print(
            f"train one fit of the trees, {way}: {rows:,} × {WIDTH}, {spent['rounds']:.0f} trees, {threads} threads: {spent['wall']:.1f} s wall, "
            f"{spent['cpu']:.1f} CPU-s, peak {spent['memory']:.2f} × the matrix"
        )
    ratios = [o["cpu"] / b["cpu"] for o, b in zip(found["ours"], found["bare"], strict=True)]
    walls = [o["wall"] / b["wall"] for o, b in zip(found["ours"], found["bare"], strict=True)]
    print(
        f"train ratio: {statistics.median(ratios):.2f} by CPU, {statistics.median(walls):.2f} by wall, median of {repeats} "
        "(target 1.2, memory 2)",
        flush=True,
    )


def _whole(rows: int) -> dict[str, float]:
    """Train a task on rows × 100, dealt to a log's cutoffs, with the usual candidates, in this process."""
    from propend.expression.nodes import Field
    from propend.learn.train import train
    from propend.names import DAY
    from propend.tasks.cutoffs import plan_cutoffs
    from propend.tasks.frame import Frame
    from propend.tasks.task import Task

    task = Task.parse("buys", ASK)
    plan = plan_cutoffs(0, 400 * DAY, task.horizon, folds=3)
    X, y = rows_of(rows, "F")  # as a log's frame stands in memory
    cutoff = np.array(plan.cutoffs)[np.arange(rows) % len(plan.cutoffs)]
    names = tuple(Field((f"x{j}",)) for j in range(WIDTH))
    user = np.arange(rows) // len(plan.cutoffs)
    frame = Frame(X, y, user, cutoff, names, {})
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = train(frame, task, plan, seed=SEED)
    card = fitted.card
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / X.nbytes,
        "rounds": float(getattr(fitted.model, "rounds", 0)),
        "cutoffs": float(len(plan.cutoffs)),
        "auroc": card["metrics"]["auroc"],
    }


def champion(rows: int, threads: int) -> None:
    """Print the whole training of a task against one bare fit."""

    def measured(way: str, trees: int = 0) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.speed.prediction", "--measure", way]
        command += ["--rows", str(rows), "--threads", str(threads), "--trees", str(trees)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return answer

    whole, bare = measured("champion"), measured("bare")
    print(
        f"champion, all of train: {rows:,} × {WIDTH} at {whole['cutoffs']:.0f} cutoffs, {threads} threads: {whole['wall']:.1f} s wall, "
        f"{whole['cpu']:.1f} CPU-s, peak {whole['memory']:.2f} × the matrix, AUROC {whole['auroc']:.4f}; one bare fit "
        f"{bare['wall']:.1f} s, {bare['cpu']:.1f} CPU-s: ratio {whole['cpu'] / bare['cpu']:.1f} by CPU, {whole['wall'] / bare['wall']:.1f} by wall "
        "(target 1.2 for training, memory 2)",
        flush=True,
    )
    if whole["rounds"]:
        alike = measured("bare", int(whole["rounds"]))
        print(
            f"champion against a bare fit of as many trees ({whole['rounds']:.0f}): {alike['cpu']:.1f} CPU-s, "
            f"ratio {whole['cpu'] / alike['cpu']:.1f} by CPU",
            flush=True,
        )


def explain(rows: int, repeats: int) -> None:
    """Print rows explained per CPU second."""
    from propend.models import create

    X, y = rows_of(rows)
    for trees, leaves in ((60, 31), (120, 31), (200, 16)):
        model: Any = create("trees", "yes_no", trees=trees, leaves=leaves, threads=1).fit(X, y)
        model.contributions(X[:600])
        ours, theirs = [], []
        few = X[: max(1, rows // 10)]
        for _ in range(repeats):
            begin = time.process_time()
            mine = model.contributions(X)
            ours.append(rows / (time.process_time() - begin))
            begin = time.process_time()
            other = model._booster.predict(few, pred_contrib=True, num_threads=1)
            theirs.append(len(few) / (time.process_time() - begin))
            apart = float(np.abs(mine[: len(few)] - other).max())
            assert apart < 1e-9, apart
        print(
            f"explain: {trees} trees of {leaves} leaves, {rows:,} × {WIDTH}: {statistics.median(ours):,.0f} rows per CPU-s, "
            f"LightGBM's own {statistics.median(theirs):,.0f}; equal to {apart:.0e} (target 20,000 rows/s)",
            flush=True,
        )


def batch(users: int, events: int) -> None:
    """Print users scored per minute, features and file included."""
    from propend.config import Config, EventSource, WorkspaceConfig
    from propend.engine import connect
    from propend.events.ingest import ingest
    from propend.events.store import Store
    from propend.features.derive import derive_features
    from propend.features.schema import Schema
    from propend.learn.calibration import Platt
    from propend.learn.fitted import Fitted
    from propend.models import create
    from propend.names import DAY
    from propend.pipeline.batch import score_store
    from propend.pipeline.predict import _informative
    from propend.tasks.frame import build_frame
    from propend.tasks.task import Task

    engine = connect()
    roles = {name: name for name in ("user", "time", "type", "item", "value")}
    task = Task.parse("buys", ASK)
    fitted: Fitted | None = None
    with tempfile.TemporaryDirectory() as place:
        for size in (5_000, users):
            folder = Path(place) / str(size)
            EventLog(size * events, users=size).write(folder / "log")
            source = EventSource(files=(str(folder / "log"),), roles=roles)
            config = Config(workspace=WorkspaceConfig(zone="UTC"), events=(source,))
            ingest(config, folder, folder / "store", engine)
            store = Store(folder / "store")
            schema = Schema.of(store, "UTC", ())
            if fitted is None:
                features = derive_features(schema)
                frame = build_frame(store, schema, engine, task, features, [schema.last - 30 * DAY])
                frame = _informative(frame)
                model = create("trees", "yes_no", trees=200, leaves=16).fit(
                    frame.X, frame.y, columns=frame.names,
                    categories={j: len(v) for j, v in frame.categories.items()},
                )  # fmt: skip
                fitted = Fitted(
                    task, "trees", model, Platt(), frame.features, dict(frame.categories), 0.5, {}
                )
            for reasons in (0, 3):
                cpu = time.process_time()
                made = score_store(
                    store, schema, engine, fitted, schema.last + 1, folder / "s.parquet", reasons=reasons
                )  # fmt: skip
                cpu = time.process_time() - cpu
                if size == users:
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                    print(
                        f"batch: {made['users']:,} users ({size * events:,} events), {len(fitted.features)} features, "
                        f"200 trees of 16 leaves, {reasons} reasons: {made['seconds']:.1f} s wall, {cpu:.1f} CPU-s, "
                        f"{60 * made['users'] / made['seconds']:,.0f} users a minute (by CPU on two cores "
                        f"{120 * made['users'] / cpu:,.0f}), peak {peak:.2f} GiB (target 1,000,000)",
                        flush=True,
                    )


def main() -> None:
    """Run the parts named (default: all)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["train", "champion", "explain", "batch"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--explained", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10, help="events a user")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=("ours", "bare", "champion"), help=argparse.SUPPRESS)
    parser.add_argument("--trees", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        whole = given.measure == "champion"
        print(
            json.dumps(
                _whole(given.rows)
                if whole
                else fit(given.measure, given.rows, given.threads, given.trees or None)
            )
        )
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, seed {SEED}")
    if "train" in given.parts:
        train(given.rows, given.threads, given.repeats)
    if "champion" in given.parts:
        champion(given.rows, given.threads)
    if "explain" in given.parts:
        explain(given.explained, given.repeats)
    if "batch" in given.parts:
        batch(given.users, given.events)


if __name__ == "__main__":
    main()
