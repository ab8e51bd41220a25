"""Verbs about models: predict, models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from propend.cli.output import emit, json_option, progress_bar, rows
from propend.errors import ConfigError

if TYPE_CHECKING:
    from propend.pipeline.workspace import Workspace

__all__ = ["models", "predict"]


@click.command()
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@click.argument("ask", required=False)
@click.option("--name", help="Name to keep the task under.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="FILE",
    help="Learn from a labelled table without time instead.",
)
@click.option("--label", help="The table's column to predict.")
@click.option(
    "--ignore", multiple=True, metavar="COLUMN", help="A column of the table to leave out."
)
@click.option(
    "--group", metavar="COLUMN", help="What the table's rows belong to; kept whole in a fold."
)
@click.option("--order", metavar="COLUMN", help="The table's time; folds then go forward.")
@click.option(
    "--known",
    multiple=True,
    metavar="COLUMN",
    help="A column confirmed to be known in time, in spite of the leak report.",
)
@click.option("--folds", default=None, type=int, help="Forward folds (3), or folds of a table (5).")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="Where to write scores (Parquet, and CSV beside it).",
)
@click.option(
    "--fuse",
    metavar="SIZE",
    help="Join a behaviour model of this size (tiny, small, base, large) to the aggregates, and say what it adds.",
)
@click.option("--seed", default=7, show_default=True)
@click.argument("more", nargs=-1, type=click.Path())
@json_option
def predict(
    folder: str | None,
    ask: str | None,
    name: str | None,
    tables: tuple[str, ...],
    label: str | None,
    ignore: tuple[str, ...],
    group: str | None,
    order: str | None,
    known: tuple[str, ...],
    folds: int | None,
    out: str | None,
    fuse: str | None,
    seed: int,
    more: tuple[str, ...],
    as_json: bool,
) -> None:
    """Answer a question about the future: ASK is a task's name or for example "any(purchase) next 30d for any(*) last 90d".

    With --table FILE --label COLUMN it learns from a labelled table instead.
    """
    if tables:
        files = [*tables, *(f for f in (folder, ask) if f), *more]
        _predict_table(files, label, ignore, group, order, known, folds or 5, out, seed, as_json)
        return
    if not folder or not ask:
        raise ConfigError(
            'say which workspace and what to ask: propend predict DIR "any(purchase) next 30d for any(*) last 90d", or --table FILE --label COLUMN'
        )
    from propend.pipeline.predict import write_table
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    if fuse:
        _fused(workspace, ask, name, folds or 3, fuse, out, as_json)
        return
    with progress_bar() as progress:
        prediction = workspace.predict(
            ask, name=name, folds=3 if folds is None else folds, seed=seed, progress=progress
        )
    target = (
        Path(out) if out else workspace.out / "scores" / f"{prediction.fitted.task.name}.parquet"
    )
    write_table(prediction.scores, target)
    document = {
        **prediction.card,
        "task": prediction.fitted.task.ask,
        "name": prediction.fitted.task.name,
        "scores": str(target),
        "scored": len(prediction.users),
        "version": prediction.entry.version if prediction.entry else None,
    }
    emit(document, as_json, lambda: _words(document))


def _fused(
    workspace: Workspace,
    ask: str,
    name: str | None,
    folds: int,
    size: str,
    out: str | None,
    as_json: bool,
) -> None:
    from propend.pipeline.predict import write_table

    with progress_bar() as progress:
        fusion, scores = workspace.fuse(ask, name=name, folds=folds, size=size, progress=progress)
    task = fusion.fitted.task
    target = Path(out) if out else workspace.out / "scores" / f"{task.name}_fused.parquet"
    write_table(scores, target)
    document = {
        **fusion.fitted.card,
        "task": task.ask,
        "name": task.name,
        "ablation": fusion.table,
        "remark": fusion.remark,
        "scores": str(target),
        "scored": len(scores),
    }

    def words() -> None:
        click.echo(f"{task.name}: {fusion.fitted.card['protocol']}, data {document['data_hash']}")
        if fusion.remark:
            click.echo(fusion.remark)
        else:
            header = [n for n in fusion.table[0] if not n.endswith(" gained")]
            main = header[2]
            body = [
                [
                    *(round(row[n], 4) if isinstance(row[n], float) else row[n] for n in header),
                    "{:+.4f} ({:+.4f} to {:+.4f})".format(*row[f"{main} gained"]),
                ]
                for row in fusion.table
            ]
            rows([*header, f"{main} gained"], body)
        click.echo(f"scores of {len(scores):,} users: {target}")

    emit(document, as_json, words)


def _predict_table(
    files: list[str],
    label: str | None,
    ignore: tuple[str, ...],
    group: str | None,
    order: str | None,
    known: tuple[str, ...],
    folds: int,
    out: str | None,
    seed: int,
    as_json: bool,
) -> None:
    if label is None:
        raise ConfigError(
            f"say which column to predict: propend predict --table {files[0]} --label COLUMN"
        )
    import pyarrow as pa

    from propend.engine import connect
    from propend.learn.table import cross_validate, read_table
    from propend.pipeline.predict import write_table

    table = read_table(files, label, connect(), Path.cwd(), ignore=ignore, group=group, order=order)
    fit = cross_validate(table, folds=folds, seed=seed, known_before=known)
    target = Path(out) if out else Path(files[0]).with_suffix("").name + f"-{label}-scores.parquet"
    write_table(
        pa.table({"row": range(len(fit.scores)), "label": table.y, "score": fit.scores}),
        Path(target),
    )
    document = {"task": f"{label} of {Path(files[0]).name}", **fit.card, "scores": str(target)}
    emit(document, as_json, lambda: _words(document))


def _words(d: dict[str, Any]) -> None:
    click.echo(
        f"{d['task']}\n  {d['rows']:,} rows, {d['positives']:,} positive; {d['protocol']}\n  data {d['data_hash']}, seed {d['seed']}, champion {d['champion']}\n"
    )
    keys = [
        k
        for k in (
            "auroc",
            "average_precision",
            "accuracy",
            "recall",
            "f1",
            "log_loss",
            "brier",
            "ece",
            "rmse",
            "mae",
            "bias",
            "gini",
        )
        if k in d["metrics"]
    ]
    table = [[f"champion ({d['champion']})", *(f"{d['metrics'][k]:.4f}" for k in keys)]]
    table += [[name, *(f"{m[k]:.4f}" for k in keys)] for name, m in d["models"].items()]
    table += [
        [f"baseline {name}", *(f"{m[k]:.4f}" for k in keys)] for name, m in d["baseline"].items()
    ]
    rows(["model", *keys], table)
    for name, i in d["intervals"].items():
        click.echo(f"  {name}: {i['low']:.4f} to {i['high']:.4f} (95 %)")
    for key in ("verdict", "power"):
        if key in d:
            said = d[key].get("sentence") or f"{d[key]['answer']}: {d[key]['why']}"
            click.echo(f"  {key}: {said}")
    for leak in d.get("leaks", []):
        click.echo(f"  leak report: {leak['sentence']}")
    if d.get("malformed"):
        click.echo(
            f"  {d['malformed']:,} of {d['rows_in']:,} lines are no rows (too few or too many cells) and were left out"
        )
    if d.get("unlabelled"):
        click.echo(f"  {d['unlabelled']:,} rows have no label and were left out")
    if d.get("left_out"):
        click.echo("  left out: " + "; ".join(f"{k} ({v})" for k, v in d["left_out"].items()))
    click.echo(f"  scores: {d['scores']}")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option(
    "--promote", nargs=2, metavar="TASK VERSION", help="Make a version the one that scores."
)
@click.option("--rollback", metavar="TASK", help="Make the version before the current one score.")
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
    from propend.pipeline.workspace import open_workspace

    registry = open_workspace(folder).registry
    if compare:
        if not (compare[1].isdigit() and compare[2].isdigit()):
            raise ConfigError(
                f"versions are numbers, not {compare[1]!r} and {compare[2]!r}; list them with: propend models {folder}"
            )
        both = registry.compare(compare[0], int(compare[1]), int(compare[2]))
        emit(both, as_json, lambda: _side_by_side(both))
        return
    if rollback:
        registry.rollback(rollback)
    if promote:
        if not promote[1].isdigit():
            raise ConfigError(
                f"a version is a number, not {promote[1]!r}; list them with: propend models {folder}"
            )
        registry.promote(promote[0], int(promote[1]))
    entries = registry.entries()
    document = {
        "models": [
            {
                "task": e.task,
                "version": e.version,
                "made_at": e.made_at,
                "champion": e.champion,
                "current": e.current,
            }
            for e in entries
        ]
    }
    emit(
        document,
        as_json,
        lambda: rows(
            ["task", "version", "made", "model", "current"],
            [
                [e.task, e.version, e.made_at, e.champion, "yes" if e.current else ""]
                for e in entries
            ],
        ),
    )


def _side_by_side(d: dict[str, Any]) -> None:
    first, second = map(str, d["versions"])
    body = [
        [name, *("–" if v[k] is None else f"{v[k]:.4f}" for k in (first, second))]
        for name, v in d["metrics"].items()
    ]
    rows(["metric", f"v{first} ({d['champions'][0]})", f"v{second} ({d['champions'][1]})"], body)
    click.echo(f"  {d['note']}")
