"""Which words of a log's texts become features: the commonest that carry meaning, chosen without a look at any label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.terms import terms
from propend.features.derive import Sentences, told_texts
from propend.features.schema import Schema
from propend.names import TEXT

__all__ = ["MANY_TEXTS", "SENTENCE", "common_terms", "sentences"]

SENTENCE: Final = 2.5
"""Fewest terms a text has on average to be called one; below that it is a name or a code."""
MANY_TEXTS: Final = 1_000
"""A free property is sentences with more different texts than this, or where half of them are different; the role ``text`` always is."""
READ: Final = 20_000
"""Texts of a column that are read to choose its words."""
SEARCHED: Final = 5_000_000
"""Events among which texts are looked for, where few carry one."""
MOST_TERMS: Final = 40
MOST_COLUMNS: Final = 2
FEWEST_USERS: Final = 10
"""Fewest users that must have said a word: what few say tells little, and might name one of them."""
TOO_COMMON: Final = 0.8
ECHO: Final = 0.9
"""Terms whose users overlap by more than this (Jaccard) tell the same."""

# fmt: off
_EMPTY_WORDS: Final = (
    "a an and any are as at be been but by can could did do does for from had has have he her hers him his i i'd i'm i've if in into is it "
    "it's its just me my of on or our ours out own she so some such than that the their them then there these they this those to too us "
    "was we were what when where which while who will with would you your yours very also am being"
)
_EMPTY: Final = frozenset(_EMPTY_WORDS.split())
_EMPTY_SIGNS: Final = frozenset("的了是我你他她它们这那在和就都也与及着吗呢吧啊呀个么")
# fmt: on
"""Words that hold sentences together and tell nothing; what negates (not, no, never, 不, 没) is none of them."""


@dataclass
class _Read:
    """What was read of one column."""

    texts: int = 0
    length: int = 0
    different: set[str] = field(default_factory=set)
    users: set[int] = field(default_factory=set)
    said: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    types: Counter[int] = field(default_factory=Counter)


def sentences(store: Store, schema: Schema, until: int) -> tuple[Sentences, ...]:
    """Return the columns of a log that hold sentences, the event types that carry them and the words that are counted.

    Only what had been written, and was known, before ``until`` (UTC microseconds) is read: the first test's cutoff, so that no
    test text has a say in what is counted. A word must come from ``FEWEST_USERS`` users. Users lie in buckets by a hash, so the
    first buckets are a fair sample.
    """
    names = told_texts(schema)
    found, events = {name: _Read() for name in names}, 0
    for bucket in sorted(store.manifest.runs) if names else ():
        timelines = store.timelines(bucket, names)
        for name, read in found.items():
            _read(timelines, name, until, read)
        events += len(timelines)
        if events >= SEARCHED or min(read.texts for read in found.values()) >= READ:
            break
    made = []
    for name, read in sorted(found.items(), key=lambda f: -f[1].texts):
        repeats = len(read.different) <= min(0.5 * read.texts, MANY_TEXTS)
        if not read.texts or read.length < SENTENCE * read.texts or (repeats and name != TEXT):
            continue
        chosen = common_terms(read.said, len(read.users))
        if chosen:
            types = tuple(sorted(schema.types[code] for code in read.types))
            made.append(Sentences(name, types, chosen, repeats))
    return tuple(made[:MOST_COLUMNS])


def _read(t: Timelines, name: str, until: int, read: _Read) -> None:
    """Add the texts of a bucket, up to ``READ`` in all."""
    column = t.texts[name]
    past = (t.time < until) & (column.codes >= 0)
    if t.arrival is not None:
        past &= t.arrival <= until
    rows = np.flatnonzero(past)[: READ - read.texts]
    owner = t.users[np.searchsorted(t.offsets, rows, side="right") - 1]
    for user, code, kind in zip(
        owner.tolist(), column.codes[rows].tolist(), t.type[rows].tolist(), strict=True
    ):
        text = column.values[code]
        heard = terms(text)
        read.texts += 1
        read.length += len(heard)
        read.different.add(text)
        read.users.add(user)
        read.types[kind] += 1
        for term in heard:
            read.said[term].add(user)


def common_terms(said: Mapping[str, Iterable[int]], users: int) -> tuple[str, ...]:
    """Return the ``MOST_TERMS`` terms that most users said; ``users`` is how many wrote anything.

    Of terms said by nearly the same users (a word and the only pair it stands in) the first is enough.

    >>> common_terms({"refund": range(12), "the": range(30), "full refund": range(11), "anna": range(3)}, 40)
    ('refund',)
    """
    by = {term: set(users_) for term, users_ in said.items() if not _empty(term)}
    told = [t for t, who in by.items() if FEWEST_USERS <= len(who) <= TOO_COMMON * users]
    chosen: list[str] = []
    for term in sorted(told, key=lambda t: (-len(by[t]), " " in t, t)):
        alike = (c for c in chosen if len(by[term]) >= ECHO * len(by[c]))
        if not any(len(by[term] & by[c]) >= ECHO * len(by[term] | by[c]) for c in alike):
            chosen.append(term)
            if len(chosen) == MOST_TERMS:
                break
    return tuple(chosen)


def _empty(term: str) -> bool:
    """Whether a word, or a word of a pair, tells nothing."""
    return any(word in _EMPTY for word in term.split()) or any(c in _EMPTY_SIGNS for c in term)
