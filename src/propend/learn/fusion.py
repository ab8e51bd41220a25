"""Fusion: point-in-time aggregates and a behaviour model's columns in one set of boosted trees, and what each adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.expression.nodes import Expression, Field
from propend.features.schema import Schema
from propend.learn import metrics
from propend.learn.behaviour import BehaviourModel, pretrain
from propend.learn.train import Fitted, train
from propend.models.sequence.settings import Settings
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame, scoring_frame
from propend.tasks.task import Task

__all__ = ["Fusion", "ablation", "behaviour_columns", "fuse", "pretrained_for"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]

TREES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (("trees", {}),)
AMOUNT_TREES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (("trees", {"loss": "tweedie"}),)


def pretrained_for(
    store: Store,
    schema: Schema,
    plan: Plan,
    *,
    size: str = "small",
    settings: Settings | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> BehaviourModel:
    """Return a model pretrained on what was known before the first forward test of a plan, and nothing later."""
    until = min(fold.test for fold in plan.folds)
    return pretrain(
        store, schema, size=size, until=until, settings=settings, folder=folder, progress=progress
    )


def behaviour_columns(
    model: BehaviourModel,
    store: Store,
    users: I64,
    cutoffs: I64,
    days: float,
    *,
    vectors: bool = True,
) -> tuple[F64, tuple[Expression, ...]]:
    """Return what a behaviour model says of (user code, cutoff) as columns [n, d], and their names.

    First the readouts of its heads for the ``days`` ahead, then, with ``vectors``, the frozen vector itself.
    """
    said, names = model.readouts(store, users, cutoffs, days)
    parts, labels = [said], [f"behaviour_{name}" for name in names]
    if vectors:
        frozen = model.vectors(store, users, cutoffs)
        parts.append(frozen)
        labels += [f"behaviour_{i}" for i in range(frozen.shape[1])]
    return np.hstack(parts), tuple(Field(("profile", _word(label))) for label in labels)


def _word(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label)


def beside(
    frame: Frame, columns: F64, names: tuple[Expression, ...], *, alone: bool = False
) -> Frame:
    """Return a frame with further columns on the right, or with them ``alone``."""
    if alone:
        return replace(frame, X=np.asfortranarray(columns), features=names, categories={})
    X = np.asfortranarray(np.hstack([frame.X, columns]))
    return replace(frame, X=X, features=(*frame.features, *names))


@dataclass
class Fusion:
    """A task answered by boosted trees on aggregates and behaviour columns; ``table`` says what each part adds."""

    fitted: Fitted
    model: BehaviourModel | None
    table: list[dict[str, Any]]
    remark: str = ""

    def score(self, store: Store, schema: Schema, engine: Engine, now: int) -> tuple[I64, F64]:
        """Return user codes and scores of everyone in the task's population at ``now``."""
        fitted = self.fitted
        own = fitted.features
        count = 0
        if self.model is not None:
            count = sum(1 for f in own if str(f).startswith("profile.behaviour_"))
        asked = scoring_frame(
            store, schema, engine, fitted.task, own[: len(own) - count], now, fitted.categories
        )
        X = asked.X
        if self.model is not None:
            days = fitted.task.horizon.days
            columns, _ = behaviour_columns(self.model, store, asked.user, asked.cutoff, days)
            X = np.hstack([X, columns])
        return asked.user, fitted.score(X)


def fuse(
    store: Store,
    schema: Schema,
    frame: Frame,
    task: Task,
    plan: Plan,
    *,
    model: BehaviourModel | None = None,
    size: str = "small",
    seed: int = 7,
    progress: Progress | None = None,
) -> Fusion:
    """Answer a task by fusion, the default: boosted trees on the frame's aggregates and the model's columns.

    Without a ``model`` one is pretrained on what was known before the first forward test. A log too short
    for one is answered by the trees on aggregates alone, and ``remark`` says so.
    """
    try:
        known = model or pretrained_for(store, schema, plan, size=size, progress=progress)
    except NotEnoughDataError as error:
        fitted = train(frame, task, plan, models=_trees(task), seed=seed, progress=progress)
        return Fusion(fitted, None, [], f"{error}; boosted trees on aggregates answer alone")
    table, fitted = ablation(store, frame, task, plan, known, seed=seed, progress=progress)
    return Fusion(fitted, known, table)


def ablation(
    store: Store,
    frame: Frame,
    task: Task,
    plan: Plan,
    model: BehaviourModel,
    *,
    seed: int = 7,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], Fitted]:
    """Train boosted trees on aggregates, on frozen behaviour columns, and on both; return the rows and the fusion.

    All three see the same rows, folds and seed. Each row has its metrics over all forward test rows, and the
    difference from the aggregates with a 95 % interval by bootstrap over users.
    """
    columns, names = behaviour_columns(model, store, frame.user, frame.cutoff, task.horizon.days)
    sets = {
        "aggregates": frame,
        "frozen vectors": beside(frame, columns, names, alone=True),
        "fusion": beside(frame, columns, names),
    }
    yes_no = task.answer == "yes_no"
    judged = (
        [metrics.auroc, metrics.average_precision, metrics.log_loss]
        if yes_no
        else [metrics.rmse, metrics.mae, metrics.gini]
    )
    rows: list[dict[str, Any]] = []
    base: dict[str, Any] = {}
    fitted: Fitted | None = None
    for name, chosen in sets.items():
        fitted = train(chosen, task, plan, models=_trees(task), seed=seed, progress=progress)
        tests = fitted.tests
        base = base or tests
        row: dict[str, Any] = {"features": name, "columns": chosen.X.shape[1]}
        for metric in judged:
            row[metric.__name__] = float(metric(tests["truth"], tests["champion"]))
            gain = metrics.bootstrap_difference(
                metric,
                tests["truth"],
                tests["champion"],
                base["champion"],
                groups=tests["user"],
                n=200,
                seed=seed,
            )
            row[f"{metric.__name__} gained"] = [gain.value, gain.low, gain.high]
        rows.append(row)
    assert fitted is not None
    return rows, fitted


def _trees(task: Task) -> tuple[tuple[str, dict[str, Any]], ...]:
    return TREES if task.answer == "yes_no" else AMOUNT_TREES
