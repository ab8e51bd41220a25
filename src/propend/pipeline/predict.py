"""A declared question answered for everyone: features, folds, a champion, scores with reasons, a registry entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.engine import Engine
from propend.errors import DataError, ExpressionError, NotEnoughDataError
from propend.events.durable import write_parquet
from propend.events.store import Store
from propend.features.derive import derive_features
from propend.features.schema import Schema
from propend.features.words import question_in_words
from propend.learn.registry import Entry, Registry
from propend.learn.train import Fitted, Reason, train
from propend.tasks.cutoffs import Plan, plan_cutoffs
from propend.tasks.frame import Frame, build_frame, scoring_frame
from propend.tasks.task import Task

if TYPE_CHECKING:
    from propend.learn.fusion import Fusion

__all__ = ["Prediction", "fuse", "predict", "score", "write_csv", "write_table"]

Progress = Callable[[str, int, int | None], None]
F64 = npt.NDArray[np.float64]

ECHO = 0.9999
"""Features that correlate more than this with an earlier one are left out."""


@dataclass
class Prediction:
    """A fitted task and its answer for everyone asked now.

    ``metrics`` and ``card`` say how good it is and by which protocol; ``scores`` has one row per user.
    """

    fitted: Fitted
    entry: Entry | None
    users: npt.NDArray[np.object_]
    codes: npt.NDArray[np.int64]
    score: F64
    _X: F64

    @property
    def card(self) -> dict[str, Any]:
        """Every figure with its protocol."""
        return self.fitted.card

    @property
    def metrics(self) -> dict[str, float]:
        """The champion's metrics over all forward test rows."""
        return dict(self.card["metrics"])

    @cached_property
    def scores(self) -> pa.Table:
        """Return user, score and the strongest reasons, best score first."""
        reasons = [reasons_in_words(r) for r in self.fitted.reasons(self._X, 3)]
        table = pa.table(
            {
                "user": pa.array(self.users, pa.string()),
                "score": self.score,
                "reasons": pa.array(reasons, pa.string()),
            }
        )
        return table.take(pa.array(np.lexsort((self.codes, -self.score))))

    def explain(self, user: str, most: int = 5) -> list[Reason]:
        """Return why one user's score is what it is; raises ``DataError`` for a user who was not asked."""
        rows = np.flatnonzero(self.users == user)
        if len(rows) == 0:
            raise DataError(
                f"user {user!r} was not asked: they are not in the population ({self.fitted.task.population}) of task {self.fitted.task.name!r}"
            )
        return self.fitted.reasons(self._X[rows[:1]], most)[0]


def reasons_in_words(reasons: Sequence[Reason]) -> str:
    """Return reasons as one readable line, each with its value and direction.

    >>> reasons_in_words([Reason("days_since(purchase)", "days since the last purchase", 3.0, 0.4)])
    'days since the last purchase: 3 (raises)'
    """
    return "; ".join(
        f"{r.words}: {_short(r.value)} ({'raises' if r.effect > 0 else 'lowers'})" for r in reasons
    )


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if value != value:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2g}"


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
    progress: Progress | None = None,
) -> Prediction:
    """Train a task forward in time, keep it in the registry and score everyone in its population at ``now``.

    With ``reuse`` the current version serves where it was fitted on the very same rows, question, seed and code.
    Raises ``ExpressionError`` for unknown words and ``NotEnoughDataError`` where the log cannot answer.
    """
    frame, plan, moment = _asked(store, schema, engine, task, folds, now)
    known = registry.matching(task, frame.data_hash(), seed) if reuse and registry else None
    if known is not None:
        return score(store, schema, engine, known, moment)
    fitted = train(frame, task, plan, seed=seed, progress=progress)
    entry = registry.save(fitted) if registry is not None else None
    return score(store, schema, engine, fitted, moment, entry)


def fuse(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    *,
    folds: int = 3,
    size: str = "small",
    seed: int = 7,
    progress: Progress | None = None,
) -> tuple[Fusion, pa.Table]:
    """Answer a task by aggregates and a behaviour model's columns together; returns the fusion and everyone's scores.

    Raises as ``predict``, and ``MissingExtraError`` without torch.
    """
    from propend.learn import fusion

    frame, plan, moment = _asked(store, schema, engine, task, folds, None)
    made = fusion.fuse(store, schema, frame, task, plan, size=size, seed=seed, progress=progress)
    codes, scores = made.score(store, schema, engine, moment)
    table = pa.table({"user": pa.array(store.names_of(codes), pa.string()), "score": scores})
    return made, table.take(pa.array(np.lexsort((codes, -scores))))


def _asked(
    store: Store, schema: Schema, engine: Engine, task: Task, folds: int, now: int | None
) -> tuple[Frame, Plan, int]:
    """Return a task's rows, its plan of cutoffs and the moment users are scored at."""
    task.check(schema)
    if task.answer == "which":
        raise ExpressionError(
            f"task {task.name!r}: {task.target} asks which of many; use propend recommend for the next item"
        )
    moment = schema.last + 1 if now is None else now
    _more_than_one_user(store, task)
    plan = plan_cutoffs(schema.first, moment, task.horizon, folds=folds)
    features = derive_features(schema)
    return (
        _informative(build_frame(store, schema, engine, task, features, plan.cutoffs)),
        plan,
        moment,
    )


def score(
    store: Store,
    schema: Schema,
    engine: Engine,
    fitted: Fitted,
    now: int,
    entry: Entry | None = None,
) -> Prediction:
    """Score everyone in a fitted task's population at ``now``."""
    asked = scoring_frame(
        store, schema, engine, fitted.task, fitted.features, now, fitted.categories
    )
    return Prediction(
        fitted, entry, store.names_of(asked.user), asked.user, fitted.score(asked.X), asked.X
    )


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
