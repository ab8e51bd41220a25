"""A model on disk: one JSON header, one ``.npz`` of plain arrays, LightGBM's texts; no pickle.

The header carries a format version and the SHA-256 of every file and of itself, so that a damaged,
half-written or edited model is refused. This is a check of content, not a signature: who can write
the folder can also write a consistent one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from propend.errors import ModelError

__all__ = ["FORMAT", "VERSION", "State", "check", "read", "write"]

FORMAT: Final = "propend-model"
VERSION: Final = 1
HEADER: Final = "model.json"
ARRAYS: Final = "arrays.npz"


@dataclass(frozen=True, slots=True)
class State:
    """What a model learnt: JSON values, arrays of numbers, texts (by name)."""

    header: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def nest(self, name: str, part: State) -> None:
        """Put the state of a part (a model inside a model) under ``name``."""
        self.header[name] = part.header
        self.arrays.update({f"{name}.{key}": value for key, value in part.arrays.items()})
        self.texts.update({f"{name}.{key}": value for key, value in part.texts.items()})

    def part(self, name: str) -> State:
        """Take out what ``nest`` put in."""
        start = f"{name}."
        return State(
            self.header[name],
            {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)},
            {k.removeprefix(start): v for k, v in self.texts.items() if k.startswith(start)},
        )


def write(state: State, folder: Path) -> None:
    """Write a state to a folder that does not exist yet (or is empty), whole or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is already there; save the model to a new folder")
    files = {f"{name}.txt": text.encode() for name, text in state.texts.items()}
    files[ARRAYS] = _packed(state.arrays)
    content = {"format": FORMAT, "version": VERSION, "state": state.header}
    content["files"] = {name: _digest(data) for name, data in sorted(files.items())}
    files[HEADER] = msgspec.json.format(
        msgspec.json.encode({**content, "sha256": _seal(content)}), indent=1
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        draft.chmod(0o755)
        os.replace(draft, folder)  # noqa: PTH105
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def read(folder: Path) -> State:
    """Read a state that ``write`` wrote.

    Raises
    ------
    ModelError
        no model there, another format version, or a file that changed since it was written.
    """
    content = _header(folder)
    files = {name: _checked(folder, name, digest) for name, digest in content["files"].items()}
    try:
        with np.load(io.BytesIO(files.pop(ARRAYS)), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        texts = {name.removesuffix(".txt"): data.decode() for name, data in files.items()}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(folder, ARRAYS) from error
    return State(content["state"], arrays, texts)


def check(folder: Path) -> None:
    """Check a saved model's seal and the digest of each of its files, without making a model of them.

    Raises
    ------
    ModelError
        as ``read``.
    """
    for name, digest in _header(folder)["files"].items():
        _checked(folder, name, digest)


def _header(folder: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode((folder / HEADER).read_bytes())
    except OSError:
        raise ModelError(f"there is no model in {folder} ({HEADER} is missing)") from None
    except msgspec.DecodeError:
        raise _damaged(folder, HEADER) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{folder / HEADER} is not a Propend model")
    if content.get("version") != VERSION:
        raise ModelError(
            f"the model in {folder} has format version {content.get('version')}, this Propend "
            f"reads {VERSION}; fit it anew or use the version that wrote it"
        )
    seal = content.pop("sha256", None)
    if seal != _seal(content) or not isinstance(content.get("files"), dict):
        raise _damaged(folder, HEADER)
    return content


def _checked(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise _damaged(folder, HEADER)
    try:
        data = (folder / name).read_bytes()
    except OSError:
        raise _damaged(folder, name) from None
    if _digest(data) != digest:
        raise _damaged(folder, name)
    return data


def _packed(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise ModelError(f"a model may save numbers only; '{name}' is {array.dtype}")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(content: dict[str, Any]) -> str:
    return _digest(msgspec.json.encode(content, order="sorted"))


def _damaged(folder: Path, name: str) -> ModelError:
    return ModelError(
        f"the model in {folder} is damaged: {name} is missing or was changed after saving; "
        "restore the folder or fit the model anew"
    )
