"""Attributes of items and users: declared tables, and what the log itself repeats on each line."""

from __future__ import annotations

import hashlib
import re
import time as clock
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Config, TableSource
from propend.engine import Engine
from propend.errors import ConfigError, DataError
from propend.events.clean import Finding
from propend.events.hashing import hash_column
from propend.events.ledger import IngestReport, file_prints, report_of
from propend.events.malformed import rejected_table, without_erased
from propend.events.read import Plan, identifier, quoted_name
from propend.events.store import Store, Writer
from propend.names import ITEM, USER

__all__ = ["Repeated", "changes", "read_attribute_tables"]

CHANGES: Final = "changes"
"""The store's table of how many users and items carry more than one value of a repeated attribute."""


class Repeated:
    """Attributes found on log lines: counts of each value per item and user; the commonest wins.

    The commonest value is today's answer, so whoever asks about an earlier moment must know where it changed:
    :func:`changes` says how many users and items carry several values, or one on some of their lines only.
    """

    def __init__(self, plan: Plan) -> None:
        self._names = {"i": plan.of_item, "u": plan.of_user}
        self._counts: dict[tuple[str, str], list[pa.Table]] = {}

    def add(self, get: dict[str, pa.Array], user: pa.Array, item: Any) -> None:
        """Take in a batch: its columns, user ids and item codes."""
        for prefix, key in (("i", pa.array(item)), ("u", user)):
            for name in self._names[prefix]:
                table = pa.table({"key": key, "value": get[f"{prefix}:{name}"]})
                table = table.filter(
                    pc.is_valid(table["key"])
                )  # a blank is a value here: see changes
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
        moved = {row["attribute"]: row for row in (store.table(CHANGES) or _NO_CHANGES).to_pylist()}
        for (prefix, name), parts in self._counts.items():
            counts = _sum_counts(parts)
            best = _commonest(counts.drop_null())
            old = self._before(store, users, prefix, name, ids)
            label = f"{'profile' if prefix == 'u' else ITEM}.{name}"
            changed, among = _changed(counts, best, old)
            so_far = moved.get(label, {"changed": 0, "among": 0})
            moved[label] = {
                "attribute": label,
                "changed": so_far["changed"] + changed,
                "among": max(so_far["among"], among),
            }
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
        if self._counts:
            rows = sorted(moved.values(), key=lambda row: row["attribute"])
            writer.put_table(CHANGES, pa.Table.from_pylist(rows, _NO_CHANGES.schema))

    @staticmethod
    def _before(
        store: Store, users: pa.Table | None, prefix: str, name: str, ids: list[str]
    ) -> pa.Table | None:
        """Return key and value as the store held them before this ingest."""
        table = users if prefix == "u" else store.table("items")
        if table is None or name not in table.column_names:
            return None
        key = table[USER] if prefix == "u" else pc.index_in(table[ITEM], pa.array(ids))
        return pa.table({"key": key, "value": table[name]}).drop_null()


_NO_CHANGES: Final = pa.table(
    {
        "attribute": pa.array([], pa.string()),
        "changed": pa.array([], pa.int64()),
        "among": pa.array([], pa.int64()),
    }
)


def changes(store: Store) -> dict[str, tuple[int, int]]:
    """Return, by attribute that log lines repeat (``profile.tier``, ``item.colour``), how many keys changed it, and of how many.

    A user changes an attribute whose lines say several values, or say one on some lines and nothing on others: at an
    earlier moment it may have been another, or not known. Counted over all ingests.
    """
    table = store.table(CHANGES)
    rows = [] if table is None else table.to_pylist()
    return {row["attribute"]: (row["changed"], row["among"]) for row in rows}


def _changed(counts: pa.Table, best: pa.Table, old: pa.Table | None) -> tuple[int, int]:
    """Return how many keys carry several values, here or against the store, and how many carry any."""
    kinds = counts.group_by("key").aggregate([([], "count_all")])
    several = kinds.filter(pc.greater(kinds["count_all"], 1))["key"].combine_chunks()
    keys = best["key"].combine_chunks()
    moved = pc.is_in(keys, value_set=several)
    among = len(keys)
    if old is not None:
        before = (
            old["value"]
            .combine_chunks()
            .take(pc.index_in(keys, value_set=old["key"].combine_chunks().cast(keys.type)))
        )
        now = best["value"].combine_chunks()
        other = pc.not_equal(before.cast(pa.string()), now.cast(pa.string()))
        moved = pc.or_(moved, pc.fill_null(other, False))
        among = max(among, old.num_rows)
    return pc.sum(moved).as_py() or 0, among


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


