"""Made-up sequences for the tests of sequence models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from propend.models.sequence.tokens import SequenceArrays

DAY = 86_400_000_000


def random_sequences(
    users: int = 20, items: int = 9, types: int = 3, seed: int = 0, longest: int = 12
) -> SequenceArrays:
    """Return sequences of 0 to ``longest`` events with every column in use."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    gaps = (rng.exponential(2.0, n) * DAY).astype(np.int64)
    time = np.concatenate([np.cumsum(gaps[a:b]) for a, b in pairwise(offsets)])
    amount = np.where(rng.random(n) < 0.3, rng.gamma(2.0, 10.0, n), np.nan)
    item = np.where(rng.random(n) < 0.1, -1, rng.integers(0, items, n))
    return SequenceArrays.of(
        offsets,
        item,
        type=rng.integers(0, types, n),
        channel=rng.integers(-1, 2, n),
        time=time,
        amount=amount,
    )


def cycles(users: int = 300, items: int = 12, seed: int = 0) -> SequenceArrays:
    """Return walks where item i is followed by i + 1 or i + 3 (modulo): order is everything, popularity nothing."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 16, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    parts = []
    for length in lengths:
        steps = np.where(rng.random(length) < 0.8, 1, 3)
        parts.append((rng.integers(items) + np.cumsum(steps)) % items)
    return SequenceArrays.of(offsets, np.concatenate(parts))
