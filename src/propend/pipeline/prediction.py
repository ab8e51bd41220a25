"""A fitted task's answer for everyone asked: scores with intervals and reasons, why one is what it is, what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import DataError
from propend.expression.nodes import Aggregate, Expression, Says
from propend.learn.explain import Change, counterfactual
from propend.learn.fitted import Fitted, Reason
from propend.learn.registry import Entry
from propend.tasks.task import Task

__all__ = ["Prediction", "not_asked", "reasons_in_words", "short"]

F64 = npt.NDArray[np.float64]


@dataclass
class Prediction:
    """A fitted task and its answer for everyone asked now.

    ``metrics`` and ``card`` say how good it is and by which protocol; ``scores`` has one row per user.
    """

    fitted: Fitted
    entry: Entry | None
    users: npt.NDArray[np.object_]
    codes: npt.NDArray[np.int64]
    score: F64
    """Calibrated probability, expected amount or days [n]; of many answers, the likeliest one's probability."""
    _X: F64
    _all: F64 | None = None
    """Probabilities [n, classes] of many answers."""

    @property
    def card(self) -> dict[str, Any]:
        """Every figure with its protocol."""
        return self.fitted.card

    @property
    def metrics(self) -> dict[str, float]:
        """The champion's metrics over all forward test rows."""
        return dict(self.card["metrics"])

    @property
    def cut(self) -> float | None:
        """From which score on the answer is yes: the most profitable cut where one was asked for, else the best by F1."""
        profit = self.card.get("profit")
        if profit is None:
            return self.fitted.threshold
        return float("inf") if profit["cut"] is None else float(profit["cut"])

    @cached_property
    def scores(self) -> pa.Table:
        """Return user, score, its interval where there is one, the strongest reasons and the verdict, best score first.

        The verdict says whether the model is to be used at all. With a profit curve ``answer`` is who to contact. One of many: the likeliest ``answer``, its score, and the ``next`` likeliest. A yes/no task that may abstain has
        an ``answer`` too: yes, no, or "not enough data" where the interval is wider than the card's ``abstain``.
        """
        reasons = [reasons_in_words(r) for r in self.fitted.reasons(self._X, 3)]
        columns: dict[str, Any] = {"user": pa.array(self.users, pa.string())}
        if self._all is not None:
            order = np.argsort(-self._all, axis=1, kind="stable")[:, :4]
            names = np.array(self.fitted.classes, dtype=object)
            columns["answer"] = pa.array(names[order[:, 0]], pa.string())
            columns["score"] = self.score
            columns["next"] = pa.array(
                [
                    "; ".join(f"{names[j]} ({self._all[i, j]:.2f})" for j in order[i, 1:])
                    for i in range(len(order))
                ],
                pa.string(),
            )
        else:
            columns["score"] = self.score
            low, high = self.fitted.bounds(self._X)
            if len(low) and not np.isnan(low).all():
                columns |= {"low": low, "high": high}
            width = self.card.get("abstain")
            if width is not None or "profit" in self.card:
                cut = 0.5 if self.cut is None else self.cut
                answer = np.where(self.score >= cut, "yes", "no").astype(object)
                if width is not None:
                    answer[high - low > width] = "not enough data"
                columns["answer"] = pa.array(answer, pa.string())
        columns["reasons"] = pa.array(reasons, pa.string())
        verdict = str(self.card.get("verdict", {}).get("answer", ""))
        columns["verdict"] = pa.array([verdict] * len(reasons), pa.string())
        return pa.table(columns).take(pa.array(np.lexsort((self.codes, -self.score))))

    def explain(self, user: str, most: int = 5) -> list[Reason]:
        """Return why one user's score is what it is; raises ``DataError`` for a user who was not asked."""
        rows = np.flatnonzero(self.users == user)
        if len(rows) == 0:
            raise not_asked(user, self.fitted.task)
        return self.fitted.reasons(self._X[rows[:1]], most)[0]

    @property
    def mark(self) -> tuple[float, str]:
        """The score that counts as reached, and what it is: the cut of yes/no answers, else the better quarter of the scores."""
        cut = self.cut
        if cut is not None and np.isfinite(cut):
            return cut, "the cut"
        part, name = (0.25, "lower") if self.lower_is_better else (0.75, "upper")
        return float(np.quantile(self.score, part)), f"the {name} quartile of the scores"

    @property
    def lower_is_better(self) -> bool:
        """Whether a low score is what one wishes for: a time to wait, or the chance that nothing comes."""
        target = self.fitted.task.target
        silent = isinstance(target, Aggregate) and target.function == "none"
        return silent or self.fitted.task.answer == "time"

    def would_change(self, user: str, target: float | None = None) -> list[Change] | None:
        """Return the fewest changes in what a user does that would bring the score to ``target``; ``None`` where none do.

        Only behaviour may move. Towards the better side (see :attr:`lower_is_better`) a user does more: counts, sums and
        active days up, days since an event down. Away from it a user does less, and only what lies in a window can
        become less. It says what the model would answer, not what causes what. Default target: :attr:`mark`.
        """
        rows = np.flatnonzero(self.users == user)
        if len(rows) == 0:
            raise not_asked(user, self.fitted.task)
        features = {str(f): f for f in self.fitted.features}
        names = list(features)
        moves = {n: _way(f) for n, f in features.items() if _way(f)}
        wanted = self.mark[0] if target is None else target
        above = float(self.score[rows[0]]) < wanted
        if above == self.lower_is_better:
            lasting = {n for n in moves if _lasts(features[n])}
            moves = {
                n: {"up": "down", "down": "up"}[w] for n, w in moves.items() if n not in lasting
            }
        return counterfactual(
            _Calibrated(self.fitted),
            self._X[rows[0]],
            names,
            moves,
            self._X[:5_000],
            wanted,
            above=above,
        )


def not_asked(user: str, task: Task) -> DataError:
    """Return the error for a user who is not in a task's population."""
    return DataError(
        f"user {user!r} was not asked: they are not in the population ({task.population}) of task {task.name!r}"
    )


class _Calibrated:
    """A fitted task's final score under the name models predict by."""

    def __init__(self, fitted: Fitted) -> None:
        self.predict = fitted.score


def _way(feature: Expression) -> str:
    """Which way a person's behaviour moves a feature when there is more of it; empty: it is not theirs to move."""
    if not isinstance(feature, Aggregate) or any(isinstance(p, Says) for p in feature.parts()):
        return ""  # words are not put into anybody's mouth
    if feature.function in ("count", "sum", "active_days", "distinct"):
        return "up"
    return "down" if feature.function == "days_since" else ""


def _lasts(feature: Expression) -> bool:
    """Whether what a feature counts can never become less."""
    if not isinstance(feature, Aggregate) or feature.function == "days_since":
        return False
    return feature.window.length is None


def reasons_in_words(reasons: Sequence[Reason]) -> str:
    """Return reasons as one readable line, each with its value and direction.

    >>> reasons_in_words([Reason("days_since(purchase)", "days since the last purchase", 3.0, 0.4)])
    'days since the last purchase: 3 (raises)'
    """
    return "; ".join(
        f"{r.words}: {short(r.value)} ({'raises' if r.effect > 0 else 'lowers'})" for r in reasons
    )


def short(value: float | str) -> str:
    """Return a value as it stands in a sentence.

    >>> short(116.594809), short(0.25317), short(13.0), short("app"), short(float("nan"))
    ('117', '0.25', '13', 'app', 'none')
    """
    if isinstance(value, str):
        return value
    if value != value:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2g}"
