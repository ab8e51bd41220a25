"""Full-ranking evaluation of recommenders: every item is ranked for every user asked, ties count against.

Sampled metrics are not offered: they order models wrongly (Krichene & Rendle, KDD 2020).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numba as nb
import numpy as np
import numpy.typing as npt

from propend.errors import DataError
from propend.recommend.attributes import Attributes
from propend.recommend.audience import audience_auc
from propend.recommend.interactions import Interactions
from propend.recommend.popularity import Popularity
from propend.recommend.protocols import Seen, Split, forward, leave_one_out, random_split
from propend.recommend.ranking import forbid_seen, top_k
from propend.recommend.recommender import Items, Recommender

__all__ = ["KS", "Ranks", "Ties", "compare", "evaluate", "measure", "per_user", "split_by"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Ties = Literal["conservative", "random"]

KS: Final = (5, 10, 20)
_DRAWS: Final = 200


@dataclass(frozen=True)
class Ranks:
    """Where the right answers stand: ``rank`` int64 per answer (1 is best, 0: past the deepest k).

    ``shown`` [users, k] are the lists as they would be shown.
    """

    offsets: I64
    rank: I64
    shown: I32
    seconds: float


def split_by(
    log: Interactions,
    protocol: str = "forward",
    *,
    horizon: float | None = None,
    seed: int = 0,
    seen: Seen | None = None,
) -> Split:
    """Cut a log by the protocol's name: ``forward``, ``leave-one-out`` or ``random``.

    Raises ``DataError`` for another name.
    """
    if protocol == "forward":
        return forward(log, horizon, seen=seen)
    if protocol == "leave-one-out":
        return leave_one_out(log, seen=seen)
    if protocol == "random":
        return random_split(log, seed=seed, seen=seen)
    raise DataError(f"no protocol {protocol!r}; known: forward, leave-one-out, random")


def evaluate(
    log: Interactions,
    recommenders: Mapping[str, Recommender],
    *,
    protocol: str = "forward",
    horizon: float | None = None,
    items: Items | None = None,
    users: Attributes | None = None,
    within: npt.NDArray[np.bool_] | None = None,
    ks: Sequence[int] = KS,
    ties: Ties = "conservative",
    seen: Seen | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit and judge recommenders under one protocol; popularity always stands in the table.

    Cold users (no history at the cut) are judged apart, in ``cold_users`` of each model; everything else
    is about users with a history. Returns ``{"protocol", "data_hash", "users", "ties", "seen", "warnings", "cold_users", "cold_items",
    "models": [{"name", "hr@10", "ndcg@10", …, "intervals", "fit_seconds", "users_per_second"}]}``.

    Examples
    --------
    >>> from propend.names import DAY
    >>> rng = np.random.default_rng(0)
    >>> log = Interactions.of(rng.integers(0, 30, 400), rng.integers(0, 9, 400), np.arange(400) * DAY)
    >>> table = evaluate(log, {}, ks=(2,))
    >>> [row["name"] for row in table["models"]], table["protocol"]
    (['popularity'], 'forward, last 39.9 days')
    """
    split = split_by(log, protocol, horizon=horizon, seed=seed, seen=seen)
    options: dict[str, Any] = {"items": items, "users": users, "within": within}
    return compare(split, recommenders, ks=ks, ties=ties, seed=seed, **options)


