"""Verbs of the live side: serve, move, monitor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import click

from propend.cli.output import emit, folder_argument, json_option, rows

__all__ = ["import_", "monitor", "move", "serve"]


@click.command()
@folder_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8710,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port; 0 takes a free one.",
)
@click.option(
    "--only", type=click.Choice(["collect", "api"]), help="Only take events in, or only answer."
)
def serve(folder: str, host: str, port: int, only: Literal["collect", "api"] | None) -> None:
    """Take events from stock SDKs and answer about users, live."""
    from pathlib import Path

    from propend.serve.server import serve as run

    run(
        Path(folder), host=host, port=port, only=only,
        ready=lambda url: click.echo(f"propend: listening on {url}" + (f" ({only} only)" if only else ""), err=True),
    )  # fmt: skip


@click.command()
@folder_argument
@click.option(
    "--replay", is_flag=True, help="First try again what was refused (a mended key or rule)."
)
@click.option("--upto", type=int, hidden=True, help="Position of the last batch to move.")
@json_option
def move(folder: str, replay: bool, upto: int | None, as_json: bool) -> None:
    """Move what the collector took in into the store."""
    from propend.pipeline.workspace import open_workspace
    from propend.serve.live import moving
    from propend.serve.refused import replay_rejected

    workspace = open_workspace(folder)
    with moving(workspace) as mover:
        inbox = mover.inbox
        taken, stayed = replay_rejected(inbox, workspace.config.live.keys) if replay else (0, 0)
        moved = mover.drain(upto)
        if replay and mover.position():
            mover.replay()
        document: dict[str, Any] = {
            "moved": moved,
            "set_aside": dict(mover.set_aside),
            "repeats": mover.repeats,
            "replayed": taken,
            "still_refused": stayed,
            "refused_not_kept": mover.unkept,
            **inbox.counts(),
        }
    emit(
        document,
        as_json,
        lambda: click.echo(
            f"moved {moved:,} events{_set_aside(mover.set_aside)}, {mover.repeats:,} repeats left out, {document['rejected']:,} refused"
        ),
    )


def _set_aside(reasons: Mapping[str, int]) -> str:
    """Return what of the moved events lies in the quarantine, in words.

    >>> _set_aside({"time in the future": 2}), _set_aside({})
    (', of these 2 set aside (time in the future)', '')
    """
    total = sum(reasons.values())
    return f", of these {total:,} set aside ({', '.join(reasons)})" if total else ""


@click.command()
@folder_argument
@click.option(
    "--retrain",
    is_flag=True,
    help="Fit again what the rule says, promote only what is better forward.",
)
@json_option
def monitor(folder: str, retrain: bool, as_json: bool) -> None:
    """How good the live answers were, what they earned, what drifts, what lags, and what should be fitted again.

    The report of the last run shows it too (section "Live answers").
    """
    from propend.pipeline.workspace import open_workspace
    from propend.serve.monitor import monitor as look

    report = look(open_workspace(folder), retrain=retrain)

    def words() -> None:
        for task in report["tasks"]:
            click.echo(f"{task['task']}: {task['verdict']}")
            if task["missing_share"] is not None:
                click.echo(f"  features without a value: {task['missing_share']:.1%}")
            columns = {
                "from": "from", "predictions": "predictions", "positives": "positives", "auroc": "AUROC", "baseline_auroc": "by chance",
                "log_loss": "log loss", "baseline_log_loss": "base rate's", "mean_score": "said", "rate": "came true",
            }  # fmt: skip
            if task["periods"]:
                rows(list(columns.values()), [[p[k] for k in columns] for p in task["periods"]])
            if task["drift"]:
                click.echo("  over the task's population in the store, whoever was asked about:")
            for drift in task["drift"][:5]:
                click.echo(
                    f"  drift: {drift['feature']} PSI {drift['psi']:.2f} (q = {drift['q']:.3g})"
                )
        _earned(report["profit"])
        if report["lag"]:
            click.echo(
                f"{report['lag']['waiting']:,} requests are not in the store yet, the oldest since {report['lag']['oldest_seconds']:.0f} s"
            )
        click.echo(
            f"{sum(d['events'] for d in report['volume'][-7:]):,} events in the last seven days"
        )
        for note in report["notes"]:
            click.echo(note)
        for done in report.get("retrained", ()):
            click.echo(
                f"{done['task']}: {'promoted' if done['promoted'] else 'not promoted'} ({done['why']})"
            )

    emit(report, as_json, words)


def _earned(profit: dict[str, Any] | None) -> None:
    """Print what decisions earned over time, per decision, beside the naive policies."""
    if not profit or "note" in profit:
        if profit:
            click.echo(profit["note"])
        return

    def value(entry: dict[str, Any], name: str) -> Any:
        return None if entry[name] is None else entry[name]["value"]

    every = [*profit["periods"], {"from": "all", **profit["overall"]}]
    table = [
        [e["from"], e["decisions"], e["pushed"], e["made"], *(value(e, n) for n in ("silence", "everybody", "gain"))]
        for e in every
    ]  # fmt: skip
    click.echo("profit per decision:")
    rows(["from", "decisions", "pushed", "made", "silence", "everybody", "gain"], table)
    if "gain_unknown" in profit["overall"]:
        click.echo(f"no gain is told: {profit['overall']['gain_unknown']}")


@click.command(name="import")
@folder_argument
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option(
    "--as",
    "shape",
    required=True,
    help="segment, rudderstack, mixpanel, amplitude, ga4, posthog or snowplow.",
)
@click.option(
    "--source", default="import", show_default=True, help="Name under which repeats are recognised."
)
@json_option
def import_(folder: str, files: tuple[str, ...], shape: str, source: str, as_json: bool) -> None:
    """Bring in what another tool exported, as if its SDK had sent it."""
    from pathlib import Path

    from propend.pipeline.workspace import open_workspace
    from propend.serve.imports import import_files
    from propend.serve.live import moving

    with moving(open_workspace(folder)) as mover:
        counts = import_files(mover.inbox, [Path(f) for f in files], shape, source)
        document: dict[str, Any] = {
            **counts,
            "moved": mover.drain(),
            "set_aside": dict(mover.set_aside),
            "repeats": mover.repeats,
        }
    emit(
        document,
        as_json,
        lambda: click.echo(
            f"read {document['rows']:,} rows, {document['moved']:,} events are new{_set_aside(mover.set_aside)}, {document['repeats']:,} were there already"
        ),
    )
