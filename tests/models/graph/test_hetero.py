"""The heterogeneous network: arrays equal the tensors it was trained as, and attributes speak for new items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from tests.models.graph.tastes import two_tastes

from propend.events.timelines import Column
from propend.models.graph.hetero import HeteroSettings, fit_heterogeneous
from propend.models.graph.propagation import normalised
from propend.recommend.graph import HeteroGraph
from propend.recommend.interactions import Interactions

pytest.importorskip("torch", reason="needs the extra deep")
pytestmark = pytest.mark.deep

FAST = {
    "width": 8,
    "epochs": 12,
    "batch": 128,
    "learning_rate": 0.02,
    "threads": 1,
    "negatives": 64,
}


def market(n_items: int = 42) -> tuple[Any, Any]:
    table = two_tastes().matrix(binary=True)
    table.resize((table.shape[0], n_items))
    side = [*np.repeat([0, 1], [20, 20]).tolist(), 0, 1]
    values = sp.csr_array((np.ones(n_items, np.float32), (np.arange(n_items), side)))
    return table, values


def bend(x: Any) -> Any:
    return np.maximum(x, 0.1 * x)


def test_states_are_the_message_passing_written_out() -> None:
    table, values = market()
    net = fit_heterogeneous(table, values, HeteroSettings(**{**FAST, "epochs": 2}), seed=1)
    states = net.states(table, values)
    users = net.users(states, table, np.asarray(table.sum(axis=0)).ravel())
    graph, known = normalised(table).toarray(), normalised(values).toarray()
    met = table.toarray().sum(0) > 0
    item, value, user = net.own * met[:, None], net.value, np.zeros((table.shape[0], 8))
    total = np.zeros_like(user)
    for step in range(net.depth):
        w = {n.split(".")[1]: m for n, m in net.weight.items() if n.startswith(f"{step}.")}
        user, item, value = (
            bend(user @ w["user"] + graph @ item @ w["item_to_user"]),
            bend(
                item @ w["item"]
                + graph.T @ user @ w["user_to_item"]
                + known @ value @ w["value_to_item"]
            ),
            bend(value @ w["value"] + known.T @ item @ w["item_to_value"]),
        )
        total += user
        assert np.allclose(states[step + 1], item, atol=1e-4)
    assert np.allclose(users, total / net.depth, atol=1e-4)


def test_attributes_speak_for_items_nobody_met() -> None:
    log = two_tastes()
    log = Interactions.of(log.user, log.item, log.time, n_items=42)
    side = Column(np.array([0] * 20 + [1] * 20 + [0, 1], np.int32), ("left", "right"))
    shelf = HeteroGraph(**{**FAST, "forget": 0.5, "epochs": 25}).fit(
        log, items={"side": side}, seed=2
    )
    cold = shelf.scores(log.users, [40, 41])
    right = (cold[:, 1] > cold[:, 0]) == (log.users >= 60)
    assert right.mean() > 0.9
    shown = shelf.recommend([[1, 2, 3]], k=5).items[0]
    assert all(i < 20 or i == 40 for i in shown.tolist())
    alone = HeteroGraph(**FAST).fit(log, seed=2)
    assert not np.isin(alone.recommend(k=5).items, [40, 41]).any(), (
        "without attributes a new item is silent"
    )


def test_users_are_what_they_met_before_the_moment() -> None:
    """Vectors of a cutoff do not change with edges that come after it."""
    table, values = market()
    net = fit_heterogeneous(table, values, HeteroSettings(**{**FAST, "epochs": 1}), seed=1)
    states, per_item = net.states(table, values), np.asarray(table.sum(axis=0)).ravel()
    before = net.users(states, table[:5], per_item)
    later = table[:5].tolil()
    later[2, 33] = 1.0
    after = net.users(states, later.tocsr(), per_item)
    same = np.ones(5, bool)
    same[2] = False
    assert np.array_equal(before[same], after[same])
    assert not np.allclose(before[2], after[2])
