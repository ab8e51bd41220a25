"""The verb predict: a question to a log, a table or impressions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from propend.cli.output import emit, json_option, progress_bar, rows
from propend.cli.told import tell
from propend.cli.wishes import refuse_idle
from propend.errors import ConfigError

if TYPE_CHECKING:
    from propend.pipeline.workspace import Workspace

__all__ = ["predict"]

SEED: Final = 7
"""What is drawn from where no workspace says otherwise."""


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
    help="A column (or a feature of a log) confirmed to be known in time, in spite of the leak report.",
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
@click.option(
    "--graph",
    is_flag=True,
    help="With --fuse: join what the graph of users and items says, too (extra graph).",
)
@click.option(
    "--tune",
    is_flag=True,
    help="With --fuse: also fine-tune a network on the question and say how it does (slow).",
)
@click.option(
    "--seed",
    type=int,
    help="What is drawn at random is drawn from it.  [default: the workspace's, else 7]",
)
@click.option(
    "--search",
    metavar="TIME",
    help="Search settings for so long (60s, 5min), inside the training rows of each fold.",
)
@click.option("--balance", is_flag=True, help="Let both answers weigh the same in training.")
@click.option("--select", is_flag=True, help="Use only features that prove stable.")
@click.option(
    "--model", "chosen", multiple=True, metavar="NAME",
    help="Let this model compete instead of the usual ones; repeat it, from simple to flexible.",
)  # fmt: skip
@click.option("--quantile", type=float, help="Predict this quantile of an amount, 0 to 1.")
@click.option("--segment", "segments", multiple=True, metavar="FEATURE", help="Judge by segment.")
@click.option("--value", type=float, help="What a positive contacted is worth: a profit curve.")
@click.option("--cost", type=float, help="What a contact costs.")
@click.option("--budget", type=float, help="The most that contacts may cost.")
@click.option(
    "--abstain",
    type=float,
    metavar="WIDTH",
    help='Answer "not enough data" for users whose interval is wider.',
)
@click.option(
    "--explain",
    metavar="USER",
    help="Say why a user's score is what it is, and what would change it.",
)
@click.option(
    "--impression",
    metavar="TYPE",
    help="Ask per impression instead: events of this type show an item to a user.",
)
@click.option(
    "--click", "clicked", metavar="TYPE", help="With --impression: the event that takes the item."
)
@click.option(
    "--within", default="1d", show_default=True, help="With --impression: how soon after it."
)
@click.option(
    "--score",
    "score_files",
    multiple=True,
    metavar="FILE",
    help="With --table: further rows to score, read the same way.",
)
@click.argument("more", nargs=-1, type=click.Path())
@json_option
@click.pass_context
def predict(
    context: click.Context,
    /,
    folder: str | None,
    ask: str | None,
    name: str | None,
    tables: tuple[str, ...],
    label: str | None,
    folds: int | None,
    out: str | None,
    fuse: str | None,
    graph: bool,
    tune: bool,
    seed: int | None,
    search: str | None,
    balance: bool,
    select: bool,
    chosen: tuple[str, ...],
    quantile: float | None,
    segments: tuple[str, ...],
    value: float | None,
    cost: float | None,
    budget: float | None,
    abstain: float | None,
    explain: str | None,
    impression: str | None,
    clicked: str | None,
    within: str,
    score_files: tuple[str, ...],
    more: tuple[str, ...],
    as_json: bool,
    **columns: Any,
) -> None:
    """Answer a question about the future: ASK is a task's name or for example "any(purchase) next 30d for any(*) last 90d".

    With --table FILE --label COLUMN it learns from a labelled table instead.
    """
    from propend.learn.train import Options

    way = (
        "a table"
        if tables
        else "impressions"
        if impression or clicked
        else "--fuse"
        if fuse
        else "a log"
    )
    refuse_idle(context, way)
    options = Options(_seconds(search), balance, select, _share(quantile), chosen, columns["known"])
    judged = {"segments": segments, "contact": _contact(value, cost, budget)}
    if tables:
        files = [*tables, *(f for f in (folder, ask) if f), *more]
        made = _predict_table(
            files,
            label,
            name,
            folds or 5,
            out,
            SEED if seed is None else seed,
            options,
            judged,
            score_files,
            explain,
            columns,
        )
        emit(made, as_json, lambda: tell(made))
        return
    if impression or clicked:
        made = _predict_impressions(
            folder, impression, clicked, within, name, folds or 3, out, seed, options, judged
        )
        emit(made, as_json, lambda: tell(made))
        return
    if not folder or not ask:
        raise ConfigError(
            'say which workspace and what to ask: propend predict DIR "any(purchase) next 30d for any(*) last 90d", or --table FILE --label COLUMN'
        )
    from propend.learn.card import told
    from propend.pipeline.predict import write_table
    from propend.pipeline.workspace import open_workspace

    workspace = open_workspace(folder)
    if fuse:
        _fused(workspace, ask, name, folds or 3, fuse, graph, tune, out, seed, as_json)
        return
    with progress_bar() as progress:
        prediction = workspace.predict(
            ask, name=name, folds=3 if folds is None else folds, seed=seed, options=options,
            progress=progress, abstain=abstain, explain=explain, reuse=explain is not None, **judged,
        )  # fmt: skip
    target = (
        Path(out) if out else workspace.out / "scores" / f"{prediction.fitted.task.name}.parquet"
    )
    table = prediction.scores
    write_table(table, target)
    document = {
        **told(prediction.card),
        "task": prediction.fitted.task.ask,
        "name": prediction.fitted.task.name,
        "scores": str(target),
        "scored": len(prediction.users),
        "version": prediction.entry.version if prediction.entry else None,
        "kept": prediction.entry.remark if prediction.entry else "",
    }
    if explain is not None:
        document["explained"] = _explained(prediction, explain)
        document["reused"] = prediction.entry is None
    if abstain is not None:
        unsure = table["answer"].to_pylist().count("not enough data")
        document["abstained"] = {"width": abstain, "users": unsure}
    emit(document, as_json, lambda: tell(document))


def _explained(prediction: Any, user: str) -> dict[str, Any]:
    """Return a user's score with its reasons, and the changes that would bring it over (or under) the threshold."""
    from dataclasses import asdict

    from propend.features.words import in_words

    reasons = [asdict(reason) for reason in prediction.explain(user)]
    at = list(prediction.users).index(user)
    document = {"user": user, "score": float(prediction.score[at]), "reasons": reasons}
    if prediction.fitted.task.answer != "which":
        words = {str(feature): in_words(feature) for feature in prediction.fitted.features}
        found = prediction.would_change(user)
        mark, what = prediction.mark
        document["mark"] = {"score": mark, "what": what}
        document["changes"] = (
            None if found is None else [{**asdict(c), "words": words[c.column]} for c in found]
        )
    return document


