"""Guessing the roles of columns: small logs of every kind, the public data sets, and bad input."""

from __future__ import annotations

import json
import random
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propend.config import load, parse
from propend.engine import Engine, connect
from propend.errors import ConfigError, DataError
from propend.events.columns import Column, parse_number, time_format
from propend.events.declare import declare, to_toml
from propend.events.guess import Finding, Guess, _span, guess
from propend.events.propose import LogShape, propose_tasks
from propend.expression.parse import parse_question

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return connect(threads=1)


def write(
    path: Path, header: list[str], rows: list[list[Any]], encoding: str = "utf-8", sep: str = ","
) -> Path:
    lines = [header, *rows] if header else rows
    text = "".join(sep.join(str(c) for c in row) + "\n" for row in lines)
    path.write_text(text, encoding=encoding)
    return path


def moments(count: int, days: float, seed: int = 1) -> list[datetime]:
    draw = random.Random(seed)
    return sorted(START + timedelta(days=draw.uniform(0, days)) for _ in range(count))


def run(engine: Engine, *files: Path, shop: Path | None = None, **options: Any) -> Guess:
    shop = shop or Path(__file__).parent
    found = guess(files, engine, shop, **options)
    parse(found.config)
    assert tomllib.loads(to_toml(found)) == found.config
    for task in found.config.get("tasks", ()):
        parse_question(task["ask"])
    for source in found.config.get("events", ()):  # every expression is one that the engine reads
        wanted = {**source["roles"], **source.get("properties", {}), **source.get("of_item", {})}
        wanted |= {f"rule{i}": rule["when"] for i, rule in enumerate(source.get("types", ()))}
        declared = parse(found.config).events[0]
        if declared.name == source["name"]:
            batches = engine.scan(declared, shop, wanted, limit=5).batches
            assert sum(batch.num_rows for batch in batches) > 0
    return found


def only(found: Guess) -> dict[str, Any]:
    (source,) = found.config["events"]
    return source


def said(found: Guess, role: str) -> Finding:
    return next(f for f in found.findings if f.role == role)


# -- small logs of every kind


def test_chinese_shop_log_in_gb18030(tmp_path: Path, engine: Engine) -> None:
    draw = random.Random(3)
    kinds = ["浏览"] * 6 + ["加购", "收藏", "购买", "退货"]
    rows = [
        [f"买家{draw.randrange(40)}", f"{t:%Y年%m月%d日 %H时%M分%S秒}", f"s{i % 9}", f"连衣裙{i % 9}号",
         draw.choice(kinds), f"¥{draw.randrange(10, 900)}.50", draw.randrange(1, 4), draw.choice(["直播", "搜索"])]
        for i, t in enumerate(moments(400, 200))
    ]  # fmt: skip
    header = ["买家昵称", "行为时间", "商品ID", "商品名称", "行为类型", "单价", "数量", "渠道"]
    found = run(engine, write(tmp_path / "日志.csv", header, rows, "gb18030"))
    source = only(found)
    assert source["roles"] == {
        "user": '"买家昵称"',
        "time": '"行为时间"',
        "type": '"行为类型"',
        "item": '"商品ID"',
        "value": '"单价" * "数量"',
        "quantity": '"数量"',
        "price": '"单价"',
        "channel": '"渠道"',
    }
    assert source["times"] == ["%Y年%m月%d日 %H时%M分%S秒"]
    assert source["type_map"] == {
        "浏览": "view",
        "加购": "cart",
        "收藏": "favourite",
        "购买": "purchase",
        "退货": "return",
    }
    assert source["of_item"] == {"name": '"商品名称"'}
    assert source["numbers"] == ["单价", "数量"]
    assert found.config["workspace"]["zone"] == "Asia/Shanghai"
    assert found.config["workspace"]["currency"] == "CNY"
    assert found.config["funnels"][0]["steps"] == ["view", "cart", "purchase"]
    assert "a guess" in said(found, "zone").reason


