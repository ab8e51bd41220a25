"""What the reranker promises."""

from __future__ import annotations

import numpy as np
import pytest

from propend.errors import ModelError
from propend.events.timelines import Column
from propend.names import DAY
from propend.recommend.catalog import create
from propend.recommend.interactions import Interactions
from propend.recommend.recommender import Recommendations
from propend.recommend.rerank import Reranker, not_too_often, scaled, shares_of
from propend.recommend.reranked import Reranked, replenishable
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


def test_shares_are_those_of_the_history(shown: Recommendations) -> None:
    log, _ = sample()
    got = shares_of(log.histories(), CATEGORY, shown)
    for row, user in enumerate(log.users.tolist()):
        mine = log.user == user
        total = log.weight[mine].sum()
        for place, item in enumerate(shown.items[row].tolist()):
            same = mine & (CATEGORY[log.item] == CATEGORY[item])
            assert got[row, place] == pytest.approx(log.weight[same].sum() / total, rel=1e-5)


def test_pins_follow_who_may_see_them(shown: Recommendations) -> None:
    may = np.ones((len(shown), 2), np.bool_)
    may[0, 0] = False
    lists = Reranker(pin=(29, 28)).rerank(shown, 4, pinned=may)
    assert lists.items[0, 0] == 28
    assert 29 not in lists.items[0]
    assert (lists.items[1:, :2] == [29, 28]).all()


def shop() -> tuple[Interactions, dict[str, Column | np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    """Item 0 is bought every ten days, item 1 once; 2 and 3 are popular, 4 is new."""
    user, item, time = [], [], []
    for u in range(20):
        for day in range(0, 60, 10):
            user, item, time = [*user, u], [*item, 0], [*time, day]
        user, item, time = [*user, u], [*item, 1], [*time, 5]
        if u % 2:
            user, item, time = [*user, u, u], [*item, 2, 3], [*time, 20, 30]
    user, item, time = [*user, 1], [*item, 4], [*time, 59]
    log = Interactions.of(user, item, np.array(time) * DAY, n_items=6)
    words = Column(np.array([0, 0, 1, 1, 1, 0], np.int32), ("food", "toys"))
    stock = Column(np.array([0, 0, 1, 0, 0, 0], np.int32), ("yes", "no"))
    margin = np.array([1.0, 1, 1, 9, 1, 1])
    return log, {"kind": words, "stock": stock, "margin": margin}


def test_bought_items_come_again_only_where_they_are_replenishable() -> None:
    log, items = shop()
    assert replenishable(log).tolist() == [True, False, False, False, False, False]
    for bought, want in (("offer", {0, 1}), ("replenish", {0}), ("hide", set())):
        shelf = Reranked([create("buy_again")], bought=bought).fit(log, items=items)
        assert set(shelf.recommend([0], k=4).lists()[0]) == want, bought


def test_declared_rules_shape_the_list() -> None:
    log, items = shop()

    def first(**rules: object) -> list[int]:
        shelf = Reranked([create("popularity")], **rules).fit(log, items=items)
        return shelf.recommend([99], k=3).lists()[0]

    assert first() == [0, 1, 2]
    assert first(stock="stock") == [0, 1, 3]
    assert first(margin="margin", profit=2.0)[0] == 3
    assert first(freshness=2.0)[0] == 4
    assert first(novelty=2.0)[0] == 4
    assert first(category="kind", cap=1) == [0, 2]
    assert first(pin=(5,), bury=(0,)) == [5, 1, 2], "a pin needs no history"
    with pytest.raises(ModelError, match="did you mean 'kind'"):
        first(category="kindd", cap=1)
    with pytest.raises(ModelError, match="name it in category"):
        first(cap=1)
    with pytest.raises(ModelError, match="'kind' is text"):
        first(margin="kind", profit=1.0)
    with pytest.raises(ModelError, match="name its attribute in margin"):
        first(profit=1.0)
    with pytest.raises(ModelError, match="no item with code 77"):
        first(pin=(77,))


def test_what_was_shown_often_rests() -> None:
    log, items = shop()
    made = Reranked([create("popularity")], exposures=([99, 99, 98], [0, 0, 0]), at_most=2)
    shelf = made.fit(log, items=items)
    assert shelf.recommend([99, 98], k=2).lists() == [[1, 2], [0, 1]]
