"""Sequence models of behaviour: arrays of events in, vectors and probabilities out; torch on first use."""
