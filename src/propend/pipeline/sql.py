"""Ad-hoc SQL over the store: the codes decoded, so that a person can ask in names."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from propend.engine import Engine
from propend.errors import DataError
from propend.events.store import Store
from propend.names import ITEM, TYPE, USER

__all__ = ["answer", "events_view"]


def answer(store: Store, engine: Engine, query: str) -> pa.Table:
    """Answer SQL over the views ``events``, ``users``, ``items`` and ``quarantine``.

    Raises ``DataError`` with the engine's first line where the query cannot be run.
    """
    tables: dict[str, Any] = {
        "runs": [store.folder / run.file for runs in store.manifest.runs.values() for run in runs]
    }
    if not tables["runs"]:
        raise DataError(f"{store.folder} holds no event; ingest some first")
    # a column that is empty in every event is in no file
    tables["all_columns"] = _as_text(store.schema()).empty_table()
    tables["user_ids"] = [
        store.folder / f for files in store.manifest.users.values() for f in files
    ]
    if store.manifest.items:
        tables["item_ids"] = [store.folder / f for f in store.manifest.items]
    tables["type_ids"] = pa.table(
        {
            TYPE: pa.array(range(len(store.types)), pa.int16()),
            "name": pa.array(store.types, pa.string()),
        }
    )
    tables["quarantine"] = store.quarantine()
    for name in ("users", "items"):
        table = store.table(name)
        if table is not None:
            tables[name] = table
    if "users" not in tables:
        ids = [store.user_ids(bucket) for bucket in range(store.buckets)]
        tables["users"] = pa.table({USER: pa.concat_arrays([i.drop_null() for i in ids])})
    return engine.query(
        f"WITH events AS ({events_view(store)}) SELECT * FROM ({query.rstrip().rstrip(';')}) AS answer",
        tables,
    )


def events_view(store: Store) -> str:
    """Return the SQL of the decoded events."""
    plain = [
        c
        for c in (
            "value",
            "quantity",
            "price",
            "session",
            "channel",
            "text",
            "arrival",
            "return_of",
        )
        if c in store.manifest.columns
    ]
    extra = [f'runs."{name}"' for name in store.manifest.properties]
    columns = ", ".join(
        [
            f'user_ids.user_id AS "{USER}"',
            "runs.time",
            'type_ids.name AS "type"',
            *([f'item_ids.item_id AS "{ITEM}"'] if store.manifest.items else []),
            *(f'runs."{c}"' for c in plain),
            *extra,
            "runs.seq",
        ]
    )
    items = (
        f' LEFT JOIN item_ids ON item_ids."{ITEM}" = runs."{ITEM}"' if store.manifest.items else ""
    )
    runs = "(SELECT * FROM runs UNION ALL BY NAME SELECT * FROM all_columns) AS runs"
    return f'SELECT {columns} FROM {runs} JOIN user_ids ON user_ids."{USER}" = runs."{USER}" JOIN type_ids ON type_ids."{TYPE}" = runs."{TYPE}"{items}'


def _as_text(schema: pa.Schema) -> pa.Schema:
    """Return the schema with coded texts as texts."""
    return pa.schema(
        [f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in schema]
    )
