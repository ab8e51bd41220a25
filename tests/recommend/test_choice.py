"""What is served is chosen forward in time, nothing sees its label, and who would like an item is worth asking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from propend.config import RecommendConfig
from propend.errors import ConfigError, MissingExtraError, ModelError, NotEnoughDataError
from propend.events.timelines import Column
from propend.names import DAY
from propend.recommend import keep
from propend.recommend.audience import activity, audience_auc
from propend.recommend.blend import Blend
from propend.recommend.candidates import Examples, Pooled
from propend.recommend.catalog import create, load
from propend.recommend.choice import Choice
from propend.recommend.evaluate import compare, measure
from propend.recommend.fits import shared
from propend.recommend.house import declared, default_chain, session_chain
from propend.recommend.hybrid import Hybrid
from propend.recommend.interactions import Interactions
from propend.recommend.popularity import Popularity
from propend.recommend.protocols import forward
from propend.recommend.recommender import Recommender
from propend.recommend.reranked import Reranked
from propend.testing.recommenders import check_recommender, sample


def test_choice_keeps_the_contract() -> None:
    def factory() -> Recommender:
        ways = [create("popularity"), create("item_neighbours"), create("buy_again")]
        return Choice(ways, [create("item_neighbours"), create("content")])

    check_recommender(factory)


def test_the_way_that_foretells_best_serves() -> None:
    log, _ = sample(users=120)
    shelf = default_chain(log).fit(log)
    assert shelf.judged[shelf.chosen] >= max(shelf.judged.values()) - 0.02
    assert shelf.judged["item_neighbours"] > shelf.judged["popularity_recent"], "two tastes"
    assert shelf.chosen != "popularity_recent"
    # everybody takes what is in fashion this week: nothing personal can be learnt
    rng = np.random.default_rng(0)
    day = np.sort(rng.integers(0, 90, 3000))
    item = day // 5 * 4 + rng.integers(0, 8, 3000)
    user = rng.integers(0, 200, 3000)
    fashion = Interactions.of(user, item, day * DAY, n_items=int(item.max()) + 1)
    judged = default_chain(fashion).fit(fashion).judged
    assert judged["popularity_recent"] > judged["item_neighbours"]


def test_the_choice_looks_no_further_than_its_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = sample(users=120)
    split = forward(log)
    seen = _moments(monkeypatch, [Popularity])
    default_chain(split.train).fit(split.train, at=split.at)
    assert max(seen) < split.at, "the evaluation's future is not looked at"
    inner = forward(split.train).at
    assert min(seen) < inner, "and the ways are compared on what they had not learnt"


def test_what_was_met_is_offered_again_where_people_do_so() -> None:
    log, _ = sample(users=120)
    ways = [create("popularity"), create("item_neighbours")]
    again = Choice(ways).fit(log)
    shown = again.recommend(k=log.n_items)
    both = again.recommend(k=log.n_items, exclude_seen=False)
    assert np.array_equal(shown.items, both.items), "this log is full of repeats"
    new = Choice(ways, repeats=False).fit(log).recommend(k=log.n_items)
    hidden = again.recommend(k=log.n_items, exclude_seen=True)
    assert (new.items >= 0).sum() < (shown.items >= 0).sum()
    assert (new.items >= 0).sum(axis=1).tolist() == (hidden.items >= 0).sum(axis=1).tolist()
    fixed = Choice([create("buy_again")]).fit(log).recommend(k=3)
    assert (fixed.items >= 0).any(), "a single way does as it is used to"


def test_a_log_too_short_to_compare_is_served_all_the_same() -> None:
    log = Interactions.of([0, 0, 1], [0, 1, 1], [0, 0, 0], n_items=3)
    shelf = default_chain(log).fit(log)
    assert (shelf.chosen, shelf.judged) == ("order", {})
    assert shelf.recommend([1], k=2).lists() == [[0]]
    with pytest.raises(ModelError, match="at least one way"):
        Choice().fit(log)


def test_a_chosen_way_survives_saving(tmp_path: Path) -> None:
    log, items = sample(users=120)
    shelf = default_chain(log, items=items).fit(log, items=items)
    shelf.save(tmp_path / "shelf")
    again = load(tmp_path / "shelf")
    assert isinstance(again, Choice)
    assert (again.chosen, again.judged) == (shelf.chosen, shelf.judged)
    assert np.array_equal(again.recommend(k=5).items, shelf.recommend(k=5).items)
    assert again.audience(3, 5)[0].tolist() == shelf.audience(3, 5)[0].tolist()


# ---- nothing sees its label


def _moments(monkeypatch: pytest.MonkeyPatch, kinds: list[type[Recommender]]) -> list[int]:
    """Record the time of the last interaction each fit of a recommender learns from."""
    seen: list[int] = []
    for kind in kinds:
        learn = kind._learn

        def spy(self: Any, log: Interactions, learn: Any = learn) -> None:
            seen.append(log.last)
            learn(self, log)

        monkeypatch.setattr(kind, "_learn", spy)
    return seen


def _stages() -> list[Recommender]:
    return [create("buy_again"), create("item_neighbours"), create("popularity")]


POOLED: list[Callable[[], Pooled]] = [
    lambda: Hybrid(_stages(), trees=5, candidates=20, horizon=9.0, repeats=True),
    lambda: Blend(_stages(), candidates=20, horizon=9.0, repeats=True),
]


class _LearntError(Exception):
    """The order would be learnt now: what it is learnt from was recorded."""


def _learnt_from(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Pooled], log: Interactions, **known: Any
) -> tuple[list[Any], Examples]:
    """Return the features of all pairs that were looked at while the order was learnt, and the examples."""
    shelf = make()
    kind, looked_at, caught = type(shelf), [], []
    candidates = kind._candidates

    def look(self: Pooled, *block: Any) -> Any:
        pool = candidates(self, *block)
        looked_at.append(pool.X)
        return pool

    def order(self: Pooled, examples: Examples) -> None:
        del self
        caught.append(examples)
        raise _LearntError

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_candidates", look)
        patch.setattr(kind, "_order", order)
        with pytest.raises(_LearntError):
            shelf.fit(log, **known)
    return looked_at, caught[0]


@pytest.mark.parametrize("make", POOLED, ids=["hybrid", "blend"])
def test_no_feature_changes_with_the_future(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Pooled]
) -> None:
    log, items = sample(users=120, seed=1)
    country = Column((np.arange(3 * 120 + 3) % 2).astype(np.int32), ("DE", "FR"))
    late = log.time >= forward(log, 9.0, seen="allowed").at
    item = log.item.copy()
    item[late] = np.random.default_rng(0).permutation(item[late])
    other = Interactions(log.user, item, log.time, log.weight, log.n_items)
    known = {"items": items, "users": {"country": country}}
    first, examples = _learnt_from(monkeypatch, make, log, **known)
    second, others = _learnt_from(monkeypatch, make, other, **known)
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one, two, equal_nan=True), "features know the past only"
    assert not np.array_equal(examples.y, others.y), "the labels are the future"


@pytest.mark.parametrize("make", POOLED, ids=["hybrid", "blend"])
def test_sources_learn_from_what_lies_before_the_cut(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Pooled]
) -> None:
    log, _ = sample(users=120, seed=1)
    cut = forward(log, 9.0, seen="allowed").at
    seen = _moments(monkeypatch, [type(stage) for stage in _stages()])
    marks: list[int] = []
    order = type(make())._order

    def learn(self: Pooled, examples: Examples) -> None:
        marks.append(len(seen))
        assert self._fitted().last >= cut, "the whole log is back for the second fit"
        order(self, examples)

    monkeypatch.setattr(type(make()), "_order", learn)
    make().fit(log)
    before, after = seen[: marks[0]], seen[marks[0] :]
    assert len(before) == len(after) == 3
    assert max(before) < cut, "no source has seen a label while the order was learnt"
    assert min(after) >= cut, "afterwards they know everything"


# ---- who would like it


def test_audiences_are_better_than_chance() -> None:
    """On items of one taste, asked of the house's chain: forward, of users who had not met the item."""
    log, _ = sample(users=300, items=60, seed=2)
    split = forward(log, 9.0)
    shelf = default_chain(split.train).fit(split.train, at=split.at)
    found = audience_auc(shelf, split)
    assert found is not None
    assert found["auc"] > 0.65
    nobody = audience_auc(create("popularity").fit(split.train, at=split.at), split)
    assert nobody is not None
    assert found["auc"] > nobody["auc"] + 0.05, "more than who comes often"


