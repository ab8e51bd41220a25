"""The second pass of an ingest: all of a user's rows together, with what the store already has of that user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import ConfigError
from propend.events import clean
from propend.events.clean import CODE, REASONS
from propend.events.first_pass import REASON, USER_ID, FirstPass, truths, unit_price
from propend.events.store import (
    MESSAGE_HASH,
    RETURN_OF,
    ROW_HASH,
    SOURCE,
    event_schema,
)
from propend.events.timelines import NO_ITEM, offsets_of
from propend.names import ITEM, QUANTITY, SEQUENCE, TIME, TYPE, USER

__all__ = ["SecondPass", "Settled"]

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

RETURN: Final = "return"
PURCHASE: Final = "purchase"
_HISTORY: Final = [USER, TIME, SEQUENCE, TYPE, ITEM, QUANTITY, ROW_HASH, MESSAGE_HASH]
_FEW_USERS: Final = 50_000
"""Up to this many users their history is filtered while reading; beyond, the whole bucket is read."""


@dataclass(frozen=True)
class Settled:
    """What became of a bucket's rows: how many were kept, and which were set aside, why and whose they were."""

    kept: int
    seq: I64
    reason: U8
    user: pa.Array


@dataclass
class _Rows:
    """The new rows of a bucket in the order they came, and what the store has of their users."""

    table: pa.Table
    user: I64
    """Positions in the bucket's list of users: known ones, then new ones by first appearance; −1 none."""
    new_ids: pa.Array
    known: int
    """How many users the bucket had before."""
    seq: I64
    reason: U8
    history: pa.Table | None

    def past(self, name: str) -> npt.NDArray[Any]:
        """Return a column of the history as NumPy, user codes as positions; missing as zero."""
        if self.history is None:
            return np.zeros(0, np.int64)
        return np.asarray(pc.fill_null(self.history[name], 0))


