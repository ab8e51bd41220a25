"""The one sparse core under every neighbour method: which rows are alike, and what they add up to.

``nearest_columns`` multiplies two sparse tables row by row (Gustavson, "Two fast algorithms for
sparse matrices", 1978) and keeps only each row's best, so that a product is never held as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.models.storage import State

__all__ = ["Sparse", "evidence", "nearest_columns", "nearest_rows", "once_each", "spread"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sparse:
    """Rows of (column, value): row ``i`` owns entries ``offsets[i]`` to ``offsets[i + 1]``."""

    offsets: I64
    columns: I32
    values: F32
    width: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, table: Any) -> Sparse:
        """Take over a SciPy sparse array."""
        rows = table.tocsr()
        return cls(
            rows.indptr.astype(np.int64),
            rows.indices.astype(np.int32),
            rows.data.astype(np.float32),
            int(rows.shape[1]),
        )

    def scipy(self) -> Any:
        """Return the table as a SciPy CSR array."""
        from scipy.sparse import csr_array

        return csr_array((self.values, self.columns, self.offsets), shape=(len(self), self.width))

    def state(self) -> State:
        """Return the table as arrays to save."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "offsets": self.offsets,
            "columns": self.columns,
            "values": self.values,
        }
        return State({"width": self.width}, arrays)

    @classmethod
    def from_state(cls, state: State) -> Sparse:
        """Undo ``state``."""
        return cls(**state.arrays, width=state.header["width"])


def nearest_columns(
    left: Sparse,
    right: Sparse,
    k: int,
    *,
    row_norm: F64 | None = None,
    column_norm: F64 | None = None,
    shrink: float = 0.0,
    union: bool = False,
    skip_self: bool = True,
) -> Sparse:
    """Return, for each row i of ``left``, the k columns j of ``left @ right`` with the highest likeness.

    With s the product's entry, a = ``row_norm[i]`` and b = ``column_norm[j]``, the likeness is
    s / (a·b + shrink), or s / (a + b − s + shrink) with ``union`` (Jaccard). Only pairs with s ≠ 0
    count; likenesses of 0 or below are dropped. Ties: smaller column first. Rows come best first.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> x = csr_array(np.array([[1, 1, 0], [1, 1, 1]], np.float32))
    >>> near = nearest_columns(Sparse.of(x.T), Sparse.of(x), 1)
    >>> near.columns.tolist(), near.values.tolist()
    ([1, 0, 0], [2.0, 2.0, 1.0])
    """
    rows, width = len(left), right.width
    k = min(k, width)
    a = np.ones(rows) if row_norm is None else row_norm
    b = np.ones(width) if column_norm is None else column_norm
    columns = np.empty((rows, k), np.int32)
    values = np.empty((rows, k), np.float32)
    counts = np.zeros(rows, np.int64)
    _nearest(
        (left.offsets, left.columns, left.values),
        (right.offsets, right.columns, right.values),
        (a, b, float(shrink), union, skip_self),
        width,
        columns,
        values,
        counts,
    )
    return _filled(columns, values, counts, width)


def _filled(columns: I32, values: F32, counts: I64, width: int) -> Sparse:
    filled = np.arange(columns.shape[1])[None, :] < counts[:, None]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sparse(offsets, columns[filled], values[filled], width)


def nearest_rows(
    rows: Any, k: int, norm: F64, *, shrink: float = 0.0, union: bool = False
) -> Sparse:
    """Return the k nearest other rows of each row of a SciPy CSR array without duplicate entries: n × n.

    The same as ``nearest_columns(rows, rows.T, k)`` with ``norm`` for both sides, at half the work: the
    likeness of a pair is found once and offered to both.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> near = nearest_rows(csr_array(np.array([[1, 0], [1, 1], [0, 1]], np.float32)), 1, np.ones(3))
    >>> near.columns.tolist(), near.values.tolist()
    ([1, 0, 1], [1.0, 1.0, 1.0])
    """
    table, turned = Sparse.of(rows), Sparse.of(rows.T)
    n = len(table)
    k = min(k, n)
    columns = np.empty((n, k), np.int32)
    values = np.empty((n, k), np.float32)
    counts = np.zeros(n, np.int64)
    # unsigned codes spare the kernel the check for negative indices
    _nearest_rows(
        (table.offsets, table.columns.view(np.uint32), table.values),
        (turned.offsets, turned.columns.view(np.uint32), turned.values),
        (norm, float(shrink), union),
        columns,
        values,
        counts,
    )
    return _filled(columns, values, counts, n)


