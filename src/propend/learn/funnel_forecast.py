"""The intelligent funnel: each user's stage now, the chance and time of the next one, and totals ahead, validated forward.

One frame holds everyone at many cutoffs: features, stage, and whether the stage's target came true within the horizon. Per
stage a logistic regression learns on the rows whose answers were known by the test cutoff, is calibrated on the latest of
them, set half-way between its own level and the last period's (forecasts combine: Bates and Granger 1969), and judged at
later cutoffs against what happened and against "the same rate as last period".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.analytics.stages import Stages
from propend.engine import Engine
from propend.events.store import Store
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Expression, Window
from propend.features.schema import Schema
from propend.learn import calibration, metrics
from propend.models import catalog
from propend.names import DAY, VALUE
from propend.tasks.cutoffs import Plan, plan_cutoffs
from propend.tasks.frame import Frame, build_frame
from propend.tasks.task import Task

__all__ = ["FunnelForecast", "forecast_funnel"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
LEAST: Final = 30
"""Fewest of each answer that a stage's model learns from; below, the rate itself is the forecast."""


@dataclass(frozen=True)
class FunnelForecast:
    """Users now [n] with ``stage`` (position in ``stages.names``), ``advance`` and ``leave`` probabilities.

    ``days`` is the expected time to the next stage at a constant hazard, −h / ln(1 − p). ``card`` holds totals and the
    forward validation; :meth:`to_dict` is what is printed.
    """

    stages: Stages
    horizon: Duration
    user: I64
    stage: I64
    advance: F64
    leave: F64
    days: F64
    card: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return stages with users, expected totals and intervals, and the validation with its protocol."""
        return self.card

    def at_risk(self, stage: str, least: float = 0.5) -> I64:
        """Return the codes of the users in a stage who are likelier than ``least`` to do nothing in the horizon."""
        chosen = (self.stage == self.stages.names.index(stage)) & (self.leave >= least)
        return self.user[chosen]


def forecast_funnel(
    store: Store,
    schema: Schema,
    engine: Engine,
    stages: Stages,
    horizon: str | Duration = "30d",
    *,
    folds: int = 4,
    seed: int = 7,
) -> FunnelForecast:
    """Forecast every stage; raises ``NotEnoughDataError`` where the log is too short for one forward test.

    ``advance`` is the chance to reach the next stage (or deeper) within ``horizon``; from action and loyalty, to buy again;
    from lapsed, to do anything. ``leave`` is the chance to do nothing at all in it.
    """
    ahead = horizon if isinstance(horizon, Duration) else Duration.parse(horizon)
    now = schema.last + 1
    plan = plan_cutoffs(schema.first, now, ahead, folds=folds)
    data = _Data.build(store, schema, engine, stages, ahead, plan)
    validation = [row for fold in plan.folds for row in _judge(data, fold.train, fold.test, seed)]
    at_now = data.cutoff == now
    advance, leave = np.full(len(data.y), np.nan), np.full(len(data.y), np.nan)
    for s in range(len(stages.names)):
        rows = at_now & (data.stage == s)
        advance[rows] = _learn(data, data.y, s, plan.final, rows, seed)
        leave[rows] = _learn(data, data.gone, s, plan.final, rows, seed)
    found = FunnelForecast(
        stages, ahead, data.user[at_now], data.stage[at_now], advance[at_now], leave[at_now],
        _expected_days(advance[at_now], ahead),
    )  # fmt: skip
    found.card.update(_card(found, data, plan, validation, seed))
    return found


def _expected_days(p: F64, ahead: Duration) -> F64:
    """Return the expected days to what happens within ``ahead`` with probability ``p``, at a constant hazard.

    >>> round(float(_expected_days(np.array([0.5]), Duration.parse("30d"))[0] * np.log(2)), 6)
    30.0
    """
    found: F64 = -ahead.days / np.log1p(-np.clip(p, 1e-9, 1 - 1e-9))
    return found


@dataclass
class _Data:
    """Everyone at every cutoff: features, stage, and the two answers (NaN where not yet known).

    ``until`` is the days to the next stage, or minus the days for which it was not seen.
    """

    X: F64
    names: tuple[str, ...]
    user: I64
    cutoff: I64
    stage: I64
    y: F64
    gone: F64
    until: F64
    share: float
    now: int
    hash: str

    @classmethod
    def build(
        cls,
        store: Store,
        schema: Schema,
        engine: Engine,
        stages: Stages,
        ahead: Duration,
        plan: Plan,
    ) -> _Data:
        features = _features(schema, stages)
        names = stages.names
        extra = [stages.condition(n) for n in names] + [stages.advance(n, ahead) for n in names]
        reached = [stages.advance(n, ahead) for n in names]
        extra += [Aggregate("days_until", e.types) for e in reached if isinstance(e, Aggregate)]
        gone = Task("leaves", Aggregate("none", window=Window("next", ahead)))
        frame: Frame = build_frame(
            store, schema, engine, gone, [*features, *extra], [*plan.cutoffs, plan.now]
        )
        k, n = len(features), len(names)
        stage = np.full(len(frame), -1, np.int64)
        for s in range(n):
            stage[frame.X[:, k + s] > 0] = s
        y = frame.X[np.arange(len(frame)), k + n + np.maximum(stage, 0)]
        days = frame.X[np.arange(len(frame)), k + 2 * n + np.maximum(stage, 0)]
        watched = (plan.now - frame.cutoff) / DAY
        open_ = frame.cutoff > plan.now - ahead.microseconds
        return cls(
            np.ascontiguousarray(frame.X[:, :k]),
            tuple(map(str, features)),
            frame.user,
            frame.cutoff,
            stage,
            np.where(open_, np.nan, y),
            np.where(open_, np.nan, frame.y),
            np.where(np.isnan(days), -watched, days),
            frame.share,
            plan.now,
            frame.data_hash(),
        )


def _features(schema: Schema, stages: Stages) -> tuple[Expression, ...]:
    """Return a few dozen features: recency, frequency, rhythm and money of every stage's events."""
    windows = [Window("last", Duration.parse(t)) for t in ("7d", "30d", "90d", "365d")]
    selections: list[tuple[str, ...]] = [(), *stages.types.values()]
    found: list[Expression] = []
    for of in dict.fromkeys(selections):
        found += [Aggregate("days_since", of), Aggregate("days_since_first", of)]
        found += [Aggregate("active_days", of), Aggregate("mean_gap", of), Aggregate("std_gap", of)]
        found += [Aggregate("active_days", of, window=w) for w in windows]
        found += [Aggregate("count", of, window=w) for w in windows[:3]]
    if VALUE in schema.numbers:
        action = stages.types["action"]
        found += [Aggregate("sum", action, VALUE, window=w) for w in windows[1:]]
    return tuple(found)


