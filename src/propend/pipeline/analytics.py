"""The façade's questions about the past: funnels, retention, paths, trends, lifecycle, attribution."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from propend.config import Config
from propend.errors import ConfigError, NotEnoughDataError, nearest
from propend.events.clock import moment
from propend.events.store import Store
from propend.expression.nodes import Expression
from propend.features.schema import Schema

if TYPE_CHECKING:
    from propend.analytics.funnel import FunnelResult
    from propend.engine import Engine

__all__ = ["Analytics", "day"]

Step = str | Expression


def day(text: str | int | None, zone: str) -> int | None:
    """Return a day or a moment (ISO 8601; without a zone: the workspace's) as UTC microseconds.

    >>> day("1970-01-02", "UTC")
    86400000000
    """
    if text is None or isinstance(text, int):
        return text
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"not a day: {text!r}; write for example 2024-01-31") from None
    return moment(when if when.tzinfo else when.replace(tzinfo=ZoneInfo(zone)))


class Analytics:
    """Questions about the past. :class:`propend.pipeline.workspace.Workspace` has them as its methods."""

    config: Config
    engine: Engine

    @property
    def store(self) -> Store:
        """The timeline store."""
        raise NotImplementedError

    @property
    def schema(self) -> Schema:
        """What the log can be asked."""
        raise NotImplementedError

    @property
    def zone(self) -> str:
        """The workspace's time zone."""
        raise NotImplementedError

    def funnel(
        self,
        steps: str | Sequence[Step] | None = None,
        within: str | None = None,
        *,
        since: str | int | None = None,
        until: str | int | None = None,
        by: str | None = None,
        who: Step | None = None,
        **options: Any,
    ) -> FunnelResult:
        """Count users from step to step; see :func:`propend.analytics.funnel.funnel` for every option.

        ``steps`` is a list, or the name of a funnel in ``propend.toml``; without it the first declared one is answered.
        """
        from propend.analytics.funnel import funnel

        given = {**options, "by": by, "who": who, "within": within}
        asked = {**self._declared(steps), **{k: v for k, v in given.items() if v not in (None, ())}}
        return funnel(
            self.store,
            self.schema,
            self.engine,
            since=day(since, self.zone),
            until=day(until, self.zone),
            **asked,
        )

    def _declared(self, steps: str | Sequence[Step] | None) -> dict[str, Any]:
        """Return a funnel's words: those declared under a name, or the steps themselves."""
        if steps is not None and not isinstance(steps, str):
            return {"steps": list(steps)}
        known = {f.name: f for f in self.config.funnels}
        if steps is None and not known:
            raise ConfigError(
                "no funnel is declared; name the steps, for example --steps view,cart,purchase, or add [[funnels]] to propend.toml"
            )
        name = next(iter(known)) if steps is None else steps
        if name not in known:
            raise ConfigError(f"no funnel {name!r} in propend.toml{nearest(name, known)}")
        words = msgspec.structs.asdict(known[name])
        return {k: v for k, v in words.items() if k != "name"}

    def compare_funnels(
        self,
        steps: str | Sequence[Step] | None,
        at: str | int,
        within: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Compare the funnel's entries before a day with those from it on, step by step, with a test."""
        from propend.analytics.funnel import compare

        before = self.funnel(steps, within, **{**options, "until": at})
        after = self.funnel(steps, within, **{**options, "since": at})
        return {
            "at": str(at),
            "before": before.to_dict(),
            "after": after.to_dict(),
            "steps": compare(after, before),
        }

    def why(
        self,
        steps: str | Sequence[Step] | None = None,
        within: str | None = None,
        *,
        step: int = -1,
        **options: Any,
    ) -> dict[str, Any]:
        """Say what separates those who reached a step (0 is the first) from those who did not; see ``analytics.why``."""
        from propend.analytics.funnel_plan import Funnel
        from propend.analytics.why import why

        words = {**self._declared(steps), **options, **({"within": within} if within else {})}
        who = words.pop("who", None)
        words.pop("by", None)
        definition = Funnel.of(**words)
        return why(self.store, self.schema, self.engine, definition, step=step, who=who)

    def retention(
        self,
        unit: str = "month",
        start: Step | None = None,
        back: Step | None = None,
        *,
        brackets: Sequence[tuple[int, int]] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Return the cohort table; with ``brackets`` (days) on each user's own clock."""
        from propend.analytics.retention import elapsed_retention, retention

        asked = (self.store, self.schema, self.engine)
        if brackets:
            return elapsed_retention(*asked, brackets, start, back, unit=unit)
        return retention(*asked, unit, start, back, **options)

    def survival(self, start: Step, end: Step) -> dict[str, Any]:
        """Return how long users stay without ``end`` after ``start`` (Kaplan–Meier)."""
        from propend.analytics.survival import survival

        return survival(self.store, self.schema, self.engine, start, end)

    def paths(self, **options: Any) -> dict[str, Any]:
        """Return sessions, top paths, moves, entry and exit; see :func:`propend.analytics.paths.paths`."""
        from propend.analytics.paths import paths

        return paths(self.store, self.schema, self.engine, **options)

    def sankey(self, anchor: str, **options: Any) -> dict[str, Any]:
        """Return what sessions do after (or before) a node; see :func:`propend.analytics.paths.sankey`."""
        from propend.analytics.paths import sankey

        return sankey(self.store, self.schema, self.engine, anchor, **options)

    def trend(
        self,
        measure: str | None = None,
        unit: str | None = None,
        by: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return a measure over time, or a trend declared by name; see :func:`propend.analytics.trend.trend`."""
        from propend.analytics.trend import trend

        saved = {t.name: t for t in self.config.trends}.get(measure or "")
        if saved is not None:
            measure, unit, by = saved.measure, unit or saved.unit, by or saved.by
        return trend(
            self.store,
            self.schema,
            self.engine,
            measure or "users(*)",
            unit or "day",
            by,
            **options,
        )

    def activity(self, unit: str = "week") -> dict[str, Any]:
        """Return active users, events by type and value per period."""
        from propend.analytics.activity import activity

        return activity(self.store, self.schema, self.engine, unit)

    def lifecycle(self, unit: str = "week", of: Step | None = None) -> dict[str, Any]:
        """Return new, returning, resurrected and dormant users per period, and stickiness by day."""
        from propend.analytics.lifecycle import lifecycle, stickiness

        asked = (self.store, self.schema, self.engine)
        return {**lifecycle(*asked, unit, of), "stickiness": stickiness(*asked, of)}

    def attribution(self, conversion: Step | None = None, **options: Any) -> dict[str, Any]:
        """Share conversions among channels; see :func:`propend.analytics.attribution.attribution`."""
        from propend.analytics.attribution import attribution

        types = self.schema.types
        if conversion is None and "purchase" not in types:
            raise NotEnoughDataError(
                "the log has no event type 'purchase'; name the conversion, for example --conversion signup"
            )
        return attribution(
            self.store, self.schema, self.engine, conversion or "purchase", **options
        )