def read_attribute_tables(
    config: Config, base: Path, store: Store, engine: Engine
) -> list[IngestReport]:
    """Read the declared item and user tables into the store where they have changed.

    Returns a report per table; of a key that is repeated the last row counts, the earlier ones are set aside.
    """
    reports = []
    for name, role, declared in (("items", ITEM, config.items), ("users", USER, config.users)):
        if declared is None:
            continue
        prints = {
            "table": name,
            "rules": hashlib.sha256(msgspec.json.encode(declared)).hexdigest()[:16],
            "files": file_prints(engine.files(declared, base), declared, base),
        }
        known = [e for e in store.manifest.ledger if e.get("table") == name]
        if prints["files"] and any({k: e.get(k) for k in prints} == prints for e in known):
            reports.append(replace(report_of(f"[{name}]", known), table=True))
            continue
        with store.writing() as writer:
            table, report = _read_table(declared, base, engine, role, writer)
            if role == ITEM:
                ids = set(store.item_ids())
                writer.add_items([i for i in table[ITEM].to_pylist() if i not in ids])
                table = table.append_column(
                    "in_catalogue", pa.array(np.ones(table.num_rows, np.bool_))
                )
            writer.put_table(name, _merge(store.table(name), table, role))
            writer.next.ledger = [e for e in writer.next.ledger if e.get("table") != name]
            writer.next.ledger.append({**msgspec.to_builtins(asdict(report)), **prints})
            writer.commit()
        reports.append(report)
    return reports


def _read_table(
    declared: TableSource, base: Path, engine: Engine, role: str, writer: Writer
) -> tuple[pa.Table, IngestReport]:
    """Read a table of items or users: one row per key (the last one wins), attributes as text or numbers."""
    started = clock.perf_counter()
    label = f"[{declared.name}]"
    select = _selection(declared, base, engine, role)
    scan = engine.scan(declared, base, select)
    batches = [b.select([*select, "file"]) for b in scan.batches]
    table = pa.Table.from_batches(batches) if batches else None
    if table is None or table.num_rows == 0:
        raise DataError(
            f"{label} holds no row; bring the table again or take it out of propend.toml"
        )
    erased = writer.next.erased if role == USER else []
    if erased:
        gone = np.isin(hash_column(table[role]), np.array(erased, np.uint64))
        table = table.filter(pa.array(~gone))
    rejected = without_erased(scan.rejected, erased)
    rows = np.arange(table.num_rows)
    last = pa.table({role: table[role], "row": rows}).group_by(role).aggregate([("row", "max")])
    chosen = np.sort(last.filter(pc.is_valid(last[role]))["row_max"].to_numpy())
    aside = np.setdiff1d(rows, chosen)
    keyless = ~np.asarray(pc.is_valid(table[role].take(aside)))
    reasons = np.where(keyless, f"no {role}", "repeated key")
    writer.rewrite_quarantine(lambda t: pc.not_equal(t["source"], label))
    writer.add_quarantine(_set_aside(table.take(aside), aside, reasons, label, role))
    writer.add_quarantine(rejected_table(label, rejected))
    found = Counter([*reasons.tolist(), *["malformed line"] * len(rejected)])
    total = table.num_rows + len(rejected)
    report = IngestReport(label, total, len(chosen), dict(found), table=True)
    report.findings = [Finding(n, k, k / total, "set aside", ()) for n, k in found.items()]
    report.files = len(engine.files(declared, base))
    report.seconds = round(clock.perf_counter() - started, 3)
    return table.take(chosen).drop_columns(["file"]), report


def _set_aside(
    rows: pa.Table, number: npt.NDArray[np.int64], reasons: Any, source: str, role: str
) -> pa.Table:
    """Return rows of a table as they go into the quarantine."""
    encode = msgspec.json.Encoder().encode
    plain = rows.drop_columns(["file"])
    return pa.table(
        {
            "source": pa.array([source] * rows.num_rows, pa.string()),
            "file": rows["file"],
            "row": number + 1,
            "user": rows[role] if role == USER else pa.nulls(rows.num_rows, pa.string()),
            "reason": pa.array(reasons.tolist(), pa.string()),
            "original": pa.array([encode(r).decode() for r in plain.to_pylist()], pa.string()),
        }
    )


def _selection(declared: TableSource, base: Path, engine: Engine, role: str) -> dict[str, str]:
    """Return output name → SQL: the key under its role, then the attributes."""
    columns = engine.columns(declared, base)
    if not declared.key:
        raise ConfigError(
            f"[{declared.name}] names no key; set key = the column that holds the {role} id"
        )
    attributes = dict(declared.attributes) or {
        c: '"' + c.replace('"', '""') + '"' for c in columns if c != declared.key.strip('"')
    }
    if {role, "in_catalogue", "file"} & set(attributes):
        raise ConfigError(
            f"[{declared.name}]: an attribute cannot be named {role!r}, 'file' or 'in_catalogue'; list the attributes under other names"
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
    return select
