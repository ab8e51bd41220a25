"""The index of neighbours: as good as promised, and exact where it cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from propend.errors import MissingExtraError
from propend.recommend import factors
from propend.recommend.catalog import create
from propend.recommend.index import Index
from propend.recommend.ranking import NO_OPINION, top_k_products
from propend.testing.recommenders import sample


def test_without_the_library_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'propend\[index\]'"):
        Index(np.eye(3, dtype=np.float32))


def test_most_exact_answers_are_found() -> None:
    pytest.importorskip("usearch.index", reason="needs the index extra")
    rng = np.random.default_rng(0)
    items = rng.standard_normal((4000, 16)).astype(np.float32) * rng.gamma(2, 1, (4000, 1))
    items = items.astype(np.float32)
    bias = rng.standard_normal(4000).astype(np.float32)
    bias[rng.random(4000) < 0.1] = NO_OPINION
    queries = rng.standard_normal((300, 16)).astype(np.float32)
    index = Index(items, bias=bias, recall=0.97)
    assert index.measured >= 0.97
    allowed = rng.random(4000) < 0.8
    offsets = np.arange(301) * 3
    seen = rng.integers(0, 4000, 900).astype(np.int32)
    found, scores = index.search(queries, 10, allowed=allowed, seen=(offsets, seen))
    exact, best = top_k_products(
        queries, items, 10, bias=bias, allowed=allowed, seen=(offsets, seen)
    )
    share = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    )
    assert share > 0.93
    assert allowed[found].all()
    assert np.isfinite(bias[found]).all()
    for row in range(300):
        assert not set(found[row].tolist()) & set(seen[3 * row : 3 * row + 3].tolist())
    same = found == exact
    assert scores[same] == pytest.approx(best[same], rel=1e-4, abs=1e-4)
    narrow = np.zeros(4000, np.bool_)
    narrow[np.flatnonzero(np.isfinite(bias))[:12]] = True
    few, _ = index.search(queries[:5], 10, allowed=narrow)
    want, _ = top_k_products(queries[:5], items, 10, bias=bias, allowed=narrow)
    assert np.array_equal(few, want), "too narrow for the graph, so looked through"
    one, _ = index.search(queries[:1], 10)
    assert one.shape == (1, 10)


def test_a_large_catalogue_is_served_by_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch.index", reason="needs the index extra")
    log, _ = sample(users=120, items=80)
    shelf = create("als", factors=8, rounds=4).fit(log)
    exact = shelf.recommend(k=5).items
    monkeypatch.setattr(factors, "EXACT_UP_TO", 10)
    near = shelf.recommend(k=5).items
    assert (near == exact).mean() > 0.95
    refit = shelf.fit(log.select(log.user < 60)).recommend(k=5)
    assert refit.items.shape == (20, 5), "a refit is not answered from the old index"
