"""Item vectors: texts by their hashed characters, texts or pictures by a Hugging Face encoder in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.errors import MissingExtraError, ModelError

__all__ = ["encode_pictures", "encode_texts", "hash_texts"]

F32 = npt.NDArray[np.float32]


def hash_texts(
    texts: Sequence[str], width: int = 128, *, learnt: Sequence[str] | None = None
) -> F32:
    """Return a vector [n, width] of length 1 for each text from its runs of 1 to 3 characters; nought for empty text.

    Runs inside words need no word list and serve Chinese and English alike; they are hashed, weighed by how rare they
    are, and projected by sparse random signs, which keeps who is like whom (Li, Hastie & Church, "Very sparse random
    projections", KDD 2006). ``learnt``: other texts, by which it is told how rare a run is.

    >>> mug, cup, sock = hash_texts(["red mug", "red mug, large", "woollen sock"])
    >>> bool(mug @ cup > 0.5 > mug @ sock)
    True
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.random_projection import SparseRandomProjection

    cut = HashingVectorizer(
        analyzer="char_wb", ngram_range=(1, 3), n_features=1 << 18, alternate_sign=False, norm=None
    )
    rarity = TfidfTransformer(sublinear_tf=True)
    rarity.fit(cut.transform(texts if learnt is None else learnt))
    found = rarity.transform(cut.transform(texts))
    project = SparseRandomProjection(width, random_state=0, dense_output=True)
    return _unit([np.asarray(project.fit_transform(found), np.float32)])


def encode_texts(texts: Sequence[str], folder: str | Path, *, batch: int = 64) -> F32:
    """Return a vector [n, w] of length 1 for each text: the mean of the encoder's tokens; nought for empty text.

    Nothing is downloaded. Raises ``ModelError`` for a folder without an encoder, ``MissingExtraError``
    without ``transformers``.
    """
    library, place = _library(), _place(folder)
    import torch

    try:
        cut = library.AutoTokenizer.from_pretrained(place, local_files_only=True)
        model = library.AutoModel.from_pretrained(place, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(place, "text", error) from None
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            chosen = [text or " " for text in texts[start : start + batch]]
            tokens = cut(chosen, padding=True, truncation=True, max_length=128, return_tensors="pt")
            states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][:, :, None].to(states.dtype)
            parts.append(((states * mask).sum(1) / mask.sum(1).clamp(min=1)).float().numpy())
    found = _unit(parts)
    found[[not text for text in texts]] = 0.0
    return found


def encode_pictures(
    files: Sequence[str | Path | None], folder: str | Path, *, batch: int = 32
) -> F32:
    """Return a vector [n, w] of length 1 for each picture file; nought where there is none.

    Raises as ``encode_texts``, and ``ModelError`` for a file that is no picture.
    """
    library, place = _library(), _place(folder)
    import torch

    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading pictures", "encoders") from None
    try:
        prepare = library.AutoImageProcessor.from_pretrained(place, local_files_only=True)
        model = library.AutoModel.from_pretrained(place, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(place, "image", error) from None
    model = getattr(model, "vision_model", model)
    there = [i for i, file in enumerate(files) if file is not None]
    parts = []
    with torch.no_grad():
        for start in range(0, len(there), batch):
            pictures = []
            for i in there[start : start + batch]:
                try:
                    pictures.append(Image.open(str(files[i])).convert("RGB"))
                except OSError as error:
                    raise ModelError(
                        f"{files[i]} is no picture ({error}); leave it out or mend it"
                    ) from None
            states = model(**prepare(images=pictures, return_tensors="pt")).last_hidden_state
            parts.append(
                states.flatten(2).mean(2).float().numpy()
                if states.ndim == 4
                else states.mean(1).float().numpy()
            )
    if not parts:
        raise ModelError("there is no picture to encode; name picture files for some items")
    unit = _unit(parts)
    found = np.zeros((len(files), unit.shape[1]), np.float32)
    found[there] = unit
    return found


def _unit(parts: list[F32]) -> F32:
    found = np.concatenate(parts)
    return np.asarray(
        found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32
    )


def _place(folder: str | Path) -> str:
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise ModelError(
            f"{place} holds no Hugging Face encoder (config.json is missing); give the folder of a downloaded model"
        )
    return str(place)


def _unreadable(place: str, kind: str, error: Exception) -> ModelError:
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{place} cannot be read as a {kind} encoder ({why}); give the folder of a downloaded model"
    )


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("a Hugging Face encoder", "encoders") from None
    return transformers
