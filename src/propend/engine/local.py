"""The engine inside this process: DuckDB reads foreign files and answers SQL, threads map over buckets."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import duckdb
import pyarrow as pa

from propend.config import Source
from propend.engine.files import JsonFile, TextFile, kind_of, mend_json, resolve, sniff
from propend.engine.port import Rejected, Scan
from propend.errors import ConfigError, DataError, nearest

__all__ = ["LocalEngine"]

T = TypeVar("T")
Rejects: TypeAlias = Callable[[duckdb.DuckDBPyConnection], list[Rejected]]
"""The lines a relation left out, known once it has been read."""

_NUMERIC: Final = ("TINY", "SMALL", "INT", "BIG", "HUGE", "U", "FLOAT", "DOUBLE", "DECIMAL")
BATCH_ROWS: Final = 131_072

_NUMBER: Final = r"^[-+(]?\s*(?:[A-Za-z]{2,3}|\p{Sc}|￥|元)?\s*([-+]?[\d, ]*\.?\d+(?:[eE][-+]?\d+)?)\s*(?:[A-Za-z]{2,3}|\p{Sc}|元|%)?\)?$"
_MACROS: Final = f"""
CREATE OR REPLACE TEMP MACRO number_of(x) AS coalesce(
  try_cast(x AS DOUBLE),
  try_cast(regexp_replace(regexp_extract(trim(x), '{_NUMBER}', 1), '[, ]', '', 'g') AS DOUBLE)
    * CASE WHEN regexp_matches(trim(x), '^[-(]') AND NOT regexp_matches(trim(x), '^-\\s*[0-9.]') THEN -1
           WHEN regexp_matches(trim(x), '^-\\s*[0-9.]') AND NOT regexp_extract(trim(x), '{_NUMBER}', 1) LIKE '-%' THEN -1
           ELSE 1 END);
