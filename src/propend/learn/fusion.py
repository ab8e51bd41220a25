"""Fusion: point-in-time aggregates and a behaviour model's columns in one set of boosted trees, and what each adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.engine import Engine
from propend.errors import ModelError, NotEnoughDataError
from propend.events.store import Store
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.learn import metrics
from propend.learn.behaviour import BehaviourModel, pretrain
from propend.learn.bootstrap import bootstrap_difference
from propend.learn.cross_fitted import CrossFitted, fields_of
from propend.learn.strata import within
from propend.learn.train import Fitted, train
from propend.learn.transfer import Probe, Transfer, Tuner
from propend.models import catalog
from propend.models.model import Model
from propend.models.sequence.settings import Settings
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame, scoring_frame
from propend.tasks.task import Task

__all__ = [
    "Fusion",
    "Source",
    "ablation",
    "behaviour_columns",
    "behaviour_source",
    "distil",
    "fuse",
    "pretrained_for",
]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]
Source = Callable[[I64, I64], tuple[F64, tuple[Expression, ...]]]
"""From user codes and cutoffs [n] to further columns [n, d], known before each cutoff, and what they are called."""

TREES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (("trees", {}),)
AMOUNT_TREES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (("trees", {"loss": "tweedie"}),)


def pretrained_for(
    store: Store,
    schema: Schema,
    plan: Plan,
    *,
    size: str = "small",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> CrossFitted:
    """Return models pretrained on what was known before the first forward test of a plan, and nothing later.

    Two of them, each without half of the users, so that no user's row in training is told by a model that knows how
    that row ended.
    """
    until = min(fold.test for fold in plan.folds)

    def made(half: int) -> BehaviourModel:
        return pretrain(
            store, schema, size=size, until=until, settings=settings, leave=half, progress=progress
        )

    return CrossFitted((made(0), made(1)))


def behaviour_columns(
    model: BehaviourModel | CrossFitted,
    store: Store,
    users: I64,
    cutoffs: I64,
    days: float,
) -> tuple[F64, tuple[Expression, ...]]:
    """Return what a behaviour model says of (user code, cutoff) as columns [n, d], and their names.

    First the readouts of its heads for the ``days`` ahead, then, for a model that is one, its frozen vector.
    """
    said, names = model.readouts(store, users, cutoffs, days)
    parts, labels = [said], [*names]
    if isinstance(model, BehaviourModel):
        frozen = model.vectors(store, users, cutoffs)
        parts.append(frozen)
        labels += [str(i) for i in range(frozen.shape[1])]
    return np.hstack(parts), fields_of(labels)


def behaviour_source(store: Store, model: BehaviourModel | CrossFitted, days: float) -> Source:
    """Return ``behaviour_columns`` of a model as a source."""
    return lambda users, cutoffs: behaviour_columns(model, store, users, cutoffs, days)


@dataclass
class Fusion:
    """A task answered by boosted trees on aggregates and the columns of ``sources``; ``table`` says what each part adds."""

    fitted: Fitted
    sources: dict[str, Source]
    table: list[dict[str, Any]]
    remark: str = ""

    def rows(self, X: F64, users: I64, cutoffs: I64) -> F64:
        """Return aggregates [n, d] of (user code, cutoff) with the sources' columns behind them."""
        return np.hstack([X, *(source(users, cutoffs)[0] for source in self.sources.values())])

    def score(self, store: Store, schema: Schema, engine: Engine, now: int) -> tuple[I64, F64]:
        """Return user codes and scores of everyone in the task's population at ``now``."""
        fitted = self.fitted
        none = np.zeros(0, np.int64)
        added = sum(len(source(none, none)[1]) for source in self.sources.values())
        own = fitted.features[: len(fitted.features) - added]
        asked = scoring_frame(store, schema, engine, fitted.task, own, now, fitted.categories)
        return asked.user, fitted.score(self.rows(asked.X, asked.user, asked.cutoff))


