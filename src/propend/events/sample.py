"""A sample from all over a pile of files: which belong together, and what their columns hold."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from propend.config import Source
from propend.engine import Engine
from propend.engine.files import is_array, kind_of, resolve, sniff
from propend.errors import DataError
from propend.events.columns import Column

__all__ = ["Group", "Sample", "find_files", "group_files", "quote", "read_keys", "take_sample"]

_BYTES_PER_ROW: Final = 160
_MOST_FILES: Final = 24
_BLOCKS: Final = 16
_HEAD: Final = 1 << 18
_BLANK: Final = frozenset(("", "nan", "null", "none", "n/a", "#n/a", "nil", "\\n"))
"""What the reader takes for a missing value, too."""
_ELEMENT: Final = re.compile(r"\s*,?\s*(?=[^\s\],])")
"""What stands before an element of a JSON array."""


@dataclass(frozen=True)
class Group:
    """Files that are written alike: one source."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    kind: str
    header: bool = True


@dataclass(frozen=True)
class Sample:
    """The sampled columns of a group; ``whole`` says whether every row is in it."""

    group: Group
    columns: tuple[Column, ...]
    rows: int
    whole: bool

    def column(self, name: str) -> Column:
        """Return the column of this name."""
        return next(c for c in self.columns if c.name == name)


def find_files(files: Sequence[str | Path], base: Path) -> list[Path]:
    """Open folders and globs; raises ``DataError`` where one matches nothing or a file is empty."""
    if not files:
        raise DataError("no file was named; give at least one file or folder of events")
    named = tuple(str(Path(f).expanduser()) for f in files)
    return resolve(Source(name="init", files=named), base)


def group_files(files: Sequence[Path]) -> list[Group]:
    """Put files with the same columns together, in the order in which they were first met."""
    found: dict[tuple[str, bool, tuple[str, ...]], list[Path]] = {}
    with tempfile.TemporaryDirectory(prefix="propend-init-") as folder:
        for path in files:
            kind: str = kind_of(path)
            if kind == "database":
                raise DataError(
                    f"{path} is a database; write propend.toml by hand "
                    f"with database = {str(path)!r} and table = '…'"
                )
            header, columns = _header(path, kind, Path(folder))
            key = (kind, header, columns)
            if kind == "jsonl":
                key = next((k for k in found if k[0] == "jsonl" and _alike(k[2], columns)), key)
            found.setdefault(key, []).append(path)
    return [
        Group(tuple(members), columns, kind, header)
        for (kind, header, columns), members in found.items()
    ]


def take_sample(group: Group, engine: Engine, rows: int) -> Sample:
    """Read about ``rows`` rows spread over the files, and over each large file."""
    chosen = _spread(group.files, _MOST_FILES)
    budget = max(rows // len(chosen), 1)
    with tempfile.TemporaryDirectory(prefix="propend-init-") as folder:
        small = [_shrink(p, group.kind, budget, Path(folder), i) for i, p in enumerate(chosen)]
        source = Source(name=group.files[0].name, files=tuple(str(p) for p in small))
        kinds = engine.columns(source, Path(folder))
        scan = engine.scan(source, Path(folder), {name: quote(name) for name in kinds})
        batches = list(scan.batches)
    table = pa.Table.from_batches(batches) if batches else None
    whole = tuple(small) == group.files
    if table is None or table.num_rows == 0:
        raise DataError(f"{group.files[0]} holds no rows below its header; bring the file again")
    if table.num_rows > 2 * rows:
        step = table.num_rows // rows
        table = table.take(pa.array(range(0, table.num_rows, step)))
        whole = False
    columns = tuple(Column(n, k, _cells(table.column(n))) for n, k in kinds.items())
    return Sample(group, columns, table.num_rows, whole)


def read_keys(group: Group, column: str, engine: Engine, limit: int = 400_000) -> set[str]:
    """Return the different values of one column, from at most ``limit`` rows."""
    source = Source(name=group.files[0].name, files=tuple(str(p) for p in group.files))
    scan = engine.scan(source, Path(), {"key": quote(column)}, limit=limit)
    keys: set[str] = set()
    for batch in scan.batches:
        keys.update(v for v in _cells(pa.chunked_array([batch.column("key")])) if v is not None)
    return keys


def quote(name: str) -> str:
    """Return a column's name as SQL.

    >>> quote("user_id:token")
    '"user_id:token"'
    """
    return '"' + name.replace('"', '""') + '"'


def _cells(column: pa.ChunkedArray) -> tuple[str | None, ...]:
    texts = column.cast(pa.string()).to_pylist()
    stripped = (t.strip() if t is not None else "" for t in texts)
    return tuple(None if t.lower() in _BLANK else t for t in stripped)


def _header(path: Path, kind: str, scratch: Path) -> tuple[bool, tuple[str, ...]]:
    if kind == "parquet":
        try:
            return True, tuple(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path} is not readable as Parquet: {str(error).splitlines()[0]}"
            ) from None
    if kind == "jsonl":
        return True, _keys(path)
    small = path
    if path.stat().st_size > 4 * _HEAD:
        small = scratch / ("head-" + path.name.removesuffix(".gz"))
        small.write_bytes(_head(path, _HEAD))
    text = sniff(small, Source(), scratch)
    return text.header, text.columns


