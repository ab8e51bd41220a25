"""Fitted models as ONNX graphs: double precision throughout, so that scores are the same to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.learn.calibration import Calibrator
from propend.models.attribution import parse_tree
from propend.models.encode import HINGE, LEVEL, LIMIT, MISSING, OTHER, VALUE, Design
from propend.models.model import Model
from propend.models.storage import State

__all__ = ["Graph", "calibrated", "known", "scores"]

LEQ: Final = 0
MEMBER: Final = 6
_SAFE: Final = 50.0


class Graph:
    """Nodes and constants, added one after the other; a call returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name."""
        from onnx import helper

        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], domain=domain, **attributes))
        return out

    def const(self, value: npt.ArrayLike) -> str:
        """Add a constant (numbers become double, integers int64) and return its name."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def double(self, name: str) -> str:
        """Return truth values or single precision as double."""
        from onnx import TensorProto

        return self("Cast", name, to=TensorProto.DOUBLE)

    def within(self, name: str, low: npt.ArrayLike, high: npt.ArrayLike) -> str:
        """Return values held between two bounds."""
        return self("Min", self("Max", name, self.const(low)), self.const(high))

    def sigmoid(self, margin: str) -> str:
        """Return ½ (1 + tanh ½ m), as the models do."""
        half = self("Tanh", self("Mul", margin, self.const(0.5)))
        return self("Mul", self("Add", half, self.const(1.0)), self.const(0.5))

    def logit(self, p: str, edge: float) -> str:
        """Return log-odds of probabilities held ``edge`` away from 0 and 1."""
        held = self.within(p, edge, 1 - edge)
        return self("Sub", self("Log", held), self("Log", self("Sub", self.const(1.0), held)))


def scores(g: Graph, x: str, model: Model) -> str:
    """Add a model's scores [n, 1], or [n, k] for which, of rows ``x`` [n, d].

    Raises ``ModelError`` where the model has no graph.
    """
    makers: dict[str, Callable[[Graph, str, Any], str]] = {
        "logistic": _linear,
        "linear": _linear,
        "decision_tree": _forest,
        "random_forest": _forest,
        "extra_trees": _forest,
        "trees": _boosted,
        "mlp": _layers,
        "blending": _mixed,
        "stacking": _mixed,
        "two_part": _two_parts,
        "encoded": _encoded_categories,
    }
    if model.name not in makers:
        raise ModelError(
            f"a '{model.name}' model has no ONNX form here; these have: {', '.join(sorted(makers))}; "
            "fit one of them, or score with propend itself"
        )
    return makers[model.name](g, x, model)


def known(g: Graph, x: str, model: Model) -> str:
    """Add the door: a category code the model was not fitted with is missing."""
    low, high = np.full((2, 1, model.width), np.inf) * np.array([-1.0, 1.0])[:, None, None]
    for j, codes in model.categories.items():
        low[0, j], high[0, j] = 0.0, codes - 1.0
    if not model.categories:
        return x
    inside = g(
        "And", g("GreaterOrEqual", x, g.const(low)), g("LessOrEqual", x, g.const(high))
    )  # fmt: skip
    return g("Where", inside, x, g.const(np.nan))


def calibrated(g: Graph, p: str, calibrator: Calibrator) -> str:
    """Add a calibrator behind probabilities [n, 1]; raises ``ModelError`` for one without a graph."""
    kind: Any = calibrator
    if calibrator.name == "identity":
        return p
    if calibrator.name == "platt":
        bent = g("Mul", g.logit(p, 1e-12), g.const(kind.slope))
        return g.sigmoid(g("Add", bent, g.const(kind.intercept)))
    if calibrator.name == "isotonic":
        steps = np.diff(kind.x)
        if not (steps > 0).all():
            raise ModelError("an isotonic curve with a jump has no ONNX form; fit the model anew")
        part = g("Max", g("Min", p, g.const(kind.x[1:][None])), g.const(kind.x[:-1][None]))
        risen = g("Sub", part, g.const(kind.x[:-1][None]))
        slope = (np.diff(kind.y) / steps)[:, None]
        return g("Add", g("MatMul", risen, g.const(slope)), g.const(kind.y[0]))
    raise ModelError(f"'{calibrator.name}' calibration has no ONNX form; export the model without")


