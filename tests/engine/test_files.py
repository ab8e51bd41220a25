from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from propend.config import Source
from propend.engine.files import WHITESPACE, kind_of, resolve, sniff
from propend.errors import DataError


def sniffed(
    folder: Path, data: bytes, **declared: object
) -> tuple[str, bool, tuple[str, ...], str]:
    path = folder / "a.csv"
    path.write_bytes(data)
    found = sniff(path, Source(**declared), folder / "scratch")  # type: ignore[arg-type]
    return found.delimiter, found.header, found.columns, found.encoding


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiters(tmp_path: Path, delimiter: str) -> None:
    text = "user,when,what\nu1,2024-01-01,a b\nu2,2024-01-02,c\n".replace(",", delimiter)
    expected = (delimiter, True, ("user", "when", "what"), "utf-8")
    assert sniffed(tmp_path, text.encode()) == expected


def test_a_decimal_comma_is_no_delimiter(tmp_path: Path) -> None:
    text = "user;price\nu1;1,5\nu2;2,25\n"
    assert sniffed(tmp_path, text.encode())[0] == ";"


def test_whitespace_without_a_header_is_copied_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("  1   2024 x\n 2 2025   y\n")
    found = sniff(path, Source(), tmp_path / "scratch")
    assert (found.delimiter, found.header) == ("\t", False)
    assert found.columns == ("column1", "column2", "column3")
    assert found.path.read_text() == "1\t2024\tx\n2\t2025\ty\n"
    assert found.original == path
    assert WHITESPACE not in found.delimiter


def test_headers_are_told_from_data_and_made_distinct(tmp_path: Path) -> None:
    assert sniffed(tmp_path, b"a,b\nc,d\n")[1]
    assert not sniffed(tmp_path, b"1,2024-01-01\n2,2024-01-02\n")[1]
    assert sniffed(tmp_path, b"x,x\n1,2\n", header=True)[2] == ("x", "x_2")
    assert sniffed(tmp_path, b" x ,,y\n1,2,3\n")[2] == ("x", "column2", "y")
    assert sniffed(tmp_path, b"1,2\n", columns=("a", "b"))[2] == ("a", "b")
    with pytest.raises(DataError, match="3 columns but 1 names; name every column"):
        sniffed(tmp_path, b"1,2,3\n", columns=("a",))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
        ("utf-16", "utf-16"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, expected: str) -> None:
    text = "用户,商品\n张三,羊毛围巾\n李四,棉布衬衫\n"
    assert sniffed(tmp_path, text.encode(encoding)) == (",", True, ("用户", "商品"), expected)


def test_lines_of_several_encodings_are_decoded_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    lines = [("名字,x\n", "utf-8"), ("张三,围巾\n", "gb18030"), ("Zoë,Müsli\n", "cp1252")]
    path.write_bytes(gzip.compress(b"".join(t.encode(e) for t, e in lines)))
    found = sniff(path, Source(), tmp_path / "scratch")
    assert found.encoding == "mixed"
    assert found.path.read_text(encoding="utf-8") == "".join(t for t, _ in lines)


def test_files_folders_and_globs_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("in/b.csv", "in/a.csv", "in/deep/c.jsonl", "in/readme.md"):
        (tmp_path / name).write_text("x\n")
    found = resolve(Source(files=("in/b.csv", "in", "in/*.csv")), tmp_path)
    assert [p.name for p in found] == ["b.csv", "a.csv", "c.jsonl"]
    with pytest.raises(DataError, match=r"no file matches 'in/\*\.parquet'"):
        resolve(Source(files=("in/*.parquet",)), tmp_path)
    (tmp_path / "in" / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        resolve(Source(files=("in",)), tmp_path)


def test_kinds() -> None:
    assert kind_of(Path("a.CSV")) == "csv"
    assert kind_of(Path("a.v2.jsonl.gz")) == "jsonl"
    with pytest.raises(DataError, match="export spreadsheets as CSV"):
        kind_of(Path("a.xlsx"))


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no encoding 'utf-9'; use for example 'utf-8'"):
        sniffed(tmp_path, b"a,b\n", encoding="utf-9")
