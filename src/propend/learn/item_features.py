"""What is known of items besides their ids, as sequence models take it: categories, numbers, prices, texts, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.events.store import Store
from propend.events.timelines import Column
from propend.expression.nodes import Field
from propend.features.schema import Attribute, Schema
from propend.learn.snapshot import changing
from propend.models.sequence.encoder import encode_texts, hash_texts
from propend.models.sequence.tokens import NONE, ItemFeatures
from propend.names import ITEM, PRICE

__all__ = ["features_of", "item_features"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

MOST_VALUES: Final = 4_096
"""Texts with more values than this, or with a value for every other item, are read word by word, not as categories."""


def item_features(
    store: Store,
    schema: Schema,
    *,
    until: int,
    items: int | None = None,
    encoder: str | Path | None = None,
) -> ItemFeatures | None:
    """Return a log's catalogue (its first ``items``, by default all) as item features; None where nothing is known.

    An attribute that changes from line to line is left out, since its value of today may be later than a row's cutoff;
    a price that the log's own lines carry is read from those before ``until`` (UTC microseconds). Texts become vectors
    as in ``features_of``, or by the text encoder in the local folder ``encoder``.

    Raises ``DataError`` where an ``encoder`` is named and the catalogue has no text.
    """
    moved = changing(store)
    steady = {n: v for n, v in schema.items.items() if str(Field((ITEM, n))) not in moved}
    count = max(len(schema.item_ids) if items is None else items, 1)
    if PRICE not in steady and PRICE in store.manifest.columns:
        steady[PRICE] = _prices(store, count, until)
    vectors = None
    if encoder is not None:
        texts = _texts(steady, _wordy(steady, count), count)
        if not texts:
            raise DataError(
                "there is no text of items to encode; declare a name or description under [items.attributes] in "
                "propend.toml, or leave --encoder out"
            )
        vectors = encode_texts(texts, encoder)
    return features_of(steady, count, vectors)


def features_of(
    items: Mapping[str, Attribute],
    count: int,
    vectors: F32 | None = None,
    *,
    learnt: Mapping[str, Attribute] | None = None,
) -> ItemFeatures | None:
    """Return attributes of ``count`` items as item features: categories as codes, numbers in bins, the rest as vectors.

    Texts that differ from item to item (names, descriptions) become vectors of their hashed characters, unless
    ``vectors`` are given for them; an attribute of two dimensions [count, w] (of pictures, for example) is a vector already.

    ``learnt``: the attributes of other items, which a network has learnt from; then ``items`` are read by their bins,
    categories and rare words, and what was not among them is missing.

    >>> names = Column(np.array([0, 1], np.int32), ("red mug", "blue mug"))
    >>> made = features_of({"name": names, "price": np.array([3.0, np.nan])}, 2)
    >>> made.described, made.width
    ((('0_price', 2),), 128)
    >>> features_of({"price": np.array([2.1, 9.0])}, 2, learnt={"price": np.array([1.0, 5.0])}).codes
    {'0_price': array([ 4, 15], dtype=int32)}
    """
    like, wordy, before = items, _wordy(items, count), 0
    if learnt is not None:
        before = max((_size(v) for v in learnt.values()), default=0)
        wordy = _wordy(learnt, before)
        like, items = learnt, {n: _as(old, items.get(n), count) for n, old in learnt.items()}
    coded: dict[str, tuple[I32, int]] = {}
    numbers: dict[str, F64] = {}
    whole: dict[str, F64] = {}
    more = [] if vectors is None else [vectors]
    for name, values in items.items():
        plain = f"{len(coded) + len(numbers)}_" + "".join(c if c.isalnum() else "_" for c in name)
        old = like[name]
        if isinstance(values, Column):
            if name not in wordy:
                many = len(old.values) if isinstance(old, Column) else 0
                codes = values.codes[:count]
                coded[plain] = (np.where(codes < many, codes, NONE), many)
        elif values.ndim == 2:
            known = np.nan_to_num(values[:count])
            size = np.linalg.norm(known, axis=1, keepdims=True)
            more.append((known / np.maximum(size, 1e-12)).astype(np.float32))
        else:
            numbers[plain] = values[:count]
            whole[plain] = numbers[plain] if learnt is None else np.asarray(old)
    if vectors is None and (texts := _texts(items, wordy, count)):
        met = None if learnt is None else _texts(learnt, wordy, before)
        more.append(hash_texts(texts, learnt=met))
    if not coded and not numbers and not more:
        return None
    return ItemFeatures.of(coded, numbers, np.hstack(more) if more else None, learnt=whole)


def _texts(items: Mapping[str, Attribute], names: Iterable[str], count: int) -> list[str]:
    """Return for each of the first ``count`` items its texts of those names, one behind the other; empty without any."""
    columns = [c for name in names if isinstance(c := items[name], Column)]
    parts = [[c.values[k] if k >= 0 else "" for k in c.codes[:count].tolist()] for c in columns]
    return [" ".join(filter(None, texts)) for texts in zip(*parts, strict=True)]


def _wordy(items: Mapping[str, Attribute], count: int) -> list[str]:
    """Return the names of the texts that differ from item to item."""
    most = min(MOST_VALUES, max(count // 2, 1))
    return [n for n, c in items.items() if isinstance(c, Column) and len(c.values) > most]


def _size(values: Attribute) -> int:
    return len(values.codes if isinstance(values, Column) else values)


def _as(old: Attribute, values: Attribute | None, count: int) -> Attribute:
    """Return an attribute of ``count`` items in the kind and the codes of another; new texts follow its own.

    >>> old, new = (Column(np.array([0], np.int32), texts) for texts in (("red", "blue"), ("green", "blue")))
    >>> _as(old, new, 1)
    Column(codes=array([2], dtype=int32), values=('red', 'blue', 'green'))
    """
    if isinstance(old, Column):
        if not isinstance(values, Column):
            return Column(np.full(count, NONE, np.int32), old.values)
        place = {text: code for code, text in enumerate(old.values)}
        codes = [place.setdefault(text, len(place)) for text in values.values]
        lookup = np.array([*codes, NONE], np.int32)  # the last is for what is missing
        return Column(lookup[values.codes], tuple(place))
    shape = (count, *old.shape[1:])
    fits = isinstance(values, np.ndarray) and values.shape == shape
    return values if fits and values is not None else np.full(shape, np.nan)


def _prices(store: Store, count: int, until: int) -> F64:
    """Return the mean logarithm of each item's prices on the log's lines known before a moment, NaN without any."""
    total, met = np.zeros(count), np.zeros(count)
    for bucket in sorted(store.manifest.runs):
        lines = store.timelines(bucket, [PRICE]).before(until)
        price = lines.numbers[PRICE]
        known = (lines.item >= 0) & (lines.item < count)
        rows = np.flatnonzero(known & np.isfinite(price) & (price > 0))
        total += np.bincount(lines.item[rows], np.log(price[rows]), minlength=count)
        met += np.bincount(lines.item[rows], minlength=count)
    return np.divide(total, met, out=np.full(count, np.nan), where=met > 0)
