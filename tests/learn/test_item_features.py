"""Item features: names speak by their characters, what changes is left out, prices are those known by the moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import propend as pp
from propend.cli import main
from propend.errors import DataError
from propend.events.timelines import Column
from propend.learn.item_features import features_of, item_features
from propend.models.sequence.encoder import hash_texts

CUT = int(np.datetime64("2024-02-01", "us").astype(np.int64))


def test_like_names_are_near_in_any_language_and_no_name_is_nowhere() -> None:
    texts = ["红色羊毛衫", "蓝色羊毛衫", "陶瓷咖啡杯", "red wool jumper", "blue wool jumper", ""]
    found = hash_texts(texts)
    alike = found @ found.T
    assert np.allclose(np.diag(alike)[:5], 1, atol=1e-5)
    assert alike[0, 1] > alike[0, 2] + 0.2
    assert alike[3, 4] > alike[3, 2] + 0.2
    assert not found[5].any()
    assert np.array_equal(found, hash_texts(texts))


def test_categories_numbers_texts_and_vectors_each_go_their_way() -> None:
    names = Column(np.array([0, 1, 2, -1], np.int32), ("red mug", "blue mug", "sock"))
    kind = Column(np.array([0, 0, 1, -1], np.int32), ("cup", "wear"))
    picture = np.array([[3.0, 4.0], [0.0, 2.0], [np.nan, 1.0], [0.0, 0.0]])
    made = features_of(
        {"name": names, "kind": kind, "size (cm)": np.array([1.0, 2.0, np.nan, 9.0]), "picture": picture}, 4
    )  # fmt: skip
    assert made is not None
    assert [name for name, _ in made.described] == ["0_kind", "1_size__cm_"]
    assert made.width == 2 + 128
    assert made.vectors is not None
    assert made.vectors[0, :2].tolist() == pytest.approx([0.6, 0.8])
    assert not made.vectors[3].any()
    assert features_of({}, 4) is None


def test_later_items_are_read_by_what_was_learnt() -> None:
    rng = np.random.default_rng(0)
    kinds = ("cup", "wear", "toy")
    names = tuple(f"{kinds[i % 3]} {i}" for i in range(12))
    whole = {
        "kind": Column(np.arange(12, dtype=np.int32) % 3, kinds),
        "name": Column(np.arange(12, dtype=np.int32), names),
        "price": rng.random(12),
        "picture": rng.random((12, 3)),
    }
    learnt = features_of(whole, 12)
    # the same items in another catalogue, whose values lie elsewhere and have other codes, and one that is new in all
    later = {
        "price": np.append(whole["price"][[4, 6]], 99.0),
        "kind": Column(np.array([2, 1, 0], np.int32), ("hat", "cup", "wear")),
        "name": Column(np.array([1, 0, -1], np.int32), (names[6], names[4])),
        "picture": np.vstack([np.asarray(whole["picture"])[[4, 6]], [0, 0, 0]]),
        "maker": Column(np.zeros(3, np.int32), ("x",)),
    }
    read = features_of(later, 3, learnt=whole)
    assert learnt is not None
    assert read is not None
    assert (read.described, read.width) == (learnt.described, learnt.width)
    assert read.vectors is not None
    assert learnt.vectors is not None
    assert np.allclose(read.vectors[:2], learnt.vectors[[4, 6]], atol=1e-6)
    for name, codes in learnt.codes.items():
        assert read.codes[name][:2].tolist() == codes[[4, 6]].tolist(), name
    assert read.codes["0_kind"][2] == -1, "a value that is new is missing"
    assert read.codes["1_price"][2] == learnt.values["1_price"] - 1
    empty = features_of({"kind": np.zeros(2)}, 2, learnt=whole)
    assert empty is not None
    assert not empty.known.any(), "nothing is told of what was learnt"


def shop(folder: Path, later: float) -> pp.Workspace:
    """A log whose lines carry a price and a shelf; the shelf changes, and prices after the cutoff depend on ``later``."""
    lines = ["user,time,event,item,price,shelf,colour"]
    for u in range(40):
        item = u % 8
        colour = ("red", "blue")[item % 2]
        lines.append(f"u{u},2024-01-1{u % 9},view,i{item},{item + 1},a,{colour}")
        lines.append(f"u{u},2024-03-0{1 + u % 9},view,i{item},{(item + 1) * later},b,{colour}")
    folder.mkdir()
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[events]]\nname = "log"\nfiles = ["log.csv"]\n'
        '[events.roles]\nuser = "user"\ntime = "time"\ntype = "event"\nitem = "item"\nprice = "price"\n'
        '[events.of_item]\nshelf = "shelf"\ncolour = "colour"\n'
    )
    made = pp.open(folder)
    made.ingest()
    return made


def test_what_changes_is_left_out_and_later_prices_do_not_count(tmp_path: Path) -> None:
    found = [
        item_features(s.store, s.schema, until=CUT)
        for s in (shop(tmp_path / "a", 1.0), shop(tmp_path / "b", 50.0))
    ]
    one, other = found
    assert one is not None
    assert other is not None
    assert [name for name, _ in one.described] == ["0_colour", "1_price"]
    for name in one.codes:
        assert np.array_equal(one.codes[name], other.codes[name])
    assert len(set(one.codes["1_price"].tolist())) == 8


def test_an_encoder_without_texts_is_refused(tmp_path: Path) -> None:
    made = shop(tmp_path / "a", 1.0)
    with pytest.raises(DataError, match=r"leave --encoder out"):
        item_features(made.store, made.schema, until=CUT, encoder="nowhere")


@pytest.mark.deep
def test_names_reach_the_behaviour_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="a behaviour model needs the extra 'deep'")
    from propend.learn.behaviour import pretrain, pretraining_settings

    rng = np.random.default_rng(0)
    lines = ["user,time,event,item"]
    drawn = rng.integers(0, 6, (150, 8))
    lines += [f"u{u},2024-01-{1 + k:02d},view,i{drawn[u, k]}" for u in range(150) for k in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    names = ["red mug", "blue mug", "red sock", "blue sock", "large red mug", "wool sock", "mug"]
    (tmp_path / "items.csv").write_text(
        "\n".join(["item,name", *(f"i{i},{name}" for i, name in enumerate(names))]) + "\n"
    )
    files = ["--from", str(tmp_path / "log.csv"), "--from", str(tmp_path / "items.csv")]
    main(["init", str(tmp_path / "shop"), *files])
    made = pp.open(tmp_path / "shop")
    made.ingest()
    settings = pretraining_settings("tiny", epochs=1, threads=1)
    model = pretrain(made.store, made.schema, settings=settings)
    assert model.network.vocabulary.dense == 128
    plain = model.network.embedding.dense.numpy()
    mug, sock = (made.schema.item_ids.index(f"i{i}") for i in (0, 5))
    assert plain[mug] @ plain[made.schema.item_ids.index("i4")] > plain[mug] @ plain[sock]


def test_texts_of_items_beyond_the_count_are_not_read() -> None:
    names = Column(np.arange(4, dtype=np.int32), ("red mug", "blue mug", "lamp", "candle"))
    pictures = np.eye(4)
    made = features_of({"name": names, "picture": pictures}, 2)
    assert made is not None
    assert made.vectors is not None
    assert made.vectors.shape == (2, made.width)
    new = Column(np.arange(1, dtype=np.int32), ("red lamp",))
    grown = features_of({"name": new}, 1, learnt={"name": names, "picture": pictures})
    assert grown is not None
    assert grown.vectors is not None
    assert grown.vectors.shape == (1, made.width)
