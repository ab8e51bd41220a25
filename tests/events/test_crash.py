"""kill -9 at every durable step: a reader sees the old state or the new one, and the next run puts all right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.events.stores import config, content, quarantined

from propend.config import Config
from propend.engine.local import LocalEngine
from propend.errors import DataError
from propend.events import durable
from propend.events.ingest import ingest
from propend.events.store import Store

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
    pytest.mark.slow,
]

HEADER = "user,time,type,item,value,quantity\n"


def lines(start: int, rows: int) -> str:
    return "".join(
        f"u{i % 7},2024-03-{1 + i % 28:02d} 10:{i % 60:02d}:00,purchase,i{i % 5},{i % 9}.5,{i % 3}\n"
        for i in range(start, start + rows)
    )


def state(folder: Path) -> Any:
    """All a reader can see: events, quarantine, tables, what was ingested; a store without a commit is none."""
    try:
        store = Store(folder)
    except DataError:
        return None
    if store.manifest.generation == 0:
        return None
    ledger = [(e["source"], e["rows_in"], e["quarantine"]) for e in store.manifest.ledger]
    items = store.table("items")
    return content(store), quarantined(store), ledger, items and items.to_pylist()


def orphans(folder: Path) -> list[str]:
    named = Store(folder).manifest.files() | {"manifest.json", ".lock"}
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return sorted(there - named)


@contextmanager
def killing(step: int) -> Iterator[None]:
    """From here on the process is killed at its ``step``-th durable step: before it, or in the middle of a file."""
    left = [step]

    def armed(real: Callable[..., Any], torn: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if torn:  # half of a file is on the disk
                    real(*args, **kwargs)
                    path = Path(args[1])
                    os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for place, name, torn in (
        (os, "fsync", False),
        (pq, "write_table", True),
        (durable, "sync_folder", False),
        (Path, "replace", False),
        (Path, "unlink", False),
        (Path, "mkdir", False),
    ):
        setattr(place, name, armed(getattr(place, name), torn))
    yield


def die_at(step: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that is killed at a step; returns whether it was (not: whether it finished first)."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs fails the test
        try:
            with killing(step):
                work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL, "the child hung"
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed of itself"
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_durable_step_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    """In a process of its own, so that no thread of another test runs where it forks."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": path},
    )


def kill_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + lines(0, 60) + lines(50, 10) + ",,,,,\n")
    (tmp_path / "b.csv").write_text(HEADER + lines(55, 40))
    one, two = config("a.csv", buckets=4), config("a.csv", "b.csv", buckets=4)

    def run(conf: Config) -> Callable[[Path], object]:
        return lambda folder: ingest(conf, tmp_path, folder, LocalEngine(threads=1))

    phases: list[tuple[str, Callable[[Path], object]]] = [
        ("first ingest", run(one)),
        ("second ingest", run(two)),
        ("compaction", lambda folder: Store(folder).compact()),
        ("forget", lambda folder: Store(folder).forget("u3")),
    ]
    now, points = tmp_path / "now", {}
    for name, work in phases:
        before = state(now)
        done = tmp_path / f"after-{name}"
        if now.exists():
            shutil.copytree(now, done)
        work(done)
        after = state(done)
        allowed = [before, after]
        step = 0
        while True:
            step += 1
            folder = tmp_path / "victim"
            if now.exists():
                shutil.copytree(now, folder)
            if not die_at(step, lambda work=work, folder=folder: work(folder)):  # type: ignore[misc]
                shutil.rmtree(folder)
                break
            seen = state(folder)
            assert seen in allowed, f"{name}, step {step}: neither the old state nor the new"
            if name != "forget" or seen == before:  # what is erased cannot be erased again
                work(folder)
            with Store(folder).writing():  # any next writer tidies up
                pass
            assert state(folder) == after, f"{name}, step {step}: the next run did not finish it"
            assert orphans(folder) == [], f"{name}, step {step}"
            shutil.rmtree(folder)
        points[name] = step - 1
        shutil.rmtree(now, ignore_errors=True)
        done.rename(now)
    assert sum(points.values()) >= 100, points


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", 2)
    with (
        store.writing(),
        pytest.raises(DataError, match="being written by another process"),
        Store(tmp_path / "s").writing(),
    ):
        pass


if __name__ == "__main__":
    kill_everywhere(Path(sys.argv[1]))