def test_taobao_codes_without_a_header(tmp_path: Path, engine: Engine) -> None:
    draw = random.Random(4)
    rows = [
        [draw.randrange(1, 30), draw.randrange(100, 160), draw.randrange(7),
         draw.choice(["pv", "pv", "pv", "fav", "cart", "buy"]), int(t.timestamp())]
        for t in moments(500, 9)
    ]  # fmt: skip
    found = run(engine, write(tmp_path / "UserBehavior.csv", [], rows))
    source = only(found)
    assert source["header"] is False
    assert source["roles"] == {
        "user": "column1",
        "time": "column5",
        "type": "column4",
        "item": "column2",
    }
    assert source["times"] == ["epoch_s"]
    assert source["type_map"] == {"pv": "view", "fav": "favourite", "buy": "purchase"}
    assert [t["name"] for t in found.config["tasks"]] == ["buys_2d", "silent_2d"]


def test_behaviour_codes(tmp_path: Path, engine: Engine) -> None:
    rows = [
        [i % 17, i % 23, 1 + i % 4, f"{t:%Y-%m-%d %H}:00"] for i, t in enumerate(moments(300, 30))
    ]
    path = write(tmp_path / "tianchi.csv", ["user_id", "item_id", "behavior_type", "time"], rows)
    source = only(run(engine, path))
    assert source["type_map"] == {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"}


def test_json_lines_with_nested_properties(tmp_path: Path, engine: Engine) -> None:
    draw = random.Random(5)
    lines = [
        json.dumps(
            {
                "message_id": f"m{i}",
                "anonymousId": f"a{draw.randrange(30)}",
                "event": draw.choice(["Product Viewed", "Product Added", "Order Completed"]),
                "timestamp": t.isoformat(),
                "received_at": (t + timedelta(seconds=5)).isoformat(),
                "properties": {"sku": f"s{draw.randrange(9)}", "price": 9.5, "revenue": i / 7, "coupon": f"c{i % 3}"},
            }
        )
        for i, t in enumerate(moments(300, 150))
    ]  # fmt: skip
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines))
    source = only(run(engine, path))
    assert source["roles"] == {
        "user": "anonymousId",
        "time": "timestamp",
        "type": "event",
        "item": '"properties.sku"',
        "value": '"properties.revenue"',
        "price": '"properties.price"',
        "message_id": "message_id",
        "arrival": "received_at",
    }
    assert source["type_map"] == {
        "Product Viewed": "view",
        "Product Added": "cart",
        "Order Completed": "purchase",
    }
    assert source["properties"] == {"coupon": '"properties.coupon"'}
    assert "times" not in source
    assert "numbers" not in source


def test_parquet_with_epoch_milliseconds(tmp_path: Path, engine: Engine) -> None:
    times = moments(20_000, 300)
    path = tmp_path / "clicks.parquet"
    table = pa.table(
        {
            "visitorid": [i % 700 for i in range(len(times))],
            "ts": [int(t.timestamp() * 1000) for t in times],
            "event": [("view", "addtocart", "transaction")[i % 3] for i in range(len(times))],
            "itemid": [i % 90 for i in range(len(times))],
        }
    )
    pq.write_table(table, path, row_group_size=2_000)
    found = run(engine, path, rows=2_000)
    source = only(found)
    assert source["times"] == ["epoch_ms"]
    assert source["type_map"] == {"addtocart": "cart", "transaction": "purchase"}
    assert (
        "spans 299 days" in said(found, "buys_30d").reason
    )  # the sample reaches to the end of the file


def test_sample_reaches_the_end_of_a_large_csv(tmp_path: Path, engine: Engine) -> None:
    rows = [
        [f"u{i % 900}", f"{t:%Y-%m-%d %H:%M:%S}", i % 50, 5.5]
        for i, t in enumerate(moments(40_000, 400))
    ]
    path = write(tmp_path / "sales.csv", ["member_id", "created_at", "sku", "total"], rows)
    found = run(engine, path, rows=1_000)
    assert (
        "spans 39" in said(found, "buys_30d").reason
        or "spans 400" in said(found, "buys_30d").reason
    )


