"""Intervals and tests for shares, and control of false discoveries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["benjamini_hochberg", "newcombe", "two_shares", "two_shares_of_units", "wilson"]

F64 = npt.NDArray[np.float64]


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| ≤ z) = level.

    >>> round(normal_quantile(0.95), 4)
    1.96
    """
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share; (0, 1) where nothing was tried.

    Source: Wilson, *Probable inference*, JASA 22, 1927; recommended by Brown, Cai and DasGupta (2001).

    >>> tuple(round(x, 4) for x in wilson(8, 10))
    (0.4902, 0.9433)
    """
    if trials <= 0:
        return 0.0, 1.0
    z = normal_quantile(level)
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes <= 0 else (middle - half) / scale
    high = 1.0 if successes >= trials else (middle + half) / scale
    return max(0.0, low), min(1.0, high)


def newcombe(a: float, n: float, b: float, m: float, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of the difference a/n − b/m (Newcombe 1998, method 10: square-and-add of Wilson's).

    >>> tuple(round(x, 4) for x in newcombe(56, 70, 48, 80))
    (0.0524, 0.3339)
    """
    if n <= 0 or m <= 0:
        return -1.0, 1.0
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = wilson(a, n, level), wilson(b, m, level)
    down = math.hypot(p - low_p, high_q - q)
    up = math.hypot(high_p - p, q - low_q)
    return p - q - down, p - q + up


def two_shares(a: int, n: int, b: int, m: int, level: float = 0.95) -> dict[str, Any]:
    """Compare two shares: difference with an interval, and a p-value (Fisher's exact test below 5 expected, else chi-square).

    >>> round(two_shares(56, 70, 48, 80)["p_value"], 4)
    0.008
    """
    from scipy import stats

    low, high = newcombe(a, n, b, m, level)
    found: dict[str, Any] = {
        "difference": (a / n - b / m) if n and m else math.nan,
        "low": low,
        "high": high,
        "p_value": 1.0,
        "test": "none",
    }
    total, hits = n + m, a + b
    if not n or not m or hits in (0, total):
        return found
    expected = min(n, m) * min(hits, total - hits) / total
    if expected < 5:
        found["test"] = "Fisher"
        found["p_value"] = float(stats.fisher_exact(np.array([[a, n - a], [b, m - b]]))[1])
    else:
        found["test"] = "chi-square"
        pooled = hits / total
        z = (a / n - b / m) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        found["p_value"] = float(2 * stats.norm.sf(abs(z)))
    return found


def two_shares_of_units(
    unit: npt.ArrayLike, inside: npt.ArrayLike, hit: npt.ArrayLike, level: float = 0.95
) -> dict[str, Any]:
    """Compare the share of hits among the rows inside with that of the other rows, where a unit may have rows on both sides.

    The variance is that of the units' linearised contributions (Liang and Zeger, Biometrika 73, 1986), so rows of one unit
    need not be independent; the test is normal.

    >>> found = two_shares_of_units([0, 0, 1, 1, 2, 2], [1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0])
    >>> round(found["difference"], 3), round(found["p_value"], 3)
    (0.333, 0.221)
    """
    from scipy import stats

    side, y = np.asarray(inside, np.bool_), np.asarray(hit, np.float64)
    n, m = int(side.sum()), int((~side).sum())
    none = {"difference": math.nan, "low": -1.0, "high": 1.0, "p_value": 1.0, "test": "none"}
    if not n or not m:
        return none
    a, b = float(y[side].mean()), float(y[~side].mean())
    part = np.where(side, (y - a) / n, -(y - b) / m)
    per_unit = np.bincount(np.unique(np.asarray(unit), return_inverse=True)[1], part)
    spread = math.sqrt(float((per_unit**2).sum()))
    if spread == 0:
        return {**none, "difference": a - b}
    half = normal_quantile(level) * spread
    return {
        "difference": a - b,
        "low": max(-1.0, a - b - half),
        "high": min(1.0, a - b + half),
        "p_value": float(2 * stats.norm.sf(abs(a - b) / spread)),
        "test": "by units",
    }


def benjamini_hochberg(p: npt.ArrayLike) -> F64:
    """Return q-values: the false-discovery rate at which each p-value would still be called.

    Source: Benjamini and Hochberg, JRSS B 57, 1995.

    >>> benjamini_hochberg([0.01, 0.02, 0.03, 0.5]).round(3).tolist()
    [0.04, 0.04, 0.04, 0.5]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    count = len(values)
    scaled = values[order] * count / np.arange(1, count + 1)
    q = np.empty(count)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
