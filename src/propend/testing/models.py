"""The contract suite of models: run it over your own before you plug it in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from propend.errors import ModelError, NotEnoughDataError, PropendError
from propend.models.model import Answer, Array, Model

__all__ = ["check_model", "sample"]

Factory = Callable[[Answer], Model]


def sample(answer: Answer, rows: int = 400, seed: int = 7) -> dict[str, Any]:
    """Made-up rows for an answer: arguments of ``fit`` beside ``weight`` and ``validation``.

    Four columns: three numbers of which one is heavy-tailed and one has gaps, and a category.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4))
    X[:, 1] = np.exp(X[:, 1])
    X[rng.random(rows) < 0.2, 2] = np.nan
    X[:, 3] = rng.integers(0, 3, rows)
    margin = X[:, 0] + 0.5 * np.log(X[:, 1]) + (X[:, 3] == 2) - 0.5
    draw: dict[Answer, Callable[[], Array]] = {
        "yes_no": lambda: (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(float),
        "amount": lambda: np.where(rng.random(rows) < 0.6, np.exp(margin), 0.0).round(2),
        "count": lambda: rng.poisson(np.exp(np.clip(margin, -3, 3))).astype(float),
        "time": lambda: _watched(rng.exponential(5 * np.exp(margin)), 10.0),
        "which": lambda: np.digitize(margin + rng.logistic(size=rows), [-1.0, 1.0]).astype(float),
    }
    y = draw[answer]()
    columns = ("recency", "frequency", "money", "channel")
    return {"X": X, "y": y, "columns": columns, "categories": {3: 3}, "seed": 3}


def _watched(time: Array, longest: float) -> Array:
    """Times to an event as a model is told them: minus ``longest`` where none was seen."""
    return np.where(time < longest, np.maximum(time, 1e-9), -longest)


def check_model(factory: Factory, answer: Answer) -> None:
    """Hold a model to its contract; an ``AssertionError`` says which promise is broken.

    Parameters
    ----------
    factory
        makes a new, unfitted model for an answer.

    >>> from propend.models import find
    >>> check_model(find("base_rate"), "yes_no")
    """
    rows = sample(answer)
    model = factory(answer).fit(**rows)
    scores = model.predict(rows["X"])
    _check_scores(model, scores, len(rows["y"]))
    _check_one_by_one(model, rows["X"], scores)
    _check_missing(model, rows["X"])
    _check_refit(factory, answer, rows, scores)
    _check_weights(factory, answer, rows)
    _check_constant_column(factory, answer, rows)
    _check_validation(factory, answer, rows)
    _check_sentences(factory, answer, rows)
    _check_saving(model, rows["X"], scores)
    _check_explanations(model, rows["X"], scores)


def _check_scores(model: Model, scores: Array, rows: int) -> None:
    shape = (rows, model.classes) if model.answer == "which" else (rows,)
    assert scores.shape == shape, f"predict gives {scores.shape}, not {shape}"
    assert scores.dtype == np.float64, f"predict gives {scores.dtype}, not float64"
    assert np.isfinite(scores).all(), "predict gives values that are not finite"
    if model.answer in ("yes_no", "which"):
        assert ((scores >= 0) & (scores <= 1)).all(), "probabilities must lie between 0 and 1"
    if model.answer == "which":
        assert np.allclose(scores.sum(axis=1), 1), "probabilities of one row must sum to 1"
    if model.answer == "count":
        assert (scores >= 0).all(), "expected counts must be 0 or more"


def _check_one_by_one(model: Model, X: Array, scores: Array) -> None:
    for row in range(0, len(X), 37):
        alone = model.predict(X[row : row + 1])
        assert np.array_equal(alone[0], scores[row]), "a row alone scores as it does among many"
    turned = np.asfortranarray(X)
    assert np.array_equal(model.predict(turned), scores), "memory order must not change a score"
    assert len(model.predict(X[:0])) == 0, "no rows give no scores"


def _check_missing(model: Model, X: Array) -> None:
    empty = np.full((2, X.shape[1]), np.nan)
    assert np.isfinite(model.predict(empty)).all(), "a row of missing values must get a score"
    unknown = X[:2].copy()
    unknown[:, 3] = 99
    before = unknown.copy()
    missing = unknown.copy()
    missing[:, 3] = np.nan
    scores = model.predict(unknown)
    assert np.array_equal(scores, model.predict(missing)), "an unknown category is a missing one"
    assert np.array_equal(unknown, before), "predict must not change the caller's array"


def _check_refit(factory: Factory, answer: Answer, rows: dict[str, Any], scores: Array) -> None:
    before = rows["X"].copy()
    again = factory(answer).fit(**rows).predict(rows["X"])
    assert np.array_equal(again, scores), "the same seed must give the same model"
    other = sample(answer, seed=11)
    refitted = factory(answer).fit(**other)
    refitted.fit(**rows)
    assert np.array_equal(refitted.predict(rows["X"]), scores), "fitting again starts afresh"
    assert np.array_equal(rows["X"], before, equal_nan=True), "fit must not change its input"


def _check_weights(factory: Factory, answer: Answer, rows: dict[str, Any]) -> None:
    ones = factory(answer).fit(**rows, weight=np.ones(len(rows["y"])))
    plain = factory(answer).fit(**rows)
    assert np.allclose(ones.predict(rows["X"]), plain.predict(rows["X"])), "weights of 1 are none"
    if not plain.predict(rows["X"]).any():
        return  # a model that always says 0 learns nothing from weights either
    size = np.abs(rows["y"]) if answer == "time" else rows["y"]
    heavy = np.where(size > size.mean(), 5.0, 1.0)
    scores = factory(answer).fit(**rows, weight=heavy).predict(rows["X"])
    side = (slice(None), -1) if answer == "which" else slice(None)
    assert scores[side].mean() > plain.predict(rows["X"])[side].mean(), "weights must matter"


def _check_constant_column(factory: Factory, answer: Answer, rows: dict[str, Any]) -> None:
    X = rows["X"].copy()
    X[:, 0], X[:, 1] = 5.0, np.nan
    scores = factory(answer).fit(**{**rows, "X": X}).predict(X)
    assert np.isfinite(scores).all(), "a constant and an empty column must do no harm"


def _check_validation(factory: Factory, answer: Answer, rows: dict[str, Any]) -> None:
    held = sample(answer, rows=150, seed=5)
    watched = factory(answer).fit(**rows, validation=(held["X"], held["y"], None))
    assert np.isfinite(watched.predict(held["X"])).all(), "validation rows must be accepted"


def _check_sentences(factory: Factory, answer: Answer, rows: dict[str, Any]) -> None:
    X, y = rows["X"], rows["y"]
    infinite = X.copy()
    infinite[3, 1] = np.inf
    gaps = y.copy()
    gaps[0] = np.nan
    strange = X.copy()
    strange[0, 3] = 7
    fit = factory(answer).fit
    _says(ModelError, "call fit first", lambda: factory(answer).predict(X))
    _says(ModelError, "'frequency' holds an infinite", lambda: fit(**{**rows, "X": infinite}))
    _says(ModelError, "y is missing or infinite in 1", lambda: fit(**{**rows, "y": gaps}))
    _says(ModelError, "one number per row", lambda: fit(**{**rows, "y": y[:-1]}))
    _says(ModelError, "column names", lambda: fit(**{**rows, "columns": ("a",)}))
    _says(ModelError, "'channel' is a category of 3", lambda: fit(**{**rows, "X": strange}))
    _says(ModelError, "weights must be", lambda: fit(**rows, weight=-np.ones(len(y))))
    _says(NotEnoughDataError, "labels equal", lambda: fit(**{**rows, "y": np.ones(len(y))}))
    model = factory(answer).fit(**rows)
    _says(ModelError, "was fitted on 4 columns", lambda: model.predict(X[:, :3]))
    _says(ModelError, "'frequency' holds an infinite", lambda: model.predict(infinite))
    _says(ModelError, "[rows, columns]", lambda: model.predict(X[0]))


def _says(kind: type[PropendError], words: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        message = str(error)
        assert words in message, f"the sentence should say '{words}': {message}"
        assert "\n" not in message, f"one sentence, not lines: {message}"
    else:
        raise AssertionError(f"{kind.__name__} with '{words}' was expected")


def _check_saving(model: Model, X: Array, scores: Array) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        model.save(folder)
        loaded = type(model).load(folder)
        assert np.array_equal(loaded.predict(X), scores), "loading must change no bit of a score"
        assert repr(loaded) == repr(model), "settings must survive saving"
        assert (loaded.columns, loaded.categories) == (model.columns, model.categories)
        _says(ModelError, "already there", lambda: model.save(folder))
        for file in sorted(folder.iterdir()):
            content = file.read_bytes()
            assert b"pickle" not in content, "no pickle"
            file.write_bytes(content[:-20] + b"x" + content[-19:])
            _says(ModelError, "damaged", lambda: type(model).load(folder))
            file.write_bytes(content)
        loaded.save(Path(place) / "again")
        for file in folder.iterdir():
            same = file.read_bytes() == (Path(place) / "again" / file.name).read_bytes()
            assert same, f"saving what was loaded changes {file.name}"


def _check_explanations(model: Model, X: Array, scores: Array) -> None:
    importance = model.importance()
    assert importance.shape == (model.width,), "importance is one number per column"
    assert (importance >= 0).all(), "importance is never negative"
    assert np.isclose(importance.sum(), 1) or not importance.any(), "importance sums to 1"
    which = model.answer == "which"
    of = scores.argmax(axis=1) if which else None
    try:
        parts = model.contributions(X, of)
    except ModelError:
        return  # a model may say that its scores are no such sum
    assert parts.shape == (len(X), model.width + 1), "contributions are [rows, columns + bias]"
    margin = parts.sum(axis=1)
    if which:
        told = np.log(scores) if model.link == "softmax" else scores
        ratio = told[np.arange(len(X)), of] - told.mean(axis=1)
        assert np.allclose(margin, ratio, rtol=1e-7, atol=1e-7), "contributions must sum to the ratio (or difference) to the mean"  # fmt: skip
        return
    back = {
        "logit": lambda: 1 / (1 + np.exp(-margin)),
        "log": lambda: np.exp(margin),
        "identity": lambda: margin,
    }[model.link]()
    assert np.allclose(back, scores, rtol=1e-9, atol=1e-9), "contributions must sum to the margin"
    both = model.explain(X)
    assert np.array_equal(both[0], scores), "explain must score as predict does"
    assert np.array_equal(both[1], parts), "explain must give what contributions gives"
    for row in range(0, len(X), 37):
        alone = model.explain(X[row : row + 1])
        assert np.array_equal(alone[0][0], scores[row]), "a row alone is scored as among many"
        assert np.array_equal(alone[1][0], parts[row]), "a row alone is explained as among many"
