"""Behaviour models beside published rows: ``python -m benchmarks.quality.behaviour [PART…] [--seeds 5] [--json FILE]``.

Parts: ``beauty``, ``movielens-1m``, ``movielens-100k``, ``online-retail``, ``diginetica`` (next item; full ranking, conservative
ties), ``users`` (Online Retail and CDNOW, what a behaviour model adds to aggregates), ``scaling`` (loss against weights and events on
the synthetic market). Each network stops by the last items of users held out of training (never by the test part), and its
settings were chosen by the same figure on one seed; the rows name them. ``--threads`` for the networks, default 2.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.recommend import splits
from benchmarks.quality.recommend.splits import DATA
from benchmarks.quality.recommend.tables import Table, sessions_table
from propend.recommend.catalog import create
from propend.recommend.evaluate import compare, measure, per_user
from propend.recommend.protocols import Split, data_hash
from propend.recommend.recommender import Recommender

COSINE = {
    "loss": "sampled",
    "negatives": 512,
    "temperature": 0.07,
    "average": 0.99,
    "validation": 4_000,
}
"""Sampled softmax over shared negatives, cosine scores, averaged weights."""

PUBLISHED = {
    "beauty": {
        "GRU4Rec, BCE (RecBoard)": [0.0399, 0.0200],
        "Caser (RecBoard)": [0.0422, 0.0221],
        "SASRec, BCE (S3-Rec line)": [0.0605, 0.0318],
        "SASRec + sampled softmax": [0.0921, 0.0531],
        "eSASRec": [0.0928, 0.0523],
    },
    "movielens-1m": {
        "SASRec, BCE": [0.2500, 0.1341],
        "gSASRec": [0.3003, 0.1726],
        "SASRec + 3,000 negatives": [0.3159, 0.1857],
    },
}


def repeated(split: Split, models: dict[str, Callable[[], Recommender]], seeds: int) -> Table:
    """Judge each network with several seeds: mean and spread of HR@10 and NDCG@10, and the mean seconds of a fit."""
    rows = []
    for name, make in models.items():
        found, seconds, notes = [], [], ""
        for seed in range(seeds):
            start = time.perf_counter()
            model = make().fit(split.train, at=split.at, seed=seed)
            seconds.append(time.perf_counter() - start)
            each = per_user(measure(model, split, 10), 10)
            found.append((each["hr"].mean(), each["ndcg"].mean()))
            notes = getattr(model, "remark", "")
        hr, ndcg = np.array(found).T
        rows.append(
            {
                "name": name,
                "hr@10": round(float(hr.mean()), 4),
                "hr@10 spread": round(float(hr.std(ddof=1)), 4) if seeds > 1 else None,
                "ndcg@10": round(float(ndcg.mean()), 4),
                "ndcg@10 spread": round(float(ndcg.std(ddof=1)), 4) if seeds > 1 else None,
                "fit_seconds": round(float(np.mean(seconds)), 1),
                "note": notes,
            }
        )
        print(f"  {rows[-1]}", flush=True)
    return {
        "protocol": split.protocol,
        "seen": split.seen,
        "users": len(split),
        "items": split.train.n_items,
        "data_hash": data_hash(split.train),
        "seeds": seeds,
        "models": rows,
    }


def beauty(seeds: int, threads: int) -> list[Table]:
    """Leave-one-out, full ranking, seen items hidden."""
    split = splits.beauty()
    shared = {**COSINE, "dropout": 0.4, "epochs": 25, "patience": 4, "threads": threads}
    models = {
        name: _maker(name, **shared) for name in ("gru", "cnn", "caser", "transformer", "hstu")
    }
    best = {"item_neighbours": create("item_neighbours", weighting="unit", step=0.8, shrink=1.0)}
    table = repeated(split, models, seeds)
    table["models"] += compare(split, best)["models"]
    return [{"data": "amazon-beauty", **table, "published": PUBLISHED["beauty"]}]


def movielens_1m(seeds: int, threads: int) -> list[Table]:
    """The published file, leave-one-out, seen items hidden."""
    shared = {**COSINE, "validation": 512, "dropout": 0.2, "length": 200, "epochs": 40}
    models = {
        name: _maker(name, **shared, tokens=4_096, threads=threads)
        for name in ("gru", "transformer")
    }
    table = repeated(splits.movielens_1m(), models, seeds)
    return [{"data": "movielens-1m", **table, "published": PUBLISHED["movielens-1m"]}]


def _time_biases(split: Split, name: str, seeds: int, threads: int) -> list[Table]:
    """Next items, forward, with and without the bias of elapsed time."""
    shared = {**COSINE, "validation": 500, "dropout": 0.2, "length": 100, "epochs": 25}
    models = {
        f"transformer, time bias {bias}": _maker(
            "transformer", **shared, time_bias=bias, threads=threads
        )
        for bias in ("none", "event", "query")
    }
    table = repeated(split, models, seeds)
    table["models"] += compare(split, {"sequential_rules": create("sequential_rules")})["models"]
    return [{"data": name, **table}]


def movielens_100k(seeds: int, threads: int) -> list[Table]:
    """Forward, last 30 days, seen items hidden."""
    return _time_biases(splits.movielens_100k_forward(), "movielens-100k", seeds, threads)


def online_retail(seeds: int, threads: int) -> list[Table]:
    """Forward, last 30 days, repeats allowed."""
    return _time_biases(splits.online_retail(), "online-retail", seeds, threads)


def diginetica(seeds: int, threads: int) -> list[Table]:
    """Next item of a session prefix; one seed."""
    del seeds
    shared = {**COSINE, "length": 20, "dropout": 0.3, "epochs": 12, "patience": 2, "tokens": 4_096}
    models: dict[str, Recommender] = {
        name: create(name, **shared, width=96, attention_heads=None, threads=threads)
        if name == "gru"
        else create(name, **shared, threads=threads)
        for name in ("gru", "transformer")
    }
    return sessions_table(splits.diginetica(), models)


def _maker(name: str, **settings: Any) -> Callable[[], Recommender]:
    return lambda: create(name, **settings)


def users(seeds: int, threads: int) -> list[Table]:
    """Boosted trees on aggregates, on a behaviour model's columns and on both: forward folds with purge.

    The models are pretrained on what was known before the first forward test, each without half of the users.
    """
    del seeds
    from benchmarks.quality.retail import TASKS, workspace
    from propend.features.derive import derive_features
    from propend.learn.behaviour import pretraining_settings
    from propend.learn.fusion import ablation, pretrained_for
    from propend.pipeline.predict import _informative
    from propend.tasks.cutoffs import plan_cutoffs
    from propend.tasks.frame import build_frame
    from propend.tasks.task import Task

    tables = []
    with tempfile.TemporaryDirectory() as place:
        shops = {"online-retail": (workspace(Path(place) / "retail"), TASKS)}
        shops["cdnow"] = (_cdnow(Path(place)), CDNOW_TASKS)
        for data, (shop, tasks) in shops.items():
            for name, ask in tasks.items():
                task = Task.parse(name, ask)
                plan = plan_cutoffs(shop.schema.first, shop.now, task.horizon)
                start = time.perf_counter()
                settings = pretraining_settings("small", threads=threads)
                model = pretrained_for(shop.store, shop.schema, plan, settings=settings)
                seconds = time.perf_counter() - start
                wanted = derive_features(shop.schema)
                frame = _informative(
                    build_frame(shop.store, shop.schema, shop.engine, task, wanted, plan.cutoffs)
                )
                rows, _ = ablation(shop.store, frame, task, plan, model)
                tables.append(
                    {
                        "data": data,
                        "task": name,
                        "ask": ask,
                        "protocol": plan.protocol,
                        "data_hash": frame.data_hash(),
                        "users": len(np.unique(frame.user)),
                        "pretraining_seconds": round(seconds, 1),
                        "epochs": [part.run["best_epoch"] for part in model.models],
                        "rows": rows,
                    }
                )
                print(f"  {tables[-1]}", flush=True)
    return tables


CDNOW_TASKS = {
    "buys_90d": "any(purchase) next 90d for any(*)",
    "value_90d": "sum(purchase.value) next 90d for any(*)",
}


def _cdnow(place: Path) -> Any:
    """Read CDNOW's master file (customer, date, CDs, dollars) into a workspace."""
    from propend.cli import main as verb
    from propend.pipeline.workspace import open_workspace

    lines = ["customer,time,event,cds,value"]
    for line in (DATA / "cdnow" / "CDNOW_master.txt").read_text().splitlines():
        customer, day, cds, dollars = line.split()
        if float(dollars) > 0:
            when = f"{day[:4]}-{day[4:6]}-{day[6:]}T12:00:00Z"
            lines.append(f"{customer},{when},purchase,{cds},{dollars}")
    (place / "cdnow.csv").write_text("\n".join(lines) + "\n")
    verb(["init", str(place / "cdnow"), "--from", str(place / "cdnow.csv")])
    opened = open_workspace(place / "cdnow")
    opened.ingest()
    return opened


