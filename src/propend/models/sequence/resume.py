"""A run of training on disk: kept whole after every epoch, taken up where it was broken off."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import torch

from propend.errors import ModelError
from propend.models.sequence import checkpoint
from propend.models.sequence.network import Network
from propend.models.sequence.settings import Settings

__all__ = ["Resumable", "Run"]

Tensor: TypeAlias = torch.Tensor

_LATEST: Final = "latest.json"
_COUNTERS: Final = ("epoch", "number", "steps", "tokens", "rate", "waited", "spikes", "deviation")


@dataclass
class Run:
    """How a training went: ``curves`` has a row per round, ``notes`` what a person should know."""

    network: Network
    curves: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    best: float = -np.inf
    best_epoch: int = 0
    data_hash: str = ""
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return everything but the network as JSON values."""
        return {
            "data_hash": self.data_hash,
            "weights": self.network.count(),
            "best": self.best if np.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "seconds": round(self.seconds, 1),
            "notes": self.notes,
            "curves": self.curves,
        }


class Resumable:
    """What of a run must be kept so that it ends as if it had not been broken off."""

    folder: Path | None
    network: Network
    settings: Settings
    optimiser: torch.optim.AdamW
    result: Run
    average: dict[str, Tensor]
    kept: dict[str, Tensor]
    level: float
    epoch: int
    number: int
    waited: int

    def _keep(self, finished: bool) -> None:
        """Write the whole state; the JSON names the file, so that a kill leaves the old or the new."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"run-{self.epoch:04d}-{self.number:06d}.safetensors"
        tensors = {f"now.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.items()}
        tensors |= {f"kept.{n}": t for n, t in self.kept.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": value for key, value in state.items()}
        checkpoint.write_tensors(self.folder / name, tensors)
        state = {
            "file": name,
            "finished": finished,
            "counters": {key: getattr(self, key) for key in _COUNTERS},
            "level": None if np.isnan(self.level) else self.level,
            "run": self.result.summary(),
            **checkpoint.described(self.network),
        }
        checkpoint.write_json(self.folder / _LATEST, state)
        for old in self.folder.glob("run-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _resume(self) -> bool:
        """Take up a run that was broken off; return whether it had finished."""
        if self.folder is None or not (self.folder / _LATEST).exists():
            return False
        try:
            state = msgspec.json.decode((self.folder / _LATEST).read_bytes())
            self._check_same(state)
        except (msgspec.DecodeError, KeyError, TypeError):
            raise ModelError(
                f"the run in {self.folder} is damaged; begin it anew (--fresh), or give a new folder"
            ) from None
        tensors = checkpoint.read_tensors(self.folder / state["file"])
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor.to(self.network.device)
        self.network.load_state_dict(parts["now"])
        self.average, self.kept = parts.get("average", {}), parts.get("kept", {})
        kept: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts.get("optimiser", {}).items():
            number, _, key = name.partition(".")
            kept.setdefault(int(number), {})[key] = tensor.cpu() if key == "step" else tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": kept})
        for key, value in state["counters"].items():
            setattr(self, key, value)
        self.level = float("nan") if state["level"] is None else state["level"]
        run = state["run"]
        self.result.curves, self.result.notes[:] = run["curves"], run["notes"]
        self.result.best = -np.inf if run["best"] is None else run["best"]
        self.result.best_epoch, self.result.seconds = run["best_epoch"], run["seconds"]
        return (
            bool(state["finished"]) and self.epoch >= self.settings.epochs
        ) or self.waited >= self.settings.patience

    def _check_same(self, state: dict[str, Any]) -> None:
        now = checkpoint.described(self.network)
        if (
            state.get("version") != now["version"]
            or state["run"]["data_hash"] != self.result.data_hash
            or state["vocabulary"] != msgspec.json.decode(msgspec.json.encode(now["vocabulary"]))
        ):
            raise ModelError(
                f"the run in {self.folder} was begun on other data or by another version; "
                "begin it anew (--fresh), or give a new folder"
            )
        theirs, ours = dict(state["settings"]), dict(now["settings"])
        for free in ("epochs", "patience", "threads", "device"):
            theirs.pop(free, None), ours.pop(free, None)
        ours = msgspec.json.decode(msgspec.json.encode(ours))
        if theirs != ours:
            told = ", ".join(sorted(k for k in ours if theirs.get(k) != ours[k]))
            raise ModelError(
                f"the run in {self.folder} was begun with other settings ({told}); begin it anew (--fresh), or give a new folder"
            )
