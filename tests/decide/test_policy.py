"""Decisions: the stated propensities are what happens, the budget holds, the holdout stays."""

from __future__ import annotations

import math
import zoneinfo
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from propend.config import DecideConfig
from propend.decide.decision import EXCLUDED, HOLDOUT, Decisions
from propend.decide.policy import consent_of, decide, draw, plan_pushes, uniform
from propend.errors import ConfigError, DataError, NotEnoughDataError
from propend.events.clock import moment
from propend.events.hashing import hash_column

NOW = moment(datetime(2025, 11, 21, 14, 30, tzinfo=UTC))


def users(n: int) -> pa.Array:
    return pa.array([f"u{i}" for i in range(n)])


def market(n: int, seed: int = 3) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return users(n), rng.beta(1, 6, n), rng.gamma(2, 20, n)


SETTINGS = [
    DecideConfig(),
    DecideConfig(budget=1.0, holdout=0.2, explore=0.3),
    DecideConfig(budget=0.3, holdout=0.3, explore=0.5),
    DecideConfig(budget=0.05, explore=0.2),
    DecideConfig(budget=0.7, holdout=0.25, explore=0.0),
    DecideConfig(budget=0.5, holdout=0.0, explore=1.0),
    DecideConfig(budget=0.0),
]


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_propensities_are_the_frequencies_over_many_salts(config: DecideConfig) -> None:
    n, draws = 60, 2_000
    ids, p, value = market(n)
    consent = np.arange(n) % 7 != 0
    made = decide(ids, p, value, config, now=NOW, consent=consent)
    stated, hashed = made.column("push_propensity"), hash_column(ids)
    plan = plan_pushes(
        made.column("expected_profit"),
        consent,
        cost=config.cost,
        budget=config.budget,
        holdout=config.holdout,
        explore=config.explore,
        ties=hashed,
    )
    assert (plan.push == stated).all()  # it does not depend on what is drawn
    counted = np.zeros(n)
    for k in range(draws):
        pushed, group, _ = draw(plan, hashed, salt=f"s{k}", period="p", run="r")
        counted += pushed
        if config.budget is not None:
            assert pushed.sum() <= math.floor(config.budget / config.cost + 1e-9)
        assert (np.where(pushed, stated, 1 - stated) > 0).all()
        assert not pushed[(group == HOLDOUT) | (group == EXCLUDED)].any()
    error = np.sqrt(stated * (1 - stated) / draws)
    assert (np.abs(counted / draws - stated) <= 4.5 * error + 1e-9).all()
    assert_sound(made, config)


def assert_sound(made: Decisions, config: DecideConfig) -> None:
    propensity = made.column("propensity")
    assert ((propensity > 0) & (propensity <= 1)).all()
    if config.budget is not None:
        assert made.pushed.sum() <= math.floor(config.budget / config.cost + 1e-9)


def test_the_propensity_algebra_against_every_outcome_of_five_users() -> None:
    h, e = 0.3, 0.4
    profit = np.array([5.0, 4.0, 3.0, 2.0, -1.0])
    plan = plan_pushes(profit, np.ones(5, bool), cost=1.0, budget=3.0, holdout=h, explore=e)
    states = {"h": h, "c": (1 - h) * e / 2, "s": (1 - h) * e / 2, "p": (1 - h) * (1 - e)}
    expected = np.zeros(5)
    for outcome in product(states, repeat=5):
        chance = math.prod(states[s] for s in outcome)
        policy = [i for i in range(4) if outcome[i] == "p"][: plan.policy_pushes]
        asked = [i for i in range(5) if outcome[i] == "c"]
        expected[policy] += chance
        expected[asked] += chance * min(1, plan.explore_pushes / max(len(asked), 1))
    assert plan.policy_pushes + plan.explore_pushes == 3
    np.testing.assert_allclose(plan.push, expected, rtol=1e-12)


