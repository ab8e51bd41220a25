"""What cannot be collected where an extra is missing."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob: list[str] = []
if find_spec("torch") is None:
    collect_ignore_glob += [
        f"src/propend/models/sequence/{name}.py"
        for name in (
            "attention",
            "cache",
            "checkpoint",
            "export",
            "heads",
            "losses",
            "network",
            "training",
            "trunks",
        )
    ]
