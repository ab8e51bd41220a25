"""A pretrained behaviour model competes for a task: no future in it, kept where it wins, the same everywhere it scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.learn.shops import BUYS, shop_of

from propend.cli import main
from propend.errors import ModelError
from propend.expression import parse
from propend.features.words import in_words
from propend.learn.fitted import Fitted
from propend.learn.registry import Registry
from propend.learn.train import train
from propend.names import DAY
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.cutoffs import plan_cutoffs
from propend.tasks.frame import build_frame

torch = pytest.importorskip("torch", reason="a behaviour model needs the extra 'deep'")
pytestmark = [pytest.mark.deep, pytest.mark.slow]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A shop whose trees see only counts, beside a behaviour model that sees what was looked at last."""
    from propend.learn import behaviour

    made = shop_of(tmp_path_factory.mktemp("companion"), 400)
    with pytest.MonkeyPatch.context() as patch:
        plain = behaviour.pretraining_settings
        patch.setattr(
            behaviour,
            "pretraining_settings",
            lambda size: plain(size, epochs=15, learning_rate=5e-3, tokens=512, threads=1),
        )
        made.pretrain("tiny")
    return made


def frame_of(shop: Workspace) -> tuple[Any, Any]:
    plan = plan_cutoffs(shop.schema.first, shop.now, BUYS.horizon, folds=2)
    asked = [parse("count(purchase)"), parse("count(view) last 30d")]
    return build_frame(shop.store, shop.schema, shop.engine, BUYS, asked, plan.cutoffs), plan


@pytest.fixture(scope="module")
def kept(shop: Workspace) -> tuple[Any, Any, Fitted]:
    """What competes, the rows with its columns, and the fusion in the shop's registry."""
    from propend.learn.companion import companion

    frame, plan = frame_of(shop)
    said = companion(shop.store, shop.schema, BUYS, plan, shop.folder / "behaviour")
    whole = said.beside(shop.store, frame)
    fitted = train(whole, BUYS, plan, beside=said.more)
    fitted.card["behaviour"] = said.card(fitted, 7)
    Registry(shop.folder / "models").save(fitted)
    return said, whole, fitted


def test_it_knows_nothing_of_the_held_out_cutoffs_wins_and_is_kept(
    shop: Workspace, kept: tuple[Any, Any, Fitted], tmp_path: Path
) -> None:
    from propend.learn.companion import companion

    home = shop.folder / "behaviour"
    frame, plan = frame_of(shop)
    said, whole, fitted = kept
    assert said.more is not None
    assert said.more.pair.until == plan.folds[0].train[-1]
    assert not list(home.rglob("training*"))
    again = companion(shop.store, shop.schema, BUYS, plan, home)
    assert again.folder == said.folder
    settings = said.more.pair.models[0].network.settings
    assert said.more.pair.made_as(replace(settings, epochs=3), None)
    assert not said.more.pair.made_as(replace(settings, dropout=0.3), None)
    assert not said.more.pair.made_as(settings, "an encoder")

    built = build_frame(
        shop.store, shop.schema, shop.engine, BUYS, whole.features, plan.cutoffs, more=said.more
    )
    assert np.allclose(whole.X, built.X, atol=1e-5, equal_nan=True)  # two ways to the same columns

    card = fitted.card["behaviour"]
    assert fitted.name == "fusion"
    assert card["used"]
    assert card["gained"]["low"] > 0.02
    assert len(fitted.features) == len(frame.features) + card["columns"]
    said = {in_words(f) for f in fitted.features}
    assert "the chance of purchase ahead, by the behaviour model" in said
    assert "the chance of silence ahead, by the behaviour model" in said
    plain = train(frame, BUYS, plan)
    for name in ("logistic", "trees"):  # the others do not see its columns
        assert np.array_equal(plain.tests[name], fitted.tests[name])

    loaded = shop.registry.load(BUYS.name)
    assert np.allclose(loaded.score(whole.X), fitted.score(whole.X))
    scored = shop.score(BUYS.name, tmp_path / "scores.parquet")
    assert scored["users"] > 100


