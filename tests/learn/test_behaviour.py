"""The behaviour model: it never looks past a cutoff, is kept and resumed, and is fused with aggregates."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.learn.shops import BUYS, shop_of, stamp

from propend.cli import main
from propend.errors import ModelError, NotEnoughDataError
from propend.events.timelines import Timelines
from propend.learn.sequences import Coding, histories
from propend.names import DAY
from propend.pipeline.workspace import Workspace, open_workspace
from propend.tasks.cutoffs import plan_cutoffs
from propend.tasks.frame import build_frame
from propend.tasks.task import Task

torch = pytest.importorskip("torch", reason="a behaviour model needs the extra 'deep'")
pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return shop_of(tmp_path_factory.mktemp("behaviour"), 400)


@pytest.fixture(scope="module")
def model(shop: Workspace) -> Any:
    from propend.learn.behaviour import pretrain, pretraining_settings

    settings = pretraining_settings("tiny", epochs=12, learning_rate=5e-3, threads=1, tokens=512)
    until = shop.schema.first + 100 * DAY
    return pretrain(shop.store, shop.schema, settings=settings, until=until)


def everyone(shop: Workspace, cutoff: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    codes = np.concatenate(
        [shop.store.timelines(b).users for b in sorted(shop.store.manifest.runs)]
    )
    return codes, np.full(len(codes), cutoff, np.int64)


def test_histories_hold_what_was_known_and_no_more(shop: Workspace) -> None:
    coding = Coding.of(shop.store)
    assert coding.types == tuple(shop.store.types)
    assert coding.channels == ("app", "web")
    cutoff = shop.schema.first + 50 * DAY
    codes, cutoffs = everyone(shop, cutoff)
    order = np.random.default_rng(0).permutation(len(codes))[:60]
    made = histories(shop.store, coding, codes[order], cutoffs[order], 5)
    for row, code in enumerate(codes[order].tolist()):
        lines = shop.store.timelines(code % shop.store.buckets)
        own = lines.of(int(np.flatnonzero(lines.users == code)[0]))
        known = own.item[own.time < cutoff][-5:]
        assert made.user(row)["item"].tolist() == known.tolist()
        assert (made.user(row)["time"] < cutoff).all()
        came = len({t // DAY for t in own.time[own.time < cutoff].tolist()})
        assert made.user(row)["days"][-1:].tolist() == [came][: len(known)]


def test_a_coding_of_the_past_holds_what_was_met_by_then(tmp_path: Path) -> None:
    from propend.learn.item_features import item_features

    lines = ["user,time,event,item,channel,price"]
    for user in range(30):
        lines.append(f"u{user},{stamp(user / 10)},view,a{user % 3},web,{2 + user % 3}")
        lines.append(f"u{user},{stamp(50 + user / 10)},refund,b{user % 5},app,{7 + user % 5}")
    lines[1:] = sorted(lines[1:], key=lambda line: line.split(",")[1])
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    main(["init", str(tmp_path / "shop"), "--from", str(tmp_path / "log.csv")])
    late = open_workspace(tmp_path / "shop")
    late.ingest()
    whole = Coding.of(late.store)
    assert (len(whole.types), whole.channels, whole.items) == (2, ("app", "web"), 8)
    past = Coding.of(late.store, until=late.schema.first + 20 * DAY)
    assert (past.types, past.channels, past.items) == (("view",), ("web",), 3)
    assert past.refused(late.store) == ""
    assert Coding.of(late.store, until=late.now) == whole
    codes, cutoffs = everyone(late, late.now)
    made = histories(late.store, past, codes, cutoffs, 10)
    assert len(made) == 30  # the later type is not read
    features = item_features(late.store, late.schema, until=late.now, items=past.items)
    assert features is not None
    assert [len(codes) for codes in features.codes.values()] == [3]


def test_hours_and_days_are_those_of_the_shop(shop: Workspace) -> None:
    from zoneinfo import ZoneInfo

    coding = Coding.of(shop.store, "America/New_York")
    codes, cutoffs = everyone(shop, shop.now)
    made = histories(shop.store, coding, codes[:40], cutoffs[:40], 1_000)
    for user in range(40):
        events = made.user(user)
        wall = [
            datetime.fromtimestamp(t / 1e6, ZoneInfo("America/New_York")) for t in events["time"].tolist()
        ]  # fmt: skip
        assert events["hour"].tolist() == [24 * w.weekday() + w.hour for w in wall]
        assert events["days"].tolist() == [
            len({w.date() for w in wall[: i + 1]}) for i in range(len(wall))
        ]


def test_a_large_basket_is_read_in_part_and_its_worth_is_kept() -> None:
    from propend.learn.sequences import MOST_AT_ONCE, _lean

    time = np.array([5] * 12 + [5] * 3 + [7] * 9)
    kind = np.array([0] * 12 + [1] * 3 + [0] * 9, np.int16)
    amount = np.arange(24.0)
    amount[9] = np.nan
    zero = np.zeros(24, np.int64)
    lines = Timelines(
        np.array([1, 4]), np.array([0, 20, 24]), time, kind, zero.astype(np.int32), zero
    )
    keep, worth = _lean(lines, kind, amount)
    assert np.flatnonzero(~keep).tolist() == [8, 9, 10, 11]  # the second user's four stand alone
    assert MOST_AT_ONCE == 8
    assert worth[7] == 7 + 8 + 10 + 11
    assert np.nansum(worth[keep]) == np.nansum(amount)


def test_vectors_do_not_know_the_future(shop: Workspace, model: Any, tmp_path: Path) -> None:
    cutoff = shop.schema.first + 60 * DAY
    codes, cutoffs = everyone(shop, cutoff)
    whole = model.vectors(shop.store, codes, cutoffs)
    text = Path(shop.folder.parent / "log.csv").read_text().splitlines()
    (tmp_path / "log.csv").write_text(
        "\n".join([text[0], *(line for line in text[1:] if line.split(",")[1] < stamp(60))]) + "\n"
    )
    main(["init", str(tmp_path / "shop"), "--from", str(tmp_path / "log.csv")])
    past = open_workspace(tmp_path / "shop")
    past.ingest()
    for name in shop.store.names_of(codes[:40]).tolist():
        at = int(np.flatnonzero(codes == shop.store.code_of(name))[0])
        code = np.array([past.store.code_of(name)])
        assert np.allclose(
            model.vectors(past.store, code, np.array([cutoff])), whole[at], atol=1e-5
        )


def test_a_cached_user_takes_one_event_and_answers_as_the_whole_history(
    shop: Workspace, model: Any
) -> None:
    cutoff, later = (shop.schema.first + days * DAY for days in (60, 70))
    codes, _ = everyone(shop, cutoff)
    cache = model.cache(shop.store, at=cutoff)
    whole = model.vectors(shop.store, codes, np.full(len(codes), later))
    said, _ = model.readouts(shop.store, codes, np.full(len(codes), later), 7.0)
    known = histories(shop.store, model.coding, codes, np.full(len(codes), later), 32)
    compared = 0
    for row, code in enumerate(codes[:60].tolist()):
        events = known.user(row)
        new = np.flatnonzero(events["time"] >= cutoff)
        if code not in cache or not len(new) or len(events["item"]) == 32:
            continue
        for at in new:
            event = {name: column[at].item() for name, column in events.items() if name != "days"}
            cache.append(code, **event)
        assert np.allclose(cache.vector(code, later), whole[row], atol=1e-4)
        assert np.allclose(cache.readouts(code, later, 7.0), said[row], atol=1e-5)
        compared += 1
    assert compared > 20


def test_readouts_are_chances_and_order_users_by_what_they_last_saw(
    shop: Workspace, model: Any
) -> None:
    cutoff = shop.schema.first + 100 * DAY
    codes, cutoffs = everyone(shop, cutoff)
    said, names = model.readouts(shop.store, codes, cutoffs, 7.0)
    assert names[-2:] == ("silent", "value")
    chances = said[:, : len(names) - 1]
    known = ~np.isnan(chances).any(axis=1)
    assert ((chances[known] >= 0) & (chances[known] <= 1)).all()
    buys = said[:, names.index("within_purchase")]
    last = histories(shop.store, model.coding, codes, cutoffs, 1)
    wait = np.full(len(codes), np.inf)
    has = np.diff(last.offsets) > 0
    wait[has] = (cutoff - last.time) / DAY
    item = np.full(len(codes), -1)
    item[has] = last.item
    fresh = wait < 2
    b, a = (shop.schema.item_ids.index(name) for name in "ba")
    assert buys[fresh & (item == b)].mean() > buys[fresh & (item == a)].mean() + 0.15
    nobody, _ = model.readouts(shop.store, np.array([10**9]), cutoffs[:1], 7.0)
    assert np.isnan(nobody).all()


def test_it_is_saved_loaded_and_refused_on_another_log(
    shop: Workspace, model: Any, tmp_path: Path
) -> None:
    from propend.learn.behaviour import BehaviourModel

    model.save(tmp_path / "m")
    loaded = BehaviourModel.load(tmp_path / "m", store=shop.store)
    codes, cutoffs = everyone(shop, shop.now)
    assert np.array_equal(
        loaded.vectors(shop.store, codes, cutoffs), model.vectors(shop.store, codes, cutoffs)
    )
    assert (tmp_path / "m" / "curves.svg").read_text().startswith("<?xml")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.csv").write_text(
        "user,time,event,item\n" + "".join(f"u{i},2026-01-0{1 + i % 9},look,z\n" for i in range(50))
    )
    main(["init", str(tmp_path / "o"), "--from", str(tmp_path / "other" / "x.csv")])
    other = open_workspace(tmp_path / "o")
    other.ingest()
    with pytest.raises(ModelError, match="which this one does not have"):
        BehaviourModel.load(tmp_path / "m", store=other.store)
    loaded.coding = replace(loaded.coding, prints="0" * 16)
    loaded.save(tmp_path / "turned")
    with pytest.raises(ModelError, match="in another order"):
        BehaviourModel.load(tmp_path / "turned", store=shop.store)
    with pytest.raises(ModelError, match="train one first"):
        BehaviourModel.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no device 'cuda:63' here"):
        BehaviourModel.load(tmp_path / "m", device="cuda:63")


def test_each_half_of_the_users_is_told_by_the_model_that_has_not_seen_it(
    shop: Workspace, tmp_path: Path
) -> None:
    from propend.learn.behaviour import pretrain, pretraining_settings
    from propend.learn.cross_fitted import CrossFitted
    from propend.learn.fusion import behaviour_columns
    from propend.learn.sequences import half_of, read_sequences

    coding = Coding.of(shop.store)
    codes, cutoffs = everyone(shop, shop.now)
    shown, held = read_sequences(
        shop.store, coding, tmp_path / "s", until=shop.now, hold=0.1, leave=1
    )
    assert shown.users + held.users == (half_of(codes) == 0).sum()
    assert 0 < held.users < 0.2 * shown.users
    settings = pretraining_settings("tiny", epochs=1, threads=1, tokens=512)
    parts = [pretrain(shop.store, shop.schema, settings=settings, leave=h) for h in (0, 1)]
    both = CrossFitted((parts[0], parts[1]))
    columns, names = behaviour_columns(both, shop.store, codes, cutoffs, 7.0)
    for h, model in enumerate(parts):
        rows = half_of(codes) == h
        said, _ = model.readouts(shop.store, codes[rows], cutoffs[rows], 7.0)
        assert np.allclose(columns[rows], said, atol=1e-5, equal_nan=True)
    assert [str(n) for n in names[-2:]] == ["profile.behaviour_silent", "profile.behaviour_value"]


@pytest.mark.slow
def test_fusion_adds_to_aggregates_and_says_how_much(shop: Workspace, model: Any) -> None:
    from propend.expression import parse
    from propend.learn.fusion import fuse

    plan = plan_cutoffs(shop.schema.first, shop.now, BUYS.horizon, folds=1)
    assert model.until <= min(fold.test for fold in plan.folds)
    features = [parse(t) for t in ("count(purchase)", "days_since(*)", "count(view) last 30d")]
    frame = build_frame(shop.store, shop.schema, shop.engine, BUYS, features, plan.cutoffs)
    late = replace(model, until=shop.now)
    with pytest.raises(ModelError, match="every figure would flatter"):
        fuse(shop.store, shop.schema, frame, BUYS, plan, model=late)
    fusion = fuse(shop.store, shop.schema, frame, BUYS, plan, model=model, tune=True)
    rows = {row["features"]: row for row in fusion.table}
    assert list(rows) == [
        "aggregates",
        "behaviour",
        "fusion",
        "frozen vectors",
        "fine-tuned network",
    ]
    assert rows["frozen vectors"]["auroc"] > 0.6
    assert rows["frozen vectors"]["columns"] == 32
    assert rows["fine-tuned network"]["auroc"] > 0.6
    assert rows["fine-tuned network"]["columns"] is None
    assert rows["fusion"]["auroc"] > rows["aggregates"]["auroc"] + 0.02
    assert rows["fusion"]["auroc gained"][1] > 0
    assert rows["aggregates"]["auroc gained"][0] == 0
    codes, scores = fusion.score(shop.store, shop.schema, shop.engine, shop.now)
    assert len(codes) == len(scores) > 100
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_network_is_tuned_on_and_asked_about_users_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from propend.learn import transfer
    from propend.learn.cross_fitted import CrossFitted
    from propend.learn.sequences import half_of
    from propend.tasks.frame import Frame

    plan = plan_cutoffs(0, 200 * DAY, BUYS.horizon, folds=2)
    user, cutoff = (
        part.ravel() for part in np.meshgrid(np.arange(40), np.array(plan.cutoffs, np.int64))
    )
    frame = Frame(np.zeros((len(user), 1)), np.zeros(len(user)), user, cutoff, (), {})
    tuned: list[tuple[str, int]] = []

    def tune(model: Any, _store: Any, frame: Frame, _task: Task, rows: Any, **_: Any) -> Any:
        assert set(half_of(frame.user[rows]).tolist()) == {("left 0", "left 1").index(model)}
        tuned.append((model, int(frame.cutoff[rows].max())))
        return lambda _, users, cutoffs: half_of(users) + cutoffs

    monkeypatch.setattr(transfer, "fine_tune", tune)
    halves: Any = ("left 0", "left 1")
    pair = CrossFitted(halves)
    store: Any = None
    rows = np.flatnonzero(frame.at([fold.test for fold in plan.folds]))
    found = transfer.Tuner(pair, store, frame, BUYS).tests(plan, rows, 7)
    assert np.array_equal(found, half_of(user[rows]) + cutoff[rows])
    assert len(tuned) == 4
    for number, (_, last) in enumerate(tuned):
        assert last == plan.folds[number // 2].train[-1]


def test_frozen_vectors_answer_for_users_their_network_has_not_seen() -> None:
    from propend.learn.cross_fitted import CrossFitted
    from propend.learn.metrics import auroc
    from propend.learn.sequences import half_of
    from propend.learn.transfer import Probe
    from propend.tasks.frame import Frame

    plan = plan_cutoffs(0, 200 * DAY, BUYS.horizon, folds=2)
    user, cutoff = (
        part.ravel() for part in np.meshgrid(np.arange(200), np.array(plan.cutoffs, np.int64))
    )
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, len(user)).astype(float)
    truth = {(u, c): a for u, c, a in zip(user.tolist(), cutoff.tolist(), y, strict=True)}
    y[::7] = np.nan  # not yet answered
    frame = Frame(np.zeros((len(user), 1)), y, user, cutoff, (), {})

    class Half:
        """Knows the answers, each network in a sense of its own, and is never asked about users it has seen."""

        def __init__(self, half: int) -> None:
            self.half = half

        def vectors(self, _store: Any, users: Any, cutoffs: Any) -> np.ndarray[Any, Any]:
            assert set(half_of(users).tolist()) == {self.half}
            said = [truth[u, c] for u, c in zip(users.tolist(), cutoffs.tolist(), strict=True)]
            sense = 1 if self.half else -1
            return np.column_stack([sense * np.array(said), rng.normal(size=len(said))])

    halves: Any = (Half(0), Half(1))
    pair = CrossFitted(halves)
    store: Any = None
    rows = np.flatnonzero(frame.at([fold.test for fold in plan.folds]))
    found = Probe(pair, store, frame, BUYS).tests(plan, rows, 7)
    asked = np.array([truth[u, c] for u, c in zip(user[rows].tolist(), cutoff[rows].tolist(), strict=True)])  # fmt: skip
    assert auroc(asked, found) == 1.0


@pytest.mark.slow
def test_fine_tuning_answers_the_task_itself(shop: Workspace, model: Any) -> None:
    from propend.learn.transfer import fine_tune

    plan = plan_cutoffs(shop.schema.first, shop.now, BUYS.horizon, folds=1)
    from propend.expression import parse

    frame = build_frame(
        shop.store, shop.schema, shop.engine, BUYS, [parse("count(*)")], plan.cutoffs
    )
    fold = plan.folds[0]
    tuned = fine_tune(model, shop.store, frame, BUYS, frame.at(fold.train), epochs=3)
    test = frame.at([fold.test])
    scores = tuned(shop.store, frame.user[test], frame.cutoff[test])
    from propend.learn.metrics import auroc

    assert ((scores >= 0) & (scores <= 1)).all()
    assert auroc(frame.y[test], scores) > 0.6


def test_fine_tuning_takes_fewer_rows_at_a_time_where_memory_runs_out() -> None:
    from propend.learn.transfer import _in_batches

    seen: list[int] = []

    def learn(rows: np.ndarray[Any, Any]) -> None:
        if len(rows) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.extend(rows.tolist())

    assert _in_batches(learn, np.arange(50), 64) == 16
    assert seen == list(range(50))  # each row once


def test_a_short_log_is_answered_by_a_simpler_model_that_is_named(tmp_path: Path) -> None:
    from propend.expression import parse
    from propend.learn.behaviour import pretrain
    from propend.learn.fusion import distil, fuse

    small = shop_of(tmp_path, 90)
    with pytest.raises(NotEnoughDataError, match=r"the log has .* boosted trees on aggregates"):
        pretrain(small.store, small.schema)
    middle = small.schema.first + 60 * DAY  # 2026-03-01
    half = r"half of the users have [\d,]+ events of \d+ users with two or more up to 2026-03-0\d; .* in each half, so bring an older log$"
    with pytest.raises(NotEnoughDataError, match=half):
        pretrain(small.store, small.schema, until=middle, leave=0)
    with pytest.raises(NotEnoughDataError, match=r"the log has .* up to 2026-03-0\d; .*older log$"):
        pretrain(small.store, small.schema, until=middle)
    plan = plan_cutoffs(small.schema.first, small.now, BUYS.horizon, folds=1)
    features = [parse("count(purchase)"), parse("days_since(*)")]
    frame = build_frame(small.store, small.schema, small.engine, BUYS, features, plan.cutoffs)
    fusion = fuse(small.store, small.schema, frame, BUYS, plan)
    assert fusion.sources == {}
    assert "boosted trees on aggregates answer alone" in fusion.remark
    assert len(fusion.score(small.store, small.schema, small.engine, small.now)[0]) > 10
    student, card = distil(fusion, frame)
    assert student.columns == frame.names
    assert card["spearman"] > 0.7


def test_a_refused_run_leaves_no_copy_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from propend.learn import behaviour
    from propend.learn.cross_fitted import cross_fitted_in
    from propend.learn.enough import check_enough

    small = shop_of(tmp_path, 90)
    with pytest.raises(NotEnoughDataError):
        small.pretrain("tiny")
    home = small.folder / "behaviour" / "tiny"
    assert [p.name for p in home.rglob("*")] == [".lock"]
    settings = behaviour.pretraining_settings("tiny", epochs=1, tokens=512, threads=1)
    asked = []

    def second_refused(*given: Any, **more: Any) -> None:
        asked.append(given)
        if len(asked) == 2:
            check_enough(*given, **more)

    monkeypatch.setattr(behaviour, "check_enough", second_refused)
    with pytest.raises(NotEnoughDataError, match="half of the users"):
        cross_fitted_in(small.store, small.schema, home, small.now, settings=settings)
    assert [p.name for p in home.rglob("*")] == [".lock"]


def test_pretraining_says_for_which_questions_the_past_is_long_enough(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from propend.learn import enough
    from propend.learn.enough import check_enough, competing
    from propend.learn.sequences import half_of

    coding = Coding.of(shop.store)
    said = competing(shop.store, shop.schema, coding)
    assert said["days"]
    codes, _ = everyone(shop, shop.now)
    for days in (7, 14, 30):  # 90 cannot be asked of 120 days
        until = plan_cutoffs(
            shop.schema.first, shop.now, Task.parse("q", f"any(purchase) next {days}d for any(*)").horizon
        ).folds[0].train[-1]  # fmt: skip
        try:
            for h in (0, 1):
                half = codes[half_of(codes) == h]
                made = histories(shop.store, coding, half, np.full(len(half), until), 1_000)
                check_enough([made], until, half=True)
            assert days in said["days"]
        except NotEnoughDataError:
            assert days not in said["days"]
    monkeypatch.setattr(enough, "LEAST_USERS", 10**6)
    none = competing(shop.store, shop.schema, coding)
    assert none["days"] == []
    assert none["sentence"].startswith("for 7, 14 and 30 days ahead the log before the first")


@pytest.mark.parametrize(
    ("items", "returns", "answer", "words"),
    [
        ((0.05, 0.15), (0.01, 0.1), "use it", ("beats, beyond noise, the ten most popular items at the next item and days of silence at who returns", "propend predict")),
        ((0.05, 0.15), (-0.1, 0.1), "use it", ("beats, beyond noise, the ten most popular items", "not beyond noise better than days of silence")),
        ((-0.1, 0.1), (-0.1, -0.01), "leave it out", ("not beyond noise better than the ten most popular", "worse than days of silence", "bring more events")),
        ((float("nan"), float("nan")), None, "leave it out", ("not beyond noise better than the ten most popular",)),
        (None, None, "not enough data", ("too few held-out answers",)),
    ],
)  # fmt: skip
def test_the_verdict_on_a_behaviour_model_says_what_to_do(
    items: tuple[float, float] | None,
    returns: tuple[float, float] | None,
    answer: str,
    words: tuple[str, ...],
) -> None:
    from propend.learn.held_out import held_out_verdict

    given = {"next_item": items, "returns_30d": returns}
    found = {n: {"gain": {"low": g[0], "high": g[1]}} for n, g in given.items() if g is not None}
    verdict = held_out_verdict(found)
    assert verdict["answer"] == answer
    few = held_out_verdict({n: {**given, "k": 3} for n, given in found.items()})
    assert few["why"] == verdict["why"].replace("the ten most", "the 3 most")
    assert all(word in verdict["why"] for word in words)


@pytest.mark.usefixtures("quick_pretraining")
def test_the_verb_writes_a_model_goes_on_where_it_stopped_and_forgets(
    shop: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shop.folder / "behaviour" / "tiny"
    seen: list[str] = []

    def stop(phase: str, done: int, total: int | None) -> None:
        seen.append(phase)
        if phase == "epochs 1 to 2 of 2" and 2 * done > (total or 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shop.pretrain("tiny", progress=stop)
    assert (folder / "training" / "run" / "latest.json").exists()
    capsys.readouterr()
    main(["pretrain", str(shop.folder), "--size", "tiny", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [row["epoch"] for row in document["curves"]] == [1, 2]
    assert not (folder / "training").exists()
    users = pq.read_table(folder / "users.parquet")
    items = pq.read_table(folder / "items.parquet")
    assert items["item"].to_pylist() == list(shop.schema.item_ids)
    assert len(users) == shop.store.user_count
    assert len(users["vector"][0]) == 32
    main(["pretrain", str(shop.folder), "--size", "tiny"])
    told = capsys.readouterr().out
    for words in (
        "users it has not learnt from",
        "next item is its first",
        "the most popular item",
    ):
        assert words in told
    held = document["held_out"]
    gain = held["next_item"]["gain"]
    assert held["next_item"]["steps"] >= 30
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert held["next_item"]["k"] == 1  # of three items ten would always hold it
    beside = held["next_item"]["hit@1"] - held["next_item"]["popular"]
    assert gain["value"] == pytest.approx(beside, abs=2e-4)
    assert document["verdict"] == held["verdict"]
    verdict = document["verdict"]
    assert told.strip().splitlines()[-1] == f"{verdict['answer']}: {verdict['why']}"
    assert document["competing"]["sentence"] in told
    shop.forget("u7")
    assert "u7" not in pq.read_table(folder / "users.parquet")["user"].to_pylist()


def test_scores_of_a_fusion_carry_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = shop_of(
        tmp_path, 90
    )  # too short to pretrain on: boosted trees on aggregates answer alone
    capsys.readouterr()
    ask = [str(small.folder), str(BUYS.ask), "--fuse", "tiny", "--folds", "1"]
    main(["predict", *ask, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["remark"]
    verdict = pq.read_table(document["scores"])["verdict"]
    assert set(verdict.to_pylist()) == {document["verdict"]["answer"]}
    assert len(verdict) == document["scored"] > 10
    main(["predict", *ask])
    said = f"verdict: {document['verdict']['answer']}: {document['verdict']['why']}"
    assert said in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("quick_pretraining")
def test_the_verb_predict_fuses_what_plain_predict_reads_and_prints_what_each_part_adds(
    shop: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    from propend.learn.companion import companion

    main(["pretrain", str(shop.folder), "--size", "tiny", "--epochs", "1"])
    ask = [str(shop.folder), str(BUYS.ask), "--fuse", "tiny", "--folds", "1", "--seed", "3"]
    main(["predict", *ask])
    told = capsys.readouterr().out
    for words in ("aggregates", "behaviour", "fusion", "auroc gained", "forward fold"):
        assert words in told
    main(["predict", *ask, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["seed"] == 3
    plan = plan_cutoffs(shop.schema.first, shop.now, BUYS.horizon, folds=1)
    home = shop.folder / "behaviour"
    read = companion(shop.store, shop.schema, BUYS, plan, home).more
    assert read is not None
    assert [m.network.settings.epochs for m in read.pair.models] == [1, 1]
    assert [p.name for p in (home / "tiny" / "past").iterdir()] == [str(plan.held_out)]
    assert [row["features"] for row in document["ablation"]][-2:] == ["fusion", "frozen vectors"]
    scores = pq.read_table(document["scores"])
    assert scores.num_rows == document["scored"] > 100
    verdict = document["verdict"]
    assert set(scores["verdict"].to_pylist()) == {verdict["answer"]}
    assert f"verdict: {verdict['answer']}: {verdict['why']}" in told
