"""The whole journey on one page: events to features to models to decisions, then a report to look at.

Each stage hands plain values to the next; a stage the log cannot support says so in one sentence and the journey
goes on. Everything written appears in ``out`` at once, when the journey is done.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.decide.audiences import write_audiences, write_decisions
from propend.decide.policy import consent_of, decide
from propend.errors import ConfigError, DataError, ExpressionError, NotEnoughDataError, PropendError
from propend.events.clock import wall
from propend.events.consent import refusing
from propend.events.ingest import IngestReport
from propend.expression.nodes import Aggregate
from propend.features.profile import Profiles
from propend.features.segments import segments
from propend.learn.card import told
from propend.learn.registry import code_version, plain
from propend.names import CHANNEL, DAY, USER
from propend.pipeline.communities import communities
from propend.pipeline.predict import question, score, write_table
from propend.pipeline.prediction import Prediction
from propend.pipeline.workspace import Workspace
from propend.tasks.task import Task

__all__ = ["MONITORED", "decide_now", "item_names", "run", "with_names"]

Progress = Callable[[str, int, int | None], None]


def _unseen(_phase: str, _done: int, _total: int | None) -> None:
    """Progress that nobody watches."""


SAMPLES: Final = 6
TREND_DAYS: Final = 30
MONITORED: Final = "live/monitor.json"
"""Where the live side keeps its last report, below the workspace."""


def run(workspace: Workspace, *, progress: Progress | None = None) -> dict[str, Any]:
    """Do the whole journey of a workspace and return its results; tables and the report are in ``out``.

    Raises the errors of the first stages (bad configuration, unreadable files); a later stage that the log cannot
    support is reported in the results instead.
    """
    started = time.perf_counter()
    show = progress or _unseen
    reports = workspace.ingest(progress=show)
    declared = workspace.tasks()
    _restore(workspace.out)
    out = workspace.folder / ".out-new"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    results = _accounts(workspace, reports)
    write_table(workspace.quarantine(), out / "quarantine.parquet")
    results |= _past(workspace, show)
    predictions = _predict(workspace, declared, results, out, show)
    results["lifetimes"] = _lifetimes(workspace)
    profiles = _profiles(workspace, results, out, show)
    recommended = _recommend(workspace, results, out, show)
    results["decisions"] = _decide(workspace, predictions, profiles, recommended, out)
    results["live"] = _live(workspace)
    results["report"] = str(workspace.out / "report.html")
    results["seconds"] = round(time.perf_counter() - started, 2)
    _report(results, out)
    _publish(out, workspace.out)
    return results


def _accounts(workspace: Workspace, reports: list[IngestReport]) -> dict[str, Any]:
    """What came in, what was kept, what was set aside and what was found."""
    store, config = workspace.store, workspace.config
    quarantine: dict[str, int] = {}
    events = [r for r in reports if not r.table]
    for report in events:
        for reason, rows in report.quarantine.items():
            quarantine[reason] = quarantine.get(reason, 0) + rows
    first, last = store.span
    return {
        "workspace": {
            "name": config.workspace.name,
            "currency": config.workspace.currency,
            "zone": workspace.zone,
        },
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": code_version(),
        "seed": config.workspace.seed,
        "span": [wall(first, workspace.zone).isoformat(), wall(last, workspace.zone).isoformat()],
        "rows_in": sum(r.rows_in for r in events),
        "rows_kept": sum(r.rows_kept for r in events),
        "rows_quarantined": sum(r.rows_quarantined for r in events),
        "quarantine": dict(sorted(quarantine.items(), key=lambda pair: -pair[1])),
        "findings": [
            {
                "source": r.source,
                "name": f.name,
                "rows": f.rows,
                "share": f.share,
                "done": f.done,
                "examples": list(f.examples),
            }
            for r in reports
            for f in r.findings
        ],
        "users": store.user_count,
        "items": len(store.item_ids()),
        "events": store.rows,
    }


def _live(workspace: Workspace) -> dict[str, Any]:
    """What ``propend monitor`` found last."""
    try:
        return dict(json.loads((workspace.folder / MONITORED).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _past(workspace: Workspace, show: Progress) -> dict[str, Any]:
    """Activity, funnel and retention at a glance."""
    from propend.analytics.activity import activity
    from propend.analytics.funnel import funnel
    from propend.analytics.retention import retention

    store, schema, engine = workspace.store, workspace.schema, workspace.engine
    show("look back", 0, 3)
    made = activity(store, schema, engine, "week" if schema.days > 60 else "day")
    counts = {name: int(sum(values)) for name, values in made["events"].items()}
    show("look back", 1, 3)
    steps, within = _funnel_steps(workspace, counts)
    found: dict[str, Any] = {"activity": made, "event_types": counts}
    if len(steps) >= 2:
        found["funnel"] = funnel(store, schema, engine, steps, within=within).to_dict()
    show("look back", 2, 3)
    found["retention"] = retention(
        store, schema, engine, unit="month" if schema.days > 90 else "week"
    )
    found |= _more_of_the_past(workspace)
    found["saved"] = workspace.saved()
    show("look back", 3, 3)
    return found


def _more_of_the_past(workspace: Workspace) -> dict[str, Any]:
    """Lifecycle, paths, a trend with its alarms, and stages now and ahead; each is left out where the log cannot answer."""
    found: dict[str, Any] = {}
    long = workspace.schema.days > 60
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        "lifecycle": lambda: workspace.lifecycle("month" if long else "week"),
        "paths": lambda: workspace.paths(top=6),
        "trend": lambda: workspace.trend("users(*)", "day"),
        "stages": workspace.stages,
        "forecast": lambda: workspace.forecast_funnel().to_dict(),
    }
    if CHANNEL in workspace.schema.texts:
        asked["attribution"] = workspace.attribution
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except PropendError as error:
            found[name] = {"missing": str(error)}
    return found


_STAGES: Final = (
    "visit",
    "search",
    "view",
    "favourite",
    "cart",
    "add_to_cart",
    "checkout",
    "purchase",
)


def _funnel_steps(workspace: Workspace, counts: dict[str, int]) -> tuple[list[str], str]:
    """Return the first declared funnel, or the shop's usual stages that the log has."""
    if workspace.config.funnels:
        first = workspace.config.funnels[0]
        return list(first.steps), first.within
    there = [t for t in ("view", "cart", "purchase") if counts.get(t)]
    return (there if len(there) >= 2 else [t for t in _STAGES if counts.get(t)]), "7d"


