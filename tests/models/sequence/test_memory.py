"""Memory that runs out halves what is done at a time, is told, and changes no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.models.sequence.worlds import cycles, random_sequences

from propend.errors import ModelError
from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import Vocabulary

torch = pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
pytestmark = pytest.mark.deep

SMALL = Settings(size="tiny", length=16, dropout=0.0, epochs=1, tokens=256, warmup=5, threads=1)
WALKS = Vocabulary(items=12, clock=False)


def at_most(monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    """Let memory suffice for so many events at a time."""
    from propend.models.sequence.network import Network

    plain = Network.hidden

    def greedy(self: Any, data: Any, batch: Any, *more: Any) -> Any:
        if len(batch) > events:
            raise RuntimeError("CUDA error: out of memory")
        return plain(self, data, batch, *more)

    monkeypatch.setattr(Network, "hidden", greedy)


def test_other_errors_are_none_of_memory() -> None:
    from propend.models.sequence.memory import halving

    def wrong(rows: int) -> None:
        raise RuntimeError(f"shapes of {rows} rows do not fit")

    notes: list[str] = []
    with pytest.raises(RuntimeError, match="of 8 rows do not fit"):
        halving(wrong, 8, notes=notes)
    assert notes == []


def test_histories_are_read_in_smaller_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from propend.models.sequence.network import Network

    torch.manual_seed(0)
    net, data = Network(replace(SMALL, trunk="gru"), WALKS).eval(), cycles(100)
    moments = np.zeros(data.users, np.int64)
    with torch.no_grad():
        whole = net.last(data, moments)
        at_most(monkeypatch, 900)
        assert torch.allclose(net.last(data, moments), whole, atol=1e-6)
        assert (net.rows, net.notes[-1]) == (
            64,
            "memory ran out: the batch was halved to 64 histories",
        )
        told = len(net.notes)
        net.last(data, moments)
        assert len(net.notes) == told  # it is remembered
        at_most(monkeypatch, 3)
        with pytest.raises(ModelError, match="not enough memory for a batch of 1 histories"):
            net.last(data, moments)
    with pytest.raises(RuntimeError, match="out of memory"):
        net.last(data, moments)  # who keeps gradients halves by himself


def test_judges_and_figures_ask_less_at_a_time_and_the_notes_of_the_run_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from propend.models.sequence.held_out import held_out_loss, next_items, returns
    from propend.models.sequence.training import train

    vocabulary = Vocabulary(items=9, types=3, channels=2, amounts=True)
    settings = replace(SMALL, time_bias="query", tasks=HEADS, tokens=64, epochs=2)
    held = random_sequences(200, seed=1)
    judge = held_out_loss(held, replace(settings, tokens=512))
    at_most(monkeypatch, 130)
    run = train(random_sequences(40), vocabulary, settings, judge=judge)
    halved = [f"memory ran out: the held-out batch was halved to {n} events" for n in (256, 128)]
    assert run.notes[:2] == halved
    assert len(run.curves) == 2
    net = run.network
    net.settings = replace(settings, tokens=256).resolved()
    said = next_items(net, held, np.arange(3), k=3)
    back = returns(net, held, days=3.0)
    assert min(len(said.user), len(back.user)) > 100
    assert run.notes[-2:] == [halved[1]] * 2
