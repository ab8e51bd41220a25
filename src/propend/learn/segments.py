"""Metrics by segment: where a model is good, where it is not, and where too few rows say so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.learn import metrics
from propend.learn.bootstrap import bootstrap_interval

__all__ = ["by_segment", "segments_of"]

FEWEST: Final = 20
"""Fewest rows of the rarer answer (or rows, for amounts) a segment needs before a figure is printed."""


def segments_of(
    values: npt.ArrayLike, levels: Sequence[str] | None = None, most: int = 20
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a column as segments: codes [n] (−1: missing) and their names; a number is cut at its fifths.

    Codes of a number are in order of value, those of a category the commonest first.

    >>> segments_of([0.5, 2.0, 3.0, 4.0, 5.0, np.nan])[1]
    ['up to 1.7', 'above 1.7 to 2.6', 'above 2.6 to 3.4', 'above 3.4 to 4.2', 'above 4.2']
    >>> codes, names = segments_of([0, 0, 0, 0, 1, 2, 2, 3, 4, 9])  # whole numbers share no ends
    >>> codes.tolist(), names
    ([0, 0, 0, 0, 1, 1, 1, 2, 3, 3], ['up to 0', '1 to 2', '3', 'above 3'])
    """
    column = np.asarray(values, np.float64)
    missing = np.isnan(column)
    if levels is not None:
        codes = np.where(missing, -1, column).astype(np.int64)
        counts = np.bincount(codes[codes >= 0], minlength=len(levels))
        kept = np.argsort(-counts, kind="stable")[:most]
        place = np.full(len(levels) + 1, -1)
        place[kept] = np.arange(len(kept))
        return place[codes], [levels[int(k)] for k in kept]
    present = column[~missing]
    whole = bool((present == np.floor(present)).all())
    how: Literal["inverted_cdf", "linear"] = "inverted_cdf" if whole else "linear"
    edges = (
        np.unique(np.quantile(present, [0.2, 0.4, 0.6, 0.8], method=how))
        if len(present)
        else np.empty(0)
    )
    codes = np.where(missing, -1, np.searchsorted(edges, np.nan_to_num(column), side="left"))
    return codes.astype(np.int64), _ranges(edges, whole)


def _ranges(edges: npt.NDArray[np.float64], whole: bool) -> list[str]:
    if not len(edges):
        return ["all"]
    ends = [f"{e:,.0f}" if whole else f"{e:.4g}" for e in edges]
    between = [
        f"above {a} to {b}" if not whole else b if e - d == 1 else f"{d + 1:,.0f} to {b}"
        for (d, e), (a, b) in zip(pairwise(edges), pairwise(ends), strict=True)
    ]
    return [f"up to {ends[0]}", *between, f"above {ends[-1]}"]


def by_segment(
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    segment: npt.ArrayLike,
    names: Sequence[str] | None = None,
    *,
    yes_no: bool = True,
    groups: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    draws: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return for each segment its rows, its rate and the metric with their intervals, in the order of the codes.

    ``segment`` [n] holds codes into ``names`` (−1: none). A segment with too few rows says "not enough data"; a ``remark``
    says where the mean prediction lies outside the interval of the rate.
    ``strata`` [n] is the fold each row was tested in.

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
    fold = np.zeros(len(labels)) if strata is None else np.asarray(strata)
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
            interval = bootstrap_interval(
                main, here, scores[rows], groups=owner[rows], strata=fold[rows], n=draws, seed=seed
            )
            entry |= {main.__name__: interval.value, "low": interval.low, "high": interval.high}
            entry |= _rate(here, entry["predicted"], owner[rows], draws, seed)
        found.append(entry)
    return found


def _rate(
    labels: npt.NDArray[np.float64],
    predicted: float,
    owner: npt.NDArray[Any],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return the interval of a segment's rate over whole groups, and a remark where the mean prediction is not in it."""
    interval = bootstrap_interval(metrics.mean, labels, labels, groups=owner, n=draws, seed=seed)
    low, high = interval.low, interval.high
    found: dict[str, Any] = {"rate_low": low, "rate_high": high}
    if not low <= predicted <= high:
        way = "too low" if predicted < low else "too high"
        found["remark"] = f"predictions are {way}: the rate lies in {low:.4g} to {high:.4g}"
    return found