def _predict(
    workspace: Workspace, declared: list[Task], results: dict[str, Any], out: Path, show: Progress
) -> dict[str, Prediction]:
    """Answer each declared task; one the log cannot answer says what is missing."""
    predictions: dict[str, Prediction] = {}
    cards: list[dict[str, Any]] = []
    for task in declared:
        try:
            prediction = workspace.predict(task, reuse=True, progress=show)
        except (NotEnoughDataError, ExpressionError) as reason:
            cards.append(
                {
                    "task": task.name,
                    "ask": task.ask,
                    "title": question(task),
                    "answer": task.answer,
                    "skipped": str(reason),
                }
            )
            continue
        predictions[task.name] = prediction
        path = write_table(prediction.scores, out / "scores" / f"{task.name}.parquet")
        cards.append(
            {
                **told(prediction.card),
                "title": question(task),
                "scored": len(prediction.users),
                "scores": str(workspace.out / path.relative_to(out)),
            }
        )
    results["tasks"] = cards
    return predictions


def _lifetimes(workspace: Workspace) -> dict[str, Any] | None:
    """The classic lifetime protocol on the log, where it has purchases."""
    from propend.learn.lifetimes import lifetime_holdout

    try:
        return lifetime_holdout(workspace.store, workspace.schema, workspace.engine)
    except NotEnoughDataError:
        return None


def _profiles(workspace: Workspace, results: dict[str, Any], out: Path, show: Progress) -> pa.Table:
    """Everyone's profile, and the segments with their size, value and trend."""
    show("know the users", 0, 2)
    store, schema, engine = workspace.store, workspace.schema, workspace.engine
    now = Profiles.build(store, schema, engine, at=workspace.now)
    show("know the users", 1, 2)
    try:
        before = Profiles.build(store, schema, engine, at=workspace.now - TREND_DAYS * DAY)
    except NotEnoughDataError:
        before = None
    found = [s.as_dict() for s in segments(now, before)]
    results["segments"] = found
    groups = communities(workspace, workspace.now)
    if groups is not None:
        now = replace(now, table=groups.join(now.table))
        results["communities"] = {
            "by": workspace.config.communities.by,
            "users": len(groups),
            "communities": int(groups.community.max()) + 1,
            "modularity": groups.modularity,
        }
    write_table(now.table, out / "profiles.parquet")
    write_table(
        pa.Table.from_pylist(plain(found))
        if found
        else pa.table({"name": pa.array([], pa.string())}),
        out / "segments.parquet",
    )
    show("know the users", 2, 2)
    return now.table


