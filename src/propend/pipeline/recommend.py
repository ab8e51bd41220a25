"""The façade's offers: to users, to sessions, beside an item, who would like it, what goes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from propend.pipeline.opened import Opened

if TYPE_CHECKING:
    from propend.recommend.evaluate import Ties
    from propend.recommend.recommender import Recommender
    from propend.recommend.rules.measures import Control

__all__ = ["Offers"]


class Offers(Opened):
    """What to offer whom. :class:`propend.pipeline.workspace.Workspace` has them as its methods."""

    def recommend(self, users: Sequence[str], k: int = 10) -> pa.Table:
        """Return k offers for each user id: user, rank, item, score, source, reason; a new id is served as a cold user."""
        from propend.recommend.batch import recommend_for

        return recommend_for(self.store, self.schema, list(users), k, recommender=self._shelf())

    def recommend_session(self, items: Sequence[str], k: int = 10) -> pa.Table:
        """Return k offers for an anonymous session of item ids, oldest first; an empty one is a cold user."""
        from propend.recommend.batch import recommend_session

        shelf = self._shelf(sessions=True)
        return recommend_session(self.store, self.schema, list(items), k, recommender=shelf)

    def recommend_everyone(self, k: int = 10) -> pa.Table:
        """Return k offers for every user of the log."""
        from propend.recommend.batch import recommend_all

        shelf = self._shelf()
        return recommend_all(
            self.store, self.schema, self.engine, k, judged=False, recommender=shelf
        )[0]

    def judge_offers(
        self,
        protocol: str = "forward",
        *,
        others: Sequence[str] = (),
        horizon: float | None = None,
        ties: Ties = "conservative",
    ) -> dict[str, Any]:
        """Return how good the offers are, beside their sources and ``others`` of the catalogue (``ease:strength=200``)."""
        from propend.recommend.served import judge

        return judge(
            self.store,
            self.schema,
            protocol=protocol,
            horizon=horizon,
            rules=self.config.recommend,
            others=others,
            ties=ties,
        )

    def _shelf(self, *, sessions: bool = False) -> Recommender:
        """Return the fitted offers: kept in the workspace, fitted anew where the log or the rules have changed."""
        from propend.recommend.house import fit_default

        kept = self.folder / "kept" / "recommender"
        rules = self.config.recommend
        return fit_default(self.store, self.schema, rules=rules, sessions=sessions, kept=kept)

    def similar(self, item: str, k: int = 10) -> pa.Table:
        """Return the k items most like one: of, rank, item, score, source, reason."""
        from propend.recommend.batch import similar_items

        return similar_items(self.store, self.schema, item, k, recommender=self._shelf())

    def fans(self, item: str, k: int = 100) -> pa.Table:
        """Return the k users who would like an item and have not met it, for a campaign: item, rank, user, score, reason."""
        from propend.recommend.batch import audience_of

        return audience_of(self.store, self.schema, item, k, recommender=self._shelf())

    def rules(
        self,
        *,
        support: float = 0.001,
        confidence: float = 0.0,
        significance: float | None = 0.05,
        control: Control = "discoveries",
        longest: int = 3,
        per: str = "session",
        types: Sequence[str] | None = None,
        margin: str | None = None,
    ) -> pa.Table:
        """Return what goes with what, with chance ruled out and, where money is known, what it earns.

        ``per``: baskets are sessions, users, or windows such as ``7d``; see ``recommend.rules``.
        """
        from propend.recommend.rules.of_store import rule_table

        return rule_table(
            self.store,
            self.schema,
            self._item_names(),
            support=support,
            confidence=confidence,
            significance=significance,
            control=control,
            longest=longest,
            per=per,
            types=types,
            margin=margin or self.config.recommend.margin,
            share=self.config.decide.margin,
        )

    def bundles(
        self,
        *,
        support: float = 0.001,
        significance: float | None = 0.05,
        control: Control = "discoveries",
        longest: int = 3,
        discount: float = 0.1,
        per: str = "session",
        types: Sequence[str] | None = None,
        margin: str | None = None,
    ) -> pa.Table:
        """Return sets of items worth selling as one, with their margin; ``discount`` is the share of it given away."""
        from propend.recommend.rules.of_store import bundle_table

        return bundle_table(
            self.store,
            self.schema,
            self._item_names(),
            support=support,
            significance=significance,
            control=control,
            longest=longest,
            discount=discount,
            per=per,
            types=types,
            margin=margin or self.config.recommend.margin,
            share=self.config.decide.margin,
        )

    def onboarding(self, k: int = 12, clicked: Sequence[str] = ()) -> pa.Table:
        """Return k items to show to a newcomer, given what was clicked so far: rank, item, name, users.

        The clicks are then a session: ``recommend_session(clicks)``.
        """
        from propend.recommend.batch import questions_of

        return questions_of(self.store, list(clicked), k)

    def _item_names(self) -> list[str]:
        """Return what items are called, by code; two of one name keep their ids."""
        from propend.recommend.batch import item_names

        named = item_names(self.store)
        names = [named.get(item, item) for item in self.store.item_ids()]
        ids, twice = self.store.item_ids(), _twice(names)
        return [
            f"{n} ({i})" if n in twice and n != i else n for n, i in zip(names, ids, strict=True)
        ]


def _twice(names: Sequence[str]) -> set[str]:
    """Return the names that more than one item has.

    >>> sorted(_twice(["tea", "cup", "tea"]))
    ['tea']
    """
    return {name for name, count in Counter(names).items() if count > 1}
