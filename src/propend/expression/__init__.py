"""Ground: the one language of questions over a user's timeline."""
