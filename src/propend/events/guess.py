"""Guess what a pile of files holds: which are the event log, and which column plays which role.

A guess looks at names (English and Chinese vocabularies in :mod:`propend.events.vocabulary`) and at
a sample of the contents from all over the files; each finding says how sure it is and why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propend.config import parse
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.columns import Column, TimeFormat
from propend.events.propose import LogShape, propose_funnels, propose_tasks
from propend.events.roles import Finding, Reading, read_roles
from propend.events.sample import (
    Sample,
    find_files,
    group_files,
    read_keys,
    take_sample,
)
from propend.events.sources import event_source, table_source
from propend.events.vocabulary import (
    COUNTRIES,
    CURRENCY_SIGNS,
    CURRENCY_WORDS,
    LABELS,
    ROLE_WORDS,
    attribute,
    match,
    plain,
)

__all__ = ["Finding", "Guess", "guess"]

_CJK: Final = re.compile(r"[\u4e00-\u9fff]")
_KANA: Final = re.compile(r"[\u3040-\u30ff]")


@dataclass(frozen=True)
class Guess:
    """A configuration that :func:`propend.config.parse` accepts, and what it rests on."""

    config: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def has_events(self) -> bool:
        """Whether an event log was found, and not just a table for ``propend predict --table``."""
        return bool(self.config.get("events"))


def guess(
    files: Sequence[str | Path],
    engine: Engine,
    base: Path,
    rows: int = 50_000,
    times: Sequence[str] = (),
) -> Guess:
    """Guess the sources and roles of a workspace in folder ``base`` from files (folders, globs).

    ``rows`` is about how many lines are looked at per source, spread over its files. ``times``
    settles day-first or month-first dates where the data cannot. Nothing is written; see
    :func:`propend.events.declare.declare`.

    >>> import tempfile
    >>> from propend.engine import connect
    >>> folder = Path(tempfile.mkdtemp())
    >>> lines = [f"u{i % 5},2024-01-{i % 28 + 1:02d},sku{i % 3},{i}.50" for i in range(60)]
    >>> _ = (folder / "orders.csv").write_text("\\n".join(["customer_id,date,sku,amount", *lines]))
    >>> found = guess([folder / "orders.csv"], connect(), folder / "shop")
    >>> found.config["events"][0]["roles"]
    {'user': 'customer_id', 'time': 'date', 'item': 'sku', 'value': 'amount'}
    >>> found.config["events"][0]["type"]
    'purchase'

    Raises ``DataError`` where a file is missing, empty or has one column, and ``ConfigError`` where
    there are times but nobody who did anything, or where day and month cannot be told apart.
    """
    paths = find_files(files, Path.cwd())
    readings = [read_roles(take_sample(group, engine, rows), times) for group in group_files(paths)]
    _name_sources(readings)
    logs, tables = _split(readings, engine)
    if not logs:
        return _no_log(readings, base)
    findings: list[Finding] = []
    sources = [event_source(log, logs[0], files, base, findings) for log in logs]
    config: dict[str, Any] = {
        "workspace": _workspace(base, readings, logs, findings),
        "events": sources,
    }
    for side, (reading, key, sure) in tables.items():
        config[side] = table_source(reading, key, side, sure, files, base, findings)
    used = [*logs, *(reading for reading, _, _ in tables.values())]
    findings += [
        Finding(
            r.name,
            "unused file",
            r.where,
            0.5,
            "neither a log of users nor a table with a matching key",
        )
        for r in readings
        if r not in used
    ]
    _questions(config, logs, findings)
    parse(config)
    return Guess(config, tuple(findings))


def _split(
    readings: list[Reading], engine: Engine
) -> tuple[list[Reading], dict[str, tuple[Reading, Column, float]]]:
    """Part the readings into event logs (richest first) and at most one items and users table."""
    logs = [r for r in readings if "time" in r.roles and "user" in r.roles]
    logs.sort(key=lambda r: -_richness(r))
    if not logs:
        return [], {}
    main = logs[0]
    tables: dict[str, tuple[Reading, Column, float]] = {}
    for side, role in (("items", "item"), ("users", "user")):
        best: tuple[Reading, Column, float] | None = None
        for reading in readings:
            if reading is main or main.column(role) is None:
                continue
            for key in _keys(reading):
                sure = _joins(main, role, reading, key, engine)
                if sure > (best[2] if best else 0.0):
                    best = (reading, key, sure)
        if best is not None and all(best[0] is not other[0] for other in tables.values()):
            tables[side] = best
    taken = [reading for reading, _, _ in tables.values()]
    logs = [r for r in logs if r not in taken]
    for log in logs:
        written = log.times[log.roles["time"][0].name]
        if isinstance(written, ConfigError):
            raise written
    return logs, tables


def _richness(reading: Reading) -> float:
    user = reading.roles["user"][0]
    size = math.log10(1 + sum(p.stat().st_size for p in reading.group.files))
    return len(reading.roles) + 3 * (user.uniqueness < 0.98) + size


def _keys(reading: Reading) -> list[Column]:
    """Return the columns that may be the key: a few repeated rows are forgiven where nothing says log."""
    enough = 0.99 if "time" in reading.roles else 0.9
    return [
        c for c in reading.sample.columns
        if c.uniqueness >= enough and c.filled / reading.sample.rows >= 0.99
        and (c.is_whole or not c.is_number)
    ]  # fmt: skip


def _joins(log: Reading, role: str, table: Reading, key: Column, engine: Engine) -> float:
    """Say how sure it is that ``key`` of ``table`` is the log's ``role`` column."""
    ours = log.roles[role][0]
    same = plain(ours.name) == plain(key.name)
    named = 1.0 if same else 0.8 * match(key.name, *ROLE_WORDS[role])
    if not named and key.is_number:
        return 0.0
    theirs = read_keys(table.group, key.name, engine)
    both = len(theirs & set(ours.counts))
    share = max(both / max(len(theirs), 1), both / max(ours.distinct, 1))
    if share < (0.3 if named else 0.9):
        return 0.0
    return round(0.5 * named + 0.49 * share, 2)


