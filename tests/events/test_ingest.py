from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.events.stores import ROLES, config, content, quarantined

from propend.config import CleanConfig, Config, TableSource, TypeRule
from propend.engine.local import LocalEngine
from propend.errors import ConfigError, DataError
from propend.events.ingest import IngestReport, ingest, replay
from propend.events.store import Store

TakeIn = Callable[..., tuple[Store, IngestReport]]
Raw = tuple[str, ...]

HEADER = ("user", "time", "type", "item", "value", "quantity", "mid")
GOOD: Raw = ("good", "2024-01-01 00:00:00", "view", "i1", "1", "1", "")
WITH_MESSAGE = {**ROLES, "message_id": "mid"}
BLANK = {"", "nan", "null", "none", "n/a"}


def us(text: str, zone: str = "UTC") -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    return round(moment.timestamp() * 1e6)


def write(path: Path, rows: Sequence[Raw], header: Sequence[str] = HEADER) -> Path:
    def cell(text: str) -> str:
        return f'"{text}"' if "," in text else text

    text = "".join(",".join(map(cell, row)) + "\n" for row in (header, *rows))
    path.write_text(text, encoding="utf-8")
    return path


# ---- the slow, obvious oracle of the cleaning rules


def oracle(rows: Sequence[Raw]) -> tuple[list[Any], Counter[str]]:
    def ident(text: str) -> str | None:
        text = text.strip()
        if text.lower() in BLANK:
            return None
        return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text

    def number(text: str) -> float | None:
        try:
            return float(re.sub("[¥,]", "", text))
        except ValueError:
            return None

    kept, reasons = [], Counter[str]()
    seen: set[Raw] = set()
    messages: set[tuple[str | None, str]] = set()
    for row in rows:
        user, when, kind, item, value, quantity, message = row
        who, amounts = ident(user), [number(value), number(quantity)]
        try:
            moment: int | None = us(when)
        except ValueError:
            moment = None
        reason = None
        if row in seen:
            reason = "exact duplicate"
        elif who is None:
            reason = "missing user"
        elif when.strip().lower() in BLANK:
            reason = "missing time"
        elif moment is None:
            reason = "unreadable time"
        elif not us("1970-01-02") <= moment <= us("2200-01-01"):
            reason = "impossible time"
        elif moment > time.time() * 1e6 + 86_400e6:
            reason = "time in the future"
        elif any(a is None and t not in BLANK for a, t in zip(amounts, row[4:6], strict=True)):
            reason = "unreadable number"
        elif any(a is not None and abs(a) > 1e9 for a in amounts):
            reason = "impossible amount"
        elif amounts[1] == 0:
            reason = "zero quantity"
        elif message and (who, message) in messages:
            reason = "duplicate message id"
        seen.add(row)
        if reason is None:
            if message:
                messages.add((who, message))
            kept.append((who, moment, kind or "event", ident(item), *amounts))
        else:
            reasons[reason] += 1
    return sorted(kept, key=repr), reasons


dirty = st.tuples(
    st.sampled_from(["u1", "u2", " u1 ", "17850", "17850.0", "", "nan", "NULL"]),
    st.sampled_from(
        [
            "2024-03-01 10:00:00",
            "2024-03-01T11:00:00Z",
            "2024-03-01T11:00:00+05:30",
            "2024-03-02",
            "01/02/2024",
            "",
            "nan",
            "1969-05-05 00:00:00",
            "2150-01-01 00:00:00",
            "2999-01-01 00:00:00",
            "hello",
        ]
    ),
    st.sampled_from(["view", "purchase", ""]),
    st.sampled_from(["i1", "2", "2.0", ""]),
    st.sampled_from(["1.5", "¥1,234.50", "abc", "", "1e12", "-3"]),
    st.sampled_from(["1", "2", "0", "-1", ""]),
    st.sampled_from(["", "m1", "m2"]),
)
slow = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=40
)


