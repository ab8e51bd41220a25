"""The leak report: does a feature know the answer? What it blocks must be explained or taken out before a model is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.learn import metrics
from propend.learn.settled import Answers
from propend.models.gathered import Gathered

__all__ = ["Leak", "LeakError", "leak_report", "refuse"]

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

TOO_GOOD: Final = 0.97
"""AUROC of one column alone above which it blocks, whatever the others do."""
STANDS_OUT: Final = 0.90
"""Above which it blocks where it lies ``AHEAD`` of the table's other columns."""
AMOUNT_STANDS_OUT: Final = 0.95
"""The same for amounts, half of 1 + |rank correlation|: last year's spending honestly tells much of this year's."""
SUSPECT: Final = 0.80
"""Above which it is named where it lies ``AHEAD`` of the others."""
AHEAD: Final = 0.20
"""How far a column alone lies above the lower quartile of the others; leaks that come in pairs do not hide each other."""
FEW: Final = 4
"""Columns below which the others are no yardstick, and chance (.5) is."""
LATE_AND_STRONG: Final = 0.70
"""AUROC alone of a column whose name says that it is known after the fact, above which it blocks."""
TWINS: Final = 0.05
"""Share of test rows with an identical twin in training above which it blocks (1 % is named)."""
LEAST_OF_CLASS: Final = 20
"""Rows of one answer of many that are needed to judge columns by it."""
_AFTER: Final = (
    re.compile(  # words that say it wherever they stand
        r"duration|outcome|refund|charge_?back|unsubscri|resolution|settled|paid_?off|dwell|talk_?time|"
        r"call_?(time|sec|min|length)|handling_?time|churn_?(reason|date|score)|"
        r"dauer|ergebnis|erstatt|k(ü|ue)ndigung|storn|r(ü|ue)ck(gabe|zahlung)|"
        r"时长|時長|停留|结果|結果|退款|退货|退貨|退订|退訂|取消|注销|註銷|流失|关闭|關閉|赔付|賠付|结清|還清|还清|事后|事後"
    ),
    re.compile(  # words that say it as a word of the name
        r"(^|[_\W])(result|resolved|closed|closing|cancel(l)?(ed|ation)?|end_date|after|post|final|next|future|"
        r"label|target|predicted|ende|enddatum|danach|nachher|beendet)([_\W]|$)"
    ),
    re.compile(  # the moment of something done, but for what begins a row
        r"(^|[_\W])(?!created|registered|joined|signed|updated|imported|enrolled)[a-z]+ed_?(at|on|date)([_\W]|$)"
    ),
)
_ADVICE: Final = re.compile(r"[:;] leave (it|one) out(, or confirm that it is known in time)?$")
_ROWS: Final = 20_000
_BINS: Final = 32
_PAIRS: Final = 20
"""Pairs of columns that are tried together, of those that look the most promising."""


@dataclass(frozen=True)
class Leak:
    """One finding: which column (empty: the split), what kind, whether it blocks, in words, with its figure."""

    column: str
    kind: Literal[
        "echo", "too good alone", "after the fact", "missing tells", "settled", "twins", "future"
    ]
    blocks: bool
    figure: float
    sentence: str


class LeakError(DataError):
    """The data holds the answer; the message names the columns and how to go on."""


