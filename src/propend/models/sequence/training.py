"""Training: AdamW, early stopping, moving average, clipping, a guard against spikes; resumable, bit for bit.

Every batch draws its own randomness from (seed, epoch, number), so that a run that was broken off and
resumed ends in the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from propend.errors import ModelError, NotEnoughDataError
from propend.models.sequence.memory import halving
from propend.models.sequence.network import Network, Sampler, device_of
from propend.models.sequence.packing import Batch, batches, piece_batch
from propend.models.sequence.resume import Resumable, Run
from propend.models.sequence.settings import Settings
from propend.models.sequence.tokens import ItemFeatures, SequenceArrays, Vocabulary

__all__ = ["Run", "train"]

Tensor: TypeAlias = torch.Tensor
Judge = Callable[[Network], float]
Report = Callable[[str, int, int | None], None]

_SPIKE: Final = 3.0
_DEVIATIONS: Final = 10.0
_LEAST_DEVIATION: Final = 0.1
_MOST_SPIKES: Final = 5


def train(
    data: SequenceArrays,
    vocabulary: Vocabulary,
    settings: Settings,
    *,
    features: ItemFeatures | None = None,
    judge: Judge | None = None,
    start: Network | None = None,
    folder: Path | None = None,
    checkpoint_every: int | None = None,
    progress: Report | None = None,
) -> Run:
    """Train a network on sequences.

    Parameters
    ----------
    judge
        says how good a network is, higher is better; asked after each epoch. Training stops after
        ``settings.patience`` epochs without a gain and returns the best; without a judge it takes all epochs.
    start
        a network to go on from (fine-tuning).
    folder
        where the run is kept after every epoch (and every ``checkpoint_every`` batches): weights,
        optimiser, curves. If it holds a run that was broken off, that run goes on.

    Raises
    ------
    NotEnoughDataError
        no user with two events.
    ModelError
        settings that do not fit; a run in ``folder`` of other settings or data; no memory even for small batches.
    """
    chosen = settings.resolved()
    if not (np.diff(data.offsets) >= 2).any():
        raise NotEnoughDataError(
            "a sequence model needs users with two events at least, and there is none; bring a longer log"
        )
    with _setting(chosen):
        return _Trainer(
            data, vocabulary, chosen, features, judge, start, folder, checkpoint_every, progress
        ).run()


@contextmanager
def _setting(settings: Settings) -> Iterator[None]:
    """Fix threads and randomness for a while."""
    before = torch.get_num_threads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            yield
    finally:
        torch.set_num_threads(before)


class _Trainer(Resumable):
    """One run."""

    def __init__(
        self,
        data: SequenceArrays,
        vocabulary: Vocabulary,
        settings: Settings,
        features: ItemFeatures | None,
        judge: Judge | None,
        start: Network | None,
        folder: Path | None,
        checkpoint_every: int | None,
        progress: Report | None,
    ) -> None:
        self.data, self.settings, self.judge = data, settings, judge
        self.least = settings.least(vocabulary.clock)
        self.folder, self.every, self.progress = folder, checkpoint_every, progress
        device = device_of(settings.device)
        network = Network(settings, vocabulary, features)
        if start is not None:
            network.load_state_dict(start.state_dict(), strict=False)
        self.network = network.to(device)
        self.result = Run(self.network, data_hash=data.data_hash())
        # what judges and figures say of memory stands there too
        self.network.notes = self.result.notes
        self.tokens = settings.tokens or 1024
        self.rate = settings.learning_rate or 1e-3
        self.steps, self.spikes, self.level, self.deviation = 0, 0, float("nan"), _LEAST_DEVIATION
        self.epoch, self.number, self.waited = 0, 0, 0
        self.optimiser = torch.optim.AdamW(
            _groups(self.network, settings.weight_decay), lr=self.rate, betas=(0.9, 0.98)
        )
        self.average: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.sampler = None
        if "item" in settings.tasks and settings.loss != "full":
            self.sampler = Sampler(data.item_counts(vocabulary.items), settings)
        cuda = device.type == "cuda"
        self.half = settings.precision == "bfloat16" or (
            settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
        )

    # ---------------------------------------------------------------- the loop

    def run(self) -> Run:
        begun = time.perf_counter()
        finished = self._resume()
        while self.epoch < self.settings.epochs and not finished:
            self._one_epoch()
            finished = self._judge()
            self.epoch, self.number = self.epoch + 1, 0
            self._keep(finished or self.epoch == self.settings.epochs)
        if self.kept:
            self.network.load_state_dict(self.kept)
        elif self.average:
            self.network.load_state_dict(self.average)
        self.network.eval()
        if self.judge is not None and self.result.best_epoch == self.settings.epochs:
            self.result.notes.append(
                f"it still got better in its last epoch ({self.settings.epochs}); more epochs would teach it more"
            )
        self.result.seconds += time.perf_counter() - begun
        return self.result

    def _one_epoch(self) -> None:
        begun, seen, done = time.perf_counter(), 0, 0
        sums: dict[str, float] = {}
        self.network.train()
        seed = (self.settings.seed, self.epoch)
        stream = self._stream(seed)
        total = -(-len(self.data) // self.tokens)

        def step(tokens: int) -> tuple[dict[str, float], int] | None:
            """Learn from the next batch, or say that there is none; with fewer ``tokens`` than before, in new batches."""
            nonlocal stream
            if tokens < self.tokens:
                self.tokens, self.number = tokens, 2 * self.number
                stream = self._stream(seed)
            batch = next(stream, None)
            return None if batch is None else (self._one_batch(batch), len(batch))

        while True:
            made = halving(step, self.tokens, least=self.settings.length, notes=self.result.notes)
            if made is None:
                break
            parts, events = made
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            done, seen, self.number = done + 1, seen + events, self.number + 1
            if self.progress:
                self._tell(total)
            if self.every and self.number % self.every == 0:
                self._keep(False)
        spent = time.perf_counter() - begun
        row = {name: round(value / max(done, 1), 5) for name, value in sums.items()}
        self.result.curves.append(
            {"epoch": self.epoch + 1, **row, "tokens_per_second": round(seen / max(spent, 1e-9))}
        )

    def _tell(self, batches: int) -> None:
        """Say how far the run is, ten epochs at a time."""
        assert self.progress is not None
        first, most = self.epoch - self.epoch % 10, self.settings.epochs
        last = min(first + 10, most)
        self.progress(
            f"epochs {first + 1} to {last} of {most}",
            (self.epoch - first) * batches + min(self.number, batches),
            (last - first) * batches,
        )

    def _stream(self, seed: tuple[int, ...]) -> Iterator[Batch]:
        """Return what is left of the epoch."""
        length = self.settings.length
        return batches(
            self.data, length, self.tokens, seed=seed, least=self.least, skip=self.number
        )

    def _one_batch(self, batch: Batch) -> dict[str, float]:
        rng = np.random.default_rng((self.settings.seed, self.epoch, self.number))
        torch.manual_seed(int(rng.integers(1 << 62)))
        warm = min(1.0, (self.steps + 1) / max(self.settings.warmup, 1))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * warm
        self.optimiser.zero_grad(set_to_none=True)
        kind = self.network.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.half):
            losses = self.network.loss(self.data, batch, rng, self.sampler)
            if self.settings.contrast:
                losses["contrast"] = self._contrast(rng)
        if not losses:
            return {}
        loss = torch.stack([self._weight(name) * value for name, value in losses.items()]).sum()
        value = float(loss.detach())
        if self._is_spike(value):
            return {}
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if not bool(torch.isfinite(norm)):
            self._spiked()
            return {}
        self.optimiser.step()
        self.steps += 1
        self._blend()
        return {name: float(part.detach()) for name, part in losses.items()}

    def _weight(self, task: str) -> float:
        return self.settings.contrast if task == "contrast" else self.settings.weight_of(task)

    def _contrast(self, rng: np.random.Generator) -> Tensor:
        """Draw users, and two pieces of each one's history of random place and length."""
        size = np.diff(self.data.offsets)
        users = np.flatnonzero(size >= 4)
        if not len(users):
            raise NotEnoughDataError(
                "the contrast of sub-sequences needs users with four events at least"
            )
        chosen = np.repeat(rng.choice(users, min(len(users), 64), replace=False), 2)
        most = np.minimum(size[chosen], self.settings.length)
        length = np.maximum(2, (most * rng.uniform(0.25, 0.8, len(chosen))).astype(np.int64))
        start = self.data.offsets[chosen] + (
            rng.random(len(chosen)) * (size[chosen] - length + 1)
        ).astype(np.int64)
        batch = piece_batch(chosen, start, start + length, self.settings.length)
        return self.network.contrast(self.data, batch, chosen)

    # ---------------------------------------------------------------- guards

    def _is_spike(self, value: float) -> bool:
        """Leave out a batch whose loss is not finite or far above the level so far.

        Far is three times the level, and ten times the usual distance from it: a sum of densities may lie at or below
        0, where a multiple of the level alone says nothing.
        """
        rise = value - self.level
        far = max((_SPIKE - 1) * self.level, _DEVIATIONS * self.deviation)
        if np.isfinite(value) and not (self.steps > 50 and rise > far):
            if np.isnan(self.level):
                self.level = value
            else:
                self.level = 0.98 * self.level + 0.02 * value
                # by at most 6 % a batch, so that a loss that climbs does not become usual on the way
                usual = 0.98 * self.deviation + 0.02 * min(abs(rise), 4 * self.deviation)
                self.deviation = max(usual, _LEAST_DEVIATION)
            self.spikes = 0
            return False
        self._spiked()
        return True

    def _spiked(self) -> None:
        self.spikes += 1
        if self.spikes < _MOST_SPIKES:
            return
        self.spikes, self.rate, self.level = 0, self.rate / 2, float("nan")
        self.optimiser.state.clear()  # its momentum leads to where the loss ran away
        if self.kept:
            self.network.load_state_dict(self.kept)
            self.average = {}  # of weights that are given up
        note = f"the loss ran away in epoch {self.epoch + 1}; the learning rate was halved to {self.rate:g}"
        self.result.notes.append(note)
        if self.rate < 1e-7:
            raise ModelError(
                "training does not settle at any learning rate; look for absurd amounts in the log"
            )

    def _blend(self) -> None:
        """Move the average of the weights, faster while it is young."""
        if not self.settings.average:
            return
        now = self.network.state_dict()
        if not self.average:
            self.average = {n: t.detach().clone() for n, t in now.items()}
            return
        share = 1 - min(self.settings.average, (1 + self.steps) / (10 + self.steps))
        for name, kept in self.average.items():
            if kept.is_floating_point():
                kept.lerp_(now[name], share)

    # ---------------------------------------------------------------- judging

    def _judge(self) -> bool:
        """Score the network (its average, where there is one); return whether to stop."""
        if self.judge is None:
            return False
        now = {n: t.detach().clone() for n, t in self.network.state_dict().items()}
        if self.average:
            self.network.load_state_dict(self.average)
        self.network.eval()
        with torch.no_grad():
            value = float(self.judge(self.network))
        self.result.curves[-1]["valid"] = round(value, 5)
        self.waited += 1
        if value > self.result.best:
            self.result.best, self.result.best_epoch, self.waited = value, self.epoch + 1, 0
            self.kept = {n: t.detach().clone() for n, t in self.network.state_dict().items()}
        self.network.load_state_dict(now)
        return self.waited >= self.settings.patience


def _groups(network: Network, decay: float) -> list[dict[str, Any]]:
    """Decay matrices of the trunk and heads; leave scales, biases and embeddings alone."""
    shrink: list[Tensor] = []
    leave: list[Tensor] = []
    for name, weight in network.named_parameters():
        (shrink if weight.ndim > 1 and not name.startswith("embedding.") else leave).append(weight)
    return [{"params": shrink, "weight_decay": decay}, {"params": leave, "weight_decay": 0.0}]
