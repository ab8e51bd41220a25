"""Sources into the store, in two passes of constant memory.

The first pass streams the source, judges each row by itself and spills it to its user's bucket; the second takes
one bucket at a time, where all of a user's rows are together: duplicates over the whole history, bots, returns.
Rows in = rows kept + rows set aside; the commit at the end makes all of a source visible at once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from propend.config import CleanConfig, Config, EventSource
from propend.engine import Engine, Rejected
from propend.errors import ConfigError, DataError
from propend.events.attributes import read_attribute_tables
from propend.events.clean import CODE, REASONS, Finding, Tally
from propend.events.durable import exclusive
from propend.events.first_pass import FirstPass, Job, Progress
from propend.events.ledger import IngestReport, file_prints, report_of, rules_print
from propend.events.malformed import rejected_table, without_erased
from propend.events.originals import Originals
from propend.events.read import Plan, plan
from propend.events.second_pass import SecondPass, Settled, reason_counts
from propend.events.store import COMPACT_RUNS, QUARANTINE, Store, Writer

__all__ = ["IngestReport", "ingest", "replay"]

EXAMPLES: Final = 3
_UNREADABLE: Final = {
    "missing user": "roles.user",
    "missing time": "roles.time",
    "unreadable time": "times = ['%d/%m/%Y %H:%M'] (the format the times are written in)",
    "impossible time": "times = ['epoch_s'] (or epoch_ms, epoch_us: the unit the times count)",
    "time in the future": "roles.time, or the zone the times are in",
    "unreadable number": "numbers, or decimal = ','",
    "malformed line": "delimiter, or header",
}
"""What to look at where a whole source is set aside for one of these reasons."""


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
    files changed is taken out and read afresh. Each source is in the store as a whole or not at all.
    Returns a report per source, and per table of items and users, from the ledger where nothing was read. Raises ``ConfigError`` or ``DataError``
    with one sentence; a store that did not exist before does not exist then either.
    """
    sources = config.events if only is None else (only,)
    if not sources:
        raise ConfigError(
            "propend.toml declares no [[events]] source; add one, or make a workspace with: propend init DIR --from FILE"
        )
    plans = [
        (source, engine.files(source, base), plan(config, source, engine, base))
        for source in sources
    ]
    if not Store.exists(store_folder):
        files = [file for _, some, _ in plans for file in some]
        Store.create(store_folder, config.workspace.buckets or _choose_buckets(files))
    try:
        store = Store(store_folder)
        reports = [
            _ingest_source(config, base, store, engine, source, files, source_plan, progress)
            for source, files, source_plan in plans
        ]
        if only is None:
            reports += read_attribute_tables(config, base, store, engine)
    except BaseException:
        _remove_if_untouched(store_folder)
        raise
    if any(len(runs) > COMPACT_RUNS for runs in store.manifest.runs.values()):
        store.compact(most_runs=COMPACT_RUNS)
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

    Duplicates stay where they are unless the rule about them changed: their first copy was judged beside them.
    """
    store = Store(store_folder)
    reports = []
    for source in config.events:
        rows = store.quarantine()
        rows = rows.filter(_replayable(rows, source.name, config.clean))
        if rows.num_rows == 0:
            continue
        with tempfile.TemporaryDirectory(prefix="propend-replay-") as scratch:
            path = Path(scratch) / "quarantine.parquet"
            pq.write_table(_typed(rows["original"], store, source.name), path)
            again = msgspec.structs.replace(
                source, files=(str(path),), format="parquet", database=None, table=None
            )
            source_plan = plan(config, again, engine, base)
            reports.append(
                _ingest_source(
                    config, base, store, engine, again, [path], source_plan, progress, rows
                )
            )
    return reports


def _choose_buckets(files: Sequence[Path]) -> int:
    """Choose the bucket count so that a bucket holds about a million events at most."""
    size = sum(
        f.stat().st_size * (5 if f.suffix in (".parquet", ".pq", ".gz") else 1) for f in files
    )
    for buckets, limit in ((4, 128 << 20), (16, 1 << 30), (64, 8 << 30)):
        if size <= limit:
            return buckets
    return 256


def _remove_if_untouched(folder: Path) -> None:
    """Remove a store into which nothing was ever committed."""
    if not Store.exists(folder):
        return
    with exclusive(folder, f"the store {folder}"):
        if Store(folder).manifest.generation == 0:
            shutil.rmtree(folder)


def _ingest_source(
    config: Config,
    base: Path,
    store: Store,
    engine: Engine,
    source: EventSource,
    files: list[Path],
    source_plan: Plan,
    progress: Progress | None,
    replayed: pa.Table | None = None,
) -> IngestReport:
    rules, prints = rules_print(config, source), file_prints(files, source, base)
    known = [entry for entry in store.manifest.ledger if entry["source"] == source.name]
    old = {tuple(p) for entry in known for p in entry["files"]}
    if replayed is None and prints:
        files, prints = _with_earlier(source, files, prints, old, rules, known)
    there = {p[0]: tuple(p) for p in prints}
    unchanged = (
        replayed is None
        and bool(known)
        and bool(prints)
        and all(entry["rules"] == rules for entry in known)
        and all(there.get(p[0], p) == p for p in old)
    )
    if replayed is None and len(files) > len(engine.files(source, base)):
        source = msgspec.structs.replace(source, files=tuple(str(f) for f in files))
    part = source
    if unchanged:
        fresh = [f for f, p in zip(files, prints, strict=False) if tuple(p) not in old]
        if not fresh:
            return report_of(source.name, known)
        part = msgspec.structs.replace(source, files=tuple(str(f) for f in fresh))
        prints = file_prints(fresh, source, base)
    started = clock.perf_counter()
    with (
        store.writing() as writer,
        tempfile.TemporaryDirectory(prefix="ingest-", dir=store.folder) as scratch,
    ):
        if replayed is not None:
            _drop_replayed(writer, source.name, config.clean)
        elif known and not unchanged:
            writer.drop_source(source.name)
        _declare(source, source_plan, writer)
        job = Job(
            config,
            part,
            source_plan,
            store,
            writer,
            Path(scratch),
            progress or _quiet,
            Tally(EXAMPLES),
            Originals(Path(scratch) / "originals.arrow"),
        )
        report = _both_passes(job, engine, base, replayed)
        report.files, report.seconds = len(prints), round(clock.perf_counter() - started, 3)
        schema = job.originals.schema
        entry = {
            **msgspec.to_builtins(asdict(report)),
            "source": source.name,
            "rules": rules,
            "files": prints if replayed is None else [],
            "columns": {} if schema is None else {f.name: str(f.type) for f in schema},
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "replayed": replayed is not None,
        }
        writer.next.ledger.append(entry)
        writer.commit()
    return report_of(source.name, [*known, entry]) if unchanged else report


def _with_earlier(
    source: EventSource,
    files: list[Path],
    prints: list[list[Any]],
    old: set[tuple[Any, ...]],
    rules: str,
    known: list[dict[str, Any]],
) -> tuple[list[Path], list[list[Any]]]:
    """Add the files taken in earlier that are not listed now: what was ingested stays in, also when rules change.

    Raises ``DataError`` where the rules changed and such a file is gone, since its rows could not be judged again.
    """
    listed = {p[0] for p in prints}
    earlier = sorted({p[0] for p in old} - listed)
    gone = [name for name in earlier if not Path(name).is_file()]
    if gone and any(entry["rules"] != rules for entry in known):
        raise DataError(
            f"{source.name}: the rules changed, so every file is read again, but {gone[0]} is gone; bring it back, or undo the change"
        )
    present = [Path(name) for name in earlier if name not in gone]
    return [*files, *present], [*prints, *file_prints(present, source, Path())]


def _quiet(phase: str, done: int, total: int | None) -> None:
    del phase, done, total


def _declare(source: EventSource, source_plan: Plan, writer: Writer) -> None:
    """Give the source its code and its properties their kinds."""
    if source.name not in writer.next.sources:
        writer.next.sources.append(source.name)
    for name, kind in source_plan.properties.items():
        if writer.next.properties.setdefault(name, kind) != kind:
            raise ConfigError(
                f"{source.name}: property {name!r} is {kind} here and {writer.next.properties[name]} in another source; give one of them another name"
            )


def _both_passes(job: Job, engine: Engine, base: Path, replayed: pa.Table | None) -> IngestReport:
    """Do both passes and return the report; the caller commits."""
    first = FirstPass(job)
    scan = engine.scan(job.source, base, job.plan.select, raw=True)
    first.run(scan)
    rejected = without_erased(scan.rejected, job.writer.next.erased)
    if first.rows + len(rejected) == 0:
        raise DataError(
            f"{job.source.name}: the source holds no row; bring a file with at least one event"
        )
    job.writer.add_items(first.new_items)
    job.writer.next.next_seq += first.rows
    parts: list[Settled] = []
    for settled in engine.map_buckets(SecondPass(first), first.buckets):
        parts.append(settled)
        job.progress("clean and store", len(parts), len(first.buckets))
    reasons = reason_counts(parts)
    if rejected:
        reasons["malformed line"] = len(rejected)
        job.writer.add_quarantine(rejected_table(job.source.name, rejected))
    kept = sum(part.kept for part in parts)
    report = IngestReport(job.source.name, first.rows + len(rejected), kept, reasons)
    if report.rows_in != report.rows_kept + report.rows_quarantined:
        raise AssertionError(
            f"{report.source}: {report.rows_in} rows in, {kept} kept, {report.rows_quarantined} set aside"
        )
    _refuse_unreadable(job, first, report, rejected)
    for table in _set_aside(job, first.first_seq, parts, replayed):
        job.writer.add_quarantine(table)
    first.repeated.put(job.store, job.writer, first.new_items)
    report.findings = _findings(job, first.first_seq, report, rejected)
    return report


def _refuse_unreadable(
    job: Job, first: FirstPass, report: IngestReport, rejected: list[Rejected]
) -> None:
    """Refuse a first source of which no row can be read: its description is wrong, not its rows."""
    if report.rows_kept or job.store.rows or job.writer.next.ledger:
        return
    reason = max(report.quarantine, key=lambda name: report.quarantine[name])
    if reason not in _UNREADABLE:
        return
    shown = job.tally.examples.get(reason, [])[:1]
    example = rejected[0].text if rejected and not shown else ""
    for _, original in job.originals.fetch(np.array(shown, np.int64) - first.first_seq):
        example = original["original"][0]
    raise DataError(
        f"{report.source}: no row can be used; {report.quarantine[reason]:,} of {report.rows_in:,} have the fault "
        f"{reason!r}, for example {example}; check {_UNREADABLE[reason]} in propend.toml"
    )


# ---- what is set aside


def _set_aside(
    job: Job, first_seq: int, parts: Sequence[Settled], replayed: pa.Table | None
) -> Iterator[pa.Table]:
    """Yield quarantine rows in source order: the reason beside the row as it came."""
    if not parts:
        return
    order = np.argsort(np.concatenate([part.seq for part in parts]), kind="stable")
    position = np.concatenate([part.seq for part in parts])[order] - first_seq
    reason = np.concatenate([part.reason for part in parts])[order]
    user = pa.concat_arrays([part.user for part in parts]).take(pa.array(order))
    words = np.array(REASONS, object)
    pending: list[pa.Table] = []
    for at, came in job.originals.fetch(position):
        rows = pa.array(at)
        erased = pa.array(reason[at] == CODE["erased user"])
        file, number = pa.array(came["file"]), pa.array(came["row"], pa.int64())
        if replayed is not None:  # the place in the file it first came from
            home = pc.subtract(number, 1)
            file, number = (replayed[name].combine_chunks().take(home) for name in ("file", "row"))
        pending.append(
            pa.table(
                {
                    "source": pa.array([job.source.name] * len(at)),
                    "file": file,
                    "row": number,
                    "user": user.take(rows),
                    "reason": pa.array(words[reason[at]], pa.string()),
                    "original": pc.if_else(
                        erased, pa.scalar(None, pa.string()), pa.array(came["original"])
                    ),
                },
                schema=QUARANTINE,
            )
        )
        if sum(table.num_rows for table in pending) >= 131_072:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _staying(rules: CleanConfig) -> list[str]:
    """Return the reasons whose rows a replay leaves in the quarantine."""
    stay = ["malformed line", "erased user"]
    if rules.exact_duplicates == "quarantine":
        stay += ["exact duplicate", "already ingested"]
    return stay


def _replayable(rows: pa.Table, source: str, rules: CleanConfig) -> pa.Array:
    mine = pc.and_(pc.equal(rows["source"], source), pc.is_valid(rows["original"]))
    return pc.and_(mine, pc.invert(pc.is_in(rows["reason"], pa.array(_staying(rules)))))


def _drop_replayed(writer: Writer, source: str, rules: CleanConfig) -> None:
    """Take out the quarantined rows of a source that are about to be judged again, and their counts."""
    writer.rewrite_quarantine(lambda t: pc.invert(_replayable(t, source, rules)))
    staying = _staying(rules)
    remaining = []
    for entry in writer.next.ledger:
        if entry["source"] == source:
            stay = {r: n for r, n in entry["quarantine"].items() if r in staying}
            gone = sum(entry["quarantine"].values()) - sum(stay.values())
            gone_findings = set(entry["quarantine"]) - set(stay)
            entry = {
                **entry,
                "rows_in": entry["rows_in"] - gone,
                "quarantine": stay,
                "findings": [f for f in entry["findings"] if f["name"] not in gone_findings],
            }
        remaining.append(entry)
    writer.next.ledger = remaining


def _typed(originals: pa.ChunkedArray, store: Store, source: str) -> pa.Table:
    """Return original rows as a table with the types they came with, so that they hash as they did."""
    kinds: dict[str, str] = {}
    for entry in store.manifest.ledger:
        if entry["source"] == source:
            kinds = {**entry.get("columns", {}), **kinds}
    rows = [json.loads(text) for text in originals.to_pylist()]
    columns = {}
    for name, kind in kinds.items():
        cells = [row.get(name) for row in rows]
        target = _arrow_type(kind)
        if target in (pa.string(), pa.bool_()) or pa.types.is_floating(target):
            columns[name] = pa.array(cells, target)
        else:
            texts = [None if c is None else str(c) for c in cells]
            columns[name] = pa.array(texts, pa.string()).cast(target)
    return pa.table(columns)


def _arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of its own printed name, as far as sources have them; text for any other."""
    if kind.startswith("timestamp["):
        unit, _, zone = kind.removeprefix("timestamp[").removesuffix("]").partition(", tz=")
        return pa.timestamp(unit, zone or None)
    if kind.startswith("decimal128("):
        precision, scale = kind.removeprefix("decimal128(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    try:
        return pa.type_for_alias(kind.removesuffix("[day]"))
    except ValueError:
        return pa.string()


# ---- what was found


def _findings(
    job: Job, first_seq: int, report: IngestReport, rejected: list[Rejected]
) -> list[Finding]:
    rules = job.rules
    treatment = {
        "exact duplicate": rules.exact_duplicates,
        "already ingested": rules.exact_duplicates,
        "duplicate message id": rules.duplicate_messages,
        "time in the future": rules.future_times,
        "negative price": rules.negative_price,
        "zero quantity": rules.zero_quantity,
        "test user": rules.test_users,
        "bot-like user": rules.bots,
        "price outlier": rules.outliers,
    }
    words = {"quarantine": "set aside", "flag": "kept, only counted", "keep": "kept"}
    labels = dict(job.plan.rules)
    findings = []
    if rejected:
        texts = tuple([r.text for r in rejected if r.text][:EXAMPLES])
        share = len(rejected) / report.rows_in
        findings.append(Finding("malformed line", len(rejected), share, "set aside", texts))
    for name, rows in sorted(job.tally.rows.items(), key=lambda pair: (-pair[1], pair[0])):
        if name in treatment:
            done = words[treatment[name]]
        elif name in labels:
            done = f"type {labels[name]}"
        else:
            done = "set aside" if name in CODE else "kept"
        examples = _examples(job, np.array(job.tally.examples.get(name, []), np.int64) - first_seq)
        findings.append(Finding(name, rows, rows / report.rows_in, done, examples))
    return findings


def _examples(job: Job, positions: npt.NDArray[np.int64]) -> tuple[str, ...]:
    found: list[Any] = []
    for _, came in job.originals.fetch(positions):
        found += came["original"]
    return tuple(found)
