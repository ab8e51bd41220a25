"""What is asked of each data set, with the settings chosen on ``splits.validation`` and the published rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.recommend import splits
from propend.recommend import evaluate
from propend.recommend.batch import default_chain
from propend.recommend.catalog import create
from propend.recommend.evaluate import _table, measure, per_user
from propend.recommend.hybrid import Hybrid
from propend.recommend.popularity import Popularity
from propend.recommend.protocols import Split, data_hash
from propend.recommend.recommender import Recommender
from propend.recommend.rules import Baskets, frequent_sets

Table = dict[str, Any]
Models = dict[str, Recommender]
F64 = npt.NDArray[np.float64]


CHOSEN: list[str] = []
"""Beginnings of the names of the recommenders to run; none: all."""


def chosen(models: Models) -> Models:
    """Return the recommenders asked for."""
    wanted = tuple(CHOSEN)
    return {n: m for n, m in models.items() if not wanted or n.startswith(wanted)}


def compare(split: Split, models: Models, **options: Any) -> Table:
    """Judge the recommenders asked for; popularity always stands in the table."""
    return evaluate.compare(split, chosen(models), **options)


def gowalla() -> list[Table]:
    """LightGCN split: Recall@20 and NDCG@20."""
    models: Models = {
        "item_neighbours": create("item_neighbours", weighting="unit", shrink=1.0),
        "random_walk": create("random_walk", neighbours=200),
        "ease (200 nearest)": create("ease", strength=100.0, support=200, item_power=0.5),
        "slim": create("slim"),
        "als": create("als", factors=128, unmet=0.01, strength=0.03, biases=False),
        "graph_filter": create("graph_filter"),
    }
    published = {
        "ItemCF": [0.1570, 0.1214],
        "SLIM": [0.1699, 0.1382],
        "EASE": [0.1765, 0.1467],
        "LightGCN": [0.1820, 0.1547],
        "GF-CF": [0.1849, 0.1518],
        "SimpleX": [0.1872, 0.1557],
    }
    return [{**compare(splits.gowalla(), models, ks=(20,)), "published": published}]


def beauty() -> list[Table]:
    """Leave-one-out, seen items hidden: HR@10 and NDCG@10; popularity as it may have been counted, too."""
    split = splits.beauty()
    models: Models = {
        "item_neighbours": create("item_neighbours", weighting="unit", step=0.8, shrink=1.0),
        "user_neighbours": create("user_neighbours"),
        "random_walk": create("random_walk", step=0.8),
        "sequential_rules": create("sequential_rules", step=0.8),
        "session_neighbours": create("session_neighbours", fade=4.0, near=4.0),
        "ease": create("ease", strength=200.0, step=0.8),
        "als": create("als", factors=256, unmet=0.003, strength=0.1, biases=False),
        "bpr": create("bpr"),
        "graph_filter": create("graph_filter"),
    }
    table = compare(split, models)
    drawn = compare(split, {}, ties="random")["models"][0]
    table["models"].insert(1, {**drawn, "name": "popularity, random ties"})
    whole = Popularity().fit(splits.beauty_log())
    row = {"name": "popularity with test counts", **_figures(whole, split, (5, 10, 20))}
    table["models"].insert(2, row)
    table["published"] = {
        "PopRec": [0.0152, 0.0068],
        "GRU4Rec": [0.0283, 0.0137],
        "SASRec": [0.0605, 0.0318],
        "S3-Rec": [0.0647, 0.0327],
        "eSASRec": [0.0928, 0.0531],
    }
    return [table]


def _movie_models() -> Models:
    return {
        "item_neighbours": create("item_neighbours", weighting="unit", step=0.98, shrink=1.0),
        "user_neighbours": create("user_neighbours"),
        "sequential_rules": create("sequential_rules", step=0.8),
        "session_neighbours": create("session_neighbours", fade=10.0, near=10.0),
        "ease": create("ease", strength=500.0, step=0.98),
        "als": create("als", unmet=1.2, strength=0.3, biases=False),
        "graph_filter": create("graph_filter", factors=128),
    }


def movielens_100k() -> list[Table]:
    """Leave-one-out and forward, and what lies between them."""
    one = compare(splits.movielens_100k(), _movie_models())
    forward = compare(splits.movielens_100k_forward(), _movie_models())
    ahead = {row["name"]: row for row in forward["models"]}
    forward["gap"] = {
        row["name"]: {key: [row[key], ahead[row["name"]][key]] for key in ("hr@10", "ndcg@10")}
        for row in one["models"]
    }
    return [one, forward]


def movielens_1m() -> list[Table]:
    """Leave-one-out of the published file; it has no clock, so no forward row."""
    table = compare(splits.movielens_1m(), _movie_models())
    table["published"] = {"SASRec BCE": [0.2392, 0.1259], "gSASRec": [0.3003, 0.1726]}
    return [table]


def diginetica() -> list[Table]:
    """Next item of a session prefix, repeats allowed: Recall@20 and MRR@20."""
    models: Models = {
        "popularity": create("popularity"),
        "item_neighbours": create("item_neighbours", step=0.5),
        "sequential_rules": create("sequential_rules", step=0.7),
        "session_neighbours": create("session_neighbours"),
    }
    return sessions_table(splits.diginetica(), chosen(models))


def sessions_table(split: Split, models: Models) -> list[Table]:
    """Judge recommenders on session prefixes: Recall@20 (P@20 of the papers) and MRR@20."""
    rows = []
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(split.train, at=split.at)
        fitted = time.perf_counter() - start
        row = {"name": name, **_figures(model, split, (20,)), "fit_seconds": round(fitted, 2)}
        rows.append(row)
    published = {"SR-GNN": [0.5073, 0.1759], "GCE-GNN": [0.5422, 0.1904]}
    head = {"protocol": split.protocol, "data_hash": data_hash(split.train), "users": len(split)}
    return [{**head, "seen": split.seen, "models": rows, "published": published}]


def online_retail() -> list[Table]:
    """Forward, last 30 days, repeats allowed: buy-again, neighbours, hybrid, and the hybrid's lead."""
    split = splits.online_retail()
    neighbours = {"weighting": "unit", "half_life": 60.0, "shrink": 1.0}
    sources = [
        create("buy_again"),
        create("item_neighbours", **neighbours),
        create("ease", half_life=60.0, strength=200.0),
        create("popularity", half_life=30.0),
    ]
    models: Models = {
        "popularity": create("popularity"),
        "popularity, half-life 30 d": create("popularity", half_life=30.0),
        "buy_again": create("buy_again"),
        "item_neighbours": create("item_neighbours", **neighbours),
        "ease": create("ease", half_life=60.0, strength=200.0),
        "chain": default_chain(split.train),
        "hybrid": Hybrid(sources, horizon=30.0),
    }
    table = compare(split, models)
    singles = [row for row in table["models"] if row["name"] not in ("chain", "hybrid")]
    best = max(singles, key=lambda row: row["ndcg@10"])["name"]
    table["lead"] = {
        f"{name} over {best}, ndcg@10": lead(ndcg(models[name], split), ndcg(models[best], split))
        for name in ("chain", "hybrid")
        if name in chosen(models)
    }
    return [table]


