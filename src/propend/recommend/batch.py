"""Recommendations of a whole store in one call, as tables with ids, where each offer came from and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import RecommendConfig
from propend.engine import Engine
from propend.errors import DataError
from propend.events.store import Store
from propend.features.schema import Schema
from propend.names import ITEM
from propend.recommend.catalog import find, names
from propend.recommend.fits import shared
from propend.recommend.house import all_users, catalogue, default_chain, fit_default
from propend.recommend.interactions import Interactions
from propend.recommend.recommender import Recommendations, Recommender
from propend.recommend.rerank import PINNED
from propend.recommend.reranked import PINNED_REASON
from propend.recommend.served import SERVED, judge

__all__ = [
    "AUDIENCE",
    "SCHEMA",
    "SERVED",
    "all_users",
    "audience_of",
    "catalogue",
    "default_chain",
    "fit_default",
    "item_names",
    "judge",
    "questions_of",
    "recommend_all",
    "recommend_for",
    "recommend_session",
    "similar_items",
    "sources_of",
]

SCHEMA: Final = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int16()),
        ("item", pa.string()),
        ("score", pa.float32()),
        ("source", pa.string()),
        ("reason", pa.string()),
    ]
)
"""Columns of a table of recommendations; ``rank`` starts at 1."""

AUDIENCE: Final = pa.schema(
    [
        ("item", pa.string()),
        ("rank", pa.int32()),
        ("user", pa.string()),
        ("score", pa.float32()),
        ("reason", pa.string()),
    ]
)
"""Columns of a table of who would like an item."""

_PLAIN: Final = RecommendConfig()
_SLICE: Final = 20_000
"""Users turned into rows of text at a time."""


def recommend_all(
    store: Store,
    schema: Schema,
    engine: Engine | None = None,
    k: int = 10,
    *,
    recommender: Recommender | None = None,
    at: int | None = None,
    judged: bool = True,
    horizon: float | None = None,
    seed: int = 0,
    rules: RecommendConfig = _PLAIN,
) -> tuple[pa.Table, dict[str, Any]]:
    """Return k recommendations for every user of the store, and the forward evaluation of what made them.

    Parameters
    ----------
    recommender
        a fitted one, default the house's chain under ``rules``, fitted as of ``at``.
    horizon
        days the evaluation asks about; see ``protocols.forward``.
    judged
        false leaves the evaluation out (an empty dictionary).

    Returns
    -------
    (table, evaluation)
        ``SCHEMA``, sorted by user code and rank: only items of the catalogue, cold users served by the
        chain's end; and the table of ``recommend.evaluate``, or ``{"error": sentence}`` where the log is
        too short to judge.
    """
    del engine  # one pass over compact arrays; a cluster engine will map user buckets
    with shared():
        fitted = recommender
        if fitted is None:
            fitted = fit_default(store, schema, at=at, seed=seed, rules=rules)
        shown = fitted.recommend(all_users(store), k, within=catalogue(store))
        table = table_of(store, fitted, shown)
        if not judged:
            return table, {}
        evaluation = judge(store, schema, at=at, horizon=horizon, seed=seed, rules=rules)
    return table, {**evaluation, "sources": sources_of(table)}


def recommend_for(
    store: Store,
    schema: Schema,
    users: Sequence[str],
    k: int = 10,
    *,
    recommender: Recommender | None = None,
    rules: RecommendConfig = _PLAIN,
) -> pa.Table:
    """Return recommendations for users by id; an id the store does not know is served as a cold user."""
    fitted = fit_default(store, schema, rules=rules) if recommender is None else recommender
    codes = np.array([_code_of(store, user) for user in users], np.int64)
    shown = fitted.recommend(codes, k, within=catalogue(store))
    return table_of(store, fitted, shown, names=users)


def recommend_session(
    store: Store,
    schema: Schema,
    items: Sequence[str],
    k: int = 10,
    *,
    recommender: Recommender | None = None,
    rules: RecommendConfig = _PLAIN,
) -> pa.Table:
    """Return recommendations for an anonymous session of item ids, oldest first; user is empty in the table.

    An empty session is a cold user. ``recommender``: default ``house.session_chain``, fitted on the store.
    Raises ``DataError`` for an item that is not in the log, naming the nearest one.
    """
    codes = [store.item_code(item) for item in items]
    fitted = recommender
    if fitted is None:
        fitted = fit_default(store, schema, rules=rules, sessions=True)
    shown = fitted.recommend([codes], k, within=catalogue(store))
    table = table_of(store, fitted, shown, names=[""])
    told = session_reasons(fitted, shown, codes, titles_of(store))
    return table.set_column(5, "reason", pa.array(told, pa.string()))


def session_reasons(
    fitted: Recommender, shown: Recommendations, session: Sequence[int], names: Sequence[str]
) -> list[str]:
    """Return why each item of a session's list is offered, in order of rank; ``names`` by item code."""
    there = shown.items[0] >= 0
    sources = [shown.sources[n] for n in shown.source[0][there]]
    return [
        PINNED_REASON if source == PINNED else fitted.reason(session, int(item), names=names)
        for source, item in zip(sources, shown.items[0][there], strict=True)
    ]


