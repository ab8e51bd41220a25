"""Attribution and the why of a funnel against oracles and planted truths."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from tests.analytics.conftest import START, TYPES, as_log, write_store

from propend.analytics.attribution import (
    _shapley_exact,
    _shapley_sampled,
    attribution,
    removal_effects,
    shapley,
)
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


def shapley_over_all_orders(paths, names):
    """Return each channel's mean gain in the rate over all orders; paths are (channels, gain), lost ones have none."""

    def worth(coalition):
        within = [gain for channels, gain in paths if channels <= coalition]
        return sum(within) / len(within) if within else 0.0

    found = {}
    for name in names:
        gains = []
        for order in permutations(names):
            at = order.index(name)
            gains.append(worth(set(order[: at + 1])) - worth(set(order[:at])))
        found[name] = np.mean(gains) * len(paths)
    return found


def test_shapley_is_the_mean_over_all_orders(make_log):
    log = make_log(12)
    found = attribution(*log.asked, "purchase", lookback="4d")
    names = [c["channel"] for c in found["channels"]]
    paths = [({c for c, _ in touches}, e) for touches, e in paths_of(log, 4 * DAY) if touches]
    assert any(e is None for _, e in paths)
    won = shapley_over_all_orders([(c, e is not None) for c, e in paths], names)
    worth = shapley_over_all_orders([(c, e.value if e else 0.0) for c, e in paths], names)
    for row in found["channels"]:
        assert row["conversions"]["shapley"] == pytest.approx(won[row["channel"]])
        assert row["value"]["shapley"] == pytest.approx(worth[row["channel"]])


def test_a_channel_that_brings_nothing_earns_nothing():
    """The rate of the others is the same with it; an equal split would have paid it half of its conversions."""
    sets, paths = np.array([0b01, 0b11]), np.array([100, 100])
    assert shapley(sets, paths, np.array([20, 20]), 2).tolist() == [40.0, 0.0]
    assert shapley(sets, paths, np.array([20, 0]), 2) == pytest.approx([30.0, -10.0])


def test_sampled_orders_are_near_all_of_them():
    rng = np.random.default_rng(4)
    sets = np.unique(rng.integers(1, 1 << 10, 200))
    paths = rng.integers(1, 40, len(sets))
    gain = rng.binomial(paths, 0.1 + 0.4 * (sets >> 3 & 1))
    members = np.stack([sets >> c & 1 for c in range(10)], axis=1)
    exact = _shapley_exact(members, paths, gain, 0, 0)
    sampled = _shapley_sampled(members, paths, gain, 2000, 7)
    assert sampled.sum() == pytest.approx(exact.sum()) == pytest.approx(gain.sum() / paths.sum())
    assert np.abs(sampled - exact).max() < 0.02
    assert exact.argmax() == 3
    wide = shapley(sets << 7, paths, gain, 20)  # ten channels in use, whatever their codes
    assert wide[7:17] == pytest.approx(exact * paths.sum())
    many = np.append(sets, np.int64(1) << np.arange(40, 50, dtype=np.int64))
    more = shapley(many, np.append(paths, np.full(10, 5)), np.append(gain, np.full(10, 2)), 60)
    assert more.sum() == pytest.approx(gain.sum() + 20)
    assert not more[10:40].any()


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
    none = np.zeros(0, np.int64)
    assert shapley(none, none, none, 2).tolist() == [0, 0]


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
