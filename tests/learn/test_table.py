"""A labelled table: kinds of columns, folds, the nested scheme, and every bad input as one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.engine import connect
from propend.errors import ConfigError, DataError, ModelError, NotEnoughDataError, PropendError
from propend.learn.leaks import LeakError
from propend.learn.table import Candidate, LabelledTable, _fold_of, cross_validate, read_table
from propend.models import create, load


def write(folder: Path, rows: int = 300, **columns: object) -> Path:
    """A table with two honest columns, a label, and what is given (a list, or a function of the row)."""
    rng = np.random.default_rng(0)
    visits, y = rng.normal(size=rows), []
    y = ["yes" if rng.random() < 1 / (1 + np.exp(-v)) else "no" for v in visits]
    table = {"visits": [f"{v:.4f}" for v in visits], "city": [f"c{i % 3}" for i in range(rows)]}
    table["bought"] = y
    for name, made in columns.items():
        table[name] = [made(i) for i in range(rows)] if callable(made) else made  # type: ignore[assignment]
    file = folder / "table.csv"
    lines = [",".join(table), *(",".join(str(c[i]) for c in table.values()) for i in range(rows))]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def read(file: Path, label: str = "bought", **options: object) -> LabelledTable:
    return read_table([str(file)], label, connect(), file.parent, **options)  # type: ignore[arg-type]


def test_the_champion_is_judged_beside_its_baseline(tmp_path: Path) -> None:
    table = read(write(tmp_path, 600))
    seen: list[int] = []
    fit = cross_validate(
        table,
        folds=3,
        draws=20,
        models=("logistic",),
        beside=(Candidate("tree", "decision_tree", {"depth": 2}),),
        progress=lambda _, done, __: seen.append(done),
    )
    card = fit.card
    assert seen == [1, 2, 3]
    assert card["metrics"]["auroc"] > 0.65 > card["baseline"]["base_rate"]["auroc"]
    assert set(card["seconds"]) == {"logistic", "tree", "base_rate"}
    assert card["verdict"]["answer"] == "use"
    assert "600 test rows" in card["power"]["sentence"]
    assert cross_validate(table, folds=3, draws=20, models=("logistic",)).card["metrics"] == card["metrics"]  # fmt: skip


def test_groups_stay_whole_and_time_goes_forward(tmp_path: Path) -> None:
    file = write(tmp_path, 600, owner=lambda i: f"o{i % 50}", day=lambda i: f"2024-{1 + i // 60:02d}-01")  # fmt: skip
    whole = read(file, group="owner", ignore=["day"])
    fold = _fold_of(whole, 5, 7)
    assert whole.groups is not None
    assert all(len(set(fold[whole.groups == g])) == 1 for g in np.unique(whole.groups))
    forward = read(file, order="day", ignore=["owner"])
    fold = _fold_of(forward, 3, 7)
    assert forward.time is not None
    for k in range(3):
        assert forward.time[fold < k].max() < forward.time[fold == k].min()
    card = cross_validate(forward, folds=3, draws=20, models=("logistic",)).card
    assert card["protocol"].startswith("3 forward folds")
    assert card["tested"] < card["rows"]
    assert "owner" not in card["columns"]


def test_amounts(tmp_path: Path) -> None:
    table = read(write(tmp_path, 400, spent=lambda i: f"{(i * 37) % 101}.5"), label="spent")
    card = cross_validate(table, folds=2, draws=20, models=("linear",)).card
    assert card["answer"] == "amount"
    assert card["uncertainty"]["kind"] == "conformal"


BAD = {
    "all labels equal": ({"bought": lambda _: "yes"}, {}, NotEnoughDataError, "every row of 'bought' says 'yes'"),
    "a label full of blanks": ({"bought": lambda _: ""}, {}, DataError, "is blank in every row"),
    "a class with one row": ({"bought": lambda i: "yes" if i == 3 else "no"}, {}, NotEnoughDataError, "only 1 rows"),
    "infinite labels": ({"spent": lambda i: "inf" if i == 5 else f"{i}.5"}, {"label": "spent"}, DataError, "infinite"),
    "an unknown label": ({}, {"label": "bougth"}, ConfigError, "did you mean 'bought'"),
    "an unknown group": ({}, {"group": "ownr"}, ConfigError, "no column 'ownr'"),
    "a time that is none": ({"day": lambda i: f"d{i}"}, {"order": "day"}, DataError, "not a time in every row"),
    "a time with gaps": ({"day": lambda i: "" if i == 9 else "2024-01-01"}, {"order": "day"}, DataError, "missing in 1 rows"),
    "texts as label": ({"kind": lambda i: f"k{i % 7}"}, {"label": "kind"}, DataError, "7 different texts"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_tables_get_one_sentence(tmp_path: Path, case: str) -> None:
    columns, options, kind, words = BAD[case]
    file = write(tmp_path, **columns)
    before = file.read_bytes()
    with pytest.raises(kind, match=words) as caught:
        read(file, **options)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


def test_odd_columns_are_left_out_and_said_or_served(tmp_path: Path) -> None:
    table = read(
        write(
            tmp_path,
            constant=lambda _: "x",
            empty=lambda _: "",
            customer_id=lambda i: str(100_000 + i),
            code=lambda i: f"id{i}",
            infinite=lambda i: "inf" if i % 9 == 0 else str(i % 11),
            joined=lambda i: f"2024-01-{1 + i % 28:02d}",
        )
    )
    assert set(table.left_out) == {"constant", "empty", "customer_id", "code"}
    assert np.isfinite(table.X[~np.isnan(table.X)]).all()
    joined = table.columns.index("joined")
    assert joined in table.categories  # a date as text is a category of its values
    assert np.isfinite(cross_validate(table, folds=2, draws=10, models=("logistic",)).scores).all()


def test_a_hundred_thousand_categories_are_read_and_fitted() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.permutation(100_000).astype(float), rng.normal(size=100_000)])
    y = (rng.random(100_000) < 1 / (1 + np.exp(-X[:, 1]))).astype(float)
    for name, settings in (("logistic", {"bends": 0}), ("naive_bayes", {})):
        model = create(name, "yes_no", **settings).fit(X, y, categories={0: 100_000})  # type: ignore[arg-type]
        assert np.isfinite(model.predict(X[:10])).all()


def test_a_leak_blocks_until_confirmed(tmp_path: Path) -> None:
    file = write(tmp_path, 400)
    lines = file.read_text().splitlines()
    told = [lines[0] + ",call_result"]
    told += [f"{line},{line.endswith('yes') * 1 + i % 2 * 0.1}" for i, line in enumerate(lines[1:])]
    file.write_text("\n".join(told))
    table = read(file)
    with pytest.raises(LeakError, match="confirm it with --known call_result"):
        cross_validate(table, folds=2, models=("logistic",))
    fit = cross_validate(
        table, folds=2, draws=10, models=("logistic",), known_before=["call_result"]
    )
    assert fit.card["metrics"]["auroc"] == 1


def test_new_categories_missing_columns_and_tampered_files(tmp_path: Path) -> None:
    table = read(write(tmp_path))
    categories = {j: len(v) for j, v in table.categories.items()}
    model = create("logistic", "yes_no").fit(
        table.X, table.y, columns=table.columns, categories=categories
    )
    strange = table.X[:1].copy()
    strange[0, table.columns.index("city")] = 77
    assert np.isfinite(model.predict(strange)).all()
    with pytest.raises(ModelError, match=r"was fitted on 2 columns \(visits, city\) and got 1"):
        model.predict(table.X[:, :1])
    model.save(tmp_path / "m")
    header = tmp_path / "m" / "model.json"
    text = header.read_text()
    header.write_text(text.replace('"version": 1', '"version": 99'))
    with pytest.raises(ModelError, match="format version 99"):
        load(tmp_path / "m")
    header.write_text(text.replace("visits", "visitz"))
    with pytest.raises(ModelError, match="damaged"):
        load(tmp_path / "m")
    assert issubclass(ModelError, PropendError)
