"""Rules: three algorithms against a count by hand, the measures, chance, offers with their money."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.errors import DataError, NotEnoughDataError
from propend.names import DAY
from propend.recommend.association import AssociationRules
from propend.recommend.interactions import Interactions
from propend.recommend.rules import (
    Baskets,
    bundles,
    cross_sales,
    find_rules,
    frequent_sets,
    itemsets,
)
from propend.recommend.rules.measures import corrected, together_by_chance

METHODS: tuple[Any, ...] = ("fpgrowth", "eclat", "apriori")


def by_hand(lists: list[list[int]], least: int, longest: int) -> dict[tuple[int, ...], int]:
    """Count every set of at most ``longest`` items."""
    sets = [set(part) for part in lists]
    items = sorted(set().union(*sets))
    want = {}
    for size in range(1, longest + 1):
        for chosen in combinations(items, size):
            count = sum(set(chosen) <= s for s in sets)
            if count >= least:
                want[chosen] = count
    return dict(sorted(want.items()))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=90),
    st.integers(1, 40),
    st.integers(1, 7),
)
def test_three_methods_count_as_by_hand(lists: list[list[int]], percent: int, longest: int) -> None:
    least = max(1, int(np.ceil(percent / 100 * len(lists) - 1e-9)))
    want = by_hand(lists, least, longest)
    baskets = Baskets.from_lists(lists, 8)
    for method in METHODS:
        found = frequent_sets(baskets, percent / 100, longest=longest, method=method)
        assert found.counts == want, method
        assert found.sets == list(want), "in the order of their items"


def test_three_methods_agree_on_many_baskets() -> None:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 201)
    lists = [
        rng.choice(200, rng.integers(1, 20), p=share / share.sum()).tolist() for _ in range(3000)
    ]
    baskets = Baskets.from_lists(lists, 200)
    found = [frequent_sets(baskets, 0.005, method=method) for method in METHODS]
    assert len(found[0]) > 2000
    assert max(len(s) for s in found[0].sets) >= 4
    assert found[0].counts == found[1].counts == found[2].counts


def test_rule_measures() -> None:
    from scipy.stats import fisher_exact

    rng = np.random.default_rng(2)
    lists = [np.flatnonzero(rng.random(6) < 0.4).tolist() for _ in range(120)]
    for part in lists:
        if 0 in part and rng.random() < 0.7:
            part.append(1)
    rules = find_rules(Baskets.from_lists(lists, 6), 0.05, significance=None)
    assert len(rules) == rules.tested > 20
    sets = [set(part) for part in lists]
    n = len(sets)
    for r, (a, c) in enumerate(zip(rules.antecedent, rules.consequent.tolist(), strict=True)):
        left = sum(set(a) <= s for s in sets)
        right = sum(c in s for s in sets)
        both = sum(set(a) | {c} <= s for s in sets)
        assert rules.count[r] == both
        assert rules.confidence[r] == pytest.approx(both / left)
        assert rules.lift[r] == pytest.approx(both * n / left / right)
        assert rules.leverage[r] == pytest.approx(both / n - left * right / n**2)
        if both < left:
            conviction = (left / n) * (1 - right / n) / ((left - both) / n)
            assert rules.conviction[r] == pytest.approx(conviction)
        table = [[both, left - both], [right - both, n - left - right + both]]
        assert rules.p[r] == pytest.approx(fisher_exact(table, "greater").pvalue, abs=1e-9)
    assert (rules.q >= rules.p - 1e-12).all()


def test_chance_far_out_and_corrections() -> None:
    from scipy.stats import false_discovery_control, hypergeom

    rng = np.random.default_rng(1)
    n = 20_000
    left, right = rng.integers(1, n, 300), rng.integers(1, n, 300)
    low, high = np.maximum(0, left + right - n), np.minimum(left, right)
    both = rng.integers(low, high + 1)
    near = np.clip((left * right / n + rng.normal(0, 30, 300)).astype(int), low, high)
    for count in (both, near, low, high):
        want = np.clip(hypergeom.sf(count - 1, n, left, right), 0.0, 1.0)
        assert together_by_chance(count, left, right, n) == pytest.approx(
            want, rel=1e-6, abs=1e-300
        )
    p = rng.random(50) ** 3
    assert corrected(p) == pytest.approx(false_discovery_control(p))
    assert corrected(p, "dependent") == pytest.approx(false_discovery_control(p, method="by"))
    order = np.sort(p)
    holm = [min(1.0, max(order[j] * (50 - j) for j in range(i + 1))) for i in range(50)]
    assert np.sort(corrected(p, "family")) == pytest.approx(holm)


def test_a_support_that_drowns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itemsets, "_MOST", 2000)
    baskets = Baskets.from_lists([range(40)] * 3)
    for method in METHODS:
        with pytest.raises(DataError, match="more than 2,000 sets"):
            frequent_sets(baskets, 0.5, method=method)
    assert len(frequent_sets(baskets, 0.5, longest=2)) == 40 + 40 * 39 // 2


def test_rules_refuse_what_has_no_answer() -> None:
    with pytest.raises(DataError, match="support must be above 0"):
        frequent_sets(Baskets.from_lists([[0]]), 0.0)
    with pytest.raises(NotEnoughDataError, match="no basket"):
        frequent_sets(Baskets.from_lists([]), 0.1)
    assert len(find_rules(Baskets.from_lists([[0], [1], [2]]), 0.1)) == 0, "one-item baskets"


def test_rules_by_chance_are_not_reported() -> None:
    rng = np.random.default_rng(0)
    lists = [np.flatnonzero(rng.random(20) < 0.2).tolist() for _ in range(500)]
    baskets = Baskets.from_lists(lists, 20)
    assert len(find_rules(baskets, 0.01, significance=None, longest=2)) > 300
    assert len(find_rules(baskets, 0.01, longest=2)) <= 2


def test_baskets_by_pause() -> None:
    times = np.array([0, 1, 9, 10]) * DAY
    baskets = Baskets.of(Interactions.of([0] * 4, [0, 1, 0, 2], times), gap=5)
    assert [b.tolist() for b in np.split(baskets.items, baskets.offsets[1:-1])] == [[0, 1], [0, 2]]


def test_baskets_by_window() -> None:
    times = np.array([0, 1, 2, 9]) * DAY
    baskets = Baskets.of(Interactions.of([0, 0, 1, 1], [0, 1, 0, 2], times), window=7)
    parts = [b.tolist() for b in np.split(baskets.items, baskets.offsets[1:-1])]
    assert parts == [[0, 1], [0], [2]]
    with pytest.raises(NotEnoughDataError, match="need times"):
        Baskets.of(Interactions.from_lists([[0, 1]]), window=7)
    with pytest.raises(DataError, match="not by both"):
        Baskets.of(Interactions.of([0], [0], [0]), window=7, gap=1)
    with pytest.raises(DataError, match="above 0, got 0"):
        Baskets.of(Interactions.of([0], [0], [0]), gap=0)


def test_wrong_settings_are_one_sentence() -> None:
    baskets = Baskets.from_lists([[0, 1]] * 4)
    unknown: Any = "fpgroth"
    with pytest.raises(DataError, match="did you mean 'fpgrowth'"):
        frequent_sets(baskets, 0.5, method=unknown)
    with pytest.raises(DataError, match="1 item or more"):
        frequent_sets(baskets, 0.5, longest=0)
    with pytest.raises(DataError, match="confidence must lie"):
        find_rules(baskets, 0.5, confidence=2)
    with pytest.raises(DataError, match="no control"):
        find_rules(baskets, 0.5, control=unknown)
    with pytest.raises(DataError, match="one number per item"):
        bundles(baskets, 0.5, [1.0])
    with pytest.raises(DataError, match="share of its margin"):
        bundles(baskets, 0.5, [1.0, 1.0], discount=1.5)
    with pytest.raises(DataError, match="past the catalogue of 1 items"):
        Baskets.from_lists([[1]], 1)


def shop() -> Baskets:
    """Tea goes with pots; milk is in most baskets, whatever else is."""
    rng = np.random.default_rng(4)
    lists = []
    for _ in range(600):
        tea = rng.random() < 0.3
        pot = rng.random() < (0.6 if tea else 0.05)
        milk = rng.random() < 0.7
        lists.append([item for item, there in enumerate((tea, pot, milk)) if there])
    return Baskets.from_lists(lists, 3)


def test_cross_sales_pay_for_what_is_above_the_usual() -> None:
    rules = find_rules(shop(), 0.01)
    margin = np.array([2.0, 10.0, np.nan])
    table = cross_sales(rules, margin, names=["tea", "pot", "milk"])
    rows = table.to_pylist()
    assert rows[0]["antecedent"] == ["tea"]
    assert rows[0]["consequent"] == "pot"
    assert "milk" not in table["consequent"].to_pylist(), "what has no margin has no order"
    for row in rows:
        worth = {"tea": 2.0, "pot": 10.0}[row["consequent"]]
        assert row["expected_margin"] == pytest.approx(row["confidence"] * worth)
        share = row["confidence"] / row["lift"]
        assert row["extra_margin"] == pytest.approx((row["confidence"] - share) * worth)
    once = cross_sales(rules, margin, most=1)
    assert len(set(map(tuple, once["antecedent"].to_pylist()))) == once.num_rows
    assert cross_sales(find_rules(shop(), 0.9), margin).num_rows == 0


def test_bundles_are_no_accident() -> None:
    table = bundles(shop(), 0.01, [2.0, 10.0, 1.0], discount=0.2, names=["tea", "pot", "milk"])
    assert isinstance(table, pa.Table)
    assert table["items"].to_pylist() == [["tea", "pot"]], "milk joins no bundle: it is everywhere"
    row = table.to_pylist()[0]
    assert row["margin"] == pytest.approx(12 * 0.8)
    assert row["expected_margin"] == pytest.approx(row["margin"] * row["support"])
    assert row["break_even"] == pytest.approx(1.25)
    assert bundles(shop(), 0.9, [1.0, 1.0, 1.0]).num_rows == 0


def slow_scores(shelf: AssociationRules, had: set[int]) -> dict[int, float]:
    best: dict[int, float] = {}
    rules = shelf.rules
    for a, c, sure in zip(rules.antecedent, rules.consequent, rules.confidence, strict=True):
        if set(a) <= had:
            best[int(c)] = max(best.get(int(c), 0.0), float(sure))
    return best


def test_the_recommender_takes_the_surest_rule_that_fits() -> None:
    rng = np.random.default_rng(3)
    lists = [np.flatnonzero(rng.random(12) < 0.3).tolist() for _ in range(150)]
    for part in lists:
        if {0, 1} <= set(part):
            part.append(11)
    log = Interactions.from_lists([part or [3] for part in lists], n_items=12)
    shelf = AssociationRules(support=0.02, significance=1.0, longest=3).fit(log)
    assert any(len(a) == 2 for a in shelf.rules.antecedent)
    scores = shelf.scores(log.users)
    for row, user in enumerate(log.users.tolist()):
        want = slow_scores(shelf, set(log.item[log.user == user].tolist()))
        for item in range(12):
            assert scores[row, item] == pytest.approx(want.get(item, -np.inf)), (user, item)
    why = shelf.reason([0, 1], 11, names=[f"n{i}" for i in range(12)])
    assert why.startswith("with n0 and n1, 100 % of baskets also hold it")


def test_the_recommender_reads_the_open_basket() -> None:
    days = np.array([0.0, 0.01, 9, 9.01] * 40) * DAY
    user = np.repeat(np.arange(40), 4)
    item = np.tile([0, 1, 2, 3], 40)
    log = Interactions.of(user, item, days + np.repeat(np.arange(40), 4))
    by_basket = AssociationRules(gap=1.0).fit(log)
    found = {
        (a, int(c))
        for a, c in zip(by_basket.rules.antecedent, by_basket.rules.consequent, strict=True)
    }
    assert found == {((0,), 1), ((1,), 0), ((2,), 3), ((3,), 2)}
    assert AssociationRules().fit(log).recommend([[0]], k=3).lists() == [[1, 2, 3]]
    assert by_basket.recommend([[0]], k=3).lists() == [[1]]
