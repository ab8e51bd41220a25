"""`propend predict`, end to end: every kind of question, the options of training, tables, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from propend.cli import main
from propend.cli.models import _rows_told
from propend.cli.told import tell
from propend.pipeline.rows import row_models
from propend.pipeline.workspace import open_workspace

KINDS = ("view", "cart", "purchase")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 160 users for 150 days, in which a user's own rate, country and last category tell what comes."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    lines = ["user,time,event,item,category,value,country"]
    start = np.datetime64("2024-01-01T00:00:00")
    for u in range(160):
        gap = rng.gamma(2.0, 4.0) + 0.5
        day, taste = rng.uniform(0, gap), int(rng.integers(4))
        while day < 150:
            at = start + np.timedelta64(int(day * 86_400), "s")
            own = taste if rng.random() < 0.7 else int(rng.integers(4))
            kind = KINDS[int(rng.choice(3, p=[0.6, 0.2, 0.2] if u % 3 else [0.3, 0.2, 0.5]))]
            worth = f"{10 + 5 * own + rng.exponential(5):.2f}" if kind == "purchase" else ""
            item = own * 10 + int(rng.integers(10))
            lines.append(f"u{u},{at},{kind},i{item},c{own},{worth},{'DE' if u % 3 else 'FR'}")
            day += rng.exponential(gap)
    (folder / "log.csv").write_text("\n".join(lines))
    (folder / "propend.toml").write_text(
        """
