"""Recommenders on public data beside published rows: ``python -m benchmarks.quality.recommend [DATA…]``.

Reads the data sets from ``PROPEND_DATA`` (default ``../shared/data``), prints one table per data set and
writes JSON beside it with ``--json FILE``. Full ranking, conservative ties; settings were chosen on a
part of the training data, never on the test part.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from propend.events.clock import moment
from propend.names import MICROSECONDS
from propend.recommend.batch import default_chain
from propend.recommend.catalog import create
from propend.recommend.evaluate import Ranks, _table, compare, measure
from propend.recommend.hybrid import Hybrid
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.protocols import Split, forward, given, leave_one_out
from propend.recommend.recommender import Recommender

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("PROPEND_DATA", ROOT.parent / "shared" / "data"))

Table = dict[str, Any]


def _lists(path: Path, *, first_is_user: bool = True) -> tuple[list[int], list[list[int]]]:
    users, lists = [], []
    for number, line in enumerate(path.read_text().splitlines()):
        values = [int(v) for v in line.split()]
        users.append(values[0] if first_is_user else number)
        lists.append(values[1:] if first_is_user else values)
    return users, lists


def gowalla() -> list[Table]:
    """LightGCN split: Recall@20 and NDCG@20."""
    users, lists = _lists(DATA / "gowalla" / "train.txt")
    asked, answers = _lists(DATA / "gowalla" / "test.txt")
    train = Interactions.from_lists(lists, users=users, n_items=40_981)
    test = Interactions.from_lists(answers, users=asked, n_items=40_981)
    models = {
        "item_neighbours": create("item_neighbours", weighting="unit", shrink=1.0),
        "random_walk": create("random_walk", neighbours=200),
        "ease (200 nearest)": create("ease", strength=100.0, support=200),
        "slim": create("slim"),
        "als": create("als", factors=128),
        "graph_filter": create("graph_filter"),
    }
    table = compare(given(train, test), models, ks=(20,))
    table["published"] = {
        "ItemCF": [0.1570, 0.1214],
        "SLIM": [0.1699, 0.1382],
        "EASE": [0.1765, 0.1467],
        "LightGCN": [0.1820, 0.1547],
        "GF-CF": [0.1849, 0.1518],
        "SimpleX": [0.1872, 0.1557],
    }
    return [{"data": "gowalla", **table}]


def beauty() -> list[Table]:
    """Leave-one-out, seen items hidden: HR@10 and NDCG@10."""
    users, lists = _lists(DATA / "amazon-beauty" / "Beauty.txt")
    log = Interactions.from_lists(lists, users=users)
    models = {
        "item_neighbours": create("item_neighbours", weighting="unit", step=0.8, shrink=1.0),
        "user_neighbours": create("user_neighbours"),
        "random_walk": create("random_walk", step=0.8),
        "sequential_rules": create("sequential_rules", step=0.8),
        "session_neighbours": create("session_neighbours", fade=4.0, near=4.0),
        "ease": create("ease", strength=200.0, step=0.8),
        "als": create("als"),
        "bpr": create("bpr"),
        "graph_filter": create("graph_filter"),
    }
    table = compare(leave_one_out(log, seen="hidden"), models)
    table["published"] = {
        "PopRec": [0.0152, 0.0068],
        "GRU4Rec": [0.0283, 0.0137],
        "SASRec": [0.0605, 0.0318],
        "S3-Rec": [0.0647, 0.0327],
        "eSASRec": [0.0928, 0.0531],
    }
    return [{"data": "amazon-beauty", **table}]


def _movie_models() -> dict[str, Recommender]:
    return {
        "item_neighbours": create("item_neighbours", weighting="unit", step=0.98, shrink=1.0),
        "user_neighbours": create("user_neighbours"),
        "sequential_rules": create("sequential_rules", step=0.8),
        "session_neighbours": create("session_neighbours", fade=10.0, near=10.0),
        "ease": create("ease", strength=500.0, step=0.98),
        "als": create("als"),
        "graph_filter": create("graph_filter", factors=128),
    }


def movielens_100k_log() -> Interactions:
    """All ratings, with their times."""
    rows = np.loadtxt(DATA / "movielens-100k" / "ml-100k.inter", skiprows=1)
    return Interactions.of(
        rows[:, 0].astype(int), rows[:, 1].astype(int), (rows[:, 3] * MICROSECONDS).astype(np.int64)
    )


def movielens_100k() -> list[Table]:
    """Leave-one-out and forward, to show the gap."""
    log = movielens_100k_log()
    name = "movielens-100k"
    return [
        {"data": name, **compare(leave_one_out(log, seen="hidden"), _movie_models())},
        {"data": name, **compare(forward(log, 30, seen="hidden"), _movie_models())},
    ]


def movielens_1m_split() -> Split:
    """The published file: train on all but the last item of each user, ask for it."""
    folder = DATA / "movielens-1m"
    _, lists = _lists(folder / "train" / "input.txt", first_is_user=False)
    _, answers = _lists(folder / "test" / "output.txt", first_is_user=False)
    size = 1 + max(max(max(part) for part in lists), max(a[-1] for a in answers))
    train = Interactions.from_lists(lists, n_items=size)
    return given(train, Interactions.from_lists([a[-1:] for a in answers], n_items=size))


def movielens_1m() -> list[Table]:
    """Leave-one-out of the published file; it has no clock, so no forward row."""
    table = compare(movielens_1m_split(), _movie_models())
    table["published"] = {"SASRec BCE": [0.2392, 0.1259], "gSASRec": [0.3003, 0.1726]}
    return [{"data": "movielens-1m", **table}]


def diginetica_split() -> Split:
    """Ask for the next item of each published session prefix."""
    _, lists = _lists(DATA / "diginetica" / "train_sessions.txt", first_is_user=False)
    pairs = [
        line.split("\t")
        for line in (DATA / "diginetica" / "test_prefix_target.txt").read_text().splitlines()
    ]
    prefixes = [[int(i) for i in prefix.split()] for prefix, _ in pairs]
    targets = np.array([int(target) for _, target in pairs], np.int32)
    size = 1 + max(max(max(p) for p in lists), int(targets.max()), max(max(p) for p in prefixes))
    return _Prefixes.of(Interactions.from_lists(lists, n_items=size), prefixes, targets)


def sessions_table(split: Split, models: dict[str, Recommender]) -> list[Table]:
    """Judge recommenders on session prefixes: Recall@20 (P@20 of the papers) and MRR@20."""
    rows = []
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(split.train, at=split.at)
        fitted = time.perf_counter() - start
        ranks: Ranks = measure(model, split, 20)
        row = {"name": name, **_table(split, ranks, (20,), 0), "fit_seconds": round(fitted, 2)}
        rows.append({**row, "users_per_second": round(len(split) / ranks.seconds)})
    published = {"SR-GNN": [0.5073, 0.1759], "GCE-GNN": [0.5422, 0.1904]}
    head = {"data": "diginetica", "protocol": "session prefix → next item", "users": len(split)}
    return [{**head, "models": rows, "published": published}]


def diginetica() -> list[Table]:
    """Next item of a session prefix, repeats allowed: Recall@20 and MRR@20."""
    models = {
        "popularity": create("popularity"),
        "item_neighbours": create("item_neighbours", step=0.5),
        "sequential_rules": create("sequential_rules"),
        "session_neighbours": create("session_neighbours"),
    }
    return sessions_table(diginetica_split(), models)


class _Prefixes(Split):
    """A split whose histories are anonymous prefixes."""

    prefixes: Histories

    @classmethod
    def of(cls, train: Interactions, prefixes: list[list[int]], targets: Any) -> _Prefixes:
        """Ask for one target after each prefix."""
        histories = Histories.of(prefixes, train.last + 1)
        made = cls(
            "session prefix → next item",
            train,
            histories.users,
            np.arange(len(targets) + 1),
            targets,
            train.last + 1,
            "allowed",
        )
        object.__setattr__(made, "prefixes", histories)
        return made

    @property
    def histories(self) -> Histories:
        """The prefixes."""
        return self.prefixes


def online_retail_log() -> Interactions:
    """Every line of a known customer that is no cancellation."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    columns: list[tuple[int, int, int]] = []
    for path in sorted((DATA / "online-retail").glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row["CustomerID"] or row["InvoiceNo"].startswith("C"):
                    continue
                when = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC)
                columns.append(
                    (
                        users.setdefault(row["CustomerID"], len(users)),
                        items.setdefault(row["StockCode"], len(items)),
                        moment(when),
                    )
                )
    user, item, when_ = np.array(columns).T
    return Interactions.of(user, item, when_)


