"""Vectors of users from the graph of users, items and attributes, at any cutoff: features for any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Column
from propend.expression.nodes import Expression, Field
from propend.features.communities import COLUMNS, Communities
from propend.features.schema import Schema
from propend.learn.fusion import Source
from propend.models import storage
from propend.models.graph.hetero import Heterogeneous, HeteroSettings, fit_heterogeneous
from propend.models.storage import State

__all__ = ["GraphVectors", "community_columns", "graph_sources"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LEAST_PAIRS: Final = 500
"""Fewest pairs of a user and an item that a graph is learnt from."""
MOST_VALUES: Final = 1_000
"""Most values of an item attribute that get a node each; the commonest are kept."""


@dataclass
class GraphVectors:
    """A heterogeneous network learnt from what was known before ``until``, asked for users' vectors.

    Users have no node of their own to learn: a vector is what the graph says of the items met before the
    cutoff, so that users who came later have one, and nothing after the cutoff moves it. Figures are
    honest at cutoffs from ``until`` on.
    """

    network: Heterogeneous
    states: list[F32]
    """The items' states on the graph as of ``until``, before each step and after the last."""
    per_item: F32
    until: int

    @classmethod
    def fit(
        cls,
        store: Store,
        schema: Schema,
        engine: Engine,
        *,
        until: int | None = None,
        settings: HeteroSettings | None = None,
        seed: int = 0,
    ) -> GraphVectors:
        """Learn from the store's events with an item before ``until`` (UTC microseconds, default: everything).

        Raises
        ------
        NotEnoughDataError
            fewer than 500 pairs of a user and an item.
        MissingExtraError
            without torch.
        """
        moment = schema.last + 1 if until is None else until
        every = [store.timelines(bucket) for bucket in sorted(store.manifest.runs)]
        users = np.concatenate([t.users for t in every]).astype(np.int64)
        table = _met(store, engine, users, np.full(len(users), moment, np.int64))
        if table.nnz < LEAST_PAIRS:
            raise NotEnoughDataError(
                f"{table.nnz:,} pairs of a user and an item before the cutoff; a graph needs {LEAST_PAIRS}: "
                "boosted trees on aggregates (propend predict) do without"
            )
        chosen = HeteroSettings(width=32) if settings is None else settings
        values = _values(schema, table.shape[1])
        network = fit_heterogeneous(table, values, chosen, seed=seed)
        per_item = np.asarray(table.sum(axis=0)).ravel().astype(np.float32)
        return cls(network, network.states(table, values), per_item, moment)

    def vectors(self, store: Store, engine: Engine, users: I64, cutoffs: I64) -> F64:
        """Return the vector [n, d] of each (user code, cutoff); zeros for a user who met nothing the graph knows."""
        met = _met(store, engine, users, cutoffs)
        known = min(met.shape[1], len(self.per_item))
        shape = (met.shape[0], len(self.per_item))
        met = met[:, :known]
        met.resize(shape)
        return self.network.users(self.states, met, self.per_item).astype(np.float64)

    def columns(
        self, store: Store, engine: Engine, users: I64, cutoffs: I64
    ) -> tuple[F64, tuple[Expression, ...]]:
        """Return the vectors and their names as features."""
        found = self.vectors(store, engine, users, cutoffs)
        return found, tuple(Field(("profile", f"graph_{i}")) for i in range(found.shape[1]))

    def save(self, folder: str | Path) -> None:
        """Write the vectors' network to a new folder: JSON and arrays, no pickle."""
        net = self.network
        arrays: dict[str, Any] = {"own": net.own, "value": net.value, "per_item": self.per_item}
        arrays |= {f"weight.{name}": w for name, w in net.weight.items()}
        arrays |= {f"state.{step}": s for step, s in enumerate(self.states)}
        storage.write(State({"depth": net.depth, "until": self.until}, arrays), Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> GraphVectors:
        """Read what ``save`` wrote; raises ``ModelError`` for a damaged or foreign folder."""
        state = storage.read(Path(folder))
        a, depth = state.arrays, int(state.header["depth"])
        weight = {n.removeprefix("weight."): w for n, w in a.items() if n.startswith("weight.")}
        network = Heterogeneous(a["own"], a["value"], weight, depth)
        states = [a[f"state.{step}"] for step in range(depth + 1)]
        return cls(network, states, a["per_item"], int(state.header["until"]))


def graph_sources(store: Store, schema: Schema, engine: Engine, until: int) -> dict[str, Source]:
    """Return what the graph says of (user code, cutoff) as sources of further columns: ``graph`` and ``communities``.

    The graph's network knows nothing from ``until`` (the earliest cutoff of a frame) on, so that no vector knows how a row
    ended. Raises ``MissingExtraError`` without torch or the extra ``graph``, ``NotEnoughDataError`` for too small a graph.
    """
    vectors = GraphVectors.fit(store, schema, engine, until=until)
    Communities.of_store(
        store, schema, engine, at=until
    )  # what is missing is said before anything is trained
    return {
        "graph": lambda users, cutoffs: vectors.columns(store, engine, users, cutoffs),
        "communities": lambda users, cutoffs: community_columns(
            store, schema, engine, users, cutoffs
        ),
    }


def community_columns(
    store: Store, schema: Schema, engine: Engine, users: I64, cutoffs: I64
) -> tuple[F64, tuple[Expression, ...]]:
    """Return of each (user code, cutoff) how large the user's community is, what share of its others is active, and the ties.

    Communities are found anew as of every cutoff, in the items met before it. Active is whose last event before the
    cutoff is no older than the median user's. A community's number means nothing at another cutoff and is no column.
    """
    found = np.full((len(users), len(COLUMNS) - 1), np.nan)
    for cutoff in np.unique(cutoffs).tolist():
        rows = np.flatnonzero(cutoffs == cutoff)
        whose, last = _last_seen(store, engine, cutoff)
        groups = Communities.of_store(store, schema, engine, at=cutoff)
        said = groups.describe(whose, last >= np.median(last))
        table = np.column_stack([said[name] for name in COLUMNS[1:]]).astype(np.float64)
        at = np.minimum(np.searchsorted(whose, users[rows]), len(whose) - 1)
        there = whose[at] == users[rows]
        found[rows[there]] = table[at[there]]
    return found, tuple(Field(("profile", name)) for name in COLUMNS[1:])


def _last_seen(store: Store, engine: Engine, cutoff: int) -> tuple[I64, I64]:
    """Return the users with an event before a cutoff, ascending, and the moment of each one's last."""

    def work(bucket: int) -> tuple[I64, I64]:
        t = store.timelines(bucket).before(cutoff)
        some = np.flatnonzero(np.diff(t.offsets) > 0)
        return t.users[some].astype(np.int64), t.time[t.offsets[some + 1] - 1]

    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    users, last = (np.concatenate([p[side] for p in parts]) for side in (0, 1))
    order = np.argsort(users, kind="stable")
    return users[order], last[order]


def _met(store: Store, engine: Engine, users: I64, cutoffs: I64) -> Any:
    """Return rows × items: 1 where the user of a row met the item before the row's cutoff and it was known by then."""
    import scipy.sparse as sp

    home = users % store.buckets

    def work(bucket: int) -> tuple[I64, I64]:
        timelines = store.timelines(bucket)
        rows: list[I64] = []
        items: list[I64] = []
        mine = np.flatnonzero(home == bucket) if len(timelines.users) else np.zeros(0, np.int64)
        for cutoff in np.unique(cutoffs[mine]):
            asked = mine[cutoffs[mine] == cutoff]
            asked = asked[np.argsort(users[asked], kind="stable")]
            before = timelines.before(int(cutoff))
            place = np.searchsorted(before.users, users[asked])
            place = np.minimum(place, len(before.users) - 1)
            there = before.users[place] == users[asked]
            asked, place = asked[there], place[there]
            counts = before.offsets[place + 1] - before.offsets[place]
            at = np.repeat(
                before.offsets[place] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts
            )
            at = at + np.arange(len(at))
            found = before.item[at].astype(np.int64)
            rows.append(np.repeat(asked, counts)[found >= 0])
            items.append(found[found >= 0])
        none = np.zeros(0, np.int64)
        return np.concatenate([*rows, none]), np.concatenate([*items, none])

    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    row, item = (np.concatenate([p[side] for p in parts]) for side in (0, 1))
    csr: Any = sp.csr_array
    shape = (len(users), max(len(store.item_ids()), 1))
    table = csr((np.ones(len(row), np.float32), (row, item)), shape=shape)
    table.sum_duplicates()
    table.data[:] = 1.0
    return table


def _values(schema: Schema, n_items: int) -> Any:
    """Return items × values of their text attributes."""
    import scipy.sparse as sp

    rows, columns, width = [], [], 0
    for attribute in schema.items.values():
        if not isinstance(attribute, Column) or not len(attribute.values):
            continue
        codes = attribute.codes.astype(np.int64)
        met = np.bincount(codes[codes >= 0], minlength=len(attribute.values))
        common = np.lexsort((np.arange(len(met)), -met))[:MOST_VALUES]
        place = np.full(len(met) + 1, -1, np.int64)
        place[common] = np.arange(len(common))
        there = np.flatnonzero(place[codes] >= 0)
        rows.append(there)
        columns.append(place[codes[there]] + width)
        width += len(common)
    none = np.zeros(0, np.int64)
    row, column = np.concatenate([*rows, none]), np.concatenate([*columns, none])
    csr: Any = sp.csr_array
    return csr((np.ones(len(row), np.float32), (row, column)), shape=(n_items, width))
