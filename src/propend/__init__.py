"""Propend: from a log of user behaviour to marketing decisions.

>>> import propend as pp
>>> str(pp.parse("any(purchase) last 30d"))
'any(purchase) last 30d'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propend.errors import PropendError as PropendError
    from propend.events.market import Market as Market
    from propend.expression.parse import parse as parse
    from propend.pipeline.workspace import Workspace as Workspace
    from propend.pipeline.workspace import open_workspace as open
    from propend.tasks.task import Task as Task

_PLACES = {
    "open": ("propend.pipeline.workspace", "open_workspace"),
    "Workspace": ("propend.pipeline.workspace", "Workspace"),
    "init": ("propend.pipeline.start", "init"),
    "parse": ("propend.expression.parse", "parse"),
    "Task": ("propend.tasks.task", "Task"),
    "Market": ("propend.events.market", "Market"),
    "PropendError": ("propend.errors", "PropendError"),
}
"""The façade: each name is loaded on first touch, so that ``import propend`` is quick."""

__all__ = ["Market", "PropendError", "Task", "Workspace", "init", "open", "parse"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'propend' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
