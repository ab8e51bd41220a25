from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.events.stores import ROLES, config, content

from propend.config import CleanConfig, Config, TableSource
from propend.engine.local import LocalEngine
from propend.errors import DataError
from propend.events.ingest import IngestReport, ingest
from propend.events.store import Manifest, Store

TakeIn = Callable[..., tuple[Store, IngestReport]]


def write(path: Path, *lines: str) -> Path:
    path.write_text("user,time,type,item,value,quantity,note\n" + "\n".join(lines) + "\n")
    return path


def bytes_of(folder: Path) -> bytes:
    """Every byte of the store, and every value and statistic of its Parquet files in plain form."""
    out = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        out += [str(path.relative_to(folder)).encode(), path.read_bytes()]
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            dictionaries = pq.read_table(
                path, partitioning=None, read_dictionary=table.column_names
            )
            out += [json.dumps(table.to_pylist(), default=str, ensure_ascii=False).encode()]
            out += [str(chunk).encode() for c in dictionaries.columns for chunk in c.chunks]
            out += [str(pq.read_metadata(path).to_dict()).encode()]
    return b"\0".join(out)


@pytest.fixture
def shop(tmp_path: Path) -> Config:
    a = write(
        tmp_path / "a.csv",
        "ada@x.org,2024-01-01,buy,i1,5,1,to ada@x.org",
        "ada@x.org,2024-01-01,buy,i1,5,1,to ada@x.org",
        "ada@x.org,2024-01-02,buy,i2,5,0,",
        "ada@x.org,never,buy,i2,5,1,",
        "ada@x.org,2024-01-04,a malformed line",
        "bob,2024-01-01,buy,i1,7,1,to bob",
        "bob,2024-01-03,view,i3,,,to bob",
        "bob,2024-01-03,view,i3,,0,",
    )
    (tmp_path / "users.csv").write_text("id,tier\nada@x.org,gold\nbob,tin\n")
    conf = config(a, buckets=1, properties={"note": "note"}, of_user={"kind": "type"})
    users = TableSource(name="users", files=("users.csv",), key="id")
    return Config(workspace=conf.workspace, events=conf.events, users=users)


def test_forget_leaves_no_byte_and_the_user_does_not_come_back(
    tmp_path: Path, shop: Config, take_in: TakeIn
) -> None:
    store, report = take_in(shop)
    assert report.quarantine == {
        "exact duplicate": 1,
        "zero quantity": 2,
        "unreadable time": 1,
        "malformed line": 1,
    }
    assert b"ada@x.org" in bytes_of(store.folder)
    others = [row for row in content(store, "note") if row[0] == "bob"]
    bob = store.code_of("bob")
    assert store.forget("ada@x.org") == {"events": 1, "quarantined": 4, "attributes": 1}
    assert b"ada@x.org" not in bytes_of(store.folder)
    assert content(store, "note") == others
    assert (store.code_of("bob"), store.user_count) == (bob, 2)
    with pytest.raises(DataError, match=r"no user 'ada@x\.org' in the store; nothing was erased"):
        store.forget("ada@x.org")
    b = write(tmp_path / "b.csv", "ada@x.org,2024-02-01,buy,i1,5,1,", "eve,2024-02-01,buy,i1,,,")
    source = shop.events[0]
    (tmp_path / "users.csv").write_text("id,tier\nada@x.org,gold\nbob,tin!\n")
    for clean in (CleanConfig(), CleanConfig(zero_quantity="keep", exact_duplicates="flag")):
        more = Config(
            workspace=shop.workspace,
            events=(
                type(source)(
                    files=(*source.files, str(b)),
                    roles=ROLES,
                    properties=source.properties,
                    of_user=source.of_user,
                ),
            ),
            users=shop.users,
            clean=clean,
        )
        store, report = take_in(more)
        assert b"ada@x.org" not in bytes_of(store.folder)
        assert {row[0] for row in content(store)} == {"bob", "eve"}
        assert report.quarantine["erased user"] >= 1
        users = store.table("users")
        assert users is not None
        assert set(users["user"].to_pylist()) == {"bob", "eve"}


def test_readers_see_runs_and_compacted_alike_and_keep_reading_over_a_compaction(
    tmp_path: Path, take_in: TakeIn
) -> None:
    a = write(tmp_path / "a.csv", *(f"u{i},2024-01-0{i},buy,i{i},1,1,n{i}" for i in range(1, 9)))
    b = write(tmp_path / "b.csv", *(f"u{i},2024-01-09,buy,i{i},1,1,m{i}" for i in range(1, 9)))
    take_in(config(a, properties={"note": "note"}, buckets=2))
    store, _ = take_in(config(a, b, properties={"note": "note"}, buckets=2))
    reader = Store(store.folder)
    before = content(reader, "note")
    runs = store.manifest.files()
    assert store.compact() == 2
    assert content(store, "note") == before
    assert content(reader, "note") == before  # the files it knew of are gone; it looks again
    assert not any((store.folder / f).exists() for f in runs - store.manifest.files())
    assert store.compact() == 0


