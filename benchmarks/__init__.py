"""Measurements: speed against named peers, quality against named baselines."""
