"""Which options of ``propend predict`` serve which way of asking; one that would do nothing is refused."""

from __future__ import annotations

from typing import Final

import click

from propend.errors import ConfigError

__all__ = ["refuse_idle"]

_TRAINING: Final = frozenset({"search", "balance", "select", "chosen", "segments", "value", "cost", "budget"})  # fmt: skip
_ANY: Final = frozenset({"folder", "ask", "more", "name", "folds", "out", "seed", "as_json"})
SERVES: Final[dict[str, frozenset[str]]] = {
    "a log": _ANY | _TRAINING | {"quantile", "abstain", "explain", "known"},
    "a table": _ANY | _TRAINING | {"quantile", "explain", "tables", "label", "ignore", "group", "order", "known", "score_files"},
    "impressions": _ANY | _TRAINING | {"impression", "clicked", "within", "known"},
    "--fuse": _ANY | {"fuse", "graph", "tune"},
}  # fmt: skip
"""The parameters of ``propend predict`` that each way of asking reads."""


def refuse_idle(context: click.Context, way: str) -> None:
    """Raise ``ConfigError`` for the first option given that this way of asking would not read, and say whose it is."""
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name))
        if given is not click.core.ParameterSource.COMMANDLINE or parameter.name in SERVES[way]:
            continue
        option = parameter.opts[-1]
        others = [other for other, read in SERVES.items() if parameter.name in read]
        raise ConfigError(
            f"{option} does nothing for {way}; it is for {' and '.join(others)}: leave it out"
        )
