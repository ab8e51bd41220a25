"""The verb that offers: recommend."""

from __future__ import annotations

from typing import Any

import click

from propend.cli.output import emit, folder_argument, json_option, percent, rows
from propend.errors import ConfigError

__all__ = ["recommend"]


@click.command()
@folder_argument
@click.option("--user", "users", multiple=True, help="A user id; repeat for several.")
@click.option(
    "--session",
    multiple=True,
    metavar="ITEM",
    help="An anonymous session's item ids, oldest first.",
)
@click.option("--similar", metavar="ITEM", help="Items that go with this one.")
@click.option("-k", default=10, show_default=True, help="How many offers.")
@click.option("--evaluate", is_flag=True, help="How good the recommenders are on this log.")
@click.option(
    "--protocol",
    default="forward",
    show_default=True,
    type=click.Choice(["forward", "leave-one-out", "random"]),
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="Write offers for all users to this Parquet file.",
)
@json_option
def recommend(
    folder: str,
    users: tuple[str, ...],
    session: tuple[str, ...],
    similar: str | None,
    k: int,
    evaluate: bool,
    protocol: str,
    out: str | None,
    as_json: bool,
) -> None:
    """What to offer: to a user, to a session, beside an item, or to everyone; or how good the offers are."""
    from propend.pipeline.run import with_names
    from propend.pipeline.workspace import open_workspace

    if k < 1:
        raise ConfigError(f"-k must be at least 1, not {k}")
    workspace = open_workspace(folder)
    if evaluate:
        from propend.recommend.batch import judge

        document = judge(workspace.store, workspace.schema, protocol=protocol)
        emit(document, as_json, lambda: _table(document))
        return
    if not users and not session and similar is None:
        _everyone(workspace, k, out, as_json)
        return
    if similar is not None:
        from propend.recommend.batch import similar_items

        table = similar_items(workspace.store, workspace.schema, similar, k)
    else:
        seen = [
            i
            for given in session
            for i in ([given] if workspace.has_item(given) else given.split(","))
        ]
        table = workspace.recommend_session(seen, k) if seen else workspace.recommend(users, k)
    offers = [
        {**row, "name": row.get("name") or row["item"]}
        for row in with_names(workspace, table).to_pylist()
    ]
    unknown = [user for user in users if not workspace.knows(user)]
    if unknown:
        click.echo(f"not in the log, so served as new users: {', '.join(unknown)}", err=True)
    emit(
        {"offers": offers},
        as_json,
        lambda: rows(
            ["user", "rank", "item", "name", "because"],
            [[o.get("user") or "–", o["rank"], o["item"], o["name"], o["reason"]] for o in offers],
        ),
    )


def _everyone(workspace: Any, k: int, out: str | None, as_json: bool) -> None:
    from pathlib import Path

    from propend.pipeline.predict import write_table
    from propend.recommend.batch import recommend_all

    table, _ = recommend_all(workspace.store, workspace.schema, workspace.engine, k, judged=False)
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


def _table(document: dict[str, Any]) -> None:
    if "error" in document:
        click.echo(f"Not judged: {document['error']}")
        return
    click.echo(f"{document['protocol']}; data {document['data_hash']}")
    keys = [
        key
        for key in ("hr@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@20", "coverage")
        if key in document["models"][0]
    ]
    rows(
        ["recommender", *keys],
        [
            [
                m["name"],
                *(percent(m[key]) if key == "coverage" else f"{m[key]:.4f}" for key in keys),
            ]
            for m in document["models"]
        ],
    )
    for warning in document.get("warnings", []):
        click.echo(f"  {warning}")
