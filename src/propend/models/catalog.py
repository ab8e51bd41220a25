"""Models by name; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, Final

from propend.errors import ModelError, nearest
from propend.models import storage
from propend.models.model import Answer, Model

__all__ = ["create", "find", "learns", "load", "names"]

_PLACES: Final = {
    "always_zero": "propend.models.baseline:AlwaysZero",
    "base_rate": "propend.models.baseline:BaseRate",
    "bg_nbd": "propend.models.buying:RepeatBuying",
    "blending": "propend.models.ensemble:Blending",
    "constant_quantile": "propend.models.baseline:ConstantQuantile",
    "decision_tree": "propend.models.forest:DecisionTree",
    "ebm": "propend.models.boosting:ExplainableBoosting",
    "encoded": "propend.models.encoded:Encoded",
    "extra_trees": "propend.models.forest:ExtraTrees",
    "hazard": "propend.models.hazard:Hazard",
    "hazard_trees": "propend.models.hazard:TreesHazard",
    "kaplan_meier": "propend.models.hazard:KaplanMeier",
    "linear": "propend.models.linear:LinearRegression",
    "logistic": "propend.models.linear:LogisticRegression",
    "mean": "propend.models.baseline:Mean",
    "mlp": "propend.models.neural:Perceptron",
    "naive_bayes": "propend.models.simple:NaiveBayes",
    "neighbours": "propend.models.simple:Neighbours",
    "random_forest": "propend.models.forest:RandomForest",
    "rfm": "propend.models.baseline:RfmScore",
    "scorecard": "propend.models.baseline:Scorecard",
    "sklearn": "propend.models.adapter:Adapter",
    "stacking": "propend.models.ensemble:Stacking",
    "svm_linear": "propend.models.vectors:LinearSvm",
    "svm_rbf": "propend.models.vectors:RadialSvm",
    "trees": "propend.models.trees:Trees",
    "two_part": "propend.models.value:TwoPart",
    "xgboost": "propend.models.boosting:XgBoost",
}


def names(answer: Answer | None = None) -> tuple[str, ...]:
    """The models of the house, all or those that give an answer.

    >>> names("which")
    ('base_rate', 'decision_tree', 'encoded', 'extra_trees', 'logistic', 'mlp', 'naive_bayes', 'neighbours', 'random_forest', 'sklearn', 'trees', 'xgboost')
    """
    return tuple(n for n in _PLACES if answer is None or answer in find(n).answers)


def find(name: str) -> type[Model]:
    """The class of a name, or of a third party's ``package.module:Class``.

    Raises
    ------
    ModelError
        no such name, module or class; or the class is not a model.

    >>> find("logistic").__name__
    'LogisticRegression'
    >>> find("logstic")
    Traceback (most recent call last):
    propend.errors.ModelError: there is no model 'logstic'; did you mean 'logistic'?
    """
    place = _PLACES.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ModelError(f"there is no model '{name}'{nearest(name, _PLACES)}")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"the model '{name}' cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Model)) or isabstract(found):
        raise ModelError(f"'{name}' is not a model; derive it from propend.models.Model")
    return found


_TRIVIAL: Final = frozenset(
    {"always_zero", "base_rate", "bg_nbd", "constant_quantile", "encoded", "kaplan_meier", "mean", "rfm", "scorecard"}
)  # fmt: skip


def learns(name: str) -> bool:
    """Whether a model looks at all columns: the trivial rules look at none, or at named ones.

    >>> learns("trees"), learns("base_rate")
    (True, False)
    """
    return name not in _TRIVIAL


def create(name: str, answer: Answer | None = None, **settings: Any) -> Model:
    """A model that is not fitted yet.

    >>> create("trees", "yes_no", leaves=7)
    Trees('yes_no', leaves=7)
    """
    return find(name)(answer, **settings)


def load(folder: str | Path, *, plugins: tuple[str, ...] = ()) -> Model:
    """Read a saved model, finding its class by the name it was saved under.

    A third party's class is imported only if its ``package.module:Class`` is among ``plugins``: a
    file never decides what code runs.

    Raises
    ------
    ModelError
        no model there, damaged, of another version, or of a class that is not known here.
    """
    state = storage.read(Path(folder))
    name, place = str(state.header.get("model")), str(state.header.get("class"))
    if _PLACES.get(name) == place:
        return find(name).from_state(state)
    if place in plugins:
        return find(place).from_state(state)
    raise ModelError(f"the model in {folder} is a '{place}'; name it in plugins to load it")
