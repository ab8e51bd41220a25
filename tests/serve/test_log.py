"""The answer log outlives a disk that cannot be written, and tells of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from propend.serve.log import AnswerLog, Decided, LogError, Predicted


@pytest.fixture
def log(tmp_path: Path) -> AnswerLog:
    found = AnswerLog(tmp_path / "log.db")
    found._stop.set()  # the tests flush themselves
    found._thread.join()
    return found


def row(n: int) -> Predicted:
    return Predicted(n, f"u{n}", "buys", 1, 0.5, 0, 0)


def full(log: AnswerLog) -> None:
    log._db.execute("pragma max_page_count = 1")


def room(log: AnswerLog) -> None:
    log._db.execute("pragma max_page_count = 1000000")


def test_what_could_not_be_written_is_tried_again(log: AnswerLog) -> None:
    full(log)
    for n in range(3_000):
        log.predicted(row(n))
    with pytest.raises(LogError, match="make room"):
        log.flush()
    assert log.fault
    with pytest.raises(LogError):
        log.decide(1, [Decided("u", "push", 0.5, {"x": "y" * 100_000})])
    room(log)
    assert [p.at for p in log.predictions("buys")] == list(range(3_000))
    assert not log.fault
    assert log.decide(1, [Decided("u", "push", 0.5, {}), Decided("v", "silent", 0.5, {})]) == [1, 2]
    assert [d["user"] for d in log.decisions()] == ["u", "v"]
    log.close()


def test_the_thread_goes_on(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "log.db")
    full(log)
    for n in range(3_000):
        log.predicted(row(n))
    while not log.fault:
        log._stop.wait(0.05)
    room(log)
    while log.fault:
        log._stop.wait(0.05)
    assert log._thread.is_alive()
    assert len(log.predictions("buys")) == 3_000
    log.close()


def test_what_waits_is_bounded(log: AnswerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propend.serve.log._MOST", 1_000)
    full(log)
    for n in range(3_000):
        log.predicted(row(n))
    with pytest.raises(LogError):
        log.flush()
    room(log)
    assert [p.at for p in log.predictions("buys")] == list(range(2_000, 3_000))
    assert log.dropped == 2_000
    log.close()


def test_decisions_are_flushed_to_the_disk(log: AnswerLog) -> None:
    assert log._db.execute("pragma synchronous").fetchone() == (2,)
    log.close()


def test_a_log_of_before_is_read(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "log.db")
    db.execute(
        "create table predictions (number integer primary key, at integer not null, user text not null, task text not null,"
        " version integer not null, score real not null, shadow integer not null, missing integer not null)"
    )
    db.execute("insert into predictions values (1, 5, 'u', 'buys', 1, .5, 0, 0)")
    db.commit()
    db.close()
    log = AnswerLog(tmp_path / "log.db")
    assert [p.asked for p in log.predictions("buys")] == [1]
    log.close()
