"""How good a network is on users that training does not see: its loss, and what it says beside what trivial rules say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from propend.models.sequence.memory import halving
from propend.models.sequence.network import Network, Sampler
from propend.models.sequence.packing import batches
from propend.models.sequence.settings import Settings
from propend.models.sequence.targets import asked_of, future_of, next_of
from propend.models.sequence.tokens import SequenceArrays
from propend.names import MICROSECONDS

__all__ = ["NextItems", "Returns", "held_out_loss", "next_items", "returns"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

Found = TypeVar("Found")

_MOST_RANKED: Final = 100_000
"""Largest catalogue over which held-out users are judged by full cross-entropy."""
_MOST_STEPS: Final = 20_000


def held_out_loss(data: SequenceArrays, settings: Settings) -> Callable[[Network], float]:
    """Return a judge: minus the weighted loss on sequences that training does not see, moments and samples fixed."""
    chosen = settings.resolved()
    tokens = chosen.tokens or 1024

    @torch.no_grad()
    def judge(network: Network) -> float:
        items = network.vocabulary.items
        sampler = Sampler(np.ones(items, np.int64), chosen) if items > _MOST_RANKED else None
        least = chosen.least(network.vocabulary.clock)

        def once(size: int) -> float:
            nonlocal tokens
            total, weight = 0.0, 0
            for number, batch in enumerate(batches(data, chosen.length, size, least=least)):
                rng = np.random.default_rng((chosen.seed, number))
                parts = network.loss(data, batch, rng, sampler)
                total -= len(batch) * sum(chosen.weight_of(n) * float(v) for n, v in parts.items())
                weight += len(batch)
            # later epochs are judged at the same moments, or they could not be compared
            tokens = size
            return total / max(weight, 1)

        return _in_room(once, network, tokens)

    return judge


def _in_room(ask: Callable[[int], Found], network: Network, tokens: int | None) -> Found:
    """Return ``ask(tokens)``, with fewer events at a time where memory runs out."""
    least, notes = network.settings.length, network.notes
    return halving(ask, tokens or 1024, least=least, what="held-out batch", notes=notes)


@dataclass(frozen=True)
class NextItems:
    """Next items [n] of histories: whose each is, whether it was a ``hit`` of the network, and ``common``."""

    user: I64
    hit: Bool
    common: Bool


@torch.no_grad()
def next_items(
    network: Network, data: SequenceArrays, popular: npt.NDArray[np.integer], k: int = 10
) -> NextItems:
    """Ask a network for every next item: whether it was among its first ``k``, and whether it is in ``popular``."""

    def once(tokens: int) -> NextItems:
        return _next_items(network, data, popular, k, tokens)

    return _in_room(once, network, network.settings.tokens)


def _next_items(
    network: Network, data: SequenceArrays, popular: npt.NDArray[np.integer], k: int, tokens: int
) -> NextItems:
    users, hits, common, asked = [], [], [], 0
    rng = np.random.default_rng(0)
    items = network.item_vectors()
    rows_at_once = max(1, (1 << 22) // len(items))
    for batch in batches(data, network.settings.length, tokens):
        after = next_of(data, batch)
        rows = np.flatnonzero(after.item >= 0)
        query = None
        if network.trunk.asks:  # at a moment that does not say when the next event comes
            query = asked_of(data, batch, (0.0,), rng).moment // MICROSECONDS
        hidden = network.scored(network.hidden(data, batch, query))
        for start in range(0, len(rows), rows_at_once):
            part = rows[start : start + rows_at_once]
            wanted = torch.from_numpy(after.item[part]).to(hidden.device)[:, None]
            scores = hidden[torch.from_numpy(part).to(hidden.device)] @ items.T
            better = (scores >= scores.gather(1, wanted)).sum(dim=1)
            hits.append((better <= k).cpu().numpy())
        users.append(batch.user[rows])
        common.append(np.isin(after.item[rows], popular))
        asked += len(rows)
        if asked > _MOST_STEPS:
            break
    no, none = np.zeros(0, np.bool_), np.zeros(0, np.int64)
    return NextItems(
        *(np.concatenate([*p, e]) for p, e in ((users, none), (hits, no), (common, no)))
    )


@dataclass(frozen=True)
class Returns:
    """Random moments [n] between events: whose, whether anything ``came`` within so many days, its ``chance``, and the ``wait`` so far in days."""

    user: I64
    came: F32
    chance: F32
    wait: F32


@torch.no_grad()
def returns(network: Network, data: SequenceArrays, days: float = 30.0, seed: int = 0) -> Returns:
    """Ask a network with a horizon head whether users come back within ``days``, at moments drawn as in training."""

    def once(tokens: int) -> Returns:
        return _returns(network, data, days, seed, tokens)

    return _in_room(once, network, network.settings.tokens)


def _returns(
    network: Network, data: SequenceArrays, days: float, seed: int, tokens: int
) -> Returns:
    users, came, chance, waits, count = [], [], [], [], 0
    settings = network.settings
    rng = np.random.default_rng(seed)
    least = settings.least(network.vocabulary.clock)
    for batch in batches(data, settings.length, tokens, least=least):
        asked = asked_of(data, batch, (days,), rng)
        rows = np.flatnonzero(rng.random(len(batch)) < asked.weight)
        if not len(rows):
            continue
        query = asked.moment // MICROSECONDS if network.trunk.asks else None
        hidden = network.hidden(data, batch, query)[torch.from_numpy(rows).to(network.device)]
        wait = torch.from_numpy(asked.wait[rows]).to(network.device)
        logits, _ = network.heads.within(hidden, wait, torch.full_like(wait, days))
        users.append(batch.user[rows])
        came.append(future_of(data, batch, network.vocabulary.types, asked).any[rows, -1])
        chance.append(torch.sigmoid(logits[:, -1]).float().cpu().numpy())
        waits.append(asked.wait[rows])
        count += len(rows)
        if count > _MOST_STEPS:
            break
    none = np.zeros(0, np.float32)
    told = (np.concatenate([*parts, none]) for parts in (came, chance, waits))
    return Returns(np.concatenate([*users, np.zeros(0, np.int64)]), *told)