def _predict_impressions(
    folder: str | None,
    impression: str | None,
    clicked: str | None,
    within: str,
    name: str | None,
    folds: int,
    out: str | None,
    seed: int | None,
    options: Any,
    judged: dict[str, Any],
) -> dict[str, Any]:
    if not (folder and impression and clicked):
        raise ConfigError(
            "per impression needs a workspace and two event types: propend predict DIR --impression view --click purchase --within 1d"
        )
    from propend.expression.duration import Duration
    from propend.learn.card import told
    from propend.pipeline.predict import predict_impressions, write_table
    from propend.pipeline.rows import row_models
    from propend.pipeline.workspace import open_workspace

    opened = open_workspace(folder)
    with progress_bar() as progress:
        fitted, table, entry = predict_impressions(
            opened.store, opened.schema, opened.engine, impression, clicked, Duration.parse(within),
            name=name, folds=folds, seed=opened.config.workspace.seed if seed is None else seed, options=options, progress=progress,
            registry=row_models(opened.folder), **judged,
        )  # fmt: skip
    target = Path(out) if out else opened.out / "scores" / f"{fitted.task.name}.parquet"
    write_table(table, target)
    return {
        **told(fitted.card),
        "task": fitted.task.title,
        "name": fitted.task.name,
        "scores": str(target),
        "scored": table.num_rows,
        "version": entry.version if entry else None,
        "kept": entry.remark if entry else "",
    }


def _seconds(text: str | None) -> float | None:
    """Return a length of time in seconds."""
    if text is None:
        return None
    from propend.expression.duration import Duration

    return float(text) if text.replace(".", "", 1).isdigit() else Duration.parse(text).days * 86_400


def _share(quantile: float | None) -> float | None:
    if quantile is not None and not 0 < quantile < 1:
        raise ConfigError(f"a quantile lies between 0 and 1, not at {quantile:g}; 0.9 for example")
    return quantile


def _contact(value: float | None, cost: float | None, budget: float | None) -> Any:
    """Return what contacting is worth and costs, where it was asked."""
    from propend.learn.threshold import Contact

    if value is None:
        if cost is not None or budget is not None:
            raise ConfigError("a profit curve needs --value: what a positive contacted is worth")
        return None
    return Contact(value, cost or 0.0, budget)


def _fused(
    workspace: Workspace,
    ask: str,
    name: str | None,
    folds: int,
    size: str,
    graph: bool,
    tune: bool,
    out: str | None,
    seed: int | None,
    as_json: bool,
) -> None:
    from propend.pipeline.predict import write_table

    with progress_bar() as progress:
        fusion, scores = workspace.fuse(
            ask, name=name, folds=folds, size=size, graph=graph, tune=tune, seed=seed,
            progress=progress,
        )  # fmt: skip
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
        if fusion.table:
            header = [n for n in fusion.table[0] if not n.endswith(" gained")]
            main = header[2]
            body = [
                [
                    *(_cell(row[n]) for n in header),
                    "{:+.4f} ({:+.4f} to {:+.4f})".format(*row[f"{main} gained"]),
                ]
                for row in fusion.table
            ]
            rows([*header, f"{main} gained"], body)
        verdict = document["verdict"]
        click.echo(f"verdict: {verdict['answer']}: {verdict['why']}")
        click.echo(f"scores of {len(scores):,} users: {target}")

    emit(document, as_json, words)