def lastfm() -> list[Table]:
    """LastFM without and with friends: a friend is a further item the user has met."""

    def models() -> Models:
        return {
            "item_neighbours": create("item_neighbours", weighting="unit", shrink=1.0),
            "user_neighbours": create("user_neighbours", weighting="given"),
            "random_walk": create("random_walk"),
            "ease": create("ease", strength=50.0, support=200),
            "als": create("als", unmet=0.03, strength=0.3, biases=False, weighted=True),
            "graph_filter": create("graph_filter", factors=128),
        }

    plain = splits.lastfm()
    split, artists = splits.lastfm_friends()
    without, with_ = models(), models()
    alone = compare(plain, without, ks=(10, 20))
    social = compare(split, with_, within=artists, ks=(10, 20))
    alone["protocol"] += ", without friends"
    social["protocol"] += ", with friends"
    social["lead"] = {
        f"{name} with over without friends, ndcg@10": lead(
            ndcg(with_[name], split, artists), ndcg(without[name], plain)
        )
        for name in chosen(with_)
    }
    newcomers = splits.strangers(split, artists)
    cold = compare(newcomers, models(), within=artists, ks=(10, 20))
    cold["protocol"] += ", a fifth of the users with friends only"
    return [alone, social, cold]


def groceries() -> list[Table]:
    """Frequent sets at a support of 0.1 %, counts beside those of other libraries."""
    named = splits.groceries()
    codes = {name: code for code, name in enumerate(sorted({n for row in named for n in row}))}
    lists = [[codes[name] for name in row] for row in named]
    baskets = Baskets.from_lists(lists, len(codes))
    least = int(np.ceil(0.001 * len(lists) - 1e-9))
    start = time.process_time()
    ours = frequent_sets(baskets, 0.001).counts
    rows: list[Table] = [_mined("propend", ours, ours, time.process_time() - start)]
    for name, (module, mine) in PEERS.items():
        if find_spec(module) is None:
            rows.append({"name": name, "missing": f"pip install {name}"})
            continue
        start = time.process_time()
        found = mine(lists, least)
        rows.append(_mined(name, found, ours, time.process_time() - start))
    head = {"protocol": f"support 0.1 %: {least} of {len(lists):,} baskets", "users": len(lists)}
    return [{**head, "data_hash": data_hash(_as_log(lists)), "sets": rows, "models": []}]


