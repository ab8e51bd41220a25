"""One series of numbers: seasonality removed, odd values and changes of level, each with a controlled false-alarm rate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Decomposed", "anomalies", "changes", "contribution", "decompose"]

F64 = npt.NDArray[np.float64]
DRAWS: Final = 400
PHI: Final = np.arange(0.0, 0.96, 0.05)
"""Autocorrelations from one step to the next that are told apart."""
WARM: Final = 40
"""Values after which a simulated series has forgotten its start."""
LEAST: Final = 5
"""Fewest values of a level."""


@dataclass(frozen=True)
class Decomposed:
    """``x`` on the scale on which noise is even: ``scaled = trend + seasonal + rest`` [n]; ``period`` 1 means no season."""

    scaled: F64
    trend: F64
    seasonal: F64
    rest: F64
    period: int
    root: bool

    @property
    def adjusted(self) -> F64:
        """The series with its seasonality taken out, in its own unit."""
        return self.back(self.scaled - self.seasonal)

    @property
    def expected(self) -> F64:
        """Trend and seasonality, in the series' own unit."""
        return self.back(self.trend + self.seasonal)

    def back(self, y: F64) -> F64:
        """Return values of the even scale in the series' own unit."""
        return np.maximum(np.maximum(y, 0.0) ** 2 - 0.375, 0.0) if self.root else y


def decompose(x: npt.ArrayLike, period: int = 7) -> Decomposed:
    """Split a series into a running median, a season of ``period`` steps, and the rest.

    Series that are nowhere negative are taken as √(x + 3/8), on which counts have even noise (Anscombe 1948). A season
    needs four whole periods, else there is none. Steps: smooth over a period, take the median of each phase, smooth again.

    >>> d = decompose(np.tile([9.0, 9, 9, 9, 9, 25, 25], 8))
    >>> d.period, bool(abs(d.rest).max() < 0.6), bool(np.ptp(d.adjusted[7:-7]) < 3)
    (7, True, True)
    """
    values = np.asarray(x, np.float64)
    root = bool(len(values)) and bool((values >= 0).all())
    y = np.sqrt(values + 0.375) if root else values
    period = period if len(y) >= 4 * period else 1
    seasonal = np.zeros_like(y)
    if period > 1:
        seasonal = _season(y[None], period)[0]
    if not len(y):
        return Decomposed(y, y, y, y, 1, root)
    trend = _running_median((y - seasonal)[None], _width(len(y), period))[0]
    return Decomposed(y, trend, seasonal, y - seasonal - trend, period, root)


def _width(n: int, period: int) -> int:
    """Return the odd width of the running median: two periods, at least 7."""
    return min(max(7, 2 * period + 1), n if n % 2 else n - 1) if n > 2 else 1


