"""A workspace: a folder with ``propend.toml`` and the store beside it. The façade's object; its methods are the verbs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import Config, load
from propend.engine import Engine, connect
from propend.errors import ConfigError, DataError, ExpressionError
from propend.events.ingest import IngestReport
from propend.events.people import join, links_of
from propend.events.store import Store
from propend.expression.nodes import Expression, Probability
from propend.expression.parse import parse
from propend.features.schema import Schema
from propend.learn.registry import Registry
from propend.pipeline.analytics import Analytics
from propend.pipeline.predict import predict, score
from propend.pipeline.prediction import Prediction
from propend.pipeline.recommend import Offers
from propend.tasks.frame import evaluate_all
from propend.tasks.task import Task

if TYPE_CHECKING:
    from propend.learn.behaviour import BehaviourModel
    from propend.learn.fusion import Fusion

__all__ = ["Workspace", "open_workspace"]

Progress = Callable[[str, int, int | None], None]


def open_workspace(
    folder: str | Path, *, engine: str = "local", asks_often: bool = True, **options: object
) -> Workspace:
    """Open a workspace folder; raises ``ConfigError`` where it has no ``propend.toml``."""
    return Workspace(Path(folder), connect(engine, **options), asks_often=asks_often)


class Workspace(Analytics, Offers):
    """Everything one can ask of a log: the verbs of the command line as methods."""

    def __init__(self, folder: Path, engine: Engine, *, asks_often: bool = True) -> None:
        self.folder = folder
        self.engine = engine
        self.asks_often = asks_often
        """Whether decoded columns are kept at hand between questions; a single question is cheaper without."""
        self.config: Config = load(folder)

    def __repr__(self) -> str:
        return f"Workspace({str(self.folder)!r})"

    # ---- what is in it

    @property
    def store_folder(self) -> Path:
        """Where the store is."""
        return self.folder / "store"

    @property
    def out(self) -> Path:
        """Where tables and the report are written."""
        return self.folder / "out"

    @cached_property
    def store(self) -> Store:
        """The timeline store, all ids of a person as one user; raises ``DataError`` where nothing was ingested yet.

        Ids are joined by the facts the live side took in (``live.join_ids = false`` leaves them apart); what is written
        is written to the store as it came, in ``store_folder``.
        """
        if not Store.exists(self.store_folder):
            raise DataError(f"{self.folder} has no events yet; run: propend ingest {self.folder}")
        from propend.analytics.scan import remember

        base = Store(self.store_folder)
        links = links_of(self.folder / "live" / "identity.db") if self.config.live.join_ids else []
        joined = join(base, links, self.folder / "people")
        return remember(joined) if self.asks_often else joined

    @cached_property
    def schema(self) -> Schema:
        """What the log can be asked."""
        fitted = (entry.task for entry in self.registry.entries())
        names = dict.fromkeys([*(task.name for task in self.config.tasks), *fitted])
        return Schema.of(self.store, self.zone, tuple(names))

    @property
    def zone(self) -> str:
        """The workspace's time zone."""
        return self.config.workspace.zone or "UTC"

    @property
    def now(self) -> int:
        """The moment users are judged at: just after the last event, UTC microseconds."""
        return self.schema.last + 1

    @property
    def registry(self) -> Registry:
        """The fitted models."""
        return Registry(self.folder / "models")

    # ---- verbs

    def ingest(
        self, files: Sequence[str | Path] = (), *, progress: Progress | None = None
    ) -> list[IngestReport]:
        """Bring every declared source into the store that is not there yet.

        ``files`` are further files, read as the first declared source is.
        """
        from propend.events.ingest import ingest

        only = None
        if files:
            if not self.config.events:
                raise ConfigError(
                    f"{self.folder} declares no [[events]] source to read the files as; add one to propend.toml"
                )
            first = self.config.events[0]
            only = msgspec.structs.replace(
                first,
                files=tuple(str(Path(f).resolve()) for f in files),
            )
        reports = ingest(
            self.config, self.folder, self.store_folder, self.engine, only=only, progress=progress
        )
        self._forget_cached()
        return reports

    def replay(self, *, progress: Progress | None = None) -> list[IngestReport]:
        """Send quarantined rows through the rules as they are now."""
        from propend.events.ingest import replay

        reports = replay(
            self.config, self.folder, self.store_folder, self.engine, progress=progress
        )
        self._forget_cached()
        return reports

    def quarantine(self) -> pa.Table:
        """Return the rows set aside, with the reason beside the original row."""
        return Store(self.store_folder).quarantine()

    def forget(self, user: str, *, alone: bool = False) -> dict[str, Any]:
        """Erase a person from the store, the written tables and the live side; returns how many rows went from where.

        ``ids`` are those erased: the user's and, unless ``alone``, the person's others by the identity facts; ``behaviour``
        the sizes of behaviour models to pretrain anew. What of them competes is removed, with the fusions that read it, until
        a question is asked again. A report or summary that shows one as an example is removed: the next run writes it anew. A server may be running: it
        leaves them out of whatever it writes from the store's commit on. Raises ``DataError`` where nobody is found.
        """
        from propend.pipeline.erase import erase

        return erase(self, user, alone=alone)

    def evaluate(self, expression: str | Expression, *, at: int | None = None) -> pa.Table:
        """Return each user's answer to an expression at a moment (default: now): columns user and value.

        Raises ``ExpressionError`` naming the nearest known word.
        """
        asked = parse(expression) if isinstance(expression, str) else expression
        self.schema.check(asked)
        return evaluate_all(
            self.store,
            self.schema,
            self.engine,
            asked,
            self.now if at is None else at,
            self._scores(asked),
        )

    def audience(
        self, expression: str | Expression, *, at: int | None = None
    ) -> npt.NDArray[np.object_]:
        """Return the ids of the users for whom an expression holds (is true, or not zero)."""
        table = self.evaluate(expression, at=at)
        value = table["value"]
        chosen = (
            pc.fill_null(pc.not_equal(value, 0.0), False)
            if not pa.types.is_string(value.type)
            else pc.is_valid(value)
        )
        return table.filter(chosen)["user"].to_numpy(zero_copy_only=False)

    def predict(
        self,
        ask: str | Task,
        *,
        name: str | None = None,
        folds: int = 3,
        seed: int | None = None,
        reuse: bool = False,
        promote: bool = True,
        progress: Progress | None = None,
        **wishes: Any,
    ) -> Prediction:
        """Answer a question about the future for everyone it is asked of.

        ``wishes`` are ``options``, ``segments``, ``contact`` and ``abstain`` of :func:`propend.pipeline.predict.predict`.

        ``ask`` is a declared task's name, a question such as ``any(purchase) next 30d for any(*) last 90d``, or a Task.
        With ``reuse`` a model fitted on the very same rows, question, seed and code serves again. Without ``promote``
        a new model is kept beside the one that answers.
        """
        task = ask if isinstance(ask, Task) else self._task(ask, name)
        return predict(
            self.store,
            self.schema,
            self.engine,
            task,
            registry=self.registry,
            folds=folds,
            seed=self.config.workspace.seed if seed is None else seed,
            reuse=reuse,
            promote=promote,
            behaviour=self.folder / "behaviour",
            progress=progress,
            **wishes,
        )

    def score(
        self,
        task: str,
        file: str | Path | None = None,
        *,
        version: int | None = None,
        reasons: int = 0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Score everyone in a fitted task's population now into a Parquet file, in constant memory."""
        from propend.pipeline.batch import score_store

        return score_store(
            self.store,
            self.schema,
            self.engine,
            self.registry.load(task, version),
            self.now,
            self.out / "scores" / f"{task}-batch.parquet" if file is None else file,
            reasons=reasons,
            progress=progress,
        )

    def export(
        self, task: str, file: str | Path | None = None, *, version: int | None = None
    ) -> dict[str, Any]:
        """Write a fitted task's model as ONNX, checked on users of its population; needs the extra ``onnx``."""
        from propend.learn.export import export_fitted
        from propend.pipeline.batch import population_sample

        fitted = self.registry.load(task, version)
        rows = population_sample(self.store, self.schema, self.engine, fitted, self.now)
        return export_fitted(fitted, self.out / f"{task}.onnx" if file is None else file, rows)

    def pretrain(
        self,
        size: str = "small",
        *,
        fresh: bool = False,
        encoder: str | None = None,
        epochs: int | None = None,
        progress: Progress | None = None,
    ) -> BehaviourModel:
        """Pretrain a behaviour model on the whole log and keep it in ``behaviour/SIZE``; a broken-off run goes on.

        From then on it competes in ``predict``. ``fresh`` forgets a broken-off run; ``encoder`` is a local folder with a
        Hugging Face text encoder for what items are called. Raises ``NotEnoughDataError`` for a log too short to learn from.
        """
        from propend.learn.behaviour import pretrain_in

        return pretrain_in(
            self.store, self.schema, self.folder / "behaviour", size,
            fresh=fresh, encoder=encoder, epochs=epochs, progress=progress,
        )  # fmt: skip

    def fuse(
        self,
        ask: str | Task,
        *,
        name: str | None = None,
        folds: int = 3,
        size: str = "small",
        graph: bool = False,
        tune: bool = False,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Fusion, pa.Table]:
        """Answer a question by aggregates and a behaviour model's columns (``graph``: the graph's too) in boosted trees.

        With ``tune`` the table also says how a network does that was fine-tuned on the question. ``seed`` as in ``predict``.

        Returns the fusion, whose ``table`` says what each part adds, and everyone's scores, best first.
        """
        from propend.pipeline.predict import fuse

        task = ask if isinstance(ask, Task) else self._task(ask, name)
        return fuse(
            self.store,
            self.schema,
            self.engine,
            task,
            folds=folds,
            size=size,
            home=self.folder / "behaviour",
            graph=graph,
            tune=tune,
            seed=self.config.workspace.seed if seed is None else seed,
            progress=progress,
        )

    def knows(self, user: str) -> bool:
        """Whether a user id is in the log."""
        try:
            return self.store.code_of(user) >= 0
        except DataError:
            return False

    def has_item(self, item: str) -> bool:
        """Whether an item id is in the log or the catalogue."""
        return item in self.schema.item_ids

    def run(self, *, progress: Progress | None = None) -> dict[str, Any]:
        """Do the whole journey; tables, audience files and the report are in ``out``."""
        from propend.pipeline.run import run

        return run(self, progress=progress)

    def decide(self, *, progress: Progress | None = None) -> dict[str, Any]:
        """Decide whom to reach with the current models; writes the decisions and audience files."""
        from propend.pipeline.run import decide_now

        return decide_now(self, progress=progress)

    def profiles(self, *, at: int | None = None) -> pa.Table:
        """Return everyone's profile as of a moment (default: now)."""
        from propend.features.profile import Profiles
        from propend.pipeline.communities import communities

        moment = self.now if at is None else at
        table = Profiles.build(self.store, self.schema, self.engine, at=moment).table
        found = communities(self, moment)
        return table if found is None else found.join(table)

    def tasks(self) -> list[Task]:
        """Return the declared tasks, checked against the log."""
        found = [Task.parse(t.name, t.ask, t.title) for t in self.config.tasks]
        for task in found:
            task.check(self.schema)
        return found

    def _task(self, ask: str, name: str | None) -> Task:
        declared = {t.name: t for t in self.config.tasks}
        if ask in declared:
            return Task.parse(name or ask, declared[ask].ask, declared[ask].title)
        fitted = {entry.task for entry in self.registry.entries()}
        if ask in fitted:
            task = self.registry.load(ask).task
            return replace(task, name=name) if name else task
        if re.fullmatch(r"[\w.-]+", ask):  # no question has only one word
            known = sorted({*declared, *fitted})
            named = f"there are {', '.join(known)}" if known else "none is declared"
            raise ExpressionError(
                f"no task {ask!r}: {named}; a question looks like 'any(purchase) next 30d'"
            )
        return Task.parse(name or _slug(ask), ask)

    def _scores(self, expression: Expression) -> dict[str, dict[int, float]]:
        """Return the latest scores of the tasks an expression takes p() of, by user code."""
        found = {}
        for part in expression.parts():
            if isinstance(part, Probability):
                fitted = self.registry.load(part.task)
                scored = score(self.store, self.schema, self.engine, fitted, self.now)
                found[part.task] = dict(
                    zip(scored.codes.tolist(), scored.score.tolist(), strict=True)
                )
        return found

    def sql(self, query: str) -> pa.Table:
        """Answer ad-hoc SQL over the views events (decoded), users, items and quarantine."""
        from propend.pipeline.sql import answer

        return answer(self.store, self.engine, query)

    def _forget_cached(self) -> None:
        for name in ("store", "schema"):
            self.__dict__.pop(name, None)


def _slug(text: str) -> str:
    """Return a short name for a question that has none.

    >>> _slug("any(purchase) next 30d for any(*) last 90d")
    'any_purchase_next_30d'
    """
    target = text.split(" for ")[0]
    return re.sub(r"\W+", "_", target).strip("_").lower()[:60] or "task"
