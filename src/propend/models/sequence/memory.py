"""Work whose rows take memory: where it runs out, half as many are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import torch

from propend.errors import ModelError

__all__ = ["halving"]

Found = TypeVar("Found")

_SAID: Final = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
"""What allocators and CUDA libraries say in errors that are not ``OutOfMemoryError``."""


def halving(
    work: Callable[[int], Found],
    rows: int,
    *,
    least: int = 1,
    what: str = "batch",
    unit: str = "events",
    notes: list[str] | None = None,
) -> Found:
    """Return ``work(rows)``, tried with half the rows each time memory runs out; ``notes`` are told.

    Raises ``ModelError`` where memory does not suffice for ``least`` rows.

    >>> def work(rows):
    ...     if rows > 3:
    ...         raise MemoryError
    ...     return rows
    >>> notes = []
    >>> halving(work, 8, notes=notes), notes[-1]
    (2, 'memory ran out: the batch was halved to 2 events')
    """
    while True:
        try:
            return work(rows)
        except (RuntimeError, MemoryError) as error:
            if not _no_memory(error):
                raise
        # only here: until its handler is left, the error holds the frames, and they what they allocated
        if rows <= least:
            raise ModelError(
                f"not enough memory for a {what} of {rows} {unit}; choose a smaller size or a shorter length"
            )
        rows //= 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if notes is not None:
            notes.append(f"memory ran out: the {what} was halved to {rows} {unit}")


def _no_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(s in text for s in _SAID)
