"""A declared question answered for everyone: features, folds, a champion, scores with reasons, a registry entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.engine import Engine
from propend.errors import ConfigError, ExpressionError, NotEnoughDataError, nearest
from propend.events.durable import write_parquet
from propend.events.store import Store
from propend.expression.duration import Duration
from propend.expression.nodes import Field
from propend.features.derive import derive_features
from propend.features.schema import Schema
from propend.features.sentences import sentences
from propend.features.words import question_in_words
from propend.learn.companion import companion
from propend.learn.future import check_store
from propend.learn.registry import Entry, Registry
from propend.learn.rivals import candidates
from propend.learn.segments import by_segment, segments_of
from propend.learn.snapshot import changing, judged_alone, leave_out_changing, said
from propend.learn.threshold import Contact, profit_curve
from propend.learn.train import Fitted, Options, train
from propend.pipeline.prediction import Prediction, not_asked
from propend.tasks.cutoffs import Plan, plan_cutoffs
from propend.tasks.frame import Frame, build_frame, evaluate_all, scoring_frame
from propend.tasks.impressions import COUNTED, build_impressions
from propend.tasks.task import Task

if TYPE_CHECKING:
    from propend.learn.fusion import Fusion

__all__ = [
    "fuse",
    "predict",
    "predict_impressions",
    "score",
    "write_csv",
    "write_table",
]

Progress = Callable[[str, int, int | None], None]
F64 = npt.NDArray[np.float64]

ECHO = 0.9999
"""Features that correlate more than this with an earlier one are left out."""


def predict(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    *,
    registry: Registry | None = None,
    now: int | None = None,
    folds: int = 3,
    seed: int = 7,
    reuse: bool = False,
    promote: bool = True,
    options: Options | None = None,
    segments: Sequence[str] = (),
    contact: Contact | None = None,
    abstain: float | None = None,
    behaviour: Path | None = None,
    explain: str | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Train a task forward in time, keep it in the registry and score everyone in its population at ``now``.

    ``segments`` are features by which the test rows are judged apart, ``contact`` asks for the profit curve; both stand
    in the card. A user whose interval is wider than ``abstain`` is answered "not enough data". Where a behaviour model was pretrained into the folder ``behaviour``, boosted trees that read it
    too compete (``learn.companion``), and the card says what it adds. With ``reuse`` the current version serves where it was fitted on the very same rows, question, seed and code.
    A user to ``explain`` must be in the population before anything is fitted, and only a model fitted in the very way asked
    for serves again.
    Raises ``DataError`` where they are not, ``ExpressionError`` for unknown words and ``NotEnoughDataError`` where the log cannot answer.
    """
    task.check(schema)
    _check_wishes(task, options, contact, segments, abstain)
    wishes = bool(segments or contact or abstain) or options not in (None, Options())
    if explain is not None:
        _check_asked(store, schema, engine, task, explain, schema.last + 1 if now is None else now)
    frame, plan, moment, left_out = _asked(store, schema, engine, task, folds, now)
    home = None if options and options.quantile is not None else behaviour
    said = companion(store, schema, task, plan, home, progress=progress)
    known = registry.matching(task, frame.data_hash(), seed) if reuse and registry else None
    if (
        known is not None
        and known.card.get("behaviour", {}).get("folder") == said.folder
        and (explain is None or (not wishes and _usual(known, plan)))
    ):
        return score(store, schema, engine, known, moment)
    _check_segments(segments, frame)
    future = check_store(store, schema, frame.features, [plan.folds[0].test, plan.folds[-1].test])
    alone = judged_alone(frame.features, changing(store))
    fitted = train(
        said.beside(store, frame), task, plan,
        options=options, suspects=alone, seed=seed, beside=said.more, progress=progress,
    )  # fmt: skip
    fitted.card["data_hash"] = frame.data_hash()
    fitted.card["future"] = _checked(future, alone, left_out)
    if said.more is not None or said.remark:
        fitted.card["behaviour"] = said.card(fitted, seed)
    if abstain is not None:
        fitted.card["abstain"] = abstain
    if segments:
        fitted.card["segments"] = _segments(frame, fitted, segments, seed)
    made = score(store, schema, engine, fitted, moment)
    if contact is not None:  # the budget is spent on the people of now, not on rows of the tests
        fitted.card["profit"] = _profit(fitted, contact, seed, made.score)
    made.entry = registry.save(fitted, promote=promote) if registry is not None else None
    return made


