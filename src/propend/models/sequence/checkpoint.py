"""Sequence models on disk: safetensors for the weights, JSON for everything else; no pickle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from propend.errors import MissingExtraError, ModelError
from propend.models.sequence.network import Network
from propend.models.sequence.settings import Settings
from propend.models.sequence.tokens import ItemFeatures, Vocabulary

__all__ = [
    "VERSION",
    "described",
    "load",
    "read_tensors",
    "restored",
    "save",
    "write_json",
    "write_tensors",
]

VERSION: Final = 2
WEIGHTS: Final = "weights.safetensors"
CONFIG: Final = "config.json"


def described(network: Network) -> dict[str, Any]:
    """Return a network's settings and vocabulary as JSON values."""
    return {
        "format": "propend-sequence",
        "version": VERSION,
        "settings": asdict(network.settings),
        "vocabulary": asdict(network.vocabulary),
    }


def save(network: Network, folder: Path, **more: Any) -> None:
    """Write a network to a folder: weights, then the configuration that makes them count.

    ``more`` stands beside it in the configuration (what the codes mean, how it was trained), and so does the
    weights' SHA-256: a save that is broken off between the two files is refused by ``load``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, network.state_dict())
    digest = _digest(folder / WEIGHTS)
    write_json(folder / CONFIG, {**described(network), "weights_sha256": digest, **more})


def load(
    folder: Path, *, vocabulary: Vocabulary | None = None, device: Any = "cpu"
) -> tuple[Network, dict[str, Any]]:
    """Return a saved network and its configuration.

    Raises
    ------
    ModelError
        nothing there, another format version, a ``vocabulary`` that is not the one it was trained on, or
        weights that do not fit or are not those that were saved with the configuration.
    """
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes())
    except OSError:
        raise ModelError(f"there is no sequence model in {folder}; train one first") from None
    except msgspec.DecodeError:
        raise ModelError(f"{folder / CONFIG} is damaged; train the model anew") from None
    tensors = read_tensors(folder / WEIGHTS)
    # no digest: an older save, nothing to compare
    if config.get("weights_sha256") not in (None, _digest(folder / WEIGHTS)):
        raise ModelError(
            f"the weights in {folder} are not those of their configuration: a save was broken off, or a file was "
            "replaced; train the model anew"
        )
    network = restored(config, tensors, str(folder), vocabulary)
    return network.to(device).eval(), config


def restored(
    config: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    place: str,
    vocabulary: Vocabulary | None = None,
) -> Network:
    """Return the network of a configuration and its weights; see ``load`` for what is refused."""
    if config.get("format") != "propend-sequence" or config.get("version") != VERSION:
        raise ModelError(
            f"the model in {place} is of format {config.get('format')!r} version {config.get('version')}, "
            f"this Propend reads 'propend-sequence' version {VERSION}; train it anew"
        )
    try:
        settings = msgspec.convert(config["settings"], Settings)
        known = msgspec.convert(config["vocabulary"], Vocabulary)
    except (KeyError, msgspec.ValidationError) as error:
        raise ModelError(
            f"the configuration of the model in {place} cannot be read ({error}); train it anew"
        ) from None
    if vocabulary is not None and vocabulary != known:
        theirs, ours = asdict(known), asdict(vocabulary)
        told = ", ".join(
            f"{k} {theirs[k]} there and {ours[k]} here" for k in ours if theirs[k] != ours[k]
        )
        raise ModelError(
            f"the model in {place} was trained on another schema ({told}); train it anew"
        )
    network = Network(settings, known, _empty_features(known))
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise ModelError(
            f"the weights in {place} do not fit their configuration ({why}); train it anew"
        ) from None
    return network


def _empty_features(vocabulary: Vocabulary) -> ItemFeatures | None:
    """Return item features of the right shapes; what they hold comes with the weights."""
    none = np.full(vocabulary.items, -1, np.int32)
    return ItemFeatures(
        {name: none for name, _ in vocabulary.features},
        dict(vocabulary.features),
        np.zeros((vocabulary.items, vocabulary.dense), np.float32) if vocabulary.dense else None,
    )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors so that the file is there whole or not at all."""
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise MissingExtraError("saving a sequence model", "deep") from None
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    draft.touch()
    # by the umask, as every other file; safetensors writes for its owner alone
    mode = draft.stat().st_mode
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, draft)
    draft.chmod(mode)
    os.replace(draft, path)  # noqa: PTH105


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors; raises ``ModelError`` for a file that is missing or damaged."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtraError("reading a sequence model", "deep") from None
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); restore it or train the model anew"
        ) from None
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))
    os.replace(draft, path)  # noqa: PTH105
