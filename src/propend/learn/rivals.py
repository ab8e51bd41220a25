"""Who competes for a task: candidates from simple to flexible, and the trivial rules they must beat."""

from __future__ import annotations

from typing import Any, Final

from propend.tasks.frame import Frame
from propend.tasks.task import Task

__all__ = ["BLEND", "BLENDED", "MODELS", "baselines", "candidates"]

Choice = tuple[str, dict[str, Any]]

BLEND: Final = "blend"
BLENDED: Final = ("logistic", "trees")
MODELS: Final[dict[str, tuple[Choice, ...]]] = {
    "yes_no": (("logistic", {"bends": 0}), ("trees", {}), ("blend", {})),
    "amount": (("two_part", {}), ("trees", {"loss": "tweedie"})),
    "count": (("linear", {"bends": 0}), ("trees", {"loss": "poisson"})),
    "which": (("logistic", {"bends": 0}), ("trees", {})),
    "time": (("hazard", {}), ("hazard_trees", {})),
}
"""Candidates by answer, from simple to flexible: a later one must beat the one in hand beyond noise.

``blend`` is the mean margin of the two before it, at no further cost: they err differently (straight lines and steps).

The linear models take the derived features as they are (``bends`` 0): windows already bend them, and hinges on 150
correlated columns cost 20 times the time and lost 1.3 points of AUROC on Online Retail (``docs/log.md``)."""


def candidates(task: Task, quantile: float | None = None) -> tuple[Choice, ...]:
    """Return the models that compete for a task's answer, or for a quantile of it."""
    if quantile is not None:
        return (("trees", {"loss": "quantile", "quantile": quantile}),)
    return MODELS[task.answer]


def baselines(frame: Frame, task: Task, quantile: float | None = None) -> list[Choice]:
    """Return what a model must beat: the base rate, recency, and the RFM score of the events asked about."""
    if quantile is not None:
        return [("constant_quantile", {"quantile": quantile})]
    if task.answer == "which":
        return [("base_rate", {})]
    if task.answer == "time":
        return [("kaplan_meier", {})]
    names = set(frame.names)
    types = [t for a in task.target.aggregates() for t in a.types]
    of = next((t for t in types if f"days_since({t})" in names), None)
    found: list[Choice] = (
        [("base_rate", {})] if task.answer == "yes_no" else [("mean", {}), ("always_zero", {})]
    )
    wanted = (f"days_since({of})", "days_since(*)")
    recency = next(
        (n for n in (*wanted, *sorted(n for n in names if n.startswith("days_since("))) if n in names),
        None,
    )  # fmt: skip
    if recency is not None:
        found.append(("scorecard", {"column": recency}))
        event = recency.removeprefix("days_since(").removesuffix(")")
        frequency = next(
            (n for n in (f"active_days({event})", f"count({event})") if n in names), None
        )
        money = next((n for n in (f"sum({event}.value)", f"count({event})") if n in names), None)
        if frequency and money:
            found.append(("rfm", {"recency": recency, "frequency": frequency, "money": money}))
    if task.answer in ("amount", "count") and of is not None:
        found += _customer_base(of, names, task.horizon.days)
    return found


def _customer_base(of: str, names: set[str], horizon: float) -> list[Choice]:
    """Return BG/NBD (and Gamma-Gamma) over the history of an event, where the frame has its columns."""
    since, first, days = (f"{f}({of})" for f in ("days_since", "days_since_first", "active_days"))
    if not {since, first, days} <= names:
        return []
    total = f"sum({of}.value)"
    settings = {"since": since, "first": first, "days": days, "horizon": horizon}
    return [("bg_nbd", {**settings, "total": total if total in names else None})]