@slow
@given(rows=st.lists(dirty, max_size=40))
def test_dirty_rows_are_judged_as_the_oracle_does(
    rows: list[Raw], tmp_path_factory: pytest.TempPathFactory, engine: LocalEngine
) -> None:
    folder, rows = tmp_path_factory.mktemp("dirty"), [GOOD, *rows]
    path = write(folder / "log.csv", rows)
    report = ingest(config(path, roles=WITH_MESSAGE), folder, folder / "s", engine)[0]
    store = Store(folder / "s")
    kept, reasons = oracle(rows)
    assert content(store) == kept
    assert report.quarantine == dict(reasons)
    assert report.rows_in == len(rows) == report.rows_kept + report.rows_quarantined
    table = store.quarantine()
    assert Counter(table["reason"].to_pylist()) == reasons
    for number, original in zip(
        table["row"].to_pylist(), table["original"].to_pylist(), strict=True
    ):
        came = {k: v or None for k, v in zip(HEADER, rows[number - 1], strict=True)}
        assert json.loads(original) == came


@settings(slow, max_examples=12)
@given(data=st.data())
def test_any_number_of_runs_and_buckets_in_any_order_holds_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, engine: LocalEngine
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    rows = [(*row[:6], "") for row in data.draw(st.lists(dirty, max_size=30))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    paths = [write(folder / f"{i}.csv", [GOOD, *part]) for i, part in enumerate(parts)]
    ingest(config(*paths, buckets=1), folder, folder / "one", engine)
    once = content(Store(folder / "one"))
    order = data.draw(st.permutations(paths))
    buckets = data.draw(st.sampled_from([1, 2, 8]))
    for count in range(1, len(order) + 1):
        ingest(config(*order[:count], buckets=buckets), folder, folder / "many", engine)
        many = Store(folder / "many")
        if data.draw(st.booleans()):
            before = content(many)
            many.compact()
            assert all(len(runs) <= 1 for runs in many.manifest.runs.values())
            assert content(Store(folder / "many")) == before
    assert content(many) == once


# ---- what is done again, and what is not


def test_a_second_run_is_a_no_op_and_a_new_file_is_read_alone(
    tmp_path: Path, take_in: TakeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.csv", [GOOD, ("u", "2024-01-02", "view", "i2", "", "", "")])
    conf = config("in")
    _, first = take_in(conf)
    manifest = (tmp_path / "store" / "manifest.json").read_bytes()
    store, second = take_in(conf)
    assert (tmp_path / "store" / "manifest.json").read_bytes() == manifest
    assert (second.rows_in, second.rows_kept) == (first.rows_in, first.rows_kept) == (2, 2)
    write(tmp_path / "in" / "b.csv", [GOOD, ("u", "2024-01-01", "view", "i3", "", "", "")])
    scanned: list[tuple[str, ...]] = []
    real = LocalEngine.scan
    monkeypatch.setattr(
        LocalEngine,
        "scan",
        lambda self, source, *a, **k: scanned.append(source.files) or real(self, source, *a, **k),
    )
    store, third = take_in(conf)
    assert scanned == [(str(tmp_path / "in" / "b.csv"),)]
    assert (third.rows_in, third.rows_kept, third.files) == (4, 3, 2)
    assert third.quarantine == {"already ingested": 1}
    # the late arrival stands before what came first
    lines = store.timelines(store.bucket_of("u"))
    (index,) = np.flatnonzero(lines.users == store.code_of("u"))
    mine = lines.of(int(index))
    assert mine.time.tolist() == [us("2024-01-01"), us("2024-01-02")]
    assert mine.seq[0] > mine.seq[1]


def test_nothing_happens_long_after_it_arrived(tmp_path: Path, take_in: TakeIn) -> None:
    header = (*HEADER, "came")
    rows = [
        (*GOOD, "2024-01-01 00:00:05"),
        ("u", "2024-01-01 20:00:00", "view", "i1", "1", "1", "", "2024-01-01"),  # a day alone is told
        ("u", "2024-03-01 00:00:00", "view", "i1", "1", "1", "", "2024-01-02"),
        ("u", "2024-01-05 00:00:00", "view", "i1", "1", "1", "", ""),
    ]  # fmt: skip
    path = write(tmp_path / "a.csv", rows, header)
    store, report = take_in(config(path, roles={**ROLES, "arrival": "came"}))
    assert (report.rows_kept, report.quarantine) == (3, {"time in the future": 1})
    assert store.span[1] == us("2024-01-05")
    (aside,) = store.quarantine().to_pylist()
    assert "2024-03-01" in aside["original"]


def test_a_changed_rule_or_file_reads_afresh(tmp_path: Path, take_in: TakeIn) -> None:
    path = write(tmp_path / "a.csv", [GOOD, ("u", "2024-01-02", "buy", "i", "1", "0", "")])
    _, report = take_in(config(path))
    assert report.quarantine == {"zero quantity": 1}
    store, report = take_in(config(path, clean=CleanConfig(zero_quantity="keep")))
    assert (report.rows_kept, report.quarantine) == (2, {})
    assert store.quarantine().num_rows == 0
    write(path, [GOOD])
    store, report = take_in(config(path))
    assert (report.rows_in, len(content(store))) == (1, 1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_replay_after_a_rule_change_adds_what_passes_now(
    tmp_path: Path, take_in: TakeIn, engine: LocalEngine, kind: str
) -> None:
    zero = ("u", "2024-01-02 03:04:05", "buy", "i", "1.25", "0", "")
    path = write(tmp_path / "a.csv", [GOOD, GOOD, zero, zero, ("", *zero[1:])])
    if kind == "parquet":
        con = duckdb.connect()
        con.execute(
            f"COPY (FROM read_csv('{path}', all_varchar=false)) TO '{tmp_path / 'a.parquet'}'"
        )
        path = tmp_path / "a.parquet"
    store, report = take_in(config(path))
    assert report.quarantine == {"exact duplicate": 2, "missing user": 1, "zero quantity": 1}
    lax = config(path, clean=CleanConfig(zero_quantity="keep"))
    (again,) = replay(lax, tmp_path, tmp_path / "store", engine)
    assert (again.rows_in, again.rows_kept, again.quarantine) == (2, 1, {"missing user": 1})
    store.reload()
    replayed = content(store)
    rows = {(r["reason"], r["file"], r["row"]) for r in store.quarantine().to_pylist()}
    assert rows == {
        ("exact duplicate", str(path), 2),
        ("exact duplicate", str(path), 4),
        ("missing user", str(path), 5),
    }
    ledger = store.manifest.ledger
    assert sum(e["rows_in"] for e in ledger) == 5
    assert sum(e["rows_kept"] + sum(e["quarantine"].values()) for e in ledger) == 5
    # duplicates of what was replayed are known as such, and reading it all afresh gives the same
    other = write(tmp_path / "b.csv", [zero]) if kind == "csv" else None
    if other:
        conf = config(path, other, clean=CleanConfig(zero_quantity="keep"))
        assert content(take_in(conf)[0]) == replayed
    assert content(take_in(lax, "fresh")[0]) == replayed


def test_message_ids_repeat_per_user_over_the_whole_history(
    tmp_path: Path, take_in: TakeIn
) -> None:
    day = "2024-01-0{}"
    a = write(tmp_path / "a.csv", [("u1", day.format(1), "v", "", "", "", "m1")])
    rows = [
        ("u1", day.format(2), "v", "", "", "", "m1"),  # the sender repeats itself
        ("u2", day.format(2), "v", "", "", "", "m1"),  # another user's message of the same id
        ("u1", day.format(3), "v", "", "", "", "m2"),
        ("u2", day.format(3), "v", "", "", "", "m1"),
    ]
    b = write(tmp_path / "b.csv", rows)
    take_in(config(a, roles=WITH_MESSAGE, buckets=1))
    store, report = take_in(config(a, b, roles=WITH_MESSAGE, buckets=1))
    assert report.quarantine == {"duplicate message id": 2}
    assert [(u, t) for u, t, *_ in content(store)] == [
        ("u1", us("2024-01-01")),
        ("u1", us("2024-01-03")),
        ("u2", us("2024-01-02")),
    ]


def test_returns_find_their_purchase_in_an_earlier_file(tmp_path: Path, take_in: TakeIn) -> None:
    rule = TypeRule(when="quantity < 0", type="return")
    a = write(tmp_path / "a.csv", [("u", "2024-01-01", "", "i", "5", "2", "")])
    b = write(tmp_path / "b.csv", [("u", "2024-01-03", "", "i", "-5", "-1", "")])
    extra: dict[str, Any] = {"types": (rule,), "type": "purchase", "numbers": ("quantity", "value")}
    roles = {k: v for k, v in ROLES.items() if k != "type"}
    take_in(config(a, roles=roles, **extra))
    store, report = take_in(config(a, b, roles=roles, **extra))
    found = {f.name: f.rows for f in report.findings}
    assert found["returns linked to their purchase"] == 1
    table = store.read_bucket(store.bucket_of("u"), ["seq", "return_of", "quantity"])
    assert table.to_pylist() == [
        {"seq": 0, "return_of": None, "quantity": 2.0},
        {"seq": 1, "return_of": 0, "quantity": -1.0},
    ]


def test_nine_runs_are_compacted_by_the_next_writer(tmp_path: Path, take_in: TakeIn) -> None:
    paths = []
    for day in range(1, 11):
        row = ("u", f"2024-01-{day:02d}", "v", "", "", "", "")
        paths.append(write(tmp_path / f"{day}.csv", [row]))
        store, _ = take_in(config(*paths, buckets=1))
    assert len(content(store)) == 10
    assert len(store.manifest.runs[0]) < 9


# ---- formats


EXPECTED = [("17850", us("2024-03-01 10:00:00"), "view", "71053", 1234.5, 2.0)]


def test_gz_headerless_and_whitespace_files(tmp_path: Path, take_in: TakeIn) -> None:
    line = "17850.0\t2024-03-01T10:00:00\tview\t71053\t1234.50\t2\n"
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(line.encode()))
    names = tuple(ROLES)
    assert content(take_in(config("a.tsv.gz", columns=names), "a")[0]) == EXPECTED
    (tmp_path / "b.txt").write_text((line * 3).replace("\t", "   "))
    positions = {role: f"column{i + 1}" for i, role in enumerate(ROLES)}
    store, report = take_in(config("b.txt", roles=positions), "b")
    assert (content(store), report.quarantine) == (EXPECTED, {"exact duplicate": 2})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("¥1,234.50", 1234.5), ("$ 99", 99.0), ("(12.5)", -12.5), ("-€3", -3.0), ("1e3", 1000.0)],
)
def test_money_as_people_write_it(
    tmp_path: Path, take_in: TakeIn, value: str, expected: float
) -> None:
    write(tmp_path / "a.csv", [("u", "2024-01-01", "v", "", value, "", "")])
    assert content(take_in(config("a.csv"), "role")[0])[0][4] == expected
    declared = config("a.csv", roles={**ROLES, "value": "value * 2"}, numbers=("value",))
    assert content(take_in(declared, "declared")[0])[0][4] == 2 * expected


