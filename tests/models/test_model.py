"""What the contract's door refuses, and what a saved model protects itself from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from propend.errors import ModelError, NotEnoughDataError
from propend.models import create, find, load, names, parameters
from propend.models.linear import LogisticRegression
from propend.models.storage import State, read, write
from propend.testing.models import sample


class Sneaky(LogisticRegression):
    """A third party's model."""

    name = "sneaky"


def saved(tmp_path: Path) -> Path:
    create("logistic", "yes_no").fit(**sample("yes_no")).save(tmp_path / "m")
    return tmp_path / "m"


def reseal(folder: Path, **changes: object) -> None:
    """Edit the header and make its seal right again, as a later version would."""
    content = json.loads((folder / "model.json").read_text())
    content.pop("sha256")
    content.update(changes)
    seal = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    (folder / "model.json").write_text(json.dumps({**content, "sha256": seal}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strenght": 1.0}, "has no setting 'strenght'; did you mean 'strength'"),
        ({"strength": -1.0}, "Expected 'float' > 0.0 - at 'strength'"),
        ({"strength": "much"}, "Expected 'float | null', got 'str'"),
        ({"penalty": "l3"}, "Invalid enum value 'l3'"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError) as error:
        LogisticRegression("yes_no", **settings)
    assert words in str(error.value)


def test_answers_are_checked() -> None:
    with pytest.raises(ModelError, match="does not answer 'amount' but 'yes_no' or 'which'"):
        LogisticRegression("amount")
    with pytest.raises(ModelError, match="say which"):
        LogisticRegression()
    with pytest.raises(ModelError, match="y must be 0 or 1"):
        LogisticRegression("yes_no").fit([[1.0], [2.0]], [1, 2])
    with pytest.raises(ModelError, match="class codes"):
        LogisticRegression("which").fit([[1.0], [2.0]], [0.5, 2])
    with pytest.raises(ModelError, match="0 or more for 'count'"):
        create("linear", "count").fit([[1.0], [2.0]], [-1, 2])


def test_rows_of_weight_zero_do_not_make_variety() -> None:
    with pytest.raises(NotEnoughDataError, match="all 2 labels equal 1"):
        LogisticRegression("yes_no").fit([[1.0], [2.0], [3.0]], [1, 1, 0], weight=[1, 1, 0])
    with pytest.raises(NotEnoughDataError, match="no row"):
        LogisticRegression("yes_no").fit(np.empty((0, 1)), [])


def test_a_failed_fit_leaves_no_half_fitted_model() -> None:
    rows = sample("amount")
    model = create("two_part", "amount", base="linear").fit(**rows)
    with pytest.raises(ModelError, match="1 are negative"):
        model.fit(rows["X"], np.r_[-1.0, rows["y"][1:]])
    assert not model.fitted


def test_text_is_refused_in_a_sentence() -> None:
    with pytest.raises(ModelError, match="X must be numbers"):
        LogisticRegression("yes_no").fit([["red"], ["blue"]], [0, 1])


def test_columns_are_found_by_name() -> None:
    model = create("scorecard", "yes_no", column="recencyy")
    with pytest.raises(ModelError, match="needs the column 'recencyy'; did you mean 'recency'"):
        model.fit(**sample("yes_no"))
    with pytest.raises(ModelError, match="needs column 9, there are 4"):
        create("scorecard", "yes_no", column=9).fit(**sample("yes_no"))


def test_catalogue() -> None:
    assert {"base_rate", "logistic", "trees", "naive_bayes", "neighbours"} <= set(names("which"))
    assert all(find(name).name == name for name in names())
    assert find("propend.models.trees:Trees") is find("trees")
    with pytest.raises(ModelError, match="cannot be imported"):
        find("no.such.module:Model")
    with pytest.raises(ModelError, match="is not a model"):
        find("collections:Counter")
    with pytest.raises(ModelError, match="is not a model"):
        find("propend.models.model:Model")


def test_load_finds_the_class(tmp_path: Path) -> None:
    model = load(saved(tmp_path))
    assert type(model) is LogisticRegression
    with pytest.raises(ModelError, match="this is a 'logistic' model, not 'trees'"):
        find("trees").load(tmp_path / "m")


def test_a_file_does_not_decide_what_code_runs(tmp_path: Path) -> None:
    Sneaky("yes_no").fit(**sample("yes_no")).save(tmp_path / "s")
    place = f"{Sneaky.__module__}:Sneaky"
    with pytest.raises(ModelError, match="name it in plugins"):
        load(tmp_path / "s")
    state = read(tmp_path / "s")
    assert state.header["class"] == place
    state.header["model"] = "logistic"  # a stranger's class under a name of ours
    write(state, tmp_path / "t")
    with pytest.raises(ModelError, match="name it in plugins"):
        load(tmp_path / "t")


def test_strange_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model in"):
        load(tmp_path)
    folder = saved(tmp_path)
    reseal(folder, version=99)
    with pytest.raises(ModelError, match="format version 99, this Propend reads 1"):
        load(folder)
    reseal(folder, version=1, format="something")
    with pytest.raises(ModelError, match="not a Propend model"):
        load(folder)
    reseal(folder, format="propend-model", files={"../../secret": "00"})
    with pytest.raises(ModelError, match="damaged"):
        load(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        load(folder)


def test_a_missing_file_and_a_missing_array_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state = read(folder)
    del state.arrays["coefficients"]
    write(state, tmp_path / "less")
    with pytest.raises(ModelError, match="lacks what this version needs"):
        load(tmp_path / "less")
    (folder / "arrays.npz").unlink()
    with pytest.raises(ModelError, match=r"arrays\.npz is missing or was changed"):
        load(folder)


def test_objects_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="numbers only"):
        write(State({}, {"bad": np.array([{}], dtype=object)}), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_damaged_booster_is_refused() -> None:
    model = create("trees", "yes_no", trees=3, threads=1).fit(**sample("yes_no"))
    state = model.state()
    state.texts["booster"] = state.texts["booster"][:200]
    with pytest.raises(ModelError, match="lacks what this version needs"):
        type(model).from_state(state)


def odd_rows() -> dict[str, tuple[np.ndarray, np.ndarray, dict[int, int]]]:
    """Inputs at the edge of what is allowed."""
    rng = np.random.default_rng(0)
    half = np.arange(300) % 2.0
    ids = np.column_stack([rng.integers(0, 100_000, 300), rng.normal(size=300)]).astype(float)
    return {
        "two rows": (rng.normal(size=(2, 2)), half[:2], {}),
        "five rows": (rng.normal(size=(5, 2)), half[:5], {}),
        "constant": (np.zeros((300, 2)), half, {}),
        "all missing": (np.full((300, 2), np.nan), half, {}),
        "huge values": (1e300 * rng.normal(size=(300, 2)), half, {}),
        "ids as categories": (ids, half, {0: 100_000}),
    }


OPTIONAL = {"xgboost": "xgboost", "ebm": "interpret", "mlp": "torch", "sklearn": "skops"}


@pytest.mark.parametrize("name", [name for name in names() if name != "bg_nbd"])
def test_odd_rows_are_served(name: str) -> None:
    """Every model serves odd rows, or says in a sentence that they are too few; BG/NBD needs columns of its own."""
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name], reason=f"{name} needs an extra")
    settings: dict[str, Any] = {"threads": 1} if name in ("trees", "two_part") else {}
    settings |= {"trees": 10, "threads": 1} if name in ("random_forest", "extra_trees") else {}
    settings |= (
        {"models": ("naive_bayes", "decision_tree")} if name in ("stacking", "blending") else {}
    )
    settings |= {"money": 0} if name == "rfm" else {}
    settings |= {"trees": 10, "threads": 1} if name == "xgboost" else {}
    for what, (X, y, categories) in odd_rows().items():
        for answer in find(name).answers:
            if name in ("stacking", "blending"):
                settings["models"] = ("logistic" if answer == "yes_no" else "linear", "trees")
            model = create(name, answer, **settings)
            if name == "stacking" and len(X) < 16:
                with pytest.raises(NotEnoughDataError, match="needs at least 16 rows"):
                    model.fit(X, y)
                continue
            told = 2 * y - 1 if answer == "time" else y  # an event, or none seen
            # XGBoost keeps a bit per category in every split: few trees, not as many as help
            few = name == "xgboost" and bool(categories)
            held = None if few else (X, told, None)
            model.fit(X, told, categories=categories, validation=held)
            assert np.isfinite(model.predict(X)).all(), what
            again = find(name).from_state(model.state())
            assert np.array_equal(again.predict(X), model.predict(X)), what


def test_labels_beyond_reason_are_refused() -> None:
    with pytest.raises(ModelError, match=r"y holds values beyond 1e\+30"):
        create("linear", "amount").fit([[1.0], [2.0]], [0.0, 1e200])


def test_importing_models_is_light() -> None:
    code = (
        "import sys, propend.models, propend.learn.metrics, propend.learn.calibration\n"
        "heavy = {'sklearn', 'scipy', 'lightgbm', 'pyarrow', 'duckdb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["trees", "xgboost", "sklearn"])
def test_few_cells_are_one_threads_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other by spinning took a hundred times the CPU time of one on a busy machine."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_info

    seen: list[int] = []
    if name == "sklearn":
        pytest.importorskip("skops", reason="sklearn needs an extra")
        fit = HistGradientBoostingClassifier.fit

        def watched(self: Any, *given: Any, **named: Any) -> Any:
            seen.extend(p["num_threads"] for p in threadpool_info())
            return fit(self, *given, **named)

        monkeypatch.setattr(HistGradientBoostingClassifier, "fit", watched)
        settings: dict[str, Any] = {"settings": {"max_iter": 3}}
    else:
        library = pytest.importorskip({"trees": "lightgbm"}.get(name, name))
        train = library.train

        def trained(given: dict[str, Any], *more: Any, **named: Any) -> Any:
            seen.append(given.get("num_threads", given.get("nthread")))
            return train(given, *more, **named)

        monkeypatch.setattr(library, "train", trained)
        settings = {"trees": 3}
    X = np.random.default_rng(0).normal(size=(300, 4))
    model = create(name, "yes_no", **settings).fit(X, X[:, 0] > 0)
    assert set(seen) == {1}
    if name != "sklearn":
        asked = create(name, "yes_no", threads=2, **settings).fit(X, X[:, 0] > 0)
        assert seen[-1] == 2
        assert np.array_equal(asked.predict(X), model.predict(X))
        monkeypatch.setattr(parameters, "SMALL", 100)
        assert np.array_equal(create(name, "yes_no", **settings).fit(X, X[:, 0] > 0).predict(X), model.predict(X))  # fmt: skip
        assert seen[-1] == 0
