"""What the quality tables learn from, ask and tune on."""

from __future__ import annotations

import numpy as np
from benchmarks.quality.recommend import splits

from propend.recommend.interactions import Interactions
from propend.recommend.protocols import given, leave_one_out


def log(seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions.of(rng.integers(0, 30, 400), rng.integers(0, 40, 400))


def pairs(split: object) -> set[tuple[int, int]]:
    users = np.repeat(split.users, np.diff(split.offsets))  # type: ignore[attr-defined]
    return set(zip(users.tolist(), split.truth.tolist(), strict=True))  # type: ignore[attr-defined]


def test_settings_are_chosen_on_training_pairs_only() -> None:
    whole = log()
    for split in (leave_one_out(whole, seen="hidden"), given(whole, log(1))):
        cut = splits.validation(split, most=12)
        train = set(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True))
        assert len(cut) == 12
        assert pairs(cut) <= train
        assert not pairs(cut) & pairs(split)
        assert len(cut.train) < len(split.train)


def test_strangers_keep_their_friends_only() -> None:
    rng = np.random.default_rng(2)
    items = np.arange(60) < 40
    train = Interactions.of(
        np.r_[rng.integers(0, 30, 300), np.arange(30)],
        np.r_[rng.integers(0, 40, 300), 40 + rng.integers(0, 20, 30)],
        n_items=60,
    )
    test = Interactions.of(rng.integers(0, 30, 80), rng.integers(0, 40, 80), n_items=60)
    split = given(train, test)
    cold = splits.strangers(split, items)
    theirs = np.isin(cold.train.user, cold.users)
    assert len(cold) == int(0.2 * len(split)) > 0
    assert (cold.train.item[theirs] >= 40).all()
    assert (cold.train.item[~theirs] < 40).any()
    assert set(cold.users.tolist()) <= set(cold.train.user.tolist())