def _recommend(
    workspace: Workspace, results: dict[str, Any], out: Path, show: Progress
) -> pa.Table | None:
    """What to offer each user, with the reason; how good it is, forward in time."""
    from propend.recommend.batch import recommend_all
    from propend.recommend.fits import shared

    show("recommend", 0, 1)
    try:
        with shared():
            table, evaluation = recommend_all(
                workspace.store,
                workspace.schema,
                workspace.engine,
                k=10,
                recommender=workspace._shelf(),
                rules=workspace.config.recommend,
            )
    except (NotEnoughDataError, DataError) as reason:
        results["recommendations"] = {"skipped": str(reason)}
        return None
    table = with_names(workspace, table)
    write_table(table, out / "recommendations.parquet")
    results["recommendations"] = {"evaluation": evaluation, "samples": _offers(workspace, table)}
    show("recommend", 1, 1)
    return table


def with_names(workspace: Workspace, table: pa.Table) -> pa.Table:
    """Put each offer's name beside it."""
    names = item_names(workspace)
    if not names:
        return table
    offered = table["item"].combine_chunks().dictionary_encode()
    titles = pa.array(
        [names.get(item, item) for item in offered.dictionary.to_pylist()], pa.string()
    )
    return table.append_column("name", titles.take(offered.indices))


