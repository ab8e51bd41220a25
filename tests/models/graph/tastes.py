"""A made market of two groups of users that have nothing in common."""

from __future__ import annotations

import numpy as np

from propend.recommend.interactions import Interactions


def two_tastes(seed: int = 0) -> Interactions:
    """Users 0–59 choose among items 0–19, users 60–119 among items 20–39."""
    rng = np.random.default_rng(seed)
    return Interactions.from_lists(
        [20 * (u >= 60) + rng.choice(20, 6, replace=False) for u in range(120)], n_items=41
    )
