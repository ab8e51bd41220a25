"""Stock clients, unmodified, against the server as it is started by hand: every event is in the store once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from propend.engine import connect
from propend.events.store import Store
from propend.pipeline.workspace import open_workspace
from propend.serve.identity import Identity
from propend.serve.inbox import SqliteInbox
from propend.serve.move import Mover

pytestmark = [pytest.mark.live, pytest.mark.slow]

TRAITS = {"segment_py.py", "rudder.py", "posthog_v0.py", "posthog_v1.py", "mixpanel_track.py", "amplitude_py.py", "segment_node.cjs", "rudder_node.cjs",
          "posthog_node.cjs", "mixpanel_node.cjs", "amplitude_node.cjs", "jitsu_node.cjs"}  # fmt: skip
"""Clients that say where their first user lives; the others cannot say such a thing."""
LINKS = {
    **{name: {("a0", "u0")} for name in TRAITS - {"amplitude_py.py", "amplitude_node.cjs", "jitsu_node.cjs"}},
    **{key: {("device-0", "user-0")} for key in ("amplitude_py.py", "amplitude_node.cjs")},
    **{key: {(f"a{n}", f"u{n}") for n in range(10)} for key in ("snowplow_py.py", "snowplow_node.cjs")},
}  # fmt: skip
"""Which ids each client says are one person."""
HERE = Path(__file__).parent / "clients"
NODE = Path(os.environ.get("PROPEND_NODE_CLIENTS", "/tmp/clients-live/node_modules"))
"""Where npm put the Node clients (``npm install`` there first)."""
PYTHON = {
    "segment_py.py": "segment.analytics", "rudder.py": "rudderstack.analytics", "posthog_v0.py": "posthog", "posthog_v1.py": "posthog",
    "mixpanel_track.py": "mixpanel", "mixpanel_import.py": "mixpanel", "amplitude_py.py": "amplitude", "snowplow_py.py": "snowplow_tracker",
    "ga4_py.py": "ga4mp",
}  # fmt: skip
SCRIPTS = {
    "segment_node.cjs": "@segment/analytics-node", "rudder_node.cjs": "@rudderstack/rudder-sdk-node", "posthog_node.cjs": "posthog-node",
    "mixpanel_node.cjs": "mixpanel", "amplitude_node.cjs": "@amplitude/analytics-node", "snowplow_node.cjs": "@snowplow/node-tracker",
    "jitsu_node.cjs": "@jitsu/js",
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[live]\ntraits = ["country"]\n[live.keys]\nkey = "shop"\n'
    )
    return tmp_path


@pytest.fixture
def collector(workspace: Path) -> Iterator[str]:
    """The collector as its own process, by the command line."""
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "propend",
            "serve",
            str(workspace),
            "--only",
            "collect",
            "--port",
            "0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    line = server.stderr.readline()
    assert "listening on" in line, line
    yield line.split("listening on ")[1].split()[0]
    server.terminate()
    server.wait(300)
    server.stderr.close()


def drive(name: str, url: str) -> None:
    if name in PYTHON:
        command = [sys.executable, str(HERE / name), url]
        probe = subprocess.run(
            [sys.executable, "-c", f"import {PYTHON[name]}"], capture_output=True
        )
        if probe.returncode:
            pytest.skip(f"needs the client {PYTHON[name]}")
    else:
        if not (NODE / SCRIPTS[name]).is_dir() or shutil.which("node") is None:
            pytest.skip(f"needs node and {SCRIPTS[name]} in PROPEND_NODE_CLIENTS ({NODE})")
        command = ["node", str(HERE / name), url]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "NODE_PATH": str(NODE)},
    )
    assert done.returncode == 0, done.stderr[-2_000:]


@pytest.mark.parametrize("name", [*PYTHON, *SCRIPTS])
def test_every_event_is_in_the_store_once(name: str, workspace: Path, collector: str) -> None:
    started = time.time()
    drive(name, collector)
    opened = open_workspace(workspace)
    inbox = SqliteInbox(workspace / "live" / "inbox")
    identity = Identity(workspace / "live" / "identity.db")
    mover = Mover(opened.config, workspace, opened.store_folder, connect("local"), inbox, identity)
    for _ in range(10_000):
        if inbox.last():
            break
        time.sleep(0.05)
    mover.drain()
    assert inbox.rejected() == []
    store = Store(workspace / "store")
    rows = [
        row
        for b in range(store.buckets)
        for row in store.read_bucket(b, ["user", "time", "type", "item"]).to_pylist()
    ]
    views = [r for r in rows if store.types[r["type"]] == "view"]
    users = sorted({str(u) for r in views for u in store.names_of(_codes(r["user"]))})
    prefix = "user-" if "amplitude" in name else "u"
    expected = ["100.200"] if name == "ga4_py.py" else [f"{prefix}{n}" for n in range(10)]
    assert users == expected
    assert len(views) == 10
    assert all(abs(r["time"].timestamp() - started) < 90 for r in views)
    ids = store.item_ids()
    assert sorted(ids[r["item"]] for r in views) == [f"p{n}" for n in range(10)]
    linked = {(f["one"], f["other"]) for n in range(10) for f in identity.facts(f"{prefix}{n}")}
    assert LINKS.get(name, set()) <= linked
    if name in TRAITS:
        table = store.table("users")
        assert table is not None
        assert {"user": f"{prefix}0", "country": "DE"} in table.to_pylist()
    inbox.close()
    identity.close()


def _codes(user: int) -> object:
    import numpy as np

    return np.array([user], np.int64)
