"""What separates those who converted from those who did not: effect sizes with false discoveries controlled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.analytics.funnel_plan import Funnel, Plan
from propend.analytics.people import profiles, who_filter
from propend.analytics.scan import sweep
from propend.analytics.statistics import benjamini_hochberg, normal_quantile
from propend.engine import Engine
from propend.errors import ConfigError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Aggregate, Expression, Field
from propend.features.derive import derive_features
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema
from propend.features.words import in_words

__all__ = ["separate", "why"]

LEAST: Final = 25
"""Fewest users on either side."""
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def why(
    store: Store,
    schema: Schema,
    engine: Engine,
    definition: Funnel,
    *,
    step: int = -1,
    features: Sequence[Expression] | None = None,
    who: str | Expression | None = None,
    since: int | None = None,
    until: int | None = None,
    rate: float = 0.05,
    top: int = 20,
) -> dict[str, Any]:
    """Compare those who reached ``step`` with those who reached only the step before, on what was known at that step before.

    Converted is who the funnel counts at the step, by whichever entry. Features are read as of the moment the step before
    was first reached, so nothing after the drop can leak in. ``left_out`` counts, of the ``funnel`` (who reached either
    step), those who had no whole window before the log ended (what they will do is not known) and those who reached both
    steps in one moment (nothing lies before the drop). ``step`` is 1 or later, or −1 for the last. Numbers are compared by the probability that a converter's value is higher (Mann–Whitney; 0.5 says nothing), texts by the
    difference in conversion. ``q_value`` is Benjamini–Hochberg's over everything compared; only q ≤ ``rate`` is a finding.
    The trivial baseline is the conversion rate itself. Association, not cause. Raises ``NotEnoughDataError``.
    """
    steps = len(definition.steps)
    last = steps - 1 if step == -1 else step
    if not 1 <= last < steps:
        raise ConfigError(
            f"no drop before step {last + 1}; ask about a step from 2 to {steps}, the funnel's last"
        )
    if definition.per != "user":
        raise ConfigError("why compares users; use a funnel per user")
    definition.check(schema)
    asked = tuple(features if features is not None else derive_features(schema))
    for feature in asked:
        schema.check(feature, forward=False)
    columns, holds = who_filter(store, schema, who, schema.last + 1)
    plan = Plan(definition, schema, since, until, holds)
    columns = [*columns, *plan.columns(), *schema.columns_for(list(asked))]
    if any(_of_item(a) for f in asked for a in f.aggregates()):
        columns.append("item")
    profile = profiles(store, schema)

    before = _before(definition, last)

    def work(timelines: Timelines) -> tuple[Any, list[Any], I64]:
        entries = plan.entries(timelines)
        there, converted = entries.at[:, before] >= 0, entries.at[:, last] >= 0
        moment = entries.at[:, before] + 1
        due = entries.at[:, 0] - entries.took[:, 0] + definition.window.microseconds
        open_ = there & (due > schema.last)
        at_once = there & ~open_ & converted & (entries.at[:, last] < moment)
        keep = there & ~open_ & ~at_once
        counts = np.array([there.sum(), (there & converted).sum(), open_.sum(), at_once.sum()])
        user = np.searchsorted(timelines.users, entries.user[keep])
        moment = moment[keep]
        rows = Rows(user.astype(np.int64), moment)
        values = evaluate(asked, timelines, rows, schema, profile=profile(timelines))
        return converted[keep], values, counts

    parts = list(sweep(store, engine, work, list(dict.fromkeys(columns))))
    y = np.concatenate([p[0] for p in parts])
    there, converted, open_, at_once = (int(n) for n in np.sum([p[2] for p in parts], axis=0))
    if min(y.sum(), (~y).sum()) < LEAST:
        raise NotEnoughDataError(
            f"{int(y.sum())} converted and {int((~y).sum())} did not; at least {LEAST} of each are needed to compare them"
        )
    found = []
    for i, feature in enumerate(asked):
        found += separate(feature, [p[1][i] for p in parts], y)
    q = benjamini_hochberg([f["p_value"] for f in found])
    for row, value in zip(found, q, strict=True):
        row["q_value"] = float(value)
    kept = sorted(
        (f for f in found if f["q_value"] <= rate), key=lambda f: (-abs(f["effect"]), f["feature"])
    )
    return {
        "from": definition.label(before),
        "to": definition.label(last),
        "funnel": [there, converted],
        "left_out": {"open": open_, "same_moment": at_once},
        "converted": int(y.sum()),
        "not_converted": int((~y).sum()),
        "baseline": float(y.mean()),
        "compared": len(found),
        "findings": len(kept),
        "rate": rate,
        "differences": kept[:top],
        "note": "association, not cause; false discoveries among the findings are at most the rate, on average",
    }


def _before(definition: Funnel, step: int) -> int:
    """Return the last required step before ``step``."""
    at = step - 1
    while definition.steps[at].optional:
        at -= 1
    return at


def _of_item(a: Aggregate) -> bool:
    fields = [] if a.where is None else [p for p in a.where.parts() if isinstance(p, Field)]
    return bool((a.field or "").startswith("item")) or any(f.path[0] == "item" for f in fields)


def separate(
    feature: Expression, parts: list[Any], y: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Return the comparisons of one feature: one for a number, one per common value for a text."""
    if isinstance(parts[0], Column):
        return _texts(feature, parts, y)
    x = np.concatenate(parts)
    known = ~np.isnan(x)
    a, b = x[known & y], x[known & ~y]
    if len(a) < LEAST or len(b) < LEAST or x[known].min() == x[known].max():
        return []
    area, p, low, high = mann_whitney(a, b)
    return [
        {
            "feature": str(feature),
            "words": in_words(feature),
            "value": None,
            "effect": 2 * area - 1,
            "low": 2 * low - 1,
            "high": 2 * high - 1,
            "measure": "P(higher among converters) − P(lower)",
            "converters": float(np.median(a)),
            "others": float(np.median(b)),
            "p_value": p,
        }
    ]


