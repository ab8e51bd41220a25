"""Some rows and columns of a matrix, copied only where they are read: the folds of a log share one matrix in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Gathered"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

BLOCK = 4_096
"""Rows copied at a time: a block of a hundred columns stays in the cache."""
LARGE = 1 << 22
"""Numbers (32 MiB of them) from which a matrix is better read block by block than copied whole."""


class Gathered:
    """Rows (a mask or places) and columns of ``source`` [N, D]; read like an array, it is one only where it must be.

    ``gathered[rows]`` and ``gathered[:, j]`` copy what is asked for, ``np.asarray(gathered)`` everything.

    >>> X = np.arange(12.0).reshape(4, 3)
    >>> some = Gathered(X, np.array([True, False, True, True]), np.array([2, 0]))
    >>> some.shape, some[1:]
    ((3, 2), array([[ 8.,  6.],
           [11.,  9.]]))
    >>> some[:, 1]
    array([0., 6., 9.])
    """

    ndim = 2

    def __init__(
        self, source: F64, rows: npt.NDArray[Any], columns: npt.NDArray[Any] | None = None
    ) -> None:
        self.source = source
        self.rows: I64 = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        self.columns: I64 = np.arange(source.shape[1]) if columns is None else columns
        self._all = columns is None or np.array_equal(columns, np.arange(source.shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.columns)

    @property
    def large(self) -> bool:
        """Whether it is better not copied whole."""
        return len(self.rows) * len(self.columns) > LARGE

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> F64:
        if isinstance(at, tuple):
            rows, column = at
            return self.source[:, self.columns[column]][self.rows[rows]]
        taken = self.source[self.rows[at]]
        return np.ascontiguousarray(taken if self._all else taken[:, self.columns])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> F64:
        out = np.empty(self.shape)
        for rows in self.blocks():
            out[rows] = self[rows]
        return out if dtype is None else out.astype(dtype, copy=False)

    def blocks(self) -> Iterator[slice]:
        """Give the rows block by block."""
        for start in range(0, len(self), BLOCK):
            yield slice(start, min(start + BLOCK, len(self)))

    def where(self, mask: npt.NDArray[np.bool_]) -> Gathered:
        """The rows of ``mask``, not copied either."""
        return Gathered(self.source, self.rows[mask], None if self._all else self.columns)
