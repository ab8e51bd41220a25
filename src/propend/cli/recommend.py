"""The verb that offers: recommend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from propend.cli.output import emit, folder_argument, json_option, percent, rows
from propend.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from propend.recommend.evaluate import Ties

__all__ = ["recommend"]

_FIGURES = ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@20", "coverage")


@click.command()
@folder_argument
@click.option("--user", "users", multiple=True, help="A user id; repeat for several.")
@click.option(
    "--session",
    multiple=True,
    metavar="ITEM",
    help="An anonymous session's item ids, oldest first, with commas between; empty: a newcomer.",
)
@click.option("--similar", metavar="ITEM", help="Items that go with this one.")
@click.option("--fans", metavar="ITEM", help="Users who would like this item, for a campaign.")
@click.option("--rules", is_flag=True, help="What goes with what, and what it earns.")
@click.option("--bundles", is_flag=True, help="Sets of items worth selling as one.")
@click.option(
    "--onboarding",
    is_flag=True,
    help="Items to show a newcomer; with --session: what to show after these clicks.",
)
@click.option("-k", default=10, show_default=True, help="How many offers, users or questions.")
@click.option("--evaluate", is_flag=True, help="How good the recommenders are on this log.")
@click.option(
    "--protocol",
    default="forward",
    show_default=True,
    type=click.Choice(["forward", "leave-one-out", "random"]),
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="NAME",
    help="Judge this recommender as well; with settings: ease:strength=200,support=100.",
)
@click.option(
    "--ties",
    default="conservative",
    show_default=True,
    type=click.Choice(["conservative", "random"]),
    help="Where a right answer stands among wrong items of equal score: behind them, or anywhere.",
)
@click.option("--support", default=0.001, show_default=True, help="Least share of baskets.")
@click.option("--confidence", default=0.0, show_default=True, help="Least P(right | left).")
@click.option("--significance", default=0.05, show_default=True, help="Most false discoveries.")
@click.option(
    "--control",
    default="discoveries",
    show_default=True,
    type=click.Choice(["discoveries", "dependent", "family"]),
    help="What --significance bounds.",
)
@click.option("--longest", default=3, show_default=True, help="Most items of a rule or bundle.")
@click.option(
    "--per", default="session", show_default=True, help="Baskets: session, user, or e.g. 7d."
)
@click.option("--margin", metavar="ATTRIBUTE", help="Item attribute: what one sale leaves.")
@click.option("--discount", default=0.1, show_default=True, help="Share of a bundle's margin.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="Write offers for all users to this Parquet file.",
)
@click.option("--csv", "csv_", type=click.Path(dir_okay=False), help="Write the table as CSV.")
@json_option
def recommend(
    folder: str,
    users: tuple[str, ...],
    session: tuple[str, ...],
    similar: str | None,
    fans: str | None,
    rules: bool,
    bundles: bool,
    onboarding: bool,
    k: int,
    evaluate: bool,
    protocol: str,
    others: tuple[str, ...],
    ties: Ties,
    out: str | None,
    csv_: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What to offer: to a user, to a session, beside an item, or to everyone; or how good the offers are."""
    from propend.pipeline.workspace import open_workspace

    if k < 1:
        raise ConfigError(f"-k must be at least 1, not {k}")
    _check_options(click.get_current_context())
    workspace = open_workspace(folder)
    clicks = [item for given in session for item in _items(workspace, given)]
    if evaluate:
        document = workspace.judge_offers(protocol, others=others, ties=ties)
        emit(document, as_json, lambda: _judged(document))
        return
    if rules or bundles:
        if bundles:
            del options["confidence"]
            found = workspace.bundles(**options)
        else:
            del options["discount"]
            found = workspace.rules(**options)
        _show(found, "bundles" if bundles else "rules", k, csv_, as_json)
        return
    if onboarding:
        _show(workspace.onboarding(k, clicks), "questions", k, csv_, as_json)
        return
    if fans is not None:
        _show(workspace.fans(fans, k), "users", k, csv_, as_json)
        return
    if not users and not session and similar is None:
        _everyone(workspace, k, out, as_json)
        return
    _offers(workspace, users, clicks if session else None, similar, k, csv_, as_json)


