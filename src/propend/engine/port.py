"""What an engine must do: scan sources, answer SQL, map work over user buckets. Few verbs, any place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from propend.config import Source

__all__ = ["Engine", "Rejected", "Scan"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line of a file that is no row: it has too few or too many cells, or a quote that never ends."""

    file: str
    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """Rows of a source as Arrow batches, in source order; ``rejected`` is filled once they are all read.

    A batch has a column ``file`` (where the row came from), the columns asked for, and, where asked for, every
    column of the source as ``raw.NAME``.
    """

    batches: Iterator[pa.RecordBatch]
    rejected: list[Rejected]


class Engine(Protocol):
    """The door to a database or a cluster. What an engine cannot do raises ``NotSupportedError``."""

    name: str

    def columns(
        self, source: Source, base: Path, select: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the source's columns, or those of a selection, and their SQL types (all text for CSV)."""
        ...

    def files(self, source: Source, base: Path) -> list[Path]:
        """Return the files of a source in reading order; none for a database."""
        ...

    def scan(
        self,
        source: Source,
        base: Path,
        select: Mapping[str, str],
        *,
        raw: bool = False,
        limit: int | None = None,
    ) -> Scan:
        """Read a source: ``select`` maps output names to SQL expressions over the source's columns."""
        ...

    def query(self, sql: str, tables: Mapping[str, Any]) -> pa.Table:
        """Answer SQL over named tables (Arrow tables, or paths of Parquet files)."""
        ...

    def map_buckets(self, work: Callable[[int], T], buckets: Iterable[int]) -> Iterator[T]:
        """Run ``work`` for each bucket, in parallel where the engine can, and yield results in bucket order."""
        ...
