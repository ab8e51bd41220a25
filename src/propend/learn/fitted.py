"""A trained task: what scores rows, says why, and carries its card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.expression.nodes import Expression
from propend.features.words import in_words
from propend.learn.calibration import Calibrator
from propend.learn.intervals import bounds
from propend.models.model import Model
from propend.tasks.frame import More
from propend.tasks.task import Task

__all__ = ["Fitted", "Reason"]

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reason:
    """Why one user's score is what it is: a feature, its value and how far it moved the margin (a forest's: the score itself)."""

    feature: str
    words: str
    value: float | str
    """The feature's value; text where it is a category."""
    effect: float


@dataclass
class Fitted:
    """A trained task: ``score`` rows, ``reasons`` for them, and the ``card`` with every figure and its protocol."""

    task: Task
    name: str
    model: Model
    calibrator: Calibrator
    features: tuple[Expression, ...]
    categories: dict[int, tuple[str, ...]]
    threshold: float | None
    card: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, Any] = field(default_factory=dict, repr=False)
    """Out-of-time rows: ``truth``, ``user``, ``fold`` and the scores of ``champion`` and of every model; not saved."""
    beside: More | None = field(default=None, repr=False, compare=False)
    """What makes those features that are not the language's, where the model reads any."""
    _texts: dict[int, tuple[str, str]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """What a which-of-many task answers with; empty for others."""
        return tuple(self.card.get("classes", ()))

    def score(self, X: F64) -> F64:
        """Return calibrated probabilities, expected amounts or days [n], or probabilities [n, classes]."""
        return self._calibrated(self.model.predict(X))

    def _calibrated(self, raw: F64) -> F64:
        if self.task.answer == "yes_no":
            return self.calibrator.apply(raw)
        least = self.task.least
        return raw if least is None else np.maximum(raw, least)

    def bounds(self, X: F64) -> tuple[F64, F64]:
        """Return each row's interval [n]: Venn-Abers for yes/no, conformal for amounts and times; NaN where none was learnt."""
        if self.task.answer == "which":
            gone = np.full(len(X), np.nan)
            return gone, gone
        return bounds(self.card.get("uncertainty", {}), self.score(X))

    def _shown(self, column: int, value: float) -> float | str:
        """Return a feature's value as a person knows it: the text of a category, else the number."""
        levels = self.categories.get(column)
        return value if levels is None or np.isnan(value) else levels[int(value)]

    def _said(self, column: int) -> tuple[str, str]:
        """Return a feature's text and words, made once: they take longer than one row's contributions."""
        if column not in self._texts:
            feature = self.features[column]
            self._texts[column] = str(feature), in_words(feature)
        return self._texts[column]

    def reasons(self, X: F64, most: int = 3) -> list[list[Reason]]:
        """Return for each row the features that moved its score most, strongest first; empty where the model cannot say.

        One of many: what speaks for the likeliest answer against the others.
        """
        try:
            of = self.model.predict(X).argmax(axis=1) if self.task.answer == "which" else None
            parts = self.model.contributions(X, of)
        except Exception:  # a model without contributions has no reasons to give
            return [[] for _ in range(len(X))]
        return self._strongest(X, parts[:, :-1], most)

    def explained(self, X: F64, most: int = 3) -> tuple[F64, list[list[Reason]]]:
        """Return ``score`` and ``reasons`` at once: what both need is worked out once."""
        if self.task.answer == "which":
            return self.score(X), self.reasons(X, most)
        try:
            raw, parts = self.model.explain(X)
        except Exception:
            return self.score(X), [[] for _ in range(len(X))]
        return self._calibrated(raw), self._strongest(X, parts[:, :-1], most)

    def _strongest(self, X: F64, parts: F64, most: int) -> list[list[Reason]]:
        top = np.argsort(-np.abs(parts), axis=1)[:, :most]
        return [
            [
                Reason(*self._said(j), self._shown(j, float(X[i, j])), float(parts[i, j]))
                for j in top[i].tolist()
                if parts[i, j] != 0
            ]
            for i in range(len(X))
        ]
