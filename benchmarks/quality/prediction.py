"""Every named model on public tables: python -m benchmarks.quality.prediction telco adult credit fraud shoppers shoppers-blind

Protocol: stratified 5-fold cross-validation (fraud: forward by year as well), seed 7. The champion is chosen, its trees
stopped and its scores calibrated inside each training fold (a quarter held out), among the same candidates on every
table, so that within a run no test fold chooses anything. What was chosen by looking at tests before stands in docs/prediction.md
("What was chosen by looking at tests"). "Beside" models are fitted once a fold and scored as they are. Intervals:
95 % bootstrap over the rows; figures are inside the folds, "folds" is the plain mean AUROC of the folds ± its deviation. Seconds:
fitting, mean over folds, on a shared two-core machine. With --out a table's card is kept, and --only adds models to it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from propend.engine import connect
from propend.learn.registry import plain
from propend.learn.rivals import Candidate, table_candidates
from propend.learn.table import LabelledTable, cross_validate, read_table

Card: TypeAlias = dict[str, Any]

DATA = Path(os.environ.get("PROPEND_DATA", Path(__file__).parents[3] / "shared" / "data"))
THREADS = {"threads": 1}
FOREST = {**THREADS, "trees": 100}
STACK = {
    "models": ("logistic", "trees", "extra_trees"),
    "settings": {"trees": THREADS, "extra_trees": {**THREADS, "trees": 50}},
    "folds": 2,
}
NESTED = table_candidates("yes_no")
"""What ``propend predict --table`` lets compete, with the extras installed; one thread each by OMP_NUM_THREADS."""
BESIDE = (
    Candidate("LightGBM defaults", "sklearn", {"estimator": "lightgbm.sklearn.LGBM", "encode": "none", "settings": {"verbose": -1, "n_jobs": 1}}),
    Candidate("scikit-learn HistGB defaults", "sklearn", {"estimator": "sklearn.ensemble.HistGradientBoosting", "encode": "none"}),
    Candidate("scikit-learn logistic defaults", "sklearn", {"estimator": "sklearn.linear_model.LogisticRegression", "settings": {"max_iter": 500}}),
    Candidate("logistic, straight lines", "logistic", {"bends": 0}),
    Candidate("logistic, L1", "logistic", {"bends": 0, "penalty": "l1", "steps": 100}),
    Candidate("logistic, elastic net", "logistic", {"bends": 0, "penalty": "elastic_net", "steps": 100}),
    Candidate("stacking", "stacking", STACK),
    Candidate("xgboost", "xgboost", THREADS),
    Candidate("random_forest", "random_forest", FOREST),
    Candidate("extra_trees", "extra_trees", FOREST),
    Candidate("svm_linear", "svm_linear"),
    Candidate("svm_rbf", "svm_rbf", {"landmarks": 150}),
    Candidate("decision_tree", "decision_tree"),
    Candidate("mlp", "mlp"),
    Candidate("neighbours", "neighbours", {"most_rows": 10_000}),
    Candidate("naive_bayes", "naive_bayes"),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Where a data set is, what is asked of it, and what the issue wants."""

    read: Callable[[Path], LabelledTable]
    target: str
    folds: int = 5


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


TABLES = {
    "telco": Table(_read("telco-churn/Telco-Customer-Churn.csv", "Churn"), "AUROC ≥ .853"),
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
        folds=2,
    ),
    "credit": Table(
        _read("credit-default-taiwan/UCI_Credit_Card.csv", "default.payment.next.month"),
        "AUROC ≥ .785",
    ),
    "adult": Table(_adult, "AUROC ≥ .930"),
}


TRIVIAL = Candidate("base_rate", "base_rate")
_BY_MODEL = ("models", "by_fold", "seconds", "remarks")