def _texts(
    feature: Expression, parts: list[Column], y: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    from propend.analytics.breakdown import merge_labels
    from propend.analytics.statistics import two_shares

    column = merge_labels(parts)
    sizes = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
    found = []
    for code in np.argsort(-sizes, kind="stable")[:12]:
        has = column.codes == code
        n, m = int(has.sum()), int((~has).sum())
        if min(n, m) < LEAST:
            continue
        test = two_shares(int(y[has].sum()), n, int(y[~has].sum()), m)
        found.append(
            {
                "feature": str(feature),
                "words": in_words(feature),
                "value": column.values[code],
                "effect": test["difference"],
                "low": test["low"],
                "high": test["high"],
                "measure": "difference in conversion",
                "converters": float(y[has].mean()),
                "others": float(y[~has].mean()),
                "p_value": test["p_value"],
            }
        )
    return found


def mann_whitney(a: F64, b: F64, level: float = 0.95) -> tuple[float, float, float, float]:
    """Return P(a > b) + P(a = b) / 2, its two-sided p-value (normal, ties corrected) and DeLong's interval.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988.

    >>> area, p, low, high = mann_whitney(np.array([3.0, 4, 5, 6] * 9), np.array([1.0, 2, 3, 4] * 9))
    >>> round(area, 3), p < 1e-6, low < area < high
    (0.875, True, True)
    """
    from scipy import stats

    n, m = len(a), len(b)
    both = np.concatenate([a, b])
    ranks = stats.rankdata(both)
    area = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    _, ties = np.unique(both, return_counts=True)
    total = n + m
    spread = (total + 1 - ((ties**3 - ties).sum()) / (total * (total - 1))) / (12.0 * n * m)
    z = (area - 0.5) / math.sqrt(spread) if spread > 0 else 0.0
    over_b = (ranks[:n] - stats.rankdata(a)) / m
    over_a = 1 - (ranks[n:] - stats.rankdata(b)) / n
    error = math.sqrt(float(over_b.var(ddof=1) / n + over_a.var(ddof=1) / m))
    half = normal_quantile(level) * error
    return (
        float(area),
        float(2 * stats.norm.sf(abs(z))),
        max(0.0, float(area) - half),
        min(1.0, float(area) + half),
    )
