"""What every verb prints: one JSON document on standard output, or words; progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["emit", "folder_argument", "json_option", "money", "percent", "progress_bar", "rows"]

Progress = Callable[[str, int, int | None], None]

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
)


def emit(document: dict[str, Any], as_json: bool, words: Callable[[], None]) -> None:
    """Print the document as JSON, or the same in words."""
    if as_json:
        from propend.learn.registry import plain

        click.echo(json.dumps(plain(document), ensure_ascii=False))
    else:
        words()


def _unseen(_phase: str, _done: int, _total: int | None) -> None:
    """Progress that nobody watches."""


class _PlainProgress:
    """Progress where there is no terminal: a line as each phase begins, with the time so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._phase = ""

    def __call__(self, phase: str, _done: int, _total: int | None) -> None:
        if phase != self._phase:
            self._phase = phase
            click.echo(f"{time.monotonic() - self._started:6.1f} s  {phase} …", err=True)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """Show progress on standard error: bars on a terminal, elsewhere a line per phase."""
    if quiet:
        yield _unseen
        return
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        known: dict[str, Any] = {}

        def show(phase: str, done: int, total: int | None) -> None:
            if phase not in known:
                known[phase] = bars.add_task(phase, total=total)
            bars.update(known[phase], completed=done, total=total)

        yield show


def rows(header: list[str], body: list[list[Any]]) -> None:
    """Print a table in aligned columns; numbers to the right."""
    cells = [[str(c) for c in row] for row in body]
    widths = [max([len(h), *(len(row[i]) for row in cells)]) for i, h in enumerate(header)]
    right = [
        bool(body) and all(isinstance(row[i], int | float) or _numeric(row[i]) for row in body)
        for i in range(len(header))
    ]
    for line in (header, *cells):
        click.echo(
            "  "
            + "  ".join(
                c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
            ).rstrip()
        )


def _numeric(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and text.strip("-+–% ,.0123456789£$€¥") == ""


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage.

    >>> percent(0.1234)
    '12.3 %'
    """
    return "–" if share is None or share != share else f"{100 * share:.{digits}f} %"


def money(amount: float | None, currency: str = "") -> str:
    """Return an amount with its currency.

    >>> money(1234.5, "GBP")
    'GBP 1,234.50'
    """
    return "–" if amount is None or amount != amount else f"{currency} {amount:,.2f}".strip()
