"""Three questions of a purchase log, forward in time, against LightGBM on plain RFM: python -m benchmarks.quality.retail [TASK…] [--folds N]

Data: UCI Online Retail as `propend init` reads it. Protocol: forward folds with a purge of one horizon, figures inside the
folds (a base rate that moves between them earns nothing); the champion is chosen, stopped and calibrated before each
test; intervals draw whole users. "LightGBM on plain RFM" and the models beside learn from the same rows and are tested
on the same rows, with their own settings.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from propend.engine import connect
from propend.events.declare import declare
from propend.events.guess import guess
from propend.features.derive import derive_features
from propend.learn import metrics
from propend.learn.bootstrap import bootstrap_difference
from propend.learn.registry import plain
from propend.learn.strata import within
from propend.learn.train import Fitted, train
from propend.models import create
from propend.pipeline.predict import _informative
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.cutoffs import Plan, plan_cutoffs
from propend.tasks.frame import Frame, build_frame
from propend.tasks.task import Task

DATA = Path(os.environ.get("PROPEND_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASKS = {
    "buys_30d": "any(purchase) next 30d for any(*) last 90d",
    "silent_60d": "none(*) next 60d for any(*) last 90d",
    "value_90d": "sum(purchase.value) next 90d for any(purchase) last 180d",
}
RFM = ("days_since(purchase)", "count(purchase)", "sum(purchase.value)")
PLAIN = "LightGBM defaults on plain RFM"
LGBM = {
    "estimator": "lightgbm.sklearn.LGBM",
    "encode": "none",
    "settings": {"verbose": -1, "n_jobs": 1},
}
HISTGB = {"estimator": "sklearn.ensemble.HistGradientBoosting", "encode": "none"}
FOREST = {"trees": 100, "threads": 1}
ENSEMBLE = {"trees": {"threads": 1}, "extra_trees": FOREST}
BOTH: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("LightGBM defaults, our features", "sklearn", LGBM),
    ("scikit-learn HistGB defaults", "sklearn", HISTGB),
    ("decision_tree", "decision_tree", {}),
    ("random_forest", "random_forest", FOREST),
    ("extra_trees", "extra_trees", FOREST),
    ("xgboost", "xgboost", {"threads": 1}),
    ("ebm", "ebm", {"bags": 1, "pairs": 0}),
    ("mlp", "mlp", {}),
    ("neighbours", "neighbours", {"most_rows": 5_000}),
)
BESIDE: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "yes_no": (
        *BOTH,
        ("logistic, L1", "logistic", {"bends": 0, "penalty": "l1", "strength": 10.0, "steps": 100}),
        ("logistic, elastic net", "logistic", {"bends": 0, "penalty": "elastic_net", "strength": 10.0, "steps": 100}),
        ("svm_linear", "svm_linear", {}),
        ("svm_rbf", "svm_rbf", {"landmarks": 150}),
        ("naive_bayes", "naive_bayes", {}),
        ("stacking", "stacking", {"models": ("logistic", "trees", "extra_trees"), "settings": {"logistic": {"bends": 0}, **ENSEMBLE}}),
        ("blending", "blending", {"models": ("logistic", "trees", "extra_trees"), "settings": {"logistic": {"bends": 0}, **ENSEMBLE}}),
    ),
    "amount": (
        *BOTH,
        ("linear", "linear", {"bends": 0}),
        ("linear, L1", "linear", {"bends": 0, "penalty": "l1"}),
        ("linear, elastic net", "linear", {"bends": 0, "penalty": "elastic_net"}),
        ("linear support vector regression", "sklearn", {"estimator": "sklearn.svm.LinearSVR", "settings": {"C": 10.0}}),
        ("RBF support vector regression", "sklearn", {"estimator": "sklearn.svm.SVR", "settings": {"C": 1000.0}}),
        ("stacking", "stacking", {"models": ("two_part", "trees", "extra_trees"), "settings": ENSEMBLE}),
        ("blending", "blending", {"models": ("two_part", "trees", "extra_trees"), "settings": ENSEMBLE}),
    ),
}  # fmt: skip


def workspace(folder: Path) -> Workspace:
    """Read the shop into a workspace."""
    declare(folder, guess([DATA / "online-retail"], connect(), folder))
    opened = open_workspace(folder)
    opened.ingest()
    return opened


def _beside(
    frame: Frame, task: Task, plan: Plan, tests: dict[str, Any], name: str, settings: dict[str, Any],
    columns: tuple[str, ...] | None,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Scores of a model on the same tests, and the seconds it took to fit."""
    chosen = list(range(frame.X.shape[1]))
    if columns is not None:
        chosen = [frame.names.index(c) for c in columns]
    categories = {
        i: len(frame.categories[j]) for i, j in enumerate(chosen) if j in frame.categories
    }
    found, seconds = [], 0.0
    for fold in plan.folds[-int(tests["fold"].max()) - 1 :]:
        a, b = frame.at(fold.train), frame.at([fold.test])
        start = time.perf_counter()
        answer: Any = task.answer
        model = create(name, answer, **settings).fit(
            frame.X[a][:, chosen], frame.y[a], categories=categories, seed=7
        )
        seconds += time.perf_counter() - start
        found.append(model.predict(frame.X[b][:, chosen]))
    return np.concatenate(found), seconds / len(found)


