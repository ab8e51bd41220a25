"""Recommenders and rules against implicit, faiss, pyfim and mlxtend: equal answers, single-thread CPU-seconds, peak memory.

    python -m benchmarks.speed.recommend [--repeats 5] [--only cosine als …] [--json FILE]

Every contest is run ``--repeats`` times with the contenders taking turns, the median of CPU-seconds (all threads; one is
allowed) is told, and kernels are compiled before. Data are made, seeded: interactions shaped like MovieLens-1M
(6,040 × 3,706, 1.1 M, Zipf), clustered unit vectors, baskets with hidden groups. Memory is the peak of a process of its own. Peers:
``pip install implicit==0.7.3 faiss-cpu pyfim mlxtend``; a missing one is told and left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.recommend.catalog import create
from propend.recommend.interactions import Interactions
from propend.recommend.ranking import top_k_products
from propend.recommend.rules import Baskets, frequent_sets

SEED = 7
Row = dict[str, Any]
F32 = npt.NDArray[np.float32]


@cache
def interactions(users: int = 6_040, items: int = 3_706, pairs: int = 1_100_000) -> Interactions:
    """Return distinct pairs, items by Zipf's law and users by a lognormal one."""
    rng = np.random.default_rng(SEED)
    shares = np.arange(1, items + 1) ** -0.9
    busy = rng.lognormal(0, 1.1, users)
    draws = 4 * pairs
    who = rng.choice(users, draws, p=busy / busy.sum())
    what = rng.choice(items, draws, p=shares / shares.sum())
    keys = rng.permutation(np.unique(who * items + what))[:pairs]
    return Interactions.of(keys // items, keys % items, n_items=items)


@cache
def sparse(binary: bool = True) -> Any:
    """Return the interactions as the sparse matrix peers take."""
    from scipy.sparse import csr_matrix

    return csr_matrix(interactions().matrix(binary=binary))


@cache
def vectors(n: int = 100_000, d: int = 64, asked: int = 2_000) -> tuple[F32, F32]:
    """Return unit vectors around 200 centres: those kept and those asked for."""
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((200, d))

    def draw(m: int) -> F32:
        x = centres[rng.integers(0, 200, m)] + 0.5 * rng.standard_normal((m, d))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return draw(n), draw(asked)


@cache
def baskets(n: int = 50_000, items: int = 1_000) -> list[list[int]]:
    """Return baskets of about ten items: Zipf with groups that go together."""
    rng = np.random.default_rng(SEED)
    shares = np.arange(1, items + 1) ** -0.7
    groups = [rng.choice(items, 4, replace=False) for _ in range(60)]
    draws = rng.choice(items, (n, 24), p=shares / shares.sum())
    sizes = np.minimum(rng.poisson(9, n) + 1, 24)
    found = []
    for row, size in zip(draws, sizes, strict=True):
        basket = set(row[:size].tolist())
        if rng.random() < 0.3:
            basket |= set(groups[int(rng.integers(60))].tolist())
        found.append(sorted(basket))
    return found


# ---- contests: each returns contenders by name, and a check of their answers


Contest = tuple[dict[str, Callable[[], Any]], Callable[[dict[str, Any]], str]]


def cosine() -> Contest:
    """Item cosine, the 100 nearest of each item."""
    log, table = interactions(), sparse()

    def ours() -> Any:
        return create("item_neighbours", neighbours=100, shrink=0.0).fit(log)._table

    def implicit() -> Any:
        from implicit.nearest_neighbours import CosineRecommender

        model = CosineRecommender(K=101, num_threads=1)  # its neighbours hold the item itself
        model.fit(table, show_progress=False)
        return model.similarity

    def check(found: dict[str, Any]) -> str:
        mine = np.sort(found["propend"].values.reshape(-1, 100), axis=1)
        other = found["implicit"].tocsr()
        worst = 0.0
        for item in range(len(mine)):
            row = other.data[other.indptr[item] : other.indptr[item + 1]]
            row = np.sort(row)[:-1][-100:]  # the largest is the item itself
            worst = max(worst, float(np.abs(mine[item][-len(row) :] - row).max()))
        assert worst < 1e-5, worst
        return f"likenesses equal within {worst:.0e}"

    return {"propend": ours, "implicit": implicit}, check


ALPHA, RIDGE = 9.0, 10.0


def als() -> Contest:
    """iALS, 64 factors, 15 iterations, three conjugate gradient steps each."""
    log, table = interactions(), sparse()
    scale = (ALPHA + 1) / ALPHA  # implicit's objective is scale² × ours with λ / scale

    def ours() -> Any:
        settings = {"factors": 64, "rounds": 15, "biases": False, "scale": 0.0, "steps": 3}
        model: Any = create(
            "als", **settings, unmet=1.0, confidence=ALPHA, strength=RIDGE / scale
        ).fit(log)
        return model._user, model._item

    def implicit() -> Any:
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            64, regularization=RIDGE, alpha=ALPHA + 1, iterations=15, num_threads=1, random_state=0
        )
        model.fit(table, show_progress=False)
        return model.user_factors / np.sqrt(scale), model.item_factors / np.sqrt(scale)

    def objective(x: F32, y: F32) -> float:
        """Σ_met c (1 − ŷ)² + Σ_all ŷ² + λ (|x|² + |y|²)."""
        rows = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
        dots = np.concatenate(
            [
                np.einsum("nd,nd->n", x[rows[low : low + 100_000]], y[column])
                for low in range(0, len(rows), 100_000)
                for column in [table.indices[low : low + 100_000]]
            ]
        ).astype(np.float64)
        every = float(((x.T @ x).astype(np.float64) * (y.T @ y)).sum())
        ridge = RIDGE / scale * float((x.astype(np.float64) ** 2).sum() + (y**2).sum())
        return float(ALPHA * ((1 - dots) ** 2).sum()) + every + ridge

    def check(found: dict[str, Any]) -> str:
        told = {name: objective(*pair) for name, pair in found.items()}
        assert told["propend"] <= 1.002 * told["implicit"], told
        return "objective " + ", ".join(f"{name} {value:,.0f}" for name, value in told.items())

    return {"propend": ours, "implicit": implicit}, check


