"""The classic test of a customer base model: learn on the first half of a purchase log, forecast the second.

Protocol (Fader, Hardie & Lee 2005): time in weeks, a customer's purchases are the different days with one, customers are
those seen in the first half. Nothing of the second half is learnt from; what is ours corrects BG/NBD by looking back
from moments inside the first half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.clock import local_day
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn import metrics
from propend.models.lifetimes import BgNbd
from propend.models.trees import Trees
from propend.names import QUANTITY, VALUE

__all__ = ["lifetime_holdout"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

WEEK: Final = 7.0
FEWEST: Final = 100
"""Fewest customers in the first half, and fewest of their purchases in the second."""
FEWEST_DAYS: Final = 56
MOMENTS: Final = (0.4, 0.5, 0.6, 0.7)
"""Shares of the first half after which the correction is learnt; chosen on the CDNOW customers outside the sample."""
ROWS_PER_LEAF: Final = 0.0212
"""Share of the rows a leaf needs (200 of CDNOW's 9,400), chosen on nine samples of those customers outside."""
DRAWS: Final = 10
"""Seeds the correction is averaged over."""


@dataclass(frozen=True)
class _Purchases:
    """One row per (user, day): dense user codes [n], local days, money and pieces (0 where the log has none)."""

    user: I64
    day: I64
    value: F64
    quantity: F64
    users: int

    def upto(self, end: int) -> _Known:
        """Return what was known after the day ``end``."""
        seen = self.day <= end
        first = np.full(self.users, np.iinfo(np.int64).max)
        last = np.full(self.users, -1)
        np.minimum.at(first, self.user, self.day)
        np.maximum.at(last, self.user[seen], self.day[seen])
        days = np.bincount(self.user[seen], minlength=self.users)
        there = days > 0
        n = days[there].astype(np.float64)
        return _Known(
            np.flatnonzero(there),
            n - 1,
            (last - first)[there] / WEEK,
            (end - first[there]) / WEEK,
            self._sum(self.value, seen)[there] / n,
            self._sum(self.quantity, seen)[there] / n,
        )

    def _sum(self, of: F64, rows: npt.NDArray[np.bool_]) -> F64:
        return np.asarray(
            np.bincount(self.user[rows], of[rows], minlength=self.users), dtype=np.float64
        )

    def between(self, after: int, end: int, users: I64) -> F64:
        """Return how many purchase days lie in (after, end] for some users."""
        later = (self.day > after) & (self.day <= end)
        return np.bincount(self.user[later], minlength=self.users)[users].astype(np.float64)


@dataclass(frozen=True)
class _Known:
    """A customer each: who, repeat days, weeks from first to last, weeks since the first, mean value and pieces of a day."""

    user: I64
    frequency: F64
    recency: F64
    age: F64
    value: F64
    quantity: F64

    def model(self) -> BgNbd:
        """Fit BG/NBD."""
        return BgNbd.fit(self.frequency, self.recency, self.age)

    def expected(self, model: BgNbd, weeks: float) -> F64:
        """Return expected purchases in the next weeks."""
        return model.expected_purchases(weeks, self.frequency, self.recency, self.age)

    def features(self, model: BgNbd, weeks: float) -> F64:
        """Return features that mean the same at any moment: rates and shares, no lengths of time."""
        return np.column_stack(
            [
                self.expected(model, weeks) / weeks,
                self.recency / np.maximum(self.age, 1 / WEEK),
                self.frequency,
                np.log1p(np.maximum(self.value, 0.0)),
                np.log1p(np.maximum(self.quantity, 0.0)),
                model.probability_alive(self.frequency, self.recency, self.age),
            ]
        )


def lifetime_holdout(
    store: Store, schema: Schema, engine: Engine, *, seed: int = 7
) -> dict[str, Any] | None:
    """Return how well BG/NBD, "always zero" and ours forecast the second half of a purchase log from its first.

    ``None`` where the log has no purchases (an event type ``purchase``, or only one type) or too few: under eight weeks,
    100 customers, 100 later purchases, or nobody who bought twice.
    """
    purchase = (
        "purchase"
        if "purchase" in schema.types
        else (schema.types[0] if len(schema.types) == 1 else None)
    )
    if purchase is None or schema.days < FEWEST_DAYS:
        return None
    bought = _purchases(store, schema, engine, purchase)
    if not len(bought.day):
        return None
    start, stop = int(bought.day.min()), int(bought.day.max())
    end = start + (stop - start + 1) // 2 - 1
    known = bought.upto(end)
    truth = bought.between(end, stop, known.user)
    if len(known.user) < FEWEST or truth.sum() < FEWEST:
        return None
    weeks = (stop - end) / WEEK
    try:
        model = known.model()
    except NotEnoughDataError:
        return None
    expected = known.expected(model, weeks)
    ours = _corrected(bought, known, model, weeks, start, end, seed)
    found: dict[str, Any] = {
        "model": "bg_nbd",
        "event": purchase,
        "customers": len(known.user),
        "parameters": {**model.state(), "unit": "week"},
        **_errors(truth, expected),
        "always_zero": _errors(truth, np.zeros(len(truth))),
        "protocol": f"learnt on {end - start + 1} days, judged on the next {stop - end}, purchases are different days with "
        f"{purchase!r}, {len(known.user):,} customers seen in the first half; no label of the second half was learnt from",
    }
    if ours is not None:
        found["ours"] = {
            "model": "BG/NBD corrected by Poisson trees",
            **_errors(truth, ours),
            "moments": list(MOMENTS),
        }
    return found


def _errors(truth: F64, expected: F64) -> dict[str, float]:
    return {
        "rmse": metrics.rmse(truth, expected),
        "mae": metrics.mae(truth, expected),
        "bias": metrics.bias(truth, expected),
    }


def _corrected(
    bought: _Purchases, known: _Known, model: BgNbd, weeks: float, start: int, end: int, seed: int
) -> F64 | None:
    """Return BG/NBD times what trees learnt of (true / expected) at moments inside the first half."""
    X, expected, y = [], [], []
    for moment in MOMENTS:
        inner = start + int((end - start + 1) * moment) - 1
        then = bought.upto(inner)
        ahead = (end - inner) / WEEK
        try:
            fitted = then.model()
        except NotEnoughDataError:
            continue
        X.append(then.features(fitted, ahead))
        expected.append(np.maximum(then.expected(fitted, ahead), 1e-9))
        y.append(bought.between(inner, end, then.user))
    if not y or np.concatenate(y).sum() < FEWEST:
        return None
    mass = np.concatenate(expected)
    rows, labels, now = np.vstack(X), np.concatenate(y) / mass, known.features(model, weeks)
    factor = np.zeros(len(now))
    for draw in range(DRAWS):
        trees = Trees(
            "count", trees=100, rows_per_leaf=max(5, round(ROWS_PER_LEAF * len(rows))), threads=1
        )
        factor += trees.fit(rows, labels, weight=mass, seed=seed + draw).predict(now) / DRAWS
    return factor * known.expected(model, weeks)


def _purchases(store: Store, schema: Schema, engine: Engine, purchase: str) -> _Purchases:
    code = schema.types.index(purchase)
    columns = [name for name in (VALUE, QUANTITY) if name in schema.numbers]

    def work(bucket: int) -> tuple[I64, I64, F64, F64]:
        timelines = store.timelines(bucket, columns)
        chosen = timelines.type == code
        user = timelines.users[timelines.user_of_row[chosen]]
        day = np.asarray(local_day(timelines.time[chosen], schema.zone), np.int64)
        pairs, at = np.unique(np.column_stack([user, day]), axis=0, return_inverse=True)
        sums = [np.zeros(len(pairs)) for _ in range(2)]
        for i, name in enumerate((VALUE, QUANTITY)):
            if name in columns:
                of = np.nan_to_num(timelines.numbers[name][chosen])
                sums[i] += np.bincount(at.ravel(), of, minlength=len(pairs))
        return pairs[:, 0], pairs[:, 1], sums[0], sums[1]

    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    user, day, value, quantity = (np.concatenate([part[i] for part in parts]) for i in range(4))
    ids, codes = np.unique(user, return_inverse=True)
    return _Purchases(codes.astype(np.int64), day, value, quantity, len(ids))