def test_the_budget_is_spent_on_the_highest_profit_and_never_exceeded() -> None:
    ids, p, value = market(5_000)
    made = decide(ids, p, value, DecideConfig(budget=12.34, explore=0.0), now=NOW)
    assert made.pushed.sum() == 246  # ⌊12.34 / 0.05⌋
    profit, group = made.column("expected_profit"), made.column("group")
    left = (group == "policy") & ~made.pushed
    assert profit[made.pushed].min() >= profit[left].max()
    assert made.summary()["cost"] <= 12.34
    reasons = made.column("reason")[left]
    assert all(r.startswith(("budget is spent", "does not pay")) for r in reasons)


def test_without_chance_and_budget_exactly_those_who_pay_are_pushed() -> None:
    ids, p, value = market(500)
    made = decide(ids, p, value, DecideConfig(holdout=0, explore=0), now=NOW)
    assert (made.pushed == (p * 0.1 * value * 0.3 > 0.05)).all()
    assert (made.column("propensity") == 1).all()
    assert any("holdout" in note for note in made.notes)


def test_the_holdout_has_the_stated_size_and_stays_for_its_period() -> None:
    ids, p, value = market(20_000)

    def held(now: int, who: pa.Array = ids, **more: str) -> np.ndarray:
        n = len(who)
        made = decide(who, p[:n], value[:n], DecideConfig(), now=now, **more)
        return made.column("group") == "holdout"

    first = held(NOW)
    assert abs(first.mean() - 0.1) < 4 * math.sqrt(0.09 / 20_000)
    assert (held(NOW + 5 * 86_400_000_000) == first).all()
    assert (held(NOW, ids[:50]) == first[:50]).all()  # whoever else is asked
    other = held(NOW + 20 * 86_400_000_000)  # December
    assert abs((other & first).mean() - 0.01) < 0.004
    assert not (held(NOW, salt="another") == first).all()
    assert (held(NOW, period="2026") == held(0, period="2026")).all()


def test_uniform_numbers_are_uniform_and_independent() -> None:
    hashed = hash_column(users(50_000))
    a, b = uniform(hashed, "a"), uniform(hashed, "b")
    counts = np.histogram2d(a, b, bins=10, range=[[0, 1], [0, 1]])[0]
    assert ((counts - 500) ** 2 / 500).sum() < 160  # chi-square, 99 degrees of freedom
    assert ((a >= 0) & (a < 1)).all()


def test_no_consent_means_silence_outside_every_comparison() -> None:
    ids, p, value = market(1_000)
    table = pa.table({"user": ids[:500], "Opt_In": ["No", "yes", None, "0", "TRUE"] * 100})
    consent = consent_of(table, "user", ids)
    assert consent is not None
    assert consent.tolist() == [False, True, True, False, True] * 100 + [True] * 500
    made = decide(ids, p, value, DecideConfig(), now=NOW, consent=consent)
    assert not made.pushed[~consent].any()
    assert set(made.column("group")[~consent]) == {"excluded"}
    assert (made.column("propensity")[~consent] == 1).all()
    assert consent_of(None, "user", ids) is None
    assert (
        consent_of(pa.table({"user": ids, "consent": [True, False] * 500}), "user", ids).sum()
        == 500
    )