[workspace]
zone = "UTC"
[[events]]
files = ["log.csv"]
of_user = { country = "country" }
of_item = { category = "category" }
[events.roles]
user = "user"
time = "time"
type = "event"
item = "item"
value = "value"
[[tasks]]
name = "silent"
ask = "none(*) next 10d for any(*) last 30d"
"""
    )
    open_workspace(folder).ingest()
    return folder


def call(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    """Run the command with --json; its document."""
    code = main([*map(str, args), "--json"])
    out, err = capsys.readouterr()
    assert not code, err
    document: dict[str, Any] = json.loads(out)
    return document


def sentence(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Run the command; the one sentence it fails with."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args)])
    assert ended.value.code != 0
    said = [line for line in capsys.readouterr().err.splitlines() if " s  " not in line]
    assert len(said) == 1, said
    assert "Traceback" not in said[0]
    return said[0]


def test_yes_no_with_everything_a_person_may_ask(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = "any(purchase) next 10d for any(*) last 30d"
    document = call(
        capsys, "predict", shop, ask, "--name", "buys", "--segment", "profile.country", "--value", 10,
        "--cost", 1, "--budget", 100, "--model", "logistic", "--model", "trees", "--abstain", 0.05, "--balance", "--folds", 2, "--explain", "u7",
    )  # fmt: skip
    assert document["baseline"]["base_rate"]["auroc"] == 0.5
    assert "metrics inside each fold" in document["protocol"]
    assert set(document["models"]) == {"logistic", "trees"}
    assert document["metrics"]["auroc"] > 0.6
    assert document["metrics"]["ece"] < 0.1  # weights in training, calibrated on unweighted rows
    assert "state" not in document["uncertainty"]
    assert document["future"]["features"] > 50
    assert {e["segment"] for e in document["segments"]["profile.country"]} == {"DE", "FR"}
    profit = document["profit"]
    assert profit["expected_profit"] >= 0
    scores = pq.read_table(document["scores"])
    assert scores.column_names == ["user", "score", "low", "high", "answer", "reasons", "verdict"]
    assert set(scores["verdict"].to_pylist()) == {document["verdict"]["answer"]}
    answers = scores["answer"].to_pylist()
    assert set(answers) <= {"yes", "no", "not enough data"}
    assert profit["people"] == len(answers)
    reached = np.array(scores["score"]) >= profit["cut"]
    assert reached.sum() == profit["contacts"] <= 100  # one each, out of a budget of 100
    sure = np.array(answers) != "not enough data"
    assert (np.array(answers)[sure] == np.where(reached, "yes", "no")[sure]).all()
    assert document["abstained"]["users"] == answers.count("not enough data") > 0
    wide = np.array(scores["high"]) - np.array(scores["low"]) > 0.05
    assert [a == "not enough data" for a in answers] == wide.tolist()
    assert document["deletion"]["ratio"] > 1
    explained = document["explained"]
    assert explained["user"] == "u7"
    assert all(reason["words"] for reason in explained["reasons"])
    for change in explained["changes"] or []:
        assert change["column"].startswith(
            ("count", "sum", "active_days", "distinct", "days_since")
        )
    tell(document)
    said = capsys.readouterr().out
    for words in ("stay the same when everything", "profit, judged on the forward tests", "by profile.country", "verdict:"):  # fmt: skip
        assert words in said


def test_what_is_taken_at_a_threshold_stands_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    from propend.cli.models import _side_by_side
    from propend.learn.metrics import AT_THRESHOLD
    from propend.learn.strata import yes_no_metrics

    y, p = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    ours, rule = yes_no_metrics(y, p, threshold=0.3579), yes_no_metrics(y, [0.2468] * 4)
    document = {
        "task": "buys", "answer": "yes_no", "rows": 4, "positives": 2, "protocol": "2 forward folds", "data_hash": "d", "seed": 7,
        "champion": "trees", "metrics": ours, "models": {"trees": ours}, "baseline": {"base_rate": rule}, "intervals": {}, "scores": "s",
    }  # fmt: skip
    tell(document)
    header, *lines = capsys.readouterr().out.splitlines()[4:9]
    assert header.split()[3:7] == ["threshold", "accuracy", "recall", "f1"]
    assert ["0.3579" in line for line in lines] == [True, True, False, False]
    assert "0.2468" in lines[2]
    assert "accuracy, recall, f1: yes is said from the threshold" in lines[3]
    metrics = {name: {"1": ours[name], "2": None if name == "f1" else rule[name]} for name in ours}
    _side_by_side({"versions": [1, 2], "champions": ["a", "b"], "metrics": metrics, "note": ""})
    printed = {
        line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    for name in AT_THRESHOLD:
        assert "at 0.3579" in printed[name]
        assert ("at 0.2468" in printed[name]) == (name != "f1")
    assert " at " not in printed["auroc"]


def test_an_explanation_fits_nothing_in_vain(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", shop, "silent", "--folds", 1, "--model", "logistic"]
    workspace = open_workspace(shop)
    said = sentence(capsys, *asked, "--explain", "u9999")
    assert "user 'u9999' was not asked: they are not in the population" in said
    assert "silent" not in {e.task for e in workspace.registry.entries()}
    assert call(capsys, *asked)["version"] == 1
    usual = ["predict", shop, "silent", "--folds", 1, "--explain", "u7"]
    first = call(capsys, *usual)  # fitted in another way than what is kept
    assert not first["reused"]
    assert first["version"] == 2
    workspace.registry.promote("silent", 2)
    again = call(capsys, *usual)
    assert again["reused"]
    assert again["metrics"] == first["metrics"]
    assert again["explained"]["reasons"] == first["explained"]["reasons"]
    named = call(capsys, *asked, "--name", "hush")
    assert (named["name"], named["version"]) == ("hush", 1)
    assert Path(named["scores"]).name == "hush.parquet"
    assert len([e for e in workspace.registry.entries() if e.task == "silent"]) == 2
    assert open_workspace(shop)._task("hush", "hush2").name == "hush2"
    tell(again)
    assert "nothing was fitted: the kept model" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ask", "answer", "metric", "baseline"),
    [
        ("count(*) next 15d for any(*) last 30d", "count", "poisson_deviance", "mean"),
        ("next(category) next 15d for any(*) last 30d", "which", "top_1", "base_rate"),
        ("days_until(purchase) next 15d for any(*) last 30d", "time", "c_index", "kaplan_meier"),
    ],
)
def test_other_answers(
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    ask: str,
    answer: str,
    metric: str,
    baseline: str,
) -> None:
    document = call(capsys, "predict", shop, ask, "--name", answer, "--folds", 2)
    assert document["answer"] == answer
    ours, theirs = document["metrics"][metric], document["baseline"][baseline][metric]
    assert ours < theirs if metric == "poisson_deviance" else ours > theirs
    scores = pq.read_table(document["scores"])
    assert np.isfinite(np.array(scores["score"])).all()
    assert sum(map(bool, scores["reasons"].to_pylist())) > 0.9 * scores.num_rows
    if answer == "which":
        assert set(document["classes"]) == {"c0", "c1", "c2", "c3"}
        assert set(scores["answer"].to_pylist()) <= set(document["classes"])
        assert document["unanswered"] > 0
        assert ours > 0.5 > theirs
    if answer != "which":
        assert (np.array(scores["low"]) <= np.array(scores["high"])).all()
    if answer == "time":
        assert np.array(scores["score"]).max() <= 15
        assert "censored" in document["protocol"]
        assert theirs == 0.5
    again = open_workspace(shop).registry.load(answer)
    assert again.task.answer == answer
    table = open_workspace(shop).predict(again.task, folds=2, reuse=True).scores
    assert table.num_rows == scores.num_rows


def test_per_impression(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = call(
        capsys, "predict", shop, "--impression", "view", "--click", "purchase", "--within", "5d", "--folds", 2,
        "--name", "taken", "--segment", "view.weekday", "--value", 10, "--cost", 1,
    )  # fmt: skip
    assert document["name"] == "taken"
    assert 1 < len(document["segments"]["view.weekday"]) <= 7
    assert document["profit"]["expected_profit"] >= 0
    assert document["baseline"]["base_rate"]["auroc"] == 0.5
    scores = pq.read_table(document["scores"])
    assert scores.column_names == ["user", "item", "time", "taken", "score", "verdict"]
    assert scores.num_rows == document["tested"] == document["scored"]
    assert "metrics inside each fold" in document["protocol"]
    assert document["version"] == 1
    listed = {m["task"]: m for m in call(capsys, "models", shop)["models"]}
    assert listed["taken"]["verdict"] == document["verdict"]["answer"]
    assert "taken" not in {
        e.task for e in open_workspace(shop).registry.entries()
    }  # no task of users
    made = call(capsys, "score", shop, "taken", "--reasons", 2)
    open_now = pq.read_table(made["file"])
    assert open_now.column_names == ["user", "item", "time", "score", "verdict", "reasons"]
    last = open_workspace(shop).schema.last
    moments = np.array(open_now["time"]).astype("datetime64[us]").astype(np.int64)
    assert made["rows"] == len(moments) > 0
    assert (moments + 5 * 86_400_000_000 > last + 1).all()  # none whose five days are over
    kept = row_models(shop).load("taken")
    assert [str(f) for f in kept.features][-1] == "item.itself"
    assert "leave --rows out" in sentence(capsys, "score", shop, "taken", "--rows", "x.csv")
    assert "needs a workspace and two event types" in sentence(
        capsys, "predict", shop, "--impression", "view"
    )


def test_the_folder_of_row_models_names_the_one_it_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "row-models"
    kept.mkdir()
    monkeypatch.chdir(tmp_path)
    told = f"name the folder it stands in: {tmp_path}"
    assert told in sentence(capsys, "models", kept)
    assert told in sentence(capsys, "models", "row-models")
    assert told in sentence(capsys, "score", "row-models", "label", "--rows", "x.csv")
    assert call(capsys, "models", tmp_path) == {"models": []}


def test_a_quantile_of_an_amount(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = "sum(purchase.value) next 15d for any(*) last 30d"
    document = call(capsys, "predict", shop, ask, "--folds", 2, "--quantile", 0.8)
    assert document["quantile"] == 0.8
    assert abs(document["metrics"]["below"] - 0.8) < 0.1
    assert document["metrics"]["pinball"] < document["baseline"]["constant_quantile"]["pinball"]


@pytest.mark.slow
def test_the_search_is_inside_the_budget(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="searching settings needs the extra 'search'")
    ask = "any(purchase) next 10d for any(*) last 30d"
    document = call(capsys, "predict", shop, ask, "--folds", 2, "--search", "2s")
    assert document["search"]["seconds"] == 2
    assert set(document["search"]["chosen"]) == {"logistic", "trees"}


def test_a_model_that_gives_no_reasons_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=160).round(3)
    lines = [f"{a},{'yes' if a + b > 0 else 'no'}" for a, b in zip(x, np.roll(x, 1), strict=True)]
    Path("t.csv").write_text("\n".join(["x,bought", *lines]))
    asked = ["predict", "--table", "t.csv", "--label", "bought", "--folds", 2, "--model"]
    for model, words in (
        ("neighbours", "no reasons: 'neighbours' scores are not a sum of columns"),
        ("decision_tree", "parts of the score itself"),
    ):
        document = call(capsys, *asked, model)
        assert words in document["reasons"]
        tell(document)
        assert f"explanations: {document['reasons']}" in capsys.readouterr().out
        rows = ["score", tmp_path, "bought", "--rows", "t.csv", "--version", document["version"]]
        made = call(capsys, *rows, "--reasons", 1)
        assert made["reasons"] == document["reasons"]
        told = pq.read_table(made["file"])["reasons"].to_pylist()
        assert any(told) == (model == "decision_tree")


def test_a_file_of_scores_says_that_they_are_not_the_rules(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verdict = {
        "answer": "use the rule",
        "why": "rfm does as well",
        "file": "scores are the model's",
    }
    made = {"rows": 3, "model": "trees", "mean_score": 0.5, "file": "f", "noted": {}, "reasons": ""}
    _rows_told({**made, "verdict": verdict})
    told = "verdict: use the rule: rfm does as well; scores are the model's"
    assert told in capsys.readouterr().out
    _rows_told({**made, "verdict": {}})
    assert "verdict" not in capsys.readouterr().out


def test_a_table_is_learnt_from_and_further_rows_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=500)
    y = np.where(rng.random(500) < 1 / (1 + np.exp(-2 * x)), "yes", "no")
    rows = [f"{a:.3f},{'ab'[i % 2]},{b}" for i, (a, b) in enumerate(zip(x, y, strict=True))]
    Path("t.csv").write_text("\n".join(["x,shop,bought", *rows]))
    Path("new.csv").write_text("x,shop\n0.5,a\n-1,z\n")
    document = call(
        capsys, "predict", "--table", "t.csv", "--label", "bought", "--score", "new.csv", "--segment",
        "shop", "--value", 5, "--cost", 1, "--folds", 3, "--explain", 3, "--model", "logistic",
    )  # fmt: skip
    tell(document)
    said = capsys.readouterr().out
    assert "profit, judged on the folds:" in said  # stratified folds are not forward
    explained = document["explained"]
    assert explained["user"] == "row 3"
    own = pq.read_table(document["scores"])["score"][3].as_py()
    note = f"rows count from 0; this score is by the model fitted on all rows, the score file has {own:.4f}, by a model"
    assert explained["note"].startswith(note)
    assert note in said
    assert explained["reasons"][0]["feature"] == "x"
    assert explained["reasons"][0]["value"] == round(float(x[3]), 3)
    assert "takes a row" in sentence(
        capsys, "predict", "--table", "t.csv", "--label", "bought", "--folds", 2, "--explain", "u7"
    )
    assert document["baseline"]["base_rate"]["auroc"] == 0.5
    assert document["new"]["noted"] == {"shop": "never seen before in 1 row: read as missing"}
    assert document["profit"]["people"] == 2  # a budget is for the rows to come
    assert pq.read_table(document["scores"])["verdict"].to_pylist() == ["use"] * 500
    new = pq.read_table(document["new"]["scores"])["score"].to_pylist()
    assert new[0] > 0.5 > new[1]
    answers = pq.read_table(document["new"]["scores"])["answer"].to_pylist()  # whom to contact
    assert answers == ["yes" if p >= document["profit"]["cut"] else "no" for p in new]
    assert answers.count("yes") == document["profit"]["contacts"]
    assert (
        "answer" not in pq.read_table(document["scores"]).column_names
    )  # the budget is not theirs
    assert len(document["segments"]["shop"]) == 2
    before = Path(document["scores"]).read_bytes()
    second = ["--model", "logistic", "--folds", 2, "--ignore", "shop", "--name", "bought 2"]
    named = call(capsys, "predict", "--table", "t.csv", "--label", "bought", *second)
    assert (named["name"], named["scores"]) == ("bought_2", "t-bought_2-scores.parquet")
    assert Path(document["scores"]).read_bytes() == before
    entry, other = call(capsys, "models", ".")["models"]
    assert (other["task"], other["version"]) == ("bought_2", 1)
    assert (entry["task"], entry["version"], entry["current"]) == ("bought", 1, True)
    made = call(capsys, "score", ".", "bought", "--rows", "new.csv", "--reasons", 1)
    again = pq.read_table(made["file"])
    assert again["score"].to_pylist() == pq.read_table(document["new"]["scores"])["score"].to_pylist()  # fmt: skip
    assert again["reasons"].to_pylist()[0].startswith("x: 0.5 (raises)")
    assert made["noted"] == document["new"]["noted"]
    assert "with --rows FILE" in sentence(capsys, "score", ".", "bought")
    pytest.importorskip("onnxruntime", reason="writing ONNX needs the extra 'onnx'")
    written = call(capsys, "export", ".", "bought", "--rows", "t.csv")
    assert written["largest_difference"] < 1e-9
    Path(written["file"]).unlink()
    assert "state" not in document["uncertainty"]


def labelled(rows: int = 300, **columns: Any) -> list[str]:
    """Write t.csv: a number x, and columns made from it; the options that learn from it with one quick model."""
    x = np.random.default_rng(0).normal(size=rows)
    table = {"x": [f"{v:.3f}" for v in x], **{name: made(x) for name, made in columns.items()}}
    lines = zip(*table.values(), strict=True)
    Path("t.csv").write_text("\n".join([",".join(table), *(",".join(map(str, r)) for r in lines)]))
    label = next(iter(columns))
    return ["predict", "--table", "t.csv", "--label", label, "--folds", "2", "--model", "logistic"]


def noisy(x: Any) -> Any:
    """Return whether x is above a random bar."""
    return x > np.random.default_rng(1).normal(size=len(x))


def test_the_positive_answer_of_a_table_is_chosen_and_told_in_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = labelled(will=lambda x: np.where(noisy(x), "Leave", "Stay"))
    Path("new.csv").write_text("x\n2\n-2\n")
    usual = call(capsys, *asked)
    assert (usual["positive"], usual["negative"]) == ("Stay", "Leave")
    tell(usual)
    said = capsys.readouterr().out
    share = usual["tested_positives"] / usual["tested"]
    commonest = "Stay" if share > 0.5 else "Leave"
    assert f"accuracy of always saying '{commonest}': {max(share, 1 - share):.4f}" in said
    assert f"{usual['positives']} of 300 say 'Stay'; 2-fold" in said
    assert "probability of 'Stay' against 'Leave'; --positive TEXT asks for another answer" in said
    turned = call(
        capsys, *asked, "--positive", "Leave", "--value", 2, "--cost", 1, "--score", "new.csv"
    )
    assert turned["positives"] == 300 - usual["positives"]
    scores = pq.read_table(turned["scores"])
    assert set(scores["label"].to_pylist()) == {"Leave", "Stay"}
    assert set(scores["positive"].to_pylist()) == {"Leave"}
    new = pq.read_table(turned["new"]["scores"])
    assert new["score"].to_pylist()[0] > 0.5 > new["score"].to_pylist()[1]
    assert new["answer"].to_pylist() == ["Leave", "Stay"]
    later = pq.read_table(call(capsys, "score", ".", "will", "--rows", "new.csv")["file"])
    assert later["positive"].to_pylist() == ["Leave", "Leave"]
    assert "no row of 'will' says 'leave'; did you mean 'Leave'?" in sentence(
        capsys, *asked, "--positive", "leave"
    )
    asked = labelled(plan=lambda x: np.where(x > 1, "gold", np.where(noisy(x), "plus", "free")))
    rest = call(capsys, *asked, "--positive", "free")
    assert (rest["answer"], rest["negative"]) == ("yes_no", "not free")


def test_the_kind_of_answer_of_a_table_is_told_and_may_be_asked_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = labelled(tier=lambda x: noisy(x) + noisy(x[::-1])[::-1].astype(int))
    read = "'tier' is read as an amount; --answer which or count asks otherwise"
    assert f"'logistic' does not answer 'amount': {read}" in sentence(capsys, *asked)
    one_of_many = call(capsys, *asked, "--answer", "which")
    assert (one_of_many["answer"], one_of_many["read"]) == ("which", "")
    assert set(one_of_many["classes"]) == {"0", "1", "2"}
    usual, count = asked[:-2], ("--answer", "count")
    amount = call(capsys, *usual, "--model", "linear")
    assert (amount["answer"], amount["read"]) == ("amount", read)
    tell(amount)
    assert f"\n  {read}\n" in capsys.readouterr().out
    counted = call(capsys, *usual, *count)
    assert (counted["answer"], set(counted["models"])) == ("count", {"linear", "trees"})
    assert "poisson_deviance" in counted["metrics"]
    assert counted["baseline"].keys() == {"mean"}
    again = pq.read_table(call(capsys, "score", ".", "tier", "--rows", "t.csv")["file"])
    assert min(again["score"].to_pylist()) > 0  # Poisson
    for given, words in (
        (("--answer", "yes_no"), "has 3 different answers; say which one is yes with --positive TEXT"),
        ((*count, "--positive", "2"), "a positive answer is of a yes/no label, not of 'count'"),
    ):  # fmt: skip
        assert words in sentence(capsys, *asked, *given)
    halves = labelled(half=lambda x: np.round(x) + 0.5, name=lambda x: np.where(x > 0, "7", "b"))
    assert "and so no count" in sentence(capsys, *halves, *count)
    assert "'name' says 'b', which is no number" in sentence(
        capsys, *halves, "--label", "name", *count
    )


def test_models_are_set_and_estimators_named_in_words(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skops", reason="keeping an estimator needs the extra 'sklearn'")
    monkeypatch.chdir(tmp_path)
    boost = "sklearn.ensemble.AdaBoost:n_estimators=5"
    tree = "sklearn:estimator=sklearn.tree.DecisionTree,max_depth=2"
    asked = labelled(will=lambda x: np.where(noisy(x), "yes", "no"))[:-2]
    wanted = ["logistic:penalty=l1,bends=0", "neighbours:neighbours=9", tree, boost]
    made = call(capsys, *asked, *(part for word in wanted for part in ("--model", word)))
    assert list(made["models"]) == wanted
    made = call(capsys, *asked, "--model", boost, "--name", "boosted")
    assert made["champion"] == boost
    again = call(capsys, "score", ".", "boosted", "--rows", "t.csv")
    assert again["model"] == boost
    log = call(
        capsys, "predict", shop, "any(purchase) next 10d for any(*) last 30d", "--name", "boosted",
        "--folds", 1, "--model", boost,
    )  # fmt: skip
    assert set(log["models"]) == {boost}
    for word, words in (
        ("logistic:penalti=l1", "'logistic' has no setting 'penalti'; did you mean 'penalty'?"),
        ("logistic:penalty=l7", "'logistic' cannot be set so: "),
        ("logistic:penalty", "write settings as NAME:key=value,key=value"),
        ("sklearn.ensemble.AdaBost", "there is no estimator 'sklearn.ensemble.AdaBost'"),
        ("sklearn.ensemble.AdaBoost:n=5", "AdaBoostClassifier cannot be set so"),
        ("lightgbm.LGBM", "is not of scikit-learn and could not be kept"),
    ):
        assert words in sentence(capsys, *asked, "--model", word)


def test_folds_must_be_able_to_judge(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = labelled(60, rare=lambda x: np.where(x > np.sort(x)[-13], "yes", "no"), size=noisy)
    none = "0 folds cannot judge a model; use at least 2"
    assert none in sentence(capsys, *asked, "--folds", 0)
    few = "13 folds cannot each hold a row of every answer; use at most 12"
    assert few in sentence(capsys, *asked, "--folds", 13)
    amount = ("--label", "x", "--model", "linear")
    few = "61 folds cannot each hold a row; use at most 60"
    assert few in sentence(capsys, *asked[:-2], *amount, "--folds", 61)
    shown = ("--impression", "view", "--click", "purchase", "--within", "1d")
    for way in (shown, ("any(purchase) next 10d", "--fuse", "tiny")):
        said = sentence(capsys, "predict", shop, *way, "--folds", 0)
        assert "at least 1 forward fold is needed, not 0" in said


def test_bad_wishes_are_one_sentence(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yes_no = "any(purchase) next 10d for any(*) last 30d"
    amount = "sum(purchase.value) next 15d for any(*) last 30d"
    bad: list[tuple[list[str], str]] = [
        ([yes_no, "--quantile", "2"], "a quantile lies between 0 and 1"),
        ([yes_no, "--cost", "2"], "needs --value"),
        (["nosuchtask"], "no task 'nosuchtask': there are "),
        (["nosuchtask"], "silent"),
        (["nosuchtask"], "; a question looks like 'any(purchase) next 30d'"),
        ([yes_no, "--search", "soon"], "soon"),
        ([yes_no, "--score", "x.csv"], "--score does nothing for a log; it is for a table"),
        (
            [yes_no, "--model", "blend"],
            "'blend' is the mean of the usual logistic and trees; name them too",
        ),
        ([yes_no, "--model", "treees"], "did you mean 'trees'"),
        ([amount, "--quantile", "0.5", "--model", "trees"], "leave --model out"),
        ([yes_no, "--label", "x"], "--label does nothing for a log"),
        ([yes_no, "--fuse", "tiny", "--abstain", "0.1"], "--abstain does nothing for --fuse"),
        (
            ["--impression", "view", "--click", "purchase", "--abstain", "0.1"],
            "--abstain does nothing for impressions",
        ),
        (
            ["--impression", "view", "--click", "purchase", "--explain", "u7"],
            "--explain does nothing for impressions",
        ),
        (
            ["--table", "x.csv", "--label", "y", "--abstain", "0.1"],
            "--abstain does nothing for a table",
        ),
        (
            ["--table", "x.csv", "--label", "y", "--within", "2d"],
            "--within does nothing for a table",
        ),
        ([yes_no, "--quantile", "0.5"], "a quantile is of an amount or a count"),
        ([amount, "--folds", "0"], "at least 1 forward fold"),
        ([amount, "--value", "3"], "a profit curve is of a yes/no question"),
        ([amount, "--abstain", "0.1"], "only a yes/no task can abstain"),
        ([yes_no, "--abstain", "nan"], "an interval of a probability is 0 to 1 wide, not nan"),
        ([yes_no, "--value", "-5"], "a value must be a number of 0 or more, not -5"),
        ([yes_no, "--value", "nan"], "a value must be a number of 0 or more, not nan"),
        ([yes_no, "--value", "5", "--cost", "inf"], "a cost must be a number of 0 or more"),
        (
            ["--table", "x.csv", "--label", "y", "--value", "5", "--budget", "nan"],
            "a budget must be a number of 0 or more, not nan",
        ),
    ]
    for args, words in bad:
        assert words in sentence(capsys, "predict", shop, *args), args
    said = sentence(capsys, "predict", shop, yes_no, "--folds", "1", "--segment", "profile.cuntry")
    assert "did you mean 'profile.country'" in said