def test_european_decimals_and_euro(tmp_path: Path, engine: Engine) -> None:
    rows = [
        [f"k{i % 20}", f"{t:%d.%m.%Y %H:%M}", f"1.{i:03d},50 €", i % 3 + 1]
        for i, t in enumerate(moments(200, 365))
    ]
    path = write(tmp_path / "b.csv", ["customer_no", "order_date", "amount", "qty"], rows, sep=";")
    found = run(engine, path)
    source = only(found)
    assert source["decimal"] == ","
    assert source["numbers"] == ["amount", "qty"]
    assert source["times"] == ["%d.%m.%Y %H:%M"]
    assert found.config["workspace"]["currency"] == "EUR"
    assert said(found, "currency").confidence > 0.8


@pytest.mark.parametrize(
    ("name", "levels"),
    [("rating", (1, 2, 3, 4, 5)), ("stars", (0.5, 1, 2.5, 4, 5)), ("score", (1, 3, 7, 10)), ("Bewertung", (1, 2, 4, 5)),
     ("评分", (1, 2, 3, 4, 5)), ("value", (0.5, 2, 3.5, 5)), ("", (0.5, 2, 3.5, 5))],
)  # fmt: skip
def test_a_rating_is_no_money(
    tmp_path: Path, engine: Engine, name: str, levels: tuple[float, ...]
) -> None:
    draw = random.Random(5)
    rows = [
        [
            f"u{draw.randrange(40)}",
            f"m{draw.randrange(60)}",
            draw.choice(levels),
            int(t.timestamp()),
        ]
        for t in moments(400, 200)
    ]
    header = ["user_id", "item_id", name, "timestamp"] if name else []
    found = run(engine, write(tmp_path / "log.csv", header, rows))
    source = only(found)
    assert "value" not in source["roles"]
    assert source["type"] == "rating"
    assert list(source["properties"]) == ["rating"]
    assert len(source["numbers"]) == 1
    what = f"a rating from {levels[0]:g} to {levels[-1]:g}, not money"
    assert what in said(found, "properties.rating").reason
    assert not any(f.role == "value" for f in found.findings)


def test_a_rating_beside_other_events_and_beside_money(tmp_path: Path, engine: Engine) -> None:
    draw = random.Random(6)
    rows = [
        [f"u{draw.randrange(40)}", f"p{(item := draw.randrange(30))}", kind, draw.randrange(1, 6) if kind == "review" else "",
         f"{t:%Y-%m-%d %H:%M}", 1 + item % 9 / 2]
        for t in moments(900, 200) for kind in [draw.choice(["view", "review"])]
    ]  # fmt: skip
    header = ["user_id", "item_id", "event", "stars", "time"]
    source = only(run(engine, write(tmp_path / "a.csv", header, [row[:5] for row in rows])))
    assert "value" not in source["roles"]
    assert source["properties"] == {"rating": "stars"}
    header[3:] = ["time", "rating"]  # the same for each item: not what its user thinks of it
    source = only(run(engine, write(tmp_path / "b.csv", header, [r[:3] + r[4:] for r in rows])))
    assert source["of_item"] == {"rating": "rating"}
    header = ["user_id", "item_id", "order_date", "value", "评分", "rating"]
    sold = [[*r[:2], r[4], draw.choice([0.5, 2, 4.5]), draw.randrange(1, 6), draw.randrange(1, 11)] for r in rows]  # fmt: skip
    source = only(run(engine, write(tmp_path / "c.csv", header, sold)))
    assert (source["type"], source["roles"]["value"]) == ("purchase", "value")
    assert set(source["properties"].values()) == {"rating", '"评分"'}  # none is lost


def test_yen_sign_without_chinese_is_yen(tmp_path: Path, engine: Engine) -> None:
    rows = [[i % 9, f"{t:%Y-%m-%d}", f'"¥{i + 1},234.50"'] for i, t in enumerate(moments(60, 90))]
    found = run(engine, write(tmp_path / "y.csv", ["uid", "date", "price"], rows))
    assert found.config["workspace"]["currency"] == "JPY"
    assert only(found)["numbers"] == ["price"]
    assert only(found)["roles"]["value"] == "price"


