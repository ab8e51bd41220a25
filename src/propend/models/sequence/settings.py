"""What a sequence model is and how it is trained: every choice in one place, saved beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from msgspec import Meta

from propend.errors import ModelError, nearest
from propend.models.sequence.size import dial

__all__ = ["HEADS", "Settings"]

HEADS = ("item", "type", "gap", "amount", "horizon")

Share = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a sequence model.

    ``size`` sets ``width``, ``depth``, ``attention_heads``, ``learning_rate`` and ``tokens`` (events in a
    batch) unless they are given. ``tasks``: what is predicted (``HEADS``), with the weights ``task_weights``.
    ``loss`` over items: ``full``, ``sampled`` or ``gbce`` with ``negatives`` drawn once a batch by popularity to
    the power ``negative_power``. ``temperature`` above 0 scores by cosine over it. ``contrast``: weight of CoLES' loss.
    ``average``: decay of the moving average of weights, 0 for none. ``keep``: share of a history's events
    that training shows (the rest are dropped at random, as augmentation).
    """

    trunk: str = "transformer"
    size: str = "small"
    width: Count | None = None
    depth: Count | None = None
    attention_heads: Count | None = None
    length: Annotated[int, Meta(ge=2)] = 50
    dropout: Share = 0.2
    time_bias: Literal["none", "event", "query"] = "none"
    tasks: tuple[str, ...] = ("item",)
    task_weights: tuple[float, ...] = (1.0, 0.2, 0.1, 0.1, 1.0)
    loss: Literal["full", "sampled", "gbce"] = "full"
    negatives: Count = 512
    negative_power: Annotated[float, Meta(ge=0, le=1)] = 0.0
    trust: Annotated[float, Meta(ge=0, le=1)] = 0.75
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    contrast: Annotated[float, Meta(ge=0)] = 0.0
    learning_rate: Positive | None = None
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    tokens: Count | None = None
    epochs: Count = 40
    patience: Count = 4
    warmup: Annotated[int, Meta(ge=0)] = 100
    average: Share = 0.0
    clip: Positive = 1.0
    threads: Count | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: Annotated[int, Meta(ge=0)] = 0

    def resolved(self) -> Self:
        """Return the settings with the dial's values filled in.

        Raises ``ModelError`` for an unknown task or size, or a width its heads do not divide.

        >>> Settings(size="base", depth=2).resolved().width
        256
        """
        for task in self.tasks:
            if task not in HEADS:
                raise ModelError(f"there is no task '{task}'{nearest(task, HEADS)}")
        chosen = dial(self.size)
        width = self.width or chosen.width
        made = replace(
            self,
            width=width,
            depth=self.depth or chosen.depth,
            attention_heads=self.attention_heads
            or (max(1, width // 32) if self.width else chosen.heads),
            learning_rate=self.learning_rate or chosen.learning_rate,
            tokens=self.tokens or chosen.tokens,
        )
        heads = made.attention_heads or 1
        if width % (2 * heads):
            raise ModelError(
                f"a width of {width} cannot be shared by {heads} attention heads of even width; "
                f"choose a multiple of {2 * heads}"
            )
        return made

    def weight_of(self, task: str) -> float:
        """Return the weight of a task's loss."""
        return self.task_weights[HEADS.index(task)]

    def least(self, clock: bool) -> int:
        """Return the fewest events of a history to learn from; ``clock`` whether the events have times.

        Who came once and never again has no next item, but says as much as anybody of when and whether people return.
        """
        return 1 if clock and {"gap", "horizon"} & set(self.tasks) else 2