def test_the_audience_figure_equals_counting_pairs() -> None:
    log, _ = sample(users=150, seed=4)
    split = forward(log, 9.0, seen="allowed")
    shelf = create("item_neighbours").fit(split.train, at=split.at)
    users = split.train.users
    rows = {int(u): n for n, u in enumerate(users)}
    met = np.zeros((len(users), log.n_items), bool)
    met[[rows[int(u)] for u in split.train.user], split.train.item] = True
    came = np.zeros_like(met)
    owner = np.repeat(split.users, np.diff(split.offsets))
    came[[rows[int(u)] for u in owner], split.truth] = True
    scores = shelf.scores(users).astype(float)
    histories = split.train.histories(users)
    busy = np.zeros(len(users))
    for n, (low, high) in enumerate(
        zip(histories.offsets[:-1], histories.offsets[1:], strict=True)
    ):
        busy[n] = sum(0.5 ** ((split.at - t) / DAY / 30) for t in histories.time[low:high])
    assert np.allclose(activity(histories, split.at, clock=True), busy)
    figures = []
    for item in range(log.n_items):
        y = came[~met[:, item], item]
        if y.sum() < 5 or (~y).sum() < 5:
            continue
        value = []
        for n in np.flatnonzero(~met[:, item]):
            row = np.where(
                np.isfinite(scores[n]), scores[n], scores[n][np.isfinite(scores[n])].min()
            )
            level = (row[item] - row.mean()) / (row.std() + 1e-9) + np.log(1e-3 + busy[n])
            value.append(level if np.isfinite(scores[n, item]) else -np.inf)
        rank = rankdata(value)
        figures.append((rank[y].sum() - y.sum() * (y.sum() + 1) / 2) / (y.sum() * (~y).sum()))
    found = audience_auc(shelf, split)
    assert found is not None
    assert found["items"] == len(figures) > 0
    assert found["auc"] == pytest.approx(np.mean(figures), abs=1e-4)


