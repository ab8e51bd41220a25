"""Fixtures of the live tests: an application on an ephemeral port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@contextmanager
def _running(app: Any) -> Iterator[str]:
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(300)
        listener.close()


@pytest.fixture(scope="session")
def running() -> Callable[[Any], AbstractContextManager[str]]:
    """Runs an ASGI application in a thread and gives its URL."""
    return _running


def build_shop(
    folder: Path, users: int = 200, days: int = 120, seed: int = 5, live: str = ""
) -> None:
    """Write a small shop: people with a rhythm of their own, whose purchases follow their views."""
    rng = np.random.default_rng(seed)
    lines = ["user,time,type,item,value"]
    for u in range(users):
        rate = rng.gamma(1.0, 0.15) + 0.02
        last = days if rng.random() < 0.6 else rng.uniform(20, days)
        for day in np.cumsum(rng.exponential(1 / rate, 200)):
            if day >= last:
                break
            stamp = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=float(day))
            item = f"i{int(rng.zipf(1.5)) % 40}"
            lines.append(f"u{u},{stamp.isoformat()},view,{item},")
            if rng.random() < 0.35:
                later = stamp + timedelta(minutes=5)
                lines.append(f"u{u},{later.isoformat()},purchase,{item},{rng.uniform(5, 50):.2f}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "propend.toml").write_text(
        '[workspace]\nname = "shop"\nzone = "Europe/Berlin"\nbuckets = 4\n'
        '[[events]]\nname = "log"\nfiles = ["log.csv"]\nnumbers = ["value"]\n'
        '[events.roles]\nuser = "\\"user\\""\ntime = "\\"time\\""\ntype = "\\"type\\""\nitem = "item"\nvalue = "\\"value\\""\n'
        '[[tasks]]\nname = "buys"\nask = "any(purchase) next 14d for any(*) last 60d"\n' + live
    )


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a store and a fitted task ``buys``; copy it before writing to it."""
    from propend.features.derive import derive_features
    from propend.learn.train import train
    from propend.pipeline.workspace import open_workspace
    from propend.tasks.cutoffs import plan_cutoffs
    from propend.tasks.frame import build_frame

    folder = tmp_path_factory.mktemp("shop")
    live = (
        '[live]\nmove = "1h"\n[live.keys]\nkey = "web"\n[live.properties]\nplan = "text"\n'
        '[[live.api]]\nkey = "all"\nscopes = ["read", "decide", "operate"]\nper_second = 100000\n'
        '[[live.api]]\nkey = "reader"\nper_second = 5\n'
        '[[live.triggers]]\nname = "abandons"\nwhen = "any(cart) last 1d and none(purchase) last 1d"\n'
    )
    build_shop(folder, live=live)
    workspace = open_workspace(folder)
    workspace.ingest()
    task = workspace.tasks()[0]
    schema = workspace.schema
    plan = plan_cutoffs(schema.first, workspace.now, task.horizon, folds=1)
    features = derive_features(schema, ["purchase"])
    frame = build_frame(workspace.store, schema, workspace.engine, task, features, plan.cutoffs)
    fitted = train(frame, task, plan, models=(("logistic", {"bends": 0}),), draws=20)
    workspace.registry.save(fitted)
    return folder
