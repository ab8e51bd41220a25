"""Floor 6: what to offer whom."""