def _answered(g: Graph, margin: str, model: Model) -> str:
    """From margins to scores, by the model's link."""
    if model.link == "softmax":
        return g("Softmax", margin, axis=1)
    if model.link == "logit":
        return g.sigmoid(margin)
    return g("Exp", margin) if model.link == "log" else margin


def _encoded(g: Graph, x: str, design: Design) -> str:
    """The design matrix [n, p]; see :class:`propend.models.encode.Design`."""
    at = {k: np.flatnonzero(design.kind == k) for k in (VALUE, HINGE, MISSING, LEVEL, OTHER)}

    def taken(columns: npt.NDArray[np.int64]) -> str:
        return g("Gather", x, g.const(design.source[columns]), axis=1)

    def gone(columns: npt.NDArray[np.int64]) -> str:
        return g.double(g("IsNaN", taken(columns)))

    blocks: list[tuple[npt.NDArray[np.int64], str]] = []
    values = at[VALUE]
    if len(values):
        sources = design.source[values]
        raw = taken(values)
        filled = g("Where", g("IsNaN", raw), g.const(design.median[sources][None]), raw)
        block = g.within(filled, design.low[sources][None], design.high[sources][None])
        unit = design.unit[sources][None]
        if (unit > 0).any():
            size = g("Div", g("Abs", block), g.const(np.where(unit > 0, unit, 1.0)))
            logged = g("Mul", g("Sign", block), g("Log", g("Add", size, g.const(1.0))))
            block = g("Where", g("Cast", g.const(unit), to=9), logged, block)
        blocks.append((values, block))
        if len(at[HINGE]):
            centred = g("Sub", block, g.const(design.centre[values][None]))
            z = g("Mul", centred, g.const(design.scale[values][None]))
            place = np.searchsorted(sources, design.source[at[HINGE]])
            bent = g("Gather", g.within(z, -LIMIT, LIMIT), g.const(place), axis=1)
            past = g("Sub", bent, g.const(design.level[at[HINGE]][None]))
            blocks.append((at[HINGE], g("Max", past, g.const(0.0))))
    if len(at[MISSING]):
        blocks.append((at[MISSING], gone(at[MISSING])))
    levels, others = at[LEVEL], at[OTHER]
    is_level = None
    if len(levels):
        is_level = g.double(g("Equal", taken(levels), g.const(design.level[levels][None])))
        blocks.append((levels, is_level))
    if len(others):
        rest = g("Sub", g.const(1.0), gone(others))
        if is_level is not None:
            own = (design.source[levels][:, None] == design.source[others][None]).astype(float)
            rest = g("Sub", rest, g("MatMul", is_level, g.const(own)))
        blocks.append((others, rest))
    joined = g("Concat", *(name for _, name in blocks), axis=1)
    order = np.argsort(np.concatenate([columns for columns, _ in blocks]))
    table = g("Gather", joined, g.const(order), axis=1)
    centred = g("Sub", table, g.const(design.centre[None]))
    return g.within(g("Mul", centred, g.const(design.scale[None])), -LIMIT, LIMIT)


def _own(state: State, part: str) -> State:
    """A part of what a model learnt, out of its whole state."""
    return State(state.header["own"], state.arrays, state.texts).part(part)


def _linear(g: Graph, x: str, model: Any) -> str:
    beta, intercepts = model.coefficients()
    margin = g("MatMul", _encoded(g, x, model.design), g.const(beta.T))
    margin = g("Add", margin, g.const(intercepts[None]))
    if model.link == "log":
        margin = g("Min", margin, g.const(_SAFE))
    return _answered(g, margin, model)


