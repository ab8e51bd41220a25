"""What the tests of the store share: a configuration in one line, and all a store holds as plain rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from propend.config import CleanConfig, Config, EventSource, WorkspaceConfig
from propend.events.store import Store

Row = tuple[Any, ...]

ROLES = {
    "user": "user",
    "time": "time",
    "type": "type",
    "item": "item",
    "value": "value",
    "quantity": "quantity",
}


def config(
    *files: object,
    roles: dict[str, str] | None = None,
    zone: str | None = "UTC",
    buckets: int = 4,
    clean: CleanConfig | None = None,
    **source: Any,
) -> Config:
    return Config(
        workspace=WorkspaceConfig(zone=zone, buckets=buckets),
        events=(EventSource(files=tuple(map(str, files)), roles=roles or ROLES, **source),),
        clean=clean or CleanConfig(),
    )


def content(store: Store, *columns: str) -> list[Row]:
    """Everything the store holds, with names in place of codes and no trace of the order of ingest."""
    rows: list[Row] = []
    items = [*store.item_ids(), None]
    for bucket in range(store.buckets):
        table = store.read_bucket(bucket, store.schema().names)
        names = store.names_of(np.asarray(table["user"]).astype(np.int64))
        user, time, seq = (np.asarray(table[c].cast(pa.int64())) for c in ("user", "time", "seq"))
        assert (np.lexsort((seq, time, user)) == np.arange(len(user))).all()
        cells = [
            names.tolist(),
            time.tolist(),
            [store.types[t] for t in table["type"].to_pylist()],
            [items[-1 if i is None else i] for i in table["item"].to_pylist()],
            *(table[c].to_pylist() for c in columns or ("value", "quantity")),
        ]
        rows += list(zip(*cells, strict=True))
    return sorted(rows, key=repr)


def quarantined(store: Store) -> Counter[tuple[str, str | None]]:
    table = store.quarantine()
    return Counter(zip(table["reason"].to_pylist(), table["user"].to_pylist(), strict=True))
