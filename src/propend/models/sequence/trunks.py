"""Trunks: embedded events of packed pieces in, one causal vector per event out.

Each trunk answers the same two calls: ``forward`` on a packed batch, and ``step``, which takes one
user's next event and the state left by those before it. The two agree (tests hold them to it).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from propend.errors import ModelError, nearest
from propend.models.sequence.packing import Layout

__all__ = [
    "TRUNKS",
    "Caser",
    "Convolution",
    "Packed",
    "Recurrent",
    "RootMeanSquareNorm",
    "Trunk",
    "trunk_of",
]

Tensor: TypeAlias = torch.Tensor

TRUNKS: Final = ("gru", "lstm", "cnn", "caser", "transformer", "hstu")


@dataclass(frozen=True)
class Packed:
    """A layout on the device, with each event's ``time`` and ``query`` time in seconds (int64 [t]), or None."""

    layout: Layout
    rows: Tensor
    place: Tensor
    piece: Tensor
    position: Tensor
    start: Tensor
    time: Tensor | None = None
    query: Tensor | None = None

    @classmethod
    def of(
        cls, layout: Layout, device: Any, time: Tensor | None = None, query: Tensor | None = None
    ) -> Packed:
        """Bring a layout to a device."""

        def send(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

        start = np.arange(len(layout.position)) - layout.position
        return cls(
            layout,
            send(layout.rows),
            send(layout.place),
            send(layout.piece),
            send(layout.position),
            send(start),
            time,
            query,
        )

    def back(self, steps: int) -> Tensor:
        """Return the event ``steps`` before each one in its piece, int64 [t]; t where there is none."""
        earlier = self.start + self.position - steps
        return torch.where(self.position >= steps, earlier, self.position.shape[0])


class Trunk(nn.Module):
    """The interface: ``forward(x [t, d], packed) → [t, d]`` and ``step(x [d], time, query, state)``.

    ``reach``: events back that can still matter to ``step``, None for all. ``asks``: whether the time of
    the question changes the vector.
    """

    reach: int | None = None
    asks: bool = False

    @abstractmethod
    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """Return a vector for each event from itself and those before it in its piece."""

    @abstractmethod
    def start(self) -> dict[str, Tensor]:
        """Return the state before the first event."""

    @abstractmethod
    def step(
        self, x: Tensor, time: int, query: int, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the vector [d] of a user's next event, and the new state; the old one stays as it is."""


class RootMeanSquareNorm(nn.Module):
    """Scale to root mean square 1, then by learned weights (Zhang & Sennrich, NeurIPS 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., d] scaled."""
        if torch.onnx.is_in_onnx_export():  # ONNX has no such operator before opset 23
            return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6) * self.weight
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Recurrent(Trunk):
    """GRU or LSTM on packed sequences, without padding (Hidasi et al., ICLR 2016; Hochreiter & Schmidhuber 1997)."""

    def __init__(self, width: int, depth: int, *, kind: str, dropout: float) -> None:
        super().__init__()
        made = nn.GRU if kind == "gru" else nn.LSTM
        self.kind, self.width, self.depth = kind, width, depth
        self.net = made(width, width, depth, dropout=dropout if depth > 1 else 0.0)
        self.norm = RootMeanSquareNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        lengths = np.diff(packed.layout.offsets)
        order = np.argsort(-lengths, kind="stable")
        sizes = np.bincount(lengths, minlength=1)
        alive = len(lengths) - np.cumsum(sizes)[:-1]  # pieces that have a t-th event, t = 0, 1, …
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        begin = np.concatenate([[0], np.cumsum(alive)])[:-1]
        piece = np.repeat(np.arange(len(lengths)), lengths)
        where = torch.from_numpy(begin[packed.layout.position] + rank[piece]).to(x.device)
        by_time = torch.empty_like(where)
        by_time[where] = torch.arange(len(where), device=x.device)
        flow = nn.utils.rnn.PackedSequence(x[by_time], torch.from_numpy(alive.astype(np.int64)))
        return self.drop(self.norm(self.net(flow)[0].data[where]))

    def start(self) -> dict[str, Tensor]:
        like = self.norm.weight
        names = ("h",) if self.kind == "gru" else ("h", "c")
        return {name: like.new_zeros(self.depth, 1, self.width) for name in names}

    def step(
        self, x: Tensor, time: int, query: int, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del time, query
        memory = state["h"] if self.kind == "gru" else (state["h"], state["c"])
        out, left = self.net(x[None, None], memory)
        new = {"h": left} if self.kind == "gru" else {"h": left[0], "c": left[1]}
        return self.drop(self.norm(out[0, 0])), new


class Convolution(Trunk):
    """Causal dilated convolutions with residuals, dilation doubling by layer (Yuan et al., NextItNet, WSDM 2019)."""

    taps: Final = 3

    def __init__(self, width: int, depth: int, *, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.dilations = [2**i for i in range(2 * depth)]
        self.norms = nn.ModuleList(RootMeanSquareNorm(width) for _ in self.dilations)
        self.mixes = nn.ModuleList(nn.Linear(self.taps * width, 2 * width) for _ in self.dilations)
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in self.dilations)
        self.last = RootMeanSquareNorm(width)
        self.drop = nn.Dropout(dropout)
        self.reach = 1 + sum((self.taps - 1) * d for d in self.dilations)

    def _layer(self, i: int, x: Tensor, seen: Tensor) -> Tensor:
        value, gate = self.mixes[i](seen).chunk(2, dim=-1)
        return x + self.drop(self.outs[i](value * torch.sigmoid(gate)))

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        for i, dilation in enumerate(self.dilations):
            z = self.norms[i](x)
            ground = torch.cat([z, z.new_zeros(1, self.width)])
            seen = [z] + [ground[packed.back(j * dilation)] for j in range(1, self.taps)]
            x = self._layer(i, x, torch.cat(seen, dim=-1))
        return self.last(x)

    def start(self) -> dict[str, Tensor]:
        like = self.last.weight
        return {
            str(i): like.new_zeros((self.taps - 1) * d, self.width)
            for i, d in enumerate(self.dilations)
        }

    def step(
        self, x: Tensor, time: int, query: int, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del time, query
        new = {}
        for i, dilation in enumerate(self.dilations):
            past, z = state[str(i)], self.norms[i](x)
            seen = [z] + [past[-j * dilation] for j in range(1, self.taps)]
            new[str(i)] = torch.cat([past[1:], z[None]])
            x = self._layer(i, x, torch.cat(seen, dim=-1))
        return self.last(x), new


class Caser(Trunk):
    """Horizontal and vertical filters over the last ``window`` events (Tang & Wang, Caser, WSDM 2018), for every place."""

    window: Final = 5
    filters: Final = 16

    def __init__(self, width: int, depth: int, *, dropout: float) -> None:
        del depth
        super().__init__()
        self.width, self.reach = width, self.window
        self.across = nn.ModuleList(
            nn.Linear(height * width, self.filters) for height in range(1, self.window + 1)
        )
        self.down = nn.Parameter(torch.randn(4, self.window) / self.window)
        self.out = nn.Linear(self.window * self.filters + 4 * width, width)
        self.norm = RootMeanSquareNorm(width)
        self.drop = nn.Dropout(dropout)

    def _of(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return vectors [t, d] from windows [t, window, d], oldest first."""
        found = []
        for height, layer in enumerate(self.across, start=1):
            slices = seen.unfold(1, height, 1).transpose(2, 3).flatten(2)
            found.append(functional.relu(layer(slices)).amax(dim=1))
        down = torch.einsum("fw,twd->tfd", self.down, seen).flatten(1)
        return self.norm(x + functional.relu(self.out(self.drop(torch.cat([*found, down], dim=1)))))

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        ground = torch.cat([x, x.new_zeros(1, self.width)])
        seen = [ground[packed.back(j)] for j in range(self.window - 1, 0, -1)] + [x]
        return self._of(x, torch.stack(seen, dim=1))

    def start(self) -> dict[str, Tensor]:
        return {"seen": self.down.new_zeros(self.window, self.width)}

    def step(
        self, x: Tensor, time: int, query: int, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del time, query
        seen = torch.cat([state["seen"][1:], x[None]])
        return self._of(x[None], seen[None])[0], {"seen": seen}


def trunk_of(
    name: str, width: int, depth: int, heads: int, *, length: int, dropout: float, time_bias: str
) -> Trunk:
    """Return a trunk by name; raises ``ModelError`` naming the nearest known one."""
    from propend.models.sequence.attention import Hstu, Transformer

    if name not in TRUNKS:
        raise ModelError(f"there is no trunk '{name}'{nearest(name, TRUNKS)}")
    if name in ("gru", "lstm"):
        return Recurrent(width, depth, kind=name, dropout=dropout)
    if name == "cnn":
        return Convolution(width, depth, dropout=dropout)
    if name == "caser":
        return Caser(width, depth, dropout=dropout)
    made = Transformer if name == "transformer" else Hstu
    return made(width, depth, heads, length=length, dropout=dropout, time_bias=time_bias)
