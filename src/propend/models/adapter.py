"""Any scikit-learn estimator behind the contract, by name; saved without pickle through skops where that can be."""

from __future__ import annotations

import re
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError
from propend.models.encode import Design
from propend.models.model import Answer, Array, Data, Missing, Model
from propend.models.parameters import threads_for
from propend.models.storage import State

__all__ = ["Adapter", "AdapterParameters"]

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TRUSTED = ("sklearn.", "numpy.", "scipy.", "builtins.")


@dataclass(frozen=True, slots=True)
class AdapterParameters:
    """Settings of :class:`Adapter`."""

    estimator: str = "sklearn.ensemble.HistGradientBoosting"
    """Full name of the class; ``Classifier`` or ``Regressor`` is added by the answer where it is left off."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The estimator's own settings; a text ``package.module:name`` stands for what is found there (a network's class)."""
    encode: Literal["design", "none"] = "design"
    """``design``: numbers standardised, gaps filled, categories one-hot; ``none``: the columns as they are."""
    precision: Literal["double", "single"] = "double"
    """What numbers go in as; networks (skorch, Keras) want ``single``."""


class Adapter(Model):
    """A scikit-learn estimator (or one that follows its rules: skorch, ``keras.wrappers.SKLearn``) as a model.

    A classifier must have ``predict_proba`` or ``decision_function`` (then squeezed by a logistic
    curve, which ranks but is not calibrated). Saving keeps the estimator as a skops file inside the
    model: readable parts and arrays, no pickle, and only types of scikit-learn, NumPy and SciPy are
    ever built when loading. Estimators of other packages cannot be saved safely and are refused,
    with the name of the type at fault; fit them anew where they are used.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(60.0).reshape(-1, 1)
    >>> model = Adapter("yes_no", estimator="sklearn.ensemble.AdaBoost", settings={"n_estimators": 5})
    >>> bool(model.fit(X, X[:, 0] > 30).predict([[50.0]])[0] > 0.5)
    True
    """

    name: ClassVar[str] = "sklearn"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "imputed"
    Parameters: ClassVar[type[Any]] = AdapterParameters
    parameters: AdapterParameters
    _design: Design | None
    _estimator: Any
    _blob: bytes | None = None

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:  # noqa: ARG002
        whole = self.parameters.encode == "design"
        self._design = Design.fit(data.X, self.categories) if whole else None
        estimator = self._made(seed)
        Z = self._encoded(data.X)
        given = {} if data.weight is None else {"sample_weight": data.weight}
        if given and not _takes_weight(estimator):
            raise ModelError(
                f"{self.parameters.estimator} takes no row weights; leave the weights out or choose another"
            )
        y = data.y.astype(np.int64) if self.answer in ("yes_no", "which") else data.y
        with warnings.catch_warnings(), _few_threads(Z):
            warnings.simplefilter("ignore")
            try:
                self._estimator = estimator.fit(Z, y, **given)
            except (TypeError, ValueError, RuntimeError) as error:
                why = str(error).splitlines()[0]
                raise ModelError(f"{self.parameters.estimator} refused the rows: {why}") from error
        self._blob = None

    def _made(self, seed: int) -> Any:
        wanted = self.parameters.estimator
        kind = "Classifier" if self.answer in ("yes_no", "which") else "Regressor"
        for name in (wanted, wanted + kind):
            module, _, attribute = name.rpartition(".")
            try:
                found = getattr(import_module(module), attribute)
            except (ImportError, AttributeError, ValueError):
                continue
            try:
                made = found(**{k: _meant(v) for k, v in self.parameters.settings.items()})
            except TypeError as error:
                raise ModelError(f"{name} cannot be set so: {error}") from None
            if "random_state" in made.get_params():
                made.set_params(random_state=seed)
            return made
        raise ModelError(
            f"there is no estimator {wanted!r}; give its full name, for example sklearn.ensemble.AdaBoost"
        )

    def check(self) -> None:
        """Raise ``ModelError`` before any fit: no such estimator, not to be set so, or never to be saved."""
        made = type(self._made(0))
        if not made.__module__.startswith(_TRUSTED):
            raise ModelError(
                f"{self.parameters.estimator} is not of scikit-learn and could not be kept without pickle; fit it from Python"
            )
        _skops()

    def _encoded(self, X: Array) -> Array:
        Z = X if self._design is None else self._design.transform(X)
        return Z.astype(np.float32) if self.parameters.precision == "single" else Z

    def _predict(self, X: Array) -> Array:
        with warnings.catch_warnings(), _few_threads(X):
            warnings.simplefilter("ignore")
            return self._block(X)

    def _block(self, X: Array) -> Array:
        Z = self._encoded(X)
        if self.answer in ("amount", "count"):
            out = np.asarray(self._estimator.predict(Z), dtype=np.float64).reshape(-1)
            return np.maximum(out, 0.0) if self.answer == "count" else out
        codes = np.asarray(getattr(self._estimator, "classes_", [0, 1]), dtype=np.int64)
        if hasattr(self._estimator, "predict_proba"):
            shares = np.asarray(self._estimator.predict_proba(Z), dtype=np.float64)
        elif hasattr(self._estimator, "decision_function"):
            margin = np.asarray(self._estimator.decision_function(Z), dtype=np.float64)
            if margin.ndim == 1:
                margin = np.column_stack([np.zeros(len(margin)), margin])
            odds = np.exp(margin - margin.max(axis=1, keepdims=True))
            shares = odds / odds.sum(axis=1, keepdims=True)
        else:
            raise ModelError(
                f"{self.parameters.estimator} gives neither probabilities nor a decision value"
            )
        out = np.zeros((len(X), max(self.classes, 2)))
        out[:, codes] = np.clip(shares, 0.0, 1.0)
        return out[:, 1] if self.answer == "yes_no" else out

    def _importance(self) -> Array:
        weights = getattr(self._estimator, "feature_importances_", None)
        if weights is None and hasattr(self._estimator, "coef_"):
            weights = np.abs(np.atleast_2d(self._estimator.coef_)).sum(axis=0)
        if weights is None:
            return np.zeros(self.width)
        source = np.arange(self.width) if self._design is None else self._design.source
        size = np.bincount(source, np.asarray(weights, np.float64), minlength=self.width)
        return np.asarray(size, dtype=np.float64)

    def _state(self) -> State:
        if self._blob is None:
            self._blob = _dumped(self._estimator, self.parameters.estimator)
        state = State({}, {"estimator": np.frombuffer(self._blob, dtype=np.uint8)})
        if self._design is not None:
            state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design")) if "design" in state.header else None
        self._blob = state.arrays["estimator"].tobytes()
        self._estimator = _loaded(self._blob)


