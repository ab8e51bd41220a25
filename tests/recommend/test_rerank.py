"""What the reranker promises."""

from __future__ import annotations

import numpy as np
import pytest

from propend.errors import ModelError
from propend.recommend.catalog import create
from propend.recommend.recommender import Recommendations
from propend.recommend.rerank import Reranker, not_too_often, scaled
from propend.testing.recommenders import sample

CATEGORY = np.arange(30) % 3


@pytest.fixture(scope="module")
def shown() -> Recommendations:
    log, _ = sample()
    return create("popularity").fit(log).recommend(k=20, exclude_seen=False)


def test_nothing_asked_changes_nothing(shown: Recommendations) -> None:
    assert np.array_equal(Reranker().rerank(shown, 5).items, shown.items[:, :5])


def test_caps_and_diversity(shown: Recommendations) -> None:
    capped = Reranker(category=CATEGORY, cap=2).rerank(shown, 6)
    for row in capped.items:
        assert np.bincount(CATEGORY[row], minlength=3).tolist() == [2, 2, 2]
    varied = Reranker(category=CATEGORY, diversity=0.9).rerank(shown, 6)
    plain = Reranker().rerank(shown, 6)

    def repeats(lists: Recommendations) -> float:
        return float(np.mean([len(row) - len(set(CATEGORY[row])) for row in lists.items[:, :3]]))

    assert repeats(varied) <= repeats(plain)
    assert len(set(CATEGORY[varied.items[0, :3]])) == 3


def test_calibration_follows_the_users_shares(shown: Recommendations) -> None:
    shares = CATEGORY[shown.items] == 2
    lists = Reranker(category=CATEGORY, calibration=0.95).rerank(shown, 4, shares=shares)
    assert (CATEGORY[lists.items] == 2).mean() > 0.9


def test_stock_pins_and_burials(shown: Recommendations) -> None:
    first = int(shown.items[0, 0])
    stock = np.ones(30, np.bool_)
    stock[first] = False
    assert first not in Reranker(stock=stock).rerank(shown, 20).items
    buried = Reranker(bury=(first,)).rerank(shown, 20)
    assert (buried.items[:, :10] != first).all()
    assert first in buried.items
    pinned = Reranker(pin=(29,)).rerank(shown, 3)
    assert (pinned.items[:, 0] == 29).all()
    assert pinned.sources[pinned.source[0, 0]] == "pinned"


def test_scarce_stock_goes_round(shown: Recommendations) -> None:
    lists = Reranker(most_shown=7).rerank(shown, 2)
    assert np.bincount(lists.items[lists.items >= 0]).max() <= 7


def test_bonus_and_exposure(shown: Recommendations) -> None:
    bonus = scaled(np.arange(30), 5.0)
    lists = Reranker(bonus=bonus).rerank(shown, 1)
    assert np.array_equal(lists.items[:, 0], shown.items.max(axis=1))
    user, item = int(shown.users[0]), int(shown.items[0, 0])
    fresh = not_too_often(shown, [user, user], [item, item], 2)
    assert not fresh[0, 0]
    assert fresh[1:].all()
    assert Reranker().rerank(shown, 5, allowed=fresh).items[0, 0] != item


def test_wrong_rules_are_refused(shown: Recommendations) -> None:
    with pytest.raises(ModelError, match="need the category"):
        Reranker(cap=1)
    with pytest.raises(ModelError, match="between 0 and 1"):
        Reranker(diversity=2)
    with pytest.raises(ModelError, match="needs shares"):
        Reranker(calibration=0.5, category=CATEGORY).rerank(shown, 2)
