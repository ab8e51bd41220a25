"""A task meets features and models: forward folds, baselines, calibration, a champion that earned it, a card.

Per fold, models learn on rows whose labels were known by the test cutoff. The latest of those cutoffs is held out
once more (purged by a horizon) to select features, to search settings, to stop the trees early, to calibrate and to
choose the champion, so that nothing that touches the test rows was chosen on them. The final model learns on every
row with a known label.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.errors import NotEnoughDataError
from propend.learn import calibration, metrics
from propend.learn.calibration import Calibrator
from propend.learn.card import Evidence, card_of
from propend.learn.fitted import Fitted, Reason
from propend.learn.fitting import Rows, fit_model, refit_settings
from propend.learn.judge import Judge, hash_of_tests, judge
from propend.learn.leaks import Leak, leak_report, refuse
from propend.learn.rivals import (
    BLEND,
    BLENDED,
    FUSION,
    MODELS,
    baselines,
    candidates,
    family,
    read_model,
)
from propend.learn.selection import stable_columns
from propend.learn.snapshot import judged_alone
from propend.models.ensemble import Blending
from propend.models.gathered import Gathered
from propend.models.model import Model
from propend.names import DAY
from propend.tasks.cutoffs import Plan
from propend.tasks.frame import Frame, More
from propend.tasks.impressions import COUNTED
from propend.tasks.task import Task

__all__ = ["MODELS", "Fitted", "Options", "Reason", "train"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Choice = tuple[str, dict[str, Any]]

LEAST: Final = 30
"""Fewest positives and negatives (or non-zero amounts) that training accepts."""
LEAST_TESTED: Final = 10
"""Fewest of each over all test rows."""
AT_ONCE: Final = 1e-9
"""An event at the very cutoff: 0 days, which must not read as 'never seen'."""


@dataclass(frozen=True)
class Options:
    """What a person may ask of training beyond the question."""

    search: float | None = None
    """Seconds to spend on searching settings, over all folds; nested, so no test row chooses any."""
    balance: bool = False
    """Whether the rarer answer weighs as much as the commoner one (probabilities are calibrated back)."""
    select: bool = False
    """Whether only features that prove stable on the training rows are used."""
    quantile: float | None = None
    """Ask for this quantile of an amount or count instead of its mean."""
    models: tuple[str, ...] = ()
    """The models that compete (``rivals.read_model``), from simple to flexible; none: the usual ones."""
    known: tuple[str, ...] = ()
    """Features of a log confirmed to be known in time, in spite of the leak report."""


@dataclass
class _Fold:
    """The rows of one fold: what trains, what tests, and inside of training what learns and what is held out."""

    train: Bool
    test: Bool
    inner: Bool
    later: Bool
    y: F64
    """Answers as known when the test is asked."""
    y_inner: F64
    """Answers as known when the held-out rows are asked."""
    columns: I64
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the search chose, by model."""


@dataclass
class _Scores:
    """Out-of-time predictions of one model: on the held-out slices and on the tests."""

    validation: list[F64] = field(default_factory=list)
    test: list[F64] = field(default_factory=list)
    raw: list[F64] = field(default_factory=list)
    settled: list[dict[str, Any]] = field(default_factory=list)
    threshold: float | None = None
    """The F1-optimal cut on the held-out slices; each model has its own."""
    seconds: list[float] = field(default_factory=list)
    """What fitting on all training rows of each fold took, by the clock."""


