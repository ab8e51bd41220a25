"""How good the house's offers are, beside their sources and any other recommender of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from propend.config import RecommendConfig
from propend.errors import NotEnoughDataError
from propend.events.store import Store
from propend.features.schema import Schema
from propend.names import DAY
from propend.recommend.catalog import create
from propend.recommend.evaluate import Ties, compare, split_by
from propend.recommend.fallback import Staged
from propend.recommend.house import (
    catalogue,
    competing,
    default_chain,
    recent_half_life,
    recommender_of,
    sources,
    user_attributes,
    with_rules,
)
from propend.recommend.interactions import Interactions
from propend.recommend.popularity import Popularity
from propend.recommend.recommender import Recommender

__all__ = ["SERVED", "judge"]

SERVED: Final = "served"
"""The row of an evaluation that stands for what users are offered in the end."""
_PLAIN: Final = RecommendConfig()


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
    ties: Ties = "conservative",
) -> dict[str, Any]:
    """Return the evaluation of what is served and of its sources alone; ``{"error": …}`` if the log is too short.

    The row ``SERVED`` is what users are offered, under the shop's rules: its way was chosen on a horizon
    before the cut (``chosen``, ``judged``). ``others`` are further
    recommenders by their name in the catalogue, with settings if asked (``ease:strength=200``); those made of others get the house's sources.
    Those that ``rules.compete`` names have a row too. A remark that one of these makes on its fit is among the warnings.

    Raises
    ------
    DataError
        an unknown protocol.
    ModelError
        an unknown recommender or setting; the nearest name is told.
    """
    plain = [Popularity()]
    competing(rules, plain)
    for word in others:
        recommender_of(word, plain)
    asked = list(dict.fromkeys((*rules.compete, *others)))
    try:
        log = Interactions.from_store(store, until=at)
        split = split_by(log, protocol, horizon=horizon, seed=seed)
        train, known = split.train, schema.items
        days = horizon  # the ways are chosen by the question they are judged by
        if days is None and protocol == "forward":
            days = (log.last - log.first) / DAY / 10
        described = [create("content")] if known and not rules.sources else []
        parts: dict[str, Recommender] = {"popularity": Popularity(by=rules.segment)}
        alone: list[Recommender] = [Popularity(half_life=recent_half_life(train), by=rules.segment)]
        parts |= {s.label: s for s in (*alone, *sources(train, rules, known=described)[::-1])}
        for word in asked:
            parts[word] = recommender_of(word, [*sources(train, rules, known=described), *alone])
        options: dict[str, Any] = {"items": known, "within": catalogue(store), "ks": ks}
        options |= {"users": user_attributes(store), "seed": seed, "ties": ties, "served": SERVED}
        for learned in (True, False):
            again = split.seen == "allowed"
            chain = default_chain(
                train, learned=learned, rules=rules, items=known, repeats=again, horizon=days
            )
            try:
                shelf = with_rules(chain, store, rules, split.at)
                table = compare(split, {**parts, SERVED: shelf}, **options)
                break
            except NotEnoughDataError:
                if not learned:
                    raise
    except NotEnoughDataError as error:
        return {"error": str(error)}
    table["warnings"] += _remarks({word: parts[word] for word in asked})
    return {
        **table,
        "served": SERVED,
        "mix": rules.mix,
        "chosen": chain.chosen,
        "judged": chain.judged,
    }


def _remarks(fitted: Mapping[str, Recommender]) -> list[str]:
    """Return what fitted recommenders, and those they are made of, say of what they learnt."""
    said = []
    for word, one in fitted.items():
        parts = one.stages if isinstance(one, Staged) else (one,)
        said += [f"{word}: {part.remark}" for part in parts if part.remark]
    return said
