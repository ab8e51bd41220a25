"""Who competes for a task: candidates from simple to flexible, and the trivial rules they must beat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Final

from propend.errors import ConfigError, ModelError
from propend.models import catalog
from propend.models.adapter import Adapter, AdapterParameters
from propend.models.model import Answer
from propend.models.parameters import read_settings
from propend.tasks.frame import Frame
from propend.tasks.task import Task

__all__ = [
    "BLEND",
    "BLENDED",
    "FUSION",
    "MODELS",
    "Candidate",
    "baselines",
    "candidates",
    "family",
    "read_model",
    "table_candidates",
]

Choice = tuple[str, dict[str, Any]]

BLEND: Final = "blend"
BLENDED: Final = ("logistic", "trees")
FUSION: Final = "fusion"
"""Boosted trees that read a behaviour model's columns beside the aggregates; the others read the aggregates alone."""
MODELS: Final[dict[str, tuple[Choice, ...]]] = {
    "yes_no": (("logistic", {"bends": 0}), ("trees", {}), ("blend", {})),
    "amount": (("two_part", {}), ("trees", {"loss": "tweedie"})),
    "count": (("linear", {"bends": 0}), ("trees", {"loss": "poisson"})),
    "which": (("logistic", {"bends": 0}), ("trees", {})),
    "time": (("hazard", {}), ("hazard_trees", {})),
}
"""Candidates by answer, from simple to flexible: a later one must beat the one in hand beyond noise.

``blend`` is the mean margin of the two before it, at no further cost: they err differently (straight lines and steps).

The linear models take the derived features as they are (``bends`` 0): windows already bend them, and hinges on 150
correlated columns cost 20 times the time and lost 1.3 points of AUROC on Online Retail (``docs/log.md``)."""


@dataclass(frozen=True)
class Candidate:
    """A model of a comparison: how it is called, its name in the catalogue, its settings."""

    label: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: str | Candidate) -> Candidate:
        """Return a candidate; a bare name is a model with its own settings."""
        return cls(given, given) if isinstance(given, str) else given


_CLASS: Final = re.compile(r"([\w.]+:[A-Za-z_]\w*)(?::(.*))?")
"""A third party's ``package.module:Class``, with settings behind a second colon."""


def read_model(word: str) -> Choice:
    """Return the model and the settings that a word names, in the notation of ``recommend --with``.

    A dotted name is an estimator of scikit-learn; what the adapter itself does not take are the estimator's settings.
    Raises ``ConfigError`` where a setting has no value.

    >>> read_model("logistic:penalty=l1")
    ('logistic', {'penalty': 'l1'})
    >>> read_model("sklearn.ensemble.AdaBoost")
    ('sklearn', {'estimator': 'sklearn.ensemble.AdaBoost'})
    >>> read_model("sklearn:estimator=sklearn.ensemble.AdaBoost,n_estimators=50")
    ('sklearn', {'estimator': 'sklearn.ensemble.AdaBoost', 'settings': {'n_estimators': 50}})
    >>> read_model("mine.models:Mine:depth=2")
    ('mine.models:Mine', {'depth': 2})
    """
    place = _CLASS.fullmatch(word)
    if place is not None and place[1].partition(":")[0] not in catalog.names():
        return place[1], read_settings(f"{place[1].replace(':', '.')}:{place[2] or ''}")[1]
    name, settings = read_settings(word)
    if "." in name:
        name, settings = "sklearn", {"estimator": name, **settings}
    if name == "sklearn":
        known = {f.name for f in fields(AdapterParameters)}
        own = {k: v for k, v in settings.items() if k not in known}
        settings = {k: v for k, v in settings.items() if k in known}
        if own:
            settings["settings"] = own
    return name, settings


def family(model: str, settings: Mapping[str, Any]) -> str:
    """Return what several settings of one model have in common: its name, or the estimator's behind ``sklearn``.

    >>> family("trees", {"leaves": 8}), family("sklearn", {"estimator": "sklearn.svm.SVC"})
    ('trees', 'sklearn.svm.SVC')
    """
    return str(settings.get("estimator", model)) if model == "sklearn" else model


def _check(model: str, settings: Mapping[str, Any], answer: Answer, read: str = "") -> None:
    """Refuse before any fit a model that is none, is of another answer or cannot be set so."""
    if read and answer not in catalog.find(model).answers:
        raise ModelError(f"{model!r} does not answer {answer!r}: {read}")
    made = catalog.create(model, answer, **settings)
    if isinstance(made, Adapter):
        made.check()


SLOW: Final = {"learning_rate": 0.03, "leaves": 31, "column_share": 0.4, "l2": 1.0}


