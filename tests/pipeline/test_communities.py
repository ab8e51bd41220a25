"""Communities as propend.toml asks for them: by items, by friends, by friends of a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import propend as pp
from propend.config import parse
from propend.errors import ConfigError
from propend.pipeline.communities import communities

pytest.importorskip("graspologic_native", reason="needs the extra graph")

TOML = """
[workspace]
zone = "UTC"
[[events]]
name = "log"
files = ["log.csv"]
[events.roles]
user = "user"
time = "time"
type = "type"
item = "item"
"""
FRIENDS = """
[friends]
name = "friends"
files = ["friends.csv"]
user = "a"
friend = "b"
{since}
[communities]
by = "friends"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    lines = ["user,time,type,item"]
    lines += [
        f"u{u},2024-01-{day + 1:02d},purchase,i{10 * (u % 2) + rng.integers(0, 8)}"
        for u in range(30)
        for day in range(6)
    ]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    ties = [
        f"u{u},u{v},{'2024-01-01' if u % 2 else '2024-01-05'}"
        for u in range(30)
        for v in range(u % 2, u, 2)
        if u % 2 == v % 2
    ]
    (tmp_path / "friends.csv").write_text(
        "\n".join(["a,b,day", *ties, "u1,stranger,2024-01-01"]) + "\n"
    )
    return tmp_path


def opened(folder: Path, more: str) -> pp.Workspace:
    (folder / "propend.toml").write_text(TOML + more)
    shop = pp.open(folder)
    shop.ingest()
    return shop


def test_by_items(folder: Path) -> None:
    table = opened(folder, '[communities]\nby = "items"\n').profiles()
    odd = np.array([int(u[1:]) % 2 for u in table["user_id"].to_pylist()])
    group = table["community"].to_numpy()
    assert len(set(zip(odd.tolist(), group.tolist(), strict=True))) == 2
    assert set(table["community_size"].to_pylist()) == {15}


def test_by_friends_as_of_a_moment(folder: Path) -> None:
    shop = opened(folder, FRIENDS.format(since='since = "day"'))
    now = communities(shop, shop.now)
    assert now is not None
    assert len(now) == 30
    assert now.community.max() == 1
    early = communities(shop, int(np.datetime64("2024-01-03", "us").astype(np.int64)))
    assert early is not None
    assert len(early) == 15, "ties of the even users began later"


def test_none_asked_and_friends_without_a_table(folder: Path) -> None:
    assert "community" not in opened(folder, "").profiles().column_names
    with pytest.raises(ConfigError, match=r"add \[friends\] with files"):
        parse({"communities": {"by": "friends"}})