def compare(
    split: Split,
    recommenders: Mapping[str, Recommender],
    *,
    items: Items | None = None,
    users: Attributes | None = None,
    within: npt.NDArray[np.bool_] | None = None,
    ks: Sequence[int] = KS,
    ties: Ties = "conservative",
    seed: int = 0,
    served: str | None = None,
) -> dict[str, Any]:
    """Judge recommenders on one split; see ``evaluate``.

    ``served`` names the one that users are offered: a warning says where another is ahead of it.
    """
    entries = dict(recommenders)
    if not any(r.label == Popularity.name for r in entries.values()):
        entries = {"popularity": Popularity(), **entries}
    rows = []
    gains: dict[str, F64] = {}
    for name, recommender in entries.items():
        start = time.perf_counter()
        recommender.fit(split.train, items=items, users=users, at=split.at, seed=seed)
        fitted = time.perf_counter() - start
        ranks = measure(recommender, split, max(ks), within=within, ties=ties, seed=seed)
        row = {"name": name, **_table(split, ranks, ks, seed)}
        gains[name] = per_user(ranks, 10)["ndcg"]
        row["audience"] = audience_auc(recommender, split, seed=seed)
        row["cold_users"] = _cold(recommender, split, ks, within, ties, seed)
        row["fit_seconds"] = round(fitted, 3)
        row["users_per_second"] = round(len(split) / max(ranks.seconds, 1e-9), 1)
        rows.append(row)
    return {
        "protocol": split.protocol,
        "data_hash": split.hash,
        "users": len(split),
        "items": split.train.n_items,
        "ties": ties,
        "seen": split.seen,
        "ranking": "full",
        "warnings": [w for w in (split.warning, _behind(gains, served, seed)) if w],
        "cold_users": round(split.cold_users, 4),
        "cold_items": round(split.cold_items, 4),
        "models": rows,
    }


def _behind(gains: Mapping[str, F64], served: str | None, seed: int) -> str:
    """Say in one sentence by how much the best other is ahead of what is served; empty where none is."""
    if served is None:
        return ""
    leads = {n: values - gains[served] for n, values in gains.items() if n != served}
    best = max(leads, key=lambda n: float(leads[n].mean()))
    lead = leads[best]
    if lead.mean() <= 0:
        return ""
    draws = np.random.default_rng(seed).multinomial(
        len(lead), np.full(len(lead), 1 / len(lead)), 2000
    )
    low, high = np.quantile(draws @ lead / len(lead), [0.025, 0.975])
    sure = "" if low > 0 else ", which may be chance"
    return (
        f"what is served is behind {best} by {lead.mean():.4f} NDCG@10 [{low:.4f}, {high:.4f}]{sure}; "
        f"mix, sources and compete in [recommend] of propend.toml decide what is served"
    )


def measure(
    recommender: Recommender,
    split: Split,
    k: int,
    *,
    within: npt.NDArray[np.bool_] | None = None,
    ties: Ties = "conservative",
    seed: int = 0,
) -> Ranks:
    """Rank every item for every test user and find the right answers, as deep as ``k``.

    ``conservative``: an answer stands behind every wrong item with an equal score; ``random``: at a
    seeded random place among them. A recommender that builds lists as a whole is judged by its lists.
    """
    start = time.perf_counter()
    rank = np.zeros(len(split.truth), np.int64)
    shown = np.full((len(split), k), -1, np.int32)
    hide = split.seen == "hidden"
    allowed = recommender._allowed(within, None)
    if recommender.listwise:  # at once: rules such as most_shown count over all lists
        shown = recommender._recommend(split.histories, k, hide, allowed, split.at).items
        _ranks_in_lists(shown, split.offsets, split.truth, rank)
        return Ranks(split.offsets, rank, shown, time.perf_counter() - start)
    for first, block in recommender._blocks(split.histories):
        part = slice(first, first + len(block))
        offsets = split.offsets[first : first + len(block) + 1]
        span = slice(offsets[0], offsets[-1])
        scores = recommender._score(block, split.at)
        if hide:
            forbid_seen(scores, block.offsets, block.items)
        shown[part] = top_k(scores, k, allowed)[0]
        draws = np.random.default_rng([seed, first]).random(span.stop - span.start)
        if ties == "conservative":
            draws[:] = 1.0
        _ranks(scores, allowed, offsets - offsets[0], split.truth[span], k, draws, rank[span])
    return Ranks(split.offsets, rank, shown, time.perf_counter() - start)


