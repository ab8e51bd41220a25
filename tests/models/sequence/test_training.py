"""Training learns, repeats bit for bit, resumes as if it had not stopped, and guards itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.models.sequence.worlds import cycles, random_sequences

from propend.errors import ModelError, NotEnoughDataError
from propend.models.sequence.packing import batches
from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import SequenceArrays, Vocabulary
from propend.names import DAY

torch = pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
pytestmark = pytest.mark.deep

SMALL = Settings(size="tiny", length=16, dropout=0.0, epochs=4, tokens=256, warmup=5, threads=1)
WALKS = Vocabulary(items=12, clock=False)


def weights(run: Any) -> dict[str, Any]:
    return {n: t.clone() for n, t in run.network.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a) and a.keys() == b.keys()


@pytest.mark.parametrize("trunk", ["gru", "cnn", "transformer", "hstu"])
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_it_learns_an_order_that_popularity_cannot_see(trunk: str, loss: Any) -> None:
    from propend.models.sequence.held_out import held_out_loss
    from propend.models.sequence.training import train

    settings = replace(SMALL, trunk=trunk, loss=loss, negatives=8, learning_rate=1e-2, epochs=8)
    run = train(cycles(), WALKS, settings)
    unseen = -held_out_loss(cycles(60, seed=9), settings)(run.network)
    assert unseen < 0.95  # the walk's own entropy is .50, popularity's cross-entropy log 12 = 2.48


def test_all_heads_at_once_and_contrast() -> None:
    from propend.models.sequence.training import train

    data = random_sequences(60)
    vocabulary = Vocabulary(items=9, types=3, channels=2, amounts=True)
    run = train(
        data, vocabulary, replace(SMALL, tasks=HEADS, contrast=0.1, epochs=6, learning_rate=5e-3)
    )
    first, last = run.curves[0], run.curves[-1]
    for task in (*HEADS, "contrast"):
        assert np.isfinite(last[task])
    assert sum(last[t] for t in HEADS) < sum(first[t] for t in HEADS)


def test_who_came_once_and_never_again_teaches_that_people_do_not_return() -> None:
    from propend.models.sequence.training import train

    rng = np.random.default_rng(0)
    lengths = np.where(
        rng.random(600) < 0.7, 1, 6
    )  # seven in ten come once, the others every two days
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    time = (np.repeat(rng.uniform(0, 30, 600), lengths) + 2 * place) * DAY
    data = SequenceArrays.of(offsets, 0 * place, time=time.astype(np.int64), end=150 * DAY)
    settings = replace(SMALL, tasks=("horizon",), learning_rate=5e-3, epochs=25, tokens=512)
    net = train(data, Vocabulary(items=1), settings).network
    one = SequenceArrays.of([0, 1], [0], time=[100 * DAY])
    with torch.no_grad():
        hidden = net.last(one, np.array([100 * 86_400]))
        ahead, _ = net.heads.within(hidden, torch.tensor([0.5]), torch.tensor([7.0]))
    assert torch.sigmoid(ahead[0, -1]).item() == pytest.approx(0.3, abs=0.12)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    from propend.models.sequence.training import train

    settings = replace(SMALL, dropout=0.3, epochs=2)
    first = weights(train(cycles(60), WALKS, settings))
    assert same(first, weights(train(cycles(60), WALKS, settings)))
    assert not same(first, weights(train(cycles(60), WALKS, replace(settings, seed=1))))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_that_was_broken_off_ends_like_one_that_was_not(
    tmp_path: Path, average: float
) -> None:
    from propend.models.sequence.held_out import held_out_loss
    from propend.models.sequence.training import train

    settings = replace(SMALL, dropout=0.2, epochs=3, average=average)
    data, judge = cycles(80), held_out_loss(cycles(20, seed=3), settings)
    whole = train(data, WALKS, settings, judge=judge)
    calls = 0

    def kill(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            data, WALKS, settings, judge=judge, folder=tmp_path, checkpoint_every=2, progress=kill
        )
    resumed = train(data, WALKS, settings, judge=judge, folder=tmp_path, checkpoint_every=2)
    assert same(weights(whole), weights(resumed))
    assert [row["valid"] for row in resumed.curves] == [row["valid"] for row in whole.curves]
    again = train(data, WALKS, settings, judge=judge, folder=tmp_path)
    assert same(weights(again), weights(whole))  # a finished run is read, not run
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    with pytest.raises(ModelError, match=r"other settings \(dropout\)"):
        train(data, WALKS, replace(settings, dropout=0.1), judge=judge, folder=tmp_path)
    with pytest.raises(ModelError, match="other data"):
        train(cycles(81), WALKS, settings, judge=judge, folder=tmp_path)
    (tmp_path / "latest.json").write_text('{"version": ')
    with pytest.raises(ModelError, match=r"damaged; begin it anew \(--fresh\)"):
        train(data, WALKS, settings, judge=judge, folder=tmp_path)


def test_no_memory_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from propend.models.sequence import training
    from propend.models.sequence.network import Network

    plain = Network.loss

    def greedy(self: Any, data: Any, batch: Any, rng: Any, sampler: Any) -> Any:
        if len(batch) > 140:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, data, batch, rng, sampler)

    monkeypatch.setattr(Network, "loss", greedy)
    run = training.train(cycles(60), WALKS, replace(SMALL, epochs=2))
    assert run.notes == ["memory ran out: the batch was halved to 128 events"]
    monkeypatch.setattr(Network, "loss", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelError, match="choose a smaller size"):
        training.train(cycles(60), WALKS, SMALL)


def test_a_loss_that_runs_away_is_left_out_and_slows_learning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from propend.models.sequence import training
    from propend.models.sequence.network import Network

    plain, count = Network.loss, 0

    def wild(self: Any, data: Any, batch: Any, rng: Any, sampler: Any) -> Any:
        nonlocal count
        count += 1
        found = plain(self, data, batch, rng, sampler)
        return {"item": found["item"] * float("nan")} if 8 <= count < 13 else found

    monkeypatch.setattr(Network, "loss", wild)
    run = training.train(cycles(100), WALKS, SMALL)
    assert any("halved to 0.00070" in note for note in run.notes)
    assert all(torch.isfinite(t).all() for t in run.network.state_dict().values())


@pytest.mark.parametrize("shift", [2.4, 40.0])
def test_a_loss_near_or_below_nought_is_no_spike_and_a_climb_from_there_is(
    monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    from propend.models.sequence import training
    from propend.models.sequence.network import Network

    plain, settings = Network.loss, replace(SMALL, epochs=16)
    base = training.train(cycles(100), WALKS, settings)

    def lower(self: Any, *given: Any) -> Any:
        return {"item": plain(self, *given)["item"] - shift}

    monkeypatch.setattr(Network, "loss", lower)
    run = training.train(cycles(100), WALKS, settings)
    assert run.notes == []
    assert same(weights(run), weights(base))  # a constant has no gradient

    count = 0

    def climb(self: Any, *given: Any) -> Any:
        nonlocal count
        count += 1
        return {"item": plain(self, *given)["item"] - shift + 1.1 ** max(count - 55, 0) - 1}

    monkeypatch.setattr(Network, "loss", climb)
    (note,) = training.train(cycles(100), WALKS, replace(SMALL, epochs=48)).notes[:1]
    assert "the loss ran away" in note


def test_after_a_runaway_the_best_weights_go_on_with_a_fresh_optimiser_and_average() -> None:
    from propend.models.sequence import training

    settings = replace(SMALL, average=0.9, epochs=2).resolved()
    trainer = training._Trainer(cycles(40), WALKS, settings, None, lambda _: 1.0, *[None] * 4)
    trainer.run()
    trainer.network.load_state_dict({n: t + 1 for n, t in trainer.kept.items()})
    assert trainer.average
    assert trainer.optimiser.state
    for _ in range(5):
        trainer._spiked()
    assert same(weights(trainer.result), trainer.kept)
    assert (trainer.average, len(trainer.optimiser.state)) == ({}, 0)


def test_early_stopping_returns_the_best() -> None:
    from propend.models.sequence.training import train

    values = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    seen: list[dict[str, Any]] = []

    def judge(network: Any) -> float:
        seen.append({n: t.clone() for n, t in network.state_dict().items()})
        return next(values)

    run = train(cycles(40), WALKS, replace(SMALL, epochs=9, patience=2), judge=judge)
    assert (len(seen), run.best, run.best_epoch) == (4, 3.0, 2)
    assert same(weights(run), seen[1])
    rising = iter([1.0, 2.0])
    run = train(cycles(40), WALKS, replace(SMALL, epochs=2), judge=lambda _: next(rising))
    more = "it still got better in its last epoch (2); more epochs would teach it more"
    assert run.notes == [more]  # recommenders say it too, which have no flag


def test_fine_tuning_starts_from_what_was_learnt() -> None:
    from propend.models.sequence.held_out import held_out_loss
    from propend.models.sequence.training import train

    first = train(cycles(), WALKS, replace(SMALL, learning_rate=1e-2, epochs=6))
    judge = held_out_loss(cycles(40, seed=5), SMALL)
    tuned = train(cycles(30, seed=4), WALKS, replace(SMALL, epochs=1), start=first.network)
    fresh = train(cycles(30, seed=4), WALKS, replace(SMALL, epochs=1))
    assert judge(tuned.network) > judge(fresh.network) + 0.5


def test_too_little_is_said() -> None:
    from propend.models.sequence.training import train

    for device in ("cuda:63", "gpu", "meta"):
        with pytest.raises(ModelError, match=f"no device '{device}' here that can compute; choose"):
            train(cycles(9), WALKS, replace(SMALL, device=device))
    with pytest.raises(NotEnoughDataError, match="two events at least"):
        train(SequenceArrays.of([0, 1, 2], [0, 1]), WALKS, SMALL)
    two = SequenceArrays.of(np.arange(0, 42, 2), np.tile([0, 1], 20), amount=np.full(40, np.nan))
    run = train(two, Vocabulary(items=2, clock=False), replace(SMALL, epochs=30))
    assert run.curves[-1]["item"] < 0.3


def test_saved_networks_answer_alike_and_another_schema_is_refused(tmp_path: Path) -> None:
    from propend.models.sequence import checkpoint
    from propend.models.sequence.training import train

    run = train(cycles(40), WALKS, replace(SMALL, epochs=1))
    checkpoint.save(run.network, tmp_path / "m", codes={"a": 1})
    loaded, config = checkpoint.load(tmp_path / "m", vocabulary=WALKS)
    assert config["codes"] == {"a": 1}
    batch = next(iter(batches(cycles(9), 16, 200)))
    with torch.no_grad():
        assert torch.equal(loaded.hidden(cycles(9), batch), run.network.hidden(cycles(9), batch))
    with pytest.raises(ModelError, match=r"another schema \(items 12 there and 13 here\)"):
        checkpoint.load(tmp_path / "m", vocabulary=Vocabulary(items=13, clock=False))
    with pytest.raises(ModelError, match="train one first"):
        checkpoint.load(tmp_path / "none")
    text = (tmp_path / "m" / "config.json").read_bytes()
    config = msgspec.json.decode(text)
    (tmp_path / "m" / "config.json").write_bytes(msgspec.json.encode({**config, "version": 99}))
    with pytest.raises(ModelError, match="version 99"):
        checkpoint.load(tmp_path / "m")
    config["settings"]["width"] = 64
    (tmp_path / "m" / "config.json").write_bytes(msgspec.json.encode(config))
    with pytest.raises(ModelError, match="do not fit"):
        checkpoint.load(tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.load(tmp_path / "m")
    assert b"pickle" not in text


def test_weights_of_a_save_that_was_broken_off_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from propend.models.sequence import checkpoint
    from propend.models.sequence.network import Network

    first, second = (Network(replace(SMALL, seed=s), WALKS) for s in (0, 1))
    before = os.umask(0o027)
    try:
        checkpoint.save(first, tmp_path)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}
    config = msgspec.json.decode((tmp_path / "config.json").read_bytes())

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", kill)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(second, tmp_path)
    with pytest.raises(ModelError, match="not those of their configuration: a save was broken off"):
        checkpoint.load(tmp_path)
    del config["weights_sha256"]  # as it was saved before weights had a print
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    loaded, _ = checkpoint.load(tmp_path)
    assert all(torch.equal(t, second.state_dict()[n]) for n, t in loaded.state_dict().items())
