"""Sessions and paths: what people do one after another, where they come in and where they leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba as nb
import numpy as np

from propend.analytics.kept import Adding, Part, ask
from propend.analytics.nodes import Nodes, nodes_of
from propend.analytics.statistics import wilson
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.names import SESSION, TYPE

__all__ = ["PathsQuestion", "Sessions", "last_sessions", "paths"]


@nb.njit(cache=True, nogil=True)
def walk_sessions(
    offsets: Any,
    time: Any,
    code: Any,
    session: Any,
    gap: int,
    collapse: bool,
    length: int,
    base: int,
    packed: Any,
    moves: Any,
    sums: Any,
) -> int:
    """Write each session's first ``length`` nodes packed into one number, and count moves between nodes.

    A session ends after ``gap`` of silence, or where ``session`` (if not empty) changes. ``moves`` [n + 1, n + 1]: the last
    row is the entry, the last column the exit. ``sums``: events, microseconds. Returns the number of sessions.
    """
    count = 0
    declared = len(session) > 0
    for u in range(len(offsets) - 1):
        before = -1
        path = np.int64(0)
        taken = 0
        begun = np.int64(0)
        for i in range(offsets[u], offsets[u + 1]):
            fresh = i == offsets[u]
            if not fresh:
                fresh = session[i] != session[i - 1] if declared else time[i] - time[i - 1] > gap
                if fresh and before >= 0:
                    moves[before, base - 1] += 1
                    packed[count] = path
                    count += 1
                    sums[1] += time[i - 1] - begun
            if fresh:
                before = -1
                path = np.int64(0)
                taken = 0
                begun = time[i]
            node = code[i]
            if node < 0:
                continue
            sums[0] += 1
            if collapse and node == before:
                continue
            moves[before if before >= 0 else base - 1, node] += 1
            if taken < length:
                path = path * base + node + 1
                taken += 1
            before = node
        if before >= 0:
            moves[before, base - 1] += 1
            packed[count] = path
            count += 1
            sums[1] += time[offsets[u + 1] - 1] - begun
    return count


@nb.njit(cache=True, nogil=True)
def tally(keys: Any, table: Any, counts: Any) -> int:
    """Count keys (> 0) in an open-addressing table of a power of two, filled with 0; returns the distinct keys."""
    mask = np.uint64(len(table) - 1)
    distinct = 0
    for key in keys:
        at = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
        slot = np.int64(at & mask)
        while table[slot] != 0 and table[slot] != key:
            slot = np.int64(np.uint64(slot + 1) & mask)
        if table[slot] == 0:
            table[slot] = key
            distinct += 1
        counts[slot] += 1
    return distinct


def count_keys(keys: Any) -> tuple[Any, Any]:
    """Return distinct keys and how often each occurs; about five times as fast as sorting."""
    size = 1 << max(4, int(2 * len(keys)).bit_length())
    table, counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
    tally(keys, table, counts)
    there = table != 0
    return table[there], counts[there]


class Sessions(Adding):
    """What paths and the Sankey share: nodes, and sessions that end by silence or as the log says."""

    def __init__(
        self, nodes: Nodes, schema: Schema, gap: str | Duration, declared: bool, collapse: bool
    ) -> None:
        if declared and SESSION not in schema.texts:
            raise ConfigError(
                "the log has no session column; leave out 'declared' and sessions end by silence"
            )
        self.nodes, self.schema, self.declared, self.collapse = nodes, schema, declared, collapse
        self.length_of_silence = gap if isinstance(gap, Duration) else Duration.parse(gap)
        self.silence = self.length_of_silence.microseconds
        self.columns = [*nodes.columns, *([SESSION] if declared else [])]
        self.rest_on(schema, fields=[nodes.of], more=nodes.names)
        self.key = f"{type(self).__name__} {nodes.of} {gap} {declared} {collapse}"

    def session(self, timelines: Timelines) -> Any:
        """Return the log's own sessions per event, or nothing where silence decides."""
        return timelines.texts[SESSION].codes if self.declared else np.zeros(0, np.int32)

    def open_(self, timelines: Timelines) -> Any:
        """Return the events of each user's last session: it may go on."""
        out = np.zeros(len(timelines), np.bool_)
        last_sessions(timelines.offsets, timelines.time, self.session(timelines), self.silence, out)
        return out

    def fits(self, timelines: Timelines) -> bool:
        """Whether the nodes are still the same."""
        return self.nodes.knows(timelines)

    def refused(self) -> str:
        """Return why paths cannot be kept, or nothing."""
        return self.nodes.refused()


