"""Two more boosters behind the contract: XGBoost, and the explainable boosting machine."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.parameters import threads_for
from propend.models.storage import State

__all__ = ["ExplainableBoosting", "ExplainableParameters", "XgBoost", "XgbParameters"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
_SINGLE = 1e38


@dataclass(frozen=True, slots=True)
class XgbParameters:
    """Settings of :class:`XgBoost`."""

    trees: Positive = 300
    """Most trees; with ``validation`` growth stops earlier."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    depth: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    column_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
    row_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    l2: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    patience: Positive = 50
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0


class XgBoost(Model):
    """Boosted trees by XGBoost (Chen & Guestrin, KDD 2016): missing values and categories as they are.

    Needs the extra ``boost`` (``xgboost-cpu``, without the GPU libraries). Saved as its own JSON.

    >>> XgBoost("yes_no", depth=3)
    XgBoost('yes_no', depth=3)
    """

    name: ClassVar[str] = "xgboost"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = XgbParameters
    parameters: XgbParameters
    _booster: Any
    _text: str

    @property
    def link(self) -> Link:
        return "log" if self.answer == "count" else super().link

    @property
    def settled(self) -> dict[str, Any]:
        return {"trees": self.rounds}

    @property
    def rounds(self) -> int:
        """Trees kept (per class)."""
        self._check_fitted()
        return int(self._booster.num_boosted_rounds())

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        xgboost = _xgboost()
        chosen = self.parameters
        objective = {
            "yes_no": "binary:logistic",
            "amount": "reg:squarederror",
            "count": "count:poisson",
            "which": "multi:softprob",
        }[self.answer]
        settings = {
            "objective": objective,
            "eta": chosen.learning_rate,
            "max_depth": chosen.depth,
            "colsample_bytree": chosen.column_share,
            "subsample": chosen.row_share,
            "lambda": chosen.l2,
            "seed": seed,
            "nthread": threads_for(chosen.threads, data.rows.shape),
            "tree_method": "hist",
            "verbosity": 0,
        }
        if self.answer == "which":
            settings["num_class"] = self.classes
        held = [] if validation is None else [(self._rows(validation), "held")]
        booster = xgboost.train(
            settings,
            self._rows(data),
            num_boost_round=chosen.trees if not held else max(chosen.trees, 2000),
            evals=held,
            early_stopping_rounds=chosen.patience if held else None,
            verbose_eval=False,
        )
        if held:
            booster = booster[: booster.best_iteration + 1]
        self._open(bytes(booster.save_raw("json")).decode())

    def _rows(self, data: Data | Array) -> Any:
        xgboost = _xgboost()
        kinds = ["c" if j in self.categories else "q" for j in range(self.width)]
        X = data.X if isinstance(data, Data) else data
        X = np.clip(X, -_SINGLE, _SINGLE)  # it counts in single precision, where more is infinite
        given: dict[str, Any] = (
            {"label": data.y, "weight": data.weight} if isinstance(data, Data) else {}
        )
        threads = threads_for(self.parameters.threads, X.shape) or None
        return xgboost.DMatrix(
            X, feature_types=kinds, enable_categorical=True, nthread=threads, **given
        )

    def _open(self, text: str) -> None:
        booster = _xgboost().Booster()
        booster.load_model(bytearray(text.encode()))
        booster.set_param({"nthread": self.parameters.threads, "verbosity": 0})
        self._text, self._booster = text, booster

    def _margins(self, X: Array) -> Array:
        self._booster.set_param({"nthread": threads_for(self.parameters.threads, X.shape)})
        margin = self._booster.predict(self._rows(X), output_margin=True)
        return np.asarray(margin, dtype=np.float64)

    def _predict(self, X: Array) -> Array:
        margin = self._margins(X)
        if self.answer == "yes_no":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))
        if self.answer == "count":
            return np.asarray(np.exp(margin))
        if self.answer == "amount":
            return margin
        odds = np.exp(margin - margin.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def _contributions(self, X: Array) -> Array:
        parts = self._booster.predict(self._rows(X), pred_contribs=True)
        out = np.asarray(parts, dtype=np.float64)
        out[:, -1] = self._margins(X) - out[:, :-1].sum(axis=1)  # single precision's rest
        return out

    def _importance(self) -> Array:
        gains = self._booster.get_score(importance_type="total_gain")
        return np.array([float(gains.get(f"f{j}", 0.0)) for j in range(self.width)])

    def _state(self) -> State:
        return State({}, {}, {"booster": self._text})

    def _restore(self, state: State) -> None:
        try:
            self._open(state.texts["booster"])
        except _xgboost().core.XGBoostError as error:
            raise ValueError(f"XGBoost: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True, slots=True)
class ExplainableParameters:
    """Settings of :class:`ExplainableBoosting`."""

    pairs: Annotated[int, msgspec.Meta(ge=0)] = 10
    """Interactions of two columns to look for."""
    bags: Positive = 4
    """Models averaged; more are smoother and slower."""
    bins: Annotated[int, msgspec.Meta(ge=4)] = 256
    most_rounds: Positive = 3000
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1


class ExplainableBoosting(Model):
    """Explainable boosting machine: one curve per column, a few of pairs, added (Nori et al. 2019).

    Needs the extra ``trust`` (``interpret-core``) to fit; a saved model scores without it, for it is
    kept as plain tables. Contributions are exact; a pair's is halved between its columns.

    >>> ExplainableBoosting("yes_no", pairs=0)
    ExplainableBoosting('yes_no', pairs=0)
    """

    name: ClassVar[str] = "ebm"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = ExplainableParameters
    parameters: ExplainableParameters
    _terms: npt.NDArray[np.int64]
    """Columns of each term [terms, 2]; −1 where it has one."""
    _cuts: list[list[Array]]
    """Per column and resolution: where a number changes bin, or the bin of each category code."""
    _scores: list[Array]
    _intercept: float
    _weights: Array

    @property
    def link(self) -> Link:
        return "log" if self.answer == "count" else super().link

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        machine = self._machine(seed)
        table = data.X.astype(object)
        for j in self.categories:
            table[:, j] = [None if v != v else str(int(v)) for v in data.X[:, j]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # drawing and column-type advice for notebooks
            machine.fit(table, data.y, sample_weight=data.weight)
        self._intercept = float(np.ravel(machine.intercept_)[0])
        self._terms = np.array([(*t, -1)[:2] for t in machine.term_features_], dtype=np.int64)
        self._scores = [np.asarray(s, dtype=np.float64) for s in machine.term_scores_]
        self._cuts = [
            [_cuts(level, self.categories.get(j)) for level in machine.bins_[j]]
            for j in range(self.width)
        ]
        self._weights = np.asarray(machine.term_importances(), dtype=np.float64)

    def _machine(self, seed: int) -> Any:
        try:
            from interpret.glassbox import (
                ExplainableBoostingClassifier,
                ExplainableBoostingRegressor,
            )
        except ImportError:
            raise MissingExtraError("the explainable boosting machine", "trust") from None
        chosen = self.parameters
        settings: dict[str, Any] = {
            "feature_types": [
                "nominal" if j in self.categories else "continuous" for j in range(self.width)
            ],
            "interactions": min(chosen.pairs, self.width * (self.width - 1) // 2),
            "outer_bags": chosen.bags,
            "max_bins": chosen.bins,
            "max_rounds": chosen.most_rounds,
            "n_jobs": chosen.threads,
            "random_state": seed,
        }
        if self.answer == "yes_no":
            return ExplainableBoostingClassifier(**settings)
        objective = "poisson_deviance" if self.answer == "count" else "rmse"
        return ExplainableBoostingRegressor(objective=objective, **settings)

    def _bin(self, X: Array, j: int, level: int) -> npt.NDArray[np.int64]:
        """Bin of each row: 0 missing, 1… as cut, the last one for a category never seen."""
        cuts = self._cuts[j][min(level, len(self._cuts[j]) - 1)]
        values, gone = X[:, j], np.isnan(X[:, j])
        if j in self.categories:
            codes = np.where(gone, 0, values).astype(np.int64)
            return np.where(gone, 0, cuts[codes].astype(np.int64))
        return np.where(gone, 0, np.searchsorted(cuts, values, side="right") + 1)

    def _term(self, X: Array, t: int) -> Array:
        first, second = self._terms[t]
        if second < 0:
            return self._scores[t][self._bin(X, first, 0)]
        return self._scores[t][self._bin(X, first, 1), self._bin(X, second, 1)]

    def _predict(self, X: Array) -> Array:
        margin = np.full(len(X), self._intercept)
        for t in range(len(self._terms)):
            margin += self._term(X, t)
        if self.answer == "yes_no":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin)))
        return np.exp(np.minimum(margin, 50.0)) if self.answer == "count" else margin

    def _contributions(self, X: Array) -> Array:
        out = np.zeros((len(X), self.width + 1))
        out[:, -1] = self._intercept
        for t, (first, second) in enumerate(self._terms):
            part = self._term(X, t)
            out[:, first] += part if second < 0 else part / 2
            if second >= 0:
                out[:, second] += part / 2
        return out

    def _importance(self) -> Array:
        out = np.zeros(self.width)
        for (first, second), weight in zip(self._terms, self._weights, strict=True):
            out[first] += weight if second < 0 else weight / 2
            if second >= 0:
                out[second] += weight / 2
        return out

    def _state(self) -> State:
        arrays: dict[str, npt.NDArray[Any]] = {"terms": self._terms, "weights": self._weights}
        arrays |= {f"score{t}": scores for t, scores in enumerate(self._scores)}
        for j, levels in enumerate(self._cuts):
            arrays |= {f"cuts{j}_{level}": cuts for level, cuts in enumerate(levels)}
        levels_of = [len(levels) for levels in self._cuts]
        return State({"intercept": self._intercept, "levels": levels_of}, arrays)

    def _restore(self, state: State) -> None:
        self._intercept = float(state.header["intercept"])
        self._terms, self._weights = state.arrays["terms"], state.arrays["weights"]
        self._scores = [state.arrays[f"score{t}"] for t in range(len(self._terms))]
        self._cuts = [
            [state.arrays[f"cuts{j}_{level}"] for level in range(int(count))]
            for j, count in enumerate(state.header["levels"])
        ]


def _cuts(level: Any, codes: int | None) -> Array:
    """A number's cuts as they are; a category's codes as their bins, 0 (missing) where never seen."""
    if codes is None:
        return np.asarray(level, dtype=np.float64)
    return np.array([float(level.get(str(code), 0)) for code in range(codes)])


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError:
        raise MissingExtraError("XGBoost", "boost") from None
    return xgboost