def test_hours_items_and_reasons_reach_the_decision() -> None:
    made = decide(
        ["a", "b", "c", "d"],
        [0.9, 0.9, 0.9, 0.001],
        [10.0, math.nan, 30.0, 20.0],
        DecideConfig(holdout=0, explore=0),
        now=NOW,
        zone="Europe/Berlin",
        hour=[9, 20, -1, 3],
        item=["x", None, "z", "w"],
        reasons=["bought 2 days ago", None, "", "quiet"],
        currency="EUR",
    )
    a, b, c, d = made
    assert (a.action, a.item, a.channel, a.hour) == ("push", "x", "email", 9)
    assert a.at == datetime(2025, 11, 22, 8, tzinfo=zoneinfo.ZoneInfo("UTC"))  # 9:00 is past today
    assert b.at == datetime(2025, 11, 21, 19, tzinfo=zoneinfo.ZoneInfo("UTC"))
    assert a.reason == "pays: 90 % likely to buy, 0.22 EUR expected of a push; bought 2 days ago"
    assert c.hour in (3, 9, 20)
    assert ";" not in c.reason
    assert (d.action, d.item, d.channel, d.hour, d.at) == ("silent", None, None, -1, None)
    assert d.reason.startswith("does not pay")
    assert d.reason.endswith("; quiet")
    assert b.expected_value == pytest.approx(0.09 * 20)  # the mean of the others
    assert any("no value of their own" in note for note in made.notes)
    assert made.summary()["push"] == 3
    assert made.of("d") == d


def test_measured_lifts_rank_instead_of_the_assumed_one() -> None:
    made = decide(
        ["sure", "persuadable"], [0.9, 0.1], 20.0,
        DecideConfig(holdout=0, explore=0), now=NOW, lift=[0.0, 1.0],
    )  # fmt: skip
    assert made.column("action").tolist() == ["silent", "push"]
    assert not any("assumed" in note for note in made.notes)


def test_the_same_call_gives_the_same_decisions_and_order_does_not_matter() -> None:
    ids, p, value = market(400)
    config = DecideConfig(budget=2.0)
    made = decide(ids, p, value, config, now=NOW)
    assert made.table.equals(decide(ids, p, value, config, now=NOW).table)
    turned = np.random.default_rng(0).permutation(400)
    other = decide(ids.take(pa.array(turned)), p[turned], value[turned], config, now=NOW)
    assert (other.pushed == made.pushed[turned]).all()


def test_equal_profits_are_cut_by_hash_not_by_age() -> None:
    made = decide(users(1_000), 0.5, 20.0, DecideConfig(budget=5.0, holdout=0, explore=0), now=NOW)
    assert made.pushed.sum() == 100
    assert 0.2 < np.flatnonzero(made.pushed).mean() / 1_000 < 0.8


@pytest.mark.parametrize(
    ("setting", "value"),
    [("cost", -1.0), ("margin", 1.5), ("holdout", 1.0), ("holdout", -0.1), ("explore", 1.1),
     ("budget", -5.0), ("lift", -1.5), ("cost", math.nan)],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"^decide\.{setting} must be .*, not .*; mend propend.toml$"
    ):
        decide(["a"], 0.5, 1.0, DecideConfig(**{setting: value}), now=NOW)


def test_bad_arrays_are_refused_in_one_sentence() -> None:
    config = DecideConfig()
    with pytest.raises(NotEnoughDataError, match="no user to decide about"):
        decide([], [], [], config, now=NOW)
    with pytest.raises(DataError, match="stands twice"):
        decide(["a", "a"], 0.5, 1.0, config, now=NOW)
    with pytest.raises(DataError, match=r"probability must be from 0 to 1 .* example 1\.5"):
        decide(["a", "b"], [1.5, 0.1], 1.0, config, now=NOW)
    with pytest.raises(DataError, match="probability has 1 values for 2 users"):
        decide(["a", "b"], [0.5], 1.0, config, now=NOW)
    with pytest.raises(DataError, match="no user has a value"):
        decide(["a"], [0.5], [math.nan], config, now=NOW)
    with pytest.raises(DataError, match="hour must hold 1 numbers"):
        decide(["a"], 0.5, 1.0, config, now=NOW, hour=[24])
    with pytest.raises(DataError, match="item has 2 values for 1 users"):
        decide(["a"], 0.5, 1.0, config, now=NOW, item=["x", "y"])
    with pytest.raises(DataError, match="no decision about user 'z'"):
        decide(["a"], 0.5, 1.0, config, now=NOW).of("z")