def _cell(value: Any) -> Any:
    """Return a figure of the ablation as it is printed.

    >>> _cell(0.123456), _cell(12), _cell(None)
    (0.1235, 12, '–')
    """
    if value is None:
        return "–"
    return round(value, 4) if isinstance(value, float) else value


def _predict_table(
    files: list[str],
    label: str | None,
    name: str | None,
    folds: int,
    out: str | None,
    seed: int,
    options: Any,
    judged: dict[str, Any],
    score_files: tuple[str, ...],
    explain: str | None,
    columns: dict[str, Any],
) -> dict[str, Any]:
    if label is None:
        raise ConfigError(
            f"say which column to predict: propend predict --table {files[0]} --label COLUMN"
        )
    import pyarrow as pa

    from propend.engine import connect
    from propend.learn.card import told
    from propend.learn.kept_table import as_fitted
    from propend.learn.labelled import read_like
    from propend.learn.table import cross_validate, read_table
    from propend.pipeline.predict import write_table
    from propend.pipeline.rows import kept_name, row_models

    known = columns.pop("known")
    engine, here = connect(), Path.cwd()
    table = read_table(files, label, engine, here, **columns)
    row = None if explain is None else _row_of(explain, len(table.X))
    later = read_like(score_files, table, engine, here) if score_files else None
    fit = cross_validate(
        table, folds=folds, seed=seed, known_before=known, options=options,
        refit=True, later=None if later is None else later[0], **judged,
    )  # fmt: skip
    kept = kept_name(name or label)
    of = kept if name else label
    target = Path(out or f"{Path(files[0]).with_suffix('').name}-{of}-scores.parquet")
    write_table(
        pa.table(
            {
                "row": range(len(fit.scores)),
                "label": table.told(),
                **_shown(fit.scores, table),
                **(_contacted(fit.scores, fit.card) if later is None else {}),
                "verdict": [fit.card["verdict"]["answer"]] * len(fit.scores),
            }
        ),
        target,
    )
    document = {
        "task": f"{label} of {Path(files[0]).name}",
        **told(fit.card),
        "scores": str(target),
    }
    fitted = as_fitted(fit, table, label, kept, document["task"])
    entry = row_models(target.parent).save(fitted)
    document |= {"name": kept, "version": entry.version, "kept": entry.remark}
    if row is not None:
        document["explained"] = _explained_row(fitted, table.X, row, fit.scores[row])
    if later is not None:
        X, noted = later
        scored = target.with_name(f"{target.stem}-new.parquet")
        now = fit.score(X)
        contacted = _contacted(now, fit.card)  # the budget is spent on these rows
        verdict = {"verdict": [fit.card["verdict"]["answer"]] * len(X)}
        new = {"row": range(len(X)), **_shown(now, table), **contacted, **verdict}
        write_table(pa.table(new), scored)
        document["new"] = {"rows": len(X), "scores": str(scored), "noted": noted}
    return document


def _row_of(text: str, count: int) -> int:
    if not text.isdigit() or int(text) >= count:
        raise ConfigError(
            f"--explain of a table takes a row as the score file counts them, 0 to {count - 1:,}, not {text!r}"
        )
    return int(text)


def _explained_row(fitted: Any, X: Any, row: int, tested: Any) -> dict[str, Any]:
    """Return the score of a table's row by the model fitted on all rows, why it is what it is, and how it was ``tested``."""
    from dataclasses import asdict

    asked = X[row : row + 1]
    reasons = [asdict(reason) for reason in fitted.reasons(asked, 5)[0]]
    own = float(tested.max())
    apart = (
        "has none, for the row only trained" if own != own else f"has {own:.4f}, by a model that had not seen the row"
    )  # fmt: skip
    return {
        "user": f"row {row}",
        "score": float(fitted.score(asked).max()),
        "note": f"rows count from 0; this score is by the model fitted on all rows, the score file {apart}",
        "reasons": reasons,
    }


def _shown(scores: Any, table: Any) -> dict[str, Any]:
    """Return a table's scores as columns: of many answers, the likeliest one with its probability."""
    if scores.ndim == 1:
        return {"score": scores}
    import numpy as np

    known = ~np.isnan(scores).any(axis=1)
    best = np.nan_to_num(scores).argmax(axis=1)
    answer = [table.classes[b] if k else None for b, k in zip(best, known, strict=True)]
    return {"answer": answer, "score": np.where(known, scores.max(axis=1), np.nan)}


def _contacted(scores: Any, card: dict[str, Any]) -> dict[str, Any]:
    """Return whom to contact as a column, where a profit curve was asked for; rows without a score have no answer."""
    if "profit" not in card:
        return {}
    cut = card["profit"]["cut"]
    return {"answer": [None if p != p else "yes" if p >= cut else "no" for p in scores.tolist()]}
