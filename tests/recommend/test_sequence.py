"""Sequence recommenders: they learn order, append without learning, and say what they cannot do."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.sequence.worlds import cycles

from propend.errors import MissingExtraError, ModelError
from propend.recommend.catalog import create, load
from propend.recommend.evaluate import compare
from propend.recommend.interactions import Interactions
from propend.recommend.protocols import leave_one_out

pytestmark = pytest.mark.deep

QUICK: dict[str, Any] = {
    "size": "tiny",
    "epochs": 8,
    "tokens": 256,
    "learning_rate": 1e-2,
    "threads": 1,
}


def walks(users: int = 300, seed: int = 0) -> Interactions:
    made = cycles(users, seed=seed)
    return Interactions.from_lists(np.split(made.item, made.offsets[1:-1]), n_items=12)


@pytest.fixture(scope="module")
def _torch() -> None:
    pytest.importorskip("torch", reason="sequence models need the extra 'deep'")


@pytest.mark.usefixtures("_torch")
def test_it_beats_popularity_where_order_matters() -> None:
    split = leave_one_out(walks(), seen="allowed")
    table = compare(split, {"transformer": create("transformer", **QUICK)}, ks=(1,))
    popular, deep = (row["hr@1"] for row in table["models"])
    assert popular < 0.2
    assert deep > 0.7  # the next item is certain in four of five steps


@pytest.mark.usefixtures("_torch")
def test_new_events_count_at_once_without_learning() -> None:
    shelf = create("gru", **QUICK).fit(walks(), seed=1)
    vectors = shelf.item_vectors()  # type: ignore[attr-defined]
    walker = int(shelf.history.users[0])
    at = int(shelf.history.item[shelf.history.offsets[1] - 1])
    for step in range(1, 5):
        assert shelf.recommend([walker], 1, exclude_seen=False).items[0, 0] == (at + step) % 12
        shelf.update(Interactions.from_lists([[(at + step) % 12]], users=[walker], n_items=12))
    assert np.array_equal(shelf.item_vectors(), vectors)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_torch")
def test_a_catalogue_that_grew_is_no_reason_to_learn_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shelf = create("gru", **QUICK).fit(walks(), seed=1)
    vectors = shelf.item_vectors()  # type: ignore[attr-defined]

    def never(*_: Any) -> None:
        raise AssertionError("it learns anew")

    with monkeypatch.context() as patch:
        patch.setattr(type(shelf), "_learn", never)
        shelf.update(Interactions.from_lists([[12, 0], [3]], users=[9_999, 9_998], n_items=13))
        shelf.update(Interactions.from_lists([[13]], users=[9_998], n_items=14))
    assert "2 items are new since 'gru' learnt" in shelf.remark
    assert np.array_equal(shelf.item_vectors()[:12], vectors)  # type: ignore[attr-defined]
    assert not shelf.item_vectors()[12:].any()  # type: ignore[attr-defined]
    shown = shelf.recommend([9_999], 14, exclude_seen=False)
    assert shown.items[0, 0] == 1
    assert not {12, 13} & set(shown.items[0].tolist()), "it is not offered"
    assert np.isneginf(shelf.scores([9_998])[0, 12:]).all()
    one, two = shelf.scores([[3, 12]]), shelf.scores([[3, 13]])
    assert np.array_equal(one, two), "what is new is an event without an item"
    assert not np.array_equal(one, shelf.scores([[3]])), "but an event"
    assert shelf.similar([12], 3).lists() == [[]]
    assert shelf.audience(12, 5)[0].tolist() == []
    shelf.save(tmp_path / "grown")
    again = load(tmp_path / "grown")
    assert again.remark == shelf.remark
    assert np.array_equal(again.scores([9_999]), shelf.scores([9_999]))
    anew = again.fit(again.history, seed=1)
    assert anew.remark == ""
    assert np.isfinite(anew.scores([[3]])[0, 12])


@pytest.mark.usefixtures("_torch")
def test_a_new_item_speaks_by_its_attributes() -> None:
    from propend.events.timelines import Column

    log = Interactions.from_lists([[i % 6, (i + 1) % 6, (i + 2) % 6] for i in range(60)], n_items=6)
    codes = np.array([0, 1, 2, 0, 1, 2], np.int32)
    items = {"shape": Column(codes, ("a", "b", "c"))}
    settings = {**QUICK, "features": True}
    shelf = create("gru", **settings).fit(log, items=items)
    vectors = shelf.item_vectors()  # type: ignore[attr-defined]
    # other codes for the values than in the fit; the last shape is new
    more = {"shape": Column(np.array([1, 2, 0, 1, 2, 0, 1, 3], np.int32), ("c", "a", "b", "d"))}
    later = Interactions.from_lists([[6, 0], [7]], users=[99, 98], n_items=8)
    shelf.update(later, items=more)
    at_once = shelf.scores([[0], [6], [7]])
    assert np.isfinite(at_once[:, 6]).all()
    assert np.isneginf(at_once[:, 7]).all(), "nothing that was learnt is known of it"
    assert "1 item is new" in shelf.remark
    grown = shelf.item_vectors()  # type: ignore[attr-defined]
    assert np.array_equal(grown[:6], vectors)
    learnt = shelf.state().arrays["own.weights.embedding.of_0_shape.weight"]
    assert np.allclose(grown[6], learnt[1], atol=1e-7), "as a shape 'a', and no id"
    parts = create("gru", **settings).fit(log, items=items)
    parts.update(later)
    assert np.isneginf(parts.scores([[0]])[0, 6:]).all(), "no attributes were told"
    parts.update(later.select(later.user == 0), items=more)
    assert np.allclose(parts.scores([[0], [6], [7]]), at_once, atol=1e-6)
    with pytest.raises(ModelError, match="one per item code"):
        shelf.update(later, items=items)


@pytest.mark.usefixtures("_torch")
def test_a_short_log_is_answered_by_popularity_and_says_so() -> None:
    shelf = create("transformer").fit(Interactions.from_lists([[0, 1], [1], [1, 2]], n_items=3))
    assert "popularity answers instead" in shelf.remark
    assert shelf.recommend([[]], 1).lists() == [[1]]
    with pytest.raises(ModelError, match="likeness"):
        shelf.similar([0])
    with pytest.raises(ModelError, match="no item vectors"):
        shelf.item_vectors()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_torch")
def test_one_item_users_and_two_items_are_no_trouble() -> None:
    lists = [[0, 1, 0, 1]] * 20 + [[0]] * 10 + [[1]] * 5
    shelf = create("transformer", **{**QUICK, "epochs": 20}).fit(Interactions.from_lists(lists))
    shown = shelf.recommend([[0], [1]], 2, exclude_seen=False)
    assert shown.items[:, 0].tolist() == [1, 0]


@pytest.mark.usefixtures("_torch")
def test_items_nobody_met_are_offered_only_by_their_attributes() -> None:
    from propend.events.timelines import Column

    log = Interactions.from_lists([[i % 6, (i + 1) % 6, (i + 2) % 6] for i in range(60)], n_items=7)
    codes = np.array([0, 1, 2, 0, 1, 2, 1], np.int32)
    items = {"shape": Column(codes, ("a", "b", "c"))}
    plain = create("gru", **QUICK).fit(log)
    assert np.isneginf(plain.scores([[0]])[0, 6])
    knowing = create("gru", features=True, **QUICK).fit(log, items=items)
    assert np.isfinite(knowing.scores([[0]])[0, 6])


@pytest.mark.usefixtures("_torch")
def test_distilled_lists_know_the_order_and_need_no_network(tmp_path: Path) -> None:
    shelf = create("distilled", teacher="gru", settings=QUICK, neighbours=4).fit(walks())
    after = shelf.recommend([[i] for i in range(12)], 1).items[:, 0]
    assert (after == (np.arange(12) + 1) % 12).mean() > 0.9
    shelf.save(tmp_path / "lists")
    assert not any("weights" in name for name in shelf.state().arrays)
    assert np.array_equal(
        load(tmp_path / "lists").recommend([[3]], 4).items, shelf.recommend([[3]], 4).items
    )
    with pytest.raises(ModelError, match="its own teacher"):
        create("distilled", teacher="distilled").fit(walks())


@pytest.mark.usefixtures("_torch")
def test_distilled_lists_say_that_their_teacher_learnt_nothing(tmp_path: Path) -> None:
    short = Interactions.from_lists([[0, 1], [1], [1, 2]], n_items=3)
    shelf = create("distilled", teacher="transformer").fit(short)
    assert "too few for 'transformer'" in shelf.remark
    assert "popularity answers instead" in shelf.remark
    shelf.save(tmp_path / "lists")
    assert load(tmp_path / "lists").remark == shelf.remark
    again = create("distilled", teacher="item_neighbours").fit(short)
    assert again.remark == ""


def test_without_torch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    plain = builtins.__import__

    def no_torch(name: str, *rest: Any, **more: Any) -> Any:
        if name == "torch" or name.startswith("torch."):
            raise ImportError("No module named 'torch'", name="torch")
        return plain(name, *rest, **more)

    for name in [n for n in sys.modules if n.startswith("propend.models.sequence.")]:
        if not name.endswith(("packing", "settings", "size", "targets", "tokens")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("propend.models.sequence.training", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(MissingExtraError, match=r"pip install 'propend\[deep\]'"):
        create("transformer").fit(walks(20))


@pytest.mark.usefixtures("_torch")
def test_who_came_last_can_say_when_to_stop() -> None:
    log = walks(100)
    hidden: dict[str, list[int]] = {}
    for held_out in ("random", "latest"):
        shelf: Any = create("gru", **QUICK, validation=10, held_out=held_out).fit(log)
        data = shelf._arrays(log.histories())
        shown, _ = shelf._held_out(data, log)
        shorter = np.diff(shown.offsets) < np.diff(data.offsets)
        hidden[held_out] = np.flatnonzero(shorter).tolist()
    last = log.time[log.offsets[1:] - 1]
    assert hidden["latest"] == sorted(np.argsort(-last)[:10].tolist())
    assert hidden["random"] != hidden["latest"]