def train(
    frame: Frame,
    task: Task,
    plan: Plan,
    *,
    models: Sequence[Choice] | None = None,
    options: Options | None = None,
    suspects: Sequence[str] = (),
    seed: int = 7,
    draws: int = 200,
    beside: More | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Fitted:
    """Train, judge forward in time and refit; see the module's description.

    The last columns of ``frame`` may be those of ``beside``: then boosted trees that read them compete too (``fusion``),
    while every other model reads the rest. ``suspects`` are features that the leak report judges alone, besides the fields of the user and of the event.
    Raises ``NotEnoughDataError`` that says what is there and what would be needed.
    """
    return _Training(
        frame,
        task,
        plan,
        tuple(models or ()),
        options or Options(),
        suspects,
        seed,
        draws,
        beside,
        progress,
    ).run()


class _Training:
    """One run of the trainer, with what its steps share."""

    def __init__(
        self,
        frame: Frame,
        task: Task,
        plan: Plan,
        models: tuple[Choice, ...],
        options: Options,
        suspects: Sequence[str],
        seed: int,
        draws: int,
        beside: More | None,
        progress: Callable[[str, int, int | None], None] | None,
    ) -> None:
        self.frame, self.task, self.plan, self.options = frame, task, plan, options
        self.suspects, self.seed, self.draws, self.progress = suspects, seed, draws, progress
        self.kind: Judge = judge(task.answer, options.quantile)
        self.choices = models or candidates(task, options.quantile, options.models)
        self.beside, self.own = beside, frame.X.shape[1]
        if beside is not None:
            self.own -= len(beside.features)
            trees = [given for name, given in self.choices if _kind(name) == "trees"]
            self.choices += tuple((FUSION, given) for given in trees[:1])
        self.baselines = baselines(frame, task, options.quantile)
        self.scores = {name: _Scores() for name, _ in (*self.choices, *self.baselines)}
        self.done = 0

    def run(self) -> Fitted:
        """Do the steps in order."""
        folds = self._folds()
        self._check_enough(folds)
        leaks = self._leaks()
        total = len(folds) * len(self.scores) + 1
        for fold in folds:
            self._one_fold(fold, len(folds), total)
        names = [name for name, _ in self.choices]
        chosen = [self._champion(names, folds[: i + 1]) for i in range(len(folds))]
        nested = np.concatenate([self.scores[name].test[i] for i, name in enumerate(chosen)])
        for made in self.scores.values():
            made.threshold = self._threshold(made, folds)
        fitted = self._final(chosen[-1], folds)
        evidence = Evidence(
            truth=np.concatenate([f.y[f.test] for f in folds]),
            users=np.concatenate([self.frame.user[f.test] for f in folds]),
            fold=np.repeat(np.arange(len(folds)), [int(f.test.sum()) for f in folds]),
            champion=nested,
            by_model={n: np.concatenate(s.test) for n, s in self.scores.items()},
            thresholds={n: s.threshold for n, s in self.scores.items()},
            train_rows=[int(f.train.sum()) for f in folds],
            candidates=names,
            baselines=[n for n, _ in self.baselines],
            chosen=chosen,
            served=self._served(fitted),
            seconds={n: float(np.mean(s.seconds)) for n, s in self.scores.items() if s.seconds},
        )
        fitted.card = card_of(
            self.frame, self.task, self.plan, fitted, evidence, self.kind, self.draws, self.seed
        )
        fitted.card["leaks"] = [vars(leak) for leak in leaks]
        fitted.card |= self._said(folds)
        fitted.tests = {
            **evidence.by_model,
            "truth": evidence.truth,
            "user": evidence.users,
            "champion": nested,
            "fold": evidence.fold,
            "row": np.concatenate([np.flatnonzero(f.test) for f in folds]),
        }
        fitted.card["tested_hash"] = hash_of_tests(fitted.tests["row"], evidence.fold)
        if self.progress:
            self.progress(f"train {self.task.name}", total, total)
        return fitted

    # ---- rows

    def _folds(self) -> list[_Fold]:
        frame, made = self.frame, []
        answered = ~np.isnan(frame.y) | (self.task.answer == "time")
        for fold in self.plan.folds:
            train, test = frame.at(fold.train) & answered, frame.at([fold.test]) & answered
            y = self._answers(fold.test)
            if self._rarer(y[train]) < LEAST or not test.any():
                continue
            inner, later, known = self._held_out(train, y)
            y[test] = self._answers(self.plan.now)[test]
            columns = np.arange(self.own)
            made.append(_Fold(train, test, inner, later, y, self._answers(known), columns))
        return made

    def _answers(self, until: int) -> F64:
        """Return labels as known at a moment: for times, minus the days watched where no event was seen."""
        if self.task.answer != "time":
            return self.frame.y
        days = self.task.horizon.days
        watched = np.clip((until - self.frame.cutoff) / DAY, AT_ONCE, days)
        with np.errstate(invalid="ignore"):
            seen = self.frame.y <= watched
        return np.where(seen, np.maximum(self.frame.y, AT_ONCE), -watched)

    def _held_out(self, train: Bool, y: F64) -> tuple[Bool, Bool, int]:
        """Split training rows into earlier and held-out (the latest cutoff, purged; users where the log is too short),
        and the moment up to which the earlier ones' answers are known."""
        frame, ahead = self.frame, self.plan.horizon.microseconds
        last = int(frame.cutoff[train].max())
        later = train & (frame.cutoff == last)
        inner = train & (frame.cutoff <= last - (ahead // 2 if self.plan.censored else ahead))
        if min(self._rarer(y[inner]), self._rarer(y[later])) >= LEAST and inner.sum() > 2 * LEAST:
            return inner, later, last
        users = np.unique(frame.user[train])
        drawn = np.random.default_rng(self.seed).permutation(users)[: max(1, len(users) // 4)]
        later = train & np.isin(frame.user, drawn)
        return train & ~later, later, last + ahead

    def _rarer(self, y: F64) -> int:
        """Return how many rows carry the rarer answer (the second most common of many)."""
        if self.task.answer == "which":
            counts = np.sort(np.bincount(y.astype(np.int64), minlength=2)) if len(y) else [0, 0]
            return int(counts[-2])
        positive = int((y > 0).sum())
        return min(positive, len(y) - positive) if self.task.answer == "yes_no" else positive

    # ---- what cannot be answered

    def _check_enough(self, folds: list[_Fold]) -> None:
        task, known = self.task, self.frame.y[~np.isnan(self.frame.y)]
        which = f"task {task.name!r} ({task.ask})"
        if task.answer in ("yes_no", "which") and len(known) and known.min() == known.max():
            what = "the same for everyone"
            if task.answer == "yes_no":
                what = "all of them did" if known[0] else "none of them did"
            raise NotEnoughDataError(
                f"{which}: {len(known):,} questions have the same answer ({what}); "
                "there is nothing to tell apart, ask something that differs between users"
            )
        if not folds:
            raise NotEnoughDataError(
                f"{which}: {int((known > 0).sum()):,} of {len(self.frame.y):,} rows are positive, too few before the first test; "
                f"at least {LEAST} of each answer are needed: bring more users or a longer log"
            )
        tested = self._rarer(np.concatenate([f.y[f.test] for f in folds]))
        if tested < LEAST_TESTED:
            raise NotEnoughDataError(
                f"{which}: the forward tests hold only {tested} of the rarer answer; "
                f"at least {LEAST_TESTED} are needed to say how good a model is"
            )

    def _leaks(self) -> list[Leak]:
        """Refuse features that know the answer among those that no shuffled future can show: attributes as they are
        today, and what stands on the very line asked about."""
        frame = self.frame
        wanted = {*judged_alone(frame.features), *self.suspects} - COUNTED
        own = [j for j, name in enumerate(frame.names[: self.own]) if name in wanted]
        rows = np.flatnonzero(~np.isnan(frame.y))
        if not own or not len(rows):
            return []
        leaks = leak_report(
            Gathered(frame.X, rows, np.array(own)),
            frame.y[rows],
            [frame.names[j] for j in own],
            {i: frame.categories[j] for i, j in enumerate(own) if j in frame.categories},
            groups=frame.user[rows],
            known_before=self.options.known,
            classes=frame.classes if self.task.answer == "which" else (),
        )
        column = next((leak.column for leak in leaks if leak.blocks), "NAME")
        refuse(
            leaks,
            f"task {self.task.name!r}: take it out of propend.toml, or, if it is known in time, confirm it with --known {column}",
        )
        return leaks

    # ---- one fold

    def _one_fold(self, fold: _Fold, folds: int, total: int) -> None:
        """Fit each model on the earlier slice to stop and calibrate, then on all training rows to predict the test."""
        if self.options.select:
            earlier = self._rows(fold.inner, fold.y_inner, fold.columns)
            fold.columns = stable_columns(earlier, self.task.answer, self.seed).columns
        raws: dict[str, tuple[F64, F64]] = {}
        for name, given in (*self.choices, *self.baselines):
            if name == BLEND:
                raws[name] = _mean_margin([raws[n] for n in BLENDED])
                taken = [self.scores[n].seconds[-1] for n in BLENDED]
                self.scores[name].seconds.append(sum(taken))
            else:
                raws[name] = self._fit_twice(fold, name, given, folds)
            self._keep(name, fold, raws[name])
            self.done += 1
            if self.progress:
                self.progress(f"train {self.task.name}", self.done, total)

    def _fit_twice(
        self, fold: _Fold, name: str, given: dict[str, Any], folds: int
    ) -> tuple[F64, F64]:
        trivial = (name, given) in self.baselines
        columns = self._columns(name, np.arange(self.own) if trivial else fold.columns)
        earlier = self._rows(fold.inner, fold.y_inner, columns)
        held = self._rows(fold.later, fold.y, columns)
        settings = given
        if self.options.search and not trivial:
            from propend.learn.search import best_settings

            searched = [n for n, _ in self.choices if n != BLEND]
            share = self.options.search / (folds * len(searched))
            settings = best_settings(
                _kind(name), given, self.task.answer, earlier, held, self.kind.loss, share,
                seed=self.seed, balance=self.options.balance,
            )  # fmt: skip
            fold.settings[name] = settings
        balance = self.options.balance and not trivial
        first = fit_model(
            _kind(name), settings, self.task.answer, earlier, self.seed, held, balance
        )
        self.scores[name].settled.append(first.settled)
        start = clock.perf_counter()
        second = fit_model(
            _kind(name), refit_settings(settings, first.settled), self.task.answer,
            self._rows(fold.train, fold.y, columns), self.seed, balance=balance,
        )  # fmt: skip
        self.scores[name].seconds.append(clock.perf_counter() - start)
        test = Gathered(self.frame.X, fold.test, columns)
        return self._wide(first.predict(held.X)), self._wide(second.predict(test))

    def _columns(self, name: str, own: I64) -> I64:
        """Return the columns a model reads: the behaviour model's too, where it is the fusion."""
        if name != FUSION:
            return own
        return np.concatenate([own, np.arange(self.own, self.frame.X.shape[1])])

    def _wide(self, raw: F64) -> F64:
        """Give every class of the task a column, where the training rows held fewer."""
        if raw.ndim == 2 and raw.shape[1] < len(self.frame.classes):
            more = len(self.frame.classes) - raw.shape[1]
            return np.pad(raw, ((0, 0), (0, more)))
        return raw

    def _rows(self, rows: Bool, y: F64, columns: I64 | None = None) -> Rows:
        return Rows.of(self.frame, rows, y, columns)

    def _keep(self, name: str, fold: _Fold, raws: tuple[F64, F64]) -> None:
        """Keep a model's predictions of a fold, calibrated on the held-out slice."""
        scores, (raw_later, raw) = self.scores[name], raws
        scores.raw.append(raw)
        if self.task.answer == "yes_no":
            users = self.frame.user[fold.later]
            calibrator = calibration.choose(
                raw_later, fold.y[fold.later], groups=users, seed=self.seed
            )
            raw_later, raw = calibrator.apply(raw_later), calibrator.apply(raw)
        elif self.task.answer != "which":
            raw_later, raw = np.maximum(raw_later, 0.0), np.maximum(raw, 0.0)
        scores.validation.append(raw_later)
        scores.test.append(raw)

    # ---- the champion

    def _champion(self, names: list[str], folds: list[_Fold]) -> str:
        """Return the model that does best on the held-out slices so far; a simpler one stays where the gain is noise."""
        y = np.concatenate([f.y[f.later] for f in folds])
        users = np.concatenate([self.frame.user[f.later] for f in folds])
        held = {n: np.concatenate(self.scores[n].validation[: len(folds)]) for n in names}
        named = [(n, n if n == FUSION else family(*read_model(n))) for n in names]
        return self.kind.champion(named, y, held, groups=users, n=100, seed=self.seed)

    def _threshold(self, scores: _Scores, folds: list[_Fold]) -> float | None:
        if self.task.answer != "yes_no":
            return None
        y = np.concatenate([f.y[f.later] for f in folds])
        return float(metrics.best_f1_threshold(y, np.concatenate(scores.validation)))

    def _final(self, name: str, folds: list[_Fold]) -> Fitted:
        """Fit the champion on every row with a known label; calibrate on its forward test scores."""
        frame, task = self.frame, self.task
        y = self._answers(self.plan.now)
        rows = frame.at(self.plan.final) & ~np.isnan(y)
        columns = np.arange(self.own)
        self.selection = None
        if self.options.select:
            self.selection = stable_columns(self._rows(rows, y, columns), task.answer, self.seed)
            columns = self.selection.columns
        columns = self._columns(name, columns)
        given = {n: folds[-1].settings.get(n, s) for n, s in self.choices}

        def refit(part: str) -> Model:
            settings = refit_settings(given[part], *self.scores[part].settled)
            return fit_model(
                _kind(part), settings, task.answer, self._rows(rows, y, columns), self.seed,
                balance=self.options.balance,
            )  # fmt: skip

        model = Blending.of([refit(part) for part in BLENDED]) if name == BLEND else refit(name)
        calibrator: Calibrator = calibration.Identity()
        if task.answer == "yes_no":
            calibrator = calibration.choose(
                np.concatenate(self.scores[name].raw),
                np.concatenate([f.y[f.test] for f in folds]),
                groups=np.concatenate([frame.user[f.test] for f in folds]),
                seed=self.seed,
            )
        features = tuple(frame.features[j] for j in columns)
        place = {int(j): i for i, j in enumerate(columns)}
        categories = {place[j]: levels for j, levels in frame.categories.items() if j in place}
        threshold = self.scores[name].threshold
        made = Fitted(task, name, model, calibrator, features, categories, threshold)
        made.beside = self.beside if name == FUSION else None
        return made

    def _served(self, fitted: Fitted) -> F64:
        """Return out-of-time scores on the scale on which the refitted model will score."""
        scores = self.scores[fitted.name]
        if self.task.answer != "yes_no":
            return np.concatenate(scores.test)
        return fitted.calibrator.apply(np.concatenate(scores.raw))

    def _said(self, folds: list[_Fold]) -> dict[str, Any]:
        """Return what the card says of the options in use."""
        said: dict[str, Any] = {}
        gone = int(np.isnan(self.frame.y).sum())
        if gone and self.task.answer != "time":
            said["unanswered"] = gone
        if self.task.answer == "which":
            said["classes"] = list(self.frame.classes)
        if self.options.quantile is not None:
            said["quantile"] = self.options.quantile
        if self.options.balance:
            said["balance"] = (
                "both answers weigh the same in training; probabilities are calibrated on unweighted rows"
            )
        if self.options.search:
            said["search"] = {"seconds": self.options.search, "chosen": folds[-1].settings}
        if self.selection is not None:
            said["selection"] = self.selection.said(self.frame.names)
        return said


def _kind(name: str) -> str:
    """Return which model of the catalogue a candidate is."""
    return "trees" if name == FUSION else read_model(name)[0]


def _mean_margin(parts: Sequence[tuple[F64, F64]]) -> tuple[F64, F64]:
    """Return the probabilities of the mean logit, on the held-out and on the test rows."""

    def mean(scores: Sequence[F64]) -> F64:
        held = np.clip(np.array(scores), 1e-6, 1 - 1e-6)
        return np.asarray(1 / (1 + np.exp(-np.log(held / (1 - held)).mean(0))))

    return mean([p[0] for p in parts]), mean([p[1] for p in parts])
