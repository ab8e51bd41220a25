"""Which column of a source plays which role: names against vocabularies, checked by contents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from propend.errors import ConfigError, DataError
from propend.events.columns import Column, TimeFormat, time_format
from propend.events.sample import (
    Group,
    Sample,
)
from propend.events.vocabulary import (
    CONSTANT_TYPES,
    NOT_THE_TIME,
    ROLE_WORDS,
    TAOBAO_CODES,
    event_type,
    match,
    plain,
)

__all__ = ["Finding", "Reading", "agreement", "is_taobao", "is_twin", "read_roles"]

_SURE_ENOUGH: Final = 0.45
_ID_NAME: Final = re.compile(
    r"(^|_)(id|no|code|key|number|zip|phone|mobile|postcode|upc|ean)$|id$|编号|编码|号$|邮编|zip_code"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was guessed: what, from which column, how sure (0 to 1) and why."""

    source: str
    role: str
    column: str
    confidence: float
    reason: str


@dataclass
class Reading:
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


def read_roles(sample: Sample, hints: Sequence[str]) -> Reading:
    if len(sample.columns) < 2:
        only = sample.columns[0].name if sample.columns else ""
        raise DataError(
            f"{sample.group.files[0]} holds one column ({only!r}); a log needs "
            "at least who and when: "
            "check the delimiter, or leave the file out"
        )
    reading = Reading(sample)
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


def _assign(reading: Reading, role: str, fits: Callable[[Reading, Column, float], float]) -> None:
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


def _fits_time(reading: Reading, column: Column, named: float) -> float:
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


def _fits_other_time(reading: Reading, column: Column, _: float) -> float:
    return 0.95 if isinstance(reading.times.get(column.name), TimeFormat) else 0.0


def _fits_message(_: Reading, column: Column, __: float) -> float:
    own = plain(column.name) == "id"
    return (
        0.0 if column.uniqueness < 0.9 or (own and column.uniqueness < 1) else 0.6 if own else 0.95
    )


def _fits_id(reading: Reading, column: Column, _: float) -> float:
    if isinstance(reading.times.get(column.name), TimeFormat) and _is_dated(
        reading.times[column.name]
    ):
        return 0.0
    if column.is_number and not column.is_whole:
        return 0.0
    return 0.85 if column.uniqueness > 0.98 and column.filled > 50 else 0.98


def _is_dated(written: TimeFormat | ConfigError) -> bool:
    return isinstance(written, TimeFormat) and not written.epoch and written.formats != ("%Y%m%d",)


def _fits_type(_: Reading, column: Column, named: float) -> float:
    if column.distinct > 200 or column.distinct > max(12, 0.2 * column.filled):
        return 0.0
    known = _known_types(column)
    if known >= 0.5:
        return 0.98
    if is_taobao(column):
        return 0.7
    telling = re.search(
        r"event|behaviou?r|action|activity|interaction|行为|事件|操作|动作", plain(column.name)
    )
    return (0.8 if telling else 0.6 if known > 0 else 0.0) if named else 0.0


def _known_types(column: Column) -> float:
    return sum(n for v, n in column.counts.items() if event_type(v)) / max(column.filled, 1)


def is_taobao(column: Column) -> bool:
    behaviour = re.search(r"behaviou?r|行为", plain(column.name))
    return bool(behaviour) and set(column.counts) <= set(TAOBAO_CODES)


def _fits_quantity(_: Reading, column: Column, __: float) -> float:
    return 0.95 if column.is_number and np.nanmax(np.abs(column.numbers)) < 1e8 else 0.0


def _fits_money(_: Reading, column: Column, __: float) -> float:
    return 0.95 if column.is_number else 0.0


def _fits_rating(_: Reading, column: Column, __: float) -> float:
    return (
        0.95
        if column.is_number and column.distinct <= 101 and np.nanmax(column.numbers) <= 100
        else 0.0
    )


def _fits_channel(_: Reading, column: Column, __: float) -> float:
    return 0.9 if column.distinct <= 200 and not (column.is_number and not column.is_whole) else 0.0


def _fits_text(_: Reading, column: Column, __: float) -> float:
    return 0.9 if not column.is_number and column.distinct > 1 else 0.0


def _fits_session(reading: Reading, column: Column, named: float) -> float:
    return _fits_id(reading, column, named) and 0.95


