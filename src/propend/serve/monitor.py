"""How good the live answers were, once the truth is known; what drifts, what lags, and what must be fitted again.

Labels join the prediction log when a prediction is older than its task's horizon; what decisions earned is in
:mod:`propend.serve.profit`. Drift compares the features of now
with those at the moment the model was made: the population stability index (Siddiqi 2006) says how much, a
Kolmogorov–Smirnov test with the false discovery rate held at 5 % (Benjamini and Hochberg 1995) says whether it is more
than chance. The rule for fitting again is stated in ``RULE`` and printed with every verdict.
"""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError, PropendError
from propend.events.clock import wall
from propend.events.durable import replace_text
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn import metrics
from propend.learn.bootstrap import bootstrap_interval
from propend.learn.registry import plain
from propend.learn.train import Fitted
from propend.names import DAY, MICROSECONDS
from propend.pipeline.workspace import Workspace
from propend.serve.inbox import open_inbox
from propend.serve.log import AnswerLog, Predicted
from propend.serve.move import moved_to
from propend.serve.profit import outcomes, profit
from propend.tasks.frame import build_frame

__all__ = ["RULE", "benjamini_hochberg", "matured", "monitor", "psi", "volume"]

F64 = npt.NDArray[np.float64]
RULE: Final = (
    "fit again where the interval of the current version's live AUROC (for amounts: Gini) lies below the card's, or where more than a quarter of the "
    "model's ten strongest features drift (PSI > 0.2 and q < 0.05); promote only what has a lower log loss on the last forward rows"
)
LEAST: Final = 30
"""Fewest matured positives and negatives that are judged."""


def psi(reference: F64, now: F64, bins: int = 10) -> float:
    """Return the population stability index of two samples over the reference's deciles; missing is a bin of its own.

    Below 0.1 nothing moved, above 0.2 it did (the rule of thumb of the credit trade).

    >>> rng = np.random.default_rng(7)
    >>> psi(rng.normal(size=5_000), rng.normal(size=5_000)) < 0.02 < 0.2 < psi(rng.normal(size=5_000), rng.normal(1, 1, 5_000))
    True
    """
    known = reference[~np.isnan(reference)]
    edges = (
        np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1]))
        if len(known)
        else np.zeros(0)
    )

    def shares(values: F64) -> F64:
        there = values[~np.isnan(values)]
        # an edge belongs to the bin below it, so that a heap of equal values stays in one bin
        counts = np.bincount(np.searchsorted(edges, there, side="left"), minlength=len(edges) + 1)
        every = np.append(counts, len(values) - len(there)) + 0.5
        return every / every.sum()

    a, b = shares(reference), shares(now)
    return float(((b - a) * np.log(b / a)).sum())


def benjamini_hochberg(p: F64) -> F64:
    """Return q-values: the false discovery rate at which each p-value would just be called.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5])).round(3).tolist()
    [0.04, 0.053, 0.053, 0.5]
    """
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


