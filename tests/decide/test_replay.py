"""Off-policy estimates against the truth of the simulated market, and the true profit of the policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from propend.config import DecideConfig
from propend.decide.policy import decide
from propend.decide.replay import Logged, cross_predict, evaluate, uplift
from propend.errors import DataError, NotEnoughDataError
from propend.events.market import Market

MARGIN, COST, DAYS = 0.3, 0.05, 30


@dataclass
class World:
    """Consenting users of a market, with the truth about them."""

    market: Market
    truth: pa.Table
    ids: pa.Array
    p: np.ndarray
    value: np.ndarray
    silent: np.ndarray
    pushed: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        return self.pushed - self.silent


@pytest.fixture(scope="module")
def world() -> World:
    market = Market(users=6_000, days=200, items=60, dirt=0)
    truth = pa.concat_tables([block.truth for block in market.blocks()])
    truth = truth.filter(pa.compute.and_(truth["push_consent"], truth["alive"]))
    everyone = np.ones(truth.num_rows, bool)
    count, value = market.expect(truth, days=DAYS)
    more = market.expect(truth, everyone, days=DAYS)[1]
    p = 1 - np.exp(-count)
    ids = truth["user"].combine_chunks()
    return World(market, truth, ids, p, value, MARGIN * value, MARGIN * more - COST)


def response(world: World, **more: float) -> np.ndarray:
    """Whom the floor's policy pushes: by probability and value, with one assumed lift."""
    config = DecideConfig(cost=COST, margin=MARGIN, holdout=0, explore=0, **more)
    return decide(world.ids, world.p, world.value / world.p, config, now=0).pushed


def informed(world: World) -> np.ndarray:
    """Whom it pushes when the lift of each user is known."""
    config = DecideConfig(cost=COST, margin=MARGIN, holdout=0, explore=0)
    lift = world.gain + COST
    lift = lift / MARGIN / world.value
    return decide(world.ids, world.p, world.value / world.p, config, now=0, lift=lift).pushed


def test_profit_of_the_policies_in_truth(world: World) -> None:
    n = len(world.ids)
    everyone, best = world.gain.sum(), np.maximum(world.gain, 0).sum()
    known, guessed = world.gain[informed(world)].sum(), world.gain[response(world)].sum()
    assert 0 < everyone < guessed < known <= best + 1e-9
    assert known > 0.9 * best
    # By response, do-not-disturb users are pushed at a loss; with the lift known they are not.
    segment = np.array(world.truth["segment"].to_pylist())
    harmed = (segment == "do-not-disturb") & (world.gain < 0)
    assert response(world)[harmed].sum() > 0 == informed(world)[harmed].sum()
    assert n > 1_000


def logged(world: World, seed: int) -> Logged:
    """What our own policy logs when it explores, and what the market answers."""
    config = DecideConfig(cost=COST, margin=MARGIN, holdout=0.1, explore=0.5, budget=40.0)
    made = decide(world.ids, world.p, world.value / world.p, config, now=0, salt=f"run {seed}")
    money = world.market.respond(world.truth, made.pushed, days=DAYS, seed=seed)[1]
    reward = MARGIN * money - COST * made.pushed
    return Logged(made.pushed, made.column("push_propensity"), reward)


def test_intervals_cover_the_true_value(world: World) -> None:
    target = informed(world).astype(float)
    true = np.where(target > 0, world.pushed, world.silent).mean()
    true_gain = (world.gain * target).mean()
    X = np.column_stack([world.p, world.value, np.log1p(world.value)])
    covered = {"ips": 0, "snips": 0, "dr": 0, "uplift": 0}
    widths: dict[str, list[float]] = {name: [] for name in covered}
    draws, off = 40, []
    for seed in range(draws):
        log = logged(world, seed)
        predicted = cross_predict(X, log)
        found = {m: evaluate(log, target, method=m) for m in ("ips", "snips")}
        found["dr"] = evaluate(log, target, predicted=predicted)
        found["uplift"] = uplift(log, target, predicted=predicted)
        off.append(found["dr"].value - true)
        for name, e in found.items():
            covered[name] += e.low <= (true_gain if name == "uplift" else true) <= e.high
            widths[name].append(e.high - e.low)
    assert min(covered.values()) >= 35  # 95 % intervals: fewer than 35 of 40 has chance 0.3 %
    assert np.mean(widths["dr"]) < np.mean(widths["ips"])
    assert abs(np.mean(off)) < 3 * np.std(off) / np.sqrt(draws)


def test_the_estimators_by_hand() -> None:
    pushed = np.array([True, False] * 100)
    log = Logged(pushed, np.full(200, 0.25), np.where(pushed, 4.0, 1.0))
    push = evaluate(log, 1.0, method="ips")
    assert push.value == pytest.approx(0.5 * 4 * 4)
    assert push.users == 200
    assert evaluate(log, 1.0, method="snips").value == pytest.approx(4.0)
    assert evaluate(log, 1.0).value == pytest.approx(4.0)
    assert evaluate(log, 0.5).value == pytest.approx(2.5)
    assert push.effective == pytest.approx(100)
    gain = uplift(log, 1.0)
    assert gain.value == pytest.approx(3.0)
    assert gain.low == gain.high == gain.value


def test_what_the_log_never_did_is_not_judged() -> None:
    pushed = np.array([True, False] * 100)
    never = np.where(pushed, 0.5, 0.0)
    log = Logged(pushed, never, np.zeros(200))
    with pytest.raises(NotEnoughDataError, match=r"50\.0% of users .* explore"):
        evaluate(log, 1.0)
    rare = Logged(np.arange(200) == 0, np.full(200, 0.01), np.zeros(200))
    with pytest.raises(NotEnoughDataError, match="rest on 1 effective users of 200"):
        evaluate(rare, 1.0)


def test_bad_logs_are_refused_in_one_sentence() -> None:
    yes, half, zero = np.ones(3, bool), np.full(3, 0.5), np.zeros(3)
    with pytest.raises(DataError, match="propensity 0 or above 1"):
        Logged(yes, zero, zero)
    with pytest.raises(DataError, match="a propensity and a reward for each of 3"):
        Logged(yes, half[:2], zero)
    with pytest.raises(DataError, match="no reward"):
        Logged(yes, half, np.full(3, np.nan))
    with pytest.raises(DataError, match="at least one"):
        Logged(yes[:0], half[:0], zero[:0])
    log = Logged(np.ones(200, bool), np.full(200, 0.5), np.zeros(200))
    with pytest.raises(DataError, match="no estimator 'magic'"):
        evaluate(log, 1.0, method="magic")
    with pytest.raises(DataError, match="from 0 to 1"):
        evaluate(log, 1.5)
