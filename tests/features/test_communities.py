"""Leiden communities: planted groups are found, the modularity is the formula's, the future is not seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.errors import DataError, NotEnoughDataError
from propend.features.communities import Communities

pytest.importorskip("graspologic_native", reason="needs the extra graph")


def planted(
    seed: int, groups: int = 3, each: int = 20, within: float = 0.5, across: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = groups * each
    left, right = np.triu_indices(n, 1)
    same = left // each == right // each
    drawn = rng.random(len(left)) < np.where(same, within, across)
    return left[drawn] + 1000, right[drawn] + 1000


def modularity(left: np.ndarray, right: np.ndarray, found: Communities) -> float:
    """Newman's Q, pair by pair."""
    of = dict(zip(found.users.tolist(), found.community.tolist(), strict=True))
    edges = {frozenset(p) for p in zip(left.tolist(), right.tolist(), strict=True) if p[0] != p[1]}
    degree = {u: sum(u in e for e in edges) for u in of}
    m = len(edges)
    inside = sum(of[min(e)] == of[max(e)] for e in edges) / m
    groups = set(of.values())
    return inside - sum((sum(degree[u] for u in of if of[u] == g) / (2 * m)) ** 2 for g in groups)


@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found(seed: int) -> None:
    left, right = planted(seed)
    found = Communities.of_friends(left, right, seed=seed)
    truth = (found.users - 1000) // 20
    pairs = {(int(t), int(c)) for t, c in zip(truth, found.community, strict=True)}
    assert len(pairs) == 3
    assert found.modularity == pytest.approx(modularity(left, right, found), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_order_direction_and_repeats_of_ties_do_not_matter(ties: list[tuple[int, int]]) -> None:
    left, right = np.array(ties).T
    if (left == right).all():
        with pytest.raises(NotEnoughDataError, match="no tie between two different users"):
            Communities.of_friends(left, right)
        return
    once = Communities.of_friends(left, right)
    again = Communities.of_friends(np.append(right, left)[::-1], np.append(left, right)[::-1])
    assert np.array_equal(once.users, again.users)
    assert np.array_equal(once.community, again.community)
    assert np.array_equal(once.ties, again.ties)
    assert once.modularity == pytest.approx(modularity(left, right, once), abs=1e-9)


def test_users_of_the_same_items_are_together_and_a_bestseller_ties_nobody() -> None:
    rng = np.random.default_rng(5)
    user, item = [], []
    for u in range(60):
        own = 10 * (u % 3) + rng.choice(10, 5, replace=False)
        user += [u] * 6
        item += [*own, 99]  # everybody has 99
    found = Communities.of_items(user, item)
    assert len({(u % 3, int(c)) for u, c in zip(found.users, found.community, strict=True)}) == 3
    assert (found.ties == 6).all()
    doubled = Communities.of_items(user * 2, item * 2)
    assert np.array_equal(found.community, doubled.community)


def test_what_is_said_of_a_user() -> None:
    found = Communities.of_friends([1, 1, 2, 7], [2, 3, 3, 8])
    said = found.describe(
        np.array([1, 2, 3, 5, 7, 8]), np.array([True, False, True, True, False, True])
    )
    assert said["community"].tolist() == [0, 0, 0, -1, 1, 1]
    assert said["community_size"].tolist() == [3, 3, 3, 0, 2, 2]
    assert said["ties"].tolist() == [2, 2, 2, 0, 1, 1]
    assert np.allclose(said["community_active"], [0.5, 1.0, 0.5, np.nan, 1.0, 0.0], equal_nan=True)


def test_sentences() -> None:
    with pytest.raises(DataError, match="resolution must be above 0"):
        Communities.of_friends([1], [2], resolution=0)
    with pytest.raises(DataError, match="two users each"):
        Communities.of_friends([1, 2], [2])
    with pytest.raises(NotEnoughDataError, match="nobody met an item"):
        Communities.of_items([1], [-1])
