"""Recommendations: how often they come true, and a few to look at."""

from __future__ import annotations

from typing import Any, Final

from propend.pipeline.report.formats import Formats, percent
from propend.pipeline.report.values import View, number, part, records, text

__all__ = ["view"]

MOST_SAMPLES: Final = 6
MOST_ITEMS: Final = 6
MOST_HISTORY: Final = 6
_FIGURES: Final = (
    ("hr@10", "right within 10 offers"),
    ("ndcg@10", "NDCG@10"),
    ("recall@20", "recall@20"),
    ("coverage", "of the catalogue shown"),
)


def view(results: dict[str, Any], of: Formats) -> View:  # noqa: ARG001
    """Return the models side by side and sample users with what they had, what they are offered, and why."""
    made = part(results, "recommendations")
    evaluation = part(made, "evaluation")
    served = text(evaluation.get("served"), 60)
    models = [_model(m, served) for m in records(evaluation.get("models"))]
    samples = [_sample(s) for s in records(made.get("samples"))[:MOST_SAMPLES]]
    if not models and not samples:
        return {
            "missing": text(made.get("skipped"), 400)
            or "Nothing is recommended: the log names no items, or too few users have touched two of them."
        }
    best = max((m["figures"][0] or 0.0 for m in models), default=0.0)
    for m in models:
        m["width"] = (m["figures"][0] or 0.0) / best if best else 0.0
    models.sort(key=lambda m: -(m["figures"][0] or 0.0))
    return {
        "models": models,
        "served": any(m["served"] for m in models),
        "columns": [label for _, label in _FIGURES],
        "samples": samples,
        "caption": _caption(models),
        "protocol": text(evaluation.get("protocol"), 400),
        "data_hash": text(evaluation.get("data_hash"), 80),
    }


def _model(model: dict[str, Any], served: str) -> View:
    """Return one row; what users are offered in the end is called so, whatever orders it."""
    name = text(model.get("name"), 60)
    return {
        "name": "as offered: all of these together" if name == served else name.replace("_", " "),
        "served": bool(served) and name == served,
        "figures": [number(model.get(key)) for key, _ in _FIGURES],
    }


def _caption(models: list[View]) -> str:
    if not models or models[0]["figures"][0] is None:
        return "How often these offers come true was not measured in this run."
    offered = next((m for m in models if m["served"] and m["figures"][0] is not None), None)
    said = "For {} of users, something they went on to choose was among the 10 offers"
    if offered is None:
        best = models[0]
        second = next((m for m in models[1:] if m["figures"][0] is not None), None)
        told = said.format(percent(best["figures"][0])) + f" of “{best['name']}”"
        return told + (
            f"; “{second['name']}” gets {percent(second['figures'][0])}." if second else "."
        )
    told = said.format(percent(offered["figures"][0]))
    alone = next((m for m in models if not m["served"] and m["figures"][0] is not None), None)
    if alone is None:
        return told + "."
    beaten = (alone["figures"][0] or 0.0) > (offered["figures"][0] or 0.0)
    word = "more than all of them together; try another mix in [recommend] of propend.toml"
    told += f"; “{alone['name']}” alone would get {percent(alone['figures'][0])}"
    return told + (f", {word}." if beaten else ".")


def _sample(sample: dict[str, Any]) -> View:
    history = sample.get("history")
    history = [text(h, 70) for h in history if h] if isinstance(history, list | tuple) else []
    items = records(sample.get("items"))[:MOST_ITEMS]
    return {
        "user": text(sample.get("user"), 60),
        "history": history[:MOST_HISTORY],
        "more": max(0, len(history) - MOST_HISTORY),
        "offers": [
            {
                "name": text(i.get("name") or i.get("item"), 80),
                "source": text(i.get("source"), 40).replace("_", " "),
                "reason": text(i.get("reason"), 200),
            }
            for i in items
        ],
    }
