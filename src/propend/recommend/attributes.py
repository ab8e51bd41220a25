"""What is known of items and users beside their interactions: named columns by code."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, nearest
from propend.events.timelines import Column
from propend.features.schema import Attribute
from propend.models.storage import State

__all__ = ["Attributes", "attributes_of", "check_attributes", "grouped", "since", "state_of"]

I64 = npt.NDArray[np.int64]

Attributes: TypeAlias = Mapping[str, Attribute]
"""Name → values by item (or user) code, float64 with NaN or coded text."""

_GROUPS = 5


def check_attributes(attributes: Attributes, kind: str, size: int | None = None) -> None:
    """Refuse attributes that do not have one value per code; ``size`` is how many codes there are.

    >>> check_attributes({"price": np.zeros(2)}, "item", 3)
    Traceback (most recent call last):
    propend.errors.ModelError: the item attribute 'price' has 2 values for 3 items; give one per item code
    """
    for name, values in attributes.items():
        count = len(values.codes) if isinstance(values, Column) else len(values)
        size = count if size is None else size
        if count != size:
            raise ModelError(
                f"the {kind} attribute '{name}' has {count} values for {size} {kind}s; give one per {kind} code"
            )


def since(attributes: Attributes, first: int) -> Attributes:
    """Return attributes from one code on.

    >>> since({"price": np.array([1.0, 2.0, 3.0])}, 2)
    {'price': array([3.])}
    """
    return {
        n: Column(v.codes[first:], v.values) if isinstance(v, Column) else v[first:]
        for n, v in attributes.items()
    }


def grouped(attributes: Attributes, name: str, kind: str) -> tuple[I64, tuple[str, ...]]:
    """Return the group of each code by one attribute (−1: not known), and the names of the groups.

    Text gives a group per value, numbers fifths of equal size.

    Raises
    ------
    ModelError
        there is no such attribute; the nearest one is named.

    >>> codes, names = grouped({"age": np.array([20.0, 30, 40, 50, 60, np.nan])}, "age", "user")
    >>> codes.tolist(), names[0]
    ([0, 1, 2, 3, 4, -1], 'age below 28')
    """
    if name not in attributes:
        known = nearest(name, attributes) or f"; there are no {kind} attributes here"
        raise ModelError(f"no {kind} attribute '{name}' to group by{known}")
    values = attributes[name]
    if isinstance(values, Column):
        return values.codes.astype(np.int64), tuple(f"{name} = {v}" for v in values.values)
    known_rows = np.isfinite(values)
    if not known_rows.any():
        return np.full(len(values), -1, np.int64), ()
    shares = np.linspace(0, 1, _GROUPS + 1)[1:-1]
    edges = np.unique(np.quantile(values[known_rows], shares))
    codes = np.where(known_rows, np.searchsorted(edges, values, side="right"), -1)
    told = [f"{name} below {edges[0]:g}"]
    told += [f"{name} {a:g} to {b:g}" for a, b in pairwise(edges.tolist())]
    return codes.astype(np.int64), (*told, f"{name} from {edges[-1]:g}")


def state_of(attributes: Attributes) -> State:
    """Return attributes as a state to be saved."""
    texts = {n: list(v.values) for n, v in attributes.items() if isinstance(v, Column)}
    arrays = {n: v.codes if isinstance(v, Column) else v for n, v in attributes.items()}
    return State({"names": list(attributes), "texts": texts}, arrays)


def attributes_of(state: State) -> Attributes:
    """Undo ``state_of``."""
    texts, arrays = state.header["texts"], state.arrays
    return {
        name: Column(arrays[name], tuple(texts[name])) if name in texts else arrays[name]
        for name in state.header["names"]
    }