class SecondPass:
    """Called per bucket, from several threads."""

    def __init__(self, first: FirstPass) -> None:
        self.job, self.first = first.job, first
        self._median, self._mad = first.prices.medians()
        self._fills = {name: (r.medians()[0], r.median()) for name, r in first.fills.items()}
        self._modes = {
            name: min(counts, key=lambda value: (-counts[value], value))
            for name, counts in first.modes.items()
            if counts
        }
        self._source = self.job.writer.next.sources.index(self.job.source.name)
        self._properties = dict(self.job.writer.next.properties)

    def __call__(self, bucket: int) -> Settled:
        """Settle the rows of a bucket and write those that are kept as a run."""
        path = self.job.spill(bucket)
        with pa.OSFile(str(path)) as file:
            rows = self._rows(bucket, pa.ipc.open_file(file).read_all())
        path.unlink()
        self._duplicates(rows)
        order = clean.timeline_order(
            rows.user, np.asarray(rows.table[TIME]), np.flatnonzero(rows.reason == 0)
        )
        self._people(rows, order)
        kept = rows.reason == 0
        order = order[kept[order]]
        codes = self._add_users(bucket, rows, order)
        self.job.writer.add_run(bucket, self._events(rows, codes, order))
        aside = ~kept
        return Settled(
            int(kept.sum()),
            rows.seq[aside],
            rows.reason[aside],
            rows.table[USER_ID].filter(pa.array(aside)).combine_chunks(),
        )

    def _rows(self, bucket: int, table: pa.Table) -> _Rows:
        table = table.combine_chunks()
        known = self.job.store.user_ids(bucket)
        coded = table[USER_ID].combine_chunks().dictionary_encode()
        at = pc.index_in(coded.dictionary, value_set=known)
        new_ids = coded.dictionary.filter(pc.is_null(at))
        position = np.asarray(pc.fill_null(at, -1)).astype(np.int64)
        old = np.unique(position[position >= 0])
        position[position < 0] = len(known) + np.arange(len(new_ids))
        user = np.append(position, -1)[np.asarray(pc.fill_null(coded.indices, -1))]
        return _Rows(
            table,
            user,
            new_ids,
            len(known),
            np.asarray(table[SEQUENCE]),
            np.asarray(table[REASON]).copy(),
            self._history(bucket, old),
        )

    def _history(self, bucket: int, positions: I64) -> pa.Table | None:
        """Return what the store already has of users, their codes as positions in the bucket."""
        runs = self.job.writer.next.runs.get(bucket)
        if not runs or len(positions) == 0:
            return None
        store = self.job.store
        codes = pa.array((positions * store.buckets + bucket).astype(np.int32))
        only = codes if len(positions) < _FEW_USERS else None
        table = store.read_runs(runs, _HISTORY, only)
        places = np.asarray(table[USER]).astype(np.int64) // store.buckets
        return table.set_column(table.schema.get_field_index(USER), USER, pa.array(places))

    def _duplicates(self, rows: _Rows) -> None:
        rules, tally = self.job.rules, self.job.tally
        erased = rows.reason == CODE["erased user"]
        row_hash = np.asarray(rows.table[ROW_HASH])
        again = clean.repeats(row_hash, rows.user) & ~erased
        if rules.exact_duplicates != "keep":
            tally.note("exact duplicate", again, rows.seq)
            seen = _seen(rows, ROW_HASH, row_hash, rows.user >= 0) & ~again
            tally.note("already ingested", seen, rows.seq)
            if rules.exact_duplicates == "quarantine":
                rows.reason[again] = CODE["exact duplicate"]
                rows.reason[seen] = CODE["already ingested"]
        if MESSAGE_HASH in rows.table.column_names and rules.duplicate_messages != "keep":
            has_one = truths(pc.is_valid(rows.table[MESSAGE_HASH])) & (rows.reason == 0)
            message = np.asarray(pc.fill_null(rows.table[MESSAGE_HASH], 0))
            again = clean.repeats(message, rows.user, among=has_one)
            again |= _seen(rows, MESSAGE_HASH, message, has_one)
            tally.note("duplicate message id", again, rows.seq)
            if rules.duplicate_messages == "quarantine":
                rows.reason[again] = CODE["duplicate message id"]

    def _people(self, rows: _Rows, order: I64) -> None:
        """Judge users as wholes, test and bot-like; and prices against their item."""
        rules = self.job.rules
        if rules.test_users != "keep":
            try:
                tests = truths(
                    pc.match_substring_regex(rows.table[USER_ID], rules.test_user_pattern)
                )
            except pa.ArrowInvalid as error:
                raise ConfigError(
                    f"clean.test_user_pattern {rules.test_user_pattern!r} is no regular expression (RE2): {error}"
                ) from None
            self._apply("test user", tests, rules.test_users, rows)
        if rules.bots != "keep":
            self._apply("bot-like user", self._bots(rows, order), rules.bots, rows)
        if rules.outliers != "keep" and len(self._median):
            self._apply("price outlier", self._outliers(rows), rules.outliers, rows)

    def _bots(self, rows: _Rows, order: I64) -> Bool:
        time, user = np.asarray(rows.table[TIME]), rows.user
        if rows.history is not None:
            n = len(user)
            time = np.concatenate([time, rows.past(TIME).astype(np.int64)])
            user = np.concatenate([user, rows.past(USER)])
            order = clean.timeline_order(user, time, np.append(order, np.arange(n, len(user))))
        who, offsets = offsets_of(user[order])
        rules = self.job.rules
        bots = clean.is_bot(offsets, time[order], rules.bot_events_per_day, rules.bot_regularity)
        return np.isin(rows.user, who[bots]) if bots.any() else np.zeros(len(rows.user), np.bool_)

    def _outliers(self, rows: _Rows) -> Bool:
        numbers = {
            r: np.asarray(pc.fill_null(rows.table[r], np.nan)) for r in self.job.plan.numbers
        }
        price = unit_price(numbers, len(rows.seq))
        item = np.asarray(rows.table[ITEM])
        inside = np.flatnonzero((item >= 0) & (item < len(self._median)))
        # an item that never changed its price still may, by a tenth
        spread = np.maximum(self._mad[item[inside]], 0.1)
        away = np.zeros(len(item))
        away[inside] = np.abs(price[inside] - self._median[item[inside]]) / spread
        return np.nan_to_num(away) > self.job.rules.outlier_mads

    def _apply(self, name: str, found: Bool, treatment: str, rows: _Rows) -> None:
        found = found & (rows.reason == 0)
        self.job.tally.note(name, found, rows.seq)
        if treatment == "quarantine":
            rows.reason[found] = CODE[name]

    def _add_users(self, bucket: int, rows: _Rows, order: I64) -> npt.NDArray[np.int32]:
        """Give the new users of whom something is kept their codes; return the code of each position."""
        stays = np.zeros(len(rows.new_ids), np.bool_)
        users = rows.user[order]
        stays[users[users >= rows.known] - rows.known] = True
        self.job.writer.add_users(bucket, rows.new_ids.filter(pa.array(stays)))
        place = np.concatenate([np.arange(rows.known), rows.known + np.cumsum(stays) - 1])
        return (place * self.job.store.buckets + bucket).astype(np.int32)

    def _events(self, rows: _Rows, codes: npt.NDArray[np.int32], order: I64) -> pa.Table:
        """Return the kept rows as a run: the store's schema, sorted by (user, time, seq)."""
        table = rows.table.drop_columns([USER_ID, REASON]).take(pa.array(order))
        item = np.asarray(table[ITEM])
        columns: dict[str, Any] = {
            USER: pa.array(codes[rows.user[order]]),
            ITEM: pa.array(item, mask=item < 0),
            SOURCE: pa.array(np.full(len(order), self._source, np.int16)),
            RETURN_OF: self._returns(table, rows, order),
        }
        schema = event_schema(self._properties)
        for field in schema:
            if field.name in columns:
                continue
            if field.name in table.column_names:
                filled = self._filled(field.name, table[field.name], item)
                columns[field.name] = filled.cast(field.type)
            else:
                columns[field.name] = pa.nulls(len(order), field.type)
        return pa.table({field.name: columns[field.name] for field in schema}, schema=schema)

    def _filled(
        self, name: str, column: pa.ChunkedArray, item: npt.NDArray[np.int32]
    ) -> pa.ChunkedArray:
        """Fill missing values where a rule says so: numbers with the item's median, texts with the mode."""
        if column.null_count == 0:
            return column
        nowhere = np.zeros(len(item), np.int64)
        if name in self._fills:
            medians, overall = self._fills[name]
            fill = np.full(len(item), overall)
            inside = (item >= 0) & (item < len(medians))
            own = medians[item[inside]]
            fill[inside] = np.where(np.isnan(own), overall, own)
            gaps = truths(pc.is_null(column))
            self.job.tally.note(f"{name} filled in", gaps & np.isfinite(fill), nowhere, show=False)
            values = np.where(gaps, fill, np.asarray(pc.fill_null(column, 0.0)))
            return pa.chunked_array([pa.array(values, from_pandas=True)])
        if name in self._modes:
            gaps = truths(pc.is_null(column))
            self.job.tally.note(f"{name} filled in", gaps, nowhere, show=False)
            return pc.fill_null(column, self._modes[name])
        return column

    def _returns(self, table: pa.Table, rows: _Rows, order: I64) -> pa.Array:
        """Return for each kept row the sequence of the purchase it gives back, or null."""
        types, n = self.job.writer.next.types, len(order)
        if not self.job.rules.link_returns or RETURN not in types:
            return pa.nulls(n, pa.int64())
        parts = [_link_columns(table, rows.user[order])]
        if rows.history is not None:
            parts.append(_link_columns(rows.history, rows.past(USER)))
        who, when, seq, kinds, item, pieces = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        purchase = types.index(PURCHASE) if PURCHASE in types else -1
        kind = np.where(kinds == purchase, 1, np.where(kinds == types.index(RETURN), 2, 0)).astype(
            np.int8
        )
        returns = kind[:n] == 2
        if not returns.any():
            return pa.nulls(n, pa.int64())
        linked = clean.link_returns(who, when, seq, item.astype(np.int32), kind, pieces)[:n]
        tally = self.job.tally
        tally.note("returns linked to their purchase", returns & (linked >= 0), seq[:n])
        tally.note("returns without a purchase in the log", returns & (linked < 0), seq[:n])
        return pa.array(linked, mask=linked < 0)


