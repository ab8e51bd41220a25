"""Intervals for one user's score: conformal for amounts, with coverage checked on later rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, ModelError, NotEnoughDataError
from propend.learn.calibration import VennAbers, from_state

__all__ = ["Conformal", "bounder", "bounds", "forward_coverage", "uncertainty"]

F64 = npt.NDArray[np.float64]

PER_BIN: Final = 200
MOST_BINS: Final = 10


@dataclass(frozen=True)
class Conformal:
    """Split-conformal intervals of an amount, by tenths of the score (Vovk, *Mondrian*, 2012; Lei et al. 2018).

    ``edges`` [k − 1] cut the scores; ``low`` and ``high`` [k] are added to the score of each bin. Half of the error is
    allowed on each side. The promise (at least ``level`` of new amounts inside) holds where new rows are like those
    learnt from; :func:`forward_coverage` says how well it held on later ones.
    """

    edges: F64
    low: F64
    high: F64
    level: float
    floor: float
    """Least amount seen: intervals end there."""
    ceiling: float = float("inf")
    """Largest amount there can be."""

    @classmethod
    def fit(cls, y: npt.ArrayLike, p: npt.ArrayLike, level: float = 0.9) -> Self:
        """Learn from amounts ``y`` [n] and scores ``p`` [n] of rows that no model had seen.

        >>> rng = np.random.default_rng(0)
        >>> p = rng.uniform(10, 20, 3000)
        >>> y = p + rng.normal(0, p / 10)
        >>> low, high = Conformal.fit(y, p).apply([10.5, 19.5])
        >>> bool(high[1] - low[1] > 1.4 * (high[0] - low[0]))
        True
        """
        labels, scores = _pair(y, p)
        if not 0 < level < 1:
            raise DataError(f"level must lie between 0 and 1, got {level}")
        alpha = (1 - level) / 2
        least = int(np.ceil(round(1 / alpha, 6)))
        if len(labels) < least:
            raise NotEnoughDataError(
                f"an interval of {level:.0%} needs {least} held-out rows, got {len(labels)}"
            )
        bins = int(np.clip(len(labels) // max(PER_BIN, least), 1, MOST_BINS))
        inner = np.arange(1, bins) / bins
        edges = np.unique(np.quantile(scores, inner)) if bins > 1 else np.empty(0)
        bin_of = np.searchsorted(edges, scores, side="right")
        low, high = np.empty(len(edges) + 1), np.empty(len(edges) + 1)
        everyone = np.sort(labels - scores)
        for b in range(len(low)):
            rest = np.sort((labels - scores)[bin_of == b])
            rest = rest if len(rest) >= least else everyone
            n = len(rest)
            low[b] = rest[max(int(np.floor(alpha * (n + 1))) - 1, 0)]
            high[b] = rest[min(int(np.ceil((1 - alpha) * (n + 1))) - 1, n - 1)]
        return cls(edges, low, high, level, float(labels.min()))

    def apply(self, p: npt.ArrayLike) -> tuple[F64, F64]:
        """Return the lower and upper ends [n] for scores [n]."""
        scores = np.asarray(p, dtype=np.float64)
        bin_of = np.searchsorted(self.edges, scores, side="right")
        low = np.maximum(scores + self.low[bin_of], self.floor)
        return low, np.clip(scores + self.high[bin_of], low, self.ceiling)

    def state(self) -> dict[str, Any]:
        """JSON values that ``from_state`` reads back."""
        return {
            "edges": self.edges.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "level": self.level,
            "floor": self.floor,
            **({"ceiling": self.ceiling} if np.isfinite(self.ceiling) else {}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Undo ``state``; raises ``ModelError`` where something is missing."""
        try:
            edges, low, high = (
                np.asarray(state[k], dtype=np.float64) for k in ("edges", "low", "high")
            )
            ceiling = float(state.get("ceiling", np.inf))
            return cls(edges, low, high, float(state["level"]), float(state["floor"]), ceiling)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the saved intervals are damaged: {error}") from None


