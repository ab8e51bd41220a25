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
    "ease": [{"support": 5}],
    "als": [{"features": 1.0}, {"biases": False, "weighted": True}],
    "graph_filter": [{"factors": 4}],
    "transformer": [
        {"features": True, "time_bias": "query"},
        {"loss": "sampled", "negatives": 8, "temperature": 0.1},
    ],
    "hstu": [{"time_bias": "event", "loss": "gbce", "negatives": 8}],
}
DEEP = ("gru", "lstm", "cnn", "caser", "transformer", "hstu")
FAST: dict[str, dict[str, Any]] = {
    "als": {"factors": 8, "rounds": 4},
    "bpr": {"factors": 8, "rounds": 5},
    "distilled": {"teacher": "item_neighbours"},
    **{name: {"size": "tiny", "epochs": 2, "tokens": 256, "threads": 1} for name in DEEP},
}
CASES = [
    pytest.param(
        name, {**FAST.get(name, {}), **extra}, marks=[pytest.mark.deep] if name in DEEP else []
    )
    for name in names()
    if name not in ("fallback", "hybrid")
    for extra in [{}, *VARIANTS.get(name, [])]
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_contract(name: str, settings: dict[str, Any]) -> None:
    if name in DEEP:
        pytest.importorskip("torch", reason=f"'{name}' needs the extra 'deep'")

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
