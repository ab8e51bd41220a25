"""The page: every section's view in its template, in one file that needs nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from propend.events.durable import replace_text
from propend.pipeline.report import (
    activity,
    behaviour,
    decisions,
    formats,
    headline,
    live,
    past,
    quality,
    recommendations,
    segments,
    tasks,
)
from propend.pipeline.report.formats import Formats
from propend.pipeline.report.values import View, number, part, text

__all__ = ["SECTIONS", "as_html", "render"]

SECTIONS: Final = (
    ("quality", "Data quality", quality.view),
    ("activity", "Activity over time", activity.view),
    ("behaviour", "Funnel and retention", behaviour.view),
    ("past", "What people did, what changed", past.view),
    ("tasks", "What will happen", tasks.view),
    ("segments", "Segments", segments.view),
    ("recommendations", "Recommendations", recommendations.view),
    ("decisions", "Decisions and expected profit", decisions.view),
    ("live", "Live answers", live.view),
)
"""The sections after the headline, in reading order: id (and template), title, what fills it."""


def render(results: dict[str, Any], path: Path) -> None:
    """Write the report of a run as one HTML file that opens offline.

    ``results`` are the run's figures as plain JSON values; a part that is missing or empty becomes one sentence
    in its place. The file appears as a whole or not at all.
    """
    replace_text(path, as_html(results))


def as_html(results: dict[str, Any]) -> str:
    """Return the report as HTML text.

    >>> "No rows were read" in as_html({})
    True
    """
    workspace = part(results, "workspace")
    of = Formats(text(workspace.get("currency"), 6), text(workspace.get("zone"), 60) or "UTC")
    sections = [
        {"id": id_, "title": title, "view": view(results, of)} for id_, title, view in SECTIONS
    ]
    template = _templates().get_template("page.html")
    return template.render(
        name=text(workspace.get("name"), 80) or "workspace",
        headline=headline.view(results, of),
        sections=sections,
        small=_small(results, of),
        of=of,
    )


def _small(results: dict[str, Any], of: Formats) -> View:
    return {
        "made": of.minute(results.get("made_at")),
        "zone": of.zone,
        "currency": of.currency,
        "version": text(results.get("version"), 30),
        "seed": text(results.get("seed"), 20),
        "seconds": formats.duration(number(results.get("seconds"))),
    }


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("propend.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("change", "count", "decimal", "duration", "many", "percent", "short"):
        made.filters[name] = getattr(formats, name)
    return made
