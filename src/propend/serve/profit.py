"""What the live decisions earned, once it is known, over time, beside doing nothing and pushing everybody.

A decision earns ``margin · value of the purchases within the horizon − cost of the push``. Each person's decisions count
one horizon apart, so that no purchase counts twice. What the two naive policies would have earned comes from the same
decisions by doubly robust off-policy evaluation over the logged propensities (``propend.decide.replay``), with intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.decide.replay import Estimate, Logged, evaluate, uplift
from propend.errors import DataError, ModelError, NotEnoughDataError
from propend.events.clock import wall
from propend.events.store import Store
from propend.expression.nodes import Expression
from propend.expression.parse import parse
from propend.features import evaluate as features
from propend.features.schema import Schema
from propend.pipeline.workspace import Workspace
from propend.serve.log import AnswerLog

__all__ = ["outcomes", "profit"]

F64 = npt.NDArray[np.float64]


def outcomes(
    store: Store, schema: Schema, asked: Expression, users: Sequence[str], moments: Sequence[int]
) -> F64:
    """Return a forward expression's value for each (user, moment) [n]; NaN for ids that the store does not know."""
    by_bucket: dict[int, list[tuple[int, int]]] = {}
    for place, user in enumerate(users):
        try:
            code = store.code_of(user)
        except DataError:
            continue
        by_bucket.setdefault(code % store.buckets, []).append((place, code))
    found = np.full(len(users), np.nan)
    columns = schema.columns_for([asked])
    for bucket, wanted in by_bucket.items():
        t = store.timelines(bucket, columns)
        codes = np.array([code for _, code in wanted])
        places = np.array([place for place, _ in wanted])
        at = np.searchsorted(t.users, codes)
        there = (at < len(t.users)) & (t.users[np.minimum(at, len(t.users) - 1)] == codes)
        rows, cutoffs = at[there], np.array([moments[p] for p in places[there]], np.int64)
        order = np.lexsort((cutoffs, rows))
        wanted_rows = features.Rows(rows[order].astype(np.int64), cutoffs[order])
        answer = features.evaluate([asked], t, wanted_rows, schema)[0]
        found[places[there][order]] = np.asarray(answer, np.float64)
    return found


def profit(workspace: Workspace, log: AnswerLog, now: int, period: int) -> dict[str, Any] | None:
    """Return what matured decisions earned, whole and by period; ``None`` where nothing was decided.

    Each entry has ``decisions``, ``pushed``, the profit per decision (``made``), what silence and pushing everybody
    would have made, and the ``gain`` over silence, the last three with intervals or ``None`` where the log cannot tell.
    """
    decided = [d for d in log.decisions() if d.get("group") != "excluded"]
    if not decided:
        return None
    store, schema, config = workspace.store, workspace.schema, workspace.config.decide
    if "purchase" not in schema.types or "value" not in schema.numbers:
        return {"note": "no purchase in the log has a value, so no decision has a profit"}
    horizons: dict[str, Any] = {}
    for task in {str(d["task"]) for d in decided}:
        try:
            horizons[task] = workspace.registry.load(task).task.horizon
        except ModelError:
            horizons[task] = None
    last: dict[str, int] = {}
    chosen: list[dict[str, Any]] = []
    for d in sorted(decided, key=lambda d: d["at"]):
        horizon = horizons[d["task"]]
        if horizon is None or d["at"] + horizon.microseconds > now:
            continue
        if d["at"] - last.get(d["user"], -(1 << 62)) >= horizon.microseconds:
            last[d["user"]] = d["at"]
            chosen.append(d)
    value = np.zeros(len(chosen))
    for task, horizon in horizons.items():
        rows = [i for i, d in enumerate(chosen) if d["task"] == task]
        if rows:
            asked = parse(f"sum(purchase.value) next {horizon}")
            users, moments = [chosen[i]["user"] for i in rows], [chosen[i]["at"] for i in rows]
            value[rows] = np.nan_to_num(outcomes(store, schema, asked, users, moments))
    pushed = np.array([d["action"] == "push" for d in chosen], np.bool_)
    chance = np.array([float(d["push_propensity"]) for d in chosen])
    reward = config.margin * value - config.cost * pushed
    number = np.array([d["at"] // period for d in chosen], np.int64)
    return {
        "matured": len(chosen),
        "waiting": len(decided) - len(chosen),
        "overall": _entry(pushed, chance, reward),
        "periods": [
            {"from": wall(int(n) * period).date().isoformat(), **_entry(*(v[number == n] for v in (pushed, chance, reward)))}
            for n in np.unique(number)
        ],
    }  # fmt: skip


def _entry(pushed: npt.NDArray[np.bool_], chance: F64, reward: F64) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "decisions": len(reward),
        "pushed": int(pushed.sum()),
        "made": float(reward.mean()) if len(reward) else None,
        "total": float(reward.sum()),
        "silence": None,
        "everybody": None,
        "gain": None,
    }
    if not len(reward):
        return entry
    log = Logged(pushed, chance, reward)
    asked: dict[str, Callable[[], Estimate]] = {
        "silence": lambda: evaluate(log, 0.0),
        "everybody": lambda: evaluate(log, 1.0),
        "gain": lambda: uplift(log, chance),
    }
    for name, made in asked.items():
        try:
            entry[name] = _plain(made())
        except (DataError, NotEnoughDataError) as error:
            entry[f"{name}_unknown"] = str(error)
    return entry


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
