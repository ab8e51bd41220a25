"""Recommenders on public data beside published rows: ``python -m benchmarks.quality.recommend``."""
