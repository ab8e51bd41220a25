"""Roof: the command line. Each verb's module is loaded when the verb is used, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

from propend.errors import PropendError, nearest

__all__ = ["main"]

VERBS: Final[dict[str, tuple[str, str]]] = {
    "init": (
        "propend.cli.workspace:init",
        "Look at files, guess what the columns mean, write propend.toml.",
    ),
    "run": (
        "propend.cli.workspace:run",
        "The whole journey: clean, predict, recommend, decide, report.",
    ),
    "demo": ("propend.cli.workspace:demo", "The same on a simulated shop, nothing to bring."),
    "ingest": ("propend.cli.workspace:ingest", "Bring new events into the store."),
    "replay": (
        "propend.cli.workspace:replay",
        "Send quarantined rows through the rules as they are now.",
    ),
    "predict": (
        "propend.cli.predict:predict",
        "Answer a question about the future, or learn from a labelled table.",
    ),
    "models": ("propend.cli.models:models", "List fitted models; promote one."),
    "score": ("propend.cli.models:score", "Score everyone now with a fitted model."),
    "export": ("propend.cli.models:export", "Write a fitted model as ONNX."),
    "pretrain": (
        "propend.cli.behaviour:pretrain",
        "Learn a behaviour model from the log: vectors of users and items.",
    ),
    "recommend": ("propend.cli.recommend:recommend", "What to offer whom."),
    "decide": (
        "propend.cli.decide:decide",
        "Whom to reach, with what, when; written as tables and audience files.",
    ),
    "audience": ("propend.cli.decide:audience", "The users for whom an expression holds now."),
    "funnel": (
        "propend.cli.analytics:funnel",
        "How many go from step to step, how long it takes, and why they are lost.",
    ),
    "retention": ("propend.cli.analytics:retention", "Who comes back, cohort by cohort."),
    "paths": ("propend.cli.analytics:paths", "Sessions, and what people do one after another."),
    "trend": (
        "propend.cli.analytics:trend",
        "A measure over time: what is odd, what changed, who moved it.",
    ),
    "lifecycle": (
        "propend.cli.analytics:lifecycle",
        "New, returning, resurrected and dormant users; stickiness.",
    ),
    "attribution": ("propend.cli.analytics:attribution", "Which channels the conversions go to."),
    "stages": (
        "propend.cli.analytics:stages",
        "Where each user stands, and the chance of the next stage: the funnel as it will be.",
    ),
    "sql": (
        "propend.cli.workspace:sql",
        "Ad-hoc SQL over the store (views events, users, items, quarantine).",
    ),
    "serve": (
        "propend.cli.serve:serve",
        "Take events from stock SDKs and answer about users, live.",
    ),
    "move": ("propend.cli.serve:move", "Move what the collector took in into the store."),
    "import": ("propend.cli.serve:import_", "Bring in what another tool exported."),
    "monitor": (
        "propend.cli.serve:monitor",
        "How good live answers were, what drifts, what lags, what to fit again.",
    ),
    "forget": ("propend.cli.workspace:forget", "Erase a user from everything."),
}
"""Verb → where it is, and what it does in one line."""


class Verbs(click.Group):
    """A group that knows its verbs by name and loads one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a journey."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest verb where there is none of this name."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no verb {args[0]!r}{nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs without loading their modules."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="propend", prog_name="propend")
def cli() -> None:
    """From a log of user behaviour to marketing decisions.

    Begin with `propend demo`, or with `propend init shop --from orders.csv` and `propend run shop`.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line; a failure is one sentence on standard error and a non-zero exit."""
    try:
        cli.main(args, standalone_mode=False)
    except PropendError as error:
        click.echo(f"propend: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(
            f"propend: {where}{error.strerror or error}; check the path, the permissions and the space on the disk",
            err=True,
        )
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("propend: stopped; nothing was left half-written", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