def leak_report(
    X: F64 | Gathered,
    y: F64,
    columns: Sequence[str],
    categories: Mapping[int, int | Sequence[str]] | None = None,
    *,
    fold_of: npt.NDArray[np.int64] | None = None,
    groups: npt.NDArray[Any] | None = None,
    known_before: Sequence[str] = (),
    classes: Sequence[str] = (),
    label: str = "the answer",
    positive: str = "yes",
    seed: int = 7,
) -> list[Leak]:
    """Return findings, those that block first.

    ``X`` [n, d] with NaN for missing, ``y`` [n] (0/1, amounts, or places in ``classes``, each of which is held against
    all others), ``fold_of`` [n] the fold each row is tested in, ``groups`` [n] what rows belong to. ``known_before``
    names columns a person has confirmed to be known in time: they are not judged. ``categories`` are the columns of codes
    (with their texts, to be named), ``label`` and its ``positive`` answer say what ``y`` is called. One column alone is judged by binned
    rates learnt on one half of the rows (of the groups) and scored on the other; two together by their best sum.

    >>> rng = np.random.default_rng(0)
    >>> y = (rng.random(1000) < 0.3).astype(float)
    >>> X = np.column_stack([rng.normal(size=1000), y + rng.normal(0, 0.05, 1000)])
    >>> [(l.column, l.kind, l.blocks) for l in leak_report(X, y, ["age", "call_result"])]
    [('call_result', 'too good alone', True)]
    """
    if X.shape != (len(y), len(columns)):
        raise DataError(f"X {X.shape} must be [{len(y)} labels, {len(columns)} columns]")
    categories = categories or {}
    rows = np.random.default_rng(seed).permutation(len(y))[:_ROWS]
    sample = X[rows]
    half = _halves(None if groups is None else np.asarray(groups)[rows], len(rows))
    bins = [_binned(sample[:, j], half, j in categories) for j in range(len(columns))]
    judged = [j for j, name in enumerate(columns) if name not in known_before]
    plain = [j for j in judged if j not in categories]
    worst: dict[str, Leak] = {}
    for what, labels in _questions(y[rows], classes):
        alone = np.array([_alone(b, half, labels) for b in bins])
        found = []
        for j in judged:
            others = np.delete(alone, j)
            usual = float(np.quantile(others, 0.25)) if len(columns) >= FEW else 0.5
            found.append(
                _judge(columns[j], sample[:, j], labels, j in categories, float(alone[j]), usual, what)
            )  # fmt: skip
        found.append(_together(sample, labels, plain, columns, alone, half))
        for leak in found:
            if leak is None:
                continue
            before = worst.get(leak.column)
            if before is None or (leak.blocks, leak.figure) > (before.blocks, before.figure):
                worst[leak.column] = leak
    if not classes:
        texts = {j: t for j, t in categories.items() if not isinstance(t, int)}
        told = Answers(X, y, columns, texts, groups, label, positive)
        echoes = [Leak(name, "echo", True, 1.0, said) for name, said in told.row_by_row(judged)]
        sure = [Leak(name, "settled", False, share, said) for name, share, said in told.settled(judged, rows)]  # fmt: skip
        for leak in (*echoes, *sure):
            before = worst.get(leak.column)
            if before is None or (leak.blocks and not before.blocks):
                worst[leak.column] = leak
    found_all = [*worst.values()]
    if fold_of is not None:
        found_all += _twins(np.asarray(X), fold_of, groups, seed)
    return sorted(found_all, key=lambda leak: (not leak.blocks, -leak.figure))


def _questions(y: F64, classes: Sequence[str]) -> list[tuple[str, F64]]:
    """Return the labels to judge by: themselves, or each answer of many against the others, in words."""
    if not classes:
        return [("", y)]
    return [
        (f" in telling {name!r} from the rest", (y == code).astype(np.float64))
        for code, name in enumerate(classes)
        if LEAST_OF_CLASS <= (y == code).sum() < len(y)
    ]


def _halves(groups: npt.NDArray[Any] | None, rows: int) -> Bool:
    """Return which rows are in the first half; rows of a group are in the same one."""
    if groups is None:
        return np.arange(rows) % 2 == 0
    code = np.unique(groups, return_inverse=True)[1].ravel()
    return np.asarray(code % 2 == 0)


def refuse(leaks: Sequence[Leak], how: str) -> None:
    """Raise ``LeakError`` where a finding blocks; ``how`` says how a person leaves a column out or confirms it.

    The finding's own advice gives way to it, so that nothing is said twice.
    """
    blocking = [leak for leak in leaks if leak.blocks]
    if blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise LeakError(f"{_ADVICE.sub('', blocking[0].sentence)}{more}; {how}")


