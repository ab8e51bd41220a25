"""Write a guess down as a commented ``propend.toml`` that a marketer can read and edit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from propend.config import FILE_NAME
from propend.errors import ConfigError
from propend.events.guess import Finding, Guess

__all__ = ["declare", "to_toml"]

_HEAD: Final = """\
# A Propend workspace. `propend init` guessed what follows from the files; change what is wrong,
# then: propend run. Behind a line stands how sure the guess is (0% to 100%) and why.
# A role or attribute is a column or an SQL expression over columns; a column whose name is not
# one plain word stands in double quotes: user = '"user id"'."""

_MORE_WORKSPACE: Final = """\
# buckets = 0                    # parts of the store; 0: chosen by size
# seed = 7                       # every random draw starts here"""

_MORE_SOURCE: Final[tuple[tuple[str, str], ...]] = (
    ("encoding", '# encoding = "auto"            # or "utf-8", "gb18030", …'),
    ("delimiter", '# delimiter = "auto"           # or ",", ";", "|", "whitespace"'),
    (
        "header",
        "# header = true                # false where line one is data; then name the columns:",
    ),
    ("columns", '# columns = ["user", "time"]'),
    (
        "numbers",
        '# numbers = ["price"]          # text to be read as numbers (also ¥1,234.50)',
    ),
    ("decimal", '# decimal = ","                # where 1.234,50 is written'),
    (
        "times",
        '# times = ["%d/%m/%Y %H:%M"]   # or "epoch_s", "epoch_ms", "epoch_us"; else ISO 8601',
    ),
    (
        "zone",
        '# zone = "Europe/Berlin"       # where it differs from the workspace\'s',
    ),
    (
        "types",
        '# types = [{ when = "Quantity < 0", type = "return", label = "negative quantities" }]',
    ),
)

_TAIL: Final = """\
# [clean]                          # suspicious lines: "keep", "flag" or "quarantine"
# exact_duplicates = "quarantine"
# bots = "flag"
# outliers = "flag"

# [decide]                         # what a push costs and earns
# channel = "email"
# cost = 0.05                      # of one push, in the workspace's currency
# margin = 0.3                     # share of a purchase's value that is profit
# budget = 1000.0                  # most that may be spent in one run
# holdout = 0.1                    # share kept silent at random, to measure the effect"""


def to_toml(guess: Guess) -> str:
    """Return the guess as commented TOML; read back it equals ``guess.config``.

    >>> import tomllib
    >>> found = Guess({"workspace": {"name": "shop", "zone": "UTC"}},
    ...               (Finding("workspace", "zone", "UTC", 0.2, "a guess"),))
    >>> text = to_toml(found)
    >>> tomllib.loads(text) == found.config
    True
    >>> print(text.splitlines()[7])
    zone = "UTC"  # 20%: a guess
    """
    config, findings = guess.config, guess.findings
    blocks = [_HEAD, _workspace(config["workspace"], findings)]
    blocks += [_event_source(source, findings) for source in config.get("events", ())]
    for side in ("items", "users"):
        if side in config:
            blocks.append(_table(side, config[side], findings))
    blocks += list(_without_place(findings, config))
    blocks += [_task(task, findings) for task in config.get("tasks", ())]
    blocks += [_funnel(funnel) for funnel in config.get("funnels", ())]
    return "\n\n".join([*blocks, _TAIL]) + "\n"


