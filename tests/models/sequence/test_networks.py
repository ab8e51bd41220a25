"""Trunks are causal, alone as among many, and step by step as at once; losses agree with slow ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.models.sequence.worlds import random_sequences

from propend.errors import ModelError
from propend.models.sequence.packing import batches, piece_batch
from propend.models.sequence.settings import HEADS, Settings
from propend.models.sequence.tokens import ItemFeatures, SequenceArrays, Vocabulary
from propend.names import DAY, MICROSECONDS

torch = pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
pytestmark = pytest.mark.deep

VOCABULARY = Vocabulary(items=9, types=3, channels=2, amounts=True, days=True)
TRUNKS = [
    ("gru", "none"),
    ("lstm", "none"),
    ("cnn", "none"),
    ("caser", "none"),
    ("transformer", "none"),
    ("transformer", "event"),
    ("transformer", "query"),
    ("hstu", "none"),
    ("hstu", "query"),
]


def network(trunk: str, bias: Any = "none", **more: Any) -> Any:
    from propend.models.sequence.network import Network

    torch.manual_seed(1)
    chosen = Settings(trunk=trunk, size="tiny", depth=2, length=12, time_bias=bias, **more)
    made = Network(chosen, more.pop("vocabulary", VOCABULARY)).eval()
    for name, weight in made.named_parameters():
        if ".bias." in name:  # time biases begin at nought; give them something to say
            torch.nn.init.normal_(weight)
    return made


def vectors(net: Any, data: SequenceArrays, tokens: int) -> np.ndarray[Any, Any]:
    out = np.zeros((len(data), net.settings.width), np.float32)
    for batch in batches(data, 12, tokens, least=1):
        query = data.time[np.minimum(batch.index + 1, len(data) - 1)] // MICROSECONDS
        query = np.maximum(query, data.time[batch.index] // MICROSECONDS)
        with torch.no_grad():
            out[batch.index] = net.hidden(data, batch, query).numpy()
    return out


@pytest.mark.parametrize(("trunk", "bias"), TRUNKS)
def test_packed_users_do_not_meet_and_the_future_stays_unknown(trunk: str, bias: str) -> None:
    net, data = network(trunk, bias), random_sequences(30)
    together = vectors(net, data, 10_000)
    alone = vectors(net, data, 1)
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5)
    user = int(np.diff(data.offsets).argmax())
    low, high = data.offsets[user], data.offsets[user + 1]
    changed = data.item.copy()
    changed[high - 1] = (changed[high - 1] + 1) % 9
    other = SequenceArrays.of(
        data.offsets,
        changed,
        type=data.type,
        channel=data.channel,
        time=data.time,
        amount=data.amount,
    )
    moved = vectors(net, other, 10_000)
    assert np.allclose(moved[low : high - 1], together[low : high - 1], atol=1e-6)
    assert not np.allclose(moved[high - 1], together[high - 1], atol=1e-3)


@pytest.mark.parametrize(("trunk", "bias"), TRUNKS)
def test_one_event_at_a_time_gives_the_vectors_of_whole_histories(trunk: str, bias: str) -> None:
    from propend.models.sequence.cache import Cache

    net, data = network(trunk, bias), random_sequences(12)
    wanted = vectors(net, data, 10_000)
    cache = Cache(net)
    for user in range(data.users):
        low, high = int(data.offsets[user]), int(data.offsets[user + 1])
        for at in range(low, high):
            column = {n: c[at - low].item() for n, c in data.user(user).items()}
            cache.append(user, **column)
            ask = int(data.time[min(at + 1, len(data) - 1)])
            assert np.allclose(cache.vector(user, ask), wanted[at], atol=2e-5)
    warmed = Cache(net, most=3)
    for user in range(data.users):
        if data.offsets[user] < data.offsets[user + 1]:
            warmed.warm(user, data, user)
            assert np.allclose(warmed.vector(user), cache.vector(user), atol=1e-6)
    assert len(warmed) <= 3


@pytest.mark.parametrize(("trunk", "bias"), TRUNKS)
def test_one_event_at_a_time_gives_the_readouts_of_whole_histories(trunk: str, bias: str) -> None:
    from propend.models.sequence.cache import Cache

    net, data = network(trunk, bias, tasks=HEADS), random_sequences(12)
    now = data.end + 3 * DAY
    users = np.flatnonzero((np.diff(data.offsets) > 0) & (np.diff(data.offsets) <= 12))
    assert len(users) > 2
    known = data.take(users)
    with torch.no_grad():
        hidden = net.last(known, np.full(len(users), now // MICROSECONDS))
        wait = torch.as_tensor((now - known.time[known.offsets[1:] - 1]) / DAY, dtype=torch.float32)
        wanted = net.heads.readouts(hidden, wait, torch.full_like(wait, 30.0), amounts=True)
    cache = Cache(net)
    for user in range(known.users):
        columns = known.user(user)
        for at in range(len(columns["item"])):
            cache.append(user, **{name: column[at].item() for name, column in columns.items()})
        assert np.allclose(cache.readouts(user, now, 30.0), wanted[user].numpy(), atol=1e-5)


def test_a_cache_refuses_what_the_model_does_not_know() -> None:
    from propend.models.sequence.cache import Cache

    cache = Cache(network("gru"))
    with pytest.raises(ModelError, match="item 99 is not known"):
        cache.append(1, item=99, time=0)
    cache.append(1, item=2, time=10)
    with pytest.raises(ModelError, match="before the last one"):
        cache.append(1, item=2, time=9)
    with pytest.raises(ModelError, match="warm it"):
        cache.vector(2)
    with pytest.raises(ModelError, match="no head gap and horizon"):
        cache.readouts(1, 11, 30.0)


def test_a_long_history_keeps_only_a_window() -> None:
    from propend.models.sequence.cache import Cache

    net = network("transformer")
    cache = Cache(net)
    for at in range(40):
        cache.append(1, item=at % 9, time=at * MICROSECONDS)
    assert cache.users[1].state["k"].shape[1] == 12


@pytest.mark.parametrize("cells", [1, 40, 10_000])
def test_chunked_cross_entropy_has_the_value_and_gradients_of_the_plain_one(cells: int) -> None:
    from propend.models.sequence.losses import chunked_cross_entropy, cross_entropy

    torch.manual_seed(0)
    hidden, items = torch.randn(23, 8), torch.randn(17, 8)
    target = torch.randint(0, 17, (23,))
    found = []
    for loss in (cross_entropy, lambda h, e, t: chunked_cross_entropy(h, e, t, cells=cells)):
        h, e = hidden.clone().requires_grad_(), items.clone().requires_grad_()
        value = loss(h, e, target)
        (3 * value).backward()
        found.append((value.detach(), h.grad, e.grad))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_sampled_softmax_over_everything_is_cross_entropy() -> None:
    from propend.models.sequence.losses import cross_entropy, sampled_softmax

    torch.manual_seed(0)
    hidden, items = torch.randn(11, 8), torch.randn(17, 8)
    target = torch.randint(0, 17, (11,))
    codes = torch.arange(17)
    found = sampled_softmax(hidden, items[target], target, items, codes, torch.zeros(17))
    assert torch.isclose(found, cross_entropy(hidden, items, target), atol=1e-5)
    # the correction undoes unequal chances: doubled samples of known expectation change nothing
    twice = torch.cat([codes, codes])
    doubled = sampled_softmax(
        hidden, items[target], target, items[twice], twice, torch.full((34,), math.log(2))
    )
    assert torch.isclose(doubled, found, atol=1e-5)


def test_gbce_agrees_with_its_definition() -> None:
    from propend.models.sequence.losses import generalised_bce

    torch.manual_seed(0)
    hidden, items = torch.randn(5, 4), torch.randn(9, 4)
    target, codes = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([5, 6, 7, 1])
    found = generalised_bce(hidden, items[target], target, items[codes], codes, items=9, trust=0.75)
    rate, total = 4 / 8, 0.0
    beta = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
    for t in range(5):
        total -= math.log(torch.sigmoid(hidden[t] @ items[target[t]]).item() ** beta)
        for code in codes.tolist():
            if code != target[t]:
                total -= math.log(1 - torch.sigmoid(hidden[t] @ items[code]).item())
    assert found.item() == pytest.approx(total / 5, rel=1e-4)


def test_contrast_pulls_parts_of_one_history_together() -> None:
    from propend.models.sequence.losses import contrastive

    owner = torch.tensor([0, 0, 1, 1])
    near = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert contrastive(near, owner).item() == pytest.approx(0, abs=1e-6)
    mixed = near[[0, 2, 1, 3]]
    assert contrastive(mixed, owner).item() == pytest.approx(
        4 + 0.25 / 2, abs=1e-3
    )  # one of two others is no distance away


def test_heads_are_proper_distributions() -> None:
    from propend.models.sequence.heads import (
        log_normal_mixture,
        survival,
        zero_inflated_log_normal,
        ziln_mean,
    )

    torch.manual_seed(0)
    parameters = torch.randn(1, 9)
    grid = torch.exp(torch.linspace(-9, 14, 20_001))
    one = torch.ones(1, dtype=torch.bool)
    density = torch.stack(
        [torch.exp(-log_normal_mixture(parameters, g[None], one)) for g in grid[::20]]
    )
    assert torch.trapezoid(density, grid[::20]).item() == pytest.approx(1, abs=0.01)
    left = survival(parameters.expand(3, 9), torch.tensor([0.0, 1.0, 1e9]))
    assert left[0] > left[1] > left[2]
    silent = torch.exp(-log_normal_mixture(parameters, torch.ones(1), ~one))
    assert silent.item() == pytest.approx(left[1].item(), abs=1e-5)
    value = torch.tensor([[0.0, 1.0, 0.0]])
    spread = math.log(2) + 0.05
    assert ziln_mean(value).item() == pytest.approx(0.5 * math.exp(1 + spread**2 / 2), rel=1e-5)
    assert zero_inflated_log_normal(value, torch.zeros(1)).item() == pytest.approx(
        math.log(2), rel=1e-5
    )


def test_items_have_hashed_ids_attributes_and_vectors() -> None:
    from propend.models.sequence.network import Network

    rng = np.random.default_rng(0)
    features = ItemFeatures.of(
        {"colour": (rng.integers(-1, 3, 50), 3)},
        {"price": rng.random(50)},
        rng.random((50, 6), np.float32),
    )
    vocabulary = Vocabulary(items=50, rows=16, features=features.described, dense=6, clock=False)
    net = Network(Settings(size="tiny"), vocabulary, features)
    assert net.embedding.table.weight.shape == (16, 32)
    every = net.item_vectors()
    assert torch.allclose(every[[7, 3]], net.item_vectors(torch.tensor([7, 3])), atol=1e-6)
    assert len(torch.unique(every, dim=0)) == 50


def test_one_event_and_no_item_are_served() -> None:
    net = network("transformer")
    data = SequenceArrays.of([0, 1], [-1], time=[5])
    batch = piece_batch(np.array([0]), np.array([0]), np.array([1]), 12)
    with torch.no_grad():
        assert torch.isfinite(net.hidden(data, batch)).all()


def test_settings_speak_in_sentences() -> None:
    from propend.models.sequence.network import Network

    with pytest.raises(ModelError, match="did you mean 'transformer'"):
        Network(Settings(trunk="transfomer"), VOCABULARY)
    with pytest.raises(ModelError, match="no task 'itme'"):
        Settings(tasks=("itme",)).resolved()
    with pytest.raises(ModelError, match="choose a multiple of 4"):
        Settings(width=30, attention_heads=2).resolved()
