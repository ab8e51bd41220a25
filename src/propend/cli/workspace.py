"""Verbs about a workspace as a whole: init, run, demo, ingest, replay, sql, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

__all__ = ["demo", "forget", "ingest", "init", "replay", "run", "sql"]


@click.command()
@folder_argument
@click.option(
    "--from",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A file, folder or glob; repeat for several.",
)
@click.option(
    "--times",
    multiple=True,
    metavar="FORMAT",
    help="How times are written, where it cannot be told: for example %d/%m/%Y.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing propend.toml.")
@click.argument("more", nargs=-1, type=click.Path())
@json_option
def init(
    folder: str,
    files: tuple[str, ...],
    times: tuple[str, ...],
    overwrite: bool,
    more: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look at files, guess what the columns mean, write DIR/propend.toml."""
    from propend.pipeline.start import init as begin

    guess = begin(folder, [*files, *more], times=times, overwrite=overwrite)
    document = {
        "workspace": folder,
        "config": guess.config,
        "findings": [
            {
                "source": f.source,
                "role": f.role,
                "column": f.column,
                "confidence": f.confidence,
                "reason": f.reason,
            }
            for f in guess.findings
        ],
    }

    def words() -> None:
        click.echo(
            f"Wrote {Path(folder) / 'propend.toml'}. What was guessed, and how sure it is:\n"
        )
        shown = [f for f in guess.findings if f.role != "unused"]
        rows(
            ["source", "what", "is", "sure", "because"],
            [
                [f.source, f.role, f.column or "–", percent(f.confidence, 0), f.reason]
                for f in shown
            ],
        )
        if guess.has_events:
            click.echo(f"\nLook it over, change what is wrong, then: propend run {folder}")

    emit(document, as_json, words)


@click.command()
@folder_argument
@json_option
def run(folder: str, as_json: bool) -> None:
    """The whole journey: clean, know, predict, recommend, decide; tables and report in DIR/out."""
    from propend.pipeline.run import run as journey
    from propend.pipeline.workspace import open_workspace

    with progress_bar() as progress:
        results = journey(open_workspace(folder), progress=progress)
    emit(results, as_json, lambda: _summary(results))


@click.command()
@click.argument("folder", default="demo", metavar="[DIR]", type=click.Path(file_okay=False))
@click.option("--users", default=3_000, show_default=True, help="How many simulated people.")
@click.option("--days", default=365, show_default=True, help="How many days the log covers.")
@click.option("--seed", default=7, show_default=True)
@json_option
def demo(folder: str, users: int, days: int, seed: int, as_json: bool) -> None:
    """The whole journey on a simulated shop, nothing to bring."""
    from propend.pipeline.demo import demo as simulate

    with progress_bar() as progress:
        results = simulate(folder, users=users, days=days, seed=seed, progress=progress)
    emit(results, as_json, lambda: _summary(results))


@click.command()
@folder_argument
@click.argument("files", nargs=-1, type=click.Path())
@json_option
def ingest(folder: str, files: tuple[str, ...], as_json: bool) -> None:
    """Bring declared sources (or further FILES of the first source's kind) into the store."""
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    with progress_bar() as progress:
        reports = workspace.ingest(files=files, progress=progress)
    emit({"sources": [_report(r) for r in reports]}, as_json, lambda: _accounts(reports))


@click.command()
@folder_argument
@json_option
def replay(folder: str, as_json: bool) -> None:
    """Send quarantined rows through the rules as they are now."""
    from propend.pipeline.workspace import open_workspace

    with progress_bar() as progress:
        reports = open_workspace(folder).replay(progress=progress)
    emit({"sources": [_report(r) for r in reports]}, as_json, lambda: _accounts(reports))


@click.command()
@folder_argument
@click.argument("query")
@click.option("--limit", default=50, show_default=True, help="Rows to show.")
@json_option
def sql(folder: str, query: str, limit: int, as_json: bool) -> None:
    """Ad-hoc SQL over the views events, users, items and quarantine."""
    from propend.pipeline.workspace import open_workspace

    table = open_workspace(folder).sql(query)
    shown = table.slice(0, limit).to_pylist()
    document = {
        "rows": table.num_rows,
        "columns": table.column_names,
        "data": [
            {k: str(v) if hasattr(v, "isoformat") else v for k, v in row.items()} for row in shown
        ],
    }

    def words() -> None:
        rows(table.column_names, [["" if v is None else v for v in row.values()] for row in shown])
        if table.num_rows > limit:
            click.echo(f"  … {table.num_rows - limit:,} more rows; use --limit")

    emit(document, as_json, words)


@click.command()
@folder_argument
@click.argument("user")
@click.option("--alone", is_flag=True, help="This id only, not the same person's others.")
@json_option
def forget(folder: str, user: str, alone: bool, as_json: bool) -> None:
    """Erase USER, under every id of theirs, from the store, the written tables and the live side."""
    from propend.pipeline.workspace import open_workspace

    gone = open_workspace(folder).forget(user, alone=alone)
    live = sum(gone.get(name, 0) for name in ("refused", "answers", "fired", "facts"))
    emit(
        {"user": user, "erased": gone},
        as_json,
        lambda: click.echo(
            f"Erased {', '.join(gone['ids'])}: {gone['events']:,} events, {gone['quarantined']:,} quarantined rows, {gone['attributes']:,} attribute rows, {gone['outputs']:,} rows of written tables, {live:,} entries of the live side. "
            "Their id is blocked: the same source brings them back no more. A report that named them was removed; run again for a new one, "
            "with models that learnt without them." + _of_behaviour(folder, gone["behaviour"])
        ),
    )


