"""The house's offers: its sources and how they are brought together, the shop's rules, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import RecommendConfig
from propend.errors import ConfigError, ModelError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Column
from propend.expression.duration import Duration
from propend.features.schema import Schema, attribute_columns
from propend.names import DAY, ITEM, USER
from propend.recommend.again import BuyAgain
from propend.recommend.attributes import Attributes
from propend.recommend.blend import Blend
from propend.recommend.catalog import find
from propend.recommend.evaluate import compare, split_by
from propend.recommend.fallback import Fallback, Staged
from propend.recommend.hybrid import Hybrid
from propend.recommend.interactions import Interactions
from propend.recommend.neighbours import ItemNeighbours
from propend.recommend.popularity import Popularity
from propend.recommend.recommender import Recommender
from propend.recommend.reranked import Reranked, RerankedParameters

__all__ = [
    "SERVED",
    "all_users",
    "catalogue",
    "default_chain",
    "fit_default",
    "judge",
    "user_attributes",
    "with_rules",
]

Bool = npt.NDArray[np.bool_]

SERVED: Final = "served"
"""The row of an evaluation that stands for what users are offered in the end."""
_HALF_LIFE: Final = 30.0
_PLAIN: Final = RecommendConfig()


def default_chain(
    log: Interactions, *, learned: bool = True, rules: RecommendConfig = _PLAIN
) -> Fallback:
    """Return the house's chain, not fitted: a learned order of due again, goes with yours and popular, then popular.

    Without ``learned`` (a log too short to hold out a horizon), or where ``rules.mix`` is "order", the
    sources follow each other: due again, goes with yours, popular lately, popular. Buy-again stands in it
    only where something was bought twice. Halves of fading are 30 days or a quarter of the log, whichever
    is shorter.
    """
    half_life = min(_HALF_LIFE, max((log.last - log.first) / DAY, 1.0) / 4)
    recent = Popularity(half_life=half_life, by=rules.segment)
    popular = [recent, Popularity(by=rules.segment)]
    sources: list[Recommender] = [
        ItemNeighbours(weighting="unit", half_life=2 * half_life, shrink=1.0)
    ]
    learned = learned and rules.mix != "order"
    if _repeats(log):
        sources.insert(0, BuyAgain(least_rate=0.0 if learned else 1 / 365))
    if learned:
        made = Hybrid if rules.mix == "ranker" else Blend
        own = Popularity(half_life=half_life, by=rules.segment)
        return Fallback([made([*sources, own]), *popular])
    return Fallback([*sources, *popular])


def with_rules(
    chain: Recommender, store: Store, rules: RecommendConfig, at: int | None = None
) -> Recommender:
    """Return a recommender under the shop's rules, not fitted; itself where no rule is declared.

    Raises
    ------
    ConfigError
        a rule that names what is not there: an item, an event type, or a value out of range.
    """
    if all(getattr(rules, f) == getattr(_PLAIN, f) for f in _RULES):
        return chain
    settings = {
        f.name: getattr(rules, f.name) for f in fields(RerankedParameters) if f.name in _RULES
    }
    for word in ("pin", "bury"):
        settings[word] = tuple(store.item_code(item) for item in getattr(rules, word))
    exposures = None
    if rules.at_most is not None:
        exposures = _exposures(store, rules, at)
    try:
        return Reranked([chain], exposures=exposures, **settings)
    except ModelError as error:
        raise ConfigError(f"[recommend] in propend.toml: {error}") from None


_RULES: Final = (
    "category",
    "diversity",
    "calibration",
    "cap",
    "novelty",
    "freshness",
    "margin",
    "profit",
    "stock",
    "pin",
    "bury",
    "bought",
    "replenishable",
    "repeat",
    "at_most",
    "most_shown",
)
"""The fields of ``[recommend]`` that are rules for the list."""


def _exposures(
    store: Store, rules: RecommendConfig, at: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (users, items) of each time an item was shown lately, as known at ``at``."""
    if not rules.shown:
        raise ConfigError(
            "[recommend] at_most needs to know what was shown; name the event types in shown, such as "
            'shown = ["impression"]'
        )
    codes = store.type_codes(list(rules.shown))
    moment = store.span[1] + 1 if at is None else at
    since = Duration.parse(rules.within).before(moment)
    users, items = [], []
    for bucket in range(store.buckets):
        lines = store.timelines(bucket).before(moment)
        keep = np.isin(lines.type, codes) & (lines.item >= 0) & (lines.time >= since)
        users.append(lines.users[lines.user_of_row[keep]].astype(np.int64))
        items.append(lines.item[keep].astype(np.int64))
    return np.concatenate(users), np.concatenate(items)


