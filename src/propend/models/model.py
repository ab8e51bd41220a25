"""The contract every model keeps: arrays in, scores out, checked once at the door.

Public methods check what they are given and speak in sentences; the private ones a model
implements (``_fit``, ``_predict``, ``_state``, ``_restore``) receive clean arrays and hold only
mathematics. A new model is one class with those four methods and one line in
:mod:`propend.models.catalog`; ``propend.testing.models.check_model`` says whether it keeps the
contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, NotEnoughDataError, nearest
from propend.models import storage
from propend.models.gathered import BLOCK, Gathered
from propend.models.parameters import read_parameters
from propend.models.storage import State

__all__ = [
    "Answer",
    "Array",
    "Data",
    "Link",
    "Missing",
    "Model",
    "NoParameters",
    "State",
    "Validation",
    "share",
]

Answer: TypeAlias = Literal["yes_no", "amount", "count", "which", "time"]
"""What a model answers: a probability, an expected amount, an expected count, one of many, the time to an event."""
Missing: TypeAlias = Literal["native", "imputed"]
Link: TypeAlias = Literal["logit", "log", "identity", "softmax"]
"""From prediction to margin, the scale on which contributions add up."""
Array: TypeAlias = npt.NDArray[np.float64]
Validation: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]

_BLOCK = 65_536
_LARGEST = 1e30
_EXPLAINED = 256
"""Rows whose classes are explained at once."""


@dataclass(frozen=True, slots=True)
class NoParameters:
    """A model with nothing to set."""


@dataclass(frozen=True)
class Data:
    """Checked rows: ``X`` [n, d] (NaN = missing), ``y`` [n], ``weight`` [n] or None for all 1."""

    rows: Array | Gathered
    """``X`` as it was given; many rows of a larger matrix stay where they are, for models that read block by block."""
    y: Array
    weight: Array | None = None
    groups: npt.NDArray[np.int64] | None = None
    """Rows of one group (a user at many moments) stay together wherever a model splits its rows."""

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def X(self) -> Array:  # noqa: N802
        """The rows in full."""
        return np.ascontiguousarray(self.rows, dtype=np.float64)

    @property
    def weights(self) -> Array:
        """The weights, ones where none were given."""
        return np.ones(len(self.y)) if self.weight is None else self.weight

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Give the rows block by block: where they stand, and ``X`` of them."""
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, self.rows[rows]

    def where(self, mask: npt.NDArray[np.bool_]) -> Data:
        """The rows of ``mask``."""
        weight = None if self.weight is None else self.weight[mask]
        groups = None if self.groups is None else self.groups[mask]
        rows = self.rows.where(mask) if isinstance(self.rows, Gathered) else self.rows[mask]
        return Data(rows, self.y[mask], weight, groups)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a fitted model remembers of its input."""

    width: int = 0
    columns: tuple[str, ...] | None = None
    categories: dict[int, int] = field(default_factory=dict)
    classes: int = 0


class Model(ABC):
    """A model: ``fit``, ``predict``, ``contributions``, ``importance``, ``save`` and ``load``.

    Parameters
    ----------
    answer
        which of ``cls.answers`` to give; may be left out where the model knows only one.
    settings
        fields of ``cls.Parameters``; types and ranges are checked.

    Raises
    ------
    ModelError
        an answer the model does not give, a setting that does not exist or is out of range.

    Examples
    --------
    >>> from propend.models.linear import LogisticRegression
    >>> import numpy as np
    >>> X = np.array([[1.0], [2.0], [np.nan], [4.0], [5.0], [6.0]])
    >>> model = LogisticRegression("yes_no").fit(X, [0, 0, 0, 1, 1, 1], columns=("visits",))
    >>> model.predict(X).round(1)
    array([0.1, 0.2, 0.4, 0.5, 0.8, 0.9])
    >>> model.predict([[1.0, 2.0]])
    Traceback (most recent call last):
    propend.errors.ModelError: 'logistic' was fitted on 1 column (visits) and got 2; \
