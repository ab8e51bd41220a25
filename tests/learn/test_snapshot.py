"""Attributes that the log repeats are today's: where they change, the past may not read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.events.attributes import changes
from propend.expression.parse import parse
from propend.features.derive import derive_features
from propend.learn.leaks import LeakError
from propend.learn.snapshot import changing, judged_alone, leave_out_changing, said
from propend.pipeline.workspace import Workspace, open_workspace

DECLARED = (
    '[workspace]\nzone = "UTC"\n[[events]]\nfiles = ["*.csv"]\n'
    'of_user = { tier = "tier", city = "city", late = "late", home = "home" }\nof_item = { colour = "colour", shelf = "shelf" }\n'
    '[events.roles]\nuser = "user"\ntime = "time"\ntype = "event"\nitem = "item"\n'
)


def lines(days: range, changed: bool) -> list[str]:
    """Lines of 100 users: most become gold, three move to another city, ``late`` is blank at first."""
    found = []
    for u in range(100):
        for day in days:
            at = np.datetime64("2024-01-01") + day
            tier = "gold" if u < 40 and day >= 20 else "basic"
            city = "Wien" if u < 1 and day >= 20 else "Graz"
            late = "yes" if u < 40 and day >= 20 else ""
            shelf = "B" if changed and day >= 20 else "A"
            found.append(
                f"u{u},{at}T{u % 24:02d}:00:00,view,i{u % 5},{tier},{city},{late},AT,red,{shelf}"
            )
    return found


def workspace(folder: Path, *files: list[str]) -> Workspace:
    (folder / "propend.toml").write_text(DECLARED)
    for i, each in enumerate(files):
        (folder / f"log{i}.csv").write_text(
            "\n".join(["user,time,event,item,tier,city,late,home,colour,shelf", *each])
        )
        open_workspace(folder).ingest()
    return open_workspace(folder)


@pytest.mark.parametrize("ingests", [1, 2])
def test_what_changes_is_counted_and_left_out(tmp_path: Path, ingests: int) -> None:
    early, later = lines(range(0, 20, 4), True), lines(range(20, 44, 4), True)
    made = workspace(tmp_path, *([early + later] if ingests == 1 else [early, later]))
    counted = changes(made.store)
    assert counted["profile.tier"] == (40, 100)
    assert counted["profile.city"] == (1, 100)
    assert counted["profile.home"] == (0, 100)
    assert counted["item.shelf"] == (5, 5)
    assert counted["item.colour"] == (0, 5)
    if ingests == 1:
        assert counted["profile.late"] == (40, 40)
    features = derive_features(made.schema)
    kept, left_out = leave_out_changing(features, changing(made.store))
    names = set(map(str, kept))
    assert "profile.tier" not in names
    assert {"profile.city", "profile.home"} <= names
    assert left_out["profile.tier"].startswith("40 of 100 users carry several values")
    alone = judged_alone(kept, changing(made.store))
    assert {"profile.home", "last(*.item.shelf)"} <= set(alone)
    assert "last(*.item.colour)" not in alone
    sentence = said(alone, left_out)["sentence"]
    assert "profile.tier is left out: 40 of 100 users" in sentence
    assert "not reached by the shuffle" in sentence


def test_a_question_that_reads_a_changing_attribute_is_refused(tmp_path: Path) -> None:
    made = workspace(tmp_path, lines(range(0, 44, 4), True))
    asked = parse("any(*) last 60d and profile.tier = 'basic'")
    with pytest.raises(LeakError, match=r"ask for last\(\*\.tier\)"):
        leave_out_changing((), changing(made.store), (asked,))
    steady = parse("any(*) last 60d and profile.home = 'AT'")
    assert leave_out_changing((), changing(made.store), (steady,)) == ((), {})
