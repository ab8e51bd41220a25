"""Decision tree, random forest and extra trees: grown by scikit-learn, kept as arrays, walked by a kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError
from propend.models.encode import Design
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.storage import State

if TYPE_CHECKING:
    from propend.models.attribution import Attribution

__all__ = ["DecisionTree", "ExtraTrees", "ForestParameters", "RandomForest", "TreeParameters"]

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_BLOCK = 65_536
MOST_NODES: Final = 500_000
"""A larger forest is not explained: this one takes 6 ms a row (measured: 616 rows a CPU second by 131,578 nodes), and a
file of scores may have a million."""
_TOGETHER: Final = 100_000
"""Nodes that are explained at once: what the quadrature keeps of each is some 300 bytes."""


@dataclass(frozen=True, slots=True)
class TreeParameters:
    """Settings of :class:`DecisionTree`."""

    depth: Annotated[int, msgspec.Meta(ge=1, le=60)] = 6
    rows_per_leaf: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """None: a 200th of the rows, between 5 and 200."""


@dataclass(frozen=True, slots=True)
class ForestParameters:
    """Settings of :class:`RandomForest` and :class:`ExtraTrees`."""

    trees: Annotated[int, msgspec.Meta(ge=1)] = 300
    depth: Annotated[int, msgspec.Meta(ge=1, le=60)] | None = None
    rows_per_leaf: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """None: a 5,000th of the rows, between 3 and 20."""
    columns: Literal["sqrt", "log2", "third", "all"] = "sqrt"
    """How many columns a split chooses from."""
    row_share: Share = 1.0
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: all cores. The model does not depend on it."""


class _Grown(Model):
    """Trees over the encoded columns; a score is the mean of the leaves a row falls into.

    Leaves hold shares (or means), so contributions are parts of the score itself, not of its logit: exact path-dependent
    SHAP (``propend.models.attribution``), a column in a coalition with all that it was encoded into.
    """

    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "imputed"
    _design: Design
    _trees: dict[str, npt.NDArray[Any]]
    _weight: Array | None = None
    """Training rows in each node; ``None`` where the model was saved before it was kept."""
    _explainer: list[Attribution] | None = None
    """Of a forest that is explained at once, made when contributions are first asked for."""

    @property
    def link(self) -> Link:
        return "identity"

    @abstractmethod
    def _grower(self, rows: int, seed: int) -> Any: ...

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._design = Design.fit(data.X, self.categories)
        Z = self._design.transform(data.X).astype(np.float32)
        grown = self._grower(len(data), seed).fit(Z, data.y, sample_weight=data.weights)
        gains = np.asarray(grown.feature_importances_, dtype=np.float64)
        self._gains = np.bincount(self._design.source, gains, minlength=self.width)
        trees = getattr(grown, "estimators_", None) or [grown]
        self._trees = _packed(trees, self, grown)
        self._explainer = None
        self._weight = np.concatenate([tree.tree_.weighted_n_node_samples for tree in trees])

    def _predict(self, X: Array) -> Array:
        t = self._trees
        out = np.zeros((len(X), t["value"].shape[1]))
        for start in range(0, len(X), _BLOCK):
            Z = self._design.transform(X[start : start + _BLOCK]).astype(np.float32)
            _walk()(
                Z, t["root"], t["left"], t["right"], t["column"], t["threshold"], t["value"],
                out[start : start + _BLOCK],
            )  # fmt: skip
        if self.answer == "which":
            return np.asarray(out / out.sum(axis=1, keepdims=True))
        return np.clip(out[:, 0], 0.0, 1.0) if self.answer == "yes_no" else out[:, 0]

    def _contributions(self, X: Array) -> Array:
        return self._attributed(X)[0]

    def _contributions_by_class(self, X: Array) -> Array:
        return self._attributed(X)

    def _attributed(self, X: Array) -> Array:
        """Return contributions [values of a leaf, n, d + 1]."""
        kinds = self._trees["value"].shape[1]
        out = np.zeros((kinds, len(X), self.width + 1))
        Z = self._design.transform(X).astype(np.float32).astype(np.float64)  # as the trees read it
        threads = getattr(self.parameters, "threads", 1)
        for parts in self._explainers():
            for k, part in enumerate(parts):
                told = part.of_rows(Z, threads)
                for j, source in enumerate(self._design.source):
                    out[k, :, source] += told[:, j]
                out[k, :, -1] += told[:, -1]
        return out

    def _explainers(self) -> Iterator[list[Attribution]]:
        """Yield some trees at a time, for each of a leaf's values; a tree pays its part of the mean over all trees."""
        if self._explainer is not None:
            yield self._explainer
            return
        from propend.models.attribution import Attribution

        t, weight = self._trees, self._weight
        if weight is None:
            raise ModelError(
                f"this '{self.name}' was saved before its reasons could be told; fit it again"
            )
        nodes = len(t["column"])
        if nodes > MOST_NODES:
            raise ModelError(
                f"'{self.name}' has {nodes:,} nodes, more than the {MOST_NODES:,} up to which reasons take a bearable time; "
                "set depth or rows_per_leaf, or ask 'trees'"
            )
        start = np.append(t["root"], nodes)
        edges = np.searchsorted(start, np.arange(0, nodes, _TOGETHER))
        for first, last in pairwise(np.unique([*edges, len(t["root"])]).tolist()):
            here, shift = slice(start[first], start[last]), start[first]
            parts = Attribution.of_nodes(
                start[first : last + 1] - shift, t["column"][here], t["threshold"][here], t["left"][here] - shift,
                t["right"][here] - shift, weight[here], t["value"][here] / len(t["root"]), self._design.source, self._design.width,
            )  # fmt: skip
            if first == 0 and last == len(t["root"]):
                self._explainer = parts
            yield parts

    def _importance(self) -> Array:
        return np.asarray(self._gains, dtype=np.float64)

    def _state(self) -> State:
        state = State({}, {**self._trees, "gains": self._gains})
        if self._weight is not None:
            state.arrays["weight"] = self._weight
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        names = ("root", "left", "right", "column", "threshold", "value")
        self._trees = {name: state.arrays[name] for name in names}
        self._gains = state.arrays["gains"]
        self._weight = state.arrays.get("weight")


