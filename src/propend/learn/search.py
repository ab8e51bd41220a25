"""Settings searched for within a time budget, on rows held out of the training rows alone."""

from __future__ import annotations

import time
import warnings
from typing import Any, Final

import numpy as np

from propend.errors import MissingExtraError, PropendError
from propend.learn.fitting import Rows, fit_model
from propend.learn.judge import judge
from propend.models.model import Answer

__all__ = ["SPACES", "best_settings"]

_TREES: Final[dict[str, tuple[str, float, float]]] = {
    "learning_rate": ("log", 0.01, 0.15),
    "leaves": ("log whole", 3, 64),
    "rows_per_leaf": ("log whole", 5, 300),
    "column_share": ("even", 0.3, 1.0),
    "row_share": ("even", 0.5, 1.0),
    "l2": ("log", 0.1, 100.0),
}
_LINEAR: Final[dict[str, tuple[str, float, float]]] = {
    "strength": ("log", 1e-2, 1e4),
    "bends": ("whole", 0, 6),
}
_FOREST: Final[dict[str, tuple[str, float, float]]] = {
    "rows_per_leaf": ("log whole", 1, 100),
    "row_share": ("even", 0.3, 1.0),
}
SPACES: Final[dict[str, dict[str, tuple[str, float, float]]]] = {
    "trees": _TREES,
    "hazard_trees": {k: v for k, v in _TREES.items() if k in ("learning_rate", "leaves")},
    "logistic": _LINEAR,
    "linear": _LINEAR,
    "random_forest": _FOREST,
    "extra_trees": _FOREST,
    "xgboost": {
        "learning_rate": ("log", 0.01, 0.15),
        "depth": ("whole", 2, 8),
        "column_share": ("even", 0.3, 1.0),
        "row_share": ("even", 0.5, 1.0),
        "l2": ("log", 0.1, 100.0),
    },
    "mlp": {"dropout": ("even", 0.0, 0.6), "weight_decay": ("log", 1e-6, 1e-1)},
}
"""What is searched, by model: how a setting is drawn, from where to where."""
LEAST_GAIN: Final = 1e-4
"""Relative gain on the held-out rows below which the settings in hand stay."""


def best_settings(
    name: str,
    given: dict[str, Any],
    answer: Answer,
    rows: Rows,
    held: Rows,
    loss: str,
    seconds: float,
    *,
    seed: int = 7,
    balance: bool = False,
) -> dict[str, Any]:
    """Return the settings with the lowest loss on ``held`` that were found within ``seconds``; ``given`` is tried first.

    Optuna's tree-structured Parzen estimator proposes (Bergstra et al. 2011; Akiba et al. 2019), seeded; how many
    proposals fit into the time depends on the machine. Half of the held-out users judge the proposals; ``given`` stays
    unless the best proposal also beats it on the other half, so that luck on few rows does not pass for skill. Models
    without a space (``SPACES``) keep what was given. Raises ``MissingExtraError`` where Optuna is not installed.
    """
    space = SPACES.get(name)
    if space is None:
        return given
    started = time.perf_counter()
    first, second = _halves(held, seed)
    kind = judge(answer, given.get("quantile"))

    def tried(settings: dict[str, Any]) -> tuple[float, float]:
        model = fit_model(name, settings, answer, rows, seed, first, balance)
        losses = []
        for part in (first, second):
            p = model.predict(part.X)
            p = p if answer in ("yes_no", "which") else np.maximum(p, 0.0)
            losses.append(kind.metrics(part.y, p)[loss])
        return losses[0], losses[1]

    base = tried(given)
    best, best_found = given, base
    study = _study(seed)
    while time.perf_counter() - started < seconds:
        trial = study.ask()
        settings = {**given, **{key: _drawn(trial, key, how) for key, how in space.items()}}
        try:
            found = tried(settings)
        except PropendError:  # a proposal the model cannot be fitted with is no proposal
            study.tell(trial, state=_failed())
            continue
        study.tell(trial, found[0])
        if found[0] < best_found[0]:
            best, best_found = settings, found
    better = best_found[1] < base[1] - LEAST_GAIN * abs(base[1])
    return best if better else given


def _halves(held: Rows, seed: int) -> tuple[Rows, Rows]:
    """Split held-out rows by users."""
    owner = np.arange(len(held)) if held.users is None else held.users
    users, code = np.unique(owner, return_inverse=True)
    mine = (np.random.default_rng(seed).random(len(users)) < 0.5)[code]
    if held.y[mine].size < 2 or held.y[~mine].size < 2:
        return held, held
    return (
        Rows(held.X[mine], held.y[mine], held.columns, held.categories),
        Rows(held.X[~mine], held.y[~mine], held.columns, held.categories),
    )


def _drawn(trial: Any, key: str, how: tuple[str, float, float]) -> float | int:
    kind, low, high = how
    if "whole" in kind:
        return int(trial.suggest_int(key, int(low), int(high), log="log" in kind))
    return float(trial.suggest_float(key, low, high, log=kind == "log"))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("searching settings within a time budget", "search") from None
    return optuna


def _study(seed: int) -> Any:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))


def _failed() -> Any:
    return _optuna().trial.TrialState.FAIL
