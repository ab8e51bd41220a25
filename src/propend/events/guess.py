"""Guess what a pile of files holds: which are the event log, and which column plays which role.

A guess looks at names (English and Chinese vocabularies in :mod:`propend.events.vocabulary`) and at a sample of the
contents from all over the files; each finding says how sure it is and why.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from propend.config import parse
from propend.engine import Engine
from propend.errors import ConfigError, DataError
from propend.events.columns import Column, TimeFormat, time_format
from propend.events.propose import LogShape, propose_funnels, propose_tasks
from propend.events.sample import (
    Group,
    Sample,
    find_files,
    group_files,
    quote,
    read_keys,
    take_sample,
)
from propend.events.vocabulary import (
    ATTRIBUTES,
    CONSTANT_TYPES,
    COUNTRIES,
    CURRENCY_SIGNS,
    CURRENCY_WORDS,
    LABELS,
    NOT_THE_TIME,
    OF_THE_EVENT,
    ROLE_WORDS,
    TAOBAO_CODES,
    attribute,
    event_type,
    match,
    plain,
)
from propend.names import ROLES

__all__ = ["Finding", "Guess", "guess"]

_SURE_ENOUGH: Final = 0.45
_CJK: Final = re.compile(r"[\u4e00-\u9fff]")
_KANA: Final = re.compile(r"[\u3040-\u30ff]")
_ID_NAME: Final = re.compile(
    r"(^|_)(id|no|code|key|number|zip|phone|mobile|postcode|upc|ean)$|id$|编号|编码|号$|邮编|zip_code"
)
_TEXT_WORDS: Final = frozenset(
    {"and", "or", "not", "in", "is", "missing", "where", "for", "ever", "true", "false"}
)
_SQL_WORDS: Final = frozenset(
    """all and any as asc both case cast check collate column constraint create default desc
    distinct do else end except false for foreign from group having in initially intersect into
    lateral leading limit not null offset on only or order primary references returning select
    some table then to trailing true union unique user using variadic when where window
    with""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Finding:
    """One thing that was guessed: what, from which column, how sure (0 to 1) and why."""

    source: str
    role: str
    column: str
    confidence: float
    reason: str


@dataclass(frozen=True)
class Guess:
    """A configuration that :func:`propend.config.parse` accepts, and what it rests on."""

    config: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def has_events(self) -> bool:
        """Whether an event log was found; without one there is only a table for ``propend predict --table``."""
        return bool(self.config.get("events"))


@dataclass
class _Reading:
    """A group of files on its way to becoming a source."""

    sample: Sample
    roles: dict[str, tuple[Column, float, str]] = field(default_factory=dict)
    times: dict[str, TimeFormat | ConfigError] = field(default_factory=dict)
    name: str = ""

    @property
    def group(self) -> Group:
        return self.sample.group

    @property
    def where(self) -> str:
        first = self.group.files[0].name
        return (
            first if len(self.group.files) == 1 else f"{first} and {len(self.group.files) - 1} more"
        )

    def column(self, role: str) -> Column | None:
        return self.roles[role][0] if role in self.roles else None

    def free(self) -> list[Column]:
        taken = {column.name for column, _, _ in self.roles.values()}
        return [c for c in self.sample.columns if c.name not in taken and c.filled]


def guess(
    files: Sequence[str | Path],
    engine: Engine,
    base: Path,
    rows: int = 50_000,
    times: Sequence[str] = (),
) -> Guess:
    """Guess the sources and column roles of a workspace in folder ``base`` from files (folders, globs).

    ``rows`` is about how many lines are looked at per source, spread over its files. ``times`` settles day-first or
    month-first dates where the data cannot. Nothing is written; see :func:`propend.events.declare.declare`.

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

    Raises ``DataError`` where a file is missing, empty or has one column, and ``ConfigError`` where there are times
    but nobody who did anything, or where day and month cannot be told apart.
    """
    paths = find_files(files, Path.cwd())
    readings = [_read(take_sample(group, engine, rows), times) for group in group_files(paths)]
    _name_sources(readings)
    logs, tables = _split(readings, engine)
    if not logs:
        return _no_log(readings, base)
    findings: list[Finding] = []
    sources = [_event_source(log, logs[0], files, base, findings) for log in logs]
    config: dict[str, Any] = {
        "workspace": _workspace(base, readings, logs, findings),
        "events": sources,
    }
    for side, (reading, key, sure) in tables.items():
        config[side] = _table(reading, key, side, sure, files, base, findings)
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


