"""Every recommender of the catalogue keeps the contract, in each of its main variants."""

from __future__ import annotations

from typing import Any

import pytest

from propend.recommend.catalog import create, names
from propend.recommend.fallback import Fallback
from propend.recommend.hybrid import Hybrid
from propend.recommend.recommender import Recommender
from propend.testing.recommenders import check_recommender

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "popularity": [{"half_life": 10.0}, {"count": "weight"}],
    "item_neighbours": [
        {"measure": "pearson", "weighting": "given"},
        {"measure": "adjusted_cosine", "weighting": "log"},
        {"measure": "jaccard", "shrink": 2.0},
        {"weighting": "tfidf", "half_life": 20.0},
        {"weighting": "bm25", "step": 0.9, "profile": "given"},
    ],
    "user_neighbours": [
        {"measure": "pearson", "weighting": "given"},
        {"measure": "adjusted_cosine", "weighting": "log"},
        {"measure": "jaccard", "weighting": "bm25"},
    ],
    "association_rules": [{"gap": 20.0, "significance": 0.9, "longest": 3}],
    "ease": [{"support": 5}],
    "als": [{"features": 1.0}, {"biases": False, "weighted": True}],
    "graph_filter": [{"factors": 4}],
}
FAST: dict[str, dict[str, Any]] = {
    "als": {"factors": 8, "rounds": 4},
    "bpr": {"factors": 8, "rounds": 5},
}
CASES = [
    (name, {**FAST.get(name, {}), **extra})
    for name in names()
    if name not in ("fallback", "hybrid")
    for extra in [{}, *VARIANTS.get(name, [])]
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_contract(name: str, settings: dict[str, Any]) -> None:
    def factory() -> Recommender:
        return create(name, **settings)

    check_recommender(factory)


def test_fallback_keeps_the_contract() -> None:
    def factory() -> Recommender:
        stages = [create("buy_again"), create("item_neighbours"), create("popularity")]
        return Fallback(stages, [2, None, None])

    check_recommender(factory)


def test_hybrid_keeps_the_contract() -> None:
    def factory() -> Recommender:
        stages = [create("buy_again"), create("item_neighbours"), create("popularity")]
        return Hybrid(stages, trees=5, candidates=20)

    check_recommender(factory)
