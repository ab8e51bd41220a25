"""Which files a source means, and how each of them is written: format, encoding, delimiter, header."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from propend.config import Source
from propend.errors import DataError

__all__ = [
    "FileKind",
    "JsonFile",
    "TextFile",
    "is_array",
    "kind_of",
    "mend_json",
    "resolve",
    "sniff",
]

FileKind = Literal["csv", "jsonl", "parquet", "database"]

_KINDS: Final[dict[str, FileKind]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".tab": "csv",
    ".dat": "csv",
    ".inter": "csv",
    ".item": "csv",
    ".user": "csv",
    ".data": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".duckdb": "database",
    ".db": "database",
    ".sqlite": "database",
}
_SAMPLE_LINES: Final = 200
WHITESPACE: Final = "whitespace"


@dataclass(frozen=True)
class TextFile:
    """A CSV file ready for reading: UTF-8, one known delimiter, known column names."""

    path: Path
    """What to read: the file itself, or its UTF-8 copy."""
    original: Path
    delimiter: str
    header: bool
    columns: tuple[str, ...]
    encoding: str


@dataclass(frozen=True)
class JsonFile:
    """A file of JSON lines ready for reading: UTF-8, one object on each line."""

    path: Path
    """What to read: the file itself, or a copy without the lines that are no object."""
    original: Path
    malformed: tuple[tuple[int, str], ...] = ()
    """Number and text of each line left out of the copy."""


def kind_of(path: Path) -> FileKind:
    """Return the kind of a file by its name; raises ``DataError`` for one that cannot be read.

    >>> kind_of(Path("orders.csv.gz"))
    'csv'
    """
    suffixes = [s.lower() for s in path.suffixes]
    for suffix in reversed(suffixes):
        if suffix in _KINDS:
            return _KINDS[suffix]
    raise DataError(
        f"{path}: cannot read files of this kind; bring CSV, JSON lines or Parquet (export spreadsheets as CSV)"
    )


def resolve(source: Source, base: Path) -> list[Path]:
    """Return the files of a source in a stable order: folders and globs opened, each file once.

    Raises ``DataError`` where a name matches nothing.
    """
    found: dict[Path, None] = {}
    for name in source.files:
        pattern = Path(name).expanduser()
        path = pattern if pattern.is_absolute() else base / pattern
        if path.is_dir():
            matches = sorted(
                p
                for p in path.rglob("*")
                if p.is_file() and any(s.lower() in _KINDS for s in p.suffixes)
            )
        elif path.exists():
            matches = [path]
        elif any(c in name for c in "*?["):
            root = Path(path.anchor)
            matches = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
        else:
            matches = []
        if not matches:
            raise DataError(
                f"{source.name}: no file matches {name!r} (looked in {base}); check the path"
            )
        found.update(dict.fromkeys(p.resolve() for p in matches))
    for path in found:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; remove it or bring the file again")
    return list(found)


def sniff(path: Path, source: Source, scratch: Path) -> TextFile:
    """Find out how a CSV file is written; makes a UTF-8, single-delimiter copy in ``scratch`` where needed."""
    encoding = _encoding(path) if source.encoding == "auto" else _known_encoding(source.encoding)
    with _open_text(path, encoding) as lines:
        sample = [
            line for _, line in zip(range(_SAMPLE_LINES), lines, strict=False) if line.strip()
        ]
    if not sample:
        raise DataError(f"{path} holds no line; remove it or bring the file again")
    delimiter = _delimiter(sample) if source.delimiter == "auto" else source.delimiter
    rows = _split(sample, delimiter)
    header = _has_header(rows) if source.header is None else source.header
    columns = source.columns or (
        tuple(_distinct(rows[0]))
        if header
        else tuple(f"column{i + 1}" for i in range(len(rows[0])))
    )
    if len(columns) < len(rows[0]):
        raise DataError(
            f"{path}: {len(rows[0])} columns but {len(columns)} names; name every column"
        )
    clean = path
    if encoding not in ("utf-8", "utf-8-sig") or delimiter == WHITESPACE:
        clean = _transcode(path, encoding, delimiter, scratch)
    return TextFile(
        clean, path, "\t" if delimiter == WHITESPACE else delimiter, header, columns, encoding
    )


def is_array(head: bytes) -> bool:
    """Whether a JSON file that begins like this is one array rather than an object on each line.

    >>> is_array(b' [{"user": "u1"}]'), is_array(b'{"user": "u1"}')
    (True, False)
    """
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def mend_json(path: Path, scratch: Path) -> JsonFile:
    """Copy a file of JSON lines that does not read, without the lines that are no object.

    Raises ``DataError`` for one broken array, and where no line is an object.
    """
    with _open_binary(path) as raw:
        if is_array(raw.read(1 << 12)):
            raise DataError(
                f"{path}: the JSON array does not read to its end; bring the file again, or write one object on each line"
            )
    malformed: list[tuple[int, str]] = []
    scratch.mkdir(parents=True, exist_ok=True)
    target = _copy_of(path, scratch).with_suffix(".jsonl")
    sound = 0
    with target.open("w", encoding="utf-8", newline="") as out:
        for number, line in enumerate(_lines(path, _encoding(path)), 1):
            if not line.strip():
                continue
            try:
                whole = isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if whole:
                sound += 1
                out.write(line if line.endswith("\n") else line + "\n")
            else:
                malformed.append((number, line.rstrip("\r\n")))
    if not sound:
        raise DataError(
            f"{path}: not JSON lines (one object on each line); convert it or leave it out"
        )
    shutil.copystat(path, target)
    return JsonFile(target, path, tuple(malformed))


def _open_binary(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _open_text(path: Path, encoding: str) -> IO[str]:
    raw = _open_binary(path)
    return codecs.getreader("utf-8" if encoding == "mixed" else encoding)(raw, "replace")  # type: ignore[return-value]


def _known_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise DataError(
            f"no encoding {name!r}; use for example 'utf-8' or 'gb18030', or 'auto'"
        ) from None


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    with _open_binary(path) as raw:
        try:
            while block := raw.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _encoding(path: Path) -> str:
    """Judge an encoding: UTF-8 where all of it decodes, else GB18030 where it reads as Chinese, else by line."""
    with _open_binary(path) as raw:
        head = raw.read(1 << 16)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if _decodes(path, "utf-8"):
        return "utf-8"
    with _open_binary(path) as raw:
        looks_chinese = _common_hanzi(raw.read(1 << 22)) >= 0.6
    if looks_chinese and _decodes(path, "gb18030"):
        return "gb18030"
    return "mixed"


def _common_hanzi(data: bytes) -> float:
    """Share of the double-byte characters that are everyday Chinese (GB2312 level 1) or Chinese punctuation."""
    pairs = re.findall(rb"[\x81-\xfe][\x40-\xfe]", data)
    if not pairs:
        return 0.0
    return sum(0xB0 <= p[0] <= 0xD7 or p[0] in (0xA1, 0xA3) for p in pairs) / len(pairs)


def _lines(path: Path, encoding: str) -> Iterator[str]:
    if encoding != "mixed":
        with _open_text(path, encoding) as lines:
            yield from lines
        return
    with _open_binary(path) as raw:
        for line in raw:
            yield _decode_line(line)


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if _common_hanzi(line) >= 0.6:
        try:
            return line.decode("gb18030")
        except UnicodeDecodeError:
            pass
    return line.decode("cp1252", "replace")


def _transcode(path: Path, encoding: str, delimiter: str, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    target = _copy_of(path, scratch)
    with target.open("w", encoding="utf-8", newline="") as out:
        for line in _lines(path, encoding):
            out.write("\t".join(line.split()) + "\n" if delimiter == WHITESPACE else line)
    shutil.copystat(path, target)
    return target


def _copy_of(path: Path, scratch: Path) -> Path:
    """Return where the readable copy of a file goes: files of one name in two folders stay apart."""
    return scratch / f"{abs(hash(str(path))):x}-{path.name.removesuffix('.gz')}"


def _split(sample: list[str], delimiter: str) -> list[list[str]]:
    if delimiter == WHITESPACE:
        return [line.split() for line in sample]
    return list(csv.reader(sample, delimiter=delimiter))


def _delimiter(sample: list[str]) -> str:
    """Return the delimiter under which most lines have the same number (≥ 2) of cells."""
    best, best_score = ",", 0.0
    for candidate in (",", "\t", ";", "|", WHITESPACE):
        widths = [len(row) for row in _split(sample, candidate)]
        width = max(set(widths), key=widths.count)
        if width < 2:
            continue
        score = widths.count(width) / len(widths) + (
            0.001 * width if candidate != WHITESPACE else -0.2
        )
        if score > best_score:
            best, best_score = candidate, score
    return best


def _has_header(rows: list[list[str]]) -> bool:
    first = rows[0]
    looks_like_data = any(
        re.fullmatch(r"[-+]?[\d.,:/\s-]*\d[\d.,:/\s-]*", cell.strip()) for cell in first
    )
    return not looks_like_data and len({c.strip() for c in first}) == len(first)


def _distinct(names: list[str]) -> list[str]:
    """Strip names, fill empty ones and number repeats, so that every column has its own name."""
    seen: dict[str, int] = {}
    result = []
    for position, raw in enumerate(names):
        name = raw.strip().lstrip("﻿") or f"column{position + 1}"
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