def test_timelines_are_one_users_events_in_order(tmp_path: Path, take_in: TakeIn) -> None:
    a = write(
        tmp_path / "a.csv",
        "u,2024-01-02,buy,i1,5,,x",
        "u,2024-01-01,view,,,,",
        "v,2024-01-01,view,i2,,,x",
    )
    store, _ = take_in(config(a, properties={"note": "note"}, buckets=1))
    lines = store.timelines(0, ["value", "note"])
    assert store.names_of(lines.users).tolist() == ["u", "v"]
    assert lines.offsets.tolist() == [0, 2, 3]
    assert [store.types[t] for t in lines.type] == ["view", "buy", "view"]
    assert [store.item_ids()[i] if i >= 0 else None for i in lines.item] == [None, "i1", "i2"]
    assert np.array_equal(lines.numbers["value"], [np.nan, 5, np.nan], equal_nan=True)
    note = lines.texts["note"]
    assert [note.values[c] if c >= 0 else None for c in note.codes] == [None, "x", "x"]
    with pytest.raises(DataError, match="no column 'valu' in the log; did you mean 'value'"):
        store.timelines(0, ["valu"])


def test_a_store_made_anew_in_the_same_place_is_not_taken_for_the_old(
    tmp_path: Path, engine: LocalEngine
) -> None:
    for item in ("first", "second"):
        folder = tmp_path / "store"
        path = write(tmp_path / "a.csv", f"u,2024-01-01,buy,{item},,,")
        ingest(config(path), tmp_path, folder, engine)
        assert Store(folder).item_ids() == (item,)
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def test_names_that_are_not_there(tmp_path: Path, take_in: TakeIn) -> None:
    store, _ = take_in(config(write(tmp_path / "a.csv", "u,2024-01-01,purchase,scarf,,,")))
    with pytest.raises(DataError, match="no user 'U' in the store"):
        store.code_of("U")
    with pytest.raises(DataError, match="no item 'scraf' in the log; did you mean 'scarf'"):
        store.item_code("scraf")
    with pytest.raises(DataError, match=r"no event type 'purchse'.*did you mean 'purchase'"):
        store.type_codes(["purchse"])
    assert store.item_code("scarf") == 0
    low, high = store.span
    assert low == high


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', "nonsense"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: the store.*ingest"):
        Store(tmp_path)


def test_no_store_and_a_second_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no store; run: propend ingest"):
        Store(tmp_path / "none")
    store = Store.create(tmp_path / "s", 2)
    with pytest.raises(DataError, match="holds a store already"):
        Store.create(tmp_path / "s", 2)
    with pytest.raises(DataError, match="a power of two, not 3"):
        Store.create(tmp_path / "t", 3)
    with pytest.raises(DataError, match="holds no event"):
        _ = store.span
    assert Manifest.loads(store.manifest.dumps(), tmp_path) == store.manifest


def test_other_tools_read_the_files(tmp_path: Path, take_in: TakeIn, engine: LocalEngine) -> None:
    lines = (f"u{i},2024-01-0{i},buy,i{i},{i},1,n" for i in range(1, 9))
    store, _ = take_in(config(write(tmp_path / "a.csv", *lines)))
    files = sorted((store.folder / "events").rglob("*.parquet"))
    users = sorted((store.folder / "users").rglob("*.parquet"))
    found = engine.query(
        "SELECT user_id, value, time FROM events JOIN users USING (user) ORDER BY 1",
        {"events": files, "users": users},
    )
    assert found["user_id"].to_pylist() == [f"u{i}" for i in range(1, 9)]
    assert found["value"].to_pylist() == list(range(1, 9))
    assert found.schema.field("time").type == pa.timestamp("us", "UTC")


def test_a_damaged_file_is_named(take_in: TakeIn, shop: Config) -> None:
    store, _ = take_in(shop)
    run = next(store.folder.glob("events/**/*.parquet"))
    run.write_bytes(run.read_bytes()[:-40])
    with pytest.raises(
        DataError, match=rf"{run.name} is damaged \(.*\); put it back from a backup, or remove"
    ):
        Store(store.folder).timelines(0)