def _season(y: F64, period: int) -> F64:
    """Return the seasonal part of each row [draws, n]: medians by phase around a mean over whole periods."""
    half = period // 2
    padded = np.pad(y, ((0, 0), (half, period - 1 - half)), mode="reflect")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, period, axis=1).mean(axis=2)
    rest = y - smooth
    phases = np.stack([np.median(rest[:, p::period], axis=1) for p in range(period)], axis=1)
    phases -= phases.mean(axis=1, keepdims=True)
    return np.tile(phases, (1, -(-y.shape[1] // period)))[:, : y.shape[1]]


def _running_median(y: F64, width: int) -> F64:
    half = width // 2
    padded = np.pad(y, ((0, 0), (half, half)), mode="reflect") if half else y
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=1), axis=2)


def _spread(rest: F64) -> Any:
    """Return a robust standard deviation of each row; 0 where it cannot be told."""
    return 1.4826 * np.median(np.abs(rest), axis=-1)


def _autoregressive(noise: F64, phi: float) -> F64:
    """Return y[t] = φ y[t − 1] + noise[t] of each row, less the first ``WARM`` values.

    >>> _autoregressive(np.ones((1, WARM + 2)), 0.0).tolist()
    [[1.0, 1.0]]
    """
    from scipy.signal import lfilter

    y: F64 = lfilter([1.0], [1.0, -phi], noise, axis=1)[:, WARM:]
    return y


def _echo(rest: F64) -> F64:
    """Return each row's correlation with itself a step later; values beyond three spreads are drawn in."""
    edge = 3 * _spread(rest)[:, None]
    r = np.where(edge > 0, np.clip(rest, -edge, edge), rest)
    r = r - r.mean(axis=1, keepdims=True)
    found: F64 = (r[:, 1:] * r[:, :-1]).sum(axis=1) / np.maximum((r**2).sum(axis=1), 1e-300)
    return found


@lru_cache(maxsize=256)
def _echoes(n: int, least: int) -> F64:
    """Return the median :func:`_echo` after :func:`_split` of simulated series, by the φ of ``PHI`` they were made with.

    Short series show less of their autocorrelation than there is; read backwards, this is the correction.
    """
    rng = np.random.default_rng(n)
    noise = rng.normal(size=(200, n + WARM))
    found = [np.median(_echo(_split(_autoregressive(noise, p), least)[2])) for p in PHI.tolist()]
    return np.maximum.accumulate(found) + 1e-9 * np.arange(len(PHI))


def _split(y: F64, least: int) -> tuple[npt.NDArray[np.intp], F64, F64]:
    """Return for each row the best split, its size, and what is left of the row without the two levels."""
    at, size = _cusum(y, least)
    n = y.shape[1]
    first = np.arange(n) < at[:, None]
    one = (y * first).sum(axis=1) / at
    other = (y * ~first).sum(axis=1) / (n - at)
    return at, size, y - np.where(first, one[:, None], other[:, None])


def _sized(size: F64, rest: F64, least: int) -> tuple[F64, F64]:
    """Return each row's split size in units of its long-run spread, and its φ."""
    phi = np.interp(_echo(rest), _echoes(rest.shape[1], least), PHI)
    innovation = (rest[:, 1:] - phi[:, None] * rest[:, :-1]).std(axis=1)
    return size * (1 - phi) / np.maximum(innovation, 1e-300), phi


@lru_cache(maxsize=64)
def _limit(n: int, period: int, rate: float, phi: float, seed: int) -> float:
    """Return the size of the largest |z| that a quiet series of this length and φ exceeds with probability ``rate``."""
    draws = max(DRAWS, int(10 / rate))
    y = _autoregressive(np.random.default_rng(seed).normal(size=(draws, n + WARM)), phi)
    if period > 1:
        y = y - _season(y, period)
    rest = y - _running_median(y, _width(n, period))
    z = np.abs(rest) / np.maximum(_spread(rest), 1e-12)[:, None]
    return float(np.quantile(z.max(axis=1), 1 - rate))


def anomalies(d: Decomposed, rate: float = 0.05, seed: int = 7) -> list[dict[str, Any]]:
    """Return the positions that stand out from trend and season: value, expected value and z.

    A quiet series (even normal noise, each value an echo of the one before as strong as this series') gives any alarm at all
    with probability ``rate``: the limit is the quantile of the largest |z| over simulated quiet series that went through the
    same steps. Fewer than 14 values give none.

    >>> x = np.random.default_rng(0).poisson(100, 60).astype(float); x[30] = 190
    >>> [a["at"] for a in anomalies(decompose(x))]
    [30]
    """
    n = len(d.rest)
    spread = float(_spread(d.rest)) if n else 0.0
    if n < 14 or spread == 0:
        return []
    z = d.rest / spread
    y = (d.scaled - d.seasonal)[None]
    _, size, rest = _split(y, LEAST)
    phi = round(20 * float(_sized(size, rest, LEAST)[1][0])) / 20
    limit = _limit(n, d.period, rate, phi, seed)
    value, expected = d.back(d.scaled), d.expected
    return [
        {"at": int(i), "value": float(value[i]), "expected": float(expected[i]), "z": float(z[i])}
        for i in np.flatnonzero(np.abs(z) > limit)
    ]


def changes(
    d: Decomposed, rate: float = 0.05, least: int = LEAST, draws: int = 999, seed: int = 7
) -> list[dict[str, Any]]:
    """Return the positions at which the level changed, by binary segmentation with bootstrap tests.

    A split is kept where its CUSUM, in units of the segment's long-run spread, is larger than in all but a share ``rate`` /
    2^depth of series without a change, so these give any with probability ``rate``. Series without a change are first-order
    autoregressive with the segment's own φ and its own innovations, drawn anew (sieve bootstrap, Bühlmann 1997), and each is
    measured by its own φ. A slow drift is no step: it looks like a strong echo, and is seldom found.

    >>> x = np.r_[np.full(30, 50.0), np.full(30, 80.0)] + np.random.default_rng(1).normal(size=60)
    >>> [c["at"] for c in changes(decompose(x))]
    [30]
    """
    y = d.scaled - d.seasonal
    rng = np.random.default_rng(seed)
    draws = max(draws, int(20 / rate))  # enough to tell a share of rate / 8
    found: list[tuple[int, float]] = []
    queue = [(0, len(y), 0)]
    while queue:
        low, high, depth = queue.pop(0)
        if high - low < 2 * least:
            continue
        segment = y[low:high]
        if np.ptp(segment) <= 1e-9 * np.abs(segment).max():  # all equal: what is left is rounding
            continue
        at, size, rest = _split(segment[None], least)
        sized, phi = _sized(size, rest, least)
        innovation = rest[0, 1:] - phi[0] * rest[0, :-1]
        drawn = rng.choice(innovation - innovation.mean(), (draws, high - low + WARM))
        _, noise, left = _split(_autoregressive(drawn, float(phi[0])), least)
        p = (1 + int((_sized(noise, left, least)[0] >= sized[0] * (1 - 1e-12)).sum())) / (draws + 1)
        if p <= rate / 2**depth:
            split = low + int(at[0])
            found.append((split, p))
            queue += [(low, split, depth + 1), (split, high, depth + 1)]
    if not found:
        return []
    edges = [0, *sorted(s for s, _ in found), len(y)]
    level = [float(d.back(np.array([y[a:b].mean()]))[0]) for a, b in itertools.pairwise(edges)]
    p_of = dict(found)
    return [
        {"at": at, "before": level[i], "after": level[i + 1], "p_value": p_of[at]}
        for i, at in enumerate(edges[1:-1])
    ]


def _cusum(y: F64, least: int) -> tuple[npt.NDArray[np.intp], F64]:
    """Return for each row the best split and the scaled difference of means there."""
    n = y.shape[1]
    k = np.arange(least, n - least + 1)
    sums = np.cumsum(y - y.mean(axis=1, keepdims=True), axis=1)[:, k - 1]
    size = np.abs(sums) / np.sqrt(k * (n - k) / n)
    best = size.argmax(axis=1)
    return k[best], size[np.arange(len(y)), best]


def contribution(
    weight_before: npt.ArrayLike,
    total_before: npt.ArrayLike,
    weight_after: npt.ArrayLike,
    total_after: npt.ArrayLike,
) -> dict[str, F64]:
    """Split the change of a mean over groups into mix and rate, exactly: their sums are the change of the overall mean.

    Group g has weight w (events) and total t (so its rate is t / w). ``mix`` is what moved because the groups' shares did,
    ``rate`` what moved inside the groups; the interaction is split evenly (midpoint weights). A group that is missing on
    one side takes its rate from the other.

    >>> c = contribution([50, 50], [50, 150], [25, 75], [25, 225])
    >>> c["mix"].tolist(), c["rate"].tolist()
    ([0.3125, 0.1875], [0.0, 0.0])
    """
    w0, t0, w1, t1 = (
        np.asarray(v, np.float64) for v in (weight_before, total_before, weight_after, total_after)
    )
    r0 = np.divide(t0, w0, out=np.full_like(w0, np.nan), where=w0 > 0)
    r1 = np.divide(t1, w1, out=np.full_like(w1, np.nan), where=w1 > 0)
    r0, r1 = np.where(np.isnan(r0), r1, r0), np.where(np.isnan(r1), r0, r1)
    r0, r1 = np.nan_to_num(r0), np.nan_to_num(r1)
    s0, s1 = w0 / max(w0.sum(), 1e-300), w1 / max(w1.sum(), 1e-300)
    middle = ((s0 * r0).sum() + (s1 * r1).sum()) / 2
    return {
        "mix": (s1 - s0) * ((r0 + r1) / 2 - middle),
        "rate": (r1 - r0) * (s0 + s1) / 2,
    }
