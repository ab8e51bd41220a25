"""The large behaviour model: pretrained on a company's own log, asked for vectors at any cutoff.

It reads every event up to a moment, learns what comes next (item, type, when, how much) and what happens
within a horizon, all as of random moments between events, so that no question is answered by the future.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError, NotEnoughDataError
from propend.events.durable import exclusive, sync_file
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn.held_out import held_out_figures
from propend.learn.item_features import item_features
from propend.learn.sequences import Coding, read_sequences, snapshots
from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import SequenceArrays
from propend.names import DAY, ITEM, MICROSECONDS, USER

if TYPE_CHECKING:
    import pyarrow as pa

    from propend.models.sequence.cache import Cache

__all__ = ["BehaviourModel", "pretrain", "pretrain_in", "pretraining_settings"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]

LEAST_USERS: Final = 100
"""Fewest users with two events that pretraining accepts."""
LEAST_EVENTS: Final = 1_000
LENGTHS: Final = {"tiny": 32, "small": 64, "base": 256, "large": 512}
HELD: Final = 0.05
"""Share of the users held out, who say when to stop."""
LEAST_HELD: Final = 40
"""Users held out of a small log, as long as they are no more than a fifth."""
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

        found = np.zeros((len(users), self.network.settings.width))
        with torch.no_grad():
            for rows, made in snapshots(store, self.coding, users, cutoffs, self._length):
                vectors = self.network.last(made, cutoffs[rows] // MICROSECONDS)
                found[rows] = vectors.cpu().double().numpy()
        return found

    def readouts(
        self, store: Store, users: I64, cutoffs: I64, days: float
    ) -> tuple[F64, tuple[str, ...]]:
        """Return what the heads say of the ``days`` after each (user code, cutoff), and each column's name.

        The chance of an event of each type and of any, the chance of silence by the time-to-next head, and
        the expected value (as log(1 + value)). A user without events has NaN.
        """
        names = self.said
        found = np.full((len(users), len(names)), np.nan)
        for rows, made in snapshots(store, self.coding, users, cutoffs, self._length):
            found[rows] = self.readouts_of(made, cutoffs[rows], days)
        return found, names

    def knows_erased(self, store: Store) -> bool:
        """Whether anybody was erased from the store since the model was pretrained: it may have learnt from them."""
        return len(store.manifest.erased) > int(self.run.get("erased", 0))

    @property
    def _length(self) -> int:
        return int(self.network.settings.length)

    @property
    def said(self) -> tuple[str, ...]:
        """The names of the readouts."""
        names = [f"within_{name}" for name in (*self.coding.types, "any")]
        return (*names, "silent", *(["value"] if self.coding.amounts else []))

    def readouts_of(self, made: SequenceArrays, cutoffs: I64, days: float) -> F64:
        """Return the readouts [n, columns of ``said``] of histories, each as of its cutoff; NaN for an empty one."""
        import torch

        has = np.diff(made.offsets) > 0
        wait = np.zeros(len(has))
        wait[has] = (cutoffs[has] - made.time[made.offsets[1:][has] - 1]) / DAY
        with torch.no_grad():
            hidden = self.network.last(made, cutoffs // MICROSECONDS)
            waited = torch.as_tensor(wait, dtype=torch.float32, device=hidden.device)
            said = self.network.heads.readouts(
                hidden, waited, torch.full_like(waited, days), amounts=self.coding.amounts
            )
            found: F64 = said.cpu().double().numpy()
        found[~has] = np.nan
        return found

    def cache(self, store: Store, *, at: int, most: int = 100_000) -> Cache:
        """Return every user's state as of a moment (UTC microseconds), ready to take in one event at a time.

        ``append(user, item=…, type=…, channel=…, time=…, amount=…, days=…, hour=…)`` takes the user's code, the store's item code, the
        places in ``coding.types`` and ``coding.channels``, and the clock of ``coding.zone`` (by UTC where it is left out); ``vector(user, now)`` or ``readouts(user, now, days)`` then costs one step. The ``most`` latest users stay.
        """
        from propend.models.sequence.cache import Cache

        made = Cache(self.network, most=most)
        for bucket in sorted(store.manifest.runs):
            users = store.timelines(bucket).users.astype(np.int64)
            when = np.full(len(users), at, np.int64)
            for rows, known in snapshots(store, self.coding, users, when, self._length):
                for place in np.flatnonzero(np.diff(known.offsets) > 0).tolist():
                    made.warm(int(users[rows[place]]), known, place)
        return made

    def item_vectors(self) -> F64:
        """Return the vector [items, d] of each item code, as next-item scores take them."""
        import torch

        with torch.no_grad():
            found: F64 = self.network.item_vectors().cpu().double().numpy()
        return found

    def export(self, store: Store, schema: Schema, folder: Path) -> None:
        """Write ``users.parquet`` (as of the log's end, bucket by bucket) and ``items.parquet``: an id and its vector a row."""
        now = schema.last + 1

        def users() -> Iterator[pa.Table]:
            for bucket in sorted(store.manifest.runs):
                codes = store.timelines(bucket).users.astype(np.int64)
                vectors = self.vectors(store, codes, np.full(len(codes), now, np.int64))
                yield _table_of(USER, store.names_of(codes), vectors)

        _write_parts(users(), folder / f"{USER}s.parquet")
        known = schema.item_ids[: self.coding.items]
        _write_parts(
            iter([_table_of(ITEM, known, self.item_vectors())]), folder / f"{ITEM}s.parquet"
        )

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder: safetensors, JSON, and the training curves as a picture."""
        from propend.models.sequence import checkpoint

        place = Path(folder)
        more = {"coding": asdict(self.coding), "until": self.until, "run": self.run}
        checkpoint.save(self.network, place, **more)
        draw_curves(self.run["curves"], place / "curves.svg", self.run["best_epoch"])

    @classmethod
    def load(cls, folder: str | Path, *, store: Store | None = None) -> BehaviourModel:
        """Read a saved model; with a ``store``, refuse one of another catalogue, or that learnt from somebody erased since.

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
            what = coding.refused(store)
            if what:
                raise ModelError(
                    f"the model in {folder} was trained on a log with {what}; run propend pretrain on this log"
                )
            if made.knows_erased(store):
                raise ModelError(
                    f"the model in {folder} may have learnt from somebody who was erased since; run propend pretrain anew"
                )
        return made


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
        epochs=60,
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
    encoder: str | None = None,
    progress: Progress | None = None,
) -> BehaviourModel:
    """Pretrain a behaviour model on what a store knew before ``until`` (UTC microseconds, default: everything).

    Parameters
    ----------
    folder
        where the run is kept while it lasts, so that it can be resumed; a run that was broken off goes on.
    leave
        a half of the users (``half_of``) that is not learnt from.
    encoder
        a local folder with a Hugging Face text encoder for what items are called; without it their characters are hashed.

    Raises
    ------
    NotEnoughDataError
        fewer than 100 users with two events, or fewer than 1,000 events.
    MissingExtraError
        without torch.
    """
    training = _library()
    from propend.models.sequence.held_out import held_out_loss

    moment = schema.last + 1 if until is None else until
    chosen = pretraining_settings(size) if settings is None else settings.resolved()
    coding = Coding.of(store, schema.zone)
    features = item_features(store, schema, until=moment, encoder=encoder)
    vocabulary = coding.vocabulary(features)
    if chosen.loss == "full" and vocabulary.items > 30_000:
        chosen = replace(chosen, loss="sampled", negatives=2_048, negative_power=0.5)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if folder is None else folder
        count = max(store.user_count, 1)
        hold = min(max(HELD, min(LEAST_HELD / count, 0.2)), MOST_HELD / count)
        shown, held = read_sequences(
            store,
            coding,
            place / "sequences",
            until=moment,
            hold=hold,
            leave=leave,
            progress=progress,
        )
        _check_enough(shown, held)
        run = training.train(
            shown,
            vocabulary,
            chosen,
            features=features,
            judge=held_out_loss(held, chosen) if (np.diff(held.offsets) > 1).any() else None,
            folder=None if folder is None else folder / "run",
            checkpoint_every=500,
            progress=progress,
        )
        network = run.network.cpu()
        more = {
            "held_out": held_out_figures(network, shown, held),
            "encoder": encoder,
            "erased": len(store.manifest.erased),
        }
    return BehaviourModel(network, coding, moment, run.summary() | more)


