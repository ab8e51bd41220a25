"""A labelled table without any time: k-fold cross-validation, said loudly, since no fold can be forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import ConfigError, NotEnoughDataError, nearest
from propend.learn import calibration, metrics
from propend.learn.calibration import Calibrator
from propend.learn.explain import remark_on_reasons
from propend.learn.fitting import Rows, fit_model, refit_settings
from propend.learn.intervals import uncertainty
from propend.learn.judge import Judge, as_range, hash_of_tests, judge
from propend.learn.labelled import FEWEST, LabelledTable, read_table
from propend.learn.leaks import leak_report, refuse
from propend.learn.power import stated, verdict
from propend.learn.rivals import Candidate, family, table_candidates
from propend.learn.segments import by_segment, segments_of
from propend.learn.selection import stable_columns
from propend.learn.threshold import Contact, profit_curve
from propend.learn.train import Options
from propend.models.gathered import Gathered
from propend.models.model import Model

__all__ = ["Candidate", "LabelledTable", "TableFit", "cross_validate", "read_table"]

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TableFit:
    """Scores out of fold, and the card with every figure and its protocol."""

    scores: F64
    card: dict[str, Any]
    by_model: dict[str, F64] = field(default_factory=dict)
    """Out-of-fold scores of every model compared; NaN where a row only trained."""
    model: Model | None = None
    """The champion fitted on all rows, for rows to come."""
    calibrator: Calibrator = field(default_factory=calibration.Identity)
    threshold: float | None = None
    """The F1-optimal cut, mean over the folds' held-out rows."""

    def score(self, X: F64) -> F64:
        """Return scores of other rows, read like the table was: [n], or [n, classes]."""
        assert self.model is not None
        raw = self.model.predict(X)
        return self.calibrator.apply(raw) if self.card["answer"] == "yes_no" else raw


