"""What a behaviour model is worth on users it has not learnt from, each figure beside a trivial rule's."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from propend.learn import metrics
from propend.learn.bootstrap import bootstrap_difference, bootstrap_interval
from propend.learn.judge import as_range
from propend.models.sequence.tokens import SequenceArrays

__all__ = ["held_out_figures", "held_out_verdict"]

LEAST: Final = 30
"""Fewest next items, and moments of either answer, that a figure is told of."""
FIRST: Final = 10
"""Places in which the next item is looked for; a quarter of the items where they are few, since all would hold it anyway."""
DAYS: Final = 30.0
RULES: Final = {
    "next_item": ("the ten most popular items", "the next item"),
    "returns_30d": ("days of silence", "who returns within 30 days"),
}
"""Each figure's trivial rule, and the question."""


def held_out_figures(network: Any, shown: SequenceArrays, held: SequenceArrays) -> dict[str, Any]:
    """Return how often the next item of held-out users is among the first ``k`` (ten; no more than a quarter of the items),
    beside the ``k`` most popular of the others; and how well the chance of anything within 30 days ranks random moments (AUROC), beside the days of silence so far.

    Each with its ``gain`` over the rule and that gain's 95 % interval (bootstrap over users); ``verdict`` says what follows.
    A part for which there are too few answers is left out.
    """
    from propend.models.sequence.held_out import next_items, returns

    found: dict[str, Any] = {"users": held.users}
    count = network.vocabulary.items
    k = max(1, min(FIRST, count // 4))
    popular = np.argsort(-shown.item_counts(count), kind="stable")[:k]
    items = next_items(network, held, popular, k)
    if len(items.user) >= LEAST and count > 1:
        more = items.hit.astype(np.float64) - items.common
        found["next_item"] = {
            "steps": len(items.user),
            "k": k,
            f"hit@{k}": round(float(items.hit.mean()), 4),
            "popular": round(float(items.common.mean()), 4),
            "gain": as_range(bootstrap_interval(metrics.mean, more, more, groups=items.user)),
        }
    said = returns(network, held, DAYS)
    if min(said.came.sum(), (1 - said.came).sum()) >= LEAST:
        found["returns_30d"] = {
            "moments": len(said.came),
            "auroc": round(float(metrics.auroc(said.came, said.chance)), 4),
            "silence": round(float(metrics.auroc(said.came, -said.wait)), 4),
            "gain": as_range(
                bootstrap_difference(
                    metrics.auroc, said.came, said.chance, -said.wait, groups=said.user
                )
            ),
        }
    return found | {"verdict": held_out_verdict(found)}


def held_out_verdict(found: dict[str, Any]) -> dict[str, str]:
    """Return whether a behaviour model beats the trivial rules beyond noise (``answer``), and what to do next (``why``).

    >>> gain = {"value": 0.1, "low": 0.05, "high": 0.15}
    >>> held_out_verdict({"next_item": {"gain": gain}})["answer"]
    'use it'
    >>> held_out_verdict({"returns_30d": {"gain": gain | {"low": -0.01}}})["why"]
    'it is not beyond noise better than days of silence at who returns within 30 days; bring more events or leave it out (remove its folder)'
    """
    gains = {name: found[name]["gain"] for name in RULES if name in found}
    rules = {name: (_rule(name, found[name]), RULES[name][1]) for name in gains}
    if not gains:
        return {
            "answer": "not enough data",
            "why": "too few held-out answers to compare it with a trivial rule; bring more events or leave it out (remove its folder)",
        }
    won = [name for name, gain in gains.items() if gain["low"] > 0]
    lost = [name for name, gain in gains.items() if gain["high"] < 0]
    even = [name for name in gains if name not in (*won, *lost)]
    parts = (
        ("beats, beyond noise,", won),
        ("is not beyond noise better than", even),
        ("is, beyond noise, worse than", lost),
    )
    said = "; ".join(f"it {does} {_listed(rules, names)}" for does, names in parts if names)
    if won:
        return {
            "answer": "use it",
            "why": f"{said}; propend predict and propend run let it compete from now on",
        }
    return {
        "answer": "leave it out",
        "why": f"{said}; bring more events or leave it out (remove its folder)",
    }


def _rule(name: str, figure: dict[str, Any]) -> str:
    k = figure.get("k", FIRST)
    if name != "next_item" or k == FIRST:
        return RULES[name][0]
    return "the most popular item" if k == 1 else f"the {k} most popular items"


def _listed(rules: dict[str, tuple[str, str]], names: list[str]) -> str:
    return " and ".join(f"{rules[name][0]} at {rules[name][1]}" for name in names)