def fuse(
    store: Store,
    schema: Schema,
    frame: Frame,
    task: Task,
    plan: Plan,
    *,
    model: BehaviourModel | CrossFitted | None = None,
    size: str = "small",
    more: Mapping[str, Source] | None = None,
    tune: bool = False,
    seed: int = 7,
    progress: Progress | None = None,
) -> Fusion:
    """Answer a task by boosted trees on the frame's aggregates and the model's columns together.

    Without a ``model`` two are pretrained on what was known before the first forward test, each without half of the
    users. A model that has seen the rows' users is only safe for rows at cutoffs from its ``until`` on. ``more`` are further
    columns (``learn.graph``). The table also has the frozen vectors by themselves, and with ``tune`` a network fine-tuned on the question in every fold. A log too short for a behaviour model is answered without, and ``remark`` says so.
    """
    sources, remark, networks = dict(more or {}), "", dict[str, Transfer]()
    try:
        known = model or pretrained_for(store, schema, plan, size=size, progress=progress)
        sources = {"behaviour": behaviour_source(store, known, task.horizon.days)} | sources
    except NotEnoughDataError as error:
        remark = f"{error}; boosted trees on aggregates answer alone"
        if not sources:
            fitted = train(frame, task, plan, models=_trees(task), seed=seed, progress=progress)
            return Fusion(fitted, {}, [], remark)
    else:
        if known.until > min(fold.test for fold in plan.folds):
            raise ModelError(
                "the behaviour model has seen what came after the first forward test, so every figure would flatter; "
                "pretrain it with until= that test, or leave it out"
            )
        networks["frozen vectors"] = Probe(known, store, frame, task)
        if tune:
            networks["fine-tuned network"] = Tuner(known, store, frame, task)
    table, fitted = ablation(
        frame, task, plan, sources, networks=networks, seed=seed, progress=progress
    )
    return Fusion(fitted, sources, table, remark)


def ablation(
    frame: Frame,
    task: Task,
    plan: Plan,
    sources: Mapping[str, Source],
    *,
    networks: Mapping[str, Transfer] | None = None,
    seed: int = 7,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], Fitted]:
    """Train boosted trees on aggregates, on each source's columns alone, on both, and on all; return the rows and the last.

    ``networks`` are those that answer by themselves, each a row: their vectors frozen, or fine-tuned on the question.

    All see the same rows, folds and seed. Each row has its metrics over the forward test rows, inside each fold as
    ``train`` takes them, and the difference from the aggregates with a 95 % interval by bootstrap over users.
    """
    added = {name: source(frame.user, frame.cutoff) for name, source in sources.items()}
    sets = {"aggregates": frame}
    for name, (columns, features) in added.items():
        alone = np.asfortranarray(columns)
        sets[name] = replace(frame, X=alone, features=features, categories={})
        if len(added) > 1:
            sets[f"aggregates + {name}"] = frame.beside(columns, features)
    sets["fusion"] = frame
    for columns, features in added.values():
        sets["fusion"] = sets["fusion"].beside(columns, features)
    yes_no = task.answer == "yes_no"
    judged = (
        [metrics.auroc, metrics.average_precision, metrics.log_loss]
        if yes_no
        else [metrics.rmse, metrics.mae, metrics.gini]
    )
    found = {
        name: train(chosen, task, plan, models=_trees(task), seed=seed, progress=progress)
        for name, chosen in sets.items()
    }
    base = found["aggregates"].tests
    said: dict[str, tuple[int | None, F64]] = {
        name: (sets[name].X.shape[1], fitted.tests["champion"]) for name, fitted in found.items()
    }
    for name, network in (networks or {}).items():
        said[name] = (network.columns, network.tests(plan, base["row"], seed))
    rows: list[dict[str, Any]] = []
    for name, (width, scores) in said.items():
        row: dict[str, Any] = {"features": name, "columns": width}
        for metric in judged:
            row[metric.__name__] = within(metric, base["truth"], scores, strata=base["fold"])
            gain = bootstrap_difference(
                metric, base["truth"], scores, base["champion"],
                groups=base["user"], strata=base["fold"], n=200, seed=seed,
            )  # fmt: skip
            row[f"{metric.__name__} gained"] = [gain.value, gain.low, gain.high]
        rows.append(row)
    return rows, found["fusion"]


def _trees(task: Task) -> tuple[tuple[str, dict[str, Any]], ...]:
    return TREES if task.answer == "yes_no" else AMOUNT_TREES


def distil(fusion: Fusion, frame: Frame, *, seed: int = 7) -> tuple[Model, dict[str, float]]:
    """Teach boosted trees on the aggregates alone to answer as the fusion does; return them and how well they do.

    The student explains itself and is served without the network. It learns on the earlier rows of ``frame`` and
    is compared with the teacher on those of its last cutoff: ``spearman``, and ``rmse`` beside the spread of the teacher.
    """
    wanted = fusion.fitted.score(fusion.rows(frame.X, frame.user, frame.cutoff))
    test = frame.cutoff == frame.cutoff.max()
    categories = {j: len(values) for j, values in frame.categories.items() if values}
    student = catalog.create("trees", "amount").fit(
        frame.X[~test], wanted[~test], columns=frame.names, categories=categories, seed=seed
    )
    said = student.predict(frame.X[test])
    return student, {
        "spearman": float(metrics.spearman(wanted[test], said)),
        "rmse": float(metrics.rmse(wanted[test], said)),
        "spread": float(wanted[test].std()),
    }
