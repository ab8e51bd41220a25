"""Batch answers join a person's ids as live ones do: compared at every moment, before and after each link, and after an undo."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from propend.cli import main
from propend.events.people import Link, People, resolve
from propend.events.store import Store
from propend.expression.parse import parse
from propend.features.evaluate import Rows, evaluate
from propend.features.schema import Schema
from propend.pipeline.workspace import open_workspace
from propend.serve.inbox import Batch
from propend.serve.live import Live

START = 1_767_000_000_000_000
HOUR = 3_600_000_000
CONFIG = '[workspace]\nzone = "UTC"\nbuckets = 4\n[live]\ntraits = ["plan", "country"]\n[live.keys]\nkey = "web"\n'
ASKED = [
    parse(t)
    for t in ("count(*)", "sum(purchase.value)", "days_since(view)", "distinct(*.item) last 2d")
]


def open_live(folder: Path) -> Live:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "propend.toml").write_text(CONFIG)
    return Live(open_workspace(folder))


def send(live: Live, n: int, **event: object) -> None:
    """Take in an event that happens, and arrives, ``n`` hours after the start."""
    one = {"id": str(n), "time": START + n * HOUR, "item": f"i{n % 5}", **event}
    body = msgspec.json.encode({"events": [one]})
    live.inbox.append([Batch(START + n * HOUR + 1, "web", "own", "/v1/events", "", "", "", body)])


def test_who_is_who() -> None:
    links = [Link(9, "phone", "anon"), Link(5, "anon", "u1"), Link(7, "old", "u2"), Link(8, "u2", "u3")]  # fmt: skip
    assert resolve(links) == {"anon": ("u1", 5), "phone": ("u1", 9), "old": ("u3", 8), "u2": ("u3", 8)}  # fmt: skip
    assert resolve([Link(n, f"a{n}", "shared") for n in range(600)]) == {}


IDS = st.sampled_from(["u1", "u2", "a1", "a2", "a3"])
STEPS = st.lists(
    st.tuples(IDS, st.one_of(st.none(), IDS), st.sampled_from(["view", "purchase"])),
    min_size=3,
    max_size=14,
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(steps=STEPS)
def test_batch_answers_are_the_live_ones_at_every_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str | None, str]]
) -> None:
    folder = tmp_path_factory.mktemp("people") / "shop"
    live = open_live(folder)
    for n, (user, anonymous, kind) in enumerate(steps):
        send(live, n, user=user, anonymous=anonymous, type=kind, value=float(n))
    send(live, 99, user="u9", type="view", value=1.0)
    send(live, 98, user="u9", type="purchase", value=1.0)
    live.tail()
    live.move()
    store = open_workspace(folder).store
    assert store.rows == Store(folder / "store").rows
    schema = Schema.of(store, "UTC")
    moments = [START + n * HOUR + 2 for n in (*range(len(steps)), 200)]
    people = 0
    for bucket in range(store.buckets):
        t = store.timelines(bucket, ["value"])
        for i, name in enumerate(store.names_of(t.users)):
            people += 1
            rows = Rows(np.full(len(moments), i), np.array(moments))
            batch = evaluate(ASKED, t, rows, schema)
            for expression, values in zip(ASKED, batch, strict=True):
                for moment, value in zip(moments, np.asarray(values, float), strict=True):
                    one = live.state.value(expression, str(name), moment)
                    assert (one is None and np.isnan(value)) or one == value, (name, str(expression), moment)  # fmt: skip
    last = START + 1_000 * HOUR
    known = {i for n, (u, a, _) in enumerate(steps) for i in (u, a) if i}
    joined = {live.identity.ids(i, last) for i in known if any(u == i for u, *_ in steps)}
    assert people == len(joined) + 1
    for ids in joined:  # every id of a person finds them
        assert len({store.code_of(i) for i in ids}) == 1
    live.stop()


def test_verbs_undo_and_the_switch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shop"
    live = open_live(folder)
    send(live, 0, anonymous="a1", type="view", traits={"country": "DE"})
    send(live, 1, user="u1", anonymous="a1", type="purchase", value=5, traits={"plan": "pro"})
    send(live, 2, user="u2", type="view")
    live.tail()
    live.move()

    def counts() -> dict[str, float]:
        main(["audience", str(folder), "count(*) >= 2", "--json"])
        capsys.readouterr()
        table = open_workspace(folder).evaluate("count(*)")
        return dict(zip(table["user"].to_pylist(), table["value"].to_pylist(), strict=True))

    assert counts() == {"u1": 2.0, "u2": 1.0}
    workspace = open_workspace(folder)
    assert isinstance(workspace.store, People)
    assert workspace.knows("a1")
    assert workspace.store.user_count == 2
    users = workspace.store.table("users")
    assert users is not None
    assert {"user": "u1", "plan": "pro", "country": "DE"} in users.to_pylist()
    stamp = (folder / "people" / "manifest.json").stat().st_mtime_ns
    assert counts() == {"u1": 2.0, "u2": 1.0}
    assert (folder / "people" / "manifest.json").stat().st_mtime_ns == stamp  # nothing changed
    send(live, 3, anonymous="a1", type="view", item="new-item")
    live.tail()
    live.move()
    assert counts() == {"u1": 3.0, "u2": 1.0}
    assert "new-item" in open_workspace(folder).store.item_ids()
    live.identity.undo(live.identity.facts("u1")[0]["number"], START + 5 * HOUR)
    assert counts() == {"u1": 1.0, "a1": 2.0, "u2": 1.0}
    live.stop()
    (folder / "propend.toml").write_text(CONFIG.replace("[live]", "[live]\njoin_ids = false"))
    assert counts() == {"u1": 1.0, "a1": 2.0, "u2": 1.0}
    assert json.loads((folder / "people" / "manifest.json").read_text())["format"]


def test_batch_decisions_heed_what_people_refused_with_their_events(tmp_path: Path) -> None:
    import pyarrow as pa

    from propend.pipeline.run import _consent

    folder = tmp_path / "shop"
    live = open_live(folder)
    send(live, 0, anonymous="a1", type="view", consent=False)
    send(live, 1, user="u1", anonymous="a1", type="view")
    send(live, 2, user="u2", type="view")
    live.tail()
    live.move()
    users = pa.array(["u2", "u1", "nobody"])
    workspace = open_workspace(folder)
    found = _consent(workspace, users)
    assert found is not None
    assert found.tolist() == [True, False, True]
    assert [not live.state.denied(u, workspace.now) for u in ("u2", "u1", "nobody")] == found.tolist()  # fmt: skip
    live.stop()
    (folder / "propend.toml").write_text(CONFIG.replace("[live]", "[live]\njoin_ids = false"))
    assert _consent(open_workspace(folder), users) is None or bool(_consent(open_workspace(folder), users)[1])  # type: ignore[index]  # fmt: skip
