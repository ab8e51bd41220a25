"""Recommendations are fitted by a process of their own, kept, and read by the server while the items are the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from propend.errors import DataError
from propend.events.durable import exclusive
from propend.pipeline.workspace import open_workspace
from propend.serve import live as served
from propend.serve.live import Live
from propend.serve.offers import fit, read


@pytest.fixture
def folder(shop: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shop, tmp_path / "shop")


def test_what_another_process_fitted_is_offered_here(folder: Path) -> None:
    workspace = open_workspace(folder)
    assert read(workspace) is None
    subprocess.run([sys.executable, "-m", "propend.serve.offers", str(folder)], check=True)
    theirs, ours = read(workspace), fit(workspace)
    assert theirs is not None
    assert ours is not None
    assert theirs.ids == ours.ids
    assert np.array_equal(theirs.within, ours.within)
    for one, other in ((theirs.users, ours.users), (theirs.sessions, ours.sessions)):
        a, b = (r.recommend([np.array([1, 3]), np.array([7])], 5, within=ours.within) for r in (one, other))  # fmt: skip
        assert np.array_equal(a.items, b.items)
        assert np.array_equal(a.scores, b.scores)
    shutil.rmtree(next((folder / "kept" / "offers").glob("sessions-*")))
    assert read(workspace) is None


def test_offers_of_other_items_are_not_read(folder: Path) -> None:
    workspace = open_workspace(folder)
    assert fit(workspace) is not None
    kept = folder / "kept" / "offers" / "items"
    said = kept.read_text(encoding="utf-8")
    kept.write_text(said[:-1] + ("0" if said[-1] != "0" else "1"), encoding="utf-8")
    assert read(workspace) is None
    kept.unlink()
    assert read(workspace) is None


def test_where_nothing_can_be_kept_the_server_fits_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(open_workspace(folder))
    monkeypatch.setattr(Live, "_apart", lambda *_: "")  # it could not write, or was not there
    live.refit()
    assert live.recommender is not None
    assert read(live.workspace) is not None
    live.stop()


def test_a_process_that_dies_is_a_fault_and_what_is_offered_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(open_workspace(folder))
    live.refit()
    before = live.recommender
    assert before is not None
    monkeypatch.setattr(served.sys, "executable", shutil.which("false"))
    with pytest.raises(DataError, match="was killed"):
        live.refit()
    assert live.recommender is before
    live.stop()
    assert live._apart("propend") == ""  # nothing is started any more


def test_one_process_at_a_time(folder: Path) -> None:
    workspace = open_workspace(folder)
    home = folder / "kept" / "offers"
    with exclusive(home, "it"):
        with pytest.raises(DataError, match="the kept recommendations"):
            fit(workspace, patience=0.3)
        late = subprocess.Popen([sys.executable, "-m", "propend.serve.offers", str(folder)])
        time.sleep(3)
        assert late.poll() is None
        assert read(workspace) is None
    assert late.wait(600) == 0  # seconds where nothing else runs
    assert read(workspace) is not None


def test_a_rule_that_names_nothing_is_a_sentence(folder: Path) -> None:
    text = (folder / "propend.toml").read_text(encoding="utf-8")
    (folder / "propend.toml").write_text(text + "[recommend]\nsources = [{name = 'nobody'}]\n", encoding="utf-8")  # fmt: skip
    child = subprocess.run([sys.executable, "-m", "propend.serve.offers", str(folder)], capture_output=True, text=True, check=False)  # fmt: skip
    assert child.returncode == 1
    assert "Traceback" not in child.stderr
    assert "nobody" in child.stderr
