"""Rows for a model: who was asked when, what was known then, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.engine import Engine
from propend.errors import NotEnoughDataError
from propend.events.hashing import hash_column
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Expression
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.schema import Schema, attribute_columns
from propend.names import USER
from propend.tasks.task import Task

__all__ = [
    "Frame",
    "More",
    "build_frame",
    "evaluate_all",
    "map_population",
    "profile_of",
    "scoring_frame",
]

T = TypeVar("T")
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOST_ROWS: Final = 600_000
"""Beyond this many rows a frame is made of a sample of the users, chosen by a hash of the id."""
BLOCK: Final = 4_096
"""Rows hashed at a time."""
MOST_CATEGORIES: Final = 100_000
"""Texts of one column that are kept apart; the trainer encodes columns with many by their rate (``models.encoded``)."""
MOST_CLASSES: Final = 50
FEWEST_IN_CLASS: Final = 30
OTHER: Final = "(another)"
"""What the rare answers of a which-of-many question are called together."""


@dataclass(frozen=True)
class Frame:
    """Features ``X`` float64 [n, d], labels ``y`` [n] (NaN where not yet known), user codes and cutoffs [n].

    ``categories`` gives for columns that hold codes the texts they stand for. ``share`` is the share of users in it.
    A label that is a text is a code into ``classes``.
    """

    X: F64
    y: F64
    user: I64
    cutoff: I64
    features: tuple[Expression, ...]
    categories: dict[int, tuple[str, ...]]
    share: float = 1.0
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def names(self) -> tuple[str, ...]:
        """The features as text."""
        return tuple(map(str, self.features))

    def at(self, cutoffs: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which rows were asked at one of these cutoffs."""
        return np.isin(self.cutoff, np.asarray(cutoffs, np.int64))

    def beside(self, columns: F64, features: tuple[Expression, ...]) -> Frame:
        """Return the frame with further columns [n, e] behind its own."""
        X = np.asfortranarray(np.hstack([self.X, columns]))
        return replace(self, X=X, features=(*self.features, *features))

    def data_hash(self) -> str:
        """Return a fingerprint of the rows and labels, to stand beside every figure."""
        digest = hashlib.sha256()
        for array in (self.user, self.cutoff, self.y, self.X):
            for start in range(0, len(array), BLOCK):  # X is the largest thing in memory
                part = np.nan_to_num(array[start : start + BLOCK], nan=-1.0)
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


class More(Protocol):
    """Further features, made of the timelines in hand by something other than the language (a behaviour model)."""

    @property
    def features(self) -> tuple[Expression, ...]:
        """What they are called."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns it reads, where the log has them."""

    def values(self, timelines: Timelines, rows: Rows, schema: Schema) -> Mapping[str, F64]:
        """Return each feature [rows] by name, from what was known before each row's cutoff."""


def build_frame(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    features: Sequence[Expression],
    cutoffs: Sequence[int],
    *,
    labels: bool = True,
    most_rows: int = MOST_ROWS,
    known: Mapping[int, tuple[str, ...]] | None = None,
    more: More | None = None,
) -> Frame:
    """Evaluate features and labels for every user of the population at every cutoff, bucket by bucket.

    ``known`` gives columns the codes of a fitted model, other texts are missing; else the most common texts get codes.
    Features among those of ``more`` are made by it.
    Raises ``NotEnoughDataError`` where nobody is in the population at any cutoff.
    """
    share = min(1.0, most_rows / max(store.user_count * len(cutoffs), 1))
    work = _reader(store, schema, task, features, cutoffs, labels, share, more)
    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    if sum(len(part.user) for part in parts) == 0:
        raise NotEnoughDataError(
            f"no user is in the population {task.population} at any of {len(cutoffs)} cutoffs; ask a wider population"
        )
    X, categories = _stack([part.values for part in parts], len(features), known or {})
    user, cutoff = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "cutoff")
    )
    y, classes = _labels([part.y for part in parts], task)
    return Frame(X, y, user, cutoff, tuple(features), categories, share, classes)


