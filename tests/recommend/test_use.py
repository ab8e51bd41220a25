"""Bad input, protocols, the fallback's promises, and the whole of a small store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from propend.config import RecommendConfig
from propend.errors import ConfigError, DataError, ModelError, NotEnoughDataError
from propend.events.store import Store, Writer, event_schema
from propend.events.timelines import Column
from propend.features.schema import Schema
from propend.names import DAY
from propend.recommend import batch, house
from propend.recommend.blend import Blend
from propend.recommend.catalog import create, load
from propend.recommend.evaluate import evaluate
from propend.recommend.fallback import Fallback
from propend.recommend.interactions import Interactions
from propend.recommend.onboarding import questions
from propend.recommend.protocols import forward, leave_one_out, random_split
from propend.recommend.recommender import Recommender
from propend.recommend.rules.of_store import bundle_table, margins_of, rule_table, store_baskets
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


def test_cold_users_and_items_are_judged_apart() -> None:
    log, items = sample()
    late = Interactions.of([900, 901], [3, 29], [log.last, log.last], n_items=log.n_items)
    table = evaluate(log.join(late), {"content": create("content")}, items=items, horizon=20)
    popularity, content = table["models"]
    assert popularity["cold_users"]["users"] == 2
    assert popularity["cold_users"]["recall@20"] == 0.5, "item 29 is cold too: never popular"
    assert content["cold_users"]["hr@20"] == 0.0, "no history, no opinion"
    parts = popularity["recall@20_of"]
    assert {"head", "tail", "warm_items", "cold_items", "short_history"} <= parts.keys()
    assert parts["warm_items"] == pytest.approx(popularity["recall@20"], abs=0.2)
    without = evaluate(log, {}, horizon=20)
    assert table["users"] == without["users"], "the others' figures stay as they are"


def test_popularity_of_each_group() -> None:
    log = Interactions.from_lists([[0], [0], [0], [1], [1]])
    country = Column(np.array([0, 0, 0, 1, 1, 1, -1], np.int32), ("DE", "FR"))
    age = np.array([20.0, 20, 20, 60, 60, 60, np.nan])
    for name, values in (("country", country), ("age", age)):
        shelf = create("popularity", by=name, prior=1.0).fit(log, users={name: values})
        assert shelf.label == f"popularity_by_{name}"
        shown = shelf.recommend([5, 6, 700], k=1).lists()
        assert shown == [[1], [0], [0]], "a newcomer's group, and everybody's where there is none"
        wary = create("popularity", by=name, prior=1000.0).fit(log, users={name: values})
        assert wary.recommend([5], k=1).lists() == [[0]], "a small group follows everybody"
    with pytest.raises(ModelError, match="did you mean 'country'"):
        create("popularity", by="countri").fit(log, users={"country": country})
    with pytest.raises(ModelError, match="there are no user attributes"):
        create("popularity", by="country").fit(log)
    with pytest.raises(ModelError, match="one per user code"):
        create("popularity").fit(log, users={"a": np.zeros(3), "b": np.zeros(4)})


def test_blending_weights_find_the_source_that_knows() -> None:
    log, _ = sample(users=200, seed=1)
    shelf = Blend([create("item_neighbours"), create("popularity")]).fit(log)
    assert shelf.weights["item_neighbours"] > shelf.weights["popularity"] >= 0
    again = Blend([create("item_neighbours"), create("popularity")]).fit(log)
    assert again.weights == shelf.weights
    cut = log.first + (log.last - log.first) * 9 // 10
    assert shelf.at > cut, "the weights saw the past of the cut, the sources all of it"


def test_onboarding_asks_what_tells_most() -> None:
    rng = np.random.default_rng(0)
    log = Interactions.of(rng.integers(0, 50, 400), rng.integers(0, 20, 400))
    table = log.matrix(binary=True).toarray() > 0
    chosen: list[int] = []
    for _ in range(6):  # the greedy choice by hand

        def gain(item: int) -> float:
            met = table[:, chosen].sum(axis=1)
            return float((table[:, item] / (met + 1)).sum())

        chosen.append(max((i for i in range(20) if i not in chosen), key=lambda i: (gain(i), -i)))
    assert questions(log, 6).tolist() == chosen
    within = np.arange(20) < 3
    assert set(questions(log, 6, within=within).tolist()) == {0, 1, 2}
    after = questions(log, 3, answered=[4])
    assert 4 not in after
    with pytest.raises(ModelError, match="no item with code 20"):
        questions(log, 3, answered=[20])
    with pytest.raises(ModelError, match="k must be 1"):
        questions(log, 0)


def test_als_has_biases_and_item_features() -> None:
    rng = np.random.default_rng(0)
    item = np.minimum(rng.geometric(0.15, 3000) - 1, 28)
    log = Interactions.of(rng.integers(0, 200, 3000), item, n_items=30)
    flat = create("als", factors=1, rounds=8, strength=50.0, biases=False).fit(log)
    bias = create("als", factors=1, rounds=8, strength=50.0).fit(log)
    met = np.bincount(log.item, minlength=30)[:29]

    def order(shelf: Recommender) -> float:
        return float(
            np.corrcoef(np.argsort(np.argsort(shelf.scores([0], range(29))[0])), met)[0, 1]
        )

    assert order(bias) > 0.5
    assert bias.scores([0]).max() > flat.scores([0]).max(), (
        "the biases are not pressed as tastes are"
    )
    log, items = sample()
    cold = log.n_items - 1  # of the second half, as its attributes say; met by nobody
    known = {"category": items["category"]}
    shelf = create("als", factors=8, features=2.0).fit(log, items=known)
    odd = log.users[(log.users - 2) // 3 % 2 == 1]
    even = log.users[(log.users - 2) // 3 % 2 == 0]
    above = shelf.scores(odd, [cold]) > shelf.scores(even, [cold]).T
    assert above.mean() > 0.75, "an item nobody met goes where its attributes do"
    assert np.isneginf(create("als", factors=8).fit(log).scores(odd, [cold])).all()


def test_audience_is_who_would_like_it() -> None:
    log, _ = sample()
    shelf = create("item_neighbours").fit(log)
    users, scores = shelf.audience(3, 5)
    known = shelf.scores(log.users).astype(float)
    filled = np.where(np.isfinite(known), known, np.nan)
    filled = np.where(np.isnan(filled), np.nanmin(filled, axis=1, keepdims=True), filled)
    level = (filled[:, 3] - filled.mean(axis=1)) / filled.std(axis=1)
    busy = [0.5 ** ((shelf.at - log.time[log.user == u]) / DAY / 30) for u in log.users]
    everyone = level + np.log(1e-3 + np.array([values.sum() for values in busy]))
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
    _add(writer, bucket, rows)


def _add(writer: Writer, bucket: int, rows: list[Any]) -> None:
    """Add events: user, time, type and item, and a rating where there is one."""
    rows.sort(key=lambda row: row[:2])
    user, time, kind, item, *rating = zip(*rows, strict=True)
    events = {
        "user": pa.array(user, pa.int32()),
        "time": pa.array(time, pa.timestamp("us", "UTC")),
        "seq": pa.array(range(len(rows)), pa.int64()),
        "type": pa.array(kind, pa.int16()),
        "item": pa.array(item, pa.int32()),
    }
    schema = event_schema(writer.next.properties)
    if rating:
        events["rating"] = pa.array(rating[0], pa.float64())
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
    nobody = batch.recommend_for(store, schema, ["never seen"], 2)["item"].to_pylist()
    assert batch.recommend_session(store, schema, [], 2)["item"].to_pylist() == nobody
    alike = batch.similar_items(store, schema, "i1", 2)
    assert alike["reason"].to_pylist() == ["chosen by the same users as i1"] * 2
    assert alike["source"].to_pylist() == ["item_neighbours"] * 2
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
    ranker = RecommendConfig(mix="ranker")
    chain = batch.default_chain(log, rules=ranker).fit(log, items=items)
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


def test_the_shops_rules_reach_every_offer(store: Store) -> None:
    schema = Schema.of(store)
    rules = RecommendConfig(pin=("i3",), bury=("i0",), category="kind", cap=2, mix="order")
    table, judged = batch.recommend_all(store, schema, k=4, rules=rules)
    rows = table.to_pylist()
    assert {row["item"] for row in rows if row["rank"] == 1} == {"i3"}
    pinned = [row for row in rows if row["source"] == "pinned"]
    assert {row["reason"] for row in pinned} == {"pinned by the shop"}
    kinds = {f"i{n}": ("tea", "cup")[n % 2] for n in range(11)}
    for user in ("u1", "u39"):
        mine = [kinds[r["item"]] for r in rows if r["user"] == user and r["source"] != "pinned"]
        assert max(mine.count(kind) for kind in mine) <= 2
    assert judged["served"] == judged["models"][-1]["name"] == "served"
    assert sum(judged["sources"].values()) == table.num_rows
    session = batch.recommend_session(store, schema, ["i1"], 2, rules=rules)
    assert session["item"].to_pylist()[0] == "i3"
    fans = batch.audience_of(store, schema, "i3", 5, rules=rules)
    assert fans.schema == batch.AUDIENCE
    met = {row["user"] for row in fans.to_pylist()}
    assert 0 < len(met) <= 5
    asked = batch.questions_of(store, ["i1"], 3)
    assert "i1" not in asked["item"].to_pylist()
    assert "i11" not in asked["item"].to_pylist(), "only what is in the catalogue"


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (RecommendConfig(pin=("i99",)), "no item 'i99'"),
        (RecommendConfig(diversity=3.0), "diversity"),
        (RecommendConfig(category="knd", cap=1), "did you mean 'kind'"),
        (RecommendConfig(at_most=2), "name the event types in shown"),
        (RecommendConfig(at_most=2, shown=("viw",)), "did you mean 'view'"),
        (RecommendConfig(segment="country"), "no user attribute 'country'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_rule_is_one_sentence(store: Store, rules: RecommendConfig, sentence: str) -> None:
    with pytest.raises((ConfigError, DataError), match=sentence) as raised:
        batch.recommend_for(store, Schema.of(store), ["u1"], rules=rules)
    assert "\n" not in str(raised.value)


def test_a_fitted_recommender_is_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, kept = Schema.of(store), tmp_path / "kept"
    rules = RecommendConfig(mix="order")
    first = house.fit_default(store, schema, rules=rules, kept=kept)
    house.fit_default(store, schema, rules=rules, sessions=True, kept=kept)
    with monkeypatch.context() as patch:
        patch.setattr(Interactions, "from_store", None)  # nothing is fitted anew
        again = house.fit_default(store, schema, rules=rules, kept=kept)
    assert np.array_equal(again.recommend(k=4).items, first.recommend(k=4).items)
    assert len(list(kept.iterdir())) == 2
    house.fit_default(store, schema, rules=RecommendConfig(mix="order", pin=("i3",)), kept=kept)
    assert len(list(kept.iterdir())) == 2, "the older one is gone"
    before = {path.name for path in kept.iterdir()}
    with store.writing() as writer:
        _add(writer, 0, [(0, 101 * DAY, 0, 4)])
        writer.commit()
    store = Store(store.folder)
    house.fit_default(store, schema, rules=RecommendConfig(mix="order", pin=("i3",)), kept=kept)
    assert {path.name for path in kept.iterdir()} != before, "the log has changed"


def test_a_rating_is_the_weight(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "rated", 1)
    rows = [
        (0, DAY, 0, 0, 1.0),
        (0, 2 * DAY, 0, 1, 5.0),
        (1, DAY, 0, 0, 3.0),
        (1, 3 * DAY, 0, 2, None),
    ]
    with made.writing() as writer:
        writer.next.types = ["rating"]
        writer.next.properties = {"rating": "number"}
        writer.add_items(["a", "b", "c"])
        writer.add_users(0, pa.array(["u0", "u1"], pa.string()))
        _add(writer, 0, rows)
        writer.commit()
    made = Store(tmp_path / "rated")
    log = Interactions.from_store(made)
    assert log.weight.tolist() == pytest.approx([2 / 3, 10 / 3, 2.0, 2.0]), (
        "2 × rating / mean rating"
    )
    assert set(Interactions.from_store(made, types={"rating": 1.0}).weight.tolist()) == {1.0}
    shelf = create("item_neighbours", measure="adjusted_cosine", weighting="given").fit(log)
    assert shelf.history.weight.max() == pytest.approx(10 / 3), "values that differ can be centred"


def test_exposures_of_the_log_are_counted(store: Store) -> None:
    schema = Schema.of(store)
    rules = RecommendConfig(at_most=1, shown=("view",), within="400d", mix="order")
    table = batch.recommend_for(store, schema, ["u1"], 11, rules=rules)
    viewed = set()
    for bucket in range(store.buckets):
        lines = store.timelines(bucket)
        mine = (lines.users[lines.user_of_row] == store.code_of("u1")) & (lines.type == 0)
        viewed |= set(lines.item[mine].tolist())
    assert not {int(item[1:]) for item in table["item"].to_pylist()} & viewed


def test_others_of_the_catalogue_are_judged_beside(store: Store) -> None:
    others = ("blend", "ease", "ease:strength=2,item_power=0.5")
    table = batch.judge(store, Schema.of(store), others=others, ties="random")
    assert {"popularity", *others, "served"} <= {m["name"] for m in table["models"]}
    assert (table["ties"], table["chosen"] in table["judged"]) == ("random", True)
    figures = {m["name"]: m["ndcg@20"] for m in table["models"]}
    assert figures["ease"] != figures[others[-1]], "the settings are read"
    assert all(m["audience"] is None or 0 < m["audience"]["auc"] < 1 for m in table["models"])
    with pytest.raises(ModelError, match="did you mean 'strength'"):
        batch.judge(store, Schema.of(store), others=("ease:strenght=2",))
    with pytest.raises(ConfigError, match="write settings as"):
        batch.judge(store, Schema.of(store), others=("ease:strength",))
    with pytest.raises(ModelError, match="did you mean 'ease'"):
        batch.judge(store, Schema.of(store), others=("eese",))


def test_rules_of_a_store(store: Store) -> None:
    schema, names = Schema.of(store), list(store.item_ids())
    per_user = store_baskets(store, "user")
    assert len(per_user) <= 39, "only purchases fill baskets"
    views = store_baskets(store, "user", types=["view", "purchase"])
    assert len(views) == 39
    weeks = store_baskets(store, "30d", types=["view", "purchase"])
    assert len(views) < len(weeks) <= 39 * 4
    assert len(weeks.items) <= 39 * 15
    found = rule_table(store, schema, names, support=0.05, significance=None, per="user")
    assert found.num_rows > 0
    assert "expected_margin" not in found.column_names, "no money in this log"
    assert margins_of(store, schema) is None
    with pytest.raises(NotEnoughDataError, match="neither a margin"):
        bundle_table(store, schema, names, per="user")
    with pytest.raises(DataError, match="no item attribute 'margn'"):
        bundle_table(store, schema, names, per="user", margin="margn")
    with pytest.raises(DataError, match="is text"):
        bundle_table(store, schema, names, per="user", margin="kind")
    with pytest.raises(DataError, match="not per 'fortnight'"):
        store_baskets(store, "fortnight")
    with pytest.raises(DataError, match="did you mean 'view'"):
        store_baskets(store, types=["viiew"])
