"""A question about the future, and of whom it is asked. A task knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from propend.errors import ExpressionError
from propend.expression.duration import Duration
from propend.expression.nodes import (
    FORWARD_ONLY,
    Aggregate,
    And,
    Compare,
    Expression,
    In,
    IsMissing,
    Not,
    Or,
    Says,
)
from propend.expression.parse import parse_question
from propend.features.schema import Schema

__all__ = ["Answer", "Task"]

Answer = Literal["yes_no", "amount", "count", "which", "time"]

EVERYONE = Aggregate("any")
"""Everyone ever seen before the cutoff."""

_YES_NO = (And, Or, Not, Compare, In, IsMissing, Says)
_COUNTS = ("count", "distinct", "active_days")


@dataclass(frozen=True)
class Task:
    """What is asked (``target``, read forwards), of whom (``population``, read backwards), under which name.

    >>> task = Task.parse("buys", "any(purchase) next 30d for any(*) last 90d")
    >>> task.answer, str(task.horizon), task.metric
    ('yes_no', '30d', 'auroc')
    """

    name: str
    target: Expression
    population: Expression = EVERYONE
    title: str = ""

    @classmethod
    def parse(cls, name: str, ask: str, title: str = "") -> Task:
        """Read ``TARGET [for POPULATION]``; without a population everyone ever seen is asked.

        Raises ``ExpressionError`` where the target has no window ahead, or where the two are mixed up.
        """
        target, population = parse_question(ask)
        task = cls(name, target, EVERYONE if population is None else population, title)
        _ = task.horizon
        for a in target.aggregates():
            if not (a.window.forward or a.function in FORWARD_ONLY):
                raise ExpressionError(
                    f"task {name!r}: {a} looks back, but a target looks ahead; write 'next', for example next 30d"
                )
        for a in task.population.aggregates():
            if a.window.forward or a.function in FORWARD_ONLY:
                raise ExpressionError(
                    f"task {name!r}: the population {a} looks past the cutoff; write 'last' instead of 'next'"
                )
        return task

    @property
    def ask(self) -> str:
        """The question as text."""
        return f"{self.target} for {self.population}"

    @property
    def horizon(self) -> Duration:
        """How far ahead the target looks: its longest window. Raises ``ExpressionError`` where it has none."""
        lengths = [
            a.window.length
            for a in self.target.aggregates()
            if a.window.forward and a.window.length is not None
        ]
        if not lengths:
            raise ExpressionError(
                f"the target {self.target} of task {self.name!r} has no window ahead; add for example 'next 30d'"
            )
        return max(lengths, key=lambda d: d.microseconds)

    @property
    def answer(self) -> Answer:
        """What kind of answer the target has."""
        t = self.target
        if isinstance(t, _YES_NO) or (isinstance(t, Aggregate) and t.function in ("any", "none")):
            return "yes_no"
        if isinstance(t, Aggregate) and t.function in _COUNTS:
            return "count"
        if isinstance(t, Aggregate) and t.function == "days_until":
            return "time"
        if (
            isinstance(t, Aggregate)
            and t.function in ("next", "first")
            and t.field is not None
            and t.field.split(".")[-1] not in ("value", "quantity", "price")
        ):
            return "which"
        return "amount"

    @property
    def least(self) -> float | None:
        """The least amount, count or number of days there can be; ``None`` where the answer is a probability."""
        return None if self.answer in ("yes_no", "which") else 0.0

    @property
    def metric(self) -> str:
        """The metric a champion is chosen by."""
        return {"yes_no": "auroc", "which": "log_loss", "time": "c_index"}.get(self.answer, "rmse")

    def check(self, schema: Schema) -> None:
        """Check every name against the log; raises ``ExpressionError`` that names the nearest known word."""
        schema.check(self.target, forward=True)
        schema.check(self.population, forward=False)