def _layers(g: Graph, x: str, model: Any) -> str:
    state = model.state()
    z = _encoded(g, x, Design.from_state(_own(state, "design")))
    count = int(state.header["own"]["layers"])
    for i in range(count):
        W, b = state.arrays[f"W{i}"], state.arrays[f"b{i}"]
        z = g("Add", g("MatMul", z, g.const(W)), g.const(b[None]))
        if i + 1 < count:
            z = g("Max", z, g.const(0.0))
    own = state.header["own"]
    if model.answer == "amount":
        return g("Add", g("Mul", z, g.const(own["scale"])), g.const(own["centre"]))
    return _answered(g, g("Min", z, g.const(30.0)) if model.answer == "count" else z, model)


def _forest(g: Graph, x: str, model: Any) -> str:
    from onnx import TensorProto

    state = model.state()
    z = _encoded(g, x, Design.from_state(_own(state, "design")))
    z = g.double(g("Cast", z, to=TensorProto.FLOAT))  # as grown: on single precision
    t = state.arrays
    trees = len(t["root"])
    parts = [
        _ensemble(
            g, z, t["root"], t["column"], t["left"], t["right"], t["threshold"],
            np.zeros(len(t["column"]), np.int64), t["value"][:, c] / trees, [], 1,
        )
        for c in range(t["value"].shape[1])
    ]  # fmt: skip
    if model.answer == "which":
        shares = g("Concat", *parts, axis=1)
        return g("Div", shares, g("ReduceSum", shares, g.const(np.array([1])), keepdims=1))
    return g.within(parts[0], 0.0, 1.0) if model.answer == "yes_no" else parts[0]


def _boosted(g: Graph, x: str, model: Any) -> str:
    text = model.state().texts["booster"]
    classes = max(1, model.classes)
    try:
        trees = [parse_tree(block) for block in text.split("\nTree=")[1:]]
    except ValueError as error:
        raise ModelError(f"these trees have no ONNX form: {error}") from None
    start = np.cumsum([0, *(len(tree["feature"]) for tree in trees)])
    whole = {
        key: np.concatenate([tree[key] for tree in trees])
        for key in ("feature", "threshold", "flags", "cut", "words", "value")
    }
    left, right = (
        np.concatenate([tree[side] + at for tree, at in zip(trees, start, strict=False)])
        for side in ("left", "right")
    )
    flags = whole["flags"].astype(np.int64)
    inner = whole["feature"] >= 0
    kind = (flags >> 2) & 3
    if (inner & (kind == 1) & (flags & 1 == 0)).any():
        raise ModelError("trees that read zero as missing have no ONNX form; fit them anew")
    # where missing goes left: as learnt, or, where the training rows had none, as zero does
    missing_left = np.where(kind == 2, flags & 2 > 0, whole["threshold"] >= 0) & (flags & 1 == 0)
    members = []
    of_tree = np.repeat(np.arange(len(trees)), np.diff(start))
    for node in np.flatnonzero(inner & (flags & 1 > 0)):
        bits = trees[of_tree[node]]["bits"].astype(np.uint32)
        cut, words = int(whole["cut"][node]), int(whole["words"][node])
        members.append((int(node), _codes(bits[cut : cut + words])))
    roots = start[:-1]
    margin = _ensemble(
        g, x, roots, whole["feature"], left, right, whole["threshold"],
        missing_left.astype(np.int64), whole["value"], members, classes,
        np.repeat(np.arange(len(trees)) % classes, np.diff(start)),
    )  # fmt: skip
    return _answered(g, margin, model)


