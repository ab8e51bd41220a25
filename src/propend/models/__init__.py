"""Floor 3: arrays in, scores out."""

from __future__ import annotations

from propend.models.catalog import create, find, load, names
from propend.models.model import Answer, Model, State

__all__ = ["Answer", "Model", "State", "create", "find", "load", "names"]
