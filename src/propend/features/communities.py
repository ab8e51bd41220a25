"""Communities of users: groups more tied to each other than to the rest, by friendship or by what they meet.

Found with the Leiden algorithm (Traag, Waltman & van Eck, "From Louvain to Leiden", Scientific Reports 2019)
on modularity, through ``graspologic-native``; the extra ``graph``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.engine import Engine
from propend.errors import DataError, MissingExtraError, NotEnoughDataError, nearest
from propend.events.store import Store
from propend.features.schema import Schema
from propend.names import USER

__all__ = ["COLUMNS", "Communities"]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

COLUMNS = ("community", "community_size", "community_active", "ties")
"""What a profile says of a user's community; see :meth:`Communities.describe`."""


@dataclass(frozen=True)
class Communities:
    """Who belongs with whom. ``users`` int64 [n] ascending codes, ``community`` int64 [n] (0 the largest).

    ``ties`` [n]: friends, or different items met. ``modularity`` says how well the groups stand apart
    (0: no better than chance; above about 0.3: clear groups).
    """

    users: I64
    community: I64
    ties: I64
    modularity: float

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of_friends(
        cls, left: npt.ArrayLike, right: npt.ArrayLike, *, resolution: float = 1.0, seed: int = 0
    ) -> Communities:
        """Find communities in ties between users, given as pairs of user codes in any order and direction.

        Raises ``NotEnoughDataError`` without a tie between two users, ``DataError`` for unequal lengths.

        >>> import pytest; _ = pytest.importorskip("graspologic_native", reason="needs the extra graph")
        >>> found = Communities.of_friends([1, 1, 2, 7, 7, 8], [2, 3, 3, 8, 9, 9])
        >>> found.users.tolist(), found.community.tolist()
        ([1, 2, 3, 7, 8, 9], [0, 0, 0, 1, 1, 1])
        """
        a, b = np.asarray(left, np.int64), np.asarray(right, np.int64)
        if a.shape != b.shape:
            raise DataError(
                f"ties need two users each, got {len(a)} on one side and {len(b)} on the other"
            )
        apart = a != b
        users, codes = np.unique(np.concatenate([a[apart], b[apart]]), return_inverse=True)
        if not len(users):
            raise NotEnoughDataError("no tie between two different users; communities need some")
        half = len(codes) // 2
        table = _symmetric(codes[:half], codes[half:], len(users))
        table.data[:] = 1.0  # a tie told from both sides is one tie
        group, quality = _leiden(table, resolution, seed)
        return cls(users, _by_size(group), np.diff(table.indptr).astype(np.int64), quality)

    @classmethod
    def of_items(
        cls, user: npt.ArrayLike, item: npt.ArrayLike, *, resolution: float = 1.0, seed: int = 0
    ) -> Communities:
        """Find communities of users who meet the same items: users and items are the nodes of one graph.

        Each pair counts once, however often it met, and an item that many meet ties less (by the root of
        its users), so that a bestseller does not tie everybody. Raises ``NotEnoughDataError`` without a pair.
        """
        pairs = np.unique(
            np.stack([np.asarray(user, np.int64), np.asarray(item, np.int64)]), axis=1
        )
        pairs = pairs[:, pairs[1] >= 0]
        users, left = np.unique(pairs[0], return_inverse=True)
        if not len(users):
            raise NotEnoughDataError(
                "nobody met an item; communities by items need events with one"
            )
        items, right = np.unique(pairs[1], return_inverse=True)
        met = np.bincount(right)
        table = _symmetric(
            left, len(users) + right, len(users) + len(items), 1 / np.sqrt(met[right])
        )
        group, quality = _leiden(table, resolution, seed)
        return cls(
            users, _by_size(group[: len(users)]), np.bincount(left).astype(np.int64), quality
        )

    @classmethod
    def of_store(
        cls,
        store: Store,
        schema: Schema,
        engine: Engine,
        *,
        at: int | None = None,
        types: Collection[str] = (),
        resolution: float = 1.0,
        seed: int = 0,
    ) -> Communities:
        """Find communities by the items of a log's events before ``at`` (UTC microseconds), of ``types`` or all."""
        for name in types:
            if name not in schema.types:
                raise DataError(f"no event type {name!r} in the log{nearest(name, schema.types)}")
        moment = schema.last + 1 if at is None else at
        wanted = [schema.types.index(name) for name in types] or list(range(len(schema.types)))

        def work(bucket: int) -> tuple[I64, I64]:
            t = store.timelines(bucket).before(moment)
            rows = np.isin(t.type, wanted) & (t.item >= 0)
            return t.users[t.user_of_row[rows]].astype(np.int64), t.item[rows].astype(np.int64)

        parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
        user, item = (np.concatenate([p[side] for p in parts]) for side in (0, 1))
        return cls.of_items(user, item, resolution=resolution, seed=seed)

    def describe(self, users: I64, active: Bool) -> dict[str, npt.NDArray[Any]]:
        """Return the columns ``COLUMNS`` for users: −1, 0, NaN and 0 for one without a tie.

        ``community_active`` is the share of the *other* members for whom ``active`` [users] holds.
        """
        at = np.minimum(np.searchsorted(self.users, users), max(len(self) - 1, 0))
        there = self.users[at] == users
        group = np.where(there, self.community[at], -1)
        many = int(self.community.max()) + 1
        size = np.bincount(self.community, minlength=many)
        among = np.bincount(group[there], active[there], many)
        present = np.bincount(group[there], minlength=many)
        others, of = among[group] - active, present[group] - 1
        known = there & (of > 0)
        share = np.divide(others, of, out=np.full(len(users), np.nan), where=known)
        columns = (group, np.where(there, size[group], 0), share, np.where(there, self.ties[at], 0))
        return dict(zip(COLUMNS, columns, strict=True))

    def join(self, profiles: pa.Table) -> pa.Table:
        """Return profiles (with ``user`` and ``recency``) and what is known of each one's community.

        Active is who bought within the median number of days since the last purchase.
        """
        recency = profiles["recency"].to_numpy()
        bought = np.isfinite(recency)
        middle = float(np.median(recency[bought])) if bought.any() else 0.0
        active = bought & (np.nan_to_num(recency, nan=np.inf) <= middle)
        for name, values in self.describe(profiles[USER].to_numpy(), active).items():
            profiles = profiles.append_column(name, pa.array(values))
        return profiles


