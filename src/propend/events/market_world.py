"""What is true in the simulated market before anything is logged: seasons, catalogue, people.

The model. A user makes ordinary visits as a Poisson process of rate ``visit_rate × season(day)``
until they leave, which happens each day with probability ``leave_rate`` (both gamma or log-normal
over users: a Pareto/NBD shop with seasons). A visit has one category, drawn from the user's taste,
and a geometric number of views, each of an item drawn by popularity; a view ends in a purchase with
probability ``buy × (price / list price) ** -elasticity × lift``, where ``lift`` differs from 1 in
the seven days after a push. Given a purchase, the choice among items is therefore a logit in the
logarithm of the price. Some users also have a staple which they need again every so many days, give
or take two. All of that is chosen so that expectations have closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.events.market_text import BRANDS, NOUNS, item_name

__all__ = ["Catalogue", "People", "bought_within_week", "draw_catalogue", "draw_people", "season"]

Array = npt.NDArray[Any]

CATEGORIES: Final = tuple(NOUNS)
CONSUMABLE: Final = ("grocery", "beauty", "pets")
SEGMENTS: Final = ("persuadable", "sure thing", "lost cause", "do-not-disturb")
PERSUADABLE, SURE_THING, LOST_CAUSE, DO_NOT_DISTURB = range(4)
SOURCES: Final = ("organic", "ads", "email", "app", "direct")
SOURCE_SHARE: Final = np.array([0.34, 0.26, 0.14, 0.18, 0.08])
SOURCE_VISITS: Final = np.array([1.0, 0.8, 1.1, 1.3, 1.0])
SOURCE_PUSH: Final = np.array([1.0, 0.7, 1.2, 1.6, 0.8])
"""How much likelier than ``push_rate`` a push is, by the channel a user came from: it is known."""
COUNTRIES: Final = ("CN", "US", "GB", "SG", "TW")
COUNTRY_SHARE: Final = np.array([0.42, 0.26, 0.14, 0.10, 0.08])
CHINESE_SHARE: Final = np.array([0.98, 0.03, 0.02, 0.45, 0.97])

WEEKDAYS: Final = np.array([0.93, 0.90, 0.92, 0.97, 1.06, 1.18, 1.04])
ELASTICITIES: Final = np.linspace(0.6, 2.6, 11)
DEPTHS: Final = np.array([0.1, 0.2, 0.3])
STOP_VIEWING: Final = 0.4
QUANTITIES: Final = np.array([0.8, 0.15, 0.05])
MEAN_QUANTITY: Final = float(QUANTITIES @ [1, 2, 3])
JITTER: Final = 2
PUSH_DAYS: Final = 7
MAX_GAIN: Final = 1.6
TIMING: Final = 0.25
FATIGUE: Final = 0.3
FATIGUE_DAYS: Final = 60


def season(days: Array, start: date) -> Array:
    """Return the factor on all visits on each day counted from ``start``: week × year × trend.

    >>> season(np.arange(3), date(2025, 1, 3)).round(2)
    array([1.26, 1.4 , 1.23])
    """
    weekday = (start.weekday() + days) % 7
    day_of_year = start.timetuple().tm_yday + days
    year = 1 + 0.2 * np.cos(2 * np.pi * (day_of_year - 345) / 365.25)
    return WEEKDAYS[weekday] * year * np.exp(0.1 * days / 365)


def _hours() -> Array:
    """Return the share of visits by [best hour, hour]: a bump at the best hour over a floor."""
    hour = np.arange(24)
    distance = np.abs((hour[None, :] - hour[:, None] + 12) % 24 - 12)
    floor = np.where((hour >= 8) & (hour <= 22), 1.0, 0.15)
    share = floor[None, :] + 6.0 * np.exp(-0.5 * (distance / 2.0) ** 2)
    return share / share.sum(axis=1, keepdims=True)


HOURS: Final = _hours()
HOURS_BEFORE: Final = np.concatenate([np.zeros((24, 1)), HOURS.cumsum(axis=1)], axis=1)
"""Share of a day's visits before an hour, by [best hour, hour]."""


def timing(hour: Array, best_hour: Array) -> Array:
    """Return the factor on a push's effect for its hour; the mean over the clock is 1."""
    return 1 + TIMING * np.cos(2 * np.pi * (hour - best_hour) / 24)


