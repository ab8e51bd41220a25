"""A sequence model: event tokens embedded, a causal trunk, heads; and the loss of a batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from propend.errors import ModelError
from propend.models.sequence import losses
from propend.models.sequence.heads import Heads, log_normal_mixture, zero_inflated_log_normal
from propend.models.sequence.memory import halving
from propend.models.sequence.packing import Batch, piece_batch
from propend.models.sequence.settings import Settings
from propend.models.sequence.targets import (
    AMOUNT_BINS,
    DAYS_BINS,
    GAP_BINS,
    Asked,
    Events,
    Next,
    asked_of,
    events_of,
    future_of,
    next_of,
)
from propend.models.sequence.tokens import (
    NONE,
    ItemFeatures,
    SequenceArrays,
    Vocabulary,
    hashed_rows,
)
from propend.models.sequence.trunks import Packed, Trunk, trunk_of
from propend.names import MICROSECONDS

__all__ = ["HORIZONS", "Embedding", "Network", "Sampler", "Tokens", "device_of"]

Tensor: TypeAlias = torch.Tensor

HORIZONS: Final = (7.0, 14.0, 30.0, 60.0, 90.0)
"""Days ahead that the horizon head is trained on; it is asked about any in between."""

_ROWS: Final = 512
"""Histories that are read at a time, as long as memory suffices."""


@dataclass(frozen=True)
class Tokens:
    """``Events`` on the device, int64 [t]."""

    item: Tensor
    type: Tensor
    channel: Tensor
    amount: Tensor
    gap: Tensor
    hour: Tensor
    weekday: Tensor
    days: Tensor
    time: Tensor

    @classmethod
    def of(cls, events: Events, device: Any) -> Tokens:
        """Bring tokens to a device."""
        return cls(*(_send(getattr(events, f.name), device) for f in fields(Events)))


class Sampler:
    """Draws negatives once a batch, and knows how often each is expected."""

    def __init__(self, counts: npt.NDArray[np.integer], settings: Settings) -> None:
        chance = np.maximum(counts, 1).astype(np.float64) ** settings.negative_power
        self.chance = chance / chance.sum()
        self.heap = np.cumsum(self.chance)
        self.size = min(settings.negatives, len(counts))

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return codes [k] and the logarithm of each one's expected number among them."""
        codes = np.searchsorted(self.heap, rng.random(self.size) * self.heap[-1])
        codes = np.minimum(codes, len(self.chance) - 1)
        return torch.from_numpy(codes), torch.from_numpy(
            np.log(self.size * self.chance[codes]).astype(np.float32)
        )


