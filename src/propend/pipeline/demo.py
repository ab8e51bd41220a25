"""The whole journey on a simulated shop whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from propend.errors import ConfigError
from propend.events.durable import replace_text
from propend.events.market import Market
from propend.pipeline.run import run
from propend.pipeline.workspace import open_workspace

__all__ = ["demo"]

TOML = """\
# A simulated shop, made by `propend demo`. Its truth (who would buy, what a push really does) lies in data/truth,
# apart from the log, and is read by no part of the journey.

[workspace]
name = "demo"
zone = "UTC"
currency = "EUR"

[[events]]
name = "shop"
files = ["data/events*.parquet"]

[events.roles]
user = "user"
time = "time"
type = "type"
item = "item"
price = "price"
quantity = "quantity"
value = "value"
session = "session"
channel = "channel"
text = "text"
message_id = "event_id"

[items]
files = ["data/items.parquet"]
key = "item"

[users]
files = ["data/users.parquet"]
key = "user"

[[tasks]]
name = "buys_30d"
title = "Who buys in the next 30 days?"
ask = "any(purchase) next 30d for any(view | cart | purchase) last 90d"

[[tasks]]
name = "silent_60d"
title = "Who falls silent for the next 60 days?"
ask = "none(view | search | cart | purchase) next 60d for any(view | cart | purchase) last 90d"

[[tasks]]
name = "value_90d"
title = "What is each customer worth in the next 90 days?"
ask = "sum(purchase.value) next 90d for any(purchase) last 180d"

[[funnels]]
name = "shop"
steps = ["view", "cart", "purchase"]
within = "7d"
"""


def demo(
    folder: str | Path = "demo",
    *,
    users: int = 3_000,
    days: int = 365,
    seed: int = 7,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Simulate a shop into ``folder`` and do the whole journey there; the same arguments again change nothing.

    Raises ``ConfigError`` where the folder holds something that is not a demo.
    """
    place = Path(folder)
    made = place / "data" / "made.json"
    wanted = {"users": users, "days": days, "seed": seed}
    if (
        place.exists()
        and any(place.iterdir())
        and not made.exists()
        and not (place / "data").exists()
    ):
        raise ConfigError(f"{place} exists and is no demo; choose another folder: propend demo DIR")
    if not made.exists() or json.loads(made.read_text(encoding="utf-8")) != wanted:
        if made.exists():
            raise ConfigError(
                f"{place} holds a demo of another size or seed; choose another folder: propend demo DIR --users {users}"
            )
        market = Market(users=users, days=days, seed=seed)
        market.write(
            place / "data",
            progress=(lambda done, total: progress("simulate", done, total)) if progress else None,
        )
        replace_text(made, json.dumps(wanted))
    replace_text(place / "propend.toml", TOML)
    return run(open_workspace(place), progress=progress)
