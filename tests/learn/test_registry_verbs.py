"""Compare two versions of a task's model, and roll back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_rollback_goes_back_along_what_scored(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for auroc in (0.7, 0.8, 0.6, 0.9):  # the third is worse on the same rows: kept aside
        registry.save(fitted(auroc, "a"))
    registry.promote("buys", 1)
    registry.promote("buys", 1)
    assert [registry.rollback("buys") for _ in range(3)] == [4, 2, 1]
    with pytest.raises(ModelError, match="no earlier version"):
        registry.rollback("buys")
    lines = (tmp_path / "buys" / "history").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [
        *(["promote", v] for v in "12411"),
        *(["rollback", v] for v in "421"),
    ]
    registry.promote("buys", 3)
    assert registry.rollback("buys") == 1


def test_rollback_passes_over_nothing_in_silence(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for auroc in (0.7, 0.8, 0.9):
        registry.save(fitted(auroc, "a"))
    home = tmp_path / "buys"
    (home / "v2" / "seal").unlink()
    with pytest.raises(ModelError, match=r"not rolled back.*version 2 .*--promote"):
        registry.rollback("buys")
    assert registry.load("buys").card["metrics"]["auroc"] == 0.9
    (home / "history").unlink()  # a registry from before there was one
    with pytest.raises(ModelError, match="no earlier version"):
        registry.rollback("buys")
    registry.promote("buys", 1)
    assert registry.rollback("buys") == 3
    (home / "history").write_text("once upon a time\n")
    with pytest.raises(ModelError, match="history is damaged"):
        registry.rollback("buys")


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


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "2 forward folds"},
        {"folds": 2},
        {"tested": 90},
        {"tested_positives": 9},
        {"tested_hash": "b"},
    ],
)
def test_other_tests_of_the_same_data_hold_no_version_back(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    tests = {
        "protocol": "3 forward folds",
        "folds": 3,
        "tested": 100,
        "tested_positives": 10,
        "tested_hash": "a",
    }
    registry = Registry(tmp_path)
    for auroc, card in ((0.8, tests), (0.7, tests), (0.7, {**tests, **other})):
        made = fitted(auroc, "a")
        made.card |= card
        entry = registry.save(made)
        assert entry.current == (auroc == 0.8 or card is not tests)
    both = registry.compare("buys", 1, 3)
    assert (both["same_data"], both["same_tests"]) == (True, False)
    assert "in other tests" in both["note"]
    assert registry.compare("buys", 1, 2)["same_tests"]


def _altered(version: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((version / "fitted.json").read_text())
    change(data)
    (version / "fitted.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(calibrator={"calibrator": "platt", "slope": -3.0, "intercept": 9.0}),
        lambda d: d.update(threshold=0.0),
        lambda d: d.update(features=["count(purchase)"]),
        lambda d: d["card"]["metrics"].update(auroc=0.99),
        lambda d: d.pop("calibrator"),
    ],
)
def test_an_altered_version_never_loads(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    registry = Registry(tmp_path)
    version = registry.save(fitted(0.7, "a")).folder
    _altered(version, change)
    with pytest.raises(ModelError, match="was changed after it was fitted"):
        registry.load("buys")
    (version / "seal").unlink()
    with pytest.raises(ModelError, match="was changed after it was fitted"):
        registry.load("buys")


def test_a_key_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    from propend.learn import registry as module

    registry = Registry(tmp_path)
    version = registry.save(fitted(0.7, "a")).folder
    _altered(version, lambda d: d.pop("calibrator"))
    (version / "seal").write_text(module._seal(version))  # sealed so, as another version might
    with pytest.raises(ModelError, match=r"incomplete \('calibrator'\)"):
        registry.load("buys")


def test_a_damaged_version_is_listed_with_its_fault(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first = registry.save(fitted(0.7, "a")).folder
    registry.save(fitted(0.8, "b"))
    text = (first / "fitted.json").read_text()
    (first / "fitted.json").write_text(text[: len(text) // 2])
    listed = registry.entries()
    assert [(e.version, e.champion, bool(e.fault)) for e in listed] == [
        (1, "damaged", True),
        (2, "logistic", False),
    ]
    assert "missing or damaged" in listed[0].fault
    with pytest.raises(ModelError, match="damaged"):
        registry.load("buys", 1)
    assert registry.load("buys").name == "logistic"


@pytest.mark.parametrize("fault", ["has format 1", "is damaged"])
def test_what_cannot_score_is_not_promoted(tmp_path: Path, fault: str) -> None:
    registry = Registry(tmp_path)
    first = registry.save(fitted(0.7, "a")).folder
    registry.save(fitted(0.8, "b"))
    if fault == "is damaged":
        arrays = first / "model" / "arrays.npz"
        arrays.write_bytes(arrays.read_bytes()[:-9] + b"otherwise")
    else:
        _altered(first, lambda d: d.update(format=1))
    with pytest.raises(ModelError, match=fault):
        registry.promote("buys", 1)
    with pytest.raises(ModelError, match=fault):
        registry.rollback("buys")
    assert [(e.current, fault in e.fault) for e in registry.entries()] == [
        (False, True),
        (True, False),
    ]
    assert registry.load("buys").card["metrics"]["auroc"] == 0.8


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
