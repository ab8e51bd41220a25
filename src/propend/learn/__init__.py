"""Floor 5: a task meets features and a model."""
