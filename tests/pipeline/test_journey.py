"""The whole journey on small logs: what it promises in JSON, what it writes, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import propend as pp
from propend.cli import main
from propend.names import DAY
from propend.pipeline.run import _restore


def shop_csv(path: Path, users: int = 260, days: int = 240, seed: int = 3) -> Path:
    """A made shop: some buy often, some rarely, all of them irregularly; a few dirty lines."""
    rng = np.random.default_rng(seed)
    lines = ["order_id,customer_id,order_date,sku,product_name,quantity,unit_price,country"]
    for user in range(users):
        rate, stop = rng.gamma(1.0, 0.04), rng.exponential(200)
        day = rng.uniform(0, days / 2)
        while day < min(days, stop + days / 4):
            for item in rng.choice(20, rng.integers(1, 3), replace=False):
                when = np.datetime64("2024-01-01T09:00:00") + np.timedelta64(int(day * 86_400), "s")
                lines.append(
                    f"o{len(lines)},c{user},{when},s{item},Product {item},{rng.integers(1, 4)},{5 + item}.50,{'DE' if user % 3 else 'FR'}"
                )
            day += rng.exponential(1 / (rate + 0.01))
    lines += [
        lines[5],
        "o1,,2024-03-01T10:00:00,s1,Product 1,1,6.50,DE",
        "o2,c1,2024-03-01T10:00:00,s1,Product 1,1,-6.50,DE",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("journey")
    workspace = folder / "shop"
    pp.init(workspace, [shop_csv(folder / "orders.csv")])
    return workspace, pp.open(workspace).run()


def test_rows_in_are_rows_kept_and_rows_set_aside(shop: tuple[Path, dict[str, Any]]) -> None:
    workspace, results = shop
    assert results["rows_in"] == results["rows_kept"] + results["rows_quarantined"]
    assert results["quarantine"] == {"exact duplicate": 1, "missing user": 1, "negative price": 1}
    assert (
        pq.read_table(workspace / "out" / "quarantine.parquet").num_rows
        == results["rows_quarantined"]
    )


def test_the_promised_keys_are_there(shop: tuple[Path, dict[str, Any]]) -> None:
    _, results = shop
    wanted = {
        "rows_in",
        "rows_kept",
        "rows_quarantined",
        "quarantine",
        "users",
        "items",
        "events",
        "tasks",
        "segments",
        "decisions",
        "report",
        "seconds",
    }
    assert wanted <= set(results)
    for card in results["tasks"]:
        assert {"task", "ask"} <= set(card)
        assert "skipped" in card or {
            "metrics",
            "baseline",
            "folds",
            "protocol",
            "data_hash",
            "intervals",
        } <= set(card)
    answered = [card for card in results["tasks"] if "skipped" not in card]
    assert answered, "the made shop is large enough for at least one question"
    assert {"push", "silent", "holdout", "expected_profit"} <= set(results["decisions"])
    assert sum(segment["users"] for segment in results["segments"]) == results["users"]


def test_everything_is_written_and_reads_as_one_page(shop: tuple[Path, dict[str, Any]]) -> None:
    workspace, results = shop
    out = workspace / "out"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert 'src="http' not in page
    decisions = pq.read_table(out / "decisions.parquet")
    assert decisions.num_rows == results["decisions"]["push"] + results["decisions"]["silent"]
    propensity = decisions["propensity"].to_numpy()
    assert ((propensity > 0) & (propensity <= 1)).all()
    assert (out / "audiences" / "push.csv").is_file()
    assert (out / "audiences" / "holdout.csv").is_file()
    offers = pq.read_table(out / "recommendations.parquet")
    assert set(offers["item"].to_pylist()) <= {f"s{i}" for i in range(20)}
    assert not list(workspace.glob(".out-*"))
    assert (
        json.loads((out / "results.json").read_text(encoding="utf-8"))["users"] == results["users"]
    )


def test_a_second_run_reads_nothing_again_and_says_the_same(
    shop: tuple[Path, dict[str, Any]],
) -> None:
    workspace, results = shop
    again = pp.open(workspace).run()
    for key in ("rows_in", "rows_kept", "quarantine", "users", "events", "segments"):
        assert again[key] == results[key], key
    metrics = [[card.get("metrics") for card in run["tasks"]] for run in (results, again)]
    assert metrics[0] == metrics[1]
    assert again["decisions"]["push"] == results["decisions"]["push"]


def test_outputs_set_aside_by_a_killed_run_come_back(tmp_path: Path) -> None:
    (tmp_path / ".out-old").mkdir()
    (tmp_path / ".out-old" / "report.html").write_text("the last report", encoding="utf-8")
    _restore(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == "the last report"
    assert not (tmp_path / ".out-old").exists()


def test_the_workspace_answers_in_python(shop: tuple[Path, dict[str, Any]]) -> None:
    workspace, _ = shop
    opened = pp.open(workspace)
    buyers = opened.audience("count(purchase) >= 3")
    counted = opened.sql(
        "select user from events where type = 'purchase' group by 1 having count(*) >= 3"
    )
    assert sorted(buyers) == sorted(counted["user"].to_pylist())
    values = opened.evaluate("sum(purchase.value)")
    total = opened.sql("select sum(value) v from events where type = 'purchase'")["v"][0].as_py()
    assert sum(values["value"].to_pylist()) == pytest.approx(total)
    offers = opened.recommend(["c1", "nobody"], k=3)
    assert offers.num_rows == 6
    assert opened.now - opened.schema.first < 250 * DAY


def test_the_command_line_prints_one_document(
    shop: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, _ = shop
    main(
        [
            "predict",
            str(workspace),
            "none(*) next 30d for any(*) last 60d",
            "--name",
            "quiet",
            "--json",
        ]
    )
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "none(*) next 30d for any(*) last 60d"
    assert {
        "auroc",
        "average_precision",
        "accuracy",
        "recall",
        "f1",
        "log_loss",
        "brier",
        "ece",
    } <= set(document["metrics"])
    assert Path(document["scores"]).is_file()
    main(["audience", str(workspace), "p(quiet) > 0.5", "--json"])
    assert json.loads(capsys.readouterr().out)["of"] > 0


def test_erasure_reaches_every_written_table(tmp_path: Path) -> None:
    workspace = tmp_path / "shop"
    pp.init(workspace, [shop_csv(tmp_path / "orders.csv", users=120)])
    opened = pp.open(workspace)
    opened.run()
    main(["forget", str(workspace), "c17"])
    main_folder = [p for p in workspace.rglob("*") if p.is_file()]
    holding = [
        p.name
        for p in main_folder
        if b'"c17"' in p.read_bytes() or (p.suffix == ".parquet" and _holds(p, "c17"))
    ]
    assert holding == []


def _holds(path: Path, user: str) -> bool:
    table = pq.read_table(path, partitioning=None)
    return any(user in table[c].to_pylist() for c in table.column_names if c in ("user", "user_id"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "{tmp}/none"], "is not a workspace"),
        (["init", "{tmp}/w", "--from", "{tmp}/none.csv"], "none.csv"),
        (["init", "{tmp}/w", "--from", "{tmp}/empty.csv"], "empty"),
        (["predict", "{shop}", "any(purchse) next 30d"], "did you mean 'purchase'"),
        (["predict", "{shop}", "any(purchase) next 400d"], "the log covers"),
        (["predict", "{shop}", "any(purchase) next -3d"], "must be positive"),
        (["predict", "{shop}", "any(purchase where quantity > 900) next 30d"], "same answer"),
        (["predict", "--table", "{tmp}/none.csv", "--label", "y"], "no file matches"),
        (["predict", "--table", "{tmp}/none.csv"], "--label"),
        (["audience", "{shop}", "count(purchase) lst 3d"], "cannot read"),
        (["forget", "{shop}", "nobody"], "nothing was erased"),
        (["sql", "{shop}", "select nothing from nowhere"], "the query failed"),
        (["recommend", "{shop}", "--user", "c1", "-k", "0"], "at least 1"),
        (["recommend", "{shop}", "--session", "s99"], "no item 's99'"),
        (["recommend", "{shop}", "--similar", "s99"], "did you mean 's9'"),
        (["recommend", "{shop}", "--fans", "s99"], "no item 's99'"),
        (
            ["recommend", "{shop}", "--rules", "--per", "7d", "--support", "0"],
            "support must be above",
        ),
        (["recommend", "{shop}", "--rules"], "holds one item"),
        (["recommend", "{shop}", "--evaluate", "--with", "eese"], "did you mean 'ease'"),
        (["models", "{shop}", "--promote", "buys_30d", "99"], "version"),
    ],
)
def test_each_failure_is_one_sentence_and_a_non_zero_exit(
    shop: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    given = [a.format(tmp=tmp_path, shop=shop[0]) for a in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code not in (0, None)
    error = capsys.readouterr().err
    assert error.startswith(("propend: ", "Usage"))
    assert sentence in error
    assert len(error.strip().splitlines()) <= 1 or error.startswith("Usage")
    assert not (tmp_path / "w").exists()


def test_a_log_with_one_user_gets_a_report_and_a_reason(tmp_path: Path) -> None:
    lines = ["customer_id,order_date,sku,quantity,unit_price"]
    lines += [
        f"ada,2024-{1 + i // 28:02d}-{1 + i % 28:02d} 10:00:00,s{i % 3},1,5.00"
        for i in range(0, 200, 5)
    ]
    (tmp_path / "one.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pp.init(tmp_path / "shop", [tmp_path / "one.csv"])
    results = pp.open(tmp_path / "shop").run()
    assert results["users"] == 1
    assert all("skipped" in card for card in results["tasks"])
    assert "skipped" in results["decisions"]
    assert (tmp_path / "shop" / "out" / "report.html").is_file()