def fuse(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    *,
    folds: int = 3,
    size: str = "small",
    home: Path | None = None,
    graph: bool = False,
    tune: bool = False,
    seed: int = 7,
    progress: Progress | None = None,
) -> tuple[Fusion, pa.Table]:
    """Answer a task by aggregates and a behaviour model's columns together; returns the fusion and everyone's scores with the verdict.

    What is pretrained for it is kept in the folder ``home``, if given, and taken again, here and by ``predict``: as the model of
    that size in ``home`` was, where there is one, on what was known before the first held-out cutoff. With ``graph`` the graph's vectors
    and communities stand beside them, with ``tune`` the table has a row of a fine-tuned network. Raises as ``predict``, and ``MissingExtraError`` without torch.
    """
    from propend.learn import fusion
    from propend.learn.behaviour import pretraining_settings
    from propend.learn.cross_fitted import cross_fitted_in, kept_sizes

    task.check(schema)
    if task.answer not in ("yes_no", "amount", "count"):
        raise ExpressionError(
            f"task {task.name!r}: a behaviour model is fused for yes/no questions, amounts and counts; ask {task.target} without it"
        )
    frame, plan, moment, _ = _asked(store, schema, engine, task, folds, None)
    more, model = None, None
    kept = home is not None and size in kept_sizes(home)
    settings = None if kept else pretraining_settings(size)  # none: those it was pretrained with
    if graph:
        from propend.learn.graph import graph_sources

        more = graph_sources(store, schema, engine, min(plan.cutoffs))
    if home is not None:
        with suppress(NotEnoughDataError):  # fuse says so
            model, _ = cross_fitted_in(
                store, schema, home / size, plan.held_out, settings=settings, progress=progress
            )
    made = fusion.fuse(
        store,
        schema,
        frame,
        task,
        plan,
        model=model,
        size=size,
        more=more,
        tune=tune,
        seed=seed,
        progress=progress,
    )
    codes, scores = made.score(store, schema, engine, moment)
    table = pa.table(
        {
            "user": pa.array(store.names_of(codes), pa.string()),
            "score": scores,
            "verdict": [made.fitted.card["verdict"]["answer"]] * len(codes),
        }
    )
    return made, table.take(pa.array(np.lexsort((codes, -scores))))


def _asked(
    store: Store, schema: Schema, engine: Engine, task: Task, folds: int, now: int | None
) -> tuple[Frame, Plan, int, dict[str, str]]:
    """Return a task's rows, its plan of cutoffs, the moment users are scored at, and the features left out with why."""
    moment = schema.last + 1 if now is None else now
    _more_than_one_user(store, task)
    plan = plan_cutoffs(
        schema.first, moment, task.horizon, folds=folds, censored=task.answer == "time"
    )
    features, left_out = leave_out_changing(
        derive_features(schema, sentences=sentences(store, schema, plan.folds[0].test)),
        changing(store),
        (task.target, task.population),
    )
    frame = _informative(build_frame(store, schema, engine, task, features, plan.cutoffs))
    return frame, plan, moment, left_out


def _checked(
    future: dict[str, Any], judged: Sequence[str], left_out: dict[str, str]
) -> dict[str, Any]:
    """Return what the leak report of a log says: what the shuffle proved, and what it could not reach."""
    today = said(judged, left_out)
    sentence = "; ".join(filter(None, (future["sentence"], today.pop("sentence"))))
    return {**future, **today, "sentence": sentence}


