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


_NAME = click.argument("name", required=False)
"""A definition saved in propend.toml."""
_INCREMENTAL = click.option(
    "--incremental", is_flag=True, help="Keep the answer; read only what came since."
)


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
@click.argument("saved", metavar="[NAME]", required=False)
@click.option(
    "--steps",
    help="Steps, for example view,cart,purchase; see docs/funnel.md for filters and bounds.",
)
@click.option(
    "--name", help="The same as NAME: a funnel saved in propend.toml (default: the first)."
)
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
@_INCREMENTAL
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
    folder: str, saved: str | None, steps: str | None, name: str | None, within: str | None, as_json: bool,
    csv_: str | None, html: str | None, compare_at: str | None, compare_who: str | None, ask_why: bool, step: int | None,
    audience: str | None, dropped: bool, **options: Any,
) -> None:  # fmt: skip
    """How many go from step to step, how long it takes, and where they are lost."""
    from propend.analytics.steps import split_steps

    if saved and name:
        raise ConfigError(f"two funnels are named, {saved!r} and {name!r}; name one")
    name = name or saved
    if steps and name:
        raise ConfigError("give either --steps or the name of a saved funnel, not both")
    workspace = _open(folder)
    asked: Any = split_steps(steps) if steps else name
    given = {k: v for k, v in options.items() if v not in (None, (), False)}
    _check_options(ask_why, bool(compare_at or compare_who), audience, step, dropped)
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


def _check_options(
    ask_why: bool, compares: bool, audience: str | None, step: int | None, dropped: bool
) -> None:
    """Refuse words that would be ignored."""
    if ask_why + compares + bool(audience) > 1:
        raise ConfigError("--why, --compare-… and --audience are questions of their own; ask one")
    if step is not None and not (ask_why or audience):
        raise ConfigError("--step goes with --why or --audience; add one of them or leave it out")
    if step is not None and step < 1:
        raise ConfigError(f"no step {step}; the first step is 1")
    if dropped and not audience:
        raise ConfigError("--dropped goes with --audience FILE, and --step for the step")
    if dropped and step is None:
        raise ConfigError("--dropped needs --step: the last step that the users reached")


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
    if d["open"]:
        click.echo(
            f"{d['open']:,} of those without the last step entered less than {d['window']} before the log's end and may still reach it"
        )
    for group in d.get("groups", []):
        may = f"; {group['open']:,} may still reach the last step" if group["open"] else ""
        click.echo(f"{d['by']} = {group['group']} (q {group['against_rest']['q_value']:.3f}{may})")
        _steps(group["steps"])
    if "groups" in d and d["per"] != "total" and d["reentry"] == "latest":
        click.echo("who entered by several groups counts in each; the groups need not add up")


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
    click.echo("those whose window was not over when the log ended are left out")


