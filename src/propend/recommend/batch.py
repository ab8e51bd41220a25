"""Recommendations of a whole store in one call: fit the declared chain, serve everyone, judge it forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.engine import Engine
from propend.errors import DataError, NotEnoughDataError
from propend.events.store import Store
from propend.features.schema import Schema
from propend.names import DAY, ITEM
from propend.recommend.again import BuyAgain
from propend.recommend.evaluate import compare, split_by
from propend.recommend.fallback import Fallback
from propend.recommend.hybrid import Hybrid
from propend.recommend.interactions import Interactions
from propend.recommend.neighbours import ItemNeighbours
from propend.recommend.popularity import Popularity
from propend.recommend.recommender import Recommendations, Recommender

__all__ = [
    "SCHEMA",
    "all_users",
    "catalogue",
    "default_chain",
    "fit_default",
    "judge",
    "recommend_all",
    "recommend_for",
    "recommend_session",
    "similar_items",
    "sources_of",
]

Bool = npt.NDArray[np.bool_]

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

_HALF_LIFE: Final = 30.0
_SLICE: Final = 20_000
"""Users turned into rows of text at a time."""


def default_chain(log: Interactions, *, learned: bool = True) -> Fallback:
    """Return the house's chain, not fitted: a learned order of due again, goes with yours and popular, then popular.

    Without ``learned`` (a log too short to hold out a horizon) the sources follow each other: due again,
    goes with yours, popular lately, popular. Buy-again stands in it only where something was bought
    twice. Halves of fading are 30 days or a quarter of the log, whichever is shorter.
    """
    half_life = min(_HALF_LIFE, max((log.last - log.first) / DAY, 1.0) / 4)
    popular = [Popularity(half_life=half_life), Popularity()]
    sources: list[Recommender] = [
        ItemNeighbours(weighting="unit", half_life=2 * half_life, shrink=1.0)
    ]
    if _repeats(log):
        sources.insert(0, BuyAgain(least_rate=0.0 if learned else 1 / 365))
    if learned:
        return Fallback([Hybrid([*sources, Popularity(half_life=half_life)]), *popular])
    return Fallback([*sources, *popular])


def fit_default(
    store: Store,
    schema: Schema,
    *,
    at: int | None = None,
    types: Mapping[str, float] | Sequence[str] | None = None,
    seed: int = 0,
) -> Recommender:
    """Fit the house's chain on what a store knew before ``at`` (default: everything).

    Raises ``NotEnoughDataError`` where no event carries an item.
    """
    log = Interactions.from_store(store, types=types, until=at)
    try:
        return default_chain(log).fit(log, items=schema.items, at=at, seed=seed)
    except NotEnoughDataError:
        return default_chain(log, learned=False).fit(log, items=schema.items, at=at, seed=seed)


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
) -> tuple[pa.Table, dict[str, Any]]:
    """Return k recommendations for every user of the store, and the forward evaluation of what made them.

    Parameters
    ----------
    recommender
        a fitted one, default the house's chain fitted as of ``at``.
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
    fitted = fit_default(store, schema, at=at, seed=seed) if recommender is None else recommender
    table = table_of(store, fitted, fitted.recommend(all_users(store), k, within=catalogue(store)))
    return table, judge(store, schema, at=at, horizon=horizon, seed=seed) if judged else {}


def judge(
    store: Store,
    schema: Schema,
    *,
    at: int | None = None,
    horizon: float | None = None,
    protocol: str = "forward",
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
) -> dict[str, Any]:
    """Return the evaluation of the house's chain and its parts on a store; ``{"error": …}`` if too short."""
    try:
        log = Interactions.from_store(store, until=at)
        split = split_by(log, protocol, horizon=horizon, seed=seed)
        parts = {_label(stage): stage for stage in default_chain(log, learned=False).stages[::-1]}
        options: dict[str, Any] = {"items": schema.items, "within": catalogue(store), "ks": ks}
        try:
            return compare(split, {**parts, "chain": default_chain(log)}, seed=seed, **options)
        except NotEnoughDataError:
            chain = default_chain(log, learned=False)
            return compare(split, {**parts, "chain": chain}, seed=seed, **options)
    except NotEnoughDataError as error:
        return {"error": str(error)}


