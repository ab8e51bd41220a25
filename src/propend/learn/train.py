"""A task meets features and models: forward folds, baselines, calibration, a champion that earned it, a card.

Per fold, models learn on rows whose labels were known by the test cutoff. The latest of those cutoffs is held out
once more (purged by a horizon) to stop the trees early, to calibrate and to choose the champion, so that nothing
that touches the test rows was chosen on them. The final model learns on every row with a known label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError
from propend.expression.nodes import Expression
from propend.features.words import in_words
from propend.learn import calibration, metrics
from propend.learn.calibration import Calibrator
from propend.learn.intervals import bounds, uncertainty
from propend.learn.leaks import leak_report, refuse
from propend.learn.power import stated, verdict
from propend.models import catalog
from propend.models.ensemble import Blending
from propend.models.model import Model
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame
from propend.tasks.task import Task

__all__ = ["Fitted", "Reason", "train"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

LEAST: Final = 30
"""Fewest positives and negatives (or non-zero amounts) that training accepts."""
LEAST_TESTED: Final = 10
"""Fewest of each over all test rows."""
BLEND: Final = "blend"
BLENDED: Final = ("logistic", "trees")
MODELS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "yes_no": (("logistic", {"bends": 0}), ("trees", {}), ("blend", {})),
    "amount": (("two_part", {}), ("trees", {"loss": "tweedie"})),
    "count": (("linear", {"bends": 0}), ("trees", {"loss": "poisson"})),
}
"""Candidates by answer, from simple to flexible: a later one must beat the one in hand beyond noise.

``blend`` is the mean margin of the two before it, at no further cost: they err differently (straight lines and steps).

The linear models take the derived features as they are (``bends`` 0): windows already bend them, and hinges on 150
correlated columns cost 20 times the time and lost 1.3 points of AUROC on Online Retail (``docs/log.md``)."""


@dataclass(frozen=True)
class Reason:
    """Why one user's score is what it is: a feature, its value and how far it moved the margin."""

    feature: str
    words: str
    value: float | str
    """The feature's value; text where it is a category."""
    effect: float


@dataclass
class Fitted:
    """A trained task: ``score`` rows, ``reasons`` for them, and the ``card`` with every figure and its protocol."""

    task: Task
    name: str
    model: Model
    calibrator: Calibrator
    features: tuple[Expression, ...]
    categories: dict[int, tuple[str, ...]]
    threshold: float | None
    card: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, Any] = field(default_factory=dict, repr=False)
    """Out-of-time rows: ``truth``, ``user``, ``fold`` and the scores of ``champion`` and of every model; not saved."""

    def score(self, X: F64) -> F64:
        """Return calibrated probabilities or expected amounts [n]."""
        raw = self.model.predict(X)
        return self.calibrator.apply(raw) if self.task.answer == "yes_no" else np.maximum(raw, 0.0)

    def bounds(self, X: F64) -> tuple[F64, F64]:
        """Return each row's interval [n]: Venn-Abers for yes/no, conformal for amounts; NaN where none was learnt."""
        return bounds(self.card.get("uncertainty", {}), self.score(X))

    def _shown(self, column: int, value: float) -> float | str:
        """Return a feature's value as a person knows it: the text of a category, else the number."""
        levels = self.categories.get(column)
        return value if levels is None or np.isnan(value) else levels[int(value)]

    def reasons(self, X: F64, most: int = 3) -> list[list[Reason]]:
        """Return for each row the features that moved its score most, strongest first; empty where the model cannot say."""
        try:
            parts = self.model.contributions(X)[:, :-1]
        except Exception:  # a model without contributions has no reasons to give
            return [[] for _ in range(len(X))]
        names = tuple(map(str, self.features))
        top = np.argsort(-np.abs(parts), axis=1)[:, :most]
        return [
            [
                Reason(
                    names[j],
                    in_words(self.features[j]),
                    self._shown(int(j), float(X[i, j])),
                    float(parts[i, j]),
                )
                for j in top[i]
                if parts[i, j] != 0
            ]
            for i in range(len(X))
        ]


@dataclass
class _Scores:
    """Out-of-time predictions of one model: on the held-out slices and on the tests."""

    validation: list[F64] = field(default_factory=list)
    test: list[F64] = field(default_factory=list)
    raw: list[F64] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    threshold: float | None = None
    """The F1-optimal cut on the held-out slices; each model has its own."""


