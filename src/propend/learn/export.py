"""Models as ONNX files for other runtimes; written only when the file scores as the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError
from propend.learn.calibration import Calibrator, Identity
from propend.learn.fitted import Fitted
from propend.learn.graphs import Graph, calibrated, known, scores
from propend.models.model import Model

__all__ = ["export_fitted", "export_model"]

F64 = npt.NDArray[np.float64]

TOLERANCE: Final = 1e-9
"""Largest difference of a score, beside its size, at which a file counts as equal."""
_OPSET: Final = {"": 18, "ai.onnx.ml": 5}
_IR: Final = 10


def export_model(
    model: Model,
    file: str | Path,
    rows: npt.ArrayLike,
    *,
    calibrator: Calibrator | None = None,
    floor: float | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model as ONNX and return what was checked: rows, largest difference, bytes.

    Parameters
    ----------
    rows
        float [n, d] to check on; beside them each column is tried missing and each category unknown.
    calibrator
        joins the graph behind the model's probabilities.
    floor
        least score (amounts and counts).
    about
        further texts for the file's metadata.

    The graph's input ``features`` is double [n, d] (NaN = missing; a category's code as a number), its output ``score``
    double [n], or [n, k] for which. Linear models, forests, boosted trees (LightGBM), perceptrons, and blends and
    stacks of them can be written. Needs the extra ``onnx``.

    Raises
    ------
    ModelError
        the model has no ONNX form, or the file would score otherwise than the model; nothing is written then.
    """
    helper, runtime = _libraries()
    from onnx import TensorProto

    g = Graph()
    kind = calibrator or Identity()
    out = calibrated(g, scores(g, known(g, "features", model), model), kind)
    if floor is not None:
        out = g("Max", out, g.const(floor))
    many = model.answer == "which"
    shape = ["rows", max(2, model.classes)] if many else ["rows"]
    if many:
        g.nodes.append(helper.make_node("Identity", [out], ["score"]))
    else:
        g.nodes.append(helper.make_node("Reshape", [out, g.const(np.array([-1]))], ["score"]))
    graph = helper.make_graph(
        g.nodes,
        model.name,
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["rows", model.width])],
        [helper.make_tensor_value_info("score", TensorProto.DOUBLE, shape)],
        g.constants,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, n) for domain, n in _OPSET.items()],
        ir_version=_IR,
        producer_name="propend",
    )
    texts = {"model": model.name, "answer": model.answer, "columns": list(model.columns or ())}
    helper.set_model_props(
        made, {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**texts, **(about or {})}.items()}
    )  # fmt: skip
    blob = made.SerializeToString()
    tried = _tried(model, np.asarray(rows, dtype=np.float64))
    apart = _apart(model, kind, floor, tried, runtime, blob)
    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(blob)
    part.replace(target)
    return {
        "file": str(target),
        "rows": len(tried),
        "largest_difference": apart,
        "bytes": len(blob),
    }


def export_fitted(fitted: Fitted, file: str | Path, rows: npt.ArrayLike) -> dict[str, Any]:
    """Write a trained task: model, calibration and floor in one graph; see :func:`export_model`."""
    yes_no = fitted.task.answer == "yes_no"
    about = {
        "task": fitted.task.ask,
        "categories": {str(j): list(v) for j, v in fitted.categories.items()},
        "data_hash": str(fitted.card.get("data_hash", "")),
    }
    return export_model(
        fitted.model,
        file,
        rows,
        calibrator=fitted.calibrator if yes_no else None,
        floor=fitted.task.least,
        about=about,
    )


def _tried(model: Model, rows: F64) -> F64:
    """The rows, and copies of one with each column missing, at 0, far out, and at a category never seen."""
    if rows.ndim != 2 or rows.shape[1] != model.width or not len(rows):
        raise ModelError(
            f"the rows to check on must be [n, {model.width}] with n of 1 or more, got {rows.shape}"
        )
    odd = []
    for j in range(model.width):
        codes = model.categories.get(j)
        values = [np.nan, 0.0] + ([1e9, -1e9] if codes is None else [codes - 1.0, float(codes)])
        for value in values:
            row = rows[j % len(rows)].copy()
            row[j] = value
            odd.append(row)
    return np.vstack([rows[:2_000], odd, np.full((1, model.width), np.nan)])


def _apart(
    model: Model, calibrator: Calibrator, floor: float | None, rows: F64, runtime: Any, blob: bytes
) -> float:
    """The largest difference of the file's scores; raises where they are not the model's."""
    expected = calibrator.apply(model.predict(rows))
    if floor is not None:
        expected = np.maximum(expected, floor)
    try:
        quiet = runtime.SessionOptions()
        quiet.log_severity_level = 4
        session = runtime.InferenceSession(blob, quiet, providers=["CPUExecutionProvider"])
        found = session.run(["score"], {"features": rows})[0]
    except Exception as error:  # onnxruntime raises its own kinds, none of them public
        raise ModelError(
            f"onnxruntime cannot run this '{model.name}' model ({str(error).splitlines()[0]}); nothing was written"
        ) from error
    apart = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    if not (apart <= TOLERANCE).all():
        raise ModelError(
            f"the ONNX file of this '{model.name}' model would score up to {np.nanmax(apart):.1e} apart; nothing was written, score with propend itself"
        )
    return float(apart.max())


def _libraries() -> tuple[Any, Any]:
    try:
        import onnxruntime
        from onnx import helper
    except ImportError:
        raise MissingExtraError("writing ONNX files", "onnx") from None
    return helper, onnxruntime
