"""The first pass of an ingest: each row is judged by itself and goes to its user's bucket on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import CleanConfig, Config, EventSource
from propend.engine import Scan
from propend.errors import ConfigError, DataError, nearest
from propend.events.attributes import Repeated
from propend.events.clean import CODE, Reservoir, Tally
from propend.events.clock import moment, to_utc
from propend.events.hashing import hash_column, hash_records
from propend.events.originals import Originals
from propend.events.read import Plan
from propend.events.store import MESSAGE_HASH, ROW_HASH, Store, Writer
from propend.events.timelines import NO_ITEM
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

__all__ = ["REASON", "USER_ID", "FirstPass", "Job", "Progress", "truths", "unit_price"]

Progress = Callable[[str, int, int | None], None]
"""Called with a phase, how much is done and how much there is (``None``: not known)."""

Bool = npt.NDArray[np.bool_]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

USER_ID: Final = "user_id"
REASON: Final = "reason"
_MOST_TYPES: Final = 1_000
_NOT_IMPUTED: Final = (USER, TIME, TYPE, ITEM, MESSAGE, ARRIVAL)
_FAR: Final = moment(datetime(2200, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Job:
    """One source on its way into the store: what both passes need to know."""

    config: Config
    source: EventSource
    plan: Plan
    store: Store
    writer: Writer
    scratch: Path
    progress: Progress
    tally: Tally
    originals: Originals

    @property
    def rules(self) -> CleanConfig:
        """The cleaning rules."""
        return self.config.clean

    def spill(self, bucket: int) -> Path:
        """Return where the first pass leaves the rows of a bucket for the second."""
        return self.scratch / f"b{bucket:04d}.arrow"


class FirstPass:
    """Streams a source; afterwards knows what only the whole source can tell (medians, modes, new items)."""

    def __init__(self, job: Job) -> None:
        self.job = job
        rules = job.rules
        self.first_seq = job.writer.next.next_seq
        self.rows = 0
        self.new_items: list[str] = []
        self.repeated = Repeated(job.plan)
        self.prices = Reservoir()
        self.fills: dict[str, Reservoir] = {}
        self.modes: dict[str, Counter[str]] = {}
        self._items = {name: code for code, name in enumerate(job.store.item_ids())}
        self._spills: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        self._erased = np.array(job.writer.next.erased, np.uint64)
        self._now = moment(datetime.now(UTC))
        self._slack = Duration.parse(rules.future_slack).microseconds
        self._earliest = _day(rules.earliest)
        self._prepare_missing()

    @property
    def buckets(self) -> list[int]:
        """The buckets that got rows."""
        return sorted(self._spills)

    def run(self, scan: Scan) -> None:
        """Read the source to its end."""
        try:
            for batch, row_hash in _ahead(self._batches(scan)):
                self._spill(*self._judge(batch, row_hash))
                self.rows += batch.num_rows
                self.job.progress("read", self.rows, None)
        finally:
            for writer in self._spills.values():
                writer.close()
            self.job.originals.close()

    def _batches(self, scan: Scan) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.uint64]]]:
        for batch in scan.batches:
            if batch.num_rows:
                self.job.originals.append(batch)
                raw = {n: batch.column(n) for n in batch.schema.names if n.startswith("raw.")}
                yield batch, hash_records(raw)

    def _prepare_missing(self) -> None:
        """Set up what fills gaps; refuse a rule about what is not there or cannot be filled."""
        properties = self.job.plan.properties
        known = self.job.writer.next.properties
        for name, how in self.job.rules.missing.items():
            if name not in ROLES and name not in known:
                raise ConfigError(
                    f"clean.missing names {name!r}, which is no role or property{nearest(name, [*ROLES, *known])}"
                )
            if how != "impute":
                continue
            if name in _NOT_IMPUTED:
                raise ConfigError(
                    f"clean.missing: a missing {name} cannot be imputed; choose 'keep' or 'drop'"
                )
            if name in (VALUE, QUANTITY, PRICE) or properties.get(name) == "number":
                self.fills[name] = Reservoir()
            else:
                self.modes[name] = Counter()

    def _judge(
        self, batch: pa.RecordBatch, row_hash: npt.NDArray[np.uint64]
    ) -> tuple[pa.Table, npt.NDArray[np.uint64]]:
        """Give each row of a batch its codes, its moment and its first row-level fault; returns user hashes too."""
        n, job, rules = batch.num_rows, self.job, self.job.rules
        get = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
        seq = np.arange(n) + self.rows + self.first_seq
        user, item = get[USER], self._item_codes(get[ITEM])
        no_user = truths(pc.is_null(user))
        user_hash = hash_column(user)
        erased = np.isin(user_hash, self._erased) & ~no_user
        times, time_faults = self._moments(TIME, get)
        arrival = self._moments(ARRIVAL, get)[0] if job.plan.has_arrival else np.zeros(n, np.int64)
        numbers = {r: np.asarray(pc.fill_null(get[r], np.nan)) for r in job.plan.numbers}
        faults: list[tuple[str, Bool, str]] = [
            ("erased user", erased, "quarantine"),
            ("missing user", no_user, "quarantine"),
            *((name, rows, "quarantine") for name, rows in time_faults),
            ("time in the future", times > self._latest(arrival), rules.future_times),
            ("unreadable number", truths(get["unreadable"]), "quarantine"),
            ("impossible amount", self._too_large(numbers, n), "quarantine"),
            *self._amount_faults(numbers),
            *self._oddities(get, numbers),
            *self._missing(get, numbers, item),
        ]
        reason = np.zeros(n, np.uint8)
        for name, rows, treatment in faults:
            if treatment == "keep" or not rows.any():
                continue
            if name == "erased user":
                job.tally.note(name, rows, seq, show=False)
            else:
                job.tally.note(name, rows & ~erased, seq)
            if treatment == "quarantine":
                reason[rows & (reason == 0)] = CODE[name]
        self._note_rules(get["rule"], seq, ~erased)
        self.prices.add(
            np.where(reason == 0, item, NO_ITEM).astype(np.int32), unit_price(numbers, n)
        )
        self._fill_samples(get, item)
        if erased.any():
            user = pc.if_else(pa.array(erased), pa.scalar(None, pa.string()), user)
        self.repeated.add(get, user, item)
        columns: dict[str, Any] = {
            USER_ID: user,
            TIME: times,
            SEQUENCE: seq,
            TYPE: self._type_codes(get[TYPE]),
            ITEM: item,
            ROW_HASH: row_hash,
            REASON: reason,
            **{r: pa.array(v, from_pandas=True) for r, v in numbers.items()},
            **{r: get[r] for r in job.plan.texts},
            **{p: get[f"p:{p}"] for p in job.plan.properties},
        }
        if job.plan.has_arrival:
            columns[ARRIVAL] = np.maximum(arrival, times)
        if MESSAGE in get:
            columns[MESSAGE_HASH] = pa.array(
                hash_column(get[MESSAGE]), mask=truths(pc.is_null(get[MESSAGE]))
            )
        return pa.table(columns), np.where(no_user, row_hash, user_hash)

    def _moments(self, role: str, get: dict[str, pa.Array]) -> tuple[I64, list[tuple[str, Bool]]]:
        """Return UTC microseconds (0 where there is none) and the rows whose time is missing, unreadable or impossible."""
        missing = truths(get[f"{role}_missing"])
        unread = truths(pc.is_null(get[role])) & ~missing
        known = ~missing & ~unread
        values = np.asarray(pc.fill_null(get[role], 0)).astype(np.int64, copy=True)
        naive = known & ~truths(get[f"{role}_zoned"])
        if naive.any():
            zone = self.job.plan.zone or self.job.config.zone_of(self.job.source)
            values[naive] = to_utc(values[naive], zone)
        impossible = known & ((values < self._earliest) | (values > _FAR))
        values[~known | impossible] = 0
        return values, [
            ("missing time", missing),
            ("unreadable time", unread),
            ("impossible time", impossible),
        ]

    def _latest(self, arrival: I64) -> I64:
        """Return the latest moment each row may be about: nothing happens long after it became known (0: not said)."""
        return np.where(arrival > 0, np.minimum(arrival, self._now), self._now) + self._slack

    def _too_large(self, numbers: dict[str, F64], n: int) -> Bool:
        out = np.zeros(n, np.bool_)
        for values in numbers.values():
            out |= np.abs(values) > self.job.rules.max_amount
        return out

    def _amount_faults(self, numbers: dict[str, F64]) -> Iterator[tuple[str, Bool, str]]:
        if PRICE in numbers:
            yield "negative price", numbers[PRICE] < 0, self.job.rules.negative_price
        if QUANTITY in numbers:
            yield "zero quantity", numbers[QUANTITY] == 0, self.job.rules.zero_quantity

    def _oddities(
        self, get: dict[str, pa.Array], numbers: dict[str, F64]
    ) -> Iterator[tuple[str, Bool, str]]:
        """Name what is kept but worth a look: money or pieces below zero that are no return, a blank type."""
        kept = np.asarray(pc.fill_null(pc.not_equal(get[TYPE], "return"), True))
        for name in (QUANTITY, VALUE):
            if name in numbers:
                yield f"negative {name} that is no return", (numbers[name] < 0) & kept, "flag"
        if "type_missing" in get:
            yield "missing event type", np.asarray(pc.fill_null(get["type_missing"], False)), "flag"

    def _missing(
        self, get: dict[str, pa.Array], numbers: dict[str, F64], item: I32
    ) -> Iterator[tuple[str, Bool, str]]:
        for name, how in self.job.rules.missing.items():
            column = get.get(name if name in get else f"p:{name}")
            if column is None or how != "drop":
                continue
            if name == ITEM:
                rows = item < 0
            else:
                rows = np.isnan(numbers[name]) if name in numbers else truths(pc.is_null(column))
            yield "missing value", rows, "quarantine"

    def _fill_samples(self, get: dict[str, pa.Array], item: I32) -> None:
        """Take note of what missing values may be filled with."""
        for name, reservoir in self.fills.items():
            column = get.get(name if name in get else f"p:{name}")
            if column is not None:
                reservoir.add(item, np.asarray(pc.fill_null(column, np.nan)))
        for name, mode in self.modes.items():
            column = get.get(name if name in get else f"p:{name}")
            if column is not None:
                counts = pc.value_counts(column.drop_null())
                mode.update({c["values"]: c["counts"] for c in counts.to_pylist()})

    def _item_codes(self, items: pa.Array) -> I32:
        coded = items.dictionary_encode()
        mapping = np.empty(len(coded.dictionary) + 1, np.int32)
        mapping[-1] = NO_ITEM
        for position, name in enumerate(coded.dictionary.to_pylist()):
            code = self._items.get(name)
            if code is None:
                code = self._items[name] = len(self._items)
                self.new_items.append(name)
            mapping[position] = code
        return mapping[np.asarray(pc.fill_null(coded.indices, -1))]

    def _type_codes(self, types: pa.Array) -> npt.NDArray[np.int16]:
        coded = types.dictionary_encode()
        known = self.job.writer.next.types
        for name in coded.dictionary.to_pylist():
            if name not in known:
                if len(known) >= _MOST_TYPES:
                    raise DataError(
                        f"{self.job.source.name}: more than {_MOST_TYPES:,} event types; the type role points at a column that names something else"
                    )
                known.append(name)
        mapping = np.array([known.index(name) for name in coded.dictionary.to_pylist()], np.int16)
        return mapping[np.asarray(coded.indices)]

    def _note_rules(self, rule: pa.Array, seq: I64, among: Bool) -> None:
        if not self.job.plan.rules:
            return
        decided = np.asarray(pc.fill_null(rule, -1))
        for position, (label, _) in enumerate(self.job.plan.rules):
            self.job.tally.note(label, (decided == position) & among, seq)

    def _spill(self, table: pa.Table, home: npt.NDArray[np.uint64]) -> None:
        """Append the rows of a batch to their buckets: by user, or by row where the user is missing."""
        buckets = self.job.store.buckets
        bucket = (home % np.uint64(buckets)).astype(np.int16)
        order = np.argsort(bucket, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=buckets))])
        ordered = table.take(pa.array(order)).combine_chunks().to_batches()[0]
        for b in np.flatnonzero(np.diff(ends)).tolist():
            if b not in self._spills:
                self._spills[b] = pa.ipc.new_file(self.job.spill(b), ordered.schema)
            self._spills[b].write_batch(ordered.slice(ends[b], ends[b + 1] - ends[b]))


def unit_price(numbers: dict[str, F64], n: int) -> F64:
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


def truths(values: Any) -> Bool:
    """Return an Arrow column of truth values as NumPy; missing is false."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if flat.null_count:
        flat = pc.fill_null(flat, False)
    return np.asarray(flat).astype(np.bool_, copy=False)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items while a thread already fetches the next one."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item


def _day(text: str) -> int:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ConfigError(f"clean.earliest must be a day such as 1990-01-01, not {text!r}")
    return moment(datetime.fromisoformat(text).replace(tzinfo=UTC))