def _no_log(readings: list[Reading], base: Path) -> Guess:
    for reading in readings:
        if "time" in reading.roles and (len(readings) == 1 or reading.roles["time"][1] > 0.8):
            names = ", ".join(c.name for c in reading.sample.columns[:12])
            names += ", …" if len(reading.sample.columns) > 12 else ""
            raise ConfigError(
                f"{reading.where}: {reading.roles['time'][0].name!r} holds times, but "
                "no column says who did it "
                f"(columns: {names}); rename that column to user_id, "
                "write propend.toml with roles.user = '…', "
                "or, for a plain table, use: propend predict --table FILE --label COLUMN"
            )
    config: dict[str, Any] = {"workspace": {"name": _workspace_name(base)}}
    findings = []
    for reading in readings:
        label, sure = _label(reading.sample)
        findings.append(
            Finding(
                reading.name,
                "table",
                label,
                sure,
                "no column holds times, so it is no log of events; try: propend predict --table "
                f"{_shown(reading.group.files)} --label {label or 'COLUMN'}",
            )
        )
    parse(config)
    return Guess(config, tuple(findings))


def _shown(files: Sequence[Path]) -> str:
    text = str(files[0]) if len(files) == 1 else str(files[0].parent / f"*{files[0].suffix}")
    return f"'{text}'" if " " in text else text


def _label(sample: Sample) -> tuple[str, float]:
    """Return the column a table without time is probably about, and how sure."""
    few = [c for c in sample.columns if 2 <= c.distinct <= 20]
    scored = [(match(c.name, LABELS), c.name) for c in few]
    scored += [
        (0.6, c.name)
        for c in few
        if re.search(r"(^|_)(churn|fraud|default|label|target)", plain(c.name))
    ]
    best = max(scored, default=(0.0, ""), key=lambda pair: pair[0])
    if best[0] > 0.5:
        return best[1], round(0.9 * best[0], 2)
    last = sample.columns[-1]
    if last in few:
        return last.name, 0.4
    return "", 0.0


def _workspace(
    base: Path, readings: list[Reading], logs: list[Reading], findings: list[Finding]
) -> dict[str, Any]:
    chinese, japanese = _languages(readings)
    country = _country(readings)
    zone, sure, why = "UTC", 0.2, "nothing in the data says which; set the zone of your shop"
    if country is not None and COUNTRIES[country][0] is not None:
        zone, sure, why = str(COUNTRIES[country][0]), 0.7, f"most lines are from {country.title()}"
    elif japanese:
        zone, sure, why = "Asia/Tokyo", 0.6, "Japanese text"
    elif chinese:
        zone, sure, why = "Asia/Shanghai", 0.6, "Chinese text"
    naive = not all(
        t.zoned for r in logs if isinstance(t := r.times[r.roles["time"][0].name], TimeFormat)
    )
    need = (
        "the times carry no zone"
        if naive
        else "the times carry their own zone; this one is for days and hours"
    )
    findings.append(Finding("workspace", "zone", zone, sure, f"a guess: {why}; {need}"))
    currency, sure, why = _currency(readings, country, chinese, japanese)
    findings.append(Finding("workspace", "currency", currency, sure, why))
    return {"name": _workspace_name(base), "zone": zone, "currency": currency}


def _currency(
    readings: list[Reading], country: str | None, chinese: bool, japanese: bool
) -> tuple[str, float, str]:
    for reading in readings:
        for column in reading.sample.columns:
            sign = column.currency_sign
            if sign in ("¥", "￥"):
                return (
                    ("CNY", 0.9, f"{sign} and Chinese text")
                    if chinese and not japanese
                    else ("JPY", 0.7, f"the sign {sign}")
                )
            if sign is not None and sign in CURRENCY_SIGNS:
                return CURRENCY_SIGNS[sign], 0.9, f"the sign {sign}"
    for reading in readings:
        for role in ("value", "price"):
            found = reading.column(role)
            parts = (
                set(plain(found.name).split("_")) | set(re.findall("元", found.name))
                if found
                else set()
            )
            for word in sorted(parts & set(CURRENCY_WORDS)):
                return CURRENCY_WORDS[word], 0.7, f"the word {word!r} in a column's name"
    if country is not None:
        return COUNTRIES[country][1], 0.7, f"a guess: most lines are from {country.title()}"
    if japanese or chinese:
        return (
            ("JPY", 0.5, "a guess: Japanese text")
            if japanese
            else ("CNY", 0.6, "a guess: Chinese text")
        )
    return "EUR", 0.1, "nothing in the data says which; set your own"