pass the columns it was fitted on, in that order
    """

    name: ClassVar[str]
    """The model's word in the catalogue."""
    answers: ClassVar[frozenset[Answer]]
    missing: ClassVar[Missing]
    """Whether NaN is used as it is, or filled in (with an indicator beside it)."""
    Parameters: ClassVar[type[Any]] = NoParameters

    answer: Answer
    parameters: Any
    remark: str = ""
    """What a person should know of how it was fitted: exact or approximated, on how many rows."""

    def __init__(self, answer: Answer | None = None, **settings: Any) -> None:
        self.answer = self._checked_answer(answer)
        self.parameters = read_parameters(self.name, self.Parameters, settings)
        self._shape = _Shape()

    def __repr__(self) -> str:
        defaults = asdict(self.Parameters())
        changed = {k: v for k, v in asdict(self.parameters).items() if v != defaults[k]}
        settings = "".join(f", {key}={value!r}" for key, value in changed.items())
        return f"{type(self).__name__}({self.answer!r}{settings})"

    # ---------------------------------------------------------------- public: checks, then work

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None = None,
        columns: tuple[str, ...] | None = None,
        categories: Mapping[int, int] | None = None,
        validation: Validation | None = None,
        groups: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from rows; fitting again starts afresh.

        Parameters
        ----------
        X
            float [n, d]; NaN means missing.
        y
            [n]; 0/1 for yes_no, finite for amount, ≥ 0 for count, codes 0…k-1 for which, for time the time
            of the event or minus the time for which none was seen.
        weight
            [n], finite and ≥ 0: how many times the row counts. Default 1.
        columns
            names of the d columns, for messages and for models that look one up by name.
        categories
            column index → number of codes k: that column holds 0…k-1 as floats, NaN for missing.
        validation
            later rows (X, y, weight or None) for early stopping; never learnt from.
        groups
            [n] codes: rows that belong together, as a user's at many moments. A model that splits its rows (stacking,
            blending, rates of categories) keeps them on one side; the others do not look at them.
        seed
            the same seed, data and settings give the same model, bit for bit.

        Raises
        ------
        ModelError
            arrays of wrong shape, infinite values, labels outside the answer's range.
        NotEnoughDataError
            no row, or all labels equal.
        """
        X_ = self._checked_rows(X, columns)
        shape = _Shape(X_.shape[1], self._names(columns, X_.shape[1]), dict(categories or {}))
        data = Data(X_, *self._labels(y, weight, len(X_)), _groups(groups, len(X_)))
        _check_codes(X_, shape)
        held = self._held_out(validation, shape)
        self._check_variety(data)
        if seed < 0:
            raise ModelError(f"seed must be 0 or more, got {seed}")
        shape = _Shape(shape.width, shape.columns, shape.categories, self._classes(data, held))
        self._shape = shape
        try:
            self._fit(data, held, seed)
        except BaseException:
            self._shape = _Shape()
            raise
        return self

    def predict(self, X: npt.ArrayLike) -> Array:
        """Score rows: [n] probabilities or expected amounts; [n, k] probabilities for which.

        A category code that was not declared in ``fit`` is read as missing.

        Raises
        ------
        ModelError
            before ``fit``, on another number of columns, on infinite values.
        """
        clean = self._ready(X)
        if not len(clean):
            return np.empty((0, self.classes) if self.answer == "which" else 0)
        return self._predict(clean)

    def contributions(self, X: npt.ArrayLike, of: npt.ArrayLike | None = None) -> Array:
        """What each column added to each score: [n, d+1] on the margin scale, bias last.

        A row's sum is its margin: ``link`` of the prediction (``logit``, ``log``, ``identity``). Of many answers ``of``
        says which one is explained, a code or one per row [n]; the sum is then the logarithm of its probability over the
        geometric mean of all, or where ``link`` is ``identity`` its probability less their mean.

        Raises
        ------
        ModelError
            as ``predict``; where the model's scores are not such a sum; and without ``of`` for which-of-many.
        """
        if (self.answer == "which") != (of is not None):
            hint = "say which answer to explain, contributions(X, of=code)" if of is None else "leave 'of' out"  # fmt: skip
            raise ModelError(f"'{self.name}' answers '{self.answer}'; {hint}")
        clean = self._ready(X)
        if not len(clean):
            return np.empty((0, self.width + 1))
        if of is None:
            return self._contributions(clean)
        codes = np.broadcast_to(np.asarray(of, np.int64), len(clean))
        if codes.min() < 0 or codes.max() >= self.classes:
            raise ModelError(f"'{self.name}' knows answers 0 to {self.classes - 1}")
        out = np.empty((len(clean), self.width + 1))
        for start in range(0, len(clean), _EXPLAINED):
            rows = slice(start, start + _EXPLAINED)
            parts = self._contributions_by_class(clean[rows])
            out[rows] = parts[codes[rows], np.arange(parts.shape[1])] - parts.mean(axis=0)
        return out

    def explain(self, X: npt.ArrayLike) -> tuple[Array, Array]:
        """``predict`` and ``contributions`` at once: what both need is worked out once.

        Raises
        ------
        ModelError
            as both.
        """
        clean = self._ready(X)
        if self.answer == "which" or not len(clean):
            return self.predict(X), self.contributions(X)
        return self._explain(clean)

    def importance(self) -> Array:
        """Each column's share of what the model uses: [d], ≥ 0, summing to 1 (or all 0)."""
        self._check_fitted()
        return share(self._importance())

    def state(self) -> State:
        """Everything needed to predict, as JSON values, plain arrays and texts."""
        self._check_fitted()
        own = self._state()
        shape = asdict(self._shape)
        shape["categories"] = [[int(c), int(k)] for c, k in self._shape.categories.items()]
        header = {
            "model": self.name,
            "class": f"{type(self).__module__}:{type(self).__qualname__}",
            "answer": self.answer,
            "parameters": asdict(self.parameters),
            "shape": shape,
            "own": own.header,
        }
        return State(header, own.arrays, own.texts)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model of a state.

        Raises
        ------
        ModelError
            the state is another model's, or does not hold what this version needs.
        """
        try:
            found = state.header["model"]
            if found != cls.name:
                raise ModelError(f"this is a '{found}' model, not '{cls.name}'; use models.load")
            model = cls(state.header["answer"], **state.header["parameters"])
            shape = dict(state.header["shape"])
            shape["columns"] = None if shape["columns"] is None else tuple(shape["columns"])
            shape["categories"] = {int(c): int(k) for c, k in shape["categories"]}
            model._shape = _Shape(**shape)
            model._restore(State(state.header["own"], state.arrays, state.texts))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the saved '{cls.name}' model lacks what this version needs ({error}); fit it anew"
            ) from error
        return model

    def save(self, folder: str | Path) -> None:
        """Write the model to a new folder: JSON, arrays and LightGBM's own text; no pickle."""
        storage.write(self.state(), Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model that ``save`` wrote (``propend.models.load`` finds the class by itself).

        Raises
        ------
        ModelError
            no model there, another class's, another format version, or changed since saving.
        """
        return cls.from_state(storage.read(Path(folder)))

    @property
    def fitted(self) -> bool:
        """Whether ``predict`` can be called."""
        return self._shape.width > 0

    @property
    def width(self) -> int:
        """Number of columns, 0 before ``fit``."""
        return self._shape.width

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns, if ``fit`` was given them."""
        return self._shape.columns

    @property
    def categories(self) -> dict[int, int]:
        """Category columns: index → number of codes."""
        return dict(self._shape.categories)

    @property
    def classes(self) -> int:
        """Number of classes for which; 0 otherwise."""
        return self._shape.classes

    @property
    def settled(self) -> dict[str, Any]:
        """Settings that were left open and rows apart decided, such as how many trees; to fit with again on more rows."""
        return {}

    @property
    def link(self) -> Link:
        """The scale on which ``contributions`` add up."""
        links: dict[Answer, Link] = {"yes_no": "logit", "which": "softmax"}
        return links.get(self.answer, "identity")

    def column(self, wanted: int | str) -> int:
        """Index of a column given by index or by name."""
        if isinstance(wanted, str):
            if self.columns is None or wanted not in self.columns:
                tail = nearest(wanted, self.columns or ())
                raise ModelError(f"'{self.name}' needs the column '{wanted}'{tail}")
            return self.columns.index(wanted)
        if not 0 <= wanted < self.width:
            raise ModelError(f"'{self.name}' needs column {wanted}, there are {self.width}")
        return wanted

    # ---------------------------------------------------------------- private: the mathematics

    @abstractmethod
    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        """Learn from clean arrays."""

    @abstractmethod
    def _predict(self, X: Array) -> Array:
        """Score clean rows (at least one)."""

    @abstractmethod
    def _state(self) -> State:
        """What ``_fit`` learnt."""

    @abstractmethod
    def _restore(self, state: State) -> None:
        """Undo ``_state``."""

    def _contributions(self, X: Array) -> Array:  # noqa: ARG002
        raise ModelError(f"'{self.name}' scores are not a sum of columns; explain another model")

    def _contributions_by_class(self, X: Array) -> Array:  # noqa: ARG002
        """[classes, n, d+1], up to what all classes of a row share."""
        raise ModelError(f"'{self.name}' scores are not a sum of columns; explain another model")

    def _explain(self, X: Array) -> tuple[Array, Array]:
        return self._predict(X), self._contributions(X)

    def _importance(self) -> Array:
        raise ModelError(f"'{self.name}' does not weigh its columns; ask another model")

    # ---------------------------------------------------------------- checks

    @classmethod
    def _checked_answer(cls, answer: Answer | None) -> Answer:
        if answer is None:
            if len(cls.answers) > 1:
                raise ModelError(f"'{cls.name}' answers {_listed(cls.answers)}; say which")
            return next(iter(cls.answers))
        if answer not in cls.answers:
            known = "" if answer in get_args(Answer) else nearest(answer, cls.answers)
            raise ModelError(
                f"'{cls.name}' does not answer '{answer}' but {_listed(cls.answers)}{known}"
            )
        return answer

    def _names(self, columns: tuple[str, ...] | None, width: int) -> tuple[str, ...] | None:
        if columns is not None and len(columns) != width:
            raise ModelError(f"{len(columns)} column names for {width} columns of X")
        return None if columns is None else tuple(map(str, columns))

    def _checked_rows(self, X: npt.ArrayLike, columns: tuple[str, ...] | None) -> Array | Gathered:
        """Check rows to learn from; a large selection of a matrix is not copied."""
        if not isinstance(X, Gathered) or not X.large:
            return self._matrix(X, columns)
        for rows in X.blocks():
            _check_finite(X[rows], columns)
        return X

    def _matrix(self, X: npt.ArrayLike, columns: tuple[str, ...] | None) -> Array:
        try:
            matrix = np.ascontiguousarray(X, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"X must be numbers [rows, columns] with NaN for missing ({error})"
            ) from None
        if np.ndim(X) != 2 or not matrix.shape[1]:
            raise ModelError(
                f"X must be [rows, columns] with at least one column, got {np.shape(X)}"
            )
        for start in range(0, len(matrix), _BLOCK):
            _check_finite(matrix[start : start + _BLOCK], columns)
        return matrix

    def _labels(
        self, y: npt.ArrayLike, weight: npt.ArrayLike | None, rows: int, where: str = ""
    ) -> tuple[Array, Array | None]:
        if not rows:
            raise NotEnoughDataError(f"there is no {where}row to learn from")
        labels = _vector(y, rows, f"{where}y")
        if self.answer == "yes_no" and not np.isin(labels, (0.0, 1.0)).all():
            raise ModelError(f"{where}y must be 0 or 1 for 'yes_no'")
        if self.answer == "count" and (labels < 0).any():
            raise ModelError(f"{where}y must be 0 or more for 'count'")
        if self.answer == "which" and ((labels < 0) | (labels != np.floor(labels))).any():
            raise ModelError(f"{where}y must hold the class codes 0, 1, … for 'which'")
        if self.answer == "time" and not labels.all():
            raise ModelError(
                f"{where}y must be above 0 (an event) or below 0 (none seen so long) for 'time'"
            )
        if weight is None:
            return labels, None
        weights = _vector(weight, rows, f"{where}weight")
        if (weights < 0).any() or not weights.any():
            raise ModelError(f"{where}weights must be 0 or more, and not all 0")
        return labels, weights

    def _held_out(self, validation: Validation | None, shape: _Shape) -> Data | None:
        if validation is None:
            return None
        X = self._matrix(validation[0], shape.columns)
        if X.shape[1] != shape.width:
            raise ModelError(f"validation X has {X.shape[1]} columns, X has {shape.width}")
        labels = self._labels(validation[1], validation[2], len(X), "validation ")
        return Data(_known_codes(X, shape.categories), *labels)

    def _check_variety(self, data: Data) -> None:
        used = data.y if data.weight is None else data.y[data.weight > 0]
        if used.min() == used.max():
            raise NotEnoughDataError(
                f"all {len(used)} labels equal {used[0]:g}: nothing can be learnt; "
                "bring rows with another label, or ask for another horizon or population"
            )

    def _classes(self, data: Data, held: Data | None) -> int:
        if self.answer != "which":
            return 0
        return 1 + int(max(data.y.max(), held.y.max() if held else 0))

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise ModelError(f"'{self.name}' is not fitted; call fit first")

    def _ready(self, X: npt.ArrayLike) -> Array:
        self._check_fitted()
        matrix = self._matrix(X, self.columns)
        if matrix.shape[1] != self.width:
            known = f" ({', '.join(self.columns[:8])})" if self.columns else ""
            plural = "" if self.width == 1 else "s"
            raise ModelError(
                f"'{self.name}' was fitted on {self.width} column{plural}{known} and got "
                f"{matrix.shape[1]}; pass the columns it was fitted on, in that order"
            )
        return _known_codes(matrix, self._shape.categories)


def share(values: npt.ArrayLike) -> Array:
    """Non-negative values divided by their sum; zeros stay zeros.

    >>> share([1.0, 3.0])
    array([0.25, 0.75])
    """
    positive = np.maximum(np.asarray(values, dtype=np.float64), 0.0)
    total = positive.sum()
    return cast("Array", positive / total if total > 0 else positive)


def _listed(answers: frozenset[Answer]) -> str:
    return " or ".join(f"'{a}'" for a in get_args(Answer) if a in answers)


def _named(index: int, columns: tuple[str, ...] | None) -> str:
    return f"column {index}" if columns is None else f"column '{columns[index]}'"


def _check_finite(X: Array, columns: tuple[str, ...] | None) -> None:
    infinite = np.isinf(X)
    if infinite.any():
        column = _named(int(infinite.any(axis=0).argmax()), columns)
        raise ModelError(f"{column} holds an infinite value; make it a number or missing (NaN)")


def _vector(values: npt.ArrayLike, rows: int, what: str) -> Array:
    try:
        vector = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{what} must be numbers ({error})") from None
    if np.shape(values) != (rows,):
        raise ModelError(f"{what} must be one number per row: {rows} rows, {np.shape(values)}")
    bad = np.count_nonzero(~np.isfinite(vector))
    if bad:
        raise ModelError(f"{what} is missing or infinite in {bad} of {rows} rows; leave them out")
    if rows and np.abs(vector).max() > _LARGEST:
        raise ModelError(f"{what} holds values beyond {_LARGEST:g}; check their unit")
    return vector


def _outside(codes: Array, count: int | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Where a value is neither missing nor one of the codes 0…count-1."""
    with np.errstate(invalid="ignore"):
        good = (codes >= 0) & (codes < count) & (codes == np.floor(codes))
    return ~good & ~np.isnan(codes)


def _groups(groups: npt.ArrayLike | None, rows: int) -> npt.NDArray[np.int64] | None:
    """Return each row's group as a code from 0."""
    if groups is None:
        return None
    given = np.asarray(groups)
    if given.shape != (rows,):
        raise ModelError(f"groups must have one code a row: {rows}, got shape {given.shape}")
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _check_codes(X: Array | Gathered, shape: _Shape) -> None:
    for index, count in shape.categories.items():
        if not 0 <= index < shape.width:
            raise ModelError(f"category column {index} does not exist; X has {shape.width} columns")
        if count < 1 or _outside(X[:, index], count).any():
            raise ModelError(
                f"{_named(index, shape.columns)} is a category of {count} codes and must hold "
                f"0…{count - 1} or missing (NaN)"
            )


def _known_codes(X: Array, categories: dict[int, int]) -> Array:
    """X with category codes never declared made missing; the caller's array is not changed."""
    copied = X
    if len(X) == 1:  # plain numbers: for one row arrays are all overhead
        for index, count in categories.items():
            code = float(X[0, index])
            if code == code and not (0 <= code < count and code == int(code)):
                if copied is X:
                    copied = X.copy()
                copied[0, index] = np.nan
        return copied
    for index, count in categories.items():
        unknown = _outside(X[:, index], count)
        if unknown.any():
            if copied is X:
                copied = X.copy()
            copied[unknown, index] = np.nan
    return copied
