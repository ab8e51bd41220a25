"""Small logs with ties, repeats, one-event users and boundary times, as stores on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from propend.engine import Engine, connect
from propend.events.store import Store, event_schema
from propend.events.timelines import Timelines
from propend.features.schema import Schema
from propend.names import DAY, MICROSECONDS

TYPES = ("view", "cart", "purchase", "search", "remove")
CHANNELS = ("ads", "email", "search")
START = 1_704_067_200 * MICROSECONDS  # 2024-01-01T00:00Z, a Monday


@dataclass
class Event:
    """One event, as the oracles see it."""

    time: int
    type: str
    item: int
    value: float
    channel: str | None


@dataclass
class Log:
    """A store and the same events as plain lists per user."""

    store: Store
    schema: Schema
    engine: Engine
    users: dict[int, list[Event]] = field(default_factory=dict)

    @property
    def asked(self) -> tuple[Store, Schema, Engine]:
        return self.store, self.schema, self.engine


def draw(rng: np.random.Generator, users: int, most: int, days: int, step: int) -> dict[str, Any]:
    """Draw events on a coarse clock, so that ties and exact boundaries are common."""
    counts = rng.integers(0, most, users)
    counts[0] = 1
    n = int(counts.sum())
    user = np.repeat(np.arange(users), counts)
    time = START + rng.integers(0, days * DAY // step, n) * step
    order = np.lexsort((np.arange(n), time, user))
    channel = rng.choice(np.array([*CHANNELS, None], object), n)
    return {
        "user": user,
        "time": time[order],
        "type": rng.choice(len(TYPES), n, p=[0.4, 0.2, 0.15, 0.15, 0.1]),
        "item": rng.integers(0, 3, n),
        "value": np.round(rng.exponential(10, n), 2),
        "channel": channel,
    }


def write_store(folder: Path, events: dict[str, Any], buckets: int = 4, runs: int = 1) -> Store:
    """Write events as a store; with several runs they are cut by time."""
    store = Store.create(folder, buckets)
    users = int(events["user"].max()) + 1
    per_bucket = -(-users // buckets)
    with store.writing() as writer:
        writer.next.types = list(TYPES)
        for b in range(buckets):
            writer.add_users(b, pa.array([f"u{i * buckets + b}" for i in range(per_bucket)]))
        writer.add_items(["i0", "i1", "i2"])
        writer.commit()
    seq = np.arange(len(events["user"]))
    cuts = np.quantile(events["time"], np.linspace(0, 1, runs + 1)).astype(np.int64)
    for r in range(runs):
        with store.writing() as writer:
            inside = events["time"] >= cuts[r] if r else np.ones(len(seq), bool)
            if r + 1 < runs:
                inside &= events["time"] < cuts[r + 1]
            for b in range(buckets):
                rows = np.flatnonzero(inside & (events["user"] % buckets == b))
                writer.add_run(b, _table(events, rows, seq))
            writer.commit()
    return store


def _table(events: dict[str, Any], rows: np.ndarray, seq: np.ndarray) -> pa.Table:
    schema = event_schema({})
    given = {
        "user": events["user"][rows].astype(np.int32),
        "time": pa.array(events["time"][rows]).cast(pa.timestamp("us", "UTC")),
        "seq": seq[rows],
        "type": events["type"][rows].astype(np.int16),
        "item": events["item"][rows].astype(np.int32),
        "value": events["value"][rows],
        "channel": pa.array(events["channel"][rows], pa.string()).dictionary_encode(),
    }
    columns = [
        pa.array(given[f.name]).cast(f.type) if f.name in given else pa.nulls(len(rows), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def as_log(store: Store, events: dict[str, Any], zone: str = "UTC") -> Log:
    """Return the store with the same events as lists."""
    log = Log(store, Schema.of(store, zone), connect("local", threads=2))
    for i in range(len(events["user"])):
        channel = events["channel"][i]
        log.users.setdefault(int(events["user"][i]), []).append(
            Event(
                int(events["time"][i]),
                TYPES[events["type"][i]],
                int(events["item"][i]),
                float(events["value"][i]),
                None if channel is None else str(channel),
            )
        )
    return log


@pytest.fixture(scope="session")
def make_log(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Log]:
    """Return a maker of logs."""
    made: dict[tuple[Any, ...], Log] = {}

    def make(
        seed: int = 0,
        users: int = 120,
        most: int = 25,
        days: int = 20,
        step: int = DAY // 8,
        runs: int = 1,
        zone: str = "UTC",
    ) -> Log:
        key = (seed, users, most, days, step, runs, zone)
        if key not in made:
            events = draw(np.random.default_rng(seed), users, most, days, step)
            store = write_store(tmp_path_factory.mktemp("log") / "store", events, runs=runs)
            made[key] = as_log(store, events, zone)
        return made[key]

    return make


def timelines_of(types: list[list[tuple[int, int]]]) -> Timelines:
    """Return timelines of users given as lists of (time, type code)."""
    flat = [event for events in types for event in events]
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in types])]).astype(np.int64)
    return Timelines(
        np.arange(len(types), dtype=np.int64),
        offsets,
        np.array([t for t, _ in flat], np.int64),
        np.array([k for _, k in flat], np.int16),
        np.full(len(flat), -1, np.int32),
        np.arange(len(flat), dtype=np.int64),
    )