def top_10() -> Contest:
    """Ten items for each of 6,040 users out of 64 factors, what they had left out."""
    log, table = interactions(), sparse()
    model: Any = create("als", factors=64, rounds=2, biases=False).fit(log)
    users = np.arange(table.shape[0])

    def implicit() -> Any:
        return peer.recommend(users, table, N=10)

    contenders: dict[str, Callable[[], Any]] = {"propend": lambda: model.recommend(k=10)}
    if find_spec("implicit"):
        from implicit.als import AlternatingLeastSquares

        peer = AlternatingLeastSquares(64, iterations=1, num_threads=1)
        peer.fit(table, show_progress=False)
        peer.user_factors, peer.item_factors = model._user, model._item
        contenders["implicit"] = implicit

    def check(found: dict[str, Any]) -> str:
        same = (found["propend"].items == found["implicit"][0]).mean()
        assert same > 0.999, same
        return f"{same:.2%} of the places hold the same item"

    return contenders, check


def exact() -> Contest:
    """The ten largest products of 2,000 vectors with 100,000 × 64."""
    kept, asked = vectors()

    def faiss() -> Any:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(kept.shape[1])
        index.add(kept)
        return index.search(asked, 10)[1]

    def numpy() -> Any:
        found = []
        for low in range(0, len(asked), 100):
            scores = asked[low : low + 100] @ kept.T
            best = np.argpartition(-scores, 10, axis=1)[:, :10]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)

    def check(found: dict[str, Any]) -> str:
        same = min((found["propend"] == other).mean() for other in found.values())
        assert same > 0.999, same
        return f"{same:.2%} of the places hold the same item"

    ours = {"propend": lambda: top_k_products(asked, kept, 10)[0]}
    return {**ours, "faiss": faiss, "numpy": numpy}, check


def rules(support: float = 0.001) -> Contest:
    """Frequent sets of 50,000 baskets of 1,000 items at a support of 0.1 %, from lists of codes (mlxtend: from a ready frame of booleans) to sets with counts."""
    lists = baskets()

    def ours(method: Any) -> Callable[[], Any]:
        return lambda: frequent_sets(Baskets.from_lists(lists), support, method=method).counts

    def pyfim() -> Any:
        import fim

        return fim.fpgrowth(lists, target="s", supp=100 * support, report="a")

    def mlxtend() -> Any:
        import pandas as pd
        from mlxtend.frequent_patterns import fpgrowth

        return fpgrowth(pd.DataFrame(held), min_support=support)

    held = np.zeros((len(lists), 1_000), np.bool_)
    for row, basket in enumerate(lists):
        held[row, basket] = True

    def check(found: dict[str, Any]) -> str:
        want = found["propend"]
        for name, other in found.items():
            if name == "pyfim":
                got = {tuple(sorted(items)): count for items, count in other}
            elif name == "mlxtend":
                pairs = zip(other["itemsets"], other["support"], strict=True)
                got = {tuple(sorted(items)): round(s * len(lists)) for items, s in pairs}
            else:
                got = other
            assert got == want, name
        return f"{len(want):,} sets, counts equal"

    others = {"pyfim": pyfim, "mlxtend": mlxtend}
    return {"propend": ours("fpgrowth"), "propend eclat": ours("eclat"), **others}, check


