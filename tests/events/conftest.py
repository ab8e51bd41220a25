from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from propend.config import Config
from propend.engine.local import LocalEngine
from propend.events.ingest import IngestReport, ingest
from propend.events.store import Store

settings.register_profile("compiled", deadline=None, derandomize=True)  # the first call compiles
settings.load_profile("compiled")


@pytest.fixture(scope="session")
def engine() -> LocalEngine:
    return LocalEngine(threads=2)


@pytest.fixture
def take_in(tmp_path: Path, engine: LocalEngine) -> Callable[..., tuple[Store, IngestReport]]:
    def run(conf: Config, name: str = "store") -> tuple[Store, IngestReport]:
        reports = ingest(conf, tmp_path, tmp_path / name, engine)
        report = [r for r in reports if not r.table][-1]
        assert report.rows_in == report.rows_kept + report.rows_quarantined
        return Store(tmp_path / name), report

    return run
