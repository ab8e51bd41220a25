"""What a behaviour model is worth on users it has not learnt from, each figure beside a trivial rule's."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from propend.learn import metrics
from propend.models.sequence.tokens import SequenceArrays

__all__ = ["held_out_figures"]

LEAST: Final = 30
"""Fewest next items, and moments of either answer, that a figure is told of."""
FIRST: Final = 10
DAYS: Final = 30.0


def held_out_figures(network: Any, shown: SequenceArrays, held: SequenceArrays) -> dict[str, Any]:
    """Return how often the next item of held-out users is among the first ten, beside the ten most popular of the others;
    and how well the chance of anything within 30 days ranks random moments (AUROC), beside the days of silence so far.

    A part for which there are too few answers is left out.
    """
    from propend.models.sequence.held_out import next_items, returns

    found: dict[str, Any] = {"users": held.users}
    popular = np.argsort(-shown.item_counts(network.vocabulary.items), kind="stable")[:FIRST]
    asked, hit, common = next_items(network, held, popular, FIRST)
    if asked >= LEAST:
        found["next_item"] = {"steps": asked, "hit@10": round(hit, 4), "popular": round(common, 4)}
    said = returns(network, held, DAYS)
    if min(said.came.sum(), (1 - said.came).sum()) >= LEAST:
        found["returns_30d"] = {
            "moments": len(said.came),
            "auroc": round(float(metrics.auroc(said.came, said.chance)), 4),
            "silence": round(float(metrics.auroc(said.came, -said.wait)), 4),
        }
    return found
