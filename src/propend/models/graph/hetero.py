"""A network over users, items and attribute values whose kinds of edges have weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.models.graph.propagation import Edges, normalised, pairs_of, part_edges, torch_module

__all__ = ["HeteroSettings", "Heterogeneous", "fit_heterogeneous"]

F32 = npt.NDArray[np.float32]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]

_RELATIONS: Final = ("item_to_user", "user_to_item", "value_to_item", "item_to_value")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeteroSettings:
    """Settings of :func:`fit_heterogeneous`.

    ``forget``: share of items whose own vector is left out in a step of training, so that attributes and
    neighbours learn to speak for items that are new.
    """

    width: Positive = 64
    depth: Positive = 2
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.12
    negatives: Positive = 1024
    batch: Positive = 8192
    epochs: Positive = 40
    patience: Positive = 4
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-5
    dropout: Share = 0.1
    forget: Share = 0.3
    held_back: Share = 0.1
    threads: Positive = 2


@dataclass(frozen=True)
class Heterogeneous:
    """What was learnt, as arrays: nothing here needs torch.

    ``own`` [items, d] and ``value`` [values, d] are the vectors nodes begin with; ``weight`` holds the
    matrices [d, d] of each step: one per kind of edge and one per kind of node for itself.
    """

    own: F32
    value: F32
    weight: dict[str, F32]
    depth: int
    epochs: int = 0
    curve: list[float] = field(default_factory=list)

    def states(self, table: Any, attributes: Any) -> list[F32]:
        """Return the items' vectors before each step and after the last: ``depth`` + 1 of [items, d].

        ``table`` users × items and ``attributes`` items × values are the graph, of any moment.
        """
        met = np.asarray(table.sum(axis=0)).ravel() > 0
        graph, known = normalised(table), normalised(attributes)
        item = self.own * met[:, None]
        user, value = np.zeros((table.shape[0], item.shape[1]), np.float32), self.value
        out = [item]
        for step in range(self.depth):
            w = {
                name: self.weight[f"{step}.{name}"]
                for name in (*_RELATIONS, "user", "item", "value")
            }
            user, item, value = (
                _bend(user @ w["user"] + graph @ (item @ w["item_to_user"])),
                _bend(
                    item @ w["item"]
                    + graph.T @ (user @ w["user_to_item"])
                    + known @ (value @ w["value_to_item"])
                ),
                _bend(value @ w["value"] + known.T @ (item @ w["item_to_value"])),
            )
            out.append(item)
        return out

    def users(self, states: list[F32], met: Any, per_item: npt.NDArray[Any]) -> F32:
        """Return the vectors of users by what they met, [users, d].

        ``met`` users × items holds who met what before the moment of the question; ``per_item`` [items] is the
        sum of edges at each item in the graph that gave ``states``. A user has no vector of its own, so
        that one who came after training is treated like every other.
        """
        import scipy.sparse as sp

        csr: Any = sp.csr_array(met, dtype=np.float32)
        total = np.asarray(csr.sum(axis=1)).ravel()
        row = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
        data = csr.data / np.sqrt(np.maximum(total, 1e-12))[row]
        data = data / np.sqrt(np.maximum(per_item, 1.0))[csr.indices]
        step_in: Any = sp.csr_array(
            (data.astype(np.float32), csr.indices, csr.indptr), shape=csr.shape
        )
        user = np.zeros((csr.shape[0], self.own.shape[1]), np.float32)
        summed = user
        for step in range(self.depth):
            carried = step_in @ (states[step] @ self.weight[f"{step}.item_to_user"])
            user = _bend(user @ self.weight[f"{step}.user"] + carried)
            summed = summed + user
        return np.asarray(summed / self.depth, np.float32)

    def items(self, states: list[F32]) -> F32:
        """Return the vectors items are scored by, [items, d]: the mean of their states, of length one."""
        mean = np.mean(states, axis=0, dtype=np.float32)
        return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12))


def fit_heterogeneous(
    table: Any,
    attributes: Any,
    settings: HeteroSettings,
    *,
    seed: int = 0,
    progress: Callable[[int, float, float], None] | None = None,
) -> Heterogeneous:
    """Learn to tell what a user meets next from users × items edges and items × values attributes.

    Messages of each kind of edge pass a matrix of their own, as in relational graph convolution
    (Schlichtkrull et al., ESWC 2018); the loss is a sampled softmax over cosines. Edges of a batch are
    taken out of the user's own sum before they are asked for, so that no edge predicts itself.

    Raises
    ------
    MissingExtraError
        torch is not installed.
    """
    torch = torch_module()
    rng = np.random.default_rng(seed)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _Training(torch, table.tocsr(), attributes.tocsr(), settings, rng).run(progress)
    finally:
        torch.set_num_threads(before)


def _bend(x: Any) -> Any:
    return np.where(x > 0, x, np.float32(0.1) * x)


class _Training:
    """The tensors of a training and its steps."""

    def __init__(
        self,
        torch: Any,
        table: Any,
        attributes: Any,
        settings: HeteroSettings,
        rng: np.random.Generator,
    ) -> None:
        self.torch, self.settings, self.rng = torch, settings, rng
        n_users, n_items = table.shape
        width = settings.width
        self.known, held = part_edges(table, settings.held_back, rng)
        self.held, self.pairs = pairs_of(held), pairs_of(self.known)
        self.graph, self.attributes = Edges(normalised(self.known)), Edges(normalised(attributes))
        self.met = torch.from_numpy(np.asarray(self.known.sum(axis=0)).ravel() > 0)[:, None]
        self.per_item = torch.from_numpy(
            np.maximum(np.asarray(self.known.sum(axis=0)).ravel(), 1.0)
        )
        self.per_user = torch.from_numpy(
            np.asarray(self.known.sum(axis=1)).ravel().astype(np.float32)
        )
        self.n_users = n_users
        spread = 1 / np.sqrt(width)
        own = spread * rng.standard_normal((n_items, width))
        value = spread * rng.standard_normal((attributes.shape[1], width))
        self.own, self.value = (
            torch.nn.Parameter(torch.tensor(v, dtype=torch.float32)) for v in (own, value)
        )
        self.weight = torch.nn.ParameterDict()
        for step in range(settings.depth):
            for name in (*_RELATIONS, "user", "item", "value"):
                start = np.eye(width) + 0.1 * spread * rng.standard_normal((width, width))
                self.weight[f"{step}/{name}"] = torch.nn.Parameter(
                    torch.tensor(start, dtype=torch.float32)
                )

    def run(self, progress: Callable[[int, float, float], None] | None) -> Heterogeneous:
        torch, settings = self.torch, self.settings
        learnt = [self.own, self.value, *self.weight.values()]
        optimiser = torch.optim.AdamW(
            learnt, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        best, kept, waited, epoch, curve = np.inf, self._arrays(), 0, 0, list[float]()
        for epoch in range(1, settings.epochs + 1):
            order = self.rng.permutation(self.pairs.shape[1])
            losses = []
            for start in range(0, len(order), settings.batch):
                u, i = torch.from_numpy(self.pairs[:, order[start : start + settings.batch]])
                optimiser.zero_grad()
                loss = self._loss(u, i, learning=True)
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            now = float(np.mean(losses))
            if self.held.shape[1]:
                with torch.no_grad():
                    now = float(self._loss(*torch.from_numpy(self.held), learning=False))
                curve.append(now)
            if progress is not None:
                progress(epoch, float(np.mean(losses)), now)
            waited += 1
            if now < best:
                best, kept, waited = now, self._arrays(), 0
            if waited >= settings.patience:
                break
        own, value, weight = kept
        return Heterogeneous(own, value, weight, settings.depth, epoch - waited, curve)

    def _arrays(self) -> tuple[F32, F32, dict[str, F32]]:
        weight = {
            n.replace("/", "."): copy.deepcopy(w.detach().numpy()) for n, w in self.weight.items()
        }
        own, value = (copy.deepcopy(v.detach().numpy()) for v in (self.own, self.value))
        return own, value, weight

    def _loss(self, u: Any, i: Any, *, learning: bool) -> Any:
        torch, settings = self.torch, self.settings
        functional = torch.nn.functional
        users, states = self._spread(u, i, learning)
        items = functional.normalize(sum(states) / len(states), dim=1)
        if learning:
            drawn = torch.from_numpy(self.rng.integers(0, len(items), settings.negatives))
        else:
            drawn = torch.arange(0, len(items), max(1, len(items) // (4 * settings.negatives)))
        left = functional.normalize(users, dim=1)
        same = (left * items[i]).sum(1, keepdim=True)
        others = (left @ items[drawn].T).masked_fill(drawn[None, :] == i[:, None], -torch.inf)
        logits = torch.cat([same, others], 1) / settings.temperature
        return functional.cross_entropy(logits, torch.zeros(len(u), dtype=torch.long))

    def _spread(self, u: Any, i: Any, learning: bool) -> tuple[Any, list[Any]]:
        """Return the users of the rows, each without the row's own edge where it is in the graph, and items' states."""
        torch, settings = self.torch, self.settings
        bend = torch.nn.functional.leaky_relu
        own = self.own * self.met
        if learning and settings.forget:
            own = own * (torch.rand(len(own), 1) >= settings.forget)
        item, value = own, self.value
        user = torch.zeros(self.n_users, own.shape[1])
        asked, summed = torch.zeros(len(u), own.shape[1]), torch.zeros(len(u), own.shape[1])
        states = [item]
        left = (self.per_user[u] - 1).clamp(min=0) if learning else self.per_user[u]
        rescale = (self.per_user[u].clamp(min=1) / left.clamp(min=1)).sqrt()[:, None]
        mine = 1 / (self.per_user[u].clamp(min=1) * self.per_item[i]).sqrt()[:, None]
        for step in range(settings.depth):
            w = {n: self.weight[f"{step}/{n}"] for n in (*_RELATIONS, "user", "item", "value")}
            sent = self.graph(item @ w["item_to_user"])
            carried = sent[u]
            if learning:
                carried = (carried - mine * (item @ w["item_to_user"])[i]) * rescale
            asked = bend(asked @ w["user"] + carried, 0.1)
            summed = summed + asked
            user, item, value = (
                bend(user @ w["user"] + sent, 0.1),
                bend(
                    item @ w["item"]
                    + self.graph.back(user @ w["user_to_item"])
                    + self.attributes(value @ w["value_to_item"]),
                    0.1,
                ),
                bend(value @ w["value"] + self.attributes.back(item @ w["item_to_value"]), 0.1),
            )
            if learning and settings.dropout:
                item = torch.nn.functional.dropout(item, settings.dropout)
            states.append(item)
        return summed / settings.depth, states
