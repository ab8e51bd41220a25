"""Floor 1: where it is computed. ``connect`` picks the engine; nobody else names one."""

from __future__ import annotations

from propend.engine.port import Engine, Rejected, Scan
from propend.errors import ConfigError, nearest

__all__ = ["Engine", "Rejected", "Scan", "connect"]


def connect(name: str = "local", **options: object) -> Engine:
    """Return the engine of this name; it is loaded on first use.

    >>> connect().name
    'local'
    """
    if name == "local":
        from propend.engine.local import LocalEngine

        return LocalEngine(**options)  # type: ignore[arg-type]
    raise ConfigError(f"no engine {name!r}{nearest(name, ['local'])}")
