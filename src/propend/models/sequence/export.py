"""The encoder of one history as an ONNX file, for servers without torch."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from propend.errors import MissingExtraError, ModelError
from propend.models.sequence.network import Network, Tokens
from propend.models.sequence.packing import lay_out
from propend.models.sequence.trunks import Packed, Recurrent, Tensor

__all__ = ["INPUTS", "export_onnx"]

INPUTS: Final = (*(f.name for f in fields(Tokens)), "query")
"""Inputs of the file: the columns of ``targets.Events`` (int64 [t]) and ``query``, the seconds of the question (int64 [1])."""
_OPSET: Final = 17


class _OneHistory(nn.Module):
    """A network on one history: every layer as in training, laid out by tensors instead of a packing."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens, query = Tokens(*inputs[:-1]), inputs[-1]
        x = self.network.embedding(tokens)
        trunk = self.network.trunk
        if isinstance(trunk, Recurrent):
            hidden = trunk.norm(trunk.net(x[:, None])[0][:, 0])
        else:
            order = torch.cumsum(torch.ones_like(tokens.item), dim=0) - 1
            asked = torch.cat([tokens.time[1:], query])
            nought = torch.zeros_like(order)
            packed = Packed(
                lay_out([1], 1),  # not read by these trunks
                order[None],
                order,
                nought[None],
                order,
                nought,
                tokens.time,
                asked,
            )
            hidden = trunk(x, packed)
        return self.network.scored(hidden[-1])


def export_onnx(network: Network, path: str | Path) -> None:
    """Write the encoder of one history, any length ≥ 1, as ONNX: inputs ``INPUTS``, output ``vector`` [d].

    ``vector`` · item vectors are the scores. Raises ``ModelError`` for a trunk that ONNX does not allow (Caser), and
    ``MissingExtraError`` without the package ``onnx``.
    """
    if network.settings.trunk == "caser":
        raise ModelError(
            "a Caser trunk cannot be written as ONNX; choose gru, lstm, cnn, transformer or hstu"
        )
    example = tuple(torch.arange(1, 4) * 0 + 1 for _ in INPUTS[:-1])
    query = torch.ones(1, dtype=torch.int64)
    names = list(INPUTS)
    one = _OneHistory(network.cpu()).eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                one,
                (*example, query),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=names,
                output_names=["vector"],
                dynamic_axes={name: {0: "events"} for name in names[:-1]},
            )
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtraError("writing ONNX", "onnx") from None
    _check_written(network, path)


def _check_written(network: Network, path: str | Path) -> None:
    """Hold the file to the network's own answer on a made-up history, where ONNX Runtime is there to ask."""
    try:
        import onnxruntime
    except ImportError:
        return
    rng = np.random.default_rng(0)
    known = network.vocabulary
    length = 5
    columns = {
        "item": rng.integers(0, known.items, length),
        "type": rng.integers(0, known.types, length),
        "time": np.sort(rng.integers(0, 10**6, length)),
    }
    made = {name: columns.get(name, np.zeros(length, np.int64)) for name in INPUTS[:-1]}
    made["query"] = np.array([2 * 10**6])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    found = session.run(None, {n: v.astype(np.int64) for n, v in made.items() if n in wanted})[0]
    with torch.no_grad():
        ours = _OneHistory(network).eval()(
            *(torch.from_numpy(made[n].astype(np.int64)) for n in INPUTS)
        )
    if not np.allclose(found, ours.numpy(), rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"{path} does not answer as the network does; the ONNX export of this trunk is not to be trusted"
        )