CONTESTS: dict[str, Callable[[], Contest]] = {
    "cosine": cosine,
    "als": als,
    "top_10": top_10,
    "exact": exact,
    "rules": rules,
}
MODULES = {"implicit": "implicit", "faiss": "faiss", "pyfim": "fim", "mlxtend": "mlxtend"}


def contest(name: str, repeats: int) -> list[Row]:
    """Run one contest, contenders taking turns, and check their answers."""
    contenders, check = CONTESTS[name]()
    missing = [n for n in contenders if n in MODULES and find_spec(MODULES[n]) is None]
    contenders = {n: run for n, run in contenders.items() if n not in missing}
    found = {n: run() for n, run in contenders.items()}  # compiles and warms
    told = check(found) if len(contenders) > 1 and not missing else "peers missing, not checked"
    seconds: dict[str, list[float]] = {n: [] for n in contenders}
    for turn in range(repeats):
        for n, run in contenders.items():
            if n in ("mlxtend", "numpy") and turn >= 3:
                continue  # the slow ones say the same three times
            start = time.process_time()
            run()
            seconds[n].append(time.process_time() - start)
    base = median(seconds["propend"])
    rows = [
        {"name": n, "cpu_seconds": round(median(s), 4), "ratio_to_ours": round(median(s) / base, 2)}
        for n, s in seconds.items()
    ]
    rows += [{"name": n, "missing": f"pip install {n}"} for n in missing]
    return [{"contest": name, "what": (CONTESTS[name].__doc__ or "").strip(), "check": told}, *rows]


# ---- memory: each in a process of its own


def peak() -> float:
    """Return the most memory this process held, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def ease(items: int = 12_000) -> Row:
    """Fit EASE on 12,000 items and recommend."""
    rng = np.random.default_rng(SEED)
    what = (items * rng.random(600_000) ** 2).astype(np.int64)
    log = Interactions.of(rng.integers(0, 40_000, len(what)), what, n_items=items)
    before, start = peak(), time.process_time()
    shelf = create("ease").fit(log)
    shelf.recommend(log.users[:100], 10)
    return {"items": items, "cpu_seconds": time.process_time() - start, "before_gb": before}


def batch(users: int = 100_000, items: int = 50_000) -> Row:
    """Recommend ten of 50,000 items to 100,000 users: as a table of scores that were 20 GB."""
    rng = np.random.default_rng(SEED)
    what = (items * rng.random(20 * users) ** 2).astype(np.int64)
    log = Interactions.of(rng.integers(0, users, len(what)), what, n_items=items)
    told: Row = {"users": users, "items": items, "users_x_items_gb": 4e-9 * users * items}
    for name, settings in {"als": {"rounds": 1}, "item_neighbours": {}}.items():
        shelf = create(name, **settings).fit(log)
        before, start = peak(), time.process_time()
        shown = shelf.recommend(k=10)
        assert len(shown) == log.n_users
        told[name] = {
            "cpu_seconds": round(time.process_time() - start, 2),
            "before_gb": round(before, 2),
            "peak_gb": round(peak(), 2),
        }
    return told


MEMORY: dict[str, Callable[[], Row]] = {"ease": ease, "batch": batch}


def alone(name: str) -> Row:
    """Run a memory measurement in a new process."""
    command = [sys.executable, "-m", "benchmarks.speed.recommend", "--alone", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cost(row: Row) -> str:
    """Return what a contender cost, or how to get a missing one."""
    if "missing" in row:
        return f"not here: {row['missing']}"
    return f"{row['cpu_seconds']:10.3f} CPU-s  {row['ratio_to_ours']:6.2f} ×"


def main() -> None:
    """Run the contests and measurements named, default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[*CONTESTS, *MEMORY])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", choices=list(MEMORY))
    chosen = parser.parse_args()
    if chosen.alone:
        row = MEMORY[chosen.alone]()
        print(json.dumps({**row, "peak_gb": round(peak(), 2)}))
        return
    from threadpoolctl import threadpool_limits

    tables: list[Any] = []
    digest = hashlib.sha256(interactions().item.tobytes()).hexdigest()[:16]
    print(f"interactions {digest}, seed {SEED}, medians of {chosen.repeats} turns, one thread")
    with threadpool_limits(1):
        for name in chosen.only:
            if name in MEMORY:
                row = alone(name)
                tables.append([{"memory": name}, row])
                print(f"\n{(MEMORY[name].__doc__ or '').strip()}\n  {row}", flush=True)
                continue
            rows = contest(name, chosen.repeats)
            tables.append(rows)
            print(f"\n{rows[0]['what']}  [{rows[0]['check']}]")
            for row in rows[1:]:
                print(f"  {row['name']:16}{cost(row)}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    main()