def _offers(workspace: Workspace, table: pa.Table) -> list[dict[str, Any]]:
    """Return a few users' recommendations with the names of items, and what those users did last."""
    names = item_names(workspace)
    users = pc.unique(table["user"]).to_pylist()
    step = max(1, len(users) // SAMPLES)
    found = []
    for user in users[::step][:SAMPLES]:
        rows = table.filter(pc.equal(table["user"], user)).slice(0, 5).to_pylist()
        found.append(
            {
                "user": user,
                "history": [names.get(i, i) for i in last_items(workspace, user, 4)],
                "items": [{**row, "name": row.get("name") or row["item"]} for row in rows],
            }
        )
    return found


def item_names(workspace: Workspace) -> dict[str, str]:
    """Return item id → name, for items that have one."""
    from propend.recommend.batch import item_names

    return item_names(workspace.store)


def last_items(workspace: Workspace, user: str, most: int) -> list[str]:
    """Return the ids of the latest different items of a user, latest first."""
    store = workspace.store
    code = store.code_of(user)
    timelines = store.timelines(code % store.buckets)
    rows = np.flatnonzero(timelines.users == code)
    if len(rows) == 0:
        return []
    items = timelines.of(int(rows[0])).item[::-1]
    latest = dict.fromkeys(int(i) for i in items if i >= 0)
    ids = store.item_ids()
    return [ids[i] for i in list(latest)[:most]]


def _decide(
    workspace: Workspace,
    predictions: dict[str, Prediction],
    profiles: pa.Table,
    recommended: pa.Table | None,
    out: Path,
) -> dict[str, Any]:
    """Whom to reach, with what and when; written as tables and audience files."""
    try:
        prediction = _deciding(workspace, predictions)
    except PropendError as reason:
        return {"skipped": str(reason)}
    config = workspace.config
    ids = pa.array(prediction.users, pa.string())
    at = pc.index_in(ids, value_set=profiles["user_id"].combine_chunks())
    known = profiles.take(at)
    items = None
    if recommended is not None:
        first = recommended.filter(pc.equal(recommended["rank"], 1))
        items = (
            first["item"]
            .take(pc.index_in(ids, value_set=first["user"].combine_chunks()))
            .combine_chunks()
        )
    lead = dict(
        zip(
            prediction.scores["user"].to_pylist(),
            prediction.scores["reasons"].to_pylist(),
            strict=True,
        )
    )
    value = np.asarray(
        pc.fill_null(known["mean_order"].combine_chunks().cast(pa.float64()), np.nan)
    )
    if not np.isfinite(value).any() or np.nanmax(value) <= 0:
        return {
            "skipped": "no purchase in the log has a value, so no push can be weighed against its cost; give the events source a value role"
        }
    made = decide(
        ids,
        prediction.score,
        value,
        config.decide,
        now=workspace.now,
        zone=workspace.zone,
        consent=_consent(workspace, ids),
        hour=_waking(
            np.asarray(pc.fill_null(known["favourite_hour"].combine_chunks(), -1)),
            config.decide.hours,
        ),
        item=items,
        reasons=pa.array(
            [(lead.get(u) or "").split("; ")[0] or None for u in prediction.users], pa.string()
        ),
        segments=_text_of(known["segment"]),
        salt=f"{config.workspace.name}-{config.workspace.seed}",
        currency=config.workspace.currency,
    )
    write_decisions(made, out)
    write_audiences(made, out / "audiences")
    summary = made.summary()
    names = item_names(workspace)
    order = np.lexsort((np.arange(len(made)), -made.column("expected_profit") * made.pushed))
    samples = [made.of(str(prediction.users[i])) for i in order[:SAMPLES]]
    by_segment = [
        {"segment": name, **figures} for name, figures in summary.pop("by_segment").items()
    ]
    return {
        **summary,
        "task": prediction.fitted.task.ask,
        "channel": config.decide.channel,
        "lift_assumed": config.decide.lift,
        "margin": config.decide.margin,
        "by_segment": by_segment,
        "samples": [
            {
                "user": d.user,
                "action": d.action,
                "item": names.get(d.item or "", d.item),
                "hour": d.hour,
                "probability": d.probability,
                "expected_profit": d.expected_profit,
                "cost": d.cost,
                "propensity": d.propensity,
                "reason": d.reason,
                "group": d.group,
            }
            for d in samples
        ],
    }


def _consent(workspace: Workspace, ids: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Return who may be reached, by the users table and by what they said with their events; ``None``: nobody refused."""
    told = consent_of(workspace.store.table("users"), USER, ids)
    refused = refusing(workspace.store, workspace.now)
    if not refused:
        return told
    willing = ~np.asarray(pc.is_in(ids, value_set=pa.array(sorted(refused), pa.string())))
    return willing if told is None else willing & told


def decide_now(workspace: Workspace, *, progress: Progress | None = None) -> dict[str, Any]:
    """Decide with the current models, without training; writes the decisions and audience files.

    Raises ``ModelError`` where no model was fitted yet.
    """
    predictions: dict[str, Prediction] = {}
    for task in workspace.tasks():
        if task.answer == "yes_no":
            fitted = workspace.registry.load(task.name)
            predictions[task.name] = score(
                workspace.store, workspace.schema, workspace.engine, fitted, workspace.now
            )
    results: dict[str, Any] = {}
    show = progress or _unseen
    scratch = workspace.folder / ".out-new"
    shutil.rmtree(scratch, ignore_errors=True)
    profiles = _profiles(workspace, results, scratch, show)
    recommended = _recommend(workspace, results, scratch, show)
    made = _decide(workspace, predictions, profiles, recommended, workspace.out)
    shutil.rmtree(scratch, ignore_errors=True)
    return made


def _waking(hours: np.ndarray[Any, Any], allowed: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the hours moved into those in which messages may arrive; −1 (unknown) stays."""
    return np.where(hours < 0, hours, np.clip(hours, allowed[0], allowed[1]))


def _text_of(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _deciding(workspace: Workspace, predictions: dict[str, Prediction]) -> Prediction:
    """Return the prediction that drives the decision: the declared one, or the first that asks who will act."""
    name = workspace.config.decide.task
    if name:
        if name not in {t.name for t in workspace.config.tasks}:
            raise ConfigError(f"decide.task names {name!r}, which is no declared task")
        if name not in predictions:
            raise NotEnoughDataError(
                f"task {name!r}, which drives the decision, could not be answered"
            )
        return predictions[name]
    for prediction in predictions.values():
        target = prediction.fitted.task.target
        if isinstance(target, Aggregate) and target.function == "any":
            return prediction
    for task in workspace.tasks():
        if isinstance(task.target, Aggregate) and task.target.function == "any":
            raise NotEnoughDataError(
                f"task {task.name!r}, which would drive the decision, could not be answered"
            )
    raise NotEnoughDataError(
        "no task asks who will buy; add one such as any(purchase) next 30d for any(*) last 90d"
    )


def _report(results: dict[str, Any], out: Path) -> None:
    from propend.pipeline.report import render

    document = plain(results)
    (out / "results.json").write_text(
        json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    render(document, out / "report.html")


def _publish(fresh: Path, place: Path) -> None:
    """Swap the new outputs in; a kill between the two renames is put right by the next run's start."""
    old = _restore(place)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _restore(place: Path) -> Path:
    """Put outputs back that a run killed in mid-swap had set aside; return where outputs are set aside."""
    old = place.with_name(".out-old")
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    return old
