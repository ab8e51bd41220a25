"""How an item fits a user by what both are: features of pairs from attributes, as of a moment."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.events.timelines import Column
from propend.recommend.attributes import Attributes, grouped
from propend.recommend.interactions import Histories, Interactions

__all__ = ["category_share", "group_lift", "number_gap", "read_by"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_MOST: Final = 4
"""Attributes of a kind that are read, by name: more say little new and cost a pass each."""
_PRIOR: Final = 20.0


def read_by(attributes: Attributes, *, text: bool) -> list[str]:
    """Return the names of the attributes that pairs are described by, four at most.

    Texts with at least two values and, on average, two carriers of each; numbers that differ.

    >>> kinds = Column(np.array([0, 0, 1, 1], np.int32), ("tea", "cup"))
    >>> read_by({"kind": kinds, "price": np.array([1.0, 2.0, 3.0, 4.0])}, text=True)
    ['kind']
    """
    found = []
    for name in sorted(attributes):
        values = attributes[name]
        if isinstance(values, Column):
            carriers = values.codes[values.codes >= 0]
            kinds = len(np.unique(carriers))
            fits = text and 2 <= kinds <= len(carriers) / 2
        else:
            known = values[np.isfinite(values)] if values.ndim == 1 else values[:0]
            fits = not text and len(known) > 1 and float(known.min()) < float(known.max())
        if fits:
            found.append(name)
    return found[:_MOST]


def number_gap(values: F64, histories: Histories, row: I64, item: I64) -> F64:
    """Return each pair's number less the mean of the user's history (logarithms, if all are above 0); NaN: not known.

    >>> price = np.array([1.0, 1.0, np.e])
    >>> number_gap(price, Histories.of([[0, 1]]), np.array([0]), np.array([2])).tolist()
    [1.0]
    """
    known = np.isfinite(values)
    level = np.log(values) if (values[known] > 0).all() else values
    had = level[histories.items]
    there = np.isfinite(had)
    rows, size = histories.row[there], len(histories)
    count = np.bincount(rows, minlength=size)
    total = np.bincount(rows, had[there], size)
    mean = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return np.asarray(level[item] - mean[row], np.float64)


def category_share(codes: I32, histories: Histories, row: I64, item: I64) -> F64:
    """Return which share of the user's history has the pair's category; NaN: not known.

    >>> category_share(np.array([0, 0, 1], np.int32), Histories.of([[0, 2]]), np.array([0]), np.array([1])).tolist()
    [0.5]
    """
    width = np.int64(codes.max(initial=0)) + 1
    mine = codes[histories.items].astype(np.int64)
    there = mine >= 0
    rows = histories.row[there]
    keys, count = np.unique(rows * width + mine[there], return_counts=True)
    of_user = np.maximum(np.bincount(rows, minlength=len(histories)), 1)
    wanted = codes[item].astype(np.int64)
    key = row * width + wanted
    at = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
    hits = np.where(keys[at] == key, count[at], 0) if len(keys) else np.zeros(len(key))
    return np.where(wanted >= 0, hits / of_user[row], np.nan)


def group_lift(log: Interactions, people: Attributes, name: str) -> tuple[I64, F32]:
    """Return each user code's group by an attribute (−1: none), and how much more often a group takes an item.

    The lift [groups, n_items] is log((n_gi + 20 p_i) / ((n_g + 20) p_i)) with p_i everybody's share of the item.

    >>> log = Interactions.of([0, 1], [0, 1])
    >>> country = Column(np.array([0, 1], np.int32), ("DE", "FR"))
    >>> codes, lift = group_lift(log, {"country": country}, "country")
    >>> codes.tolist(), bool(lift[0, 0] > 0 > lift[0, 1])
    ([0, 1], True)
    """
    codes, names = grouped(people, name, "user")
    known = log.user < len(codes)
    group = np.where(known, codes[np.minimum(log.user, len(codes) - 1)], -1)
    share = np.maximum(np.bincount(log.item, minlength=log.n_items), 0.5) / len(log)
    inside = group >= 0
    key = group[inside] * log.n_items + log.item[inside]
    count: Any = np.bincount(key, minlength=len(names) * log.n_items)
    count = count[: len(names) * log.n_items].reshape(len(names), log.n_items)
    total = count.sum(axis=1, keepdims=True)
    lift = np.log((count + _PRIOR * share) / ((total + _PRIOR) * share))
    return codes, lift.astype(np.float32)
