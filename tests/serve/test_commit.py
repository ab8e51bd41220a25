"""Group commit: who waits together shares a flush, everybody hears the outcome, order and bounds hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.serve import commit
from propend.serve.commit import GroupWriter, Overload
from propend.serve.inbox import Batch, InboxError, SqliteInbox


def batch(body: bytes = b"{}") -> Batch:
    return Batch(1, "s", "own", "/", "", "", "", body)


class Slow:
    """An inbox in memory whose disk moves only when it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.go = threading.Semaphore(0)
        self.fault: Exception | None = None

    def append(self, batches: Sequence[Batch]) -> list[int]:
        self.go.acquire()
        if self.fault is not None:
            raise self.fault
        first = sum(map(len, self.groups)) + 1
        self.groups.append([b.body for b in batches])
        return list(range(first, first + len(batches)))


async def started(inbox: Any, most: int = 64 << 20) -> GroupWriter:
    writer = GroupWriter(inbox, most)
    writer.start()
    return writer


def put(writer: GroupWriter, *bodies: bytes) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(writer.put(batch(body))) for body in bodies]


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_those_who_wait_together_share_a_commit() -> None:
    async def run() -> None:
        disk = Slow()
        writer = await started(disk)
        first = put(writer, b"a", b"b")
        await turns()
        later = put(writer, b"c", b"d", b"e")  # while the first group is on its way
        await turns()
        disk.go.release(2)
        assert await asyncio.gather(*first, *later) == [1, 2, 3, 4, 5]
        assert disk.groups == [[b"a", b"b"], [b"c", b"d", b"e"]]
        assert writer.commits == 2
        await writer.stop()

    asyncio.run(run())


def test_a_failure_reaches_every_waiter_of_its_group_and_no_other() -> None:
    async def run() -> None:
        disk = Slow()
        writer = await started(disk)
        disk.fault = InboxError("full")
        bad = put(writer, b"a", b"b")
        await turns()
        disk.go.release()
        for outcome in await asyncio.gather(*bad, return_exceptions=True):
            assert isinstance(outcome, InboxError)
        disk.fault = None
        disk.go.release()
        assert await put(writer, b"c")[0] == 1
        await writer.stop()

    asyncio.run(run())


def test_a_client_that_has_gone_changes_nothing_for_the_others() -> None:
    async def run() -> None:
        disk = Slow()
        writer = await started(disk)
        gone, stays = put(writer, b"a", b"b")
        await turns()
        gone.cancel()
        disk.go.release()
        assert await stays == 2
        assert disk.groups == [[b"a", b"b"]]
        await writer.stop()

    asyncio.run(run())


def test_too_much_waiting_is_overload_until_it_is_written() -> None:
    async def run() -> None:
        disk = Slow()
        writer = await started(disk, most=10)
        waiting = put(writer, b"x" * 11)
        await turns()
        with pytest.raises(Overload):
            await writer.put(batch())
        disk.go.release(2)
        await waiting[0]
        assert await writer.put(batch()) == 2
        await writer.stop()

    asyncio.run(run())


def test_stop_writes_what_is_waiting() -> None:
    async def run() -> None:
        disk = Slow()
        writer = await started(disk)
        waiting = put(writer, b"a")
        await turns()
        waiting += put(writer, b"b")
        await turns()
        disk.go.release(2)
        await writer.stop()
        assert disk.groups == [[b"a"], [b"b"]]
        assert all(task.done() for task in waiting)

    asyncio.run(run())


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    most=st.integers(1, 100),
)
def test_every_batch_is_stored_once_in_order_and_groups_are_bounded(
    sizes: list[int], most: int
) -> None:
    async def run() -> list[list[bytes]]:
        disk = Slow()
        disk.go.release(1_000)
        writer = await started(disk)
        bodies = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
        positions = await asyncio.gather(*put(writer, *bodies))
        await writer.stop()
        assert positions == list(range(1, len(sizes) + 1))
        assert [body for group in disk.groups for body in group] == bodies
        return disk.groups

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "_MOST_AT_ONCE", most)
        for group in asyncio.run(run()):
            assert len(group) == 1 or sum(map(len, group)) <= most


def test_sqlite_takes_groups_of_any_size_and_trims_them_a_few_at_a_time(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path)
    position = 0
    for size in (1, 63, 64, 65, 200):
        bodies = [b"%d" % (position + i) for i in range(size)]
        got = inbox.append([batch(body) for body in bodies])
        assert got == list(range(position + 1, position + size + 1))
        assert [b.body for b in inbox.read(position)] == bodies
        position += size
    assert inbox.trim(300) == 300
    assert inbox.trim(300) == 0
    assert [b.position for b in inbox.read(0)] == list(range(301, position + 1))
    inbox.close()


def test_a_long_log_is_begun_again_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from propend.serve.inbox import sqlite

    monkeypatch.setattr(sqlite, "_WHOLE", 8 << 20)
    inbox = SqliteInbox(tmp_path)
    log, sent, largest = tmp_path / "inbox.db-wal", 0, 0
    until = time.monotonic() + 30
    while sent < 64 << 20 and time.monotonic() < until:
        inbox.append([batch(b"x" * (256 << 10))] * 4)
        sent += 1 << 20
        largest = max(largest, log.stat().st_size)
        time.sleep(0.01)
    found, after = 0, 0
    while page := inbox.read(after):
        found, after = found + len(page), page[-1].position
    assert found * (256 << 10) == sent
    assert largest < sent  # it did not hold everything at once
    inbox.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system lists no descriptors")
def test_a_flush_goes_through_sqlites_own_descriptor_and_keeps_its_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import subprocess
    import sys

    from propend.serve.inbox import sqlite

    inbox = SqliteInbox(tmp_path)
    inbox.append([batch(b"x")])
    flushed: list[str] = []
    synced = os.fdatasync

    def noting(number: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        synced(number)

    monkeypatch.setattr(sqlite.os, "fdatasync", noting)
    before = len(list(Path("/proc/self/fd").iterdir()))
    sqlite._flush(tmp_path / "inbox.db")
    assert flushed == [str((tmp_path / "inbox.db").resolve())]
    assert (
        len(list(Path("/proc/self/fd").iterdir())) == before
    )  # nothing was opened, so nothing is closed
    # another process that could take the file for itself would see no lock of ours
    alone = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0.1); c.execute('pragma journal_mode=delete')"
    other = subprocess.run([sys.executable, "-c", alone, str(tmp_path / "inbox.db")], capture_output=True, text=True, check=False)  # fmt: skip
    assert "locked" in other.stderr
    inbox.append([batch(b"y")])
    assert [b.body for b in inbox.read(0)] == [b"x", b"y"]
    inbox.close()
    sqlite._flush(tmp_path / "inbox.db")  # closed: there is nothing to flush it through
    assert len(flushed) == 1
