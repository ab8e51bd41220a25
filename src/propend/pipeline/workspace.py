"""A workspace: a folder with ``propend.toml`` and the store beside it. The façade's object; its methods are the verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.config import Config, load
from propend.engine import Engine, connect
from propend.errors import DataError
from propend.events.ingest import IngestReport
from propend.events.store import Store
from propend.features.schema import Schema
from propend.learn.registry import Registry

__all__ = ["Workspace", "open_workspace"]

Progress = Callable[[str, int, int | None], None]


def open_workspace(folder: str | Path, *, engine: str = "local", **options: object) -> Workspace:
    """Open a workspace folder; raises ``ConfigError`` where it has no ``propend.toml``."""
    return Workspace(Path(folder), connect(engine, **options))


class Workspace:
    """Everything one can ask of a log: the verbs of the command line as methods."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.config: Config = load(folder)

    def __repr__(self) -> str:
        return f"Workspace({str(self.folder)!r})"

    # ---- what is in it

    @property
    def store_folder(self) -> Path:
        """Where the store is."""
        return self.folder / "store"

    @property
    def out(self) -> Path:
        """Where tables and the report are written."""
        return self.folder / "out"

    @cached_property
    def store(self) -> Store:
        """The timeline store; raises ``DataError`` where nothing was ingested yet."""
        if not Store.exists(self.store_folder):
            raise DataError(f"{self.folder} has no events yet; run: propend ingest {self.folder}")
        return Store(self.store_folder)

    @cached_property
    def schema(self) -> Schema:
        """What the log can be asked."""
        return Schema.of(self.store, self.zone, tuple(task.name for task in self.config.tasks))

    @property
    def zone(self) -> str:
        """The workspace's time zone."""
        return self.config.workspace.zone or "UTC"

    @property
    def now(self) -> int:
        """The moment users are judged at: just after the last event, UTC microseconds."""
        return self.schema.last + 1

    @property
    def registry(self) -> Registry:
        """The fitted models."""
        return Registry(self.folder / "models")

    # ---- verbs

    def ingest(self, *, progress: Progress | None = None) -> list[IngestReport]:
        """Bring every declared source into the store that is not there yet."""
        from propend.events.ingest import ingest

        reports = ingest(
            self.config, self.folder, self.store_folder, self.engine, progress=progress
        )
        self._forget_cached()
        return reports

    def replay(self, *, progress: Progress | None = None) -> list[IngestReport]:
        """Send quarantined rows through the rules as they are now."""
        from propend.events.ingest import replay

        reports = replay(
            self.config, self.folder, self.store_folder, self.engine, progress=progress
        )
        self._forget_cached()
        return reports

    def quarantine(self) -> pa.Table:
        """Return the rows set aside, with the reason beside the original row."""
        return self.store.quarantine()

    def forget(self, user: str) -> dict[str, int]:
        """Erase a user from the store; returns how many rows went from where."""
        gone = self.store.forget(user)
        self._forget_cached()
        return gone

    def _forget_cached(self) -> None:
        for name in ("store", "schema"):
            self.__dict__.pop(name, None)
