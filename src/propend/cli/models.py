"""Verbs that use a fitted model: score everyone, write it for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from propend.cli.output import emit, folder_argument, json_option, progress_bar
from propend.errors import ConfigError

__all__ = ["export", "score"]

_version = click.option("--version", type=int, help="A version of the model; the current one by default.")  # fmt: skip
_rows = click.option(
    "--rows", "files", multiple=True, metavar="FILE", help="Rows for a model that was learnt from a table."
)  # fmt: skip


@click.command()
@folder_argument
@click.argument("task")
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write the scores (Parquet).")
@click.option(
    "--reasons", default=0, show_default=True, type=click.IntRange(0, 20),
    help="Strongest reasons to write beside each score.",
)  # fmt: skip
@_rows
@_version
@json_option
def score(
    folder: str,
    task: str,
    out: str | None,
    reasons: int,
    files: tuple[str, ...],
    version: int | None,
    as_json: bool,
) -> None:
    """Score everyone in TASK's population now with its fitted model, without fitting anything.

    A model learnt from a table scores the rows of --rows FILE, one of impressions those that are still open.
    """
    from propend.pipeline.rows import holds_rows, score_rows
    from propend.pipeline.workspace import open_workspace

    if holds_rows(Path(folder), task):
        found = score_rows(Path(folder), task, files, out, version=version, reasons=reasons)
        emit(found, as_json, lambda: _rows_told(found))
        return
    _refuse_rows(task, files)

    workspace = open_workspace(folder)
    with progress_bar() as progress:
        made = workspace.score(task, out, version=version, reasons=reasons, progress=progress)
    emit(
        made,
        as_json,
        lambda: click.echo(
            f"{made['users']:,} users scored by {made['model']} in {made['seconds']:.1f} s, mean {made['mean_score']:.4f}\n  scores: {made['file']}"
        ),
    )


def _rows_told(made: dict[str, Any]) -> None:
    click.echo(
        f"{made['rows']:,} rows scored by {made['model']}, mean {made['mean_score']:.4f}\n  scores: {made['file']}"
    )
    for name, said in made["noted"].items():
        click.echo(f"  {name}: {said}")


def _refuse_rows(task: str, files: tuple[str, ...]) -> None:
    if files:
        raise ConfigError(
            f"--rows is for a model learnt from a table, and {task!r} is none; leave it out"
        )


@click.command()
@folder_argument
@click.argument("task")
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write the model.")
@_rows
@_version
@json_option
def export(
    folder: str,
    task: str,
    out: str | None,
    files: tuple[str, ...],
    version: int | None,
    as_json: bool,
) -> None:
    """Write TASK's fitted model as ONNX, once the file is shown to score as the model does.

    A model learnt from a table is checked on the rows of --rows FILE, one of impressions on those still open.
    """
    from propend.pipeline.rows import export_rows, holds_rows
    from propend.pipeline.workspace import open_workspace

    if holds_rows(Path(folder), task):
        made = export_rows(Path(folder), task, files, out, version=version)
    else:
        _refuse_rows(task, files)
        made = open_workspace(folder).export(task, Path(out) if out else None, version=version)
    emit(
        made,
        as_json,
        lambda: click.echo(
            f"{made['file']}: {made['bytes']:,} bytes; equal on {made['rows']:,} rows to {made['largest_difference']:.0e}"
        ),
    )