def _seen(rows: _Rows, name: str, key: npt.NDArray[np.uint64], among: Bool) -> Bool:
    """Return which rows have a key that the same user's history has."""
    if rows.history is None:
        return np.zeros(len(key), np.bool_)
    there = truths(pc.is_valid(rows.history[name]))
    keys = np.concatenate([rows.past(name).astype(np.uint64), key])
    users = np.concatenate([rows.past(USER), rows.user])
    repeated = clean.repeats(keys, users, among=np.concatenate([there, among]))[len(there) :]
    first_here = ~clean.repeats(key, rows.user, among=among)
    return repeated & first_here


def _link_columns(table: pa.Table, user: I64) -> tuple[npt.NDArray[Any], ...]:
    quantity = (
        np.asarray(pc.fill_null(table[QUANTITY].cast(pa.float64()), np.nan))
        if QUANTITY in table.column_names
        else np.full(table.num_rows, np.nan)
    )
    return (
        user,
        np.asarray(table[TIME].cast(pa.int64())),
        np.asarray(table[SEQUENCE]),
        np.asarray(table[TYPE]),
        np.asarray(pc.fill_null(table[ITEM], NO_ITEM)),
        quantity,
    )


def reason_counts(parts: list[Settled]) -> dict[str, int]:
    """Return how many rows were set aside for each reason."""
    counts = np.bincount(
        np.concatenate([part.reason for part in parts]) if parts else np.zeros(0, np.uint8),
        minlength=len(REASONS),
    )
    return {REASONS[code]: int(n) for code, n in enumerate(counts) if n}