def _languages(readings: list[Reading]) -> tuple[bool, bool]:
    """Whether the names or a good part of the texts are Chinese, and Japanese."""
    chinese = japanese = False
    for reading in readings:
        names = " ".join(c.name for c in reading.sample.columns)
        texts = [v for c in reading.sample.columns if not c.is_number for v in list(c.counts)[:300]]
        share = sum(bool(_CJK.search(t)) for t in texts) / max(len(texts), 1)
        kana = sum(bool(_KANA.search(t)) for t in texts) / max(len(texts), 1)
        chinese |= bool(_CJK.search(names)) or share >= 0.2
        japanese |= bool(_KANA.search(names)) or kana >= 0.1
    return chinese, japanese


def _country(readings: list[Reading]) -> str | None:
    for reading in readings:
        for column in reading.sample.columns:
            if attribute(column.name) == ("country", "user") and column.filled:
                value, n = column.counts.most_common(1)[0]
                if n > column.filled / 2 and value.lower() in COUNTRIES:
                    return value.lower()
    return None


def _questions(config: dict[str, Any], logs: list[Reading], findings: list[Finding]) -> None:
    types: set[str] = set()
    for source in config["events"]:
        types |= _types_of(source, next(log for log in logs if log.name == source["name"]))
    shape = _shape(logs[0], types, "value" in config["events"][0]["roles"])
    tasks = []
    for task in propose_tasks(shape):
        if task.ask:
            tasks.append({"name": task.name, "ask": task.ask, "title": task.title})
        findings.append(
            Finding("tasks", task.name, task.ask, 0.8 if task.ask else 0.0, task.reason)
        )
    if tasks:
        config["tasks"] = tasks
    funnels = propose_funnels(types)
    if funnels:
        config["funnels"] = funnels
        steps = " → ".join(funnels[0]["steps"])
        findings.append(Finding("funnels", "main", steps, 0.8, "these steps occur"))


def _types_of(source: dict[str, Any], log: Reading) -> set[str]:
    column = log.column("type")
    if column is not None:
        return {source.get("type_map", {}).get(value, value) for value in column.counts}
    return {source.get("type", "event"), *(rule["type"] for rule in source.get("types", ()))}


def _shape(log: Reading, types: set[str], has_value: bool) -> LogShape:
    written = log.times[log.roles["time"][0].name]
    assert isinstance(written, TimeFormat)
    seconds = log.roles["time"][0].seconds(written)
    days: dict[str, set[int]] = {}
    for user, second in zip(log.roles["user"][0].cells, seconds, strict=True):
        if user is not None and math.isfinite(second):
            days.setdefault(user, set()).add(int(second // 86_400))
    known = seconds[np.isfinite(seconds)]
    if not days or not len(known):
        return LogShape(0.0, types, has_value, 0.0)
    start, end = _span(known)
    span = (end - start) / 86_400
    firsts = np.array([min(d) for d in days.values()]) - start / 86_400
    cohort = bool(np.mean(firsts <= 0.25 * span) >= 0.9)
    return LogShape(span, types, has_value, float(np.mean([len(d) for d in days.values()])), cohort)


def _span(seconds: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return start and end of a log without its rarest thousandth, nor a few dates far from all others."""
    rare = len(seconds) // 1000
    ordered = np.sort(seconds)[rare : len(seconds) - rare]
    for _ in range(max(2, len(ordered) // 100)):
        if len(ordered) < 3:
            break
        half = 0.5 * (ordered[-1] - ordered[0])
        if ordered[1] - ordered[0] > half:
            ordered = ordered[1:]
        elif ordered[-1] - ordered[-2] > half:
            ordered = ordered[:-1]
        else:
            break
    return float(ordered[0]), float(ordered[-1])


def _name_sources(readings: list[Reading]) -> None:
    taken: set[str] = set()
    for reading in readings:
        files = reading.group.files
        stem = re.sub(
            r"\.(gz|csv|tsv|txt|jsonl|ndjson|json|parquet|pq|inter|item|user|data|dat)$",
            "",
            files[0].name,
        )
        while stem != (shorter := re.sub(r"\.\w+$", "", stem)):
            stem = shorter
        name = plain(stem if len(files) == 1 else files[0].parent.name)
        unique, number = name, 2
        while unique in taken:
            kind = files[0].suffix.lstrip(".")
            unique = f"{name}_{kind}" if f"{name}_{kind}" not in taken else f"{name}_{number}"
            number += 1
        taken.add(unique)
        reading.name = unique


def _workspace_name(base: Path) -> str:
    return base.expanduser().resolve().name or "workspace"
