"""Factors, sessions and descriptions against slow, obvious code."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from propend.events.timelines import Column
from propend.recommend.bpr import _descend_pairs
from propend.recommend.catalog import create
from propend.recommend.content import describe
from propend.recommend.factors import Als
from propend.recommend.interactions import Interactions
from propend.recommend.rules import Baskets, frequent_sets
from propend.recommend.similarity import Sparse


@pytest.mark.parametrize("biases", [False, True])
def test_als_solves_its_normal_equations(biases: bool) -> None:
    rng = np.random.default_rng(1)
    log = Interactions.of(rng.integers(0, 12, 60), rng.integers(0, 9, 60), n_items=9)
    shelf = Als(factors=4, biases=biases, steps=60, unmet=0.1, strength=0.3, rounds=1).fit(log)
    p = shelf.parameters
    table = shelf._confidences(log.histories())
    width = shelf._item.shape[1]
    other = rng.standard_normal((9, width)).astype(np.float32)
    if biases:
        other[:, -2] = 1.0
    mine = np.zeros((12, width), np.float32)
    if biases:
        mine[:, -1] = 1.0
    shelf._solve(Sparse.of(table), mine, other, fixed=1)
    met = table.toarray()
    free = np.arange(width - 1 if biases else width)
    for user in range(len(log.users)):
        ridge = p.strength * ((met[user] > 0).sum() + p.unmet * 9) ** p.scale
        a = p.unmet * other.T @ other + (other.T * met[user]) @ other
        right = other.T @ met[user]
        if biases:
            right = right - a[:, -1]  # the column that is held at 1
        want = np.linalg.solve(a[np.ix_(free, free)] + ridge * np.eye(len(free)), right[free])
        assert np.allclose(mine[user, free], want, atol=2e-3)


def test_bpr_steps_along_the_gradient_of_its_objective() -> None:
    """One pair: ln σ(x_ui − x_uj) less half the ridge, its slope by differences."""
    rng = np.random.default_rng(2)
    user, item = (rng.standard_normal((n, 3)).astype(np.float32) for n in (1, 2))
    bias = rng.standard_normal(2).astype(np.float32)
    strength, rate = 0.3, 1e-2
    start = np.concatenate([user.ravel(), item.ravel(), bias]).astype(np.float64)

    def objective(v: np.ndarray) -> float:
        x, y, b = v[:3], v[3:9].reshape(2, 3), v[9:]
        margin = x @ y[0] + b[0] - x @ y[1] - b[1]
        return float(-np.log1p(np.exp(-margin)) - strength / 2 * (v @ v))

    each = np.eye(11) * 1e-5
    slope = np.array([(objective(start + e) - objective(start - e)) / 2e-5 for e in each])
    _descend_pairs(
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
        np.array([0, 1], np.int64),
        np.zeros(1, np.int64),
        np.ones(1, np.int32),
        np.float32(rate),
        np.float32(strength),
        user,
        item,
        bias,
    )
    moved = (np.concatenate([user.ravel(), item.ravel(), bias]) - start) / rate
    assert np.allclose(moved, slope, atol=1e-3)


def test_bpr_raises_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(3)
    half = np.repeat([0, 10], 20)
    log = Interactions.from_lists([low + rng.choice(10, 5, replace=False) for low in half])
    table = log.matrix(binary=True).toarray() > 0

    def in_order(rounds: int) -> float:
        scores = create("bpr", factors=8, rounds=rounds).fit(log).scores(log.users)
        wins = [(s[m][:, None] > s[~m][None, :]).mean() for s, m in zip(scores, table, strict=True)]
        return float(np.mean(wins))

    assert in_order(40) > max(0.85, in_order(1) + 0.1)


@pytest.mark.parametrize("rare", [False, True])
def test_session_neighbours(rare: bool) -> None:
    rng = np.random.default_rng(4)
    lists = [rng.integers(0, 8, rng.integers(2, 6)).tolist() for _ in range(15)]
    log = Interactions.from_lists(lists, n_items=8)
    shelf = create("session_neighbours", neighbours=4, recent=9, fade=1.5, near=2.0, rare=rare)
    shelf.fit(log)
    asked = [1, 5, 2, 5]
    met = [sum(i in session for session in lists) for i in range(8)]
    loud = [math.log(16 / max(m, 1)) if rare else 1.0 for m in met]
    loud = [float(np.float32(x)) for x in loud]
    profile: dict[int, float] = {}
    place: dict[int, int] = {}
    for back, item in enumerate(reversed(asked)):
        if item not in profile:
            profile[item] = math.exp(-back / 1.5) * loud[item]
            place[item] = -back
    ends = {n: log.time[log.offsets[n + 1] - 1] for n in range(15)}
    late = sorted(ends, key=lambda n: -ends[n])
    recent = {i: [n for n in late if i in lists[n]][:9] for i in range(8)}
    likeness = {
        n: sum(w for i, w in profile.items() if n in recent[i]) / math.sqrt(len(set(lists[n])))
        for n in range(15)
    }
    near = sorted((n for n in likeness if likeness[n] > 0), key=lambda n: -likeness[n])[:5]
    want = np.full(8, -np.inf)
    for n in near:
        last = max(place[i] for i in lists[n] if i in place)
        match = max(y for y, i in enumerate(lists[n]) if place.get(i, -99) == last)
        for y, item in enumerate(lists[n]):
            vote = likeness[n] * math.exp(-abs(y - match) / 2.0) * loud[item]
            want[item] = vote if np.isneginf(want[item]) else want[item] + vote
    assert np.allclose(shelf.scores([asked])[0], want, rtol=1e-4)


def test_words_weigh_as_by_hand() -> None:
    texts = ("red tea", "red cup", "blue cup cup", "绿茶 绿")
    column = Column(np.array([0, 1, 2, 3, -1], np.int32), texts)
    table = describe({"name": column}, 5, texts=("name",)).toarray()
    counted = []
    for text in (*texts, ""):
        runs: Counter[str] = Counter()
        for word in text.split():
            padded = f" {word} "
            for size in (1, 2, 3):
                runs.update(padded[i : i + size] for i in range(len(padded) - size + 1))
        counted.append(runs)
    rows = []
    for runs in counted:
        row = {}
        for run, times in runs.items():
            holders = sum(run in other for other in counted)
            row[run] = (1 + math.log(times)) * (1 + math.log((1 + 5) / (1 + holders)))
        size = math.sqrt(sum(v * v for v in row.values())) or 1.0
        rows.append({run: v / size for run, v in row.items()})
    want = [[sum(a.get(r, 0) * b.get(r, 0) for r in a) for b in rows] for a in rows]
    assert np.allclose(table @ table.T, want, atol=1e-6)


def _baskets() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [np.unique(rng.geometric(0.25, 6) % 12).tolist() for _ in range(300)]


@pytest.mark.parametrize("peer", ["mlxtend", "fim", "efficient_apriori"])
def test_frequent_sets_are_those_of_a_peer(peer: str) -> None:
    library = pytest.importorskip(peer, reason=f"compares with {peer}, which is not installed")
    lists = _baskets()
    ours = frequent_sets(Baskets.from_lists(lists), 0.05, longest=4).counts
    if peer == "fim":
        theirs = {tuple(sorted(s)): n for s, n in library.fpgrowth(lists, supp=5, zmax=4)}
    elif peer == "efficient_apriori":
        found, _ = library.apriori([tuple(b) for b in lists], 0.05, 1.0, max_length=4)
        theirs = {tuple(sorted(s)): n for sets in found.values() for s, n in sets.items()}
    else:
        import pandas as pd
        from mlxtend.frequent_patterns import fpgrowth

        wide = pd.DataFrame([[i in b for i in range(12)] for b in lists])
        table = fpgrowth(wide, min_support=0.05, max_len=4)
        pairs = zip(table["itemsets"], table["support"], strict=True)
        theirs = {tuple(sorted(s)): round(v * len(lists)) for s, v in pairs}
    assert ours == theirs