# -- roles ------------------------------------------------------------------------------------------------------------


def _read(sample: Sample, hints: Sequence[str]) -> _Reading:
    if len(sample.columns) < 2:
        only = sample.columns[0].name if sample.columns else ""
        raise DataError(
            f"{sample.group.files[0]} holds one column ({only!r}); a log needs at least who and when: "
            "check the delimiter, or leave the file out"
        )
    reading = _Reading(sample)
    for column in sample.columns:
        try:
            found = time_format(column, hints, sample.group.files[0].name)
        except ConfigError as error:
            reading.times[column.name] = error
        else:
            if found is not None:
                reading.times[column.name] = found
    for role, fits in _FITS:
        _assign(reading, role, fits)
    _assign_by_place(reading)
    _settle_money(reading)
    return reading


def _assign(reading: _Reading, role: str, fits: Callable[[_Reading, Column, float], float]) -> None:
    words, pattern = ROLE_WORDS[role]
    best: tuple[float, Column | None, float] = (_SURE_ENOUGH - 1e-9, None, 0.0)
    for column in reading.free():
        named = match(column.name, words, pattern)
        score = (
            named * fits(reading, column, named) if role != "time" else fits(reading, column, named)
        )
        if score > best[0]:
            best = (score, column, named)
    score, found, named = best
    if found is not None:
        reason = "name and contents" if named else "contents"
        reading.roles[role] = (found, round(min(score, 0.99), 2), reason)


def _fits_time(reading: _Reading, column: Column, named: float) -> float:
    written = reading.times.get(column.name)
    if written is None:
        return 0.0
    if isinstance(written, ConfigError):
        return 0.5 + 0.3 * named
    if NOT_THE_TIME.search(plain(column.name)):
        return 0.2
    if match(column.name, *ROLE_WORDS["arrival"]):
        return 0.46
    if named:
        return 0.4 + 0.55 * named
    clear = not written.epoch and written.formats != ("%Y%m%d",)
    return 0.6 if clear else 0.5


def _fits_other_time(reading: _Reading, column: Column, _: float) -> float:
    return 0.95 if isinstance(reading.times.get(column.name), TimeFormat) else 0.0


def _fits_message(_: _Reading, column: Column, __: float) -> float:
    own = plain(column.name) == "id"
    return (
        0.0 if column.uniqueness < 0.9 or (own and column.uniqueness < 1) else 0.6 if own else 0.95
    )


def _fits_id(reading: _Reading, column: Column, _: float) -> float:
    if isinstance(reading.times.get(column.name), TimeFormat) and _is_dated(
        reading.times[column.name]
    ):
        return 0.0
    if column.is_number and not column.is_whole:
        return 0.0
    return 0.85 if column.uniqueness > 0.98 and column.filled > 50 else 0.98


def _is_dated(written: TimeFormat | ConfigError) -> bool:
    return isinstance(written, TimeFormat) and not written.epoch and written.formats != ("%Y%m%d",)


def _fits_type(_: _Reading, column: Column, named: float) -> float:
    if column.distinct > 200 or column.distinct > max(12, 0.2 * column.filled):
        return 0.0
    known = _known_types(column)
    if known >= 0.5:
        return 0.98
    if _is_taobao(column):
        return 0.7
    telling = re.search(
        r"event|behaviou?r|action|activity|interaction|行为|事件|操作|动作", plain(column.name)
    )
    return (0.8 if telling else 0.6 if known > 0 else 0.0) if named else 0.0


