"""Floor 3: what is known at a moment."""
