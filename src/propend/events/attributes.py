"""Attributes of items and users: declared tables, and what the log itself repeats on each line."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Config, TableSource
from propend.engine import Engine
from propend.errors import ConfigError, DataError
from propend.events.hashing import hash_column
from propend.events.ledger import file_prints
from propend.events.read import Plan, identifier, quoted_name
from propend.events.store import Store, Writer
from propend.names import ITEM, USER

__all__ = ["Repeated", "read_attribute_tables"]


class Repeated:
    """Attributes found on log lines: counts of each value per item and user; the commonest wins."""

    def __init__(self, plan: Plan) -> None:
        self._names = {"i": plan.of_item, "u": plan.of_user}
        self._counts: dict[tuple[str, str], list[pa.Table]] = {}

    def add(self, get: dict[str, pa.Array], user: pa.Array, item: Any) -> None:
        """Take in a batch: its columns, user ids and item codes."""
        for prefix, key in (("i", pa.array(item)), ("u", user)):
            for name in self._names[prefix]:
                table = pa.table({"key": key, "value": get[f"{prefix}:{name}"]}).drop_null()
                counts = table.group_by(["key", "value"]).aggregate([([], "count_all")])
                parts = self._counts.setdefault((prefix, name), [])
                parts.append(counts.rename_columns(["key", "value", "n"]))
                if len(parts) > 32:
                    parts[:] = [_sum_counts(parts)]

    def put(self, store: Store, writer: Writer, new_items: list[str]) -> None:
        """Merge what was found into the store's item and user tables; every item has a row."""
        ids = [*store.item_ids(), *new_items]
        items = {ITEM: pa.array(ids, pa.string())}
        users = store.table("users")
        for (prefix, name), parts in self._counts.items():
            best = _commonest(_sum_counts(parts))
            if prefix == "u":
                users = _merge(users, best.rename_columns([USER, name]), USER)
            else:
                at = pc.index_in(
                    pa.array(np.arange(len(ids), dtype=np.int32)), best["key"].combine_chunks()
                )
                items[name] = best["value"].combine_chunks().take(at)
        if new_items or len(items) > 1 or store.table("items") is None:
            writer.put_table("items", _merge(store.table("items"), pa.table(items), ITEM))
        if users is not None and any(prefix == "u" for prefix, _ in self._counts):
            writer.put_table("users", users)


def _sum_counts(parts: list[pa.Table]) -> pa.Table:
    counts = pa.concat_tables(parts).group_by(["key", "value"]).aggregate([("n", "sum")])
    return counts.select(["key", "value", "n_sum"]).rename_columns(["key", "value", "n"])


def _commonest(counts: pa.Table) -> pa.Table:
    """Return key and its commonest value; ties go to the smaller value, so that the answer has no order to depend on."""
    ordered = counts.sort_by([("key", "ascending"), ("n", "descending"), ("value", "ascending")])
    firsts = ordered.group_by("key", use_threads=False).aggregate([("value", "first")])
    return firsts.select(["key", "value_first"]).rename_columns(["key", "value"])


def _merge(old: pa.Table | None, new: pa.Table, key: str) -> pa.Table:
    """Return the rows of both by key; what the new table knows replaces what the old one said."""
    if old is None:
        return new
    keys = pc.unique(pa.chunked_array([*old[key].chunks, *new[key].chunks], pa.string()))
    rows = [(table, pc.index_in(keys, table[key].combine_chunks())) for table in (new, old)]
    columns: dict[str, Any] = {key: keys}
    for name in dict.fromkeys([*old.column_names, *new.column_names]):
        if name == key:
            continue
        parts = [table[name].take(at) for table, at in rows if name in table.column_names]
        kinds = {part.type for part in parts}
        columns[name] = pc.coalesce(
            *(part if len(kinds) == 1 else part.cast(pa.string()) for part in parts)
        )
    return pa.table(columns)


def read_attribute_tables(config: Config, base: Path, store: Store, engine: Engine) -> None:
    """Read the declared item and user tables into the store where they have changed."""
    for name, role, declared in (("items", ITEM, config.items), ("users", USER, config.users)):
        if declared is None:
            continue
        prints = {
            "table": name,
            "rules": hashlib.sha256(msgspec.json.encode(declared)).hexdigest()[:16],
            "files": file_prints(engine.files(declared, base), declared, base),
        }
        if (
            any({k: entry.get(k) for k in prints} == prints for entry in store.manifest.ledger)
            and prints["files"]
        ):
            continue
        table = _read_table(declared, base, engine, role)
        with store.writing() as writer:
            if role == ITEM:
                known = set(store.item_ids())
                writer.add_items([i for i in table[ITEM].to_pylist() if i not in known])
                table = table.append_column(
                    "in_catalogue", pa.array(np.ones(table.num_rows, np.bool_))
                )
            elif writer.next.erased:
                gone = np.isin(hash_column(table[USER]), np.array(writer.next.erased, np.uint64))
                table = table.filter(pa.array(~gone))
            writer.put_table(name, _merge(store.table(name), table, role))
            writer.next.ledger = [e for e in writer.next.ledger if e.get("table") != name]
            writer.next.ledger.append(
                {
                    "source": f"[{name}]",
                    "rows_in": 0,
                    "rows_kept": 0,
                    "quarantine": {},
                    "findings": [],
                    "seconds": 0.0,
                    **prints,
                }
            )
            writer.commit()


def _read_table(declared: TableSource, base: Path, engine: Engine, role: str) -> pa.Table:
    """Read a table of items or users: one row per key (the last one wins), attributes as text or numbers."""
    columns = engine.columns(declared, base)
    if not declared.key:
        raise ConfigError(
            f"[{declared.name}] names no key; set key = the column that holds the {role} id"
        )
    attributes = dict(declared.attributes) or {
        c: '"' + c.replace('"', '""') + '"' for c in columns if c != declared.key.strip('"')
    }
    if role in attributes or "in_catalogue" in attributes:
        raise ConfigError(
            f"[{declared.name}]: an attribute cannot be named {role!r} or 'in_catalogue'; list the attributes under other names"
        )
    key = quoted_name(declared.key, columns)
    attributes = {name: quoted_name(e, columns) for name, e in attributes.items()}
    kinds = engine.columns(declared, base, {"key": key, **attributes})
    select = {role: identifier(key, kinds["key"])}
    for name, expression in attributes.items():
        numeric = re.match(
            r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL)", kinds[name]
        )
        select[name] = (
            f"try_cast(({expression}) AS DOUBLE)"
            if numeric
            else f"nullif(trim(({expression})::VARCHAR), '')"
        )
    batches = [b.select([role, *attributes]) for b in engine.scan(declared, base, select).batches]
    if not batches or sum(b.num_rows for b in batches) == 0:
        raise DataError(
            f"[{declared.name}] holds no row; bring the table again or take it out of propend.toml"
        )
    table = pa.Table.from_batches(batches)
    table = table.filter(pc.is_valid(table[role]))
    last = table.group_by(role, use_threads=False).aggregate(
        [(name, "last") for name in attributes]
    )
    return last.select([role, *(f"{name}_last" for name in attributes)]).rename_columns(
        [role, *attributes]
    )