def train(
    frame: Frame,
    task: Task,
    plan: Plan,
    *,
    models: Sequence[tuple[str, dict[str, Any]]] | None = None,
    seed: int = 7,
    draws: int = 200,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Fitted:
    """Train, judge forward in time and refit; see the module's description.

    Raises ``NotEnoughDataError`` that says what is there and what would be needed.
    """
    candidates = tuple(models or MODELS[task.answer])
    folds = [(frame.at(fold.train), frame.at([fold.test])) for fold in plan.folds]
    folds = [(a, b) for a, b in folds if _usable(frame, task, a, b)]
    _check_enough(frame, task, folds)
    _check_leaks(frame, task)
    baselines = _baselines(frame, task)
    scores = {name: _Scores() for name, _ in (*candidates, *baselines)}
    held = [_held_out(frame, plan, train_rows, seed) for train_rows, _ in folds]
    total = len(folds) * (len(candidates) + len(baselines)) + 1
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(f"train {task.name}", done, total)

    for fold, slices in zip(folds, held, strict=True):
        _one_fold(frame, task, (*candidates, *baselines), fold, slices, scores, seed, step)
    truth = np.concatenate([frame.y[test] for _, test in folds])
    users = np.concatenate([frame.user[test] for _, test in folds])
    chosen = [
        _champion(
            task, frame, [n for n, _ in candidates], scores, [h[1] for h in held[: i + 1]], seed
        )
        for i in range(len(folds))
    ]
    nested = np.concatenate([scores[name].test[i] for i, name in enumerate(chosen)])
    champion = chosen[-1]
    for made in scores.values():
        made.threshold = _threshold(task, frame, made, [h[1] for h in held])
    threshold = scores[champion].threshold
    fitted = _final(
        frame,
        task,
        plan,
        champion,
        candidates,
        scores,
        [b for _, b in folds],
        threshold,
        seed,
    )
    fitted.card = _card(
        frame,
        task,
        plan,
        fitted,
        scores,
        nested,
        truth,
        users,
        folds,
        [n for n, _ in candidates],
        [n for n, _ in baselines],
        chosen,
        draws,
        seed,
    )
    fitted.tests = {
        **{name: np.concatenate(s.test) for name, s in scores.items()},
        "truth": truth,
        "user": users,
        "champion": nested,
        "fold": np.repeat(np.arange(len(folds)), [int(test.sum()) for _, test in folds]),
    }
    if progress:
        progress(f"train {task.name}", total, total)
    return fitted


# ---- folds


def _usable(frame: Frame, task: Task, train_rows: Bool, test_rows: Bool) -> bool:
    return _rarer(task, frame.y[train_rows]) >= LEAST and bool(test_rows.any())


def _rarer(task: Task, y: F64) -> int:
    """Return how many rows carry the rarer answer."""
    positive = int((y > 0).sum())
    return min(positive, len(y) - positive) if task.answer == "yes_no" else positive


def _check_enough(frame: Frame, task: Task, folds: list[tuple[Bool, Bool]]) -> None:
    known = frame.y[~np.isnan(frame.y)]
    if task.answer == "yes_no" and len(known) and known.min() == known.max():
        what = "all of them did" if known[0] else "none of them did"
        raise NotEnoughDataError(
            f"task {task.name!r} ({task.ask}): {len(known):,} questions have the same answer ({what}); "
            "there is nothing to tell apart, ask something that differs between users"
        )
    if not folds:
        raise NotEnoughDataError(
            f"task {task.name!r} ({task.ask}): {int((known > 0).sum()):,} of {len(known):,} rows are positive, too few before the first test; "
            f"at least {LEAST} of each answer are needed: bring more users or a longer log"
        )
    tested = np.concatenate([frame.y[test] for _, test in folds])
    if _rarer(task, tested) < LEAST_TESTED:
        raise NotEnoughDataError(
            f"task {task.name!r} ({task.ask}): the forward tests hold only {_rarer(task, tested)} of the rarer answer; "
            f"at least {LEAST_TESTED} are needed to say how good a model is"
        )


def _check_leaks(frame: Frame, task: Task) -> None:
    """Refuse profile columns that know the answer: a user table is a snapshot of today, not of each cutoff."""
    own = [j for j, name in enumerate(frame.names) if name.startswith("profile.")]
    rows = np.flatnonzero(~np.isnan(frame.y))
    if not own or not len(rows):
        return
    leaks = leak_report(
        frame.X[rows][:, own],
        frame.y[rows],
        [frame.names[j] for j in own],
        {i: len(frame.categories[j]) for i, j in enumerate(own) if j in frame.categories},
    )
    refuse(leaks, f"task {task.name!r}: take it out of the [users] table in propend.toml")


def _held_out(frame: Frame, plan: Plan, train_rows: Bool, seed: int) -> tuple[Bool, Bool]:
    """Split training rows into earlier and held-out: the latest cutoff, purged; by users where the log is too short."""
    cutoffs = np.unique(frame.cutoff[train_rows])
    later = train_rows & (frame.cutoff == cutoffs[-1])
    inner = train_rows & (frame.cutoff <= cutoffs[-1] - plan.horizon.microseconds)
    if (
        min((frame.y[inner] > 0).sum(), (frame.y[later] > 0).sum()) >= LEAST
        and inner.sum() > 2 * LEAST
    ):
        return inner, later
    users = np.unique(frame.user[train_rows])
    drawn = np.random.default_rng(seed).permutation(users)[: max(1, len(users) // 4)]
    later = train_rows & np.isin(frame.user, drawn)
    return train_rows & ~later, later


def _one_fold(
    frame: Frame,
    task: Task,
    candidates: Sequence[tuple[str, dict[str, Any]]],
    fold: tuple[Bool, Bool],
    held: tuple[Bool, Bool],
    scores: dict[str, _Scores],
    seed: int,
    step: Callable[[], None],
) -> None:
    """Fit each model on the earlier slice to stop and calibrate, then on all training rows to predict the test."""
    (train_rows, test_rows), (inner, later) = fold, held
    raws: dict[str, tuple[F64, F64]] = {}
    for name, settings in candidates:
        if name == BLEND:
            raws[name] = _mean_margin([raws[n] for n in BLENDED])
        else:
            watched = (frame.X[later], frame.y[later], None)
            first = _fit(frame, task, name, settings, inner, seed, validation=watched)
            scores[name].rounds.append(_rounds(first))
            second = _fit(
                frame, task, name, _refit(settings, name, _rounds(first)), train_rows, seed
            )
            raws[name] = first.predict(frame.X[later]), second.predict(frame.X[test_rows])
        _keep(scores[name], task, raws[name], frame.y[later], frame.user[later], seed)
        step()


def _mean_margin(parts: Sequence[tuple[F64, F64]]) -> tuple[F64, F64]:
    """Return the probabilities of the mean logit, on the held-out and on the test rows."""

    def mean(scores: Sequence[F64]) -> F64:
        held = np.clip(np.array(scores), 1e-6, 1 - 1e-6)
        return np.asarray(1 / (1 + np.exp(-np.log(held / (1 - held)).mean(0))))

    return mean([p[0] for p in parts]), mean([p[1] for p in parts])


def _keep(
    scores: _Scores, task: Task, raws: tuple[F64, F64], y: F64, users: I64, seed: int
) -> None:
    """Keep a model's predictions of a fold, calibrated on the held-out slice."""
    raw_later, raw = raws
    scores.raw.append(raw)
    if task.answer == "yes_no":
        calibrator = calibration.choose(raw_later, y, groups=users, seed=seed)
        scores.validation.append(calibrator.apply(raw_later))
        scores.test.append(calibrator.apply(raw))
    else:
        scores.validation.append(np.maximum(raw_later, 0.0))
        scores.test.append(np.maximum(raw, 0.0))


def _fit(
    frame: Frame,
    task: Task,
    name: str,
    settings: dict[str, Any],
    rows: Bool,
    seed: int,
    validation: Any = None,
) -> Model:
    model = catalog.create(name, task.answer, **settings)
    categories = {j: len(values) for j, values in frame.categories.items() if values}
    return model.fit(
        frame.X[rows],
        frame.y[rows],
        columns=frame.names,
        categories=categories,
        validation=validation,
        seed=seed,
    )


def _rounds(model: Model) -> int:
    return int(getattr(model, "rounds", 0))


def _refit(settings: dict[str, Any], name: str, rounds: int) -> dict[str, Any]:
    """Return settings for all rows: as many trees as the held-out slice asked for, and a tenth more for the extra rows."""
    return (
        {**settings, "trees": max(10, round(1.1 * rounds))}
        if name == "trees" and rounds
        else settings
    )


# ---- baselines and champion


def _baselines(frame: Frame, task: Task) -> list[tuple[str, dict[str, Any]]]:
    """Return what a model must beat: the base rate, recency, and the RFM score of the events asked about."""
    names = set(frame.names)
    types = [t for a in task.target.aggregates() for t in a.types]
    of = next((t for t in types if f"days_since({t})" in names), None)
    found: list[tuple[str, dict[str, Any]]] = (
        [("base_rate", {})] if task.answer == "yes_no" else [("mean", {}), ("always_zero", {})]
    )
    recency = next(
        (
            n
            for n in (
                f"days_since({of})",
                "days_since(*)",
                *sorted(n for n in names if n.startswith("days_since(")),
            )
            if n in names
        ),
        None,
    )
    if recency is not None:
        found.append(("scorecard", {"column": recency}))
        event = recency.removeprefix("days_since(").removesuffix(")")
        frequency = next(
            (n for n in (f"active_days({event})", f"count({event})") if n in names), None
        )
        money = next((n for n in (f"sum({event}.value)", f"count({event})") if n in names), None)
        if frequency and money:
            found.append(("rfm", {"recency": recency, "frequency": frequency, "money": money}))
    if task.answer in ("amount", "count") and of is not None:
        found += _customer_base(of, names, task.horizon.days)
    return found


def _customer_base(of: str, names: set[str], horizon: float) -> list[tuple[str, dict[str, Any]]]:
    """Return BG/NBD (and Gamma-Gamma) over the history of an event, where the frame has its columns."""
    since, first, days = (f"{f}({of})" for f in ("days_since", "days_since_first", "active_days"))
    if not {since, first, days} <= names:
        return []
    total = f"sum({of}.value)"
    settings = {"since": since, "first": first, "days": days, "horizon": horizon}
    return [("bg_nbd", {**settings, "total": total if total in names else None})]


def _loss(task: Task) -> Callable[[Any, Any, Any], float]:
    return metrics.log_loss if task.answer == "yes_no" else metrics.rmse


def _champion(
    task: Task,
    frame: Frame,
    names: list[str],
    scores: dict[str, _Scores],
    held: list[Bool],
    seed: int,
) -> str:
    """Return the model that does best on the held-out slices so far; a simpler one stays where the gain is noise."""
    y = np.concatenate([frame.y[rows] for rows in held])
    users = np.concatenate([frame.user[rows] for rows in held])
    best = names[0]
    for name in names[1:]:
        ours, theirs = (np.concatenate(scores[n].validation[: len(held)]) for n in (name, best))
        gain = metrics.bootstrap_difference(
            _loss(task), y, ours, theirs, groups=users, n=100, seed=seed
        )
        if gain.high < 0:
            best = name
    return best


def _threshold(task: Task, frame: Frame, scores: _Scores, held: list[Bool]) -> float | None:
    if task.answer != "yes_no":
        return None
    y = np.concatenate([frame.y[rows] for rows in held])
    return float(metrics.best_f1_threshold(y, np.concatenate(scores.validation)))


def _final(
    frame: Frame,
    task: Task,
    plan: Plan,
    name: str,
    candidates: Sequence[tuple[str, dict[str, Any]]],
    scores: dict[str, _Scores],
    tests: list[Bool],
    threshold: float | None,
    seed: int,
) -> Fitted:
    """Fit the champion on every row with a known label; calibrate on its forward test scores."""
    rows = frame.at(plan.final) & ~np.isnan(frame.y)
    settings = dict(candidates)

    def refit(part: str) -> Model:
        rounds = max(scores[part].rounds, default=0)
        return _fit(frame, task, part, _refit(settings[part], part, rounds), rows, seed)

    model = Blending.of([refit(part) for part in BLENDED]) if name == BLEND else refit(name)
    calibrator: Calibrator = calibration.Identity()
    if task.answer == "yes_no":
        users = np.concatenate([frame.user[t] for t in tests])
        calibrator = calibration.choose(
            np.concatenate(scores[name].raw),
            np.concatenate([frame.y[t] for t in tests]),
            groups=users,
            seed=seed,
        )
    return Fitted(task, name, model, calibrator, frame.features, frame.categories, threshold)


# ---- the card


def _card(
    frame: Frame,
    task: Task,
    plan: Plan,
    fitted: Fitted,
    scores: dict[str, _Scores],
    nested: F64,
    truth: F64,
    users: I64,
    folds: list[tuple[Bool, Bool]],
    candidates: list[str],
    baselines: list[str],
    chosen: list[str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    headline = (
        ("auroc", "average_precision", "log_loss", "brier", "ece")
        if task.answer == "yes_no"
        else ("rmse", "mae", "bias", "gini")
    )
    of = (
        partial(metrics.yes_no_metrics, threshold=fitted.threshold)
        if task.answer == "yes_no"
        else metrics.amount_metrics
    )
    pooled = {name: np.concatenate(s.test) for name, s in scores.items()}

    def judged(name: str) -> dict[str, float]:
        if task.answer != "yes_no":
            return metrics.amount_metrics(truth, pooled[name])
        return metrics.yes_no_metrics(truth, pooled[name], threshold=scores[name].threshold)

    main = [getattr(metrics, name) for name in headline]
    intervals = {
        m.__name__: _range(
            metrics.bootstrap_interval(m, truth, nested, groups=users, n=draws, seed=seed)
        )
        for m in main
    }
    compared = main[:2] if task.answer == "yes_no" else [metrics.rmse, metrics.gini]
    margins = {
        base: {
            m.__name__: _range(
                metrics.bootstrap_difference(
                    m, truth, nested, pooled[base], groups=users, n=draws, seed=seed
                )
            )
            for m in compared
        }
        for base in baselines
    }
    ends = np.cumsum([test.sum() for _, test in folds])[:-1]
    card: dict[str, Any] = {
        "task": task.name,
        "ask": task.ask,
        "title": task.title,
        "answer": task.answer,
        "rows": len(frame),
        "users": len(np.unique(frame.user)),
        "positives": int((frame.y > 0).sum()),
        "folds": len(folds),
        "protocol": plan.protocol,
        "data_hash": frame.data_hash(),
        "seed": seed,
        "sample": frame.share,
        "champion": fitted.name,
        "champions": chosen,
        "calibration": fitted.calibrator.name,
        "metrics": of(truth, nested),
        "intervals": intervals,
        "baseline": {name: judged(name) for name in baselines},
        "margins": margins,
        "models": {name: judged(name) for name in candidates},
        "by_fold": [
            {
                "cutoff": int(fold.test),
                "train_rows": int(a.sum()),
                "rows": len(y),
                "positives": int((y > 0).sum()),
                **of(y, p),
            }
            for fold, (a, _), y, p in zip(
                plan.folds[-len(folds) :],
                folds,
                np.split(truth, ends),
                np.split(nested, ends),
                strict=True,
            )
        ],
        "lift": _table(metrics.lift_by_decile(truth, nested)),
        "drivers": _drivers(fitted, frame),
    }
    by_fold = list(zip(np.split(truth, ends), np.split(nested, ends), strict=True))
    card["tested"], card["tested_positives"] = len(truth), int((truth > 0).sum())
    card["uncertainty"] = uncertainty(task.answer, by_fold)
    card["verdict"] = verdict(card)
    card["power"] = stated(card, main[0].__name__)
    card["remark"] = fitted.model.remark
    if task.answer == "yes_no":
        card["reliability"] = _table(calibration.reliability(nested, truth))
    return card


def _range(interval: metrics.Interval) -> dict[str, float]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
    }


def _table(table: Any) -> dict[str, list[float]]:
    return {name: [float(v) for v in getattr(table, name)] for name in table.__dataclass_fields__}


def _drivers(fitted: Fitted, frame: Frame, most: int = 15) -> list[dict[str, Any]]:
    """Return the features that matter most, with the direction in which each moves the score."""
    importance = fitted.model.importance()
    total = float(importance.sum()) or 1.0
    sample = frame.X[:: max(1, len(frame) // 5_000)]
    try:
        parts = fitted.model.contributions(sample)
    except Exception:  # a model without contributions still has importances
        parts = None
    found = []
    for j in np.argsort(-importance, kind="stable")[:most]:
        if importance[j] <= 0:
            break
        direction = 0.0
        if parts is not None and j not in frame.categories:
            there = ~np.isnan(sample[:, j])
            if there.sum() > 2 and sample[there, j].std() > 0 and parts[there, j].std() > 0:
                direction = float(metrics.spearman(parts[there, j], sample[there, j]))
        found.append(
            {
                "feature": frame.names[j],
                "words": in_words(frame.features[j]),
                "share": float(importance[j]) / total,
                "direction": direction,
            }
        )
    return found
