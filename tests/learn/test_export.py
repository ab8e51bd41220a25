"""ONNX files score as their models do, on whole, missing and unknown values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propend.errors import ModelError
from propend.learn.calibration import Isotonic, Platt
from propend.learn.export import export_model
from propend.models import catalog, create
from propend.testing.models import sample

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SMALL: dict[str, dict[str, Any]] = {
    "trees": {"trees": 12, "threads": 1},
    "random_forest": {"trees": 8, "threads": 1},
    "extra_trees": {"trees": 8, "threads": 1},
    "mlp": {"hidden": (6,), "epochs": 3},
    "blending": {"settings": {"trees": {"trees": 5}, "extra_trees": {"trees": 5}}},
    "encoded": {"most_levels": 2, "settings": {"trees": 5, "threads": 1}},
    "stacking": {"models": ("decision_tree", "trees"), "settings": {"trees": {"trees": 5}}},
}


NAMES = ("logistic", "linear", "decision_tree", "random_forest", "extra_trees", "trees", "mlp", "blending", "stacking", "two_part", "encoded")  # fmt: skip
PAIRS = [
    (name, answer) for name in NAMES for answer in sorted(catalog.find(name).answers - {"time"})
]


@pytest.mark.parametrize(("name", "answer"), PAIRS)
def test_a_file_scores_as_its_model(name: str, answer: Any, tmp_path: Path) -> None:
    if name == "mlp":
        pytest.importorskip("torch", reason="needs the extra deep")
    rows = sample(answer, rows=600)
    if name == "two_part":
        rows["y"] = np.abs(rows["y"])
    model = create(name, answer, **SMALL.get(name, {})).fit(**rows)
    made = export_model(model, tmp_path / "model.onnx", rows["X"])
    assert made["largest_difference"] < 1e-9
    assert made["rows"] > 600
    assert (tmp_path / "model.onnx").stat().st_size == made["bytes"]


@pytest.mark.parametrize(
    "calibrator", [Platt(1.3, -0.2), Isotonic([0.1, 0.4, 0.8], [0.05, 0.3, 0.9])]
)
def test_calibration_is_in_the_graph(calibrator: Any, tmp_path: Path) -> None:
    import onnxruntime

    rows = sample("yes_no", rows=300)
    model = create("trees", "yes_no", trees=5, threads=1).fit(**rows)
    export_model(model, tmp_path / "m.onnx", rows["X"], calibrator=calibrator)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    got = session.run(["score"], {"features": rows["X"]})[0]
    assert np.allclose(got, calibrator.apply(model.predict(rows["X"])), atol=1e-12)


def test_categories_of_many_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    code = rng.integers(0, 150, 3000).astype(float)
    code[::20] = np.nan
    high = rng.random(150) < 0.5
    y = np.where(np.isnan(code), 0.0, high[np.nan_to_num(code).astype(int)] * 3.0)
    X = np.column_stack([code, rng.normal(size=3000)])
    model = create("trees", "amount", trees=20, rows_per_leaf=5, threads=1)
    model.fit(X, y, categories={0: 150})
    for name in ("trees", "logistic"):
        behind = create("encoded", "amount" if name == "trees" else "yes_no", model=name)
        behind.fit(X, y if name == "trees" else y > 0, categories={0: 150})
        made = export_model(behind, tmp_path / f"{name}.onnx", X)
        assert made["largest_difference"] < 1e-9
    assert "cat_threshold" in model.state().texts["booster"]
    assert export_model(model, tmp_path / "m.onnx", X)["largest_difference"] < 1e-9


def test_a_tree_of_one_leaf(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    model = create("trees", "amount", trees=3, rows_per_leaf=50, threads=1).fit(
        X, rng.normal(size=60)
    )
    assert export_model(model, tmp_path / "m.onnx", X)["largest_difference"] < 1e-9


def test_a_model_without_a_graph_is_refused_and_nothing_written(tmp_path: Path) -> None:
    rows = sample("yes_no", rows=200)
    model = create("neighbours", "yes_no").fit(**rows)
    with pytest.raises(
        ModelError, match="'neighbours' model has no ONNX form here; these have: blending"
    ):
        export_model(model, tmp_path / "m.onnx", rows["X"])
    with pytest.raises(ModelError, match=r"must be \[n, 4\]"):
        export_model(
            create("logistic", "yes_no").fit(**rows), tmp_path / "m.onnx", rows["X"][:, :2]
        )
    assert not list(tmp_path.iterdir())


def test_a_file_that_would_score_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sample("yes_no", rows=200)
    model = create("logistic", "yes_no").fit(**rows)
    before = type(model)._predict
    monkeypatch.setattr(type(model), "_predict", lambda self, X: before(self, X) * 0.99)
    with pytest.raises(ModelError, match="apart; nothing was written"):
        export_model(model, tmp_path / "m.onnx", rows["X"])
    assert not list(tmp_path.iterdir())