def table_candidates(
    answer: Answer, quantile: float | None = None, only: Sequence[str] = (), read: str = ""
) -> tuple[Candidate, ...]:
    """Return the models that compete for a table's label, from simple to flexible; ``only`` names them.

    ``read`` says how the label came to have this answer, to whoever names a model that does not give it.

    Explainable boosting and XGBoost compete, and are blended, where their extras are installed. The published tables
    (``benchmarks.quality.prediction``) let the same ones compete.

    >>> [c.label for c in table_candidates("amount")]
    ['linear', 'trees']
    """
    if quantile is not None:
        _no_names(only)
        return (Candidate("trees", "trees", {"loss": "quantile", "quantile": quantile}),)
    known = _known(answer)
    if not only:
        return known
    by_name = {c.model: c for c in reversed(known)} | {c.label: c for c in known}
    chosen = tuple(by_name.get(word) or _named(word, by_name) for word in dict.fromkeys(only))
    for candidate in chosen:
        _check(candidate.model, candidate.settings, answer, read)
    return chosen


def _named(word: str, known: Mapping[str, Candidate]) -> Candidate:
    """Return the candidate a word names; what it does not set stays as the usual candidate of this model has it."""
    model, settings = read_model(word)
    usual = known[model].settings if model in known else {}
    return Candidate(word, model, {**usual, **settings})


def _known(answer: Answer) -> tuple[Candidate, ...]:
    if answer == "which":
        return (Candidate("logistic", "logistic", {"bends": 0}), Candidate.of("trees"))
    if answer == "count":
        return (Candidate.of("linear"), Candidate("trees", "trees", {"loss": "poisson"}))
    if answer != "yes_no":
        return (Candidate.of("linear"), Candidate.of("trees"))
    more = [
        name
        for name, library in (("xgboost", "xgboost"), ("ebm", "interpret"))
        if find_spec(library)
    ]
    settings = {"trees": SLOW, "ebm": {"bags": 1, "pairs": 10}}
    blended = ("logistic", "trees", *more)
    blend = {"models": blended, "settings": {n: s for n, s in settings.items() if n in blended}}
    machine = [Candidate("ebm", "ebm", {"bags": 2, "pairs": 10})] if "ebm" in more else []
    return (
        Candidate.of("logistic"),
        Candidate.of("trees"),
        Candidate("trees, more leaves and smaller steps", "trees", SLOW),
        *machine,
        Candidate("blending", "blending", blend),
    )


def candidates(
    task: Task, quantile: float | None = None, only: Sequence[str] = ()
) -> tuple[Choice, ...]:
    """Return the models that compete for a task's answer, or for a quantile of it, by the word that names them (``read_model``).

    ``only`` are such words, instead of the usual ones.
    """
    if quantile is not None:
        _no_names(only)
        return (("trees", {"loss": "quantile", "quantile": quantile}),)
    known = dict(MODELS[task.answer])
    if not only:
        return MODELS[task.answer]
    if BLEND in only and not set(BLENDED) <= set(only):
        raise ConfigError(
            f"{BLEND!r} is the mean of the usual {' and '.join(BLENDED)}; name them too, without settings"
        )
    order = sorted(dict.fromkeys(only), key=lambda name: name == BLEND)
    chosen = []
    for word in order:
        model, settings = read_model(word)
        settings = {**known.get(model, {}), **settings}
        if word != BLEND or BLEND not in known:
            _check(model, settings, task.answer)
        chosen.append((word, settings))
    return tuple(chosen)


def _no_names(only: Sequence[str]) -> None:
    if only:
        raise ConfigError("a quantile is told by the quantile trees alone; leave --model out")


def baselines(frame: Frame, task: Task, quantile: float | None = None) -> list[Choice]:
    """Return what a model must beat: the base rate, recency, and the RFM score of the events asked about."""
    if quantile is not None:
        return [("constant_quantile", {"quantile": quantile})]
    if task.answer == "which":
        return [("base_rate", {})]
    if task.answer == "time":
        return [("kaplan_meier", {})]
    names = set(frame.names)
    types = [t for a in task.target.aggregates() for t in a.types]
    of = next((t for t in types if f"days_since({t})" in names), None)
    found: list[Choice] = (
        [("base_rate", {})] if task.answer == "yes_no" else [("mean", {}), ("always_zero", {})]
    )
    wanted = (f"days_since({of})", "days_since(*)")
    recency = next(
        (n for n in (*wanted, *sorted(n for n in names if n.startswith("days_since("))) if n in names),
        None,
    )  # fmt: skip
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


def _customer_base(of: str, names: set[str], horizon: float) -> list[Choice]:
    """Return BG/NBD (and Gamma-Gamma) over the history of an event, where the frame has its columns."""
    since, first, days = (f"{f}({of})" for f in ("days_since", "days_since_first", "active_days"))
    if not {since, first, days} <= names:
        return []
    total = f"sum({of}.value)"
    settings = {"since": since, "first": first, "days": days, "horizon": horizon}
    return [("bg_nbd", {**settings, "total": total if total in names else None})]