def judge(
    table: LabelledTable,
    target: str,
    folds: int,
    only: Sequence[str] = (),
    before: Card | None = None,
) -> Card:
    """Return a table's card; ``only`` names the models to run, whose figures join those of ``before``."""
    wanted = [c for c in (*NESTED, *BESIDE) if not only or c.label in only]
    nested = tuple(c for c in wanted if c in NESTED)
    beside = tuple(c for c in wanted if c not in NESTED)
    fit = cross_validate(table, folds=folds, models=nested or (TRIVIAL,), beside=beside)
    card = dict(plain({**fit.card, "target": target}))
    if before is None:
        return card
    if (before["data_hash"], before["folds"]) != (card["data_hash"], card["folds"]):
        raise SystemExit("the card kept is of other data or folds; remove it first")
    if nested:
        return {**before, **card, **{part: {**before[part], **card[part]} for part in _BY_MODEL}}
    added = {part: {k: v for k, v in card[part].items() if k in only} for part in _BY_MODEL}
    return {**before, **{part: {**before[part], **added[part]} for part in _BY_MODEL}}


def table_of(name: str, only: Sequence[str] = (), out: Path | None = None) -> Card:
    """Run one table and return its card; one kept in ``out`` is added to."""
    wanted = TABLES[name]
    with tempfile.TemporaryDirectory() as place:
        table = wanted.read(Path(place))
    return kept(name, table, wanted.target, wanted.folds, only, out)


def kept(
    name: str, table: LabelledTable, target: str, folds: int, only: Sequence[str], out: Path | None
) -> Card:
    """Judge a table and, where ``out`` is a folder, keep the card there."""
    file = None if out is None else out / f"{name}.json"
    before = json.loads(file.read_text()) if only and file is not None and file.exists() else None
    card = judge(table, target, folds, only, before)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(card, indent=1))
    return card


def show(name: str, card: Card) -> str:
    """Return a card as a Markdown table."""
    m, i = card["metrics"], card["intervals"]
    lines = [
        f"### {name}: {card['rows']:,} rows, {card['positives']:,} positive; target {card['target']}",
        "",
        f"{card['protocol']}; data {card['data_hash']}, seed {card['seed']}, champions {', '.join(card['champions'])}.",
        "",
        "| model | AUROC | folds | AP | log loss | Brier | ECE | seconds to fit |",
        "|---|---|---|---|---|---|---|---|",
        f"| **champion** | **{m['auroc']:.4f}** ({i['auroc']['low']:.4f}–{i['auroc']['high']:.4f}) | {_folds(card, 'champion')} | "
        f"**{m['average_precision']:.4f}** ({i['average_precision']['low']:.4f}–{i['average_precision']['high']:.4f}) | "
        f"{m['log_loss']:.4f} | {m['brier']:.4f} | {m['ece']:.4f} | |",
    ]
    rows = {**card["models"], **card["baseline"]}
    for label, figures in rows.items():
        remark = card["remarks"].get(label)
        nested = " (nested)" if label in card["nested"] else ""
        said = f" ({remark})" if remark else ""
        lines.append(
            f"| {label}{nested}{said} | {figures['auroc']:.4f} | {_folds(card, label)} | {figures['average_precision']:.4f} | "
            f"{figures['log_loss']:.4f} | {figures['brier']:.4f} | {figures['ece']:.4f} | {card['seconds'][label]:.1f} |"
        )
    return "\n".join([*lines, ""])


def _folds(card: Card, label: str) -> str:
    found = card["by_fold"].get(label)
    return "" if found is None else f"{np.mean(found):.4f} ± {np.std(found):.4f}"


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every table knows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="*", default=[], help="labels of the models to run")
    parser.add_argument("--out", type=Path, help="folder that keeps the cards as JSON")
    return parser


def main() -> None:
    """Run the tables named on the command line (default: all) and print them as Markdown."""
    parser = options(__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=[*TABLES])
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # seconds of a table compare on one thread
    for name in given.tables:
        print(show(name, table_of(name, given.only, given.out)), flush=True)


if __name__ == "__main__":
    main()