def test_cancellations_and_negative_quantities_are_returns(tmp_path: Path, engine: Engine) -> None:
    rows = [
        [f"C{i}" if i % 9 == 0 else i, f"p{i % 5}", -1 if i % 9 in (0, 1) else 2, f"{t:%m/%d/%Y %H:%M}", 2.5, i % 11]
        for i, t in enumerate(moments(300, 300))
    ]  # fmt: skip
    header = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    source = only(run(engine, write(tmp_path / "r.csv", header, rows)))
    assert [(r["when"], r["type"]) for r in source["types"]] == [
        ("InvoiceNo LIKE 'C%'", "return"),
        ("Quantity < 0", "return"),
    ]
    assert source["times"] == ["%m/%d/%Y %H:%M"]


def test_day_and_month_that_cannot_be_told_apart(tmp_path: Path, engine: Engine) -> None:
    rows = [[i % 5, f"0{i % 9 + 1}/0{i % 7 + 1}/2024", 3.5] for i in range(60)]
    path = write(tmp_path / "d.csv", ["user_id", "date", "amount"], rows)
    with pytest.raises(ConfigError, match=r"'date'.*'%d/%m/%Y' \(day first\) or '%m/%d/%Y'"):
        run(engine, path)
    assert only(run(engine, path, times=["%m/%d/%Y"]))["times"] == ["%m/%d/%Y"]


def test_files_are_parted_into_log_items_and_users(tmp_path: Path, engine: Engine) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        rows = [
            [f"u{i % 30}", f"{t:%Y-%m-%d}", f"p{i % 12}", 4.5]
            for i, t in enumerate(moments(200, 99, part))
        ]
        write(folder / f"orders{part}.csv", ["customer_id", "date", "product_id", "total"], rows)
    items = [[f"p{i}", f"thing {i}", "ab"[i % 2], "x"] for i in range(15)]
    write(folder / "catalogue.csv", ["product_id", "title", "category", "shop"], items)
    users = [[f"u{i}", "fm"[i % 2], 20 + i, "01/02/2020"] for i in range(30)]
    write(folder / "people.csv", ["customer_id", "gender", "age", "signup_date"], users)
    (tmp_path / "shop").mkdir()
    found = run(engine, folder, shop=tmp_path / "shop")
    assert only(found)["files"] == ["../in/orders0.csv", "../in/orders1.csv"]
    assert found.config["items"]["key"] == "product_id"
    assert found.config["items"]["attributes"] == {"name": "title", "category": "category"}
    assert found.config["users"]["attributes"]["age"] == "age"
    assert found.config["users"]["numbers"] == ["age"]
    declare(tmp_path / "shop", found)
    assert load(tmp_path / "shop").items is not None


def test_ids_that_carry_dots_or_blanks_are_no_trouble(tmp_path: Path, engine: Engine) -> None:
    rows = [
        ["nan" if i % 4 == 0 else f"{i % 9}.0", f"{t:%Y-%m-%d}", 1.5]
        for i, t in enumerate(moments(99, 60))
    ]
    found = run(engine, write(tmp_path / "n.csv", ["CustomerID", "day", "sales"], rows))
    assert "25% of the lines have none" in said(found, "user").reason


# -- writing it down


def test_declare_does_not_overwrite(tmp_path: Path) -> None:
    found = Guess({"workspace": {"name": 'a "b" \\ 它'}}, ())
    path = declare(tmp_path, found)
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="exists already"):
        declare(tmp_path, Guess({"workspace": {"name": "other"}}, ()))
    assert path.read_text(encoding="utf-8") == before
    assert load(tmp_path).workspace.name == 'a "b" \\ 它'
    declare(tmp_path, Guess({"workspace": {"name": "other"}}, ()), overwrite=True)
    assert load(tmp_path).workspace.name == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["propend.toml"]


def test_toml_survives_hostile_names(tmp_path: Path, engine: Engine) -> None:
    name = 'it\'s "odd" # [x]'
    rows = [[i % 7, f"{t:%Y-%m-%d}", i % 3] for i, t in enumerate(moments(80, 80))]
    path = tmp_path / "h.csv"
    quoted = name.replace('"', '""')
    write(path, ["user_id", "date", f'"{quoted}"'], rows)
    assert '""odd""' in only(run(engine, path))["properties"]["it_s_odd"]


