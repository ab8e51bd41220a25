"""Who wins on held-out rows, and which features prove stable over time."""

from __future__ import annotations

import numpy as np
import pytest

from propend.learn.fitting import Rows
from propend.learn.judge import judge
from propend.learn.selection import stable_columns


def test_settings_of_one_model_have_no_order_and_models_have() -> None:
    """A hair better: enough between two settings of one model, not between a simple and a flexible model."""
    rng = np.random.default_rng(1)
    y = (rng.random(2_000) < 0.4).astype(float)
    margin = 1.5 * (y - 0.4) + rng.normal(size=2_000)
    rough = 1 / (1 + np.exp(-margin))
    noisy = np.clip(rough + rng.normal(0, 0.05, 2_000), 0.01, 0.99)
    finer = np.where(np.arange(2_000) < 20, noisy * 0.98 + y * 0.02, noisy)
    scores = {"line": noisy, "trees": noisy, "finer trees": finer, "blend": finer}
    kind = judge("yes_no")
    settings = [("trees", "trees"), ("finer trees", "trees")]
    assert kind.champion(settings, y, scores) == "finer trees"
    assert kind.champion(settings[::-1], y, scores) == "finer trees"
    assert kind.champion([("trees", "trees"), ("blend", "blending")], y, scores) == "blend"
    assert kind.difference("log_loss", y, finer, noisy).high < 0
    scores["blend"] = np.clip(rough + rng.normal(0, 0.05, 2_000), 0.01, 0.99)
    models = [("line", "logistic"), *settings, ("blend", "blending")]
    gain = kind.difference("log_loss", y, scores["blend"], finer)
    assert gain.low < 0 < gain.high
    assert kind.champion(models, y, scores) == "finer trees"


def test_one_of_many_is_chosen_by_the_mean_loss() -> None:
    y = np.array([0.0, 1, 2] * 100)
    sure = np.full((300, 3), 0.1)
    sure[np.arange(300), y.astype(int)] = 0.8
    scores = {"flat": np.full((300, 3), 1 / 3), "sure": sure, "surer": sure**1.2 / (sure**1.2).sum(1)[:, None]}  # fmt: skip
    named = [("flat", "logistic"), ("sure", "trees"), ("surer", "trees")]
    assert judge("which").champion(named, y, scores) == "surer"


@pytest.mark.parametrize("told", [1, 3])
def test_a_feature_that_told_only_for_a_while_is_not_kept(told: int) -> None:
    rng = np.random.default_rng(2)
    moments = np.repeat(np.arange(4), 2_500)
    X = rng.normal(size=(10_000, 5))
    lasting, passing = X[:, 0], np.where(moments < told, X[:, 1], 0.0)
    y = (lasting + 1.5 * passing + rng.normal(size=10_000) > 0).astype(float)
    rows = Rows(X, y, tuple("abcde"), {}, moments=moments)
    found = stable_columns(rows, "yes_no", 7)
    assert found.columns.tolist() == ([0] if told == 1 else [0, 1])
    assert "from 4 stretches of time" in found.said(rows.columns)["rule"]
    pooled = stable_columns(Rows(X, y, tuple("abcde"), {}), "yes_no", 7)
    assert pooled.columns.tolist() == [0, 1]
    assert "stretches" not in pooled.said(rows.columns)["rule"]
