"""Roof: contract suites for what others build against, and for ourselves."""
