"""``docs/language.md`` says what the code does: its examples run, on the log it shows, and it names every aggregate."""

from __future__ import annotations

import doctest
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from tests.features.worlds import numbers, plain, texts

from propend.events.clock import moment
from propend.events.timelines import Timelines
from propend.expression import AGGREGATES, parse
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
TYPES = ("view", "cart", "purchase")


def at(text: str) -> int:
    return moment(datetime.fromisoformat(text + "+00:00"))


def page_log() -> tuple[Timelines, Schema]:
    """Return the log that the page shows in its first table."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| 2024-")]
    rows = [[cell.strip() or None for cell in line.strip("|").split("|")] for line in lines]
    time, kind, item, value, channel = zip(*rows, strict=True)
    timelines = Timelines(
        np.array([0]),
        np.array([0, len(rows)]),
        np.array([at(str(t)) for t in time]),
        np.array([TYPES.index(str(k)) for k in kind], np.int16),
        np.array([("boots", "socks").index(str(i)) for i in item], np.int32),
        np.arange(len(rows)),
        {"value": numbers([None if v is None else float(v) for v in value])},
        {"channel": texts(list(channel))},
    )
    schema = Schema(
        TYPES,
        numbers=("value",),
        texts=("channel",),
        items={"category": texts(["shoes", "clothes"]), "list_price": numbers([90.0, None])},
        item_ids=("boots", "socks"),
        users={"country": "text", "age": "number"},
        tasks=("buy_7d",),
    )
    return timelines, schema


def ask(text: str) -> float | str | None:
    """Answer a question about the page's user at the page's cutoff."""
    timelines, schema = page_log()
    e = parse(text)
    schema.check(e)
    (values,) = evaluate(
        [e],
        timelines,
        Rows.of([0], [at("2024-03-01 00:00")]),
        schema,
        profile={"country": texts(["DE"]), "age": numbers([None])},
        scores={"buy_7d": np.array([0.7])},
    )
    return plain(values)[0]


def test_the_examples_of_the_page_run() -> None:
    text = re.sub(r"^```.*$", "", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {"ask": ask}, PAGE.name, str(PAGE), 0)
    results = doctest.DocTestRunner().run(examples)
    assert results.failed == 0
    assert results.attempted > 40


@pytest.mark.parametrize("function", sorted(AGGREGATES))
def test_the_page_names_every_aggregate_and_asks_it(function: str) -> None:
    text = PAGE.read_text("utf-8")
    assert f"`{function}`" in text
    assert f'ask("{function}(' in text