def _codes(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """The category codes whose bit is set."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


def _ensemble(
    g: Graph, x: str, roots: Any, feature: Any, left: Any, right: Any, split: Any,
    missing_left: Any, value: Any, members: list[tuple[int, npt.NDArray[np.int64]]], targets: int,
    target: Any = None,
) -> str:  # fmt: skip
    """Sum the leaves of trees given as flat arrays; column −1 is a leaf; [n, targets]."""
    from onnx import helper

    feature = np.asarray(feature, np.int64)
    target = np.zeros(len(feature), np.int64) if target is None else target
    bare = np.flatnonzero(feature[np.asarray(roots, np.int64)] < 0)
    leaf = feature < 0
    number = np.where(leaf, np.cumsum(leaf), np.cumsum(~leaf)) - 1
    inner = np.flatnonzero(~leaf)
    modes = np.full(len(feature), LEQ)
    modes[[node for node, _ in members]] = MEMBER
    sides = {}
    for side, to in (("true", np.asarray(left)), ("false", np.asarray(right))):
        child = to[inner].astype(np.int64)
        sides[side] = (number[child].tolist(), leaf[child].astype(int).tolist())
    root_ids = number[np.asarray(roots, np.int64)].copy()
    columns = feature[inner].tolist()
    splits = np.asarray(split, np.float64)[inner].tolist()
    kinds = modes[inner].tolist()
    missing = np.asarray(missing_left)[inner].tolist()
    for i, b in enumerate(bare):  # a tree of one leaf: a node with that leaf on both sides
        only = int(number[int(np.asarray(roots)[b])])
        for side in ("true", "false"):
            sides[side][0].append(only)
            sides[side][1].append(1)
        root_ids[b] = len(inner) + i
        columns.append(0)
        splits.append(0.0)
        kinds.append(LEQ)
        missing.append(0)
    # sets of members stand in the order of their nodes, each ended by NaN
    sets = [c for _, codes in sorted(members, key=lambda m: m[0]) for c in (*codes, np.nan)]
    given: dict[str, Any] = {}
    if sets:
        given["membership_values"] = helper.make_tensor("members", 11, [len(sets)], sets)
    return g(
        "TreeEnsemble",
        x,
        domain="ai.onnx.ml",
        aggregate_function=1,
        n_targets=targets,
        post_transform=0,
        tree_roots=root_ids.tolist(),
        nodes_featureids=columns,
        nodes_splits=helper.make_tensor("splits", 11, [len(splits)], splits),
        nodes_modes=helper.make_tensor("modes", 2, [len(kinds)], kinds),
        nodes_missing_value_tracks_true=missing,
        nodes_truenodeids=sides["true"][0],
        nodes_trueleafs=sides["true"][1],
        nodes_falsenodeids=sides["false"][0],
        nodes_falseleafs=sides["false"][1],
        leaf_targetids=np.asarray(target)[leaf].tolist(),
        leaf_weights=helper.make_tensor(
            "weights", 11, [int(leaf.sum())], np.asarray(value, np.float64)[leaf].tolist()
        ),
        **given,
    )


def _mixed(g: Graph, x: str, model: Any) -> str:
    total = g.const(np.full((1, 1), model._bias))
    yes_no = model.answer == "yes_no"
    for weight, part in zip(model.weights, model.parts, strict=True):
        if weight > 0:
            score = scores(g, x, part)
            margin = g.logit(score, 1e-6) if yes_no else score
            total = g("Add", total, g("Mul", margin, g.const(float(weight))))
    if yes_no:
        return g.sigmoid(total)
    return g("Max", total, g.const(0.0)) if model.answer == "count" else total


def _two_parts(g: Graph, x: str, model: Any) -> str:
    def of(part: Any) -> str:
        return g.const(np.full((1, 1), part)) if isinstance(part, float) else scores(g, x, part)

    size = of(model.size)
    if model.parameters.size == "lognormal":
        size = g("Mul", g("Exp", size), g.const(model.smearing))
    return g("Mul", of(model.chance), size)


def _encoded_categories(g: Graph, x: str, model: Any) -> str:
    """Columns with many categories as their rate, and its count at the end; the model inside behind them."""
    arrays = model.state().arrays
    many = [int(j) for j in arrays["many"]]
    columns = {j: g("Gather", x, g.const(np.array([j])), axis=1) for j in range(model.width)}
    counts = []
    for j in many:
        rates = arrays[f"rates{j}"]
        last = g.const(float(len(rates) - 1))
        code = g("Where", g("IsNaN", columns[j]), last, columns[j])
        code = g("Cast", code, to=7)
        columns[j] = g("Gather", g.const(rates), code, axis=0)
        counts.append(g("Gather", g.const(arrays[f"counts{j}"]), code, axis=0))
    return scores(g, g("Concat", *columns.values(), *counts, axis=1), model.inner)
