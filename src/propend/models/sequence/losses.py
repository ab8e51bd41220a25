"""Losses over a catalogue of items, with bounded memory; and contrast between parts of histories."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch.nn import functional

__all__ = [
    "chunked_cross_entropy",
    "contrastive",
    "cross_entropy",
    "generalised_bce",
    "sampled_softmax",
]

Tensor: TypeAlias = torch.Tensor


def cross_entropy(hidden: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``hidden`` [t, d] against all ``items`` [v, d]: memory t × v."""
    return functional.cross_entropy(hidden @ items.T, target)


class _Chunked(torch.autograd.Function):
    """Cross-entropy whose gradients are made on the way forward, so that only one chunk of logits stands."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, target: Tensor, chunk: int) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_items = torch.zeros_like(items, dtype=torch.float32)
        count = max(len(hidden), 1)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ items.T).float()
            wanted = logits.gather(1, target[part, None])[:, 0]
            top = logits.max(dim=1, keepdim=True).values
            share = logits.sub_(top).exp_()
            mass = share.sum(dim=1, keepdim=True)
            total += (mass.log() + top)[:, 0].sum() - wanted.sum()
            share.div_(mass)
            share.scatter_add_(1, target[part, None], share.new_full((len(share), 1), -1.0))
            share.div_(count)
            share = share.to(hidden.dtype)
            to_hidden[part] = share @ items
            to_items.addmm_(share.T.to(to_items.dtype), hidden[part].to(to_items.dtype))
        ctx.save_for_backward(to_hidden, to_items.to(items.dtype))
        return total / count

    @staticmethod
    def backward(ctx: Any, *up: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_hidden, to_items = ctx.saved_tensors
        return to_hidden * up[0], to_items * up[0], None, None


def chunked_cross_entropy(
    hidden: Tensor, items: Tensor, target: Tensor, *, cells: int = 1 << 22
) -> Tensor:
    """Return ``cross_entropy`` with at most ``cells`` logits in memory at a time, gradients included.

    Wijmans et al., "Cut your losses in large-vocabulary language models", ICLR 2025; the gradient is
    formed in the forward pass as in Liger kernels.

    >>> h, e = torch.randn(7, 4), torch.randn(9, 4)
    >>> t = torch.arange(7)
    >>> bool(torch.isclose(chunked_cross_entropy(h, e, t, cells=18), cross_entropy(h, e, t)))
    True
    """
    found: Tensor = _Chunked.apply(hidden, items, target, max(1, cells // max(len(items), 1)))
    return found


def sampled_softmax(
    hidden: Tensor,
    wanted: Tensor,
    target: Tensor,
    negatives: Tensor,
    codes: Tensor,
    log_chance: Tensor,
) -> Tensor:
    """Return cross-entropy against shared sampled items, with the logQ correction on them.

    ``wanted`` [t, d] are the targets' vectors, ``negatives`` [k, d] the samples', ``codes`` [k] their codes and
    ``log_chance`` [k] the logarithm of how often each is expected in the sample. A sample that is the target is
    left out; the target itself was not sampled and is not corrected (Bengio & Senécal 2008; Khrylchenko
    et al. 2025).
    """
    positive = (hidden * wanted).sum(dim=-1, keepdim=True)
    scores = hidden @ negatives.T - log_chance
    scores = scores.masked_fill(codes[None, :] == target[:, None], float("-inf"))
    together = torch.cat([positive, scores], dim=1)
    return (torch.logsumexp(together.float(), dim=1) - positive[:, 0].float()).mean()


def generalised_bce(
    hidden: Tensor,
    wanted: Tensor,
    target: Tensor,
    negatives: Tensor,
    codes: Tensor,
    *,
    items: int,
    trust: float = 0.75,
) -> Tensor:
    """Return gBCE: binary cross-entropy whose positive is raised to a power that undoes the sampling.

    ``trust`` 0 is plain BCE, 1 fully calibrated (Petrov & Macdonald, gSASRec, RecSys 2023).
    """
    rate = min(1.0, len(codes) / max(items - 1, 1))
    power = rate * (trust * (1 - 1 / rate) + 1 / rate)
    positive = (hidden * wanted).sum(dim=-1).float()
    scores = (hidden @ negatives.T).float()
    same = codes[None, :] == target[:, None]
    pushed = functional.softplus(scores).masked_fill(same, 0.0).sum(dim=1)
    return (power * functional.softplus(-positive) + pushed).mean()


def contrastive(vectors: Tensor, owner: Tensor, *, margin: float = 0.5, hardest: int = 5) -> Tensor:
    """Return CoLES' loss: parts of one history near, the ``hardest`` parts of others at least ``margin`` away.

    ``vectors`` [n, d] of sub-sequences, ``owner`` [n] whose they are (Babaev et al., CoLES, SIGMOD 2022).
    """
    unit = functional.normalize(vectors.float(), dim=1)
    squared = (2 - 2 * unit @ unit.T).clamp(min=1e-9)
    same = owner[:, None] == owner[None, :]
    itself = torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    pull = squared[same & ~itself]
    near = squared.masked_fill(same, math.inf).topk(min(hardest, len(owner)), largest=False).values
    push = functional.relu(margin - near.sqrt())[near.isfinite()] ** 2
    none = vectors.new_zeros(())
    return (pull.mean() if len(pull) else none) + (push.mean() if len(push) else none)
