"""The large behaviour model: pretrained on a company's own log, asked for vectors at any cutoff.

It reads every event up to a moment, learns what comes next (item, type, when, how much) and what happens
within a horizon, all as of random moments between events, so that no question is answered by the future.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError, NotEnoughDataError
from propend.events.durable import write_parquet
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn.sequences import Coding, half_of, item_features, read_sequences, snapshots
from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import SequenceArrays
from propend.names import DAY, ITEM, MICROSECONDS, USER

__all__ = ["BehaviourModel", "CrossFitted", "pretrain", "pretrain_in", "pretraining_settings"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]

LEAST_USERS: Final = 100
"""Fewest users with two events that pretraining accepts."""
LEAST_EVENTS: Final = 1_000
LENGTHS: Final = {"tiny": 32, "small": 64, "base": 256, "large": 512}
HELD: Final = 0.05
"""Share of the users held out, who say when to stop."""
MOST_HELD: Final = 2_000
"""Most users held out."""


@dataclass
class BehaviourModel:
    """A pretrained network, what its codes mean, and the moment ``until`` which it has seen the log.

    Scores at cutoffs before ``until`` are of users the model may have been trained on; figures are only
    honest at cutoffs from ``until`` on.
    """

    network: Any
    coding: Coding
    until: int
    run: dict[str, Any]

    def vectors(self, store: Store, users: I64, cutoffs: I64) -> F64:
        """Return the frozen vector [n, d] of each (user code, cutoff): what was known before the cutoff, as of it."""
        import torch

        made = snapshots(store, self.coding, users, cutoffs, self.network.settings.length)
        with torch.no_grad():
            found: F64 = self.network.last(made, cutoffs // MICROSECONDS).cpu().double().numpy()
        return found

    def readouts(
        self, store: Store, users: I64, cutoffs: I64, days: float
    ) -> tuple[F64, tuple[str, ...]]:
        """Return what the heads say of the ``days`` after each (user code, cutoff), and each column's name.

        The chance of an event of each type and of any, the chance of silence by the time-to-next head, and
        the expected value (as log(1 + value)). A user without events has NaN.
        """
        import torch

        from propend.models.sequence.heads import survival, ziln_mean

        made = snapshots(store, self.coding, users, cutoffs, self.network.settings.length)
        has = np.diff(made.offsets) > 0
        wait = np.zeros(len(users))
        wait[has] = (cutoffs[has] - made.time[made.offsets[1:][has] - 1]) / DAY
        with torch.no_grad():
            hidden = self.network.last(made, cutoffs // MICROSECONDS)
            waited = torch.as_tensor(wait, dtype=torch.float32, device=hidden.device)
            ahead = torch.full_like(waited, days)
            logits, value = self.network.heads.within(hidden, waited, ahead)
            silent = survival(self.network.heads.until_next(hidden, waited), ahead)
            parts = [torch.sigmoid(logits), silent[:, None]]
            names = [f"within_{name}" for name in (*self.coding.types, "any")] + ["silent"]
            if self.coding.amounts:
                parts.append(torch.log1p(ziln_mean(value))[:, None])
                names.append("value")
            found: F64 = torch.cat(parts, dim=1).cpu().double().numpy()
        found[~has] = np.nan
        return found, tuple(names)

    def item_vectors(self) -> F64:
        """Return the vector [items, d] of each item code, as next-item scores take them."""
        import torch

        with torch.no_grad():
            found: F64 = self.network.item_vectors().cpu().double().numpy()
        return found

    def export(self, store: Store, schema: Schema, folder: Path) -> None:
        """Write ``users.parquet`` (as of the log's end) and ``items.parquet``: an id and its vector a row."""
        import pyarrow as pa

        codes = np.concatenate([store.timelines(b).users for b in sorted(store.manifest.runs)])
        moments = np.full(len(codes), schema.last + 1, np.int64)
        for name, ids, vectors in (
            (USER, store.names_of(codes), self.vectors(store, codes, moments)),
            (ITEM, schema.item_ids[: self.coding.items], self.item_vectors()),
        ):
            flat = pa.array(vectors.astype(np.float32).ravel())
            lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            table = pa.table({name: pa.array(ids, pa.string()), "vector": lists})
            write_parquet(table, folder / f"{name}s.parquet", dictionary=False)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder: safetensors, JSON, and the training curves as a picture."""
        from propend.models.sequence import checkpoint

        place = Path(folder)
        more = {"coding": asdict(self.coding), "until": self.until, "run": self.run}
        checkpoint.save(self.network, place, **more)
        draw_curves(self.run["curves"], place / "curves.svg")

    @classmethod
    def load(cls, folder: str | Path, *, store: Store | None = None) -> BehaviourModel:
        """Read a saved model; with a ``store``, refuse one that was trained on another catalogue.

        Raises ``ModelError`` where there is none, or where its schema is another one's.
        """
        _library()
        from propend.models.sequence import checkpoint

        network, config = checkpoint.load(Path(folder))
        try:
            coding = msgspec.convert(config["coding"], Coding)
            made = cls(network, coding, int(config["until"]), dict(config["run"]))
        except (KeyError, msgspec.ValidationError) as error:
            raise ModelError(
                f"the model in {folder} is no behaviour model ({error}); run propend pretrain"
            ) from None
        if store is not None:
            unknown = [name for name in coding.types if name not in store.types]
            if unknown or coding.items > len(store.item_ids()):
                what = f"the event type {unknown[0]!r}" if unknown else f"{coding.items} items"
                raise ModelError(
                    f"the model in {folder} was trained on a log with {what}, which this one does not have; "
                    "run propend pretrain on this log"
                )
        return made


@dataclass
class CrossFitted:
    """Two models, each pretrained without the users it answers for: ``models[h]`` has not seen half ``h``.

    Boosted trees learn at cutoffs that lie inside the pretraining; from a model that has seen those
    users' futures they would learn to trust it more than it deserves at later cutoffs. The two differ in
    what their vectors mean, so only their readouts may stand in one column.
    """

    models: tuple[BehaviourModel, BehaviourModel]

    @property
    def until(self) -> int:
        """The moment up to which they have seen the log."""
        return max(model.until for model in self.models)

    def readouts(
        self, store: Store, users: I64, cutoffs: I64, days: float
    ) -> tuple[F64, tuple[str, ...]]:
        """Return the readouts of each (user code, cutoff) by the model that has not seen the user."""
        half = half_of(users)
        found: F64 | None = None
        names: tuple[str, ...] = ()
        for h, model in enumerate(self.models):
            rows = np.flatnonzero(half == h)
            said, names = model.readouts(store, users[rows], cutoffs[rows], days)
            if found is None:
                found = np.full((len(users), said.shape[1]), np.nan)
            found[rows] = said
        assert found is not None
        return found, names


def pretraining_settings(size: str = "small", **changes: Any) -> Settings:
    """Return the settings a behaviour model of a size is pretrained with; ``changes`` replace some.

    >>> pretraining_settings("base").length
    256
    """
    plain = Settings(
        size=size,
        length=LENGTHS.get(size, 64),
        time_bias="query",
        tasks=HEADS,
        dropout=0.2 if size in ("tiny", "small") else 0.1,
        average=0.99,
        epochs=30,
        patience=3,
    ).resolved()
    return replace(plain, **changes).resolved()


def pretrain(
    store: Store,
    schema: Schema,
    *,
    size: str = "small",
    until: int | None = None,
    folder: Path | None = None,
    settings: Settings | None = None,
    leave: int | None = None,
    progress: Progress | None = None,
) -> BehaviourModel:
    """Pretrain a behaviour model on what a store knew before ``until`` (UTC microseconds, default: everything).

    Parameters
    ----------
    folder
        where the run is kept while it lasts, so that it can be resumed; a run that was broken off goes on.
    leave
        a half of the users (``half_of``) that is not learnt from.

    Raises
    ------
    NotEnoughDataError
        fewer than 100 users with two events, or fewer than 1,000 events.
    MissingExtraError
        without torch.
    """
    training = _library()
    moment = schema.last + 1 if until is None else until
    chosen = pretraining_settings(size) if settings is None else settings.resolved()
    coding = Coding.of(store)
    features = item_features(schema)
    vocabulary = coding.vocabulary(features)
    if chosen.loss == "full" and vocabulary.items > 30_000:
        chosen = replace(chosen, loss="sampled", negatives=2_048, negative_power=0.5)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if folder is None else folder
        hold = float(np.clip(MOST_HELD / max(store.user_count, 1), 0.0, HELD))
        shown, held = read_sequences(
            store,
            coding,
            place / "sequences",
            until=moment,
            hold=hold,
            leave=leave,
            progress=progress,
        )
        _check_enough(shown)
        run = training.train(
            shown,
            vocabulary,
            chosen,
            features=features,
            judge=training.held_out_loss(held, chosen),
            folder=None if folder is None else folder / "run",
            checkpoint_every=500,
            progress=progress,
        )
    return BehaviourModel(run.network.cpu(), coding, moment, run.summary())


def pretrain_in(
    store: Store,
    schema: Schema,
    home: Path,
    size: str = "small",
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> BehaviourModel:
    """Pretrain a size and keep it in ``home/SIZE``: the model, its curves and figures, and vectors as tables.

    While it lasts the run lies in ``home/SIZE/training``, with a copy of the log; it is taken up from there if it
    was broken off (``fresh``: begun anew), and removed when the model is written.
    """
    settings = pretraining_settings(size)
    place = home / size
    if fresh:
        shutil.rmtree(place / "training", ignore_errors=True)
    made = pretrain(
        store, schema, size=size, folder=place / "training", settings=settings, progress=progress
    )
    made.save(place)
    made.export(store, schema, place)
    shutil.rmtree(place / "training")
    return made


def _check_enough(data: SequenceArrays) -> None:
    able = int((np.diff(data.offsets) >= 2).sum())
    if able < LEAST_USERS or len(data) < LEAST_EVENTS:
        raise NotEnoughDataError(
            f"the log has {len(data):,} events of {able:,} users with two or more; a behaviour model needs "
            f"{LEAST_EVENTS:,} events of {LEAST_USERS} such users: boosted trees on aggregates (propend predict) do without"
        )


def draw_curves(curves: list[dict[str, float]], path: Path) -> None:
    """Draw the losses of a run, one panel for each, against epochs, as SVG."""
    from matplotlib.figure import Figure

    names = [n for n in curves[-1] if n not in ("epoch", "tokens_per_second")] if curves else []
    if not names:
        return
    figure = Figure(figsize=(3 * len(names), 2.4), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        rows = [row for row in curves if name in row]
        axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], color="#2a6f97")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg")


def _library() -> Any:
    try:
        from propend.models.sequence import training
    except ImportError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("a behaviour model", "deep") from None
    return training
