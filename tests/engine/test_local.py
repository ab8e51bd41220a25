from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propend.config import Source
from propend.engine import connect
from propend.engine.local import LocalEngine
from propend.errors import ConfigError, DataError

engine = LocalEngine(threads=2)


def rows(source: Source, base: Path, select: dict[str, str], **extra: Any) -> list[dict[str, Any]]:
    return [r for b in engine.scan(source, base, select, **extra).batches for r in b.to_pylist()]


def number(folder: Path, text: str, **declared: Any) -> float | None:
    (folder / "a.csv").write_text(f'n,x\n"{text}",1\n', encoding="utf-8")
    source = Source(files=("a.csv",), numbers=("n",), delimiter=",", header=True, **declared)
    value: float | None = rows(source, folder, {"n": "n"})[0]["n"]
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1.0),
        ("-1.5", -1.5),
        ("1,234.50", 1234.5),
        ("¥1,234.50", 1234.5),
        ("￥99", 99.0),
        ("99元", 99.0),
        ("€ 5", 5.0),
        ("5 EUR", 5.0),
        ("-$5", -5.0),
        ("$-5", -5.0),
        ("($5.25)", -5.25),
        ("12%", 12.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("abc", None),
        ("", None),
        ("5 or 6", None),
        ("12-13", None),
    ],
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, expected: float | None) -> None:
    assert number(tmp_path, text) == expected


def test_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    assert number(tmp_path, "1.234,50 €", decimal=",") == 1234.5


def test_scan_keeps_the_order_names_the_file_and_sets_bad_lines_aside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        body = "".join(f"{name}{i},{i}\n" for i in range(3000))
        (tmp_path / f"{name}.csv").write_text("k,v\n" + body + "one cell\n1,2,3\n")
    scan = engine.scan(Source(files=("a.csv", "b.csv")), tmp_path, {"k": "k"}, raw=True)
    got = [r for b in scan.batches for r in b.to_pylist()]
    assert [r["k"] for r in got] == [f"{n}{i}" for n in "ab" for i in range(3000)]
    assert got[0] == {"file": str(tmp_path / "a.csv"), "k": "a0", "raw.k": "a0", "raw.v": "0"}
    expected = [(str(tmp_path / f"{n}.csv"), row) for n in "ab" for row in (3002, 3003)]
    assert [(r.file, r.line) for r in scan.rejected] == expected
    assert [r.text for r in scan.rejected] == ["one cell", "1,2,3"] * 2


def test_limit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("k,v\n1,2\n3,4\n5,6\n")
    assert [r["k"] for r in rows(Source(files=("a.csv",)), tmp_path, {"k": "k"}, limit=2)] == [
        "1",
        "3",
    ]


def test_files_that_disagree_are_read_as_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [1], "v": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("k,w\nx,y\n")
    pq.write_table(pa.table({"k": ["z"], "v": [0.5]}), tmp_path / "c.parquet")
    source = Source(files=("a.parquet", "b.csv", "c.parquet"))
    assert engine.columns(source, tmp_path) == {"k": "VARCHAR", "v": "DOUBLE", "w": "VARCHAR"}
    got = [(r["k"], r["v"], r["w"]) for r in rows(source, tmp_path, {c: c for c in "kvw"})]
    assert got == [("1", 1.0, None), ("x", None, "y"), ("z", 0.5, None)]


def test_nested_objects_are_opened_one_level(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"u": {"id": 1, "tags": ["a"]}, "n": {"m": {"o": 2}}}]')
    source = Source(files=("a.json",))
    assert engine.columns(source, tmp_path) == {
        "u.id": "BIGINT",
        "u.tags": "VARCHAR",
        "n.m": "VARCHAR",
    }
    got = rows(source, tmp_path, {"a": '"u.id"', "b": '"u.tags"', "c": '"n.m"'})
    assert [(r["a"], r["b"], r["c"]) for r in got] == [(1, '["a"]', '{"o":2}')]


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("price,v\n1,2\n")
    source = Source(name="shop", files=("a.csv",))
    with pytest.raises(ConfigError, match="shop: no column 'prize'; did you mean 'price'"):
        engine.scan(source, tmp_path, {"x": "prize + 1"})
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="shop: cannot read the source"):
        engine.columns(Source(name="shop", files=("b.parquet",)), tmp_path)
    with pytest.raises(ConfigError, match="names neither files nor a database"):
        engine.columns(Source(name="shop"), tmp_path)
    with pytest.raises(DataError, match="the query failed"):
        engine.query("SELECT nothing FROM nowhere", {})


def test_query_and_map() -> None:
    table = engine.query("SELECT sum(x) AS s FROM t", {"t": pa.table({"x": [1, 2, 3]})})
    assert table["s"].to_pylist() == [6]
    assert list(engine.map_buckets(lambda b: b * b, range(20))) == [b * b for b in range(20)]
    assert list(LocalEngine(threads=1).map_buckets(str, range(3))) == ["0", "1", "2"]
    assert connect("local", threads=1).name == "local"
    with pytest.raises(ConfigError, match="no engine 'spark'; known: local"):
        connect("spark")


def test_a_malformed_json_line_is_set_aside_alone(tmp_path: Path) -> None:
    lines = [
        '{"u": "a", "n": 1}',
        '{"u": "b", "n',
        '{"u": "c", "n": 3}',
        "[1, 2]",
        "",
        "plain text",
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    scan = engine.scan(Source(files=("log.jsonl",)), tmp_path, {"u": "u", "n": "n"})
    assert [(r["u"], r["n"]) for b in scan.batches for r in b.to_pylist()] == [("a", 1), ("c", 3)]
    assert [(r.line, r.text) for r in scan.rejected] == [
        (2, lines[1]),
        (4, "[1, 2]"),
        (6, "plain text"),
    ]
    assert {r.file for r in scan.rejected} == {str(tmp_path / "log.jsonl")}


def test_a_json_array_reads_and_a_broken_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n {"u": "a"},\n {"u": "b"}\n]')
    assert [r["u"] for r in rows(Source(files=("a.json",)), tmp_path, {"u": "u"})] == ["a", "b"]
    (tmp_path / "b.json").write_text('[{"u": "a"}, {"u": ')
    with pytest.raises(DataError, match=r"b\.json: the JSON array does not read to its end"):
        rows(Source(files=("b.json",)), tmp_path, {"u": "u"})
