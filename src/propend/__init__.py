"""Propend: from a log of user behaviour to marketing decisions."""