def _learn(data: _Data, y: F64, stage: int, cutoffs: Sequence[int], ask: Bool, seed: int) -> F64:
    """Return calibrated probabilities for the rows of ``ask``, learnt from a stage's rows at ``cutoffs``."""
    train = np.isin(data.cutoff, np.asarray(cutoffs, np.int64)) & (data.stage == stage)
    train &= ~np.isnan(y)
    if not ask.any():
        return np.zeros(0)
    positive = int((y[train] > 0).sum())
    if min(positive, int(train.sum()) - positive) < LEAST:
        return np.full(int(ask.sum()), (positive + 0.5) / (train.sum() + 1))
    latest = data.cutoff[train].max()
    held = train & (data.cutoff == latest)
    earlier = train & ~held
    positives = int((y[earlier] > 0).sum())
    calibrator: calibration.Calibrator = calibration.Identity()
    if min(positives, int(earlier.sum()) - positives) >= LEAST:
        first = _fit(data, y, earlier, seed)
        calibrator = calibration.choose(
            first.predict(data.X[held]), y[held], groups=data.user[held], seed=seed
        )
    model = _fit(data, y, train, seed)
    known = calibrator.apply(model.predict(data.X[held]))
    rate = float(y[held].mean())
    p = _shift(calibrator.apply(model.predict(data.X[ask])), _offset(known, rate))
    return _shift(p, _offset(p, (float(p.mean()) + rate) / 2))


def _offset(p: F64, rate: float) -> float:
    """Return the shift in log-odds after which the mean of ``p`` is ``rate``: the level of the latest known period.

    >>> abs(_offset(np.array([0.5, 0.5]), 0.5)) < 1e-9
    True
    """
    from scipy.optimize import brentq

    inside = min(max(rate, 0.5 / len(p)), 1 - 0.5 / len(p))
    return float(brentq(lambda b: _shift(p, b).mean() - inside, -30, 30))


def _shift(p: F64, by: float) -> F64:
    """Return probabilities whose log-odds are moved."""
    odds = np.clip(p, 1e-9, 1 - 1e-9)
    shifted: F64 = 1 / (1 + (1 - odds) / odds * np.exp(-by))
    return shifted


def _fit(data: _Data, y: F64, rows: Bool, seed: int) -> Any:
    model = catalog.create("logistic", "yes_no", bends=0, strength=30.0)
    return model.fit(data.X[rows], y[rows], columns=data.names, seed=seed)


def _judge(data: _Data, train: Sequence[int], test: int, seed: int) -> list[dict[str, Any]]:
    """Return for each stage what was predicted at a test cutoff, what came, and what the last period's rate promised."""
    found = []
    for s in range(int(data.stage.max()) + 1):
        ask = (data.cutoff == test) & (data.stage == s)
        rates = _rates(data, s, train)
        if not ask.any() or not len(rates):
            continue
        p = _learn(data, data.y, s, train, ask, seed)
        low, high = _interval(p, rates)
        found.append(
            {
                "stage": s,
                "cutoff": int(test),
                "users": int(ask.sum()),
                "predicted": float(p.sum()),
                "low": low,
                "high": high,
                "happened": int(data.y[ask].sum()),
                "same_rate": float(rates[-1] * ask.sum()),
                "_p": p,
                "_y": data.y[ask],
                "_until": data.until[ask],
                "_watched": (data.now - test) / DAY,
                "_rate": rates[-1],
            }
        )
    return found


