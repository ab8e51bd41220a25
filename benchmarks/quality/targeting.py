"""True profit of push policies on the simulated market: who is reached, and what a learned model is worth.

Run: ``python -m benchmarks.quality.targeting [users] [seed]``. Consenting users only; one push as the log ends; profit is
margin × the true expected value added over 30 days − cost, from ``Market.expect``. No push is drawn at random.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from propend.config import DecideConfig, parse
from propend.decide.policy import decide
from propend.engine.local import LocalEngine
from propend.events.ingest import ingest
from propend.events.market import Market
from propend.events.store import Store
from propend.features.derive import derive_features
from propend.features.schema import Schema
from propend.learn.train import train
from propend.names import DAY
from propend.tasks.cutoffs import plan_cutoffs
from propend.tasks.frame import build_frame, scoring_frame
from propend.tasks.task import Task

CONFIG = {
    "workspace": {"zone": "UTC"},
    "events": [
        {
            "files": ["events.parquet"],
            "roles": {n: n for n in ("user", "time", "type", "item", "value", "quantity", "price")}
            | {"session": "session", "message_id": "event_id"},
        }
    ],
    "items": {"files": ["items.parquet"], "key": "item", "attributes": {"category": "category"}},
}


def learned(market: Market, users: pa.Array) -> tuple[np.ndarray, float, dict[str, float]]:
    """Train on the log alone; return each user's probability, the mean purchase value and the card's metrics."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = market.write(folder)
        engine = LocalEngine(threads=2)
        ingest(parse(CONFIG), folder, folder / "store", engine)
        store = Store(folder / "store")
        schema = Schema.of(store)
        task = Task.parse("buys", "any(purchase) next 30d for any(*) last 365d")
        now = int(market.clock[market.days, 0])
        plan = plan_cutoffs(schema.first, now, task.horizon)
        features = derive_features(schema)
        frame = build_frame(store, schema, engine, task, features, plan.cutoffs, most_rows=20_000)
        fitted = train(frame, task, plan, models=[("trees", {})], draws=20)
        asked = scoring_frame(store, schema, engine, task, features, now, fitted.categories)
        scores = dict(zip(store.names_of(asked.user), fitted.score(asked.X), strict=True))
        log = pq.read_table(files.events[0], columns=["type", "value"])
        values = log["value"].to_numpy()[np.asarray(log["type"]) == "purchase"]
    p = np.array([scores.get(u, 0.0) for u in users.to_pylist()])
    return p, float(np.nanmean(values)), fitted.card["metrics"]


def main(users: int, seed: int) -> None:
    """Print the tables."""
    started = time.perf_counter()
    market = Market(users=users, days=365, items=200, seed=seed)
    truth = pa.concat_tables([b.truth for b in market.blocks()])
    truth = truth.filter(truth["push_consent"])
    n, ids = truth.num_rows, truth["user"].combine_chunks()
    count, value = market.expect(truth)
    pushed_value = market.expect(truth, np.ones(n, bool))[1]
    p_true = 1 - np.exp(-count)
    worth = np.where(p_true > 1e-9, value / np.maximum(p_true, 1e-9), value.sum() / p_true.sum())
    p_model, mean_value, metrics = learned(market, ids)
    segment = np.array(truth["segment"].to_pylist())
    print(f"{n:,} consenting users, seed {seed}; model: {metrics}")
    for cost in (0.02, 0.05, 0.2):
        gain = 0.3 * (pushed_value - value) - cost
        print(
            f"\ncost {cost}: everyone {gain.sum():.0f}, nobody 0, best possible {np.maximum(gain, 0).sum():.0f}"
        )
        for share in (None, 0.1):
            budget = None if share is None else cost * round(share * n)
            rows: list[tuple[str, Any, Any, Any]] = [
                ("response, true p", p_true, worth, None),
                ("response, learned p", p_model, mean_value, None),
                ("uplift known", p_true, worth, (pushed_value - value) / np.maximum(value, 1e-9)),
            ]
            for name, p, v, lift in rows:
                settings = DecideConfig(cost=cost, budget=budget, holdout=0, explore=0)
                made = decide(ids, p, v, settings, now=365 * DAY, lift=lift)
                who = made.pushed
                mix = {s: f"{(segment[who] == s).mean():.0%}" for s in np.unique(segment)}
                claim = made.summary()["expected_profit"]
                print(
                    f"  budget {budget or 0:6.0f} {name:20s} pushes {who.sum():6d} true {gain[who].sum():8.0f} "
                    f"claimed {claim:8.0f} {mix}"
                )
            if share is not None:
                print(f"  at random: {gain.mean() * round(share * n):.0f}")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(*(int(a) for a in (*sys.argv[1:], *("20000", "7")[len(sys.argv) - 1 :])))
