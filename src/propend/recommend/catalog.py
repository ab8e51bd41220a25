"""Recommenders by name, imported when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, Final

from propend.errors import ModelError, nearest
from propend.models import storage
from propend.models.storage import State
from propend.recommend.recommender import Recommender

__all__ = ["create", "find", "load", "names", "register", "restore"]

_PLACES: Final[dict[str, str]] = {
    "association_rules": "propend.recommend.association:AssociationRules",
    "buy_again": "propend.recommend.again:BuyAgain",
    "ease": "propend.recommend.regression:Ease",
    "slim": "propend.recommend.regression:Slim",
    "als": "propend.recommend.factors:Als",
    "bpr": "propend.recommend.bpr:Bpr",
    "graph_filter": "propend.recommend.spectral:GraphFilter",
    "sequential_rules": "propend.recommend.sessions:SequentialRules",
    "session_neighbours": "propend.recommend.sessions:SessionNeighbours",
    "content": "propend.recommend.content:Content",
    "blend": "propend.recommend.blend:Blend",
    "hybrid": "propend.recommend.hybrid:Hybrid",
    "choice": "propend.recommend.choice:Choice",
    "fallback": "propend.recommend.fallback:Fallback",
    "item_neighbours": "propend.recommend.neighbours:ItemNeighbours",
    "random_walk": "propend.recommend.neighbours:RandomWalk",
    "user_neighbours": "propend.recommend.neighbours:UserNeighbours",
    "reranked": "propend.recommend.reranked:Reranked",
    "popularity": "propend.recommend.popularity:Popularity",
    "gru": "propend.recommend.sequence:Gru",
    "lstm": "propend.recommend.sequence:Lstm",
    "cnn": "propend.recommend.sequence:Cnn",
    "caser": "propend.recommend.sequence:Caser",
    "transformer": "propend.recommend.sequence:Transformer",
    "hstu": "propend.recommend.sequence:Hstu",
    "hetero_graph": "propend.recommend.graph:HeteroGraph",
    "lightgcn": "propend.recommend.graph:LightGCN",
    "distilled": "propend.recommend.distilled:Distilled",
}


def names() -> tuple[str, ...]:
    """Return the recommenders of the house.

    >>> "popularity" in names()
    True
    """
    return tuple(sorted(_PLACES))


def register(name: str, place: str) -> None:
    """Let a recommender of your own be found by name: ``place`` is "module:Class", imported when first asked for.

    Hold it to ``testing.recommenders.check_recommender`` first.

    Raises
    ------
    ModelError
        the name is taken by another, or ``place`` has no colon.

    >>> register("also_popular", "propend.recommend.popularity:Popularity")
    >>> create("also_popular")
    Popularity()
    >>> register("als", "mine.factors:Als")
    Traceback (most recent call last):
    propend.errors.ModelError: the name 'als' is taken by propend.recommend.factors:Als; choose another
    >>> _ = _PLACES.pop("also_popular")
    """
    if not all(place.partition(":")):
        raise ModelError(f"'{place}' names no class; write it as module:Class")
    if _PLACES.get(name, place) != place:
        raise ModelError(f"the name '{name}' is taken by {_PLACES[name]}; choose another")
    _PLACES[name] = place


def find(name: str) -> type[Recommender]:
    """Return the class of a name; raises ``ModelError`` naming the nearest one.

    >>> find("populariti")
    Traceback (most recent call last):
    propend.errors.ModelError: there is no recommender 'populariti'; did you mean 'popularity'?
    """
    if name not in _PLACES:
        raise ModelError(f"there is no recommender '{name}'{nearest(name, _PLACES)}")
    module, _, attribute = _PLACES[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not issubclass(found, Recommender) or isabstract(found):
        raise ModelError(f"'{name}' is not a recommender")
    return found


def create(name: str, **settings: Any) -> Recommender:
    """Return a recommender that is not fitted yet.

    >>> create("item_neighbours", neighbours=50)
    ItemNeighbours(neighbours=50)
    """
    return find(name)(**settings)


def load(folder: str | Path) -> Recommender:
    """Read a saved recommender, finding its class by the name it was saved under."""
    return restore(storage.read(Path(folder)))


def restore(state: State) -> Recommender:
    """Return the recommender of a state; raises ``ModelError`` for a state of something else."""
    name = state.header.get("recommender")
    if not isinstance(name, str):
        raise ModelError("this is no saved recommender; models are read with models.load")
    return find(name).from_state(state)
