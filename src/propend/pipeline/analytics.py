"""The façade's questions about the past: funnels, retention, paths, trends, lifecycle, attribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import ConfigError, NotEnoughDataError, PropendError, nearest
from propend.events.clock import moment
from propend.expression.nodes import Expression
from propend.pipeline.opened import Opened

if TYPE_CHECKING:
    from propend.analytics.funnel import FunnelResult
    from propend.analytics.kept import Question
    from propend.analytics.nodes import Nodes
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


def _brackets(text: str) -> list[tuple[int, int]]:
    """Read brackets of days.

    >>> _brackets("1-2,7-8")
    [(1, 2), (7, 8)]
    """
    try:
        return [(int(a), int(b)) for a, b in (part.split("-") for part in text.split(","))]
    except ValueError:
        raise ConfigError(
            f"not brackets of days: {text!r}; write for example 1-2,7-8,30-31"
        ) from None


class Analytics(Opened):
    """Questions about the past. :class:`propend.pipeline.workspace.Workspace` has them as its methods."""

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
        ``incremental``, here and below, keeps the answer in ``kept/`` and reads only what came since; the figures are the same.
        """
        from propend.analytics.funnel import funnel
        from propend.analytics.funnel_plan import Funnel
        from propend.analytics.kept_funnel import funnel_question

        given = {
            **options, "by": by, "who": who, "within": within, "since": since, "until": until,
        }  # fmt: skip
        asked = {**self._declared(steps), **{k: v for k, v in given.items() if v not in (None, ())}}
        since, until = asked.pop("since", None), asked.pop("until", None)
        if incremental:
            if any(v is not None for v in (since, until, asked.pop("who", None))):
                raise ConfigError(
                    "a kept funnel has no period and no segment; leave out 'incremental'"
                )
            by = asked.pop("by", None)
            return self._kept("funnel", funnel_question(Funnel.of(**asked), self.schema, by))
        return funnel(
            self.store,
            self.schema,
            self.engine,
            since=day(since, self.zone),
            until=day(until, self.zone),
            **asked,
        )

    def _kept(self, kind: str, question: Question) -> Any:
        """Bring a kept answer up to date."""
        from propend.analytics.kept import Kept

        kept = Kept(question)
        file = self.folder / "kept" / f"{kind}-{kept.name}.npz"
        answer = kept.load(file).update(self.store, self.engine)
        kept.save(file)
        return answer

    def _ask(self, kind: str, question: Question, incremental: bool) -> Any:
        """Answer a question: from the whole log, or from what is kept and what came since."""
        from propend.analytics.kept import ask

        return self._kept(kind, question) if incremental else ask(question, self.store, self.engine)

    def _nodes(self, of: str, incremental: bool, most: int = 60) -> Nodes:
        """Return a property's values as nodes, counted in the whole log or kept, too."""
        from propend.analytics.nodes import NodesQuestion, nodes_of

        if incremental and of != "type":
            question = NodesQuestion(self.store, self.schema, of, most)
            found: Nodes = self._kept("nodes", question)
            return found
        return nodes_of(self.store, self.schema, self.engine, of, most)

    def _saved(self, kind: str, name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the words of a definition saved in ``propend.toml``, under those that are given."""
        said = {k: v for k, v in given.items() if v is not None}
        if name is None:
            return said
        known = {saved.name: saved for saved in getattr(self.config, kind)}
        if name not in known:
            where = nearest(name, known) if known else f"; add one under [[{kind}]]"
            raise ConfigError(f"no {kind.removesuffix('s')} {name!r} in propend.toml{where}")
        words = msgspec.structs.asdict(known[name])
        return {**{k: v for k, v in words.items() if k != "name" and v is not None}, **said}

    def _declared(self, steps: str | Sequence[Step] | None) -> dict[str, Any]:
        """Return a funnel's words: those declared under a name, or the steps themselves."""
        if steps is not None and not isinstance(steps, str):
            return {"steps": list(steps)}
        if steps is None and not self.config.funnels:
            raise ConfigError(
                "no funnel is declared; name the steps, for example --steps view,cart,purchase, or add [[funnels]] to propend.toml"
            )
        return self._saved("funnels", steps or self.config.funnels[0].name, {})

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

        if options.pop("incremental", False) or options.pop("by", None) is not None:
            raise ConfigError("why is asked of the whole log; leave out 'by' and 'incremental'")
        words = {**self._declared(steps), **options, **({"within": within} if within else {})}
        words.pop("by", None)  # of a saved funnel
        asked = {name: words.pop(name, None) for name in ("who", "since", "until")}
        return why(
            self.store,
            self.schema,
            self.engine,
            Funnel.of(**words),
            step=step,
            who=asked["who"],
            since=day(asked["since"], self.zone),
            until=day(asked["until"], self.zone),
        )

    def retention(
        self,
        unit: str | None = None,
        start: Step | None = None,
        back: Step | None = None,
        *,
        name: str | None = None,
        brackets: Sequence[tuple[int, int]] | str | None = None,
        incremental: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the cohort table; with ``brackets`` (days) on each user's own clock; with ``survival`` Kaplan–Meier.

        ``name`` is a definition under ``[[retention]]`` in ``propend.toml``; what is given besides replaces its words.
        """
        from propend.analytics.retention import ElapsedQuestion, RetentionQuestion

        given = {"unit": unit, "start": start, "back": back, "brackets": brackets, **options}
        asked = self._saved("retention", name, given)
        spans = asked.pop("brackets", ())
        if asked.pop("survival", False):
            if spans or asked.get("recurring") or asked.get("mode", "on") != "on" or unit:
                raise ConfigError(
                    "a survival curve runs from the first start on, day by day; leave out unit, mode, recurring and brackets"
                )
            return self.survival(asked.get("start"), asked.get("back"), incremental=incremental)
        if not spans:
            question = RetentionQuestion(self.schema, **asked)
            return self._ask("retention", question, incremental)
        if asked.pop("recurring", False) or asked.pop("mode", "on") != "on":
            raise ConfigError("brackets run on each user's own clock; leave out mode and recurring")
        pairs = _brackets(spans) if isinstance(spans, str) else spans
        elapsed = ElapsedQuestion(self.schema, pairs, **asked)
        return self._ask("retention", elapsed, incremental)

    def survival(
        self, start: Step | None, end: Step | None, *, incremental: bool = False
    ) -> dict[str, Any]:
        """Return how long users stay without ``end`` after ``start`` (Kaplan–Meier)."""
        from propend.analytics.survival import SurvivalQuestion

        if start is None or end is None:
            raise ConfigError(
                "a survival curve needs --start and --back, for example --start purchase --back purchase"
            )
        return self._ask("survival", SurvivalQuestion(self.schema, start, end), incremental)

    def paths(
        self, *, name: str | None = None, incremental: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Return sessions, top paths, moves, entry and exit; see :func:`propend.analytics.paths.paths`.

        With ``after`` or ``before`` a node: what sessions do around it, see :func:`propend.analytics.sankey.sankey`. ``name`` is
        a definition under ``[[paths]]``.
        """
        from propend.analytics.paths import PathsQuestion

        asked = self._saved("paths", name, options)
        after, before = asked.pop("after", None), asked.pop("before", None)
        depth = asked.pop("depth", 4)
        if after is not None and before is not None:
            raise ConfigError("what comes after one node or before one; give only one of the two")
        if after is not None or before is not None:
            words = {k: v for k, v in asked.items() if k not in ("length", "top")}
            way = "after" if before is None else "before"
            return self.sankey(
                before if after is None else after, direction=way, depth=depth,
                incremental=incremental, **words,
            )  # fmt: skip
        nodes = self._nodes(asked.pop("of", "type"), incremental)
        return self._ask("paths", PathsQuestion(nodes, self.schema, **asked), incremental)

    def sankey(self, anchor: str, *, incremental: bool = False, **options: Any) -> dict[str, Any]:
        """Return what sessions do after (or before) a node; see :func:`propend.analytics.sankey.sankey`."""
        from propend.analytics.sankey import SankeyQuestion

        nodes = self._nodes(options.pop("of", "type"), incremental)
        question = SankeyQuestion(nodes, self.schema, anchor, **options)
        return self._ask("sankey", question, incremental)

    def trend(
        self,
        measure: str | None = None,
        unit: str | None = None,
        by: str | None = None,
        *,
        incremental: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Return a measure over time, or a trend declared by name; see :func:`propend.analytics.trend.trend`."""

        from propend.analytics.people import profiles
        from propend.analytics.trend import MOST_GROUPS, TrendQuestion

        saved = {t.name: t for t in self.config.trends}.get(measure or "")
        if saved is not None:
            measure, unit, by = saved.measure, unit or saved.unit, by or saved.by
        most = options.pop("most", MOST_GROUPS)
        groups = None if by is None else self._nodes(by, incremental, most)
        profile = profiles(self.store, self.schema)
        question = TrendQuestion(
            self.schema, measure or "users(*)", unit or "day", groups, profile=profile, **options
        )
        return self._ask("trend", question, incremental)

    def activity(self, unit: str = "week") -> dict[str, Any]:
        """Return active users, events by type and value per period."""
        from propend.analytics.activity import activity

        return activity(self.store, self.schema, self.engine, unit)

    def lifecycle(
        self,
        unit: str | None = None,
        of: Step | None = None,
        *,
        name: str | None = None,
        incremental: bool = False,
    ) -> dict[str, Any]:
        """Return new, returning, resurrected and dormant users per period, and stickiness by day.

        ``name`` is a definition under ``[[lifecycle]]``.
        """
        from propend.analytics.lifecycle import LifecycleQuestion, StickinessQuestion

        asked = self._saved("lifecycle", name, {"unit": unit, "of": of})
        states = LifecycleQuestion(self.schema, asked.get("unit", "week"), asked.get("of"))
        sticky = StickinessQuestion(self.schema, asked.get("of"))
        found: dict[str, Any] = self._ask("lifecycle", states, incremental)
        return {**found, "stickiness": self._ask("stickiness", sticky, incremental)}

    def attribution(
        self,
        conversion: Step | None = None,
        *,
        name: str | None = None,
        incremental: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Share conversions among channels; see :func:`propend.analytics.attribution.attribution`.

        ``name`` is a definition under ``[[attribution]]``.
        """
        from propend.analytics.attribution import AttributionQuestion, check_channel

        asked = self._saved("attribution", name, {"conversion": conversion, **options})
        goal = asked.pop("conversion", "purchase")
        if goal == "purchase" and "purchase" not in self.schema.types:
            raise NotEnoughDataError(
                "the log has no event type 'purchase'; name the conversion, for example --conversion signup"
            )
        channel = asked.pop("channel", "channel")
        check_channel(self.schema, channel)
        nodes = self._nodes(channel, incremental)
        question = AttributionQuestion(nodes, self.schema, goal, **asked)
        return self._ask("attribution", question, incremental)

    def saved(self) -> list[dict[str, Any]]:
        """Return every definition of ``propend.toml`` as ``kind``, ``name`` and ``answer``, in the order of the verbs.

        Where the log cannot answer one, ``answer`` is ``{"missing": the sentence that says why}``.
        """
        c = self.config
        asked: list[tuple[str, str, Callable[[str], Any]]] = [
            *(("funnel", f.name, lambda n: self.funnel(n).to_dict()) for f in c.funnels),
            *(("retention", r.name, lambda n: self.retention(name=n)) for r in c.retention),
            *(("paths", p.name, lambda n: self.paths(name=n)) for p in c.paths),
            *(("trend", t.name, self.trend) for t in c.trends),
            *(("lifecycle", x.name, lambda n: self.lifecycle(name=n)) for x in c.lifecycle),
            *(("attribution", a.name, lambda n: self.attribution(name=n)) for a in c.attribution),
            *(
                ("aida", f.name, lambda n: self.forecast_funnel(name=n).to_dict())
                for f in c.forecasts
            ),
        ]
        found = []
        for kind, name, ask in asked:
            try:
                answer = ask(name)
            except PropendError as error:
                answer = {"missing": str(error)}
            kind = "survival" if "censored" in answer else "sankey" if "anchor" in answer else kind
            found.append({"kind": kind, "name": name, "answer": answer})
        return found

    def stages(self, memory: str = "90d") -> dict[str, Any]:
        """Return how many users stand in each stage now: declared in ``[stages]`` of ``propend.toml``, or proposed."""
        from propend.analytics.stages import Stages, stage_now

        asked = Stages.of(self.schema, self.config.stages, memory)
        return stage_now(self.store, self.schema, self.engine, asked)

    def forecast_funnel(
        self,
        horizon: str | None = None,
        memory: str | None = None,
        *,
        name: str | None = None,
        folds: int = 4,
    ) -> FunnelForecast:
        """Return each user's stage, the calibrated chance of the next one within ``horizon`` (30d), and totals ahead, validated forward.

        A stage lasts ``memory`` (90d) without a sign of life. ``name`` is a definition under ``[[forecasts]]``.
        """
        from propend.analytics.stages import Stages
        from propend.learn.funnel_forecast import forecast_funnel

        words = self._saved("forecasts", name, {"horizon": horizon, "memory": memory})
        asked = Stages.of(self.schema, self.config.stages, words.get("memory", "90d"))
        return forecast_funnel(
            self.store,
            self.schema,
            self.engine,
            asked,
            words.get("horizon", "30d"),
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
