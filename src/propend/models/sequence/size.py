"""The one dial: a size sets width, depth, heads, learning rate and batch of a sequence model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from propend.errors import ModelError, nearest

__all__ = ["SIZES", "Size", "dial"]

SIZES: Final = {"tiny": 1, "small": 2, "base": 8, "large": 16}
"""Size → depth, from which all else follows."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a size stands for: ``tokens`` is the events in a batch."""

    width: int
    depth: int
    heads: int
    learning_rate: float
    tokens: int


def dial(size: str) -> Size:
    """Return what a size stands for; raises ``ModelError`` naming the nearest known one.

    Width is 32 a layer up to 512, a head 32 wide; the learning rate falls with the root of the width
    and the batch grows with the depth, from 1e-3 and 2,048 events at ``small``.

    >>> dial("small")
    Size(width=64, depth=2, heads=2, learning_rate=0.001, tokens=2048)
    >>> dial("base").width, dial("large").width
    (256, 512)
    >>> dial("smal")
    Traceback (most recent call last):
    propend.errors.ModelError: there is no size 'smal'; did you mean 'small'?
    """
    if size not in SIZES:
        raise ModelError(f"there is no size '{size}'{nearest(size, SIZES)}")
    depth = SIZES[size]
    width = 32 * depth
    return Size(width, depth, width // 32, round(1e-3 * (64 / width) ** 0.5, 6), 1024 * depth)
