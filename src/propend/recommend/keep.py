"""A fitted recommender kept on disk, so that a question does not fit it again."""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from propend.config import RecommendConfig
from propend.errors import ModelError
from propend.events.store import Store
from propend.recommend.catalog import load
from propend.recommend.recommender import Recommender

__all__ = ["read", "stamp", "write"]


def stamp(store: Store, rules: RecommendConfig, seed: int) -> str:
    """Return a hash of all a fitted recommender is made from: the store's manifest, the rules, the seed, the version."""
    made_from = [store.folder.name, store.manifest.dumps(), msgspec.json.encode(rules).decode()]
    try:
        release = version("propend")
    except PackageNotFoundError:  # run from a checkout that is not installed
        release = ""
    made_from += [str(seed), release]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:24]


def read(place: Path) -> Recommender | None:
    """Return the fitted recommender that is kept there; none where there is none, or another version wrote it."""
    if not place.is_dir():
        return None
    try:
        return load(place)
    except ModelError:
        shutil.rmtree(place, ignore_errors=True)
        return None


def write(fitted: Recommender, place: Path) -> None:
    """Write a fitted recommender in one step, in place of older ones of its kind."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        fitted.save(fresh)
        fresh.rename(place)
    except (
        OSError,
        ModelError,
    ):  # another wrote it meanwhile, or the disk is full: it is only a copy
        shutil.rmtree(fresh, ignore_errors=True)
        return
    for old in place.parent.glob(f"{place.name.partition('-')[0]}-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
