"""The verbs about the past, end to end on a small file: JSON, CSV and HTML."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from propend.cli import main
from propend.errors import PropendError
from propend.pipeline.pictures import table_of
from propend.pipeline.workspace import open_workspace


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = Path(tmp_path_factory.mktemp("shop"))
    rng = np.random.default_rng(0)
    lines = ["user,time,event,channel,value,country"]
    for u in range(150):
        at = np.datetime64("2024-01-01T00:00:00") + np.timedelta64(
            int(rng.integers(0, 30 * 86_400)), "s"
        )
        for _ in range(int(rng.integers(1, 25))):
            buys = 0.35 if u % 3 == 0 else 0.05  # what --why has to find
            kind = rng.choice(["view", "cart", "purchase"], p=[0.75 - buys, 0.25, buys])
            worth = f"{rng.exponential(20):.2f}" if kind == "purchase" else ""
            lines.append(
                f"u{u},{at},{kind},{rng.choice(['ads', 'email', 'seo'])},{worth},{'DE' if u % 3 else 'FR'}"
            )
            at = at + np.timedelta64(int(rng.exponential(2 * 86_400)), "s")
    (folder / "log.csv").write_text("\n".join(lines))
    (folder / "propend.toml").write_text(
        """
[workspace]
zone = "UTC"
[[events]]
files = ["log.csv"]
of_user = { country = "country" }
[events.roles]
user = "user"
time = "time"
type = "event"
channel = "channel"
value = "value"
[[funnels]]
name = "buying"
steps = ["view", "cart?", "purchase"]
within = "10d"
by = "channel"
[[funnels]]
name = "in january"
steps = ["view", "purchase"]
within = "10d"
since = "2024-01-10"
until = "2024-01-20"
[[trends]]
name = "sales"
measure = "sum(purchase.value)"
by = "profile.country"
[[retention]]
name = "weekly"
unit = "week"
start = "view"
[[retention]]
name = "first days"
brackets = "1-2,2-8"
[[retention]]
name = "to the first sale"
start = "view"
back = "purchase"
survival = true
[[paths]]
name = "visits"
gap = "2d"
length = 3
[[paths]]
name = "before buying"
gap = "2d"
before = "purchase"
[[lifecycle]]
name = "viewers"
of = "view"
[[forecasts]]
name = "a week"
horizon = "5d"
memory = "5d"
[[attribution]]
name = "credit"
lookback = "5d"
"""
    )
    open_workspace(folder).ingest()
    return folder


def ask(capsys, *args):
    main([str(a) for a in args])
    return capsys.readouterr().out


def test_the_documented_form(shop, capsys):
    out = ask(capsys, "funnel", shop, "--steps", "view,cart,purchase", "--within", "7d", "--json")
    document = json.loads(out)
    assert set(document["steps"][0]) >= {
        "event",
        "users",
        "conversion",
        "low",
        "high",
        "median_seconds",
    }
    assert [s["event"] for s in document["steps"]] == ["view", "cart", "purchase"]
    assert (document["window"], document["order"]) == ("7d", "ordered")


@pytest.mark.parametrize(
    "args",
    [
        ["funnel"],
        ["funnel", "--name", "buying"],
        ["funnel", "--steps", "view,purchase", "--per", "total", "--exclude", "cart"],
        ["funnel", "--steps", "view,purchase", "--compare-at", "2024-01-20"],
        ["funnel", "--name", "buying", "--compare-who", "profile.country = 'DE'"],
        ["funnel", "--steps", "view,cart,purchase", "--order", "any", "--compare-at", "2024-01-20"],
        ["funnel", "--steps", "view,purchase", "--why", "--within", "4d"],
        ["funnel", "--steps", "view,purchase", "--why", "--within", "4d", "--since", "2024-01-03"],
        ["stages", "--horizon", "5d", "--memory", "10d"],
        ["retention", "--unit", "week"],
        ["retention", "--brackets", "1-8,8-15"],
        ["retention", "--start", "view", "--back", "purchase", "--survival"],
        ["paths", "--gap", "2d"],
        ["paths", "--from", "view", "--gap", "2d"],
        ["paths", "--to", "purchase", "--gap", "2d"],
        ["trend", "sales"],
        ["trend", "users(view)", "--by", "channel"],
        ["lifecycle"],
        ["attribution"],
        ["funnel", "buying"],
        ["retention", "weekly"],
        ["retention", "first days"],
        ["retention", "to the first sale"],
        ["paths", "visits"],
        ["paths", "before buying"],
        ["lifecycle", "viewers"],
        ["attribution", "credit"],
        ["trend", "users(purchase) / users(*)", "--unit", "week", "--by", "profile.country"],
        ["trend", "median(purchase.value)", "--by", "channel"],
        ["trend", "any(purchase) last 7d", "--by", "first.channel"],
    ],
)
def test_every_verb_three_ways(shop, capsys, tmp_path, args):
    verb, *rest = args
    table, page = tmp_path / "a.csv", tmp_path / "a.html"
    out = ask(capsys, verb, shop, *rest, "--json", "--csv", table, "--html", page)
    assert isinstance(json.loads(out), dict)
    assert len(table.read_text().splitlines()) >= 2
    text = page.read_text()
    assert "<svg" in text
    assert "http" not in text.replace("http-equiv", "")
    assert ask(capsys, verb, shop, *rest)


def test_a_trend_shows_its_groups(shop, capsys):
    words = ask(capsys, "trend", shop, "users(view)", "--by", "channel", "--unit", "week")
    found = open_workspace(shop).trend("users(view)", "week", "channel")
    header, *lines = (line.split() for line in words.splitlines()[1:])
    assert header == ["week", "all", *found["groups"]]
    for start, line in zip(found["start"], lines, strict=False):
        at = found["start"].index(start)
        shown = [found["values"][at], *(g[at] for g in found["groups"].values())]
        assert line[: 2 + len(found["groups"])] == [start, *(f"{v:.0f}" for v in shown)]


def test_audience_file(shop, capsys, tmp_path):
    file = tmp_path / "left.csv"
    ask(
        capsys,
        "funnel",
        shop,
        "--steps",
        "view,cart,purchase",
        "--step",
        2,
        "--dropped",
        "--audience",
        file,
    )
    users = file.read_text().split()[1:]
    result = open_workspace(shop).funnel(["view", "cart", "purchase"])
    assert len(users) == result.users(1) - result.users(2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["funnel", "--steps", "view,purchse"], "did you mean 'purchase'"),
        (["funnel", "--name", "byuing"], "did you mean 'buying'"),
        (["funnel", "--since", "yesterday"], "not a day"),
        (["funnel", "--compare-at", "2024-01-20", "--compare-who", "any(view)"], "compare either"),
        (["retention", "--brackets", "a-b"], "not brackets"),
        (["retention", "--survival"], "needs --start and --back"),
        (["retention", "weakly"], "did you mean 'weekly'"),
        (["retention", "--brackets", "1-2", "--recurring"], "leave out mode and recurring"),
        (["paths", "visit"], "did you mean 'visits'"),
        (["paths", "--from", "view", "--to", "cart"], "only one of the two"),
        (["funnel", "buying", "--steps", "view,cart"], "not both"),
        (["funnel", "buying", "--who", "any(view)", "--incremental"], "leave out 'incremental'"),
        (["funnel", "buying", "--incremental"], "counts in every group"),
        (["funnel", "buying", "--why", "--incremental"], "leave out 'by' and 'incremental'"),
        (["funnel", "buying", "--why", "--by", "channel"], "leave out 'by' and 'incremental'"),
        (["funnel", "buying", "--why", "--since", "soon"], "not a day"),
        (["funnel", "buying", "--why", "--step", "1"], "from 2 to 3"),
        (["funnel", "buying", "--why", "--step", "5"], "no drop before step 5"),
        (["funnel", "buying", "--why", "--step", "0"], "the first step is 1"),
        (["funnel", "buying", "--audience", "a.csv", "--step", "0"], "the first step is 1"),
        (["funnel", "buying", "--audience", "a.csv", "--step", "4"], "steps 1 to 3"),
        (["funnel", "buying", "--audience", "a.csv", "--dropped"], "--dropped needs --step"),
        (["funnel", "buying", "--audience", "a.csv", "--dropped", "--step", "3"], "after the last"),
        (["funnel", "buying", "--dropped"], "goes with --audience"),
        (["funnel", "buying", "--step", "2"], "goes with --why or --audience"),
        (["funnel", "buying", "--why", "--audience", "a.csv"], "ask one"),
        (["funnel", "buying", "--why", "--compare-at", "2024-01-20"], "ask one"),
        (["trend", "any(view) last 3d", "--incremental"], "leave out 'incremental'"),
        (["trend", "nothing at all"], "no measure over time"),
        (["attribution", "credits"], "did you mean 'credit'"),
        (["trend", "sum(purchase.valeu)"], "valeu"),
        (["trend", "count(view)", "--rate", "0"], "lies from 0.001 to 0.5"),
        (["paths", "--top", "-3"], "ask for at least 1"),
        (["retention", "to the first sale", "--recurring"], "leave out unit, mode"),
        (["retention", "to the first sale", "--mode", "unbounded"], "leave out unit, mode"),
        (["retention", "to the first sale", "--brackets", "1-2"], "leave out unit, mode"),
        (["retention", "to the first sale", "--unit", "week"], "leave out unit, mode"),
        (["funnel", "in january", "--incremental"], "has no period and no segment"),
        (["retention", "--start", "view x 2"], "each event counts by itself"),
        (["lifecycle", "--of", "view?"], "each event counts by itself"),
        (["attribution", "--conversion", "count(view) >= 2"], "each event counts by itself"),
        (["attribution", "--channel", "chanel"], "did you mean 'channel'"),
    ],
)
def test_bad_input_is_one_sentence(shop, capsys, args, words):
    verb, *rest = args
    with pytest.raises(SystemExit):
        main([verb, str(shop), *rest])
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["funnel", "--steps", "view,purchase"],
        ["funnel", "buying", "--reentry", "first"],
        ["funnel", "--steps", "view,purchase", "--per", "total", "--by", "week"],
        ["retention", "weekly"],
        ["retention", "first days"],
        ["retention", "to the first sale"],
        ["paths", "visits"],
        ["paths", "--of", "channel"],
        ["paths", "before buying"],
        ["trend", "count(view)", "--by", "channel"],
        ["lifecycle"],
        ["attribution", "credit"],
    ],
)
def test_kept_answers_and_erasure(shop, capsys, tmp_path, args):
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    verb, *rest = args
    asked = [verb, copy, *rest, "--json"]
    whole = json.loads(ask(capsys, *asked))
    for _ in range(2):
        assert json.loads(ask(capsys, *asked, "--incremental")) == whole
    assert list((copy / "kept").glob("*.npz"))
    open_workspace(copy).forget("u3")
    assert not list((copy / "kept").glob("*.npz"))
    assert json.loads(ask(capsys, *asked, "--incremental")) == json.loads(ask(capsys, *asked))


def test_a_saved_period(shop):
    workspace = open_workspace(shop)
    steps, within = ["view", "purchase"], "10d"
    saved = workspace.funnel("in january").to_dict()
    given = workspace.funnel(steps, within, since="2024-01-10", until="2024-01-20").to_dict()
    assert saved == given
    assert saved != workspace.funnel(steps, within).to_dict()
    later = workspace.funnel("in january", until="2024-01-25").to_dict()
    assert (
        later == workspace.funnel(steps, within, since="2024-01-10", until="2024-01-25").to_dict()
    )


def test_a_funnel_table_has_the_whole_answer(shop, capsys, tmp_path):
    file = tmp_path / "funnel.csv"
    document = json.loads(ask(capsys, "funnel", shop, "buying", "--json", "--csv", file))
    with file.open() as source:
        rows = list(csv.DictReader(source))
    steps = len(document["steps"])
    assert len(rows) == steps * (1 + len(document["groups"]))
    for row, step in zip(rows, document["steps"], strict=False):
        first, third = (row[f"{n}_quartile_seconds"] for n in ("first", "third"))
        assert [float(first), float(third)] == step["quartile_seconds"]
    took = [int(v) for k, v in rows[steps - 1].items() if k.startswith("took_")]
    assert took == document["time_to_convert"]["counts"]
    for i, group in enumerate(document["groups"], start=1):
        mine = rows[steps * i : steps * (i + 1)]
        assert {row["group"] for row in mine} == {group["group"]}
        q = {float(row["q_value_against_rest"]) for row in mine}
        assert q == {group["against_rest"]["q_value"]}


def test_nothing_found_is_a_table_with_its_header():
    assert table_of("why", {"differences": []}) == (
        ["feature", "words", "value", "effect", "low", "high", "measure", "converters", "others", "p_value", "q_value"],
        [],
    )  # fmt: skip
    assert table_of("paths", {"paths": []})[0][:2] == ["path", "sessions"]


def test_a_saved_forecast_is_asked_by_name(shop, capsys):
    words = ask(capsys, "stages", shop, "a week")
    assert "next in 5d" in words
    assert "chance said" in words
    assert "Days: concordance" in words
    saved = open_workspace(shop).forecast_funnel(name="a week").to_dict()
    assert saved == open_workspace(shop).forecast_funnel("5d", "5d").to_dict()
    answers = {s["name"]: s for s in open_workspace(shop).saved()}
    assert (answers["a week"]["kind"], answers["a week"]["answer"]) == ("aida", saved)
    with pytest.raises(PropendError, match="did you mean 'a week'"):
        open_workspace(shop).forecast_funnel(name="a weak")


def test_a_saved_definition_is_the_same_question(shop):
    workspace = open_workspace(shop)
    assert workspace.retention(name="weekly") == workspace.retention("week", "view")
    assert workspace.retention("day", name="weekly") == workspace.retention("day", "view")
    assert workspace.paths(name="visits", top=2) == workspace.paths(gap="2d", length=3, top=2)
    assert workspace.attribution(name="credit") == workspace.attribution(lookback="5d")
    assert workspace.lifecycle(name="viewers") == workspace.lifecycle(of="view")
