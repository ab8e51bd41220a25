"""The verb of the behaviour model: pretrain."""

from __future__ import annotations

from typing import Any

import click

from propend.cli.output import emit, folder_argument, json_option, progress_bar, rows
from propend.models.sequence.size import SIZES

__all__ = ["pretrain"]


@click.command()
@folder_argument
@click.option(
    "--size",
    default="small",
    show_default=True,
    type=click.Choice(list(SIZES)),
    help="Sets width, depth, heads, learning rate and batch.",
)
@click.option("--fresh", is_flag=True, help="Begin anew instead of going on with a broken-off run.")
@json_option
def pretrain(folder: str, size: str, fresh: bool, as_json: bool) -> None:
    """Learn a behaviour model from the log of DIR, into DIR/behaviour/SIZE; a run that was broken off goes on.

    It leaves the model (safetensors and JSON), its curves, and the vectors of users and items as Parquet.
    """
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    with progress_bar() as progress:
        model = workspace.pretrain(size, fresh=fresh, progress=progress)
    document = {
        "folder": str(workspace.folder / "behaviour" / size),
        "size": size,
        "until": model.until,
        **model.run,
    }
    emit(document, as_json, lambda: _words(document))


def _words(document: dict[str, Any]) -> None:
    weights = sum(document["weights"].values())
    click.echo(
        f"a {document['size']} behaviour model of {weights:,} weights, best after epoch "
        f"{document['best_epoch']} of {len(document['curves'])}, {document['seconds']:.0f} s, data {document['data_hash']}"
    )
    header = list(document["curves"][-1])
    rows(header, [[row.get(name, "") for name in header] for row in document["curves"][-5:]])
    for note in document["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"written to {document['folder']}")
