"""Which community each user of a workspace belongs to, as propend.toml asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import ConfigError, DataError
from propend.events.read import identifier, quoted_name
from propend.features.communities import Communities

if TYPE_CHECKING:
    from propend.pipeline.workspace import Workspace

__all__ = ["communities"]


def communities(workspace: Workspace, at: int) -> Communities | None:
    """Return the communities as of a moment (UTC microseconds); ``None`` where none are asked for.

    Ties to who is not in the log are left out. Raises ``NotEnoughDataError`` without any tie,
    ``MissingExtraError`` without the extra ``graph``.
    """
    asked = workspace.config.communities
    seed = workspace.config.workspace.seed
    if asked.by == "none":
        return None
    if asked.by == "friends":
        left, right = _friends(workspace, at)
        return Communities.of_friends(left, right, resolution=asked.resolution, seed=seed)
    return Communities.of_store(
        workspace.store,
        workspace.schema,
        workspace.engine,
        at=at,
        types=asked.types,
        resolution=asked.resolution,
        seed=seed,
    )


def _friends(workspace: Workspace, at: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read the declared ties that began before ``at``, as user codes."""
    source, engine, base = workspace.config.friends, workspace.engine, workspace.folder
    if source is None:
        raise ConfigError(
            "communities by friends need a table of them; add [friends] with files, user and friend"
        )
    columns = engine.columns(source, base)
    plain = {"user": source.user, "friend": source.friend}
    plain = {name: quoted_name(expression, columns) for name, expression in plain.items()}
    kinds = engine.columns(source, base, plain)
    select = {name: identifier(plain[name], kinds[name]) for name in plain}
    if source.since is not None:
        select["since"] = f"epoch_us(try_cast({quoted_name(source.since, columns)} AS TIMESTAMP))"
    batches = [b.select(list(select)) for b in engine.scan(source, base, select).batches]
    if not sum(b.num_rows for b in batches):
        raise DataError(
            "[friends] holds no row; bring the table again, or set communities.by = 'items'"
        )
    table = pa.Table.from_batches(batches)
    began = np.ones(table.num_rows, np.bool_)
    if source.since is not None:
        began = table["since"].to_numpy() < at
    codes: dict[str | None, int] = {None: -1}
    sides = []
    for name in ("user", "friend"):
        ids = table[name].to_pylist()
        for one in set(ids) - codes.keys():
            try:
                codes[one] = workspace.store.code_of(str(one))
            except DataError:  # a friend who never came to the shop
                codes[one] = -1
        sides.append(np.array([codes[one] for one in ids], np.int64))
    there = began & (sides[0] >= 0) & (sides[1] >= 0)
    return sides[0][there], sides[1][there]