def cross_validate(
    table: LabelledTable,
    *,
    folds: int = 5,
    seed: int = 7,
    draws: int = 200,
    models: Sequence[str | Candidate] | None = None,
    beside: Sequence[str | Candidate] = (),
    known_before: Sequence[str] = (),
    options: Options | None = None,
    segments: Sequence[str] = (),
    contact: Contact | None = None,
    refit: bool = False,
    later: F64 | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> TableFit:
    """Judge models and return the champion's out-of-fold scores.

    Folds go forward in time where the table has a time, keep groups whole where it has groups, and are stratified
    otherwise. Within each training fold a quarter is held out (the latest, whole groups, or at random) to stop the
    trees, to calibrate and to choose the champion among ``models``, from simple to flexible, so the test fold chooses
    nothing. Models ``beside`` are only compared: fitted once a fold, scored as they are. The trivial baseline stands in
    the card, and so does the time each model took to fit. ``segments`` are columns by which the champion is judged apart,
    ``contact`` asks for the profit curve. ``refit`` fits the champion on all rows at the end; ``later`` are rows to come,
    on which a budget is then spent instead of on the table's own.

    Raises ``LeakError`` where a column knows the answer and is not among ``known_before``, the columns a person has
    confirmed to be known in time.
    """
    for name in segments:
        if name not in table.columns:
            raise ConfigError(f"no column {name!r} to judge by{nearest(name, table.columns)}")
    if segments and table.answer == "which":
        raise ConfigError("one of many is not judged by segment; leave --segment out")
    if contact is not None and table.answer != "yes_no":
        raise ConfigError("a profit curve is of a yes/no label; leave --value and --cost out")
    fit = _CrossValidation(
        table, folds, seed, draws, models, beside, known_before, options or Options(), progress
    ).run(refit or later is not None)
    return _judged_apart(table, fit, segments, contact, seed, later)


class _CrossValidation:
    """One run over a table's folds, with what its steps share."""

    def __init__(
        self,
        table: LabelledTable,
        folds: int,
        seed: int,
        draws: int,
        models: Sequence[str | Candidate] | None,
        beside: Sequence[str | Candidate],
        known_before: Sequence[str],
        options: Options,
        progress: Callable[[str, int, int | None], None] | None,
    ) -> None:
        if options.quantile is not None and table.answer != "amount":
            raise ConfigError(
                f"a quantile is of an amount, but the label is {table.answer}; leave --quantile out"
            )
        self.table, self.seed, self.draws, self.options = table, seed, draws, options
        self.known_before, self.progress = known_before, progress
        self.kind: Judge = judge(table.answer, options.quantile)
        usual = table_candidates(table.answer, options.quantile, options.models, table.read)
        self.names = tuple(map(Candidate.of, models or usual))
        self.others = tuple(map(Candidate.of, beside))
        self.trivial = _trivial(table.answer, options.quantile)
        self.fold_of = _fold_of(table, folds, seed)
        self.tested = [k for k in range(folds) if (self.fold_of == k).any()]
        shape = (len(table.y), len(table.classes)) if table.classes else (len(table.y),)
        every = [c.label for c in (*self.names, *self.others, self.trivial)]
        self.scores = {label: np.full(shape, np.nan) for label in (*every, "champion")}
        self.raw = {label: np.full(shape, np.nan) for label in every}
        self.seconds: dict[str, list[float]] = {label: [] for label in every}
        self.settled: dict[str, list[dict[str, Any]]] = {label: [] for label in every}
        self.settings: dict[str, dict[str, Any]] = {}
        self.remarks: dict[str, str] = {}

    def run(self, refit: bool) -> TableFit:
        """Do the steps in order."""
        leaks = self._leaks()
        chosen: list[str] = []
        cuts: list[float] = []
        for done, k in enumerate(self.tested):
            best, cut = self._one_fold(k)
            chosen.append(best)
            cuts += [] if cut is None else [cut]
            if self.progress:
                self.progress("folds", done + 1, len(self.tested))
        threshold = float(np.mean(cuts)) if cuts else None
        card = self._card(chosen, threshold)
        card["leaks"] = [asdict(leak) for leak in leaks]
        fit = TableFit(self.scores["champion"], card, self.scores, threshold=threshold)
        return self._refit(fit) if refit else fit

    def _leaks(self) -> list[Any]:
        table = self.table
        leaks = leak_report(
            table.X,
            table.y,
            table.columns,
            table.categories,
            fold_of=self.fold_of if table.time is None else None,
            groups=table.groups,
            known_before=self.known_before,
            classes=table.classes,
            label=table.label,
            positive=table.positive or "yes",
        )
        found = [leak for leak in leaks if leak.column or "rows" not in self.known_before]
        column = next((leak.column for leak in found if leak.blocks), "")
        known = f"leave it out with --ignore, or, if it is known in time, confirm it with --known {column}"
        refuse(found, known if column else "to go on nevertheless, confirm it with --known rows")
        return leaks

    def _one_fold(self, k: int) -> tuple[str, float | None]:
        """Fit every model, score the fold's test rows, and return the champion with its threshold."""
        table, test = self.table, self.fold_of == k
        train = (self.fold_of < k) if table.time is not None else ~test
        held = train & _held_out(table, train, self.seed + k)
        inner = train & ~held
        columns = np.arange(table.X.shape[1])
        if self.options.select:
            columns = stable_columns(self._rows(inner), table.answer, self.seed).columns
        on_held: dict[str, F64] = {}
        for candidate in (*self.names, *self.others, self.trivial):
            nested = candidate in self.names
            part = self._fit(candidate, inner, train, held, test, columns, nested=nested)
            on_held[candidate.label] = part.held
            self.scores[candidate.label][test] = part.test
            self.raw[candidate.label][test] = part.raw
            self.seconds[candidate.label].append(part.seconds)
            if part.remark:
                self.remarks[candidate.label] = part.remark
        groups = None if table.groups is None else table.groups[held]
        named = [(c.label, family(c.model, c.settings)) for c in self.names]
        best = self.kind.champion(
            named, table.y[held], on_held, groups=groups, n=100, seed=self.seed
        )
        self.scores["champion"][test] = self.scores[best][test]
        if table.answer != "yes_no":
            return best, None
        return best, metrics.best_f1_threshold(table.y[held], on_held[best])

    def _rows(self, rows: Bool, columns: npt.NDArray[np.int64] | None = None) -> Rows:
        table = self.table
        counts = {j: len(levels) for j, levels in table.categories.items()}
        names, X = table.columns, Gathered(table.X, rows, columns)
        if columns is not None:
            place = {int(j): i for i, j in enumerate(columns)}
            names = tuple(names[j] for j in columns)
            counts = {place[j]: count for j, count in counts.items() if j in place}
        groups = None if table.groups is None else table.groups[rows]
        moments = None if table.time is None else table.time[rows]
        return Rows(X, table.y[rows], names, counts, groups, moments)

    def _fit(
        self,
        candidate: Candidate,
        inner: Bool,
        train: Bool,
        held: Bool,
        test: Bool,
        columns: npt.NDArray[np.int64],
        *,
        nested: bool,
    ) -> _Part:
        """Return calibrated scores of the held-out rows (from the inner fit) and of the test rows (from the whole fit)."""
        table, name, settings = self.table, candidate.model, dict(candidate.settings)
        fit = partial(
            fit_model, answer=table.answer, seed=self.seed, balance=self.options.balance and nested
        )
        start = time.perf_counter()
        if not nested:
            model = fit(name, settings, rows=self._rows(train))
            seconds = time.perf_counter() - start
            raw = self._wide(model.predict(Gathered(table.X, test)))
            return _Part(np.empty(0), raw, raw, seconds, model.remark)
        earlier, watched = self._rows(inner, columns), self._rows(held, columns)
        if self.options.search:
            from propend.learn.search import best_settings

            share = self.options.search / (len(self.tested) * len(self.names))
            settings = best_settings(
                name, settings, table.answer, earlier, watched, self.kind.loss, share,
                seed=self.seed, balance=self.options.balance,
            )  # fmt: skip
            self.settings[candidate.label] = settings
        first = fit(name, settings, rows=earlier, held=watched)
        on_held = self._wide(first.predict(watched.X))
        self.settled[candidate.label].append(first.settled)
        again = refit_settings(settings, first.settled)
        second = fit(name, again, rows=self._rows(train, columns))
        seconds = time.perf_counter() - start
        on_test = raw = self._wide(second.predict(Gathered(table.X, test, columns)))
        if table.answer == "yes_no":
            calibrator = calibration.choose(on_held, table.y[held], seed=self.seed)
            on_held, on_test = calibrator.apply(on_held), calibrator.apply(on_test)
        return _Part(on_held, on_test, raw, seconds, second.remark)

    def _wide(self, p: F64) -> F64:
        """Give every class a column, where the training rows held fewer."""
        if p.ndim == 1:
            return p
        return np.pad(p, ((0, 0), (0, len(self.table.classes) - p.shape[1])))

    def _refit(self, fit: TableFit) -> TableFit:
        """Fit the champion on every row; calibrate it on its out-of-fold scores."""
        table, label = self.table, fit.card["champion"]
        candidate = next(c for c in self.names if c.label == label)
        settings = self.settings.get(label, dict(candidate.settings))
        settings = refit_settings(settings, *self.settled[label])
        every = np.ones(len(table.y), np.bool_)
        model = fit_model(
            candidate.model, settings, table.answer, self._rows(every), self.seed,
            balance=self.options.balance,
        )  # fmt: skip
        calibrator: Calibrator = calibration.Identity()
        if table.answer == "yes_no":
            tested = self.fold_of >= 0
            groups = None if table.groups is None else table.groups[tested]
            calibrator = calibration.choose(
                self.raw[label][tested], table.y[tested], groups=groups, seed=self.seed
            )
        card = dict(fit.card)
        said = remark_on_reasons(model, table.X[:1])
        if said:
            card["reasons"] = said
        if "uncertainty" in card:  # on the scale of the model that serves
            served = calibrator.apply(self.raw[label])
            of_folds = [
                (table.y[rows], served[rows]) for rows in (self.fold_of == k for k in self.tested)
            ]
            card["uncertainty"] = uncertainty(table.answer, of_folds)
        return replace(fit, model=model, calibrator=calibrator, card=card)

    def _card(self, chosen: list[str], threshold: float | None) -> dict[str, Any]:
        table, kind, fold_of = self.table, self.kind, self.fold_of
        tested = fold_of >= 0
        y, best, fold = table.y[tested], self.scores["champion"][tested], fold_of[tested]
        groups = None if table.groups is None else table.groups[tested]
        options = {"groups": groups, "strata": fold, "n": self.draws, "seed": self.seed}
        trivial = self.trivial.label
        against = self.scores[trivial][tested]

        def judged(label: str) -> dict[str, float]:
            return kind.metrics(y, self.scores[label][tested], fold, threshold)

        main = kind.headline[0]
        card: dict[str, Any] = {
            "rows": len(table.y),
            "tested": int(tested.sum()),
            "tested_positives": None if table.classes else int((y > 0).sum()),
            "positives": None if table.classes else int((table.y > 0).sum()),
            "answer": table.answer,
            "positive": table.positive,
            "negative": table.negative,
            "read": table.read,
            "folds": len(self.tested),
            "seed": self.seed,
            "protocol": _protocol(table, len(self.tested)),
            "data_hash": table.data_hash(),
            "tested_hash": hash_of_tests(np.flatnonzero(tested), fold),
            "champion": max(set(chosen), key=chosen.count),
            "champions": chosen,
            "metrics": judged("champion"),
            "intervals": {
                n: as_range(kind.interval(n, y, best, **options)) for n in kind.headline[:4]
            },
            "baseline": {trivial: judged(trivial)},
            "models": {c.label: judged(c.label) for c in (*self.names, *self.others)},
            "by_fold": {
                label: [
                    kind.metrics(y[fold == k], self.scores[label][tested][fold == k])[main]
                    for k in self.tested
                ]
                for label in ("champion", *(c.label for c in (*self.names, *self.others)))
            },
            "columns": list(table.columns),
            "left_out": table.left_out,
            "noted": table.noted,
            "rows_in": len(table.y) + table.unlabelled + table.malformed,
            "unlabelled": table.unlabelled,
            "malformed": table.malformed,
            "seconds": {label: float(np.mean(each)) for label, each in self.seconds.items()},
            "remarks": self.remarks,
            "nested": [c.label for c in self.names],
            "margins": {
                trivial: {
                    n: as_range(kind.difference(n, y, best, against, **options))
                    for n in kind.compared
                }
            },
        }
        if table.classes:
            card["classes"] = list(table.classes)
        if best.ndim == 1:
            of_folds = [(y[fold == k], best[fold == k]) for k in self.tested]
            card["uncertainty"] = uncertainty(table.answer, of_folds)
        if self.options.quantile is not None:
            card["quantile"] = self.options.quantile
        if self.options.balance:
            card["balance"] = (
                "both answers weigh the same in training; probabilities are calibrated on unweighted rows"
            )
        if self.options.search:
            card["search"] = {"seconds": self.options.search, "chosen": self.settings}
        card["verdict"] = verdict(card)
        card["power"] = stated(card, main)
        return card


def _judged_apart(
    table: LabelledTable,
    fit: TableFit,
    segments: Sequence[str],
    contact: Contact | None,
    seed: int,
    later: F64 | None,
) -> TableFit:
    """Put metrics by segment and the profit curve into the card."""
    tested = ~np.isnan(fit.scores.reshape(len(table.y), -1)[:, 0])
    y, p = table.y[tested], fit.scores[tested]
    groups = None if table.groups is None else table.groups[tested]
    for name in segments:
        j = table.columns.index(name)
        codes, names = segments_of(table.X[tested, j], table.categories.get(j))
        yes_no = table.answer == "yes_no"
        found = by_segment(y, p, codes, names, yes_no=yes_no, groups=groups, seed=seed)
        fit.card.setdefault("segments", {})[name] = found
    if contact is not None:
        curve = profit_curve(
            y, p, value=contact.value, cost=contact.cost, budget=contact.budget, groups=groups,
            people=None if later is None else fit.score(later), seed=seed,
        )  # fmt: skip
        fit.card["profit"] = curve.said()
    return fit


def _trivial(answer: str, quantile: float | None) -> Candidate:
    if quantile is not None:
        return Candidate("constant_quantile", "constant_quantile", {"quantile": quantile})
    return Candidate.of("mean" if answer in ("amount", "count") else "base_rate")


def _fold_of(table: LabelledTable, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each row's fold; −1 for rows that only train (the first stretch of time)."""
    if folds < 2:
        raise ConfigError(f"{folds} folds cannot judge a model; use at least 2")
    rare, what = len(table.y), "row"
    if table.answer in ("yes_no", "which"):
        # rare answers of many share a class, which may be smaller
        rare = max(FEWEST, int(np.bincount(table.y.astype(np.int64)).min()))
        what = "row of every answer"
    if folds > rare:
        raise ConfigError(f"{folds} folds cannot each hold a {what}; use at most {rare}")
    if table.time is not None:
        # whole moments stay together: rows of one moment are never on both sides
        _, moment = np.unique(table.time, return_inverse=True)
        cumulative = np.cumsum(np.bincount(moment)) / len(moment)
        stretch = np.minimum((cumulative * (folds + 1) - 1e-9).astype(np.int64), folds)
        fold = np.unique(stretch, return_inverse=True)[1] - 1  # the first stretch only trains
        if fold.max() < 0:
            raise NotEnoughDataError(
                "the time column has too few different moments to test forward; leave it out or bring a longer table"
            )
        return fold[moment]
    rng = np.random.default_rng(seed)
    if table.groups is not None:
        found, group = np.unique(table.groups, return_inverse=True)
        if len(found) < folds:
            raise NotEnoughDataError(
                f"{len(found)} groups cannot fill {folds} folds; use fewer folds or another group column"
            )
        return (rng.permutation(len(found)) % folds)[group]
    strata = (
        table.y
        if table.answer in ("yes_no", "which")
        else np.argsort(np.argsort(table.y, kind="stable")) * 10 // len(table.y)
    )
    fold = np.empty(len(table.y), np.int64)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def _held_out(
    table: LabelledTable, train: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.bool_]:
    """Return a quarter of the training rows: the latest, whole groups, or at random."""
    if table.time is not None:
        edge = np.quantile(table.time[train], 0.75)
        for late in (table.time > edge, table.time >= edge):
            if (train & late).any() and (train & ~late).any():
                return np.asarray(late, np.bool_)
        return np.random.default_rng([seed, 1]).random(len(train)) < 0.25  # one moment only
    rng = np.random.default_rng([seed, 1])
    if table.groups is not None:
        found, group = np.unique(table.groups, return_inverse=True)
        return (rng.random(len(found)) < 0.25)[group]
    return rng.random(len(train)) < 0.25


@dataclass(frozen=True)
class _Part:
    held: F64
    test: F64
    raw: F64
    """Scores of the test rows before they are calibrated."""
    seconds: float
    remark: str


def _protocol(table: LabelledTable, folds: int) -> str:
    inside = "champion and calibration chosen inside each training fold"
    if table.time is not None:
        return f"{folds} forward folds by the table's time, {inside}"
    if table.groups is not None:
        return f"{folds}-fold cross-validation with whole groups, {inside}; the table has no time, so no fold is forward and the figures flatter"
    return f"{folds}-fold stratified cross-validation, {inside}; the table has no time, so no fold is forward and the figures flatter"