def test_an_item_nobody_met_has_an_audience_and_its_like() -> None:
    log, items = sample(users=120)
    cold = log.n_items - 1
    shelf = default_chain(log, items=items).fit(log, items=items)
    assert shelf.speaker(cold).name == "content"
    users, _ = shelf.audience(cold, 20)
    assert len(users) == 20
    odd = (users - 2) // 3 % 2 == 1  # who have the taste of the item's half
    assert odd.mean() > 0.8
    alike = shelf.similar([cold, 0], 3)
    assert [alike.sources[row[0]] for row in alike.source] == ["content", "item_neighbours"]
    assert cold not in alike.items[0]
    without = default_chain(log).fit(log)
    assert without.audience(cold, 5)[0].tolist() == []
    assert without.similar([cold], 3).lists() == [[]]


def test_a_new_item_is_a_candidate_where_items_are_described() -> None:
    log, items = sample(users=120)
    cold = log.n_items - 1
    rules = RecommendConfig(mix="order")
    shelf = default_chain(log, items=items, rules=rules).fit(log, items=items)
    shown = shelf.recommend(k=log.n_items)
    assert cold in shown.items
    assert "content" in shown.sources


# ---- what is declared


def test_declared_sources_serve() -> None:
    log, items = sample()
    rules = RecommendConfig(
        mix="order", sources=({"name": "ease", "strength": 50.0}, {"name": "sequential_rules"})
    )
    shelf = default_chain(log, rules=rules, items=items).fit(log, items=items)
    assert shelf.members[:2] == ("ease", "sequential_rules")
    assert declared(rules)[0].parameters.strength == 50.0
    sessions = session_chain(log, rules).fit(log)
    assert sessions.members[0] == "sequential_rules"
    assert session_chain(log).fit(log).members[0] == "session_neighbours"
    best = default_chain(log, rules=RecommendConfig(sources=rules.sources))
    assert {"ease", "sequential_rules", "ranker", "weights", "order"} <= best.ways.keys()


