"""Every model of the catalogue keeps the contract, in each answer it gives."""

from __future__ import annotations

import pytest

from propend.models import Answer, Model, find, names
from propend.testing.models import check_model

FAST = {
    "trees": {"trees": 30, "threads": 1},
    "two_part": {"threads": 1},
}
VARIANTS = {
    "bg_nbd": [{"total": "money", "days": "channel"}],
    "logistic": [{"penalty": "l1"}, {"penalty": "elastic_net", "strength": 3.0}],
    "linear": [{"penalty": "l1"}, {"family": "tweedie"}],
    "trees": [{"loss": "tweedie"}],
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


@pytest.mark.parametrize(("name", "answer", "settings"), CASES, ids=str)
def test_contract(name: str, answer: Answer, settings: dict[str, object]) -> None:
    def factory(asked: Answer) -> Model:
        return find(name)(asked, **settings)

    check_model(factory, answer)
