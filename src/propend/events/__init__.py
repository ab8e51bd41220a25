"""Floor 2: what happened: schema, reading, cleaning, store."""