_QUESTIONS: Final = {
    "rules": "--rules",
    "bundles": "--bundles",
    "evaluate": "--evaluate",
    "onboarding": "--onboarding",
    "similar": "--similar",
    "fans": "--fans",
    "users": "--user",
    "session": "--session",
}
"""The options that each ask a question of their own, by parameter."""

_FITTING: Final[dict[str, frozenset[str]]] = {
    "k": frozenset(_QUESTIONS) - {"evaluate"} | {""},
    "protocol": frozenset({"evaluate"}),
    "others": frozenset({"evaluate"}),
    "ties": frozenset({"evaluate"}),
    "support": frozenset({"rules", "bundles"}),
    "confidence": frozenset({"rules"}),
    "significance": frozenset({"rules", "bundles"}),
    "control": frozenset({"rules", "bundles"}),
    "longest": frozenset({"rules", "bundles"}),
    "per": frozenset({"rules", "bundles"}),
    "margin": frozenset({"rules", "bundles"}),
    "discount": frozenset({"bundles"}),
    "out": frozenset({""}),
    "csv_": frozenset(_QUESTIONS) - {"evaluate"},
}
"""The questions that each further option belongs to; the empty word: offers for everyone."""


def _check_options(context: click.Context) -> None:
    """Refuse two questions at once, and an option that the question would not read."""
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    asked = [name for name in _QUESTIONS if name in given]
    if asked == ["onboarding", "session"]:  # the clicks so far
        asked = ["onboarding"]
    if len(asked) > 1:
        both = " and ".join(_QUESTIONS[name] for name in asked)
        raise ConfigError(f"{both} ask different questions; ask one at a time")
    question = asked[0] if asked else ""
    words = {p.name: p.opts[0] for p in context.command.params}
    for name in sorted(given & _FITTING.keys()):
        if question not in _FITTING[name]:
            where = f"with {_QUESTIONS[question]}" if question else "for offers to everyone"
            known = [_QUESTIONS[q] for q in _QUESTIONS if q in _FITTING[name]]
            instead = (
                f"it belongs to {' or '.join(known)}"
                if known
                else "it belongs to offers for everyone"
            )
            raise ConfigError(f"{words[name]} says nothing {where}; {instead}")


def _items(workspace: Any, given: str) -> list[str]:
    """Return the item ids of a ``--session``: one id, or several with commas between."""
    if workspace.has_item(given):
        return [given]
    return [item.strip() for item in given.split(",") if item.strip()]


def _offers(
    workspace: Any,
    users: tuple[str, ...],
    clicks: list[str] | None,
    similar: str | None,
    k: int,
    csv_: str | None,
    as_json: bool,
) -> None:
    """Print offers to some users, to a session, or beside an item."""
    from propend.pipeline.run import with_names

    if similar is not None:
        table = workspace.similar(similar, k)
    else:
        anonymous = clicks is not None
        table = (
            workspace.recommend_session(clicks, k) if anonymous else workspace.recommend(users, k)
        )
    table = with_names(workspace, table)
    _write(table, csv_)
    offers = [{**row, "name": row.get("name") or row["item"]} for row in table.to_pylist()]
    unknown = [user for user in users if not workspace.knows(user)]
    if unknown:
        click.echo(f"not in the log, so served as new users: {', '.join(unknown)}", err=True)
    for user in [u for u in users if u not in unknown and u not in {o.get("user") for o in offers}]:
        click.echo(f"nothing is left to offer to {user}: everything was met before", err=True)
    most = max((o["rank"] for o in offers), default=0)
    if similar is not None and most < k:
        few = f"only {most} of {k} items" if most else "no item"
        click.echo(f"{few} could be found that go with {similar}{_UNLIKE}", err=True)
    elif 0 < most < k:
        click.echo(
            f"only {most} of {k} offers: the sources know no more items that are allowed here",
            err=True,
        )
    elif not most and clicks is not None:
        click.echo("nothing can be offered to this session: no allowed item was ever met", err=True)
    header = ["user", "rank", "item", "name", "from", "because"]
    emit(
        {"offers": offers},
        as_json,
        lambda: rows(
            header,
            [
                [
                    o.get("user") or o.get("of") or "–",
                    o["rank"],
                    o["item"],
                    o["name"],
                    str(o["source"]).replace("_", " "),
                    o["reason"],
                ]
                for o in offers
            ],
        ),
    )


