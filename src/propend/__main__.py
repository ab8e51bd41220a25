"""``python -m propend``."""

from propend.cli import main

main()
