from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from propend.errors import ConfigError
from propend.events import market_world as world
from propend.events.market import BLOCK, EVENTS, TYPES, Market
from propend.events.market_log import ratings
from propend.events.market_text import LANGUAGES, NOUNS, review_pool

DAY = 86_400_000_000


class Read:
    """A clean market of a few blocks, read into arrays."""

    def __init__(self, market: Market) -> None:
        blocks = list(market.blocks())
        self.market = market
        self.events = pa.concat_tables([b.events for b in blocks])
        self.users = pa.concat_tables([b.users for b in blocks])
        self.truth = pa.concat_tables([b.truth for b in blocks])
        self.pushes = pa.concat_tables([b.pushes for b in blocks])
        self.owner = number(self.events["user"])
        self.type = strings(self.events["type"])
        self.time = self.events["time"].cast(pa.int64()).to_numpy()

    def of(self, kind: str) -> pa.Table:
        return self.events.filter(pc.equal(self.events["type"], kind))


def strings(column: Any) -> np.ndarray[Any, Any]:
    return column.to_numpy(zero_copy_only=False).astype(str)


def number(column: Any) -> np.ndarray[Any, Any]:
    """The number in codes like u0000123."""
    return pc.utf8_slice_codeunits(column, 1).cast(pa.int64()).to_numpy()


@pytest.fixture(scope="module")
def clean() -> Read:
    return Read(Market(users=6_000, seed=3, dirt=0))


@pytest.fixture(scope="module")
def large() -> Read:
    return Read(Market(users=40_000, seed=11, dirt=0))


def test_files_have_their_schema_and_agree_with_the_summary(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    files = Market(users=2_500, days=120, items=30).write(
        tmp_path, progress=lambda *a: seen.append(a)
    )
    events = pq.read_table(files.events[0])
    about = json.loads(files.market.read_text(encoding="utf-8"))
    assert seen == [(2_000, 2_500), (2_500, 2_500)]
    assert [p.name for p in files.events] == ["events.parquet"]
    assert events.schema.equals(EVENTS)
    assert events.num_rows == files.rows == about["rows"]
    assert Counter(events["type"].to_pylist()) == {k: n for k, n in about["events"].items() if n}
    assert set(about["events"]) == set(TYPES)
    assert about["schema"] == 1
    assert about["parameters"]["users"] == 2_500
    assert len(about["season"]) == 120 + 90
    assert pq.read_table(files.users).num_rows == 2_500
    assert pq.read_table(files.truth_users).num_rows == 2_500
    assert pq.read_table(files.items).num_rows == 30
    assert pq.read_table(files.promotions).num_rows > 0
    assert pq.read_table(files.truth_items)["repeat_days"].null_count > 0
    pushes = pq.read_table(files.truth_pushes)
    sent = pc.sum(pushes["sent"]).as_py()
    assert about["events"]["push"] >= sent > 0


def test_users_have_gaps_but_never_in_the_key(clean: Read) -> None:
    users = clean.users
    assert users["user"].null_count == users["signup"].null_count == 0
    for name, share in (("gender", 0.15), ("age", 0.2), ("country", 0.03), ("source", 0.05)):
        assert abs(users[name].null_count / users.num_rows - share) < 0.02
    assert set(users["language"].to_pylist()) == set(LANGUAGES)


def test_csv_holds_the_same_rows(tmp_path: Path) -> None:
    market = Market(users=40, days=60, items=12)
    one = market.write(tmp_path / "a")
    two = market.write(tmp_path / "b", format="csv")
    strict = pa_csv.ConvertOptions(strings_can_be_null=True, column_types=EVENTS)
    table = pa_csv.read_csv(two.events[0], convert_options=strict)
    assert two.events[0].name == "events.csv"
    assert table.equals(pq.read_table(one.events[0]))


def test_the_same_arguments_give_the_same_market_however_it_is_cut(tmp_path: Path) -> None:
    market = Market(users=4_500, days=90, items=40)
    whole = market.write(tmp_path / "whole")
    parts = Market(users=4_500, days=90, items=40).write(tmp_path / "parts", part_users=1)
    assert [p.name for p in parts.events] == [f"events-{i:04d}.parquet" for i in range(3)]
    together = pa.concat_tables([pq.read_table(p) for p in parts.events])
    assert together.equals(pq.read_table(whole.events[0]))
    for name in ("users", "truth_users", "truth_pushes", "items", "market"):
        assert getattr(whole, name).read_bytes() == getattr(parts, name).read_bytes()
    alone = Market(users=4_500, days=90, items=40).block(1)
    second = next(b for i, b in enumerate(market.blocks()) if i == 1)
    assert alone.events.equals(second.events)
    other = Market(users=4_500, days=90, items=40, seed=8).block(0)
    assert not other.events.equals(market.block(0).events)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 365, 1), (3, 1, 5), (50, 2, 1), (2_001, 9, 3)])
