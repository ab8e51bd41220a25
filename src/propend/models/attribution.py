"""SHAP values of trees, exact and quick: one pass down and one up each tree, by quadrature.

A leaf pays ``v`` if x goes its way; a feature outside the coalition goes each way with the share of the
training rows that did (Lundberg et al. 2020, path-dependent). With o_j ∈ {0, 1} whether x itself goes the
leaf's way by feature j, and r_j that share, feature i earns

    v · (o_i − r_i) · ∫₀¹ Π_{j≠i} (r_j (1 − t) + o_j t) dt,

for Shapley's weights are the Beta integrals of tˢ (1 − t)ⁿ⁻ˢ⁻¹. The integrand is a polynomial of degree
d − 1 in t, so Gauss-Legendre with ⌈d/2⌉ points is exact. The products are shared along paths (down), the
leaves' sums along subtrees (up), which makes O(leaves · ⌈d/2⌉) a tree; compare Yu et al., *Linear TreeShap*
(NeurIPS 2022). A feature that splits twice on a path counts by its last split: what lies below it is taken
from the first. Rows are carried side by side, so that every product and sum is a vector instruction; which way a row
went enters as a number 0 or 1, never as a branch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["Attribution", "parse_tree"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

_BLOCK = 512
_LANES = 64
"""Rows side by side; 8 gave 16,000 rows a CPU second, 32 29,000, 64 41,000: the loops' own cost is spread."""


