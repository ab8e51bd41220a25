"""A table's model as the registry keeps it: a fitted task whose question is a column, and how its rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from propend.errors import ModelError
from propend.expression.nodes import Field
from propend.learn.fitted import Fitted
from propend.learn.kinds import Kind
from propend.learn.labelled import LabelledTable
from propend.learn.table import TableFit
from propend.learn.words import Words
from propend.models.model import Answer
from propend.tasks.task import Task

__all__ = ["TableTask", "as_fitted", "reading"]


@dataclass(frozen=True)
class TableTask(Task):
    """Which column of a table is told, and what kind of answer it has; there is no moment and nobody asked.

    >>> TableTask("churn", Field(("churn",)), title="churn of may.csv").answer
    'yes_no'
    """

    kind: Answer = "yes_no"

    @property
    def answer(self) -> Answer:
        """What kind of answer the column has."""
        return self.kind

    @property
    def ask(self) -> str:
        """The question as text: the column and the table it was learnt from."""
        return self.title

    @property
    def least(self) -> float | None:
        """Amounts of a table may be below zero."""
        return None

    @classmethod
    def of(cls, name: str, title: str, label: str, kind: Answer) -> TableTask:
        """Return the task of a label."""
        return cls(name, Field((label,)), title=title, kind=kind)


def as_fitted(fit: TableFit, table: LabelledTable, label: str, name: str, title: str) -> Fitted:
    """Return a table's champion, refitted on all rows, as a fitted task.

    Raises ``ModelError`` where it was not refitted.
    """
    if fit.model is None:
        raise ModelError("the champion was not fitted on all rows; call cross_validate(refit=True)")
    kinds = [
        {
            "name": k.name,
            "what": k.what,
            "levels": list(k.levels),
            "terms": None if k.words is None else list(k.words.terms),
            "rarity": None if k.words is None else list(k.words.rarity),
            "decimal": k.decimal,
            "formats": list(k.formats),
        }
        for k in table.kinds
    ]
    return Fitted(
        TableTask.of(name, title, label, table.answer),
        fit.card["champion"],
        fit.model,
        fit.calibrator,
        tuple(Field((column,)) for column in table.columns),
        table.categories,
        fit.threshold,
        {**fit.card, "table": {"label": label, "kinds": kinds}},
    )


def reading(fitted: Fitted) -> LabelledTable:
    """Return the empty table that further rows are read like (``read_like``), from a kept model's card.

    Raises ``ModelError`` for the model of a log.
    """
    told: dict[str, Any] | None = fitted.card.get("table")
    if told is None:
        raise ModelError(
            f"task {fitted.task.name!r} is asked of a log, not of a table; score it without --rows"
        )
    kinds = tuple(
        Kind(
            k["name"],
            k["what"],
            tuple(k["levels"]),
            None if k["terms"] is None else Words(tuple(k["terms"]), tuple(k["rarity"])),
            k.get("decimal", "."),
            tuple(k.get("formats", ())),
        )
        for k in told["kinds"]
    )
    columns = tuple(name for kind in kinds for name in kind.columns)
    return LabelledTable(
        np.empty((0, len(columns))), np.empty(0), columns, fitted.categories, fitted.task.answer, None, {}, 0,
        classes=fitted.classes, kinds=kinds,
    )  # fmt: skip
