"""Who was erased: read from the store's manifest, so that every process learns of it at its next look."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from propend.events.hashing import hash_column, hash_text

__all__ = ["Forgotten"]


class _Erased(msgspec.Struct):
    erased: list[int] = []


class Forgotten:
    """The erased users of a store folder. A look costs one ``stat``; the manifest is read again only where it changed.

    An erasure is published with the store's commit, before the live files are searched: whoever asks here inside the
    transaction that writes an id either commits before that search, and is found by it, or leaves the id out.

    >>> Forgotten(Path("/nowhere"))("u1")
    False
    """

    def __init__(self, store_folder: Path) -> None:
        self._path = store_folder / "manifest.json"
        self._stamp: Any = None
        self._hashes: frozenset[int] = frozenset()

    def hashes(self) -> frozenset[int]:
        """Return the hashes of the erased ids, as of now."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                read = msgspec.json.decode(self._path.read_bytes(), type=_Erased)
                self._hashes, self._stamp = frozenset(read.erased), stamp
        except FileNotFoundError:  # nothing was stored yet, so nobody was erased
            pass
        return self._hashes

    def __call__(self, user: str) -> bool:
        """Whether an id was erased."""
        gone = self.hashes()
        return bool(gone) and _hash(user) in gone

    def among(self, users: Collection[str]) -> set[str]:
        """Return those of many ids that were erased."""
        gone = self.hashes()
        if not gone or not users:
            return set()
        ids = list(users)
        hashes = hash_column(pa.array(ids, pa.string())).tolist()
        return {user for user, h in zip(ids, hashes, strict=True) if h in gone}


_hash = lru_cache(maxsize=65_536)(hash_text)
