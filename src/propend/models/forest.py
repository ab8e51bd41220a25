"""Decision tree, random forest and extra trees: grown by scikit-learn, kept as arrays, walked by a kernel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from propend.models.encode import Design
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.storage import State

__all__ = ["DecisionTree", "ExtraTrees", "ForestParameters", "RandomForest", "TreeParameters"]

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_BLOCK = 65_536


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
    """Trees over the encoded columns; a score is the mean of the leaves a row falls into."""

    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "imputed"
    _design: Design
    _trees: dict[str, npt.NDArray[Any]]

    @abstractmethod
    def _grower(self, rows: int, seed: int) -> Any: ...

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        self._design = Design.fit(data.X, self.categories)
        Z = self._design.transform(data.X).astype(np.float32)
        grown = self._grower(len(data), seed).fit(Z, data.y, sample_weight=data.weights)
        gains = np.asarray(grown.feature_importances_, dtype=np.float64)
        self._gains = np.bincount(self._design.source, gains, minlength=self.width)
        self._trees = _packed(getattr(grown, "estimators_", None) or [grown], self, grown)

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

    def _importance(self) -> Array:
        return np.asarray(self._gains, dtype=np.float64)

    def _state(self) -> State:
        state = State({}, {**self._trees, "gains": self._gains})
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        names = ("root", "left", "right", "column", "threshold", "value")
        self._trees = {name: state.arrays[name] for name in names}
        self._gains = state.arrays["gains"]


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
