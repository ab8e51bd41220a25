"""Heads on a trunk's vector: next item, next type, time to next, amount, and anything within a horizon."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Heads", "log_normal_mixture", "survival", "zero_inflated_log_normal", "ziln_mean"]

Tensor: TypeAlias = torch.Tensor

MIXTURE: Final = 3
_CENTRES: Final = 8
_SOONEST: Final = 1e-4
"""Days: gaps are told apart down to some ten seconds."""


def log_normal_mixture(
    parameters: Tensor, gap: Tensor, seen: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean (by ``weight`` [t]) negative log-likelihood of gaps (days) under a mixture of log-normals.

    ``parameters`` [t, 3·k]: logits, means and log scales of log days. Where not ``seen`` the next event had
    not come within ``gap``, and the likelihood is that of silence so long (Shchur et al., ICLR 2020).
    """
    logits, mean, scale = parameters.float().chunk(3, dim=-1)
    log_gap = torch.log(gap.clamp(min=_SOONEST))[:, None]
    spread = functional.softplus(scale) + 0.05
    z = (log_gap - mean) / spread
    share = functional.log_softmax(logits, dim=-1)
    density = share - 0.5 * z**2 - torch.log(spread) - 0.5 * math.log(2 * math.pi) - log_gap
    silence = share + torch.special.log_ndtr(-z)
    return -_mean(torch.logsumexp(torch.where(seen[:, None], density, silence), dim=-1), weight)


def survival(parameters: Tensor, days: Tensor) -> Tensor:
    """Return the chance [t] that the next event takes longer than ``days``."""
    logits, mean, scale = parameters.float().chunk(3, dim=-1)
    z = (torch.log(days.clamp(min=_SOONEST))[:, None] - mean) / (functional.softplus(scale) + 0.05)
    return (torch.softmax(logits, dim=-1) * torch.special.ndtr(-z)).sum(dim=-1)


def zero_inflated_log_normal(
    parameters: Tensor, value: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean (by ``weight`` [t]) negative log-likelihood of values ≥ 0 (below 0 counts as 0).

    ``parameters`` [t, 3]: logit of being above 0, mean and scale of the logarithm (Wang et al., "A deep
    probabilistic model for customer lifetime value prediction", arXiv 1912.07753).
    """
    logit, mean, scale = parameters.float().unbind(dim=-1)
    above = value > 0
    bought = functional.binary_cross_entropy_with_logits(logit, above.float(), reduction="none")
    spread = functional.softplus(scale) + 0.05
    z = (torch.log(value.clamp(min=1e-6)) - mean) / spread
    density = torch.where(above, 0.5 * z**2 + torch.log(spread), torch.zeros_like(z))
    return _mean(bought + density, weight)


def _mean(each: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of each row's loss, by weight where one is given."""
    return each.mean() if weight is None else (each * weight).sum() / weight.sum()


def ziln_mean(parameters: Tensor) -> Tensor:
    """Return the expected value [t], the log-normal's scale capped at 2 so that no tail runs away."""
    logit, mean, scale = parameters.float().unbind(dim=-1)
    spread = (functional.softplus(scale) + 0.05).clamp(max=2.0)
    return torch.sigmoid(logit) * torch.exp((mean + 0.5 * spread**2).clamp(max=30.0))


def _basis(days: Tensor) -> Tensor:
    """Return a smooth code [t, 9] of a length of time: its logarithm, and bumps along it."""
    log = torch.log1p(days.clamp(min=0))[:, None]
    centres = torch.linspace(0, 6, _CENTRES, device=days.device)
    return torch.cat([log / 3, torch.exp(-0.5 * ((log - centres) / 0.8) ** 2)], dim=-1)


class Heads(nn.Module):
    """All heads but that of the next item, whose weights are the item vectors."""

    def __init__(self, width: int, types: int, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.types = types
        if "type" in tasks:
            self.next_type = nn.Linear(width, types)
        if "gap" in tasks:
            self.gap = nn.Linear(width + _CENTRES + 1, 3 * MIXTURE)
        if "amount" in tasks:
            self.amount = nn.Linear(width, 3)
        if "horizon" in tasks:
            self.ask = nn.Linear(width + 2 * (_CENTRES + 1), width)
            self.any = nn.Linear(width, types + 1)
            self.value = nn.Linear(width, 3)

    def until_next(self, hidden: Tensor, wait: Tensor) -> Tensor:
        """Return the parameters [t, 3·k] of the time from ``wait`` days after the last event to the next one."""
        found: Tensor = self.gap(torch.cat([hidden, _basis(wait)], dim=-1))
        return found

    def within(self, hidden: Tensor, wait: Tensor, horizon: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [t, types + 1] of any event of a type (and of any at all) and value parameters [t, 3].

        ``wait``: days since the last event; ``horizon``: days ahead.
        """
        asked = torch.cat([hidden, _basis(wait), _basis(horizon)], dim=-1)
        mixed = functional.silu(self.ask(asked))
        return self.any(mixed), self.value(mixed)

    def readouts(self, hidden: Tensor, wait: Tensor, ahead: Tensor, *, amounts: bool) -> Tensor:
        """Return what is said of the ``ahead`` days [t] asked ``wait`` days [t] after the last event, [t, types + 2 (+ 1)].

        The chances of an event of each type and of any, that of silence by the time to next, and with ``amounts``
        log(1 + the expected value).
        """
        logits, value = self.within(hidden, wait, ahead)
        silent = survival(self.until_next(hidden, wait), ahead)
        parts = [torch.sigmoid(logits), silent[:, None]]
        if amounts:
            parts.append(torch.log1p(ziln_mean(value))[:, None])
        return torch.cat(parts, dim=1)
