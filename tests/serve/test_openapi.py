"""The description is kept: Schemathesis sends what it allows, and more, to the running application."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from propend.pipeline.workspace import open_workspace
from propend.serve.api import Api
from propend.serve.collect import Collector
from propend.serve.live import Live
from propend.serve.server import Both

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_schemathesis(shop: Path, tmp_path: Path, running: Any) -> None:
    tool = Path(sys.executable).with_name("schemathesis")
    if not tool.exists():
        pytest.skip("needs Schemathesis (pip install schemathesis)")
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    live = Live(open_workspace(folder))
    live.start()
    try:
        collector = Collector(live.inbox, live.workspace.config.live.keys)
        with running(Both(collector, Api(live, collector).app)) as url:
            done = subprocess.run(
                [str(tool), "run", f"{url}/openapi.json", "-H", "Authorization: Bearer all", "-n", "25", "--seed", "7", "--workers", "1",
                 "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance", "--no-color"],
                capture_output=True, text=True, timeout=150, cwd=tmp_path,
            )  # fmt: skip
    finally:
        live.stop()
    assert done.returncode == 0, done.stdout[-6_000:]
