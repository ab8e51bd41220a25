"""Floor 3: arrays in, scores out."""