def similar_items(
    store: Store,
    schema: Schema,
    items: str | Sequence[str],
    k: int = 10,
    *,
    recommender: Recommender | None = None,
    rules: RecommendConfig = _PLAIN,
) -> pa.Table:
    """Return the k items most like each given one: columns of, rank, item, score, source, reason.

    An item nobody has met is compared by its attributes.

    Raises ``DataError`` for an item that is not in the log, naming the nearest one.
    """
    asked = [items] if isinstance(items, str) else list(items)
    codes = np.array([store.item_code(item) for item in asked], np.int64)
    fitted = fit_default(store, schema, rules=rules) if recommender is None else recommender
    shown = fitted.similar(codes, k, within=catalogue(store))
    row, place = np.nonzero(shown.items >= 0)
    ids, titles = pa.array(store.item_ids(), pa.string()), titles_of(store)
    source = [shown.sources[n] for n in shown.source[row, place]]
    known = set(names())
    words = {one: find(one).likeness if one in known else "goes with" for one in shown.sources}
    told = [f"{words[s]} {titles[codes[r]]}" for s, r in zip(source, row, strict=True)]
    return pa.table(
        {
            "of": pa.array(asked, pa.string()).take(pa.array(row)),
            "rank": pa.array(place + 1, pa.int16()),
            "item": ids.take(pa.array(shown.items[row, place])),
            "score": pa.array(shown.scores[row, place]),
            "source": pa.array(source, pa.string()),
            "reason": pa.array(told, pa.string()),
        }
    )


def audience_of(
    store: Store,
    schema: Schema,
    item: str,
    k: int = 100,
    *,
    recommender: Recommender | None = None,
    rules: RecommendConfig = _PLAIN,
) -> pa.Table:
    """Return the k users who would like an item most, of those who have not met it: ``AUDIENCE``.

    Only users with a history are asked; ``score`` is comparable between them (``audience.appeal``). An item nobody has
    met is judged by its attributes. Raises ``DataError`` for an item that is not in the log, naming
    the nearest one.
    """
    code = store.item_code(item)
    fitted = fit_default(store, schema, rules=rules) if recommender is None else recommender
    users, scores = fitted.audience(code, k)
    titles = titles_of(store)
    speaker = fitted.speaker(code)
    lists = Recommendations(
        users.astype(np.int64),
        np.full((len(users), 1), code, np.int32),
        scores[:, None],
        np.zeros((len(users), 1), np.int8),
        speaker.members,
    )
    told = [row[0] for row in speaker.reasons(lists, names=titles)]
    columns = [
        pa.array([item] * len(users), pa.string()),
        pa.array(np.arange(1, len(users) + 1), pa.int32()),
        pa.array(store.names_of(users), pa.string()),
        pa.array(scores, pa.float32()),
        pa.array(told, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=AUDIENCE)


def questions_of(store: Store, clicked: Sequence[str] = (), k: int = 12) -> pa.Table:
    """Return k items to show to a newcomer, so that clicks say most: rank, item, name, users who met it.

    See ``onboarding.questions``. Raises ``DataError`` for a clicked item that is not in the log.
    """
    from propend.recommend.onboarding import questions

    codes = [store.item_code(item) for item in clicked]
    log = Interactions.from_store(store)
    asked = questions(log, k, answered=codes, within=catalogue(store))
    met = np.diff(log.matrix(binary=True).tocsc().indptr)
    names, ids = titles_of(store), store.item_ids()
    return pa.table(
        {
            "rank": pa.array(np.arange(1, len(asked) + 1), pa.int16()),
            "item": pa.array([ids[i] for i in asked], pa.string()),
            "name": pa.array([names[i] for i in asked], pa.string()),
            "users": pa.array(met[asked], pa.int64()),
        }
    )


def item_names(store: Store) -> dict[str, str]:
    """Return item id → name, for items whose table gives one."""
    items = store.table("items")
    if items is None:
        return {}
    column = next((c for c in _NAMES if c in items.column_names), None)
    if column is None:
        return {}
    pairs = zip(items[ITEM].to_pylist(), items[column].to_pylist(), strict=True)
    return {item: str(name) for item, name in pairs if name}


_NAMES: Final = ("name", "title", "product_name", "description", "product_type", "category")


def titles_of(store: Store) -> list[str]:
    """Return what an item is called where people read it, by item code."""
    named = item_names(store)
    return [named.get(item, item) for item in store.item_ids()]


def table_of(
    store: Store,
    fitted: Recommender,
    shown: Recommendations,
    *,
    names: Sequence[str] | None = None,
) -> pa.Table:
    """Return recommendations as a table with ids and reasons; ``names`` are the users' ids if known."""
    item_ids = pa.array(store.item_ids(), pa.string())
    titles = titles_of(store)
    users = pa.array(store.names_of(shown.users) if names is None else names, pa.string())
    parts = []
    for start in range(0, len(shown), _SLICE):
        stop = min(start + _SLICE, len(shown))
        part = Recommendations(
            shown.users[start:stop],
            shown.items[start:stop],
            shown.scores[start:stop],
            shown.source[start:stop],
            shown.sources,
        )
        row, place = np.nonzero(part.items >= 0)
        told = fitted.reasons(part, names=titles)
        columns = [
            users.slice(start, stop - start).take(pa.array(row)),
            pa.array(place + 1, pa.int16()),
            item_ids.take(pa.array(part.items[row, place])),
            pa.array(part.scores[row, place], pa.float32()),
            pa.array(shown.sources, pa.string()).take(pa.array(part.source[row, place])),
            pa.array([told[r][p] for r, p in zip(row, place, strict=True)], pa.string()),
        ]
        parts.append(pa.Table.from_arrays(columns, schema=SCHEMA))
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def sources_of(table: pa.Table) -> dict[str, int]:
    """Return how many recommendations came from where."""
    counted = pc.value_counts(table["source"])
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}


def _code_of(store: Store, user: str) -> int:
    try:
        return store.code_of(user)
    except DataError:
        return -1