def table_of(shop: Workspace, name: str, ask: str, folds: int) -> tuple[dict[str, Any], str]:
    """Return a task's figures and its Markdown table."""
    task = Task.parse(name, ask)
    plan = plan_cutoffs(shop.schema.first, shop.now, task.horizon, folds=folds)
    wanted = derive_features(shop.schema)
    frame = _informative(
        build_frame(shop.store, shop.schema, shop.engine, task, wanted, plan.cutoffs)
    )
    plain_rfm = build_frame(
        shop.store, shop.schema, shop.engine, task,
        [f for f in wanted if str(f) in RFM], plan.cutoffs,
    )  # fmt: skip
    start = time.perf_counter()
    fitted: Fitted = train(frame, task, plan)
    wall = time.perf_counter() - start
    tests = fitted.tests
    y, users = tests["truth"], tests["user"]
    rows: dict[str, tuple[np.ndarray, float | None]] = {
        "**champion**": (tests["champion"], wall),
        **{
            n: (tests[n], fitted.card["seconds"].get(n))
            for n in (*fitted.card["models"], *fitted.card["baseline"])
        },
    }
    rows[PLAIN] = _beside(plain_rfm, task, plan, tests, "sklearn", LGBM, None)  # fmt: skip
    for label, model, settings in BESIDE[task.answer]:
        rows[label] = _beside(frame, task, plan, tests, model, settings, None)
    yes_no = task.answer == "yes_no"
    wanted_metrics = (
        [metrics.auroc, metrics.average_precision, metrics.log_loss, metrics.ece]
        if yes_no
        else [metrics.mae, metrics.rmse, metrics.bias, metrics.gini, metrics.spearman]
    )
    lines = [
        f"### {name}: `{ask}`",
        "",
        f"{fitted.card['protocol']}; {len(y):,} test rows, {int((y > 0).sum()):,} positive, data {fitted.card['data_hash']}, "
        f"seed 7, champions {', '.join(fitted.card['champions'])}.",
        "",
        "| model | " + " | ".join(m.__name__ for m in wanted_metrics) + " | seconds |",
        "|---" * (len(wanted_metrics) + 2) + "|",
    ]
    fold = tests["fold"]
    for label, (scores, seconds) in rows.items():
        found = [within(m, y, scores, strata=fold) for m in wanted_metrics]
        values = " | ".join(f"{v:.4f}" for v in found)
        lines.append(f"| {label} | {values} | {'' if seconds is None else f'{seconds:.1f}'} |")
    for metric in wanted_metrics[:2] if yes_no else [metrics.mae, metrics.rmse, metrics.gini]:
        gain = bootstrap_difference(
            metric, y, tests["champion"], rows[PLAIN][0], groups=users, strata=fold
        )
        lines.append(
            f"\n{metric.__name__}: champion − LightGBM on plain RFM = {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        )
    lines += ["", f"Power: {fitted.card['power']['sentence']}.", ""]
    return fitted.card, "\n".join(lines)


def main() -> None:
    """Print the tables named (default all three)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--folds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        shop = workspace(Path(place) / "shop")
        for name in chosen.tasks:
            card, text = table_of(shop, name, TASKS[name], chosen.folds)
            print(text, flush=True)
            print(f"<!-- {json.dumps(plain(card['uncertainty'].get('forward')))} -->", flush=True)


if __name__ == "__main__":
    main()
