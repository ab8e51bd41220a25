"""What sessions do after or before a node, step by step: the links of a Sankey picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba as nb
import numpy as np

from propend.analytics.kept import Part, ask
from propend.analytics.nodes import Nodes, nodes_of
from propend.analytics.paths import Sessions
from propend.engine import Engine
from propend.errors import ConfigError, nearest
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.features.schema import Schema
from propend.names import TYPE

__all__ = ["SankeyQuestion", "sankey"]


@nb.njit(cache=True, nogil=True)
def follow(
    offsets: Any,
    time: Any,
    code: Any,
    session: Any,
    gap: int,
    collapse: bool,
    anchor: int,
    backwards: bool,
    links: Any,
) -> int:
    """Count moves [depth, n + 1, n + 1] after the first (before the last) ``anchor`` of each session; the last is the end.

    Returns the sessions with the anchor.
    """
    depth = len(links)
    end = links.shape[1] - 1
    declared = len(session) > 0
    found = 0
    for u in range(len(offsets) - 1):
        a = offsets[u]
        while a < offsets[u + 1]:
            b = a + 1
            while b < offsets[u + 1]:
                if declared:
                    if session[b] != session[b - 1]:
                        break
                elif time[b] - time[b - 1] > gap:
                    break
                b += 1
            step = -1 if backwards else 1
            i = b - 1 if backwards else a
            while a <= i < b and code[i] != anchor:
                i += step
            if a <= i < b:
                found += 1
                before = anchor
                level = 0
                i += step
                while a <= i < b and level < depth:
                    node = code[i]
                    if node >= 0 and not (collapse and node == before):
                        links[level, before, node] += 1
                        before = node
                        level += 1
                    i += step
                if level < depth:
                    links[level, before, end] += 1
            a = b
    return found


class SankeyQuestion(Sessions):
    """What sessions do after or before a node; see :func:`sankey`."""

    def __init__(
        self,
        nodes: Nodes,
        schema: Schema,
        anchor: str,
        *,
        direction: str = "after",
        depth: int = 4,
        gap: str | Duration = "30min",
        declared: bool = False,
        collapse: bool = True,
    ) -> None:
        if direction not in ("after", "before"):
            raise ConfigError(
                f"no direction {direction!r}{nearest(direction, ['after', 'before'])}"
            )
        if anchor not in nodes.names:
            raise ConfigError(f"no {nodes.of} {anchor!r} in the log{nearest(anchor, nodes.names)}")
        if not 1 <= depth <= 20:
            raise ConfigError(f"a Sankey picture has 1 to 20 steps, not {depth}")
        super().__init__(nodes, schema, gap, declared, collapse)
        self.anchor, self.direction, self.depth = anchor, direction, depth
        self.key += f" {anchor} {direction} {depth}"

    def whole(self, timelines: Timelines) -> Part:
        """Return the links [depth, n + 1, n + 1] and the sessions with the anchor."""
        n = len(self.nodes.names)
        links = np.zeros((self.depth, n + 1, n + 1), np.int64)
        found = follow(
            timelines.offsets, timelines.time, self.nodes.codes(timelines),
            self.session(timelines), self.silence, self.collapse,
            self.nodes.names.index(self.anchor), self.direction == "before", links,
        )  # fmt: skip
        return {"links": links, "sessions": np.int64(found)}

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return the links, the thickest of each step first."""
        part = self.total(parts) or {"links": np.zeros((0, 1, 1)), "sessions": 0}
        names = [*self.nodes.names, "(end)"]
        rows = [
            {
                "step": d + 1,
                "source": names[a],
                "target": names[b],
                "sessions": int(part["links"][d, a, b]),
            }
            for d, a, b in zip(*map(np.ndarray.tolist, np.nonzero(part["links"])), strict=True)
        ]
        rows.sort(key=lambda r: (r["step"], -r["sessions"], r["source"], r["target"]))
        return {
            "anchor": self.anchor,
            "direction": self.direction,
            "of": self.nodes.of,
            "sessions": int(part["sessions"]),
            "links": rows,
        }


def sankey(
    store: Store,
    schema: Schema,
    engine: Engine,
    anchor: str,
    *,
    direction: str = "after",
    depth: int = 4,
    gap: str | Duration = "30min",
    declared: bool = False,
    of: str = TYPE,
    collapse: bool = True,
) -> dict[str, Any]:
    """Return the links of a Sankey picture: what sessions do after (or before) a node, step by step.

    ``{"anchor", "direction", "sessions", "links": [{"step", "source", "target", "sessions"}]}``; ``(end)`` is where the
    session ends (or, before, begins). Raises ``ConfigError`` naming the nearest node.
    """
    question = SankeyQuestion(
        nodes_of(store, schema, engine, of), schema, anchor, direction=direction, depth=depth,
        gap=gap, declared=declared, collapse=collapse,
    )  # fmt: skip
    return ask(question, store, engine)
