"""The future of a log dealt out again: a feature that changes with it reads past the cutoff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Expression
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema
from propend.learn.leaks import Leak, refuse

__all__ = ["check_future", "check_store"]

_CHECKED: Final = 200
"""Users whose future is shuffled."""


def check_future(
    features: Sequence[Expression],
    timelines: Timelines,
    cutoffs: Sequence[int],
    schema: Schema,
    *,
    profile: Mapping[str, Any] | None = None,
    seed: int = 7,
) -> list[Leak]:
    """Return the features of a log that change when everything from the cutoff on is shuffled and blown up.

    A feature may not: it reads ``[cutoff − window, cutoff)``. Each cutoff is judged by itself.

    >>> from propend.expression.parse import parse
    >>> t = Timelines(np.array([7]), np.array([0, 3]), np.array([0, 10, 20]), np.array([0, 1, 0], np.int16),
    ...               np.array([5, 5, 6], np.int32), np.arange(3))
    >>> wanted = [parse("count(view)"), parse("count(view) next 1d")]
    >>> [leak.column for leak in check_future(wanted, t, [15], Schema(types=("view", "buy")))]
    ['count(view) next 1d']
    """
    changed = np.zeros(len(features), np.bool_)
    for cutoff in cutoffs:
        rows = Rows.every(len(timelines.users), [cutoff])
        other = _other_future(timelines, cutoff, seed)
        before = evaluate(features, timelines, rows, schema, profile=profile)
        after = evaluate(features, other, rows, schema, profile=profile)
        for j, (a, b) in enumerate(zip(before, after, strict=True)):
            if isinstance(a, Column) and isinstance(b, Column):
                changed[j] |= not np.array_equal(a.codes, b.codes)
            else:
                changed[j] |= not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
    return [
        Leak(str(features[j]), "future", True, 1.0, f"{features[j]} changes when the future is shuffled; it reads past the cutoff")
        for j in map(int, np.flatnonzero(changed))
    ]  # fmt: skip


def check_store(
    store: Store, schema: Schema, features: Sequence[Expression], cutoffs: Sequence[int]
) -> dict[str, Any]:
    """Shuffle the future of some users of a store and refuse features that change; returns what was checked.

    Attributes of the user have no time that could be shuffled; ``learn.snapshot`` answers for them.
    Raises ``LeakError`` naming the feature.
    """
    plain = [f for f in features if not str(f).startswith("profile.")]
    bucket = min(store.manifest.runs)
    timelines = store.timelines(bucket, schema.columns_for(plain))
    timelines = timelines.users_at(np.arange(min(len(timelines.users), _CHECKED)))
    refuse(
        check_future(plain, timelines, cutoffs, schema),
        "take the feature out: what it reads was not known at the cutoff",
    )
    users = len(timelines.users)
    return {
        "features": len(plain),
        "users": users,
        "cutoffs": len(cutoffs),
        "sentence": f"{len(plain)} features of {users:,} users stay the same when everything from the cutoff on is shuffled",
    }


def _other_future(t: Timelines, cutoff: int, seed: int) -> Timelines:
    """The same past, another future: what happened from the cutoff on is dealt out again among users, times kept."""
    rng = np.random.default_rng(seed)
    ahead = np.flatnonzero(t.time >= cutoff)
    if t.arrival is not None:
        ahead = ahead[t.arrival[ahead] >= cutoff]
    deal = rng.permutation(ahead)
    kinds = int(t.type.max(initial=0)) + 1

    def dealt(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        out = values.copy()
        out[ahead] = values[deal]
        return out

    moved = t.type.copy()
    moved[ahead] = (moved[deal] + 1) % kinds
    return replace(
        t,
        type=moved,
        item=dealt(t.item),
        numbers={
            name: np.where(t.time >= cutoff, dealt(v) * 3 + 1, v) for name, v in t.numbers.items()
        },
        texts={name: Column(dealt(c.codes), c.values) for name, c in t.texts.items()},
    )
