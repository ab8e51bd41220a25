"""Sentences as numbers a person can read: which of the commonest words and pairs of words they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from propend.expression.terms import terms
from propend.features.sentences import SENTENCE

__all__ = ["Words"]

F64 = npt.NDArray[np.float64]

MOST: Final = 150
FEWEST: Final = 5
TOO_COMMON: Final = 0.8


@dataclass(frozen=True)
class Words:
    """The terms that are told, and how rare each is (inverse document frequency)."""

    terms: tuple[str, ...]
    rarity: tuple[float, ...]

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Self | None:
        """Choose the ``MOST`` commonest terms without a look at any label; ``None`` where these are no sentences.

        >>> Words.of(["late again", "late again and cold", "very late indeed today"] * 4).terms[:2]
        ('again', 'late again')
        """
        found: Counter[str] = Counter()
        length, there = 0, 0
        for text in texts:
            if text:
                here = terms(text)
                found.update(set(here))
                length, there = length + len(here), there + 1
        if not there or length / there < SENTENCE:
            return None
        most = TOO_COMMON * there
        common = [(n, t) for t, n in found.items() if max(FEWEST, 0.002 * there) <= n <= most]
        kept = sorted(t for _, t in sorted(common, key=lambda c: (-c[0], c[1]))[:MOST])
        if not kept:
            return None
        return cls(
            tuple(kept), tuple(float(np.log((1 + there) / (1 + found[t])) + 1) for t in kept)
        )

    def matrix(self, texts: Sequence[str | None]) -> F64:
        """Return TF-IDF rows of length 1 [n, terms] (Salton & Buckley 1988); a text without any is 0, a missing one NaN."""
        place = {term: j for j, term in enumerate(self.terms)}
        out = np.zeros((len(texts), len(self.terms)))
        for i, text in enumerate(texts):
            if text is None:
                out[i] = np.nan
                continue
            for term in terms(text):
                j = place.get(term)
                if j is not None:
                    out[i, j] += self.rarity[j]
        length = np.sqrt((out**2).sum(axis=1, keepdims=True))
        return np.divide(out, length, out=out, where=length > 0)
