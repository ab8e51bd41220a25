"""A labelled table: kinds of columns, folds, the nested scheme, and every bad input as one sentence."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from propend.engine import connect
from propend.errors import ConfigError, DataError, ModelError, NotEnoughDataError, PropendError
from propend.learn import metrics, rivals, search
from propend.learn.fitting import Rows
from propend.learn.labelled import read_like
from propend.learn.leaks import LeakError
from propend.learn.rivals import Candidate, table_candidates
from propend.learn.search import best_settings
from propend.learn.table import LabelledTable, TableFit, _fold_of, cross_validate, read_table
from propend.learn.train import Options
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
    assert "positive" in card["power"]["sentence"]
    assert cross_validate(table, folds=3, draws=20, models=("logistic",)).card["metrics"] == card["metrics"]  # fmt: skip


def test_the_usual_candidates_are_those_of_the_published_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.quality.prediction import NESTED

    assert table_candidates("yes_no") == NESTED
    monkeypatch.setattr(rivals, "find_spec", lambda _: None)
    bare = {c.label: c for c in table_candidates("yes_no")}
    assert list(bare) == ["logistic", "trees", "trees, more leaves and smaller steps", "blending"]
    assert bare["blending"].settings["models"] == ("logistic", "trees")
    table = read(write(tmp_path, 300))
    card = cross_validate(table, folds=2, draws=5).card
    assert card["nested"] == list(bare)
    only = Options(models=("naive_bayes", "trees"))
    card = cross_validate(table, folds=2, draws=5, options=only).card
    assert card["nested"] == ["naive_bayes", "trees"]
    with pytest.raises(ModelError, match="did you mean 'trees'"):
        cross_validate(table, folds=2, options=Options(models=("treees",)))
    with pytest.raises(ModelError, match="does not answer 'yes_no'"):
        cross_validate(table, folds=2, options=Options(models=("two_part",)))


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


def test_a_name_that_stands_twice_in_the_header_is_named(tmp_path: Path) -> None:
    file = tmp_path / "twice.csv"
    file.write_text("age,city,age,buy\n" + "30,a,31,yes\n40,b,41,no\n" * 20)
    said = "two columns of the header are called 'age'; give each its own name"
    with pytest.raises(DataError, match=said):
        read(file, "buy")
    table = read(write(tmp_path, 40, age=lambda i: f"{i % 7}.5"))
    with pytest.raises(DataError, match=said):
        read_like([str(file)], table, connect(), tmp_path)


BAD = {
    "all labels equal": ({"bought": lambda _: "yes"}, {}, NotEnoughDataError, "every row of 'bought' says 'yes'"),
    "a label full of blanks": ({"bought": lambda _: ""}, {}, DataError, "is blank in every row"),
    "a class with one row": ({"bought": lambda i: "yes" if i == 3 else "no"}, {}, NotEnoughDataError, "only 1 row of"),
    "infinite labels": ({"spent": lambda i: "inf" if i == 5 else f"{i}.5"}, {"label": "spent"}, DataError, "infinite"),
    "an unknown label": ({}, {"label": "bougth"}, ConfigError, "did you mean 'bought'"),
    "an unknown group": ({}, {"group": "ownr"}, ConfigError, "no column 'ownr'"),
    "a time that is none": ({"day": lambda i: f"d{i}"}, {"order": "day"}, DataError, "not a time in every row"),
    "a time with gaps": ({"day": lambda i: "" if i == 9 else "2024-01-01"}, {"order": "day"}, DataError, "missing in 1 row;"),
    "texts as label": ({"kind": lambda i: f"k{i}"}, {"label": "kind"}, DataError, "300 different texts, of which 0 have 10 rows"),
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
            PolicyNumber=lambda i: str((i * 7919) % 300),
            counter=lambda i: str(7 * i + 3),
            cents=lambda i: str((i * 7919) % 1_000_003),
            ranked=lambda i: str(90_000 - i * i + i % 2),
            empty=lambda _: "",
            customer_id=lambda i: str(100_000 + i),
            code=lambda i: f"id{i}",
            infinite=lambda i: "inf" if i % 9 == 0 else str(i % 11),
            joined=lambda i: f"2024-01-{1 + i % 28:02d}",
        )
    )
    gone = {"constant", "empty", "customer_id", "code", "PolicyNumber", "counter"}
    assert set(table.left_out) == gone
    assert np.isfinite(table.X[~np.isnan(table.X)]).all()
    joined = table.columns.index("joined")
    assert joined not in table.categories  # a date as text is a number of days
    assert table.X[:2, joined].tolist() == [19723.0, 19724.0]
    assert table.noted["joined"] == "dates, read as days since 1970"
    assert table.noted["infinite"] == "infinite in 34 rows: read as missing"
    assert np.isfinite(cross_validate(table, folds=2, draws=10, models=("logistic",)).scores).all()


def test_numbers_and_dates_may_be_written_otherwise_and_hold_slips(tmp_path: Path) -> None:
    """Decimal commas, German, American and Chinese dates; what is no number or date is missing, never another category."""
    table = read(
        write(
            tmp_path,
            price=lambda i: "call us" if i == 7 else f'"{i % 90},{i % 4}5"',
            spent=lambda i: f'"1.{i % 700 + 100},50 €"',
            born=lambda i: "soon" if i == 3 else f"{1 + i % 28}.{1 + i % 12}.2023",
            joined=lambda i: f"{1 + i % 12}/{1 + i % 28}/2024",
            left=lambda i: f"2024年{1 + i % 12}月{1 + i % 9}日",
            either=lambda i: f"{1 + i % 12}/{1 + i % 11}/2024",
            size=lambda i: "5+" if i % 20 == 0 else str(i % 4),
        )
    )
    at = {name: table.X[:, table.columns.index(name)] for name in table.columns}
    assert at["price"][9] == 9.15
    assert at["spent"][5] == 1105.5
    assert np.isnan(at["price"][[7]]).all()
    assert np.isnan(at["born"][3])
    day = np.datetime64("2023-02-02") - np.datetime64("1970-01-01")
    assert at["born"][1] == day.astype(int)
    assert at["joined"][2] == (np.datetime64("2024-03-03") - np.datetime64("1970-01-01")).astype(int)  # fmt: skip
    assert table.noted["price"] == "numbers with a decimal comma; no number in 1 row: read as missing"  # fmt: skip
    assert table.noted["born"] == "dates (written %d.%m.%Y), read as days since 1970; no date in 1 row: read as missing"  # fmt: skip
    assert "%m/%d/%Y" in table.noted["joined"]
    assert "%d/%m/%Y" in table.noted["either"]
    assert "%Y年%m月%d日" in table.noted["left"]
    assert [table.columns[j] for j in table.categories if table.columns[j] == "size"] == ["size"]
    later = tmp_path / "later.csv"
    later.write_text('born,price\n1.2.2023,"2,5"\nnever,x\n', encoding="utf-8")
    X, noted = read_like([str(later)], table, connect(), tmp_path)
    place = {name: j for j, name in enumerate(table.columns)}
    assert X[0, place["price"]] == 2.5
    assert X[0, place["born"]] == (np.datetime64("2023-02-01") - np.datetime64("1970-01-01")).astype(int)  # fmt: skip
    assert np.isnan(X[1, [place["born"], place["price"]]]).all()
    assert noted["born"] == "no date in 1 row: read as missing"


def test_a_hundred_thousand_categories_of_a_table_are_told_by_their_rate(tmp_path: Path) -> None:
    """Half of 120,000 shops sell: nothing but the shop says so, and only rates learnt on other rows may tell."""
    rng = np.random.default_rng(0)
    shop = np.r_[np.arange(100_000), rng.integers(0, 1_000, 20_000)]
    y = np.where(rng.random(120_000) < np.where(shop % 2, 0.8, 0.2), "yes", "no")
    file = tmp_path / "shops.csv"
    lines = (f"s{s},{rng.normal():.4f},{a}" for s, a in zip(shop, y, strict=True))
    file.write_text("shop,other,bought\n" + "\n".join(lines))
    table = read(file)
    assert len(table.categories[table.columns.index("shop")]) == 100_000
    assert "100,000 different values, told by their rate" in table.noted["shop"]
    trees = Candidate("trees", "trees", {"trees": 20, "threads": 1})
    fit = cross_validate(table, folds=2, draws=5, models=(trees,))
    known = shop < 1_000
    auroc = metrics.auroc((y == "yes")[known], fit.scores[known])
    assert auroc > 0.75
    once = shop >= 1_000  # shops with one row have no other rows to learn from: no skill, no leak
    assert abs(metrics.auroc((y == "yes")[once], fit.scores[once]) - 0.5) < 0.02


def test_one_of_many_is_judged_by_what_stands_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hint = rng.integers(0, 3, 600)
    kind = np.where(rng.random(600) < 0.7, np.array(["boots", "hats", "socks"])[hint], "boots")
    kind[:4] = "gloves"
    file = write(tmp_path, 600, hint=lambda i: str(hint[i]), kind=lambda i: kind[i])
    table = read(file, label="kind", ignore=["bought"])
    assert table.classes == ("boots", "socks", "hats", "(another)")
    assert table.noted["kind"] == "1 answer with few rows (4 rows in all) is told as '(another)'"
    fit = cross_validate(table, folds=3, draws=20, models=("logistic",), refit=True)
    card = fit.card
    assert card["metrics"]["top_1"] > card["baseline"]["base_rate"]["top_1"]
    assert card["margins"]["base_rate"]["log_loss"]["high"] < 0
    assert card["positives"] is None  # no class of many is the positive one
    assert "positive" not in card["power"]["sentence"]
    assert card["verdict"]["answer"] == "use"
    told = LabelledTable(
        np.column_stack([table.X, table.y == 0]), table.y, (*table.columns, "echo"), table.categories,
        "which", None, {}, 0, classes=table.classes,
    )  # fmt: skip
    with pytest.raises(LeakError, match="'echo' is the label itself"):
        cross_validate(told, folds=3, models=("logistic",))
    assert np.allclose(fit.scores.sum(axis=1), 1)
    assert fit.score(table.X[:2]).shape == (2, 4)


def test_sentences_are_told_by_their_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    words = ["the parcel came late", "质量很好 谢谢", "nice shop and fast", "refund me my money"]
    said = [f"{words[int(c)]} number {i}" for i, c in enumerate(rng.integers(0, 4, 400))]
    file = write(tmp_path, 400, comment=lambda i: said[i])
    lines = file.read_text().splitlines()
    y = ["yes" if "refund" in s or "质量" in s else "no" for s in said]
    flip = rng.random(400) < 0.2
    y = [("no" if a == "yes" else "yes") if f else a for a, f in zip(y, flip, strict=True)]
    told = [lines[0] + ",unhappy", *(f"{line},{a}" for line, a in zip(lines[1:], y, strict=True))]
    file.write_text("\n".join(told), encoding="utf-8")
    table = read(file, label="unhappy")
    assert {"comment says 'refund'", "comment says '质量'", "comment says 'my money'"} <= set(
        table.columns
    )
    fit = cross_validate(table, folds=2, draws=10, models=("logistic",))
    assert fit.card["metrics"]["auroc"] > 0.7


def test_rows_to_come_are_read_and_scored_alike(tmp_path: Path) -> None:
    table = read(write(tmp_path, 400, price=lambda i: f"{i % 50}.5"))
    fit = cross_validate(table, folds=2, draws=5, models=("logistic",), refit=True)
    later = tmp_path / "later.csv"
    later.write_text("city,visits,price\nc1,0.5,inf\nnowhere,many,3.5\n", encoding="utf-8")
    X, noted = read_like([str(later)], table, connect(), tmp_path)
    assert noted == {
        "city": "never seen before in 1 row: read as missing",
        "visits": "no number in 1 row: read as missing",
        "price": "infinite in 1 row: read as missing",
    }
    assert np.isfinite(fit.score(X)).all()
    later.write_text("visits\n0.5\n", encoding="utf-8")
    X, noted = read_like([str(later)], table, connect(), tmp_path)
    assert noted["city"] == "the column is not there: read as missing in every row"
    assert np.isfinite(fit.score(X)).all()
    later.write_text("something,else\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of the columns the model learnt from"):
        read_like([str(later)], table, connect(), tmp_path)


def test_a_column_missing_in_one_of_several_files_is_said_by_file(tmp_path: Path) -> None:
    table = read(write(tmp_path, 60))
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    whole.write_text("visits,city\n0.5,c1\n")
    part.write_text("visits\n0.7\n")
    X, noted = read_like([str(whole), str(part)], table, connect(), tmp_path)
    assert noted == {"city": "not in part.csv: read as missing in every row there"}
    assert np.isnan(X[1, table.columns.index("city")])


def test_options_of_training(tmp_path: Path) -> None:
    """Class weights leave probabilities calibrated; a quantile is one; noise columns are left out; folds choose all."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(900, 6))
    columns = {f"noise{j}": (lambda i, j=j: f"{noise[i, j]:.4f}") for j in range(6)}
    table = read(write(tmp_path, 900, **columns, spent=lambda i: f"{(i * 37) % 101}.5"), ignore=["spent"])  # fmt: skip
    plain, even, stable = (
        cross_validate(table, folds=3, draws=5, models=("logistic",), options=o).card["metrics"]
        for o in (Options(), Options(balance=True), Options(select=True))
    )
    assert abs(even["auroc"] - plain["auroc"]) < 0.01
    assert even["ece"] < 0.08
    assert stable["auroc"] > plain["auroc"] - 0.005
    amounts = read(tmp_path / "table.csv", label="spent", ignore=["bought"])
    card = cross_validate(amounts, folds=3, draws=20, options=Options(quantile=0.8)).card
    assert abs(card["metrics"]["below"] - 0.8) < 0.06
    assert set(card["baseline"]) == {"constant_quantile"}
    with pytest.raises(ConfigError, match="a quantile is of an amount"):
        cross_validate(table, options=Options(quantile=0.8))


