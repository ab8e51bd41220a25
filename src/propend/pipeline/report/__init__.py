"""The report: one HTML file that a marketer reads, from the figures of one run."""

from __future__ import annotations

from propend.pipeline.report.page import as_html, render

__all__ = ["as_html", "render"]
