"""Starting is quick, heavy libraries wait, and the verbs know themselves."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from propend.cli import VERBS, cli, main


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_propend_loads_no_heavy_library() -> None:
    heavy = {
        "numpy",
        "pyarrow",
        "duckdb",
        "numba",
        "lightgbm",
        "sklearn",
        "scipy",
        "matplotlib",
        "torch",
        "lark",
        "rich",
    }
    assert not heavy & loaded_by("import propend")


def test_help_loads_no_heavy_library() -> None:
    statement = "from propend.cli import main\nimport contextlib\nwith contextlib.suppress(SystemExit):\n    main(['--help'])"
    heavy = {
        "numpy",
        "pyarrow",
        "duckdb",
        "numba",
        "lightgbm",
        "sklearn",
        "scipy",
        "matplotlib",
        "torch",
    }
    assert not heavy & loaded_by(statement)


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_loads_has_help_and_json(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert command.help
    options = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in options or verb == "serve"


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predct", "shop"])
    assert "did you mean 'predict'" in capsys.readouterr().err