def _few_threads(X: npt.NDArray[Any]) -> AbstractContextManager[Any]:
    """Hold the threads of OpenMP and BLAS at one where ``X`` is small; they have no setting of their own."""
    from threadpoolctl import threadpool_limits

    return nullcontext() if threads_for(0, X.shape) == 0 else threadpool_limits(1)


def _meant(value: Any) -> Any:
    """Return what a setting's text ``package.module:name`` stands for; anything else as it is."""
    if not (isinstance(value, str) and _PLACE.fullmatch(value)):
        return value
    module, _, attribute = value.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"the setting {value!r} names nothing that can be imported: {error}"
        ) from None


def _takes_weight(estimator: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    return bool(has_fit_parameter(estimator, "sample_weight"))


def _skops() -> Any:
    try:
        import skops.io as skops
    except ImportError:
        raise MissingExtraError(
            "saving a scikit-learn estimator without pickle", "sklearn"
        ) from None
    return skops


def _strangers(blob: bytes) -> list[str]:
    """Types in the file that are not scikit-learn's, NumPy's or SciPy's own."""
    return [t for t in _skops().get_untrusted_types(data=blob) if not t.startswith(_TRUSTED)]


def _dumped(estimator: Any, name: str) -> bytes:
    skops = _skops()
    try:
        blob: bytes = skops.dumps(estimator)
        strange = _strangers(blob)
    except Exception as error:  # skops raises many kinds for what it cannot write
        raise ModelError(
            f"{name} cannot be saved without pickle ({str(error).splitlines()[0]}); fit it anew where it is used"
        ) from error
    if strange:
        raise ModelError(
            f"{name} cannot be saved safely: it holds {strange[0]}, which is not of scikit-learn; fit it anew where it is used"
        )
    return blob


def _loaded(blob: bytes) -> Any:
    skops = _skops()
    try:
        strange = _strangers(blob)
        if strange:
            raise ModelError(f"the saved estimator holds {strange[0]}, which is not loaded")
        return skops.loads(blob, trusted=skops.get_untrusted_types(data=blob))
    except ModelError:
        raise
    except Exception as error:
        raise ValueError(f"skops: {error}") from None
