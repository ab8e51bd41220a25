"""Bad input, protocols, the fallback's promises, and the whole of a small store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from propend.errors import DataError, ModelError, NotEnoughDataError
from propend.events.store import Store, Writer
from propend.features.schema import Schema
from propend.names import DAY
from propend.recommend import batch
from propend.recommend.catalog import create, load
from propend.recommend.evaluate import evaluate
from propend.recommend.fallback import Fallback
from propend.recommend.interactions import Interactions
from propend.recommend.protocols import forward, leave_one_out, random_split
from propend.testing.recommenders import sample


def test_one_user_alone_is_served_by_what_is_popular() -> None:
    log = Interactions.from_lists([[0, 1]], n_items=3)
    shelf = Fallback([create("item_neighbours"), create("popularity")]).fit(log)
    assert shelf.recommend([0], k=2).lists() == [[]], "everything met, nothing else is known"
    assert shelf.recommend([5], k=2).lists() == [[0, 1]], "a stranger gets what is popular"


def test_a_user_with_everything_gets_an_empty_list() -> None:
    log = Interactions.from_lists([[0, 1, 2], [1]])
    assert create("popularity").fit(log).recommend([0], k=3).lists() == [[]]


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(DataError, match="past the catalogue of 2 items"):
        Interactions.of([0], [5], n_items=2)
    with pytest.raises(DataError, match="above 0"):
        Interactions.of([0], [0], weight=[0.0])
    with pytest.raises(DataError, match="one user, item, time and weight"):
        Interactions.of([0, 1], [0])
    with pytest.raises(ModelError, match="no setting 'neighbors'; did you mean 'neighbours'"):
        create("item_neighbours", neighbors=5)
    with pytest.raises(ModelError, match="cannot be set so"):
        create("item_neighbours", neighbours=0)
    with pytest.raises(ModelError, match="at least one stage"):
        Fallback().fit(Interactions.from_lists([[0]]))
    with pytest.raises(NotEnoughDataError, match="when things were bought"):
        create("buy_again").fit(Interactions.from_lists([[0, 0]]))
    with pytest.raises(NotEnoughDataError, match="pass items="):
        create("content").fit(Interactions.from_lists([[0, 1]]))


def test_forward_learns_from_the_past_only() -> None:
    log, _ = sample()
    split = forward(log, 20)
    cut = log.last + 1 - 20 * DAY
    assert split.train.last < cut == split.at
    for user, low, high in zip(split.users, split.offsets[:-1], split.offsets[1:], strict=True):
        later = log.item[(log.user == user) & (log.time >= cut)]
        assert set(split.truth[low:high].tolist()) <= set(later.tolist())


def test_protocols_hide_or_allow_repeats() -> None:
    log, _ = sample()
    for split in (forward(log, 20, seen="hidden"), random_split(log, seen="hidden")):
        met = {(u, i) for u, i in zip(split.train.user, split.train.item, strict=True)}
        owner = np.repeat(split.users, np.diff(split.offsets))
        assert not met & set(zip(owner, split.truth, strict=True))
    assert forward(log, 20).seen == "allowed", "this log is full of repeats"
    assert "flatters" in leave_one_out(log).warning
    with pytest.raises(NotEnoughDataError, match="needs times"):
        forward(Interactions.from_lists([[0, 1]]))
    with pytest.raises(NotEnoughDataError, match="choose a shorter one"):
        forward(log, 400)


def test_evaluation_has_the_promised_keys() -> None:
    log, items = sample()
    table = evaluate(log, {"knn": create("item_neighbours")}, items=items, horizon=20)
    assert {"protocol", "data_hash", "users", "ties", "models"} <= table.keys()
    popularity, knn = table["models"]
    wanted = {"hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@20", "coverage", "novelty"}
    assert {*wanted, "diversity", "fit_seconds", "users_per_second", "name"} <= knn.keys()
    assert knn["ndcg@5"] > popularity["ndcg@5"], "two tastes are told apart"
    low, high = knn["intervals"]["ndcg@10"]
    assert low < knn["ndcg@10"] < high


def test_audience_is_who_would_like_it() -> None:
    log, _ = sample()
    shelf = create("item_neighbours").fit(log)
    users, scores = shelf.audience(3, 5)
    everyone = shelf.scores(log.users, [3])[:, 0]
    met = {int(u) for u in log.user[log.item == 3]}
    order = [int(u) for u in log.users[np.argsort(-everyone, kind="stable")] if int(u) not in met]
    assert users.tolist() == order[:5]
    assert (np.diff(scores) <= 0).all()


def test_load_finds_the_class(tmp_path: Path) -> None:
    log, items = sample()
    chain = Fallback(
        [create("buy_again"), create("content"), create("popularity")], [2, None, None]
    )
    chain.fit(log, items=items).save(tmp_path / "chain")
    again = load(tmp_path / "chain")
    assert repr(again) == repr(chain)
    assert np.array_equal(again.recommend(k=5).items, chain.recommend(k=5).items)


def test_content_serves_an_item_nobody_met() -> None:
    log, items = sample()
    cold = log.n_items - 1
    shelf = create("content").fit(log, items=items)
    assert cold in shelf.recommend(k=log.n_items).items


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Users u0–u39 (u39 only searched) and items i0–i11, of which i11 is not in the catalogue."""
    rng = np.random.default_rng(5)
    made = Store.create(tmp_path / "store", 4)
    with made.writing() as writer:
        writer.next.types = ["view", "purchase", "search"]
        writer.add_items([f"i{n}" for n in range(12)])
        for bucket in range(4):
            _fill(writer, rng, bucket)
        known = pa.array([f"i{n}" for n in range(11)])
        kind = pa.array([("tea", "cup")[n % 2] for n in range(11)])
        writer.put_table("items", pa.table({"item": known, "kind": kind}))
        writer.commit()
    return Store(tmp_path / "store")