@nb.njit(cache=True, nogil=True)
def _ranks(
    scores: Any, allowed: Any, offsets: Any, truth: Any, k: int, draws: Any, rank: Any
) -> None:
    """Write each answer's rank: better items, plus a drawn share of the tied wrong ones, plus tied answers before it."""
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            mine = scores[row, truth[at]]
            if not mine > -np.inf or not allowed[truth[at]]:
                continue
            better, tied = 0, 0
            for item in range(scores.shape[1]):
                other = scores[row, item]
                if other >= mine and allowed[item]:
                    if other > mine:
                        better += 1
                        if better >= k:
                            break
                    else:
                        tied += 1
            if better >= k:
                continue
            before, right = 0, 0
            for other_at in range(offsets[row], offsets[row + 1]):
                if scores[row, truth[other_at]] == mine and allowed[truth[other_at]]:
                    right += 1
                    if draws[other_at] < draws[at] or (
                        draws[other_at] == draws[at] and other_at < at
                    ):
                        before += 1
            wrong = tied - right
            place = 1 + better + before + min(wrong, int(draws[at] * (wrong + 1)))
            if place <= k:
                rank[at] = place


@nb.njit(cache=True, nogil=True)
def _ranks_in_lists(shown: Any, offsets: Any, truth: Any, rank: Any) -> None:
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            for place in range(shown.shape[1]):
                if shown[row, place] == truth[at]:
                    rank[at] = place + 1
                    break


def per_user(ranks: Ranks, k: int) -> dict[str, F64]:
    """Return each user's hit rate, recall, precision, NDCG, MAP and MRR at k, float64 [users].

    NDCG has binary gains and the ideal of min(answers, k) hits (Järvelin & Kekäläinen 2002); MAP divides
    by min(answers, k).

    >>> ranks = Ranks(np.array([0, 2]), np.array([1, 0]), np.zeros((1, 2), np.int32), 0.0)
    >>> {name: round(float(v[0]), 3) for name, v in per_user(ranks, 2).items()}
    {'hr': 1.0, 'recall': 0.5, 'precision': 0.5, 'ndcg': 0.613, 'map': 0.5, 'mrr': 1.0}
    """
    user = np.repeat(np.arange(len(ranks.offsets) - 1), np.diff(ranks.offsets))
    size = len(ranks.offsets) - 1
    hit = (ranks.rank > 0) & (ranks.rank <= k)
    asked = np.diff(ranks.offsets).astype(np.float64)
    place = np.where(hit, ranks.rank, 1)
    hits = np.bincount(user, hit, size)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    best = np.minimum(asked, k).astype(np.int64)
    order = np.lexsort((ranks.rank, user))  # hits of a user in the order they are shown
    rows = order[hit[order]]
    nth = np.arange(len(rows)) - np.concatenate([[0], np.cumsum(hits)])[user[rows]] + 1
    precision_at = np.bincount(user[rows], nth / ranks.rank[rows], size)
    first = np.zeros(size)
    np.maximum.at(first, user, np.where(hit, 1 / place, 0.0))
    return {
        "hr": (hits > 0).astype(np.float64),
        "recall": hits / asked,
        "precision": hits / k,
        "ndcg": np.bincount(user, np.where(hit, 1 / np.log2(place + 1), 0), size) / ideal[best],
        "map": precision_at / best,
        "mrr": first,
    }


def _table(split: Split, ranks: Ranks, ks: Sequence[int], seed: int) -> dict[str, Any]:
    """Return every figure of one recommender, with intervals by bootstrap over users."""
    users = len(split)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(users, np.full(users, 1 / users), _DRAWS).astype(np.float64) / users
    row: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for k in ks:
        for metric, values in per_user(ranks, k).items():
            key = f"{metric}@{k}"
            row[key] = round(float(values.mean()), 6)
            low, high = np.quantile(draws @ values, [0.025, 0.975])
            intervals[key] = [round(float(low), 6), round(float(high), 6)]
    row.update(_lists(split, ranks.shown[:, : max(ks)]))
    row.update(_parts(split, ranks, max(ks)))
    row["intervals"] = intervals
    return row