def test_decimal_comma(tmp_path: Path, take_in: TakeIn) -> None:
    write(tmp_path / "a.csv", [("u", "2024-01-01", "v", "", "1.234,50", "", "")])
    assert content(take_in(config("a.csv", decimal=","))[0])[0][4] == 1234.5


def test_encodings_mixed_in_a_folder_and_in_a_file(tmp_path: Path, take_in: TakeIn) -> None:
    (tmp_path / "in").mkdir()
    head = "用户,时间,商品\n"
    lines = [f"张三,2024-01-0{i},羊毛围巾{i}\n" for i in range(1, 7)]
    (tmp_path / "in" / "a.csv").write_bytes((head + lines[0]).encode("utf-8"))
    (tmp_path / "in" / "b.csv").write_bytes((head + lines[1]).encode("gb18030"))
    (tmp_path / "in" / "c.csv").write_bytes(
        (head + lines[2]).encode("utf-8")
        + lines[3].encode("gb18030")
        + "Zoë,2024-01-09,Müsli\n".encode("cp1252")
    )
    (tmp_path / "in" / "d.csv").write_bytes((head + lines[4]).encode("utf-8-sig"))
    (tmp_path / "in" / "e.csv").write_bytes((head + lines[5]).encode("utf-16"))
    roles = {"user": "用户", "time": "时间", "item": "商品"}
    rows = content(take_in(config("in", roles=roles))[0])
    assert sorted((r[0], r[3]) for r in rows) == sorted(
        [("Zoë", "Müsli"), *(("张三", f"羊毛围巾{i}") for i in range(1, 7))]
    )