@nb.njit(cache=True, nogil=True)
def _nearest_rows(
    rows: Any, turned: Any, rule: Any, columns: Any, values: Any, counts: Any
) -> None:
    ro, rc, rv = rows
    to, tc, tv = turned
    norm, shrink, union = rule
    n, k = columns.shape
    total = np.zeros(n)
    owner = np.full(n, -1, np.int32)
    touched = np.empty(n, np.uint32)
    after = to[:-1].copy()  # where each column's entries past the current row start
    least = np.zeros(n, np.float32)  # what a candidate has to beat: the root of a full heap
    for i in range(n):
        work = 0
        for x in range(ro[i], ro[i + 1]):
            after[rc[x]] += 1
            work += to[rc[x] + 1] - after[rc[x]]
        m = 0
        if work > n - i:  # most rows will be touched: no book is kept of which
            total[i:] = 0.0
            for x in range(ro[i], ro[i + 1]):
                for y in range(after[rc[x]], to[rc[x] + 1]):
                    total[tc[y]] += np.float64(rv[x]) * tv[y]
            for j in range(i + 1, n):
                touched[m] = j
                m += total[j] > 0.0
        else:
            for x in range(ro[i], ro[i + 1]):
                for y in range(after[rc[x]], to[rc[x] + 1]):
                    j = tc[y]
                    if owner[j] != i:
                        owner[j] = i
                        total[j] = 0.0
                        touched[m] = j
                        m += 1
                    total[j] += np.float64(rv[x]) * tv[y]
        for t in range(m):
            j = touched[t]
            s = total[j]
            below = (norm[i] + norm[j] - s if union else norm[i] * norm[j]) + shrink
            if s <= 0.0 or below <= 0.0:
                continue
            v = np.float32(s / below)
            if v >= least[i]:
                counts[i] = _offer(columns[i], values[i], counts[i], k, np.int32(j), v)
                if counts[i] == k:
                    least[i] = values[i, 0]
            if v >= least[j]:
                counts[j] = _offer(columns[j], values[j], counts[j], k, np.int32(i), v)
                if counts[j] == k:
                    least[j] = values[j, 0]
    for i in range(n):
        _sort(columns[i], values[i], counts[i])


@nb.njit(cache=True, nogil=True)
def _nearest(
    left: Any, right: Any, rule: Any, width: int, columns: Any, values: Any, counts: Any
) -> None:
    lo, lc, lv = left
    ro, rc, rv = right
    a, b, shrink, union, skip_self = rule
    total = np.zeros(width)
    owner = np.full(width, -1, np.int64)
    touched = np.empty(width, np.int32)
    k = columns.shape[1]
    for i in range(len(lo) - 1):
        n = 0
        for x in range(lo[i], lo[i + 1]):
            middle, weight = lc[x], np.float64(lv[x])
            for y in range(ro[middle], ro[middle + 1]):
                j = rc[y]
                if owner[j] != i:
                    owner[j] = i
                    total[j] = 0.0
                    touched[n] = j
                    n += 1
                total[j] += weight * rv[y]
        size = 0
        for t in range(n):
            j = touched[t]
            if skip_self and j == i:
                continue
            s = total[j]
            below = (a[i] + b[j] - s if union else a[i] * b[j]) + shrink
            if s <= 0.0 or below <= 0.0:
                continue
            size = _offer(columns[i], values[i], size, k, j, np.float32(s / below))
        _sort(columns[i], values[i], size)
        counts[i] = size


@nb.njit(cache=True, nogil=True, inline="always")
def _worse(v: Any, j: Any, w: Any, l: Any) -> bool:  # noqa: E741
    """Whether (value v, column j) ranks behind (w, l)."""
    return v < w or (v == w and j > l)