@dataclass(frozen=True)
class Attribution:
    """Trees as flat arrays; the first node of a tree is its root, parents come before children."""

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
    points: I32
    """Quadrature points of each tree."""
    steps: F64
    """Per node and point: what the edge multiplies, and what it earns [tree · node · point, 6]; see ``_steps``."""
    step_start: I64
    """First row of each tree in ``steps``."""
    bias: float
    """The mean score of the training rows."""
    width: int

    @classmethod
    def of(cls, text: str, width: int, part: int | None = None) -> Attribution:
        """Read a LightGBM model in its own text format; of several classes the trees of one (``part``).

        Raises ``ValueError`` for trees of several classes without ``part``, or with linear leaves.
        """
        blocks = text.split("\nTree=")[1:]
        if "\nnum_tree_per_iteration=1\n" not in text:
            if part is None:
                raise ValueError("trees of several classes")
            classes = int(text.split("\nnum_tree_per_iteration=")[1].split("\n")[0])
            blocks = blocks[part::classes]
        trees = [parse_tree(block) for block in blocks]
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
        kinds = {key: np.int32 for key in join if key not in ("threshold", "value")}
        share = join.pop("share")
        arrays: dict[str, Any] = {
            key: np.ascontiguousarray(a, dtype=kinds.get(key, np.float64))
            for key, a in join.items()
        }
        steps = [_steps(share, join["same"], start, t, int(m)) for t, m in enumerate(points)]
        return cls(
            start=start,
            bits=np.concatenate([tree["bits"] for tree in trees]).astype(np.uint32),
            points=points.astype(np.int32),
            steps=np.concatenate([s.reshape(-1, 6) for s in steps]),
            step_start=np.cumsum([0, *(s.shape[0] * s.shape[1] for s in steps)])[:-1],
            bias=float(sum(tree["mean"][0] for tree in trees)),
            width=width,
            **arrays,
        )

    @classmethod
    def of_nodes(
        cls, start: I64, column: I32, threshold: F64, left: I32, right: I32, weight: F64, values: F64,
        player: I64, width: int,
    ) -> list[Attribution]:  # fmt: skip
        """Take trees of plain splits (``x ≤ threshold`` goes left, nothing is missing) from the arrays of their nodes.

        ``start`` [trees + 1] says where each begins, ``column`` −1 is a leaf, ``weight`` the training rows of a node;
        of ``values`` [nodes, k] each column is explained by itself.
        Columns that one thing was encoded into have the same ``player`` [width]: they are in a coalition together, so
        the sum of their contributions is what that thing earns.
        """
        nodes = len(column)
        inner = np.flatnonzero(column >= 0)
        parent = np.full(nodes, -1, np.int32)
        parent[left[inner]] = parent[right[inner]] = inner
        of = player[column]
        same, share, reach, depth = _lineage(parent, of, weight)
        points = np.maximum(1, (np.maximum.reduceat(depth, start[:-1]) + 1) // 2).astype(np.int32)
        steps = [_steps(share, same, start, t, int(m)) for t, m in enumerate(points)]
        leaf = column < 0
        zeros = np.zeros(nodes, np.int32)
        first = cls(
            start=start,
            feature=column,
            threshold=threshold,
            flags=zeros,
            left=np.where(leaf, -1, left).astype(np.int32),
            right=np.where(leaf, -1, right).astype(np.int32),
            cut=zeros,
            words=zeros,
            bits=np.empty(0, np.uint32),
            value=np.empty(0),
            parent=parent,
            same=same,
            points=points,
            steps=np.concatenate([s.reshape(-1, 6) for s in steps]),
            step_start=np.cumsum([0, *(s.shape[0] * s.shape[1] for s in steps)])[:-1],
            bias=0.0,
            width=width,
        )
        return [
            replace(
                first, value=np.where(leaf, value, 0.0), bias=float((reach * value)[leaf].sum())
            )
            for value in values.T
        ]

    def margin(self, x: F64) -> float:
        """Return the margin of one row [d]: the bits of LightGBM's raw score, without the 0.1 ms of its call."""
        return _margin_of_one(
            np.ascontiguousarray(x), self.start, self.feature, self.threshold, self.flags, self.left, self.right, self.cut,
            self.words, self.bits, self.value,
        )  # fmt: skip

    def of_rows(self, X: F64, threads: int = 1) -> F64:
        """Return contributions [n, width + 1], the bias last."""
        out = np.zeros((len(X), self.width + 1))
        out[:, -1] = self.bias
        X = np.ascontiguousarray(X)
        if len(X) == 1:
            _attribute_one(
                X[0], self.start, self.feature, self.threshold, self.flags, self.left, self.right,
                self.cut, self.words, self.bits, self.value, self.parent, self.same, self.points,
                self.steps, self.step_start, out[0],
            )  # fmt: skip
            return out

        def work(begin: int) -> None:
            rows = slice(begin, begin + _BLOCK)
            _attribute(
                X[rows], self.start, self.feature, self.threshold, self.flags, self.left, self.right,
                self.cut, self.words, self.bits, self.value, self.parent, self.same, self.points,
                self.steps, self.step_start, out[rows],
            )  # fmt: skip

        begins = range(0, len(X), _BLOCK)
        if threads == 1 or len(X) <= _BLOCK:
            for begin in begins:
                work(begin)
        else:
            with ThreadPoolExecutor(threads or None) as pool:
                list(pool.map(work, begins))
        return out


def parse_tree(block: str) -> dict[str, npt.NDArray[np.float64]]:
    """One tree of a LightGBM text: its nodes in preorder, from its lines ``name=values``.

    Node 0 is the root, ``feature`` −1 a leaf; ``left`` and ``right`` are nodes of the tree. Raises ``ValueError`` for linear leaves.
    """
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
    names = ("feature", "threshold", "flags", "left", "right", "cut", "words", "value")
    found: dict[str, list[float]] = {n: [] for n in (*names, "parent", "same", "share")}
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
def _decide(
    x: F64, threshold: float, flags: int, cut: int, words: int, bits: U32, goes: F64
) -> None:
    """Fill ``goes`` with 1 where a row goes left."""
    kind = (flags >> 2) & 3
    if flags & 1 or kind == 1:
        for k in range(len(goes)):
            goes[k] = 1.0 if _goes_left(x[k], threshold, flags, cut, words, bits) else 0.0
    elif ((flags & 2) != 0) if kind == 2 else (threshold >= 0.0):  # where missing goes left
        for k in range(len(goes)):
            goes[k] = 0.0 if x[k] > threshold else 1.0
    else:
        for k in range(len(goes)):
            goes[k] = 1.0 if x[k] <= threshold else 0.0


@njit(cache=True, nogil=True)
def _goes_left(x: float, threshold: float, flags: int, cut: int, words: int, bits: U32) -> bool:
    """A category, or a number whose zero means missing."""
    if flags & 1:
        if np.isnan(x):
            return False
        code = np.int64(x)
        if code < 0 or code >= 32 * words:
            return False
        return (bits[cut + code // 32] >> np.uint32(code % 32)) & np.uint32(1) != 0
    if np.isnan(x) or abs(x) <= 1e-35:
        return (flags & 2) != 0
    return x <= threshold


@njit(cache=True, nogil=True, inline="always")
def _step(x: float, threshold: float, flags: int, cut: int, words: int, bits: U32) -> bool:
    """Whether one row goes left, as ``_decide`` says of many."""
    kind = (flags >> 2) & 3
    if flags & 1 or kind == 1:
        return _goes_left(x, threshold, flags, cut, words, bits)
    if ((flags & 2) != 0) if kind == 2 else (threshold >= 0.0):  # where missing goes left
        return not x > threshold
    return x <= threshold


@njit(cache=True, nogil=True)
def _margin_of_one(
    x: F64, start: I64, feature: I32, threshold: F64, flags: I32, left: I32, right: I32, cut: I32, words: I32, bits: U32,
    value: F64,
) -> float:  # fmt: skip
    """The leaves' sum of one row, added up tree by tree as LightGBM does."""
    total = 0.0
    for t in range(len(start) - 1):
        at = start[t]
        while feature[at] >= 0:
            goes_left = _step(x[feature[at]], threshold[at], flags[at], cut[at], words[at], bits)
            at = np.int64(left[at] if goes_left else right[at])
        total += value[at]
    return total


@njit(cache=True, nogil=True)
def _lineage(parent: I32, of: I64, weight: F64) -> tuple[I32, F64, F64, I64]:
    """Return of each node: the nearest one above by the same player's split, the share of rows that go this way by this
    player's splits, the share that reaches it, and how many players its path knows; ``of`` is the player a node splits on."""
    nodes = len(parent)
    same = np.full(nodes, -1, np.int32)
    share = np.ones(nodes)
    reach = np.ones(nodes)
    depth = np.zeros(nodes, np.int64)
    for n in range(nodes):
        up = parent[n]
        if up < 0:
            continue
        ratio = weight[n] / weight[up] if weight[up] > 0 else 0.5
        at = up
        while parent[at] >= 0 and of[parent[at]] != of[up]:
            at = parent[at]
        before = 1.0
        depth[n] = depth[up] + 1
        if parent[at] >= 0:
            same[n] = at
            before = share[at]
            depth[n] = depth[up]
        share[n] = max(before * ratio, 1e-12)
        reach[n] = reach[up] * ratio
    return same, share, reach, depth


def _steps(share: F64, same: F64, start: I64, tree: int, m: int) -> F64:
    """Return [node, point, 6]: the factor of an edge's product and its earning, each as base, step and second step.

    With a = 1 where x went this way at the same feature's splits above, and o = 1 where it still does, a factor is
    ``base + a · (first + o · second)``; an edge whose feature is new on its path has a = 1 throughout. The factor is
    (r (1 − t) + o t), over that of the edge above by the same feature; the earning (o − r) over it, less that one's.
    """
    x, w = np.polynomial.legendre.leggauss(m)
    z = (x + 1) / 2
    nodes = slice(start[tree], start[tree + 1])
    r = share[nodes][:, None]
    above = same[nodes].astype(np.int64)
    repeated = (above >= 0)[:, None]
    before = np.where(repeated, share[np.maximum(above, 0)][:, None], 1.0)  # 1: divides by 1
    off, on = r * (1 - z), r * (1 - z) + z
    known_off, known_on = before * (1 - z), before * (1 - z) + z
    factors = np.where(repeated, r / before, off), off / known_on, on / known_on
    lost = np.where(repeated, (0.0 - before) / known_off, 0.0)
    won = np.where(repeated, (1.0 - before) / known_on, 0.0)
    earned_off, earned_on = (0.0 - r) / off, (1.0 - r) / on
    earnings = earned_off - lost, earned_off - won, earned_on - won
    found = np.empty((len(r), m, 6))
    for i, (neither, above_only, both) in enumerate((factors, earnings)):
        found[:, :, 3 * i] = neither
        found[:, :, 3 * i + 1] = above_only - neither
        found[:, :, 3 * i + 2] = both - above_only
    found[0] = 0.0
    found[0, :, 0] = w / 2  # the root has no edge: it keeps the weights
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _attribute(
    X: F64, start: I64, feature: I32, threshold: F64, flags: I32, left: I32, right: I32, cut: I32,
    words: I32, bits: U32, value: F64, parent: I32, same: I32, points: I32, steps: F64,
    step_start: I64, out: F64,
) -> None:  # fmt: skip
    """Add contributions, ``_LANES`` rows side by side so that the innermost loops are vector instructions."""
    rows, width = X.shape
    lanes = min(rows, _LANES)
    blocks = (rows + lanes - 1) // lanes
    turned = np.zeros((blocks, width, lanes))
    earned = np.zeros((blocks, width, lanes))
    for i in range(rows):
        for j in range(width):
            turned[i // lanes, j, i % lanes] = X[i, j]
    largest = 0
    most = 1
    for t in range(len(points)):
        largest = max(largest, start[t + 1] - start[t])
        most = max(most, points[t])
    held = np.empty((largest * most, lanes))  # products going down, sums coming up
    own = np.ones((largest, lanes))
    goes = np.empty(lanes)
    gain = np.empty(lanes)
    for t in range(len(points)):
        m = points[t]
        first = start[t]
        size = start[t + 1] - first
        if size == 1:
            continue
        s0 = step_start[t]
        for b in range(blocks):
            for q in range(m):
                base = steps[s0 + q, 0]
                for k in range(lanes):
                    held[q, k] = base
            for n in range(size):
                at = first + n
                column = feature[at]
                if column < 0:
                    paid = value[at]
                    for q in range(n * m, n * m + m):
                        for k in range(lanes):
                            held[q, k] *= paid
                    continue
                _decide(turned[b, column], threshold[at], flags[at], cut[at], words[at], bits, goes)
                for side in range(2):
                    child = (left[at] if side == 0 else right[at]) - first
                    above = same[first + child]
                    s = s0 + child * m
                    if above >= 0:
                        before = above - first
                        for k in range(lanes):
                            own[child, k] = own[before, k] * goes[k]
                        for q in range(m):
                            base, one, two = steps[s + q, 0], steps[s + q, 1], steps[s + q, 2]
                            for k in range(lanes):
                                held[child * m + q, k] = held[n * m + q, k] * (
                                    base + own[before, k] * one + own[child, k] * two
                                )
                    else:
                        for k in range(lanes):
                            own[child, k] = goes[k]
                        for q in range(m):
                            base, two = steps[s + q, 0] + steps[s + q, 1], steps[s + q, 2]
                            for k in range(lanes):
                                held[child * m + q, k] = held[n * m + q, k] * (base + goes[k] * two)
                    for k in range(lanes):
                        goes[k] = 1.0 - goes[k]
                for q in range(n * m, n * m + m):
                    for k in range(lanes):
                        held[q, k] = 0.0
            for n in range(size - 1, 0, -1):
                at = first + n
                up = parent[at] - first
                s = s0 + n * m
                above = same[at]
                for k in range(lanes):
                    gain[k] = 0.0
                if above >= 0:
                    before = above - first
                    for q in range(m):
                        base, one, two = steps[s + q, 3], steps[s + q, 4], steps[s + q, 5]
                        for k in range(lanes):
                            gain[k] += held[n * m + q, k] * (
                                base + own[before, k] * one + own[n, k] * two
                            )
                            held[up * m + q, k] += held[n * m + q, k]
                else:
                    for q in range(m):
                        base, two = steps[s + q, 3] + steps[s + q, 4], steps[s + q, 5]
                        for k in range(lanes):
                            gain[k] += held[n * m + q, k] * (base + own[n, k] * two)
                            held[up * m + q, k] += held[n * m + q, k]
                column = feature[first + up]
                for k in range(lanes):
                    earned[b, column, k] += gain[k]
    for i in range(rows):
        for j in range(width):
            out[i, j] += earned[i // lanes, j, i % lanes]


@njit(cache=True, nogil=True, error_model="numpy")
def _attribute_one(
    x: F64, start: I64, feature: I32, threshold: F64, flags: I32, left: I32, right: I32, cut: I32,
    words: I32, bits: U32, value: F64, parent: I32, same: I32, points: I32, steps: F64,
    step_start: I64, out: F64,
) -> None:  # fmt: skip
    """Add one row's contributions, the same bits as ``_attribute``: with one lane its loops are all overhead."""
    largest = 0
    most = 1
    for t in range(len(points)):
        largest = max(largest, start[t + 1] - start[t])
        most = max(most, points[t])
    held = np.empty(largest * most)
    own = np.ones(largest)
    for t in range(len(points)):
        m = points[t]
        first = start[t]
        size = start[t + 1] - first
        if size == 1:
            continue
        s0 = step_start[t]
        for q in range(m):
            held[q] = steps[s0 + q, 0]
        for n in range(size):
            at = first + n
            column = feature[at]
            if column < 0:
                for q in range(n * m, n * m + m):
                    held[q] *= value[at]
                continue
            goes_left = _step(x[column], threshold[at], flags[at], cut[at], words[at], bits)
            for side in range(2):
                child = (left[at] if side == 0 else right[at]) - first
                before = 1.0 if same[first + child] < 0 else own[same[first + child] - first]
                mine = before if goes_left == (side == 0) else 0.0
                own[child] = mine
                s = s0 + child * m
                for q in range(m):
                    held[child * m + q] = held[n * m + q] * (
                        steps[s + q, 0] + before * steps[s + q, 1] + mine * steps[s + q, 2]
                    )
            for q in range(n * m, n * m + m):
                held[q] = 0.0
        for n in range(size - 1, 0, -1):
            at = first + n
            up = parent[at] - first
            s = s0 + n * m
            before = 1.0 if same[at] < 0 else own[same[at] - first]
            gain = 0.0
            for q in range(m):
                gain += held[n * m + q] * (
                    steps[s + q, 3] + before * steps[s + q, 4] + own[n] * steps[s + q, 5]
                )
                held[up * m + q] += held[n * m + q]
            out[feature[first + up]] += gain
