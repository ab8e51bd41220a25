"""A simulated shop with known causal truth: its log, what lies behind it, what might have been."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from propend.errors import ConfigError
from propend.events import market_truth
from propend.events import market_world as world
from propend.events.market_log import (
    DIRT,
    EVENTS,
    LEAVES_AFTER,
    TYPES,
    dates,
    draw_log,
    draw_pushes,
    labels,
    spoil,
    words,
)
from propend.events.market_text import LANGUAGES, RATINGS, review_pool, search_pool
from propend.events.market_world import Array, Catalogue, People
from propend.names import ITEM, MICROSECONDS, PRICE, TYPE, USER

__all__ = ["EVENTS", "TYPES", "Block", "Market", "MarketFiles"]

SCHEMA_VERSION: Final = 1
BLOCK: Final = 2_000
"""Users drawn together from one seed; how blocks are batched into files changes nothing in them."""


@dataclass(frozen=True)
class Block:
    """One block of users: their events, what the shop knows of them, and the truth."""

    events: pa.Table
    users: pa.Table
    truth: pa.Table
    pushes: pa.Table
    dirt: dict[str, int]


@dataclass(frozen=True)
class MarketFiles:
    """What ``Market.write`` left in a folder."""

    folder: Path
    events: tuple[Path, ...]
    items: Path
    users: Path
    promotions: Path
    truth_users: Path
    truth_pushes: Path
    truth_items: Path
    market: Path
    rows: int
    dirt: dict[str, int]


@dataclass(frozen=True)
class Market:
    """A simulated shop, the same for the same arguments however it is written.

    Parameters
    ----------
    users, days, items: size; memory does not grow with ``users``.
    seed: of every draw.
    start: first day of the log, in ``zone``, by whose hours people live; times are written in UTC.
    visits: mean number of ordinary visits of a user per day, before seasons.
    lifetime: about how many days a user stays; it differs between users.
    promotion: share of item-weeks at 10, 20 or 30 % off.
    push_rate: mean chance of a push at a decision; the known chance differs by the user's source.
    push_every: days between two push decisions about one user, 9 at least.
    dirt: share of rows to be spoilt, 0 for a clean log.

    Raises
    ------
    ConfigError: an argument is out of its range.

    Notes
    -----
    ``market_world`` states the model. Stated expectations are exact, but for weeks in which the
    zone changes its clocks: there a day of the model is an hour longer or shorter than 24 hours.

    >>> market = Market(users=50, days=60, items=20, dirt=0)
    >>> block = next(market.blocks())
    >>> block.events.column_names[:4], block.users.num_rows
    (['event_id', 'user', 'time', 'type'], 50)
    """

    users: int = 2_000
    days: int = 365
    items: int = 200
    seed: int = 7
    start: date = date(2025, 1, 1)
    zone: str = "UTC"
    visits: float = 0.05
    lifetime: float = 200.0
    promotion: float = 0.12
    push_rate: float = 0.3
    push_every: int = 14
    dirt: float = 0.01

    def __post_init__(self) -> None:
        """Check the arguments."""
        ranges: dict[str, tuple[float, float]] = {
            "users": (1, 10_000_000),
            "days": (1, 3_650),
            "items": (1, 200_000),
            "seed": (0, 2**63 - 1),
            "visits": (1e-6, 10),
            "lifetime": (1, 1_000_000),
            "promotion": (0, 1),
            "push_rate": (0, 0.6),
            "push_every": (9, 3_650),
            "dirt": (0, 0.5),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            whole = Market.__dataclass_fields__[name].type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"market: {name} must be {kind}, not {value!r}")
            if not low <= value <= high:
                raise ConfigError(
                    f"market: {name} must be between {low:,} and {high:,}, not {value!r}"
                )
        if isinstance(self.start, datetime) or not isinstance(self.start, date):
            raise ConfigError(f"market: start must be a date, not {self.start!r}")
        if not 1970 <= self.start.year <= 2200:
            raise ConfigError(f"market: start must be from 1970 to 2200, not {self.start}")
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, TypeError, OSError):
            raise ConfigError(
                f"market: zone {self.zone!r} is not known; use an IANA name such as 'Asia/Shanghai'"
            ) from None

    # What is fixed once for all blocks.

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items, their prices and their pull."""
        return world.draw_catalogue(self.seed, self.items, self.days, self.promotion)

    @cached_property
    def clock(self) -> Array:
        """UTC microseconds of each local hour from ``start`` to the end of the log, [day, hour]."""
        zone = ZoneInfo(self.zone)
        rows = []
        for day in range(self.days + 1):
            midnight = datetime.combine(self.start + timedelta(days=day), time(), zone)
            rows.append([int(midnight.replace(hour=h).timestamp()) for h in range(24)])
        return np.array(rows) * MICROSECONDS

    @cached_property
    def season_sum(self) -> Array:
        """Sum of the season's factors before each day."""
        return np.append(0.0, np.cumsum(world.season(np.arange(self.days), self.start)))

    @cached_property
    def texts(self) -> tuple[pa.Array, Array, Array]:
        """All texts; [start or size, category, language] of searches and […, rating] of reviews."""
        pool: list[str] = []
        kinds = len(self.catalogue.bounds) - 1
        searches = np.zeros((2, kinds, 2), np.int64)
        reviews = np.zeros((2, kinds, 2, len(RATINGS)), np.int64)
        for c in range(kinds):
            for k, language in enumerate(LANGUAGES):
                more = search_pool(world.CATEGORIES[c], language)
                searches[:, c, k] = len(pool), len(more)
                pool += more
                for r, rating in enumerate(RATINGS):
                    more = review_pool(world.CATEGORIES[c], language, rating)
                    reviews[:, c, k, r] = len(pool), len(more)
                    pool += more
        return pa.array(pool), searches, reviews

    @cached_property
    def skus(self) -> pa.Array:
        """The code of each item."""
        return labels("i", np.arange(self.items), 6)

    def satisfaction(self, users: Array, items: Array) -> Array:
        """Return how content each user (by number) is with each item.

        It is the item's quality plus a personal part. A review speaks of
        ``clip(round(3.4 + 1.1 × satisfaction), 1, 5)`` stars; returns fall with satisfaction.

        >>> bool(abs(Market().satisfaction(np.arange(9), np.arange(9))).max() < 5)
        True
        """
        from scipy.special import ndtri

        mixed = np.asarray(users, np.uint64) << np.uint64(24)
        mixed = (mixed ^ np.asarray(items, np.uint64)) + np.uint64(self.seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(12)).astype(float) + 0.5
        return self.catalogue.quality[items] + 0.6 * ndtri(uniform / 2**52)

    # The log, block by block.

    def blocks(self) -> Iterator[Block]:
        """Yield the market block by block of 2,000 users; each has its own seed."""
        for number in range(-(-self.users // BLOCK)):
            yield self.block(number)

    def block(self, number: int) -> Block:
        """Simulate one block of users."""
        n = min(BLOCK, self.users - number * BLOCK)
        if n < 1 or number < 0:
            raise ConfigError(f"market: there is no block {number} among {self.users:,} users")
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 1, number]))
        people = world.draw_people(
            rng, n, self.catalogue, self.days, self.visits, self.lifetime, self.push_every
        )
        pushes = draw_pushes(rng, people, self)
        # Some pushes end the life that was drawn without them.
        np.minimum.at(
            people.leave_day, pushes.who[pushes.leaves], pushes.day[pushes.leaves] + LEAVES_AFTER
        )
        log = draw_log(rng, people, pushes, number * BLOCK, self)
        truth = market_truth.users_table(self, people, pushes, number * BLOCK)
        decisions = market_truth.pushes_table(self, people, pushes, log, number * BLOCK)
        known = self._known(rng, people, number)
        dirt: dict[str, int] = {}
        if self.dirt:
            own = np.random.default_rng(np.random.SeedSequence([self.seed, 2, number]))
            log, dirt = spoil(own, log, n, number * BLOCK, self)
        return Block(log.table(self, n, number * BLOCK), known, truth, decisions, dirt)

    def _known(self, rng: np.random.Generator, people: People, number: int) -> pa.Table:
        """The user table of the shop, with gaps."""
        n = len(people.source)
        gap = rng.random((4, n)) < np.array([[0.03], [0.15], [0.2], [0.05]])
        return pa.table(
            {
                USER: labels("u", number * BLOCK + np.arange(n), 7),
                "country": words(world.COUNTRIES, people.country, gap[0]),
                "language": words(LANGUAGES, people.language),
                "gender": words(("female", "male"), people.gender, gap[1]),
                "age": pa.array(people.age.astype(np.int32), mask=gap[2]),
                "signup": dates(self.start, people.signup),
                "push_consent": people.consent,
                "source": words(world.SOURCES, people.source, gap[3]),
            }
        )

    # What would have happened otherwise.

    def expect(
        self,
        users_truth: pa.Table,
        pushed: Array | None = None,
        price_multiplier: Array | float = 1.0,
        days: int = 30,
    ) -> tuple[Array, Array]:
        """Return each user's exact expected purchases and value in the ``days`` days after the log.

        ``users_truth`` is (some rows of) ``truth/users.parquet``. ``pushed`` says who gets one push
        as the log ends, at an average hour; without consent nobody does. ``price_multiplier`` is
        the user's price of everything over its list price. Nobody else acts: there are no other
        pushes and no promotions.

        >>> market = Market(users=20, days=90, items=10)
        >>> truth = next(market.blocks()).truth
        >>> purchases, value = market.expect(truth, days=30)
        >>> bool(np.allclose(purchases, truth["purchases_30d"]))
        True
        """
        return market_truth.expect(self, users_truth, pushed, price_multiplier, days)

    def respond(
        self,
        users_truth: pa.Table,
        pushed: Array | None = None,
        price_multiplier: Array | float = 1.0,
        days: int = 30,
        seed: int = 0,
    ) -> tuple[Array, Array]:
        """Simulate each user's purchases and value in the ``days`` days after the log.

        The arguments are those of ``expect``, whose result is the mean of this one. Calls with the
        same users, days and seed share all random numbers: visits, lives and thresholds are drawn
        before the action is looked at, so that the difference of two calls is the effect of the
        action alone.

        >>> market = Market(users=20, days=90, items=10)
        >>> truth = next(market.blocks()).truth
        >>> dear, cheap = (market.respond(truth, price_multiplier=m)[0] for m in (1.2, 0.8))
        >>> bool((dear <= cheap).all())
        True
        """
        return market_truth.respond(self, users_truth, pushed, price_multiplier, days, seed)

    # Files.

    def write(
        self,
        folder: Path | str,
        progress: Callable[[int, int], None] | None = None,
        format: Literal["parquet", "csv"] = "parquet",
        part_users: int = 100_000,
    ) -> MarketFiles:
        """Write the market into a folder, block by block.

        The log goes to ``events.parquet`` (or ``.csv``), in several ``events-0000.parquet``, … of
        ``part_users`` users (in whole blocks) when there are more; beside it are ``users``,
        ``items`` and ``promotions`` (Parquet), and under ``truth/`` what a shop cannot know:
        ``users``, ``pushes`` (every decision, sent or not), ``items`` and ``market.json``.
        ``progress`` is told the users done and the users in all.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = Market(users=30, days=30, items=9).write(folder)
        ...     pq.read_schema(files.events[0]).equals(EVENTS)
        True
        """
        if format not in ("parquet", "csv"):
            raise ConfigError(f"market: format must be 'parquet' or 'csv', not {format!r}")
        if part_users < 1:
            raise ConfigError(f"market: part_users must be at least 1, not {part_users!r}")
        root = Path(folder)
        (root / "truth").mkdir(parents=True, exist_ok=True)
        blocks, each = -(-self.users // BLOCK), -(-part_users // BLOCK)
        several = blocks > each
        names = [
            root / (f"events-{part:04d}.{format}" if several else f"events.{format}")
            for part in range(-(-blocks // each))
        ]
        stale = {p for kind in ("parquet", "csv") for p in root.glob(f"events*.{kind}")}
        if stale - set(names):
            raise ConfigError(
                f"market: {root} already holds {min(stale - set(names)).name} of another log; "
                "choose an empty folder"
            )
        sides = [
            root / "users.parquet",
            root / "truth/users.parquet",
            root / "truth/pushes.parquet",
        ]
        counts: dict[str, int] = dict.fromkeys(TYPES, 0)
        dirt: dict[str, int] = dict.fromkeys([*DIRT, "bot_events", "test_events"], 0)
        with ExitStack() as stack:
            log: Any = None
            writers: list[Any] = []
            for number in range(blocks):
                block = self.block(number)
                tables = (block.users, block.truth, block.pushes)
                if number % each == 0:
                    if log is not None:
                        log.close()
                    log = stack.enter_context(_writer(names[number // each], block.events.schema))
                if not writers:
                    writers = [
                        stack.enter_context(_writer(path, table.schema))
                        for path, table in zip(sides, tables, strict=True)
                    ]
                log.write_table(block.events)
                for writer, table in zip(writers, tables, strict=True):
                    writer.write_table(table)
                for kind in block.events[TYPE].value_counts().to_pylist():
                    counts[kind["values"]] += kind["counts"]
                for name, count in block.dirt.items():
                    dirt[name] += count
                if progress is not None:
                    progress(min((number + 1) * BLOCK, self.users), self.users)
        shop = self._shop()
        for path, table in shop.items():
            pq.write_table(table, root / path)
        rows = sum(counts.values())
        about = self.describe() | {"rows": rows, "events": counts, "dirt": dirt}
        market = root / "truth/market.json"
        market.write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
        return MarketFiles(
            folder=root,
            events=tuple(names),
            items=root / "items.parquet",
            users=sides[0],
            promotions=root / "promotions.parquet",
            truth_users=sides[1],
            truth_pushes=sides[2],
            truth_items=root / "truth/items.parquet",
            market=market,
            rows=rows,
            dirt=dirt,
        )

    def _shop(self) -> dict[str, pa.Table]:
        """The tables about items, by file."""
        goods = self.catalogue
        items = {
            ITEM: self.skus,
            "name": goods.name,
            "category": words(world.CATEGORIES, goods.category),
            "brand": pa.array(goods.brand, pa.string()),
            PRICE: goods.list_price,
            "cost": goods.cost,
            "stock": goods.stock,
            "added": dates(self.start, goods.added),
        }
        truth = {
            ITEM: self.skus,
            "popularity": goods.popularity,
            "quality": goods.quality,
            "repeat_days": pa.array(goods.repeat_days, mask=goods.repeat_days == 0),
        }
        week, item = np.nonzero(goods.price[:-1] < goods.list_price)
        promotions = {
            ITEM: self.skus.take(pa.array(item)),
            "first": dates(self.start, week * 7),
            "last": dates(self.start, np.minimum(week * 7 + 6, self.days - 1)),
            PRICE: goods.price[week, item],
        }
        return {
            "items.parquet": pa.table(items),
            "truth/items.parquet": pa.table(truth),
            "promotions.parquet": pa.table(promotions),
        }

    def describe(self) -> dict[str, Any]:
        """Return the parameters and curves of the market, as ``market.json`` holds them.

        >>> Market(days=2).describe()["season"][:2]
        [1.0918, 1.1503]
        """
        named = zip(world.SOURCES, world.SOURCE_PUSH * self.push_rate, strict=True)
        season = world.season(np.arange(self.days + 90), self.start)
        return {
            "schema": SCHEMA_VERSION,
            "parameters": asdict(self) | {"start": self.start.isoformat()},
            "categories": list(world.CATEGORIES[: len(self.catalogue.bounds) - 1]),
            "segments": list(world.SEGMENTS),
            "propensity_by_source": {source: round(float(rate), 6) for source, rate in named},
            "elasticities": world.ELASTICITIES.round(6).tolist(),
            "weekdays": world.WEEKDAYS.tolist(),
            "season": season.round(4).tolist(),
            "trend_per_year": 0.1,
            "hours_by_best_hour": world.HOURS.round(5).tolist(),
            "stop_viewing": world.STOP_VIEWING,
            "mean_quantity": world.MEAN_QUANTITY,
            "push": {
                "days": world.PUSH_DAYS,
                "timing": world.TIMING,
                "fatigue": world.FATIGUE,
                "fatigue_days": world.FATIGUE_DAYS,
            },
        }


def _writer(path: Path, schema: pa.Schema) -> Any:
    if path.suffix == ".csv":
        return pa_csv.CSVWriter(path, schema)
    return pq.ParquetWriter(path, schema, compression="zstd")