def _cold(
    recommender: Recommender,
    split: Split,
    ks: Sequence[int],
    within: npt.NDArray[np.bool_] | None,
    ties: Ties,
    seed: int,
) -> dict[str, Any] | None:
    """Return the figures for users who had no history at the cut, none where there is no such user."""
    if split.cold is None:
        return None
    ranks = measure(recommender, split.cold, max(ks), within=within, ties=ties, seed=seed)
    row: dict[str, Any] = {"users": len(split.cold)}
    for k in ks:
        for metric in ("hr", "recall", "ndcg", "mrr"):
            row[f"{metric}@{k}"] = round(float(per_user(ranks, k)[metric].mean()), 6)
    return row


def _lists(split: Split, shown: I32) -> dict[str, float]:
    """Return what the lists are like: coverage, novelty, diversity, popularity bias, how full they are.

    Novelty is the mean −log2 of the share of users who met the item (Zhou et al. 2010); diversity
    between users is 1 − the mean overlap of two users' lists (Zhou et al.: personalisation), within a list
    1 − the mean cosine of two of its items by who met them (Ziegler et al., WWW 2005), over 500 lists;
    ``popularity_bias`` is the mean popularity of what is shown over that of what users had.
    """
    train, k = split.train, shown.shape[1]
    there = shown[shown >= 0]
    met = np.bincount(train.item, minlength=train.n_items)
    if not len(there):
        return {
            "coverage": 0.0,
            "novelty": 0.0,
            "diversity": 0.0,
            "diversity_within": 0.0,
            "filled": 0.0,
        }
    exposure = np.bincount(there, minlength=train.n_items).astype(np.float64)
    share = np.maximum(met, 1) / max(train.n_users, 1)
    pairs = len(shown) * (len(shown) - 1) / 2
    overlap = float((exposure * (exposure - 1) / 2).sum()) / max(pairs * k, 1)
    known = max(int((met > 0).sum()), 1)
    inside = _within_lists(train, shown)
    return {
        "coverage": round(float((exposure > 0).sum()) / known, 4),
        "novelty": round(float(-np.log2(np.minimum(share, 1))[there].mean()), 4),
        "diversity": round(1 - overlap, 4),
        "diversity_within": round(inside, 4),
        "popularity_bias": round(float(met[there].mean() / max(met[train.item].mean(), 1e-9)), 4),
        "filled": round(len(there) / shown.size, 4),
    }


def _within_lists(train: Interactions, shown: I32) -> float:
    """Return 1 − the mean cosine of two items of a list by the users who met them; 500 lists at most."""
    lists = shown[np.linspace(0, len(shown) - 1, min(len(shown), 500)).astype(np.int64)]
    table = train.matrix(binary=True).tocsc()
    size = np.sqrt(np.maximum(np.diff(table.indptr), 1))
    total, pairs = 0.0, 0
    for row in lists:
        items = row[row >= 0]
        if len(items) > 1:
            part = table[:, items]
            alike = (part.T @ part).toarray() / np.outer(size[items], size[items])
            total += float((alike.sum() - np.trace(alike)) / 2)
            pairs += len(items) * (len(items) - 1) // 2
    return 1 - total / pairs if pairs else 0.0


def _parts(split: Split, ranks: Ranks, k: int) -> dict[str, Any]:
    """Return recall of head and tail answers, warm and cold ones, and of short and long histories, apart.

    The head are the most-met items that carry half of all interactions; a cold item is one nobody had
    met before the cut; a short history is at most the median one.
    """
    met = np.bincount(split.train.item, minlength=split.train.n_items)
    order = np.argsort(-met, kind="stable")
    head = np.zeros(len(met), np.bool_)
    head[order[: int(np.searchsorted(np.cumsum(met[order]), met.sum() / 2)) + 1]] = True
    hit = (ranks.rank > 0) & (ranks.rank <= k)
    length = np.diff(split.histories.offsets)
    short = np.repeat(length <= np.median(length), np.diff(split.offsets))
    parts = {
        "head": head[split.truth],
        "tail": ~head[split.truth],
        "warm_items": met[split.truth] > 0,
        "cold_items": met[split.truth] == 0,
        "short_history": short,
        "long_history": ~short,
    }
    return {
        f"recall@{k}_of": {
            name: round(float(hit[rows].mean()), 4) if rows.any() else None
            for name, rows in parts.items()
        }
    }
