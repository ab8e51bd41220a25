"""Compare two versions of a task's model, and roll back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.errors import ModelError
from propend.expression.parse import parse
from propend.learn import registry as kept
from propend.learn.calibration import Identity
from propend.learn.registry import Registry, code_state
from propend.learn.train import Fitted
from propend.models import create
from propend.tasks.task import Task


def fitted(auroc: float, data: str) -> Fitted:
    X = np.arange(40.0).reshape(-1, 1)
    model = create("logistic", "yes_no", bends=0).fit(X, X[:, 0] > 20)
    task = Task.parse("buys", "any(purchase) next 30d for any(*) last 90d")
    card = {
        "metrics": {"auroc": auroc},
        "intervals": {},
        "data_hash": data,
        "verdict": {"answer": "use" if auroc > 0.6 else "use the rule"},
    }
    return Fitted(task, "logistic", model, Identity(), (parse("count(view)"),), {}, 0.5, card)


def test_compare_and_roll_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.save(fitted(0.7, "a"))
    registry.save(fitted(0.8, "b"))
    both = registry.compare("buys", 1, 2)
    assert both["metrics"]["auroc"] == {"1": 0.7, "2": 0.8}
    assert "different rows" in both["note"]
    assert registry.load("buys").card["metrics"]["auroc"] == 0.8
    assert registry.rollback("buys") == 1
    assert registry.load("buys").card["metrics"]["auroc"] == 0.7
    with pytest.raises(ModelError, match="no earlier version"):
        registry.rollback("buys")
    with pytest.raises(ModelError, match="no earlier version"):
        registry.rollback("unknown")


def test_a_worse_model_on_the_same_rows_does_not_replace_a_better_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.save(fitted(0.8, "a"))
    worse = registry.save(fitted(0.55, "a"))
    assert not worse.current
    assert "on the same rows its auroc is 0.8000, the new one's 0.5500" in worse.remark
    assert registry.load("buys").card["metrics"]["auroc"] == 0.8
    assert [e.verdict for e in registry.entries()] == ["use", "use the rule"]
    assert registry.save(fitted(0.8, "a")).current  # as good: the newer code answers
    other = registry.save(fitted(0.7, "b"))  # other rows tell nothing about the two
    assert other.current
    assert other.remark == ""
    assert not registry.save(fitted(float("nan"), "b")).current
    registry.promote("buys", 2)
    assert registry.load("buys").card["metrics"]["auroc"] == 0.55


def test_other_code_does_not_reuse_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "part").mkdir(parents=True)
    source = package / "part" / "model.py"
    source.write_text("STEPS = 10\n")
    before = code_state(package)
    source.write_text("STEPS = 11\n")
    code_state.cache_clear()
    assert code_state(package) != before

    registry = Registry(tmp_path / "models")
    made = fitted(0.8, "a")
    made.card["seed"] = 7
    registry.save(made)
    assert registry.matching(made.task, "a", 7) is not None
    monkeypatch.setattr(kept, "code_state", lambda: "another")
    assert registry.matching(made.task, "a", 7) is None
