"""Two behaviour models, each pretrained without the users it answers for: what boosted trees may safely learn from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, NotEnoughDataError
from propend.events.durable import exclusive
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.nodes import Expression, Field
from propend.features.evaluate import Rows
from propend.features.schema import Schema
from propend.learn.behaviour import BehaviourModel, pretrain
from propend.learn.sequences import half_of, last_events
from propend.models.sequence.settings import Settings
from propend.names import CHANNEL, DAY, VALUE

__all__ = ["CrossFitted", "Readouts", "cross_fitted_in", "fields_of", "kept_sizes"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]

FRESH: Final = 31 * DAY
"""A pair that has seen the log up to this much before the moment wanted is taken instead of a new one."""
PAST: Final = "past"


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
        half, names = half_of(users), self.models[0].said
        found = np.full((len(users), len(names)), np.nan)
        for h, model in enumerate(self.models):
            rows = np.flatnonzero(half == h)
            found[rows] = model.readouts(store, users[rows], cutoffs[rows], days)[0]
        return found, names

    def readouts_of(
        self, lines: Timelines, types: tuple[str, ...], users: I64, cutoff: int, days: float
    ) -> F64:
        """Return the readouts of some users (codes) at one cutoff from timelines in hand; ``types`` are their event types."""
        half = half_of(users)
        found = np.full((len(users), len(self.models[0].said)), np.nan)
        before = lines.before(cutoff)
        for h in np.unique(half).tolist():
            model, rows = self.models[h], np.flatnonzero(half == h)
            known = model.coding.encode(before, types, cutoff)
            made = last_events(known, lines.users, users[rows], int(model.network.settings.length))
            found[rows] = model.readouts_of(made, np.full(len(rows), cutoff), days)
        return found

    def made_as(self, settings: Settings, encoder: str | None) -> bool:
        """Whether both were pretrained with these settings; how long, on what device and with how many threads is free."""

        def bare(given: Settings) -> Settings:
            return replace(given, epochs=1, patience=1, threads=None, device="auto")

        return all(
            bare(m.network.settings) == bare(settings) and m.run.get("encoder") == encoder
            for m in self.models
        )

    def save(self, folder: Path) -> None:
        """Write both to a folder."""
        for half, model in enumerate(self.models):
            model.save(folder / str(half))

    @classmethod
    def load(cls, folder: Path, *, store: Store | None = None, device: str = "cpu") -> CrossFitted:
        """Read what ``save`` wrote; raises as ``BehaviourModel.load``."""
        first, second = (
            BehaviourModel.load(folder / str(half), store=store, device=device) for half in (0, 1)
        )
        return cls((first, second))


@dataclass(frozen=True)
class Readouts:
    """The readouts of a pair for ``days`` ahead as features of rows (``tasks.frame.More``)."""

    pair: CrossFitted
    days: float

    @property
    def features(self) -> tuple[Expression, ...]:
        """What the columns are called."""
        return fields_of(self.pair.models[0].said)

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns that are read."""
        return (VALUE, CHANNEL)

    def values(self, timelines: Timelines, rows: Rows, schema: Schema) -> dict[str, F64]:
        """Return each column [rows] by name."""
        users = np.asarray(timelines.users, np.int64)[rows.user]
        said = np.full((len(rows), len(self.features)), np.nan)
        for cutoff in np.unique(rows.cutoff).tolist():
            at = np.flatnonzero(rows.cutoff == cutoff)
            said[at] = self.pair.readouts_of(timelines, schema.types, users[at], cutoff, self.days)
        return {str(f): said[:, j] for j, f in enumerate(self.features)}


def fields_of(names: Iterable[str]) -> tuple[Expression, ...]:
    """Return the features that behaviour columns are called.

    >>> [str(f) for f in fields_of(["within_purchase", "silent"])]
    ['profile.behaviour_within_purchase', 'profile.behaviour_silent']
    """
    plain = ("".join(c if c.isalnum() else "_" for c in f"behaviour_{name}") for name in names)
    return tuple(Field(("profile", name)) for name in plain)


def kept_sizes(home: Path) -> list[str]:
    """Return the sizes pretrained into ``home`` (DIR/behaviour), the newest first."""
    there = [p for p in home.glob("*/config.json") if p.is_file()]
    return [p.parent.name for p in sorted(there, key=lambda p: -p.stat().st_mtime_ns)]


def cross_fitted_in(
    store: Store,
    schema: Schema,
    home: Path,
    until: int,
    *,
    settings: Settings | None = None,
    encoder: str | None = None,
    progress: Progress | None = None,
) -> tuple[CrossFitted, Path]:
    """Return a pair of models that knows nothing from ``until`` (UTC microseconds) on, and where it is kept.

    One kept in ``home/past`` is taken if it has seen the log up to a month before ``until`` and nobody was erased since; else
    a pair is pretrained, which goes on where it was broken off; older ones stay, for the fitted tasks that read them. ``settings`` and ``encoder`` default to those of
    the model in ``home``. Raises as ``pretrain``.
    """
    if settings is None:
        whole = BehaviourModel.load(home)
        settings, encoder = whole.network.settings, whole.run.get("encoder")
    there = [p for p in (home / PAST).glob("*") if (p / "1" / "config.json").exists()]
    for moment in sorted((int(p.name) for p in there), reverse=True):
        if not until - FRESH <= moment <= until:
            continue
        place = home / PAST / str(moment)
        try:
            pair = CrossFitted.load(place, store=store, device=settings.device)
        except ModelError:  # of another version or catalogue, or knows somebody erased: made anew
            continue
        if pair.made_as(settings, encoder):
            return pair, place
    place = home / PAST / str(until)
    with exclusive(home, f"the behaviour model {home.name!r}"):

        def half_model(half: int) -> BehaviourModel:
            return pretrain(
                store, schema, until=until, settings=settings, leave=half, encoder=encoder,
                folder=place / f"training{half}", progress=_named(progress, half),
            )  # fmt: skip

        try:
            pair = CrossFitted((half_model(0), half_model(1)))
        except NotEnoughDataError:
            # the first half's run too, with its copy of the log: alone it is of no use
            _clear(place)
            raise
        pair.save(place)
        _clear(place)
    return pair, place


def _clear(place: Path) -> None:
    """Remove the runs of a pair, and folders that are left empty."""
    for half in (0, 1):
        shutil.rmtree(place / f"training{half}", ignore_errors=True)
    with suppress(OSError):
        place.rmdir()
        place.parent.rmdir()


def _named(progress: Progress | None, half: int) -> Progress | None:
    """Say which of the two is being pretrained."""
    if progress is None:
        return None
    told = progress

    def say(phase: str, done: int, total: int | None) -> None:
        told(f"behaviour of the past, half {half + 1} of 2: {phase}", done, total)

    return say
