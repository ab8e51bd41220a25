"""How the simulated market turns people and pushes into rows of a log, and spoils some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from propend.events import market_world as world
from propend.events.market_world import Array, People
from propend.names import (
    CHANNEL,
    DAY,
    ITEM,
    MICROSECONDS,
    PRICE,
    QUANTITY,
    SESSION,
    TEXT,
    TIME,
    TYPE,
    USER,
    VALUE,
)

if TYPE_CHECKING:
    from propend.events.market import Market

TYPES: Final = ("view", "search", "cart", "purchase", "return", "review", "push", "open")
VIEW, SEARCH, CART, PURCHASE, RETURN, REVIEW, PUSH, OPEN = range(8)
LEAVES_AFTER: Final = world.PUSH_DAYS + 1
"""Days after a push until a user whom it drove away is missing: past the week in which it acts."""
CLOCK: Final = pa.timestamp("us", tz="UTC")
EVENTS: Final = pa.schema(
    [
        ("event_id", pa.string()),
        (USER, pa.string()),
        (TIME, CLOCK),
        (TYPE, pa.string()),
        (ITEM, pa.string()),
        (PRICE, pa.float64()),
        (QUANTITY, pa.int32()),
        (VALUE, pa.float64()),
        (SESSION, pa.string()),
        (CHANNEL, pa.string()),
        (TEXT, pa.string()),
    ]
)
"""Columns of the log."""
DIRT: Final = {
    "duplicate_rows": 0.4,
    "duplicate_ids": 0.2,
    "missing_user": 0.2,
    "negative_price": 0.1,
    "future_time": 0.1,
}
"""How the spoilt rows are shared among the kinds of dirt."""
BOT_EVENTS, TEST_EVENTS = 1_440, 20
BOT, TEST = "bot-1", "test"


def labels(prefix: str, numbers: Array, width: int, base: int = 10) -> pa.Array:
    """Return ``prefix`` and each number in ``width`` digits, as an Arrow string array.

    >>> labels("u", np.array([7, 123]), 4).to_pylist()
    ['u0007', 'u0123']
    """
    signs = np.frombuffer(b"0123456789abcdef", np.uint8)
    n, lead = len(numbers), len(prefix)
    out = np.empty((n, lead + width), np.uint8)
    out[:, :lead] = np.frombuffer(prefix.encode(), np.uint8)
    rest = np.asarray(numbers, np.int64)
    for place in range(width):
        rest, digit = np.divmod(rest, base)
        out[:, lead + width - 1 - place] = signs[digit]
    ends = np.arange(n + 1, dtype=np.int32) * np.int32(lead + width)
    return pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(out))


def words(vocabulary: Sequence[str | None], codes: Array, missing: Array | None = None) -> pa.Array:
    """Return the words of ``codes``, null where ``missing``."""
    return pa.array(vocabulary, pa.string()).take(pa.array(codes, mask=missing))


def dates(start: date, days: Array, missing: Array | None = None) -> pa.Array:
    """Return the dates of days counted from ``start``, null where ``missing``."""
    epoch = (start - date(1970, 1, 1)).days
    return pa.array((days + epoch).astype(np.int32), mask=missing).cast(pa.date32())


@dataclass(frozen=True)
class Pushes:
    """The push decisions of a block, sent or withheld."""

    who: Array
    day: Array
    hour: Array
    propensity: Array
    sent: Array
    lift: Array  # what a push does, or would have done, to the chance to buy
    leaves: Array  # it drives the user away
    lift_at: Array  # [user, campaign] lift, 1 where nothing was sent
    hour_at: Array  # [user, campaign] hours from the start of the log


def draw_pushes(rng: np.random.Generator, people: People, market: Market) -> Pushes:
    """Decide every push by a coin of known bias, at an hour between 8 and 21."""
    n, every = len(people.source), market.push_every
    shape = (n, -(-market.days // every))
    day = people.campaign[:, None] + every * np.arange(shape[1])[None, :]
    valid = people.consent[:, None] & (day > people.signup[:, None])
    valid &= day + LEAVES_AFTER < market.days
    hour = rng.integers(8, 22, shape)
    chance = np.broadcast_to((market.push_rate * world.SOURCE_PUSH[people.source])[:, None], shape)
    sent = valid & (rng.random(shape) < chance)
    before = np.concatenate([np.zeros((n, 1), int), np.cumsum(sent, axis=1)], axis=1)
    campaign = np.arange(shape[1])
    recent = before[:, campaign] - before[:, np.maximum(campaign - world.FATIGUE_DAYS // every, 0)]
    clock = world.timing(hour, people.best_hour[:, None])
    lift = 1 + people.gain[:, None] * np.exp(-world.FATIGUE * recent) * clock
    leaves = sent & (rng.random(shape) < people.leave_risk[:, None])
    return Pushes(
        who=np.nonzero(valid)[0],
        day=day[valid],
        hour=hour[valid],
        propensity=chance[valid],
        sent=sent[valid],
        lift=lift[valid],
        leaves=leaves[valid],
        lift_at=np.where(sent, lift, 1.0),
        hour_at=day * 24 + hour,
    )


@dataclass
class Log:
    """Rows of a log as columns of codes; -1 and NaN stand for null."""

    id: Array
    owner: Array
    time: Array
    type: Array
    item: Array
    price: Array
    quantity: Array
    value: Array
    session: Array
    channel: Array
    text: Array

    @classmethod
    def of(cls, kind: int, owner: Array, time: Array, **columns: Array) -> Log:
        """Make rows of one event type; columns that are not named are null."""
        n = len(owner)
        null: dict[str, Array] = {f.name: np.full(n, -1, np.int64) for f in fields(cls)}
        null |= {"price": np.full(n, np.nan), "value": np.full(n, np.nan)}
        null |= {"owner": owner, "time": time, "type": np.full(n, kind)}
        return cls(**(null | columns))

    @classmethod
    def join(cls, parts: Sequence[Log]) -> Log:
        """Put rows one after another."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )

    def take(self, rows: Array) -> Log:
        """Return some of the rows, copied."""
        return Log(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def table(self, market: Market, n: int, first: int) -> pa.Table:
        """Return the log as Arrow; ``first`` is the number of the first of its ``n`` users."""
        people = labels("u", first + np.arange(n), 7).to_pylist()
        sku = pa.array(self.item, mask=self.item < 0)
        inside = self.session >= 0
        visits = labels("s", np.where(inside, self.session, 0), 14)
        columns = [
            labels("e", self.id, 12, 16),
            words([*people, BOT, TEST], self.owner, self.owner < 0),
            pa.array(self.time).cast(CLOCK),
            words(TYPES, self.type),
            market.skus.take(sku),
            pa.array(self.price, mask=np.isnan(self.price)),
            pa.array(self.quantity.astype(np.int32), mask=self.quantity < 0),
            pa.array(self.value, mask=np.isnan(self.value)),
            visits.take(pa.array(np.arange(len(inside)), mask=~inside)),
            words(world.SOURCES, self.channel, self.channel < 0),
            market.texts[0].take(pa.array(self.text, mask=self.text < 0)),
        ]
        return pa.Table.from_arrays(columns, schema=EVENTS)


@dataclass(frozen=True)
class _Visits:
    """Visits of a block, ordered by user and time."""

    owner: Array
    day: Array
    hour: Array
    staple: Array  # whether the user came for the staple
    time: Array
    number: Array  # the user's first, second, … visit


def _draw_visits(rng: np.random.Generator, people: People, market: Market) -> _Visits:
    """Draw ordinary visits (Poisson), the first visit of newcomers and the visits for staples."""
    n = len(people.source)
    birth, gone = np.maximum(people.signup, 0), np.minimum(people.leave_day, market.days)
    total = market.season_sum
    low, high = total[birth], total[gone]
    owner = np.repeat(np.arange(n), rng.poisson(people.visit_rate * (high - low)))
    at = low[owner] + rng.random(len(owner)) * (high - low)[owner]
    day = np.clip(np.searchsorted(total, at, "right") - 1, birth[owner], gone[owner] - 1)
    newcomers = np.flatnonzero(people.signup >= 0)

    owners = np.flatnonzero(people.staple >= 0)
    count = (market.days + world.JITTER) // people.staple_interval[owners] + 2
    needs = np.repeat(owners, count)
    nth = np.arange(len(needs)) - np.repeat(np.cumsum(count) - count, count) - 1
    due = people.staple_day[needs] + nth * people.staple_interval[needs]
    due = due + rng.integers(-world.JITTER, world.JITTER + 1, len(needs))
    lives = (due >= birth[needs]) & (due < gone[needs])
    needs, due = needs[lives], due[lives]

    owner = np.concatenate([owner, newcomers, needs])
    day = np.concatenate([day, birth[newcomers], due])
    staple = np.arange(len(owner)) >= len(owner) - len(needs)
    share = world.HOURS_BEFORE[people.best_hour[owner]]
    hour = np.minimum((rng.random(len(owner))[:, None] >= share[:, 1:]).sum(axis=1), 23)
    time = market.clock[day, hour] + (rng.random(len(owner)) * 3_000 * MICROSECONDS).astype(int)
    order = np.lexsort((time, owner))
    owner = owner[order]
    number = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return _Visits(owner, day[order], hour[order], staple[order], time[order], number)


def _lift(visits: _Visits, people: People, pushes: Pushes, every: int) -> Array:
    """Return what pushes of the seven days before do to the chance to buy in each visit."""
    lift = np.ones(len(visits.owner))
    campaigns = pushes.lift_at.shape[1]
    latest = (visits.day - people.campaign[visits.owner]) // every
    for nth in (latest, latest - 1):
        rows = np.flatnonzero((nth >= 0) & (nth < campaigns))
        owner, which = visits.owner[rows], nth[rows]
        since = visits.day[rows] * 24 + visits.hour[rows] - pushes.hour_at[owner, which]
        acts = (since >= 0) & (since < 24 * world.PUSH_DAYS)
        lift[rows] = np.where(acts, pushes.lift_at[owner, which], lift[rows])
    return lift


def draw_log(
    rng: np.random.Generator, people: People, pushes: Pushes, first: int, market: Market
) -> Log:
    """Simulate the visits of a block and everything that follows from them, in time order."""
    goods = market.catalogue
    visits = _draw_visits(rng, people, market)
    v = len(visits.owner)
    draws = rng.random(v)[:, None] > np.cumsum(people.taste, axis=1)[visits.owner]
    category = np.minimum(draws.sum(axis=1), people.taste.shape[1] - 1)
    source = people.source[visits.owner]
    channel = np.where(rng.random(v) < 0.6, source, rng.integers(0, len(world.SOURCES), v))
    session = (first + visits.owner) * 10**7 + visits.number
    searches = (rng.random(v) < 0.3) & ~visits.staple

    # One row per view.
    depth = np.where(visits.staple, 1, rng.geometric(world.STOP_VIEWING, v))
    at = np.repeat(np.arange(v), depth)
    who, week = visits.owner[at], visits.day[at] // 7
    staple = visits.staple[at]
    item = np.where(staple, people.staple[who], goods.draw(rng, week, category[at]))
    price = goods.price[week, item]
    pull = (price / goods.list_price[item]) ** -world.ELASTICITIES[people.level[who]]
    lift = _lift(visits, people, pushes, market.push_every)
    chance = pull * np.where(staple, people.staple_buy[who], people.buy[who] * lift[at])
    bought = rng.random(len(at)) < chance
    carted = bought | (rng.random(len(at)) < 0.06)
    quantity = 1 + world.pick(rng, world.QUANTITIES, len(at))

    # Seconds into the visit, squeezed so that a visit ends in the hour in which it began.
    pause = 4 + rng.exponential(40, len(at))
    ends = np.cumsum(pause)
    starts = np.cumsum(depth) - depth
    seconds = ends - (ends - pause)[starts[at]]
    length = np.maximum.reduceat(seconds, starts) if v else seconds
    seconds = seconds * np.minimum(1, 500 / length)[at]
    when = visits.time[at] + (seconds * MICROSECONDS).astype(int)

    def rows(kind: int, mask: Array, delay: int, **more: Array) -> Log:
        held = {"item": item, "price": price, "session": session[at], "channel": channel[at]}
        shown = {name: column[mask] for name, column in (held | more).items()}
        return Log.of(kind, who[mask], when[mask] + delay, **shown)

    every = np.ones(len(at), bool)
    value = np.round(price * quantity, 2)
    parts = [
        rows(VIEW, every, 0),
        rows(CART, carted, MICROSECONDS, quantity=quantity),
        rows(PURCHASE, bought, 2 * MICROSECONDS, quantity=quantity, value=value),
        _searches(rng, people, visits, searches, category, session, channel, market),
        *_afterwards(rng, people, rows(PURCHASE, bought, 0, quantity=quantity), first, market),
        *_push_rows(rng, people, pushes, market),
    ]
    log = Log.join(parts)
    log = log.take(np.lexsort((log.type, log.owner, log.time)))
    log.id = _ids(first, 0, len(log.owner))
    return log


def _ids(first: int, after: int, count: int) -> Array:
    """Return unique ids that tell nothing: an odd factor modulo 2**48 mixes without collisions."""
    number = np.uint64((first << 24) + after) + np.arange(count, dtype=np.uint64)
    return ((number * np.uint64(0x9E3779B97F4A7C15)) & np.uint64(2**48 - 1)).astype(np.int64)


def _searches(
    rng: np.random.Generator,
    people: People,
    visits: _Visits,
    mask: Array,
    category: Array,
    session: Array,
    channel: Array,
    market: Market,
) -> Log:
    """Some visits begin with a query in the user's language."""
    owner = visits.owner[mask]
    start, size = market.texts[1][:, category[mask], people.language[owner]]
    text = start + (rng.random(len(owner)) ** 1.5 * size).astype(int)
    held = {"session": session[mask], "channel": channel[mask], "text": text}
    return Log.of(SEARCH, owner, visits.time[mask], **held)


def _afterwards(
    rng: np.random.Generator, people: People, sold: Log, first: int, market: Market
) -> list[Log]:
    """Returns and reviews, as content as the buyer is with the item."""
    n, end = len(sold.owner), market.clock[-1, 0]
    content = market.satisfaction(first + sold.owner, sold.item)
    back_at = sold.time + (rng.uniform(3, 20, n) * DAY).astype(int)
    back = (rng.random(n) < 0.25 / (1 + np.exp(1.0 + 1.5 * content))) & (back_at < end)
    told_at = sold.time + (rng.uniform(2, 14, n) * DAY).astype(int)
    told = (rng.random(n) < 0.2 + 0.05 * np.abs(content)) & (told_at < end)

    rating = ratings(content[told])
    category = market.catalogue.category[sold.item[told]]
    start, size = market.texts[2][:, category, people.language[sold.owner[told]], rating - 1]
    text = start + (rng.random(len(rating)) * size).astype(int)
    refund = {"item": sold.item[back], "price": sold.price[back], "quantity": sold.quantity[back]}
    return [
        Log.of(RETURN, sold.owner[back], back_at[back], **refund),
        Log.of(REVIEW, sold.owner[told], told_at[told], item=sold.item[told], text=text),
    ]


def ratings(content: Array) -> Array:
    """Return the stars (1 to 5) that a review of a given satisfaction speaks of."""
    return np.clip(np.round(3.4 + 1.1 * content), 1, 5).astype(int)


def _push_rows(
    rng: np.random.Generator, people: People, pushes: Pushes, market: Market
) -> list[Log]:
    """Pushes sent, and opened by those who are still there."""
    who, day = pushes.who[pushes.sent], pushes.day[pushes.sent]
    time = market.clock[day, pushes.hour[pushes.sent]]
    app = np.full(len(who), world.SOURCES.index("app"))
    opened = rng.random(len(who)) < np.array([0.35, 0.3, 0.06, 0.12])[people.segment[who]]
    opened &= people.leave_day[who] > day
    later = time + ((30 + rng.exponential(2_400, len(who))) * MICROSECONDS).astype(int)
    opened &= later < market.clock[-1, 0]
    return [
        Log.of(PUSH, who, time, channel=app),
        Log.of(OPEN, who[opened], later[opened], channel=app[opened]),
    ]


def spoil(
    rng: np.random.Generator, log: Log, people: int, first: int, market: Market
) -> tuple[Log, dict[str, int]]:
    """Return the log with dirt, and how many rows of each kind it holds; no row is spoilt twice.

    The first block also gets a bot (a view every minute for a day) and a user called test.
    """
    n = len(log.owner)
    share = {kind: market.dirt * part for kind, part in DIRT.items()}
    free = rng.permutation(n)
    has_price = ~np.isnan(log.price)
    counts: dict[str, int] = {}
    chosen: dict[str, Array] = {}
    for kind, part in share.items():
        able = free[has_price[free]] if kind == "negative_price" else free
        chosen[kind] = able[: int(part * n + rng.random())]
        free = free[~np.isin(free, chosen[kind])]
        counts[kind] = len(chosen[kind])
    log = log.take(np.arange(n))
    log.owner[chosen["missing_user"]] = -1
    rows = chosen["negative_price"]
    log.price[rows], log.value[rows] = -log.price[rows], -log.value[rows]
    log.time[chosen["future_time"]] += 7_305 * DAY
    # An id is borrowed from a row that keeps its own.
    lenders = free[: len(chosen["duplicate_ids"])]
    borrowers = chosen["duplicate_ids"][: len(lenders)]
    log.id[borrowers] = log.id[lenders]
    counts["duplicate_ids"] = len(borrowers)
    parts = [log, log.take(chosen["duplicate_rows"])]
    counts |= {"bot_events": 0, "test_events": 0}
    if first == 0:
        bot = _stranger(rng, people, BOT_EVENTS, market, 60 * MICROSECONDS)
        test = _stranger(rng, people + 1, TEST_EVENTS, market, 7 * MICROSECONDS)
        bot.id, test.id = _ids(0, n, BOT_EVENTS), _ids(0, n + BOT_EVENTS, TEST_EVENTS)
        parts += [bot, test]
        counts |= {"bot_events": BOT_EVENTS, "test_events": TEST_EVENTS}
    return Log.join(parts), counts


def _stranger(rng: np.random.Generator, owner: int, events: int, market: Market, gap: int) -> Log:
    """Views at exactly even steps."""
    day = int(rng.integers(0, market.days))
    item = rng.integers(0, market.items, events)
    return Log.of(
        VIEW,
        np.full(events, owner),
        market.clock[day, 0] + gap * np.arange(events),
        item=item,
        price=market.catalogue.price[day // 7, item],
    )