def _judge(
    name: str, x: F64, y: F64, category: bool, alone: float, usual: float, what: str
) -> Leak | None:
    if not category and _echo(x, y):
        return Leak(
            name, "echo", True, 1.0,
            f"{name!r} is the label itself, rescaled{what}; leave it out",
        )  # fmt: skip
    gaps = np.isnan(x)
    if 10 <= gaps.sum() <= len(x) - 10:
        told = _strength(gaps.astype(np.float64), y)
        if told >= 0.9:
            return Leak(
                name, "missing tells", True, told,
                f"whether {name!r} is filled tells the answer (AUROC {told:.3f} alone): it is written after the fact; leave it out",
            )  # fmt: skip
    two = bool(np.isin(y, (0.0, 1.0)).all())
    # one answer of many is often set apart by one honest column, so there only TOO_GOOD blocks
    bar = TOO_GOOD if what else STANDS_OUT if two else AMOUNT_STANDS_OUT
    ahead = alone - usual >= AHEAD
    if alone >= TOO_GOOD or (alone >= bar and ahead):
        return Leak(
            name, "too good alone", True, alone,
            f"{name!r} alone reaches {alone:.3f}{what}, where a usual column of this table has {usual:.3f}: leave it out, or confirm that it is known in time",
        )  # fmt: skip
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    if alone >= LATE_AND_STRONG and any(words.search(plain) for words in _AFTER):
        return Leak(
            name, "after the fact", True, alone,
            f"{name!r} sounds like something known only afterwards and reaches {alone:.3f} alone{what}; leave it out, or confirm that it is known in time",
        )  # fmt: skip
    if alone >= SUSPECT and ahead:
        return Leak(
            name, "too good alone", False, alone,
            f"{name!r} alone reaches {alone:.3f}{what}, a usual column of this table {usual:.3f}; make sure that it is known in time",
        )  # fmt: skip
    return None


def _together(
    X: F64, y: F64, plain: list[int], columns: Sequence[str], alone: F64, half: Bool
) -> Leak | None:
    """Find two columns whose sum or difference is the label though neither is: what was paid and what was due."""
    plain = [j for j in plain if alone[j] < STANDS_OUT]  # by itself it is found already
    if len(plain) < 2 or np.ptp(y) == 0:
        return None
    filled = np.clip(np.nan_to_num(X[:, plain], posinf=np.nan, neginf=np.nan), -1e100, 1e100)
    filled = filled - filled.mean(0)
    size = np.sqrt((filled**2).mean(0))
    plain = [j for j, s in zip(plain, size, strict=True) if s > 0]
    Z = filled[:, size > 0] / size[size > 0]
    if Z.shape[1] < 2:
        return None
    r = Z.T @ Z / len(Z)
    own = Z.T @ (y - y.mean()) / (len(y) * y.std())
    rest = np.maximum(1 - r**2, 1e-12)
    gain = (own[:, None] ** 2 + own[None, :] ** 2 - 2 * own[:, None] * own[None, :] * r) / rest
    gain = np.where(np.triu(np.ones_like(r), 1) > 0, gain - np.maximum.outer(own**2, own**2), -1.0)
    alike = np.where(
        np.triu(np.ones_like(r), 1) > 0, r, -1.0
    )  # nearly equal: only a difference tells
    picks = {*np.argsort(-gain, axis=None)[:_PAIRS].tolist(), *np.argsort(-alike, axis=None)[:_PAIRS].tolist()}  # fmt: skip
    best: Leak | None = None
    for pick in sorted(picks):
        a, b = divmod(int(pick), Z.shape[1])
        if a >= b:
            continue
        i, j = plain[a], plain[b]
        there = np.isfinite(X[:, i]) & np.isfinite(X[:, j])
        if there.sum() < max(100, 0.5 * len(y)):
            continue
        told = max(
            _held_out(column, y[there], half[there]) for column in _sums(X[there][:, [i, j]], y[there], half[there])
        )  # fmt: skip
        if told >= TOO_GOOD and told - max(alone[i], alone[j]) >= 0.05 and (best is None or told > best.figure):  # fmt: skip
            best = Leak(
                columns[i], "echo", True, told,
                f"{columns[i]!r} and {columns[j]!r} together give the answer ({told:.3f}), though neither does alone; leave one out, or confirm that it is known in time",
            )  # fmt: skip
    return best