def _fill(writer: Writer, rng: np.random.Generator, bucket: int) -> None:
    ids = [f"u{n}" for n in range(40) if writer.store.bucket_of(f"u{n}") == bucket]
    writer.add_users(bucket, pa.array(ids, pa.string()))
    rows = []
    for place, name in enumerate(ids):
        for _ in range(1 if name == "u39" else 15):
            item = None if name == "u39" else int(rng.integers(0, 12))
            kind = 2 if item is None else int(rng.random() < 0.4)
            rows.append((place * 4 + bucket, int(rng.integers(0, 100)) * DAY, kind, item))
    rows.sort(key=lambda row: row[:2])
    user, time, kind, item = zip(*rows, strict=True)
    events = {
        "user": pa.array(user, pa.int32()),
        "time": pa.array(time, pa.timestamp("us", "UTC")),
        "seq": pa.array(range(len(rows)), pa.int64()),
        "type": pa.array(kind, pa.int16()),
        "item": pa.array(item, pa.int32()),
    }
    schema = writer.store.schema()
    table = pa.table(
        {f.name: events.get(f.name, pa.nulls(len(rows), f.type)) for f in schema}, schema=schema
    )
    writer.add_run(bucket, table)


def test_a_whole_store(store: Store) -> None:
    schema = Schema.of(store)
    table, judged = batch.recommend_all(store, schema, k=5)
    assert table.schema == batch.SCHEMA
    assert "i11" not in table["item"].to_pylist(), "never an item outside the catalogue"
    cold = [row for row in table.to_pylist() if row["user"] == "u39"]
    assert len(cold) == 5
    assert {row["source"] for row in cold} <= {"popularity", "popularity_recent"}
    assert set(table["user"].to_pylist()) == {f"u{n}" for n in range(40)}
    assert all(table["reason"].to_pylist())
    assert judged["models"][0]["name"] == "popularity"
    some = batch.recommend_for(store, schema, ["u1", "never seen"], 3).to_pylist()
    assert [row["user"] for row in some] == ["u1"] * 3 + ["never seen"] * 3
    assert batch.recommend_session(store, schema, ["i1", "i2"], 2).num_rows == 2
    alike = batch.similar_items(store, schema, "i1", 2)
    assert alike["rank"].to_pylist() == [1, 2]
    assert "i1" not in alike["item"].to_pylist()
    with pytest.raises(DataError, match="no item 'i99'"):
        batch.recommend_session(store, schema, ["i99"])


def test_nothing_after_the_cutoff_is_read(store: Store) -> None:
    early = Interactions.from_store(store, until=50 * DAY)
    assert early.last < 50 * DAY
    bought = Interactions.from_store(store, types=["purchase"])
    assert set(bought.weight.tolist()) == {5.0}
    with pytest.raises(DataError, match="did you mean 'purchase'"):
        Interactions.from_store(store, types=["purchse"])


def test_the_house_chain_survives_saving(tmp_path: Path) -> None:
    log, items = sample()
    chain = batch.default_chain(log).fit(log, items=items)
    chain.save(tmp_path / "chain")
    again = load(tmp_path / "chain")
    shown = again.recommend(k=5)
    assert np.array_equal(shown.items, chain.recommend(k=5).items)
    assert again.reasons(shown) == chain.reasons(shown)
    assert set(shown.sources) == {
        "buy_again",
        "item_neighbours",
        "popularity_recent",
        "popularity",
    }, "the sources themselves, not the name of what orders them"
