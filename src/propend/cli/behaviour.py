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
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Times through the log at most; it stops earlier where held-out users gain nothing more.  [default: 60]",
)
@click.option(
    "--encoder",
    metavar="FOLDER",
    help="A local folder with a Hugging Face text encoder for the items' names and descriptions.",
)
@json_option
def pretrain(
    folder: str,
    size: str,
    fresh: bool,
    epochs: int | None,
    encoder: str | None,
    as_json: bool,
) -> None:
    """Learn a behaviour model from the log of DIR, into DIR/behaviour/SIZE; a run that was broken off goes on.

    It leaves the model (safetensors and JSON), its curves, and the vectors of users and items as Parquet. From then on it
    competes whenever propend predict or propend run answers a question.
    """
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    with progress_bar() as progress:
        model = workspace.pretrain(
            size, fresh=fresh, encoder=encoder, epochs=epochs, progress=progress
        )
    document = {
        "folder": str(workspace.folder / "behaviour" / size),
        "size": size,
        "until": model.until,
        **model.run,
        "verdict": model.run["held_out"]["verdict"],
    }
    emit(document, as_json, lambda: _words(document))


SAID = {
    "item": "next item",
    "type": "next type",
    "amount": "next amount",
    "gap": "time to next",
    "horizon": "days ahead",
    "valid": "held out",
    "tokens_per_second": "events/s",
}
"""What the columns of a run's curves are called; all but the last two are losses, lower is better."""


def _words(document: dict[str, Any]) -> None:
    weights = sum(document["weights"].values())
    click.echo(
        f"a {document['size']} behaviour model of {weights:,} weights, best after epoch "
        f"{document['best_epoch']} of {len(document['curves'])}, {document['seconds']:.0f} s, data {document['data_hash']}"
    )
    held = document["held_out"]
    click.echo(f"\non {held['users']:,} users it has not learnt from:")
    body = []
    if "next_item" in held:
        hit = held["next_item"]
        k = hit["k"]
        body.append(
            [
                f"next item among its first {k}" if k > 1 else "next item is its first",
                f"{hit[f'hit@{k}']:.1%}",
                f"{hit['popular']:.1%}",
                _range(hit["gain"]),
                f"the {k} most popular items" if k > 1 else "the most popular item",
                f"{hit['steps']:,} items",
            ]
        )
    if "returns_30d" in held:
        back = held["returns_30d"]
        body.append(
            [
                "who returns within 30 days (AUROC)",
                f"{back['auroc']:.3f}",
                f"{back['silence']:.3f}",
                _range(back["gain"]),
                "days of silence so far",
                f"{back['moments']:,} moments",
            ]
        )
    if body:
        rows(["question", "model", "rule", "gain (95 %)", "the rule", "asked"], body)
    else:
        click.echo("  too few of them to say how good it is")
    click.echo("\nlosses (lower is better; held out: higher is better):")
    header = list(document["curves"][-1])
    named = [SAID.get(name, name) for name in header]
    rows(named, [[row.get(name, "") for name in header] for row in document["curves"][-5:]])
    for note in document["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"\nwritten to {document['folder']}")
    click.echo(document["competing"]["sentence"])
    click.echo(f"{document['verdict']['answer']}: {document['verdict']['why']}")


def _range(gain: dict[str, float]) -> str:
    return f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
