"""Verbs about fitted models: score everyone, write one for another runtime, list, compare and promote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from propend.cli.output import emit, folder_argument, json_option, progress_bar, rows
from propend.errors import ConfigError

if TYPE_CHECKING:
    from propend.learn.registry import Registry

__all__ = ["export", "models", "score"]

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
            + "".join(f"\n  {said}" for said in _remarks(made))
        ),
    )


def _rows_told(made: dict[str, Any]) -> None:
    click.echo(
        f"{made['rows']:,} rows scored by {made['model']}, mean {made['mean_score']:.4f}\n  scores: {made['file']}"
    )
    for said in _remarks(made):
        click.echo(f"  {said}")
    for name, said in made["noted"].items():
        click.echo(f"  {name}: {said}")


def _remarks(made: dict[str, Any]) -> list[str]:
    """What a person must know of a score file: whether to use it, and what its reasons are."""
    from propend.cli.told import verdict_told

    said = [f"verdict: {verdict_told(made['verdict'])}"] if made["verdict"] else []
    return [*said, f"explanations: {made['reasons']}"] if made["reasons"] else said


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


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option(
    "--promote", nargs=2, metavar="TASK VERSION", help="Make a version the one that scores."
)
@click.option(
    "--rollback",
    metavar="TASK",
    help="Make the version that scored before the current one score again.",
)
@click.option(
    "--compare", nargs=3, metavar="TASK VERSION VERSION", help="Two versions' metrics side by side."
)
@json_option
def models(
    folder: str,
    promote: tuple[str, str] | None,
    rollback: str | None,
    compare: tuple[str, str, str] | None,
    as_json: bool,
) -> None:
    """List fitted models; compare two, promote one, or roll back."""
    from propend.pipeline.rows import registries

    found = registries(Path(folder))

    def of(task: str) -> Registry:
        return next((r for r in found if (r.folder / task).is_dir()), found[0])

    if compare:
        if not (compare[1].isdigit() and compare[2].isdigit()):
            raise ConfigError(
                f"versions are numbers, not {compare[1]!r} and {compare[2]!r}; list them with: propend models {folder}"
            )
        both = of(compare[0]).compare(compare[0], int(compare[1]), int(compare[2]))
        emit(both, as_json, lambda: _side_by_side(both))
        return
    if rollback:
        of(rollback).rollback(rollback)
    if promote:
        if not promote[1].isdigit():
            raise ConfigError(
                f"a version is a number, not {promote[1]!r}; list them with: propend models {folder}"
            )
        of(promote[0]).promote(promote[0], int(promote[1]))
    entries = [entry for registry in found for entry in registry.entries()]
    document = {
        "models": [
            {
                "task": e.task,
                "version": e.version,
                "made_at": e.made_at,
                "champion": e.champion,
                "verdict": e.verdict,
                "current": e.current,
                **({"fault": e.fault} if e.fault else {}),
            }
            for e in entries
        ]
    }
    emit(
        document,
        as_json,
        lambda: rows(
            ["task", "version", "made", "model", "verdict", "current"],
            [
                [
                    e.task,
                    e.version,
                    e.made_at,
                    e.fault or e.champion,
                    e.verdict,
                    "yes" if e.current else "",
                ]
                for e in entries
            ],
        ),
    )


def _side_by_side(d: dict[str, Any]) -> None:
    from propend.learn.metrics import AT_THRESHOLD

    first, second = map(str, d["versions"])
    cuts = d["metrics"].get("threshold", {})

    def shown(name: str, version: str) -> str:
        value, cut = d["metrics"][name][version], cuts.get(version)
        if value is None:
            return "–"
        at = f" at {cut:.4f}" if name in AT_THRESHOLD and cut is not None else ""
        return f"{value:.4f}{at}"

    body = [[name, shown(name, first), shown(name, second)] for name in d["metrics"]]
    rows(["metric", f"v{first} ({d['champions'][0]})", f"v{second} ({d['champions'][1]})"], body)
    click.echo(f"  {d['note']}")
