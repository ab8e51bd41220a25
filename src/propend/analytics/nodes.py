"""A property of events as codes that mean the same in every bucket: event types, items' attributes, channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import as_column, reads
from propend.analytics.scan import sweep
from propend.engine import Engine
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.features.evaluate import event_column
from propend.features.schema import Schema
from propend.names import TYPE

__all__ = ["OTHER", "Nodes", "nodes_of"]

OTHER: Final = "(other)"


@dataclass(frozen=True)
class Nodes:
    """``names`` by code, the columns to read, and the function from timelines to codes int32 [n]; −1 is missing."""

    names: tuple[str, ...]
    columns: list[str]
    codes: Callable[[Timelines], npt.NDArray[np.int32]]


def nodes_of(store: Store, schema: Schema, engine: Engine, of: str = TYPE, most: int = 60) -> Nodes:
    """Return a property as nodes: the ``most`` commonest values, the rest as ``(other)``.

    Event types need no look at the log; any other property is counted in one pass first.
    """
    if of == TYPE and len(schema.types) <= most:
        return Nodes(schema.types, [], lambda t: t.type.astype(np.int32, copy=False))
    name, columns = schema.event_column(tuple(of.split("."))), reads(schema, of)

    def count(timelines: Timelines) -> dict[str, int]:
        column = as_column(event_column(name, timelines, schema), np.arange(len(timelines)))
        sizes = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        return {column.values[c]: int(sizes[c]) for c in np.flatnonzero(sizes)}

    total: dict[str, int] = {}
    for part in sweep(store, engine, count, columns):
        for value, n in part.items():
            total[value] = total.get(value, 0) + n
    ranked = sorted(total, key=lambda v: (-total[v], v))
    rest = len(ranked) > most
    names = tuple(ranked[: most - 1] if rest else ranked) + ((OTHER,) if rest else ())
    index = {value: code for code, value in enumerate(names)}

    def codes(timelines: Timelines) -> npt.NDArray[np.int32]:
        column = as_column(event_column(name, timelines, schema), np.arange(len(timelines)))
        mapping = [index.get(v, len(names) - 1) for v in column.values]
        return np.array([*mapping, -1], np.int32)[column.codes]

    return Nodes(names, columns, codes)
