"""Event logs for the speed benchmarks: made fast, of any size in constant memory, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["TYPES", "EventLog"]

TYPES: Final = {"view": 0.72, "search": 0.12, "cart": 0.09, "purchase": 0.05, "review": 0.02}
"""Event types and their shares."""

START: Final = 1_704_067_200_000_000
"""2024-01-01 UTC in microseconds."""


@dataclass(frozen=True)
class EventLog:
    """A log in order of time: Zipf-like items, log-normal activity of users, a few repeated rows.

    Columns: ``user`` and ``item`` (text), ``time`` (UTC), ``type`` and ``value`` (missing but for purchases and carts).
    """

    events: int
    users: int = 0
    """0: one user per 40 events."""
    items: int = 20_000
    days: int = 365
    duplicates: float = 0.01
    seed: int = 7
    part: int = 1_000_000
    """Events per file."""

    def tables(self) -> Iterator[pa.Table]:
        """Yield the log part by part, in order of time."""
        users = self.users or max(1, self.events // 40)
        rng = np.random.default_rng(self.seed)
        who = np.cumsum(rng.lognormal(0.0, 1.3, users))
        what = np.cumsum(1.0 / np.arange(1, self.items + 1) ** 1.05)
        price = np.round(rng.lognormal(3.0, 0.8, self.items), 2)
        user_ids, item_ids = _ids("u", users), _ids("i", self.items)
        kinds = pa.array(list(TYPES))
        span = self.days * 86_400_000_000
        for number, low in enumerate(range(0, self.events, self.part)):
            rng = np.random.default_rng([self.seed, number])
            rows = min(self.part, self.events - low)
            fresh = rows - int(rows * self.duplicates)
            time = START + int(span * low / self.events)
            times = np.sort(rng.integers(0, max(1, span * rows // self.events), fresh)) + time
            item = _draw(rng, what, fresh)
            kind = np.searchsorted(np.cumsum(list(TYPES.values()))[:-1], rng.random(fresh))
            value = price[item]
            unpriced = ~np.isin(kind, (2, 3))
            table = pa.table(
                {
                    "user": user_ids.take(pa.array(_draw(rng, who, fresh))),
                    "time": pa.array(times).cast(pa.timestamp("us", "UTC")),
                    "type": kinds.take(pa.array(kind)),
                    "item": item_ids.take(pa.array(item)),
                    "value": pa.array(value, mask=unpriced),
                }
            )
            again = rng.integers(0, fresh, rows - fresh)
            yield table.take(pa.array(np.sort(np.concatenate([np.arange(fresh), again]))))

    def write(self, folder: Path) -> list[Path]:
        """Write the log as Parquet files, one per part; returns them in order."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, table in enumerate(self.tables()):
            path = folder / f"part-{number:04d}.parquet"
            pq.write_table(table, path, compression="snappy")
            paths.append(path)
        return paths


def _ids(prefix: str, n: int) -> pa.Array:
    width = len(str(max(n - 1, 1)))
    digits = np.char.zfill(np.arange(n).astype(f"U{width}"), width)
    return pa.array(np.char.add(prefix, digits))


def _draw(
    rng: np.random.Generator, cumulated: npt.NDArray[np.float64], n: int
) -> npt.NDArray[np.int64]:
    """Draw n indices with the cumulated weights."""
    return np.searchsorted(cumulated, rng.random(n) * cumulated[-1]).astype(np.int64)
