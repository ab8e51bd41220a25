"""Values of a column whose rows all answer alike: what no rank over all rows can see where such a value is rare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from propend.models.gathered import Gathered

__all__ = ["Answers"]

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LEAST: Final = 20
"""Rows (or what rows belong to) that a value needs to be judged by its answers."""
HAIR: Final = 0.01
"""Share of a value's rows that may answer otherwise where all the others answer alike."""
FAR: Final = 0.25
"""How far the surely known share of one answer among a value's rows lies above that answer's share of all rows."""
SURE: Final = 0.01
"""Chance of naming any value of any column of a table in which no column says anything."""


@dataclass(frozen=True)
class Answers:
    """A table with a yes/no label, or amounts asked whether they are above zero, and what its columns are called.

    ``X`` [n, d] with NaN for missing, ``y`` [n], ``texts`` by column of codes, ``groups`` [n] what rows belong to.

    >>> y = np.r_[np.zeros(900), np.ones(100)]
    >>> X = np.column_stack([np.arange(1000) % 7, np.arange(1000) >= 970]).astype(float)
    >>> Answers(X, y, ("age", "paid"), {}, None, "visit", "1").settled([0, 1], np.arange(1000))[0][2][:46]
    '30 of 30 rows with paid = 1 have visit = 1, of'
    """

    X: F64 | Gathered
    y: F64
    columns: Sequence[str]
    texts: Mapping[int, Sequence[str]]
    groups: npt.NDArray[Any] | None
    label: str
    positive: str

    @cached_property
    def two(self) -> bool:
        """Whether the label is yes/no."""
        return bool(np.isin(self.y, (0.0, 1.0)).all())

    @cached_property
    def yes(self) -> Bool:
        """Which rows say yes, or more than zero."""
        return np.asarray(self.y > 0)

    @cached_property
    def mixed(self) -> bool:
        """Whether both answers are there, as they are not for amounts that are never zero or may be below it."""
        return bool(self.y.min() == 0) and bool(self.yes.any())

    def row_by_row(self, judged: Sequence[int]) -> list[tuple[str, str]]:
        """Find columns with one value that stands in exactly the rows of one answer, whatever the others hold.

        Returns each with its sentence.
        """
        if not self.mixed or min(_count(self.groups, self.yes), _count(self.groups, ~self.yes)) < LEAST:  # fmt: skip
            return []
        what = f"{self.label} is {self.positive if self.two else 'above 0'}"
        found = []
        for j in judged:
            x, name = self.X[:, j], self.columns[j]
            for answer in (~self.yes, self.yes):
                value = x[int(np.argmax(answer))]
                if np.array_equal(_same(x, value), answer):
                    only = f"only one of the answers has {self._value(j, value)}"
                    found.append((name, f"{name!r} says row by row whether {what} ({only}): leave it out, or confirm that it is known in time"))  # fmt: skip
                    break
        return found

    def settled(
        self, judged: Sequence[int], rows: npt.NDArray[np.int64]
    ) -> list[tuple[str, float, str]]:
        """Find columns with a value whose rows all answer alike, surely beyond the share of that answer among all rows.

        The bound is Clopper and Pearson's (1934), its error divided by how many values were tried for both answers. Rows
        of one group count once. Looked for among some ``rows``, and told of all: column, share of the answer, sentence.
        """
        if not self.mixed:
            return []
        tried = [(j, *each) for j in judged for each in self._values(self.X[rows, j], rows)]
        rate = float(self.yes.mean())
        best: dict[int, tuple[float, tuple[str, float, str]]] = {}
        for j, value, other, hits, size in tried:
            for answer, kept, base in ((True, hits, rate), (False, size - hits, 1 - rate)):
                if size - kept > HAIR * size:
                    continue
                low = float(betaincinv(kept, size - kept + 1, SURE / (2 * len(tried))))
                if low - base < FAR or low <= best.get(j, (0.0,))[0]:
                    continue
                told = self._told(j, value, other, answer)
                if told is not None:
                    best[j] = (low, told)
        return [told for _, told in best.values()]

    def _values(
        self, x: F64, rows: npt.NDArray[np.int64]
    ) -> list[tuple[float, bool, float, float]]:
        """Return what of a column is tried: a value, whether all but it is meant, rows that say yes, rows."""
        yes, groups = self.yes[rows], None if self.groups is None else self.groups[rows]
        values, code, count = np.unique(x, return_inverse=True, return_counts=True)
        code = code.ravel()
        asked = [(i, False) for i in np.flatnonzero(count >= LEAST).tolist()]
        top = int(count.argmax())
        if len(values) > 2 and len(x) / 2 < count[top] <= len(x) - LEAST:
            asked.append((top, True))
        found = []
        for i, other in asked if len(values) > 1 else ():
            there = (code == i) != other
            size, hits = int(there.sum()), int(yes[there].sum())
            of = _count(groups, there)  # rows of one group are no new evidence
            if of >= LEAST:
                found.append((float(values[i]), other, hits * of / size, float(of)))
        return found

    def _told(
        self, j: int, value: float, other: bool, answer: bool
    ) -> tuple[str, float, str] | None:
        there = _same(self.X[:, j], value) != other
        size, kept = int(there.sum()), int((self.yes[there] == answer).sum())
        if size - kept > HAIR * size:
            return None
        name = self.columns[j]
        which = f"{name} {'other than' if other else '='} {self._value(j, value)}"
        if self.two:
            said = f"{self.label} {'=' if answer else 'other than'} {self.positive}"
        else:
            said = f"{self.label} {'above' if answer else 'of'} 0"
        usual = float((self.yes == answer).mean())
        return (
            name,
            kept / size,
            f"{kept:,} of {size:,} rows with {which} have {said}, of all rows {usual:.1%}: {name!r} may be known only afterwards; make sure that it is known in time",
        )

    def _value(self, j: int, value: float) -> str:
        if value != value:
            return "nothing"
        return str(self.texts[j][int(value)]) if j in self.texts else f"{value:g}"


def _same(x: F64, value: float) -> Bool:
    return np.asarray(np.isnan(x) if value != value else x == value)


def _count(groups: npt.NDArray[Any] | None, there: Bool) -> int:
    """Return how many rows, or groups of rows, there are."""
    return int(there.sum()) if groups is None else len(np.unique(groups[there]))
