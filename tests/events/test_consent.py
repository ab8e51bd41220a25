"""Who refused consent lately, against going through every event."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from propend.events.consent import LATELY, MARKS, denied
from propend.events.timelines import Column, Timelines


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_as_event_by_event(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, n = 5, int(rng.integers(0, 40))
    owner = np.sort(rng.integers(0, users, n))
    time = rng.integers(0, 2 * LATELY, n)
    time = time[np.lexsort((time, owner))]
    texts = ("denied", "gpc", "bot denied", "undenied")
    codes = rng.integers(-1, len(texts), n).astype(np.int32)
    arrival = time + rng.integers(0, LATELY // 10, n) if rng.random() < 0.5 else None
    offsets = np.searchsorted(owner, np.arange(users + 1))
    t = Timelines(
        np.arange(users), offsets.astype(np.int64), time, np.zeros(n, np.int16), np.full(n, -1, np.int32), np.arange(n),
        {}, {MARKS: Column(codes, texts)}, arrival,
    )  # fmt: skip
    at = int(rng.integers(0, 2 * LATELY))
    slow = [False] * users
    for i in range(n):
        known = time[i] < at and (arrival is None or arrival[i] <= at)
        if known and time[i] >= at - LATELY and codes[i] in (0, 2):
            slow[owner[i]] = True
    assert denied(t, at).tolist() == slow
    assert not denied(Timelines(*[getattr(t, f) for f in ("users", "offsets", "time", "type", "item", "seq")]), at).any()  # fmt: skip