def _keys(path: Path) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    objects = 0
    for row in itertools.islice(_json_rows(_head(path, _HEAD)), 50):
        if isinstance(row, dict):
            objects += 1
            keys.update(dict.fromkeys(row))
    if not objects:
        raise DataError(
            f"{path}: not JSON lines (one object on each line); convert it or leave it out"
        )
    return tuple(sorted(keys))


def _json_rows(head: bytes) -> Iterator[Any]:
    """Yield the values of the lines, or of the array, that a file begins with; ``None`` for a line that is no JSON."""
    text = head.decode("utf-8-sig", "replace")
    if not is_array(head):
        for line in text.splitlines():
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield None
        return
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    while found := _ELEMENT.match(text, position):
        try:
            value, position = decoder.raw_decode(text, found.end())
        except ValueError:  # the end of the head, in the middle of an element, or of the array
            return
        yield value


def _alike(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    return len(set(left) & set(right)) >= 0.5 * len(set(left) | set(right))


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return list(files)
    return [files[round(i * (len(files) - 1) / (most - 1))] for i in range(most)]


def _shrink(path: Path, kind: str, rows: int, folder: Path, number: int) -> Path:
    """Return the file itself where it is small, else a copy of parts from all over it."""
    if kind == "parquet":
        return _shrink_parquet(path, rows, folder / f"{number}.parquet")
    budget = max(rows * _BYTES_PER_ROW, _HEAD)
    if path.stat().st_size <= (budget if path.suffix != ".gz" else budget // 4):
        return path
    target = folder / f"{number}-{path.name.removesuffix('.gz')}"
    with target.open("wb") as out:
        if kind == "jsonl" and is_array(_head(path, 1 << 12)):
            out.writelines(
                json.dumps(row).encode() + b"\n" for row in _json_rows(_head(path, budget))
            )
        elif path.suffix == ".gz" or _is_wide(path):
            out.write(_head(path, budget))
        else:
            out.writelines(_blocks(path, budget))
    return target


def _is_wide(path: Path) -> bool:
    """Whether line ends cannot be found byte by byte (UTF-16)."""
    with path.open("rb") as raw:
        return raw.read(2) in (b"\xff\xfe", b"\xfe\xff")


def _head(path: Path, budget: int) -> bytes:
    with _opened(path) as raw:
        head = raw.read(budget)
        return head if len(head) < budget else head + raw.readline()


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile]:
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as raw:
        yield raw  # type: ignore[misc]


def _blocks(path: Path, budget: int) -> Iterator[bytes]:
    """Whole lines from ``_BLOCKS`` places spread evenly over a file, the head among them."""
    size, block = path.stat().st_size, budget // _BLOCKS
    with path.open("rb") as raw:
        for index in range(_BLOCKS):
            raw.seek(index * (size - block) // (_BLOCKS - 1))
            if index:
                raw.readline()
            lines = raw.read(block)
            tail = raw.readline()
            text = lines + tail
            yield text if text.endswith(b"\n") else text + b"\n"


def _shrink_parquet(path: Path, rows: int, target: Path) -> Path:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows <= rows:
            return path
        groups = _spread_numbers(file.num_row_groups, 8)
        per_group = max(rows // len(groups), 1)
        with pq.ParquetWriter(target, file.schema_arrow) as writer:
            for number in groups:
                size = file.metadata.row_group(number).num_rows
                table = file.read_row_group(number)
                step = max(size // per_group, 1)
                writer.write_table(table.take(pa.array(range(0, size, step))))
    return target


def _spread_numbers(count: int, most: int) -> list[int]:
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
