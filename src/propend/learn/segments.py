"""Metrics by segment: where a model is good, where it is not, and where too few rows say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.learn import metrics

__all__ = ["by_segment"]

FEWEST: Final = 20
"""Fewest rows of the rarer answer (or rows, for amounts) a segment needs before a figure is printed."""


def by_segment(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    segment: npt.ArrayLike,
    names: Sequence[str] | None = None,
    *,
    yes_no: bool = True,
    groups: npt.ArrayLike | None = None,
    draws: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return for each segment its rows, its rate, and the metric with an interval, largest segment first.

    ``segment`` [n] holds codes into ``names`` (−1: none). A segment with too few rows says "not enough data".

    >>> y = [0, 1] * 60
    >>> p = [0.2, 0.8] * 60
    >>> rows = by_segment(y, p, [0] * 100 + [1] * 20, ["new", "old"], draws=10)
    >>> [(r["segment"], r.get("auroc"), r.get("note", "")) for r in rows]
    [('new', 1.0, ''), ('old', None, 'not enough data: 10 of the rarer answer, 20 are needed')]
    """
    labels, scores = np.asarray(y, np.float64), np.asarray(p, np.float64)
    codes = np.asarray(segment, np.int64)
    if not labels.shape == scores.shape == codes.shape:
        raise DataError("labels, scores and segments must be of one length")
    owner = np.arange(len(labels)) if groups is None else np.asarray(groups)
    main = metrics.auroc if yes_no else metrics.rmse
    found = []
    for code in np.unique(codes[codes >= 0]):
        rows = codes == code
        here = labels[rows]
        rare = int(min((here > 0).sum(), (here <= 0).sum())) if yes_no else int(rows.sum())
        entry: dict[str, Any] = {
            "segment": str(code) if names is None else names[code],
            "rows": int(rows.sum()),
            "rate": float(here.mean()),
            "predicted": float(scores[rows].mean()),
        }
        if rare < FEWEST:
            what = "of the rarer answer" if yes_no else "rows"
            entry["note"] = f"not enough data: {rare} {what}, {FEWEST} are needed"
        else:
            interval = metrics.bootstrap_interval(
                main, here, scores[rows], groups=owner[rows], n=draws, seed=seed
            )
            entry |= {main.__name__: interval.value, "low": interval.low, "high": interval.high}
        found.append(entry)
    return sorted(found, key=lambda e: -e["rows"])
