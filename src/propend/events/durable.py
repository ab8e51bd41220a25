"""Writing so that a crash at any point leaves the old or the new, never a half.

A file is written under a new name, flushed to the disk, and only then named by the manifest, which itself is
replaced by an atomic rename. Whatever the manifest does not name does not exist.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from propend.errors import DataError

__all__ = ["exclusive", "replace_text", "sync_folder", "write_parquet"]


def sync_file(path: Path) -> None:
    """Flush a finished file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that new names survive a power cut."""
    sync_file(folder)


def write_parquet(
    table: pa.Table, path: Path, *, dictionary: list[str] | bool = False, group: int = 131_072
) -> None:
    """Write a table as Parquet under its final, new name and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression="lz4",
        use_dictionary=dictionary,
        row_group_size=group,
        write_statistics=True,
    )
    sync_file(path)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file as a whole: readers see the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's write lock; raises ``DataError`` where another process holds it.

    The lock belongs to the process and goes with it, so a killed writer never blocks the next one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"{what} is being written by another process; wait until it has finished"
            ) from None
        yield
