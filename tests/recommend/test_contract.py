"""Every recommender of the catalogue keeps the contract, in each of its main variants."""

from __future__ import annotations

from typing import Any

import pytest

from propend.recommend.blend import Blend
from propend.recommend.catalog import create, find, names
from propend.recommend.fallback import Fallback, Staged
from propend.recommend.hybrid import Hybrid
from propend.recommend.recommender import Recommender
from propend.recommend.reranked import Reranked
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
    "transformer": [
        {"features": True, "time_bias": "query"},
        {"loss": "sampled", "negatives": 8, "temperature": 0.1},
    ],
    "hstu": [{"time_bias": "event", "loss": "gbce", "negatives": 8}],
}
SEQUENCE = ("gru", "lstm", "cnn", "caser", "transformer", "hstu")
GRAPH = ("lightgcn", "hetero_graph")
DEEP = (*SEQUENCE, *GRAPH)
FAST: dict[str, dict[str, Any]] = {
    "als": {"factors": 8, "rounds": 4},
    "bpr": {"factors": 8, "rounds": 5},
    **{name: {"size": "tiny", "epochs": 2, "tokens": 256, "threads": 1} for name in SEQUENCE},
    **{name: {"width": 8, "epochs": 2, "batch": 256, "threads": 1} for name in GRAPH},
    "distilled": {"teacher": "item_neighbours"},
}
CASES = [
    pytest.param(
        name, {**FAST.get(name, {}), **extra}, marks=[pytest.mark.deep] if name in DEEP else []
    )
    for name in names()
    if not issubclass(find(name), Staged)
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


def test_blend_keeps_the_contract() -> None:
    def factory() -> Recommender:
        stages = [create("buy_again"), create("item_neighbours"), create("popularity")]
        return Blend(stages, candidates=20)

    check_recommender(factory)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"category": "category", "diversity": 0.3, "calibration": 0.3, "cap": 5},
        {"novelty": 0.2, "freshness": 0.2, "margin": "price", "profit": 0.5, "bury": (3,)},
        {"pin": (2, 7), "bought": "replenish"},
        {"bought": "hide"},
    ],
    ids=str,
)
def test_reranked_keeps_the_contract(settings: dict[str, Any]) -> None:
    def factory() -> Recommender:
        stages = [create("buy_again"), create("item_neighbours"), create("popularity")]
        return Reranked([Fallback(stages)], exposures=([2, 2], [0, 1]), at_most=1, **settings)

    check_recommender(factory)
