"""Who met which item, when and how strongly: the one thing every recommender learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import offsets_of

__all__ = ["IGNORED", "WEIGHTS", "Histories", "Interactions"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

WEIGHTS: Final[Mapping[str, float]] = {
    "purchase": 5.0,
    "checkout": 4.0,
    "redemption": 4.0,
    "cart": 3.0,
    "favourite": 3.0,
    "review": 2.0,
    "rating": 2.0,
    "share": 2.0,
    "view": 1.0,
    "search": 1.0,
}
"""How much one event of a type says about liking its item; a type that is not listed says 1."""

IGNORED: Final = frozenset({"return", "remove_from_cart", "push", "open", "unsubscribe", "login"})
"""Types that are no sign of interest in the item: taken back, or done by the shop."""


_RATING: Final = "rating"
"""The property of an event that says how much its item was liked."""


@dataclass(frozen=True)
class Histories:
    """Ragged rows of items: row ``i`` owns ``items[offsets[i]:offsets[i + 1]]``, oldest first.

    ``users`` int64 [r] are user codes, −1 for an anonymous session; ``time`` is UTC microseconds.
    """

    users: I64
    offsets: I64
    items: I32
    weight: F32
    time: I64

    def __len__(self) -> int:
        return len(self.users)

    def block(self, start: int, stop: int) -> Histories:
        """Return rows ``start`` to ``stop``, as views."""
        low, high = self.offsets[start], self.offsets[stop]
        return Histories(
            self.users[start:stop],
            self.offsets[start : stop + 1] - low,
            self.items[low:high],
            self.weight[low:high],
            self.time[low:high],
        )

    @property
    def row(self) -> I64:
        """The row of each entry, int64 [n]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def matrix(self, n_items: int, *, binary: bool = False) -> Any:
        """Return rows × items as a SciPy CSR array of summed weights (or 1 for each pair that met)."""
        import scipy.sparse as sp

        csr_array: Any = sp.csr_array
        shape = (len(self), n_items)
        table = csr_array((self.weight, (self.row, self.items)), shape=shape, dtype=np.float32)
        table.sum_duplicates()
        table.sort_indices()
        if binary:
            table.data[:] = 1.0
        return table

    @classmethod
    def of(cls, sessions: Sequence[npt.ArrayLike], now: int = 0) -> Histories:
        """Return anonymous sessions (lists of item codes, oldest first) as histories that end at ``now``."""
        parts = [np.asarray(session, np.int64).ravel() for session in sessions]
        lengths = np.array([len(part) for part in parts], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        items = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        age = np.repeat(offsets[1:], lengths) - np.arange(len(items))
        return cls(
            np.full(len(parts), -1, np.int64),
            offsets,
            items.astype(np.int32),
            np.ones(len(items), np.float32),
            now - age,
        )


@dataclass(frozen=True)
class Interactions:
    """Interactions [n], sorted by (user, time); build them with ``of``, ``from_lists`` or ``from_store``.

    ``user`` int64 user codes, ``item`` int32 item codes in ``[0, n_items)``, ``time`` UTC microseconds,
    ``weight`` float32 > 0. Without a clock (``clock`` false) ``time`` only gives the order within a user.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1], [1, 2, 2]])
    >>> log.n_users, log.n_items, len(log)
    (2, 3, 5)
    >>> log.matrix().toarray()
    array([[1., 1., 0.],
           [0., 1., 2.]], dtype=float32)
    """

    user: I64
    item: I32
    time: I64
    weight: F32
    n_items: int
    clock: bool = True

    # ---- making them

    @classmethod
    def of(
        cls,
        user: npt.ArrayLike,
        item: npt.ArrayLike,
        time: npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        *,
        n_items: int | None = None,
    ) -> Interactions:
        """Build from plain arrays in any order; ties in time keep the order given.

        Parameters
        ----------
        time
            UTC microseconds; left out, the order of the rows is the order of events.
        weight
            default 1.
        n_items
            size of the catalogue, default the largest code + 1.

        Raises
        ------
        DataError
            arrays of different lengths, a negative code, an item past ``n_items``, a weight that is not
            a number above 0.

        Examples
        --------
        >>> Interactions.of([7, 3], [0, 1], time=[20, 10]).users.tolist()
        [3, 7]
        """
        users, items = _codes(user, "user"), _codes(item, "item")
        times = np.arange(len(users)) if time is None else np.asarray(time, np.int64)
        weights = np.ones(len(users), np.float32)
        if weight is not None:
            weights = np.asarray(weight, np.float32)
        lengths = {"user": len(users), "item": len(items), "time": len(times)}
        lengths["weight"] = len(weights)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{n} {name}s" for name, n in lengths.items())
            raise DataError(f"one user, item, time and weight per interaction, got {told}")
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise DataError("weights of interactions must be numbers above 0; leave the others out")
        size = int(items.max(initial=-1)) + 1 if n_items is None else n_items
        if len(items) and items.max() >= size:
            raise DataError(
                f"item code {items.max()} is past the catalogue of {size} items; pass a larger n_items"
            )
        order = np.lexsort((times, users))
        return cls(
            users[order],
            items[order].astype(np.int32),
            times[order],
            weights[order],
            size,
            time is not None,
        )

    @classmethod
    def from_lists(
        cls,
        lists: Iterable[npt.ArrayLike],
        *,
        users: npt.ArrayLike | None = None,
        n_items: int | None = None,
    ) -> Interactions:
        """Build from one list of item codes per user, oldest first, without a clock.

        ``users`` are the codes of the lists, default 0, 1, 2 …
        """
        parts = [np.asarray(part, np.int64).ravel() for part in lists]
        lengths = np.array([len(part) for part in parts], np.int64)
        codes = np.arange(len(parts)) if users is None else _codes(users, "user")
        if len(codes) != len(parts):
            raise DataError(f"{len(codes)} user codes for {len(parts)} lists of items")
        items = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return cls.of(np.repeat(codes, lengths), items, n_items=n_items)

    @classmethod
    def from_store(
        cls,
        store: Store,
        *,
        types: Mapping[str, float] | Sequence[str] | None = None,
        until: int | None = None,
    ) -> Interactions:
        """Read a store's events that carry an item, as known before ``until`` (UTC microseconds).

        An event with a number in the property ``rating`` weighs as its type does times its rating over the mean one, unless weights are
        given by type; ratings that reach down to 0 or below are moved up, so that the lowest is 1.

        Parameters
        ----------
        types
            event type → weight, or names that take their weight from ``WEIGHTS``; default every type
            but ``IGNORED``.

        Raises
        ------
        DataError
            an event type that is not in the log.
        NotEnoughDataError
            no such event carries an item.
        """
        weights = _type_weights(store, types)
        n_items = len(store.item_ids())
        rated = store.manifest.properties.get(_RATING) == "number" and not isinstance(
            types, Mapping
        )
        columns = [_RATING] if rated else []
        parts, ratings = [], []
        for bucket in range(store.buckets):
            lines = store.timelines(bucket, columns)
            lines = lines if until is None else lines.before(until)
            keep = (lines.item >= 0) & (weights[lines.type] > 0)
            user = lines.users[lines.user_of_row[keep]]
            parts.append((user, lines.item[keep], lines.time[keep], weights[lines.type[keep]]))
            ratings.append(lines.numbers[_RATING][keep] if rated else np.zeros(0))
        user, item, time, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        if not len(user):
            wanted = ", ".join(n for n, w in zip(store.types, weights, strict=True) if w > 0)
            raise NotEnoughDataError(
                f"no event of type {wanted or 'any'} carries an item, so there is nothing to recommend; "
                "declare the item column of the source in propend.toml"
            )
        if rated:
            weight = _by_rating(weight, np.concatenate(ratings))
        order = np.argsort(
            user, kind="stable"
        )  # each bucket is sorted by (user, time, seq) already
        return cls(
            user[order].astype(np.int64), item[order], time[order], weight[order], n_items, True
        )

    # ---- what is in them

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def _runs(self) -> tuple[I64, I64]:
        return offsets_of(self.user)

    @property
    def users(self) -> I64:
        """The distinct user codes, ascending, int64 [u]."""
        return self._runs[0]

    @property
    def offsets(self) -> I64:
        """User ``users[i]`` owns rows ``offsets[i]`` to ``offsets[i + 1]``, int64 [u + 1]."""
        return self._runs[1]

    @property
    def n_users(self) -> int:
        """Number of users with an interaction."""
        return len(self.users)

    @property
    def first(self) -> int:
        """Earliest time."""
        return int(self.time.min())

    @property
    def last(self) -> int:
        """Latest time."""
        return int(self.time.max())

    def rows_of(self, users: I64) -> I64:
        """Return the index into ``users`` of user codes, −1 for one without history."""
        if not self.n_users:
            return np.full(len(users), -1, np.int64)
        at = np.minimum(np.searchsorted(self.users, users), self.n_users - 1)
        return np.where(self.users[at] == users, at, -1).astype(np.int64)

    def histories(self, users: npt.ArrayLike | None = None) -> Histories:
        """Return the histories of users, default all; a user without any has an empty one."""
        if users is None:
            return Histories(self.users, self.offsets, self.item, self.weight, self.time)
        codes = np.asarray(users, np.int64)
        at = self.rows_of(codes)
        lengths = np.where(at < 0, 0, self.offsets[at + 1] - self.offsets[at])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[at] - offsets[:-1], lengths)
        return Histories(codes, offsets, self.item[rows], self.weight[rows], self.time[rows])

    def matrix(self, *, binary: bool = False) -> Any:
        """Return users × items as a SciPy CSR matrix of summed weights (or 1 for each pair that met)."""
        return self.histories().matrix(self.n_items, binary=binary)

    # ---- parts and wholes

    def select(self, rows: Bool) -> Interactions:
        """Return the interactions where ``rows`` is true."""
        return Interactions(
            self.user[rows],
            self.item[rows],
            self.time[rows],
            self.weight[rows],
            self.n_items,
            self.clock,
        )

    def until(self, moment: int) -> Interactions:
        """Return what happened before ``moment``."""
        return self if not len(self) or self.last < moment else self.select(self.time < moment)

    def join(self, later: Interactions) -> Interactions:
        """Return both together; without a clock, ``later`` follows everything in this one."""
        if self.clock != later.clock and len(self) and len(later):
            raise DataError("interactions with and without a clock cannot be joined")
        time = later.time
        if not self.clock and len(self):
            time = time + (self.last + 1 - int(time.min(initial=0)))
        user = np.concatenate([self.user, later.user])
        times = np.concatenate([self.time, time])
        order = np.lexsort((times, user))
        return Interactions(
            user[order],
            np.concatenate([self.item, later.item])[order],
            times[order],
            np.concatenate([self.weight, later.weight])[order],
            max(self.n_items, later.n_items),
            self.clock,
        )


