"""The report is well-formed, holds everything it shows, escapes what it is given, and says what is missing."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from propend.events.clean import REASONS
from propend.pipeline.report import as_html, charts, render
from propend.pipeline.report.decisions import split
from propend.pipeline.report.page import SECTIONS
from propend.pipeline.report.quality import MEANING

_SPEC = importlib.util.spec_from_file_location(
    "sample_results", Path(__file__).with_name("sample_results.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
sample = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sample)

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Strict(HTMLParser):
    """Fails where a tag is not closed or closed twice; collects ids, links, tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self.ids += [named["id"] or ""] if "id" in named else []
        self.links += [named["href"] or ""] if "href" in named else []

    @property
    def text(self) -> str:
        """All that is read, with plain spaces."""
        return re.sub(r"\s+", " ", " ".join(self.texts).replace("\u2060", ""))


RESULTS: dict[str, Any] = {
    "realistic": sample.realistic(),
    "empty": sample.empty(),
    "nothing": {},
    "nasty": sample.nasty(),
}
HTML = {name: as_html(results) for name, results in RESULTS.items()}


@pytest.fixture(params=list(HTML))
def html(request: pytest.FixtureRequest) -> str:
    """Every sample's page in turn."""
    return HTML[request.param]


def test_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(html: str) -> None:
    read = Strict(html)
    assert len(read.ids) == len(set(read.ids))
    assert all(link.startswith("#") and link[1:] in read.ids for link in read.links)


def test_loads_nothing(html: str) -> None:
    read = Strict(html)
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "base"}
    assert not any({"src", "srcset", "onerror", "onload"} & set(attrs) for _, attrs in read.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert len(html.encode()) < 1_500_000


def test_every_section_is_there_in_order(html: str) -> None:
    read = Strict(html)
    places = [read.ids.index(id_) for id_, _, _ in SECTIONS]
    assert places == sorted(places)


def test_every_chart_is_described(html: str) -> None:
    read = Strict(html)
    charts_ = [attrs for tag, attrs in read.tags if tag == "svg"]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in charts_)
    assert html.count("<figure") == html.count("<figcaption")


@pytest.mark.parametrize("name", ["empty", "nothing"])
def test_every_missing_part_has_a_sentence(name: str) -> None:
    found = re.findall(r'<p class="missing">([^<]+)</p>', HTML[name])
    assert len(found) == len(SECTIONS) + 1  # funnel and retention each say it for themselves
    assert all(sentence.endswith(".") for sentence in found)


def test_a_skipped_part_says_why() -> None:
    html = as_html(
        {"decisions": {"skipped": "no value role"}, "recommendations": {"skipped": "no items"}}
    )
    assert "no value role" in html
    assert "no items" in html


def test_markup_in_names_is_text() -> None:
    html = HTML["nasty"]
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "浏览" in html
    assert "高价值客户" in html


def test_figures_that_are_no_numbers_never_show(html: str) -> None:
    words = Strict(html).text.split()
    assert not {"nan", "NaN", "inf", "None", "nan%", "-inf"} & set(words)
    assert not re.search(r"style=\"[^\"]*(nan|inf)", html)


def test_the_headline_says_what_a_manager_asks_first() -> None:
    text = Strict(HTML["realistic"]).text
    for said in (
        "Who will buy?",
        "Of the 10 % of users we rank highest, 81 % bought within 30 days",
        "Who is leaving?",
        "Whom to reach?",
        "£3,184",
        "What was wrong with the data?",
        "25.9 %",
    ):
        assert said in text


def test_rows_balance_or_the_page_says_they_do_not() -> None:
    assert "Nothing was dropped in silence" in HTML["realistic"]
    wrong = {**RESULTS["realistic"], "rows_kept": 1}
    assert "do not balance" in as_html(wrong)


def test_a_model_no_better_than_a_rule_is_not_praised() -> None:
    text = Strict(HTML["realistic"]).text
    assert "Ranks users better than the best simple rule (RFM score), beyond noise." in text
    assert "Does not rank users better than a simple rule (RFM score) beyond noise." in text
    assert "Does not come closer to the true amounts than a simple rule (RFM score)" in text
    assert "This is an assumption, not a measurement" in text


def test_protocol_and_hash_stand_beside_the_figures() -> None:
    text = Strict(HTML["realistic"]).text
    card = RESULTS["realistic"]["tasks"][0]
    assert card["protocol"] in text
    assert card["data_hash"] in text


def test_what_is_taken_at_a_threshold_follows_it(html: str) -> None:
    names = re.findall(r'<tr><th scope="row">([^<]+)</th>', html)
    cut = ("accuracy", "precision", "recall", "f1")
    assert not set(cut) & set(names)
    starts = [at for at, name in enumerate(names) if name == "threshold"]
    assert len(starts) == names.count("auroc")
    for at in starts:
        assert names[at + 1 : at + 5] == [f"{name} at its threshold" for name in cut]


def test_every_reason_to_set_a_row_aside_is_explained() -> None:
    assert set(MEANING) == set(REASONS) - {"kept"}


def test_users_held_back_are_counted_once() -> None:
    nested = {"users": 10, "push": 4, "silent": 6, "holdout": 2, "excluded": 1}
    apart = {"users": 10, "push": 4, "silent": 3, "holdout": 2, "excluded": 1}
    assert split(nested) == split(apart)
    assert sum(split(nested).values()) == 10


def test_writes_one_file_over_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.html"
    for results in (RESULTS["empty"], RESULTS["realistic"]):
        render(json.loads(json.dumps(results)), path)
    assert path.read_text(encoding="utf-8") == HTML["realistic"]
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_charts_follow_the_theme_and_are_the_same_each_time() -> None:
    def drawn() -> str:
        dates = ["1 Jan", "2 Jan", "3 Jan"]
        return charts.trend(dates, [1.0, None, 3.0], key="k", alt="a & b", write=str)

    assert drawn() == drawn()
    assert "var(--accent)" in drawn()
    assert "#0a0b" not in drawn()
    assert 'aria-label="a &amp; b"' in drawn()
