"""Settings given by name, read as what a model or recommender takes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec

from propend.errors import ModelError, nearest

__all__ = ["read_parameters"]


def read_parameters(name: str, kind: type[Any], settings: dict[str, Any]) -> Any:
    """Return settings as ``kind``, the dataclass of what ``name`` takes; types and ranges are checked.

    Raises
    ------
    ModelError
        a setting that does not exist (the nearest one is told) or is out of range.

    Examples
    --------
    >>> from propend.models.trees import TreesParameters
    >>> read_parameters("trees", TreesParameters, {"leaves": 8}).leaves
    8
    >>> read_parameters("trees", TreesParameters, {"leafs": 8})
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
