"""The house's offers: its sources and how they are brought together, the shop's rules, and how good they are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
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
from propend.models.parameters import read_settings
from propend.names import DAY, ITEM, USER
from propend.recommend import keep
from propend.recommend.again import BuyAgain
from propend.recommend.attributes import Attributes
from propend.recommend.blend import Blend
from propend.recommend.catalog import create, find
from propend.recommend.choice import Choice
from propend.recommend.content import Content
from propend.recommend.fallback import Fallback, Staged
from propend.recommend.hybrid import Hybrid
from propend.recommend.interactions import Interactions
from propend.recommend.neighbours import ItemNeighbours
from propend.recommend.popularity import Popularity
from propend.recommend.protocols import forward
from propend.recommend.recommender import Items, Recommender
from propend.recommend.reranked import Reranked, RerankedParameters

__all__ = [
    "all_users",
    "catalogue",
    "competing",
    "declared",
    "default_chain",
    "fit_default",
    "recent_half_life",
    "recommender_of",
    "session_chain",
    "sources",
    "user_attributes",
    "with_rules",
]

Bool = npt.NDArray[np.bool_]

_HALF_LIFE: Final = 30.0
_PLAIN: Final = RecommendConfig()


def default_chain(
    log: Interactions,
    *,
    learned: bool = True,
    rules: RecommendConfig = _PLAIN,
    items: Items | None = None,
    repeats: bool | None = None,
    horizon: float | None = None,
) -> Choice:
    """Return the house's offers, not fitted: the way of bringing its sources together that does best.

    The ways: popular lately; each source alone (due again, goes with yours); "order", these one after the other and then alike by
    attributes; "weights" and "ranker", learnt mixtures of all of them. Popular lately and popular stand at the end
    of each. Those that ``rules.compete`` names are further ways, which serve only where they were compared and won.
    ``rules.mix`` other than "best" leaves that way only; without ``learned`` there is only the order.
    ``repeats``: whether what was met is offered again, default as the log's end tells. ``horizon``: days the ways are asked about and
    mixtures learn from, default a tenth of the log; the same for all, so that most cuts are fitted once (``fits``).
    """
    recent = partial(Popularity, half_life=recent_half_life(log), by=rules.segment)

    def chain(*first: Recommender) -> Fallback:
        return Fallback([*first, recent(), Popularity(by=rules.segment)])

    known = [Content()] if items else []  # one for all: it is fitted once
    aside = [_neighbours(log), *known]
    if horizon is None and log.clock and log.last > log.first:
        horizon = (log.last - log.first) / DAY / 10
    own = partial(sources, log, rules, known=known)
    order = chain(*own(floor=1 / 365))
    rivals = {word: chain(one) for word, one in competing(rules, [*own(), recent()]).items()}
    if not learned or rules.mix == "order":
        return Choice({"order": order}, beside=aside)
    mixed = {
        "weights": chain(Blend((*own(), recent()), repeats=repeats, horizon=horizon)),
        "ranker": chain(Hybrid((*own(), recent()), repeats=repeats, horizon=horizon)),
    }
    if rules.mix != "best":
        return Choice({rules.mix: mixed[rules.mix]}, beside=aside)
    alone = {source.label: chain(source) for source in own() if source.name != "content"}
    ways = {recent().label: chain(), **alone, "order": order, **mixed}
    return Choice(ways, beside=aside, rivals=rivals, repeats=repeats, horizon=horizon)


def sources(
    log: Interactions,
    rules: RecommendConfig = _PLAIN,
    *,
    known: Sequence[Recommender] = (),
    floor: float = 0.0,
) -> list[Recommender]:
    """Return the sources declared in ``rules``, else the house's own, not fitted.

    Due again (only where something was bought twice; less than ``floor`` times a day is not offered), goes with yours, and
    those that are ``known`` already. Halves of fading are 30 days or a quarter of the log, whichever is shorter.
    """
    if rules.sources:
        return declared(rules)
    found: list[Recommender] = [BuyAgain(least_rate=floor)] if _repeats(log) else []
    return [*found, _neighbours(log), *known]


def declared(rules: RecommendConfig) -> list[Recommender]:
    """Return the recommenders that ``[[recommend.sources]]`` names; ``ConfigError`` for one that cannot be made so."""
    made = []
    for source in rules.sources:
        settings = {key: value for key, value in source.items() if key != "name"}
        if not isinstance(source.get("name"), str):
            raise ConfigError(
                '[[recommend.sources]] in propend.toml needs a name, such as name = "ease"'
            )
        try:
            made.append(create(source["name"], **settings))
        except ModelError as error:
            raise ConfigError(f"[[recommend.sources]] in propend.toml: {error}") from None
    twice = [one.label for one in made if [other.label for other in made].count(one.label) > 1]
    if twice:
        raise ConfigError(f"[[recommend.sources]] in propend.toml names {twice[0]!r} twice")
    return made


def competing(rules: RecommendConfig, own: Sequence[Recommender] = ()) -> dict[str, Recommender]:
    """Return the recommenders that ``[recommend] compete`` names, by these words; those made of others get ``own``.

    Raises
    ------
    ConfigError
        one that cannot be made so, or ``mix`` leaves nothing to compete for.
    MissingExtraError
        one needs a library that is not installed.

    >>> competing(RecommendConfig(compete=("ease:support=50",)))
    {'ease:support=50': Ease(support=50)}
    """
    if rules.compete and rules.mix != "best":
        raise ConfigError(
            f'[recommend] in propend.toml: mix = "{rules.mix}" fixes what serves, so that nothing can compete; '
            "leave out mix or compete"
        )
    try:
        made = {word: recommender_of(word, own) for word in rules.compete}
    except (ConfigError, ModelError) as error:
        raise ConfigError(f"[recommend] compete in propend.toml: {error}") from None
    for one in made.values():
        one.ready()
    return made


def recommender_of(word: str, own: Sequence[Recommender] = ()) -> Recommender:
    """Return the recommender of a name and its settings in words, not fitted; one made of others gets ``own``.

    Raises ``ConfigError`` for words that cannot be read, ``ModelError`` for an unknown name or setting.

    >>> recommender_of("item_neighbours:measure=jaccard")
    ItemNeighbours(measure='jaccard')
    """
    name, settings = read_settings(word)
    kind = find(name)
    return kind(own, **settings) if issubclass(kind, Staged) else kind(**settings)  # type: ignore[call-arg]


def session_chain(
    log: Interactions, rules: RecommendConfig = _PLAIN, items: Items | None = None
) -> Fallback:
    """Return what answers an anonymous session, not fitted: session models, goes with yours, popular.

    The session models are those among the declared sources, else ``session_neighbours``.
    """
    own = [source for source in declared(rules) if source.ordered]
    first = own or [create("session_neighbours")]
    known = [Content()] if items else []
    recent = Popularity(half_life=recent_half_life(log))
    return Fallback([*first, _neighbours(log), *known, recent, Popularity()])


def _neighbours(log: Interactions) -> Recommender:
    half_life = 2 * recent_half_life(log) if log.clock else None
    return ItemNeighbours(weighting="unit", half_life=half_life, shrink=1.0)


def recent_half_life(log: Interactions) -> float:
    """Return the days after which popularity lately counts half: 30, or a quarter of a short log."""
    return min(_HALF_LIFE, max((log.last - log.first) / DAY, 1.0) / 4)


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
    sessions: bool = False,
    kept: Path | None = None,
) -> Recommender:
    """Fit the house's offers on what a store knew before ``at`` (default: everything), under the shop's rules.

    Parameters
    ----------
    sessions
        for anonymous sessions: see ``session_chain``.
    kept
        folder where the fitted one is kept, to be read again as long as neither the store nor the rules change.

    Raises
    ------
    NotEnoughDataError
        no event carries an item.
    ConfigError
        a rule that names what is not there.
    """
    place = None
    if kept is not None and at is None and types is None:
        kind = "sessions" if sessions else "users"
        place = kept / f"{kind}-{keep.stamp(store, rules, seed)}"
        found = keep.read(place)
        if found is not None:
            return found
    log = Interactions.from_store(store, types=types, until=at)
    known: dict[str, Any] = {"items": schema.items, "at": at, "seed": seed}
    known["users"] = user_attributes(store)
    try:
        if sessions:
            chain: Recommender = session_chain(log, rules, schema.items)
            fitted = with_rules(chain, store, rules, at).fit(log, **known)
        else:
            fitted = _fit(log, store, rules, at, known)
    except ModelError as error:
        raise ConfigError(f"[recommend] in propend.toml: {error}") from None
    if place is not None:
        keep.write(fitted, place)
    return fitted


def _fit(
    log: Interactions, store: Store, rules: RecommendConfig, at: int | None, known: dict[str, Any]
) -> Recommender:
    """Fit the house's offers; where the log is too short to learn a declared mix, one source after the other."""
    repeats = None
    with contextlib.suppress(NotEnoughDataError):  # as an evaluation of the whole log would ask
        repeats = forward(log).seen == "allowed"
    chain = default_chain(log, rules=rules, items=known["items"], repeats=repeats)
    try:
        return with_rules(chain, store, rules, at).fit(log, **known)
    except NotEnoughDataError:
        chain = default_chain(log, learned=False, rules=rules, items=known["items"])
        return with_rules(chain, store, rules, at).fit(log, **known)


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


def _repeats(log: Interactions) -> bool:
    """Whether some user met the same item as a purchase on two days, so that buying again has a meaning."""
    if not log.clock:
        return False
    bought = log.select(log.weight >= log.weight.max())
    key = np.stack([bought.user, bought.item.astype(np.int64), bought.time // DAY])
    days = np.unique(key, axis=1)[:2]
    return bool((days[:, 1:] == days[:, :-1]).all(axis=0).any())
