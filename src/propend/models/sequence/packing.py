"""Batches without padding: whole pieces of histories in a budget of events, laid into rows for attention.

A batch is flat: every layer works on its events alone. Attention needs rows, so pieces are also packed
into rows of a fixed width (best fit, longest first) and see only their own piece, in order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.models.sequence.tokens import SequenceArrays

__all__ = ["Batch", "Layout", "batches", "lay_out", "piece_batch", "pieces"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the events of a batch stand.

    ``offsets`` [p + 1] of the pieces; ``position`` [t] in the piece; ``rows`` [b, w] the event in each
    place of each row (t: nothing there); ``place`` [t] the flat place of each event; ``piece`` [b, w] the piece
    of each place, −1 for nothing.
    """

    offsets: I64
    position: I64
    rows: I64
    place: I64
    piece: I32

    @property
    def fill(self) -> float:
        """Share of the places that hold an event."""
        return len(self.position) / max(self.rows.size, 1)


@dataclass(frozen=True)
class Batch:
    """Events [t] of the pieces of a batch: rows of the ``SequenceArrays``, their users, and their layout."""

    index: I64
    user: I64
    layout: Layout

    def __len__(self) -> int:
        return len(self.index)


def pieces(
    offsets: I64, length: int, rng: np.random.Generator | None = None, *, least: int = 2
) -> tuple[I64, I64, I64]:
    """Cut histories of at least ``least`` events into pieces of at most ``length``: (user, start, stop).

    With a generator the whole history is cut, elsewhere each time; without, its last ``length`` events
    are the one piece.

    >>> user, start, stop = pieces(np.array([0, 3, 9]), 4)
    >>> list(zip(user.tolist(), start.tolist(), stop.tolist()))
    [(0, 0, 3), (1, 5, 9)]
    """
    size = np.diff(offsets)
    keep = np.flatnonzero(size >= least)
    if rng is None:
        return keep, np.maximum(offsets[keep], offsets[keep + 1] - length), offsets[keep + 1]
    first = rng.integers(1, length + 1, len(keep))
    return _cut(np.asarray(offsets), keep, length, first)


@nb.njit(cache=True)
def _cut(offsets: Any, keep: Any, length: int, first: Any) -> Any:
    """Cut long histories every ``length`` events after a first piece of ``first`` events."""
    total = 0
    for u in keep:
        total += 2 + (offsets[u + 1] - offsets[u]) // length
    user = np.empty(total, np.int64)
    start, stop = np.empty(total, np.int64), np.empty(total, np.int64)
    n = 0
    for i in range(len(keep)):
        at, high = offsets[keep[i]], offsets[keep[i] + 1]
        end = high if high - at <= length else at + first[i]
        while at < high:
            user[n], start[n], stop[n] = keep[i], at, min(end, high)
            n += 1
            at = end
            end = at + length
    return user[:n], start[:n], stop[:n]


def batches(
    data: SequenceArrays,
    length: int,
    tokens: int,
    *,
    seed: int | tuple[int, ...] | None = None,
    least: int = 2,
    skip: int = 0,
) -> Iterator[Batch]:
    """Yield an epoch of batches of at most ``tokens`` events (or one piece), in constant memory.

    The same ``seed`` gives the same batches; None keeps the order of users and their last events.
    ``skip`` leaves out the first batches, to go on where an epoch was broken off.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    user, start, stop = pieces(data.offsets, length, rng, least=least)
    order = np.arange(len(user)) if rng is None else rng.permutation(len(user))
    size = (stop - start)[order]
    total = np.concatenate([[0], np.cumsum(size)])
    first, number = 0, 0
    while first < len(order):
        after = int(np.searchsorted(total, total[first] + tokens, side="right")) - 1
        after = max(after, first + 1)
        if number >= skip:
            chosen = order[first:after]
            yield piece_batch(user[chosen], start[chosen], stop[chosen], length)
        first, number = after, number + 1


def piece_batch(user: I64, start: I64, stop: I64, width: int) -> Batch:
    """Return the batch of pieces ``start[i]`` to ``stop[i]`` of users ``user[i]``, in rows of ``width``."""
    lengths = stop - start
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    return Batch(index, np.repeat(user, lengths), lay_out(lengths, width))


def lay_out(lengths: npt.ArrayLike, width: int) -> Layout:
    """Pack pieces into rows of ``width`` (at most the longest piece needed): best fit, longest first.

    >>> lay_out([2, 3, 1], 4).rows.tolist()
    [[2, 3, 4, 5], [0, 1, 6, 6]]
    """
    size = np.asarray(lengths, np.int64)
    longest = int(size.max(initial=1))
    width = max(min(width, int(size.sum())), longest, 1)
    order = np.argsort(-size, kind="stable")
    row, column, n_rows = _best_fit(size, order, width)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    count = int(offsets[-1])
    position = np.arange(count) - np.repeat(offsets[:-1], size)
    place = np.repeat(row * width + column, size) + position
    rows = np.full(n_rows * width, count, np.int64)
    rows[place] = np.arange(count)
    piece = np.full(n_rows * width, -1, np.int32)
    piece[place] = np.repeat(np.arange(len(size)), size)
    return Layout(
        offsets, position, rows.reshape(n_rows, width), place, piece.reshape(n_rows, width)
    )


@nb.njit(cache=True)
def _best_fit(size: Any, order: Any, width: int) -> Any:
    """Give each piece a row and a column: the fullest row that still has room (rows listed by room left)."""
    row, column = np.zeros(len(size), np.int64), np.zeros(len(size), np.int64)
    head = np.full(width + 1, -1, np.int64)  # newest row with this much room
    link = np.full(len(size) + 1, -1, np.int64)
    rows = 0
    for at in range(len(order)):
        i = order[at]
        room = size[i]
        while room <= width and head[room] < 0:
            room += 1
        if room > width:
            chosen = rows
            rows += 1
            room = width
        else:
            chosen = head[room]
            head[room] = link[chosen]
        row[i], column[i] = chosen, width - room
        left = room - size[i]
        link[chosen] = head[left]
        head[left] = chosen
    return row, column, rows
