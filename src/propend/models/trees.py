"""Boosted trees by LightGBM (Ke et al., NeurIPS 2017), set for small customer data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from propend.errors import ModelError
from propend.models.gathered import BLOCK, Gathered
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.parameters import threads_for
from propend.models.storage import State

__all__ = ["TreeParameters", "Trees"]

_SAFE = 709.0
"""Largest exponent of a double."""
Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class TreeParameters:
    """Settings of :class:`Trees`; None means: by the number of rows."""

    trees: Positive | None = None
    """Most trees to grow; with ``validation`` growth stops earlier, when it no longer helps."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    leaves: Annotated[int, msgspec.Meta(ge=2)] | None = None
    rows_per_leaf: Positive | None = None
    column_share: Share = 0.7
    row_share: Share = 0.8
    l2: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    loss: Literal["auto", "l2", "poisson", "tweedie", "gamma", "quantile"] = "auto"
    """``auto`` is squared error for amounts and Poisson for counts; ``quantile`` predicts ``quantile`` instead of the mean."""
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    tweedie_power: Annotated[float, msgspec.Meta(gt=1, lt=2)] = 1.3
    patience: Positive = 50
    """Trees without gain on ``validation`` before growth stops."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: all cores, of few cells one. The model does not depend on it."""


class Trees(Model):
    """Gradient-boosted trees: missing values and categories as they are, deterministic.

    Contributions are SHAP values for trees (Lundberg et al., 2020), by ``propend.models.attribution``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 3))
    >>> y = (X[:, 0] > 0) ^ (X[:, 1] > 0)
    >>> model = Trees("yes_no", trees=200, threads=1).fit(X, y)
    >>> bool(((model.predict(X) > 0.5) == y).mean() > 0.95)
    True
    >>> parts = model.contributions(X[:1])
    >>> bool(np.isclose(1 / (1 + np.exp(-parts.sum())), model.predict(X[:1])[0]))
    True
    """

    name: ClassVar[str] = "trees"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "native"
    Parameters: ClassVar[type[Any]] = TreeParameters
    parameters: TreeParameters
    _booster: Any
    _text: str
    _attribution: Any = None
    """Made when contributions are first asked for; of several classes one each."""

    @property
    def loss(self) -> str:
        """LightGBM's name of the loss in use."""
        asked = self.parameters.loss
        if self.answer in ("yes_no", "which"):
            return "binary" if self.answer == "yes_no" else "multiclass"
        if asked == "auto":
            return "poisson" if self.answer == "count" else "l2"
        return asked

    @property
    def link(self) -> Link:
        if self.loss in ("poisson", "tweedie", "gamma"):
            return "log"
        return super().link

    @property
    def settled(self) -> dict[str, Any]:
        return {"trees": self.rounds}

    @property
    def rounds(self) -> int:
        """Trees kept (per class): what to set as ``trees`` when fitting again on all rows."""
        self._check_fitted()
        return int(self._booster.current_iteration())

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        import lightgbm

        self._check_loss(data)
        settings = self._settings(data, seed)
        rounds = self._rounds(settings["learning_rate"], validation is not None)
        train = self._dataset(data, seed)
        callbacks, held = [], []
        if validation is not None:
            held = [self._dataset(validation, seed, train)]
            patience = self.parameters.patience
            callbacks = [lightgbm.early_stopping(patience, verbose=False)]
        booster = lightgbm.train(
            settings, train, num_boost_round=rounds, valid_sets=held, callbacks=callbacks
        )
        self._open(booster.model_to_string(num_iteration=booster.best_iteration or None))

    def _dataset(self, data: Data, seed: int, reference: Any = None) -> Any:
        import lightgbm

        rows = _sequence(data.rows) if isinstance(data.rows, Gathered) else data.rows
        return lightgbm.Dataset(
            rows,
            data.y,
            weight=data.weight,
            reference=reference,
            categorical_feature=sorted(self.categories),
            params={"verbosity": -1, "data_random_seed": _data_seed(seed)},
        )

    def _check_loss(self, data: Data) -> None:
        least = data.y.min()
        if self.parameters.loss != "auto" and self.answer in ("yes_no", "which"):
            raise ModelError(f"loss is for amounts and counts; '{self.answer}' has its own")
        if self.link == "log" and (least < 0 or (self.loss == "gamma" and least == 0)):
            bound = "above 0" if self.loss == "gamma" else "0 or more"
            raise ModelError(f"y must be {bound} for '{self.name}' with loss {self.loss}")

    def _settings(self, data: Data, seed: int) -> dict[str, Any]:
        chosen = self.parameters
        leaves, rows_per_leaf, learning_rate = _by_size(len(data))
        return {
            "objective": self.loss,
            "num_class": self.classes or 1,
            "tweedie_variance_power": chosen.tweedie_power,
            "alpha": chosen.quantile,
            "learning_rate": chosen.learning_rate or learning_rate,
            "num_leaves": chosen.leaves or leaves,
            "min_data_in_leaf": chosen.rows_per_leaf or rows_per_leaf,
            "feature_fraction": chosen.column_share,
            "bagging_fraction": chosen.row_share,
            "bagging_freq": 1 if chosen.row_share < 1 else 0,
            "lambda_l2": chosen.l2,
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": threads_for(chosen.threads, data.rows.shape),
            "verbosity": -1,
        }

    def _rounds(self, learning_rate: float, watched: bool) -> int:
        if self.parameters.trees is not None:
            return self.parameters.trees
        return 3000 if watched else round(6.0 / learning_rate)

    def _open(self, text: str) -> None:
        import lightgbm

        self._text = text
        self._attribution = None
        self._booster = lightgbm.Booster(model_str=text)

    def _predict(self, X: Array) -> Array:
        # the trees are read already where contributions were asked for
        if len(X) == 1 and self._attribution is not None and self.answer != "which":
            margin = self._attribution.margin(X[0])
            if self.link == "identity":
                return np.array([margin])
            odds = math.exp(min(-margin if self.link == "logit" else margin, _SAFE))
            return np.array([1.0 / (1.0 + odds) if self.link == "logit" else odds])
        threads = threads_for(self.parameters.threads, X.shape)
        return np.asarray(self._booster.predict(X, num_threads=threads), dtype=np.float64)

    def _contributions(self, X: Array) -> Array:
        if self._attribution is None:
            from propend.models.attribution import Attribution

            self._attribution = Attribution.of(self._text, self.width)
        return self._attribution.of_rows(X, self.parameters.threads)

    def _contributions_by_class(self, X: Array) -> Array:
        if self._attribution is None:
            from propend.models.attribution import Attribution

            self._attribution = [
                Attribution.of(self._text, self.width, k) for k in range(self.classes)
            ]
        return np.array([a.of_rows(X, self.parameters.threads) for a in self._attribution])

    def _importance(self) -> Array:
        gains = self._booster.feature_importance(importance_type="gain")
        return np.asarray(gains, dtype=np.float64)

    def _state(self) -> State:
        return State({}, {}, {"booster": self._text})

    def _restore(self, state: State) -> None:
        from lightgbm.basic import LightGBMError

        try:
            self._open(state.texts["booster"])
        except LightGBMError as error:
            raise ValueError(f"LightGBM: {error}") from None


