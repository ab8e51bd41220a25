"""Verbs about whom to reach: decide, audience."""

from __future__ import annotations

from pathlib import Path

import click

from propend.cli.output import (
    emit,
    folder_argument,
    json_option,
    money,
    percent,
    progress_bar,
    rows,
)

__all__ = ["audience", "decide"]


@click.command()
@folder_argument
@json_option
def decide(folder: str, as_json: bool) -> None:
    """Decide for each user: reach with what and when, or stay silent. Nothing is sent.

    Uses the current models, without training; writes DIR/out/decisions.* and DIR/out/audiences/.
    """
    from propend.pipeline.run import decide_now
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    with progress_bar() as progress:
        made = decide_now(workspace, progress=progress)

    def words() -> None:
        currency = workspace.config.workspace.currency
        if "skipped" in made:
            click.echo(f"No decision: {made['skipped']}")
            return
        click.echo(
            f"Reach {made['push']:,}, stay silent to {made['silent']:,}; {made['holdout']:,} held out, {made['explore']:,} drawn at random.\n"
            f"Expected profit {money(made['expected_profit'], currency)} at a cost of {money(made['cost'], currency)}, if a push lifts purchases by {percent(made['lift_assumed'], 0)} (assumed until measured)."
        )
        rows(
            ["user", "what", "item", "hour", "because"],
            [
                [s["user"], s["action"], s["item"] or "–", s["hour"], s["reason"]]
                for s in made["samples"]
            ],
        )
        click.echo(f"Written: {workspace.out / 'decisions.csv'}, {workspace.out / 'audiences'}")

    emit(made, as_json, words)


@click.command()
@folder_argument
@click.argument("expression")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the ids to this CSV file.")
@json_option
def audience(folder: str, expression: str, out: str | None, as_json: bool) -> None:
    """The users for whom EXPRESSION holds now, for example "any(cart) last 1d and none(purchase) last 1d"."""
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    users = workspace.audience(expression)
    if out:
        import pyarrow as pa

        from propend.pipeline.predict import write_csv

        write_csv(pa.table({"user": pa.array(users, pa.string())}), Path(out))
    total = workspace.store.user_count
    document = {
        "expression": expression,
        "users": len(users),
        "of": total,
        "sample": users[:20].tolist(),
        "file": out,
    }
    emit(
        document,
        as_json,
        lambda: click.echo(
            f"{len(users):,} of {total:,} users ({percent(len(users) / max(total, 1))})"
            + (
                f", written to {out}"
                if out
                else f": {', '.join(map(str, users[:10]))}{' …' if len(users) > 10 else ''}"
            )
        ),
    )
