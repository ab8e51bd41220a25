"""Words of a log's texts: chosen from what was written before a moment, counted as of each cutoff."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.expression import parse
from propend.features.derive import Sentences, derive_features
from propend.features.schema import Schema
from propend.features.sentences import common_terms, sentences
from propend.features.words import in_words
from propend.learn.train import Options
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.frame import evaluate_all

DAY = 86_400_000_000
START = int(np.datetime64("2024-01-01", "us").astype(np.int64))
DECLARED = (
    '[workspace]\nzone = "UTC"\n[[events]]\nfiles = ["*.csv"]\n'
    'properties = { place = "place", email = "email" }\n'
    '[events.roles]\nuser = "user"\ntime = "time"\ntype = "event"\ntext = "said"\narrival = "known"\n'
)
Line = tuple[str, float, str, str]


def workspace(folder: Path, lines: list[Line], late: dict[int, float] | None = None) -> Workspace:
    """A log of (user, day, type, text); ``late`` gives some lines the day on which they became known."""
    rows = ["user,time,event,said,known,place,email"]
    for i, (user, day, kind, text) in enumerate(lines):
        at, known = (
            np.datetime64(START + round(d * DAY), "us") for d in (day, (late or {}).get(i, day))
        )
        rows.append(f'{user},{at}Z,{kind},"{text}",{known}Z,the old town hall {i % 3},a{i}@b.c')
    (folder / "propend.toml").write_text(DECLARED)
    (folder / "log.csv").write_text("\n".join(rows))
    opened = open_workspace(folder)
    opened.ingest()
    return opened


def reviews(text: str, users: range, day: float) -> list[Line]:
    return [(f"u{u}", day + u / 1_000, "review", f"{text} number {u}") for u in users]


def test_words_come_from_before_the_moment_and_from_many_users(tmp_path: Path) -> None:
    lines = [
        *reviews("the parcel was broken", range(12), 1),
        *reviews("要求退款，谢谢", range(12, 24), 2),
        *reviews("anna knows this well", range(24, 33), 3),
        *reviews("tomorrow is another day", range(33, 45), 10),
        *reviews("yesterday unheard of", range(45, 57), 4),
        *((f"u{u}", 5.0, "view", "") for u in range(12)),
    ]
    late = {i: 11.0 for i, line in enumerate(lines) if "unheard" in line[3]}
    opened = workspace(tmp_path, lines, late)
    (found,) = sentences(opened.store, opened.schema, START + 10 * DAY)
    assert (found.column, found.types) == ("text", ("review",))
    assert {"parcel", "broken"} & set(found.terms)
    assert {"要求", "求退", "退款"} & set(found.terms)
    for word in ("the", "was", "anna", "tomorrow", "yesterday", "unheard"):
        assert not any(word in term.split() for term in found.terms), word
    (later,) = sentences(opened.store, opened.schema, START + 12 * DAY)
    assert {"tomorrow", "another", "day"} & {w for t in later.terms for w in t.split()}
    assert sentences(opened.store, opened.schema, START) == ()


def test_counts_are_as_of_the_cutoff_and_agree_with_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    said = ["a refund please", "no refund", "refunds are slow", "退款 退款", "good"]
    lines = [
        (f"u{u}", float(rng.integers(0, 160)) / 2, "review", said[rng.integers(0, 5)])
        for u in rng.integers(0, 9, 120)
    ]
    late = {i: lines[i][1] + 20.0 for i in range(0, 120, 4)}
    opened = workspace(tmp_path, lines, late)
    made = derive_features(opened.schema, sentences=(Sentences("text", ("review",), ("refund", "退款")),))  # fmt: skip
    words = [e for e in made if "says" in str(e)]
    assert [str(e) for e in words] == [
        "count(review where text says 'refund') last 30d",
        "count(review where text says 'refund')",
        "count(review where text says '退款') last 30d",
        "count(review where text says '退款')",
    ]
    assert in_words(words[1]) == "number of reviews whose text says 'refund'"
    assert not any(str(e) == "last(*.text)" for e in made)
    for day in (30, 40, 80):
        cutoff = START + day * DAY
        for e, word, length in zip(words, ("refund", "refund", "退款", "退款"), (30, 99) * 2, strict=True):  # fmt: skip
            table = evaluate_all(opened.store, opened.schema, opened.engine, e, cutoff)
            got = dict(zip(table["user"].to_pylist(), table["value"].to_pylist(), strict=True))
            for user, value in got.items():
                seen = [
                    text
                    for i, (u, at, _, text) in enumerate(lines)
                    if u == user and day - length <= at < day and late.get(i, at) <= day
                ]
                assert value == sum(word in text.split() for text in seen), (user, day, str(e))


def test_names_and_addresses_are_no_sentences(tmp_path: Path) -> None:
    opened = workspace(
        tmp_path, [*reviews("fine work", range(30), 1), *reviews("slow post", range(30, 60), 1)]
    )
    columns = {s.column for s in sentences(opened.store, opened.schema, START + 9 * DAY)}
    assert columns == {"text"}  # the place has three values, and an address is never a reason


def test_terms_of_nearly_the_same_users_are_told_once() -> None:
    said = {"money": range(20), "money back": range(19), "back": range(40, 60), "slow": range(10)}
    assert common_terms(said, 60) == ("back", "money", "slow")
    assert common_terms({"all": range(50)}, 60) == ()


def test_without_texts_features_are_what_they_were() -> None:
    schema = Schema(types=("view",), texts=("channel",), last=200 * DAY)
    assert derive_features(schema) == derive_features(schema, sentences=())
    assert parse("last(*.channel)") in derive_features(schema)


@pytest.mark.filterwarnings("ignore")
def test_what_customers_write_tells_who_comes_back(tmp_path: Path) -> None:
    """Whoever asks for a refund does not buy again; nothing else tells the two apart."""
    rng = np.random.default_rng(5)
    lines: list[Line] = []
    for u in range(500):
        angry, day = u % 2 == 0, float(rng.uniform(0, 60))
        text = "I want a refund, this is broken" if angry else "Works well, will order again"
        lines.append((f"u{u}", day, "purchase", ""))
        lines.append((f"u{u}", day + 1, "review", f"{text} {rng.integers(1000)}"))
        while not angry and day < 200:
            day += rng.exponential(12)
            lines.append((f"u{u}", day, "purchase", ""))
        lines += [(f"u{u}", d, "view", "") for d in rng.uniform(60, 200, 3)]
    opened = workspace(tmp_path, [line for line in lines if line[1] < 200])
    asked = "any(purchase) next 20d for any(review) and none(purchase) last 15d"
    made = opened.predict(asked, options=Options(models=("logistic",)))
    drivers = " ".join(d["feature"] for d in made.card["drivers"])
    assert "says 'refund'" in drivers or "says 'broken'" in drivers or "says 'again'" in drivers
    assert made.card["future"]["features"] > 10
    assert not any("says" in c.column for c in made.would_change(made.users[0]) or [])