@nb.njit(cache=True, nogil=True)
def _offer(columns: Any, values: Any, size: int, k: int, j: Any, v: Any) -> int:
    """Put a candidate on the heap of the k best, whose root is the worst of them."""
    if size < k:
        at = size
        while at > 0 and _worse(v, j, values[(at - 1) // 2], columns[(at - 1) // 2]):
            columns[at], values[at] = columns[(at - 1) // 2], values[(at - 1) // 2]
            at = (at - 1) // 2
        columns[at], values[at] = j, v
        return size + 1
    if _worse(values[0], columns[0], v, j):
        _sink(columns, values, size, j, v)
    return size


@nb.njit(cache=True, nogil=True)
def _sink(columns: Any, values: Any, size: int, j: Any, v: Any) -> None:
    """Replace the root by (v, j) and let it sink to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(
            values[child + 1], columns[child + 1], values[child], columns[child]
        ):
            child += 1
        if not _worse(values[child], columns[child], v, j):
            break
        columns[at], values[at] = columns[child], values[child]
        at = child
    columns[at], values[at] = j, v


@nb.njit(cache=True, nogil=True)
def _sort(columns: Any, values: Any, size: int) -> None:
    """Turn the heap into a list, best first."""
    for end in range(size - 1, 0, -1):
        j, v = columns[end], values[end]
        columns[end], values[end] = columns[0], values[0]
        _sink(columns, values, end, j, v)


def spread(offsets: I64, items: I32, weight: F32, table: Sparse) -> F32:
    """Add up the table's rows of each history: ``scores[r] = Σ weight · table[item]``; −∞ where nothing adds."""
    scores = np.empty((len(offsets) - 1, table.width), np.float32)
    codes = table.columns.view(np.uint32)
    _spread(offsets, items, weight, table.offsets, codes, table.values, scores)
    return scores


@nb.njit(cache=True, nogil=True)
def _spread(offsets: Any, items: Any, weight: Any, to: Any, tc: Any, tv: Any, scores: Any) -> None:
    added = np.empty(scores.shape[1], np.uint8)
    for row in range(len(offsets) - 1):
        total = scores[row]
        total[:] = 0.0
        added[:] = 0
        for at in range(offsets[row], offsets[row + 1]):
            w = weight[at]
            if w == 0.0:
                continue
            for x in range(to[items[at]], to[items[at] + 1]):
                j = tc[x]
                total[j] += w * tv[x]
                added[j] = 1
        for j in range(len(total)):
            if added[j] == 0:
                total[j] = -np.inf


@nb.njit(cache=True, nogil=True)
def evidence(
    offsets: Any, items: Any, weight: Any, to: Any, tc: Any, tv: Any, shown: Any, found: Any
) -> None:
    """Write which history item added most to each shown item [b, k]; −1 where none did."""
    slot = np.full(len(to) - 1, -1, np.int32)
    best = np.empty(shown.shape[1], np.float32)
    for row in range(len(offsets) - 1):
        for place in range(shown.shape[1]):
            found[row, place] = -1
            best[place] = 0.0
            if shown[row, place] >= 0:
                slot[shown[row, place]] = place
        for at in range(offsets[row], offsets[row + 1]):
            for x in range(to[items[at]], to[items[at] + 1]):
                place = slot[tc[x]]
                if place >= 0 and weight[at] * tv[x] > best[place]:
                    best[place] = weight[at] * tv[x]
                    found[row, place] = items[at]
        for place in range(shown.shape[1]):
            if shown[row, place] >= 0:
                slot[shown[row, place]] = -1


@nb.njit(cache=True, nogil=True)
def once_each(offsets: Any, items: Any, n_items: int) -> Any:
    """Return which entries are the last occurrence of their item in their row, bool [n]."""
    last = np.zeros(len(items), np.bool_)
    owner = np.full(n_items, -1, np.int64)
    for row in range(len(offsets) - 1):
        for at in range(offsets[row + 1] - 1, offsets[row] - 1, -1):
            if owner[items[at]] != row:
                owner[items[at]] = row
                last[at] = True
    return last
