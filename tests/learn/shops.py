"""Made shops whose next purchase depends on what was looked at last, and the question asked of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from propend.cli import main
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.task import Task

BUYS = Task.parse("buys", "any(purchase) next 10d for any(*) last 30d")


def write_log(path: Path, users: int, days: int = 120, seed: int = 0) -> Path:
    """A shop where the last thing looked at says whether a purchase follows: "b" sells, "a" does not."""
    rng = np.random.default_rng(seed)
    lines = ["user,time,event,item,value,channel"]
    for user in range(users):
        day = rng.uniform(0, 10)
        while day < days:
            item = "ab"[int(rng.integers(2))]
            way = ("web", "app")[int(rng.integers(2))]
            lines.append(f"u{user},{stamp(day)},view,{item},,{way}")
            if item == "b" and rng.random() < 0.8 and day + 6 < days:
                later = day + rng.uniform(1, 6)
                lines.append(f"u{user},{stamp(later)},purchase,c,{rng.uniform(5, 50):.2f},{way}")
            day += 6 + rng.exponential(6)
    path.write_text("\n".join(lines) + "\n")
    return path


def stamp(day: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)).isoformat(timespec="seconds")


def shop_of(folder: Path, users: int, **more: Any) -> Workspace:
    source = write_log(folder / "log.csv", users, **more)
    main(["init", str(folder / "shop"), "--from", str(source)])
    shop = open_workspace(folder / "shop")
    shop.ingest()
    return shop
