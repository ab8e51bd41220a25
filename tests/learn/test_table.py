"""Labelled tables without time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.engine import connect
from propend.errors import ConfigError, DataError, NotEnoughDataError
from propend.learn.table import cross_validate, read_table


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def churn(path: Path, rows: int = 600, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    months = rng.integers(1, 72, rows)
    plan = rng.choice(["month", "year"], rows)
    risk = 1 / (1 + np.exp(0.06 * months - 1.5 + (plan == "year")))
    left = np.where(rng.random(rows) < risk, "Yes", "No")
    lines = [
        f"c{i},{m},{p}, ,{label}"
        for i, (m, p, label) in enumerate(zip(months, plan, left, strict=True))
    ]
    return write(path, "customerID,months,plan,note,Churn\n" + "\n".join(lines) + "\n")


def test_a_table_is_read_judged_and_said_to_flatter(tmp_path: Path) -> None:
    table = read_table([str(churn(tmp_path / "t.csv"))], "Churn", connect(), tmp_path)
    assert table.columns == ("months", "plan")
    assert table.positive == "Yes"
    assert set(table.left_out) == {"customerID", "note"}
    assert table.categories == {1: ("month", "year")}
    fit = cross_validate(table, draws=50)
    card = fit.card
    assert card["metrics"]["auroc"] > card["baseline"]["base_rate"]["auroc"] + 0.1
    assert card["intervals"]["auroc"]["low"] > 0.5
    assert "flatter" in card["protocol"]
    assert card["folds"] == 5
    assert len(fit.scores) == 600
    assert np.array_equal(fit.scores, cross_validate(table, draws=50).scores)


def test_labels_that_mean_nothing_do_not_predict(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = "\n".join(
        f"{rng.random():.6f},{rng.random():.6f},{rng.integers(0, 2)}" for _ in range(800)
    )
    table = read_table(
        [str(write(tmp_path / "t.csv", "a,b,y\n" + lines + "\n"))], "y", connect(), tmp_path
    )
    auroc = cross_validate(table, draws=100).card["intervals"]["auroc"]
    assert auroc["low"] < 0.5 < auroc["high"] + 0.03


@pytest.mark.parametrize(
    ("text", "label", "error", "sentence"),
    [
        ("a,y\n1,0\n2,0\n", "y", NotEnoughDataError, "every row of 'y' says '0'"),
        ("a,y\n1,\n2,\n", "y", DataError, "blank in every row"),
        ("a,y\n1,0\n2,1\n", "z", ConfigError, "no column 'z'"),
        ("a,y\n1,0\n2,1\n3,0\n", "y", NotEnoughDataError, "only 1 rows"),
        ("a,y\n" + "1,0\n2,1\n" * 20, "y", None, ""),
        ("a,y\n" + "1,x\n2,y\n3,z\n" * 20, "y", DataError, "3 different texts"),
        (
            "id,y\n" + "".join(f"{i},{i % 2}\n" for i in range(100)),
            "y",
            DataError,
            "no column can explain",
        ),
    ],
)
def test_bad_tables_get_one_sentence(
    tmp_path: Path, text: str, label: str, error: type[Exception] | None, sentence: str
) -> None:
    path = write(tmp_path / "t.csv", text)
    if error is None:
        assert len(read_table([str(path)], label, connect(), tmp_path).y) == 40
        return
    with pytest.raises(error, match=sentence):
        read_table([str(path)], label, connect(), tmp_path)


@pytest.mark.data
def test_telco_churn_reaches_its_published_figure(data_folder: Path) -> None:
    table = read_table(["telco-churn"], "Churn", connect(), data_folder)
    card = cross_validate(table).card
    assert card["metrics"]["auroc"] >= 0.845
    assert card["left_out"] == {"customerID": "an id or free text: 7,043 different values"}
