"""Recommending by association rules: the surest rule whose left side is in the basket speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numba as nb
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION
from propend.recommend.recommender import Recommender, State
from propend.recommend.rules.baskets import Baskets, starts
from propend.recommend.rules.measures import Rules, find_rules

__all__ = ["AssociationRules", "AssociationRulesParameters"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_COLUMNS = (
    "count",
    "support",
    "confidence",
    "lift",
    "leverage",
    "conviction",
    "p",
    "q",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRulesParameters:
    """``support`` of the rules, their least ``confidence``, most items (``longest``) of both sides.

    ``significance``: most false discoveries among the rules; none: all frequent rules may speak.
    ``gap``: days of pause after which a new basket begins, both when rules are learnt and when a
    history is read (then only its last basket speaks); none: a user's whole history is one basket.
    ``least``: baskets that have to hold a rule, however small ``support`` makes that.
    """

    support: Annotated[float, Meta(gt=0, le=1)] = 0.001
    confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    significance: Annotated[float, Meta(ge=0, le=1)] | None = None
    longest: Annotated[int, Meta(ge=2)] = 2
    gap: Annotated[float, Meta(gt=0)] | None = None
    least: Annotated[int, Meta(ge=1)] = 2


class AssociationRules(Recommender):
    """Each item has the confidence of the surest rule that leads to it from what the basket holds.

    Rules are those of ``rules.find_rules``; ranking by the best matching rule: Lin, Alvarez & Ruiz,
    "Efficient adaptive-support association rule mining for recommender systems", DMKD 2002.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1]] * 8 + [[2]] * 8 + [[0, 2]])
    >>> shelf = AssociationRules().fit(log)
    >>> shelf.recommend([[0]], k=1).lists()
    [[1]]
    >>> shelf.reason([0], 1)
    'with item 0, 89 % of baskets also hold it, 1.9 times as often as others'
    """

    name = "association_rules"
    Parameters = AssociationRulesParameters
    parameters: AssociationRulesParameters
    rules: Rules
    """What was learnt."""

    def _learn(self, log: Interactions) -> None:
        p = self.parameters
        baskets = Baskets.of(log, gap=p.gap)
        support = max(p.support, min(1.0, p.least / len(baskets)))
        self.rules = find_rules(
            baskets,
            support,
            confidence=p.confidence,
            significance=p.significance,
            longest=p.longest,
        )
        self._index()

    def _index(self) -> None:
        """File each rule under the first item of its antecedent."""
        sizes = [len(a) for a in self.rules.antecedent]
        first = np.array([a[0] for a in self.rules.antecedent], np.int64)
        order = np.argsort(first, kind="stable")
        self._offsets = np.searchsorted(first[order], np.arange(self._fitted().n_items + 1))
        self._order = order.astype(np.int64)
        self._ends = np.cumsum(sizes).astype(np.int64)
        self._left = np.array([i for a in self.rules.antecedent for i in a], np.int32)

    def _basket(self, histories: Histories) -> Histories:
        """Return what of each history is in the basket now."""
        gap = self.parameters.gap
        if gap is None:
            return histories
        begins = starts(histories, True, gap)
        last = np.zeros(len(histories), np.int64)
        np.maximum.at(last, histories.row, np.where(begins, np.arange(len(begins)), 0))
        keep = np.arange(len(begins)) >= last[histories.row]
        kept = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return Histories(
            histories.users,
            kept[histories.offsets],
            histories.items[keep],
            histories.weight[keep],
            histories.time[keep],
        )

    def _best(self, histories: Histories) -> tuple[F32, I32]:
        """Return the confidence of each item's surest rule that fits, and which rule it is (−1: none)."""
        basket = self._basket(histories)
        shape = (len(histories), self._fitted().n_items)
        scores = np.full(shape, NO_OPINION, np.float32)
        rule = np.full(shape, -1, np.int32)
        _match(
            basket.offsets,
            basket.items,
            (self._offsets, self._order, self._ends, self._left),
            self.rules.consequent,
            self.rules.confidence.astype(np.float32),
            scores,
            rule,
        )
        return scores, rule

    def _score(self, histories: Histories, at: int) -> F32:
        del at
        return self._best(histories)[0]

    def _alike(self, items: I64) -> F32:
        return self._best(Histories.of([[item] for item in items.tolist()], self._at))[0]

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        _, rule = self._best(histories)
        out = []
        for row, shown in enumerate(items.tolist()):
            out.append([self._sentence(int(rule[row, i]), names) if i >= 0 else "" for i in shown])
        return out

    def _sentence(self, rule: int, names: Sequence[str] | None) -> str:
        if rule < 0:
            return "no rule leads to it"
        had = [names[i] if names else f"item {i}" for i in self.rules.antecedent[rule]]
        told = " and ".join([", ".join(had[:-1]), had[-1]] if len(had) > 1 else had)
        share = 100 * self.rules.confidence[rule]
        often = f"{self.rules.lift[rule]:.1f} times as often as others"
        return f"with {told}, {share:.0f} % of baskets also hold it, {often}"

    def _state(self) -> State:
        arrays = {name: getattr(self.rules, name) for name in _COLUMNS}
        arrays |= {"left": self._left, "ends": self._ends, "consequent": self.rules.consequent}
        return State({"baskets": self.rules.baskets, "tested": self.rules.tested}, arrays)

    def _restore(self, state: State) -> None:
        a = state.arrays
        sets = np.split(a["left"], a["ends"][:-1]) if len(a["ends"]) else []
        self.rules = Rules(
            tuple(tuple(part.tolist()) for part in sets),
            a["consequent"],
            **{name: a[name] for name in _COLUMNS},
            baskets=state.header["baskets"],
            tested=state.header["tested"],
        )
        self._index()


@nb.njit(cache=True, nogil=True)
def _match(
    offsets: Any, items: Any, index: Any, consequent: Any, sure: Any, scores: Any, rule: Any
) -> None:
    """Write the surest rule that fits each history; ties go to the rule listed first."""
    first, order, ends, left = index
    n_items = scores.shape[1]
    held = np.zeros(n_items, np.bool_)
    for row in range(len(offsets) - 1):
        mine = items[offsets[row] : offsets[row + 1]]
        for item in mine:
            held[item] = True
        for item in mine:
            for place in range(first[item], first[item + 1]):
                r = order[place]
                fits = True
                for at in range(ends[r - 1] if r > 0 else 0, ends[r]):
                    fits = fits and held[left[at]]
                target = consequent[r]
                better = sure[r] > scores[row, target] or (
                    sure[r] == scores[row, target] and r < rule[row, target]
                )
                if fits and better:
                    scores[row, target] = sure[r]
                    rule[row, target] = r
        for item in mine:
            held[item] = False