def fit_default(
    store: Store,
    schema: Schema,
    *,
    at: int | None = None,
    types: Mapping[str, float] | Sequence[str] | None = None,
    seed: int = 0,
    rules: RecommendConfig = _PLAIN,
) -> Recommender:
    """Fit the house's chain on what a store knew before ``at`` (default: everything), under the shop's rules.

    Raises
    ------
    NotEnoughDataError
        no event carries an item.
    ConfigError
        a rule that names what is not there.
    """
    log = Interactions.from_store(store, types=types, until=at)
    known: dict[str, Any] = {"items": schema.items, "at": at, "seed": seed}
    known["users"] = _people(store, rules)
    try:
        try:
            chain = default_chain(log, rules=rules)
            return with_rules(chain, store, rules, at).fit(log, **known)
        except NotEnoughDataError:
            chain = default_chain(log, learned=False, rules=rules)
            return with_rules(chain, store, rules, at).fit(log, **known)
    except ModelError as error:
        raise ConfigError(f"[recommend] in propend.toml: {error}") from None


def judge(
    store: Store,
    schema: Schema,
    *,
    at: int | None = None,
    horizon: float | None = None,
    protocol: str = "forward",
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
    rules: RecommendConfig = _PLAIN,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the evaluation of what is served and of its sources alone; ``{"error": …}`` if the log is too short.

    The row ``SERVED`` is what users are offered, under the shop's rules; ``others`` are further
    recommenders by their name in the catalogue; those made of others get the house's sources.

    Raises
    ------
    DataError
        an unknown protocol.
    ModelError
        an unknown recommender; the nearest name is told.
    """
    kinds = {name: find(name) for name in others}
    try:
        log = Interactions.from_store(store, until=at)
        split = split_by(log, protocol, horizon=horizon, seed=seed)
        sources = default_chain(split.train, learned=False, rules=rules).stages[::-1]
        parts = {stage.label: stage for stage in sources}
        for name, kind in kinds.items():
            own = default_chain(split.train, learned=False, rules=rules).stages[:-1]
            parts[name] = kind(own) if issubclass(kind, Staged) else kind()  # type: ignore[call-arg]
        options: dict[str, Any] = {"items": schema.items, "within": catalogue(store), "ks": ks}
        options |= {"users": _people(store, rules), "seed": seed}
        try:
            chain = with_rules(default_chain(split.train, rules=rules), store, rules, split.at)
            table = compare(split, {**parts, SERVED: chain}, **options)
        except NotEnoughDataError:
            first = default_chain(split.train, learned=False, rules=rules)
            chain = with_rules(first, store, rules, split.at)
            table = compare(split, {**parts, SERVED: chain}, **options)
    except NotEnoughDataError as error:
        return {"error": str(error)}
    return {**table, "served": SERVED, "mix": rules.mix}


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


def user_attributes(store: Store) -> Attributes:
    """Return the attributes of the users table by user code; empty where there is none."""
    table = store.table("users")
    codes = all_users(store)
    if table is None or not len(codes):
        return {}
    ids = tuple(store.names_of(codes))
    found: dict[str, Any] = {}
    size = int(codes.max()) + 1
    for name, values in attribute_columns(table, USER, ids).items():
        if isinstance(values, Column):
            by_code = np.full(size, -1, np.int32)
            by_code[codes] = values.codes
            found[name] = Column(by_code, values.values)
        else:
            found[name] = np.full(size, np.nan)
            found[name][codes] = values
    return found


def _people(store: Store, rules: RecommendConfig) -> Attributes:
    """Return the user attributes that the rules speak of."""
    return user_attributes(store) if rules.segment is not None else {}


def _repeats(log: Interactions) -> bool:
    """Whether some user met the same item as a purchase on two days, so that buying again has a meaning."""
    bought = log.select(log.weight >= log.weight.max())
    key = np.stack([bought.user, bought.item.astype(np.int64), bought.time // DAY])
    days = np.unique(key, axis=1)[:2]
    return bool((days[:, 1:] == days[:, :-1]).all(axis=0).any())