def test_the_search_chooses_nothing_on_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels in the last test fold change neither the settings found for it nor any of its scores, to the bit."""
    pytest.importorskip("optuna", reason="searching settings needs the extra 'search'")
    table = read(write(tmp_path, 600, day=lambda i: f"2024-{1 + i // 60:02d}-01"), order="day")
    test = _fold_of(table, 2, 7) == 1
    other = table.y.copy()
    other[test] = np.random.default_rng(1).permutation(other[test])
    assert (other != table.y).sum() > 20

    def run(y: np.ndarray) -> TableFit:
        clock = count()  # a second a look: the number of proposals does not depend on the machine
        monkeypatch.setattr(search, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        options = Options(search=24.0, models=("logistic", "trees"))
        return cross_validate(replace(table, y=y), folds=2, draws=5, options=options)

    before, after = run(table.y), run(other)
    assert before.card["search"]["chosen"] == after.card["search"]["chosen"]
    assert before.card["champions"] == after.card["champions"]
    for name, scores in before.by_model.items():
        assert np.array_equal(scores[test], after.by_model[name][test]), name
    assert before.card["by_fold"]["champion"][1] != after.card["by_fold"]["champion"][1]
    X, y = table.X, table.y
    rows = [Rows(X[a], y[a], table.columns, {1: 3}) for a in (slice(0, 200), slice(200, 400))]
    assert best_settings("logistic", {}, "yes_no", *rows, "log_loss", 0.0) == {}


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
    once = r"^(?!.*confirm.*confirm)(?!.*leave it out.*leave it out).*confirm it with --known call_result$"
    with pytest.raises(LeakError, match=once):
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
