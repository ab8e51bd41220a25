"""Who entered a funnel, when they reached each step and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from propend.analytics.breakdown import merge_labels
from propend.events.timelines import Column

__all__ = ["Entries"]

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Entries:
    """Those who entered: user codes [m]; per step the moment it was first reached (``at``) and the time it took from the
    entry that led to it (``took``), int64 [m, steps], −1 where it was not.

    ``unit`` [m] numbers what is counted: the users, sessions or attempts. ``label`` is the breakdown, where each of them
    has one group; else ``groups`` holds a row for each of them and each group that it entered. Entries of buckets add by
    concatenation.
    """

    user: I64
    at: I64
    took: I64
    unit: I64
    label: Column | None = None
    groups: Entries | None = None

    @classmethod
    def join(cls, parts: Sequence[Entries], steps: int) -> Entries:
        """Return all parts as one."""
        parts = [p for p in parts if len(p)]
        if not parts:
            none = np.zeros(0, np.int64)
            nowhere = np.zeros((0, steps), np.int64)
            return cls(none, nowhere, nowhere, none)
        first = np.cumsum([0, *(int(p.unit.max()) + 1 for p in parts[:-1])])
        whole = cls._join(parts, first)
        groups = [p.groups for p in parts if p.groups is not None]
        return replace(whole, groups=cls._join(groups, first) if groups else None)

    @classmethod
    def _join(cls, parts: Sequence[Entries], first: I64) -> Entries:
        labelled = [p.label for p in parts if p.label is not None]
        return cls(
            np.concatenate([p.user for p in parts]),
            np.concatenate([p.at for p in parts]),
            np.concatenate([p.took for p in parts]),
            np.concatenate([p.unit + f for p, f in zip(parts, first, strict=True)]),
            merge_labels(labelled) if labelled else None,
        )

    def select(self, keep: Bool | npt.NDArray[np.intp]) -> Entries:
        """Return some of them, without ``groups``."""
        label = None if self.label is None else self.label.take(keep)
        return Entries(self.user[keep], self.at[keep], self.took[keep], self.unit[keep], label)

    def merged(self) -> Entries:
        """Return one row per unit: each step at the first moment any row reached it, from the latest entry leading to it."""
        unit, row, owner = np.unique(self.unit, return_index=True, return_inverse=True)
        at, took = np.full((2, len(unit), self.at.shape[1]), -1, np.int64)
        for k in range(self.at.shape[1]):
            there = np.flatnonzero(self.at[:, k] >= 0)
            order = there[np.lexsort((self.took[there, k], self.at[there, k], owner[there]))]
            u, i = np.unique(owner[order], return_index=True)
            at[u, k], took[u, k] = self.at[order[i], k], self.took[order[i], k]
        return Entries(self.user[row], at, took, unit)

    @property
    def entry(self) -> I64:
        """The moment of the entry that the deepest step counts from [m]."""
        steps = self.at.shape[1]
        deepest = steps - 1 - np.argmax((self.took >= 0)[:, ::-1], axis=1)
        row = np.arange(len(self))
        return np.asarray(self.at[row, deepest] - self.took[row, deepest])

    def __len__(self) -> int:
        return len(self.user)