def test_small_sizes(size: tuple[int, int, int], tmp_path: Path) -> None:
    users, days, items = size
    market = Market(users=users, days=days, items=items, dirt=0.2, zone="America/New_York")
    files = market.write(tmp_path)
    truth = pq.read_table(files.truth_users)
    assert truth.num_rows == users
    purchases, value = market.respond(truth, np.ones(users, bool), 0.9)
    assert purchases.shape == value.shape == (users,)


def test_the_last_block_of_the_largest_market() -> None:
    block = Market(users=10_000_000, days=30, seed=2**63 - 1).block(4_999)
    assert block.users["user"][-1].as_py() == "u9999999"
    assert len(set(block.events["event_id"].to_pylist())) > 0.9 * block.events.num_rows


def test_clean_log_keeps_its_promises(clean: Read) -> None:
    events = clean.events
    assert len(set(events["event_id"].to_pylist())) == events.num_rows
    assert events["user"].null_count == 0
    assert clean.time.min() >= datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1e6
    assert clean.time.max() < datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6
    sold = clean.of("purchase")
    product = sold["price"].to_numpy() * sold["quantity"].to_numpy()
    np.testing.assert_allclose(sold["value"].to_numpy(), product, atol=0.006)
    assert clean.of("view")["value"].null_count == clean.of("view").num_rows
    assert clean.of("search")["text"].null_count == 0
    assert clean.of("push")["session"].null_count == clean.of("push").num_rows
    # A visit lies inside one hour, belongs to one user, and each purchase in it follows a cart.
    inside = pc.is_valid(events["session"]).to_numpy()
    session = number(events["session"].filter(pa.array(inside)))
    time, kind = clean.time[inside], clean.type[inside]
    assert (session // 10**7 == clean.owner[inside]).all()
    order = np.lexsort((time, session))
    first = np.r_[True, session[order][1:] != session[order][:-1]]
    starts = time[order][first][np.cumsum(first) - 1]
    assert (time[order] // (DAY // 24) == starts // (DAY // 24)).all()
    bought = kind[order] == "purchase"
    assert (kind[order][np.flatnonzero(bought) - 1] == "cart").all()


def test_nobody_visits_before_signing_up_or_after_leaving(clean: Read) -> None:
    epoch_day = clean.time // DAY
    visits = np.isin(clean.type, ["view", "search", "cart", "purchase"])
    signup = clean.users["signup"].cast(pa.int32()).to_numpy()[clean.owner]
    left = clean.truth["churned"].cast(pa.int32()).fill_null(10**6).to_numpy()[clean.owner]
    assert (epoch_day[visits] >= signup[visits]).all()
    assert (epoch_day[visits] < left[visits]).all()
    alive = clean.truth["alive"].to_numpy()
    assert (alive == pc.is_null(clean.truth["churned"]).to_numpy()).all()
    assert 0.2 < alive.mean() < 0.8
    for name in ("purchases_30d", "value_90d", "push_effect", "intensity"):
        assert (clean.truth[name].to_numpy()[~alive] == 0).all()


def test_size_and_tail_of_activity(clean: Read) -> None:
    counts = np.bincount(clean.owner, minlength=6_000)
    assert 20 < counts.mean() < 45
    assert counts.max() > 10 * counts.mean()


def test_prices_are_list_prices_except_in_promotions(tmp_path: Path) -> None:
    files = Market(users=300, days=60, items=20, dirt=0).write(tmp_path)
    items = {r["item"]: r for r in pq.read_table(files.items).to_pylist()}
    reduced = {
        (r["item"], r["first"] + timedelta(days=i)): r["price"]
        for r in pq.read_table(files.promotions).to_pylist()
        for i in range((r["last"] - r["first"]).days + 1)
    }
    assert all(r["cost"] < r["price"] for r in items.values())
    for row in pq.read_table(files.events[0]).to_pylist():
        if row["type"] == "view":
            usual = items[row["item"]]["price"]
            assert row["price"] == reduced.get((row["item"], row["time"].date()), usual)
            assert items[row["item"]]["added"] <= row["time"].date()


def test_reviews_speak_of_the_satisfaction_behind_them(clean: Read) -> None:
    market, reviews = clean.market, clean.of("review")
    users, items = number(reviews["user"]), number(reviews["item"])
    stars = ratings(market.satisfaction(users, items))
    assert len(set(stars)) == 5
    language = strings(clean.users["language"])[users]
    category = np.array(list(NOUNS))[market.catalogue.category[items]]
    rows = zip(reviews["text"].to_pylist(), category, language, stars, strict=True)
    for text, kind, tongue, rating in list(rows)[:500]:
        assert text in review_pool(kind, tongue, rating)
    returned, sold = clean.of("return"), clean.of("purchase")
    means = [
        market.satisfaction(number(t["user"]), number(t["item"])).mean() for t in (returned, sold)
    ]
    assert means[0] < means[1] - 0.3


@pytest.mark.parametrize("dirt", [0.003, 0.05, 0.5])
def test_dirt_is_counted_exactly(dirt: float) -> None:
    market = Market(users=2_000, days=200, seed=5, dirt=dirt)
    block, pure = market.block(0), Market(users=2_000, days=200, seed=5, dirt=0).block(0)
    counts, events = block.dirt, block.events
    assert not pure.dirt
    extra = counts["duplicate_rows"] + counts["bot_events"] + counts["test_events"]
    assert events.num_rows == pure.events.num_rows + extra
    assert events["user"].null_count == counts["missing_user"] > 0
    who = Counter(events["user"].to_pylist())
    assert who["bot-1"] == counts["bot_events"] == 1_440
    assert who["test"] == counts["test_events"]
    assert pc.sum(pc.less(events["price"], 0)).as_py() == counts["negative_price"] > 0
    limit = pa.scalar(datetime(2030, 1, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    assert pc.sum(pc.greater(events["time"], limit)).as_py() == counts["future_time"] > 0
    distinct = events.group_by(events.column_names).aggregate([]).num_rows
    assert events.num_rows - distinct == counts["duplicate_rows"]
    ids = len(set(events["event_id"].to_pylist()))
    assert distinct - ids == counts["duplicate_ids"] > 0
    assert block.truth.equals(pure.truth)
    bot = np.sort(events.filter(pc.equal(events["user"], "bot-1"))["time"].cast(pa.int64()))
    assert set(np.diff(bot)) == {60_000_000}


def test_the_oracle_has_the_stated_mean(clean: Read) -> None:
    market, truth = clean.market, clean.truth
    rng = np.random.default_rng(0)
    n, runs = truth.num_rows, 40
    some = rng.random(n) < 0.5
    for pushed, price, days in ((None, 1.0, 30), (some, 0.8, 60), (some, 1.3, 5)):
        expected = market.expect(truth, pushed, price, days)
        drawn = [market.respond(truth, pushed, price, days, seed=s) for s in range(runs)]
        for k in (0, 1):
            totals = np.array([d[k].sum() for d in drawn])
            error = totals.std(ddof=1) / math.sqrt(runs)
            assert abs(totals.mean() - expected[k].sum()) < 4 * error
        # and user by user: the squared error of the mean is what chance explains
        counts = np.array([d[0] for d in drawn])
        expected_square = counts.var(axis=0, ddof=1).sum() / runs
        assert abs(((counts.mean(axis=0) - expected[0]) ** 2).sum() / expected_square - 1) < 0.2
    stated = truth["purchases_90d"].to_numpy()
    np.testing.assert_allclose(market.expect(truth, days=90)[0], stated)


def test_the_oracle_shares_its_random_numbers_between_actions(clean: Read) -> None:
    market, truth = clean.market, clean.truth
    n = truth.num_rows
    nobody, everybody = np.zeros(n, bool), np.ones(n, bool)
    without, with_push = (market.respond(truth, p)[0] for p in (nobody, everybody))
    consent = truth["push_consent"].to_numpy()
    segment = strings(truth["segment"])
    assert (without[~consent] == with_push[~consent]).all()
    assert (with_push >= without)[segment == "persuadable"].all()
    assert (with_push <= without)[segment == "do-not-disturb"].all()
    assert (with_push == without)[segment == "lost cause"].all()
    again = market.respond(truth, nobody, np.full(n, 1.0))
    assert (again[0] == without).all()
    dear, cheap = (market.respond(truth, price_multiplier=m)[0] for m in (1.5, 0.7))
    assert dear.sum() < without.sum() < cheap.sum()
    assert (dear <= cheap).all()


def test_the_push_effect_is_the_difference_of_two_simulated_weeks(clean: Read) -> None:
    market, truth = clean.market, clean.truth
    everybody = np.ones(truth.num_rows, bool)
    stated = truth["push_effect"].to_numpy()
    runs = 60
    gains, base = [], []
    for seed in range(runs):
        sent = market.respond(truth, everybody, days=7, seed=seed)[0] > 0
        kept = market.respond(truth, days=7, seed=seed)[0] > 0
        gains.append(sent.astype(float) - kept)
        base.append(kept.sum())
    totals = np.array(gains).sum(axis=1)
    assert abs(totals.mean() - stated.sum()) < 4 * totals.std(ddof=1) / math.sqrt(runs)
    error = np.std(base, ddof=1) / math.sqrt(runs)
    assert abs(np.mean(base) - truth["bought_7d"].to_numpy().sum()) < 4 * error
    segment = strings(truth["segment"])
    by = {s: stated[segment == s].sum() for s in world.SEGMENTS}
    assert by["persuadable"] > by["sure thing"] > 0 == by["lost cause"] > by["do-not-disturb"]


@pytest.mark.slow
def test_randomised_pushes_in_the_log_recover_the_true_effect(large: Read) -> None:
    pushes = large.pushes
    names = ("propensity", "sent", "effect", "bought_if_not_sent", "bought")
    chance, sent, effect, base, bought = (pushes[n].to_numpy() for n in names)
    # "bought" is what the log says
    sold = large.type == "purchase"
    origin = large.time.min()
    keys = np.sort((large.owner[sold] << 46) + large.time[sold] - origin)
    low = (number(pushes["user"]) << 46) + pushes["time"].cast(pa.int64()).to_numpy() - origin
    count = np.searchsorted(keys, low + 7 * DAY) - np.searchsorted(keys, low)
    assert ((count > 0) == bought).all()
    # the coin is fair
    z = (sent - chance).sum() / np.sqrt((chance * (1 - chance)).sum())
    assert abs(z) < 4
    # inverse propensity weighting finds the effect, over all and by segment
    weighted = np.where(sent, 1 / chance, -1 / (1 - chance)) * bought
    segment = strings(large.truth["segment"])[number(pushes["user"])]
    for chosen in (np.ones(len(sent), bool), *(segment == s for s in world.SEGMENTS)):
        gap = (weighted - effect)[chosen]
        users = number(pushes["user"])[chosen]
        sums = np.bincount(users, gap)  # rows of one user belong together
        assert abs(gap.sum()) < 4 * math.sqrt((sums**2).sum())
    persuaded, disturbed = (
        weighted[segment == s].mean() for s in ("persuadable", "do-not-disturb")
    )
    assert persuaded > 0 > disturbed
    # and the stated chance without a push is calibrated in each tenth of it
    held, edges = ~sent, np.quantile(base[base > 0], np.linspace(0, 1, 11)[1:-1])
    tenth = np.searchsorted(edges, base)
    for k in range(10):
        rows = held & (tenth == k) & (base > 0)
        error = math.sqrt((base[rows] * (1 - base[rows])).sum())
        assert abs((bought[rows] - base[rows]).sum()) < 4.5 * error


@pytest.mark.slow
def test_weekdays_year_and_hours_show_in_the_log(large: Read) -> None:
    market, visits = large.market, large.type == "view"
    day = (large.time[visits] - large.time.min()) // DAY
    rate = large.truth["visit_rate"].to_numpy()
    first = (
        pc.max_element_wise(large.users["signup"].cast(pa.int32()), 20_089)
    ).to_numpy() - 20_089
    last = large.truth["churned"].cast(pa.int32()).fill_null(20_089 + 365).to_numpy() - 20_089
    exposure = np.zeros(366)
    np.add.at(exposure, first, rate)
    np.subtract.at(exposure, last, rate)
    ratio = np.bincount(day, minlength=365)[:365] / np.cumsum(exposure)[:365]
    season = world.season(np.arange(365), market.start)
    weekday = (market.start.weekday() + np.arange(365)) % 7
    shown = np.array([ratio[weekday == k].mean() for k in range(7)])
    true = np.array([season[weekday == k].mean() for k in range(7)])
    np.testing.assert_allclose(shown / shown.mean(), true / true.mean(), atol=0.04)
    assert np.corrcoef(ratio[60:], season[60:])[0, 1] > 0.6
    hour = (large.time[visits] % DAY) // (DAY // 24)
    best = large.truth["best_hour"].to_numpy()[large.owner[visits]]
    shift = np.bincount((hour - best) % 24, minlength=24)
    assert shift.argmax() == 0


@pytest.mark.slow
def test_price_elasticity_is_recovered_by_a_poisson_regression(large: Read) -> None:
    goods = large.market.catalogue
    elasticity = large.truth["elasticity"].to_numpy()
    staple = number(large.truth["staple"].fill_null("i999999"))
    for low, high in ((0, 1.45), (1.45, 9)):
        counts = []
        for kind in ("view", "purchase"):
            rows = large.of(kind)
            who, item = number(rows["user"]), number(rows["item"])
            kept = (staple[who] != item) & (elasticity[who] >= low) & (elasticity[who] < high)
            depth = np.round(rows["price"].to_numpy() / goods.list_price[item], 1)[kept]
            counts.append(np.array([(depth == d).sum() for d in (0.7, 0.8, 0.9, 1.0)]))
        views, sold = counts
        x = np.column_stack([np.ones(4), np.log([0.7, 0.8, 0.9, 1.0])])
        beta = np.array([math.log(sold.sum() / views.sum()), 0.0])
        for _ in range(20):
            mean = views * np.exp(x @ beta)
            information = (x * mean[:, None]).T @ x
            beta = beta + np.linalg.solve(information, x.T @ (sold - mean))
        error = math.sqrt(np.linalg.inv(information)[1, 1])
        inside = (elasticity >= low) & (elasticity < high)
        weight = (large.truth["visit_rate"].to_numpy() * large.truth["buy"].to_numpy())[inside]
        true = np.average(elasticity[inside], weights=weight)
        assert abs(-beta[1] - true) < 4 * error + 0.1


def test_staples_are_bought_again_when_due(clean: Read) -> None:
    staple = number(clean.truth["staple"].fill_null("i999999"))
    sold = clean.of("purchase")
    who, item = number(sold["user"]), number(sold["item"])
    same = staple[who] == item
    day = (sold["time"].cast(pa.int64()).to_numpy() // DAY - 20_089)[same]
    first = clean.truth["staple_day"].to_numpy()[who[same]]
    interval = clean.truth["staple_interval"].to_numpy()[who[same]]
    assert same.sum() > 500
    assert ((day - first + 2) % interval <= 4).mean() > 0.9


def test_days_and_hours_are_those_of_the_zone() -> None:
    market = Market(users=500, days=30, start=date(2025, 10, 20), zone="Europe/Berlin", dirt=0)
    time = market.block(0).events["time"].to_pylist()
    assert datetime(2025, 10, 19, 22, tzinfo=UTC) <= min(time)
    assert max(time) < datetime(2025, 11, 18, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"users": 0}, "users must be between 1 and 10,000,000, not 0"),
        ({"users": 2.5}, "users must be a whole number, not 2.5"),
        ({"days": True}, "days must be a whole number"),
        ({"items": -1}, "items must be between"),
        ({"push_rate": 0.9}, "push_rate must be between 0 and 0.6"),
        ({"push_every": 7}, "push_every must be between 9"),
        ({"dirt": float("nan")}, "dirt must be between"),
        ({"visits": "many"}, "visits must be a number"),
        ({"zone": "Mars/Base"}, "zone 'Mars/Base' is not known"),
        ({"start": "2025-01-01"}, "start must be a date"),
        ({"start": date(1, 1, 1)}, "start must be from 1970 to 2200"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(
    arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Market(**arguments)


def test_bad_actions_and_files_are_refused(tmp_path: Path) -> None:
    market = Market(users=5, days=20, items=3)
    truth = market.block(0).truth
    with pytest.raises(ConfigError, match="pushed must be 5 booleans"):
        market.respond(truth, np.ones(4, bool))
    with pytest.raises(ConfigError, match="pushed must be 5 booleans"):
        market.expect(truth, np.ones(5))
    with pytest.raises(ConfigError, match="price_multiplier must be"):
        market.respond(truth, price_multiplier=0.0)
    with pytest.raises(ConfigError, match="seed must be 0 or more"):
        market.respond(truth, seed=-1)
    with pytest.raises(ConfigError, match="users_truth has no column 'alive'"):
        market.expect(market.block(0).users)
    with pytest.raises(ConfigError, match="days ahead"):
        market.expect(truth, days=0)
    with pytest.raises(ConfigError, match="format"):
        market.write(tmp_path, format="orc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="part_users"):
        market.write(tmp_path, part_users=0)
    (tmp_path / "events-0007.parquet").touch()
    with pytest.raises(ConfigError, match=r"already holds events-0007\.parquet of another log"):
        market.write(tmp_path)
    with pytest.raises(ConfigError, match="no block 1"):
        market.block(1)
    assert BLOCK == 2_000
