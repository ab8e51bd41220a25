"""Sources into the store, in two passes of constant memory.

The first pass streams the source, judges each row by itself and spills it to its user's bucket; the second takes
one bucket at a time, where all of a user's rows are together: duplicates over the whole history, bots, returns.
Rows in = rows kept + rows set aside; the commit at the end makes all of it visible at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
import time as clock
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import CleanConfig, Config, EventSource, TableSource
from propend.engine import Engine, Rejected
from propend.errors import ConfigError, DataError, nearest
from propend.events import clean
from propend.events.clean import CODE, REASONS, Finding, Reservoir
from propend.events.clock import moment, to_utc
from propend.events.hashing import hash_column, hash_rows
from propend.events.read import Plan, identifier, plan
from propend.events.store import (
    MESSAGE_HASH,
    QUARANTINE,
    RETURN_OF,
    ROW_HASH,
    SOURCE,
    Store,
    Writer,
    event_schema,
    sort_order,
)
from propend.events.timelines import NO_ITEM, offsets_of
from propend.expression.duration import Duration
from propend.names import (
    ARRIVAL,
    ITEM,
    MESSAGE,
    PRICE,
    QUANTITY,
    ROLES,
    SEQUENCE,
    TIME,
    TYPE,
    USER,
    VALUE,
)

__all__ = ["IngestReport", "ingest", "replay"]

Progress = Callable[[str, int, int | None], None]
"""Called with a phase, how much is done and how much there is (``None``: not known)."""

EXAMPLES: Final = 3
RETURN: Final = "return"
PURCHASE: Final = "purchase"


@dataclass
class IngestReport:
    """What came in, what was kept, what was set aside and why, and what was found on the way."""

    source: str
    rows_in: int = 0
    rows_kept: int = 0
    quarantine: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    seconds: float = 0.0

    @property
    def rows_quarantined(self) -> int:
        """Rows set aside; together with ``rows_kept`` they are ``rows_in``."""
        return sum(self.quarantine.values())


def ingest(
    config: Config,
    base: Path,
    store_folder: Path,
    engine: Engine,
    *,
    only: EventSource | None = None,
    progress: Progress | None = None,
) -> list[IngestReport]:
    """Bring every declared source into the store that is not there yet, under the rules as they are now.

    A source whose files and rules have not changed is left alone; new files are added; a source whose rules or
    files changed is taken out and read afresh. Returns a report per source, from the ledger where nothing was read.
    Raises ``ConfigError`` or ``DataError`` with one sentence; nothing is half-written then.
    """
    sources = config.events if only is None else (only,)
    if not sources:
        raise ConfigError(
            "propend.toml declares no [[events]] source; add one, or make a workspace with: propend init DIR --from FILE"
        )
    plans = [
        (source, _files(source, base, engine), plan(config, source, engine, base))
        for source in sources
    ]
    if not Store.exists(store_folder):
        Store.create(
            store_folder,
            config.workspace.buckets
            or _choose_buckets([f for _, files, _ in plans for f in files]),
        )
    store = Store(store_folder)
    reports = []
    for source, files, source_plan in plans:
        reports.append(
            _ingest_source(config, base, store, engine, source, files, source_plan, progress)
        )
    if only is None:
        _attribute_tables(config, base, store, engine)
    return reports


def replay(
    config: Config,
    base: Path,
    store_folder: Path,
    engine: Engine,
    *,
    progress: Progress | None = None,
) -> list[IngestReport]:
    """Send the quarantined rows through the rules as they are now; what passes is added to the store.

    Rows that came out as duplicates stay where they are: their first copy is in the store.
    """
    store = Store(store_folder)
    reports = []
    for source in config.events:
        rows = store.quarantine().filter(pc.equal(store.quarantine()["source"], source.name))
        if rows.num_rows == 0:
            continue
        with tempfile.TemporaryDirectory(prefix="propend-replay-") as scratch:
            path = Path(scratch) / "quarantine.jsonl"
            with path.open("w", encoding="utf-8") as out:
                out.writelines(
                    line + "\n"
                    for line in rows["original"].to_pylist()
                    if line and line.startswith("{")
                )
            again = msgspec.structs.replace(
                source, files=(str(path),), format="jsonl", database=None, table=None
            )
            report = _ingest_source(
                config,
                base,
                store,
                engine,
                again,
                [path],
                plan(config, again, engine, base),
                progress,
                replayed=True,
            )
        reports.append(report)
    return reports


def _files(source: EventSource, base: Path, engine: Engine) -> list[Path]:
    return engine.files(source, base)


def _choose_buckets(files: Sequence[Path]) -> int:
    """Choose the bucket count so that a bucket holds about a million events."""
    size = sum(
        f.stat().st_size * (5 if f.suffix in (".parquet", ".pq", ".gz") else 1) for f in files
    )
    for buckets, limit in ((4, 128 << 20), (16, 1 << 30), (64, 32 << 30)):
        if size <= limit:
            return buckets
    return 256


def _rules_print(config: Config, source: EventSource) -> str:
    """Return a fingerprint of everything that decides how this source's rows are read and cleaned."""
    declared = msgspec.json.encode(
        [msgspec.structs.replace(source, files=()), config.clean, config.workspace.zone]
    )
    return hashlib.sha256(declared).hexdigest()[:16]


