"""Roof: HTTP in and out. Collector, inbox, mover, live state, API, triggers, monitoring (extra ``serve``)."""
