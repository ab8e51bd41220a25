"""A pretrained behaviour model at the side of a task: its columns compete, and stay where they win beyond noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from propend.errors import MissingExtraError, ModelError, NotEnoughDataError
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn.fitted import Fitted
from propend.learn.judge import as_range, judge
from propend.learn.rivals import FUSION, read_model
from propend.names import MICROSECONDS
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame
from propend.tasks.task import Task

if TYPE_CHECKING:
    from propend.learn.cross_fitted import Readouts

__all__ = ["ANSWERS", "Companion", "companion", "kept_readouts"]

Progress = Callable[[str, int, int | None], None]

ANSWERS = ("yes_no", "amount", "count")
"""Kinds of answers that a behaviour model's columns may help."""


@dataclass(frozen=True)
class Companion:
    """What a behaviour model adds to a task's columns (``more``; nothing where there is none), and the ``remark`` why not.

    ``folder`` is where its models are kept, below the workspace: ``behaviour/SIZE/past/MOMENT``.
    """

    more: Readouts | None = None
    folder: str | None = None
    remark: str = ""

    def beside(self, store: Store, frame: Frame) -> Frame:
        """Return a frame with the behaviour model's columns behind its own."""
        if self.more is None:
            return frame
        said, _ = self.more.pair.readouts(store, frame.user, frame.cutoff, self.more.days)
        return frame.beside(said, self.more.features)

    def card(self, fitted: Fitted, seed: int) -> dict[str, Any]:
        """Return what a task's card says of it: whether it is used, what it gained on the forward tests, and a sentence."""
        said: dict[str, Any] = {"used": fitted.name == FUSION, "folder": self.folder}
        if self.more is None:
            return said | {"sentence": self.remark}
        said |= {"until": self.more.pair.until, "columns": len(self.more.features)}
        kind, tests = judge(fitted.task.answer), fitted.tests
        if FUSION not in tests:
            return said | {"sentence": "not asked: boosted trees do not compete"}
        metric = kind.headline[0]
        trees = next(name for name in fitted.card["models"] if read_model(name)[0] == "trees")
        gain = kind.difference(
            metric, tests["truth"], tests[FUSION], tests[trees],
            groups=tests["user"], strata=tests["fold"], n=200, seed=seed,
        )  # fmt: skip
        kept = (
            "used" if said["used"] else "not used: on held-out rows they win nothing beyond noise"
        )
        return said | {
            "metric": metric,
            "gained": as_range(gain),
            "sentence": f"its {len(self.more.features)} columns (learnt up to {_day(self.more.pair.until)}) are {kept}; on the forward tests "
            f"they change the trees' {metric} by {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})",
        }


def companion(
    store: Store,
    schema: Schema,
    task: Task,
    plan: Plan,
    home: Path | None,
    *,
    progress: Progress | None = None,
) -> Companion:
    """Return what the behaviour model pretrained last into ``home`` (DIR/behaviour) adds to a task; nothing without one.

    Its readouts come from two models pretrained, each without the users it answers for, on what was known before the first
    held-out cutoff of the plan: neither a test row nor a row by which the champion is chosen lies inside what they have
    seen. They are kept and taken again for a month (``cross_fitted_in``). Where that is too short a log, or torch is not
    installed, the task is answered without and ``remark`` says why.
    """
    if home is None or task.answer not in ANSWERS or not home.is_dir():
        return Companion()
    from propend.learn.cross_fitted import Readouts, cross_fitted_in, kept_sizes

    sizes = kept_sizes(home)
    if not sizes:
        return Companion()
    try:
        pair, place = cross_fitted_in(
            store, schema, home / sizes[0], plan.held_out, progress=progress
        )
    except (MissingExtraError, ModelError, NotEnoughDataError) as error:
        return Companion(remark=f"{error}; answered without the behaviour model")
    return Companion(Readouts(pair, task.horizon.days), place.relative_to(home.parent).as_posix())


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment / MICROSECONDS, UTC).strftime("%Y-%m-%d")


def kept_readouts(card: dict[str, Any], workspace: Path, days: float) -> Readouts:
    """Return what makes the columns of a kept fusion; raises ``ModelError`` where its behaviour model (or torch) is gone."""
    from propend.learn.cross_fitted import CrossFitted, Readouts

    place = workspace / str(card["behaviour"]["folder"])
    if not place.is_dir():
        raise ModelError(
            f"the behaviour model of this version is gone ({place}); ask again with propend predict"
        )
    try:
        return Readouts(CrossFitted.load(place), days)
    except MissingExtraError as error:
        raise ModelError(
            f"this version reads a behaviour model, and {error}; or promote one that does not"
        ) from None
