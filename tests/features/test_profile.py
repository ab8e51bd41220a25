"""Profiles and segments against slow, obvious oracles."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propend.config import parse
from propend.engine.local import LocalEngine
from propend.errors import DataError, NotEnoughDataError
from propend.events.ingest import ingest
from propend.events.store import Store
from propend.features.profile import STAGES, TAGS, Profiles, quintiles, stages
from propend.features.schema import Schema
from propend.features.segments import RULES, SEGMENTS, segment_codes, segments
from propend.names import DAY

ZONE = "America/New_York"
START = datetime(2025, 1, 1, tzinfo=UTC)
LIST = {f"i{k}": 10.0 * (k + 1) for k in range(9)}
KIND = {f"i{k}": "abc"[k % 3] for k in range(9)}


def log(users: int = 150, seed: int = 5) -> list[dict[str, Any]]:
    """A random log: views, purchases, returns and pushes, with whole-hour ties."""
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(users):
        for _ in range(int(rng.geometric(0.08))):
            kind = str(rng.choice(["view", "purchase", "return", "push"], p=[0.5, 0.3, 0.05, 0.15]))
            at = START + timedelta(hours=int(rng.integers(0, 24 * 200)))
            item = None if kind == "push" else f"i{rng.integers(0, 9)}"
            price = None if item is None else round(LIST[item] * rng.choice([1.0, 0.8]), 2)
            quantity = None if item is None else int(rng.integers(1, 4))
            sold = kind in ("purchase", "return") and price is not None and quantity is not None
            rows.append(
                {
                    "user": f"u{u}",
                    "time": at,
                    "type": kind,
                    "item": item,
                    "price": price,
                    "quantity": quantity,
                    "value": price * quantity if sold and rng.random() < 0.9 else None,  # type: ignore[operator]
                    "session": f"s{u}-{at.date()}-{at.hour // 12}",
                }
            )
    return rows


@dataclass
class Shop:
    rows: list[dict[str, Any]]
    store: Store
    schema: Schema
    engine: LocalEngine


def open_shop(folder: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Shop:
    table = pa.Table.from_pylist([{c: row[c] for c in columns} for row in rows])
    pq.write_table(table, folder / "events.parquet")
    items = pa.table(
        {"item": list(LIST), "price": list(LIST.values()), "category": list(KIND.values())}
    )
    pq.write_table(items, folder / "items.parquet")
    source = {"files": ["events.parquet"], "roles": {c: c for c in columns}}
    config = {"workspace": {"zone": ZONE, "buckets": 4}, "events": [source]}
    config["clean"] = {"exact_duplicates": "keep"}
    if "item" in columns:
        attributes = {"price": "price", "category": "category"}
        config["items"] = {"files": ["items.parquet"], "key": "item", "attributes": attributes}
    engine = LocalEngine(threads=1)
    ingest(parse(config), folder, folder / "store", engine)
    store = Store(folder / "store")
    return Shop(rows, store, Schema.of(store, ZONE), engine)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    rows = log()
    return open_shop(tmp_path_factory.mktemp("shop"), rows, tuple(rows[0]))


def moment(days: int) -> int:
    return int((START + timedelta(days=days)).timestamp()) * 1_000_000


def days_between(a: datetime, at: int) -> float:
    return (at - int(a.timestamp()) * 1_000_000) / DAY


# ---- the oracle: one user at a time, in plain Python


def commonest(values: list[Any]) -> Any:
    """The most frequent value, the latest of equals."""
    counts = Counter(values)
    best = max(counts.values(), default=0)
    return next((v for v in reversed(values) if counts[v] == best), None)


def known(rows: list[dict[str, Any]], at: int) -> dict[str, dict[str, Any]]:
    found = {}
    timelines: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["time"]):  # stable: ties stay in log order
        if days_between(row["time"], at) > 0:
            timelines.setdefault(row["user"], []).append(row)
    for user, events in timelines.items():
        local = [e | {"local": e["time"].astimezone(ZoneInfo(ZONE))} for e in events]
        acts = [e for e in local if e["type"] != "push"]
        bought = [e for e in local if e["type"] == "purchase"]
        returned = [e for e in local if e["type"] == "return"]
        days = sorted({e["local"].date() for e in bought})
        orders = len({e["session"] for e in bought})
        paid = sum(e["value"] or 0 for e in bought)
        tastes = bought or acts
        prices = [e["price"] for e in bought]
        user_days = len({e["local"].date() for e in acts})
        often = user_days >= 3

        def share(hours: set[int], acts: list[dict[str, Any]] = acts) -> float:
            return sum(e["local"].hour in hours for e in acts) / max(len(acts), 1)

        kinds = Counter(KIND[e["item"]] for e in bought)
        reduced = sum(e["price"] < 0.95 * LIST[e["item"]] for e in bought)
        weekend = sum(e["local"].weekday() >= 5 for e in acts) / max(len(acts), 1)
        tags = [
            often and weekend >= 0.6,
            often and share(set(range(5, 11))) >= 0.5,
            often and share(set(range(18, 23))) >= 0.5,
            often and share({23, 0, 1, 2, 3, 4}) >= 0.5,
            len(bought) >= 2 and reduced * 2 >= len(bought),
            None,
            len(returned) >= 2 and len(returned) * 5 >= len(bought),
            len(bought) >= 3 and max(kinds.values()) >= 0.8 * len(bought),
            often and not bought,
        ]
        found[user] = {
            "active_days": user_days,
            "recency": days_between(bought[-1]["time"], at) if bought else math.nan,
            "tenure": days_between(bought[0]["time"], at) if bought else math.nan,
            "frequency": len(days),
            "orders": orders,
            "money": paid - sum(e["value"] or e["price"] * e["quantity"] for e in returned),
            "mean_order": paid / orders if orders else math.nan,
            "pause": (days[-1] - days[-2]).days if len(days) > 1 else math.nan,
            "favourite_item": commonest([e["item"] for e in tastes]),
            "favourite_category": commonest([KIND[e["item"]] for e in tastes]),
            "favourite_hour": commonest([e["local"].hour for e in acts]),
            "favourite_weekday": commonest([e["local"].weekday() for e in acts]),
            "first_seen": acts[0]["time"] if acts else None,
            "last_seen": acts[-1]["time"] if acts else None,
            "price": statistics.fmean(prices) if prices else math.nan,
            "tags": tags,
        }
    return found


def stage_of(u: dict[str, Any], middle: float) -> str:
    if not u["frequency"]:
        return "prospect"
    if u["frequency"] <= 2 and u["tenure"] <= middle:
        return "new"
    span = u["tenure"] - u["recency"]
    quiet = u["recency"] / ((span + middle) / u["frequency"])
    if quiet <= 1.5:
        if u["frequency"] >= 3:
            before = (span - u["pause"] + middle) / (u["frequency"] - 1)
            if u["pause"] > 3 * before:
                return "returning"
        return "loyal" if u["frequency"] >= 4 else "active"
    return "at risk" if quiet <= 3 else "dormant" if quiet <= 6 else "lost"


def score(value: float, everyone: list[float], middle: bool) -> int:
    below = sum(v < value for v in everyone) + (0.5 if middle else 0) * sum(
        v == value for v in everyone
    )
    return min(5, 1 + math.floor(5 * below / len(everyone)))


@pytest.mark.parametrize("days", [200, 120])
def test_profiles_agree_with_the_oracle(shop: Shop, days: int) -> None:
    at = moment(days)
    table = Profiles.build(shop.store, shop.schema, shop.engine, at=at).table
    ours = {row["user_id"]: row for row in table.to_pylist()}
    theirs = known(shop.rows, at)
    assert set(ours) == set(theirs)
    buyers = [u for u in theirs.values() if u["frequency"]]
    gaps = [
        (u["tenure"] - u["recency"]) / (u["frequency"] - 1) for u in buyers if u["frequency"] > 1
    ]
    middle = max(statistics.median(gaps), 1.0)
    big = np.quantile([u["mean_order"] for u in buyers], 0.8)
    thirds = np.quantile(list(LIST.values()), [1 / 3, 2 / 3])
    seen = Counter[str]()
    for name, row in ours.items():
        u = theirs[name]
        for column in (
            "active_days",
            "frequency",
            "orders",
            "favourite_item",
            "favourite_category",
        ):
            assert row[column] == u[column], (name, column)
        for column in ("favourite_hour", "favourite_weekday"):
            assert row[column] == (-1 if u[column] is None else u[column]), (name, column)
        for column in ("first_seen", "last_seen"):
            assert row[column] == u[column], (name, column)
        for column in ("recency", "money", "mean_order"):
            assert row[column] == pytest.approx(u[column], nan_ok=True), (name, column)
        assert row["stage"] == stage_of(u, middle), name
        u["tags"][5] = u["orders"] >= 2 and u["mean_order"] >= big - 1e-9
        assert row["tags"] == [t for t, on in zip(TAGS, u["tags"], strict=True) if on], name
        level = None if math.isnan(u["price"]) else ("low", "mid", "high")[sum(u["price"] > thirds)]
        assert row["price_level"] == level
        if u["frequency"]:
            r = score(-u["recency"], [-b["recency"] for b in buyers], True)
            f = score(u["frequency"], [b["frequency"] for b in buyers], False)
            m = score(round(u["money"], 6), [round(b["money"], 6) for b in buyers], False)
            assert (row["r"], row["f"], row["m"]) == (r, f, m), name
        else:
            assert (row["r"], row["f"], row["m"]) == (0, 0, 0)
            assert row["segment"] == "Prospects"
        seen[row["stage"]] += 1
        seen.update(row["tags"])
    assert len(seen) >= 10  # the log reaches most rules


def test_nothing_at_or_after_the_moment_is_seen(shop: Shop, tmp_path: Path) -> None:
    at = moment(100)
    earlier = [r for r in shop.rows if days_between(r["time"], at) > 0]
    past = open_shop(tmp_path, earlier, tuple(shop.rows[0]))
    columns = [
        c
        for c in Profiles.build(past.store, past.schema, past.engine, at).table.column_names
        if c != "user"
    ]

    def plain(s: Shop) -> list[dict[str, Any]]:
        table = Profiles.build(s.store, s.schema, s.engine, at).table.select(columns)
        return sorted(table.to_pylist(), key=lambda r: r["user_id"])

    assert repr(plain(past)) == repr(plain(shop))


def test_every_user_is_in_exactly_one_segment_and_the_trend_compares_moments(shop: Shop) -> None:
    now = Profiles.build(shop.store, shop.schema, shop.engine, at=moment(200))
    before = Profiles.build(shop.store, shop.schema, shop.engine, at=moment(170))
    found = segments(now, before)
    assert sum(s.users for s in found) == len(now)
    assert sum(s.share for s in found) == pytest.approx(1)
    assert sum(s.value for s in found) == pytest.approx(now.column("money").sum())
    assert sum(s.users_before for s in found) == len(before)
    for s in found:
        rows = now.column("segment") == s.name
        assert s.users == rows.sum()
        assert s.rule == RULES[s.name][0]
        mean = now.column("recency")[rows].mean() if rows.any() else math.nan
        assert s.recency == pytest.approx(mean, nan_ok=True)
        if s.users_before:
            assert s.growth == s.users / s.users_before - 1
    alone = segments(now)
    assert all(math.isnan(s.growth) and s.as_dict()["trend"] is None for s in alone)
    assert [s.users for s in alone] == [s.users for s in found if s.users]


def test_the_grid_has_one_segment_for_every_score() -> None:
    r, f, m = (a.ravel() for a in np.meshgrid(range(1, 6), range(1, 6), range(1, 6)))
    named = {SEGMENTS[i] for i in segment_codes(r, f, m)}
    assert named == set(SEGMENTS) - {"Prospects"}
    grid = dict(zip(zip(r, f, m, strict=True), segment_codes(r, f, m), strict=True))
    assert SEGMENTS[grid[1, 5, 5]] == "Can't lose"
    assert SEGMENTS[grid[3, 3, 4]] == "Loyal"  # FM 3.5 rounds up
    assert SEGMENTS[grid[2, 2, 2]] == "Hibernating"


def test_stages_of_textbook_users() -> None:
    #          never, newcomer, regular, fading, asleep, gone, back again, once long ago
    recency = [np.nan, 2.0, 3.0, 20.0, 50.0, 200.0, 1.0, 90.0]
    tenure = [np.nan, 2.0, 93.0, 110.0, 140.0, 290.0, 111.0, 90.0]
    days = [0, 1, 10, 10, 10, 10, 4, 1]
    pause = [np.nan, np.nan, 10.0, 10.0, 10.0, 10.0, 100.0, np.nan]
    stage = stages(*(np.array(a, float) for a in (recency, tenure, days, pause)))[0]
    wanted = ["prospect", "new", "loyal", "at risk", "dormant", "lost", "returning", "lost"]
    assert [list(STAGES)[i] for i in stage] == wanted


def test_quintiles_split_evenly_and_ties_stay_together() -> None:
    values = np.random.default_rng(0).permutation(1_000).astype(float)
    assert np.bincount(quintiles(values)).tolist() == [0, 200, 200, 200, 200, 200]
    assert quintiles(np.ones(9)).tolist() == [1] * 9
    assert quintiles(np.ones(9), ties="middle").tolist() == [3] * 9
    assert quintiles(np.full(2, np.nan)).tolist() == [0, 0]


def test_a_log_of_users_and_times_only_has_profiles(tmp_path: Path) -> None:
    bare = open_shop(tmp_path, log(30), ("user", "time"))
    found = Profiles.build(bare.store, bare.schema, bare.engine)
    assert len(found) == 30
    assert (found.column("money") == 0).all()
    assert set(found.column("stage")) - {"prospect"} == set(found.column("stage"))
    assert set(found.column("price_level")) == {None}
    assert sum(s.users for s in segments(found)) == 30


def test_one_user_alone(tmp_path: Path) -> None:
    row = log(1)[0] | {"type": "purchase", "item": "i1", "value": 5.0, "price": 5.0, "quantity": 1}
    one = open_shop(tmp_path, [row], tuple(row))
    found = Profiles.build(one.store, one.schema, one.engine)
    assert found.column("stage").tolist() == ["new"]
    assert [s.users for s in segments(found)] == [1]


def test_bad_questions_get_one_sentence(shop: Shop) -> None:
    with pytest.raises(
        DataError, match="no event type 'purchse' in the log; did you mean 'purchase'"
    ):
        Profiles.build(shop.store, shop.schema, shop.engine, of="purchse")
    with pytest.raises(NotEnoughDataError, match="before the moment asked about"):
        Profiles.build(shop.store, shop.schema, shop.engine, at=moment(-10))