Counts = Mapping[tuple[int, ...], int]


def _mlxtend(lists: list[list[int]], least: int) -> Counts:
    import pandas as pd
    from mlxtend.frequent_patterns import fpgrowth

    held = np.zeros((len(lists), 1 + max(max(row) for row in lists)), np.bool_)
    for row, basket in enumerate(lists):
        held[row, basket] = True
    found = fpgrowth(pd.DataFrame(held), min_support=least / len(lists) - 1e-12)
    pairs = zip(found["itemsets"], found["support"], strict=True)
    return {tuple(sorted(items)): round(share * len(lists)) for items, share in pairs}


def _pyfim(lists: list[list[int]], least: int) -> Counts:
    import fim

    return {
        tuple(sorted(items)): count
        for items, count in fim.fpgrowth(lists, target="s", supp=-least, report="a")
    }


def _efficient(lists: list[list[int]], least: int) -> Counts:
    from efficient_apriori import itemsets_from_transactions

    found, _ = itemsets_from_transactions(
        [tuple(row) for row in lists], least / len(lists) - 1e-12, max_length=99
    )
    return {items: int(count) for sized in found.values() for items, count in sized.items()}


PEERS: dict[str, tuple[str, Callable[[list[list[int]], int], Counts]]] = {
    "mlxtend": ("mlxtend", _mlxtend),
    "pyfim": ("fim", _pyfim),
    "efficient-apriori": ("efficient_apriori", _efficient),
}


def _mined(name: str, found: Counts, want: Counts, seconds: float) -> Table:
    sizes = Counter(len(items) for items in found)
    equal = dict(found) == dict(want)
    told = {"name": name, "sets": len(found), "by_size": dict(sorted(sizes.items()))}
    return {**told, "equal": equal, "cpu_seconds": round(seconds, 3)}


def _as_log(lists: list[list[int]]) -> Any:
    from propend.recommend.interactions import Interactions

    return Interactions.from_lists(lists)


def _figures(model: Recommender, split: Split, ks: tuple[int, ...]) -> Table:
    """Return the figures of a fitted model on any split."""
    ranks = measure(model, split, max(ks))
    row = _table(split, ranks, ks, 0)
    return {**row, "fit_seconds": 0.0, "users_per_second": round(len(split) / ranks.seconds)}


def ndcg(model: Recommender, split: Split, within: Any = None, k: int = 10) -> F64:
    """Return each user's NDCG of a fitted model."""
    return per_user(measure(model, split, k, within=within), k)["ndcg"]


def lead(ahead: F64, behind: F64) -> list[float]:
    """Return the mean difference and its 95 % interval, the same users drawn for both."""
    gain = ahead - behind
    draws = np.random.default_rng(0).integers(0, len(gain), (2_000, len(gain)))
    low, high = np.quantile(gain[draws].mean(axis=1), [0.025, 0.975])
    return [round(float(v), 4) for v in (gain.mean(), low, high)]


SETS: dict[str, Callable[[], list[Table]]] = {
    "gowalla": gowalla,
    "amazon-beauty": beauty,
    "movielens-100k": movielens_100k,
    "movielens-1m": movielens_1m,
    "diginetica": diginetica,
    "online-retail": online_retail,
    "groceries": groceries,
    "lastfm": lastfm,
}