def _of_behaviour(folder: str, sizes: list[str]) -> str:
    """Return in words what to do about behaviour models that learnt from somebody erased."""
    if not sizes:
        return ""
    verbs = "; ".join(f"propend pretrain {folder} --size {size}" for size in sizes)
    return (
        " What competes of the behaviour model was removed: fusions answer again when propend run (or predict) has pretrained it "
        f"anew. The vectors beside it are of a model that learnt from them: {verbs}."
    )


def _report(report: Any) -> dict[str, Any]:
    return {
        "source": report.source,
        "rows_in": report.rows_in,
        "rows_kept": report.rows_kept,
        "rows_quarantined": report.rows_quarantined,
        "quarantine": report.quarantine,
        "findings": [
            {"name": f.name, "rows": f.rows, "share": f.share, "done": f.done}
            for f in report.findings
        ],
        "seconds": report.seconds,
    }


def _accounts(reports: list[Any]) -> None:
    """Print what came in and what was found; say where there was nothing to do."""
    if not reports:
        click.echo(
            "Nothing is quarantined, so nothing was tried again. A stricter rule is applied by the next propend run or ingest."
        )
    for r in reports:
        click.echo(
            f"{r.source}: {r.rows_in:,} rows in = {r.rows_kept:,} kept + {r.rows_quarantined:,} set aside  ({r.seconds:.1f} s)"
        )
        if r.findings:
            rows(
                ["found", "rows", "share", "done"],
                [[f.name, f"{f.rows:,}", percent(f.share), f.done] for f in r.findings],
            )


def _summary(results: dict[str, Any]) -> None:
    """Print the journey's results as a marketer reads them."""
    currency = results["workspace"]["currency"]
    click.echo(
        f"\n{results['rows_in']:,} rows in = {results['rows_kept']:,} kept + {results['rows_quarantined']:,} set aside"
    )
    if results["findings"]:
        rows(
            ["found in the data", "rows", "share", "done"],
            [
                [f["name"], f"{f['rows']:,}", percent(f["share"]), f["done"]]
                for f in results["findings"][:12]
            ],
        )
    click.echo(
        f"\n{results['users']:,} users, {results['items']:,} items, {results['events']:,} events"
    )
    for card in results["tasks"]:
        click.echo(f"\n{card.get('title') or card['ask']}")
        if "skipped" in card:
            click.echo(f"  not answered: {card['skipped']}")
            continue
        _task_lines(card)
    lifetimes = results.get("lifetimes")
    if lifetimes:
        known = ", ".join(
            f"{k} {v:.3f}" for k, v in lifetimes["parameters"].items() if isinstance(v, float)
        )
        ours = lifetimes["ours"]
        click.echo(
            f"\nRepeat purchases, learnt on the first half of the log and judged on the second ({lifetimes['customers']:,} customers)\n"
            f"  BG/NBD ({known})  RMSE {lifetimes['rmse']:.3f}, bias {percent(lifetimes['bias'])};  ours RMSE {ours['rmse']:.3f}, bias {percent(ours['bias'])};  "
            f"always zero RMSE {lifetimes['always_zero']['rmse']:.3f}"
        )
    if results["segments"]:
        click.echo("\nSegments")
        rows(
            ["segment", "users", "share", "value", "share of value"],
            [
                [
                    s["name"],
                    f"{s['users']:,}",
                    percent(s["share"]),
                    money(s["value"], currency),
                    percent(s["value_share"]),
                ]
                for s in results["segments"]
            ],
        )
    d = results["decisions"]
    if d and "skipped" not in d:
        click.echo(
            f"\nDecisions about {d['push'] + d['silent']:,} users whom the question is asked of: reach {d['push']:,}, leave {d['silent'] - d['holdout']:,} in peace, "
            f"hold out {d['holdout']:,} at random to measure the effect\n"
            f"  expected profit {money(d['expected_profit'], currency)} at a cost of {money(d['cost'], currency)}, if a push lifts purchases by {percent(d['lift_assumed'], 0)} (assumed until measured)"
        )
    elif d:
        click.echo(f"\nDecisions: none, {d['skipped']}")
    click.echo(f"\nReport: {results['report']}   ({results['seconds']:.0f} s)")


def _task_lines(card: dict[str, Any]) -> None:
    """Print how good a task's answers are: each figure with its interval, and the margin over each baseline."""
    main = ("auroc", "average_precision") if card["answer"] == "yes_no" else ("rmse", "gini")
    for name in main:
        i = card["intervals"].get(name)
        if not i:
            continue
        click.echo(
            f"  {name.replace('_', ' '):<18} {i['value']:.3f}  (95 %: {i['low']:.3f} to {i['high']:.3f})"
        )
        for base, margin in card["margins"].items():
            m, own = margin.get(name), card["baseline"][base].get(name)
            if m and own == own and m["value"] == m["value"]:
                click.echo(
                    f"    against {_baseline(base):<14} {own:.3f}: {m['value']:+.3f}  ({m['low']:+.3f} to {m['high']:+.3f})"
                )
    click.echo(
        f"  {card['folds']} forward folds, {card['rows']:,} rows, champion {card['champion']}, data {card['data_hash']}"
    )


def _baseline(name: str) -> str:
    return {
        "base_rate": "base rate",
        "scorecard": "recency",
        "rfm": "RFM score",
        "always_zero": "always zero",
    }.get(name, name)