def _known_types(column: Column) -> float:
    return sum(n for v, n in column.counts.items() if event_type(v)) / max(column.filled, 1)


def _is_taobao(column: Column) -> bool:
    behaviour = re.search(r"behaviou?r|行为", plain(column.name))
    return bool(behaviour) and set(column.counts) <= set(TAOBAO_CODES)


def _fits_quantity(_: _Reading, column: Column, __: float) -> float:
    return 0.95 if column.is_number and np.nanmax(np.abs(column.numbers)) < 1e8 else 0.0


def _fits_money(_: _Reading, column: Column, __: float) -> float:
    return 0.95 if column.is_number else 0.0


def _fits_rating(_: _Reading, column: Column, __: float) -> float:
    return (
        0.95
        if column.is_number and column.distinct <= 101 and np.nanmax(column.numbers) <= 100
        else 0.0
    )


def _fits_channel(_: _Reading, column: Column, __: float) -> float:
    return 0.9 if column.distinct <= 200 and not (column.is_number and not column.is_whole) else 0.0


def _fits_text(_: _Reading, column: Column, __: float) -> float:
    return 0.9 if not column.is_number and column.distinct > 1 else 0.0


def _fits_session(reading: _Reading, column: Column, named: float) -> float:
    return _fits_id(reading, column, named) and 0.95


_FITS: Final[tuple[tuple[str, Callable[[_Reading, Column, float], float]], ...]] = (
    ("time", _fits_time),
    ("arrival", _fits_other_time),
    ("user", _fits_id),
    ("item", _fits_id),
    ("session", _fits_session),
    ("message_id", _fits_message),
    ("type", _fits_type),
    ("quantity", _fits_quantity),
    ("price", _fits_money),
    ("value", _fits_money),
    ("rating", _fits_rating),
    ("channel", _fits_channel),
    ("text", _fits_text),
)


def _assign_by_place(reading: _Reading) -> None:
    """Where names say nothing: event types by their words, users and items as the columns of repeated ids."""
    if "type" not in reading.roles:
        for column in reading.free():
            if column.distinct <= 50 and _known_types(column) >= 0.6:
                reading.roles["type"] = (column, 0.8, "its values are names of event types")
                break
    if "time" not in reading.roles:
        return
    nameless = not reading.group.header
    for role in ("user", "item"):
        if role in reading.roles or (role == "item" and not nameless):
            continue
        for column in reading.free():
            if _looks_like_id(reading, column, nameless) and not _is_twin(reading, column):
                reading.roles[role] = (
                    column,
                    0.5 if nameless else 0.4,
                    "the first column of ids that repeat",
                )
                break
    if nameless:
        _assign_nameless_numbers(reading)


def _looks_like_id(reading: _Reading, column: Column, nameless: bool) -> bool:
    if not nameless and not _ID_NAME.search(plain(column.name)):
        return False
    if column.name in reading.times or (column.is_number and not column.is_whole):
        return False
    if column.is_number and float(np.nanmin(column.numbers)) < 0:
        return False
    many = column.distinct >= max(3, min(50, 0.002 * column.filled))
    in_sequence = column.is_number and column.distinct <= 60 and np.nanmax(column.numbers) < 100
    return many and column.uniqueness < 0.98 and not in_sequence


def _is_twin(reading: _Reading, column: Column) -> bool:
    """Whether a column of ids says the same as the user's."""
    user = reading.column("user")
    return (
        user is not None
        and _agreement(column, user)[0] > 0.99
        and _agreement(user, column)[0] > 0.99
    )


def _assign_nameless_numbers(reading: _Reading) -> None:
    numbers = [
        c for c in reading.free() if c.is_number and c.distinct > 1 and not _is_twin(reading, c)
    ]
    whole = [c for c in numbers if c.is_whole and np.nanmax(np.abs(c.numbers)) < 10_000]
    money = [c for c in numbers if not c.is_whole]
    if money and "value" not in reading.roles:
        reading.roles["value"] = (money[-1], 0.6, "the last column of decimal numbers")
        if whole and "quantity" not in reading.roles:
            reading.roles["quantity"] = (whole[-1], 0.5, "small whole numbers")
    elif whole and set(whole[0].counts) <= set("12345") and whole[0].distinct >= 4:
        reading.roles["rating"] = (whole[0], 0.6, "whole numbers from 1 to 5")