class DecisionTree(_Grown):
    """One tree a person can read (Breiman et al. 1984): Gini for classes, squared error for numbers.

    >>> import numpy as np
    >>> X = np.arange(40.0).reshape(-1, 1)
    >>> DecisionTree("yes_no", depth=1).fit(X, X[:, 0] >= 20).predict([[3.0], [30.0]])
    array([0., 1.])
    """

    name: ClassVar[str] = "decision_tree"
    Parameters: ClassVar[type[Any]] = TreeParameters
    parameters: TreeParameters

    def _grower(self, rows: int, seed: int) -> Any:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        kind = DecisionTreeClassifier if self.answer in _CLASSES else DecisionTreeRegressor
        leaf = self.parameters.rows_per_leaf or max(5, min(rows // 200, 200))
        return kind(max_depth=self.parameters.depth, min_samples_leaf=leaf, random_state=seed)


class RandomForest(_Grown):
    """Trees on bootstrap rows with random columns (Breiman 2001).

    >>> RandomForest("amount", trees=50)
    RandomForest('amount', trees=50)
    """

    name: ClassVar[str] = "random_forest"
    Parameters: ClassVar[type[Any]] = ForestParameters
    parameters: ForestParameters
    _bootstrap: ClassVar[bool] = True

    def _grower(self, rows: int, seed: int) -> Any:
        chosen = self.parameters
        columns = {"third": 1 / 3, "all": 1.0}.get(chosen.columns, chosen.columns)
        return self._kind()(
            n_estimators=chosen.trees,
            max_depth=chosen.depth,
            min_samples_leaf=chosen.rows_per_leaf or max(3, min(rows // 5_000, 20)),
            max_features=columns,
            bootstrap=self._bootstrap or chosen.row_share < 1,
            max_samples=chosen.row_share if chosen.row_share < 1 else None,
            n_jobs=chosen.threads or -1,
            random_state=seed,
        )

    def _kind(self) -> Any:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        return RandomForestClassifier if self.answer in _CLASSES else RandomForestRegressor


class ExtraTrees(RandomForest):
    """Trees on all rows with random columns and random cuts (Geurts, Ernst & Wehenkel 2006).

    >>> ExtraTrees("yes_no", depth=4)
    ExtraTrees('yes_no', depth=4)
    """

    name: ClassVar[str] = "extra_trees"
    _bootstrap: ClassVar[bool] = False

    def _kind(self) -> Any:
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        return ExtraTreesClassifier if self.answer in _CLASSES else ExtraTreesRegressor


_CLASSES = ("yes_no", "which")


def _packed(grown: list[Any], model: Model, whole: Any) -> dict[str, npt.NDArray[Any]]:
    """All trees' nodes in one row of arrays; ``root`` says where each begins, column −1 is a leaf."""
    trees = [tree.tree_ for tree in grown]
    sizes = np.array([tree.node_count for tree in trees])
    root = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    shift = np.repeat(root, sizes)
    left = np.concatenate([tree.children_left for tree in trees])
    inner = left >= 0
    right = np.concatenate([tree.children_right for tree in trees])
    column = np.concatenate([tree.feature for tree in trees])
    values = np.concatenate([tree.value[:, 0, :] for tree in trees])
    if model.answer in _CLASSES:
        shares = values / values.sum(axis=1, keepdims=True)
        classes = np.asarray(whole.classes_, dtype=np.int64)
        values = np.zeros((len(shares), max(model.classes, 2)))
        values[:, classes] = shares
        if model.answer == "yes_no":
            values = values[:, 1:]
    return {
        "root": root,
        "left": np.where(inner, left + shift, 0).astype(np.int32),
        "right": np.where(inner, right + shift, 0).astype(np.int32),
        "column": np.where(inner, column, -1).astype(np.int32),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "value": np.ascontiguousarray(values, dtype=np.float64),
    }


def _walk() -> Any:
    from propend.models.kernels import walk

    return walk