def predict_impressions(
    store: Store,
    schema: Schema,
    engine: Engine,
    shown: str,
    taken: str,
    within: Duration,
    *,
    name: str | None = None,
    folds: int = 3,
    seed: int = 7,
    options: Options | None = None,
    segments: Sequence[str] = (),
    contact: Contact | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> tuple[Fitted, pa.Table, Entry | None]:
    """Learn which impressions lead to a click of the same item (``tasks.impressions``), forward in time.

    Fields of the impression itself are judged by the leak report: a time spent, written when it was over, is refused
    with ``LeakError`` unless it is among ``options.known``. ``segments`` and ``contact`` judge the test impressions as in
    :func:`predict`. Returns the fitted model with its card, the test impressions (user, item, time, whether it was taken,
    score, verdict), and its entry in ``registry``, which keeps models of rows.
    """
    asked = build_impressions(store, schema, engine, shown, taken, within, folds=folds)
    frame, plan = asked.frame, asked.plan
    task = replace(asked.task, name=name) if name else asked.task
    _check_segments(segments, frame)
    past = [f for f in frame.features if not isinstance(f, Field)]
    future = check_store(store, schema, past, [plan.folds[0].test, plan.folds[-1].test])
    fitted = train(frame, task, plan, options=options, seed=seed, progress=progress)
    alone = [feature for feature in judged_alone(frame.features) if feature not in COUNTED]
    fitted.card["future"] = _checked(future, alone, {})
    if segments:
        fitted.card["segments"] = _segments(frame, fitted, segments, seed)
    if contact is not None:
        fitted.card["profit"] = _profit(fitted, contact, seed)
    fitted.card["impressions"] = {"shown": shown, "taken": taken, "within": str(within)}
    entry = registry.save(fitted) if registry is not None else None
    rows = fitted.tests["row"]
    items = np.array(schema.item_ids, dtype=object)
    table = pa.table(
        {
            "user": pa.array(store.names_of(asked.frame.user[rows]), pa.string()),
            "item": pa.array(items[asked.item[rows]], pa.string()),
            "time": pa.array(asked.time[rows], pa.timestamp("us", "UTC")),
            "taken": fitted.tests["truth"] > 0,
            "score": fitted.tests["champion"],
            "verdict": [fitted.card["verdict"]["answer"]] * len(rows),
        }
    )
    return fitted, table, entry


def score(
    store: Store,
    schema: Schema,
    engine: Engine,
    fitted: Fitted,
    now: int,
) -> Prediction:
    """Score everyone in a fitted task's population at ``now``."""
    asked = scoring_frame(
        store, schema, engine, fitted.task, fitted.features, now, fitted.categories, fitted.beside
    )
    scores = fitted.score(asked.X)
    names = store.names_of(asked.user)
    if scores.ndim == 2:
        return Prediction(
            fitted, None, names, asked.user, scores.max(axis=1, initial=0.0), asked.X, scores
        )
    return Prediction(fitted, None, names, asked.user, scores, asked.X)


def _check_wishes(
    task: Task,
    options: Options | None,
    contact: Contact | None,
    segments: Sequence[str],
    abstain: float | None,
) -> None:
    """Refuse what does not fit the answer before anything is computed."""
    which = f"task {task.name!r} ({task.ask})"
    if options and options.quantile is not None and task.answer not in ("amount", "count"):
        raise ExpressionError(
            f"{which}: a quantile is of an amount or a count; leave --quantile out"
        )
    if options is not None:
        candidates(task, options.quantile, options.models)
    if contact is not None and task.answer != "yes_no":
        raise ExpressionError(
            f"{which}: a profit curve is of a yes/no question; leave --value and --cost out"
        )
    if abstain is not None and task.answer != "yes_no":
        raise ExpressionError(f"{which}: only a yes/no task can abstain; leave --abstain out")
    if abstain is not None and not 0 <= abstain <= 1:
        raise ConfigError(f"an interval of a probability is 0 to 1 wide, not {abstain:g}")
    if segments and task.answer in ("which", "time"):
        raise ExpressionError(
            f"{which}: only yes/no answers and amounts are judged by segment; leave --segment out"
        )


def _check_asked(
    store: Store, schema: Schema, engine: Engine, task: Task, user: str, moment: int
) -> None:
    """Refuse a user who is not in the population before anything is fitted for their sake."""
    table = evaluate_all(store, schema, engine, task.population, moment)
    asked = table.filter(pc.greater(pc.fill_null(table["value"], 0.0), 0.0))["user"]
    if not pc.is_in(pa.scalar(user), value_set=asked.combine_chunks()).as_py():
        raise not_asked(user, task)


def _usual(kept: Fitted, plan: Plan) -> bool:
    """Whether a kept model was fitted without special wishes: by the usual models, in these folds."""
    card = kept.card
    special = {"search", "balance", "selection", "quantile", "profit", "abstain"} & card.keys()
    models = {name for name, _ in candidates(kept.task)}
    return not special and card["protocol"] == plan.protocol and models <= card["models"].keys()


def _check_segments(segments: Sequence[str], frame: Frame) -> None:
    for name in segments:
        if name not in frame.names:
            raise ExpressionError(
                f"{name!r} is no feature of this task to judge by{nearest(name, frame.names)}"
            )


def _segments(
    frame: Frame, fitted: Fitted, wanted: Sequence[str], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Judge the champion's forward tests by segments of some features."""
    tests, found = fitted.tests, {}
    for name in wanted:
        j = frame.names.index(name)
        codes, names = segments_of(frame.X[tests["row"], j], frame.categories.get(j))
        found[name] = by_segment(
            tests["truth"], tests["champion"], codes, names, yes_no=fitted.task.answer == "yes_no",
            groups=tests["user"], strata=tests["fold"], seed=seed,
        )  # fmt: skip
    return found


def _profit(
    fitted: Fitted, contact: Contact, seed: int, people: F64 | None = None
) -> dict[str, Any]:
    """The profit curve of the forward tests, for the people whose scores are given (default: the test rows)."""
    tests = fitted.tests
    return profit_curve(
        tests["truth"], tests["champion"], value=contact.value, cost=contact.cost,
        budget=contact.budget, people=people, groups=tests["user"], seed=seed,
    ).said()  # fmt: skip


def _more_than_one_user(store: Store, task: Task) -> None:
    if store.user_count < 2:
        raise NotEnoughDataError(
            f"task {task.name!r}: the log has one user; a model needs at least some hundred to compare"
        )


def _informative(frame: Frame) -> Frame:
    """Leave out features that never vary, or that say what an earlier one says: they cost time and tell nothing."""
    X = frame.X
    varies = np.array([not _constant(X[:, j]) for j in range(X.shape[1])])
    keep = varies & ~_echoes(X[:: max(1, len(X) // 5_000)], varies, frozenset(frame.categories))
    if keep.all() or not keep.any():
        return frame
    kept = np.flatnonzero(keep)
    categories = {
        int(np.searchsorted(kept, j)): values for j, values in frame.categories.items() if keep[j]
    }
    return Frame(
        np.asfortranarray(X[:, kept]),
        frame.y,
        frame.user,
        frame.cutoff,
        tuple(frame.features[j] for j in kept),
        categories,
        frame.share,
        frame.classes,
    )


def _echoes(
    sample: F64, varies: npt.NDArray[np.bool_], categories: frozenset[int]
) -> npt.NDArray[np.bool_]:
    """Return which columns of a sample correlate above ``ECHO`` with an earlier one and are missing on the same rows."""
    missing = np.isnan(sample)
    filled = np.where(missing, 0.0, sample)
    centred = np.where(missing, 0.0, filled - filled.sum(0) / np.maximum((~missing).sum(0), 1))
    norm = np.sqrt((centred**2).sum(0))
    unit = centred / np.where(norm > 0, norm, 1.0)
    alike = unit.T @ unit > ECHO
    same_gaps = (missing.T.astype(np.float32) @ (~missing).astype(np.float32)) == 0
    same_gaps &= same_gaps.T
    plain = varies & np.array([j not in categories for j in range(sample.shape[1])])
    alike &= same_gaps & plain[:, None] & plain[None, :]
    return np.asarray(np.triu(alike, 1).any(0))


def _constant(column: F64) -> bool:
    missing = np.isnan(column)
    if missing.all():
        return True
    if missing.any():
        return False
    return bool((column == column[0]).all())


def write_table(table: pa.Table, path: Path) -> Path:
    """Write a table as Parquet and, beside it, as CSV; returns the Parquet path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table, path, dictionary=True)
    write_csv(table, path.with_suffix(".csv"))
    return path


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV; lists become text, and the file appears whole or not at all."""
    from pyarrow import csv

    flat = table
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_list(kind):
            flat = flat.set_column(
                flat.schema.get_field_index(name), name, pc.binary_join(table[name], "; ")
            )
        elif pa.types.is_dictionary(kind):
            flat = flat.set_column(
                flat.schema.get_field_index(name), name, table[name].cast(kind.value_type)
            )
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    csv.write_csv(flat, part)
    part.replace(path)


def question(task: Task) -> str:
    """Return the task in words: its title, or the question it asks."""
    return task.title or question_in_words(task.target, task.population)
