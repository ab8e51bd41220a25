"""Default questions about the future and a default funnel: those that the log can support."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from propend.events.vocabulary import FUNNEL, STRENGTH

__all__ = ["LogShape", "Proposal", "propose_funnels", "propose_tasks"]

_NICE_DAYS: Final = (1, 2, 3, 5, 7, 14, 21, 30, 45, 60, 90, 120, 180)
_HISTORIES: Final = 4
"""Horizons a log must span for three forward folds and something to learn from before them."""
_MANY_ACTIVE_DAYS: Final = 5.0


@dataclass(frozen=True)
class LogShape:
    """What the proposals need to know of a log."""

    span_days: float
    types: Collection[str]
    has_value: bool
    active_days_per_user: float
    is_cohort: bool = False
    """Whether nearly all users came in the first quarter of the span."""

    @property
    def is_sparse(self) -> bool:
        """Whether most users would leave a population that looks back a few months."""
        return (
            self.is_cohort
            and self.span_days > 180
            and self.active_days_per_user < _MANY_ACTIVE_DAYS
        )


@dataclass(frozen=True)
class Proposal:
    """A task that is proposed (``ask``) or was left out (``ask`` empty), and why."""

    name: str
    ask: str
    title: str
    reason: str


def propose_tasks(shape: LogShape) -> list[Proposal]:
    """Return the default tasks of a log.

    >>> for task in propose_tasks(LogShape(373, {"purchase", "return"}, True, 6)):
    ...     print(task.name, "=", task.ask)
    buys_30d = any(purchase) next 30d for any(*) last 90d
    silent_60d = none(*) next 60d for any(*) last 90d
    value_90d = sum(purchase.value) next 90d for any(purchase) last 180d
    >>> [t.ask for t in propose_tasks(LogShape(9, {"view", "purchase"}, False, 2))][:2]
    ['any(purchase) next 2d for any(*) last 3d', 'none(*) next 2d for any(*) last 3d']
    """
    main = next((kind for kind in STRENGTH if kind in shape.types), None)
    if main is None:
        main = min((t for t in shape.types if t.isidentifier()), default="*")
    verb = {"purchase": "buys", "*": "active"}.get(main, main)
    wanted = [
        (verb, f"any({main}) next {{h}}d", "*", 30, 90, _title(verb, main)),
        ("silent", "none(*) next {h}d", "*", 60, 90, "Silent for the next {h} days"),
    ]
    if shape.has_value and "purchase" in shape.types:
        ask = "sum(purchase.value) next {h}d"
        wanted.append(
            ("value", ask, "purchase", 90, 180, "Value of purchases in the next {h} days")
        )
    return [_fit(*want, shape=shape) for want in wanted]


def propose_funnels(types: Collection[str]) -> list[dict[str, Any]]:
    """Return the default funnel where at least two of its steps occur.

    >>> propose_funnels({"view", "purchase", "cart"})
    [{'name': 'main', 'steps': ['view', 'cart', 'purchase'], 'within': '7d'}]
    """
    steps = [step for step in FUNNEL if step in types]
    return [{"name": "main", "steps": steps, "within": "7d"}] if len(steps) >= 2 else []


def _title(verb: str, main: str) -> str:
    if main == "*":
        return "Active in the next {h} days"
    return (
        "Buys in the next {h} days"
        if verb == "buys"
        else f"At least one {main} in the next {{h}} days"
    )


def _fit(
    stem: str, ask: str, who: str, horizon: int, back: int, title: str, *, shape: LogShape
) -> Proposal:
    fitting = [d for d in _NICE_DAYS if d <= horizon and d * _HISTORIES <= shape.span_days]
    if not fitting:
        need = _NICE_DAYS[0] * _HISTORIES
        reason = f"the log spans {shape.span_days:.1f} days; at least {need} are needed"
        return Proposal(f"{stem}_{horizon}d", "", title.format(h=horizon), reason)
    days = fitting[-1]
    behind = (
        back if days == horizon else _nice(min(back, days * back / horizon, shape.span_days / 3))
    )
    name, ask, title = f"{stem}_{days}d", ask.format(h=days), title.format(h=days)
    if shape.is_sparse:
        anyone = "purchase" if "purchase" in shape.types else "*"
        reason = (
            f"asked of everyone seen before: nearly all users came at the start and have "
            f"{shape.active_days_per_user:.1f} active days each"
        )
        return Proposal(name, f"{ask} for any({anyone})", title, reason)
    reason = f"the log spans {shape.span_days:.0f} days"
    if days != horizon:
        reason += f", so {horizon} days were shortened to {days}"
    return Proposal(name, f"{ask} for any({who}) last {behind}d", title, reason)


def _nice(days: float) -> int:
    return max(d for d in _NICE_DAYS if d <= max(days, 1))
