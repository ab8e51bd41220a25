"""Buckets as lean timelines: only the columns a question reads; each bucket's answer is a value that adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from propend.analytics.decoded import Decoded
from propend.engine import Engine
from propend.events.store import Store, lean_timelines
from propend.events.timelines import Timelines
from propend.features.schema import Schema
from propend.names import ITEM

__all__ = ["read", "remember", "sweep"]

T = TypeVar("T")
_DECODED: Final[WeakKeyDictionary[Store, Decoded]] = WeakKeyDictionary()


def remember(store: Store) -> Store:
    """Keep what questions decode at hand for the next ones, as long as this ``Store`` lives; returns it.

    For a process that asks more than once; see :mod:`propend.analytics.decoded`.
    """
    _DECODED.setdefault(store, Decoded(store.folder))
    return store


def read(
    store: Store, bucket: int, columns: Sequence[str] = (), *, as_of: int | None = None
) -> Timelines:
    """Read a bucket with time, type and ``columns`` (``item`` too only if named); ``as_of`` hides what was not yet known.

    What is not read stands as constants (sequence 0, item −1), which cost no memory.
    """
    if as_of is not None:
        return store.timelines(bucket, [c for c in columns if c != ITEM]).before(as_of)
    decoded = _DECODED.get(store)
    if decoded is not None:
        return decoded.timelines(store, bucket, columns)
    return lean_timelines(store, bucket, columns)


def sweep(
    store: Store,
    engine: Engine,
    work: Callable[[Timelines], T],
    columns: Sequence[str] = (),
    *,
    as_of: int | None = None,
) -> Iterator[T]:
    """Run ``work`` on each bucket's timelines through the engine and yield its values in bucket order."""

    def one(bucket: int) -> T:
        return work(read(store, bucket, columns, as_of=as_of))

    yield from engine.map_buckets(one, sorted(store.manifest.runs))


def type_table(schema: Schema, types: Sequence[str]) -> np.ndarray:
    """Return for each type code whether it is one of ``types`` (all where none is named), bool [types]."""
    if not types:
        return np.ones(max(len(schema.types), 1), np.bool_)
    return np.array([name in types for name in schema.types], np.bool_)