def online_retail() -> list[Table]:
    """Forward, last 30 days, repeats allowed: buy-again, neighbours, chain."""
    log = online_retail_log()
    models: dict[str, Recommender] = {
        "popularity": create("popularity"),
        "popularity, half-life 30 d": create("popularity", half_life=30.0),
        "buy_again": create("buy_again"),
        "item_neighbours": create("item_neighbours", weighting="unit", half_life=60.0, shrink=1.0),
        "ease": create("ease", half_life=60.0, strength=200.0),
        "chain": default_chain(log),
        "hybrid": Hybrid(
            [
                create("buy_again"),
                create("item_neighbours", weighting="unit", half_life=60.0, shrink=1.0),
                create("ease", half_life=60.0, strength=200.0),
                create("popularity", half_life=30.0),
            ],
            horizon=30.0,
        ),
    }
    return [{"data": "online-retail", **compare(forward(log, 30, seen="allowed"), models)}]


SETS: dict[str, Callable[[], list[Table]]] = {
    "gowalla": gowalla,
    "amazon-beauty": beauty,
    "movielens-100k": movielens_100k,
    "movielens-1m": movielens_1m,
    "diginetica": diginetica,
    "online-retail": online_retail,
}


def show(table: Table) -> None:
    """Print one table."""
    print(f"\n{table['data']}: {table['protocol']}, {table['users']:,} asked")
    wanted = ["hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@20", "coverage"]
    wanted = [key for key in wanted if any(key in row for row in table["models"])]
    print(f"{'':28}" + "".join(f"{key:>11}" for key in [*wanted, "fit s", "users/s"]))
    for row in table["models"]:
        figures = [row.get(key, float("nan")) for key in wanted]
        print(
            f"{row['name']:28}"
            + "".join(f"{value:11.4f}" for value in figures)
            + f"{row['fit_seconds']:11.1f}{row['users_per_second']:11.0f}"
        )
    for name, pair in table.get("published", {}).items():
        print(f"{name + ' (published)':28}" + "   ".join(f"{value:.4f}" for value in pair))


def main() -> None:
    """Run the named data sets, default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=list(SETS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    tables: list[Table] = []
    for name in chosen.data:
        for table in SETS[name]():
            show(table)
            tables.append(table)
    if chosen.json:
        chosen.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