def recommend_for(
    store: Store,
    schema: Schema,
    users: Sequence[str],
    k: int = 10,
    *,
    recommender: Recommender | None = None,
) -> pa.Table:
    """Return recommendations for users by id; an id the store does not know is served as a cold user."""
    fitted = fit_default(store, schema) if recommender is None else recommender
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
) -> pa.Table:
    """Return recommendations for an anonymous session of item ids, oldest first; user is empty in the table.

    Raises ``DataError`` for an item that is not in the log, naming the nearest one.
    """
    fitted = fit_default(store, schema) if recommender is None else recommender
    codes = [store.item_code(item) for item in items]
    shown = fitted.recommend([codes], k, within=catalogue(store))
    table = table_of(store, fitted, shown, names=[""])
    ids = store.item_ids()
    told = [fitted.reason(codes, int(item), names=ids) for item in shown.items[0] if item >= 0]
    return table.set_column(5, "reason", pa.array(told, pa.string()))


def similar_items(
    store: Store,
    schema: Schema,
    items: str | Sequence[str],
    k: int = 10,
    *,
    recommender: Recommender | None = None,
) -> pa.Table:
    """Return the k items most like each given one: columns of, rank, item, score, reason.

    Raises ``DataError`` for an item that is not in the log, naming the nearest one.
    """
    asked = [items] if isinstance(items, str) else list(items)
    codes = np.array([store.item_code(item) for item in asked], np.int64)
    fitted = fit_default(store, schema) if recommender is None else recommender
    shown = fitted.similar(codes, k, within=catalogue(store))
    row, place = np.nonzero(shown.items >= 0)
    ids = pa.array(store.item_ids(), pa.string())
    return pa.table(
        {
            "of": pa.array(asked, pa.string()).take(pa.array(row)),
            "rank": pa.array(place + 1, pa.int16()),
            "item": ids.take(pa.array(shown.items[row, place])),
            "score": pa.array(shown.scores[row, place]),
            "reason": pa.array([f"chosen by the same users as {asked[r]}" for r in row]),
        }
    )


def catalogue(store: Store) -> Bool:
    """Return which item codes may be offered: those of the items table, or all where there is none."""
    ids = store.item_ids()
    table = store.table("items")
    if table is None:
        return np.ones(len(ids), np.bool_)
    known = pc.is_in(pa.array(ids, pa.string()), value_set=table[ITEM].combine_chunks())
    return np.asarray(known)


def all_users(store: Store) -> npt.NDArray[np.int64]:
    """Return the codes of all users of a store that were not erased, also those who met no item, ascending."""
    parts = []
    for bucket in range(store.buckets):
        there = np.flatnonzero(np.asarray(pc.is_valid(store.user_ids(bucket))))
        parts.append(there * store.buckets + bucket)
    return np.sort(np.concatenate(parts)).astype(np.int64)


def table_of(
    store: Store,
    fitted: Recommender,
    shown: Recommendations,
    *,
    names: Sequence[str] | None = None,
) -> pa.Table:
    """Return recommendations as a table with ids and reasons; ``names`` are the users' ids if known."""
    items = store.item_ids()
    item_ids = pa.array(items, pa.string())
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
        told = fitted.reasons(part, names=items)
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


def _repeats(log: Interactions) -> bool:
    """Whether some user met the same item as a purchase on two days, so that buying again has a meaning."""
    bought = log.select(log.weight >= log.weight.max())
    key = np.stack([bought.user, bought.item.astype(np.int64), bought.time // DAY])
    days = np.unique(key, axis=1)[:2]
    return bool((days[:, 1:] == days[:, :-1]).all(axis=0).any())


def _label(stage: Recommender) -> str:
    fades = getattr(stage.parameters, "half_life", None)
    return f"{stage.name}_recent" if fades and stage.name == "popularity" else stage.name


def _code_of(store: Store, user: str) -> int:
    try:
        return store.code_of(user)
    except DataError:
        return -1