def scaling(seeds: int, threads: int) -> list[Table]:
    """Held-out loss against weights and events on the synthetic market, one epoch of each size.

    ``PROPEND_MARKET`` users (1,000,000 is the promise; the default of 20,000 suits two cores).
    """
    del seeds
    import os

    from propend.cli import main as verb
    from propend.events.market import Market
    from propend.learn.behaviour import pretrain, pretraining_settings
    from propend.names import DAY
    from propend.pipeline.workspace import open_workspace

    count = int(os.environ.get("PROPEND_MARKET", "20000"))
    tables = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = Market(users=count, seed=7, dirt=0).write(folder / "market")
        sources = [word for file in files.events for word in ("--from", str(file))]
        verb(["init", str(folder / "shop"), *sources])
        shop = open_workspace(folder / "shop")
        shop.ingest()
        for size in ("tiny", "small", "base"):
            for share in (0.5, 1.0):
                until = shop.schema.first + int(share * shop.schema.days * DAY)
                settings = pretraining_settings(size, epochs=1, length=64, threads=threads)
                made = pretrain(shop.store, shop.schema, settings=settings, until=until)
                row = {"size": size, "log": share, **made.run["weights"], **made.run["curves"][-1]}
                print(f"  {row}", flush=True)
                tables.append({"data": f"market of {count:,} users", **row})
    return tables


PARTS: dict[str, Callable[[int, int], list[Table]]] = {
    "beauty": beauty,
    "movielens-1m": movielens_1m,
    "movielens-100k": movielens_100k,
    "online-retail": online_retail,
    "diginetica": diginetica,
    "users": users,
    "scaling": scaling,
}


def main() -> None:
    """Run the named parts, default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    tables: list[Table] = []
    for name in chosen.parts:
        print(f"\n{name}", flush=True)
        for table in PARTS[name](chosen.seeds, chosen.threads):
            tables.append(table)
            for model, pair in table.get("published", {}).items():
                print(f"  published {model}: " + " / ".join(f"{v:.4f}" for v in pair))
            head = {k: v for k, v in table.items() if k not in ("models", "rows", "published")}
            print(f"  {head}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
