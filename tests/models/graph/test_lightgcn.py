"""Smoothing and its gradient against dense matrices; learning against a made market with two tastes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.graph.tastes import two_tastes

from propend.models.graph.lightgcn import LightGCNSettings, _recalls, fit_lightgcn, smooth, tempered
from propend.models.graph.propagation import Edges, normalised, part_edges
from propend.recommend.catalog import create
from propend.recommend.graph import LightGCN
from propend.recommend.interactions import Interactions

torch = pytest.importorskip("torch", reason="needs the extra deep")
pytestmark = pytest.mark.deep


def dense_mean(table: Any, user: Any, item: Any, depth: int) -> tuple[Any, Any]:
    """The mean over steps on the whole square adjacency, as the paper writes it."""
    n, m = table.shape
    whole = np.zeros((n + m, n + m))
    whole[:n, n:] = table
    whole[n:, :n] = table.T
    degree = whole.sum(1)
    root = np.where(degree > 0, degree, 1.0) ** -0.5
    step = root[:, None] * whole * root[None, :]
    layers = [np.concatenate([user, item])]
    for _ in range(depth):
        layers.append(step @ layers[-1])
    mean = np.mean(layers, axis=0)
    return mean[:n], mean[n:]


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.integers(0, 2), min_size=n * m, max_size=n * m))
    return np.array(cells, np.float32).reshape(n, m)


@given(graphs(), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_smoothing_is_the_papers(table: Any, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    user, item = (rng.standard_normal((n, 3)).astype(np.float32) for n in table.shape)
    users, items, part = smooth(sp.csr_array(table), user, item, depth)
    slow_users, slow_items = dense_mean(table, user, item, depth)
    assert np.allclose(users, slow_users, atol=1e-5)
    assert np.allclose(items, slow_items, atol=1e-5)
    total = table.sum(1)
    for row in np.flatnonzero(total):  # a user without an own vector is the sum of parts
        alone = user.copy()
        folded = (table[row] @ part) / np.sqrt(total[row])
        if depth == 1:
            alone[row] = 0
            assert np.allclose(
                folded, smooth(sp.csr_array(table), alone, item, 1)[0][row], atol=1e-5
            )


@given(graphs(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_gradient_goes_back_along_the_edges(table: Any, seed: int) -> None:
    edges = Edges(normalised(sp.csr_array(table)))
    rng = np.random.default_rng(seed)
    start = torch.tensor(rng.standard_normal((table.shape[1], 2)), dtype=torch.float32)
    weight = torch.tensor(rng.standard_normal((table.shape[0], 2)), dtype=torch.float32)
    left, right = start.clone().requires_grad_(), start.clone().requires_grad_()
    dense = torch.tensor(normalised(sp.csr_array(table)).toarray())
    (edges(left) * weight).sum().backward()
    ((dense @ right) * weight).sum().backward()
    assert torch.allclose(left.grad, right.grad, atol=1e-5)
    assert torch.allclose(edges.back(weight), dense.T @ weight, atol=1e-5)


def test_a_power_of_lengths_lies_between_product_and_cosine() -> None:
    item = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    size = np.linalg.norm(item, axis=1, keepdims=True)
    assert np.allclose(tempered(item, 1.0), item, atol=1e-6)
    assert np.allclose(tempered(item, 0.0), item / size, atol=1e-6)
    assert np.allclose(np.linalg.norm(tempered(item, 0.5), axis=1), np.sqrt(size[:, 0]), atol=1e-6)


def test_the_power_is_the_best_of_the_kept_epoch_on_the_held_back_edges() -> None:
    rng = np.random.default_rng(0)
    table = sp.csr_array((rng.random((400, 60)) < np.linspace(0.02, 0.3, 60)).astype(np.float32))
    chosen = LightGCNSettings(width=8, depth=1, epochs=6, batch=512, threads=1)
    learnt = fit_lightgcn(table, chosen, seed=3)
    known, held = part_edges(table, chosen.held_back, np.random.default_rng(3))
    users, items, _ = smooth(known, learnt.user, learnt.item, 1)
    told = _recalls(users, items, known, held, 400)
    assert told[learnt.power] == max(told.values()) == pytest.approx(max(learnt.curve), abs=1e-3)


@pytest.mark.parametrize("loss", ["softmax", "bpr", "contrast"])
@pytest.mark.parametrize("start", ["spectral", "random"])
def test_it_learns_tastes(loss: str, start: str) -> None:
    log = two_tastes()
    shelf = create(
        "lightgcn",
        width=8,
        depth=2,
        loss=loss,
        start=start,
        epochs=40,
        patience=10,
        batch=128,
        learning_rate=0.02,
        threads=1,
    )
    shown = shelf.fit(log, seed=1).recommend(k=5)
    right = (shown.items >= 20) == (log.users >= 60)[:, None]
    assert right.mean() > 0.97
    session = shelf.recommend([[1, 2, 3], [25, 30]], k=5).items
    assert (session[0] < 20).all()
    assert (session[1] >= 20).all()
    assert not (shown.items == 40).any(), "an item nobody met is not offered"


def test_update_smooths_again_and_keeps_what_was_learnt() -> None:
    log = two_tastes()
    shelf = LightGCN(width=8, depth=2, epochs=4, batch=128, threads=1).fit(log, seed=1)
    own = shelf._own[1].copy()
    later = Interactions.from_lists([[21, 22, 40], [40, 23]], users=[500, 501], n_items=42)
    shelf.update(later)
    assert np.array_equal(shelf._own[1][:41], own)
    assert shelf.history.n_users == 122
    assert (shelf.recommend([500], k=3).items >= 20).all()
    table = shelf.history.matrix(binary=True)
    users, items = dense_mean(table.toarray(), *shelf._own, 2)
    assert np.allclose(shelf._user, users, atol=1e-5)
    assert np.allclose(shelf._item, tempered(items, shelf._power), atol=1e-5)


def test_the_same_seed_gives_the_same_vectors_and_the_held_back_edges_stop_it() -> None:
    table = two_tastes().matrix(binary=True)
    chosen = LightGCNSettings(width=8, depth=1, epochs=30, patience=2, batch=256, threads=1)
    seen: list[int] = []
    first = fit_lightgcn(table, chosen, seed=4, progress=lambda epoch, *_: seen.append(epoch))
    second = fit_lightgcn(table, chosen, seed=4)
    assert np.array_equal(first.item, second.item)
    assert np.array_equal(first.user, second.user)
    assert len(seen) <= 30
    assert max(first.curve) == first.curve[first.epochs - 1]
