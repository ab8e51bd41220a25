"""Settings given by name, read as what a model or recommender takes."""

from __future__ import annotations

import re
from dataclasses import fields
from math import prod
from typing import Any, Final

import msgspec

from propend.errors import ConfigError, ModelError, nearest

__all__ = ["SMALL", "read_parameters", "read_settings", "threads_for"]

_COMMAS: Final = re.compile(r",(?![^\[]*\])")
"""Commas between settings, and not those inside of a list."""
SMALL: Final = 300_000
"""Cells (rows × columns) below which a library of threads works with one, unless told otherwise: its threads wait for each
other at every split by spinning, and where others use the cores that costs more than they share (``docs/log.md``)."""


def read_parameters(name: str, kind: type[Any], settings: dict[str, Any]) -> Any:
    """Return settings as ``kind``, the dataclass of what ``name`` takes; types and ranges are checked.

    Raises
    ------
    ModelError
        a setting that does not exist (the nearest one is told) or is out of range.

    Examples
    --------
    >>> from propend.models.trees import TreeParameters
    >>> read_parameters("trees", TreeParameters, {"leaves": 8}).leaves
    8
    >>> read_parameters("trees", TreeParameters, {"leafs": 8})
    Traceback (most recent call last):
    propend.errors.ModelError: 'trees' has no setting 'leafs'; did you mean 'leaves'?
    """
    known = [f.name for f in fields(kind)]
    for key in settings:
        if key not in known:
            raise ModelError(f"'{name}' has no setting '{key}'{nearest(key, known)}")
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        why = str(error).replace("`", "'").replace("$.", "")
        raise ModelError(f"'{name}' cannot be set so: {why}") from None


def read_settings(word: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of a model or recommender in words.

    Raises ``ConfigError`` where a setting has no value.

    >>> read_settings("ease:strength=200,support=100")
    ('ease', {'strength': 200, 'support': 100})
    >>> read_settings("mlp:hidden=[32,16],dropout=0.1")
    ('mlp', {'hidden': [32, 16], 'dropout': 0.1})
    >>> read_settings("item_neighbours:measure=jaccard")
    ('item_neighbours', {'measure': 'jaccard'})
    >>> read_settings("ease:strength")
    Traceback (most recent call last):
    propend.errors.ConfigError: 'ease:strength' cannot be read: write settings as NAME:key=value,key=value
    """
    name, _, rest = word.partition(":")
    settings: dict[str, Any] = {}
    for part in _COMMAS.split(rest) if rest else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(
                f"{word!r} cannot be read: write settings as NAME:key=value,key=value"
            )
        try:
            settings[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            settings[key] = value
    return name.strip(), settings


def threads_for(asked: int, shape: tuple[int, ...]) -> int:
    """Return how many threads work on a matrix of this shape: those asked for; of 0 (all cores) one where it is small.

    >>> threads_for(0, (500, 10)), threads_for(0, (100_000, 10)), threads_for(2, (500, 10))
    (1, 0, 2)
    """
    return asked or (1 if prod(shape) < SMALL else 0)
