"""The inbox: the contract on both implementations, a full disk, kill -9 behind an acknowledgement."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("msgspec")

from propend.errors import ConfigError
from propend.serve.inbox import (
    Batch,
    Claim,
    InboxError,
    PostgresInbox,
    Rejected,
    SqliteInbox,
    open_inbox,
)
from propend.testing.inboxes import check_inbox

POSTGRES = (
    sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    if Path("/usr/lib/postgresql").is_dir()
    else []
)


def test_sqlite_keeps_the_contract(tmp_path: Path) -> None:
    check_inbox(lambda: SqliteInbox(tmp_path), Batch, Claim, Rejected)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of our own from Debian's package, on an ephemeral port; its URL."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'propend[postgres]'")
    if not POSTGRES:
        pytest.skip("needs PostgreSQL's server programs (apt-get install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    for part in (folder, *folder.parents):
        if part == Path("/tmp"):
            break
        part.chmod(0o755)
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        subprocess.run(["chown", "-R", "postgres", str(folder)], check=True)
    data = folder / "data"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [
            *as_user,
            str(POSTGRES[0] / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "propend",
            "-N",
        ],
        **quiet,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *as_user,
            str(POSTGRES[0] / "postgres"),
            "-D",
            str(data),
            "-p",
            str(port),
            "-k",
            str(folder),
            "-h",
            "127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    url = f"postgresql://propend@127.0.0.1:{port}/postgres"
    import psycopg

    for _ in range(200):
        try:
            psycopg.connect(url).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    yield url
    subprocess.run(
        [*as_user, str(POSTGRES[0] / "pg_ctl"), "-D", str(data), "stop", "-m", "immediate"], **quiet
    )
    server.wait(300)


def test_postgres_keeps_the_contract(postgres: str) -> None:
    check_inbox(lambda: PostgresInbox(postgres), Batch, Claim, Rejected)


def test_postgres_comes_back_after_a_lost_connection(postgres: str) -> None:
    inbox = PostgresInbox(postgres, "lost")
    inbox._connection.close()
    assert inbox.append([Batch(1, "s", "own", "/", "", "", "", b"x")]) == [1]
    inbox.close()


def test_postgres_away_is_an_inbox_error() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InboxError, match="cannot be used"):
        open_inbox("postgresql://propend@127.0.0.1:1/none")
    with pytest.raises(ConfigError, match="no plain name"):
        PostgresInbox("postgresql://x", "a; drop")


def test_a_full_disk_refuses_and_keeps_what_was_there(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path)
    inbox.append([Batch(1, "s", "own", "/", "", "", "", b"first")])
    pages = inbox._batches.execute("pragma page_count").fetchone()[0]
    inbox._batches.execute(f"pragma max_page_count={pages}")
    with pytest.raises(InboxError, match="full"):
        inbox.append([Batch(2, "s", "own", "/", "", "", "", b"x" * 100_000)])
    inbox._batches.execute("pragma max_page_count=1000000")
    assert [b.body for b in inbox.read(0)] == [b"first"]
    assert inbox.append([Batch(3, "s", "own", "/", "", "", "", b"second")])
    inbox.close()


def test_a_folder_that_is_a_file_is_an_inbox_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InboxError, match="cannot be opened"):
        SqliteInbox(tmp_path / "file")


def test_nothing_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from propend.serve.inbox import *\n"
        "inbox = SqliteInbox(Path(sys.argv[1]))\n"
        "while True:\n print(*inbox.append([Batch(1,'s','own','/','','','',b'x')]*3), flush=True)\n"
    )
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(5)]
        child.send_signal(signal.SIGKILL)
        seen += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        acknowledged = {int(p) for line in seen if line.endswith("\n") for p in line.split()}
        inbox = SqliteInbox(tmp_path)
        assert acknowledged <= {b.position for b in inbox.read(0, limit=1_000_000)}
        inbox.close()
    with sqlite3.connect(tmp_path / "inbox.db") as check:
        assert check.execute("pragma integrity_check").fetchone() == ("ok",)
    check.close()
