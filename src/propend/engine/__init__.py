"""Floor 1: where it is computed."""
