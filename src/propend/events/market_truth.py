"""The truth of the simulated market as tables, and what each action would have led to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from propend.errors import ConfigError
from propend.events import market_world as world
from propend.events.market_log import (
    CLOCK,
    LEAVES_AFTER,
    PURCHASE,
    Log,
    Pushes,
    dates,
    labels,
    words,
)
from propend.events.market_world import Array, People
from propend.names import DAY, TIME, USER

if TYPE_CHECKING:
    from propend.events.market import Market

__all__ = ["Future", "expect", "pushes_table", "respond", "users_table"]


def users_table(market: Market, people: People, pushes: Pushes, base: int) -> pa.Table:
    """Return what is true of each user at the end of the log.

    alive, churned: whether the user is still there, else the first day without them.
    intensity: purchases a day, at the list price and without a push.
    elasticity: of the demand for each item in its own price, as a positive number.
    segment, push_gain, fatigue: a push multiplies the chance to buy at a view by
    1 + push_gain × fatigue.
    push_effect: of one push as the log ends, on the chance to buy within seven days; 0 where
    consent is missing. bought_7d: that chance without a push.
    leave_risk: chance that a push makes the user leave after a week; leave_rate: chance a day.
    visit_rate: ordinary visits a day before seasons; buy: chance to buy at a view.
    staple, staple_…: what the user needs again every so many days from a day of the log, and the
    chance that they then buy it here.
    purchases_30d, value_30d, …: expected in the days after the log, without a push.
    """
    n, days = len(people.source), market.days
    alive = people.leave_day >= days
    recent = pushes.sent & (pushes.day >= days - world.FATIGUE_DAYS)
    fatigue = np.exp(-world.FATIGUE * np.bincount(pushes.who[recent], minlength=n))
    end = np.full(n, days)
    bought = [
        world.bought_within_week(
            people, end, np.zeros(n, int), lift, market.catalogue, days, market.start
        )
        * (1 - people.leave_rate)
        * alive
        for lift in (np.ones(n), 1 + people.gain * fatigue)
    ]
    season = float(world.season(np.array(days), market.start))
    ordinary = people.visit_rate * season / world.STOP_VIEWING * people.buy
    owned = np.maximum(people.staple, 0)
    columns: dict[str, Any] = {
        USER: labels("u", base + np.arange(n), 7),
        "alive": alive,
        "churned": dates(market.start, people.leave_day, alive),
        "intensity": (ordinary + people.staple_buy / people.staple_interval) * alive,
        "elasticity": world.ELASTICITIES[people.level],
        "segment": words(world.SEGMENTS, people.segment),
        "push_effect": (bought[1] - bought[0]) * people.consent,
        "bought_7d": bought[0],
        "best_hour": people.best_hour.astype(np.int32),
        "push_consent": people.consent,
        "push_gain": people.gain,
        "fatigue": fatigue,
        "leave_risk": people.leave_risk,
        "leave_rate": people.leave_rate,
        "visit_rate": people.visit_rate,
        "buy": people.buy,
        "staple": market.skus.take(pa.array(owned, mask=people.staple < 0)),
        "staple_price": pa.array(market.catalogue.list_price[owned], mask=people.staple < 0),
        "staple_interval": people.staple_interval.astype(np.int32),
        "staple_day": people.staple_day.astype(np.int32),
        "staple_buy": people.staple_buy,
    }
    for c in range(people.taste.shape[1]):
        columns[f"taste_{world.CATEGORIES[c]}"] = people.taste[:, c]
    truth = pa.table(columns)
    for horizon in (30, 60, 90):
        purchases, value = expect(market, truth, None, 1.0, horizon)
        truth = truth.append_column(f"purchases_{horizon}d", pa.array(purchases))
        truth = truth.append_column(f"value_{horizon}d", pa.array(value))
    return truth


def pushes_table(market: Market, people: People, pushes: Pushes, log: Log, base: int) -> pa.Table:
    """Return every push decision, sent or withheld.

    propensity: the known chance of sending; alive: whether there was still somebody to read it.
    effect: of sending on the chance to buy within seven days; bought_if_not_sent: the chance
    without; bought: whether a purchase followed within seven days.
    """
    who = people.take(pushes.who)
    alive = who.leave_day > pushes.day
    bought = [
        world.bought_within_week(
            who, pushes.day, pushes.hour, lift, market.catalogue, market.days, market.start
        )
        * alive
        for lift in (np.ones(len(alive)), pushes.lift)
    ]
    when = market.clock[pushes.day, pushes.hour]
    # One sorted key, user × 2**49 + µs since the start, answers for all users at once.
    origin, sold = market.clock[0, 0], log.type == PURCHASE
    keys = np.sort((log.owner[sold] << 49) + log.time[sold] - origin)
    low = (pushes.who << 49) + when - origin
    count = np.searchsorted(keys, low + 7 * DAY) - np.searchsorted(keys, low)
    return pa.table(
        {
            USER: labels("u", base + pushes.who, 7),
            TIME: pa.array(when).cast(CLOCK),
            "propensity": pushes.propensity,
            "sent": pushes.sent,
            "alive": alive,
            "effect": bought[1] - bought[0],
            "bought_if_not_sent": bought[0],
            "bought": count > 0,
        }
    )


@dataclass(frozen=True)
class Future:
    """The truth about users after the log, with an action."""

    alive: Array
    leave_rate: Array
    leave_risk: Array
    visit_rate: Array
    buy: Array
    elasticity: Array
    taste: Array
    staple_price: Array
    staple_interval: Array
    staple_day: Array
    staple_buy: Array
    lift: Array
    pushed: Array
    multiplier: Array

    @classmethod
    def of(
        cls, truth: pa.Table, pushed: Array | None, multiplier: Array | float, days: int
    ) -> Future:
        """Read the columns of the truth and check the action."""
        n = truth.num_rows
        if not 1 <= days <= 3_650:
            raise ConfigError(f"market: days ahead must be between 1 and 3,650, not {days!r}")
        push = np.zeros(n, bool) if pushed is None else np.asarray(pushed)
        price = np.asarray(multiplier, float)
        if push.shape != (n,) or push.dtype != bool:
            raise ConfigError(
                f"market: pushed must be {n:,} booleans, one per user, "
                f"not {push.dtype} of shape {push.shape}"
            )
        if price.shape not in ((), (n,)) or not (np.isfinite(price) & (price > 0)).all():
            raise ConfigError(
                f"market: price_multiplier must be one positive number per user ({n:,})"
            )

        def column(name: str) -> Array:
            if name not in truth.column_names:
                raise ConfigError(
                    f"market: users_truth has no column {name!r}; pass rows of truth/users.parquet"
                )
            return truth[name].to_numpy()

        plain = ("alive", "leave_rate", "leave_risk", "visit_rate", "buy", "elasticity")
        staple = ("staple_interval", "staple_day", "staple_buy")
        kinds = [name for name in truth.column_names if name.startswith("taste_")]
        return cls(
            **{name: column(name) for name in (*plain, *staple)},
            taste=np.stack([column(name) for name in kinds], axis=1),
            staple_price=np.nan_to_num(column("staple_price")),
            lift=1 + column("push_gain") * column("fatigue"),
            pushed=push & column("push_consent"),
            multiplier=np.broadcast_to(price, (n,)),
        )

    def chance(self, in_week: bool) -> Array:
        """Chance to buy at a view, in the week of the push or later."""
        lift = np.where(self.pushed, self.lift, 1.0) if in_week else 1.0
        return np.minimum(1, self.buy * self.multiplier**-self.elasticity * lift)

    def staple_chance(self) -> Array:
        """Chance to buy the staple when it is due."""
        return np.minimum(1, self.staple_buy * self.multiplier**-self.elasticity)


def expect(
    market: Market,
    users_truth: pa.Table,
    pushed: Array | None,
    price_multiplier: Array | float,
    days: int,
) -> tuple[Array, Array]:
    """Return the exact means of ``respond``; ``Market.expect`` describes the arguments."""
    user = Future.of(users_truth, pushed, price_multiplier, days)
    season = world.season(market.days + np.arange(days), market.start)
    stays = user.alive * (1 - user.leave_rate)
    week, later, due = np.zeros((3, len(stays)))
    for ahead in range(days):
        if ahead == LEAVES_AFTER:
            stays = stays * (1 - user.leave_risk * user.pushed)
        visited = week if ahead < world.PUSH_DAYS else later
        visited += stays * season[ahead]
        day = np.array(market.days + ahead)
        due += stays * world.staple_chance(day, user.staple_day, user.staple_interval)
        stays = stays * (1 - user.leave_rate)
    sold = week * user.chance(True) + later * user.chance(False)
    ordinary = user.visit_rate / world.STOP_VIEWING * sold
    staple = due * user.staple_chance()
    price = user.taste @ market.catalogue.mean_price
    value = (ordinary * price + staple * user.staple_price) * user.multiplier
    return ordinary + staple, value * world.MEAN_QUANTITY


def respond(
    market: Market,
    users_truth: pa.Table,
    pushed: Array | None,
    price_multiplier: Array | float,
    days: int,
    seed: int,
) -> tuple[Array, Array]:
    """Simulate purchases and value; ``Market.respond`` describes the arguments."""
    user = Future.of(users_truth, pushed, price_multiplier, days)
    if seed < 0:
        raise ConfigError(f"market: seed must be 0 or more, not {seed!r}")
    rng = np.random.default_rng(np.random.SeedSequence([market.seed, 3, seed]))
    n, goods = len(user.alive), market.catalogue
    life = np.ceil(np.log1p(-rng.random(n)) / np.log1p(-user.leave_rate)) - 1
    driven = (rng.random(n) < user.leave_risk) & user.pushed
    life = np.where(driven, np.minimum(life, LEAVES_AFTER), life) * user.alive

    season = np.append(0.0, np.cumsum(world.season(market.days + np.arange(days), market.start)))
    visits = rng.poisson(user.visit_rate * season[-1])
    owner = np.repeat(np.arange(n), visits)
    day = np.searchsorted(season, rng.random(len(owner)) * season[-1], "right") - 1
    limits = np.cumsum(user.taste, axis=1)[owner]
    category = np.minimum(
        (rng.random(len(owner))[:, None] > limits).sum(axis=1), limits.shape[1] - 1
    )
    at = np.repeat(np.arange(len(owner)), rng.geometric(world.STOP_VIEWING, len(owner)))
    owner, day, category = owner[at], day[at], category[at]
    item = goods.draw(rng, np.full(len(owner), goods.weeks), category)
    quantity = 1 + world.pick(rng, world.QUANTITIES, len(owner))
    chance = np.where(day < world.PUSH_DAYS, user.chance(True)[owner], user.chance(False)[owner])
    bought = (rng.random(len(owner)) < chance) & (day < life[owner])

    span = -(-(days + 2 * world.JITTER) // int(user.staple_interval.min(initial=14))) + 1
    first = market.days - world.JITTER
    due = first + (user.staple_day - first) % user.staple_interval
    nth = due[:, None] + user.staple_interval[:, None] * np.arange(span) - market.days
    nth = nth + rng.integers(-world.JITTER, world.JITTER + 1, nth.shape)
    needed = (nth >= 0) & (nth < days) & (nth < life[:, None])
    needed &= rng.random(nth.shape) < user.staple_chance()[:, None]
    pieces = 1 + world.pick(rng, world.QUANTITIES, nth.size).reshape(nth.shape)

    def total(weights: Array) -> Array:
        return np.bincount(owner[bought], weights[bought], minlength=n)

    purchases = total(np.ones(len(owner))) + needed.sum(axis=1)
    worth = total(goods.list_price[item] * quantity)
    worth = worth + (needed * pieces).sum(axis=1) * user.staple_price
    return purchases, worth * user.multiplier
