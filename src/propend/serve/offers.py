"""What is offered: fitted by a process of its own, which takes its minutes and its memory away with it.

    python -m propend.serve.offers DIR

fits a workspace's recommendations and keeps them in its folder ``kept/offers``, where a server reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time as clock
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError, PropendError
from propend.events.durable import exclusive, replace_text
from propend.events.store import Store
from propend.features.schema import Schema
from propend.pipeline.workspace import Workspace, open_workspace
from propend.recommend import keep
from propend.recommend.batch import catalogue, fit_default, titles_of
from propend.recommend.recommender import Recommender

__all__ = ["Offers", "fit", "read"]


class Offers(NamedTuple):
    """Fitted recommendations, and the items they speak of."""

    users: Recommender
    within: npt.NDArray[np.bool_]
    """Which items may be offered [items]."""
    ids: tuple[str, ...]
    names: tuple[str, ...]
    """What the items are called where people read it; the id of one that has no name."""
    sessions: Recommender
    """For sessions without a user."""


def fit(workspace: Workspace, patience: float = 0.0) -> Offers | None:
    """Fit on what the store knows, and keep it; ``None`` where no event carries an item.

    Raises ``DataError`` where another process is at it for longer than ``patience`` seconds.
    """
    store, home = Store(workspace.store_folder), _home(workspace)
    schema = Schema.of(store, workspace.zone, tuple(t.name for t in workspace.config.tasks))
    rules = workspace.config.recommend
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home, patience):
        try:
            users = fit_default(store, schema, rules=rules, kept=home)
            sessions = fit_default(store, schema, rules=rules, sessions=True, kept=home)
        except NotEnoughDataError:
            return None
        replace_text(home / "items", _print(store.item_ids()))
    return Offers(users, catalogue(store), store.item_ids(), tuple(titles_of(store)), sessions)


@contextlib.contextmanager
def _alone(home: Path, patience: float) -> Iterator[None]:
    """Hold the folder; where a process of a server that was killed still does, wait so many seconds for it."""
    until = clock.monotonic() + patience
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(home, "the kept recommendations"))
                break
            except DataError:
                if clock.monotonic() > until:
                    raise
                clock.sleep(0.2)
        yield


def read(workspace: Workspace) -> Offers | None:
    """Return what was kept; ``None`` where nothing was, or where its items are no longer the store's first."""
    home = _home(workspace)
    places = [next(iter(home.glob(f"{kind}-*")), None) for kind in ("users", "sessions")]
    users, sessions = (None if place is None else keep.read(place) for place in places)
    if users is None or sessions is None:
        return None
    store = Store(workspace.store_folder)
    n = users.history.n_items
    ids = store.item_ids()[:n]
    try:
        same = (home / "items").read_text(encoding="utf-8") == _print(ids)
    except OSError:
        return None
    return (
        Offers(users, catalogue(store)[:n], ids, tuple(titles_of(store)[:n]), sessions)
        if same
        else None
    )


def _home(workspace: Workspace) -> Path:
    return workspace.folder / "kept" / "offers"


def _print(ids: Sequence[str]) -> str:
    return f"{len(ids)} {hashlib.sha256(chr(0).join(ids).encode()).hexdigest()}"


if __name__ == "__main__":
    try:
        fit(open_workspace(Path(sys.argv[1])), patience=1_800)
    except PropendError as error:
        sys.exit(str(error))
