"""A property of events as codes that mean the same in every bucket: event types, items' attributes, channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import labeller
from propend.analytics.kept import Part, Question, ask
from propend.analytics.people import profiles
from propend.engine import Engine
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.features.schema import Schema
from propend.names import TYPE

__all__ = ["OTHER", "Nodes", "NodesQuestion", "beyond", "nodes_of"]

OTHER: Final = "(other)"


@dataclass(frozen=True)
class Nodes:
    """``names`` by code, the columns to read, and a function that labels every event; :meth:`codes` gives int32 [n], −1 is missing."""

    of: str
    names: tuple[str, ...]
    """In alphabetical order (``(other)`` last), so that a code means the same however often its value occurs."""
    columns: list[str]
    label: Callable[[Timelines], Column] | None = None
    """``None``: the nodes are the event types by their codes."""
    ranked: tuple[str, ...] = ()
    """The names, commonest first."""

    def codes(self, timelines: Timelines) -> npt.NDArray[np.int32]:
        """Return each event's node, int32 [n]."""
        if self.label is None:
            return timelines.type.astype(np.int32, copy=False)
        column = self.label(timelines)
        index = {value: code for code, value in enumerate(self.names)}
        mapping = [index.get(v, len(self.names) - 1) for v in column.values]
        return np.array([*mapping, -1], np.int32)[column.codes]

    def knows(self, timelines: Timelines) -> bool:
        """Whether every value of some events is a node."""
        if self.label is None:
            return True
        column = self.label(timelines)
        used = np.unique(column.codes[column.codes >= 0])
        return {column.values[c] for c in used.tolist()} <= set(self.names)

    def refused(self) -> str:
        """Return why an answer by these nodes cannot be kept, or nothing."""
        if OTHER in self.names:
            return f"{self.of} has more values than are told apart, and which are the commonest may change"
        return beyond(self.of)


class NodesQuestion(Question):
    """Which values a property has: counted, so that the commonest are nodes."""

    def __init__(self, store: Store, schema: Schema, of: str, most: int = 60) -> None:
        self.of, self.most = of, most
        self.columns, self._labels = labeller(of, schema, profiles(store, schema))
        self.rest_on(schema, fields=[of])
        self.key = f"nodes {of} {most}"

    def label(self, timelines: Timelines) -> Column:
        """Return each event's value."""
        return self._labels(timelines, timelines.user_of_row, np.arange(len(timelines)))

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Count the values of further events."""
        column = self.label(timelines)
        sizes = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        used = np.flatnonzero(sizes)
        values = np.array([column.values[c] for c in used.tolist()], np.str_)
        if state is not None:
            values = np.concatenate([state["values"], values])
        names, at = np.unique(values, return_inverse=True)
        counts = sizes[used] if state is None else np.concatenate([state["counts"], sizes[used]])
        return {"values": names, "counts": np.bincount(at, counts, len(names)).astype(np.int64)}

    def refused(self) -> str:
        """Return why these nodes cannot be kept, or nothing."""
        return beyond(self.of)

    def document(self, parts: Iterable[Part]) -> Nodes:
        """Return the nodes."""
        total: dict[str, int] = {}
        for part in parts:
            for value, n in zip(part["values"].tolist(), part["counts"].tolist(), strict=True):
                total[value] = total.get(value, 0) + n
        ranked = sorted(total, key=lambda v: (-total[v], v))
        rest = (OTHER,) if len(ranked) > self.most else ()
        kept = ranked[: self.most - 1] if rest else ranked
        return Nodes(self.of, (*sorted(kept), *rest), self.columns, self.label, (*kept, *rest))


def beyond(of: str) -> str:
    """Return why a property cannot be told from new events alone, or nothing."""
    outside = of.split(".")[0] in ("first", "last", "cohort", "profile")
    return f"{of} looks beyond the new events" if outside else ""


def nodes_of(store: Store, schema: Schema, engine: Engine, of: str = TYPE, most: int = 60) -> Nodes:
    """Return a property as nodes: the ``most`` commonest values, the rest as ``(other)``.

    ``of`` is whatever :func:`propend.analytics.breakdown.labeller` labels events by. Event types need no look at the log;
    any other property is counted in one pass first.
    """
    if of == TYPE and len(schema.types) <= most:
        return Nodes(of, schema.types, [], ranked=schema.types)
    found: Nodes = ask(NodesQuestion(store, schema, of, most), store, engine)
    return found
