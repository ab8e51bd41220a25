from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.events.stores import config

from propend.config import Config, TypeRule, WorkspaceConfig
from propend.engine.local import LocalEngine
from propend.errors import ConfigError
from propend.events.read import plan


def read(folder: Path, engine: LocalEngine, text: str, **extra: Any) -> list[dict[str, Any]]:
    """The rows of a small CSV under the roles and expressions of a source."""
    (folder / "a.csv").write_text(text, encoding="utf-8")
    conf = config("a.csv", **extra)
    source = conf.events[0]
    chosen = plan(conf, source, engine, folder)
    batches = engine.scan(source, folder, chosen.select, raw=True).batches
    return [row for batch in batches for row in batch.to_pylist()]


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("17850.0", "17850"),
        ("17850", "17850"),
        ("-3.0", "-3"),
        ("1.50", "1.50"),
        ("v1.0", "v1.0"),
        ("007", "007"),
        ("  x y ", "x y"),
        ("NULL", None),
        ("#N/A", None),
        ("none", None),
        ("nano", "nano"),
        ("张三", "张三"),
    ],
)
def test_ids(tmp_path: Path, engine: LocalEngine, written: str, expected: str | None) -> None:
    roles = {"user": "user", "time": "time", "item": "user"}
    (row,) = read(tmp_path, engine, f"user,time\n{written},2024-01-01\n", roles=roles)
    assert row["user"] == row["item"] == expected


@pytest.mark.parametrize(
    ("written", "times", "expected", "zoned"),
    [
        ("2024-01-02 03:04:05.678901", (), "2024-01-02 03:04:05.678901", False),
        ("2024-01-02", (), "2024-01-02", False),
        ("2024-01-02T03:04:05Z", (), "2024-01-02 03:04:05", True),
        ("2024-01-02 03:04:05 UTC", (), "2024-01-02 03:04:05", True),
        ("2024-01-02 03:04:05+05:30", (), "2024-01-01 21:34:05", True),
        ("2024-01-02 03:04:05 -0300", (), "2024-01-02 06:04:05", True),
        ("2024-01-02 03:04:05-03", (), "2024-01-02 06:04:05", True),
        ("1704164645", ("epoch_s",), "2024-01-02 03:04:05", True),
        ("1704164645.25", ("epoch_s",), "2024-01-02 03:04:05.25", True),
        ("1704164645678", ("epoch_ms",), "2024-01-02 03:04:05.678", True),
        ("2/1/2024", ("%m/%d/%Y %H:%M", "%d/%m/%Y"), "2024-01-02", False),
        ("02/Jan/2024:03:04:05 +0100", ("%d/%b/%Y:%H:%M:%S %z",), "2024-01-02 02:04:05", True),
    ],
)
def test_times(
    tmp_path: Path,
    engine: LocalEngine,
    written: str,
    times: tuple[str, ...],
    expected: str,
    zoned: bool,
) -> None:
    roles = {"user": "user", "time": "time"}
    text = f"user,time\nu,{written}\nu,\n"
    one, none = read(tmp_path, engine, text, roles=roles, times=times)
    assert (one["time"], one["time_zoned"], one["time_missing"]) == (us(expected), zoned, False)
    assert (none["time"], none["time_missing"]) == (None, True)


def test_the_first_rule_that_holds_decides_then_the_map_then_the_default(
    tmp_path: Path, engine: LocalEngine
) -> None:
    rows = read(
        tmp_path,
        engine,
        "user,time,what,n\nu,2024-01-01,Buy,-1\nu,2024-01-01,Buy,100\nu,2024-01-01,BUY,1\n"
        "u,2024-01-01,look,\nu,2024-01-01,,1\n",
        roles={"user": "user", "time": "time", "type": "what"},
        numbers=("n",),
        types=(TypeRule(when="n < 0", type="return"), TypeRule(when="n > 50", type="bulk's")),
        type_map={"buy": "purchase"},
        type="other",
    )
    assert [r["type"] for r in rows] == ["return", "bulk's", "purchase", "look", "other"]
    assert [r["rule"] for r in rows] == [0, 1, -1, -1, -1]


def test_columns_need_no_care_and_expressions_are_sql(tmp_path: Path, engine: LocalEngine) -> None:
    (row,) = read(
        tmp_path,
        engine,
        'Customer ID,order,at,a"b\nc 1,2024-01-01,x,3\n',
        roles={"user": "Customer ID", "time": "order", "item": '"at" || \'-\' || "order"'},
        properties={"odd": 'a"b', "half": '"a""b"::INT / 2'},
    )
    assert (row["user"], row["item"]) == ("c 1", "x-2024-01-01")
    assert (row["p:odd"], row["p:half"]) == ("3", 1.5)


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ({"user": "user"}, r"names no time column; add time = '…' under \[events.roles\]"),
        ({"time": "time"}, "names no user column"),
        ({"user": "usr", "time": "time"}, "no column 'usr'; did you mean 'user'"),
        ({"user": "user", "time": "tiem"}, "no column 'tiem'; did you mean 'time'"),
        ({"user": "user", "time": "time", "value": "1 +"}, "events: "),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, engine: LocalEngine, roles: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, engine, "user,time\nu,2024-01-01\n", roles=roles)


def test_the_zone_of_a_source_comes_before_the_workspaces() -> None:
    conf = config("a.csv", zone="Asia/Shanghai")
    source = config("a.csv", zone=None).events[0]
    assert conf.zone_of(source) == "Asia/Shanghai"
    with pytest.raises(ConfigError, match=r"set workspace.zone in propend.toml"):
        Config(workspace=WorkspaceConfig(), events=(source,)).zone_of(source)
