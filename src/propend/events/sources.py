"""A reading of files turned into the declaration of an event source or of a table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from propend.events.columns import Column, TimeFormat
from propend.events.roles import Finding, Reading, agreement, is_taobao, is_twin
from propend.events.sample import (
    find_files,
    quote,
)
from propend.events.vocabulary import (
    ATTRIBUTES,
    CONSTANT_TYPES,
    OF_THE_EVENT,
    TAOBAO_CODES,
    attribute,
    event_type,
    match,
    plain,
)
from propend.names import ROLES

__all__ = ["event_source", "reference", "table_source"]

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


def event_source(
    log: Reading, main: Reading, given: Sequence[str | Path], base: Path, findings: list[Finding]
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


def _keep_catalogue_clean(log: Reading, main: Reading) -> None:
    """A second log's item must be one of the first log's items, else it is only a property."""
    ours, theirs = log.column("item"), main.column("item")
    if ours is None or (theirs is not None and plain(ours.name) == plain(theirs.name)):
        return
    if theirs is None or len(set(ours.counts) & set(theirs.counts)) < 0.05 * ours.distinct:
        del log.roles["item"]


def _place(reading: Reading, given: Sequence[str | Path], base: Path) -> dict[str, Any]:
    source: dict[str, Any] = {
        "name": reading.name,
        "files": _file_keys(reading.group.files, given, base),
    }
    if not reading.group.header:
        source["header"] = False
    return source


def _role_expressions(log: Reading, say: Callable[[str, str, float, str], None]) -> dict[str, str]:
    expressions: dict[str, str] = {}
    for role in ROLES:
        if role not in log.roles:
            continue
        column, sure, reason = log.roles[role]
        empty = 1 - column.filled / log.sample.rows
        if empty >= 0.005:
            reason += f"; {empty:.0%} of the lines have none"
        expressions[role] = reference(column.name)
        say(role, expressions[role], sure, reason)
    price, quantity = log.column("price"), log.column("quantity")
    if "value" not in log.roles and price is not None:
        single = quantity is None
        value = reference(price.name) + (
            "" if quantity is None else f" * {reference(quantity.name)}"
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


def _types(log: Reading, say: Callable[[str, str, float, str], None]) -> dict[str, Any]:
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
    taobao = is_taobao(column)
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


def _constant_type(log: Reading) -> tuple[str, float, str]:
    money = any(role in log.roles for role in ("value", "price", "quantity"))
    if "rating" in log.roles and not money:
        return "rating", min(0.9, log.roles["rating"][1]), "a column of ratings"
    time = log.roles["time"][0].name
    names = " ".join(
        [log.name, time, *(c.name for r, (c, _, _) in log.roles.items() if r == "session")]
    ).lower()
    named = next((kind for pattern, kind in CONSTANT_TYPES if re.search(pattern, names)), None)
    if named in ("redemption", "return"):
        return named, 0.7, "by the name"
    if money:
        return "purchase", 0.9 if named == "purchase" else 0.7, "lines with money or pieces"
    if named is not None:
        return named, 0.6, "by the name"
    return "event", 0.3, "nothing says what kind of event it was"


def _return_rules(log: Reading) -> list[dict[str, str]]:
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
                when = f"{reference(session.name)} LIKE '{prefix}%'"
                rules.append({"when": when, "type": "return", "label": "cancellation lines"})
    when = f"{reference(amount.name)} < 0"
    return [*rules, {"when": when, "type": "return", "label": f"negative {word}"}]


def _leftovers(
    log: Reading, say: Callable[[str, str, float, str], None]
) -> list[tuple[str, dict[str, str], list[Column]]]:
    """Part the columns without a role: attributes of item and user, properties, unused ones."""
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
    rating = log.column("rating")
    if rating is not None:
        _, sure, reason = log.roles["rating"]
        low, high = np.nanmin(rating.numbers), np.nanmax(rating.numbers)
        said = (
            f"a rating from {low:g} to {high:g}, not money; recommendations weigh by it ({reason})"
        )
        homes["properties"].insert(0, (rating, sure, said))
    for key, columns in homes.items():
        called = ["rating" if c is rating else c.name for c, _, _ in columns]
        names = own_names(called, key.removeprefix("of_"))
        for name, (column, sure, reason) in zip(names, columns, strict=True):
            found[key][name] = reference(column.name)
            say(f"{key}.{name}", reference(column.name), sure, reason)
            if column.is_number and not _ID_NAME.search(plain(column.name)):
                numbers[key].append(column)
    return [(key, mapping, numbers[key]) for key, mapping in found.items() if mapping]


def _home(log: Reading, column: Column) -> tuple[str, float, str]:
    if column.distinct < 2:
        return "unused", 0.8, f"always {column.examples(1)}"
    if column.name in log.times:
        return "unused", 0.6, "another time"
    if is_twin(log, column) and not log.group.header:
        return "unused", 0.7, "says the same as the user's column"
    known = attribute(column.name)
    best: tuple[float, str, float] = (0.0, "", 0.0)
    for role in ("item", "user"):
        by = log.column(role)
        if by is None or OF_THE_EVENT.search(plain(column.name)):
            continue
        agree, lift, groups = agreement(column, by)
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


def table_source(
    reading: Reading,
    key: Column,
    side: str,
    sure: float,
    given: Sequence[str | Path],
    base: Path,
    findings: list[Finding],
) -> dict[str, Any]:
    owner = side.removesuffix("s")
    table = _place(reading, given, base)
    table["key"] = reference(key.name)
    findings.append(
        Finding(reading.name, f"{side}.key", table["key"], sure, f"joins the log's {owner} column")
    )
    others = [c for c in reading.sample.columns if c.name != key.name]
    kept = [c for c in others if c.distinct >= 2]
    names = own_names([c.name for c in kept], owner)
    table["attributes"] = {n: reference(c.name) for n, c in zip(names, kept, strict=True)}
    for name, column in zip(names, kept, strict=True):
        expression = reference(column.name)
        findings.append(
            Finding(
                reading.name, f"{side}.{name}", expression, 0.8, f"for example {column.examples()}"
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


def reference(name: str) -> str:
    return (
        name
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in _SQL_WORDS
        else quote(name)
    )


def own_names(columns: Sequence[str], owner: str) -> list[str]:
    """Name attributes or properties: a standard name goes to the column it fits best.

    >>> own_names(["manufacturer_id", "brand", "package size"], "item")
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


def _file_keys(files: tuple[Path, ...], given: Sequence[str | Path], base: Path) -> list[str]:
    """Return a source's ``files``: folders and globs as given where they mean just these files."""
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
