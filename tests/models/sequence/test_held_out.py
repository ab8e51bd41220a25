"""Figures on users held out: they agree with a slow look, history by history."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.sequence.worlds import cycles, random_sequences

from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import Vocabulary

torch = pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
pytestmark = pytest.mark.deep


def test_next_items_agree_with_ranking_one_prefix_after_another() -> None:
    from propend.models.sequence.held_out import next_items
    from propend.models.sequence.network import Network

    torch.manual_seed(0)
    data = cycles(30)
    settings = Settings(trunk="gru", size="tiny", length=16, tokens=64).resolved()
    net = Network(settings, Vocabulary(items=12, clock=False)).eval()
    popular = np.array([1, 5, 7])
    said = next_items(net, data, popular, k=3)
    steps = hits = met = 0
    of = np.zeros(data.users, np.int64)
    with torch.no_grad():
        items = net.item_vectors()
        for user in range(data.users):
            seen = data.user(user)["item"]
            for stop in range(1, len(seen)):
                prefix = data.take([user]).cut([stop])
                scores = (net.last(prefix, np.zeros(1, np.int64)) @ items.T)[0].numpy()
                steps += 1
                of[user] += 1
                hits += int((scores >= scores[seen[stop]]).sum() <= 3)
                met += int(seen[stop] in popular)
    assert len(said.user) == len(said.hit) == len(said.common) == steps
    assert np.array_equal(np.bincount(said.user, minlength=data.users), of)
    assert said.hit.sum() == pytest.approx(hits, abs=2)  # float32 ties
    assert said.common.sum() == met


def test_returns_are_told_of_moments_before_the_horizon_ends() -> None:
    from propend.models.sequence.held_out import returns
    from propend.models.sequence.network import Network

    torch.manual_seed(0)
    data = random_sequences(400)
    vocabulary = Vocabulary(items=9, types=3, channels=2, amounts=True, days=True)
    settings = Settings(size="tiny", length=16, time_bias="query", tasks=HEADS).resolved()
    said = returns(Network(settings, vocabulary).eval(), data, days=3.0)
    assert len(said.user) == len(said.came) == len(said.chance) == len(said.wait) > 200
    assert set(np.unique(said.came)) == {0.0, 1.0}
    assert ((said.chance > 0) & (said.chance < 1)).all()
    again = returns(Network(settings, vocabulary).eval(), data, days=3.0)
    assert np.array_equal(said.wait, again.wait), "the same moments for every network"
