"""Questions whose answers are kept: yesterday's answer plus today's events, equal to the full answer.

A question (:class:`Question`) says what a bucket's answer is (a part, arrays that add), and how a small state goes on over
further events. :func:`ask` reads everything; :class:`Kept` reads only the runs of the store that are new. A bucket whose
new runs all lie after what it has seen goes on from its state; one with late events, or whose runs were compacted or
erased, is answered afresh. Either way the answer is the full answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import merge_labels
from propend.analytics.scan import sweep
from propend.engine import Engine
from propend.errors import ConfigError
from propend.events.durable import sync_file
from propend.events.store import Store, lean_timelines
from propend.events.timelines import Column, Timelines, offsets_of
from propend.expression.nodes import Expression
from propend.features.schema import Attribute, Schema

__all__ = [
    "Adding",
    "Kept",
    "Part",
    "Question",
    "ask",
    "grown",
    "join",
    "pack",
    "unpack",
    "without_open",
]

I64 = npt.NDArray[np.int64]
Part = dict[str, Any]
"""Arrays by name: a bucket's answer, or its state."""


class Question(ABC):
    """What is asked of every bucket. ``key`` names it among the kept ones, ``columns`` are the event columns it reads."""

    key: str
    columns: list[str]
    context: str = ""
    """What else a state depends on (the zone, the first period, the names of the nodes): where it changed, all is read afresh."""
    attributes: Mapping[str, Attribute] = {}
    """The items' attributes that were read into a state; where one of an item that was known changed, all is read afresh."""

    def rest_on(
        self,
        schema: Schema,
        selections: Iterable[Expression] = (),
        fields: Iterable[str] = (),
        more: object = None,
    ) -> None:
        """Say what a state depends on beside the events: zone, types, the items' attributes that are read, and ``more``."""
        self.context = repr((schema.zone, schema.types, more))
        self.attributes = schema.attributes_of(selections, fields)

    @abstractmethod
    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Return a bucket's state after further events, all of them later than those before."""

    @abstractmethod
    def document(self, parts: Iterable[Part]) -> Any:
        """Return the answer from the buckets' parts."""

    def whole(self, timelines: Timelines) -> Part:
        """Return the part of a bucket that is read at once."""
        return self.of_state(self.take(None, timelines))

    def of_state(self, state: Part) -> Part:
        """Return the part that a state amounts to."""
        return state

    def fits(self, timelines: Timelines) -> bool:
        """Whether new events can be taken into a state; where not, the question is answered afresh."""
        del timelines
        return True

    def refused(self) -> str:
        """Return why the answer cannot be kept up to date, or nothing."""
        return ""


class Adding(Question):
    """A question whose answer is a sum over stretches of users' timelines: finished ones are added up and forgotten.

    ``open_`` says which events a later event may still belong to (an open session, touches before a conversion).
    """

    @abstractmethod
    def whole(self, timelines: Timelines) -> Part:
        """Return the part of some events, as if nothing came before or after."""

    @abstractmethod
    def open_(self, timelines: Timelines) -> npt.NDArray[np.bool_]:
        """Return the events [n] that are not finished with."""

    def add(self, a: Part, b: Part) -> Part:
        """Return the sum of two parts."""
        return {name: a[name] + b[name] for name in a}

    def take(self, state: Part | None, timelines: Timelines) -> Part:
        """Add what is finished, keep what is open."""
        t = timelines if state is None else join(unpack(state), timelines)
        waiting = self.open_(t)
        done = self.whole(t.select(~waiting))
        if state is not None:
            done = self.add(without_open(state), done)
        return {**done, **pack(t.select(waiting))}

    def of_state(self, state: Part) -> Part:
        """Return what is finished, and what is open as if it ended here."""
        return self.add(without_open(state), self.whole(unpack(state)))

    def total(self, parts: Iterable[Part]) -> Part | None:
        """Return the sum of all parts, or ``None`` where there is none."""
        found: Part | None = None
        for part in parts:
            found = part if found is None else self.add(found, part)
        return found


def ask(question: Question, store: Store, engine: Engine, *, as_of: int | None = None) -> Any:
    """Return the answer of a question, each bucket read once."""
    return question.document(sweep(store, engine, question.whole, question.columns, as_of=as_of))