def _everyone(workspace: Any, k: int, out: str | None, as_json: bool) -> None:
    from propend.pipeline.predict import write_table

    table = workspace.recommend_everyone(k)
    target = write_table(table, Path(out) if out else workspace.out / "recommendations.parquet")
    document = {
        "users": len(set(table["user"].to_pylist())),
        "rows": table.num_rows,
        "file": str(target),
    }
    emit(
        document,
        as_json,
        lambda: click.echo(
            f"{document['rows']:,} offers for {document['users']:,} users: {target}"
        ),
    )


def _write(table: pa.Table, csv_: str | None) -> None:
    if csv_:
        from propend.pipeline.predict import write_csv

        write_csv(table, Path(csv_))


def _show(table: pa.Table, word: str, k: int, csv_: str | None, as_json: bool) -> None:
    """Print a table: all of it as JSON or CSV, its first k rows in words."""
    _write(table, csv_)
    found = table.to_pylist()

    def words() -> None:
        if not found:
            click.echo(_NOTHING[word])
            return
        header = list(found[0])
        rows(header, [[_cell(row[name]) for name in header] for row in found[:k]])
        if len(found) > k:
            click.echo(f"  … and {len(found) - k:,} more; see them with -k, --json or --csv FILE")

    emit({word: found}, as_json, words)


_UNLIKE: Final = ": no others were met by the same users or share its attributes"
_NOTHING: Final = {
    "rules": "No rules: nothing is left after the limits given; lower --support, or raise --significance.",
    "bundles": "No bundles: no set sells together more than chance explains; lower --support, or raise --significance.",
    "users": "No users: everybody who could be judged has met this item, or nothing is known that points to it.",
    "questions": "No questions: every item that tells something was clicked already.",
}
"""What is said of a table without rows."""


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _judged(document: dict[str, Any]) -> None:
    if "error" in document:
        click.echo(f"Not judged: {document['error']}")
        return
    seen = {
        "hidden": "what users had met is hidden",
        "allowed": "what users had met is offered too",
    }
    click.echo(
        f"{document['protocol']}; {document['users']:,} users; {seen[document['seen']]}; "
        f"ties {document['ties']}; data {document['data_hash']}"
    )
    keys = [key for key in _FIGURES if key in document["models"][0]]
    served = document.get("served")
    rows(
        ["recommender", *keys, "ndcg@10, 95 %", "diversity in a list", "audience AUC"],
        [
            [
                f"{m['name']} (what users are offered)" if m["name"] == served else m["name"],
                *(percent(m[key]) if key == "coverage" else f"{m[key]:.4f}" for key in keys),
                "{:.4f} to {:.4f}".format(*m["intervals"]["ndcg@10"]),
                f"{m['diversity_within']:.3f}",
                f"{m['audience']['auc']:.3f}" if m["audience"] else "–",
            ]
            for m in document["models"]
        ],
    )
    if document.get("judged"):
        told = ", ".join(f"{n} {v:.4f}" for n, v in document["judged"].items())
        click.echo(
            f"  what is offered was chosen before the cut, by NDCG@10: {told}; the first, {document['chosen']}, is taken"
        )
    cold = [m for m in document["models"] if m.get("cold_users")]
    if cold:
        click.echo(
            f"  cold users ({cold[0]['cold_users']['users']:,}, judged apart), NDCG@10: "
            + ", ".join(f"{m['name']} {m['cold_users']['ndcg@10']:.4f}" for m in cold)
        )
    for warning in document.get("warnings", []):
        click.echo(f"  {warning}")
