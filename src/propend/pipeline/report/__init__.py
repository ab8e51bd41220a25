"""The report: one HTML file that a marketer reads, from the figures of one run."""

from __future__ import annotations

from propend.pipeline.report.page import page, render

__all__ = ["page", "render"]