def _file_prints(files: Sequence[Path]) -> list[list[Any]]:
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _ingest_source(
    config: Config,
    base: Path,
    store: Store,
    engine: Engine,
    source: EventSource,
    files: list[Path],
    source_plan: Plan,
    progress: Progress | None,
    *,
    replayed: bool = False,
) -> IngestReport:
    rules, prints = _rules_print(config, source), _file_prints(files)
    known = (
        []
        if replayed
        else [entry for entry in store.manifest.ledger if entry["source"] == source.name]
    )
    old = [tuple(p) for entry in known for p in entry["files"]]
    unchanged = (
        bool(known)
        and all(entry["rules"] == rules for entry in known)
        and set(old) <= {tuple(p) for p in prints}
    )
    fresh = [f for f, p in zip(files, prints, strict=True) if tuple(p) not in set(old)]
    if unchanged and files and not fresh:
        return _from_ledger(source.name, known)
    part = source
    if unchanged and fresh:
        part = msgspec.structs.replace(source, files=tuple(str(f) for f in fresh))
        prints = _file_prints(fresh)
    started = clock.perf_counter()
    with (
        store.writing() as writer,
        tempfile.TemporaryDirectory(prefix="ingest-", dir=store.folder) as scratch,
    ):
        if replayed:
            _drop_replayable(writer, source.name)
        elif known and not unchanged:
            writer.drop_source(source.name)
        job = _Job(config, part, source_plan, store, writer, engine, Path(scratch), base, progress)
        report = job.run()
        report.files, report.seconds = len(prints), round(clock.perf_counter() - started, 3)
        entry = {
            **asdict(report),
            "source": source.name,
            "rules": rules,
            "files": [] if replayed else prints,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "replayed": replayed,
        }
        writer.next.ledger.append(entry)
        writer.commit()
    if not unchanged or replayed:
        return report
    return _from_ledger(source.name, [*known, entry])


def _drop_replayable(writer: Writer, source: str) -> None:
    """Take a source's quarantined rows out (they are about to be judged again), except lines that are no rows."""
    writer._rewrite_quarantine(
        lambda t: pc.or_(
            pc.not_equal(t["source"], source), pc.invert(pc.starts_with(t["original"], "{"))
        )
    )
    remaining = []
    for entry in writer.next.ledger:
        if entry["source"] == source:
            lines = entry["quarantine"].get("malformed line", 0)
            gone = sum(entry["quarantine"].values()) - lines
            entry = {
                **entry,
                "rows_in": entry["rows_in"] - gone,
                "quarantine": {"malformed line": lines} if lines else {},
            }
        remaining.append(entry)
    writer.next.ledger = remaining


def _from_ledger(source: str, entries: Sequence[dict[str, Any]]) -> IngestReport:
    """Return one report over everything the ledger has of a source."""
    total = IngestReport(source)
    findings: dict[tuple[str, str], Finding] = {}
    quarantine: Counter[str] = Counter()
    for entry in entries:
        total.rows_in += entry["rows_in"]
        total.rows_kept += entry["rows_kept"]
        total.files += len(entry["files"])
        total.seconds += entry["seconds"]
        quarantine.update(entry["quarantine"])
        for f in entry["findings"]:
            new = (
                f
                if isinstance(f, Finding)
                else Finding(f["name"], f["rows"], f["share"], f["done"], tuple(f["examples"]))
            )
            before = findings.get((new.name, new.done))
            rows = new.rows + (before.rows if before else 0)
            findings[(new.name, new.done)] = Finding(
                new.name, rows, 0.0, new.done, (before or new).examples
            )
    total.quarantine = dict(quarantine)
    total.findings = [
        Finding(f.name, f.rows, f.rows / max(total.rows_in, 1), f.done, f.examples)
        for f in findings.values()
    ]
    return total


