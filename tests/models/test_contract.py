"""Every model of the catalogue keeps the contract, in each answer it gives."""

from __future__ import annotations

import pytest

from propend.models import Answer, Model, find, names
from propend.testing.models import check_model

FAST = {
    "trees": {"trees": 30, "threads": 1},
    "two_part": {"threads": 1},
    "sklearn": {"settings": {"max_iter": 20}},
    "xgboost": {"trees": 20, "threads": 1},
    "ebm": {"pairs": 1, "bags": 1, "bins": 32, "most_rounds": 100},
    "mlp": {"hidden": (8,), "epochs": 40, "dropout": 0.0},
    "stacking": {"models": ("naive", "decision_tree"), "folds": 2},
    "blending": {"models": ("naive", "decision_tree")},
    "encoded": {"most_levels": 2},
    "hazard_trees": {"trees": 20, "threads": 1},
    "random_forest": {"trees": 20, "threads": 1},
    "extra_trees": {"trees": 20, "threads": 1},
}
VARIANTS = {
    "svm_rbf": [{"exact_rows": 100, "landmarks": 50}],
    "neighbours": [{"most_rows": 200, "weighting": "equal"}],
    "bg_nbd": [{"total": "money", "days": "channel"}],
    "logistic": [{"penalty": "l1"}, {"penalty": "elastic_net", "strength": 3.0}],
    "linear": [{"penalty": "l1"}, {"family": "tweedie"}],
    "trees": [{"loss": "tweedie"}, {"loss": "quantile", "quantile": 0.7}],
    "two_part": [{"base": "linear"}, {"size": "gamma"}, {"base": "linear", "size": "gamma"}],
    "scorecard": [{"column": "frequency", "direction": "up"}, {"direction": "any"}],
}
CASES = [
    (name, answer, {**FAST.get(name, {}), **extra})
    for name in names()
    for answer in sorted(find(name).answers)
    for extra in [{}, *VARIANTS.get(name, [])]
    if not (answer in ("yes_no", "which") and "loss" in extra)
    and not (answer == "count" and "penalty" in extra)  # the log link knows ridge only
]


EXTRAS = {"xgboost": "xgboost", "ebm": "interpret", "mlp": "torch", "sklearn": "skops"}


def plain(answer: Answer, settings: dict[str, object]) -> dict[str, object]:
    """The quick linear model of an answer in the place of ``naive``."""
    if "models" not in settings:
        return settings
    first = "logistic" if answer == "yes_no" else "linear"
    return {**settings, "models": (first, "decision_tree")}


@pytest.mark.parametrize(("name", "answer", "settings"), CASES, ids=str)
def test_contract(name: str, answer: Answer, settings: dict[str, object]) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], reason=f"{name} needs an extra")

    def factory(asked: Answer) -> Model:
        return find(name)(asked, **plain(asked, settings))

    check_model(factory, answer)
