"""Do explanations mean something, and what would have to change: deletion test and counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, nearest
from propend.models.model import Model

__all__ = ["Change", "counterfactual", "deletion_test", "remark_on_reasons"]

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """One column's move from what it is to what it would have to be, and the score after it."""

    column: str
    was: float
    becomes: float
    score: float


def deletion_test(
    model: Model, X: F64, *, columns: int = 3, rows: int = 2_000, seed: int = 7
) -> dict[str, float]:
    """Return how far scores move when each row's most contributing columns are replaced, against as many drawn at random.

    A replaced value is another row's (drawn with ``seed``). Contributions mean something where ``ratio`` is well above 1
    (Samek et al. 2017, deletion). Raises ``ModelError`` where the model gives no contributions.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(X))[:rows]
    sample = np.array(X[chosen], dtype=np.float64)
    parts = np.abs(model.contributions(sample)[:, :-1])
    count = min(columns, sample.shape[1])
    top = np.argsort(-parts, axis=1, kind="stable")[:, :count]
    drawn = np.argsort(rng.random(parts.shape), axis=1)[:, :count]
    donor = X[rng.integers(0, len(X), len(sample))]
    before = model.predict(sample)
    moved = []
    for where in (top, drawn):
        other = sample.copy()
        np.put_along_axis(other, where, np.take_along_axis(donor, where, axis=1), axis=1)
        moved.append(float(np.abs(model.predict(other) - before).mean()))
    ratio = moved[0] / moved[1] if moved[1] > 0 else float("inf" if moved[0] > 0 else "nan")
    return {"top": moved[0], "random": moved[1], "ratio": ratio, "rows": float(len(sample))}


def remark_on_reasons(model: Model, row: F64) -> str:
    """Return in a sentence that a model gives no reasons (for ``row`` [1, d]), or on an unusual scale; empty: as usual.

    >>> from propend.models import create
    >>> X = np.arange(40.0)[:, None]
    >>> remark_on_reasons(create("neighbours", "yes_no").fit(X, X[:, 0] > 20), X[:1])
    "no reasons: 'neighbours' scores are not a sum of columns; explain another model"
    >>> remark_on_reasons(create("decision_tree", "yes_no").fit(X, X[:, 0] > 20), X[:1])
    "reasons are parts of the score itself before its calibration (the shares in the trees' leaves), not of its logit"
    """
    try:
        model.contributions(row, 0 if model.answer == "which" else None)
    except ModelError as error:
        return f"no reasons: {error}"
    if model.answer in ("yes_no", "which") and model.link == "identity":
        return "reasons are parts of the score itself before its calibration (the shares in the trees' leaves), not of its logit"
    return ""


class Scores(Protocol):
    """What gives a score to rows: a model, or a fitted task with its calibration."""

    @property
    def predict(self) -> Callable[[F64], F64]:
        """Scores [n] of rows [n, d]."""


def counterfactual(
    model: Scores,
    row: npt.ArrayLike,
    columns: Sequence[str],
    actionable: Mapping[str, Any],
    data: F64,
    target: float,
    *,
    above: bool = True,
    most: int = 3,
    values: int = 15,
) -> list[Change] | None:
    """Return the fewest changes of actionable columns that bring a row's score to ``target``, or ``None``.

    ``actionable`` maps a column to ``"up"``, ``"down"`` or ``"any"``: which way it may move; all others stay. Values are
    tried at quantiles of ``data`` (categories: their codes), so nothing is proposed that no row has. Greedy: at each step
    the change that helps most; it is not proven to be the smallest, and it says what the model would answer, not what
    causes what.

    >>> from propend.models.linear import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> model = LogisticRegression("yes_no", bends=0).fit(X, X[:, 0] > 0)
    >>> [c.column for c in counterfactual(model, [-1.0, 0.0], ["visits", "age"], {"visits": "up"}, X, 0.7)]
    ['visits']
    """
    for name in actionable:
        if name not in columns:
            raise ModelError(f"no column {name!r} to change{nearest(name, columns)}")
    now = np.array(row, dtype=np.float64)
    sign = 1.0 if above else -1.0
    score = float(model.predict(now[None])[0])
    changes: list[Change] = []
    left = dict(actionable)
    while sign * (score - target) < 0:
        if len(changes) == most or not left:
            return None
        found = [
            _best_move(model, now, columns.index(name), way, data, sign, target, values)
            for name, way in left.items()
        ]
        gains = [sign * (f[0] - score) if f is not None else -np.inf for f in found]
        best = int(np.argmax(np.minimum(gains, sign * (target - score) + 1e-12)))
        move = found[best]
        if move is None or gains[best] <= 0:
            return None
        name = list(left)[best]
        j = columns.index(name)
        changes.append(Change(name, float(now[j]), move[1], move[0]))
        now[j], score = move[1], move[0]
        del left[name]
    return changes


def _best_move(
    model: Scores, row: F64, j: int, way: str, data: F64, sign: float, target: float, values: int
) -> tuple[float, float] | None:
    """The nearest value that reaches the target, else the one that comes closest to it."""
    present = data[~np.isnan(data[:, j]), j]
    if not len(present):
        return None
    tried = np.unique(np.quantile(present, np.linspace(0, 1, values), method="inverted_cdf"))
    if way == "up":
        tried = tried[tried > row[j]]
    elif way == "down":
        tried = tried[tried < row[j]]
    if not len(tried):
        return None
    rows = np.tile(row, (len(tried), 1))
    rows[:, j] = tried
    scores = model.predict(rows)
    reached = np.flatnonzero(sign * (scores - target) >= 0)
    if len(reached):
        far = np.abs(tried[reached] - np.nan_to_num(row[j]))
        at = reached[int(np.argmin(far))]
    else:
        at = int(np.argmax(sign * scores))
    return float(scores[at]), float(tried[at])
