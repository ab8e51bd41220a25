"""Sessions and paths: what people do one after another, where they come in and where they leave."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from propend.analytics.nodes import nodes_of
from propend.analytics.scan import sweep
from propend.analytics.statistics import wilson
from propend.engine import Engine
from propend.errors import ConfigError, nearest
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.names import SESSION, TYPE

__all__ = ["paths", "sankey"]


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


def session_gap(text: str | Duration) -> int:
    """Return microseconds of silence that end a session."""
    return (text if isinstance(text, Duration) else Duration.parse(text)).microseconds


def session_ids(timelines: Timelines, use: bool) -> Any:
    """Return the log's own sessions per event, or nothing where silence decides."""
    return timelines.texts[SESSION].codes if use else np.zeros(0, np.int32)


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
    if declared and SESSION not in schema.texts:
        raise ConfigError(
            "the log has no session column; leave out 'declared' and sessions end by silence"
        )
    nodes = nodes_of(store, schema, engine, of)
    base = len(nodes.names) + 1
    most = int(62 / np.log2(max(base, 2)))
    if not 1 <= length <= most:
        raise ConfigError(
            f"a path of {len(nodes.names)} kinds of nodes has 1 to {most} steps, not {length}"
        )
    silence = session_gap(gap)
    columns = [*nodes.columns, *([SESSION] if declared else [])]

    def work(timelines: Timelines) -> tuple[Any, Any, Any, Any]:
        packed = np.empty(len(timelines), np.int64)
        moves, sums = np.zeros((base, base), np.int64), np.zeros(2, np.int64)
        count = walk_sessions(
            timelines.offsets, timelines.time, nodes.codes(timelines),
            session_ids(timelines, declared), silence, collapse, length, base, packed, moves, sums,
        )  # fmt: skip
        return *count_keys(packed[:count]), moves, sums

    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    moves, sums = np.zeros((base, base), np.int64), np.zeros(2, np.int64)
    for k, c, m, s in sweep(store, engine, work, columns):
        keys, counts = _add(keys, counts, k, c)
        moves, sums = moves + m, sums + s
    sessions = int(counts.sum())
    order = np.lexsort((keys, -counts))[:top]
    return {
        "sessions": sessions,
        "events_per_session": float(sums[0]) / sessions if sessions else None,
        "mean_seconds": float(sums[1]) / 1e6 / sessions if sessions else None,
        "gap": "declared" if declared else str(gap),
        "of": of,
        "length": length,
        "loops": "collapsed" if collapse else "kept",
        "distinct_paths": len(keys),
        "paths": [_path(int(keys[i]), int(counts[i]), sessions, base, nodes.names) for i in order],
        "nodes": list(nodes.names),
        **_matrix(moves, nodes.names),
    }


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
    leaving = moves[:-1].sum(axis=1)
    share = np.divide(moves[:-1], np.maximum(leaving, 1)[:, None])
    columns = [*names, "(exit)"]
    return {
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
def follow(
    offsets: Any,
    time: Any,
    code: Any,
    session: Any,
    gap: int,
    collapse: bool,
    anchor: int,
    backwards: bool,
    links: Any,
) -> int:
    """Count moves [depth, n + 1, n + 1] after the first (before the last) ``anchor`` of each session; the last is the end.

    Returns the sessions with the anchor.
    """
    depth = len(links)
    end = links.shape[1] - 1
    declared = len(session) > 0
    found = 0
    for u in range(len(offsets) - 1):
        a = offsets[u]
        while a < offsets[u + 1]:
            b = a + 1
            while b < offsets[u + 1]:
                if declared:
                    if session[b] != session[b - 1]:
                        break
                elif time[b] - time[b - 1] > gap:
                    break
                b += 1
            step = -1 if backwards else 1
            i = b - 1 if backwards else a
            while a <= i < b and code[i] != anchor:
                i += step
            if a <= i < b:
                found += 1
                before = anchor
                level = 0
                i += step
                while a <= i < b and level < depth:
                    node = code[i]
                    if node >= 0 and not (collapse and node == before):
                        links[level, before, node] += 1
                        before = node
                        level += 1
                    i += step
                if level < depth:
                    links[level, before, end] += 1
            a = b
    return found


def sankey(
    store: Store,
    schema: Schema,
    engine: Engine,
    anchor: str,
    *,
    direction: str = "after",
    depth: int = 4,
    gap: str | Duration = "30min",
    declared: bool = False,
    of: str = TYPE,
    collapse: bool = True,
) -> dict[str, Any]:
    """Return the links of a Sankey picture: what sessions do after (or before) a node, step by step.

    ``{"anchor", "direction", "sessions", "links": [{"step", "source", "target", "sessions"}]}``; ``(end)`` is where the
    session ends (or, before, begins). Raises ``ConfigError`` naming the nearest node.
    """
    if direction not in ("after", "before"):
        raise ConfigError(f"no direction {direction!r}{nearest(direction, ['after', 'before'])}")
    nodes = nodes_of(store, schema, engine, of)
    if anchor not in nodes.names:
        raise ConfigError(f"no {of} {anchor!r} in the log{nearest(anchor, nodes.names)}")
    n = len(nodes.names)
    silence = session_gap(gap)

    def work(timelines: Timelines) -> tuple[Any, int]:
        links = np.zeros((depth, n + 1, n + 1), np.int64)
        found = follow(
            timelines.offsets, timelines.time, nodes.codes(timelines),
            session_ids(timelines, declared), silence, collapse, nodes.names.index(anchor),
            direction == "before", links,
        )  # fmt: skip
        return links, found

    links, sessions = np.zeros((depth, n + 1, n + 1), np.int64), 0
    for part, found in sweep(
        store, engine, work, [*nodes.columns, *([SESSION] if declared else [])]
    ):
        links, sessions = links + part, sessions + found
    names = [*nodes.names, "(end)"]
    rows = [
        {"step": d + 1, "source": names[a], "target": names[b], "sessions": int(links[d, a, b])}
        for d, a, b in zip(*np.nonzero(links), strict=True)
    ]
    rows.sort(key=lambda r: (r["step"], -r["sessions"], r["source"], r["target"]))
    return {"anchor": anchor, "direction": direction, "of": of, "sessions": sessions, "links": rows}
