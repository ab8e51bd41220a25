"""Attention trunks: a causal Transformer with gated residuals, and HSTU's pointwise attention."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from propend.models.sequence.trunks import Packed, RootMeanSquareNorm, Tensor, Trunk

__all__ = ["TIME_BUCKETS", "Attention", "Hstu", "Transformer", "rotate", "time_bucket"]

TIME_BUCKETS: Final = 64
"""Buckets of elapsed seconds, two to each doubling."""


def time_bucket(seconds: Tensor) -> Tensor:
    """Return the log bucket of elapsed seconds (below 0 counts as 0), int64.

    >>> time_bucket(torch.tensor([0, 1, 3, 86_400])).tolist()
    [0, 2, 4, 32]
    """
    return (2 * torch.log2(1.0 + seconds.clamp(min=0).float())).long().clamp(max=TIME_BUCKETS - 1)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Turn pairs of x [..., t, d] by their position (rotary embedding; Su et al., RoFormer 2021)."""
    half = x.shape[-1] // 2
    turn = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position[..., None].float() * turn
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(Trunk):
    """What both trunks share: rows of packed pieces, rotary positions, and the learned bias of elapsed time.

    ``time_bias``: ``none``; ``event``: log buckets of the time from an earlier event to this one;
    ``query``: to the moment of the question, which in training is the time of the next event (Zhai et
    al., "Actions speak louder than words", ICML 2024).
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, length: int, dropout: float, time_bias: str
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        self.reach, self.time_bias = length, time_bias
        self.asks = time_bias == "query"
        self.last = RootMeanSquareNorm(width)
        self.drop = nn.Dropout(dropout)
        self.bias = nn.ParameterList(
            nn.Parameter(torch.zeros(TIME_BUCKETS, heads))
            for _ in range(0 if time_bias == "none" else depth)
        )

    @abstractmethod
    def _in(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries, keys, values and gates [t, d] of layer ``i``."""

    @abstractmethod
    def _out(self, i: int, x: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        """Return the layer's outcome [t, d] from what attention mixed."""

    @abstractmethod
    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sees: Tensor) -> Tensor:
        """Mix values [b, h, w, e] where ``sees`` [b, 1, w, w]."""

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        rows, width = packed.rows.shape
        sees = packed.piece[:, :, None] == packed.piece[:, None, :]
        order = torch.arange(width, device=x.device)
        sees = (sees & (order[:, None] >= order[None, :]))[:, None]
        buckets = self._buckets(packed) if self.bias else None
        position = torch.cat([packed.position, packed.position.new_zeros(1)])[packed.rows][:, None]
        for i in range(self.depth):
            q, k, v, gate = self._in(i, x)
            laid = torch.cat([torch.cat([q, k, v], dim=-1), q.new_zeros(1, 3 * self.width)])
            laid = laid[packed.rows].view(rows, width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = rotate(laid[0], position), rotate(laid[1], position), laid[2]
            bias = None
            if buckets is not None:
                bias = functional.embedding(buckets, self.bias[i]).permute(0, 3, 1, 2)
            mixed = self._mix(q, k, v, bias, sees)
            mixed = mixed.transpose(1, 2).reshape(rows * width, self.width)[packed.place]
            x = self._out(i, x, mixed, gate)
        return self.last(x)

    def _buckets(self, packed: Packed) -> Tensor:
        assert packed.time is not None
        asked = packed.query if self.asks else packed.time
        assert asked is not None
        ground = packed.time.new_zeros(1)
        time = torch.cat([packed.time, ground])[packed.rows]
        query = torch.cat([asked, ground])[packed.rows]
        return time_bucket(query[:, :, None] - time[:, None, :])

    def start(self) -> dict[str, Tensor]:
        like = self.last.weight
        kept = like.new_zeros(self.depth, 0, self.width)
        zero = torch.zeros(0, dtype=torch.int64, device=like.device)
        return {"k": kept, "v": kept, "time": zero, "place": zero}

    def step(
        self, x: Tensor, time: int, query: int, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.reach is not None
        kept = slice(max(0, state["k"].shape[1] - self.reach + 1), None)
        place, times = state["place"][kept], state["time"][kept]
        here = place[-1:] + 1 if len(place) else place.new_zeros(1)
        place = torch.cat([place, here])
        times = torch.cat([times, times.new_full((1,), time)])
        asked = query if self.asks else time
        keys, values = [], []
        x = x[None]
        for i in range(self.depth):
            q, k, v, gate = self._in(i, x)
            k = torch.cat([state["k"][i, kept], k])
            v = torch.cat([state["v"][i, kept], v])
            keys.append(k)
            values.append(v)
            q, k_rows, v_rows = (
                m.view(1, len(m), self.heads, -1).transpose(1, 2) for m in (q, k, v)
            )
            q, k_rows = rotate(q, here), rotate(k_rows, place)
            bias = None
            if self.bias:
                bias = functional.embedding(time_bucket(asked - times), self.bias[i]).T[
                    None, :, None
                ]
            sees = torch.ones(1, 1, 1, len(place), dtype=torch.bool, device=x.device)
            mixed = self._mix(q, k_rows, v_rows, bias, sees).transpose(1, 2).reshape(1, self.width)
            x = self._out(i, x, mixed, gate)
        new = {"k": torch.stack(keys), "v": torch.stack(values), "time": times, "place": place}
        return self.last(x)[0], new


class Transformer(Attention):
    """Pre-norm Transformer with gated residuals and SwiGLU.

    Vaswani et al. 2017; Kang & McAuley, SASRec, ICDM 2018; the gates of LiGR (Borisyuk et al. 2025), which
    Petrov et al. found to carry most of the gain (eSASRec, RecSys 2025).
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, length: int, dropout: float, time_bias: str
    ) -> None:
        super().__init__(width, depth, heads, length=length, dropout=dropout, time_bias=time_bias)
        inner = 8 * round(width / 3)
        layers = range(depth)
        self.before = nn.ModuleList(RootMeanSquareNorm(width) for _ in layers)
        self.between = nn.ModuleList(RootMeanSquareNorm(width) for _ in layers)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in layers)
        self.join = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in layers)
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.up = nn.ModuleList(nn.Linear(width, 2 * inner, bias=False) for _ in layers)
        self.down = nn.ModuleList(nn.Linear(inner, width, bias=False) for _ in layers)
        self.valves = nn.ModuleList(nn.Linear(width, width) for _ in layers)

    def _in(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = self.qkv[i](self.before[i](x)).chunk(3, dim=-1)
        return q, k, v, torch.sigmoid(self.gates[i](x))

    def _out(self, i: int, x: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        x = x + gate * self.drop(self.join[i](mixed))
        value, turn = self.up[i](self.between[i](x)).chunk(2, dim=-1)
        fed = self.down[i](self.drop(functional.silu(turn) * value))
        return x + torch.sigmoid(self.valves[i](x)) * self.drop(fed)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sees: Tensor) -> Tensor:
        mask = sees if bias is None else bias.masked_fill(~sees, float("-inf"))
        mixed: Tensor = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed


class Hstu(Attention):
    """HSTU: SiLU in place of softmax, gated by the event itself, no feed-forward part (Zhai et al., ICML 2024).

    The weights of a place are divided by the number of events it sees, not by the greatest length, so
    that packing changes nothing.
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, length: int, dropout: float, time_bias: str
    ) -> None:
        super().__init__(width, depth, heads, length=length, dropout=dropout, time_bias=time_bias)
        self.before = nn.ModuleList(RootMeanSquareNorm(width) for _ in range(depth))
        self.between = nn.ModuleList(RootMeanSquareNorm(width) for _ in range(depth))
        self.all = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.join = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def _in(self, i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, gate = functional.silu(self.all[i](self.before[i](x))).chunk(4, dim=-1)
        return q, k, v, gate

    def _out(self, i: int, x: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        return x + self.join[i](self.drop(self.between[i](mixed) * gate))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sees: Tensor) -> Tensor:
        score = q @ k.transpose(-1, -2)
        if bias is not None:
            score = score + bias
        weight = functional.silu(score) * sees
        return (weight @ v) / sees.sum(dim=-1, keepdim=True).clamp(min=1)
