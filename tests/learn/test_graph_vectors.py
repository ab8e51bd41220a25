"""Graph vectors at a cutoff: the future does not move them, newcomers have one, saving keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import propend as pp
from propend.errors import NotEnoughDataError
from propend.expression import parse
from propend.learn.fusion import Fusion, Source, ablation
from propend.learn.graph import GraphVectors, community_columns
from propend.models.graph.hetero import HeteroSettings
from propend.tasks.cutoffs import plan_cutoffs
from propend.tasks.frame import build_frame
from propend.tasks.task import Task

pytest.importorskip("torch", reason="needs the extra deep")
pytestmark = pytest.mark.deep

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
CUT = int(np.datetime64("2024-03-01", "us").astype(np.int64))
FAST = HeteroSettings(width=6, epochs=3, batch=256, threads=1, negatives=64)


def shop(folder: Path, later: int, users: int = 80) -> pp.Workspace:
    """The same log before the cutoff; what comes after it depends on ``later``."""
    rng, after = np.random.default_rng(1), np.random.default_rng(later)
    lines = ["user,time,type,item"]
    lines += [f"early{k},2023-12-31,view,i{k}" for k in range(40)]  # item codes in one order
    for u in range(users):
        for _ in range(12):
            day = np.datetime64("2024-01-01") + int(rng.integers(0, 60))
            lines.append(f"u{u},{day},view,i{20 * (u % 2) + rng.integers(0, 20)}")
        for _ in range(4):
            day = np.datetime64("2024-03-01") + int(after.integers(0, 30))
            lines.append(f"u{u},{day},view,i{after.integers(0, 40)}")
    lines += [f"late{k},2024-02-28,view,i{k % 40}" for k in range(10)]
    folder.mkdir()
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "propend.toml").write_text(TOML)
    made = pp.open(folder)
    made.ingest()
    return made


def asked(made: pp.Workspace) -> tuple[np.ndarray, np.ndarray]:
    users = np.array([made.store.code_of(f"u{u}") for u in (3, 4, 7, 3)])
    cutoffs = np.array([CUT, CUT, CUT, CUT - 20 * 86_400_000_000])
    return users, cutoffs


def test_nothing_after_the_cutoff_moves_a_vector(tmp_path: Path) -> None:
    found = []
    for later in (5, 6):
        made = shop(tmp_path / str(later), later)
        graph = GraphVectors.fit(
            made.store, made.schema, made.engine, until=CUT, settings=FAST, seed=2
        )
        found.append(graph.vectors(made.store, made.engine, *asked(made)))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0][0], found[0][3]), "another cutoff, another history"


def test_tastes_part_and_saving_keeps_them(tmp_path: Path) -> None:
    made = shop(tmp_path / "shop", 5)
    graph = GraphVectors.fit(
        made.store,
        made.schema,
        made.engine,
        until=CUT,
        settings=HeteroSettings(
            width=6, epochs=25, batch=256, threads=1, negatives=64, learning_rate=0.02
        ),
        seed=2,
    )
    users = np.array([made.store.code_of(f"u{u}") for u in range(80)])
    said, names = graph.columns(made.store, made.engine, users, np.full(80, CUT))
    assert [str(n) for n in names][:2] == ["profile.graph_0", "profile.graph_1"]
    unit = said / np.linalg.norm(said, axis=1, keepdims=True)
    alike = unit @ unit.T
    same = np.add.outer(np.arange(80), np.arange(80)) % 2 == 0
    assert alike[same].mean() > alike[~same].mean() + 0.5
    graph.save(tmp_path / "graph")
    again = GraphVectors.load(tmp_path / "graph").vectors(
        made.store, made.engine, users, np.full(80, CUT)
    )
    assert np.array_equal(again, said)


def test_communities_as_of_each_cutoff_do_not_know_what_comes_after(tmp_path: Path) -> None:
    pytest.importorskip("graspologic_native", reason="needs the extra graph")
    found = []
    for later in (5, 6):
        made = shop(tmp_path / str(later), later)
        found.append(community_columns(made.store, made.schema, made.engine, *asked(made)))
    (first, names), (second, _) = found
    assert [str(n) for n in names] == [
        "profile.community_size", "profile.community_active", "profile.ties"
    ]  # fmt: skip
    assert np.array_equal(first, second)
    assert (first[:, 0] > 10).all()
    assert first[0, 2] > first[3, 2], "more was met by the later cutoff"


def test_the_ablation_says_what_the_graph_adds(tmp_path: Path) -> None:
    pytest.importorskip("graspologic_native", reason="needs the extra graph")
    made = shop(tmp_path / "shop", 5, users=120)
    task = Task.parse("comes", "any(view) next 7d for any(*)")
    plan = plan_cutoffs(made.schema.first, made.now, task.horizon, folds=2)
    frame = build_frame(
        made.store, made.schema, made.engine, task, [parse("count(*)")], plan.cutoffs
    )
    vectors = GraphVectors.fit(
        made.store, made.schema, made.engine, until=CUT - 30 * 86_400_000_000, settings=FAST
    )
    sources: dict[str, Source] = {
        "graph": lambda users, cutoffs: vectors.columns(made.store, made.engine, users, cutoffs),
        "communities": lambda users, cutoffs: community_columns(
            made.store, made.schema, made.engine, users, cutoffs
        ),
    }
    rows, fitted = ablation(frame, task, plan, sources)
    assert [(row["features"], row["columns"]) for row in rows] == [
        ("aggregates", 1), ("graph", 6), ("aggregates + graph", 7),
        ("communities", 3), ("aggregates + communities", 4), ("fusion", 10),
    ]  # fmt: skip
    assert len(fitted.features) == 10
    table = Fusion(fitted, sources, rows)
    codes, scores = table.score(made.store, made.schema, made.engine, made.now)
    assert len(codes) == len(scores) > 50


def test_too_little(tmp_path: Path) -> None:
    made = shop(tmp_path / "shop", 5, users=3)
    with pytest.raises(NotEnoughDataError, match="a graph needs 500"):
        GraphVectors.fit(made.store, made.schema, made.engine, until=CUT, settings=FAST)