def _sums(pair: F64, y: F64, half: Bool) -> list[F64]:
    """Return the plain difference of two columns, and their best sum as learnt on one half of the rows."""
    with np.errstate(all="ignore"):
        difference = pair[:, 0] - pair[:, 1]
        A = np.column_stack([pair, np.ones(len(pair))])[half]
        weights = np.linalg.lstsq(A, y[half], rcond=None)[0]
    return [difference, pair @ weights[:2]]


def _held_out(score: F64, y: F64, half: Bool) -> float:
    return _strength(score[~half], y[~half])


def _echo(x: F64, y: F64) -> bool:
    """Whether the column is a one-to-one linear image of the label."""
    there = ~np.isnan(x)
    if there.mean() < 0.5 or np.ptp(x[there]) == 0 or np.ptp(y[there]) == 0:
        return False
    with np.errstate(all="ignore"):
        r = np.corrcoef(np.clip(x[there], -1e100, 1e100), y[there])[0, 1]
    return bool(abs(r) > 1 - 1e-9)


def _alone(bins: npt.NDArray[np.int64], half: Bool, y: F64) -> float:
    """How well one column alone ranks rows it was not learnt on: 0.5 nothing, 1 all."""
    if half.all() or not half.any():
        return 0.5
    count = int(bins.max()) + 1
    score = np.empty(len(y))
    for learn in (half, ~half):
        mass: F64 = np.asarray(np.bincount(bins[learn], minlength=count), dtype=np.float64)
        total = np.bincount(bins[learn], y[learn], minlength=count)
        base = float(y[learn].mean())
        rate = (total + 5 * base) / (mass + 5)
        score[~learn] = rate[bins[~learn]]
    return (_strength(score[half], y[half]) + _strength(score[~half], y[~half])) / 2


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
    fold_of: npt.NDArray[np.int64],
    groups: npt.NDArray[Any] | None,
    seed: int,
) -> list[Leak]:
    """The same entity on both sides of a split: groups that span folds, and identical rows that do."""
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
    share = _twin_share(X, fold_of)
    if share <= TWINS / 5:
        return found
    rng = np.random.default_rng(seed)
    chance = _twin_share(np.column_stack([rng.permutation(x) for x in X.T]), fold_of)
    what = f"{share:.1%} of the rows have an identical twin in another fold"
    if chance > TWINS / 5:
        # columns this coarse make twins by themselves, so a twin is no sign of the same entity
        if share - chance > TWINS / 5:
            found.append(
                Leak(
                    "", "twins", share - chance > TWINS and chance < TWINS, share,
                    f"{what}, {chance:.1%} by chance alone since the columns hold few values; name what rows belong to (--group) if they repeat",
                )
            )  # fmt: skip
        return found
    found.append(
        Leak(
            "", "twins", share > TWINS, share,
            f"{what}; drop duplicates or name what rows belong to (--group)",
        )
    )  # fmt: skip
    return found


def _twin_share(X: F64, fold_of: npt.NDArray[np.int64]) -> float:
    """Return the share of rows that stand in another fold, too."""
    filled = np.ascontiguousarray(np.nan_to_num(X, nan=-1.234e300))
    keys = filled.view(np.dtype((np.void, filled.dtype.itemsize * filled.shape[1]))).ravel()
    row = np.unique(keys, return_inverse=True)[1].ravel()
    pairs = np.unique(np.column_stack([row, fold_of]), axis=0)
    return float((np.bincount(pairs[:, 0]) > 1)[row].mean())
