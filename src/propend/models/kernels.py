"""Compiled loops of the models: every row by itself, in one order, so that it scores alone as among many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["dense", "encode_row", "fill_row", "nearest_rows", "radial", "walk"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def fill_row(
    x: F64, median: F64, low: F64, high: F64, logged: I64, unit: F64, filled: F64, inner: F64
) -> None:
    """One row x [d] without gaps, held within low and high; beside it |value| / unit of the ``logged`` columns."""
    for j in range(len(x)):
        filled[j] = median[j] if np.isnan(x[j]) else min(max(x[j], low[j]), high[j])
    for k in range(len(logged)):
        inner[k] = abs(filled[logged[k]]) / unit[k]


@njit(cache=True, nogil=True)
def encode_row(
    x: F64, filled: F64, logged: I64, logs: F64, source: I64, kind: I64, level: F64, centre: F64, scale: F64, limit: float,
    out: F64,
) -> None:  # fmt: skip
    """The derived columns [p] of one row x [d]; kinds as in ``encode``: value, missing, level, other level, hinge.

    A number's value stands before its hinges, a category's levels before what holds the others.
    """
    for k in range(len(logged)):
        value = filled[logged[k]]
        filled[logged[k]] = (1.0 if value > 0 else -1.0 if value < 0 else 0.0) * logs[k]
    standard = np.empty(len(x))
    known = np.zeros(len(x), np.bool_)
    for c in range(len(out)):
        j, what = source[c], kind[c]
        if what == 0:
            raw = filled[j]
        elif what == 1:
            raw = 1.0 if np.isnan(x[j]) else 0.0
        elif what == 2:
            raw = 1.0 if x[j] == level[c] else 0.0
            known[j] |= raw > 0
        elif what == 3:
            raw = 0.0 if known[j] or np.isnan(x[j]) else 1.0
        else:
            raw = max(standard[j] - level[c], 0.0)
        out[c] = min(max((raw - centre[c]) * scale[c], -limit), limit)
        if what == 0:
            standard[j] = out[c]


@njit(cache=True, nogil=True)
def walk(
    Z: F32,
    root: I64,
    left: I32,
    right: I32,
    column: I32,
    threshold: F64,
    value: F64,
    out: F64,
) -> None:
    """Mean leaf value [n, k] of rows Z [n, p] over trees."""
    trees = len(root)
    for i in range(len(Z)):
        for t in range(trees):
            node = root[t]
            while column[node] >= 0:
                if Z[i, column[node]] <= threshold[node]:
                    node = np.int64(left[node])
                else:
                    node = np.int64(right[node])
            for c in range(value.shape[1]):
                out[i, c] += value[node, c]
        for c in range(value.shape[1]):
            out[i, c] /= trees


@njit(cache=True, nogil=True)
def dense(Z: F64, W: F64, b: F64, out: F64, rectify: bool) -> None:
    """``Z`` [n, p] times ``W`` [p, h] plus ``b``, into out [n, h]; negative sums to 0 where ``rectify``."""
    for i in range(len(Z)):
        for h in range(W.shape[1]):
            out[i, h] = b[h]
        for j in range(W.shape[0]):
            z = Z[i, j]
            if z != 0.0:
                for h in range(W.shape[1]):
                    out[i, h] += z * W[j, h]
        if rectify:
            for h in range(W.shape[1]):
                out[i, h] = max(out[i, h], 0.0)


@njit(cache=True, nogil=True)
def radial(Z: F64, landmarks: F64, gamma: float, weights: F64, out: F64) -> None:
    """Sum over landmarks of ``weights`` · exp(−gamma · squared distance), into out [n]."""
    for i in range(len(Z)):
        total = 0.0
        for s in range(len(landmarks)):
            distance = 0.0
            for j in range(Z.shape[1]):
                step = Z[i, j] - landmarks[s, j]
                distance += step * step
            total += weights[s] * np.exp(-gamma * distance)
        out[i] = total


@njit(cache=True, nogil=True)
def nearest_rows(Z: F64, known: F64, near: I64, apart: F64) -> None:
    """Fill near [n, k] and apart [n, k] with the rows of ``known`` closest to each row, and how far (squared)."""
    k = near.shape[1]
    for i in range(len(Z)):
        for r in range(k):
            apart[i, r] = np.inf
            near[i, r] = -1
        for s in range(len(known)):
            distance = 0.0
            worst = apart[i, k - 1]
            for j in range(Z.shape[1]):
                step = Z[i, j] - known[s, j]
                distance += step * step
                if distance >= worst:
                    break
            if distance < worst:
                r = k - 1
                while r > 0 and apart[i, r - 1] > distance:
                    apart[i, r] = apart[i, r - 1]
                    near[i, r] = near[i, r - 1]
                    r -= 1
                apart[i, r] = distance
                near[i, r] = s