@dataclass
class _Bucket:
    """A bucket's state, the runs it has seen and the latest moment in them."""

    files: list[str]
    high: int
    state: Part


@dataclass
class Kept:
    """A question that is kept up to date; raises ``ConfigError`` for one that cannot be.

    ``rows_read`` says how many events the last update read.
    """

    question: Question
    buckets: dict[int, _Bucket] = field(default_factory=dict)
    rows_read: int = 0

    def __post_init__(self) -> None:
        reason = self.question.refused()
        if reason:
            raise ConfigError(f"{reason}; leave out 'incremental'")

    @property
    def name(self) -> str:
        """A fingerprint of the question, for its file."""
        return hashlib.sha256(self.question.key.encode()).hexdigest()[:16]

    def update(self, store: Store, engine: Engine) -> Any:
        """Take in what is new in the store and return the whole answer."""

        def work(bucket: int) -> tuple[int, _Bucket, int]:
            return bucket, *self._update(store, bucket)

        found = list(engine.map_buckets(work, sorted(store.manifest.runs)))
        self.buckets = {bucket: kept for bucket, kept, _ in found}
        self.rows_read = sum(rows for _, _, rows in found)
        return self.question.document(
            self.question.of_state(kept.state) for kept in self.buckets.values()
        )

    def _update(self, store: Store, bucket: int) -> tuple[_Bucket, int]:
        runs = store.manifest.runs[bucket]
        seen = self.buckets.get(bucket)
        there = {run.file for run in runs}
        new = [run for run in runs if seen is None or run.file not in seen.files]
        if seen is not None and (
            not there.issuperset(seen.files) or any(run.low <= seen.high for run in new)
        ):
            seen, new = None, runs
        if seen is not None and not new:
            return seen, 0
        timelines = lean_timelines(store, bucket, self.question.columns, new)
        rows = len(timelines)
        if seen is not None and not self.question.fits(timelines):
            seen, new = None, runs
            timelines = lean_timelines(store, bucket, self.question.columns, runs)
            rows += len(timelines)
        state = self.question.take(None if seen is None else seen.state, timelines)
        return (
            _Bucket(
                [*(seen.files if seen else ()), *(run.file for run in new)],
                max(*(run.high for run in new), seen.high if seen else new[0].high),
                state,
            ),
            rows,
        )

    # ---- kept between runs

    def save(self, file: Path) -> None:
        """Write the states, whole or not at all (arrays and JSON, nothing that can run)."""
        about = {str(b): [kept.files, kept.high] for b, kept in self.buckets.items()}
        attributes = self.question.attributes
        items = min(map(_length, attributes.values()), default=0)
        head = json.dumps(
            {
                "context": self.question.context,
                "items": items,
                "attributes": _fingerprint(attributes, items),
                "buckets": about,
            }
        )
        arrays = {
            f"{b}/{name}": value
            for b, kept in self.buckets.items()
            for name, value in kept.state.items()
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        with part.open("wb") as out:
            np.savez(out, about=np.array(head), **arrays)
        sync_file(part)
        part.replace(file)

    def load(self, file: Path) -> Kept:
        """Take up saved states; what is missing, damaged or out of date is left aside, and the next update reads it all."""
        if not file.is_file():
            return self
        try:
            with np.load(file, allow_pickle=False) as data:
                head = json.loads(str(data["about"]))
                same = head["context"] == self.question.context and head[
                    "attributes"
                ] == _fingerprint(self.question.attributes, head["items"])
                states: dict[str, Part] = {b: {} for b in head["buckets"]}
                for key in data.files:
                    bucket, _, name = key.partition("/")
                    if name:
                        states[bucket][name] = data[key]
        except (ValueError, KeyError, OSError, TypeError, zipfile.BadZipFile):
            return self
        if same:
            self.buckets = {
                int(b): _Bucket(files, high, states[b])
                for b, (files, high) in head["buckets"].items()
            }
        return self


def _length(attribute: Attribute) -> int:
    return len(attribute.codes if isinstance(attribute, Column) else attribute)


def _fingerprint(attributes: Mapping[str, Attribute], items: int) -> str:
    """Return a hash of the first ``items`` items' attributes: items that came later were in no state.

    >>> colours = Column(np.array([0, 1, -1], np.int32), ("red", "blue"))
    >>> again = Column(np.array([1, 0, -1, 2], np.int32), ("blue", "red", "green"))
    >>> _fingerprint({"colour": colours}, 3) == _fingerprint({"colour": again}, 3)
    True
    >>> _fingerprint({"colour": colours}, 2) == _fingerprint({"colour": again}, 4)
    False
    """
    digest = hashlib.sha256()
    for name in sorted(attributes):
        digest.update(f"{name}\n".encode())
        values = attributes[name]
        if not isinstance(values, Column):
            digest.update(np.ascontiguousarray(values[:items], np.float64).tobytes())
            continue
        used, codes = np.unique(values.codes[:items], return_inverse=True)
        texts = [None if c < 0 else values.values[c] for c in used.tolist()]
        order = sorted(range(len(texts)), key=lambda i: (texts[i] is not None, texts[i] or ""))
        place = np.argsort(np.array(order, np.int64))
        digest.update(json.dumps([texts[i] for i in order]).encode())
        digest.update(place[codes].astype(np.int64).tobytes())
    return digest.hexdigest()


# ---- states that grow


def grown(
    state: Part | None, users: I64, empty: Mapping[str, Callable[[int], Any]]
) -> tuple[Part, I64]:
    """Return per-user arrays that hold ``users`` too, and the row of each of them; ``empty`` makes rows for the new.

    A state's ``users`` are ascending codes; its other arrays named in ``empty`` have a row for each.
    """
    if state is None:
        return {"users": users, **{name: make(len(users)) for name, make in empty.items()}}, (
            np.arange(len(users))
        )
    everyone = np.union1d(state["users"], users).astype(np.int64)
    at = np.searchsorted(everyone, state["users"])
    found: Part = {"users": everyone}
    for name, make in empty.items():
        made = make(len(everyone))
        made[at] = state[name]
        found[name] = made
    return found, np.searchsorted(everyone, users)


def join(before: Timelines, after: Timelines) -> Timelines:
    """Return users' events with later events behind them; text columns keep their values."""
    owner = np.concatenate([before.users[before.user_of_row], after.users[after.user_of_row]])
    order = np.argsort(owner, kind="stable")
    users, offsets = offsets_of(owner[order])

    def both(name: str) -> Any:
        return np.concatenate([getattr(before, name), getattr(after, name)])[order]

    return Timelines(
        users,
        offsets,
        both("time"),
        both("type"),
        both("item"),
        both("seq"),
        {n: np.concatenate([v, after.numbers[n]])[order] for n, v in before.numbers.items()},
        {n: merge_labels([c, after.texts[n]]).take(order) for n, c in before.texts.items()},
    )


def pack(t: Timelines) -> Part:
    """Return events as arrays of a state."""
    found: Part = {
        "open/user": t.users[t.user_of_row], "open/time": t.time, "open/type": t.type,
        "open/item": np.array(t.item), "open/seq": np.array(t.seq),
    }  # fmt: skip
    for name, numbers in t.numbers.items():
        found[f"open/number/{name}"] = numbers
    for name, column in t.texts.items():
        kept = merge_labels([column])  # only the values that are still there
        found[f"open/code/{name}"] = kept.codes
        found[f"open/text/{name}"] = np.array(kept.values, np.str_)
    return found


def unpack(state: Part) -> Timelines:
    """Return the events of a state."""
    users, offsets = offsets_of(state["open/user"])
    numbers, texts = "open/number/", "open/code/"
    return Timelines(
        users,
        offsets,
        state["open/time"],
        state["open/type"],
        state["open/item"],
        state["open/seq"],
        {n.removeprefix(numbers): v for n, v in state.items() if n.startswith(numbers)},
        {
            n.removeprefix(texts): Column(
                v, tuple(state[f"open/text/{n.removeprefix(texts)}"].tolist())
            )
            for n, v in state.items()
            if n.startswith(texts)
        },
    )


def without_open(state: Part) -> Part:
    """Return a state but for its events."""
    return {name: value for name, value in state.items() if not name.startswith("open/")}