def _rates(data: _Data, stage: int, cutoffs: Sequence[int]) -> F64:
    """Return a stage's rate at each cutoff whose answers are known, in order; the last is the last period's."""
    found = []
    for cutoff in sorted(cutoffs):
        y = data.y[(data.cutoff == cutoff) & (data.stage == stage)]
        if len(y):
            found.append(float(np.nanmean(y)))
    return np.array(found)


def _interval(p: F64, rates: F64) -> tuple[float, float]:
    """Return a 95 % interval of a total: chance (Poisson–binomial) and the drift that past periods' rates showed."""
    from scipy import stats

    moved = (
        rates[2:] - rates[:-2]
    )  # cutoffs lie half a horizon apart, the forecast looks a whole one ahead
    drift = float(np.sqrt(np.mean(moved**2))) if len(moved) else 0.1
    wide = float(stats.t.ppf(0.975, max(len(moved), 2)))
    half = np.sqrt(1.96**2 * (p * (1 - p)).sum() + (wide * drift * len(p)) ** 2)
    return max(0.0, float(p.sum() - half)), min(float(len(p)), float(p.sum() + half))


def _card(
    f: FunnelForecast, data: _Data, plan: Plan, validation: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    names = f.stages.names
    stages = []
    for s, name in enumerate(names):
        rows = f.stage == s
        p = f.advance[rows]
        low, high = _interval(p, _rates(data, s, plan.final)) if rows.any() else (0.0, 0.0)
        stages.append(
            {
                "stage": name,
                "users": int(rows.sum()),
                "advance": float(p.sum()),
                "advance_low": low,
                "advance_high": high,
                "mean_probability": float(p.mean()) if rows.any() else None,
                "median_days": float(np.median(f.days[rows])) if rows.any() else None,
                "likely_to_leave": int((f.leave[rows] >= 0.5).sum()),
                "leave": float(f.leave[rows].sum()),
                "target": str(f.stages.advance(name, f.horizon)),
                "audience": str(f.stages.population(name)),
            }
        )
    return {
        "horizon": str(f.horizon),
        "memory": str(f.stages.memory),
        "mapping": {k: list(v) for k, v in f.stages.types.items()},
        "stages": stages,
        "validation": _validation(names, validation, f.horizon),
        "protocol": f"{len(plan.folds)} forward cutoffs, purge {f.horizon}; per stage a logistic regression, calibrated and set to the level of "
        f"the latest known cutoff; baseline: the stage's rate one period before; data {data.hash}, seed {seed}, {100 * data.share:.0f} % of users",
    }


def _validation(
    names: tuple[str, ...], rows: list[dict[str, Any]], ahead: Duration
) -> dict[str, Any]:
    """Return every forward test, and over all of them: errors of totals, Brier scores, calibration, coverage."""
    if not rows:
        return {"tests": []}
    p = np.concatenate([r["_p"] for r in rows])
    y = np.concatenate([r["_y"] for r in rows])
    base = np.concatenate([np.full(len(r["_y"]), r["_rate"]) for r in rows])
    table = calibration.reliability(p, y)
    tests = [
        {**{k: v for k, v in r.items() if not k.startswith("_")}, "stage": names[r["stage"]]}
        for r in rows
    ]
    inside = [r["low"] <= r["happened"] <= r["high"] for r in rows]
    return {
        "tests": tests,
        "cutoffs": len({r["cutoff"] for r in rows}),
        "rows": len(y),
        "total_error": float(sum(abs(r["predicted"] - r["happened"]) for r in rows)),
        "total_error_same_rate": float(sum(abs(r["same_rate"] - r["happened"]) for r in rows)),
        "brier": metrics.brier(y, p),
        "brier_same_rate": metrics.brier(y, base),
        "auroc": metrics.auroc(y, p),
        "ece": metrics.ece(y, p),
        "ece_same_rate": metrics.ece(y, base),
        "coverage": float(np.mean(inside)),
        "days": _judged_days(rows, p, base, ahead),
        "reliability": {
            "rows": table.weight.astype(np.int64).tolist(),
            "predicted": table.predicted.tolist(),
            "observed": table.observed.tolist(),
            "low": table.low.tolist(),
            "high": table.high.tolist(),
        },
    }


def _judged_days(rows: list[dict[str, Any]], p: F64, base: F64, ahead: Duration) -> dict[str, Any]:
    """Return how well the expected days held: concordance with the days it took, and who was there by the expected median.

    At a constant hazard half should be there after ln 2 of the expected days; judged where the log reaches that far.
    """
    until = np.concatenate([r["_until"] for r in rows])
    watched = np.concatenate([np.full(len(r["_y"]), r["_watched"]) for r in rows])
    expected = _expected_days(p, ahead)
    median = np.log(2) * expected
    known = median <= watched
    there = known & (until > 0) & (until <= median)
    return {
        "concordance": metrics.c_index(until, expected),
        "concordance_same_rate": metrics.c_index(until, _expected_days(base, ahead)),
        "by_median": float(there.sum() / known.sum()) if known.any() else None,
        "by_median_rows": int(known.sum()),
    }
