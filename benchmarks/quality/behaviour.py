"""Behaviour models beside published rows: ``python -m benchmarks.quality.behaviour [PART…] [--seeds 5] [--first-seed 0] [--only MODEL…] [--json FILE]``.

Parts: ``beauty``, ``movielens-1m``, ``movielens-100k``, ``online-retail``, ``diginetica`` (next item; full ranking, conservative
ties), ``users`` (Online Retail and CDNOW, what a behaviour model adds to aggregates), ``scaling`` (loss against weights and events on
the synthetic market). Each network stops by the last items of users held out of training (never by the test part), and its
settings were chosen by the same figure on one seed; the rows name them. ``--threads`` for the networks, default 2.
``--only`` names the models or tasks of a part to run; every seed is printed as it ends, so that a long run loses nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.recommend import splits
from benchmarks.quality.recommend.splits import DATA
from benchmarks.quality.recommend.tables import Table, sessions_table
from propend.errors import MissingExtraError, NotEnoughDataError
from propend.recommend.catalog import create
from propend.recommend.evaluate import compare, measure, per_user
from propend.recommend.interactions import Interactions
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


@dataclass(frozen=True)
class Asked:
    """How often and what: seeds of a row, threads of a network, and the models or tasks wanted (empty: all)."""

    seeds: int = 5
    threads: int = 2
    only: tuple[str, ...] = ()
    first: int = 0
    """The seed to begin with, so that a table's seeds can be run in parts."""

    def wanted(self, name: str) -> bool:
        """Whether a model or task is to be run."""
        return not self.only or name in self.only


def repeated(
    split: Split,
    models: dict[str, Callable[[], Recommender]],
    asked: Asked,
    later: Split | None = None,
) -> Table:
    """Judge each network with several seeds: mean and spread of HR@10 and NDCG@10, and the mean CPU seconds of a fit.

    ``later`` is a second question to the same weights, with what happened until then appended to the histories.
    """
    rows, seeds = [], asked.seeds
    rest = None if later is None else _beyond(split.train, later.train)
    for name, make in models.items():
        if not asked.wanted(name):
            continue
        found, seconds, after, notes = [], [], [], ""
        for seed in range(asked.first, asked.first + seeds):
            start = time.process_time()
            model = make().fit(split.train, at=split.at, seed=seed)
            seconds.append(time.process_time() - start)
            each = per_user(measure(model, split, 10), 10)
            found.append((each["hr"].mean(), each["ndcg"].mean()))
            notes = getattr(model, "remark", "")
            print(
                f"    {name}, seed {seed}: HR@10 {found[-1][0]:.4f}, NDCG@10 {found[-1][1]:.4f}, "
                f"{seconds[-1]:.0f} CPU-s, {getattr(model, 'run', {}).get('best_epoch')} epochs",
                flush=True,
            )
            if later is not None and rest is not None:
                each = per_user(measure(model.update(rest, at=later.at), later, 10), 10)
                after.append((each["hr"].mean(), each["ndcg"].mean()))
                print(
                    f"      then HR@10 {after[-1][0]:.4f}, NDCG@10 {after[-1][1]:.4f}", flush=True
                )
        hr, ndcg = np.array(found).T
        rows.append(
            {
                "name": name,
                "hr@10": round(float(hr.mean()), 4),
                "hr@10 spread": round(float(hr.std(ddof=1)), 4) if seeds > 1 else None,
                "ndcg@10": round(float(ndcg.mean()), 4),
                "ndcg@10 spread": round(float(ndcg.std(ddof=1)), 4) if seeds > 1 else None,
                "fit CPU seconds": round(float(np.mean(seconds)), 1),
                "note": notes,
            }
        )
        if after:
            figures = np.mean(after, axis=0).round(4).tolist()
            rows[-1] |= dict(zip(("then hr@10", "then ndcg@10"), figures, strict=True))
        print(f"  {rows[-1]}", flush=True)
    return {
        "protocol": split.protocol,
        "seen": split.seen,
        "users": len(split),
        "items": split.train.n_items,
        "data_hash": data_hash(split.train),
        "seeds": list(range(asked.first, asked.first + seeds)),
        "models": rows,
    }


