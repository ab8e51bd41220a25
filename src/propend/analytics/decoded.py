"""Decoded columns at hand: what one question decoded, the next one in the same process maps into memory.

Decoding Parquet is most of what a question costs. The columns are laid down as they are in files without a name beside the
store (they vanish with the process, however it ends) and mapped while a bucket is answered: the disk cache holds them,
not this process, so memory stays that of one bucket per thread.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from propend.events.store import Store, lean_timelines
from propend.events.timelines import NO_ITEM, Timelines
from propend.names import ITEM

__all__ = ["Decoded"]

MOST_BYTES: Final = 8 << 30
"""Most disk that is taken; buckets beyond it are decoded each time."""
_ALIGNED: Final = 64
_BASE: Final = ("users", "offsets", "time", "type")


@dataclass(eq=False)
class _Kept:
    """A bucket's columns in a file: what runs they are of, and per column its type, length and place."""

    runs: tuple[str, ...]
    file: IO[bytes]
    size: int
    places: dict[str, tuple[np.dtype[Any], int, int]]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)


class Decoded:
    """The decoded columns of a store's buckets. Text columns are not kept; a question that reads one decodes its bucket."""

    def __init__(self, folder: Path, most: int = MOST_BYTES) -> None:
        self._folder = folder
        self._left = most
        self._kept: dict[int, _Kept] = {}
        self._lock = threading.Lock()

    def timelines(self, store: Store, bucket: int, columns: Sequence[str]) -> Timelines:
        """Return :func:`propend.events.store.lean_timelines` of a bucket, mapped where it was read before."""
        runs = tuple(run.file for run in store.manifest.runs.get(bucket, ()))
        kept = self._kept.get(bucket)
        if kept is not None and kept.runs == runs and {*_BASE, *columns} <= kept.places.keys():
            return _mapped(kept, columns)
        timelines = lean_timelines(store, bucket, columns)
        self._keep(bucket, runs, timelines, ITEM in columns)
        return timelines

    def _keep(self, bucket: int, runs: tuple[str, ...], t: Timelines, item: bool) -> None:
        """Lay a bucket's columns down, in place of what was kept of it; does nothing where there is no room."""
        arrays = {name: getattr(t, name) for name in (*_BASE, *((ITEM,) if item else ()))}
        arrays.update(t.numbers)
        places, size = {}, 0
        for name, values in arrays.items():
            places[name] = (values.dtype, len(values), size)
            size += -(-values.nbytes // _ALIGNED) * _ALIGNED
        with self._lock:
            old = self._kept.pop(bucket, None)
            self._left += 0 if old is None else old.size
            if size == 0 or size > self._left or len(t) == 0:
                return
            self._left -= size
        try:
            file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives as long as the columns
            for name, values in arrays.items():
                file.seek(places[name][2])
                file.write(np.ascontiguousarray(values).data.cast("B"))
            file.truncate(size)
        except OSError:  # a read-only folder or a full disk: decoded each time
            with self._lock:
                self._left = 0
            return
        with self._lock:
            self._kept[bucket] = _Kept(runs, file, size, places)


def _mapped(kept: _Kept, columns: Sequence[str]) -> Timelines:
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    pages = mmap.mmap(kept.file.fileno(), kept.size, flags=flags, prot=mmap.PROT_READ)

    def of(name: str) -> Any:
        dtype, length, offset = kept.places[name]
        return np.frombuffer(pages, dtype, length, offset)

    users, offsets, time, kind = map(of, _BASE)
    return Timelines(
        users,
        offsets,
        time,
        kind,
        of(ITEM) if ITEM in columns else np.broadcast_to(np.int32(NO_ITEM), len(time)),
        np.broadcast_to(np.int64(0), len(time)),
        {name: of(name) for name in columns if name != ITEM},
    )
