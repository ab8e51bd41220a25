"""A multilayer perceptron: learnt by torch, kept as arrays, scored without torch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from propend.errors import MissingExtraError
from propend.models.encode import Design
from propend.models.kernels import dense
from propend.models.model import Answer, Array, Data, Link, Missing, Model
from propend.models.storage import State

__all__ = ["Perceptron", "PerceptronParameters"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
_ROWS = 16_384
_SAFE = 30.0


@dataclass(frozen=True, slots=True)
class PerceptronParameters:
    """Settings of :class:`Perceptron`."""

    hidden: tuple[Positive, ...] = (64, 32)
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-3
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 2e-3
    batch: Positive = 256
    epochs: Positive = 60
    patience: Positive = 6
    """Epochs without gain on held-out rows (``validation``, else a tenth of the rows) before it stops."""
    threads: Positive = 1


class Perceptron(Model):
    """Dense layers with dropout, AdamW, early stopping at the best epoch (Srivastava et al. 2014).

    Needs the extra ``deep`` to fit; a saved model scores without it.

    >>> Perceptron("yes_no", hidden=(8,))
    Perceptron('yes_no', hidden=(8,))
    """

    name: ClassVar[str] = "mlp"
    answers: ClassVar[frozenset[Answer]] = frozenset({"yes_no", "amount", "count", "which"})
    missing: ClassVar[Missing] = "imputed"
    Parameters: ClassVar[type[Any]] = PerceptronParameters
    parameters: PerceptronParameters
    _design: Design
    _layers: list[tuple[Array, Array]]

    @property
    def link(self) -> Link:
        return "log" if self.answer == "count" else super().link

    def _fit(self, data: Data, validation: Data | None, seed: int) -> None:
        self._design = Design.fit(data.X, self.categories)
        self._centre = float(np.average(data.y, weights=data.weight))
        self._scale = float(data.y.std()) or 1.0
        if validation is None:
            drawn = np.random.default_rng(seed).random(len(data)) < 0.1
            if drawn.sum() >= 20 and len(np.unique(data.y[~drawn])) > 1:
                data, validation = data.where(~drawn), data.where(drawn)
        self._layers = self._learn(data, validation, seed)

    def _learn(self, data: Data, held: Data | None, seed: int) -> list[tuple[Array, Array]]:
        torch = _torch()
        before = torch.get_num_threads()
        torch.set_num_threads(self.parameters.threads)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self._epochs(torch, data, held)
        finally:
            torch.set_num_threads(before)

    def _epochs(self, torch: Any, data: Data, held: Data | None) -> list[tuple[Array, Array]]:
        chosen = self.parameters
        net = self._net(torch)
        Z, y, w = self._tensors(torch, data)
        watched = None if held is None else self._tensors(torch, held)
        steps = torch.optim.AdamW(
            net.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay
        )
        best, kept, waited = np.inf, copy.deepcopy(net.state_dict()), 0
        for _ in range(chosen.epochs):
            net.train()
            order = torch.randperm(len(Z))
            for start in range(0, len(Z), chosen.batch):
                rows = order[start : start + chosen.batch]
                if not float(w[rows].sum()) > 0:
                    continue
                steps.zero_grad()
                loss = self._loss(torch, net(Z[rows]), y[rows], w[rows])
                loss.backward()
                steps.step()
            if watched is None:
                kept = copy.deepcopy(net.state_dict())
                continue
            net.eval()
            with torch.no_grad():
                now = float(self._loss(torch, net(watched[0]), watched[1], watched[2]))
            waited += 1
            if now < best - 1e-5:
                best, kept, waited = now, copy.deepcopy(net.state_dict()), 0
            if waited >= chosen.patience:
                break
        names = sorted({key.split(".")[0] for key in kept}, key=int)
        return [
            (
                np.ascontiguousarray(kept[f"{name}.weight"].numpy().T, dtype=np.float64),
                kept[f"{name}.bias"].numpy().astype(np.float64),
            )
            for name in names
        ]

    def _net(self, torch: Any) -> Any:
        parts: list[Any] = []
        width = self._design.width
        for hidden in self.parameters.hidden:
            parts += [
                torch.nn.Linear(width, hidden),
                torch.nn.ReLU(),
                torch.nn.Dropout(self.parameters.dropout),
            ]
            width = hidden
        parts.append(torch.nn.Linear(width, self.classes if self.answer == "which" else 1))
        return torch.nn.Sequential(*parts)

    def _tensors(self, torch: Any, data: Data) -> tuple[Any, Any, Any]:
        y = (data.y - self._centre) / self._scale if self.answer == "amount" else data.y
        arrays = (self._design.transform(data.X), y, data.weights)
        Z, labels, weight = (torch.tensor(a, dtype=torch.float32) for a in arrays)
        return Z, labels.long() if self.answer == "which" else labels, weight

    def _loss(self, torch: Any, out: Any, y: Any, w: Any) -> Any:
        functional = torch.nn.functional
        if self.answer == "which":
            each = functional.cross_entropy(out, y, reduction="none")
        elif self.answer == "yes_no":
            each = functional.binary_cross_entropy_with_logits(out[:, 0], y, reduction="none")
        elif self.answer == "count":
            margin = out[:, 0].clamp(max=_SAFE)
            each = torch.exp(margin) - y * margin
        else:
            each = (out[:, 0] - y) ** 2
        return (each * w).sum() / w.sum()

    def _forward(self, X: Array) -> Array:
        Z = self._design.transform(X)
        for i, (W, b) in enumerate(self._layers):
            out = np.empty((len(Z), W.shape[1]))
            dense(Z, W, b, out, i + 1 < len(self._layers))
            Z = out
        return Z

    def _predict(self, X: Array) -> Array:
        blocks = range(0, len(X), _ROWS)
        margin = np.concatenate([self._forward(X[start : start + _ROWS]) for start in blocks])
        if self.answer == "which":
            odds = np.exp(margin - margin.max(axis=1, keepdims=True))
            return np.asarray(odds / odds.sum(axis=1, keepdims=True))
        if self.answer == "yes_no":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin[:, 0])))
        if self.answer == "count":
            return np.asarray(np.exp(np.minimum(margin[:, 0], _SAFE)))
        return np.asarray(self._centre + self._scale * margin[:, 0])

    def _importance(self) -> Array:
        reach = np.abs(self._layers[0][0])
        for W, _ in self._layers[1:]:
            reach = reach @ np.abs(W)
        size = np.bincount(self._design.source, reach.sum(axis=1), minlength=self.width)
        return np.asarray(size, dtype=np.float64)

    def _state(self) -> State:
        header = {"centre": self._centre, "scale": self._scale, "layers": len(self._layers)}
        arrays = {}
        for i, (W, b) in enumerate(self._layers):
            arrays[f"W{i}"], arrays[f"b{i}"] = W, b
        state = State(header, arrays)
        state.nest("design", self._design.state())
        return state

    def _restore(self, state: State) -> None:
        self._design = Design.from_state(state.part("design"))
        self._centre, self._scale = float(state.header["centre"]), float(state.header["scale"])
        count = int(state.header["layers"])
        self._layers = [(state.arrays[f"W{i}"], state.arrays[f"b{i}"]) for i in range(count)]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("the multilayer perceptron", "deep") from None
    return torch