class PathsQuestion(Sessions):
    """Sessions, openings and moves; see :func:`paths`. A state holds each user's last session."""

    def __init__(
        self,
        nodes: Nodes,
        schema: Schema,
        *,
        gap: str | Duration = "30min",
        declared: bool = False,
        length: int = 8,
        top: int = 20,
        collapse: bool = True,
    ) -> None:
        super().__init__(nodes, schema, gap, declared, collapse)
        if top < 1:
            raise ConfigError(f"{top} paths cannot be shown; ask for at least 1 with top")
        self.base, self.length, self.top = len(nodes.names) + 1, length, top
        most = int(62 / np.log2(max(self.base, 2)))
        if not 1 <= length <= most:
            raise ConfigError(
                f"a path of {len(nodes.names)} kinds of nodes has 1 to {most} steps, not {length}"
            )
        self.key += f" {length}"

    def whole(self, timelines: Timelines) -> Part:
        """Return the openings packed into numbers with their counts, moves [n + 1, n + 1], and sums."""
        packed = np.empty(len(timelines), np.int64)
        moves, sums = np.zeros((self.base, self.base), np.int64), np.zeros(2, np.int64)
        count = walk_sessions(
            timelines.offsets, timelines.time, self.nodes.codes(timelines),
            self.session(timelines), self.silence, self.collapse, self.length, self.base, packed,
            moves, sums,
        )  # fmt: skip
        keys, counts = count_keys(packed[:count])
        return {"keys": keys, "counts": counts, "moves": moves, "sums": sums}

    def add(self, a: Part, b: Part) -> Part:
        """Return the sum of two parts."""
        keys, counts = _add(a["keys"], a["counts"], b["keys"], b["counts"])
        moves, sums = a["moves"] + b["moves"], a["sums"] + b["sums"]
        return {"keys": keys, "counts": counts, "moves": moves, "sums": sums}

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the answer; nodes stand in the order of their traffic."""
        none = np.zeros(0, np.int64)
        empty = np.zeros((self.base, self.base), np.int64)
        part = self.total(parts) or {"keys": none, "counts": none, "moves": empty, "sums": [0, 0]}
        counts, sums = part["counts"], part["sums"]
        sessions = int(counts.sum())
        return {
            "sessions": sessions,
            "events_per_session": float(sums[0]) / sessions if sessions else None,
            "mean_seconds": float(sums[1]) / 1e6 / sessions if sessions else None,
            "gap": "declared" if self.declared else str(self.length_of_silence),
            "of": self.nodes.of,
            "length": self.length,
            "loops": "collapsed" if self.collapse else "kept",
            "distinct_paths": len(counts),
            "paths": self._top(part["keys"], counts, sessions),
            **_matrix(part["moves"], self.nodes.names),
        }

    def _top(self, keys: Any, counts: Any, sessions: int) -> list[dict[str, Any]]:
        """Return the commonest paths; equally common ones in the order of their names."""
        if not len(keys):
            return []
        least = np.sort(counts)[-min(self.top, len(counts))]
        names, base = self.nodes.names, self.base
        found = [
            _path(int(keys[i]), int(counts[i]), sessions, base, names)
            for i in np.flatnonzero(counts >= least)
        ]
        return sorted(found, key=lambda p: (-p["sessions"], p["path"]))[: self.top]


def paths(
    store: Store,
    schema: Schema,
    engine: Engine,
    *,
    gap: str | Duration = "30min",
    declared: bool = False,
    of: str = TYPE,
    length: int = 8,
    top: int = 20,
    collapse: bool = True,
) -> dict[str, Any]:
    """Return sessions, their commonest openings, and the moves between nodes.

    A session ends after ``gap`` without an event, or, where ``declared``, as the log's session column says. ``of`` is what
    the nodes are: ``type``, ``item.category``, ``channel``… ``collapse`` counts a node repeated in a row once. A path is
    a session's first ``length`` nodes. ``transitions[a][b]`` is the share of moves from a that go to b (``(exit)`` among
    them); ``entry`` and ``exit`` count sessions. Events of one moment stand in their stored sequence.
    """
    question = PathsQuestion(
        nodes_of(store, schema, engine, of), schema, gap=gap, declared=declared, length=length,
        top=top, collapse=collapse,
    )  # fmt: skip
    return ask(question, store, engine)


def _add(keys: Any, counts: Any, more: Any, more_counts: Any) -> tuple[Any, Any]:
    """Add two tallies."""
    joined, inverse = np.unique(np.concatenate([keys, more]), return_inverse=True)
    total = np.bincount(inverse, np.concatenate([counts, more_counts]), len(joined))
    return joined, total.astype(np.int64)


def _path(key: int, count: int, sessions: int, base: int, names: tuple[str, ...]) -> dict[str, Any]:
    steps = []
    while key:
        key, node = divmod(key, base)
        steps.append(names[node - 1])
    low, high = wilson(count, sessions)
    return {
        "path": steps[::-1],
        "sessions": count,
        "share": count / sessions,
        "low": low,
        "high": high,
    }


def _matrix(moves: Any, names: tuple[str, ...]) -> dict[str, Any]:
    order = sorted(range(len(names)), key=lambda i: (-int(moves[:, i].sum()), names[i]))
    moves, names = moves[np.ix_([*order, -1], [*order, -1])], tuple(names[i] for i in order)
    leaving = moves[:-1].sum(axis=1)
    share = np.divide(moves[:-1], np.maximum(leaving, 1)[:, None])
    columns = [*names, "(exit)"]
    return {
        "nodes": list(names),
        "entry": {n: int(moves[-1, i]) for i, n in enumerate(names)},
        "exit": {n: int(moves[i, -1]) for i, n in enumerate(names)},
        "moves": {
            n: dict(zip(columns, moves[i].tolist(), strict=True)) for i, n in enumerate(names)
        },
        "transitions": {
            n: dict(zip(columns, share[i].tolist(), strict=True)) for i, n in enumerate(names)
        },
    }


@nb.njit(cache=True, nogil=True)
def last_sessions(offsets: Any, time: Any, session: Any, gap: int, out: Any) -> None:
    """Mark the events of each user's last session (as in ``walk_sessions``)."""
    declared = len(session) > 0
    for u in range(len(offsets) - 1):
        i = offsets[u + 1] - 1
        while i >= offsets[u]:
            out[i] = True
            if i > offsets[u]:
                if declared:
                    if session[i] != session[i - 1]:
                        break
                elif time[i] - time[i - 1] > gap:
                    break
            i -= 1
