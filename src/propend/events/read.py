"""A declared source as the SQL that gives its rows roles: the one place that knows how columns become events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from propend.config import Config, EventSource
from propend.engine import Engine
from propend.errors import ConfigError
from propend.names import (
    ARRIVAL,
    CHANNEL,
    ITEM,
    MESSAGE,
    PRICE,
    QUANTITY,
    SEQUENCE,
    SESSION,
    TEXT,
    TIME,
    TYPE,
    USER,
    VALUE,
)

__all__ = ["Plan", "plan"]

_BLANK: Final = "('', 'nan', 'null', 'none', 'n/a', '#n/a', 'nil', '\\n')"
_ZONED: Final = r"\d\s*(Z|UTC|[+-]\d\d(:?\d\d)?)$"
_NUMBERS: Final = (VALUE, QUANTITY, PRICE)
_TEXTS: Final = (SESSION, CHANNEL, TEXT)
_INTEGERS: Final = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
_NUMERIC: Final = (*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL")


_RESERVED: Final = (
    USER,
    TIME,
    SEQUENCE,
    TYPE,
    ITEM,
    *_NUMBERS,
    *_TEXTS,
    ARRIVAL,
    "return_of",
    "row_hash",
    "message_hash",
    "source",
)


@dataclass(frozen=True)
class Plan:
    """The columns to select from a source, and what each stands for."""

    select: Mapping[str, str]
    """Output name → SQL expression."""
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    properties: Mapping[str, str]
    """Free property → ``number`` or ``text``."""
    of_item: tuple[str, ...]
    of_user: tuple[str, ...]
    zone: str | None
    """Zone of naive times; ``None`` where none is declared: then every time must carry its own."""
    has_arrival: bool
    rules: tuple[tuple[str, str], ...]
    """Label and type of each event-type rule; column ``rule`` holds the index of the one that decided."""


def plan(config: Config, source: EventSource, engine: Engine, base: Path) -> Plan:
    """Work out the selection for a source.

    Raises ``ConfigError`` for a missing role, an unknown column or an expression that cannot be read.
    """
    for role in (USER, TIME):
        if role not in source.roles:
            raise ConfigError(
                f"events source {source.name!r} names no {role} column; add {role} = '…' under [events.roles]"
            )
    source = _quoted(source, engine.columns(source, base))
    roles = dict(source.roles)
    plain = {
        **roles,
        **{f"p:{k}": v for k, v in source.properties.items()},
        **{f"i:{k}": v for k, v in source.of_item.items()},
        **{f"u:{k}": v for k, v in source.of_user.items()},
    }
    for name in source.properties:
        if name in _RESERVED:
            raise ConfigError(
                f"events source {source.name!r}: a property cannot be named {name!r}, the store has a column of that name; choose another"
            )
    kinds = engine.columns(source, base, plain)
    select: dict[str, str] = {USER: _identifier(roles[USER], kinds[USER])}
    select[ITEM] = _identifier(roles[ITEM], kinds[ITEM]) if ITEM in roles else "NULL::VARCHAR"
    for role in (TIME, ARRIVAL):
        if role in roles:
            select[role], select[f"{role}_zoned"] = _moment(roles[role], kinds[role], source)
            select[f"{role}_missing"] = _blank(roles[role], kinds[role])
            if select[f"{role}_zoned"] == "false":
                config.zone_of(source)  # every time is naive: refuse at once if no zone is declared
    number = "number_of_comma" if source.decimal == "," else "number_of"
    unreadable = _unreadable(source, engine, base)
    for role in _NUMBERS:
        if role in roles and kinds[role] == "VARCHAR":
            select[role] = f"{number}({roles[role]})"
            unreadable.append(
                f"({number}({roles[role]}) IS NULL AND NOT {_blank(roles[role], 'VARCHAR')})"
            )
        elif role in roles:
            select[role] = f"try_cast(({roles[role]}) AS DOUBLE)"
    select["unreadable"] = " OR ".join(unreadable) or "false"
    for role in _TEXTS:
        if role in roles:
            select[role] = _text(roles[role])
    if MESSAGE in roles:
        select[MESSAGE] = _text(roles[MESSAGE])
    select[TYPE] = _type(source)
    if TYPE in roles:
        select["type_missing"] = _blank(roles[TYPE], kinds[TYPE])
    select["rule"] = _first_rule(source, lambda position, _: str(position), "-1")
    for prefix, group in (("p", source.properties), ("i", source.of_item), ("u", source.of_user)):
        for name, expression in group.items():
            numeric = kinds[f"{prefix}:{name}"].startswith(_NUMERIC)
            select[f"{prefix}:{name}"] = (
                f"try_cast(({expression}) AS DOUBLE)" if numeric else _text(expression)
            )
    engine.columns(source, base, select)  # names the first column or expression that cannot be read
    return Plan(
        select,
        tuple(r for r in _NUMBERS if r in roles),
        tuple(r for r in _TEXTS if r in roles),
        {
            name: "number" if kinds[f"p:{name}"].startswith(_NUMERIC) else "text"
            for name in source.properties
        },
        tuple(source.of_item),
        tuple(source.of_user),
        source.zone or config.workspace.zone,
        ARRIVAL in roles,
        tuple((rule.label or rule.when, rule.type) for rule in source.types),
    )


def _quoted(source: EventSource, columns: Collection[str]) -> EventSource:
    """Quote what names a column as it is written, so that names with spaces, dots or SQL words need no care."""

    def quoted(expressions: dict[str, str]) -> dict[str, str]:
        return {name: quoted_name(e, columns) for name, e in expressions.items()}

    return msgspec.structs.replace(
        source,
        roles=quoted(source.roles),
        properties=quoted(source.properties),
        of_item=quoted(source.of_item),
        of_user=quoted(source.of_user),
    )


def quoted_name(expression: str, columns: Collection[str]) -> str:
    """Return an expression that names a column as SQL for that column, any other as it is."""
    return '"' + expression.replace('"', '""') + '"' if expression in columns else expression


def identifier(expression: str, kind: str) -> str:
    """Return SQL for an id as text: trimmed, blanks missing, ``17850.0`` the same id as ``17850``."""
    return _identifier(expression, kind)


def _identifier(expression: str, kind: str) -> str:
    if kind.startswith(_INTEGERS):
        return f"({expression})::VARCHAR"
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"({expression}) = trunc({expression}) AND abs({expression}) < 1e18"
        return f"CASE WHEN {whole} THEN (({expression})::BIGINT)::VARCHAR WHEN isnan({expression}) THEN NULL ELSE ({expression})::VARCHAR END"
    text = f"trim(({expression})::VARCHAR)"
    whole = f"CASE WHEN suffix({text}, '.0') AND regexp_full_match({text}, '-?\\d+\\.0') THEN left({text}, length({text}) - 2) ELSE {text} END"
    return f"CASE WHEN length({text}) < 5 AND lower({text}) IN {_BLANK} THEN NULL ELSE {whole} END"


def _text(expression: str) -> str:
    return f"nullif(trim(({expression})::VARCHAR), '')"


def _blank(expression: str, kind: str) -> str:
    if kind != "VARCHAR":
        return f"({expression}) IS NULL"
    return f"coalesce(lower(trim({expression})) IN {_BLANK}, true)"


def _moment(expression: str, kind: str, source: EventSource) -> tuple[str, str]:
    """Return SQL for microseconds, and SQL for whether they are UTC already."""
    e = f"({expression})"
    if "WITH TIME ZONE" in kind or kind.startswith("TIMESTAMPTZ"):
        return f"epoch_us({e}::TIMESTAMPTZ)", "true"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"epoch_us({e}::TIMESTAMP)", "false"
    if kind.startswith(_NUMERIC):
        return _epoch(f"{e}::DOUBLE", source.times), "true"
    epochs = [t for t in source.times if t.startswith("epoch_")]
    if epochs and len(epochs) == len(source.times):
        return _epoch(f"try_cast({e} AS DOUBLE)", source.times), "true"
    parts, zones = [], []
    for form in source.times:
        if form.startswith("epoch_"):
            parts.append(_epoch(f"try_cast({e} AS DOUBLE)", (form,)))
            zones.append(f"WHEN try_cast({e} AS DOUBLE) IS NOT NULL THEN true")
        else:
            quoted = form.replace("'", "''")
            parts.append(f"epoch_us(try_strptime(trim({e}), '{quoted}'))")
            if "%z" in form or "%Z" in form:
                zones.append(f"WHEN try_strptime(trim({e}), '{quoted}') IS NOT NULL THEN true")
    zoned = f"regexp_matches(trim({e}), '{_ZONED}') AND contains({e}, ':')"
    moment = rf"regexp_replace(trim({e}), '\s*([+-]\d\d):?(\d\d)$', '\1:\2')"
    parts.append(
        f"CASE WHEN {zoned} THEN epoch_us(try_cast({moment} AS TIMESTAMPTZ)) ELSE epoch_us(try_cast(trim({e}) AS TIMESTAMP)) END"
    )
    formats = f"coalesce({', '.join(parts)})"
    return formats, f"CASE {' '.join(zones)} ELSE {zoned} END" if zones else zoned


def _epoch(number: str, times: tuple[str, ...]) -> str:
    """Return SQL for microseconds of an epoch number; the unit is declared or read off its size."""
    scale = {"epoch_s": "1e6", "epoch_ms": "1e3", "epoch_us": "1", "epoch_ns": "1e-3"}
    declared = next((t for t in times if t in scale), None)
    if declared is not None:
        factor = scale[declared]
    else:
        factor = f"CASE WHEN abs({number}) > 1e17 THEN 1e-3 WHEN abs({number}) > 1e14 THEN 1 WHEN abs({number}) > 1e11 THEN 1e3 ELSE 1e6 END"
    return f"try_cast(round({number} * {factor}) AS BIGINT)"


def _unreadable(source: EventSource, engine: Engine, base: Path) -> list[str]:
    """Return SQL tests that are true where a declared number column holds text that is no number."""
    kinds = engine.columns(source, base)
    names = [n.replace('"', '""') for n in source.numbers if kinds.get(n) == "VARCHAR"]
    return [f"""("{n}" IS NULL AND NOT {_blank(f'"raw.{n}"', "VARCHAR")})""" for n in names]


def _type(source: EventSource) -> str:
    default = "'" + source.type.replace("'", "''") + "'"
    if TYPE in source.roles:
        text = _text(source.roles[TYPE])
        cases = "".join(
            f" WHEN lower('{old.replace(chr(39), chr(39) * 2)}') THEN '{new.replace(chr(39), chr(39) * 2)}'"
            for old, new in source.type_map.items()
        )
        mapped = f"CASE lower({text}){cases} ELSE {text} END" if cases else text
        default = f"coalesce({mapped}, {default})"
    return _first_rule(source, lambda _, rule: "'" + rule.replace("'", "''") + "'", default)


def _first_rule(source: EventSource, then: Callable[[int, str], str], otherwise: str) -> str:
    if not source.types:
        return otherwise
    cases = " ".join(
        f"WHEN ({rule.when}) THEN {then(position, rule.type)}"
        for position, rule in enumerate(source.types)
    )
    return f"CASE {cases} ELSE {otherwise} END"