def matured(
    store: Store, schema: Schema, fitted: Fitted, predictions: Sequence[Predicted], until: int
) -> tuple[list[Predicted], F64]:
    """Return the predictions whose horizon has passed, the first of each user and day, with their labels."""
    horizon = fitted.task.horizon.microseconds
    seen: set[tuple[str, int]] = set()
    old: list[Predicted] = []
    for p in predictions:
        key = (p.user, p.at // DAY)
        if p.at + horizon <= until and key not in seen:
            seen.add(key)
            old.append(p)
    labels = outcomes(store, schema, fitted.task.target, [p.user for p in old], [p.at for p in old])
    known = ~np.isnan(labels)
    return [p for p, k in zip(old, known, strict=True) if k], labels[known]


def monitor(
    workspace: Workspace,
    *,
    retrain: bool = False,
    folds: int = 3,
    period: int = 7 * DAY,
    now: int | None = None,
) -> dict[str, Any]:
    """Return the whole report: each task's live quality by period, drift and verdict; volume, lag and notes.

    With ``retrain`` the rule is carried out. The report is kept in the workspace's folder ``live`` and shown in the page of
    the last run (section "Live answers").
    """
    store, schema = workspace.store, workspace.schema
    moment = now or schema.last + 1
    path = workspace.folder / "live" / "log.db"
    report: dict[str, Any] = {
        "at": moment,
        "rule": RULE,
        "tasks": [],
        "notes": [],
        "volume": volume(store, moment),
    }
    if not path.exists():
        report["notes"].append("no prediction was given live yet: the log is empty")
    log = AnswerLog(path)
    try:
        current = {e.task: e for e in workspace.registry.entries() if e.current}
        for task in sorted({*log.tasks(), *current}):
            if task in current:
                report["tasks"].append(
                    _task(workspace, log, task, current[task].version, moment, period)
                )
        report["profit"] = profit(workspace, log, moment, period)
    finally:
        log.close()
    report["lag"] = _lag(workspace, store)
    spikes = [d for d in report["volume"] if d["unusual"]]
    if spikes:
        report["notes"].append(
            f"unusual volume on {len(spikes)} of {len(report['volume'])} days, last on {spikes[-1]['day']}"
        )
    if retrain:
        report["retrained"] = [
            _retrain(workspace, t["task"], folds) for t in report["tasks"] if t["due"]
        ]
    report = plain(report)
    _keep(workspace, report)
    return report


def _keep(workspace: Workspace, report: dict[str, Any]) -> None:
    """Write the report beside the log, and into the page of the last run where there is one."""
    from propend.pipeline.report import render
    from propend.pipeline.run import MONITORED

    text = msgspec.json.format(msgspec.json.encode(report), indent=1).decode()
    replace_text(workspace.folder / MONITORED, text)
    kept = workspace.out / "results.json"
    if kept.is_file():
        results = {**msgspec.json.decode(kept.read_bytes()), "live": report}
        replace_text(kept, msgspec.json.format(msgspec.json.encode(results), indent=1).decode())
        render(results, workspace.out / "report.html")


def _task(
    workspace: Workspace, log: AnswerLog, task: str, version: int, now: int, period: int
) -> dict[str, Any]:
    store, schema = workspace.store, workspace.schema
    fitted = workspace.registry.load(task)
    every = log.predictions(task)
    asked = [p for p in every if p.asked]  # others are not in the task's population
    given = [p for p in asked if p.version == version and not p.shadow]
    report: dict[str, Any] = {
        "task": task, "ask": fitted.task.ask, "version": version, "predictions": len(given), "periods": [], "overall": None, "drift": [],
        "outside": len(every) - len(asked), "others": [],
        "missing_share": float(np.mean([p.missing for p in given]) / max(len(fitted.features), 1)) if given else None,
    }  # fmt: skip
    if fitted.task.answer in ("yes_no", "amount"):
        part, labels = matured(store, schema, fitted, given, now)
        report["matured"] = len(part)
        report["overall"] = _quality(fitted, part, labels)
        report["periods"] = _periods(fitted, part, labels, period)
        for number, shadow in sorted({(p.version, p.shadow) for p in asked} - {(version, 0)}):
            part, labels = matured(
                store, schema, fitted, [p for p in asked if (p.version, p.shadow) == (number, shadow)], now
            )  # fmt: skip
            report["others"].append(
                {"version": number, "shadow": bool(shadow), "matured": len(part), "overall": _quality(fitted, part, labels)}
            )  # fmt: skip
    report["drift"] = _drift(workspace, fitted, now)
    report["due"], report["verdict"] = _verdict(fitted, report)
    return report


def _quality(fitted: Fitted, part: Sequence[Predicted], y: F64) -> dict[str, Any] | None:
    """Return AUROC with its interval and calibration beside the base rate's log loss, or ``None`` where too little matured.

    For amounts: Gini with its interval, and the mean error beside that of always answering the median of what came true.
    """
    positives = int((y > 0).sum())
    if min(positives, len(y) - positives) < LEAST:
        return None
    score = np.array([p.score for p in part])
    groups = np.unique([p.user for p in part], return_inverse=True)[1]
    if fitted.task.answer == "amount":
        interval = bootstrap_interval(metrics.gini, y, score, groups=groups, n=200, seed=7)
        return {
            "rows": len(y), "positives": positives, "gini": interval.value, "gini_low": interval.low, "gini_high": interval.high,
            "mae": metrics.mae(y, score), "baseline_mae": metrics.mae(y, np.full(len(y), np.median(y))),
            "mean_score": float(score.mean()), "rate": float(y.mean()), "card_gini": fitted.card["metrics"].get("gini"),
        }  # fmt: skip
    interval = bootstrap_interval(metrics.auroc, y, score, groups=groups, n=200, seed=7)
    base = np.full(
        len(y), float(fitted.card.get("positives", 0)) / max(float(fitted.card.get("rows", 1)), 1.0)
    )
    return {
        "rows": len(y), "positives": positives, "auroc": interval.value, "auroc_low": interval.low, "auroc_high": interval.high,
        "log_loss": metrics.log_loss(y, score), "baseline_log_loss": metrics.log_loss(y, np.clip(base, 1e-6, 1 - 1e-6)),
        "mean_score": float(score.mean()), "rate": float(y.mean()), "calibration_error": metrics.ece(y, score), "card_auroc": fitted.card["metrics"]["auroc"],
    }  # fmt: skip


def _periods(
    fitted: Fitted, part: Sequence[Predicted], y: F64, period: int
) -> list[dict[str, Any]]:
    """Return quality over time; the baseline ranks everybody alike (AUROC 0.5)."""
    found = []
    at = np.array([p.at // period for p in part], np.int64)
    for number in np.unique(at):
        rows = np.flatnonzero(at == number).tolist()
        quality = _quality(fitted, [part[i] for i in rows], y[rows])
        start = wall(int(number) * period).date().isoformat()
        names = (
            "auroc",
            "log_loss",
            "baseline_log_loss",
            "mean_score",
            "rate",
            "calibration_error",
        )
        figures = {**dict.fromkeys(names), **(quality or {})}
        found.append(
            {
                "from": start,
                "predictions": len(rows),
                "positives": int((y[rows] > 0).sum()),
                "baseline_auroc": 0.5,
                **figures,
            }
        )
    return found


def _drift(
    workspace: Workspace, fitted: Fitted, now: int, most: int = 5_000
) -> list[dict[str, Any]]:
    """Return the features that moved since the model's last test cutoff, worst first."""
    from scipy.stats import ks_2samp

    folds = fitted.card.get("by_fold") or []
    if not folds or not isinstance(folds[-1].get("cutoff"), int) or folds[-1]["cutoff"] >= now:
        return []
    then = int(folds[-1]["cutoff"])
    try:
        frame = build_frame(
            workspace.store,
            workspace.schema,
            workspace.engine,
            fitted.task,
            fitted.features,
            [then, now],
            labels=False,
            most_rows=4 * most,
            more=fitted.beside,
        )
    except NotEnoughDataError:
        return []
    before, after = frame.X[frame.cutoff == then], frame.X[frame.cutoff == now]
    if min(len(before), len(after)) < LEAST:
        return []
    p = np.ones(before.shape[1])
    for j in range(before.shape[1]):
        a, b = (np.nan_to_num(x[:, j], nan=-1e18) for x in (before, after))
        p[j] = ks_2samp(a, b, method="asymp").pvalue
    q = benjamini_hochberg(p)
    weight = fitted.model.importance()
    rank = np.empty(len(weight), np.int64)
    rank[np.argsort(-weight, kind="stable")] = np.arange(len(weight))
    found: list[dict[str, Any]] = [
        {
            "feature": str(fitted.features[j]), "psi": psi(before[:, j], after[:, j]), "p": float(p[j]), "q": float(q[j]), "rank": int(rank[j]) + 1,
            "missing_before": float(np.isnan(before[:, j]).mean()), "missing_now": float(np.isnan(after[:, j]).mean()),
        }
        for j in range(before.shape[1])
    ]  # fmt: skip
    return sorted((f for f in found if f["psi"] > 0.1 and f["q"] < 0.05), key=lambda f: -f["psi"])


def _verdict(fitted: Fitted, report: dict[str, Any]) -> tuple[bool, str]:
    moved = [d for d in report["drift"] if d["rank"] <= 10 and d["psi"] > 0.2]
    overall = report["overall"]
    strongest = min(10, max(len(fitted.features), 1))
    key, name = ("gini", "Gini") if fitted.task.answer == "amount" else ("auroc", "AUROC")
    card = None if overall is None else overall[f"card_{key}"]
    if overall is not None and card is not None and overall[f"{key}_high"] < card:
        return True, f"fit again: live {name} {overall[key]:.3f} is below the card's {card:.3f}"
    if len(moved) > strongest / 4:
        return True, f"fit again: {len(moved)} of the {strongest} strongest features drifted"
    if overall is None:
        return (
            False,
            f"not enough matured predictions to judge ({report.get('matured', 0)}; {LEAST} of each answer are needed)",
        )
    return (
        False,
        f"holds: live {name} {overall[key]:.3f} ({overall[f'{key}_low']:.3f} to {overall[f'{key}_high']:.3f})",
    )


def _retrain(workspace: Workspace, task: str, folds: int) -> dict[str, Any]:
    """Fit a task again; the new version becomes current only where its log loss on the last forward rows is lower.

    It is judged by the model that was fitted before those rows; the old one may have learnt from them, which favours it.
    """
    registry = workspace.registry
    old_version = next(e.version for e in registry.entries() if e.task == task and e.current)
    old = registry.load(task)
    try:
        fresh = workspace.predict(task, folds=folds, promote=False)
    except PropendError as error:
        return {"task": task, "promoted": False, "why": str(error)}
    assert fresh.entry is not None
    cutoff = int(fresh.card["by_fold"][-1]["cutoff"])
    frame = build_frame(
        workspace.store,
        workspace.schema,
        workspace.engine,
        old.task,
        old.features,
        [cutoff],
        more=old.beside,
    )
    known = ~np.isnan(frame.y)
    old_loss = metrics.log_loss(frame.y[known], old.score(frame.X[known]))
    new_loss = float(fresh.card["by_fold"][-1]["log_loss"])
    better = new_loss < old_loss
    if better:
        registry.promote(task, fresh.entry.version)
    return {
        "task": task, "old_version": old_version, "new_version": fresh.entry.version, "promoted": better,
        "why": f"log loss on the forward rows of the last cutoff: new {new_loss:.4f}, old {old_loss:.4f}",
    }  # fmt: skip


def volume(store: Store, now: int, days: int = 60) -> list[dict[str, Any]]:
    """Return events per day; a day is unusual beyond five robust deviations of the four same weekdays before it."""
    first = now // DAY - days
    counts = np.zeros(days + 1, np.int64)
    for bucket in range(store.buckets):
        day = store.timelines(bucket).time // DAY - first
        counts += np.bincount(day[(day >= 0) & (day <= days)], minlength=days + 1)[: days + 1]
    found = []
    for i, n in enumerate(counts[:-1]):
        before = counts[[i - w for w in (7, 14, 21, 28) if i >= w]]
        unusual = False
        if len(before) >= 3:
            middle = float(np.median(before))
            spread = max(1.4826 * float(np.median(np.abs(before - middle))), np.sqrt(middle), 1.0)
            unusual = abs(float(n) - middle) > 5 * spread
        found.append(
            {
                "day": str(np.datetime64(int(first + i), "D")),
                "events": int(n),
                "unusual": bool(unusual),
            }
        )
    return found


def _lag(workspace: Workspace, store: Store) -> dict[str, Any]:
    """Return how many batches wait for the store, and since when."""
    url, folder = workspace.config.live.inbox, workspace.folder / "live" / "inbox"
    if not url and not (folder / "inbox.db").exists():
        return {}
    inbox = open_inbox(url or folder)
    try:
        position = moved_to(store)
        waiting = inbox.read(position, 1)
        age = max(0.0, clock.time() - waiting[0].received / MICROSECONDS) if waiting else 0.0
        return {"waiting": inbox.last() - position, "oldest_seconds": age, **inbox.counts()}
    finally:
        inbox.close()