def _sequence(rows: Gathered) -> Any:
    """LightGBM's view of rows it may read block by block: the same bins as of the matrix, which is never copied."""
    import lightgbm

    class Blocks(lightgbm.Sequence):
        batch_size = BLOCK
        start = -1
        block: Array

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, at: Any) -> Array:
            if isinstance(at, slice):
                return rows[at]
            # rows to find bins from are asked for one by one, ascending
            start = at // BLOCK * BLOCK
            if start != self.start:
                self.start, self.block = start, rows[start : start + BLOCK]
            return np.asarray(self.block[at - start])

    return Blocks()


def _data_seed(seed: int) -> int:
    """What LightGBM itself makes of ``seed`` to draw the rows it finds bins from; of a ``Sequence`` it does not."""
    return ((214013 * seed + 2531011) >> 16 & 0x7FFF) % 0x7FFF


def _by_size(rows: int) -> tuple[int, int, float]:
    """Leaves, rows per leaf and learning rate: few rows want few leaves and small steps."""
    leaves = 4 if rows < 2_000 else 8 if rows < 20_000 else 16 if rows < 100_000 else 31
    rows_per_leaf = max(5, min(rows // 100, 20 + rows // 2_000, 200))
    learning_rate = 0.03 if rows < 20_000 else 0.05 if rows < 200_000 else 0.1
    return leaves, rows_per_leaf, learning_rate
