"""Verbs about the past: funnel, retention, paths, trend, lifecycle, attribution."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from propend.cli.output import emit, folder_argument, json_option, percent, rows
from propend.errors import ConfigError

__all__ = ["attribution", "funnel", "lifecycle", "paths", "retention", "stages", "trend"]

Command = Callable[..., None]


def _outputs(command: Command) -> Command:
    """Give a verb --json, --csv FILE and --html FILE."""
    page = click.option(
        "--html", type=click.Path(dir_okay=False), help="Write a page with its picture."
    )
    table = click.option("--csv", "csv_", type=click.Path(dir_okay=False), help="Write the table.")
    return page(table(json_option(command)))


def _hand_out(
    kind: str,
    title: str,
    document: dict[str, Any],
    as_json: bool,
    csv_: str | None,
    html: str | None,
    words: Callable[[], None],
) -> None:
    """Print the answer, and write the files that were asked for."""
    from propend.events.durable import replace_text
    from propend.learn.registry import plain
    from propend.pipeline.pictures import as_page, table_of

    made = plain(document)
    if csv_:
        buffer = io.StringIO()
        header, body = table_of(kind, made)
        csv.writer(buffer, lineterminator="\n").writerows([header, *body])
        replace_text(Path(csv_), buffer.getvalue())
    if html:
        replace_text(Path(html), as_page(kind, title, made))
    emit(document, as_json, words)


def _open(folder: str) -> Any:
    from propend.pipeline.workspace import open_workspace

    return open_workspace(folder, asks_often=False)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"


@click.command()
@folder_argument
@click.option(
    "--steps",
    help="Steps, for example view,cart,purchase; see docs/funnel.md for filters and bounds.",
)
@click.option("--name", help="A funnel declared in propend.toml (default: the first).")
@click.option("--within", help="Longest time from the entry to a step (7d).")
@click.option("--order", help="ordered, strict or any.")
@click.option("--reentry", help="latest (every chance counts) or first.")
@click.option("--ties", help="sequence, or step as ClickHouse does.")
@click.option("--per", help="user, session or total.")
@click.option("--hold", multiple=True, help="A property that must stay the same, for example item.")
@click.option("--exclude", multiple=True, help="Events that may not lie between steps.")
@click.option(
    "--by", help="Break down: channel, first.channel, profile.country, month, cohort.month …"
)
@click.option("--who", help="Only users for whom this expression holds.")
@click.option("--since", help="Entries from this day on.")
@click.option("--until", help="Entries before this day.")
@click.option("--incremental", is_flag=True, help="Keep the answer; read only what came since.")
@click.option("--compare-at", help="Compare entries before and from this day.")
@click.option("--compare-who", help="Compare the users for whom this holds with the others.")
@click.option("--why", "ask_why", is_flag=True, help="What separates converters from the rest.")
@click.option("--step", type=int, help="With --audience or --why: the step (1 is the first).")
@click.option(
    "--audience",
    type=click.Path(dir_okay=False),
    help="Write the users of --step to this CSV file.",
)
@click.option("--dropped", is_flag=True, help="With --audience: those who came no further.")
@_outputs
def funnel(
    folder: str, steps: str | None, name: str | None, within: str | None, as_json: bool,
    csv_: str | None, html: str | None, compare_at: str | None, compare_who: str | None, ask_why: bool, step: int | None,
    audience: str | None, dropped: bool, **options: Any,
) -> None:  # fmt: skip
    """How many go from step to step, how long it takes, and where they are lost."""
    from propend.analytics.steps import split_steps

    if steps and name:
        raise ConfigError("give either --steps or --name, not both")
    workspace = _open(folder)
    asked: Any = split_steps(steps) if steps else name
    given = {k: v for k, v in options.items() if v not in (None, (), False)}
    if ask_why:
        found = workspace.why(asked, within, step=-1 if step is None else step - 1, **given)
        _hand_out("why", "What separates them", found, as_json, csv_, html, lambda: _why(found))
        return
    if compare_at or compare_who:
        both = workspace.compare_funnels(asked, compare_at, within, split=compare_who, **given)
        _hand_out(
            "compared", "Funnel, compared", both, as_json, csv_, html, lambda: _compared(both)
        )
        return
    result = workspace.funnel(asked, within, **given)
    document = result.to_dict()
    if audience:
        _write_audience(workspace, result, -1 if step is None else step - 1, dropped, audience)
        document["audience"] = audience
    _hand_out("funnel", "Funnel", document, as_json, csv_, html, lambda: _funnel(document))


def _write_audience(workspace: Any, result: Any, step: int, dropped: bool, file: str) -> None:
    import pyarrow as pa

    from propend.pipeline.predict import write_csv

    at = step % len(result.definition.steps) if step < 0 else step
    codes = result.audience(at, dropped=dropped)
    write_csv(
        pa.table({"user": pa.array(workspace.store.names_of(codes), pa.string())}), Path(file)
    )


def _steps(steps: list[dict[str, Any]]) -> None:
    rows(
        ["step", "users", "of entries", "95 % interval", "of step before", "median time"],
        [
            [
                s["event"], f"{s['users']:,}", percent(s["conversion"]),
                f"{percent(s['low'])} to {percent(s['high'])}", percent(s["from_previous"]),
                _seconds(s["median_seconds"]),
            ]
            for s in steps
        ],
    )  # fmt: skip


def _funnel(d: dict[str, Any]) -> None:
    click.echo(f"Funnel within {d['window']}, {d['order']}, per {d['per']}")
    _steps(d["steps"])
    for group in d.get("groups", []):
        click.echo(f"{d['by']} = {group['group']} (q {group['against_rest']['q_value']:.3f})")
        _steps(group["steps"])


def _compared(d: dict[str, Any]) -> None:
    rows(
        ["step", *d["sides"], "difference", "95 % interval", "q"],
        [
            [
                s["event"], percent(s["conversion"][0]), percent(s["conversion"][1]),
                percent(s["difference"]), f"{percent(s['low'])} to {percent(s['high'])}",
                f"{s['q_value']:.4f}",
            ]
            for s in d["steps"]
        ],
    )  # fmt: skip


def _why(d: dict[str, Any]) -> None:
    click.echo(
        f"{d['converted']:,} of {d['converted'] + d['not_converted']:,} went from {d['from']} to {d['to']} "
        f"(baseline {percent(d['baseline'])}); {d['findings']} of {d['compared']} comparisons hold at a false-discovery rate of {d['rate']:g}"
    )
    rows(
        ["what", "effect", "converters", "others", "q"],
        [
            [
                r["words"] + (f" = {r['value']}" if r["value"] else ""), f"{r['effect']:+.3f}",
                f"{r['converters']:.3g}", f"{r['others']:.3g}", f"{r['q_value']:.2g}",
            ]
            for r in d["differences"]
        ],
    )  # fmt: skip
    click.echo(d["note"])


@click.command()
@folder_argument
@click.option("--unit", default="month", show_default=True, help="day, week or month.")
@click.option("--start", help="The event that begins (any).")
@click.option("--back", help="The event that counts as coming back (any).")
@click.option(
    "--mode", default="on", show_default=True, help="on: in that period; unbounded: or later."
)
@click.option(
    "--recurring", is_flag=True, help="A user joins the cohort of every period with a start."
)
@click.option("--brackets", help="Days on each user's own clock, for example 1-2,7-8,30-31.")
@click.option("--survival", is_flag=True, help="Kaplan–Meier: time from --start to --back.")
@_outputs
def retention(
    folder: str, unit: str, start: str | None, back: str | None, mode: str, recurring: bool,
    brackets: str | None, survival: bool, as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """Of those who started in a period, what share came back in each period after."""
    workspace = _open(folder)
    if survival:
        if not start or not back:
            raise ConfigError(
                "a survival curve needs --start and --back, for example --start purchase --back purchase"
            )
        found = workspace.survival(start, back)
        _hand_out("survival", "Time until", found, as_json, csv_, html, lambda: _survival(found))
        return
    spans = _brackets(brackets)
    document = workspace.retention(
        unit,
        start,
        back,
        brackets=spans,
        **({} if spans else {"mode": mode, "recurring": recurring}),
    )

    def words() -> None:
        click.echo(f"{document['start']} then {document['back']}, by {unit} ({document['mode']})")
        rows(
            ["cohort", "size", *("",) * max(len(c["rates"]) for c in document["cohorts"])],
            [
                [c["start"], f"{c['size']:,}"]
                + [percent(r, 0) for r in c["rates"]]
                + [""] * (max(len(k["rates"]) for k in document["cohorts"]) - len(c["rates"]))
                for c in document["cohorts"]
            ],
        )

    _hand_out("retention", "Retention", document, as_json, csv_, html, words)


def _brackets(text: str | None) -> list[tuple[int, int]]:
    try:
        pairs = [part.split("-") for part in text.split(",")] if text else []
        return [(int(a), int(b)) for a, b in pairs]
    except ValueError:
        raise ConfigError(
            f"not brackets of days: {text!r}; write for example 1-2,7-8,30-31"
        ) from None


def _survival(d: dict[str, Any]) -> None:
    median = "not reached" if d["median"] is None else f"{d['median']:.1f} days"
    click.echo(
        f"{d['users']:,} users from {d['start']} to {d['end']}: {d['happened']:,} did, {d['censored']:,} had not when the log ended (censored). Median {median}."
    )
    rows(
        ["days", "still waiting"],
        [[f"{t:.1f}", percent(s)] for t, s in zip(d["time"], d["share"], strict=True)],
    )


@click.command()
@folder_argument
@click.option("--gap", default="30min", show_default=True, help="Silence that ends a session.")
@click.option("--declared", is_flag=True, help="Sessions as the log's session column says.")
@click.option(
    "--of",
    default="type",
    show_default=True,
    help="What the nodes are: type, item.category, channel …",
)
@click.option("--length", default=8, show_default=True, help="Nodes of a path.")
@click.option("--top", default=20, show_default=True)
@click.option("--keep-loops", is_flag=True, help="Count a node repeated in a row every time.")
@click.option("--from", "from_", help="What sessions do after this node.")
@click.option("--to", help="What sessions do before this node.")
@click.option("--depth", default=4, show_default=True, help="Steps after or before.")
@_outputs
def paths(
    folder: str, gap: str, declared: bool, of: str, length: int, top: int, keep_loops: bool,
    from_: str | None, to: str | None, depth: int, as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """Sessions and what people do in them, one thing after another."""
    workspace = _open(folder)
    shared = {"gap": gap, "declared": declared, "of": of, "collapse": not keep_loops}
    if from_ or to:
        way = "after" if from_ else "before"
        links = workspace.sankey(from_ or to, direction=way, depth=depth, **shared)

        def flows() -> None:
            click.echo(f"{links['sessions']:,} sessions with {links['anchor']}; what comes {way}")
            rows(
                ["step", "from", "to", "sessions"],
                [
                    [x["step"], x["source"], x["target"], f"{x['sessions']:,}"]
                    for x in links["links"]
                ],
            )

        _hand_out(
            "sankey", f"What comes {way} {links['anchor']}", links, as_json, csv_, html, flows
        )
        return
    document = workspace.paths(length=length, top=top, **shared)

    def words() -> None:
        click.echo(
            f"{document['sessions']:,} sessions, {document['events_per_session']:.1f} events each, {document['distinct_paths']:,} different openings"
        )
        rows(
            ["path", "sessions", "share"],
            [
                [" > ".join(p["path"]), f"{p['sessions']:,}", percent(p["share"])]
                for p in document["paths"]
            ],
        )

    _hand_out("paths", "Paths", document, as_json, csv_, html, words)


@click.command()
@folder_argument
@click.argument("measure", required=False)
@click.option("--unit", help="day, week or month.")
@click.option("--by", help="Break down by a field of the event, or profile.NAME.")
@click.option(
    "--rate", default=0.05, show_default=True, help="Chance that a quiet series raises any alarm."
)
@_outputs
def trend(
    folder: str, measure: str | None, unit: str | None, by: str | None, rate: float,
    as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """MEASURE over time, what is odd and what changed: users(*), count(view), sum(purchase.value), mean(purchase.value), or a saved name."""
    document = _open(folder).trend(measure, unit, by, rate=rate)

    def words() -> None:
        season = (
            f"season of {document['season']} removed" if document["season"] else "no season removed"
        )
        click.echo(
            f"{document['measure']} by {document['unit']}, {season}; a quiet series alarms with probability {rate:g}"
        )
        rows(
            ["start", "value"],
            [
                [s, "–" if v is None else f"{v:,.2f}"]
                for s, v in list(zip(document["start"], document["values"], strict=True))[-14:]
            ],
        )
        for a in document["anomalies"]:
            click.echo(
                f"  odd: {a['start']} was {a['value']:,.1f}, expected {a['expected']:,.1f} (z {a['z']:+.1f})"
            )
        for c in document["changes"]:
            click.echo(
                f"  changed: from {c['start']} the level went from {c['before']:,.1f} to {c['after']:,.1f} (p {c['p_value']:.3f})"
            )
        for g in document.get("change", {}).get("groups", [])[:8]:
            click.echo(
                f"  {g['group']}: {g['contribution']:+,.2f} of the change of {document['change']['change']:+,.2f}"
            )

    _hand_out("trend", document["measure"], document, as_json, csv_, html, words)


@click.command()
@folder_argument
@click.option("--unit", default="week", show_default=True, help="day, week or month.")
@click.option("--of", help="The events that make a user active (any).")
@_outputs
def lifecycle(
    folder: str, unit: str, of: str | None, as_json: bool, csv_: str | None, html: str | None
) -> None:
    """New, returning, resurrected and dormant users, and how often people come."""
    document = _open(folder).lifecycle(unit, of)

    def words() -> None:
        names = ("new", "returning", "resurrected", "dormant")
        rows(
            [unit, *names],
            [
                [s, *(document[n][i] for n in names)]
                for i, s in list(enumerate(document["start"]))[-16:]
            ],
        )
        sticky = document["stickiness"]
        click.echo(
            f"active today of this month: {percent(sticky['daily_of_monthly'][-1])}; days active of the last {sticky['window']}: {sticky['power'][1:]}"
        )

    _hand_out("lifecycle", "Lifecycle", document, as_json, csv_, html, words)


@click.command()
@folder_argument
@click.option("--conversion", help="The event that counts (purchase).")
@click.option(
    "--channel", default="channel", show_default=True, help="The field that names the channel."
)
@click.option("--touch", default="*", show_default=True, help="The events that are touches.")
@click.option("--lookback", default="30d", show_default=True)
@click.option("--half-life", default="7d", show_default=True, help="Of the time-decay model.")
@_outputs
def attribution(
    folder: str,
    conversion: str | None,
    as_json: bool,
    csv_: str | None,
    html: str | None,
    **options: Any,
) -> None:
    """Which channels the conversions go to: first, last, linear, time decay, Markov removal, Shapley."""
    document = _open(folder).attribution(conversion, **options)

    def words() -> None:
        models = list(document["models"])
        click.echo(
            f"{document['conversions']:,} conversions, {document['without_touch']:,} without a touch within {document['lookback']}"
        )
        rows(
            ["channel", "touches", *models],
            [
                [
                    c["channel"],
                    f"{c['touches']:,}",
                    *(f"{c['conversions'][m]:,.1f}" for m in models),
                ]
                for c in document["channels"]
            ],
        )
        click.echo(document["note"])

    _hand_out("attribution", "Attribution", document, as_json, csv_, html, words)


@click.command()
@folder_argument
@click.option("--horizon", default="30d", show_default=True, help="How far ahead.")
@click.option(
    "--memory",
    default="90d",
    show_default=True,
    help="How long a stage lasts without a sign of life.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False), help="Write each user's stage and chances (Parquet)."
)
@_outputs
def stages(
    folder: str, horizon: str, memory: str, out: str | None,
    as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """Where each user stands (attention to loyalty), the chance of the next stage, and totals ahead, validated forward."""
    from propend.pipeline.predict import write_table

    workspace = _open(folder)
    forecast = workspace.forecast_funnel(horizon, memory)
    document = forecast.to_dict()
    if out:
        write_table(workspace.stage_table(forecast), Path(out))
        document["users_file"] = out

    def words() -> None:
        rows(
            ["stage", "users", f"next in {horizon}", "95 % interval", "median days", "likely to leave"],
            [
                [
                    s["stage"], f"{s['users']:,}", f"{s['advance']:,.0f}",
                    f"{s['advance_low']:,.0f} to {s['advance_high']:,.0f}",
                    "–" if s["median_days"] is None else f"{s['median_days']:,.0f}",
                    f"{s['likely_to_leave']:,}",
                ]
                for s in document["stages"]
            ],
        )  # fmt: skip
        v = document["validation"]
        if v["tests"]:
            click.echo(
                f"Forward over {v['cutoffs']} cutoffs: Brier {v['brier']:.4f} (same rate as last period {v['brier_same_rate']:.4f}), "
                f"calibration error {v['ece']:.3f} ({v['ece_same_rate']:.3f}), totals off by {v['total_error']:,.0f} users in all ({v['total_error_same_rate']:,.0f}), "
                f"{percent(v['coverage'], 0)} of totals inside their interval."
            )
        click.echo(document["protocol"])

    _hand_out("aida", "The funnel as it will be", document, as_json, csv_, html, words)