_FITS: Final[tuple[tuple[str, Callable[[Reading, Column, float], float]], ...]] = (
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


def _assign_by_place(reading: Reading) -> None:
    """Where names say nothing: types by their words, users and items as columns of repeated ids."""
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
            if _looks_like_id(reading, column, nameless) and not is_twin(reading, column):
                reading.roles[role] = (
                    column,
                    0.5 if nameless else 0.4,
                    "the first column of ids that repeat",
                )
                break
    if nameless:
        _assign_nameless_numbers(reading)


def _looks_like_id(reading: Reading, column: Column, nameless: bool) -> bool:
    if not nameless and not _ID_NAME.search(plain(column.name)):
        return False
    if column.name in reading.times or (column.is_number and not column.is_whole):
        return False
    if column.is_number and float(np.nanmin(column.numbers)) < 0:
        return False
    many = column.distinct >= max(3, min(50, 0.002 * column.filled))
    in_sequence = column.is_number and column.distinct <= 60 and np.nanmax(column.numbers) < 100
    first = column is reading.sample.columns[0]
    return many and column.uniqueness < 0.98 and (first or not in_sequence)


def is_twin(reading: Reading, column: Column) -> bool:
    """Whether a column of ids says the same as the user's."""
    user = reading.column("user")
    return (
        user is not None and agreement(column, user)[0] > 0.99 and agreement(user, column)[0] > 0.99
    )


def _assign_nameless_numbers(reading: Reading) -> None:
    numbers = [
        c for c in reading.free() if c.is_number and c.distinct > 1 and not is_twin(reading, c)
    ]
    whole = [c for c in numbers if c.is_whole and np.nanmax(np.abs(c.numbers)) < 10_000]
    money = [c for c in numbers if not c.is_whole]
    if money and not whole and _looks_like_rating(money[-1]):
        reading.roles["rating"] = (money[-1], 0.6, "few whole and half numbers")
    elif money and "value" not in reading.roles:
        reading.roles["value"] = (money[-1], 0.6, "the last column of decimal numbers")
        if whole and "quantity" not in reading.roles:
            reading.roles["quantity"] = (whole[-1], 0.5, "small whole numbers")
    elif whole and set(whole[0].counts) <= set("12345") and whole[0].distinct >= 4:
        reading.roles["rating"] = (whole[0], 0.6, "whole numbers from 1 to 5")


def _looks_like_rating(column: Column) -> bool:
    """Whether a column holds a few whole or half numbers from 0.5 to 10, over and over."""
    if not column.is_number or column.currency_sign or not 3 <= column.distinct <= 20:
        return False
    numbers = column.numbers[~np.isnan(column.numbers)]
    steps = bool(np.all(2 * numbers == np.round(2 * numbers)))
    return steps and numbers.min() >= 0.5 and numbers.max() <= 10 and column.uniqueness <= 0.2


def _sells(reading: Reading) -> bool:
    """Whether prices, pieces, orders, types or names say that the log is of sales."""
    if {"price", "quantity", "session"} & set(reading.roles):
        return True
    kinds = reading.column("type")
    if kinds is not None:
        return any(
            event_type(v) in ("cart", "checkout", "purchase", "return") for v in kinds.counts
        )
    names = f"{reading.group.files[0].name} {reading.roles['time'][0].name}".lower()
    return any(kind == "purchase" and re.search(way, names) for way, kind in CONSTANT_TYPES)


def _settle_money(reading: Reading) -> None:
    """Tell pieces from money and a rating from a value; what each item has one of is no user's rating."""
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
    if "rating" in roles and "item" in roles:
        agree, lift, groups = agreement(roles["rating"][0], roles["item"][0])
        if groups >= 10 and agree >= 0.9 and lift >= 0.5:
            del roles["rating"]
    if {"time", "item", "value"} <= set(roles) and "rating" not in roles and not _sells(reading):
        value = roles["value"][0]
        if plain(value.name) != "value" or not _looks_like_rating(value):
            return
        roles["rating"] = (value, 0.6, "few whole or half numbers, and nothing is sold")
        del roles["value"]


def agreement(column: Column, by: Column) -> tuple[float, float, int]:
    """How far ``by`` determines ``column``: agreement beyond each group's first line, its lift over
    the     commonest value, and the number of groups with at least two lines."""
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