class _Job:
    """One source on its way into the store."""

    def __init__(
        self,
        config: Config,
        source: EventSource,
        source_plan: Plan,
        store: Store,
        writer: Writer,
        engine: Engine,
        scratch: Path,
        base: Path,
        progress: Progress | None,
    ) -> None:
        self.rules: CleanConfig = config.clean
        self.source, self.plan, self.store, self.writer = source, source_plan, store, writer
        self.engine, self.scratch, self.base = engine, scratch, base
        self.progress = progress or (lambda phase, done, total: None)
        self.now = moment(datetime.now(UTC)) + Duration.parse(self.rules.future_slack).microseconds
        self.earliest = _day(self.rules.earliest)
        self.first_seq = writer.next.next_seq
        self.items = {name: code for code, name in enumerate(store.item_ids())}
        self.new_items: list[str] = []
        self.found: Counter[str] = Counter()
        self.examples: dict[str, list[int]] = {}
        self.rules_hit: Counter[int] = Counter()
        self.prices = Reservoir()
        self.fills = {
            name: Reservoir()
            for name, how in self.rules.missing.items()
            if how == "impute" and name in (VALUE, QUANTITY, PRICE)
        }
        self.modes: dict[str, Counter[str]] = {
            name: Counter()
            for name, how in self.rules.missing.items()
            if how == "impute" and name not in self.fills
        }
        self.of: dict[tuple[str, str], list[pa.Table]] = {}
        self._lock = threading.Lock()
        for name in self.rules.missing:
            if name not in ROLES and name not in self.plan.properties:
                raise ConfigError(
                    f"clean.missing names {name!r}, which is no role or property{nearest(name, [*ROLES, *self.plan.properties])}"
                )
        if source.name not in writer.next.sources:
            writer.next.sources.append(source.name)
        self.code = writer.next.sources.index(source.name)
        for name, kind in self.plan.properties.items():
            if writer.next.properties.setdefault(name, kind) != kind:
                raise ConfigError(
                    f"{source.name}: property {name!r} is {kind} here and {writer.next.properties[name]} in another source; give one of them another name"
                )
        self.properties = dict(writer.next.properties)

    def run(self) -> IngestReport:
        """Do both passes and return the report; the caller commits."""
        rejected = self._first_pass()
        total = self._rows
        if total + len(rejected) == 0:
            raise DataError(
                f"{self.source.name}: the source holds no row; bring a file with at least one event"
            )
        self._median, self._mad = self.prices.medians()
        self._imputed = {name: (r.medians()[0], r.median()) for name, r in self.fills.items()}
        self.writer.add_items(self.new_items)
        self.writer.next.next_seq += total
        kept = 0
        reasons: Counter[str] = Counter()
        done = 0
        buckets = sorted(self._spills)
        for bucket_kept, bucket_reasons in self.engine.map_buckets(self._second_pass, buckets):
            kept += bucket_kept
            reasons.update(bucket_reasons)
            done += 1
            self.progress("clean and store", done, len(buckets))
        if rejected:
            reasons["malformed line"] += len(rejected)
            self.writer.add_quarantine(_rejected_table(self.source.name, rejected))
        self._put_attributes()
        report = IngestReport(
            self.source.name, total + len(rejected), kept, {r: n for r, n in reasons.items() if n}
        )
        report.findings = self._findings(report, rejected)
        if report.rows_in != report.rows_kept + report.rows_quarantined:
            raise AssertionError(
                f"{self.source.name}: {report.rows_in} rows in, {kept} kept, {report.rows_quarantined} set aside"
            )
        return report

    # ---- first pass: each row by itself

    def _first_pass(self) -> list[Rejected]:
        scan = self.engine.scan(self.source, self.base, self.plan.select, raw=True)
        self._spills: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        self._rows = 0
        self._starts: list[int] = []
        raw_writer: pa.ipc.RecordBatchFileWriter | None = None
        file_rows: Counter[str] = Counter()
        try:
            for batch in scan.batches:
                if batch.num_rows == 0:
                    continue
                raw = _raw_batch(batch, file_rows)
                if raw_writer is None:
                    raw_writer = pa.ipc.new_file(self.scratch / "raw.arrow", raw.schema)
                raw_writer.write_batch(raw)
                self._starts.append(self._rows)
                self._spill(self._judge(batch))
                self._rows += batch.num_rows
                self.progress("read", self._rows, None)
        finally:
            for writer in self._spills.values():
                writer.close()
            if raw_writer is not None:
                raw_writer.close()
        return scan.rejected

    def _judge(self, batch: pa.RecordBatch) -> pa.Table:
        """Give each row of a batch its codes, its moment and its first row-level fault."""
        n = batch.num_rows
        get = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
        reason = np.zeros(n, np.uint8)
        user, item = get[USER], self._item_codes(get[ITEM])
        times, time_faults = self._moments(TIME, get)
        numbers = {r: np.asarray(pc.fill_null(get[r], np.nan)) for r in self.plan.numbers}
        faults: list[tuple[str, npt.NDArray[np.bool_], str]] = [
            ("missing user", _true(pc.is_null(user)), "quarantine"),
            *((name, rows, "quarantine") for name, rows in time_faults),
            ("time in the future", times > self.now, self.rules.future_times),
            ("unreadable number", _true(get["unreadable"]), "quarantine"),
            ("impossible amount", self._too_large(numbers, n), "quarantine"),
            *self._amount_faults(numbers),
            *self._missing(get, numbers, item),
        ]
        start = self._rows + self.first_seq
        for name, rows, treatment in faults:
            if treatment == "keep" or not rows.any():
                continue
            self._note(name, rows, start)
            if treatment == "quarantine":
                reason[rows & (reason == 0)] = CODE[name]
        self._count_rules(_ints(get["rule"]), start)
        self.prices.add(
            np.where(reason == 0, item, NO_ITEM).astype(np.int32), self._unit_price(numbers, n)
        )
        for name, reservoir in self.fills.items():
            if name in numbers:
                reservoir.add(item, numbers[name])
        self._count_attributes(get, item)
        raw_hash = hash_rows([get[c] for c in batch.schema.names if c.startswith("raw.")])
        columns: dict[str, Any] = {
            "user_id": user,
            TIME: times,
            SEQUENCE: np.arange(start, start + n),
            TYPE: self._type_codes(get[TYPE]),
            ITEM: item,
            ROW_HASH: raw_hash,
            "reason": reason,
            **{r: get[r] for r in self.plan.numbers},
            **{r: get[r] for r in self.plan.texts},
            **{f"p:{p}": get[f"p:{p}"] for p in self.plan.properties},
        }
        if self.plan.has_arrival:
            columns[ARRIVAL] = np.maximum(self._moments(ARRIVAL, get)[0], times)
        if MESSAGE in get:
            columns[MESSAGE_HASH] = pa.array(
                hash_column(get[MESSAGE]), mask=_true(pc.is_null(get[MESSAGE]))
            )
        return pa.table(columns)

    def _moments(
        self, role: str, get: dict[str, pa.Array]
    ) -> tuple[npt.NDArray[np.int64], list[tuple[str, npt.NDArray[np.bool_]]]]:
        """Return UTC microseconds (0 where there is none) and the rows whose time is missing, unreadable or impossible."""
        missing = _true(get[f"{role}_missing"])
        unread = _true(pc.is_null(get[role])) & ~missing
        values = np.asarray(pc.fill_null(get[role], 0)).astype(np.int64, copy=True)
        if self.plan.zone is not None:
            naive = ~_true(get[f"{role}_zoned"])
            values[naive] = to_utc(values[naive], self.plan.zone)
        known = ~missing & ~unread
        impossible = known & ((values < self.earliest) | (values > _FAR))
        values[~known] = 0
        return values, [
            ("missing time", missing),
            ("unreadable time", unread),
            ("impossible time", impossible),
        ]

    def _too_large(
        self, numbers: dict[str, npt.NDArray[np.float64]], n: int
    ) -> npt.NDArray[np.bool_]:
        out = np.zeros(n, np.bool_)
        for values in numbers.values():
            out |= np.isinf(values) | (np.abs(np.nan_to_num(values)) > self.rules.max_amount)
        return out

    def _amount_faults(
        self, numbers: dict[str, npt.NDArray[np.float64]]
    ) -> Iterator[tuple[str, npt.NDArray[np.bool_], str]]:
        if PRICE in numbers:
            yield "negative price", numbers[PRICE] < 0, self.rules.negative_price
        if QUANTITY in numbers:
            yield "zero quantity", numbers[QUANTITY] == 0, self.rules.zero_quantity

    def _missing(
        self,
        get: dict[str, pa.Array],
        numbers: dict[str, npt.NDArray[np.float64]],
        item: npt.NDArray[np.int32],
    ) -> Iterator[tuple[str, npt.NDArray[np.bool_], str]]:
        for name, how in self.rules.missing.items():
            column = get.get(name if name in get else f"p:{name}")
            if column is None:
                continue
            if how == "drop":
                rows = (
                    item < 0
                    if name == ITEM
                    else np.isnan(numbers[name])
                    if name in numbers
                    else _true(pc.is_null(column))
                )
                yield "missing value", rows, "quarantine"
            elif how == "impute" and name in self.modes:
                counts = pc.value_counts(column.drop_null())
                self.modes[name].update({str(c["values"]): c["counts"] for c in counts.to_pylist()})

    def _unit_price(
        self, numbers: dict[str, npt.NDArray[np.float64]], n: int
    ) -> npt.NDArray[np.float64]:
        """Return the log of what one piece cost, NaN where unknown: what price outliers are judged by."""
        if PRICE in numbers:
            price = numbers[PRICE]
        elif VALUE in numbers and QUANTITY in numbers:
            with np.errstate(divide="ignore", invalid="ignore"):
                price = numbers[VALUE] / numbers[QUANTITY]
        else:
            return np.full(n, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(price > 0, np.log(price), np.nan)

    def _item_codes(self, items: pa.Array) -> npt.NDArray[np.int32]:
        coded = items.dictionary_encode()
        mapping = np.empty(len(coded.dictionary) + 1, np.int32)
        mapping[-1] = NO_ITEM
        for position, name in enumerate(coded.dictionary.to_pylist()):
            code = self.items.get(name)
            if code is None:
                code = self.items[name] = len(self.items)
                self.new_items.append(name)
            mapping[position] = code
        return mapping[np.asarray(pc.fill_null(coded.indices, -1))]

    def _type_codes(self, types: pa.Array) -> npt.NDArray[np.int16]:
        coded = types.dictionary_encode()
        known = self.writer.next.types
        for name in coded.dictionary.to_pylist():
            if name not in known:
                if len(known) >= 1_000:
                    raise DataError(
                        f"{self.source.name}: more than 1,000 event types; the type role points at a column that names something else"
                    )
                known.append(name)
        mapping = np.array([known.index(name) for name in coded.dictionary.to_pylist()], np.int16)
        return mapping[np.asarray(coded.indices)]

    def _note(self, name: str, rows: npt.NDArray[np.bool_], start: int) -> None:
        """Count rows of a finding and keep the first few as examples."""
        with self._lock:
            self.found[name] += int(rows.sum())
            kept = self.examples.setdefault(name, [])
            if len(kept) < EXAMPLES:
                kept += [int(r) + start for r in np.flatnonzero(rows)[: EXAMPLES - len(kept)]]

    def _count_rules(self, rule: npt.NDArray[np.int64], start: int) -> None:
        for position, (label, _) in enumerate(self.plan.rules):
            rows = rule == position
            if rows.any():
                self._note(label, rows, start)

    def _count_attributes(self, get: dict[str, pa.Array], item: npt.NDArray[np.int32]) -> None:
        for prefix, names, key in (
            ("i", self.plan.of_item, pa.array(item)),
            ("u", self.plan.of_user, get[USER]),
        ):
            for name in names:
                table = pa.table({"key": key, "value": get[f"{prefix}:{name}"]}).drop_null()
                counts = table.group_by(["key", "value"]).aggregate([([], "count_all")])
                parts = self.of.setdefault((prefix, name), [])
                parts.append(counts.rename_columns(["key", "value", "n"]))
                if len(parts) > 32:
                    parts[:] = [_sum_counts(parts)]

    def _put_attributes(self) -> None:
        """Merge the attributes found on log lines into the item and user tables: the commonest value wins."""
        ids = [*self.store.item_ids(), *self.new_items]
        items = {ITEM: pa.array(ids, pa.string())}
        old = self.store.table("items")
        for (prefix, name), parts in self.of.items():
            if prefix != "i":
                continue
            best = _commonest(_sum_counts(parts))
            values = np.full(len(ids), None, object)
            keys = np.asarray(best["key"])
            there = keys >= 0
            values[keys[there]] = best["value"].to_numpy(zero_copy_only=False)[there]
            items[name] = pa.array(values, best["value"].type)
        self.writer.put_table("items", _merge(old, pa.table(items), ITEM))
        users = {
            name: _commonest(_sum_counts(parts))
            for (prefix, name), parts in self.of.items()
            if prefix == "u"
        }
        if users:
            merged = self.store.table("users")
            for name, best in users.items():
                merged = _merge(merged, best.rename_columns([USER, name]), USER)
            self.writer.put_table("users", merged)

    def _spill(self, table: pa.Table) -> None:
        """Append the rows of a batch to their buckets: by user, or by row where the user is missing."""
        hashes = hash_column(table["user_id"])
        lost = _true(pc.is_null(table["user_id"]))
        if lost.any():
            hashes = np.where(lost, np.asarray(table[ROW_HASH]), hashes)
        bucket = (hashes % np.uint64(self.store.buckets)).astype(np.int16)
        table = table.append_column("user_hash", pa.array(hashes))
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(self.store.buckets + 1))
        ordered = table.take(pa.array(order)).combine_chunks()
        for b in range(self.store.buckets):
            if ends[b + 1] > ends[b]:
                if b not in self._spills:
                    self._spills[b] = pa.ipc.new_file(
                        self.scratch / f"b{b:04d}.arrow", ordered.schema
                    )
                self._spills[b].write_table(ordered.slice(ends[b], ends[b + 1] - ends[b]))

    # ---- second pass: all of a user's rows together

    def _second_pass(self, bucket: int) -> tuple[int, Counter[str]]:
        path = self.scratch / f"b{bucket:04d}.arrow"
        with pa.memory_map(str(path)) as mapped:
            rows = pa.ipc.open_file(mapped).read_all()
        reason = np.array(rows["reason"])
        user, new_ids = self._user_codes(bucket, rows["user_id"].combine_chunks())
        seq = np.asarray(rows[SEQUENCE])
        history = self._history(bucket, user)
        self._duplicates(rows, user, reason, seq, history)
        self._people(bucket, rows, user, reason, seq, new_ids)
        kept = reason == 0
        table = self._events(rows, user, kept, history)
        self.writer.add_users(bucket, new_ids)
        self.writer.add_run(bucket, table)
        if not kept.all():
            self.writer.add_quarantine(
                self._set_aside(seq[~kept], reason[~kept], rows["user_id"].filter(pa.array(~kept)))
            )
        counts = np.bincount(reason, minlength=len(REASONS))
        path.unlink()
        return int(counts[0]), Counter(
            {REASONS[c]: int(n) for c, n in enumerate(counts) if c and n}
        )

    def _user_codes(self, bucket: int, ids: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
        """Return user codes (−1: missing) and the ids that are new to the bucket."""
        known = self.store.user_ids(bucket)
        coded = ids.dictionary_encode()
        at = pc.index_in(coded.dictionary, value_set=known)
        new = coded.dictionary.filter(pc.is_null(at))
        position = np.asarray(pc.fill_null(at, -1)).astype(np.int64)
        position[position < 0] = self.writer.next.user_counts.get(bucket, 0) + np.arange(len(new))
        codes = np.append(position * self.store.buckets + bucket, -1)
        return codes[np.asarray(pc.fill_null(coded.indices, -1))], new

    def _history(self, bucket: int, user: npt.NDArray[np.int64]) -> pa.Table | None:
        """Return what the store already has of these users, for duplicates and returns."""
        if not self.writer.next.runs.get(bucket):
            return None
        known = np.unique(
            user[
                (user >= 0)
                & (user < self.writer.next.user_counts.get(bucket, 0) * self.store.buckets)
            ]
        )
        columns = [USER, TIME, SEQUENCE, TYPE, ITEM, QUANTITY, ROW_HASH, MESSAGE_HASH]
        only = pa.array(known.astype(np.int32)) if len(known) < 50_000 else None
        return self.store._read_runs(self.writer.next.runs[bucket], columns, only).select(columns)

    def _duplicates(
        self,
        rows: pa.Table,
        user: npt.NDArray[np.int64],
        reason: npt.NDArray[np.uint8],
        seq: npt.NDArray[np.int64],
        history: pa.Table | None,
    ) -> None:
        row_hash = np.asarray(rows[ROW_HASH])
        again = clean.repeats(row_hash, user)
        self._note_rows("exact duplicate", again, seq)
        if self.rules.exact_duplicates == "quarantine":
            reason[again] = CODE["exact duplicate"]
        if history is not None:
            seen = (
                np.isin(row_hash, np.asarray(history[ROW_HASH].drop_null()))
                & (user >= 0)
                & (reason != CODE["exact duplicate"])
            )
            if self.rules.exact_duplicates == "quarantine":
                reason[seen] = CODE["already ingested"]
            self._note_rows("already ingested", seen, seq)
        if MESSAGE_HASH in rows.column_names and self.rules.duplicate_messages != "keep":
            there = _true(pc.is_valid(rows[MESSAGE_HASH]))
            message = np.asarray(pc.fill_null(rows[MESSAGE_HASH], 0))
            order_ok = there & (reason == 0)
            again = clean.repeats(message, user, among=order_ok)
            if history is not None:
                again |= order_ok & np.isin(message, np.asarray(history[MESSAGE_HASH].drop_null()))
            self._note_rows("duplicate message id", again, seq)
            if self.rules.duplicate_messages == "quarantine":
                reason[again] = CODE["duplicate message id"]

    def _people(
        self,
        bucket: int,
        rows: pa.Table,
        user: npt.NDArray[np.int64],
        reason: npt.NDArray[np.uint8],
        seq: npt.NDArray[np.int64],
        new_ids: pa.Array,
    ) -> None:
        """Judge users as wholes: erased, test, bot-like; and prices against their item."""
        if self.writer.next.erased:
            erased = np.isin(
                np.asarray(rows["user_hash"]), np.array(self.writer.next.erased, np.uint64)
            ) & (user >= 0)
            self._note_rows("erased user", erased, seq)
            reason[erased] = CODE["erased user"]
        if self.rules.test_users != "keep":
            tests = _true(
                pc.fill_null(
                    pc.match_substring_regex(rows["user_id"], self.rules.test_user_pattern), False
                )
            )
            self._apply("test user", tests & (reason == 0), self.rules.test_users, reason, seq)
        if self.rules.bots != "keep":
            alive = np.flatnonzero(reason == 0)
            time = np.asarray(rows[TIME])
            order = alive[np.lexsort((seq[alive], time[alive], user[alive]))]
            who, offsets = offsets_of(user[order])
            bots = clean.is_bot(
                offsets, time[order], self.rules.bot_events_per_day, self.rules.bot_regularity
            )
            self._apply(
                "bot-like user",
                np.isin(user, who[bots]) & (reason == 0),
                self.rules.bots,
                reason,
                seq,
            )
        if self.rules.outliers != "keep" and len(self._median):
            self._apply(
                "price outlier",
                self._outliers(rows) & (reason == 0),
                self.rules.outliers,
                reason,
                seq,
            )

    def _outliers(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        numbers = {r: np.asarray(pc.fill_null(rows[r], np.nan)) for r in self.plan.numbers}
        price = self._unit_price(numbers, rows.num_rows)
        item = np.asarray(rows[ITEM])
        spread = np.maximum(
            self._mad, 0.1
        )  # an item that never changed its price still may, by a tenth
        inside = (item >= 0) & (item < len(self._median))
        away = np.zeros(len(item))
        away[inside] = np.abs(price[inside] - self._median[item[inside]]) / spread[item[inside]]
        return np.nan_to_num(away) > self.rules.outlier_mads

    def _apply(
        self,
        name: str,
        rows: npt.NDArray[np.bool_],
        treatment: str,
        reason: npt.NDArray[np.uint8],
        seq: npt.NDArray[np.int64],
    ) -> None:
        self._note_rows(name, rows, seq)
        if treatment == "quarantine":
            reason[rows] = CODE[name]

    def _note_rows(
        self, name: str, rows: npt.NDArray[np.bool_], seq: npt.NDArray[np.int64]
    ) -> None:
        if rows.any():
            with self._lock:
                self.found[name] += int(rows.sum())
                kept = self.examples.setdefault(name, [])
                kept += [int(s) for s in seq[rows][: max(0, EXAMPLES - len(kept))]]

    def _events(
        self,
        rows: pa.Table,
        user: npt.NDArray[np.int64],
        kept: npt.NDArray[np.bool_],
        history: pa.Table | None,
    ) -> pa.Table:
        """Return the kept rows as a run: the store's schema, sorted by (user, time, seq)."""
        schema = event_schema(self.properties)
        table = rows.filter(pa.array(kept))
        columns: dict[str, Any] = {USER: pa.array(user[kept].astype(np.int32))}
        for schema_field in schema:
            name = schema_field.name
            source = f"p:{name}" if f"p:{name}" in table.column_names else name
            if name == SOURCE:
                columns[name] = pa.array(np.full(table.num_rows, self.code, np.int16))
            elif name == ITEM:
                codes = np.asarray(table[ITEM])
                columns[name] = pa.array(codes, mask=codes < 0)
            elif name == RETURN_OF:
                columns[name] = self._returns(table, user[kept], history)
            elif name in columns:
                continue
            elif source in table.column_names:
                columns[name] = self._imputed_column(
                    name, table[source], np.asarray(table[ITEM])
                ).cast(schema_field.type)
            else:
                columns[name] = pa.nulls(table.num_rows, schema_field.type)
        events = pa.table(columns, schema=schema)
        return events.take(pa.array(sort_order(events)))

    def _imputed_column(
        self, name: str, column: pa.ChunkedArray, item: npt.NDArray[np.int32]
    ) -> pa.ChunkedArray:
        """Fill missing values where a rule says so: numbers with the item's median, texts with the mode."""
        if column.null_count == 0:
            return column
        if name in self._imputed:
            medians, overall = self._imputed[name]
            fill = np.full(len(item), overall)
            inside = (item >= 0) & (item < len(medians))
            own = medians[item[inside]]
            fill[inside] = np.where(np.isnan(own), overall, own)
            gaps = _true(pc.is_null(column))
            self._note_rows(f"{name} filled in", gaps & np.isfinite(fill), np.full(len(item), -1))
            return pa.chunked_array(
                [
                    pa.array(
                        np.where(gaps, fill, np.asarray(pc.fill_null(column, 0.0))),
                        from_pandas=True,
                    )
                ]
            )
        if self.modes.get(name):
            self._note_rows(
                f"{name} filled in", _true(pc.is_null(column)), np.full(len(column), -1)
            )
            return pc.fill_null(column, self.modes[name].most_common(1)[0][0])
        return column

    def _returns(
        self, table: pa.Table, user: npt.NDArray[np.int64], history: pa.Table | None
    ) -> pa.Array:
        """Return for each kept row the sequence of the purchase it gives back, or null."""
        types = self.writer.next.types
        n = table.num_rows
        if (
            not self.rules.link_returns
            or RETURN not in types
            or QUANTITY not in (*self.plan.numbers, QUANTITY)
        ):
            return pa.nulls(n, pa.int64())
        parts = [_link_columns(table, user)]
        if history is not None and history.num_rows:
            parts.append(_link_columns(history, np.asarray(history[USER]).astype(np.int64)))
        who, when, seq, kinds, item, pieces = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        purchase = types.index(PURCHASE) if PURCHASE in types else -1
        kind = np.where(kinds == purchase, 1, np.where(kinds == types.index(RETURN), 2, 0)).astype(
            np.int8
        )
        if not (kind[:n] == 2).any():
            return pa.nulls(n, pa.int64())
        linked = clean.link_returns(who, when, seq, item.astype(np.int32), kind, pieces)[:n]
        returns = kind[:n] == 2
        self._note_rows("returns linked to their purchase", returns & (linked >= 0), seq[:n])
        self._note_rows("returns without a purchase in the log", returns & (linked < 0), seq[:n])
        return pa.array(linked, mask=linked < 0)

    def _set_aside(
        self, seq: npt.NDArray[np.int64], reason: npt.NDArray[np.uint8], user: pa.ChunkedArray
    ) -> pa.Table:
        """Return quarantine rows: the reason beside the row as it came."""
        originals, files, numbers = self._originals(seq)
        erased = reason == CODE["erased user"]
        return pa.table(
            {
                "source": pa.array([self.source.name] * len(seq)),
                "file": files,
                "row": numbers,
                "user": pa.array(
                    [None if gone else u for u, gone in zip(user.to_pylist(), erased, strict=True)],
                    pa.string(),
                ),
                "reason": pa.array([REASONS[c] for c in reason]),
                "original": pa.array(
                    [None if gone else o for o, gone in zip(originals, erased, strict=True)],
                    pa.string(),
                ),
            },
            schema=QUARANTINE,
        )

    def _originals(self, seq: npt.NDArray[np.int64]) -> tuple[list[str], list[str], list[int]]:
        """Fetch rows as they came, by sequence: JSON, file and row number in the file."""
        originals, files, numbers = [""] * len(seq), [""] * len(seq), [0] * len(seq)
        local = seq - self.first_seq
        starts = np.array(self._starts)
        home = np.searchsorted(starts, local, side="right") - 1
        with pa.memory_map(str(self.scratch / "raw.arrow")) as mapped:
            reader = pa.ipc.open_file(mapped)
            for batch_index in np.unique(home):
                chosen = np.flatnonzero(home == batch_index)
                part = reader.get_batch(int(batch_index)).take(
                    pa.array(local[chosen] - starts[batch_index])
                )
                for position, row in zip(chosen, part.to_pylist(), strict=True):
                    files[position], numbers[position] = row.pop("file") or "", row.pop("row")
                    originals[position] = json.dumps(row, ensure_ascii=False, default=str)
        return originals, files, numbers

    # ---- what was found

    def _findings(self, report: IngestReport, rejected: list[Rejected]) -> list[Finding]:
        done = {
            "exact duplicate": self.rules.exact_duplicates,
            "duplicate message id": self.rules.duplicate_messages,
            "time in the future": self.rules.future_times,
            "negative price": self.rules.negative_price,
            "zero quantity": self.rules.zero_quantity,
            "test user": self.rules.test_users,
            "bot-like user": self.rules.bots,
            "price outlier": self.rules.outliers,
        }
        words = {"quarantine": "set aside", "flag": "kept, only counted", "keep": "kept"}
        labels = dict(self.plan.rules)
        findings = []
        if rejected:
            findings.append(
                Finding(
                    "malformed line",
                    len(rejected),
                    len(rejected) / report.rows_in,
                    "set aside",
                    tuple(r.text for r in rejected[:EXAMPLES]),
                )
            )
        for name, rows in self.found.most_common():
            shown = [s for s in self.examples.get(name, []) if s >= self.first_seq]
            examples = tuple(self._originals(np.array(sorted(shown)))[0]) if shown else ()
            how = (
                words[done[name]]
                if name in done
                else f"type {labels[name]}"
                if name in labels
                else "set aside"
                if name in CODE
                else "kept"
            )
            findings.append(Finding(name, rows, rows / report.rows_in, how, examples))
        return findings


_FAR: Final = moment(datetime(2200, 1, 1, tzinfo=UTC))


def _day(text: str) -> int:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ConfigError(f"clean.earliest must be a day such as 1990-01-01, not {text!r}")
    return moment(datetime.fromisoformat(text).replace(tzinfo=UTC))


def _true(values: Any) -> npt.NDArray[np.bool_]:
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(pc.fill_null(flat, False)).astype(np.bool_)


def _ints(values: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(values, -1)).astype(np.int64)


def _raw_batch(batch: pa.RecordBatch, file_rows: Counter[str]) -> pa.RecordBatch:
    """Return the row as it came, with its file and its place in the file."""
    names = [name for name in batch.schema.names if name.startswith("raw.")]
    file = batch.column(batch.schema.names.index("file")).dictionary_encode()
    indices = np.asarray(pc.fill_null(file.indices, 0))
    number = np.empty(batch.num_rows, np.int64)
    for code, path in enumerate(file.dictionary.to_pylist()):
        rows = np.flatnonzero(indices == code)
        number[rows] = file_rows[path] + 1 + np.arange(len(rows))
        file_rows[path] += len(rows)
    file = file.dictionary_decode()
    columns = [batch.column(batch.schema.names.index(name)) for name in names]
    return pa.RecordBatch.from_arrays(
        [file, pa.array(number), *columns],
        ["file", "row", *(n.removeprefix("raw.") for n in names)],
    )


def _rejected_table(source: str, rejected: list[Rejected]) -> pa.Table:
    return pa.table(
        {
            "source": [source] * len(rejected),
            "file": [r.file for r in rejected],
            "row": [r.line for r in rejected],
            "user": pa.nulls(len(rejected), pa.string()),
            "reason": ["malformed line"] * len(rejected),
            "original": [r.text for r in rejected],
        },
        schema=QUARANTINE,
    )


def _link_columns(table: pa.Table, user: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
    quantity = (
        np.asarray(pc.fill_null(table[QUANTITY], np.nan))
        if QUANTITY in table.column_names
        else np.full(table.num_rows, np.nan)
    )
    times = (
        table[TIME].cast(pa.int64())
        if pa.types.is_timestamp(table.schema.field(TIME).type)
        else table[TIME]
    )
    return (
        user,
        np.asarray(times),
        np.asarray(table[SEQUENCE]),
        np.asarray(table[TYPE]),
        np.asarray(pc.fill_null(table[ITEM], NO_ITEM)),
        quantity,
    )


def _sum_counts(parts: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(parts)
    return (
        table.group_by(["key", "value"])
        .aggregate([("n", "sum")])
        .rename_columns(["key", "value", "n"])
    )


def _commonest(counts: pa.Table) -> pa.Table:
    """Return key and its commonest value; ties go to the smaller value, so that the answer has no order to depend on."""
    ordered = counts.sort_by([("key", "ascending"), ("n", "descending"), ("value", "ascending")])
    firsts = ordered.group_by("key", use_threads=False).aggregate([("value", "first")])
    return (
        firsts.rename_columns(["key", "value"])
        if firsts.column_names[0] == "key"
        else firsts.select(["key", "value_first"]).rename_columns(["key", "value"])
    )


def _merge(old: pa.Table | None, new: pa.Table, key: str) -> pa.Table:
    """Return the rows of both by key; what the new table knows replaces what the old one said."""
    if old is None:
        return new
    joined = old.join(new, key, join_type="full outer", right_suffix=" (new)", coalesce_keys=True)
    columns = {key: joined[key]}
    for name in [*old.column_names, *new.column_names]:
        if name == key or name in columns:
            continue
        if f"{name} (new)" in joined.column_names:
            left, right = joined[name], joined[f"{name} (new)"]
            columns[name] = pc.coalesce(
                right, left.cast(right.type) if left.type != right.type else left
            )
        else:
            columns[name] = joined[name]
    order = {
        name: i
        for i, name in enumerate(
            pc.unique(pa.chunked_array([*old[key].chunks, *new[key].chunks])).to_pylist()
        )
    }
    table = pa.table(columns)
    return table.take(
        pa.array(np.argsort([order[k] for k in table[key].to_pylist()], kind="stable"))
    )


def _attribute_tables(config: Config, base: Path, store: Store, engine: Engine) -> None:
    """Read the declared item and user tables into the store where they have changed."""
    for name, role, declared in (("items", ITEM, config.items), ("users", USER, config.users)):
        if declared is None:
            continue
        prints = {
            "table": name,
            "rules": hashlib.sha256(msgspec.json.encode(declared)).hexdigest()[:16],
            "files": _file_prints(engine.files(declared, base)),
        }
        if any(
            entry.get("table") == name and {k: entry[k] for k in prints} == prints
            for entry in store.manifest.ledger
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
    kinds = engine.columns(declared, base, {"key": declared.key, **attributes})
    select = {role: identifier(declared.key, kinds["key"])}
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
    return last.rename_columns(
        [role if c == role else c.removesuffix("_last") for c in last.column_names]
    )
