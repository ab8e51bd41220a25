"""What every group of a workspace's methods rests on; :class:`propend.pipeline.workspace.Workspace` has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from propend.config import Config
from propend.engine import Engine
from propend.events.store import Store
from propend.features.schema import Schema

__all__ = ["Opened"]


class Opened(ABC):
    """An opened workspace, as the groups of its methods see it."""

    folder: Path
    config: Config
    engine: Engine

    @property
    @abstractmethod
    def store(self) -> Store:
        """The timeline store."""

    @property
    @abstractmethod
    def out(self) -> Path:
        """Where tables are written."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """What the log can be asked."""

    @property
    @abstractmethod
    def zone(self) -> str:
        """The workspace's time zone."""
