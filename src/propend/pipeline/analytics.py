"""The façade's questions about the past: funnels, retention, paths, trends, lifecycle, attribution."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Config
from propend.errors import ConfigError, NotEnoughDataError, nearest
from propend.events.clock import moment
from propend.events.store import Store
from propend.expression.nodes import Expression
from propend.features.schema import Schema

if TYPE_CHECKING:
    from propend.analytics.funnel import FunnelResult
    from propend.engine import Engine
    from propend.learn.funnel_forecast import FunnelForecast

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

    folder: Path
    config: Config
    engine: Engine

    @property
    def store(self) -> Store:
        """The timeline store."""
        raise NotImplementedError

    @property
    def out(self) -> Path:
        """Where tables are written."""
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
        incremental: bool = False,
        **options: Any,
    ) -> FunnelResult:
        """Count users from step to step; see :func:`propend.analytics.funnel.funnel` for every option.

        ``steps`` is a list, or the name of a funnel in ``propend.toml``; without it the first declared one is answered.
        ``incremental`` keeps the answer in ``kept/`` and reads only what came since; the figures are the same.
        """
        from propend.analytics.funnel import funnel

        given = {**options, "by": by, "who": who, "within": within}
        asked = {**self._declared(steps), **{k: v for k, v in given.items() if v not in (None, ())}}
        if incremental:
            return self._kept(asked, [since, until, asked.pop("by", None), asked.pop("who", None)])
        return funnel(
            self.store,
            self.schema,
            self.engine,
            since=day(since, self.zone),
            until=day(until, self.zone),
            **asked,
        )

    def _kept(self, asked: dict[str, Any], narrowed: list[Any]) -> FunnelResult:
        """Bring a kept funnel up to date."""
        from propend.analytics.funnel_plan import Funnel
        from propend.analytics.incremental import IncrementalFunnel

        if any(v is not None for v in narrowed):
            raise ConfigError(
                "a kept funnel has no period, breakdown or segment; leave out 'incremental'"
            )
        kept = IncrementalFunnel(Funnel.of(**asked))
        file = self.folder / "kept" / f"funnel-{kept.key}.npz"
        result = kept.load(file).update(self.store, self.schema, self.engine)
        kept.save(file)
        return result

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
        at: str | int | None = None,
        within: str | None = None,
        *,
        split: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Compare the entries from a day on with those before, or the users for whom ``split`` holds with the others.

        Every step has the difference, its interval and a test; the document holds both funnels.
        """
        from propend.analytics.funnel import compare

        if (at is None) == (split is None):
            raise ConfigError(
                "compare either at a day or by a condition on users, for example count(purchase) >= 2"
            )
        sides = (
            ({"since": at}, {"until": at})
            if at is not None
            else ({"who": split}, {"who": f"not ({split})"})
        )
        one, other = (self.funnel(steps, within, **{**options, **side}) for side in sides)
        names = [f"from {at}", f"before {at}"] if at is not None else [str(split), f"not ({split})"]
        return {
            "sides": names,
            "funnels": [one.to_dict(), other.to_dict()],
            "steps": compare(one, other),
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

    def stages(self, memory: str = "90d") -> dict[str, Any]:
        """Return how many users stand in each stage now: declared in ``[stages]`` of ``propend.toml``, or proposed."""
        from propend.analytics.stages import Stages, stage_now

        asked = Stages.of(self.schema, self.config.stages, memory)
        return stage_now(self.store, self.schema, self.engine, asked)

    def forecast_funnel(
        self, horizon: str = "30d", memory: str = "90d", *, folds: int = 4
    ) -> FunnelForecast:
        """Return each user's stage, the calibrated chance of the next one, and totals ahead, validated forward."""
        from propend.analytics.stages import Stages
        from propend.learn.funnel_forecast import forecast_funnel

        asked = Stages.of(self.schema, self.config.stages, memory)
        return forecast_funnel(
            self.store,
            self.schema,
            self.engine,
            asked,
            horizon,
            folds=folds,
            seed=self.config.workspace.seed,
        )

    def stage_table(self, forecast: FunnelForecast) -> pa.Table:
        """Return user, stage, chance of the next stage, expected days to it, chance to do nothing, and the next best action.

        The action is the one in ``out/decisions.parquet`` of the last ``decide`` or ``run``; missing where there is none.
        """
        import pyarrow.parquet as pq

        names = np.array(forecast.stages.names, object)
        user = pa.array(self.store.names_of(forecast.user), pa.string())
        table = pa.table(
            {
                "user": user,
                "stage": pa.array(names[forecast.stage], pa.string()),
                "advance": forecast.advance,
                "days": forecast.days,
                "leave": forecast.leave,
            }
        )
        decided = self.out / "decisions.parquet"
        action = pa.nulls(len(user), pa.string())
        if decided.is_file() and {"user", "action"} <= set(pq.read_schema(decided).names):
            known = pq.read_table(decided, columns=["user", "action"])
            at = pc.index_in(user, value_set=known["user"].combine_chunks())
            action = known["action"].combine_chunks().cast(pa.string()).take(at)
        return table.append_column("next_action", action)
