"""The API over a live workspace: answers equal to batch, keys, rates, hot swap, shadow, triggers, the description."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from propend.client import Client
from propend.features.program import Program
from propend.learn.calibration import Platt
from propend.learn.intervals import bounds
from propend.pipeline.workspace import open_workspace
from propend.serve.answers import Answers
from propend.serve.api import Api
from propend.serve.collect import Collector
from propend.serve.inbox import InboxError
from propend.serve.live import Live
from propend.serve.log import AnswerLog
from propend.serve.models import Served
from propend.serve.server import Both

ALL = {"Authorization": "Bearer all"}


class Site:
    """A running server over a copy of the shop."""

    def __init__(self, folder: Path, url: str, live: Live, collector: Collector) -> None:
        self.folder, self.url, self.live, self.collector = folder, url, live, collector
        self.http = httpx.Client(base_url=url, headers=ALL, timeout=300)

    def send(self, **event: Any) -> None:
        got = self.http.post(
            "/v1/events", json={"events": [event]}, headers={"Authorization": "Bearer key"}
        )
        assert got.json()["results"][0]["result"] == "ok", got.text
        last = self.live.inbox.last()
        for _ in range(60_000):
            if self.live.state.position >= last and (
                not self.live.triggers.declared or self.live.triggers.position >= last
            ):
                return
            time.sleep(0.005)
        raise AssertionError("the event never became visible")


@pytest.fixture(scope="module")
def site(shop: Path, tmp_path_factory: pytest.TempPathFactory, running: Any) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site") / "shop"
    shutil.copytree(shop, folder)
    live = Live(open_workspace(folder))
    live.start()
    collector = Collector(live.inbox, live.workspace.config.live.keys)
    with running(Both(collector, Api(live, collector).app)) as url:
        for _ in range(3_600):  # fitted by a process of its own, at low priority
            if live.recommender is not None:
                break
            time.sleep(0.05)
        site = Site(folder, url, live, collector)
        yield site
        site.http.close()
    live.stop()


def test_an_event_is_visible_at_once(site: Site) -> None:
    site.send(
        id="new-1", type="cart", user="fresh", item="i1", value=3.5, properties={"plan": "pro"}
    )
    profile = site.http.get("/v1/users/fresh/profile").json()
    assert profile["types"] == {"cart": 1}
    assert profile["last_items"] == ["i1"]
    got = site.http.get(
        "/v1/users/fresh/value", params={"expression": "count(cart where plan = 'pro') last 1h"}
    ).json()
    assert got["value"] == 1.0
    site.send(id="new-1", type="cart", user="fresh", item="i1")
    assert site.http.get("/v1/users/fresh/profile").json()["events"] == 1
    assert (
        site.http.get("/v1/users/fresh/member", params={"expression": "any(cart) last 1h"}).json()[
            "member"
        ]
        is True
    )


def test_predictions_equal_batch(site: Site) -> None:
    workspace = open_workspace(site.folder)
    from propend.pipeline.predict import score

    at = workspace.now
    batch = score(
        workspace.store, workspace.schema, workspace.engine, workspace.registry.load("buys"), at
    )
    expected = dict(zip(batch.users, batch.score, strict=True))
    users = list(expected)[:60]
    answers = site.http.post("/v1/answers", json={"users": users, "task": "buys", "at": at}).json()[
        "answers"
    ]
    assert np.array_equal([a["score"] for a in answers], [expected[u] for u in users])
    assert all(a["in_population"] for a in answers)
    one = site.http.get(
        f"/v1/users/{users[0]}/predictions/buys", params={"at": at, "reasons": 2}
    ).json()
    assert one["score"] == expected[users[0]]
    assert len(one["reasons"]) == 2
    assert one["version"] == 1


def test_predictions_carry_interval_and_version(site: Site) -> None:
    fitted = site.live.models.of("buys").fitted
    got = site.http.get("/v1/users/u1/predictions/buys").json()
    low, high = got["interval"]
    assert 0 <= low <= got["score"] <= high <= 1
    ends = [float(v[0]) for v in bounds(fitted.card["uncertainty"], [got["score"]])]
    assert (low, high) == (min(ends[0], got["score"]), max(ends[1], got["score"]))


def test_every_answer_has_a_batch_variant_and_joins_a_persons_ids(site: Site) -> None:
    site.send(id="j1", type="view", anonymous="joined-a", item="i1")
    site.send(id="j2", type="cart", user="joined-u", anonymous="joined-a", item="i2")
    site.send(id="j3", type="purchase", user="joined-u", item="i2", value=9)
    at = time.time_ns() // 1_000
    users = ["u1", "joined-u", "joined-a"]
    asked: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"ask": "profile"}, "profile", {}),
        ({"expression": "count(*)"}, "value", {"expression": "count(*)"}),
        ({"ask": "member", "expression": "any(cart)"}, "member", {"expression": "any(cart)"}),
        ({"task": "buys", "reasons": 2}, "predictions/buys", {"reasons": 2}),
        ({"ask": "recommendations", "k": 4}, "recommendations", {"k": 4}),
        ({"ask": "identity"}, "identity", {}),
    ]
    for body, path, query in asked:
        many = site.http.post("/v1/answers", json={"users": users, "at": at, **body}).json()
        for user, found in zip(users, many["answers"], strict=True):
            one = site.http.get(f"/v1/users/{user}/{path}", params={"at": at, **query}).json()
            assert {**found, "at": 0} == {**one, "at": 0}
    counts = site.http.post("/v1/answers", json={"users": users, "expression": "count(*)"}).json()
    assert [a["value"] for a in counts["answers"]][1:] == [3.0, 3.0]
    got = site.http.post("/v1/answers", json={"users": ["nobody", "u1"], "ask": "profile"}).json()
    assert "nobody" in got["answers"][0]["error"]
    assert got["answers"][1]["events"] > 0
    client = Client(site.url, "all")
    assert client.many(["joined-a"], expression="count(*)")[0]["value"] == 3.0
    assert client.decide_many(["u4"])[0]["user"] == "u4"
    client.close()


def test_decisions_for_many_are_those_for_each(site: Site) -> None:
    users = [f"u{n}" for n in range(30, 60)]
    many = site.http.post("/v1/decisions", json={"users": [*users, "u30"]}).json()["decisions"]
    assert [d["user"] for d in many] == [*users, "u30"]
    assert len(site.live.log.decisions("u30")) == 1
    answers, at = (
        Answers(site.live),
        time.time_ns() // 1_000,
    )  # exploration is drawn anew at every moment
    for found in answers.decisions(users, at):
        one = answers.decisions([found["user"]], at)[0]
        assert {**found, "number": 0} == {**one, "number": 0}
    reader = {"Authorization": "Bearer reader"}
    assert httpx.post(f"{site.url}/v1/decisions", json={"users": ["u1"]}, headers=reader).status_code == 403  # fmt: skip


def test_an_erased_user_is_answered_for_by_nobody(site: Site) -> None:
    """Erased beside the running server: not decided about, not logged; the next one in a batch is."""
    site.send(id="gone-1", type="purchase", user="Gone-77", item="i1", value=9)
    site.live.move()
    opened = open_workspace(site.folder)
    assert opened.forget("Gone-77")["events"] == 1
    assert site.http.post("/v1/users/Gone-77/decision").status_code == 404
    many = site.http.post("/v1/decisions", json={"users": ["Gone-77", "u61"]}).json()["decisions"]
    assert ("error" in many[0], many[1]["user"]) == (True, "u61")
    assert site.http.get("/v1/users/Gone-77/predictions/buys").status_code == 200
    assert [p for p in site.live.log.predictions("buys") if p.user == "Gone-77"] == []
    assert site.http.get("/v1/users/Gone-77/profile").status_code == 404


def test_p_in_an_expression(site: Site) -> None:
    got = site.http.get("/v1/users/u1/value", params={"expression": "p(buys) >= 0"})
    assert got.json()["value"] == 1.0


def test_recommendations_for_user_and_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    got = site.http.get("/v1/users/u1/recommendations", params={"k": 5}).json()["items"]
    assert [o["rank"] for o in got] == [1, 2, 3, 4, 5]
    assert (
        len(
            site.http.post(
                "/v1/recommendations", json={"items": ["i1", "never seen"], "k": 3}
            ).json()["items"]
        )
        == 3
    )
    assert len(site.http.get("/v1/users/stranger/recommendations").json()["items"]) == 10
    assert site.live.recommender is not None
    named = site.live.recommender._replace(
        names=tuple(f"The {i}" for i in site.live.recommender.ids)
    )
    monkeypatch.setattr(site.live, "recommender", named)
    told = site.http.get("/v1/users/u1/recommendations", params={"k": 5, "reasons": 1}).json()["items"]  # fmt: skip
    assert [{**o, "name": o["item"]} for o in told] == [{**g, "reason": t["reason"]} for g, t in zip(got, told, strict=True)]  # fmt: skip
    assert all(o["name"] == f"The {o['item']}" and o["reason"] for o in told)
    body = {"items": ["i1"], "k": 3, "reasons": 1}
    assert all(o["reason"] for o in site.http.post("/v1/recommendations", json=body).json()["items"])  # fmt: skip


def test_decisions_are_logged_with_their_propensity(site: Site) -> None:
    got = site.http.post("/v1/users/u2/decision").json()
    assert got["action"] in ("push", "silent")
    assert 0 < got["propensity"] <= 1
    logged = site.live.log.decisions("u2")
    assert [d["propensity"] for d in logged] == [got["propensity"]]


def test_nobody_is_pushed_who_refused_consent(site: Site) -> None:
    for n in range(3):
        site.send(id=f"c{n}", type="cart", user="refuses", item="i1", consent=False)
    got = site.http.post("/v1/users/refuses/decision").json()
    assert got["group"] == "excluded"
    assert "consent" in got["reason"]


def test_faults_are_one_sentence(site: Site) -> None:
    cases = [
        ("/v1/users/u1/value?expression=any(purchse)", 400, "purchase"),
        ("/v1/users/u1/value?expression=any(purchase) next 3d", 400, "next"),
        ("/v1/users/u1/value?expression=(((", 400, ""),
        ("/v1/users/u1/value", 400, "expression"),
        ("/v1/users/u1/predictions/bays", 404, "buys"),
        ("/v1/users/u1/predictions/buys?reasons=x", 400, "reasons"),
        ("/v1/users/u1/profile?at=yesterday", 400, "ISO"),
        ("/v1/users/nobody/profile", 404, "nobody"),
        ("/nothing", 404, "not found"),
    ]
    for path, status, word in cases:
        got = site.http.get(path)
        assert got.status_code == status, (path, got.text)
        assert word in got.json()["error"]
    for body in ({"users": ["u1"]}, {"users": "u1"}, {"users": ["u1"], "task": 5}, {"users": ["u1"], "task": "buys", "expression": "x"},
                 {"users": ["u1"], "ask": "all"}, {"users": ["u1"], "task": "buys", "reasons": 99}):  # fmt: skip
        assert site.http.post("/v1/answers", json=body).status_code == 400
    assert site.http.post("/v1/answers", json={"users": ["u1"], "task": "bays"}).status_code == 404
    assert site.http.post("/v1/decisions", json={}).status_code == 400
    assert site.http.post("/v1/answers", content=b"[" * 10_000).status_code == 400
    assert site.http.post("/v1/identity/999/undo").status_code == 404


def test_keys_scopes_and_rates(site: Site) -> None:
    with httpx.Client(base_url=site.url) as stranger:
        assert stranger.get("/v1/models").status_code == 401
        reader = {"Authorization": "Bearer reader"}
        assert stranger.post("/v1/users/u1/decision", headers=reader).status_code == 403
        answers = [stranger.get("/v1/models", headers=reader) for _ in range(14)]
        assert {a.status_code for a in answers} == {200, 429}
        limited = next(a for a in answers if a.status_code == 429)
        assert int(limited.headers["retry-after"]) >= 1


def test_models_swap_without_dropping_a_request(site: Site) -> None:
    stop, seen, faults = threading.Event(), set(), []
    scores: dict[int, set[float]] = {}

    def ask() -> None:
        with httpx.Client(base_url=site.url, headers=ALL) as http:
            while not stop.is_set():
                asked = {"reasons": 0, "at": "2026-04-20T00:00:00Z"}
                got = http.get("/v1/users/u1/predictions/buys", params=asked)
                if got.status_code != 200:
                    faults.append(got.text)
                seen.add(got.json().get("version"))
                scores.setdefault(got.json().get("version"), set()).add(got.json().get("score"))

    thread = threading.Thread(target=ask)
    thread.start()
    registry = open_workspace(site.folder).registry
    other = dataclasses.replace(registry.load("buys", 1), calibrator=Platt(3.0, 0.5))
    registry.save(other)
    for _ in range(10_000):
        if 2 in seen:
            break
        time.sleep(0.02)
    stop.set()
    thread.join()
    assert seen == {1, 2}
    assert not faults
    assert all(len(of) == 1 for of in scores.values())  # each version answers with its own scores
    assert scores[1] != scores[2]
    at = 1_776_643_200_000_000
    expected = {v: Served(registry.load("buys", v), v).answer(site.live.state, "u1", at, 0).score for v in (1, 2)}  # fmt: skip
    assert {v: of.pop() for v, of in scores.items()} == pytest.approx(expected)
    assert not any(
        p.at == at for p in site.live.log.predictions("buys")
    )  # the past is no live answer
    site.live.models._shadow_versions["buys"] = 1
    registry.save(registry.load("buys", 1))
    for _ in range(400):
        shadowed = site.live.models.shadow("buys") is not None
        answer = site.http.get("/v1/users/u2/predictions/buys", params={"reasons": 0}).json()
        if shadowed and answer["version"] == 3:
            break
        time.sleep(0.02)
    site.http.get("/v1/users/u3/predictions/buys")
    assert {(p.version, p.shadow) for p in site.live.log.predictions("buys") if p.user == "u3"} == {
        (3, 0),
        (1, 1),
    }


def test_triggers_fire_once_per_crossing(site: Site) -> None:
    def fired(user: str) -> int:
        return sum(f["user"] == user for f in site.http.get("/v1/outbox").json()["fired"])

    for n in range(3):
        site.send(id=f"t{n}", type="cart", user="walker", item="i1")
    assert fired("walker") == 1
    site.send(id="t4", type="purchase", user="walker", item="i1", value=5)
    site.send(id="t5", type="view", user="walker", item="i1")
    assert fired("walker") == 1
    assert site.live.triggers.latencies


def test_identity_can_be_undone(site: Site) -> None:
    site.send(id="a1", type="view", anonymous="anon-9", item="i1")
    site.send(id="a2", type="view", user="known-9", anonymous="anon-9", item="i2")
    got = site.http.get("/v1/users/known-9/identity").json()
    assert got["ids"] == ["anon-9", "known-9"]
    assert site.http.get("/v1/users/known-9/profile").json()["events"] == 2
    site.http.post(f"/v1/identity/{got['facts'][0]['number']}/undo")
    assert site.http.get("/v1/users/known-9/profile").json()["events"] == 1


def test_moving_changes_no_answer(site: Site) -> None:
    before = site.http.get("/v1/users/walker/profile", params={"at": "2099-01-01T00:00:00Z"}).json()
    site.live.move()
    site.live.state.refresh()
    assert site.live.state._tail == {}
    after = site.http.get("/v1/users/walker/profile", params={"at": "2099-01-01T00:00:00Z"}).json()
    assert after == before
    assert site.http.get("/lag").json()["not_stored"] == 0


def test_health_metrics_description(site: Site) -> None:
    assert site.http.get("/health").json()["status"] == "ok"
    site.send(id="h1", type="view", user="u1", item="i1")
    site.http.get("/v1/users/u1/predictions/buys")
    text = site.http.get("/metrics").text
    assert "propend_state_active_users" in text
    assert 'propend_requests_total{route="prediction",status="200"}' in text
    assert 'propend_events_accepted_total{source="web",dialect="own"}' in text
    assert "propend_commits_total" in text
    paths = site.http.get("/openapi.json").json()["paths"]
    assert "/v1/users/{user}/predictions/{task}" in paths


def test_health_tells_of_the_collector_the_models_and_the_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.http.get("/health").status_code == 200

    def away() -> None:
        raise InboxError("the disk is full")

    monkeypatch.setattr(site.live.inbox, "check", away)
    try:
        site.collector.healthy = False
        site.live.models.faults["buys"] = "a damaged model"
        site.live.log.fault = "the disk is full"
        got = site.http.get("/health")
    finally:
        site.collector.healthy = True
        site.live.models.faults.clear()
        site.live.log.fault = ""
    assert got.status_code == 503
    assert set(got.json()["faults"]) == {"inbox", "model buys", "log"}


def test_health_comes_back_by_itself_once_the_inbox_can_be_written(site: Site) -> None:
    collector = site.collector
    collector.healthy, collector._tried = False, time.monotonic()
    assert site.http.get("/health").status_code == 503  # it was tried a moment ago
    collector._tried = 0.0
    assert site.http.get("/health").status_code == 200  # without any event
    assert collector.healthy


def test_lag_tells_what_was_refused_and_what_was_not_kept(site: Site) -> None:
    before = site.http.get("/lag").json()
    events = {"events": [{"id": "odd", "user": "u1"}]}  # no type
    got = site.http.post("/v1/events", json=events, headers={"Authorization": "Bearer key"})
    assert got.json()["results"][0]["result"] == "refused"
    site.live.unkept += 2
    after = site.http.get("/lag").json()
    site.live.unkept -= 2
    assert after["refused"] == before["refused"] + 1
    assert after["refused_not_kept"] == before["refused_not_kept"] + 2


def test_an_answer_compiles_for_the_schema_it_reads(site: Site) -> None:
    """While one thread compiles for a new schema, another does not run the old program on it."""
    served = Served(site.live.models.of("buys").fitted, 1)
    state = site.live.state
    old = served._program(state)
    state.schema_version += 1
    building, go = threading.Event(), threading.Event()

    def slow(*given: Any) -> Program:
        building.set()
        go.wait(300)
        return Program(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("propend.serve.models.Program", slow)
        thread = threading.Thread(target=served._program, args=(state,))
        thread.start()
        building.wait(300)
        patch.setattr("propend.serve.models.Program", Program)
        assert served._program(state) is not old
        go.set()
        thread.join()


def test_answers_are_as_described(site: Site) -> None:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="needs jsonschema (pip install jsonschema)"
    )
    site.send(id="d1", type="view", user="known-7", anonymous="anon-7", item="i1")
    site.send(id="d2", type="cart", user="known-7", item="i1")
    paths = site.http.get("/openapi.json").json()["paths"]
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("get", path, path.replace("{user}", user).replace("{task}", "buys"), {"params": {"expression": "count(cart)"}})
        for path in paths if "get" in paths[path] for user in ("u1", "known-7")
    ]  # fmt: skip
    many = {"users": ["u1", "known-7", "nobody"]}
    asks = ({"task": "buys", "reasons": 2}, {"expression": "count(cart)"}, {"ask": "profile"}, {"ask": "identity"}, {"ask": "recommendations"}, {"ask": "member", "expression": "any(cart)"})  # fmt: skip
    asked += [("post", "/v1/answers", "/v1/answers", {"json": {**many, **ask}}) for ask in asks]
    asked += [("post", "/v1/decisions", "/v1/decisions", {"json": many})]
    asked += [("post", "/v1/users/{user}/decision", f"/v1/users/{user}/decision", {}) for user in ("u1", "known-7")]  # fmt: skip
    asked += [("post", "/v1/recommendations", "/v1/recommendations", {"json": {"items": ["i1"]}})]
    fact = site.http.get("/v1/users/known-7/identity").json()["facts"][0]["number"]
    asked += [("post", f"/v1/identity/{{number}}/{what}", f"/v1/identity/{fact}/{what}", {}) for what in ("undo", "redo")]  # fmt: skip
    event = {"type": "view", "user": "known-7", "item": "i1"}
    asked += [("post", "/v1/events", "/v1/events", {"json": {"events": [event, {"type": ""}]}, "headers": {"Authorization": "Bearer key"}})]  # fmt: skip
    seen = set()
    for method, path, url, given in asked:
        got = site.http.request(method.upper(), url, **given)
        assert got.status_code == 200, (url, got.text)
        content = paths[path][method]["responses"]["200"]["content"]
        if "application/json" in content:
            schema = content["application/json"]["schema"]
            assert schema != {"type": "object"}
            jsonschema.validate(got.json(), schema)
        else:
            assert got.headers["content-type"].startswith(*content)
        seen.add((method, path))
    assert seen == {(method, path) for path, of in paths.items() for method in of}


def test_a_process_of_its_own_moves_what_was_seen_and_no_further(site: Site) -> None:
    site.send(id="moved-1", type="cart", user="mover", item="i1")
    before = site.http.get("/v1/users/mover/profile").json()
    seen = site.live.state.position
    site.live.move_apart()
    for _ in range(10_000):
        if site.live.state.moved >= seen:
            break
        time.sleep(0.01)
    assert site.live.state.moved == seen
    assert site.live.inbox.read(0) == []
    assert open_workspace(site.folder).store.code_of("mover") >= 0
    after = site.http.get("/v1/users/mover/profile").json()
    assert {**after, "at": 0} == {**before, "at": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.live, "_apart", None)
        site.live.move_apart()  # nothing waits: no process is started


def test_a_mover_that_fails_says_why(site: Site) -> None:
    from propend.errors import DataError
    from propend.events.durable import exclusive

    site.send(id="moved-2", type="cart", user="mover", item="i1")
    with (
        exclusive(site.folder / "live", "the live folder"),
        pytest.raises(DataError, match="the live folder"),
    ):
        site.live.move_apart()
    assert site.live.inbox.read(0)
    site.live.move_apart()


def test_a_signal_right_after_the_start_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "propend.toml").write_text('[workspace]\nzone = "UTC"\n[live.keys]\nkey = "shop"\n')
    command = [sys.executable, "-m", "propend", "serve", str(tmp_path), "--only", "collect"]
    server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    assert "listening on" in server.stderr.readline()
    server.terminate()
    assert server.wait(300) == 0
    server.stderr.close()


def test_a_signal_stops_everything_in_order(shop: Path, tmp_path: Path) -> None:
    """SIGTERM: what was answered a moment before is in the log, and the server says it ended well."""
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    server = subprocess.Popen([sys.executable, "-m", "propend", "serve", str(folder), "--port", "0"], stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stderr is not None
    try:
        line = server.stderr.readline()
        while line and "listening on" not in line:
            line = server.stderr.readline()
        url = line.split("listening on ")[1].split()[0]
        got = httpx.get(f"{url}/v1/users/u1/predictions/buys", headers=ALL, timeout=300)
        assert got.status_code == 200
    finally:
        server.terminate()
    assert server.wait(300) == 0
    server.stderr.close()
    log = AnswerLog(folder / "live" / "log.db")
    assert [p.user for p in log.predictions("buys")] == ["u1"]
    log.close()
