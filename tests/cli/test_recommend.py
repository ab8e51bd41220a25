"""`propend recommend`, end to end: every question, what is refused, and what is kept between questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propend.cli import main
from propend.pipeline.workspace import open_workspace
from propend.recommend.interactions import Interactions


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 40 users and ten of twelve items of two kinds; i11 is new, nobody bought it."""
    folder = tmp_path_factory.mktemp("recommend")
    rng = np.random.default_rng(0)
    lines = ["user,time,event,item"]
    for _ in range(500):
        user, near = int(rng.integers(40)), int(rng.integers(5))
        item = near + 5 * (user % 2)
        day = np.datetime64("2024-01-01") + int(rng.integers(120))
        lines.append(f"u{user},{day},purchase,i{item}")
    (folder / "log.csv").write_text("\n".join(lines))
    items = [
        f"i{n},{('tea', 'cup')[n // 5 % 2]} {n},{('tea', 'cup')[n // 5 % 2]}" for n in range(10)
    ]
    (folder / "items.csv").write_text("\n".join(["item,name,kind", *items, "i11,cup 11,cup"]))
    (folder / "propend.toml").write_text(
        """
[workspace]
zone = "UTC"

[[events]]
name = "log"
files = ["log.csv"]
type = "event"

[events.roles]
user = "user"
time = "time"
item = "item"

[items]
files = ["items.csv"]
key = "item"

[items.attributes]
name = "name"
kind = "kind"

[recommend]
mix = "order"

[[recommend.sources]]
name = "item_neighbours"
weighting = "unit"

[[recommend.sources]]
name = "sequential_rules"
"""
    )
    open_workspace(folder).ingest()
    return folder


