"""Floor 4: questions about the future."""
