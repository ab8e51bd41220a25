"""How each kind of answer is judged: its metrics by name, with intervals, always inside the fold they were tested in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.learn import metrics
from propend.learn.bootstrap import Interval, bootstrap_difference, bootstrap_interval
from propend.learn.metrics import Metric
from propend.learn.strata import within, yes_no_metrics

__all__ = ["Judge", "as_range", "hash_of_tests", "judge"]

F64 = npt.NDArray[np.float64]

_RANKS: Final = (1, 3, 5)


@dataclass(frozen=True)
class Judge:
    """Metrics of one kind of answer; the first of ``headline`` is the task's own.

    >>> kind = judge("yes_no")
    >>> kind.headline[0], kind.higher
    ('auroc', True)
    >>> y, p, fold = np.array([0.0, 1, 0, 1]), np.array([0.5, 0.5, 0.9, 0.9]), np.array([0, 0, 1, 1])
    >>> kind.metrics(y, p, fold)["auroc"]
    0.5
    """

    headline: tuple[str, ...]
    compared: tuple[str, ...]
    """Metrics in which the champion is held against each baseline."""
    loss: str
    """What a champion is chosen by on held-out rows; lower is better."""
    higher: bool
    """Whether more is better in the first of ``headline``."""
    known: Mapping[str, Metric]

    def metrics(
        self, y: F64, p: F64, strata: npt.ArrayLike | None = None, threshold: float | None = None
    ) -> dict[str, float]:
        """Return every metric by name; ``threshold`` is the cut of yes/no answers."""
        if self.headline[0] == "auroc":
            return yes_no_metrics(y, p, threshold=threshold, strata=strata)
        return {
            name: within(metric, *_told(name, y, p), strata=strata)
            for name, metric in self.known.items()
        }

    def interval(self, name: str, y: F64, p: F64, **options: Any) -> Interval:
        """Return a metric with its bootstrap interval (options of ``bootstrap_interval``)."""
        return bootstrap_interval(self.known[name], *_told(name, y, p), **options)

    def champion(
        self,
        candidates: Sequence[tuple[str, str]],
        y: F64,
        scores: Mapping[str, F64],
        **options: Any,
    ) -> str:
        """Return the label of the candidate that wins on held-out rows ``y`` [n] with ``scores`` by label.

        ``candidates`` are (label, model), models from simple to flexible. Settings of one model have no order: the one with
        the lower loss stands for it. From there on a more flexible model must beat the one in hand beyond noise (the paired
        bootstrap interval of the loss, options of ``bootstrap_difference``); else the simpler one stays.

        >>> y, p = np.array([0.0, 1.0] * 50), np.array([0.4, 0.6] * 50)
        >>> scores = {"line": np.full(100, 0.5), "trees": p, "deep trees": p + 0.01 * (2 * y - 1), "blend": p}
        >>> named = [("line", "logistic"), ("trees", "trees"), ("deep trees", "trees"), ("blend", "blending")]
        >>> judge("yes_no").champion(named, y, scores)
        'deep trees'
        """
        best_of: dict[str, str] = {}
        metric = self.known[self.loss]
        loss = {
            label: within(metric, *_told(self.loss, y, scores[label]), strata=None)
            for label, _ in candidates
        }
        for label, model in candidates:
            held = best_of.setdefault(model, label)
            if loss[label] < loss[held]:
                best_of[model] = label
        best, *others = best_of.values()
        for label in others:
            if self.difference(self.loss, y, scores[label], scores[best], **options).high < 0:
                best = label
        return best

    def difference(self, name: str, y: F64, p: F64, other: F64, **options: Any) -> Interval:
        """Return how much higher a metric is for ``p`` than for ``other``, paired."""
        if p.ndim == 1:
            return bootstrap_difference(self.known[name], y, p, other, **options)
        # one of many: each row has its own figure, and the difference of means is a mean
        gain = _row(name, y, p) - _row(name, y, other)
        return bootstrap_interval(metrics.mean, gain, gain, **options)


def judge(answer: str, quantile: float | None = None) -> Judge:
    """Return how an answer (``yes_no``, ``amount``, ``count``, ``which``, ``time``) or a quantile of it is judged."""
    if quantile is not None:
        known: dict[str, Metric] = {
            "pinball": partial(metrics.pinball, quantile=quantile),
            "below": metrics.share_below,
            "mae": metrics.mae,
        }
        return Judge(("pinball", "below"), ("pinball",), "pinball", False, known)
    if answer == "yes_no":
        ranked = ("auroc", "average_precision", "log_loss", "brier", "ece")
        known = {name: getattr(metrics, name) for name in ranked}
        return Judge(ranked, ranked[:2], "log_loss", True, known)
    if answer == "which":
        ranks = tuple(f"top_{k}" for k in _RANKS)
        known = dict.fromkeys(("log_loss", *ranks, "brier"), metrics.mean)
        return Judge(("log_loss", *ranks), ("log_loss", *ranks[:2]), "log_loss", False, known)
    if answer == "time":
        known = {"c_index": metrics.c_index, "mae": metrics.mae_of_time}
        return Judge(("c_index", "mae"), ("c_index", "mae"), "mae", True, known)
    names: tuple[str, ...] = ("rmse", "mae", "bias", "gini")
    more = ("top_decile_lift", "r2", "spearman")
    known = {name: getattr(metrics, name) for name in (*names, *more)}
    if answer == "count":
        known["poisson_deviance"] = metrics.poisson_deviance
        names = (*names, "poisson_deviance")
    return Judge(names, ("rmse", "gini"), "rmse", False, known)


def as_range(interval: Interval) -> dict[str, float]:
    """Return an interval as a card keeps it."""
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
    }


def _told(name: str, y: F64, p: F64) -> tuple[F64, F64]:
    """One of many is judged by a figure per row, of which the metric is the mean."""
    if p.ndim == 1:
        return y, p
    row = _row(name, y, p)
    return row, row


def _row(name: str, y: F64, p: F64) -> F64:
    """Each row's figure for probabilities [n, k] of many answers; ties are ranked by code."""
    codes = y.astype(np.int64)
    own = p[np.arange(len(p)), codes][:, None]
    if name == "log_loss":
        return -np.log(np.clip(own[:, 0], np.finfo(np.float64).eps, 1.0))
    if name == "brier":
        return np.asarray((p**2).sum(axis=1) - 2 * own[:, 0] + 1)
    earlier = np.arange(p.shape[1])[None, :] < codes[:, None]
    rank = (p > own).sum(axis=1) + ((p == own) & earlier).sum(axis=1)
    return (rank < int(name.removeprefix("top_"))).astype(np.float64)


def hash_of_tests(rows: npt.ArrayLike, fold: npt.ArrayLike) -> str:
    """Return a fingerprint of which rows [n] of the data were tested in which fold [n], in whatever order they stand.

    >>> hash_of_tests([4, 2], [0, 1]) == hash_of_tests([2, 4], [1, 0]) != hash_of_tests([4, 2], [1, 0])
    True
    """
    pairs = np.column_stack([np.asarray(rows, np.int64), np.asarray(fold, np.int64)])
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    return hashlib.sha256(np.ascontiguousarray(pairs).tobytes()).hexdigest()[:16]
