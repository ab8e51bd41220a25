"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

collect_ignore_glob = ["serve/clients/*"]
"""Scripts that drive stock clients; each is run by a test, in its own process."""


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The public data sets: ``PROPEND_DATA``, or ``../shared/data`` beside the repository."""
    named = os.environ.get("PROPEND_DATA")
    root = Path(__file__).resolve().parents[1]
    folder = Path(named) if named else root.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; set PROPEND_DATA to their folder")
    return folder
