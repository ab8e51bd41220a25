"""Stable 64-bit hashes of Arrow columns: the same on every machine, version and engine.

FNV-1a over the bytes, finished with MurmurHash3's mixer (Appleby 2011) so that the low bits, which choose the
bucket, are well spread. Numbers are hashed by their eight bytes (5.0 as 5), missing values as a mark of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["hash_column", "hash_records", "hash_rows", "hash_text"]

U64 = npt.NDArray[np.uint64]

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


@nb.njit(inline="always")
def _mix(h: Any) -> Any:
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


@nb.njit(cache=True, nogil=True)
def _hash_bytes(offsets: Any, data: Any, valid: Any, salt: Any, skip: bool, out: Any) -> None:
    for i in range(len(out)):
        if skip and not valid[i]:
            continue
        h = _SEED ^ ((out[i] ^ salt) * _PRIME)
        if valid[i]:
            for j in range(offsets[i], offsets[i + 1]):
                h = (h ^ np.uint64(data[j])) * _PRIME
        else:
            h = (h ^ np.uint64(0x1FF)) * _PRIME
        out[i] = _mix(h)


@nb.njit(cache=True, nogil=True)
def _hash_words(words: Any, valid: Any, salt: Any, skip: bool, out: Any) -> None:
    for i in range(len(out)):
        if skip and not valid[i]:
            continue
        h = _SEED ^ ((out[i] ^ salt) * _PRIME)
        word = words[i] if valid[i] else np.uint64(0x1FF)
        out[i] = _mix((h ^ word) * _PRIME)


@nb.njit(cache=True, nogil=True)
def _whole_as_integers(values: Any) -> Any:
    """Return the words to hash of floats: a whole number hashes as the integer it equals."""
    words = values.view(np.uint64).copy()
    for i in range(len(values)):
        if values[i] == np.floor(values[i]) and abs(values[i]) < 2.0**53:
            words[i] = np.uint64(np.int64(values[i]))
    return words


def hash_text(text: str) -> int:
    """Return the hash of one text; ``hash_column`` of a column that holds it gives the same.

    >>> hash_text("u1") == int(hash_column(pa.array(["u1"]))[0])
    True
    """
    return int(hash_column(pa.array([text]))[0])


def hash_column(column: pa.Array | pa.ChunkedArray) -> U64:
    """Return uint64 [n]: the hash of each value."""
    return hash_rows([column])


def hash_rows(columns: list[pa.Array | pa.ChunkedArray]) -> U64:
    """Return uint64 [n]: the hash of each row over the columns, in the order given."""
    out = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        _fold(_flat(column), out, np.uint64(0), skip=False)
    return out


def hash_records(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> U64:
    """Return uint64 [n]: the hash of each row as a record of named values.

    Neither the order of the columns nor a column without a value counts, so that a row hashes the same whichever
    other files (with further columns) are read beside it.

    >>> one = hash_records({"a": pa.array([1]), "b": pa.array(["x"]), "c": pa.nulls(1)})
    >>> bool(one == hash_records({"b": pa.array(["x"]), "a": pa.array([1.0])}))
    True
    """
    rows = len(next(iter(columns.values()))) if columns else 0
    out = np.zeros(rows, np.uint64)
    for name in sorted(columns):
        _fold(_flat(columns[name]), out, np.uint64(hash_text(name)), skip=True)
    return out


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _fold(array: pa.Array, out: U64, salt: np.uint64, *, skip: bool) -> None:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    valid = np.asarray(pc.is_valid(array)) if array.null_count else np.ones(len(array), np.bool_)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        width = np.int64 if pa.types.is_large_string(kind) else np.int32
        _, offsets, data = array.buffers()
        starts = (
            np.zeros(1, width)
            if len(array) == 0
            else np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1]
        )
        text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        _hash_bytes(starts, text, valid, salt, skip, out)
        return
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        array = array.cast(pa.int64(), safe=False)
    elif pa.types.is_floating(kind):
        array = array.cast(pa.float64())
    else:
        _fold(array.cast(pa.string()), out, salt, skip=skip)
        return
    values = np.ascontiguousarray(np.asarray(array.fill_null(0)))
    words = _whole_as_integers(values) if values.dtype == np.float64 else values.view(np.uint64)
    _hash_words(words, valid, salt, skip, out)
