"""From raw columns to a design matrix for models that need complete, comparable numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.models.gathered import Gathered
from propend.models.model import Array
from propend.models.storage import State

__all__ = ["Design"]

VALUE: Final = 0
MISSING: Final = 1
LEVEL: Final = 2
OTHER: Final = 3
HINGE: Final = 4

LIMIT: Final = 8.0
"""Standardised values are held within ± this many standard deviations."""
SKEWED: Final = 2.0
"""|skewness| above which the signed logarithm is tried."""
MOST_LEVELS: Final = 100
LARGEST: Final = 1e100
"""Larger numbers count as this, so that their squares stay finite."""
FEWEST_ROWS: Final = 5
"""A category code seen in fewer rows shares one column with the other rare ones."""


@dataclass(frozen=True, slots=True)
class Design:
    """A fitted encoding; every derived column knows the column it comes from.

    Numbers: held within the range of the training rows, for a line goes on where nothing was learnt (what only grows with
    time, such as days since the first event, leaves that range at every later moment); missing → median, with an indicator where the training rows had any; heavy tails
    (skewness above 2, and less after it) → signed logarithm ``sign(x)·log1p(|x| / unit)``; then
    standardised by mean and deviation of all but the extreme 0.1 % on either side, and held within
    ± 8; beside it up to ``bends`` hinges ``max(z - knot, 0)``, at values that many rows share and
    at quantiles of the others, so that the effect is a bent line (a linear spline).

    Categories: one column per code seen in at least 5 rows (at most 100), one for all other codes,
    one for missing. All columns are centred, so a row's sum of weighted columns is its difference
    from the average row. Sample weights play no part here.

    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [3.0, 1.0], [np.nan, 1.0]] * 5)
    >>> design = Design.fit(X, {1: 2})
    >>> design.source
    array([0, 0, 1, 1, 1])
    >>> design.transform(X).mean(axis=0).round(12) + 0.0
    array([0., 0., 0., 0., 0.])
    """

    median: Array
    low: Array
    """Per source column: the least and the largest number seen."""
    high: Array
    unit: Array
    """Per source column: scale of the signed logarithm, 0 where it is not used."""
    source: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    level: Array
    centre: Array
    scale: Array
    _logged: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """The columns with a logarithm."""
    _units: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        logged = np.flatnonzero(self.unit > 0)
        object.__setattr__(self, "_logged", logged)
        object.__setattr__(self, "_units", self.unit[logged])

    @classmethod
    def fit(cls, X: Array | Gathered, categories: Mapping[int, int], bends: int = 0) -> Design:
        """Learn the encoding of ``X`` [n, d], numbers with up to ``bends`` hinges each."""
        width = X.shape[1]
        median, unit = np.zeros(width), np.zeros(width)
        low, high = np.full(width, -LARGEST), np.full(width, LARGEST)
        derived: list[tuple[int, int, float, float, float]] = []
        for index in range(width):
            column = np.clip(X[:, index], -LARGEST, LARGEST)
            present = column[~np.isnan(column)]
            holes = 1.0 - len(present) / len(column)
            if index in categories:
                derived += _levels(index, present, len(column))
            else:
                if len(present):
                    median[index] = np.median(present)
                    low[index], high[index] = present.min(), present.max()
                unit[index] = _log_unit(present)
                filled = np.where(np.isnan(column), median[index], column)
                logged = _signed_log(filled, unit[index])
                centre, scale = _spread(logged)
                derived.append((index, VALUE, 0.0, centre, scale))
                derived += _hinges(index, _held((logged - centre) * scale), bends)
            if 0 < holes < 1:
                derived.append((index, MISSING, 0.0, holes, 1.0))
        source, kind, level, centres, scales = zip(*derived, strict=True)
        return cls(
            median,
            low,
            high,
            unit,
            np.array(source, dtype=np.int64),
            np.array(kind, dtype=np.int64),
            np.array(level, dtype=np.float64),
            np.array(centres),
            np.array(scales),
        )

    @property
    def width(self) -> int:
        """Number of derived columns."""
        return len(self.source)

    def transform(self, X: Array) -> Array:
        """Encode rows: [n, ``width``], without NaN."""
        out = np.empty((len(X), self.width))
        if len(X) == 1 and "numba" in sys.modules:  # who scores a saved model only need not load it
            self._row(X[0], out[0])
            return out
        self._values(X, out)
        gaps = np.flatnonzero(self.kind == MISSING)
        out[:, gaps] = np.isnan(X[:, self.source[gaps]])
        levels = np.flatnonzero(self.kind == LEVEL)
        out[:, levels] = X[:, self.source[levels]] == self.level[levels]
        for other in np.flatnonzero(self.kind == OTHER):
            column = X[:, self.source[other]]
            own = (self.source == self.source[other]) & (self.kind == LEVEL)
            out[:, other] = ~np.isnan(column) & ~np.isin(column, self.level[own])
        out -= self.centre
        out *= self.scale
        return _held(out)

    def _row(self, x: Array, out: Array) -> None:
        """Encode one row, to the same bits: by NumPy it takes eight times as long, nearly all of it calls.

        The logarithm stays NumPy's: compiled code has another, whose last bits may differ.
        """
        from propend.models.kernels import encode_row, fill_row

        filled, inner = np.empty(len(x)), np.empty(len(self._logged))
        fill_row(x, self.median, self.low, self.high, self._logged, self._units, filled, inner)
        encode_row(
            x, filled, self._logged, np.log1p(inner), self.source, self.kind, self.level, self.centre, self.scale, LIMIT, out
        )  # fmt: skip

    def _values(self, X: Array, out: Array) -> None:
        values = np.flatnonzero(self.kind == VALUE)
        sources = self.source[values]
        block = X[:, sources]
        block = np.where(np.isnan(block), self.median[sources], block)
        block = np.clip(block, self.low[sources], self.high[sources])
        logged = np.flatnonzero(self.unit[sources] > 0)
        block[:, logged] = _signed_log(block[:, logged], self.unit[sources[logged]])
        out[:, values] = block
        hinges = np.flatnonzero(self.kind == HINGE)
        if len(hinges):
            block = _held((block - self.centre[values]) * self.scale[values])
            place = np.searchsorted(sources, self.source[hinges])
            out[:, hinges] = np.maximum(block[:, place] - self.level[hinges], 0.0)

    def state(self) -> State:
        """The encoding as plain arrays."""
        return State({}, {f.name: getattr(self, f.name) for f in fields(self) if f.init})

    @classmethod
    def from_state(cls, state: State) -> Design:
        """Undo ``state``."""
        width = len(state.arrays["median"])
        free = {"low": np.full(width, -LARGEST), "high": np.full(width, LARGEST)}  # saved without
        arrays: dict[str, Any] = {**free, **state.arrays}
        return cls(**{f.name: arrays[f.name] for f in fields(cls) if f.init})


def _levels(index: int, codes: Array, rows: int) -> list[tuple[int, int, float, float, float]]:
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_LEVELS]
    kept = np.sort(order[counts[order] >= FEWEST_ROWS])
    rest = rows and (len(codes) - counts[kept].sum()) / rows
    levels = [(index, LEVEL, float(found[k]), float(counts[k] / rows), 1.0) for k in kept]
    return [*levels, (index, OTHER, 0.0, float(rest), 1.0)]


def _hinges(index: int, z: Array, bends: int) -> list[tuple[int, int, float, float, float]]:
    """``max(z - knot, 0)``: the slope may change at common values and at quantiles of the rest."""
    if not bends:
        return []
    values, counts = np.unique(z, return_counts=True)
    common = values[counts * (bends + 1) > len(z)]
    rest = z[~np.isin(z, common)]
    shares = np.arange(1, bends + 1) / (bends + 1)
    if len(rest) >= FEWEST_ROWS * bends:
        common = np.r_[common, np.quantile(rest, shares, method="inverted_cdf")]
    knots = np.unique(common)
    found = []
    for knot in knots[(knots > z.min()) & (knots < z.max())]:
        hinge = np.maximum(z - knot, 0.0)
        spread = float(hinge.std())
        found.append((index, HINGE, float(knot), float(hinge.mean()), 1.0 / spread))
    return found


def _held(z: Array) -> Array:
    return np.clip(z, -LIMIT, LIMIT)


def _signed_log(values: Array, unit: npt.ArrayLike) -> Array:
    scale = np.asarray(unit, dtype=np.float64)
    if scale.ndim == 0 and scale == 0:
        return values
    return np.sign(values) * np.log1p(np.abs(values) / scale)


def _log_unit(present: Array) -> float:
    """The unit of the signed logarithm, or 0 where the column has no heavy tail."""
    sizes = np.abs(present[present != 0])
    if len(sizes) < 8:
        return 0.0
    unit = float(np.median(sizes))
    inner = np.clip(present, *_inner(present))
    before, after = abs(_skewness(inner)), abs(_skewness(_signed_log(inner, unit)))
    return unit if before > SKEWED and after < 0.8 * before else 0.0


def _skewness(values: Array) -> float:
    largest = float(np.abs(values).max()) or 1.0
    centred = values / largest - np.mean(values / largest)
    deviation = float(np.sqrt(np.mean(centred**2)))
    if deviation <= 1e-12:
        return 0.0
    centred /= deviation
    return float(np.mean(centred * centred * centred))


def _inner(values: Array) -> tuple[float, float]:
    """The range left when the extreme 0.1 % (at least one value, if rows allow) is taken off."""
    low = float(np.quantile(values, 0.001, method="higher"))
    return low, float(np.quantile(values, 0.999, method="lower"))


def _spread(values: Array) -> tuple[float, float]:
    """Mean and inverse deviation of the values without their extreme 0.1 % on either side."""
    for held in (np.clip(values, *_inner(values)), values):
        mean, deviation = float(held.mean()), float(held.std())
        if deviation > 1e-12 * max(1e-12, abs(mean)):
            return mean, 1.0 / deviation
    return float(values.mean()), 0.0