def _settle_money(reading: _Reading) -> None:
    """Tell pieces from money, a rating from a value, and drop a rating where there is money."""
    roles = reading.roles
    if "value" in roles and "price" in roles and "quantity" not in roles:
        value = roles["value"][0]
        if (
            plain(value.name) == "amount"
            and value.is_whole
            and float(np.nanmedian(value.numbers)) <= 3
        ):
            roles["quantity"] = (value, 0.5, "small whole numbers beside a price")
            del roles["value"]
    if "rating" in roles and ("value" in roles or "price" in roles):
        del roles["rating"]
    elif "rating" in roles:
        roles["value"] = roles.pop("rating")


# -- which file is what -----------------------------------------------------------------------------------------------


def _split(
    readings: list[_Reading], engine: Engine
) -> tuple[list[_Reading], dict[str, tuple[_Reading, Column, float]]]:
    """Part the readings into event logs (the richest first) and at most one items and one users table."""
    logs = [r for r in readings if "time" in r.roles and "user" in r.roles]
    logs.sort(key=lambda r: -_richness(r))
    if not logs:
        return [], {}
    main, tables = logs[0], {}
    for side, role in (("items", "item"), ("users", "user")):
        best: tuple[_Reading, Column, float] | None = None
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


def _richness(reading: _Reading) -> float:
    user = reading.roles["user"][0]
    size = math.log10(1 + sum(p.stat().st_size for p in reading.group.files))
    return len(reading.roles) + 3 * (user.uniqueness < 0.98) + size


def _keys(reading: _Reading) -> list[Column]:
    return [
        c for c in reading.sample.columns
        if c.uniqueness >= 0.99 and c.filled >= 0.99 * reading.sample.rows and (c.is_whole or not c.is_number)
    ]  # fmt: skip


def _joins(log: _Reading, role: str, table: _Reading, key: Column, engine: Engine) -> float:
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


