"""The leak report: does a feature know the answer? What it blocks must be explained or taken out before a model is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Expression
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema
from propend.learn import metrics

__all__ = ["Leak", "LeakError", "check_future", "check_store", "leak_report", "refuse"]

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

TOO_GOOD: Final = 0.97
"""AUROC (or |rank correlation|) of one column alone above which it blocks."""
SUSPECT: Final = 0.80
"""Above which it is named, if the next best column alone lies ``AHEAD`` behind."""
AHEAD: Final = 0.10
LATE_AND_STRONG: Final = 0.70
"""AUROC alone of a column whose name says that it is known after the fact, above which it blocks."""
TWINS: Final = 0.05
"""Share of test rows with an identical twin in training above which it blocks (1 % is named)."""
_AFTER: Final = re.compile(
    r"(?i)(^|[_\s])(duration|outcome|result|resolved|resolution|closed|closing|refund(ed)?|charge_?back|"
    r"cancel(l)?(ed|ation)?(_(date|reason|at))?|end_date|churn_?(reason|date|score)|paid_off|settled|"
    r"after|post|final|next|future|label|target|predicted)([_\s]|$)"
)
_ROWS: Final = 20_000
_CHECKED: Final = 200
"""Users whose future is shuffled."""
_BINS: Final = 32


@dataclass(frozen=True)
class Leak:
    """One finding: which column (empty: the split), what kind, whether it blocks, in words, with its figure."""

    column: str
    kind: Literal["echo", "too good alone", "after the fact", "missing tells", "twins", "future"]
    blocks: bool
    figure: float
    sentence: str


class LeakError(DataError):
    """The data holds the answer; the message names the columns and how to go on."""


def leak_report(
    X: F64,
    y: F64,
    columns: Sequence[str],
    categories: Mapping[int, int] | None = None,
    *,
    fold_of: npt.NDArray[np.int64] | None = None,
    groups: npt.NDArray[Any] | None = None,
    known_before: Sequence[str] = (),
    seed: int = 7,
) -> list[Leak]:
    """Return findings, those that block first.

    ``X`` [n, d] with NaN for missing, ``y`` [n] (0/1, or amounts), ``fold_of`` [n] the fold each row is tested in,
    ``groups`` [n] what rows belong to. ``known_before`` names columns a person has confirmed to be known in time: they
    are not judged. One column alone is judged by binned rates learnt on one half of the rows and scored on the other.

    >>> rng = np.random.default_rng(0)
    >>> y = (rng.random(1000) < 0.3).astype(float)
    >>> X = np.column_stack([rng.normal(size=1000), y + rng.normal(0, 0.05, 1000)])
    >>> [(l.column, l.kind, l.blocks) for l in leak_report(X, y, ["age", "call_result"])]
    [('call_result', 'too good alone', True)]
    """
    if X.shape != (len(y), len(columns)):
        raise DataError(f"X {X.shape} must be [{len(y)} labels, {len(columns)} columns]")
    categories = categories or {}
    found: list[Leak] = []
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(y))[:_ROWS]
    sample, labels = X[rows], y[rows]
    alone = np.array([_alone(sample[:, j], labels, j in categories) for j in range(len(columns))])
    for j, name in enumerate(columns):
        if name in known_before:
            continue
        others = np.delete(alone, j)
        second = float(others.max()) if len(others) else 0.5
        leak = _judge(name, sample[:, j], labels, j in categories, float(alone[j]), second)
        if leak is not None:
            found.append(leak)
    found += _twins(X, fold_of, groups)
    return sorted(found, key=lambda leak: (not leak.blocks, -leak.figure))


def refuse(leaks: Sequence[Leak], how: str) -> None:
    """Raise ``LeakError`` where a finding blocks; ``how`` says how a person confirms a column."""
    blocking = [leak for leak in leaks if leak.blocks]
    if blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise LeakError(f"{blocking[0].sentence}{more}; {how}")


def _judge(name: str, x: F64, y: F64, category: bool, alone: float, second: float) -> Leak | None:
    if not category and _echo(x, y):
        return Leak(
            name, "echo", True, 1.0,
            f"{name!r} is the label itself, rescaled; leave it out",
        )  # fmt: skip
    gaps = np.isnan(x)
    if 10 <= gaps.sum() <= len(x) - 10:
        told = _strength(gaps.astype(np.float64), y)
        if told >= 0.9:
            return Leak(
                name, "missing tells", True, told,
                f"whether {name!r} is filled tells the answer (AUROC {told:.3f} alone): it is written after the fact; leave it out",
            )  # fmt: skip
    if alone >= TOO_GOOD:
        return Leak(
            name, "too good alone", True, alone,
            f"{name!r} alone reaches {alone:.3f}: no honest column does; leave it out, or confirm that it is known in time",
        )  # fmt: skip
    if alone >= LATE_AND_STRONG and _AFTER.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)):
        return Leak(
            name, "after the fact", True, alone,
            f"{name!r} sounds like something known only afterwards and reaches {alone:.3f} alone; leave it out, or confirm that it is known in time",
        )  # fmt: skip
    if alone >= SUSPECT and alone - second >= AHEAD:
        return Leak(
            name, "too good alone", False, alone,
            f"{name!r} alone reaches {alone:.3f}, the next best {second:.3f}; make sure that it is known in time",
        )  # fmt: skip
    return None


def _echo(x: F64, y: F64) -> bool:
    """Whether the column is a one-to-one linear image of the label."""
    there = ~np.isnan(x)
    if there.mean() < 0.5 or np.ptp(x[there]) == 0 or np.ptp(y[there]) == 0:
        return False
    with np.errstate(all="ignore"):
        r = np.corrcoef(np.clip(x[there], -1e100, 1e100), y[there])[0, 1]
    return bool(abs(r) > 1 - 1e-9)


def _alone(x: F64, y: F64, category: bool) -> float:
    """How well one column alone ranks rows it was not learnt on: 0.5 nothing, 1 all."""
    half = np.arange(len(y)) % 2 == 0
    bins = _binned(x, half, category)
    count = int(bins.max()) + 1
    score = np.empty(len(y))
    for learn in (half, ~half):
        mass: F64 = np.asarray(np.bincount(bins[learn], minlength=count), dtype=np.float64)
        total = np.bincount(bins[learn], y[learn], minlength=count)
        base = float(y[learn].mean())
        rate = (total + 5 * base) / (mass + 5)
        score[~learn] = rate[bins[~learn]]
    return max(_strength(score[half], y[half]), _strength(score[~half], y[~half]))


def _binned(x: F64, half: Bool, category: bool) -> npt.NDArray[np.int64]:
    gaps = np.isnan(x)
    if category:
        return np.where(gaps, 0, np.nan_to_num(x) + 1).astype(np.int64)
    values = x[half & ~gaps]
    edges: F64 = np.empty(0)
    if len(values):
        edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return np.where(gaps, 0, 1 + np.searchsorted(edges, np.where(gaps, 0, x), side="right"))


def _strength(score: F64, y: F64) -> float:
    """AUROC folded to 0.5…1 for 0/1, half of 1 + |rank correlation| for amounts."""
    if np.isin(y, (0.0, 1.0)).all():
        value = metrics.auroc(y, score)
    else:
        value = (1 + metrics.spearman(y, score)) / 2
    return 0.5 if value != value else max(value, 1 - value)


def _twins(
    X: F64,
    fold_of: npt.NDArray[np.int64] | None,
    groups: npt.NDArray[Any] | None,
) -> list[Leak]:
    """The same entity on both sides of a split: groups that span folds, and identical rows that do."""
    if fold_of is None:
        return []
    found: list[Leak] = []
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        pairs = np.unique(np.column_stack([group, fold_of]), axis=0)
        split = int((np.bincount(pairs[:, 0]) > 1).sum())
        if split:
            share = split / (int(group.max()) + 1)
            found.append(
                Leak("", "twins", True, share, f"{split:,} groups lie in several folds; keep groups whole (--group)")
            )  # fmt: skip
    filled = np.ascontiguousarray(np.nan_to_num(X, nan=-1.234e300))
    keys = filled.view(np.dtype((np.void, filled.dtype.itemsize * filled.shape[1]))).ravel()
    _, row = np.unique(keys, return_inverse=True)
    row = row.ravel()
    pairs = np.unique(np.column_stack([row, fold_of]), axis=0)
    spans = np.bincount(pairs[:, 0]) > 1
    twin = spans[row]
    share = float(twin.mean())
    if share > TWINS / 5:
        found.append(
            Leak(
                "", "twins", share > TWINS, share,
                f"{share:.1%} of the rows have an identical twin in another fold; drop duplicates or name what rows belong to (--group)",
            )
        )  # fmt: skip
    return found


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