def beauty(asked: Asked) -> list[Table]:
    """Leave-one-out, full ranking, seen items hidden."""
    split = splits.beauty()
    shared = {**COSINE, "dropout": 0.4, "epochs": 25, "patience": 4, "threads": asked.threads}
    models = {
        name: _maker(name, **shared) for name in ("gru", "cnn", "caser", "transformer", "hstu")
    }
    models["lightgcn"] = _maker("lightgcn", threads=asked.threads)
    best = {"item_neighbours": create("item_neighbours", weighting="unit", step=0.8, shrink=1.0)}
    table = repeated(split, models, asked)
    table["models"] += compare(split, best)["models"]
    return [{"data": "amazon-beauty", **table, "published": PUBLISHED["beauty"]}]


def movielens_1m(asked: Asked) -> list[Table]:
    """Leave-one-out, seen items hidden: the next item where every history is whole, then the file's own question.

    Published rows ask for the next item of whole histories. The file lacks the item before the asked one for 5,528 of
    6,040 users, so its own question is the harder one, for the item after next, to the same weights.
    """
    shared = {**COSINE, "loss": "full", "validation": 1_024, "dropout": 0.2, "length": 200}
    models = {
        name: _maker(name, **shared, epochs=40, patience=3, threads=asked.threads)
        for name in ("gru", "transformer")
    }
    later = splits.movielens_1m()
    table = repeated(splits.movielens_1m_next(), models, asked, later)
    return [
        {
            "data": "movielens-1m",
            **table,
            "then": later.protocol,
            "published": PUBLISHED["movielens-1m"],
        }
    ]


def _beyond(train: Interactions, whole: Interactions) -> Interactions:
    """Return what ``whole`` holds of each user after what ``train`` holds, both without a clock."""
    known = (
        train.offsets[train.rows_of(whole.users) + 1] - train.offsets[train.rows_of(whole.users)]
    )
    place = np.arange(len(whole)) - np.repeat(whole.offsets[:-1], np.diff(whole.offsets))
    return whole.select(place >= np.repeat(known, np.diff(whole.offsets)))


def _time_biases(split: Split, name: str, asked: Asked) -> list[Table]:
    """Next items, forward, with and without the bias of elapsed time."""
    shared = {**COSINE, "validation": 500, "dropout": 0.2, "length": 100, "epochs": 25}
    models = {
        f"transformer, time bias {bias}": _maker(
            "transformer", **shared, time_bias=bias, threads=asked.threads
        )
        for bias in ("none", "event", "query")
    }
    table = repeated(split, models, asked)
    table["models"] += compare(split, {"sequential_rules": create("sequential_rules")})["models"]
    return [{"data": name, **table}]


def movielens_100k(asked: Asked) -> list[Table]:
    """Forward, last 30 days, seen items hidden."""
    return _time_biases(splits.movielens_100k_forward(), "movielens-100k", asked)


def online_retail(asked: Asked) -> list[Table]:
    """Forward, last 30 days, repeats allowed."""
    return _time_biases(splits.online_retail(), "online-retail", asked)


def diginetica(asked: Asked) -> list[Table]:
    """Next item of a session prefix, stopped by the latest sessions of training; one seed."""
    shared = {**COSINE, "width": 96, "negatives": 2_048, "tokens": 1_024, "average": 0.995}
    shared |= {"length": 20, "dropout": 0.3, "epochs": 8, "patience": 2, "held_out": "latest"}
    split, tables = splits.diginetica(), []
    for name in ("transformer", "gru"):
        if asked.wanted(name):
            model = create(name, **shared, threads=asked.threads)
            tables += sessions_table(split, {name: model})
            print(f"  {tables[-1]['models']}, {model.run}", flush=True)
    return tables


def _maker(name: str, **settings: Any) -> Callable[[], Recommender]:
    return lambda: create(name, **settings)


