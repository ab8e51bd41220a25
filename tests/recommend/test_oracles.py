"""Compiled code against slow, obvious code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.names import DAY
from propend.recommend import ranking
from propend.recommend.again import BuyAgain
from propend.recommend.evaluate import measure, per_user
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.neighbours import ItemNeighbours, RandomWalk, UserNeighbours
from propend.recommend.protocols import Split
from propend.recommend.ranking import top_k
from propend.recommend.recommender import Recommender, State
from propend.recommend.regression import Ease, Slim
from propend.recommend.sessions import SequentialRules
from propend.recommend.similarity import Sparse, nearest_columns, nearest_rows
from propend.recommend.spectral import GraphFilter


def made(seed: int = 0, users: int = 40, items: int = 15, n: int = 300) -> Interactions:
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 50 * DAY, n)
    return Interactions.of(rng.integers(0, users, n), rng.integers(0, items, n), time)


def dense(shelf: Any) -> np.ndarray[Any, Any]:
    """A sparse table of weights as an array."""
    return shelf._table.scipy().toarray() if hasattr(shelf._table, "scipy") else shelf._table


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_top_k(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (3, 9)).astype(np.float32)
    scores[rng.random((3, 9)) < 0.2] = -np.inf
    scores[rng.random((3, 9)) < 0.1] = np.nan
    allowed = rng.random(9) < 0.8
    items, best = top_k(scores, k, allowed)
    for row in range(3):
        right = sorted(
            (-scores[row, i], i) for i in range(9) if allowed[i] and scores[row, i] > -np.inf
        )[:k]
        assert items[row].tolist() == [i for _, i in right] + [-1] * (k - len(right))
        assert best[row, : len(right)].tolist() == [-s for s, _ in right]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([8, 40, 1 << 18]))
def test_top_k_of_products(seed: int, k: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    rows, n = int(rng.integers(1, 9)), int(rng.integers(1, 150))
    left, right = (rng.integers(-2, 3, (m, 5)).astype(np.float32) for m in (rows, n))
    bias = rng.integers(-1, 2, n).astype(np.float32)
    bias[rng.random(n) < 0.1] = -np.inf
    allowed = rng.random(n) < 0.8
    lengths = rng.integers(0, 6, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    seen = rng.integers(0, n, offsets[-1]).astype(np.int32)
    scores = left @ right.T + bias
    scores[np.repeat(np.arange(rows), lengths), seen] = -np.inf
    want = top_k(scores, k, allowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_TILE_ROWS", 3)
        patch.setattr(ranking, "_TILE_CELLS", cells)
        got = ranking.top_k_products(
            left, right, k, bias=bias, allowed=allowed, seen=(offsets, seen)
        )
    assert got[0].tolist() == want[0].tolist()
    assert got[1].tolist() == want[1].tolist()


@pytest.mark.parametrize("share", [0.02, 0.4])
@pytest.mark.parametrize("union", [False, True])
def test_nearest_rows_is_nearest_columns(share: float, union: bool) -> None:
    from scipy.sparse import random_array

    rng = np.random.default_rng(0)
    table = random_array((60, 40), density=share, format="csr", rng=rng, dtype=np.float32)
    table.data[:] = rng.integers(1, 3, len(table.data)) if not union else 1  # many ties
    norm = np.sqrt(np.asarray((table**2).sum(axis=1)).ravel().astype(np.float64))
    fast = nearest_rows(table, 7, norm, shrink=0.5, union=union)
    slow = nearest_columns(
        Sparse.of(table),
        Sparse.of(table.T),
        7,
        row_norm=norm,
        column_norm=norm,
        shrink=0.5,
        union=union,
    )
    assert fast.offsets.tolist() == slow.offsets.tolist()
    assert fast.columns.tolist() == slow.columns.tolist()
    assert np.allclose(fast.values, slow.values, rtol=1e-6)


class Fixed(Recommender):
    """Gives the scores it was made with."""

    name = "fixed"

    def _learn(self, log: Interactions) -> None: ...

    def _score(self, histories: Histories, at: int) -> np.ndarray[Any, Any]:
        del at
        return self.given[self._fitted().rows_of(histories.users)].copy()

    def _state(self) -> State:
        return State()

    def _restore(self, state: State) -> None: ...


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["conservative", "random"]))
def test_metrics(seed: int, ties: Any) -> None:
    rng = np.random.default_rng(seed)
    users, items, k = 6, 11, 4
    train = Interactions.from_lists(
        [rng.integers(0, items, 3) for _ in range(users)], n_items=items
    )
    shelf = Fixed().fit(train)
    shelf.given = rng.integers(0, 4, (users, items)).astype(np.float32)
    shelf.given[rng.random((users, items)) < 0.2] = -np.inf
    truth = [np.flatnonzero(rng.random(items) < 0.3) for _ in range(users)]
    truth = [t if len(t) else np.array([0]) for t in truth]
    seen = [set(train.item[train.user == u].tolist()) for u in range(users)]
    truth = [
        np.array([i for i in t if i not in s] or [next(iter(set(range(items)) - s))])
        for t, s in zip(truth, seen, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in truth])])
    split = Split("x", train, np.arange(users), offsets, np.concatenate(truth), train.last + 1)
    ranks = measure(shelf, split, k, ties=ties)
    for u in range(users):
        mine = ranks.rank[offsets[u] : offsets[u + 1]]
        lows, highs = [], []
        for item in truth[u]:
            s = shelf.given[u, item]
            others = [i for i in range(items) if i not in seen[u]]
            better = sum(shelf.given[u, i] > s for i in others)
            equal = sum(shelf.given[u, i] == s for i in others)
            lows.append(better + 1 if s > -np.inf else 0)
            highs.append(better + equal)
        for rank, low, high, item in zip(mine, lows, highs, truth[u], strict=True):
            if not low:
                assert rank == 0
            elif rank:
                assert low <= rank <= high
            else:
                assert high > k
            if ties == "conservative" and low and len(truth[u]) == 1:
                assert rank == (high if high <= k else 0), (item, low, high)
        assert len(set(mine[mine > 0].tolist())) == (mine > 0).sum(), "each answer has its own rank"
    table = per_user(ranks, k)
    for u in range(users):
        hits = sorted(r for r in ranks.rank[offsets[u] : offsets[u + 1]].tolist() if 0 < r <= k)
        n = len(truth[u])
        ideal = sum(1 / np.log2(i + 2) for i in range(min(n, k)))
        want = {
            "hr": float(bool(hits)),
            "recall": len(hits) / n,
            "precision": len(hits) / k,
            "ndcg": sum(1 / np.log2(r + 1) for r in hits) / ideal,
            "map": sum((i + 1) / r for i, r in enumerate(hits)) / min(n, k),
            "mrr": 1 / hits[0] if hits else 0.0,
        }
        for name, value in want.items():
            assert table[name][u] == pytest.approx(value), name


def slow_neighbours(x: Any, measure: str, shrink: float, k: int) -> np.ndarray[Any, Any]:
    n = x.shape[1]
    like = np.zeros((n, n))
    met = x > 0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            both = float(x[:, i] @ x[:, j])
            if measure == "jaccard":
                both = float((met[:, i] & met[:, j]).sum())
                below = met[:, i].sum() + met[:, j].sum() - both + shrink
            else:
                below = np.sqrt((x[:, i] ** 2).sum() * (x[:, j] ** 2).sum()) + shrink
            like[i, j] = both / below if both > 0 else 0.0
        keep = sorted(range(n), key=lambda j: (-np.float32(like[i, j]), j))[:k]
        like[i, [j for j in range(n) if j not in keep]] = 0.0
    return like


@pytest.mark.parametrize("measure", ["cosine", "jaccard"])
@pytest.mark.parametrize("k", [3, 14])
def test_item_neighbours(measure: Any, k: int) -> None:
    log = made()
    shelf = ItemNeighbours(measure=measure, neighbours=k, shrink=1.5).fit(log)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    assert np.allclose(dense(shelf), slow_neighbours(x, measure, 1.5, k), atol=1e-6)


def test_pearson_and_adjusted_cosine() -> None:
    rng = np.random.default_rng(1)
    log = Interactions.of(rng.integers(0, 30, 250), rng.integers(0, 9, 250), weight=rng.random(250))
    x = log.matrix().toarray().astype(np.float64)
    met = x > 0
    for how, axis in (("pearson", 0), ("adjusted_cosine", 1)):
        mean = x.sum(axis=axis, keepdims=True) / met.sum(axis=axis, keepdims=True)
        want = slow_neighbours(np.where(met, x - mean, 0.0), "cosine", 0.0, 8)
        shelf = ItemNeighbours(measure=how, weighting="given", neighbours=8, shrink=0).fit(log)
        assert np.allclose(dense(shelf), want, atol=1e-5)


def test_user_neighbours() -> None:
    log = made(3)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    like = unit @ unit.T
    np.fill_diagonal(like, 0)
    scores = UserNeighbours(neighbours=100).fit(log).scores(log.users)
    assert np.allclose(np.where(np.isfinite(scores), scores, 0.0), like @ x, atol=1e-5)


def test_random_walk() -> None:
    log = made(4)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    to_user = (x / x.sum(axis=0)).T ** 0.8
    to_item = (x / x.sum(axis=1, keepdims=True)) ** 0.8
    want = to_user @ to_item / x.sum(axis=0)[None, :] ** 0.4
    np.fill_diagonal(want, 0)
    assert np.allclose(dense(RandomWalk(neighbours=15).fit(log)), want, atol=1e-5)


def test_ease_dense_and_local() -> None:
    log = made(5, n=900)  # every pair of items was met together
    x = log.matrix(binary=True).toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 7 * np.eye(15))
    want = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(want, 0)
    assert np.allclose(dense(Ease(strength=7).fit(log)), want, atol=1e-5)
    assert np.allclose(dense(Ease(strength=7, support=14).fit(log)), want, atol=1e-4)


def test_ease_with_popularity_in_users_and_ridges() -> None:
    log = made(5, n=900)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    ridge = 7 * (x.sum(axis=0) / x.sum(axis=0).mean()) ** 0.5
    x /= x.sum(axis=1, keepdims=True) ** 0.25
    inverse = np.linalg.inv(x.T @ x + np.diag(ridge))
    want = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(want, 0)
    powers = {"user_power": 0.25, "item_power": 0.5}
    assert np.allclose(dense(Ease(strength=7, **powers).fit(log)), want, atol=1e-5)
    assert np.allclose(dense(Ease(strength=7, support=14, **powers).fit(log)), want, atol=1e-4)


def test_slim_solves_its_equations() -> None:
    log = made(6, n=500)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    b = dense(Slim(ridge=2.0, lasso=0.5, support=14).fit(log)).astype(np.float64)
    assert (b >= 0).all()
    assert not np.diag(b).any()
    slope = x.T @ (x - x @ b) - 2.0 * b - 0.5
    np.fill_diagonal(slope, 0)
    assert np.abs(slope[b > 1e-6]).max() < 1e-2, "where a weight is, nothing is left to gain"
    assert slope[b <= 0].max() < 1e-2, "where none is, none would help"


def test_graph_filter() -> None:
    log = made(8)
    x = log.matrix(binary=True).toarray().astype(np.float64)
    users, items = np.sqrt(x.sum(axis=1)), np.sqrt(x.sum(axis=0))
    graph = x / users[:, None] / items[None, :]
    p = graph.T @ graph
    _, _, right = np.linalg.svd(graph, full_matrices=False)
    v = right[:14].T
    want = x @ p + 0.3 * (x / items) @ v @ v.T * items - 0.6 * x @ p @ p
    got = GraphFilter(factors=14).fit(log).scores(log.users)
    assert np.allclose(got, want, atol=2e-3)


def test_sequential_rules() -> None:
    log = Interactions.from_lists([[0, 1, 2, 1], [2, 0, 1]])
    want = np.zeros((3, 3))
    for session in ([0, 1, 2, 1], [2, 0, 1]):
        for p, i in enumerate(session):
            for q in range(p + 1, len(session)):
                want[i, session[q]] += 1 / (q - p)
    want /= np.array([2, 3, 2])[:, None]
    assert np.allclose(dense(SequentialRules(ahead=10).fit(log)), want, atol=1e-6)


def test_buy_again_rates() -> None:
    log = made(9, users=10, items=5, n=80)
    at = 60 * DAY
    shelf = BuyAgain(prior=30.0).fit(log, at=at)
    repeats, owned = np.zeros(5), np.zeros(5)
    pairs = {}
    for user in log.users.tolist():
        for item in range(5):
            times = log.time[(log.user == user) & (log.item == item)]
            if len(times):
                days = (at - times.min()) / DAY
                count = len(set((times // DAY).tolist()))
                repeats[item] += count - 1
                owned[item] += max(days, 1)
                pairs[user, item] = (count, days, (at - times.max()) / DAY)
    common = (repeats.sum() + 0.5) / (owned.sum() + 1)
    rate = (repeats + common * 30) / (owned + 30)
    scores = shelf.scores(log.users)
    for row, user in enumerate(log.users.tolist()):
        for item in range(5):
            if (user, item) not in pairs:
                assert np.isneginf(scores[row, item])
                continue
            count, days, since = pairs[user, item]
            mine = (count - 1 + rate[item] * 30) / (days + 30)
            assert scores[row, item] == pytest.approx(mine * since / (since + 0.5 / mine), rel=1e-5)
