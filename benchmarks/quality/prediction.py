"""Every named model on public tables: python -m benchmarks.quality.prediction telco adult credit fraud shoppers shoppers-blind

Protocol: stratified 5-fold cross-validation (fraud: forward by year as well), seed 7. The champion is chosen, its trees
stopped and its scores calibrated inside each training fold (a quarter held out); no setting was tuned on a test fold:
the models run as they are out of the box. "Beside" models are fitted once a fold and scored as they are. Intervals:
95 % bootstrap over the rows. Seconds: fitting, mean over folds, on a shared two-core machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from propend.engine import connect
from propend.learn.registry import plain
from propend.learn.table import Candidate, LabelledTable, cross_validate, read_table

DATA = Path(os.environ.get("PROPEND_DATA", Path(__file__).parents[3] / "shared" / "data"))
THREADS = {"threads": 1}
FOREST = {**THREADS, "trees": 200}
EBM = {"bags": 2, "pairs": 5}
BLEND = {
    "models": ("logistic", "trees", "extra_trees"),
    "settings": {"trees": THREADS, "extra_trees": FOREST},
}
RICH = {
    "models": ("logistic", "trees", "ebm"),
    "settings": {"trees": THREADS, "ebm": EBM},
}
NESTED = (
    Candidate("logistic", "logistic"),
    Candidate("trees", "trees", THREADS),
    Candidate("blending", "blending", BLEND),
)
BESIDE = (
    Candidate("LightGBM defaults", "sklearn", {"estimator": "lightgbm.sklearn.LGBM", "encode": "none", "settings": {"verbose": -1, "n_jobs": 1}}),
    Candidate("scikit-learn HistGB defaults", "sklearn", {"estimator": "sklearn.ensemble.HistGradientBoosting", "encode": "none"}),
    Candidate("scikit-learn logistic defaults", "sklearn", {"estimator": "sklearn.linear_model.LogisticRegression", "settings": {"max_iter": 500}}),
    Candidate("logistic, straight lines", "logistic", {"bends": 0}),
    Candidate("svm_linear", "svm_linear"),
    Candidate("svm_rbf", "svm_rbf", {"landmarks": 150}),
    Candidate("decision_tree", "decision_tree"),
    Candidate("random_forest", "random_forest", FOREST),
    Candidate("extra_trees", "extra_trees", FOREST),
    Candidate("xgboost", "xgboost", THREADS),
    Candidate("ebm", "ebm", EBM),
    Candidate("mlp", "mlp"),
    Candidate("neighbours", "neighbours", {"most_rows": 10_000}),
    Candidate("naive_bayes", "naive_bayes"),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Where a data set is, what is asked of it, and what the issue wants."""

    read: Callable[[Path], LabelledTable]
    target: str
    ours: tuple[Candidate, ...] = NESTED


def _read(file: str, label: str, **options: Any) -> Callable[[Path], LabelledTable]:
    return lambda _: read_table([str(DATA / file)], label, connect(), DATA, **options)


def _adult(scratch: Path) -> LabelledTable:
    """Both parts with a header line; the test part writes a dot behind the label."""
    names = "age,workclass,fnlwgt,education,education_num,marital,occupation,relationship,race,sex,gain,loss,hours,country,income"
    lines = [names]
    for part in ("train", "test"):
        text = (DATA / "adult" / f"adult-{part}.csv").read_text(encoding="utf-8")
        lines += [
            ",".join(c.strip().rstrip(".").replace("?", "") for c in line.split(","))
            for line in text.splitlines()
            if line.count(",") == 14
        ]
    file = scratch / "adult.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_table([str(file)], "income", connect(), scratch)


SMALL = (*NESTED[:2], Candidate("blending", "blending", RICH))
TABLES = {
    "telco": Table(_read("telco-churn/Telco-Customer-Churn.csv", "Churn"), "AUROC ≥ .853", SMALL),
    "shoppers": Table(
        _read("online-shoppers-intention/online_shoppers_intention.csv", "Revenue"),
        "AUROC ≥ .93, AP ≥ .74, with PageValues",
    ),
    "shoppers-blind": Table(
        _read(
            "online-shoppers-intention/online_shoppers_intention.csv",
            "Revenue",
            ignore=("PageValues",),
        ),
        "the same without PageValues, which is known only after the visit",
    ),
    "fraud": Table(
        _read("insurance-fraud/fraud_oracle.csv", "FraudFound_P", ignore=("PolicyNumber",)),
        "AUROC and AP, reported",
    ),
    "fraud-forward": Table(
        _read(
            "insurance-fraud/fraud_oracle.csv",
            "FraudFound_P",
            ignore=("PolicyNumber",),
            order="Year",
        ),
        "the same, forward by year",
    ),
    "credit": Table(
        _read("credit-default-taiwan/UCI_Credit_Card.csv", "default.payment.next.month"),
        "AUROC ≥ .785",
    ),
    "adult": Table(_adult, "AUROC ≥ .930"),
}


def table_of(name: str, quick: bool = False) -> dict[str, Any]:
    """Run one table and return its card."""
    wanted = TABLES[name]
    with tempfile.TemporaryDirectory() as place:
        table = wanted.read(Path(place))
    start = time.perf_counter()
    folds = 2 if name == "fraud-forward" else 5
    fit = cross_validate(table, folds=folds, models=wanted.ours, beside=() if quick else BESIDE)
    card = {**fit.card, "target": wanted.target, "wall": time.perf_counter() - start}
    return dict(plain(card))


def show(name: str, card: dict[str, Any]) -> str:
    """Return a card as a Markdown table."""
    m, i = card["metrics"], card["intervals"]
    lines = [
        f"### {name}: {card['rows']:,} rows, {card['positives']:,} positive; target {card['target']}",
        "",
        f"{card['protocol']}; data {card['data_hash']}, seed {card['seed']}, champions {', '.join(card['champions'])}.",
        "",
        "| model | AUROC | AP | log loss | Brier | ECE | seconds to fit |",
        "|---|---|---|---|---|---|---|",
        f"| **champion** | **{m['auroc']:.4f}** ({i['auroc']['low']:.4f}–{i['auroc']['high']:.4f}) | "
        f"**{m['average_precision']:.4f}** ({i['average_precision']['low']:.4f}–{i['average_precision']['high']:.4f}) | "
        f"{m['log_loss']:.4f} | {m['brier']:.4f} | {m['ece']:.4f} | |",
    ]
    rows = {**card["models"], **card["baseline"]}
    for label, figures in rows.items():
        remark = card["remarks"].get(label)
        nested = " (nested)" if label in card["nested"] else ""
        said = f" ({remark})" if remark else ""
        lines.append(
            f"| {label}{nested}{said} | {figures['auroc']:.4f} | {figures['average_precision']:.4f} | "
            f"{figures['log_loss']:.4f} | {figures['brier']:.4f} | {figures['ece']:.4f} | {card['seconds'][label]:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the tables named on the command line (default: all) and print them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=[*TABLES])
    parser.add_argument("--quick", action="store_true", help="leave out the models beside ours")
    parser.add_argument("--out", type=Path, help="folder for the cards as JSON")
    given = parser.parse_args()
    for name in given.tables:
        card = table_of(name, given.quick)
        print(show(name, card), flush=True)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / f"{name}.json").write_text(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