def users(asked: Asked) -> list[Table]:
    """Boosted trees on aggregates, on a behaviour model's columns, the graph's and communities', and on all; frozen vectors
    alone: forward folds with purge.

    The models are pretrained on what was known before the first forward test, each without half of the users.
    """
    from benchmarks.quality.retail import TASKS, workspace
    from propend.features.derive import derive_features
    from propend.learn.behaviour import pretraining_settings
    from propend.learn.fusion import ablation, behaviour_source, pretrained_for
    from propend.learn.graph import graph_sources
    from propend.learn.transfer import Probe
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
                if not asked.wanted(name):
                    continue
                task = Task.parse(name, ask)
                plan = plan_cutoffs(shop.schema.first, shop.now, task.horizon)
                start = time.perf_counter()
                settings = pretraining_settings("small", threads=asked.threads)
                model = pretrained_for(shop.store, shop.schema, plan, settings=settings)
                seconds = time.perf_counter() - start
                wanted = derive_features(shop.schema)
                frame = _informative(
                    build_frame(shop.store, shop.schema, shop.engine, task, wanted, plan.cutoffs)
                )
                sources = {"behaviour": behaviour_source(shop.store, model, task.horizon.days)}
                with suppress(MissingExtraError, NotEnoughDataError):
                    first = min(plan.cutoffs)
                    sources |= graph_sources(shop.store, shop.schema, shop.engine, first)
                frozen = Probe(model, shop.store, frame, task)
                rows, _ = ablation(frame, task, plan, sources, networks={"frozen vectors": frozen})
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
    for line in (DATA / "cdnow" / "CDNOW_master.txt").read_text().splitlines()[1:]:
        customer, day, cds, dollars = line.split()
        if float(dollars) > 0:
            when = f"{day[:4]}-{day[4:6]}-{day[6:]}T12:00:00Z"
            lines.append(f"{customer},{when},purchase,{cds},{dollars}")
    (place / "cdnow.csv").write_text("\n".join(lines) + "\n")
    verb(["init", str(place / "cdnow"), "--from", str(place / "cdnow.csv")])
    opened = open_workspace(place / "cdnow")
    opened.ingest()
    return opened


SCALES = {
    "tiny": (1 / 64, 1 / 16, 1 / 4, 1.0),
    "small": (1 / 64, 1 / 16, 1 / 4),
    "base": (1 / 64, 1 / 16),
}
"""Shares of the market's users on which each size is pretrained: what a CPU reads in a quarter of an hour or so."""


def scaling(asked: Asked) -> list[Table]:
    """Held-out loss against weights and events on the synthetic market of ``PROPEND_MARKET`` users over 90 days.

    One epoch of each size, at the market's shares in ``SCALES``; each share is a market of its own, so the users held out
    differ from share to share and are the same for all sizes.
    """
    import os

    from propend.cli import main as verb
    from propend.events.market import Market
    from propend.learn.behaviour import pretrain, pretraining_settings
    from propend.pipeline.workspace import open_workspace

    most = int(os.environ.get("PROPEND_MARKET", "1000000"))
    tables = []
    for share in sorted(
        {s for size, shares in SCALES.items() if asked.wanted(size) for s in shares}
    ):
        count = int(share * most)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            market = Market(users=count, days=90, items=2_000, seed=7, dirt=0)
            files = market.write(folder / "market")
            sources = [word for file in files.events for word in ("--from", str(file))]
            verb(["init", str(folder / "shop"), *sources])
            shop = open_workspace(folder / "shop")
            shop.ingest()
            for size in (s for s, shares in SCALES.items() if asked.wanted(s) and share in shares):
                start = time.process_time()
                settings = pretraining_settings(size, epochs=1, length=64, threads=asked.threads)
                made = pretrain(shop.store, shop.schema, settings=settings)
                row = {"size": size, "users": count, "events": files.rows, **made.run["weights"]}
                row |= {**made.run["curves"][-1], "cpu_seconds": round(time.process_time() - start)}
                print(f"  {row}", flush=True)
                tables.append({"data": "market, 90 days, seed 7", **row})
    return tables


PARTS: dict[str, Callable[[Asked], list[Table]]] = {
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
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    asked = Asked(chosen.seeds, chosen.threads, tuple(chosen.only), chosen.first_seed)
    tables: list[Table] = []
    for name in chosen.parts:
        print(f"\n{name}", flush=True)
        for table in PARTS[name](asked):
            tables.append(table)
            for model, pair in table.get("published", {}).items():
                print(f"  published {model}: " + " / ".join(f"{v:.4f}" for v in pair))
            head = {k: v for k, v in table.items() if k not in ("models", "rows", "published")}
            print(f"  {head}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
