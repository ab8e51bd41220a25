"""Floor 7: whom to reach, with what, when and at which cost."""