# -- bad input


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("", DataError, "is empty"),
        ("user_id,date\n", DataError, "no rows below its header"),
        ("name\na\nb\n", DataError, "holds one column"),
        ("date,colour\n2024-01-01,red\n2024-01-02,blue\n", ConfigError, "columns: date, colour"),
    ],
)
def test_bad_files(
    tmp_path: Path, engine: Engine, text: str, error: type[Exception], sentence: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(error, match=sentence):
        run(engine, path)


def test_missing_and_broken_files(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(DataError, match=r"no file matches '.*absent\.csv'"):
        guess([tmp_path / "absent.csv"], engine, tmp_path)
    with pytest.raises(DataError, match="at least one file"):
        guess([], engine, tmp_path)
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not readable as Parquet"):
        guess([tmp_path / "x.parquet"], engine, tmp_path)
    (tmp_path / "x.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="not JSON lines"):
        guess([tmp_path / "x.jsonl"], engine, tmp_path)


# -- parts


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("¥1,234.50", ".", 1234.5),
        ("-£3", ".", -3.0),
        ("$-3.5", ".", -3.5),
        ("1 234,5", ",", 1234.5),
        ("12%", ".", 12.0),
        ("EUR 7", ".", 7.0),
        ("12,34", ".", None),
        ("2024-01-01", ".", None),
        ("", ".", None),
    ],
)
def test_numbers(text: str, decimal: str, number: float | None) -> None:
    assert parse_number(text, decimal) == number


@pytest.mark.parametrize(
    ("cells", "formats"),
    [
        (("2024-01-02T03:04:05Z", "2024-01-02 03:04"), ()),
        (("12/31/24 8:05 PM", "1/2/24 9:05 AM"), ("%m/%d/%y %I:%M %p",)),
        (("5 Jan 2024", "12 Feb 2024"), ("%d %b %Y",)),
        (("20240105", "20231231"), ("%Y%m%d",)),
        (("1704448800", "1704448900"), ("epoch_s",)),
        (("1704448800000000", "1704448900000000"), ("epoch_us",)),
        (("2024/1/5 8:05", "2024-01-06 10:00:00"), ("%Y/%m/%d %H:%M",)),
    ],
)
def test_times(cells: tuple[str, ...], formats: tuple[str, ...], engine: Engine) -> None:
    column = Column("t", "VARCHAR", cells)
    found = time_format(column)
    assert found is not None
    assert found.formats == formats
    assert all(second > 1.6e9 for second in column.seconds(found))
    for form in (f for f in formats if not f.startswith("epoch")):
        sql = f"SELECT try_strptime('{cells[0]}', '{form}') IS NOT NULL AS ok"
        assert engine.query(sql, {}).column("ok").to_pylist() == [True]


@pytest.mark.parametrize(
    "cells", [("20240199", "20241350"), ("1995", "2001"), ("a", "b"), ("12", "1e9")]
)
def test_no_times(cells: tuple[str, ...]) -> None:
    assert time_format(Column("t", "VARCHAR", cells)) is None


def test_tasks_a_short_log_cannot_support_are_left_out() -> None:
    assert [task.ask for task in propose_tasks(LogShape(2.0, {"view"}, False, 1.0))] == ["", ""]
    assert all(
        "2.0 days" in task.reason for task in propose_tasks(LogShape(2.0, {"view"}, False, 1.0))
    )
    assert propose_tasks(LogShape(50, {"view", "cart"}, False, 3))[0].name == "cart_7d"


# -- the public data sets


@pytest.mark.data
def test_online_retail(data_folder: Path, engine: Engine) -> None:
    found = run(engine, data_folder / "online-retail")
    source = only(found)
    assert source["roles"] == {
        "user": "CustomerID",
        "time": "InvoiceDate",
        "item": "StockCode",
        "value": "UnitPrice * Quantity",
        "quantity": "Quantity",
        "price": "UnitPrice",
        "session": "InvoiceNo",
    }
    assert source["types"] == [
        {"when": "InvoiceNo LIKE 'C%'", "type": "return", "label": "cancellation lines"},
        {"when": "Quantity < 0", "type": "return", "label": "negative quantities"},
    ]
    assert source["type"] == "purchase"
    assert source["of_item"] == {"name": "Description"}
    assert source["of_user"] == {"country": "Country"}
    assert len(source["files"]) == 1
    assert found.config["workspace"]["zone"] == "Europe/London"
    assert found.config["workspace"]["currency"] == "GBP"
    assert [t["name"] for t in found.config["tasks"]] == ["buys_30d", "silent_60d", "value_90d"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("CDNOW_sample.txt", ["column1", "column3", "column5", "column4"]),
        ("CDNOW_master.txt", ["customer_id", "date", "dollar_value", "number_of_cds"]),
    ],
)
def test_cdnow(data_folder: Path, engine: Engine, name: str, columns: list[str]) -> None:
    found = run(engine, data_folder / "cdnow" / name)
    source = only(found)
    assert source["roles"] == dict(zip(("user", "time", "value", "quantity"), columns, strict=True))
    assert source["times"] == ["%Y%m%d"]
    assert source["type"] == "purchase"
    assert found.config["tasks"][2]["ask"] == "sum(purchase.value) next 90d for any(purchase)"


