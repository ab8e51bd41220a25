"""Stages of a customer's way (AIDA and loyalty): which events mean which, and where each user stands.

Attention, Interest, Desire, Action: E. St. Elmo Lewis, 1898; Loyalty is buying again. Every stage is an expression, so a
stage is an audience, a breakdown and a task's population at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.analytics.scan import sweep
from propend.engine import Engine
from propend.errors import ConfigError, NotEnoughDataError, nearest
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.events.vocabulary import event_type
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, And, Compare, Expression, Literal_, Window
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema

__all__ = ["LAPSED", "STAGES", "Stages", "propose_stages", "stage_now"]

STAGES: Final = ("attention", "interest", "desire", "action")
"""Stages that events are mapped to; ``loyalty`` is a second day with an action."""
LAPSED: Final = "lapsed"
_MEANS: Final = {
    "view": "attention",
    "open": "attention",
    "login": "attention",
    "visit": "attention",
    "search": "interest",
    "favourite": "interest",
    "review": "interest",
    "rating": "interest",
    "share": "interest",
    "cart": "desire",
    "checkout": "desire",
    "signup": "desire",
    "purchase": "action",
    "redemption": "action",
}


def propose_stages(types: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Propose the stage of each event type by its name; types that say nothing stand for no stage.

    >>> propose_stages(["pv", "fav", "addtocart", "buy", "return"])
    {'attention': ('pv',), 'interest': ('fav',), 'desire': ('addtocart',), 'action': ('buy',)}
    """
    found: dict[str, list[str]] = {}
    for name in types:
        standard = event_type(name) or name
        if standard in _MEANS:
            found.setdefault(_MEANS[standard], []).append(name)
    return {stage: tuple(found[stage]) for stage in STAGES if stage in found}


@dataclass(frozen=True)
class Stages:
    """A mapping of event types to stages, and how long a stage lasts without a sign of life (``memory``)."""

    types: Mapping[str, tuple[str, ...]]
    memory: Duration

    @classmethod
    def of(
        cls,
        schema: Schema,
        declared: Mapping[str, Sequence[str]] | None = None,
        memory: str | Duration = "90d",
    ) -> Stages:
        """Check a declared mapping, or propose one by the types' names.

        Raises ``ConfigError`` for an unknown stage or type, ``NotEnoughDataError`` where no type means an action.
        """
        length = memory if isinstance(memory, Duration) else Duration.parse(memory)
        given = (
            {k: tuple(v) for k, v in declared.items()} if declared else propose_stages(schema.types)
        )
        for stage, types in given.items():
            if stage not in STAGES:
                raise ConfigError(f"no stage {stage!r}{nearest(stage, STAGES)}")
            for name in types:
                if name not in schema.types:
                    raise ConfigError(
                        f"stage {stage}: no event type {name!r} in the log{nearest(name, schema.types)}"
                    )
        if not given.get("action"):
            raise NotEnoughDataError(
                'no event type means an action (a purchase); declare one in propend.toml: [stages] action = ["…"]'
            )
        return cls({s: given[s] for s in STAGES if given.get(s)}, length)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages that exist here, shallowest first: lapsed, those with events, loyalty."""
        return (LAPSED, *self.types, "loyalty")

    def _any(self, types: Sequence[str], window: Window) -> Aggregate:
        return Aggregate("any", tuple(types), window=window)

    def condition(self, stage: str) -> Expression:
        """Return the expression that holds for users who are in the stage or would be but for a deeper one."""
        window = Window("last", self.memory)
        if stage == LAPSED:
            return Aggregate("any")
        if stage == "loyalty":
            days = Aggregate("active_days", self.types["action"])
            return And((Compare(">=", days, Literal_(2)), self._any(self.types["action"], window)))
        return self._any(self.types[stage], window)

    def population(self, stage: str) -> Expression:
        """Return the expression that holds for exactly the users in the stage: an audience.

        >>> str(Stages({"action": ("buy",)}, Duration.parse("90d")).population("action"))
        'any(buy) last 90d and not (active_days(buy) >= 2 and any(buy) last 90d)'
        """
        names = self.names
        deeper = [~self.condition(name) for name in names[names.index(stage) + 1 :]]
        return And((self.condition(stage), *deeper)) if deeper else self.condition(stage)

    def advance(self, stage: str, horizon: Duration) -> Expression:
        """Return the target of a stage: any event of a deeper stage; of the last two another action; of lapsed any event."""
        if stage == LAPSED:
            return self._any((), Window("next", horizon))
        order = list(self.types)
        deeper = order[order.index(stage) + 1 :] if stage in order else []
        types = tuple(t for s in deeper for t in self.types[s]) or self.types["action"]
        return self._any(types, Window("next", horizon))

    def assign(self, timelines: Timelines, rows: Rows, schema: Schema) -> npt.NDArray[np.int64]:
        """Return each row's stage as its position in ``names``; −1 for users not seen by the row's cutoff."""
        asked = [self.condition(name) for name in self.names]
        stage = np.full(len(rows), -1, np.int64)
        for position, value in enumerate(evaluate(asked, timelines, rows, schema)):
            assert not isinstance(value, Column)
            stage[value > 0] = position
        return stage


def stage_now(
    store: Store, schema: Schema, engine: Engine, stages: Stages, at: int | None = None
) -> dict[str, Any]:
    """Return how many users stand in each stage at a moment (default: just after the last event), with the audience's words."""
    moment = schema.last + 1 if at is None else at
    columns = schema.columns_for([stages.condition(n) for n in stages.names])

    def work(timelines: Timelines) -> Any:
        stage = stages.assign(timelines, Rows.every(len(timelines.users), [moment]), schema)
        return np.bincount(stage[stage >= 0], minlength=len(stages.names))

    total = sum(sweep(store, engine, work, columns), np.zeros(len(stages.names), np.int64))
    return {
        "memory": str(stages.memory),
        "stages": [
            {
                "stage": name,
                "events": list(stages.types.get(name, ())),
                "users": int(total[i]),
                "audience": str(stages.population(name)),
            }
            for i, name in enumerate(stages.names)
        ],
    }
