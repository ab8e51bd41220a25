"""What a pretrained network says of a question by itself: its vectors frozen under a plain model, or fine-tuned on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.learn.behaviour import BehaviourModel
from propend.learn.cross_fitted import CrossFitted
from propend.learn.sequences import half_of, histories, snapshots
from propend.models import catalog
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame
from propend.tasks.task import Task

__all__ = ["Probe", "Transfer", "Tuner", "fine_tune"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

LEAST_ROWS: Final = 100
"""Fewest labelled rows that fine-tuning accepts."""


@dataclass(frozen=True)
class Transfer(ABC):
    """A behaviour model that is taught a frame's question, fold by fold.

    Of a cross-fitted pair each is taught on the users it has not seen and answers for them alone: one that has seen how
    their rows ended would learn to trust what it knows of them.
    """

    model: BehaviourModel | CrossFitted
    store: Store
    frame: Frame
    task: Task

    @property
    def columns(self) -> int | None:
        """How many columns it reads; None where it reads events."""
        return None

    def tests(self, plan: Plan, rows: I64, seed: int) -> F64:
        """Return the scores of test ``rows``, each by what was taught on its fold's training rows."""
        frame, found = self.frame, np.empty(len(rows))
        asked = {fold.test: fold for fold in plan.folds}
        for cutoff in np.unique(frame.cutoff[rows]).tolist():
            learnt, tested = frame.at(asked[cutoff].train), frame.cutoff[rows] == cutoff
            for model, own in self._parts():
                test = rows[tested & own[rows]]
                found[tested & own[rows]] = self._taught(model, learnt & own, test, seed)
        return found

    @abstractmethod
    def _taught(self, model: BehaviourModel, learnt: Bool, test: I64, seed: int) -> F64:
        """Teach on the rows ``learnt``; return the scores of the rows ``test``."""

    def _parts(self) -> list[tuple[BehaviourModel, Bool]]:
        """Return each network with the rows of the users it has not seen."""
        if isinstance(self.model, BehaviourModel):
            return [(self.model, np.ones(len(self.frame), np.bool_))]
        half = half_of(self.frame.user)
        return [(model, half == h) for h, model in enumerate(self.model.models)]


@dataclass(frozen=True)
class Probe(Transfer):
    """Frozen vectors under a plain model: a logistic regression, or trees for an amount or a count."""

    @property
    def columns(self) -> int:
        first = self.model if isinstance(self.model, BehaviourModel) else self.model.models[0]
        return int(first.network.settings.width or 0)  # a network's settings are resolved

    def _taught(self, model: BehaviourModel, learnt: Bool, test: I64, seed: int) -> F64:
        frame, answer = self.frame, self.task.answer
        rows = np.flatnonzero(learnt & ~np.isnan(frame.y))
        both = np.concatenate([rows, test])
        X = model.vectors(self.store, frame.user[both], frame.cutoff[both]).astype(np.float64)
        name, given = ("logistic", {"bends": 0}) if answer == "yes_no" else ("trees", {})
        plain = catalog.create(name, answer, **given).fit(X[: len(rows)], frame.y[rows], seed=seed)
        return plain.predict(X[len(rows) :])


@dataclass(frozen=True)
class Tuner(Transfer):
    """The network itself, fine-tuned (:func:`fine_tune`)."""

    def _taught(self, model: BehaviourModel, learnt: Bool, test: I64, seed: int) -> F64:
        frame = self.frame
        score = fine_tune(model, self.store, frame, self.task, learnt, seed=seed)
        return score(self.store, frame.user[test], frame.cutoff[test])


def fine_tune(
    model: BehaviourModel,
    store: Store,
    frame: Frame,
    task: Task,
    rows: npt.NDArray[np.bool_],
    *,
    epochs: int = 5,
    learning_rate: float = 3e-4,
    batch: int = 64,
    seed: int = 7,
) -> Callable[[Store, I64, I64], F64]:
    """Fine-tune a copy of a pretrained network, with a new head, on the task's own labelled ``rows``.

    The latest training cutoff is held out to say which epoch is best. Returns a scorer of (store, user codes,
    cutoffs): chances, or expected amounts by a zero-inflated log-normal.

    Raises ``NotEnoughDataError`` for fewer than 100 labelled rows.
    """
    import copy

    import torch
    from torch.nn import functional

    from propend.models.sequence.heads import zero_inflated_log_normal, ziln_mean
    from propend.names import MICROSECONDS

    asked = np.flatnonzero(rows & ~np.isnan(frame.y))
    if len(asked) < LEAST_ROWS:
        raise NotEnoughDataError(
            f"{len(asked)} labelled rows are too few to fine-tune on, {LEAST_ROWS} are needed: use the frozen vectors"
        )
    length = model.network.settings.length
    yes_no = task.answer == "yes_no"
    data = histories(store, model.coding, frame.user[asked], frame.cutoff[asked], length)
    moments, device = frame.cutoff[asked] // MICROSECONDS, model.network.device
    y = torch.as_tensor(frame.y[asked], dtype=torch.float32, device=device)
    later = frame.cutoff[asked] == frame.cutoff[asked].max()
    if later.all():
        later = np.random.default_rng(seed).random(len(asked)) < 0.2
    fit, held = np.flatnonzero(~later), np.flatnonzero(later)

    def loss_of(network: Any, head: Any, chosen: I64) -> Any:
        out = head(network.last(data.take(chosen), moments[chosen]))
        wanted = y[torch.from_numpy(chosen).to(device)]
        if yes_no:
            return functional.binary_cross_entropy_with_logits(out[:, 0], wanted)
        return zero_inflated_log_normal(out, wanted)

    def learn(chosen: I64) -> None:
        steps.zero_grad()
        loss_of(network, head, chosen).backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        steps.step()

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = copy.deepcopy(model.network)
        head = torch.nn.Linear(network.settings.width, 1 if yes_no else 3).to(device)
        parts = torch.nn.ModuleList([network, head])
        steps = torch.optim.AdamW(parts.parameters(), lr=learning_rate, weight_decay=0.01)
        best, kept = np.inf, copy.deepcopy(parts.state_dict())
        for epoch in range(epochs):
            parts.train()
            order = np.random.default_rng((seed, epoch)).permutation(fit)
            batch = _in_batches(learn, order, batch)
            parts.eval()
            with torch.no_grad():
                now = float(loss_of(network, head, held))
            if now < best:
                best, kept = now, copy.deepcopy(parts.state_dict())
        parts.load_state_dict(kept)
        parts.eval()

    def score(store: Store, users: I64, cutoffs: I64) -> F64:
        found = np.empty(len(users))
        with torch.no_grad():
            for rows, made in snapshots(store, model.coding, users, cutoffs, length):
                out = head(network.last(made, cutoffs[rows] // MICROSECONDS))
                said = torch.sigmoid(out[:, 0]) if yes_no else ziln_mean(out)
                found[rows] = said.cpu().numpy()
        return found

    return score


def _in_batches(learn: Callable[[I64], None], rows: I64, batch: int) -> int:
    """Learn from ``rows``, a batch at a time; return the batch's size, which is less where memory ran out."""
    from propend.models.sequence.memory import halving

    start = 0

    def step(size: int) -> None:
        nonlocal start, batch
        learn(rows[start : start + size])
        start, batch = start + size, size

    while start < len(rows):
        halving(step, batch, unit="rows")
    return batch