def _reader(
    store: Store,
    schema: Schema,
    task: Task,
    features: Sequence[Expression],
    cutoffs: Sequence[int],
    labels: bool,
    share: float = 1.0,
    more: More | None = None,
) -> Callable[[int], _Part]:
    """Return what evaluates one bucket (or a share of its users)."""
    users = store.table("users")
    attributes = (
        {}
        if users is None or not schema.users
        else attribute_columns(users, USER, tuple(users[USER].to_pylist()))
    )
    ids = None if users is None else users[USER].combine_chunks()
    columns = schema.columns_for([task.target, task.population, *features])
    if more is not None:
        there = {*schema.numbers, *schema.texts}
        columns = list(dict.fromkeys([*columns, *(c for c in more.columns if c in there)]))

    def work(bucket: int) -> _Part:
        timelines = store.timelines(bucket, columns)
        names = store.user_ids(bucket).take(pa.array(timelines.users // store.buckets))
        if share < 1:
            draw = hash_column(names) >> np.uint64(11)
            timelines = timelines.users_at(np.flatnonzero(draw / np.float64(1 << 53) < share))
            names = store.user_ids(bucket).take(pa.array(timelines.users // store.buckets))
        return _evaluate(
            timelines,
            schema,
            task,
            features,
            cutoffs,
            profile_of(attributes, ids, names),
            labels,
            more,
        )

    return work


def _labels(parts: list[Values], task: Task) -> tuple[F64, tuple[str, ...]]:
    """Return labels as numbers; texts become codes into the commonest ones, the rare ones share a class.

    Raises ``NotEnoughDataError`` where hardly any answer is common: that is a recommender's question.
    """
    if not any(isinstance(part, Column) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts]), ()
    y, found = _coded(parts, 1 << 30)
    counts = np.bincount(y[~np.isnan(y)].astype(np.int64), minlength=len(found))
    order = np.argsort(-counts, kind="stable")
    kept = [int(c) for c in order[:MOST_CLASSES] if counts[c] >= FEWEST_IN_CLASS]
    if counts[kept].sum() < 0.2 * counts.sum():
        raise NotEnoughDataError(
            f"task {task.name!r}: {task.target} has {len(found):,} different answers, of which the {len(kept)} common ones cover "
            f"{counts[kept].sum() / max(counts.sum(), 1):.0%} of {counts.sum():,} rows; use propend recommend for one of so many, "
            "or ask about something coarser, for example next(category)"
        )
    code = np.full(len(found) + 1, float(len(kept)))
    code[kept], code[-1] = np.arange(len(kept)), np.nan
    classes = tuple(found[c] for c in kept)
    if len(kept) < len(found):
        classes = (*classes, OTHER)
    return code[np.where(np.isnan(y), len(found), y).astype(np.int64)], classes


@dataclass(frozen=True)
class _Part:
    values: list[Values]
    y: Values
    user: I64
    cutoff: I64


def _evaluate(
    timelines: Timelines,
    schema: Schema,
    task: Task,
    features: Sequence[Expression],
    cutoffs: Sequence[int],
    profile: dict[str, Values],
    labels: bool,
    more: More | None,
) -> _Part:
    rows = Rows.every(len(timelines.users), cutoffs)
    asked = evaluate([task.population], timelines, rows, schema, profile=profile)[0]
    assert not isinstance(asked, Column)
    rows = rows.select(asked > 0)
    given = {} if more is None else more.values(timelines, rows, schema)
    own = [f for f in features if str(f) not in given]
    told = iter(evaluate(own, timelines, rows, schema, profile=profile))
    values = [given[str(f)] if str(f) in given else next(told) for f in features]
    y: Values = np.full(len(rows), np.nan)
    if labels:
        y = evaluate([task.target], timelines, rows, schema, profile=profile)[0]
    return _Part(values, y, timelines.users[rows.user], rows.cutoff)


def profile_of(
    attributes: dict[str, Values], ids: pa.Array | None, names: pa.Array
) -> dict[str, Values]:
    """Return user attributes in the order of ``names``; users without a row have missing values."""
    import pyarrow.compute as pc

    if ids is None:
        return {}
    at = np.asarray(pc.fill_null(pc.index_in(names, value_set=ids), -1))
    found: dict[str, Values] = {}
    for name, values in attributes.items():
        if isinstance(values, Column):
            found[name] = Column(np.append(values.codes, -1)[at].astype(np.int32), values.values)
        else:
            found[name] = np.append(values, np.nan)[at]
    return found


def _stack(
    parts: list[list[Values]], width: int, known: Mapping[int, tuple[str, ...]]
) -> tuple[F64, dict[int, tuple[str, ...]]]:
    """Stack buckets; text gets the known code list or one for all of them, rare texts are missing."""
    lengths = [len(p[0].codes) if isinstance(p[0], Column) else len(p[0]) for p in parts]
    X = np.empty((sum(lengths), width), np.float64, order="F")
    categories: dict[int, tuple[str, ...]] = {}
    for j in range(width):
        column = [part[j] for part in parts]
        if not isinstance(column[0], Column):
            X[:, j] = np.concatenate([np.asarray(c) for c in column])
            continue
        X[:, j], categories[j] = _coded(column, MOST_CATEGORIES, known.get(j))
    return X, categories


def _coded(
    column: list[Values], most: int, known: tuple[str, ...] | None = None
) -> tuple[F64, tuple[str, ...]]:
    """Return buckets' texts as codes [rows] into the known list, or one of the ``most`` commonest that occur, sorted."""
    common = tuple(_common(column, most)) if known is None else known
    index = {text: code for code, text in enumerate(common)}
    return np.concatenate([_recode(c, index) for c in column]), common


def _common(column: list[Values], most: int) -> list[str]:
    counts: dict[str, int] = {}
    for c in column:
        assert isinstance(c, Column)
        times = np.bincount(c.codes[c.codes >= 0], minlength=len(c.values))
        for code in np.flatnonzero(times):
            text = c.values[code]
            counts[text] = counts.get(text, 0) + int(times[code])
    return sorted(sorted(counts, key=lambda t: (-counts[t], t))[:most])


def _recode(column: Values, index: dict[str, int]) -> F64:
    assert isinstance(column, Column)
    mapping = np.full(len(column.values) + 1, np.nan)
    for code in np.unique(column.codes[column.codes >= 0]):
        mapping[code] = index.get(column.values[code], np.nan)
    return mapping[column.codes]


def scoring_frame(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    features: Sequence[Expression],
    now: int,
    categories: dict[int, tuple[str, ...]],
    more: More | None = None,
) -> Frame:
    """Evaluate features for everyone in the population at ``now``, with the codes a fitted model knows."""
    return build_frame(
        store, schema, engine, task, features, [now],
        labels=False, most_rows=1 << 62, known=categories, more=more,
    )  # fmt: skip


def map_population(
    store: Store,
    schema: Schema,
    engine: Engine,
    task: Task,
    features: Sequence[Expression],
    now: int,
    categories: Mapping[int, tuple[str, ...]],
    use: Callable[[Frame, pa.Array], T],
    more: More | None = None,
) -> Iterator[T]:
    """Evaluate features for everyone in the population at ``now``, bucket by bucket, and yield what ``use`` makes of each.

    ``use`` gets a bucket's frame, with the codes a fitted model knows, and its users' ids; buckets without anybody are
    left out. It runs beside the evaluation, in parallel where the engine can, and memory holds a few buckets.
    """
    read = _reader(store, schema, task, features, [now], labels=False, more=more)

    def work(bucket: int) -> list[T]:
        part = read(bucket)
        if not len(part.user):
            return []
        X, found = _stack([part.values], len(features), categories)
        frame = Frame(
            X, np.full(len(part.user), np.nan), part.user, part.cutoff, tuple(features), found
        )
        ids = store.user_ids(bucket).take(pa.array(part.user // store.buckets))
        return [use(frame, ids)]

    for made in engine.map_buckets(work, sorted(store.manifest.runs)):
        yield from made


def evaluate_all(
    store: Store,
    schema: Schema,
    engine: Engine,
    expression: Expression,
    at: int,
    scores: Mapping[str, Mapping[int, float]] | None = None,
) -> pa.Table:
    """Return every user's answer at a moment: columns user (id) and value (number or text), in user-code order.

    ``scores`` gives each task that ``p()`` names its users' scores by user code; a user without one is missing.
    """
    users = store.table("users")
    attributes = (
        {}
        if users is None or not schema.users
        else attribute_columns(users, USER, tuple(users[USER].to_pylist()))
    )
    ids = None if users is None else users[USER].combine_chunks()
    columns = schema.columns_for([expression])

    def work(bucket: int) -> tuple[pa.Array, pa.Array, I64]:
        timelines = store.timelines(bucket, columns)
        names = store.user_ids(bucket).take(pa.array(timelines.users // store.buckets))
        known = {
            task: np.array([by.get(int(u), np.nan) for u in timelines.users])
            for task, by in (scores or {}).items()
        }
        rows = Rows.every(len(timelines.users), [at])
        values = evaluate(
            [expression],
            timelines,
            rows,
            schema,
            profile=profile_of(attributes, ids, names),
            scores=known,
        )[0]
        if isinstance(values, Column):
            return (
                names,
                pa.array([values.values[c] if c >= 0 else None for c in values.codes], pa.string()),
                timelines.users,
            )
        return names, pa.array(values, from_pandas=True), timelines.users

    parts = list(engine.map_buckets(work, sorted(store.manifest.runs)))
    table = pa.table(
        {
            "user": pa.concat_arrays([p[0] for p in parts]),
            "value": pa.concat_arrays([p[1] for p in parts]),
        }
    )
    return table.take(pa.array(np.argsort(np.concatenate([p[2] for p in parts]), kind="stable")))
