"""The contract suite of recommenders: run it over your own before you plug it in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from propend.errors import DataError, ModelError, NotEnoughDataError, PropendError
from propend.events.timelines import Column
from propend.names import DAY
from propend.recommend.interactions import Interactions
from propend.recommend.recommender import Items, Recommendations, Recommender

__all__ = ["check_recommender", "sample"]

Factory = Callable[[], Recommender]


def sample(users: int = 60, items: int = 30, seed: int = 7) -> tuple[Interactions, Items]:
    """Return made-up interactions over 90 days with two tastes, and item attributes.

    User codes have gaps, item ``items − 1`` is never met, purchases repeat.
    """
    rng = np.random.default_rng(seed)
    n = users * 12
    user = rng.integers(0, users, n)
    half = (items - 1) // 2
    near = np.minimum((rng.random(n) ** 2 * half).astype(np.int64), half - 1)
    stray = rng.random(n) < 0.15
    item = np.where((user % 2 == 1) ^ stray, near + half, near)
    time = rng.integers(0, 90 * DAY, n)
    weight = rng.choice([1.0, 3.0, 5.0], n)
    log = Interactions.of(3 * user + 2, item, time, weight, n_items=items)
    codes = (np.arange(items) >= half).astype(np.int32)
    words = tuple(f"{'red' if c else 'blue'} thing {n}" for n, c in enumerate(codes))
    attributes: Items = {
        "category": Column(codes, ("blue", "red")),
        "name": Column(np.arange(items, dtype=np.int32), words),
        "price": rng.random(items) * 10,
    }
    return log, attributes


def check_recommender(factory: Factory) -> None:
    """Hold a recommender to its contract; an ``AssertionError`` says which promise is broken.

    Parameters
    ----------
    factory
        makes a new recommender that is not fitted.

    >>> from propend.recommend.popularity import Popularity
    >>> check_recommender(Popularity)
    """
    log, items = sample()
    at = log.last + 1
    shelf = factory().fit(log, items=items, at=at, seed=3)
    shown = shelf.recommend(k=8)
    _check_lists(shelf, shown, log)
    _check_one_by_one(shelf, shown, log)
    _check_limits(shelf, log)
    _check_cold(shelf)
    _check_refit(factory, log, items, at, shown)
    _check_update(factory, log, items, at, shown)
    _check_saving(shelf, shown)
    _check_reasons(shelf, shown)
    _check_sentences(factory, shelf, log)


def _check_lists(shelf: Recommender, shown: Recommendations, log: Interactions) -> None:
    assert shown.items.shape == (log.n_users, 8), "recommend gives [users, k]"
    assert shown.items.dtype == np.int32, "items are int32 codes"
    assert np.array_equal(shown.users, log.users), "no users named means all of them"
    there = shown.items >= 0
    assert there.any(), "something is shown to someone"
    assert (shown.items < log.n_items).all(), "never an item outside the catalogue"
    assert (there[:, :-1] >= there[:, 1:]).all(), "padding stands at the end"
    assert np.isneginf(shown.scores[~there]).all(), "padding has no score"
    assert np.isfinite(shown.scores[there]).all(), "what is shown has a score"
    for row in shown.lists():
        assert len(set(row)) == len(row), "an item is shown once"
    if not shelf.listwise:
        pairs = shown.scores[:, :-1] >= shown.scores[:, 1:]
        assert pairs[there[:, 1:]].all(), "the best come first"
        tied = (shown.scores[:, :-1] == shown.scores[:, 1:]) & there[:, 1:]
        assert (shown.items[:, :-1] < shown.items[:, 1:])[tied].all(), "ties: smaller code first"
    had = log.histories()
    hidden = shelf.recommend(k=8, exclude_seen=True)
    for number, shown_now in enumerate(hidden.lists()):
        met = set(had.items[had.offsets[number] : had.offsets[number + 1]].tolist())
        assert not met & set(shown_now), "exclude_seen hides what was met"


def _check_one_by_one(shelf: Recommender, shown: Recommendations, log: Interactions) -> None:
    for row in range(0, log.n_users, 13):
        alone = shelf.recommend([int(log.users[row])], k=8)
        same = np.allclose(alone.scores[0], shown.scores[row], rtol=1e-4, atol=1e-6)
        assert same, "a user alone scores as among many"
    turned = shelf.recommend(log.users[::-1], k=8)
    assert np.allclose(turned.scores[::-1], shown.scores, rtol=1e-4, atol=1e-6), "any order will do"
    some = shelf.scores(log.users[:3], [0, 2])
    assert some.shape == (3, 2), "scores are [users, items]"
    assert np.allclose(some, shelf.scores(log.users[:3])[:, [0, 2]], rtol=1e-4, atol=1e-6)


def _check_limits(shelf: Recommender, log: Interactions) -> None:
    within = shelf.recommend(k=5, within=[1, 2, 3])
    assert set(within.items[within.items >= 0]) <= {1, 2, 3}, "within is the catalogue"
    mask = np.zeros(log.n_items, np.bool_)
    mask[[1, 2, 3]] = True
    assert np.array_equal(shelf.recommend(k=5, within=mask).items, within.items), "codes or a mask"
    without = shelf.recommend(k=5, exclude=[0, 1])
    assert not {0, 1} & set(without.items.ravel().tolist()), "exclude is never shown"
    many = shelf.recommend(k=log.n_items + 5)
    assert many.items.shape[1] == log.n_items + 5, "k past the catalogue is padded"
    assert (many.items[:, -5:] == -1).all(), "there are no more items than the catalogue has"
    later = shelf.recommend(log.users[:2], k=3, at=shelf.at + 5 * DAY)
    assert later.items.shape == (2, 3), "a later moment may be asked about"


def _check_cold(shelf: Recommender) -> None:
    cold = shelf.recommend([10**9], k=4)
    empty = shelf.recommend([[]], k=4)
    assert np.array_equal(cold.items, empty.items), "a cold user is an empty session"
    session = shelf.recommend([[0, 1], [2]], k=4)
    assert session.items.shape == (2, 4), "sessions are served"
    assert (session.users == -1).all(), "a session is nobody"


def _check_refit(
    factory: Factory, log: Interactions, items: Items, at: int, shown: Recommendations
) -> None:
    before = (log.user.copy(), log.item.copy(), log.time.copy(), log.weight.copy())
    shelf = factory()
    shelf.fit(log.select(log.user < 90), items=items, seed=1)
    again = shelf.fit(log, items=items, at=at, seed=3).recommend(k=8)
    assert np.array_equal(again.items, shown.items), "fitting again starts afresh"
    assert np.array_equal(again.scores, shown.scores), "the same seed gives the same scores"
    after = (log.user, log.item, log.time, log.weight)
    same = all(np.all(a == b) for a, b in zip(before, after, strict=True))
    assert same, "fit must not change its input"
    cut = log.first + (log.last - log.first) // 2
    early = factory().fit(log, items=items, at=cut, seed=3)
    blind = factory().fit(log.until(cut), items=items, at=cut, seed=3)
    assert np.array_equal(early.recommend(k=4).items, blind.recommend(k=4).items), (
        "nothing at or after the cutoff is seen"
    )


def _check_update(
    factory: Factory, log: Interactions, items: Items, at: int, shown: Recommendations
) -> None:
    cut = log.first + (log.last - log.first) * 2 // 3
    shelf = factory().fit(log, items=items, at=cut, seed=3)
    if shelf.appends:
        _check_append(factory().fit(log, items=items, at=cut, seed=3), shelf, log, at)
        return
    shelf.update(log.select(log.time >= cut), at=at)
    updated = shelf.recommend(k=8)
    assert np.array_equal(updated.items, shown.items), "update equals a refit on all of it"
    assert np.array_equal(updated.scores, shown.scores), "update gives the scores of a refit"
    if not getattr(shelf, "appends", False):
        late = (log.user + log.item) % 3 == 0  # they arrive late and lie between the others
        shelf = factory().fit(log.select(~late), items=items, at=at, seed=3)
        joined = shelf.update(log.select(late), at=at)
        whole = factory().fit(shelf.history, items=items, at=at, seed=3)
        same = np.array_equal(joined.recommend(k=8).items, whole.recommend(k=8).items)
        assert same, "what arrives late is learnt from as if it had been there"


def _check_append(whole: Recommender, parts: Recommender, log: Interactions, at: int) -> None:
    before = whole.scores(log.users)
    later = log.select(log.time >= whole.at)
    middle = (later.first + later.last) // 2
    alike = _likeness(whole)
    whole.update(later, at=at)
    parts.update(later.until(middle)).update(later.select(later.time >= middle), at=at)
    after = whole.scores(log.users)
    assert np.array_equal(after, parts.scores(log.users)), "bit by bit or at once is the same"
    longer = np.isin(log.users, later.users)
    moved = (after != before).any(axis=1)
    assert moved[longer].any(), "what was appended is read"
    if not whole.spreads:
        assert np.array_equal(_likeness(whole), alike), "what was learnt stays as it was"
    assert whole.at == at, "update moves the moment"
    assert len(whole.history) == len(log), "the history is the joined one"


def _likeness(shelf: Recommender) -> Any:
    try:
        return shelf.similar([0, 1], k=5).scores
    except ModelError:
        return np.zeros(0)  # it may say that it knows no likeness


def _check_saving(shelf: Recommender, shown: Recommendations) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shelf"
        shelf.save(folder)
        loaded = type(shelf).load(folder)
        again = loaded.recommend(k=8)
        assert np.array_equal(again.items, shown.items), "loading changes no list"
        assert np.array_equal(again.scores, shown.scores), "loading changes no score"
        assert repr(loaded) == repr(shelf), "settings survive saving"
        assert loaded.at == shelf.at, "the moment survives saving"
        _says(ModelError, "already there", lambda: shelf.save(folder))
        for file in folder.iterdir():
            assert b"pickle" not in file.read_bytes(), "no pickle"


def _check_reasons(shelf: Recommender, shown: Recommendations) -> None:
    told = shelf.reasons(shown)
    for row, items in enumerate(shown.items.tolist()):
        for place, item in enumerate(items):
            text = told[row][place]
            assert bool(text) == (item >= 0), "a reason for each item, none for padding"
            assert "\n" not in text, "one sentence"
    row = int((shown.items[:, 0] >= 0).argmax())
    assert shelf.reason(int(shown.users[row]), int(shown.items[row, 0])), "a reason for one item"
    try:
        alike = shelf.similar([0, 1], k=3)
    except ModelError:
        return  # it may say that it knows no likeness
    assert alike.items.shape == (2, 3), "similar gives [items, k]"
    assert 0 not in alike.items[0], "an item is not listed as like itself"


def _check_sentences(factory: Factory, shelf: Recommender, log: Interactions) -> None:
    fresh = factory()
    _says(ModelError, "call fit first", lambda: fresh.recommend(k=2))
    nothing = log.select(np.zeros(len(log), np.bool_))
    _says(NotEnoughDataError, "at least one interaction", lambda: fresh.fit(nothing))
    _says(ModelError, "k must be 1", lambda: shelf.recommend(k=0))
    _says(ModelError, "no item with code", lambda: shelf.recommend(within=[10**6]))
    _says(ModelError, "no item with code", lambda: shelf.similar([-1]))
    _says(ModelError, "no item with code", lambda: shelf.recommend([[10**6]]))
    _says(ModelError, "earlier", lambda: shelf.recommend(k=2, at=shelf.at - 1))
    _says(ModelError, "one per item", lambda: fresh.fit(log, items={"x": np.zeros(3)}))
    _says(DataError, "0 or more", lambda: Interactions.of([-1], [0]))


def _says(kind: type[PropendError], words: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as error:
        message = str(error)
        assert words in message, f"the sentence should say '{words}': {message}"
        assert "\n" not in message, f"one sentence, not lines: {message}"
    else:
        raise AssertionError(f"{kind.__name__} with '{words}' was expected")