@pytest.mark.data
def test_movielens(data_folder: Path, engine: Engine) -> None:
    found = run(engine, data_folder / "movielens-100k")
    source = only(found)
    assert source["roles"]["user"] == '"user_id:token"'
    assert source["properties"]["rating"] == '"rating:float"'
    assert "value" not in source["roles"]
    assert (source["type"], source["times"]) == ("rating", ["epoch_s"])
    assert found.config["items"]["attributes"]["name"] == '"movie_title:token_seq"'
    assert found.config["users"]["key"] == '"user_id:token"'
    assert found.config["tasks"][0]["name"] == "rating_30d"


@pytest.mark.data
def test_complete_journey(data_folder: Path, engine: Engine) -> None:
    found = run(engine, data_folder / "complete-journey")
    log, redemptions = found.config["events"]
    assert log["roles"] == {
        "user": "household_id",
        "time": "transaction_timestamp",
        "item": "product_id",
        "value": "sales_value",
        "quantity": "quantity",
        "session": "basket_id",
    }
    assert redemptions["type"] == "redemption"
    assert "item" not in redemptions["roles"]
    assert found.config["items"]["attributes"]["category"] == "product_category"
    assert found.config["users"]["name"] == "demographics"


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("telco-churn", "Churn"),
        ("waimai-10k", "label"),
        ("hillstrom", "conversion"),
        ("adult", "column15"),
    ],
)
def test_tables_without_time(data_folder: Path, engine: Engine, folder: str, label: str) -> None:
    found = run(engine, data_folder / folder)
    assert not found.has_events
    assert said(found, "table").column == label
    assert f"propend predict --table {data_folder}" in said(found, "table").reason
    assert "propend predict" in to_toml(found)


def test_a_json_array_and_a_users_table_with_repeated_rows(tmp_path: Path, engine: Engine) -> None:
    log = [
        {
            "user_id": f"u{i % 50}",
            "time": f"2024-01-{1 + i % 28:02d}T10:00:00Z",
            "event": "view",
            "item": f"i{i % 7}",
        }
        for i in range(300)
    ]
    (tmp_path / "log.json").write_text(json.dumps(log, indent=1))
    people = [f"u{i},{20 + i}" for i in range(50)] + ["u3,23", "u4,24"]
    (tmp_path / "people.csv").write_text("\n".join(["user_id,age", *people]) + "\n")
    found = guess([tmp_path / "log.json", tmp_path / "people.csv"], engine, tmp_path)
    assert found.config["events"][0]["roles"]["user"] == "user_id"
    assert found.config["users"]["key"] == "user_id"


def test_one_broken_date_does_not_stretch_the_log() -> None:
    days = np.arange(120, dtype=float) * 86_400 + 1.7e9
    assert _span(np.append(days, 0.0)) == (days[0], days[-1])
    assert _span(np.array([0.0, 86_400.0])) == (0.0, 86_400.0)
