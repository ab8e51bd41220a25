"""Yesterday's funnel plus today's events: a small state per user, so that only new runs of the store are read.

For each user and step the state keeps the latest entry that leads to the step, and when it was first reached. A bucket whose
new runs all lie after what it has seen goes on from its state; one with late events, or whose runs were compacted or erased,
is answered afresh. Either way the answer is the full answer, figure for figure.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.analytics.funnel import FunnelResult
from propend.analytics.funnel_plan import EARLIEST, Entries, Funnel
from propend.analytics.steps import columns_for, lookup, masks
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.durable import sync_file
from propend.events.store import Run, Store, lean_timelines
from propend.events.timelines import Timelines
from propend.features.schema import Schema

__all__ = ["IncrementalFunnel"]

I64 = npt.NDArray[np.int64]


@nb.njit(cache=True, nogil=True)
def advance(
    offsets: Any,
    time: Any,
    code: Any,
    table: Any,
    optional: Any,
    window: int,
    first_only: bool,
    owner: Any,
    state: Any,
    start: Any,
    done: Any,
) -> None:
    """Go on with the users' states over further events: as ``latest_start``, with moments in place of rows.

    User ``u`` of the events is row ``owner[u]`` of ``state``, ``start`` and ``done`` [users, steps]; EARLIEST is none.
    """
    none = np.int64(-(1 << 62))
    steps = len(optional)
    for u in range(len(offsets) - 1):
        w = owner[u]
        for i in range(offsets[u], offsets[u + 1]):
            bits = table[code[i]]
            if bits == 0:
                continue
            now = time[i]
            for k in range(steps - 1, 0, -1):
                if (bits >> k) & 1 == 0:
                    continue
                best = state[w, k - 1]
                p = k - 1
                while p > 0 and optional[p]:
                    p -= 1
                    if state[w, p] > best:
                        best = state[w, p]
                if best == none or now - best > window:
                    continue
                if best > state[w, k]:
                    state[w, k] = best
                if done[w, k] == none:
                    done[w, k] = now
                    start[w, k] = best
            if bits & 1 and not (first_only and state[w, 0] != none):
                state[w, 0] = now
                if done[w, 0] == none:
                    done[w, 0] = now
                    start[w, 0] = now


@dataclass
class _Bucket:
    """What is known of a bucket: the runs seen, the latest moment in them, and per user [u, steps] the state."""

    files: list[str]
    high: int
    users: I64
    state: I64
    start: I64
    done: I64


@dataclass
class IncrementalFunnel:
    """A funnel that is kept up to date; see the module's description.

    Only for ordered funnels per user without bounds, exclusions or held properties: the rest raises ``ConfigError``.
    ``rows_read`` says how many events the last update read.
    """

    definition: Funnel
    buckets: dict[int, _Bucket] = field(default_factory=dict)
    rows_read: int = 0

    def __post_init__(self) -> None:
        d = self.definition
        if d.order != "ordered" or d.ties != "sequence" or d.per != "user" or d.hold or d.bounded:
            raise ConfigError(
                "only ordered funnels per user, without bounds, exclusions or held properties, are kept up to date; leave out 'incremental'"
            )

    @property
    def key(self) -> str:
        """A fingerprint of the definition."""
        return hashlib.sha256(repr(self.definition).encode()).hexdigest()[:16]

    def update(self, store: Store, schema: Schema, engine: Engine) -> FunnelResult:
        """Take in what is new in the store and return the whole answer."""
        self.definition.check(schema)

        def work(bucket: int) -> tuple[int, _Bucket, int]:
            return bucket, *self._update(store, schema, bucket)

        self.rows_read = 0
        found = list(engine.map_buckets(work, sorted(store.manifest.runs)))
        self.buckets = {bucket: kept for bucket, kept, _ in found}
        self.rows_read = sum(rows for _, _, rows in found)
        steps = len(self.definition.steps)
        parts = [self._entries(b) for b in self.buckets.values()]
        return FunnelResult(self.definition, Entries.join([p for p in parts if len(p)], steps))

    def _update(self, store: Store, schema: Schema, bucket: int) -> tuple[_Bucket, int]:
        runs = store.manifest.runs[bucket]
        seen = self.buckets.get(bucket)
        there = {run.file for run in runs}
        new = [run for run in runs if seen is None or run.file not in seen.files]
        if seen is None or not there.issuperset(seen.files) or any(r.low <= seen.high for r in new):
            none = np.zeros((0, len(self.definition.expanded)), np.int64)
            seen, new = _Bucket([], EARLIEST, np.zeros(0, np.int64), none, none, none), runs
        if not new:
            return seen, 0
        d = self.definition
        timelines = lean_timelines(store, bucket, columns_for(schema, d.selections), new)
        return self._take_in(seen, timelines, schema, new), len(timelines)

    def _take_in(
        self, seen: _Bucket, timelines: Timelines, schema: Schema, new: list[Run]
    ) -> _Bucket:
        d = self.definition
        users = np.union1d(seen.users, timelines.users).astype(np.int64)
        at = np.searchsorted(users, seen.users)
        arrays = []
        for old in (seen.state, seen.start, seen.done):
            grown = np.full((len(users), len(d.expanded)), EARLIEST, np.int64)
            grown[at] = old
            arrays.append(grown)
        table = lookup(schema, d.selections)
        code: Any = timelines.type
        if table is None:
            table, code = np.unique(masks(schema, timelines, d.selections), return_inverse=True)
        optional = np.array([step.optional for step in d.expanded])
        advance(
            timelines.offsets, timelines.time, code, table, optional, d.window.microseconds,
            d.reentry == "first", np.searchsorted(users, timelines.users), *arrays,
        )  # fmt: skip
        return _Bucket(
            [*seen.files, *(run.file for run in new)],
            max(seen.high, *(run.high for run in new)),
            users,
            *arrays,
        )

    def _entries(self, b: _Bucket) -> Entries:
        ends = self.definition.ends
        keep = b.done[:, ends[0]] != EARLIEST
        done, start = b.done[keep][:, ends], b.start[keep][:, ends]
        reached = done != EARLIEST
        return Entries(
            b.users[keep],
            np.where(reached, start, EARLIEST).max(axis=1, initial=EARLIEST),
            np.where(reached, done, -1),
            np.where(reached, done - start, -1),
        )

    # ---- kept between runs

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all (arrays and JSON, nothing that can run)."""
        about = {str(b): [kept.files, kept.high] for b, kept in self.buckets.items()}
        arrays = {
            f"{name}_{b}": getattr(kept, name)
            for b, kept in self.buckets.items()
            for name in ("users", "state", "start", "done")
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
        sync_file(part)
        part.replace(path)

    def load(self, path: Path) -> IncrementalFunnel:
        """Take up a saved state; one that is missing or damaged is left aside and the next update reads everything."""
        if not path.is_file():
            return self
        try:
            with np.load(path, allow_pickle=False) as data:
                about = json.loads(str(data["about"]))
                self.buckets = {
                    int(b): _Bucket(
                        files,
                        high,
                        *(data[f"{n}_{b}"] for n in ("users", "state", "start", "done")),
                    )
                    for b, (files, high) in about.items()
                }
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            self.buckets = {}
        return self