def test_json_lines_with_nested_objects(tmp_path: Path, take_in: TakeIn) -> None:
    events = [
        {"who": {"id": 7}, "at": "2024-01-01T10:00:00Z", "what": "view", "tags": ["a", "b"]},
        {"who": {"id": 8}, "at": "2024-01-01T10:00:00Z", "what": "buy", "cart": {"sku": "s"}},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    roles = {"user": '"who.id"', "time": "at", "type": "what", "item": '"cart.sku"'}
    conf = config("a.jsonl", roles=roles, properties={"tags": "tags"}, zone=None)
    moment = us("2024-01-01 10:00:00")
    assert content(take_in(conf)[0], "tags") == [
        ("7", moment, "view", None, '["a","b"]'),
        ("8", moment, "buy", "s", None),
    ]


def test_a_header_with_a_dot_is_no_nested_object(tmp_path: Path, take_in: TakeIn) -> None:
    (tmp_path / "a.csv").write_text("user.id,event.time\nu,2024-01-01\n")
    conf = config("a.csv", roles={"user": '"user.id"', "time": '"event.time"'})
    assert content(take_in(conf)[0])[0][:2] == ("u", us("2024-01-01"))


@pytest.mark.parametrize(
    ("times", "zone", "expected"),
    [
        (pa.array([0], pa.timestamp("us")), "Europe/Berlin", "2024-07-01T12:00:00+02:00"),
        (pa.array([0], pa.timestamp("ns", "UTC")), None, "2024-07-01T12:00:00+00:00"),
        (pa.array([0], pa.int64()), None, "2024-07-01T12:00:00+00:00"),
        (pa.array([0], pa.float64()), None, "2024-07-01T12:00:00+00:00"),
    ],
)
def test_parquet_with_typed_columns(
    tmp_path: Path, take_in: TakeIn, times: pa.Array, zone: str | None, expected: str
) -> None:
    noon = us("2024-07-01T12:00:00")
    if pa.types.is_timestamp(times.type):
        column = pa.array([noon], pa.timestamp("us")).cast(times.type, safe=False)
        if times.type.tz:
            column = pa.array([noon], pa.timestamp("us", "UTC")).cast(times.type)
    else:
        column = pa.array([noon // 1_000], pa.int64()).cast(times.type)  # milliseconds
    table = pa.table({"u": pa.array([17850.0]), "t": column, "i": pa.array([71053])})
    pq.write_table(table, tmp_path / "a.parquet")
    conf = config("a.parquet", roles={"user": "u", "time": "t", "item": "i"}, zone=zone)
    rows = content(take_in(conf)[0])
    assert [r[:4] for r in rows] == [("17850", us(expected), "event", "71053")]


def test_ids_are_numbers_in_one_file_and_text_in_another(tmp_path: Path, take_in: TakeIn) -> None:
    day = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    number = pa.table({"u": pa.array([17850.0]), "t": day, "i": pa.array([85123])})
    text = pa.table({"u": pa.array(["17850"]), "t": day, "i": pa.array(["85123A"])})
    (tmp_path / "in").mkdir()
    pq.write_table(number, tmp_path / "in" / "a.parquet")
    pq.write_table(text, tmp_path / "in" / "b.parquet")
    (tmp_path / "in" / "c.csv").write_text(
        "u,t,i\n17850.0,2024-01-02,85123.0\n17850,2024-01-03,X\n"
    )
    (tmp_path / "in" / "d.jsonl").write_text('{"u": 17850, "t": "2024-01-04", "i": 85123}\n')
    store, report = take_in(config("in", roles={"user": "u", "time": "t", "item": "i"}))
    assert report.quarantine == {}
    assert [(r[0], r[3]) for r in content(store)] == [
        ("17850", i) for i in ("85123", "85123A", "85123", "X", "85123")
    ]
    assert store.user_count == 1


def test_a_database_source(tmp_path: Path, take_in: TakeIn) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as con:
        con.execute("CREATE TABLE orders (u INT, t TIMESTAMP, price VARCHAR)")
        con.execute("INSERT INTO orders VALUES (1, '2024-01-01', '¥1,000'), (2, '2024-01-02', '2')")
    roles = {"user": "u", "time": "t", "value": "price"}
    extra: dict[str, Any] = {"roles": roles, "database": "shop.duckdb"}
    store, _ = take_in(config(table="orders", **extra), "table")
    assert [(r[0], r[4]) for r in content(store)] == [("1", 1000.0), ("2", 2.0)]
    conf = config(table="SELECT * FROM orders WHERE u = 2", **extra)
    store, _ = take_in(conf, "query")
    assert [r[0] for r in content(store)] == ["2"]
    generation = store.manifest.generation
    store, again = take_in(conf, "query")
    assert (again.rows_in, store.manifest.generation) == (1, generation)
    with pytest.raises(DataError, match=r"no database file 'gone\.duckdb'"):
        take_in(config(roles=roles, database="gone.duckdb", table="orders"), "gone")


def test_expressions_rules_maps_and_attributes(tmp_path: Path, take_in: TakeIn) -> None:
    (tmp_path / "a.csv").write_text(
        "cust,at,qty,price,what,sku,name,land\n"
        "c1,05/03/2024 10:00,2,3.5,BUY,s1,Scarf,DE\n"
        "c1,06/03/2024 10:00,-1,3.5,BUY,s1,Scarf,DE\n"
        "c2,07/03/2024 10:00,1,4,look,s1,scarf!,FR\n"
    )
    conf = config(
        "a.csv",
        roles={
            "user": "upper(cust)",
            "time": "at",
            "quantity": "qty",
            "price": "price",
            "value": "qty * price",
            "type": "what",
            "item": "sku",
        },
        numbers=("qty", "price"),
        times=("%d/%m/%Y %H:%M",),
        types=(TypeRule(when="qty < 0", type="return", label="negative quantity"),),
        type_map={"buy": "purchase", "Look": "view"},
        of_item={"name": "name"},
        of_user={"country": "land"},
    )
    (tmp_path / "items.csv").write_text("sku,name,cost\ns1,Wool scarf,2.5\ns2,Hat,9\ns2,Cap,9\n")
    (tmp_path / "users.csv").write_text("id,tier\nC1,gold\n")
    conf = msgspec.structs.replace(
        conf,
        items=TableSource(name="items", files=("items.csv",), key="sku", numbers=("cost",)),
        users=TableSource(name="users", files=("users.csv",), key="id"),
    )
    store, _ = take_in(conf)
    assert [r[2:] for r in content(store, "value")] == [
        ("purchase", "s1", 7.0),
        ("return", "s1", -3.5),
        ("view", "s1", 4.0),
    ]
    items, users = store.table("items"), store.table("users")
    assert items is not None
    assert items.to_pylist() == [
        {"item": "s1", "name": "Wool scarf", "cost": 2.5, "in_catalogue": True},
        {"item": "s2", "name": "Cap", "cost": 9.0, "in_catalogue": True},
    ]
    assert users is not None
    assert users.to_pylist() == [
        {"user": "C1", "country": "DE", "tier": "gold"},
        {"user": "C2", "country": "FR", "tier": None},
    ]


def test_missing_values_are_dropped_or_filled_by_rule(tmp_path: Path, take_in: TakeIn) -> None:
    (tmp_path / "a.csv").write_text(
        "u,t,i,p,c,x\n"
        "a,2024-01-01,i,2,web,1\na,2024-01-02,i,4,web,3\na,2024-01-03,i,,,\n"
        "a,2024-01-04,j,,app,2\na,2024-01-05,,9,web,2\n"
    )
    conf = config(
        "a.csv",
        roles={"user": "u", "time": "t", "item": "i", "value": "p", "channel": "c"},
        properties={"x": "x::DOUBLE"},
        clean=CleanConfig(
            missing={"value": "impute", "channel": "impute", "x": "impute", "item": "drop"}
        ),
    )
    store, report = take_in(conf)
    assert report.quarantine == {"missing value": 1}
    assert [r[4:] for r in content(store, "value", "channel", "x")] == [
        (2.0, "web", 1.0),
        (4.0, "web", 3.0),
        (3.0, "web", 2.0),
        (3.0, "app", 2.0),
    ]
    with pytest.raises(ConfigError, match="a missing item cannot be imputed"):
        take_in(msgspec.structs.replace(conf, clean=CleanConfig(missing={"item": "impute"})))


def test_people_and_prices_that_look_wrong_are_set_aside_where_asked(
    tmp_path: Path, take_in: TakeIn
) -> None:
    rows = [("u", f"2024-01-{d:02d}", "buy", "i", "10", "1", "") for d in range(1, 28)]
    rows += [("u", "2024-01-28", "buy", "i", "90000", "1", ""), ("test", *GOOD[1:])]
    rows += [
        ("bot", f"2024-02-01 {m // 60:02d}:{m % 60:02d}:00", "v", "", "", "", "")
        for m in range(300)
    ]
    path = write(tmp_path / "a.csv", rows)
    strict = CleanConfig(outliers="quarantine", bots="quarantine", test_users="quarantine")
    store, report = take_in(config(path, clean=strict))
    expected = {"bot-like user": 300, "test user": 1, "price outlier": 1}
    assert report.quarantine == expected
    assert quarantined(store)[("bot-like user", "bot")] == 300
    assert store.user_count == 1
    _, flagged = take_in(config(path), "flagged")
    assert flagged.quarantine == {}
    assert {f.name: f.rows for f in flagged.findings} == expected
    assert {f.done for f in flagged.findings} == {"kept, only counted"}


# ---- bad input: one clear sentence, nothing half-written


def bad(conf: Config, folder: Path, engine: LocalEngine) -> str:
    """The one sentence an ingest fails with; nothing is there afterwards."""
    with pytest.raises((ConfigError, DataError)) as caught:
        ingest(conf, folder, folder / "store", engine)
    assert not (folder / "store").exists()
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("text", "extra", "sentence"),
    [
        (None, {}, r"DataError: events: no file matches 'a.csv' \(looked in .*\); check the path"),
        ("", {}, r"DataError: .*a\.csv is empty; remove it or bring the file again"),
        ("\n\n", {}, r"DataError: .*a\.csv holds no line; remove it or bring the file again"),
        ("user,time\n", {}, r"DataError: events: the source holds no row; bring a file with"),
        (
            "usr,time\nu,2024-01-01\n",
            {},
            r"ConfigError: events: no column 'user'; did you mean 'usr'\?",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"roles": {"user": "user"}},
            r"ConfigError: events source 'events' names no time column; add time = '…' under",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"zone": None},
            r"ConfigError: events source 'events' has times without a zone .* set workspace.zone",
        ),
        (
            "user,time\nu,31/12/2023\nv,12/31/2023\n",
            {},
            r"DataError: events: no row can be used; 2 of 2 have the fault 'unreadable time', "
            r"for example .*31/12/2023.*; check times = \['%d/%m/%Y %H:%M'\]",
        ),
        (
            "user,time\nu,2150-01-01\n",
            {},
            r"DataError: .*1 of 1 have the fault 'time in the future', for example .*2150-01-01",
        ),
        (
            "user,time,n\nu,2024-01-01,5\n",
            {"roles": {"user": "user", "time": "time", "value": "n * n"}},
            r"ConfigError: events: .*numbers = \['…'\]",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"numbers": ("tim",)},
            r"ConfigError: events: numbers names a column 'tim' .*did you mean 'time'\?",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"properties": {"seq": "user"}},
            r"ConfigError: .*a property cannot be named 'seq'.*choose another",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"clean": CleanConfig(missing={"valeu": "drop"})},
            r"ConfigError: clean.missing names 'valeu'.*did you mean 'value'\?",
        ),
        (
            "user,time\nu,2024-01-01\n",
            {"clean": CleanConfig(earliest="never")},
            r"ConfigError: clean.earliest must be a day such as 1990-01-01, not 'never'",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(
    tmp_path: Path, engine: LocalEngine, text: str | None, extra: dict[str, Any], sentence: str
) -> None:
    if text is not None:
        (tmp_path / "a.csv").write_text(text)
    conf = config("a.csv", **{"roles": {"user": "user", "time": "time"}, **extra})
    assert re.match(sentence, bad(conf, tmp_path, engine))


def test_a_failing_source_leaves_an_existing_store_as_it_was(
    tmp_path: Path, take_in: TakeIn
) -> None:
    path = write(tmp_path / "a.csv", [GOOD])
    take_in(config(path))
    before = {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()}
    write(tmp_path / "b.csv", [])
    with pytest.raises(DataError, match="holds no row"):
        take_in(config(tmp_path / "b.csv", name="second"))
    assert {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()} == before


def test_an_unknown_role_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no role 'usr'; did you mean 'user'"):
        config("a.csv", roles={"usr": "u"})


def test_mixed_time_formats_are_told_apart(tmp_path: Path, take_in: TakeIn) -> None:
    (tmp_path / "a.csv").write_text(
        "user,time\nu,2024-07-01 12:00:00\nu,2024-07-01T12:00:00Z\nu,2024-07-01 12:00:00 +0530\n"
        "u,01.07.2024 13:00\nu,July 1st\nu,1719842400\n"
    )
    conf = config(
        "a.csv",
        roles={"user": "user", "time": "time"},
        zone="Europe/Berlin",
        times=("%d.%m.%Y %H:%M", "epoch_s"),
    )
    store, report = take_in(conf)
    assert report.quarantine == {"unreadable time": 1}
    assert [r[1] for r in content(store)] == sorted(
        us(f"2024-07-01T{t}") for t in ("10:00", "12:00+00:00", "06:30", "11:00", "14:00")
    )


def test_a_log_of_one_user(tmp_path: Path, take_in: TakeIn) -> None:
    store, report = take_in(config(write(tmp_path / "a.csv", [GOOD])))
    assert (report.rows_kept, store.user_count) == (1, 1)


def test_a_million_events_of_one_user(tmp_path: Path, take_in: TakeIn) -> None:
    n = 1_000_000
    at = pa.array(np.random.default_rng(7).integers(0, 10**14, n) + us("2020-01-01"))
    table = pa.table({"u": pa.array(["u"] * n), "t": at, "i": pa.array(np.arange(n) % 1000)})
    pq.write_table(table, tmp_path / "a.parquet")
    conf = config("a.parquet", roles={"user": "u", "time": "t", "item": "i"}, times=("epoch_us",))
    start = time.process_time()
    store, _ = take_in(conf)
    assert time.process_time() - start < 20
    lines = store.timelines(store.bucket_of("u"))
    assert len(lines) == store.rows >= n - 10
    assert (np.diff(lines.time) >= 0).all()


def test_a_failed_run_can_be_run_again(
    tmp_path: Path, take_in: TakeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", [GOOD])
    with monkeypatch.context() as patch:
        patch.setattr("propend.events.ingest._findings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take_in(config(path))
    assert not (tmp_path / "store").exists()
    assert take_in(config(path))[1].rows_kept == 1


def test_a_table_accounts_for_every_row(tmp_path: Path, engine: LocalEngine) -> None:
    log = tmp_path / "a.csv"
    log.write_text("user,time,type\nu1,2024-01-01,buy\nu2,2024-01-02,buy\n")
    lines = ["id,tier", "u1,tin", "u2,tin", ",gold", "u1,gold", "u3,a,b"]
    (tmp_path / "users.csv").write_text("\n".join(lines) + "\n")
    conf = config(log, roles={"user": "user", "time": "time", "type": "type"})
    users = TableSource(name="users", files=("users.csv",), key="id")
    conf = Config(workspace=conf.workspace, events=conf.events, users=users)
    for again in (False, True):
        report = ingest(conf, tmp_path, tmp_path / "store", engine)[-1]
        assert (report.source, report.table, report.rows_in, report.rows_kept) == (
            "[users]",
            True,
            5,
            2,
        ), again
        assert report.quarantine == {"no user": 1, "repeated key": 1, "malformed line": 1}
    store = Store(tmp_path / "store")
    table = store.table("users")
    assert table is not None
    assert {r["user"]: r["tier"] for r in table.to_pylist()} == {"u1": "gold", "u2": "tin"}
    aside = [r for r in store.quarantine().to_pylist() if r["source"] == "[users]"]
    assert [(r["row"], r["reason"], r["user"]) for r in aside if r["user"]] == [
        (1, "repeated key", "u1")
    ]
    store.forget("u1")
    assert not [r for r in store.quarantine().to_pylist() if r["user"] == "u1"]