class Embedding(nn.Module):
    """Event tokens and item vectors [items, d]: an id (hashed where the catalogue is large), attributes, vectors."""

    hashes: Tensor

    def __init__(self, vocabulary: Vocabulary, width: int, features: ItemFeatures | None) -> None:
        super().__init__()
        self.vocabulary, self.width = vocabulary, width
        rows = min(vocabulary.items, vocabulary.rows)
        self.table = nn.Embedding(rows, width)
        nn.init.normal_(self.table.weight, std=0.02)
        if vocabulary.hashed:
            self.register_buffer("hashes", torch.from_numpy(hashed_rows(vocabulary.items, rows)))
        given = features or ItemFeatures()
        for name, count in vocabulary.features:
            self.register_buffer(
                f"codes_{name}", torch.from_numpy(given.codes[name].astype(np.int64) + 1)
            )
            self.add_module(f"of_{name}", _embedding(count + 1, width))
        if vocabulary.dense:
            assert given.vectors is not None
            self.register_buffer("dense", torch.from_numpy(np.asarray(given.vectors, np.float32)))
            self.project = nn.Linear(vocabulary.dense, width, bias=False)
            nn.init.normal_(
                self.project.weight, std=0.02
            )  # a unit vector then weighs as an id does
        if vocabulary.types > 1:
            self.event_type = _embedding(vocabulary.types, width)
        if vocabulary.channels:
            self.channel = _embedding(vocabulary.channels + 1, width)
        if vocabulary.amounts:
            self.amount = _embedding(AMOUNT_BINS, width)
        if vocabulary.days:
            self.days = _embedding(DAYS_BINS, width)
        if vocabulary.clock:
            self.gap = _embedding(GAP_BINS, width)
            self.hour = _embedding(24, width)
            self.weekday = _embedding(7, width)

    def items(self, codes: Tensor | None = None) -> Tensor:
        """Return the vectors of items, by default of all of them."""
        if self.vocabulary.hashed:
            where = self.hashes if codes is None else self.hashes[codes]
            found: Tensor = self.table(where).sum(dim=1)
        else:
            found = self.table.weight if codes is None else self.table(codes)
        for name, _ in self.vocabulary.features:
            of = getattr(self, f"codes_{name}")
            found = found + getattr(self, f"of_{name}")(of if codes is None else of[codes])
        if self.vocabulary.dense:
            found = found + self.project(self.dense if codes is None else self.dense[codes])
        return found

    def grow(self, kept: int, items: int, features: ItemFeatures | None = None) -> None:
        """Make room for ``items``: see ``Network.grown``."""
        old = self.vocabulary
        later = items - old.items
        if later > 0:
            table = self.table.weight.detach()
            more = 1 if old.hashed else later  # hashed, all that is new shares one row that is 0
            table = torch.cat([table, table.new_zeros(more, self.width)])
            if old.hashed:
                nothing = self.hashes.new_full((later, 2), len(table) - 1)
                self.hashes = torch.cat([self.hashes, nothing])
            self.table = nn.Embedding.from_pretrained(table, freeze=False)
            rows = len(table) if old.hashed else max(old.rows, items)
            self.vocabulary = replace(old, items=items, rows=rows)
        missing = np.full(items - kept, NONE)
        for name, _ in old.features:
            codes = missing if features is None else features.codes[name]
            self._extend(f"codes_{name}", kept, codes.astype(np.int64) + 1)
        if old.dense:
            vectors = np.zeros((items - kept, old.dense), np.float32)
            if features is not None and features.vectors is not None:
                vectors = features.vectors
            self._extend("dense", kept, vectors)

    def _extend(self, name: str, kept: int, values: npt.NDArray[Any]) -> None:
        buffer = getattr(self, name)
        setattr(self, name, torch.cat([buffer[:kept], _send(values, buffer.device)]))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return token vectors [t, d]."""
        vocabulary = self.vocabulary
        x = self.items(tokens.item.clamp(min=0)) * self.width**0.5
        x = x * (tokens.item >= 0)[:, None]
        if vocabulary.types > 1:
            x = x + self.event_type(tokens.type)
        if vocabulary.channels:
            x = x + self.channel(tokens.channel + 1)
        if vocabulary.amounts:
            x = x + self.amount(tokens.amount)
        if vocabulary.days:
            x = x + self.days(tokens.days)
        if vocabulary.clock:
            x = x + self.gap(tokens.gap) + self.hour(tokens.hour) + self.weekday(tokens.weekday)
        return x


class Network(nn.Module):
    """A sequence model; ``notes`` say where memory ran out as it was asked.

    Raises ``ModelError`` for settings that do not fit together.
    """

    def __init__(
        self, settings: Settings, vocabulary: Vocabulary, features: ItemFeatures | None = None
    ) -> None:
        super().__init__()
        chosen = settings.resolved()
        assert chosen.width is not None
        assert chosen.depth is not None
        assert chosen.attention_heads is not None
        self.settings, self.vocabulary = chosen, vocabulary
        self.rows, self.notes = _ROWS, list[str]()
        self.embedding = Embedding(vocabulary, chosen.width, features)
        self.drop = nn.Dropout(chosen.dropout)
        bias = chosen.time_bias if vocabulary.clock else "none"
        self.trunk: Trunk = trunk_of(
            chosen.trunk,
            chosen.width,
            chosen.depth,
            chosen.attention_heads,
            length=chosen.length,
            dropout=chosen.dropout,
            time_bias=bias,
        )
        self.heads = Heads(chosen.width, vocabulary.types, chosen.tasks)

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return self.embedding.table.weight.device

    def count(self) -> dict[str, int]:
        """Return the number of weights of the embedding, the trunk and the heads."""
        parts: dict[str, nn.Module] = {
            "embedding": self.embedding,
            "trunk": self.trunk,
            "heads": self.heads,
        }
        return {n: sum(p.numel() for p in part.parameters()) for n, part in parts.items()}

    def grown(self, kept: int, items: int, features: ItemFeatures | None = None) -> Network:
        """Return the network for a catalogue that grew to ``items``; the first ``kept`` stay as they are.

        An item it was not trained on has no vector of its id, so that as an event it is one without an item, but for its
        attributes: ``features`` are those of the items past ``kept``, in the codes it was trained on.
        """
        made = copy.deepcopy(self)
        made.embedding.grow(kept, items, features)
        made.vocabulary = made.embedding.vocabulary
        return made

    def hidden(self, data: SequenceArrays, batch: Batch, query: Any = None) -> Tensor:
        """Return a vector [t, d] for each event of a batch; ``query`` in seconds, for trunks that ask for it."""
        events = events_of(data, batch.index, batch.user)
        tokens = Tokens.of(events, self.device)
        asked = None if query is None else _send(query, self.device)
        packed = Packed.of(batch.layout, self.device, tokens.time, asked)
        found: Tensor = self.trunk(self.drop(self.embedding(tokens)), packed)
        return found

    def scored(self, hidden: Tensor) -> Tensor:
        """Return hidden vectors as they meet item vectors: of length 1 over the temperature, where one is set."""
        if not self.settings.temperature:
            return hidden
        return functional.normalize(hidden, dim=-1) / self.settings.temperature

    def item_vectors(self, codes: Tensor | None = None) -> Tensor:
        """Return item vectors as scores take them (of length 1 with a temperature)."""
        found = self.embedding.items(codes)
        return functional.normalize(found, dim=-1) if self.settings.temperature else found

    def loss(
        self, data: SequenceArrays, batch: Batch, rng: np.random.Generator, sampler: Sampler | None
    ) -> dict[str, Tensor]:
        """Return the loss of each task over a batch."""
        after = next_of(data, batch)
        tasks = self.settings.tasks
        asked = None
        if self.vocabulary.clock and ("gap" in tasks or "horizon" in tasks):
            asked = asked_of(data, batch, HORIZONS, rng)
        query = after.query if asked is None else asked.moment // MICROSECONDS
        hidden = self.hidden(data, batch, query if self.trunk.asks else None)
        found: dict[str, Tensor] = {}
        if "item" in tasks:
            rows = np.flatnonzero(after.item >= 0)
            if len(rows):
                target = _send(after.item[rows], self.device)
                found["item"] = self._item_loss(
                    hidden[_send(rows, self.device)], target, rng, sampler
                )
        known = np.flatnonzero(after.known)
        if len(known) and "type" in tasks:
            logits = self.heads.next_type(hidden[_send(known, self.device)])
            found["type"] = functional.cross_entropy(logits, _send(after.type[known], self.device))
        priced = np.flatnonzero(np.isfinite(after.amount))
        if len(priced) and "amount" in tasks:
            parameters = self.heads.amount(hidden[_send(priced, self.device)])
            found["amount"] = zero_inflated_log_normal(
                parameters, _send(after.amount[priced], self.device)
            )
        if asked is not None:
            rows = np.flatnonzero(asked.weight > 0)
            if len(rows):
                found.update(self._asked_losses(hidden, data, batch, after, asked, rows))
        return found

    def _item_loss(
        self, hidden: Tensor, target: Tensor, rng: np.random.Generator, sampler: Sampler | None
    ) -> Tensor:
        out = self.scored(hidden)
        if sampler is None:
            return losses.chunked_cross_entropy(out, self.item_vectors(), target)
        drawn, log_chance = sampler.draw(rng)
        codes, log_chance = drawn.to(out.device), log_chance.to(out.device)
        negatives, wanted = self.item_vectors(codes), self.item_vectors(target)
        if self.settings.loss == "gbce":
            return losses.generalised_bce(
                out,
                wanted,
                target,
                negatives,
                codes,
                items=self.vocabulary.items,
                trust=self.settings.trust,
            )
        return losses.sampled_softmax(out, wanted, target, negatives, codes, log_chance)

    def _asked_losses(
        self,
        hidden: Tensor,
        data: SequenceArrays,
        batch: Batch,
        after: Next,
        asked: Asked,
        rows: npt.NDArray[np.int64],
    ) -> dict[str, Tensor]:
        """Return the losses of the heads that are asked at random moments, over ``rows`` of the batch."""
        found: dict[str, Tensor] = {}
        chosen, wait = _send(rows, self.device), _send(asked.wait[rows], self.device)
        weight = _send(asked.weight[rows], self.device)
        if "gap" in self.settings.tasks:
            parameters = self.heads.until_next(hidden[chosen], wait)
            left = _send(np.maximum(after.gap - asked.wait, 0)[rows], self.device)
            seen = _send(after.known[rows], self.device)
            found["gap"] = log_normal_mixture(parameters, left, seen, weight)
        if "horizon" in self.settings.tasks:
            ahead = future_of(data, batch, self.vocabulary.types, asked)
            horizon = _send(asked.horizon[rows], self.device)
            logits, parameters = self.heads.within(hidden[chosen], wait, horizon)
            total = functional.binary_cross_entropy_with_logits(
                logits, _send(ahead.any[rows], self.device), weight[:, None]
            )
            total = total / weight.mean()
            if self.vocabulary.amounts:
                value = _send(ahead.value[rows], self.device)
                total = total + 0.2 * zero_inflated_log_normal(parameters, value, weight)
            found["horizon"] = total
        return found

    def last(self, data: SequenceArrays, moments: npt.NDArray[np.int64]) -> Tensor:
        """Return the vector [users, d] after each history as asked at ``moments`` (seconds); 0 for an empty one.

        Raises ``ModelError`` where memory does not suffice for one history at a time; while gradients are kept, which take
        memory for all, that is the caller's to see to.
        """
        size = np.diff(data.offsets)
        found = torch.zeros(len(size), self.embedding.width, device=self.device)
        length = self.settings.length
        order = np.argsort(np.minimum(size, length), kind="stable")
        order = order[size[order] > 0]
        start = 0

        def read(rows: int) -> None:
            nonlocal start
            users = order[start : start + rows]
            stop = data.offsets[users + 1]
            batch = piece_batch(users, np.maximum(data.offsets[users], stop - length), stop, length)
            query = None
            if self.trunk.asks:
                after = np.minimum(batch.index + 1, len(data) - 1)
                query = np.asarray(data.time[after]) // MICROSECONDS
                latest = data.time[stop - 1] // MICROSECONDS
                query[batch.layout.offsets[1:] - 1] = np.maximum(moments[users], latest)
            hidden = self.hidden(data, batch, query)
            found[_send(users, self.device)] = hidden[
                _send(batch.layout.offsets[1:] - 1, self.device)
            ].float()
            start, self.rows = start + len(users), rows

        while start < len(order):
            if torch.is_grad_enabled():
                read(self.rows)
            else:
                halving(read, self.rows, unit="histories", notes=self.notes)
        return found

    def contrast(self, data: SequenceArrays, batch: Batch, owner: npt.NDArray[np.int64]) -> Tensor:
        """Return CoLES' loss over the pieces of a batch; ``owner`` [p] says whose each piece is."""
        hidden = self.hidden(
            data, batch, None if not self.trunk.asks else next_of(data, batch).query
        )
        last = hidden[_send(batch.layout.offsets[1:] - 1, self.device)]
        return losses.contrastive(last, _send(owner, self.device))


def device_of(name: str) -> Any:
    """Return the device of a name; ``auto`` is CUDA where there is one.

    Raises ``ModelError`` for a device that is not there.

    >>> device_of("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device))  # a build without CUDA has the name, not the device
    except (RuntimeError, AssertionError):
        raise ModelError(
            f"there is no device '{name}' here that can compute; choose 'cpu', or 'auto' to take what is there"
        ) from None
    return device


def _send(array: Any, device: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _embedding(rows: int, width: int) -> nn.Embedding:
    made = nn.Embedding(rows, width)
    nn.init.normal_(made.weight, std=0.02)
    return made