def test_a_rival_serves_only_where_it_was_compared_and_won(tmp_path: Path) -> None:
    log, _ = sample(users=120)
    plain, better = create("popularity"), create("item_neighbours")
    won = Choice([plain], rivals={"mine": better}).fit(log)
    assert won.chosen == "mine"
    won.save(tmp_path / "won")
    again = load(tmp_path / "won")
    assert np.array_equal(again.recommend(k=5).items, won.recommend(k=5).items)
    lost = Choice([better], rivals={"mine": plain}).fit(log)
    assert (lost.chosen, set(lost.judged)) == ("item_neighbours", {"mine", "item_neighbours"})
    short = Interactions.of([0, 0, 1], [0, 1, 1], [0, 0, 0], n_items=3)
    unknown = Choice([plain], rivals={"mine": better}).fit(short)
    assert (unknown.chosen, unknown.judged) == ("popularity", {})
    with pytest.raises(ModelError, match="at least one way"):
        Choice(rivals={"mine": plain}).fit(log)


def test_what_competes_stands_behind_the_houses_ways() -> None:
    log, _ = sample()
    words = ("ease:strength=50,support=10", "blend")
    chain = default_chain(log, rules=RecommendConfig(compete=words))
    assert tuple(chain.ways)[-2:] == words == tuple(chain.rivals)
    assert chain.ways[words[0]].members[0] == "ease"
    assert chain.ways[words[1]].members == default_chain(log).ways["weights"].members


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"compete": ("eese",)}, "did you mean 'ease'"),
        ({"compete": ("ease:strength",)}, "write settings as"),
        ({"compete": ("transformer:size=tiny,epohcs=5",)}, "did you mean 'epochs'"),
        ({"compete": ("ease",), "mix": "order"}, "leave out mix or compete"),
    ],
)
def test_a_wrong_competitor_is_one_sentence(rules: dict[str, Any], sentence: str) -> None:
    log, _ = sample()
    with pytest.raises(ConfigError, match=sentence) as raised:
        default_chain(log, rules=RecommendConfig(**rules))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("word", ["transformer:size=tiny", "distilled:teacher=gru", "lightgcn"])
