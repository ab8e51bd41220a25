"""The card of a trained task: every figure with its protocol, its interval and the trivial rules beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.features.words import in_words
from propend.learn import calibration, metrics
from propend.learn.explain import deletion_test, remark_on_reasons
from propend.learn.fitted import Fitted
from propend.learn.intervals import uncertainty
from propend.learn.judge import Judge, as_range
from propend.learn.lift import lift_by_decile
from propend.learn.power import stated, verdict
from propend.learn.rivals import read_model
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame
from propend.tasks.task import Task

__all__ = ["Evidence", "card_of", "told"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """What the forward tests gave: rows one under the other, oldest fold first."""

    truth: F64
    users: I64
    fold: I64
    champion: F64
    """Scores of the model that had been chosen before each fold."""
    by_model: dict[str, F64]
    thresholds: dict[str, float | None]
    train_rows: list[int]
    candidates: list[str]
    baselines: list[str]
    chosen: list[str]
    served: F64
    """Scores of the model that serves, refitted inside each fold, through the calibration that serves."""
    seconds: dict[str, float]
    """What a fit of each model on a fold's training rows took on average, by the clock."""


def card_of(
    frame: Frame,
    task: Task,
    plan: Plan,
    fitted: Fitted,
    evidence: Evidence,
    kind: Judge,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return every figure of a trained task."""
    y, p, fold = evidence.truth, evidence.champion, evidence.fold
    options = {"groups": evidence.users, "strata": fold, "n": draws, "seed": seed}
    count = len(evidence.train_rows)

    def judged(name: str) -> dict[str, float]:
        return kind.metrics(y, evidence.by_model[name], fold, evidence.thresholds[name])

    def above(answers: F64) -> int | None:
        """Rows that carry what is asked about; the codes of one of many carry none more than another."""
        return None if task.answer == "which" else int((answers > 0).sum())

    card: dict[str, Any] = {
        "task": task.name,
        "ask": task.ask,
        "title": task.title,
        "answer": task.answer,
        "rows": len(frame),
        "users": len(np.unique(frame.user)),
        "positives": above(frame.y),
        "folds": count,
        "protocol": plan.protocol,
        "data_hash": frame.data_hash(),
        "seed": seed,
        "sample": frame.share,
        "champion": fitted.name,
        "champions": evidence.chosen,
        "calibration": fitted.calibrator.name,
        "metrics": kind.metrics(y, p, fold, fitted.threshold),
        "intervals": {n: as_range(kind.interval(n, y, p, **options)) for n in kind.headline},
        "baseline": {name: judged(name) for name in evidence.baselines},
        "margins": {
            base: {
                n: as_range(kind.difference(n, y, p, evidence.by_model[base], **options))
                for n in kind.compared
            }
            for base in evidence.baselines
        },
        "models": {name: judged(name) for name in evidence.candidates},
        "seconds": evidence.seconds,
        "by_fold": [
            {
                "cutoff": int(plan.folds[k - count].test),
                "train_rows": evidence.train_rows[k],
                "rows": int((fold == k).sum()),
                "positives": above(y[fold == k]),
                **kind.metrics(y[fold == k], p[fold == k], None, fitted.threshold),
            }
            for k in range(count)
        ],
        "drivers": _drivers(fitted, frame),
        "tested": len(y),
        "tested_positives": above(y),
        "remark": fitted.model.remark,
    }
    if p.ndim == 1 and task.answer != "time":
        card["lift"] = _table(lift_by_decile(y, p, strata=fold))
    if p.ndim == 1:
        by_fold = [(y[fold == k], evidence.served[fold == k]) for k in range(count)]
        card["uncertainty"] = uncertainty(task.answer, by_fold)
    said = remark_on_reasons(fitted.model, _read(fitted, frame, 1)[:1])
    if said:
        card["reasons"] = said
    deleted = _deletion(fitted, frame, seed)
    if deleted is not None:
        card["deletion"] = deleted
    card["verdict"] = verdict(card)
    card["power"] = stated(card, kind.headline[0])
    if task.answer == "yes_no":
        card["reliability"] = _table(calibration.reliability(p, y))
    return card


def told(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card for people and programs to read: without the state that only makes each user's interval.

    >>> told({"rows": 3, "uncertainty": {"kind": "venn_abers", "state": {"x": [0.1]}, "width": 0.1}})
    {'rows': 3, 'uncertainty': {'kind': 'venn_abers', 'width': 0.1}}
    """
    kept = dict(card)
    if "uncertainty" in kept:
        kept["uncertainty"] = {k: v for k, v in kept["uncertainty"].items() if k != "state"}
    return kept


def _table(table: Any) -> dict[str, list[float]]:
    return {name: [float(v) for v in getattr(table, name)] for name in table.__dataclass_fields__}


def _read(fitted: Fitted, frame: Frame, most: int) -> F64:
    """Return about so many rows of a frame in the columns that the model reads."""
    place = {name: j for j, name in enumerate(frame.names)}
    return frame.X[:: max(1, len(frame) // most)][:, [place[str(f)] for f in fitted.features]]


def _deletion(fitted: Fitted, frame: Frame, seed: int) -> dict[str, float] | None:
    """How much further scores move when the features a row's reasons name are replaced, than when others are."""
    try:
        return deletion_test(fitted.model, _read(fitted, frame, 1_000), rows=500, seed=seed)
    except ModelError:  # a model without contributions gives no reasons to test
        return None


def _drivers(fitted: Fitted, frame: Frame, most: int = 15) -> list[dict[str, Any]]:
    """Return the features that matter most, with the direction in which each moves the score."""
    importance = fitted.model.importance()
    total = float(importance.sum()) or 1.0
    names = tuple(map(str, fitted.features))
    # a time is explained period by period, a forest by its deep trees
    deep = read_model(fitted.name)[0] in ("random_forest", "extra_trees")
    slow = fitted.task.answer == "time" or deep
    sample = _read(fitted, frame, 500 if slow else 5_000)
    try:
        parts = fitted.model.contributions(sample)
    except Exception:  # a model without contributions still has importances
        parts = None
    found = []
    for j in np.argsort(-importance, kind="stable")[:most]:
        if importance[j] <= 0:
            break
        direction = 0.0
        if parts is not None and j not in fitted.categories:
            there = ~np.isnan(sample[:, j])
            if there.sum() > 2 and sample[there, j].std() > 0 and parts[there, j].std() > 0:
                direction = float(metrics.spearman(parts[there, j], sample[there, j]))
        found.append(
            {
                "feature": names[j],
                "words": in_words(fitted.features[j]),
                "share": float(importance[j]) / total,
                "direction": direction,
            }
        )
    return found