def _codes(values: npt.ArrayLike, what: str) -> I64:
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or int(array.min()) < 0:
        raise DataError(
            f"{what} codes must be a list of whole numbers, 0 or more; encode ids first"
        )
    return array.astype(np.int64)


def _by_rating(weight: F32, rating: npt.NDArray[np.float64]) -> F32:
    """Return the weights, of what was rated times its rating over the mean one.

    >>> _by_rating(np.array([2, 2, 5], np.float32), np.array([1.0, 3.0, np.nan])).tolist()
    [1.0, 3.0, 5.0]
    """
    known = np.isfinite(rating)
    if not known.any():
        return weight
    least = float(rating[known].min())
    level = rating if least > 0 else rating - least + 1
    level = level / level[known].mean()
    return np.where(known, weight * level, weight).astype(np.float32)


def _type_weights(store: Store, types: Mapping[str, float] | Sequence[str] | None) -> F32:
    """Return the weight of each event type code, 0 for those left out."""
    if types is None:
        chosen = {name: WEIGHTS.get(name, 1.0) for name in store.types if name not in IGNORED}
    elif isinstance(types, Mapping):
        chosen = {name: float(weight) for name, weight in types.items()}
    else:
        chosen = {name: WEIGHTS.get(name, 1.0) for name in types}
    weights = np.zeros(len(store.types), np.float32)
    weights[store.type_codes(list(chosen))] = list(chosen.values())
    return weights
