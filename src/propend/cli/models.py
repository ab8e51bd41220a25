"""Verbs that use a fitted model: score everyone, write it for another runtime."""

from __future__ import annotations

from pathlib import Path

import click

from propend.cli.output import emit, folder_argument, json_option, progress_bar

__all__ = ["export", "score"]

_version = click.option("--version", type=int, help="A version of the model; the current one by default.")  # fmt: skip


@click.command()
@folder_argument
@click.argument("task")
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write the scores (Parquet).")
@click.option(
    "--reasons", default=0, show_default=True, type=click.IntRange(0, 20),
    help="Strongest reasons to write beside each score.",
)  # fmt: skip
@_version
@json_option
def score(
    folder: str, task: str, out: str | None, reasons: int, version: int | None, as_json: bool
) -> None:
    """Score everyone in TASK's population now with its fitted model, without fitting anything."""
    from propend.pipeline.workspace import open_workspace

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


@click.command()
@folder_argument
@click.argument("task")
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write the model.")
@_version
@json_option
def export(folder: str, task: str, out: str | None, version: int | None, as_json: bool) -> None:
    """Write TASK's fitted model as ONNX, once the file is shown to score as the model does."""
    from propend.pipeline.workspace import open_workspace

    made = open_workspace(folder).export(task, Path(out) if out else None, version=version)
    emit(
        made,
        as_json,
        lambda: click.echo(
            f"{made['file']}: {made['bytes']:,} bytes; equal on {made['rows']:,} rows to {made['largest_difference']:.0e}"
        ),
    )
