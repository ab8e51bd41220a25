"""SHAP values of boosted trees, exact and quick: one pass down and one up each tree, by quadrature.

A leaf pays ``v`` if x goes its way; a feature outside the coalition goes each way with the share of the
training rows that did (Lundberg et al. 2020, path-dependent). With o_j ∈ {0, 1} whether x itself goes the
leaf's way by feature j, and r_j that share, feature i earns

    v · (o_i − r_i) · ∫₀¹ Π_{j≠i} (r_j (1 − t) + o_j t) dt,

for Shapley's weights are the Beta integrals of tˢ (1 − t)ⁿ⁻ˢ⁻¹. The integrand is a polynomial of degree
d − 1 in t, so Gauss-Legendre with ⌈d/2⌉ points is exact. The products are shared along paths (down), the
leaves' sums along subtrees (up), which makes O(leaves · ⌈d/2⌉) a tree; compare Yu et al., *Linear TreeShap*
(NeurIPS 2022). A feature that splits twice on a path counts by its last split: what lies below it is taken
from the first.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["Attribution"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

_BLOCK = 512


@dataclass(frozen=True)
class Attribution:
    """The trees of a LightGBM model as flat arrays; node 0 of a tree is its root, parents come before children."""

    start: I64
    """First node of each tree [trees + 1]."""
    feature: I32
    """Column a node splits on, −1 for a leaf."""
    threshold: F64
    flags: I32
    """LightGBM's decision type: bit 0 category, bit 1 missing goes left, bits 2–3 what missing is."""
    left: I32
    right: I32
    cut: I32
    """First word of a category split's bits in ``bits``, and its number of words in ``words``."""
    words: I32
    bits: U32
    value: F64
    parent: I32
    same: I32
    """Nearest node above that the same feature's previous split leads to, −1 for none."""
    share: F64
    """r of the edge that leads to a node: over all splits of its feature down to here."""
    points: I32
    """Quadrature points of each tree."""
    nodes: F64
    weights: F64
    """Gauss-Legendre points and weights on [0, 1], for 1…k points one after the other."""
    offset: I32
    bias: float
    """The mean score of the training rows."""
    width: int

    @classmethod
    def of(cls, text: str, width: int) -> Attribution:
        """Read a LightGBM model in its own text format.

        Raises ``ValueError`` for trees that are not of one class or have linear leaves.
        """
        if "\nnum_tree_per_iteration=1\n" not in text:
            raise ValueError("trees of several classes")
        trees = [_parsed(block) for block in text.split("\nTree=")[1:]]
        sizes = [len(tree["feature"]) for tree in trees]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        shift = np.repeat(start[:-1], sizes)
        join = {
            key: np.concatenate([tree[key] for tree in trees])
            for key in ("feature", "threshold", "flags", "words", "value", "share")
        }
        for key in ("left", "right", "parent", "same"):
            own = np.concatenate([tree[key] for tree in trees])
            join[key] = np.where(own < 0, -1, own + shift)
        word_start = np.concatenate([[0], np.cumsum([len(tree["bits"]) for tree in trees])])
        join["cut"] = np.concatenate([tree["cut"] for tree in trees]) + np.repeat(
            word_start[:-1], sizes
        )
        points = np.array([max(1, (int(tree["distinct"][0]) + 1) // 2) for tree in trees])
        most = int(points.max(initial=1))
        rules = [np.polynomial.legendre.leggauss(m) for m in range(1, most + 1)]
        kinds = {key: np.int32 for key in join if key not in ("threshold", "value", "share")}
        arrays = {
            key: np.ascontiguousarray(a, dtype=kinds.get(key, np.float64))
            for key, a in join.items()
        }
        return cls(
            start=start,
            bits=np.concatenate([tree["bits"] for tree in trees]).astype(np.uint32),
            points=points.astype(np.int32),
            nodes=np.concatenate([(x + 1) / 2 for x, _ in rules]),
            weights=np.concatenate([w / 2 for _, w in rules]),
            offset=np.concatenate([[0], np.cumsum(np.arange(1, most + 1))]).astype(np.int32),
            bias=float(sum(tree["mean"][0] for tree in trees)),
            width=width,
            **arrays,
        )

    def of_rows(self, X: F64, threads: int = 1) -> F64:
        """Return contributions [n, width + 1], the bias last."""
        out = np.zeros((len(X), self.width + 1))
        out[:, -1] = self.bias
        X = np.ascontiguousarray(X)

        def work(begin: int) -> None:
            rows = slice(begin, begin + _BLOCK)
            _attribute(
                X[rows], self.start, self.feature, self.threshold, self.flags, self.left, self.right,
                self.cut, self.words, self.bits, self.value, self.parent, self.same, self.share,
                self.points, self.nodes, self.weights, self.offset, out[rows],
            )  # fmt: skip

        begins = range(0, len(X), _BLOCK)
        if threads == 1 or len(X) <= _BLOCK:
            for begin in begins:
                work(begin)
        else:
            with ThreadPoolExecutor(threads or None) as pool:
                list(pool.map(work, begins))
        return out


def _parsed(block: str) -> dict[str, npt.NDArray[np.float64]]:
    """One tree's nodes in preorder, from its lines ``name=values``."""
    lines = dict(line.split("=", 1) for line in block.splitlines()[1:] if "=" in line)
    if lines.get("is_linear", "0").strip() == "1":
        raise ValueError("linear leaves")

    def numbers(name: str) -> F64:
        return np.array(lines.get(name, "").split(), dtype=np.float64)

    value, leaf_count, count = (numbers(n) for n in ("leaf_value", "leaf_count", "internal_count"))
    if int(lines["num_leaves"]) == 1:
        return _stump(float(value[0]) if len(value) else 0.0)
    feature, threshold, flags = (
        numbers(n) for n in ("split_feature", "threshold", "decision_type")
    )
    sides = {side: numbers(f"{side}_child").astype(int) for side in ("left", "right")}
    bounds, bits = numbers("cat_boundaries").astype(int), numbers("cat_threshold")
    found: dict[str, list[float]] = {
        key: []
        for key in (
            "feature",
            "threshold",
            "flags",
            "left",
            "right",
            "cut",
            "words",
            "value",
            "parent",
            "same",
            "share",
        )
    }
    distinct, mean = 0, 0.0

    def rows(node: int) -> float:
        return float(count[node] if node >= 0 else leaf_count[~node])

    stack: list[tuple[int, int, str, dict[int, tuple[int, float]]]] = [(0, -1, "", {})]
    while stack:
        node, parent, side, path = stack.pop()
        here = len(found["feature"])
        same, share = -1, 1.0
        if parent >= 0:
            found[side][parent] = here
            of = int(found["feature"][parent])
            whole = rows(int(found["node"][parent])) if "node" in found else 1.0
            ratio = rows(node) / whole if whole else 0.5
            same, before = path.get(of, (-1, 1.0))
            share = max(before * ratio, 1e-12)
            path = {**path, of: (here, share)}
        found.setdefault("node", []).append(node)
        inner = node >= 0
        is_category = inner and int(flags[node]) & 1
        at = int(threshold[node]) if is_category else 0
        found["feature"].append(feature[node] if inner else -1)
        found["threshold"].append(threshold[node] if inner else 0.0)
        found["flags"].append(flags[node] if inner else 0)
        found["left"].append(-1)
        found["right"].append(-1)
        found["cut"].append(bounds[at] if is_category else 0)
        found["words"].append(bounds[at + 1] - bounds[at] if is_category else 0)
        found["value"].append(0.0 if inner else value[~node])
        found["parent"].append(parent)
        found["same"].append(same)
        found["share"].append(share)
        distinct = max(distinct, len(path))
        if inner:
            stack.append((int(sides["right"][node]), here, "right", path))
            stack.append((int(sides["left"][node]), here, "left", path))
        else:
            mean += value[~node] * leaf_count[~node]
    arrays = {k: np.array(v, dtype=np.float64) for k, v in found.items() if k != "node"}
    arrays["bits"] = bits
    arrays["distinct"] = np.array([distinct], dtype=np.float64)
    arrays["mean"] = np.array([mean / leaf_count.sum()])
    return arrays


def _stump(value: float) -> dict[str, F64]:
    leaf = {key: np.zeros(1) for key in ("threshold", "flags", "cut", "words")}
    none = {key: np.full(1, -1.0) for key in ("feature", "left", "right", "parent", "same")}
    known = {"value": np.array([value]), "share": np.ones(1), "bits": np.empty(0)}
    return {**leaf, **none, **known, "distinct": np.zeros(1), "mean": np.array([value])}


@njit(cache=True, nogil=True, inline="always")
def _goes_left(x: float, threshold: float, flags: int, cut: int, words: int, bits: U32) -> bool:
    if flags & 1:
        if np.isnan(x):
            return False
        code = np.int64(x)
        if code < 0 or code >= 32 * words:
            return False
        return (bits[cut + code // 32] >> np.uint32(code % 32)) & np.uint32(1) != 0
    kind = (flags >> 2) & 3
    gone = np.isnan(x)
    if kind == 2 and gone:
        return (flags & 2) != 0
    if gone:
        x = 0.0
    if kind == 1 and abs(x) <= 1e-35:
        return (flags & 2) != 0
    return x <= threshold


@njit(cache=True, nogil=True)
def _attribute(
    X: F64, start: I64, feature: I32, threshold: F64, flags: I32, left: I32, right: I32, cut: I32,
    words: I32, bits: U32, value: F64, parent: I32, same: I32, share: F64, points: I32, nodes: F64,
    weights: F64, offset: I32, out: F64,
) -> None:  # fmt: skip
    largest = 0
    most = 1
    for t in range(len(points)):
        largest = max(largest, start[t + 1] - start[t])
        most = max(most, points[t])
    product = np.empty((largest, most))
    total = np.empty((largest, most))
    # per tree and edge: 1 / (r (1 − t) + o t) for o = 0 and o = 1
    inverse = np.empty((largest, 2, most))
    plain = np.empty((largest, 2, most))
    own = np.empty(largest, np.int64)
    for t in range(len(points)):
        m = points[t]
        first = start[t]
        size = start[t + 1] - first
        if size == 1:
            continue
        q0 = offset[m - 1]
        for n in range(1, size):
            r = share[first + n]
            for q in range(m):
                z = nodes[q0 + q]
                plain[n, 0, q] = r * (1.0 - z)
                plain[n, 1, q] = r * (1.0 - z) + z
                inverse[n, 0, q] = 1.0 / plain[n, 0, q]
                inverse[n, 1, q] = 1.0 / plain[n, 1, q]
        for q in range(m):
            product[0, q] = weights[q0 + q]
        for i in range(len(X)):
            own[0] = 1
            for n in range(size):
                at = first + n
                if feature[at] < 0:
                    for q in range(m):
                        total[n, q] = product[n, q] * value[at]
                    continue
                goes = _goes_left(
                    X[i, feature[at]], threshold[at], flags[at], cut[at], words[at], bits
                )
                for side in range(2):
                    child = (left[at] if side == 0 else right[at]) - first
                    o = 1 if goes == (side == 0) else 0
                    before = same[first + child] - first if same[first + child] >= 0 else -1
                    if before >= 0:
                        o = o * own[before]
                        for q in range(m):
                            product[child, q] = (
                                product[n, q] * inverse[before, own[before], q] * plain[child, o, q]
                            )
                    else:
                        for q in range(m):
                            product[child, q] = product[n, q] * plain[child, o, q]
                    own[child] = o
                for q in range(m):
                    total[n, q] = 0.0
            for n in range(size - 1, 0, -1):
                at = first + n
                up = parent[at] - first
                column = feature[first + up]
                earned = 0.0
                o = own[n]
                for q in range(m):
                    earned += total[n, q] * inverse[n, o, q]
                    total[up, q] += total[n, q]
                gain = (o - share[at]) * earned
                if same[at] >= 0:
                    b = same[at] - first
                    taken = 0.0
                    for q in range(m):
                        taken += total[n, q] * inverse[b, own[b], q]
                    gain -= (own[b] - share[same[at]]) * taken
                out[i, column] += gain
