"""Attribution and the why of a funnel against oracles and planted truths."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from tests.analytics.conftest import START, TYPES, as_log, write_store

from propend.analytics.attribution import attribution, removal_effects, shapley
from propend.analytics.funnel import funnel
from propend.analytics.funnel_plan import Funnel
from propend.analytics.statistics import benjamini_hochberg
from propend.analytics.why import mann_whitney, why
from propend.errors import ConfigError, NotEnoughDataError, PropendError
from propend.names import DAY


def paths_of(log, lookback):
    """Yield (touches as (channel, time), conversion event or None)."""
    for events in log.users.values():
        begin = 0
        for i, e in enumerate(events):
            if e.type != "purchase":
                continue
            touches = [
                (x.channel, x.time)
                for x in events[begin : i + 1]
                if x.channel is not None and x.time >= e.time - lookback
            ]
            yield touches, e
            begin = i + 1
        rest = [(x.channel, x.time) for x in events[begin:] if x.channel is not None]
        if rest:
            yield rest, None


def test_rules(make_log):
    log = make_log(12)
    found = attribution(*log.asked, "purchase", lookback="5d", half_life="2d")
    names = [c["channel"] for c in found["channels"]]
    credit = {m: dict.fromkeys(names, 0.0) for m in ("first", "last", "linear", "time_decay")}
    value = dict.fromkeys(names, 0.0)
    counts = [0, 0, 0]
    for touches, e in paths_of(log, 5 * DAY):
        if e is None:
            counts[2] += 1
            continue
        counts[0] += 1
        if not touches:
            counts[1] += 1
            continue
        credit["first"][touches[0][0]] += 1
        credit["last"][touches[-1][0]] += 1
        weights = [2 ** (-(e.time - t) / (2 * DAY)) for _, t in touches]
        for (c, _), w in zip(touches, weights, strict=True):
            credit["linear"][c] += 1 / len(touches)
            credit["time_decay"][c] += w / sum(weights)
            value[c] += e.value / len(touches)
    assert [found["conversions"], found["without_touch"], found["lost_paths"]] == counts
    for row in found["channels"]:
        for model, by in credit.items():
            assert row["conversions"][model] == pytest.approx(by[row["channel"]])
        assert row["value"]["linear"] == pytest.approx(value[row["channel"]])
    for model in found["models"]:
        total = sum(row["conversions"][model] for row in found["channels"])
        assert total == pytest.approx(counts[0] - counts[1])


def test_shapley_is_the_mean_over_all_orders(make_log):
    log = make_log(12)
    found = attribution(*log.asked, "purchase")
    names = [c["channel"] for c in found["channels"]]
    sets = [
        {c for c, _ in touches}
        for touches, e in paths_of(log, 30 * DAY)
        if e is not None and touches
    ]

    def worth(coalition):
        return sum(s <= coalition for s in sets)

    for row in found["channels"]:
        gains = []
        for order in permutations(names):
            at = order.index(row["channel"])
            gains.append(worth(set(order[: at + 1])) - worth(set(order[:at])))
        assert row["conversions"]["shapley"] == pytest.approx(np.mean(gains))


def test_removal_by_power_iteration(make_log):
    log = make_log(12)
    found = attribution(*log.asked, "purchase")
    names = ["ads", "email", "search"]
    moves = np.zeros((6, 6))
    for touches, e in paths_of(log, 30 * DAY):
        if not touches:
            continue
        path = [3, *(names.index(c) for c, _ in touches), 4 if e is not None else 5]
        for a, b in pairwise(path):
            moves[a, b] += 1

    def converted(removed):
        chain = np.divide(moves, np.maximum(moves.sum(1, keepdims=True), 1))
        state = np.eye(6)[3]
        done = 0.0
        for _ in range(3000):
            state = state @ chain
            if removed is not None:
                state[removed] = 0
            done += state[4]
            state[4:] = 0
        return done

    for row in found["channels"]:
        expected = 1 - converted(names.index(row["channel"])) / converted(None)
        assert row["removal_effect"] == pytest.approx(expected, abs=1e-9)
    assert removal_effects(np.zeros((4, 4))).tolist() == [0.0]
    assert shapley({}, 2)[0].tolist() == [0, 0]


def test_bad_attribution(make_log):
    with pytest.raises(PropendError, match=r"no event field 'item\.colour'"):
        attribution(*make_log(0).asked, "purchase", channel="item.colour")
    with pytest.raises(NotEnoughDataError, match="nobody did"):
        attribution(*make_log(0).asked, "purchase where value > 1000000")


def planted(tmp_path, effect):
    """Users search 0 to 5 times, view, often view again five days later, and buy soon after their last view or never."""
    rng = np.random.default_rng(5)
    rows, bought, open_ = [], 0, 0
    for user in range(500):
        at = START + int(rng.integers(0, 40 * DAY))
        searches = int(rng.integers(0, 6))
        times = [(at - (k + 1) * DAY // 4, "search") for k in range(searches)]
        times.append((at, "view"))
        last = at
        if rng.random() < 0.5:
            last = at + 5 * DAY
            times.append((last, "view"))
        if rng.random() < (0.15 + 0.12 * searches if effect else 0.45):
            times.append((last + DAY, "purchase"))
        rows += [(user, t, kind) for t, kind in times]
    rows.sort()
    end = max(t for _, t, _ in rows)
    for user in range(500):
        views = [t for u, t, k in rows if u == user and k == "view"]
        over = views[0] + 3 * DAY <= end
        open_ += not over
        bought += over and any(u == user and k == "purchase" for u, _, k in rows)
    n = len(rows)
    channel = np.full(n, None, object)
    events = {
        "user": np.array([u for u, _, _ in rows]),
        "time": np.array([t for _, t, _ in rows]),
        "type": np.array([TYPES.index(k) for _, _, k in rows]),
        "item": rng.integers(0, 3, n),
        "value": np.ones(n),
        "channel": channel,
    }
    return as_log(write_store(tmp_path / "s", events), events), bought, open_


def test_why_finds_what_was_planted(tmp_path):
    """Who searched more converts more; converted is who the funnel counts, by the second view, too."""
    log, bought, open_ = planted(tmp_path, effect=True)
    steps = ["view", "purchase"]
    found = why(*log.asked, Funnel.of(steps, "3d"))
    result = funnel(*log.asked, steps, "3d")
    assert found["funnel"] == [result.users(0), result.users(1)]
    assert found["left_out"] == {"open": open_, "same_moment": 0}
    assert (found["converted"], found["not_converted"]) == (bought, 500 - open_ - bought)
    best = found["differences"][0]
    assert best["effect"] > 0.3
    assert best["low"] <= best["effect"] <= best["high"]
    searched = [d["effect"] for d in found["differences"] if "count(search)" in d["feature"]]
    assert max(searched) > 0.3


def test_why_finds_little_where_there_is_nothing(tmp_path):
    log, _, _ = planted(tmp_path, effect=False)
    found = why(*log.asked, Funnel.of(["view", "purchase"], "3d"))
    assert found["compared"] > 20
    assert not [d for d in found["differences"] if "search" in d["feature"]]


@pytest.mark.parametrize("step", [0, 2, -2, 5])
def test_why_of_no_step(make_log, step):
    with pytest.raises(ConfigError, match="from 2 to 2"):
        why(*make_log(0).asked, Funnel.of(["view", "purchase"]), step=step)


def test_why_asks_in_the_period(make_log):
    log = make_log(13, users=600, most=30, days=40)
    steps, since, until = ["view", "purchase"], START + 10 * DAY, START + 30 * DAY
    found = why(*log.asked, Funnel.of(steps, "3d"), since=since, until=until)
    result = funnel(*log.asked, steps, "3d", since=since, until=until)
    took, at = result.entries.took, result.entries.at
    once = (took[:, 1] >= 0) & (at[:, 1] == at[:, 0])
    assert found["funnel"] == [result.users(0), result.users(1)]
    assert found["left_out"] == {"open": 0, "same_moment": int(once.sum())}
    assert found["converted"] == result.users(1) - once.sum()


def test_false_discoveries_are_few():
    rng = np.random.default_rng(3)
    calls = 0
    for _ in range(60):
        p = [mann_whitney(rng.normal(size=60), rng.normal(size=80))[1] for _ in range(30)]
        calls += (benjamini_hochberg(p) <= 0.05).any()
    assert calls <= 8


def test_mann_whitney_is_exact_on_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, 70).astype(float), rng.integers(1, 9, 50).astype(float)
    pairs = (a[:, None] > b).mean() + (a[:, None] == b).mean() / 2
    assert mann_whitney(a, b)[0] == pytest.approx(pairs)


def test_too_few_to_compare(make_log):
    with pytest.raises(NotEnoughDataError, match="at least 25"):
        why(*make_log(0, users=10).asked, Funnel.of(["view", "purchase"]))
