"""Settings given by name, read as what a model or recommender takes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, nearest

__all__ = ["SMALL", "read_parameters", "threads_for"]

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


def threads_for(asked: int, X: npt.NDArray[np.float64]) -> int:
    """Return how many threads work on ``X`` [n, d]: those asked for; of 0 (all cores) one where ``X`` is small.

    >>> few, many = np.zeros((500, 10)), np.zeros((100_000, 10))
    >>> threads_for(0, few), threads_for(0, many), threads_for(2, few)
    (1, 0, 2)
    """
    return asked or (1 if X.size < SMALL else 0)