def _symmetric(left: I64, right: I64, n: int, weight: F64 | None = None) -> Any:
    import scipy.sparse as sp

    weights = np.ones(len(left)) if weight is None else weight
    rows, columns = np.concatenate([left, right]), np.concatenate([right, left])
    table: Any = sp.csr_array((np.concatenate([weights, weights]), (rows, columns)), shape=(n, n))
    table.sum_duplicates()
    table.sort_indices()
    return table


def _leiden(table: Any, resolution: float, seed: int) -> tuple[I64, float]:
    """Return the community of each node and the modularity."""
    try:
        from graspologic_native import leiden_csr
    except ImportError:
        raise MissingExtraError("communities", "graph") from None
    if not resolution > 0:
        raise DataError(f"resolution must be above 0, got {resolution:g}; 1 is the usual one")
    quality, group = leiden_csr(
        table.indptr.astype(np.int64),
        table.indices.astype(np.int32),
        table.data.astype(np.float64),
        table.shape[0],
        resolution=resolution,
        seed=seed,
        trials=2,
    )
    return np.array([group[node] for node in range(table.shape[0])], np.int64), float(quality)


def _by_size(group: I64) -> I64:
    """Number groups by size, the largest 0; of equal ones the one with the first node."""
    _, first, code, size = np.unique(
        group, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -size))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[code]