def pick(rng: np.random.Generator, weights: Array, size: int) -> Array:
    """Draw ``size`` indices with probabilities proportional to ``weights``."""
    total = np.cumsum(weights)
    return np.minimum(np.searchsorted(total, rng.random(size) * total[-1], "right"), len(total) - 1)


@dataclass(frozen=True)
class Catalogue:
    """The items and, by week, what they cost and how likely they are to be viewed.

    The last week of ``price``, ``reach``, ``pull`` stands for every day after the log: list prices,
    no promotions.
    """

    category: Array  # [item] index into CATEGORIES
    name: list[str]
    brand: list[str | None]
    list_price: Array
    cost: Array
    stock: Array
    added: Array  # [item] day, negative before the log
    quality: Array
    popularity: Array
    repeat_days: Array  # [item] 0 where it is not used up
    price: Array  # [week, item]
    order: Array  # items sorted by category
    bounds: Array  # [category + 1] into ``order``
    reach: Array  # [week × item] increasing: week + cumulative share of views, in ``order``
    edges: Array  # [week, category + 1] where a category starts in ``reach``
    pull: (
        Array  # [week, category, elasticity] mean of (price / list price) ** -elasticity over views
    )
    mean_price: Array  # [category] mean list price over views, after the log

    @property
    def weeks(self) -> int:
        """Number of weeks of the log; also the index of the time after it."""
        return len(self.price) - 1

    def week(self, day: Array, days: int) -> Array:
        """Return the row of ``price`` for a day of the log or after it."""
        return np.where(day < days, day // 7, self.weeks)

    def draw(self, rng: np.random.Generator, week: Array, category: Array) -> Array:
        """Draw an item of a category by popularity, from what was on sale in that week."""
        low, high = self.edges[week, category], self.edges[week, category + 1]
        key = low + rng.random(len(week)) * (high - low)
        found = np.searchsorted(self.reach, key, "right") - week * len(self.order)
        return self.order[np.clip(found, self.bounds[category], self.bounds[category + 1] - 1)]


def draw_catalogue(seed: int, items: int, days: int, promotion: float) -> Catalogue:
    """Draw the items of a market; ``promotion`` is the share of item-weeks at a reduced price."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    kinds = min(items, len(CATEGORIES))
    category = np.arange(items) % kinds
    level = np.array([9.0, 70.0, 60.0, 15.0, 28.0, 20.0, 14.0, 12.0])[category]
    list_price = np.maximum(np.round(level * np.exp(0.45 * rng.standard_normal(items)), 2), 1.0)
    late = (rng.random(items) < 0.15) & (np.arange(items) >= kinds)
    added = np.where(late, rng.integers(0, days, items), -rng.integers(30, 900, items))
    popularity = (1.0 + rng.permutation(items)) ** -0.9
    consumable = np.isin(np.array(CATEGORIES)[category], CONSUMABLE)
    repeat_days = np.where(consumable, rng.integers(14, 61, items), 0)
    brand = rng.integers(0, len(BRANDS), items)
    nameless = rng.random(items) < 0.04
    weeks = -(-days // 7)
    depth = DEPTHS[rng.integers(0, len(DEPTHS), (weeks, items))]
    off = np.where(rng.random((weeks, items)) < promotion, depth, 0.0)
    reduced = np.ceil(list_price * (1 - off) * 100 - 1e-6) / 100
    price = np.vstack([np.where(off > 0, reduced, list_price), list_price])

    order = np.argsort(category, kind="stable")
    bounds = np.searchsorted(category[order], np.arange(kinds + 1))
    first_day = np.append(np.arange(weeks) * 7, days)
    weight = np.where(added[None, :] <= first_day[:, None], popularity, 0.0)[:, order]
    totals = np.add.reduceat(weight, bounds[:-1], axis=1)
    share = weight / totals[:, category[order]]
    cumulative = np.cumsum(share, axis=1) / (kinds + 1e-9)  # below 1, so that weeks do not overlap
    row = np.arange(weeks + 1)[:, None]
    edges = row + np.arange(kinds + 1)[None, :] / (kinds + 1e-9)
    relative = (price / list_price)[:, order]
    pull = np.stack(
        [np.add.reduceat(share * relative**-e, bounds[:-1], axis=1) for e in ELASTICITIES], axis=2
    )
    mean_price = np.add.reduceat(share[-1] * list_price[order], bounds[:-1])
    return Catalogue(
        category=category,
        name=[item_name(CATEGORIES[c], i, brand[i]) for i, c in enumerate(category)],
        brand=[None if nameless[i] else BRANDS[brand[i]] for i in range(items)],
        list_price=list_price,
        cost=np.round(list_price * rng.uniform(0.4, 0.75, items), 2),
        stock=rng.negative_binomial(2, 0.02, items),
        added=added,
        quality=rng.standard_normal(items) * 0.8,
        popularity=popularity,
        repeat_days=repeat_days,
        price=price,
        order=order,
        bounds=bounds,
        reach=(row + cumulative).ravel(),
        edges=edges,
        pull=pull,
        mean_price=mean_price,
    )


@dataclass(frozen=True)
class People:
    """The users of a block: what the shop knows of them, then what is true of them."""

    source: Array
    country: Array
    language: Array
    gender: Array
    age: Array
    signup: Array  # day, negative before the log
    consent: Array
    taste: Array  # [user, category]
    visit_rate: Array
    buy: Array
    level: Array  # index into ELASTICITIES
    segment: Array
    gain: Array  # a push multiplies the chance to buy by 1 + gain × fatigue × timing
    leave_risk: Array  # chance that a push makes the user leave
    leave_rate: Array
    leave_day: Array  # first day without the user
    best_hour: Array
    campaign: Array  # day of the user's first push decision
    staple: Array  # item, -1 for none
    staple_interval: Array
    staple_day: Array
    staple_buy: Array

    def take(self, rows: Array) -> People:
        """Return the people at ``rows``, repeated as often as they are named."""
        return People(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw_people(
    rng: np.random.Generator,
    n: int,
    catalogue: Catalogue,
    days: int,
    visits: float,
    lifetime: float,
    push_every: int,
) -> People:
    """Draw ``n`` users and their lives, as they would be without any push."""
    kinds = len(catalogue.bounds) - 1
    source = pick(rng, SOURCE_SHARE, n)
    country = pick(rng, COUNTRY_SHARE, n)
    language = (rng.random(n) < CHINESE_SHARE[country]).astype(np.int64)
    gender = (rng.random(n) < 0.45).astype(np.int64)
    age = np.clip(np.round(18 + rng.gamma(3.0, 6.5, n)), 18, 90).astype(np.int64)
    new = rng.random(n) < 0.5
    signup = np.where(new, rng.integers(0, days, n), -rng.integers(1, 731, n))

    like = np.ones((n, len(CATEGORIES)))
    like[:, CATEGORIES.index("beauty")] *= np.where(gender == 0, 2.5, 0.7)
    like[:, CATEGORIES.index("electronics")] *= np.where(gender == 1, 2.2, 0.8)
    like[:, CATEGORIES.index("toys")] *= np.where((age > 28) & (age < 45), 2.5, 0.6)
    taste = rng.gamma(0.6 * like[:, :kinds]) + 1e-9
    taste /= taste.sum(axis=1, keepdims=True)

    spread = np.exp(0.7 * rng.standard_normal(n) - 0.245)
    visit_rate = visits * SOURCE_VISITS[source] * rng.gamma(1.3, 1 / 1.3, n) * spread
    level = pick(rng, np.exp(-0.5 * ((ELASTICITIES - 1.5) / 0.5) ** 2), n)
    elasticity = ELASTICITIES[level]
    cap = 0.95 / ((1 - DEPTHS.max()) ** -elasticity * (1 + MAX_GAIN * (1 + TIMING)))
    buy = np.minimum(rng.gamma(2.0, 0.03, n), cap)

    lean = np.log((buy + 0.01) / 0.06)
    utility = np.stack(
        [
            0.6 + 0.9 * (elasticity - 1.5) + 0.5 * (source == 3),
            -0.3 + 1.0 * lean + 0.5 * np.log(visit_rate / visits),
            0.1 - 1.2 * lean,
            -0.6 + 0.05 * (age - 38) + 0.7 * (source == 1),
        ],
        axis=1,
    )
    segment = np.argmax(utility + rng.gumbel(size=(n, 4)), axis=1)
    buy = np.where(segment == LOST_CAUSE, buy * 0.5, buy)
    raw = rng.random(n)
    gain = np.choose(segment, [0.7 + 0.9 * raw, 0.06 * raw, 0.0 * raw, -0.4 - 0.3 * raw])

    leave_rate = 1 - np.exp(-rng.gamma(1.5, 1 / (1.5 * lifetime), n))
    leave_rate = np.clip(leave_rate, 1e-5, 0.5)
    birth = np.maximum(signup, 0)
    life = np.ceil(np.log1p(-rng.random(n)) / np.log1p(-leave_rate)).astype(np.int64)

    staple, interval = np.full(n, -1), np.full(n, 14)
    owns = rng.random(n) < 0.25
    choice = pick(rng, catalogue.popularity * (catalogue.repeat_days > 0) + 1e-300, n)
    owns &= (catalogue.repeat_days[choice] > 0) & (catalogue.added[choice] < 0)
    staple = np.where(owns, choice, staple)
    pace = np.round(catalogue.repeat_days[choice] * rng.uniform(0.8, 1.6, n)).astype(np.int64)
    interval = np.where(owns, np.maximum(pace, 14), interval)
    return People(
        source=source,
        country=country,
        language=language,
        gender=gender,
        age=age,
        signup=signup,
        consent=rng.random(n) < np.where(source == 3, 0.85, 0.55),
        taste=taste,
        visit_rate=visit_rate,
        buy=buy,
        level=level,
        segment=segment,
        gain=gain,
        leave_risk=np.where(segment == DO_NOT_DISTURB, 0.08, 0.0),
        leave_rate=leave_rate,
        leave_day=birth + np.maximum(life, 1),
        best_hour=(19 + np.round(4 * rng.standard_normal(n)).astype(np.int64)) % 24,
        campaign=rng.integers(0, push_every, n),
        staple=staple,
        staple_interval=interval,
        staple_day=rng.integers(0, interval),
        staple_buy=np.where(owns, rng.uniform(0.3, 0.8, n), 0.0),
    )


def staple_chance(day: Array, first: Array, interval: Array) -> Array:
    """Return the chance that the staple is needed on a day: 1/5 on the five around a due day."""
    return np.where((day - first + JITTER) % interval <= 2 * JITTER, 1 / (2 * JITTER + 1), 0.0)


def bought_within_week(
    people: People,
    day: Array,
    hour: Array,
    lift: Array,
    catalogue: Catalogue,
    days: int,
    start: date,
) -> Array:
    """Return the exact probability of a purchase in the seven days from an hour of a day.

    ``people`` are alive on ``day``; ``lift`` multiplies their chance to buy at a view. With a
    geometric number of views, a visit in which each view sells with probability ``p`` sells
    something with ``p / (s + (1 - s) p)``, ``s`` being the chance to stop after a view; visits are
    Poisson, the last day is geometric, and a window of a week meets at most one due day of the
    staple.
    """
    before = HOURS_BEFORE[people.best_hour, hour]
    owned = np.maximum(people.staple, 0)
    ordinary, staple = np.zeros(len(day)), np.zeros(len(day))
    none, reached = np.zeros(len(day)), np.ones(len(day))
    for ahead in range(PUSH_DAYS + 1):
        part = 1 - before if ahead == 0 else before if ahead == PUSH_DAYS else 1.0
        now = day + ahead
        week = catalogue.week(now, days)
        sold = (people.buy * lift)[:, None] * catalogue.pull[week, :, people.level]
        visit = (people.taste * sold / (STOP_VIEWING + (1 - STOP_VIEWING) * sold)).sum(axis=1)
        ordinary = ordinary + people.visit_rate * season(now, start) * part * visit
        relative = catalogue.price[week, owned] / catalogue.list_price[owned]
        wanted = np.minimum(1, people.staple_buy * relative ** -ELASTICITIES[people.level])
        due = staple_chance(now, people.staple_day, people.staple_interval)
        staple = staple + part * due * wanted
        ends = 1.0 if ahead == PUSH_DAYS else people.leave_rate
        none = none + reached * ends * np.exp(-ordinary) * (1 - staple)
        reached = reached * (1 - people.leave_rate)
    return 1 - none
