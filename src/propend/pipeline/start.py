"""A workspace from files: guess the roles, write ``propend.toml``, say what was guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from propend.engine import connect
from propend.errors import ConfigError
from propend.events.declare import declare
from propend.events.guess import Guess, guess

__all__ = ["init"]


def init(
    folder: str | Path,
    files: Sequence[str | Path],
    *,
    times: Sequence[str] = (),
    overwrite: bool = False,
) -> Guess:
    """Look at files and write ``propend.toml`` into ``folder``; returns what was guessed and how sure it is.

    Raises ``ConfigError`` where a workspace is there already (unless ``overwrite``) or nobody and nothing can be found
    in the files; nothing is written then.
    """
    place = Path(folder)
    if (place / "propend.toml").exists() and not overwrite:
        raise ConfigError(
            f"{place} is a workspace already; edit its propend.toml, or use --overwrite to guess afresh"
        )
    found = guess(files, connect(), place, times=tuple(times))
    declare(place, found, overwrite=overwrite)
    return found
