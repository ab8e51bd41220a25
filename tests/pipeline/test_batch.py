"""Batch scoring and export: the same scores and reasons as one by one, in files that appear whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import propend as pp
from propend.cli import main
from propend.errors import ModelError, NotEnoughDataError
from propend.expression.parse import parse
from propend.learn.calibration import Platt
from propend.learn.fitted import Fitted
from propend.learn.intervals import bounds, uncertainty
from propend.models import create
from propend.pipeline.batch import score_store
from propend.pipeline.predict import score as score_frame
from propend.pipeline.workspace import Workspace
from propend.tasks.frame import scoring_frame
from propend.tasks.task import Task

ASK = "any(purchase) next 30d for any(*) last 60d"
FEATURES = ("count(purchase) last 60d", "days_since(purchase)", "sum(purchase.value)", "last(purchase.item)")  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Fitted]:
    """A shop of 300 customers with a fitted model of four features, one of them a category."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("batch")
    lines = ["order_id,customer_id,order_date,sku,quantity,unit_price"]
    for i in range(2_000):
        day = np.datetime64("2024-01-01T10:00") + np.timedelta64(
            int(rng.integers(0, 200 * 1440)), "m"
        )
        lines.append(f"o{i},c{rng.integers(0, 300)},{day},s{rng.integers(0, 100)},1,{5 + i % 7}.50")
    (folder / "orders.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pp.init(folder / "shop", [folder / "orders.csv"])
    workspace = pp.open(folder / "shop")
    workspace.ingest()
    task = Task.parse("buys", ASK)
    features = tuple(parse(f) for f in FEATURES)
    items = tuple(f"s{i}" for i in range(90))  # ten categories the model does not know
    frame = scoring_frame(
        workspace.store, workspace.schema, workspace.engine, task, features, workspace.now, {3: items}
    )  # fmt: skip
    y = (frame.X[:, 1] + 10 * rng.random(len(frame)) < 30).astype(float)
    model = create("trees", "yes_no", trees=20, rows_per_leaf=5, threads=1)
    model.fit(frame.X, y, columns=frame.names, categories={3: len(items)})
    card: dict[str, Any] = {"metrics": {}, "data_hash": "made"}
    fitted = Fitted(task, "trees", model, Platt(1.2, 0.1), features, {3: items}, 0.5, card)
    workspace.registry.save(fitted)
    return workspace, fitted


def test_a_batch_is_the_scores_and_reasons_of_each_user(
    shop: tuple[Workspace, Fitted], tmp_path: Path
) -> None:
    workspace, fitted = shop
    made = workspace.score("buys", tmp_path / "s.parquet", reasons=2)
    table = pq.read_table(tmp_path / "s.parquet").sort_by("user").to_pydict()
    known = score_frame(workspace.store, workspace.schema, workspace.engine, fitted, workspace.now)
    order = np.argsort(known.users.astype(str))
    assert table["user"] == known.users[order].tolist()
    assert table["score"] == known.score[order].tolist()
    assert made["users"] == len(known.users) > 150
    assert made["mean_score"] == pytest.approx(known.score.mean())
    for i, user in enumerate(order[:40]):
        reasons = known.explain(known.users[user], 2)
        for k, reason in enumerate(reasons, 1):
            assert table[f"reason_{k}"][i] == reason.words
            assert table[f"reason_{k}_effect"][i] == pytest.approx(reason.effect, abs=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


def test_one_of_many_and_intervals_are_written_too(
    shop: tuple[Workspace, Fitted], tmp_path: Path
) -> None:
    """The likeliest answer with what speaks for it; the ends of a score's interval where the card keeps one."""
    workspace, fitted = shop
    place = (workspace.store, workspace.schema, workspace.engine)
    frame = scoring_frame(*place, fitted.task, fitted.features, workspace.now, fitted.categories)
    y = np.digitize(frame.X[:, 0], [2, 3]).astype(float)
    model = create("trees", "which", trees=10, rows_per_leaf=5, threads=1)
    model.fit(frame.X, y, columns=frame.names, categories={3: 90})
    task = Task.parse("kind", "next(item) next 30d for any(*) last 60d")
    many = Fitted(task, "trees", model, Platt(), fitted.features, fitted.categories, None, {"classes": ["one", "two", "three"]})  # fmt: skip
    made = score_store(*place, many, workspace.now, tmp_path / "w.parquet", reasons=1)
    table = pq.read_table(tmp_path / "w.parquet").sort_by("user").to_pydict()
    known = score_frame(*place, many, workspace.now)
    expected = known.scores.sort_by("user").to_pydict()
    assert made["users"] == len(table["user"])
    assert table["answer"] == expected["answer"]
    assert table["score"] == pytest.approx(expected["score"])
    assert len(set(table["answer"])) > 1
    assert set(table["reason_1"]) == {"number of purchases in the last 60 days"}
    rng = np.random.default_rng(0)
    p = rng.random(400)
    kept = uncertainty("yes_no", [((rng.random(400) < p).astype(float), p)])
    card = {**fitted.card, "uncertainty": kept}
    score_store(*place, replace(fitted, card=card), workspace.now, tmp_path / "y.parquet")
    rows = pq.read_table(tmp_path / "y.parquet").to_pydict()
    ends = bounds(kept, rows["score"])
    assert rows["low"] == ends[0].tolist()
    assert rows["high"] == ends[1].tolist()


def test_nothing_is_left_where_a_batch_fails(
    shop: tuple[Workspace, Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, fitted = shop
    place = (workspace.store, workspace.schema, workspace.engine, fitted)
    with pytest.raises(NotEnoughDataError, match="no user is in the population"):
        score_store(*place, 0, tmp_path / "s.parquet")
    calls = []

    def fails_late(X: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise ModelError("stop")
        return np.zeros(len(X))

    monkeypatch.setattr(fitted, "score", fails_late)
    with pytest.raises(ModelError, match="stop"):
        score_store(*place, workspace.now, tmp_path / "s.parquet")
    assert not list(tmp_path.iterdir())


def test_the_verbs(
    shop: tuple[Workspace, Fitted], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workspace, _ = shop
    main(["score", str(workspace.folder), "buys", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert Path(made["file"]) == workspace.out / "scores" / "buys-batch.parquet"
    assert pq.read_metadata(made["file"]).num_rows == made["users"]
    with pytest.raises(SystemExit):
        main(["score", str(workspace.folder), "bus"])
    assert "did you mean 'buys'?" in capsys.readouterr().err
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    main(["export", str(workspace.folder), "buys", "--out", str(tmp_path / "m.onnx")])
    said = capsys.readouterr().out
    assert "equal on" in said
    assert (tmp_path / "m.onnx").exists()