def pretrain_in(
    store: Store,
    schema: Schema,
    home: Path,
    size: str = "small",
    *,
    fresh: bool = False,
    encoder: str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> BehaviourModel:
    """Pretrain a size for at most ``epochs`` and keep it in ``home/SIZE``: the model, its curves and figures, and vectors as tables.

    While it lasts the run lies in ``home/SIZE/training``, with a copy of the log; it is taken up from there if it
    was broken off (``fresh``: begun anew), and removed when the model is written.
    """
    settings = pretraining_settings(size)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if encoder is not None:  # asked for again from anywhere, when a pair is pretrained
        encoder = str(Path(encoder).resolve())
    place = home / size
    with exclusive(place, f"the behaviour model {size!r}"):
        if fresh:
            shutil.rmtree(place / "training", ignore_errors=True)
        made = pretrain(
            store, schema, size=size, folder=place / "training", settings=settings,
            encoder=encoder, progress=progress,
        )  # fmt: skip
        made.save(place)
        made.export(store, schema, place)
        shutil.rmtree(place / "training")
    return made


def _check_enough(*parts: SequenceArrays) -> None:
    able = sum(int((np.diff(data.offsets) >= 2).sum()) for data in parts)
    events = sum(map(len, parts))
    if able < LEAST_USERS or events < LEAST_EVENTS:
        raise NotEnoughDataError(
            f"the log has {events:,} events of {able:,} users with two or more; a behaviour model needs "
            f"{LEAST_EVENTS:,} events of {LEAST_USERS} such users: boosted trees on aggregates (propend predict) do without"
        )


def _table_of(name: str, ids: Any, vectors: F64) -> pa.Table:
    import pyarrow as pa

    flat = pa.array(vectors.astype(np.float32).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table({name: pa.array(ids, pa.string()), "vector": lists})


def _write_parts(parts: Iterator[pa.Table], path: Path) -> None:
    """Write tables one behind the other; the file appears whole or not at all."""
    import pyarrow.parquet as pq

    draft, writer = path.with_name(f".{path.name}.part"), None
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        writer = writer or pq.ParquetWriter(
            draft, part.schema, compression="lz4", use_dictionary=False
        )
        writer.write_table(part)
    if writer is not None:
        writer.close()
        sync_file(draft)
        draft.replace(path)


CURVES: Final = {
    "item": "loss of the next item",
    "type": "loss of the next type",
    "amount": "loss of the next amount",
    "gap": "loss of the time to next",
    "horizon": "loss of the days ahead",
    "contrast": "loss of the contrast",
    "valid": "held-out users (higher is better)",
}


def draw_curves(curves: list[dict[str, float]], path: Path, best: int = 0) -> None:
    """Draw the losses of a run, one panel for each, against epochs, as SVG; a line marks the ``best`` epoch."""
    from matplotlib.figure import Figure

    names = [n for n in CURVES if curves and n in curves[-1]]
    if not names:
        return
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.2 * across, 2.3 * down), layout="constrained")
    axes = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axis, name in zip(axes, names, strict=False):
        rows = [row for row in curves if name in row]
        axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], color="#2a6f97")
        if best:
            axis.axvline(best, color="#bbbbbb", linewidth=1, zorder=0)
        axis.set_title(CURVES[name], fontsize=9)
        axis.set_xlabel("epoch; the line is the one kept" if best else "epoch", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.savefig(path, format="svg")


def _library() -> Any:
    try:
        from propend.models.sequence import training
    except ImportError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("a behaviour model", "deep") from None
    return training
