"""The whole journey on one page: the composition root."""