def _why(d: dict[str, Any]) -> None:
    click.echo(
        f"{d['converted']:,} of {d['converted'] + d['not_converted']:,} went from {d['from']} to {d['to']} "
        f"(baseline {percent(d['baseline'])}); {d['findings']} of {d['compared']} comparisons hold at a false-discovery rate of {d['rate']:g}"
    )
    out = d["left_out"]
    if any(out.values()):
        click.echo(
            f"the funnel has {d['funnel'][1]:,} of {d['funnel'][0]:,}; left out: {out['open']:,} whose window was not over when the log ended, {out['same_moment']:,} with both steps in one moment"
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
@_NAME
@click.option("--unit", help="day, week or month (month).")
@click.option("--start", help="The event that begins (any).")
@click.option("--back", help="The event that counts as coming back (any).")
@click.option("--mode", help="on: in that period (the default); unbounded: or later.")
@click.option(
    "--recurring", is_flag=True, help="A user joins the cohort of every period with a start."
)
@click.option("--brackets", help="Days on each user's own clock, for example 1-2,7-8,30-31.")
@click.option("--survival", is_flag=True, help="Kaplan–Meier: time from --start to --back.")
@_INCREMENTAL
@_outputs
def retention(
    folder: str, name: str | None, recurring: bool, survival: bool, incremental: bool,
    as_json: bool, csv_: str | None, html: str | None, **options: Any,
) -> None:  # fmt: skip
    """Of those who started in a period, what share came back in each period after."""
    document = _open(folder).retention(
        name=name, recurring=recurring or None, survival=survival or None,
        incremental=incremental, **options,
    )  # fmt: skip
    if "censored" in document:
        title = name or "Time until"
        _hand_out("survival", title, document, as_json, csv_, html, lambda: _survival(document))
        return
    _hand_out(
        "retention", name or "Retention", document, as_json, csv_, html,
        lambda: _retention(document),
    )  # fmt: skip


def _retention(d: dict[str, Any]) -> None:
    if "brackets" in d:
        heads = [f"day {a} to {b}" if b - a > 1 else f"day {a}" for a, b in d["brackets"]]
    else:
        heads = [str(k) for k in range(max((len(c["rates"]) for c in d["cohorts"]), default=0))]
    click.echo(f"{d['start']} then {d['back']}, by {d['unit']} ({d['mode']})")
    rows(
        ["cohort", "users", *heads],
        [
            [c["start"], f"{c['size']:,}"]
            + [percent(r, 0) for r in c["rates"]]
            + [""] * (len(heads) - len(c["rates"]))
            for c in d["cohorts"]
        ],
    )
    told = [
        f"{heads[i] if 'brackets' in d else f'after {i}'} {percent(c['rate'])} ({percent(c['low'])} to {percent(c['high'])})"
        for i, c in enumerate(d["curve"])
        if c["rate"] is not None and (i or "brackets" in d)
    ][:4]
    if told:
        click.echo("All cohorts, with 95 % intervals: " + ", ".join(told))


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
@_NAME
@click.option("--gap", help="Silence that ends a session (30min).")
@click.option("--declared", is_flag=True, help="Sessions as the log's session column says.")
@click.option("--of", help="What the nodes are: type (the default), item.category, channel …")
@click.option("--length", type=int, help="Nodes of a path (8).")
@click.option("--top", type=int, help="How many paths (20).")
@click.option("--keep-loops", is_flag=True, help="Count a node repeated in a row every time.")
@click.option("--from", "after", help="What sessions do after this node.")
@click.option("--to", "before", help="What sessions do before this node.")
@click.option("--depth", type=int, help="Steps after or before (4).")
@_INCREMENTAL
@_outputs
def paths(
    folder: str, name: str | None, declared: bool, keep_loops: bool, incremental: bool,
    as_json: bool, csv_: str | None, html: str | None, **options: Any,
) -> None:  # fmt: skip
    """Sessions and what people do in them, one thing after another."""
    document = _open(folder).paths(
        name=name, declared=declared or None, collapse=False if keep_loops else None,
        incremental=incremental, **options,
    )  # fmt: skip
    if "anchor" in document:
        title = name or f"What comes {document['direction']} {document['anchor']}"
        _hand_out("sankey", title, document, as_json, csv_, html, lambda: _flows(document))
        return
    _hand_out("paths", name or "Paths", document, as_json, csv_, html, lambda: _paths(document))


def _flows(d: dict[str, Any]) -> None:
    click.echo(f"{d['sessions']:,} sessions with {d['anchor']}; what comes {d['direction']}")
    rows(
        ["step", "from", "to", "sessions", "share"],
        [
            [
                x["step"], x["source"], x["target"], f"{x['sessions']:,}",
                percent(x["sessions"] / d["sessions"]),
            ]
            for x in d["links"][:30]
        ],
    )  # fmt: skip
    if len(d["links"]) > 30:
        click.echo(f"  … and {len(d['links']) - 30:,} rarer moves; --csv or --json has them all")


def _paths(d: dict[str, Any]) -> None:
    if not d["sessions"]:
        click.echo("No session has such a node.")
        return
    click.echo(
        f"{d['sessions']:,} sessions, {d['events_per_session']:.1f} events each, {d['distinct_paths']:,} different openings"
    )
    rows(
        ["path", "sessions", "share"],
        [[" > ".join(p["path"]), f"{p['sessions']:,}", percent(p["share"])] for p in d["paths"]],
    )


@click.command()
@folder_argument
@click.argument("measure", required=False)
@click.option("--unit", help="day, week or month (day).")
@click.option(
    "--by", help="Break down by a field of the event, profile.NAME, first.FIELD or cohort.month."
)
@click.option(
    "--rate", default=0.05, show_default=True, help="Chance that a quiet series raises any alarm."
)
@_INCREMENTAL
@_outputs
def trend(
    folder: str, measure: str | None, unit: str | None, by: str | None, rate: float,
    incremental: bool, as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """MEASURE over time, what is odd and what changed.

    MEASURE is users(*), count(view), sum(purchase.value), median(purchase.value), users(purchase) / users(*), any expression
    of the language, or a saved name; see docs/trends.md.
    """
    document = _open(folder).trend(measure, unit, by, rate=rate, incremental=incremental)
    title = document["measure"] + (f" by {document['by']}" if "by" in document else "")
    _hand_out("trend", title, document, as_json, csv_, html, lambda: _trend(document))


def _trend(d: dict[str, Any]) -> None:
    season = f"season of {d['season']} removed" if d["season"] else "no season removed"
    click.echo(
        f"{d['measure']} by {d['unit']}, {season}; a quiet series alarms with probability {d['false_alarm_rate']:g}"
    )
    first, last = d["whole"]
    told = list(enumerate(zip(d["start"], d["values"], strict=True)))[-14:]
    groups = dict(list(d.get("groups", {}).items())[:5])  # the commonest; --csv and --json have all
    rows(
        [d["unit"], "all" if groups else "value", *groups, ""],
        [
            [
                start, _figure(v), *(_figure(g[i]) for g in groups.values()),
                "" if first <= i < last else "the log covers a part of it",
            ]
            for i, (start, v) in told
        ],
    )  # fmt: skip
    if len(groups) < len(d.get("groups", {})):
        click.echo(
            f"  … and {len(d['groups']) - len(groups)} rarer groups; --csv or --json has them all"
        )
    for a in d["anomalies"]:
        click.echo(
            f"  odd: {a['start']} was {_figure(a['value'])}, expected {_figure(a['expected'])} (z {a['z']:+.1f})"
        )
    for c in d["changes"]:
        click.echo(
            f"  changed: from {c['start']} the level went from {_figure(c['before'])} to {_figure(c['after'])} (p {c['p_value']:.3f})"
        )
    if "change" in d:
        _moved(d["change"], d["unit"])


def _moved(c: dict[str, Any], unit: str) -> None:
    several = c["periods"] > 1
    span = f"last {c['periods']} {unit}s" if several else f"last {unit}"
    how = {"sum": "in all", "mean per period": f"per {unit} on average"}.get(
        c["figure"], c["figure"]
    )
    click.echo(
        f"The {span} against as many before{f', {how}' if several else ''}: {_figure(c['before'])} to {_figure(c['after'])} ({_figure(c['change'], sign='+')})"
    )
    for g in c["groups"][:8]:
        said = f"  {g['group']}: {_figure(g['before'])} to {_figure(g['after'])}"
        if "mix" in g:
            said += f"; by its share {_figure(g['mix'], sign='+')}, by its rate {_figure(g['rate'], sign='+')} of the change"
        click.echo(said)


def _figure(value: float | None, *, sign: str = "") -> str:
    """Return a number with as many digits as it deserves.

    >>> _figure(58868.9), _figure(12.0), _figure(0.03127, sign="+")
    ('58,869', '12', '+0.0313')
    """
    if value is None:
        return "–"
    whole = abs(value) >= 1000 or value == int(value)
    return f"{value:{sign},.{0 if whole else 2 if abs(value) >= 1 else 4}f}"


@click.command()
@folder_argument
@_NAME
@click.option("--unit", help="day, week or month (week).")
@click.option("--of", help="The events that make a user active (any).")
@_INCREMENTAL
@_outputs
def lifecycle(
    folder: str, name: str | None, unit: str | None, of: str | None, incremental: bool,
    as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """New, returning, resurrected and dormant users, and how often people come."""
    document = _open(folder).lifecycle(unit, of, name=name, incremental=incremental)
    _hand_out(
        "lifecycle", name or "Lifecycle", document, as_json, csv_, html,
        lambda: _lifecycle(document),
    )  # fmt: skip


def _lifecycle(d: dict[str, Any]) -> None:
    names = ("new", "returning", "resurrected", "dormant", "active")
    table = [[s, *(f"{d[n][i]:,}" for n in names)] for i, s in enumerate(d["start"])]
    rows([d["unit"], *names], table[-16:])
    if not d["last_period_complete"]:
        click.echo(
            f"The log ends inside the last {d['unit']}: who is dormant there may still come."
        )
    sticky = d["stickiness"]
    told = [f"{n:,} on {k}" for k, n in enumerate(sticky["power"]) if k and n]
    click.echo(
        f"Of the users of the last 30 days {percent(sticky['daily_of_monthly'][-1])} came on the last day. "
        f"Of the last {sticky['window']} days, users came: {', '.join(told[:8]) or 'on none'}"
    )


@click.command()
@folder_argument
@_NAME
@click.option("--conversion", help="The event that counts (purchase).")
@click.option("--channel", help="The field that names the channel (channel).")
@click.option("--touch", help="The events that are touches (any).")
@click.option("--lookback", help="How far back touches count (30d).")
@click.option("--half-life", help="Of the time-decay model (7d).")
@_INCREMENTAL
@_outputs
def attribution(
    folder: str, name: str | None, incremental: bool, as_json: bool, csv_: str | None,
    html: str | None, **options: Any,
) -> None:  # fmt: skip
    """Which channels the conversions go to: first, last, linear, time decay, Markov removal, Shapley."""
    document = _open(folder).attribution(name=name, incremental=incremental, **options)
    _hand_out(
        "attribution", name or "Attribution", document, as_json, csv_, html,
        lambda: _attribution(document),
    )  # fmt: skip


def _attribution(d: dict[str, Any]) -> None:
    models = list(d["models"])
    click.echo(
        f"{d['conversions']:,} conversions, {d['without_touch']:,} without a touch within {d['lookback']}"
    )
    rows(
        ["channel", "touches", *(m.replace("_", " ") for m in models)],
        [
            [c["channel"], f"{c['touches']:,}", *(f"{c['conversions'][m]:,.1f}" for m in models)]
            for c in d["channels"]
        ],
    )
    click.echo(d["note"])


@click.command()
@folder_argument
@_NAME
@click.option("--horizon", help="How far ahead (30d).")
@click.option("--memory", help="How long a stage lasts without a sign of life (90d).")
@click.option(
    "--out", type=click.Path(dir_okay=False), help="Write each user's stage and chances (Parquet)."
)
@_outputs
def stages(
    folder: str, name: str | None, horizon: str | None, memory: str | None, out: str | None,
    as_json: bool, csv_: str | None, html: str | None,
) -> None:  # fmt: skip
    """Where each user stands (attention to loyalty), the chance of the next stage, and totals ahead, validated forward."""
    from propend.pipeline.predict import write_table

    workspace = _open(folder)
    forecast = workspace.forecast_funnel(horizon, memory, name=name)
    document = forecast.to_dict()
    if out:
        write_table(workspace.stage_table(forecast), Path(out))
        document["users_file"] = out

    def words() -> None:
        rows(
            ["stage", "users", f"next in {document['horizon']}", "95 % interval", "median days", "likely to leave"],
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
            days, bins = v["days"], v["reliability"]
            by_median = (
                "the log is too short to judge how long it takes"
                if days["by_median"] is None
                else f"{percent(days['by_median'], 0)} of {days['by_median_rows']:,} were there by the expected median (50 % would be right)"
            )
            click.echo(
                f"Days: concordance {days['concordance']:.3f} (same rate {days['concordance_same_rate']:.3f}); {by_median}."
            )
            rows(
                ["chance said", "came", "95 % interval", "users"],
                [
                    [percent(a), percent(b), f"{percent(low)} to {percent(high)}", f"{n:,}"]
                    for a, b, low, high, n in zip(
                        *(bins[k] for k in ("predicted", "observed", "low", "high", "rows")),
                        strict=True,
                    )
                ],
            )
        click.echo(document["protocol"])

    _hand_out("aida", name or "The funnel as it will be", document, as_json, csv_, html, words)
