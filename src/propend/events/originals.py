"""Rows as they came, kept on disk during an ingest, so that what is set aside and what is shown is the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Originals"]


class Originals:
    """Source rows by position, with their file and their number in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._starts: list[int] = []
        self._in_file: Counter[str] = Counter()
        self.rows = 0
        self.schema: pa.Schema | None = None
        """Columns of the source and their types; known once the first rows came."""

    def append(self, batch: pa.RecordBatch) -> None:
        """Keep the raw columns of a batch."""
        raw = self._numbered(batch)
        if self._writer is None:
            self.schema = pa.schema(list(raw.schema)[2:])
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(self._path, raw.schema, options=options)
        self._writer.write_batch(raw)
        self._starts.append(self.rows)
        self.rows += batch.num_rows

    def close(self) -> None:
        """End writing; from here on rows can be fetched."""
        if self._writer is not None:
            self._writer.close()

    def fetch(
        self, positions: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, list[Any]]]]:
        """Yield the rows at ascending positions in parts: their indices into ``positions``, file, row and original."""
        if len(positions) == 0:
            return
        starts = np.array(self._starts)
        home = np.searchsorted(starts, positions, side="right") - 1
        batches, firsts = np.unique(home, return_index=True)
        ends = np.append(firsts[1:], len(positions))
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for batch, low, high in zip(batches, firsts, ends, strict=True):
                at = pa.array(positions[low:high] - starts[batch])
                part = reader.get_batch(int(batch)).take(at)
                yield np.arange(low, high), _as_json(part)

    def _numbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the raw columns behind the file and the row's number in it."""
        names = [name for name in batch.schema.names if name.startswith("raw.")]
        coded = batch.column("file").dictionary_encode()
        indices = np.asarray(pc.fill_null(coded.indices, 0))
        number = np.empty(batch.num_rows, np.int64)
        for code, path in enumerate(coded.dictionary.to_pylist()):
            rows = np.flatnonzero(indices == code)
            number[rows] = self._in_file[path] + 1 + np.arange(len(rows))
            self._in_file[path] += len(rows)
        return pa.RecordBatch.from_arrays(
            [batch.column("file"), pa.array(number), *(batch.column(name) for name in names)],
            ["", "", *(name.removeprefix("raw.") for name in names)],
        )


def _as_json(part: pa.RecordBatch) -> dict[str, list[Any]]:
    """Return files, row numbers and each row as JSON; what JSON has no type for becomes text."""
    names = part.schema.names[2:]
    cells = []
    for column in part.columns[2:]:
        kind = column.type
        plain = (
            pa.types.is_boolean(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_string(kind)
        )
        cells.append((column if plain else column.cast(pa.string())).to_pylist())
    encode = msgspec.json.Encoder().encode
    rows = zip(*cells, strict=True)
    return {
        "file": part.column(0).fill_null("").to_pylist(),
        "row": part.column(1).to_pylist(),
        "original": [encode(dict(zip(names, row, strict=True))).decode() for row in rows],
    }
