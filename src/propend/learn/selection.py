"""Which features prove stable: chosen again and again on half of the users, one stretch of time after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.learn.fitting import Rows
from propend.models import catalog

__all__ = ["Selection", "stable_columns"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

DRAWS: Final = 8
KEPT: Final = 0.5
"""Share of the draws in which a feature must beat chance."""
MOST_ROWS: Final = 20_000
SHADOWS: Final = 20
TREES: Final = 60
STRETCHES: Final = 4
ENOUGH: Final = 1_000
"""Fewest rows of a draw for which time is cut: below it a stretch would tell less than the draw already does."""


@dataclass(frozen=True)
class Selection:
    """Columns kept (ascending) and in what share of the draws each column beat chance [d]."""

    columns: I64
    stability: F64
    stretches: int = 1

    def said(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return what a card says of it."""
        order = np.argsort(-self.stability, kind="stable")
        return {
            "kept": len(self.columns),
            "of": len(self.stability),
            "rule": f"gain beyond shuffled columns in at least {KEPT:.0%} of {DRAWS} draws of half the users"
            + (f", from {self.stretches} stretches of time in turn" if self.stretches > 1 else ""),
            "stability": {names[j]: float(self.stability[j]) for j in order if self.stability[j]},
        }


def stable_columns(rows: Rows, answer: Any, seed: int) -> Selection:
    """Return the columns whose use is no accident of the rows (Meinshausen & Bühlmann, JRSS-B 2010).

    ``DRAWS`` times half of the users are drawn, from one of up to ``STRETCHES`` stretches of time in turn where the rows have
    a time and are enough, so that a feature that told only for a while is not kept. Small boosted trees are fitted on their
    rows with ``SHADOWS`` shuffled copies beside the columns (Kursa & Rudnicki 2010), and a column counts where its gain is
    above every copy's. Only the rows given are looked at: pass training rows, and nothing of the test is used. All columns
    are kept where none is stable.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 6))
    >>> y = (X[:, 2] + 0.3 * rng.normal(size=2000) > 0).astype(float)
    >>> stable_columns(Rows(X, y, tuple("abcdef"), {}), "yes_no", 7).columns
    array([2])
    """
    rng = np.random.default_rng(seed)
    owner = np.arange(len(rows)) if rows.users is None else rows.users
    users, code = np.unique(owner, return_inverse=True)
    width = rows.X.shape[1]
    counted, made = np.zeros(width), 0
    stretch, stretches = _stretches(rows)
    loss = {"amount": {"loss": "tweedie"} if rows.y.min() >= 0 else {}}.get(answer, {})
    if answer == "time":
        answer, rows = "yes_no", replace(rows, y=_soon(rows.y))
    for draw in range(DRAWS):
        half = (rng.random(len(users)) < 0.5)[code]
        drawn = np.flatnonzero(half & (stretch == draw % stretches))
        drawn = drawn[rng.permutation(len(drawn))[:MOST_ROWS]]
        if len(drawn) < 2 or rows.y[drawn].min() == rows.y[drawn].max():
            continue
        copied = rng.integers(0, width, SHADOWS)
        X = rows.X[drawn]
        shadows = rng.permuted(X[:, copied], axis=0)  # each by itself: twins would share their gain
        plain = {j: n for j, n in rows.categories.items() if n <= 1_000}
        kinds = plain | {width + i: plain[int(j)] for i, j in enumerate(copied) if int(j) in plain}
        model = catalog.create("trees", answer, trees=TREES, learning_rate=0.1, leaves=16, **loss)
        both = np.column_stack([X, shadows])
        gain = model.fit(both, rows.y[drawn], categories=kinds, seed=seed + draw).importance()
        counted += gain[:width] > gain[width:].max()
        made += 1
    stability = counted / max(made, 1)
    kept = np.flatnonzero(stability >= KEPT)
    return Selection(kept if len(kept) else np.arange(width), stability, stretches)


def _stretches(rows: Rows) -> tuple[I64, int]:
    """Return each row's stretch of time [n] and how many there are; whole moments stay together."""
    one = np.zeros(len(rows), np.int64), 1
    if rows.moments is None:
        return one
    found, at, counts = np.unique(rows.moments, return_inverse=True, return_counts=True)
    most = min(STRETCHES, len(found), len(rows) // (2 * ENOUGH))
    if most < 2:
        return one
    middle = (np.cumsum(counts) - counts / 2) / len(rows)
    stretch = np.unique((middle * most).astype(np.int64), return_inverse=True)[1]
    return stretch[at], int(stretch.max()) + 1


def _soon(y: F64) -> F64:
    """Whether the event came within the median time to it."""
    return ((y > 0) & (y <= np.median(y[y > 0]))).astype(np.float64)
