"""Floor 4: questions about the past: funnels, retention, activity, paths, attribution, trends."""