def test_a_competitor_without_its_extra_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    def missing() -> None:
        raise MissingExtraError("a network", "deep")

    monkeypatch.setattr("propend.recommend.sequence._library", missing)
    monkeypatch.setattr("propend.recommend.graph.torch_module", missing)
    log, _ = sample()
    with pytest.raises(MissingExtraError, match=r"pip install 'propend\[deep\]'"):
        default_chain(log, rules=RecommendConfig(compete=(word,)))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"strength": 5}, "needs a name"),
        ({"name": "eese"}, "did you mean 'ease'"),
        ({"name": "ease", "strenght": 5}, "did you mean 'strength'"),
        ({"name": "ease", "strength": "much"}, "cannot be set so"),
    ],
)
def test_a_wrong_source_is_one_sentence(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        declared(RecommendConfig(sources=(source,)))
    assert "\n" not in str(raised.value)


# ---- how it is judged


def test_a_better_source_is_told() -> None:
    log, _ = sample(users=150)
    split = forward(log)
    shelves = {"neighbours": create("item_neighbours"), "served": create("popularity")}
    table = compare(split, shelves, served="served")
    said = [w for w in table["warnings"] if "is behind neighbours by" in w]
    assert len(said) == 1
    assert "chance" not in said[0]
    turned = {"popularity": create("popularity"), "served": create("item_neighbours")}
    assert not compare(split, turned, served="served")["warnings"]


def test_most_shown_counts_over_all_who_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = sample()
    split = forward(log)
    shelf = Reranked([Popularity()], most_shown=7).fit(split.train, at=split.at)
    monkeypatch.setattr("propend.recommend.recommender._BLOCK_CELLS", log.n_items * 10)
    shown = measure(shelf, split, 5).shown
    assert np.bincount(shown[shown >= 0]).max() <= 7


def test_the_hash_knows_the_question() -> None:
    log, _ = sample()
    split = forward(log, 9.0)
    late = np.flatnonzero(log.time >= split.at)
    item = log.item.copy()
    item[late[0]] = (item[late[0]] + 1) % log.n_items
    other = forward(Interactions(log.user, item, log.time, log.weight, log.n_items), 9.0)
    assert other.hash != split.hash == forward(log, 9.0).hash
    assert split.sample(5).hash != split.hash


def test_lists_of_twins_are_less_diverse() -> None:
    pairs = Interactions.from_lists([[0, 1], [0, 1], [2, 3], [2, 3]] * 5)
    split = forward(Interactions.of(pairs.user, pairs.item, np.arange(len(pairs)) * DAY), 9)
    from propend.recommend.evaluate import _within_lists

    twins = np.array([[0, 1]], np.int32)
    apart = np.array([[0, 2]], np.int32)
    assert _within_lists(split.train, twins) < 0.3 < _within_lists(split.train, apart)
    assert _within_lists(pairs, twins) == pytest.approx(0.0)
    assert _within_lists(pairs, apart) == pytest.approx(1.0)


def test_centring_constant_weights_is_refused() -> None:
    log = Interactions.from_lists([[0, 1], [0, 1, 2]])
    for name in ("item_neighbours", "user_neighbours"):
        for measure_ in ("pearson", "adjusted_cosine"):
            with pytest.raises(ModelError, match="all weights are equal here"):
                create(name, measure=measure_).fit(log)


def test_a_damaged_copy_is_fitted_anew(tmp_path: Path) -> None:
    log, _ = sample()
    place = tmp_path / "users-one"
    keep.write(create("popularity").fit(log), place)
    assert keep.read(place) is not None
    keep.write(create("popularity").fit(log), tmp_path / "users-two")
    assert keep.read(place) is None, "the older copy of its kind is gone"
    for file in (tmp_path / "users-two").iterdir():
        file.write_bytes(b"{")
    assert keep.read(tmp_path / "users-two") is None
    assert not (tmp_path / "users-two").exists()


def test_a_log_that_starts_too_late_says_so() -> None:
    log, _ = sample()
    with pytest.raises(NotEnoughDataError, match="at least one interaction"):
        default_chain(log).fit(log, at=log.first)


def test_what_is_fitted_twice_alike_is_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = sample(users=120)
    alone = default_chain(log).fit(log)
    learnt: list[str] = []
    order = Hybrid._order

    def counted(self: Hybrid, examples: Examples) -> None:
        learnt.append(repr(self))
        order(self, examples)

    monkeypatch.setattr(Hybrid, "_order", counted)
    with shared():
        first = default_chain(log).fit(log)
        once = len(learnt)
        again = default_chain(log).fit(log)
        assert len(learnt) == once > 0
        # another history, another moment or other settings are learnt anew
        default_chain(log).fit(log.select(np.arange(len(log)) != 5))
        assert len(learnt) > once
    for shelf in (first, again):
        assert shelf.judged == alone.judged
        assert (shelf.recommend(k=5).items == alone.recommend(k=5).items).all()
        assert (shelf.recommend(k=5).scores == alone.recommend(k=5).scores).all()
    learnt.clear()
    default_chain(log).fit(log)
    assert len(learnt) >= once, "outside the block nothing is remembered"


def test_shared_fits_stay_apart_when_one_of_them_learns_on() -> None:
    log, _ = sample(users=120)
    past = log.select(log.time < np.quantile(log.time, 0.8))
    with shared():
        first, second = create("item_neighbours").fit(past), create("item_neighbours").fit(past)
        before = second.recommend(k=5).scores
        first.fit(log)
        assert (second.recommend(k=5).scores == before).all()
        assert not np.array_equal(first.recommend(k=5).scores, before)