def _no_log(readings: list[_Reading], base: Path) -> Guess:
    for reading in readings:
        if "time" in reading.roles and (len(readings) == 1 or reading.roles["time"][1] > 0.8):
            names = ", ".join(c.name for c in reading.sample.columns[:12])
            names += ", …" if len(reading.sample.columns) > 12 else ""
            raise ConfigError(
                f"{reading.where}: {reading.roles['time'][0].name!r} holds times, but no column says who did it "
                f"(columns: {names}); rename that column to user_id, write propend.toml with roles.user = '…', "
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


# -- an event source --------------------------------------------------------------------------------------------------


def _event_source(
    log: _Reading, main: _Reading, given: Sequence[str | Path], base: Path, findings: list[Finding]
) -> dict[str, Any]:
    def say(role: str, column: str, confidence: float, reason: str) -> None:
        findings.append(Finding(log.name, role, column, round(confidence, 2), reason))

    if log is not main:
        _keep_catalogue_clean(log, main)
    source = _place(log, given, base)
    source["roles"] = _role_expressions(log, say)
    written = log.times[log.roles["time"][0].name]
    assert isinstance(written, TimeFormat)
    formats = list(written.formats)
    arrival = log.times.get(log.roles["arrival"][0].name) if "arrival" in log.roles else None
    if isinstance(arrival, TimeFormat) and formats:
        formats += [f for f in arrival.formats if f not in formats]
    if formats:
        source["times"] = formats
    clock = "counted in UTC" if written.epoch else "each with its zone"
    what = ", ".join(formats) or (
        "timestamps" if log.roles["time"][0].is_native_time else "ISO 8601"
    )
    zone = clock if written.zoned else "without a zone (the workspace's is used)"
    say("times", what, written.share, f"for example {written.example}, {zone}")
    source |= _types(log, say)
    used_numbers = [log.roles[r] for r in ("value", "price", "quantity") if r in log.roles]
    numbers = [column for column, _, _ in used_numbers]
    for key, mapping, extra in _leftovers(log, say):
        source[key] = mapping
        numbers += extra
    source |= _number_keys(numbers, say)
    return source


def _keep_catalogue_clean(log: _Reading, main: _Reading) -> None:
    """A second log's item must be one of the first log's items, else it is only a property."""
    ours, theirs = log.column("item"), main.column("item")
    if ours is None or (theirs is not None and plain(ours.name) == plain(theirs.name)):
        return
    if theirs is None or len(set(ours.counts) & set(theirs.counts)) < 0.05 * ours.distinct:
        del log.roles["item"]


def _place(reading: _Reading, given: Sequence[str | Path], base: Path) -> dict[str, Any]:
    source: dict[str, Any] = {
        "name": reading.name,
        "files": _file_keys(reading.group.files, given, base),
    }
    if not reading.group.header:
        source["header"] = False
    return source


def _role_expressions(log: _Reading, say: Callable[[str, str, float, str], None]) -> dict[str, str]:
    expressions: dict[str, str] = {}
    for role in ROLES:
        if role not in log.roles:
            continue
        column, sure, reason = log.roles[role]
        empty = 1 - column.filled / log.sample.rows
        if empty >= 0.005:
            reason += f"; {empty:.0%} of the lines have none"
        expressions[role] = _reference(column.name)
        say(role, expressions[role], sure, reason)
        if (
            role in ("user", "item")
            and column.is_text
            and all(v.endswith(".0") for v in column.counts)
        ):
            tidy = f"regexp_replace({expressions[role]}, '\\.0$', '')"
            say(f"tidy.{role}", tidy, 0.5, f"would write {column.examples(1)} without its .0")
    price, quantity = log.column("price"), log.column("quantity")
    if "value" not in log.roles and price is not None:
        single = quantity is None
        value = _reference(price.name) + (
            "" if quantity is None else f" * {_reference(quantity.name)}"
        )
        place = list(ROLES).index("value")
        before = {role: e for role, e in expressions.items() if list(ROLES).index(role) < place}
        expressions = before | {"value": value} | expressions
        say(
            "value",
            value,
            0.7 if single else 0.9,
            "no column of totals" if not single else "the only money",
        )
    return {role: expressions[role] for role in ROLES if role in expressions}


def _types(log: _Reading, say: Callable[[str, str, float, str], None]) -> dict[str, Any]:
    column = log.column("type")
    if column is not None:
        return _mapped_types(column, say)
    kind, sure, reason = _constant_type(log)
    say("type", kind, sure, reason)
    result: dict[str, Any] = {"type": kind}
    if kind == "purchase":
        rules = _return_rules(log)
        for rule in rules:
            say("types", rule["when"], 0.9, f"{rule['label']} are returns")
        if rules:
            result["types"] = rules
    return result


def _mapped_types(column: Column, say: Callable[[str, str, float, str], None]) -> dict[str, Any]:
    taobao = _is_taobao(column)
    mapping = {}
    for value, _ in column.counts.most_common():
        standard = TAOBAO_CODES.get(value) if taobao else event_type(value)
        if standard is not None and standard != value:
            mapping[value] = standard
    if mapping:
        shown = ", ".join(f"{a} → {b}" for a, b in mapping.items())
        reason = "the codes of the Tmall and Taobao logs" if taobao else "the words' usual meaning"
        say("type_map", shown, 0.5 if taobao else 0.9, reason)
    other = [v for v in column.counts if v not in mapping and (taobao or event_type(v) is None)]
    if other:
        say("type_map", ", ".join(other[:8]), 0.3, "types kept under their own names")
    return {"type_map": mapping} if mapping else {}


def _constant_type(log: _Reading) -> tuple[str, float, str]:
    if "value" in log.roles and match(log.roles["value"][0].name, *ROLE_WORDS["rating"]):
        return "rating", 0.9, "a column of ratings"
    if not log.group.header and "value" in log.roles and log.roles["value"][0].is_whole:
        return "rating", 0.6, "whole numbers from 1 to 5"
    time = log.roles["time"][0].name
    names = " ".join(
        [log.name, time, *(c.name for r, (c, _, _) in log.roles.items() if r == "session")]
    ).lower()
    named = next((kind for pattern, kind in CONSTANT_TYPES if re.search(pattern, names)), None)
    money = any(role in log.roles for role in ("value", "price", "quantity"))
    if named in ("redemption", "return"):
        return named, 0.7, "by the name"
    if money:
        return "purchase", 0.9 if named == "purchase" else 0.7, "lines with money or pieces"
    if named is not None:
        return named, 0.6, "by the name"
    return "event", 0.3, "nothing says what kind of event it was"


def _return_rules(log: _Reading) -> list[dict[str, str]]:
    amount = log.column("quantity") or log.column("value")
    if amount is None:
        return []
    negative = amount.numbers < 0
    if not negative.any():
        return []
    word = "quantities" if log.column("quantity") is not None else "amounts"
    rules = []
    session = log.column("session")
    if session is not None:
        letters = [re.match(r"([A-Za-z]+)\d", cell or "") for cell in session.cells]
        prefixes = np.array([found.group(1) if found else "" for found in letters])
        for prefix in sorted(set(prefixes) - {""}):
            marked = prefixes == prefix
            if marked.mean() < 0.5 and negative[marked].mean() >= 0.9 and marked.sum() >= 3:
                when = f"{_reference(session.name)} LIKE '{prefix}%'"
                rules.append({"when": when, "type": "return", "label": "cancellation lines"})
    when = f"{_reference(amount.name)} < 0"
    return [*rules, {"when": when, "type": "return", "label": f"negative {word}"}]


def _leftovers(
    log: _Reading, say: Callable[[str, str, float, str], None]
) -> list[tuple[str, dict[str, str], list[Column]]]:
    """Part the columns without a role into item attributes, user attributes, properties and unused ones."""
    found: dict[str, dict[str, str]] = {"of_item": {}, "of_user": {}, "properties": {}}
    numbers: dict[str, list[Column]] = {key: [] for key in found}
    homes: dict[str, list[tuple[Column, float, str]]] = {key: [] for key in found}
    for column in log.sample.columns:
        if column in log.free():
            key, sure, reason = _home(log, column)
        elif column.filled:
            continue
        else:
            key, sure, reason = "unused", 0.9, "empty"
        if key == "unused":
            say("unused", column.name, sure, reason)
            continue
        homes[key].append((column, sure, reason))
    for key, columns in homes.items():
        names = _own_names([c.name for c, _, _ in columns], key.removeprefix("of_"))
        for name, (column, sure, reason) in zip(names, columns, strict=True):
            found[key][name] = _reference(column.name)
            say(f"{key}.{name}", _reference(column.name), sure, reason)
            if column.is_number and not _ID_NAME.search(plain(column.name)):
                numbers[key].append(column)
    return [(key, mapping, numbers[key]) for key, mapping in found.items() if mapping]


def _home(log: _Reading, column: Column) -> tuple[str, float, str]:
    if column.distinct < 2:
        return "unused", 0.8, f"always {column.examples(1)}"
    if column.name in log.times:
        return "unused", 0.6, "another time"
    if _is_twin(log, column) and not log.group.header:
        return "unused", 0.7, "says the same as the user's column"
    known = attribute(column.name)
    best: tuple[float, str, float] = (0.0, "", 0.0)
    for role in ("item", "user"):
        by = log.column(role)
        if by is None or OF_THE_EVENT.search(plain(column.name)):
            continue
        agree, lift, groups = _agreement(column, by)
        own = known is not None and known[1] == role
        enough = groups >= (3 if log.sample.rows < 200 or own else 10)
        if enough and agree >= (0.8 if own else 0.9) and lift >= (0.3 if own else 0.5):
            best = max(best, (lift + 0.2 * own, role, agree))
    if best[1]:
        return (
            f"of_{best[1]}",
            best[2] * 0.95,
            f"the same for each {best[1]} on {best[2]:.0%} of the lines",
        )
    if (
        column.uniqueness > 0.95
        and column.filled > 20
        and (column.is_whole or not column.is_number)
    ):
        return "unused", 0.6, "nearly every line has its own"
    return "properties", 0.5, f"varies from line to line ({column.examples()})"


def _agreement(column: Column, by: Column) -> tuple[float, float, int]:
    """How far ``by`` determines ``column``: agreement beyond the first line of each group, its lift over the
    commonest value, and the number of groups with at least two lines."""
    pairs = Counter(
        (b, c)
        for b, c in zip(by.cells, column.cells, strict=True)
        if b is not None and c is not None
    )
    sizes: Counter[str] = Counter()
    largest: dict[str, int] = {}
    for (group, _), n in pairs.items():
        sizes[group] += n
        largest[group] = max(largest.get(group, 0), n)
    repeated = [g for g, n in sizes.items() if n >= 2]
    spare = sum(sizes[g] - 1 for g in repeated)
    if not spare:
        return 0.0, 0.0, 0
    agree = sum(largest[g] - 1 for g in repeated) / spare
    common = column.counts.most_common(1)[0][1] / column.filled
    lift = (agree - common) / (1 - common) if common < 1 else 0.0
    return agree, lift, len(repeated)


def _number_keys(
    numbers: Iterable[Column], say: Callable[[str, str, float, str], None]
) -> dict[str, Any]:
    texts = list({c.name: c for c in numbers if c.is_text}.values())
    comma = [c for c in texts if c.decimal == ","]
    dot = [c for c in texts if c.decimal == "."]
    result: dict[str, Any] = {}
    if comma and len(comma) >= len(dot):
        result["decimal"] = ","
        say("decimal", ",", 0.9, f"for example {comma[0].examples(1)}")
    odd = dot if result else comma
    for column in odd:
        say(
            "numbers",
            column.name,
            0.2,
            "writes decimals otherwise than the other columns; left as text",
        )
    kept = [c.name for c in texts if c not in odd]
    return ({"numbers": kept} if kept else {}) | result


# -- tables, workspace, questions -------------------------------------------------------------------------------------


def _table(
    reading: _Reading,
    key: Column,
    side: str,
    sure: float,
    given: Sequence[str | Path],
    base: Path,
    findings: list[Finding],
) -> dict[str, Any]:
    owner = side.removesuffix("s")
    table = _place(reading, given, base)
    table["key"] = _reference(key.name)
    findings.append(
        Finding(reading.name, f"{side}.key", table["key"], sure, f"joins the log's {owner} column")
    )
    others = [c for c in reading.sample.columns if c.name != key.name]
    kept = [c for c in others if c.distinct >= 2]
    names = _own_names([c.name for c in kept], owner)
    table["attributes"] = {n: _reference(c.name) for n, c in zip(names, kept, strict=True)}
    for name, column in zip(names, kept, strict=True):
        reference = _reference(column.name)
        findings.append(
            Finding(
                reading.name, f"{side}.{name}", reference, 0.8, f"for example {column.examples()}"
            )
        )
    for column in others:
        if column.distinct < 2:
            why = f"always {column.examples(1)}" if column.filled else "empty"
            findings.append(Finding(reading.name, "unused", column.name, 0.8, why))
    numbers = [c for c in kept if c.is_number and not _ID_NAME.search(plain(c.name))]

    def say(role: str, column: str, confidence: float, reason: str) -> None:
        findings.append(Finding(reading.name, role, column, confidence, reason))

    return table | _number_keys(numbers, say)


def _workspace(
    base: Path, readings: list[_Reading], logs: list[_Reading], findings: list[Finding]
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
    readings: list[_Reading], country: str | None, chinese: bool, japanese: bool
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


def _languages(readings: list[_Reading]) -> tuple[bool, bool]:
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


def _country(readings: list[_Reading]) -> str | None:
    for reading in readings:
        for column in reading.sample.columns:
            if attribute(column.name) == ("country", "user") and column.filled:
                value, n = column.counts.most_common(1)[0]
                if n > column.filled / 2 and value.lower() in COUNTRIES:
                    return value.lower()
    return None


def _questions(config: dict[str, Any], logs: list[_Reading], findings: list[Finding]) -> None:
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
        findings.append(
            Finding("funnels", "main", " → ".join(funnels[0]["steps"]), 0.8, "these steps occur")
        )  # type: ignore[call-overload]


def _types_of(source: dict[str, Any], log: _Reading) -> set[str]:
    column = log.column("type")
    if column is not None:
        return {source.get("type_map", {}).get(value, value) for value in column.counts}
    return {source.get("type", "event"), *(rule["type"] for rule in source.get("types", ()))}


def _shape(log: _Reading, types: set[str], has_value: bool) -> LogShape:
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
    start, end = float(np.quantile(known, 0.001)), float(np.quantile(known, 0.999))
    span = (end - start) / 86_400
    firsts = np.array([min(d) for d in days.values()]) - start / 86_400
    cohort = bool(np.mean(firsts <= 0.25 * span) >= 0.9)
    return LogShape(span, types, has_value, float(np.mean([len(d) for d in days.values()])), cohort)


# -- names and places -------------------------------------------------------------------------------------------------


def _reference(name: str) -> str:
    return (
        name
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in _SQL_WORDS
        else quote(name)
    )


def _own_names(columns: Sequence[str], owner: str) -> list[str]:
    """Name attributes or properties: each standard name goes to the column it fits best, the rest keep their own.

    >>> _own_names(["manufacturer_id", "brand", "package size"], "item")
    ['manufacturer_id', 'brand', 'size']
    """
    best: dict[str, tuple[float, str]] = {}
    for column in columns:
        known = attribute(column)
        if known is not None and known[1] == owner:
            score = match(column, *ATTRIBUTES[known[0]][1:])
            best[known[0]] = max(
                best.get(known[0], (0.0, "")), (score, column), key=lambda pair: pair[0]
            )
    standard = {column: name for name, (_, column) in best.items()}
    names: list[str] = []
    for column in columns:
        name = standard.get(column, plain(column))
        if name in _TEXT_WORDS or (name in ROLES and owner == "properties"):
            name += "_property"
        unique, number = name, 2
        while unique in names or (unique in best and column not in standard):
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return names


def _name_sources(readings: list[_Reading]) -> None:
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


def _file_keys(files: tuple[Path, ...], given: Sequence[str | Path], base: Path) -> list[str]:
    """Return the ``files`` of a source: the folders and globs as they were given where they mean just these files."""
    wanted = set(files)
    keys: list[str] = []
    for argument in given:
        opened = find_files([argument], Path.cwd())
        if wanted.issuperset(opened):
            keys.append(_relative(Path(argument), base))
            wanted -= set(opened)
    for folder in sorted({path.parent for path in wanted}):
        here = sorted(path for path in wanted if path.parent == folder)
        suffix = here[0].suffix
        every = sorted(p.resolve() for p in folder.glob(f"*{suffix}"))
        if len(here) > 1 and every == here:
            keys.append(_relative(folder / f"*{suffix}", base))
        else:
            keys += [_relative(path, base) for path in here]
    return keys


def _relative(path: Path, base: Path) -> str:
    """Return a path as seen from the workspace, or whole where the two share nothing but the root.

    >>> _relative(Path("/data/shop/orders.csv"), Path("/data/work"))
    '../shop/orders.csv'
    >>> _relative(Path("/data/orders.csv"), Path("/home/me/work"))
    '/data/orders.csv'
    """
    whole = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps globs and links as written
    home = Path(os.path.abspath(base.expanduser()))  # noqa: PTH100
    if len(whole.parts) < 3 or len(home.parts) < 2 or whole.parts[:2] != home.parts[:2]:
        return str(whole)
    return Path(os.path.relpath(whole, home)).as_posix()