def forward_coverage(
    folds: Sequence[tuple[F64, F64]], level: float = 0.9
) -> dict[str, float] | None:
    """Return the share of each later fold's amounts inside intervals learnt on the folds before it, and their mean width.

    ``folds`` are (amounts, scores) out of time, oldest first; ``None`` where there is only one or too few rows.

    >>> rng = np.random.default_rng(1)
    >>> folds = [(p + rng.normal(size=2000), p) for p in rng.uniform(0, 9, (3, 2000))]
    >>> round(forward_coverage(folds)["coverage"], 2)
    0.9
    """
    inside, width = [], []
    for k in range(1, len(folds)):
        y, p = (np.concatenate([fold[i] for fold in folds[:k]]) for i in (0, 1))
        try:
            low, high = Conformal.fit(y, p, level).apply(folds[k][1])
        except NotEnoughDataError:
            continue
        inside.append((folds[k][0] >= low) & (folds[k][0] <= high))
        width.append(high - low)
    if not inside:
        return None
    return {
        "level": level,
        "coverage": float(np.concatenate(inside).mean()),
        "width": float(np.concatenate(width).mean()),
        "rows": int(sum(map(len, inside))),
    }


def uncertainty(
    answer: str, folds: Sequence[tuple[F64, F64]], level: float = 0.9
) -> dict[str, Any]:
    """Return what a card keeps to give one user's interval: Venn-Abers for yes/no, conformal for amounts.

    ``folds`` are (labels, scores) out of time, oldest first; the scores are those of the model that serves, through its
    calibration, so that the interval is on the scale of what it is asked for. Times are watched for a whole horizon: minus
    the horizon where nothing came, which is the time waited.
    """
    if answer == "time":
        folds = [(np.abs(waited), scores) for waited, scores in folds]
    y, p = (np.concatenate([fold[i] for fold in folds]) for i in (0, 1))
    if answer == "yes_no":
        fitted = VennAbers().fit(p, y)
        low, high = _around(p, *fitted.bounds(p))
        return {"kind": fitted.name, "state": fitted.state(), "width": float((high - low).mean())}
    try:
        learnt = Conformal.fit(y, p, level)
    except NotEnoughDataError as error:
        return {"kind": "none", "why": str(error)}
    if answer == "time":
        learnt = replace(learnt, ceiling=float(y.max()))
    return {
        "kind": "conformal",
        "state": learnt.state(),
        "forward": forward_coverage(folds, level),
    }


def bounds(kept: dict[str, Any], p: npt.ArrayLike) -> tuple[F64, F64]:
    """Return the interval [n] around scores from what :func:`uncertainty` kept; NaN where nothing was.

    Venn-Abers tells where the truth lies for such scores without looking at the score itself, and may miss it; widened
    to hold it the interval covers no less, and says by its width how far the two disagree.

    >>> kept = uncertainty("yes_no", [(np.array([0.0, 1.0] * 50), np.array([0.2, 0.8] * 50))])
    >>> low, high = bounds(kept, [0.2, 0.8])
    >>> bool(low[0] < 0.02 and high[0] == 0.2 and low[1] == 0.8 and high[1] > 0.98)
    True
    """
    return bounder(kept)(np.asarray(p, dtype=np.float64))


def bounder(kept: dict[str, Any]) -> Callable[[npt.ArrayLike], tuple[F64, F64]]:
    """Return :func:`bounds` of what was kept as a function of scores, to be asked often."""
    if kept.get("kind") == VennAbers.name:
        fitted = from_state(kept["state"])
        assert isinstance(fitted, VennAbers)
        ends: Callable[[npt.ArrayLike], tuple[F64, F64]] = fitted.bounds
    elif kept.get("kind") == "conformal":
        ends = Conformal.from_state(kept["state"]).apply
    else:
        return lambda p: (np.full(np.shape(p), np.nan), np.full(np.shape(p), np.nan))
    return lambda p: _around(np.asarray(p, dtype=np.float64), *ends(p))


def _around(p: F64, low: F64, high: F64) -> tuple[F64, F64]:
    """Return an interval that holds the score, too."""
    return np.minimum(low, p), np.maximum(high, p)


def _pair(y: npt.ArrayLike, p: npt.ArrayLike) -> tuple[F64, F64]:
    labels, scores = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError(
            f"amounts and scores must be of one length, got {labels.shape} and {scores.shape}"
        )
    if not (np.isfinite(labels).all() and np.isfinite(scores).all()):
        raise DataError("amounts and scores must be finite")
    return labels, scores