@pytest.mark.usefixtures("kept")
def test_the_live_answer_is_the_batch_answer(shop: Workspace, tmp_path: Path) -> None:
    from propend.serve.identity import Identity
    from propend.serve.inbox.sqlite import SqliteInbox
    from propend.serve.models import Served
    from propend.serve.state import LiveState

    fitted = shop.registry.load(BUYS.name)
    shop.score(BUYS.name, tmp_path / "scores.parquet")
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()[:20]
    inbox = SqliteInbox(tmp_path / "inbox")
    state = LiveState(shop.store_folder, inbox, Identity(tmp_path / "identity.db"))
    state.refresh()
    served = Served(fitted, 1)
    for row in rows:
        answer = served.answer(state, row["user"], shop.now)
        assert answer.score == pytest.approx(row["score"], abs=1e-6)


def test_a_shop_asks_as_before_and_is_told_what_the_model_adds(
    shop: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["predict", str(shop.folder), str(BUYS.ask), "--name", "soon", "--folds", "2"]
    main([*ask, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert "fusion" in document["models"]
    assert document["behaviour"]["folder"].startswith("behaviour/tiny/past/")
    assert document["behaviour"]["until"] < shop.now - 20 * DAY
    main(ask)
    assert "behaviour model: its " in capsys.readouterr().out
    again = shop.predict(BUYS.ask, name="soon", folds=2, reuse=True)
    assert again.entry is None, "the same rows and models: nothing is fitted again"


@pytest.mark.usefixtures("kept")
def test_a_model_that_is_gone_is_said(shop: Workspace) -> None:
    folder = shop.folder / "behaviour" / "tiny" / "past"
    folder.rename(folder.with_name("away"))
    with pytest.raises(ModelError, match="ask again with propend predict"):
        shop.registry.load(BUYS.name)
    folder.with_name("away").rename(folder)


def test_without_a_pretrained_model_nothing_changes(tmp_path: Path) -> None:
    from propend.learn.companion import companion

    made = open_workspace(shop_of(tmp_path, 30).folder)
    plan = plan_cutoffs(made.schema.first, made.now, BUYS.horizon, folds=1)
    said = companion(made.store, made.schema, BUYS, plan, made.folder / "behaviour")
    assert (said.more, said.folder, said.remark) == (None, None, "")
    (made.folder / "behaviour" / "tiny").mkdir(parents=True)
    (made.folder / "behaviour" / "tiny" / "config.json").write_text("{}")
    said = companion(made.store, made.schema, BUYS, plan, made.folder / "behaviour")
    assert "answered without the behaviour model" in said.remark


@pytest.mark.usefixtures("quick_pretraining")
def test_who_is_forgotten_is_in_no_weights_that_compete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from propend.learn.behaviour import BehaviourModel
    from propend.learn.companion import companion
    from propend.learn.cross_fitted import CrossFitted

    small = shop_of(tmp_path, 300)
    small.pretrain("tiny")
    home, plan = small.folder / "behaviour", frame_of(small)[1]

    def asked() -> Any:
        return companion(small.store, small.schema, BUYS, plan, home)

    before = asked()
    assert asked().folder == before.folder
    kept = home / "tiny" / "past"
    copied = kept.with_name("copy")
    copied.mkdir()
    for place in kept.iterdir():
        place.rename(copied / place.name)
    capsys.readouterr()
    main(["forget", str(small.folder), "u7"])
    said = capsys.readouterr().out
    assert "propend pretrain" in said
    assert "with models that learnt without them" in said
    assert not kept.exists()
    small = open_workspace(small.folder)
    with pytest.raises(ModelError, match="erased since; run propend pretrain anew"):
        BehaviourModel.load(home / "tiny", store=small.store)
    copied.rename(kept)  # as one that was being pretrained while the user was forgotten
    told: list[str] = []
    again = companion(
        small.store, small.schema, BUYS, plan, home, progress=lambda what, *_: told.append(what)
    )
    assert any(what.startswith("behaviour of the past") for what in told)
    assert again.folder == before.folder
    assert CrossFitted.load(small.folder / str(again.folder), store=small.store).until
    small.pretrain("tiny")
    assert BehaviourModel.load(home / "tiny", store=small.store).run["erased"] == 1