def ask(shop: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the answer as JSON."""
    main(["recommend", str(shop), *words, "--json"])
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--similar", "i1", "--user", "u1"], "--similar and --user ask different questions"),
        (["--rules", "--fans", "i1"], "--rules and --fans ask different questions"),
        (["--evaluate", "--user", "u1"], "--evaluate and --user ask different questions"),
        (["--user", "u1", "--session", "i1"], "--user and --session ask different questions"),
        (["--evaluate", "--csv", "x.csv"], "--csv says nothing with --evaluate"),
        (["--evaluate", "-k", "5"], "-k says nothing with --evaluate"),
        (["--user", "u1", "--protocol", "random"], "--protocol says nothing with --user"),
        (["--user", "u1", "--out", "x.parquet"], "--out says nothing with --user"),
        (
            ["--with", "ease"],
            "--with says nothing for offers to everyone; it belongs to --evaluate",
        ),
        (["--bundles", "--confidence", "0.5"], "--confidence says nothing with --bundles"),
        (["--fans", "i1", "--support", "0.5"], "--support says nothing with --fans"),
        (["--csv", "x.csv"], "--csv says nothing for offers to everyone"),
        (["--evaluate", "--with", "ease:strength"], "write settings as"),
        (["--evaluate", "--with", "ease:strenght=1"], "did you mean 'strength'"),
    ],
)
def test_what_does_not_fit_is_refused(
    shop: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recommend", str(shop), *words])
    assert ended.value.code != 0
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said


def test_a_session_is_read_as_people_write_it(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ask(shop, capsys, "--session", "i1, i2 ,", "-k", "3")["offers"]
    two = ask(shop, capsys, "--session", "i1", "--session", "i2", "-k", "3")["offers"]
    assert one == two
    assert one[0]["source"] == "sequential_rules", "the session model that is declared"
    empty = ask(shop, capsys, "--session", "", "-k", "3")["offers"]
    newcomer = ask(shop, capsys, "--user", "never seen", "-k", "3")["offers"]
    assert [o["item"] for o in empty] == [o["item"] for o in newcomer]
    assert {o["source"] for o in empty} <= {"popularity", "popularity_recent"}


def test_an_item_nobody_bought_has_its_like_and_its_fans(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = ask(shop, capsys, "--similar", "i11", "-k", "2")["offers"]
    assert {row["source"] for row in alike} == {"content"}
    assert {row["reason"] for row in alike} == {"is like cup 11"}
    near = ask(shop, capsys, "--similar", "i1", "-k", "2")["offers"]
    assert {row["reason"] for row in near} == {"chosen by the same users as tea 1"}
    fans = ask(shop, capsys, "--fans", "i11", "-k", "10")["users"]
    assert all(int(row["user"][1:]) % 2 for row in fans), "who buys cups"
    assert all(row["reason"].startswith("is like cup") for row in fans)


def test_offers_are_fitted_once(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(shop, capsys, "--user", "u3")
    with monkeypatch.context() as patch:
        patch.setattr(Interactions, "from_store", None)
        assert ask(shop, capsys, "--user", "u3") == first
    kept = shop / "kept" / "recommender"
    assert any(kept.iterdir())
    many = [word for n in range(12) for word in ("--user", f"u{n}")]
    sources = {offer["source"] for offer in ask(shop, capsys, *many)["offers"]}
    assert sources & {"item_neighbours", "sequential_rules"}, "the sources that are declared"


def test_an_evaluation_tells_its_protocol(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recommend", str(shop), "--evaluate", "--with", "ease:strength=5", "--ties", "random"])
    said = capsys.readouterr().out
    for word in ("ease:strength=5", "ties random", "what users had met is", "audience AUC", "95 %"):
        assert word in said, word


def test_who_is_forgotten_is_not_kept(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(shop, capsys, "--user", "u7")
    assert (shop / "kept" / "recommender").is_dir()
    open_workspace(shop).forget("u7")
    assert not (shop / "kept").exists()
    ask(shop, capsys, "--user", "u8")
    assert (shop / "kept" / "recommender").is_dir()


@pytest.mark.slow
@pytest.mark.deep
def test_a_network_that_competes_serves_where_it_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
    rng = np.random.default_rng(0)
    lines = ["user,time,event,item"]
    for user in range(50):
        at = int(rng.integers(12))
        for day in range(20):  # the next item is certain in four of five steps
            lines.append(f"u{user},{np.datetime64('2024-01-01') + day},view,i{at:02}")
            at = (at + 1) % 12 if rng.random() < 0.8 else int(rng.integers(12))
    (tmp_path / "log.csv").write_text("\n".join(lines))
    word = "transformer:size=tiny,epochs=8,tokens=128,learning_rate=0.01,threads=1"
    (tmp_path / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[[events]]\nname = "log"\nfiles = ["log.csv"]\ntype = "event"\n'
        '[events.roles]\nuser = "user"\ntime = "time"\nitem = "item"\n'
        f'[recommend]\ncompete = ["{word}"]\n[[recommend.sources]]\nname = "item_neighbours"\n'
    )
    open_workspace(tmp_path).ingest()
    document = ask(tmp_path, capsys, "--evaluate")
    assert document["chosen"] == word
    assert max(document["judged"], key=document["judged"].get) == word
    rows = {row["name"]: row["ndcg@10"] for row in document["models"]}
    assert rows["served"] == rows[word] > rows["item_neighbours"]
    first = ask(tmp_path, capsys, "--user", "u3", "--user", "u4", "-k", "3")["offers"]
    assert {row["source"] for row in first} == {"transformer"}
    with monkeypatch.context() as patch:  # from the kept fit
        patch.setattr(Interactions, "from_store", None)
        again = ask(tmp_path, capsys, "--user", "u3", "--user", "u4", "-k", "3")["offers"]
    assert again == first


@pytest.mark.deep
def test_a_competitor_that_learnt_nothing_says_so(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
    lines = (shop / "log.csv").read_text().splitlines()
    for name in ("propend.toml", "items.csv"):
        shutil.copy(shop / name, tmp_path)
    (tmp_path / "log.csv").write_text("\n".join(lines[:60]))
    open_workspace(tmp_path).ingest()
    main(["recommend", str(tmp_path), "--evaluate", "--with", "gru:size=tiny"])
    said = capsys.readouterr().out
    assert "gru:size=tiny: " in said
    assert "popularity answers instead" in said