def declare(folder: Path, guess: Guess, *, overwrite: bool = False) -> Path:
    """Write ``propend.toml`` into a workspace folder (made where missing) and return its path.

    The file appears whole or not at all. Raises ``ConfigError`` where there is one already, unless
    ``overwrite``.

    >>> folder = Path(tempfile.mkdtemp()) / "shop"
    >>> declare(folder, Guess({"workspace": {"name": "shop"}}, ())).name
    'propend.toml'
    """
    path = folder / FILE_NAME
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the workspace")
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".propend-", suffix=".toml", dir=folder)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(to_toml(guess))
            out.flush()
            os.fsync(out.fileno())
        draft.chmod(0o644)
        if overwrite:
            draft.replace(path)
        else:
            _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _link(draft: Path, path: Path) -> None:
    """Give the draft its name only if nobody has it."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already; edit it, remove it, or ask to overwrite it"
        ) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise ConfigError(
                f"{path} exists already; edit it, remove it, or ask to overwrite it"
            ) from None
        draft.replace(path)


# -- blocks


def _workspace(workspace: dict[str, Any], findings: tuple[Finding, ...]) -> str:
    lines = ["[workspace]"]
    for key, value in workspace.items():
        lines.append(_line(key, value, _finding(findings, "workspace", key)))
    return "\n".join([*lines, _MORE_WORKSPACE])


def _event_source(source: dict[str, Any], findings: tuple[Finding, ...]) -> str:
    name = source["name"]
    lines = ["[[events]]", *_place(source)]
    lines += [
        _line(key, source[key], _finding(findings, name, key))
        for key in ("times", "type")
        if key in source
    ]
    if "times" not in source:
        lines += _comment(_finding(findings, name, "times"), "times")
    if "types" in source:
        lines.append("# the first rule that holds gives the type of a line")
        lines += ["types = [", *(f"  {_value(rule)}," for rule in source["types"]), "]"]
    lines += _more(source, events=True)
    for key in ("roles", "type_map", "of_item", "of_user", "properties"):
        if key not in source:
            continue
        lines += ["", f"[events.{key}]" + _ABOUT[key]]
        lead = "" if key == "roles" else f"{key}."
        lines += _aligned(
            (_line(inner, value, None), _finding(findings, name, f"{lead}{inner}"))
            for inner, value in source[key].items()
        )
        lines += [
            f"# {_one_line(f.column)}: {f.reason} ({_sure(f)})"
            for f in findings
            if key == "type_map" == f.role and f.source == name and f.confidence < 0.8
        ]
    return "\n".join([*lines, *_unused(findings, name)])


_ABOUT: Final = {
    "roles": "                  # more roles: text, channel, message_id, arrival, price, …",
    "type_map": "               # the log's word = the standard word",
    "of_item": "                # what the log repeats about the item",
    "of_user": "                # what the log repeats about the user",
    "properties": "             # what else is known about the event",
}


def _table(side: str, table: dict[str, Any], findings: tuple[Finding, ...]) -> str:
    lines = [f"[{side}]", *_place(table)]
    lines.append(_line("key", table["key"], _finding(findings, table["name"], f"{side}.key")))
    lines += [*_more(table, events=False), "", f"[{side}.attributes]"]
    lines += _aligned(
        (_line(key, value, None), _finding(findings, table["name"], f"{side}.{key}"))
        for key, value in table["attributes"].items()
    )
    return "\n".join([*lines, *_unused(findings, table["name"])])


def _place(source: dict[str, Any]) -> Iterator[str]:
    for key in ("name", "files", "header", "columns", "numbers", "decimal"):
        if key in source:
            yield _line(key, source[key], None)


def _more(source: dict[str, Any], *, events: bool) -> list[str]:
    only_events = ("times", "zone", "types")
    return [
        text
        for key, text in _MORE_SOURCE
        if key not in source and (events or key not in only_events)
    ]


def _task(task: dict[str, Any], findings: tuple[Finding, ...]) -> str:
    found = _finding(findings, "tasks", task["name"])
    reason = [f"# {_one_line(found.reason)}"] if found is not None else []
    return "\n".join([*reason, "[[tasks]]", *(_line(k, v, None) for k, v in task.items())])


def _funnel(funnel: dict[str, Any]) -> str:
    return "\n".join(["[[funnels]]", *(_line(k, v, None) for k, v in funnel.items())])


def _without_place(findings: tuple[Finding, ...], config: dict[str, Any]) -> Iterator[str]:
    """Findings without a key of their own: plain tables, unused files, tasks left out."""
    for found in findings:
        if found.role == "table":
            yield f"# {found.source}: {_one_line(found.reason)}"
        elif found.role == "unused file":
            yield f"# Not used: {_one_line(found.column)} ({found.reason})"
        elif found.source == "tasks" and not found.column:
            yield f"# Left out: task {found.role} ({_one_line(found.reason)})"
    if not config.get("events"):
        yield (
            "# No event log was found. If there is one, declare it:\n"
            '# [[events]]\n# files = ["…"]\n'
            '# [events.roles]\n# user = "…"\n# time = "…"'
        )


def _unused(findings: tuple[Finding, ...], source: str) -> list[str]:
    unused = [f for f in findings if f.source == source and f.role in ("unused", "numbers")]
    if not unused:
        return []
    return [
        "# Columns not used:",
        *(f"#   {_one_line(f.column)}: {_one_line(f.reason)}" for f in unused),
    ]


# -- lines


def _finding(findings: tuple[Finding, ...], source: str, role: str) -> Finding | None:
    return next((f for f in findings if f.source == source and f.role == role), None)


def _sure(found: Finding) -> str:
    return f"{found.confidence:.0%}"


def _line(key: str, value: object, found: Finding | None) -> str:
    line = f"{_key(key)} = {_value(value)}"
    return line if found is None else f"{line}  # {_sure(found)}: {_one_line(found.reason)}"


def _aligned(pairs: Iterable[tuple[str, Finding | None]]) -> list[str]:
    """Lines with their reasons in one column."""
    listed = list(pairs)
    width = min(max((len(line) for line, _ in listed), default=0), 48)
    return [
        line if f is None else f"{line:<{width}}  # {_sure(f)}: {_one_line(f.reason)}"
        for line, f in listed
    ]


def _comment(found: Finding | None, what: str) -> list[str]:
    return (
        []
        if found is None
        else [f"# {what}: {_one_line(found.column)} ({_sure(found)}: {_one_line(found.reason)})"]
    )


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f\s]+", " ", text)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _basic(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        listed = [_value(v) for v in value]
        flat = "[" + ", ".join(listed) + "]"
        return flat if len(flat) < 100 else "[\n" + "".join(f"  {v},\n" for v in listed) + "]"
    text = str(value)
    plain = '"' in text or "\\" in text
    return f"'{text}'" if plain and not re.search(r"['\x00-\x1f\x7f]", text) else _basic(text)


def _basic(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda c: f"\\u{ord(c.group()):04x}", text) + '"'
