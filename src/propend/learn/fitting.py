"""One model meets some rows: class weights, encoding of categories with very many values, the number of trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.models import catalog
from propend.models.gathered import Gathered
from propend.models.model import Answer, Model, Validation
from propend.tasks.frame import Frame

__all__ = ["MANY", "Rows", "class_weights", "fit_model", "refit_settings"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MANY: Final = 64
"""A category with more values than this is encoded by its rate among the training rows."""


@dataclass(frozen=True)
class Rows:
    """Rows to learn from: ``X`` [n, d], ``y`` [n], the columns' names, categories (column → number of codes), users and
    when each row was asked, in any unit."""

    X: F64 | Gathered
    y: F64
    columns: tuple[str, ...]
    categories: dict[int, int]
    users: I64 | None = None
    moments: npt.NDArray[Any] | None = None

    @classmethod
    def of(
        cls, frame: Frame, rows: npt.NDArray[np.bool_], y: F64, columns: I64 | None = None
    ) -> Rows:
        """Return some rows (and columns) of a frame, not copied, with the answers ``y`` [frame]."""
        X, names = Gathered(frame.X, rows, columns), frame.names
        counts = {j: len(levels) for j, levels in frame.categories.items() if levels}
        if columns is not None:
            place = {int(j): i for i, j in enumerate(columns)}
            names = tuple(names[j] for j in columns)
            counts = {place[j]: count for j, count in counts.items() if j in place}
        return cls(X, y[rows], names, counts, frame.user[rows], frame.cutoff[rows])

    def __len__(self) -> int:
        return len(self.y)


def class_weights(y: F64, of: F64 | None = None) -> F64:
    """Return weights [n] that make every answer of ``of`` (default ``y``) count the same in total, and 1 on average.

    >>> class_weights(np.array([0.0, 0.0, 0.0, 1.0])).round(2)
    array([0.67, 0.67, 0.67, 2.  ])
    """
    levels, counts = np.unique(y if of is None else of, return_counts=True)
    weight = counts.sum() / (len(levels) * counts)
    at = np.clip(np.searchsorted(levels, y), 0, len(levels) - 1)
    return np.asarray(np.where(levels[at] == y, weight[at], 1.0))


def fit_model(
    name: str,
    settings: dict[str, Any],
    answer: Answer,
    rows: Rows,
    seed: int,
    held: Rows | None = None,
    balance: bool = False,
) -> Model:
    """Fit a model of the catalogue; ``held`` are later rows that stop it early, ``balance`` weighs classes evenly.

    A category with more than ``MANY`` values goes in as its rate among the rows learnt from (``encoded``).
    """
    if any(count > MANY for count in rows.categories.values()) and catalog.learns(name):
        model = catalog.create("encoded", answer, model=name, settings=settings, most_levels=MANY)
    else:
        model = catalog.create(name, answer, **settings)
    even = balance and answer in ("yes_no", "which")
    validation: Validation | None = None
    if held is not None:
        weight = class_weights(held.y, rows.y) if even else None
        validation = held.X, held.y, weight
    return model.fit(
        rows.X,
        rows.y,
        weight=class_weights(rows.y) if even else None,
        columns=rows.columns,
        categories=rows.categories,
        validation=validation,
        groups=rows.users,
        seed=seed,
    )


def refit_settings(settings: dict[str, Any], *settled: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for all rows, with what held-out slices settled (``Model.settled``, one a slice).

    As many trees as the slice that wanted most, and a tenth more for the extra rows; the middle penalty.

    >>> refit_settings({"leaves": 8}, {"trees": 100}, {"trees": 60})
    {'leaves': 8, 'trees': 110}
    >>> refit_settings({}, {"strength": 3.0}, {"strength": 300.0}, {"strength": 30.0})
    {'strength': 30.0}
    """
    again = dict(settings)
    trees = [found["trees"] for found in settled if found.get("trees")]
    strengths = sorted(found["strength"] for found in settled if "strength" in found)
    if trees:
        again["trees"] = max(10, round(1.1 * max(trees)))
    if strengths:
        again["strength"] = strengths[len(strengths) // 2]
    return again