CREATE OR REPLACE TEMP MACRO number_of_comma(x) AS number_of(replace(replace(replace(x, '.', ''), ' ', ''), ',', '.'));
"""


class LocalEngine:
    """DuckDB and threads on this machine.

    ``threads`` defaults to the number of processors; ``memory`` bounds DuckDB's own buffers.
    """

    name = "local"

    def __init__(self, threads: int | None = None, memory: str = "2GB") -> None:
        self.threads = threads or os.cpu_count() or 2
        self._memory = memory
        self._scratch = Path(tempfile.mkdtemp(prefix="propend-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._sniffed: dict[tuple[object, ...], TextFile] = {}
        self._json_files: dict[tuple[object, ...], JsonFile] = {}

    def _connect(self) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect()
        for setting in (
            f"threads={self.threads}",
            f"memory_limit='{self._memory}'",
            "TimeZone='UTC'",
            "enable_progress_bar=false",
            f"temp_directory='{self._scratch}'",
        ):
            con.execute(f"SET {setting}").fetchall()
        for statement in _MACROS.split(";\n"):
            if statement.strip():
                con.execute(statement).fetchall()
        return con

    def columns(
        self, source: Source, base: Path, select: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the source's columns, or those of a selection, and their SQL types."""
        con = self._connect()
        described = [
            (relation, _describe(con, relation, source))
            for relation, _ in self._relations(con, source, base)
        ]
        union = _union([columns for _, columns in described])
        _check_numbers(source, union)
        if select is None:
            return union
        query = _sql(source, *described[0], union, select, raw=True, limit=0)
        return {
            name: kind
            for name, kind in self._kinds(con, query, source, union).items()
            if name in select
        }

    def files(self, source: Source, base: Path) -> list[Path]:
        """Return the files of a source in reading order; none for a database."""
        return [] if source.database is not None else resolve(source, base)

    def scan(
        self,
        source: Source,
        base: Path,
        select: Mapping[str, str],
        *,
        raw: bool = False,
        limit: int | None = None,
    ) -> Scan:
        """Read a source in order; see :class:`propend.engine.port.Engine`."""
        con = self._connect()
        described = [
            (relation, rejects, _describe(con, relation, source))
            for relation, rejects in self._relations(con, source, base)
        ]
        union = _union([columns for _, _, columns in described])
        _check_numbers(source, union)
        rejected: list[Rejected] = []
        queries = [
            (_sql(source, relation, columns, union, select, raw=raw, limit=limit), rejects)
            for relation, rejects, columns in described
        ]
        for query, _ in queries:
            self._kinds(con, query, source, union)
        return Scan(self._stream(con, queries, source, union, rejected, limit), rejected)

    def query(self, sql: str, tables: Mapping[str, Any]) -> pa.Table:
        """Answer SQL over named Arrow tables or Parquet paths."""
        con = self._connect()
        for name, table in tables.items():
            if isinstance(table, pa.Table | pa.RecordBatchReader):
                con.register(name, table)
            else:
                paths = [str(p) for p in (table if isinstance(table, list | tuple) else [table])]
                listed = ", ".join(_text(p) for p in paths)
                con.execute(
                    f"CREATE VIEW {_quote(name)} AS SELECT * FROM read_parquet([{listed}], union_by_name=true)"
                ).fetchall()
        try:
            return con.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise DataError(f"the query failed: {_first_line(error)}") from None

    def map_buckets(self, work: Callable[[int], T], buckets: Iterable[int]) -> Iterator[T]:
        """Run ``work`` per bucket on threads (kernels release the lock) and yield results in order."""
        if self.threads == 1:
            yield from map(work, buckets)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(work, buckets)

    def _relations(
        self, con: duckdb.DuckDBPyConnection, source: Source, base: Path
    ) -> list[tuple[str, Rejects]]:
        """Return SQL relations (and what they leave out) that together are the source, in order."""
        if source.database is not None:
            return [(self._attached(con, source, base), _nothing)]
        paths = resolve(source, base)
        if not paths:
            raise ConfigError(
                f"source {source.name!r} names neither files nor a database; set files = [...]"
            )
        relations: list[tuple[str, Rejects]] = []
        kinds = [
            (path, kind_of(path) if source.format == "auto" else source.format) for path in paths
        ]
        for kind, group in groupby(kinds, key=lambda pair: pair[1]):
            members = [path for path, _ in group]
            if kind == "csv":
                relations += self._csv(members, source, len(relations))
            elif kind == "database":
                relations.append((self._attached(con, source, base, members[0]), _nothing))
            elif kind == "jsonl":
                files = [self._json(con, path) for path in members]
                relations.append((_read_json(files), _malformed(files)))
            else:
                listed = ", ".join(_text(str(p)) for p in members)
                relations.append(
                    (f"read_parquet([{listed}], filename='file', union_by_name=true)", _nothing)
                )
        return relations

    def _json(self, con: duckdb.DuckDBPyConnection, path: Path) -> JsonFile:
        """Return the file as it is where it reads, else a copy without its malformed lines; looked at once."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._json_files:
            file = JsonFile(path, path)
            try:
                rows = con.execute(f"DESCRIBE SELECT * FROM {_read_json([file])}").fetchall()
                objects = [name for name, *_ in rows] != ["json", "file"]
            except duckdb.Error:
                objects = False
            self._json_files[key] = file if objects else mend_json(path, self._scratch / "json")
        return self._json_files[key]

    def _csv(self, paths: list[Path], source: Source, start: int) -> list[tuple[str, Rejects]]:
        scratch = self._scratch / "utf8"
        texts = [self._sniff(path, source, scratch) for path in paths]
        relations: list[tuple[str, Rejects]] = []
        for (delimiter, header, columns), group in groupby(
            texts, key=lambda t: (t.delimiter, t.header, t.columns)
        ):
            rejects = f"rejects_{start + len(relations)}"
            relation = _read_csv(list(group), delimiter, header, columns, rejects)
            relations.append((relation, partial(_rejected, table=rejects)))
        return relations

    def _sniff(self, path: Path, source: Source, scratch: Path) -> TextFile:
        """Look into a file once: the same file is asked for by each of ``columns`` and ``scan``."""
        stat = path.stat()
        declared = (source.encoding, source.delimiter, source.header, source.columns)
        key = (path, stat.st_size, stat.st_mtime_ns, declared)
        if key not in self._sniffed:
            self._sniffed[key] = sniff(path, source, scratch)
        return self._sniffed[key]

    def _attached(
        self, con: duckdb.DuckDBPyConnection, source: Source, base: Path, file: Path | None = None
    ) -> str:
        url = str(file or source.database)
        if source.table is None:
            raise ConfigError(
                f"source {source.name!r} reads a database; name the table or query with table = '...'"
            )
        if "://" not in url and not (base / url).exists():
            raise DataError(f"{source.name}: no database file {url!r} in {base}; check the path")
        kind = (
            "POSTGRES, "
            if url.startswith("postgres")
            else "SQLITE, "
            if url.endswith((".sqlite", ".db"))
            else ""
        )
        target = url if "://" in url else str(base / url)
        try:
            con.execute(f"ATTACH {_text(target)} AS foreign_db ({kind}READ_ONLY)").fetchall()
            con.execute("USE foreign_db").fetchall()
        except duckdb.Error as error:
            raise DataError(f"{source.name}: cannot open {url!r}: {_first_line(error)}") from None
        inner = (
            f"({source.table})"
            if source.table.lstrip().lower().startswith("select")
            else source.table
        )
        return f"(SELECT {_text(source.table)} AS file, * FROM {inner} AS t)"

    def _kinds(
        self, con: duckdb.DuckDBPyConnection, query: str, source: Source, columns: Iterable[str]
    ) -> dict[str, str]:
        """Return the columns of a query and their types; one that cannot be read is named."""
        try:
            rows = con.execute(f"DESCRIBE {query}").fetchall()
        except duckdb.Error as error:
            raise ConfigError(_binding_sentence(source, str(error), columns)) from None
        return {name: str(kind) for name, kind, *_ in rows}

    def _stream(
        self,
        con: duckdb.DuckDBPyConnection,
        queries: list[tuple[str, Rejects]],
        source: Source,
        columns: Iterable[str],
        rejected: list[Rejected],
        limit: int | None,
    ) -> Iterator[pa.RecordBatch]:
        left = limit
        for query, rejects in queries:
            try:
                for batch in con.sql(query).to_arrow_reader(BATCH_ROWS):
                    if left is not None:
                        batch = batch.slice(0, left)
                        left -= batch.num_rows
                    yield batch
            except duckdb.Error as error:
                raise DataError(_binding_sentence(source, str(error), columns)) from None
            rejected += rejects(con)
            if left is not None and left <= 0:
                return


def _read_csv(
    texts: list[TextFile], delimiter: str, header: bool, columns: tuple[str, ...], rejects: str
) -> str:
    listed = ", ".join(_text(str(t.path)) for t in texts)
    types = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in columns)
    options = (
        f"auto_detect=false, header={str(header).lower()}, delim={_text(delimiter)}, quote='\"', escape='\"', "
        f"columns={{{types}}}, store_rejects=true, rejects_table='{rejects}', rejects_scan='{rejects}_scan', "
        "max_line_size=16777216"
    )
    return _under_own_names(f"read_csv([{listed}], {options}, filename='file')", texts)


def _read_json(files: list[JsonFile]) -> str:
    listed = ", ".join(_text(str(f.path)) for f in files)
    options = "format='auto', sample_size=-1, maximum_object_size=16777216"
    relation = f"read_json([{listed}], filename='file', union_by_name=true, {options})"
    return _under_own_names(relation, files)


def _malformed(files: list[JsonFile]) -> Rejects:
    lines = [
        Rejected(str(f.original), n, text, "malformed json")
        for f in files
        for n, text in f.malformed
    ]
    return lambda _: lines


def _under_own_names(relation: str, files: Sequence[TextFile | JsonFile]) -> str:
    """Return the relation with each readable copy under the name of its original."""
    renamed = [(str(f.path), str(f.original)) for f in files if f.path != f.original]
    if not renamed:
        return relation
    cases = " ".join(f"WHEN {_text(a)} THEN {_text(b)}" for a, b in renamed)
    return f"(SELECT * REPLACE (CASE file {cases} ELSE file END AS file) FROM {relation})"


@dataclass(frozen=True)
class _Column:
    """A column of a relation: how to fetch it, and its type."""

    reference: str
    kind: str


def _describe(con: duckdb.DuckDBPyConnection, relation: str, source: Source) -> dict[str, _Column]:
    """Return the columns of a relation, with one level of structs opened as ``outer.inner``."""
    try:
        rows = con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        found: dict[str, _Column] = {}
        for name, kind, *_ in rows:
            if name == "file":
                continue
            if str(kind).startswith("STRUCT(") and not str(kind).endswith("]"):
                inner = con.execute(
                    f"DESCRIBE SELECT unnest({_quote(name)}) FROM {relation}"
                ).fetchall()
                for field, type_, *_ in inner:
                    reference = f"{_quote(name)}.{_quote(field)}"
                    found[f"{name}.{field}"] = _Column(reference, str(type_))
            else:
                found[name] = _Column(_quote(name), str(kind))
    except duckdb.Error as error:
        raise DataError(f"{source.name}: cannot read the source: {_first_line(error)}") from None
    return {name: _flattened(column) for name, column in found.items()}


def _flattened(column: _Column) -> _Column:
    """Return the column with what is nested deeper (structs, maps, lists, JSON) as JSON text."""
    if column.kind.startswith(("STRUCT", "MAP")) or column.kind.endswith("]"):
        return _Column(f"to_json({column.reference})::VARCHAR", "VARCHAR")
    if column.kind == "JSON":
        return _Column(f"({column.reference} ->> '$')", "VARCHAR")
    if column.kind.startswith("ENUM") or column.kind == "UUID":
        return _Column(f"{column.reference}::VARCHAR", "VARCHAR")
    return column


def _union(relations: Iterable[Mapping[str, _Column]]) -> dict[str, str]:
    """Return column → type over relations; where two files disagree the column is read as text, or as DOUBLE."""
    union: dict[str, str] = {}
    for columns in relations:
        for name, column in columns.items():
            known = union.setdefault(name, column.kind)
            if known != column.kind:
                numeric = known.startswith(_NUMERIC) and column.kind.startswith(_NUMERIC)
                union[name] = "DOUBLE" if numeric else "VARCHAR"
    return union


def _check_numbers(source: Source, columns: Iterable[str]) -> None:
    for name in source.numbers:
        if name not in set(columns):
            raise ConfigError(
                f"{source.name}: numbers names a column {name!r} that is not there{nearest(name, columns)}"
            )


def _sql(
    source: Source,
    relation: str,
    columns: Mapping[str, _Column],
    union: Mapping[str, str],
    select: Mapping[str, str],
    *,
    raw: bool,
    limit: int | None,
) -> str:
    number = "number_of_comma" if source.decimal == "," else "number_of"
    inner = ["file"]
    for name, kind in union.items():
        if name not in columns:
            reference = f"NULL::{kind}"
        else:
            reference = columns[name].reference
            if columns[name].kind != kind:
                reference = f"{reference}::{kind}"
        typed = (
            f"{number}({reference})" if name in source.numbers and kind == "VARCHAR" else reference
        )
        inner.append(f"{typed} AS {_quote(name)}")
        if raw:
            inner.append(f"{reference} AS {_quote('raw.' + name)}")
    outer_select = [
        "file",
        *(f"{expression} AS {_quote(alias)}" for alias, expression in select.items()),
    ]
    if raw:
        outer_select += [_quote("raw." + name) for name in union]
    tail = f" LIMIT {limit}" if limit is not None else ""
    return f"SELECT {', '.join(outer_select)} FROM (SELECT {', '.join(inner)} FROM {relation}) AS source{tail}"


def _nothing(_: duckdb.DuckDBPyConnection) -> list[Rejected]:
    return []


def _rejected(con: duckdb.DuckDBPyConnection, table: str) -> list[Rejected]:
    rows = con.execute(
        f"SELECT s.file_path, e.line, any_value(e.csv_line), any_value(e.error_type) FROM {table} e "
        f"JOIN {table}_scan s USING (scan_id, file_id) GROUP BY ALL ORDER BY 1, 2"
    ).fetchall()
    return [Rejected(str(f), int(n), str(text), str(kind).lower()) for f, n, text, kind in rows]


def _binding_sentence(source: Source, message: str, columns: Iterable[str]) -> str:
    missing = re.search(
        r'[Cc]olumn "([^"]+)" (?:not found|does not exist|referenced that exists)', message
    )
    if missing is None:
        missing = re.search(r'Referenced (?:column|table) "([^"]+)"', message)
    if missing is not None:
        return f"{source.name}: no column {missing.group(1)!r}{nearest(missing.group(1), columns)}"
    sentence = f"{source.name}: {_first_line(message)}"
    if "VARCHAR" in message and re.search(r"'[-+*/<>=]+\(|Cannot compare", message):
        sentence += " (name the text columns that hold numbers: numbers = ['…'])"
    return sentence


def _first_line(error: object) -> str:
    return str(error).strip().splitlines()[0]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
