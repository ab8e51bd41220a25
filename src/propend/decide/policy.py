"""Whom to push, within a budget, with a random holdout and exploration, and the exact chance of every choice.

**What is worth it.** A push adds ``probability · lift · value`` of revenue, ``· margin`` of profit, and costs
``cost``. Who is worth more than the cost is ranked by profit (a push costs the same for everybody, so that profit
and profit per cost rank alike); the budget buys ``M = ⌊budget / cost⌋`` pushes.

**Who is left to chance.** Each user has uniform numbers from a salted hash of the id (Bernoulli assignment by
hashing, as in Kohavi, Tang and Xu, *Trustworthy Online Controlled Experiments*, 2020, ch. 4). With holdout share
``h`` and exploration share ``e``: a user is held out with probability ``h`` (the hash holds for a whole period, so
that the same user stays held out), else explores with probability ``e``, else follows the policy. A user who
explores is a candidate for a push with probability ½.

**The exact propensity of a push**, before any number is drawn, with ``n`` eligible users:

* *policy*: the user of rank ``r`` (from 0) is pushed if in the policy's group, worth it, and fewer than ``M_p`` of
  the ``r`` users before are in that group. Groups are independent, so with ``g = (1 − h)(1 − e)`` it is
  ``g · P[Binomial(r, g) ≤ M_p − 1]``.
* *exploration*: candidates come with probability ``c = (1 − h) e / 2``; where there are more than the ``M_e``
  pushes set aside for them, those with the lowest of one more hash get them. By symmetry it is
  ``c · E[min(1, M_e / (1 + K))]`` with ``K ~ Binomial(n − 1, c)``.

The two exclude each other, so they add; silence has the rest. ``M_p + M_e = M``: the budget is never exceeded, and
what holdout and exploration leave unused goes to the next in rank. Every action of positive probability can be
judged later (``replay``); where the policy is certain (no holdout, no exploration) the propensity is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.config import DecideConfig
from propend.decide.decision import (
    EXCLUDED,
    EXPLORE,
    GROUPS,
    HOLDOUT,
    POLICY,
    SCHEMA,
    Decisions,
)
from propend.errors import ConfigError, DataError, NotEnoughDataError
from propend.events.clock import to_local, to_utc
from propend.events.hashing import hash_column, hash_text
from propend.names import DAY

__all__ = ["VERSION", "Plan", "consent_of", "decide", "draw", "plan_pushes", "uniform"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

VERSION: Final = "response-1"
"""Name of the policy that ranks by probability times value with one assumed lift."""
EXPLORE_PUSH: Final = 0.5
"""Chance that a user who explores is a candidate for a push."""
CONSENT: Final = ("push_consent", "marketing_consent", "consent", "opt_in", "optin", "subscribed")
"""User columns, first match first, whose *no* means that the user may not be reached."""
_NO: Final = ("false", "f", "no", "n", "0", "0.0", "none", "opted out", "unsubscribed", "否")
_HOUR: Final = DAY // 24


@dataclass(frozen=True)
class Plan:
    """What is settled before anything is drawn.

    ``rank`` int64 [n] is the place by profit (−1: not eligible or not worth it), ``push`` float64 [n] the exact
    probability of a push, ``policy_pushes`` and ``explore_pushes`` the most of each (−1: no limit).
    """

    rank: I64
    push: F64
    eligible: Bool
    policy_pushes: int
    explore_pushes: int
    holdout: float
    explore: float


def uniform(ids: npt.NDArray[np.uint64], salt: str) -> F64:
    """Return numbers in [0, 1) from hashed ids: the same for the same id and salt, on every machine.

    >>> a, b = (uniform(hash_column(pa.array(["u1", "u2"])), salt) for salt in ("x", "x"))
    >>> bool((a == b).all() and 0 <= a.min() and a.max() < 1)
    True
    """
    mixed = ids ^ np.uint64(hash_text(salt))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53)


def plan_pushes(
    profit: F64,
    eligible: Bool,
    *,
    cost: float,
    budget: float | None,
    holdout: float,
    explore: float,
    ties: npt.NDArray[np.uint64] | None = None,
) -> Plan:
    """Rank users and work out the exact probability of a push for each; the module says how.

    ``ties`` orders users of equal profit (the order given, without it).

    >>> plan = plan_pushes(np.array([3.0, 2.0, -1.0]), np.ones(3, bool), cost=1.0, budget=1.0, holdout=0.1, explore=0.0)
    >>> plan.push.round(3).tolist()                  # the second is pushed only where the first is held out
    [0.9, 0.09, 0.0]
    """
    n, count = len(profit), int(eligible.sum())
    candidate, group = (1 - holdout) * explore * EXPLORE_PUSH, (1 - holdout) * (1 - explore)
    allowed = -1 if budget is None or cost == 0 else math.floor(budget / cost * (1 + 1e-12))
    aside = -1 if allowed < 0 else _set_aside(allowed, count, candidate, explore)
    policy = -1 if allowed < 0 else allowed - aside
    worth = np.flatnonzero(eligible & (profit > 0))
    order = np.lexsort((worth if ties is None else ties[worth], -profit[worth]))
    rank = np.full(n, -1, np.int64)
    rank[worth[order]] = np.arange(len(worth))
    push = np.where(eligible, candidate * _share_served(count, candidate, aside), 0.0)
    push[worth[order]] += group * _reached(len(worth), group, policy)
    return Plan(rank, np.minimum(push, 1.0), eligible, policy, aside, holdout, explore)


def _set_aside(allowed: int, users: int, candidate: float, explore: float) -> int:
    """Return how many pushes exploration may have: what it needs, but no more than its share of the budget."""
    if candidate == 0 or allowed == 0:
        return 0
    needed = math.ceil(users * candidate + 3 * math.sqrt(users * candidate))
    return min(needed, max(1, round(allowed * explore)), allowed)


def _share_served(users: int, candidate: float, most: int) -> float:
    """Return E[min(1, most / (1 + K))] with K ~ Binomial(users − 1, candidate)."""
    if most < 0 or candidate == 0 or users == 0:
        return 1.0
    from scipy.stats import binom

    others = binom(users - 1, candidate)
    low, high = (int(q) for q in others.ppf([1e-15, 1 - 1e-15]))
    k = np.arange(max(low - 1, 0), min(high + 1, users - 1) + 1)
    weight = others.pmf(k)
    return float((weight * np.minimum(1.0, most / (1.0 + k))).sum() / weight.sum())


def _reached(ranks: int, group: float, most: int) -> F64:
    """Return, by rank r, P[Binomial(r, group) ≤ most − 1]: that the policy's pushes last until there."""
    if most < 0:
        return np.ones(ranks)
    if most == 0:
        return np.zeros(ranks)
    from scipy.stats import binom

    return np.asarray(binom.cdf(most - 1, np.arange(ranks), group), np.float64)


def draw(
    plan: Plan, ids: npt.NDArray[np.uint64], *, salt: str, period: str, run: str
) -> tuple[Bool, npt.NDArray[np.int8], Bool]:
    """Draw by hash: who is pushed, each user's group (index into ``GROUPS``), and who explores without a push left.

    The holdout depends on salt and period only; exploration also on the run.
    """
    n = len(ids)
    held = uniform(ids, f"{salt}|holdout|{period}") < plan.holdout
    explores = ~held & (uniform(ids, f"{salt}|explore|{period}|{run}") < plan.explore)
    group = np.full(n, POLICY, np.int8)
    group[held], group[explores], group[~plan.eligible] = HOLDOUT, EXPLORE, EXCLUDED
    pushed = np.zeros(n, np.bool_)
    by_rank = np.flatnonzero((group == POLICY) & (plan.rank >= 0))
    if plan.policy_pushes >= 0:
        by_rank = by_rank[np.argsort(plan.rank[by_rank], kind="stable")][: plan.policy_pushes]
    pushed[by_rank] = True
    coin = uniform(ids, f"{salt}|coin|{period}|{run}") < EXPLORE_PUSH
    asked = np.flatnonzero((group == EXPLORE) & coin)
    served = asked
    if plan.explore_pushes >= 0:
        place = uniform(ids[asked], f"{salt}|place|{period}|{run}")
        served = asked[np.argsort(place, kind="stable")][: plan.explore_pushes]
    pushed[served] = True
    refused = np.zeros(n, np.bool_)
    refused[asked] = True
    return pushed, group, refused & ~pushed


def decide(
    users: pa.Array | Sequence[str],
    probability: npt.ArrayLike,
    value: npt.ArrayLike,
    config: DecideConfig,
    *,
    now: int,
    zone: str = "UTC",
    lift: npt.ArrayLike | None = None,
    consent: npt.ArrayLike | None = None,
    hour: npt.ArrayLike | None = None,
    item: pa.Array | Sequence[str | None] | None = None,
    reasons: pa.Array | Sequence[str | None] | None = None,
    segments: pa.Array | None = None,
    salt: str = "propend",
    period: str | None = None,
    currency: str = "",
    policy: str = VERSION,
) -> Decisions:
    """Decide for each user: push or stay silent, with which item, when, and with which propensity.

    Parameters
    ----------
    users: distinct ids [n].
    probability: of a purchase within the horizon without a push [n], 0 to 1.
    value: what a purchase is worth [n], or one number for all; missing values take the mean of the others.
    config: cost, margin, budget, holdout, explore, and the assumed relative lift.
    now, zone: when the decision is made (UTC microseconds), and the clock that ``hour`` is read on.
    lift: measured relative lift of the probability by a push, [n] or one number; not given: ``config.lift``.
    consent: bool [n]; who has none is excluded. Everybody has, if not given.
    hour: best hour [n], 0 to 23, −1 unknown (then the commonest among the others, or 12).
    item: what to show [n]. reasons: what moved the probability, in words [n].
    segments: for the summary [n].
    salt, period: of the hash; the holdout stays the same within a period (the calendar month, if not given).

    Raises
    ------
    ConfigError: a setting is out of range. DataError: arrays do not fit together.
    NotEnoughDataError: there are no users.

    Examples
    --------
    >>> from propend.config import DecideConfig
    >>> made = decide(["a", "b"], [0.5, 0.01], 20.0, DecideConfig(holdout=0, explore=0), now=0)
    >>> made.column("action").tolist(), round(made.of("a").expected_profit, 6)
    (['push', 'silent'], 0.25)
    """
    check(config)
    ids = users if isinstance(users, pa.Array) else pa.array(list(users), pa.string())
    n = len(ids)
    if n == 0:
        raise NotEnoughDataError("there is no user to decide about; ask a wider population")
    if pc.count_distinct(ids, mode="all").as_py() != n or ids.null_count:
        raise DataError("a user id is missing or stands twice; decide once for each user")
    p = _numbers("probability", probability, n, 0.0, 1.0)
    worth, notes = _values(value, n)
    gain = _numbers("lift", config.lift if lift is None else lift, n, -1.0, np.inf)
    if lift is None:
        notes += (
            f"a push is assumed to lift the probability by {config.lift:.0%} until it was measured",
        )
    eligible = np.ones(n, np.bool_) if consent is None else np.asarray(consent, np.bool_)
    if eligible.shape != (n,):
        raise DataError(f"consent has {eligible.size:,} values for {n:,} users")
    added = np.clip(p * (1 + gain), 0, 1) - p
    expected = added * worth
    profit = expected * config.margin - config.cost
    hashed = hash_column(ids)
    plan = plan_pushes(
        profit,
        eligible,
        cost=config.cost,
        budget=config.budget,
        holdout=config.holdout,
        explore=config.explore,
        ties=hashed,
    )
    local = np.datetime64(int(to_local(np.array([now]), zone)[0]), "us")
    pushed, group, refused = draw(
        plan, hashed, salt=salt, period=period or str(local)[:7], run=str(now)
    )
    hours, when = _moments(hour, n, now, zone)
    columns: dict[str, Any] = {
        "user": ids,
        "action": _words(np.where(pushed, 0, 1), ("push", "silent")),
        "item": _only(pushed, item),
        "channel": _words(np.where(pushed, 0, -1), (config.channel,)),
        "hour": np.where(pushed, hours, -1).astype(np.int8),
        "at": pa.array(when, mask=~pushed).cast(pa.timestamp("us", "UTC")),
        "probability": p,
        "expected_value": expected,
        "cost": np.where(pushed, config.cost, 0.0),
        "expected_profit": profit,
        "propensity": np.where(pushed, plan.push, 1 - plan.push),
        "push_propensity": plan.push,
        "reason": _reasons(plan, pushed, group, refused, p, profit, reasons, currency),
        "group": _words(group, GROUPS),
        "policy": _words(np.zeros(n), (policy,)),
    }
    notes += _about(plan)
    return Decisions(
        pa.table(columns, schema=SCHEMA), config.budget, notes, _text(segments, n, "segments")
    )


def check(config: DecideConfig) -> None:
    """Check the settings; raises ``ConfigError`` naming the one out of range."""
    budget = math.inf if config.budget is None else config.budget
    for name, value, low, high, open_end in (
        ("cost", config.cost, 0.0, math.inf, True),
        ("margin", config.margin, 0.0, 1.0, False),
        ("budget", budget, 0.0, math.inf, False),
        ("holdout", config.holdout, 0.0, 1.0, True),
        ("explore", config.explore, 0.0, 1.0, False),
        ("lift", config.lift, -1.0, math.inf, True),
    ):
        inside = low <= value < high if open_end else low <= value <= high
        if not inside:
            end = "below" if open_end else "at most"
            limit = (
                "0 or more" if high == math.inf and low == 0 else f"from {low:g} to {end} {high:g}"
            )
            raise ConfigError(f"decide.{name} must be {limit}, not {value:g}; mend propend.toml")


def consent_of(users: pa.Table | None, key: str, ids: Sequence[str] | pa.Array) -> Bool | None:
    """Return who may be reached, by the first consent column of a user table; ``None`` where it has none.

    Only an explicit *no* (false, no, 0 …) forbids; users without a row, or with a gap, may be reached.

    >>> table = pa.table({"user": ["a", "b"], "opt_in": ["yes", "no"]})
    >>> consent_of(table, "user", ["b", "a", "c"]).tolist()
    [False, True, True]
    """
    known = {} if users is None else {name.casefold(): name for name in users.column_names}
    column = next((known[name] for name in CONSENT if name in known), None)
    if users is None or column is None:
        return None
    said = pc.utf8_lower(pc.utf8_trim_whitespace(users[column].cast(pa.string())))
    refused = users[key].filter(pc.is_in(said, value_set=pa.array(_NO)))
    wanted = ids if isinstance(ids, pa.Array) else pa.array(list(ids), pa.string())
    return ~np.asarray(pc.is_in(wanted, value_set=refused.combine_chunks()))


# ---- inputs


def _numbers(name: str, values: npt.ArrayLike, n: int, low: float, high: float) -> F64:
    array = np.asarray(values, np.float64)
    if array.shape not in ((), (n,)):
        raise DataError(f"{name} has {array.size:,} values for {n:,} users")
    wrong = ~((array >= low) & (array <= high))
    if wrong.any():
        example = float(array[wrong][0]) if array.shape else float(array)
        raise DataError(
            f"{name} must be from {low:g} to {high:g} for every user, but {int(wrong.sum()):,} are not, "
            f"for example {example:g}"
        )
    return np.broadcast_to(array, (n,)).astype(np.float64)


def _values(value: npt.ArrayLike, n: int) -> tuple[F64, tuple[str, ...]]:
    """Return a value for each user; the missing ones get the mean of the others, and a note says so."""
    array = np.asarray(value, np.float64)
    gone = np.isnan(array)
    if gone.all():
        raise DataError(
            "no user has a value of a purchase; give the log a value column, or one number for all"
        )
    notes: tuple[str, ...] = ()
    if gone.any():
        mean = float(array[~gone].mean())
        array = np.where(gone, mean, array)
        notes = (
            f"{int(gone.sum()):,} users have no value of their own; they count the mean, {mean:.2f}",
        )
    if (array < 0).any():
        notes += (f"{int((array < 0).sum()):,} users have a value below 0; they count 0",)
        array = np.maximum(array, 0.0)
    return _numbers("value", array, n, 0.0, 1e12), notes


def _moments(hour: npt.ArrayLike | None, n: int, now: int, zone: str) -> tuple[I64, I64]:
    """Return each user's hour, and the next moment (UTC microseconds) at which the zone's clock shows it."""
    hours = np.full(n, -1, np.int64) if hour is None else np.asarray(hour, np.int64)
    if hours.shape != (n,) or ((hours < -1) | (hours > 23)).any():
        raise DataError(f"hour must hold {n:,} numbers from 0 to 23, or −1 for unknown")
    known = hours[hours >= 0]
    usual = int(np.bincount(known).argmax()) if len(known) else 12
    hours = np.where(hours < 0, usual, hours)
    walls = to_local(np.array([now]), zone)[0] // DAY * DAY + np.arange(24) * _HOUR
    today, tomorrow = to_utc(walls, zone), to_utc(walls + DAY, zone)
    return hours, np.where(today >= now, today, tomorrow)[hours]


def _words(codes: npt.NDArray[Any], values: tuple[str, ...]) -> pa.Array:
    """Return coded text; a negative code is missing."""
    coded = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(coded, pa.array(values, pa.string()))


def _text(values: Any, n: int, name: str) -> pa.Array | None:
    """Return texts as an Arrow array, or ``None``."""
    if values is None:
        return None
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if not isinstance(array, pa.Array):
        array = pa.array(list(values), pa.string())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if len(array) != n:
        raise DataError(f"{name} has {len(array):,} values for {n:,} users")
    return array.cast(pa.string())


def _only(pushed: Bool, item: Any) -> pa.Array:
    """Return the items of those who are pushed."""
    items = _text(item, len(pushed), "item")
    none = pa.scalar(None, pa.string())
    if items is None:
        return pa.nulls(len(pushed), pa.string())
    return pc.if_else(pa.array(pushed), items, none)


# ---- reasons


def _reasons(
    plan: Plan,
    pushed: Bool,
    group: npt.NDArray[np.int8],
    refused: Bool,
    p: F64,
    profit: F64,
    given: Any,
    currency: str,
) -> pa.Array:
    """Return in words why each action was taken; with what moved the probability, where that is known."""
    worth, policy = plan.rank >= 0, group == POLICY
    texts = (
        "no consent: may not be reached",
        "holdout: kept silent at random, to measure what pushes bring",
        "exploration: pushed at random, to learn",
        "exploration: its pushes are spent",
        "exploration: silent at random, to learn",
        "pays: {}",
        "budget is spent on users worth more: {}",
        "does not pay: {}",
    )
    rules = (
        group == EXCLUDED,
        group == HOLDOUT,
        (group == EXPLORE) & pushed,
        refused,
        group == EXPLORE,
        policy & pushed,
        policy & worth,
    )
    code = np.select(rules, range(len(rules)), len(rules))
    heads = _words(code, tuple(t.removesuffix("{}") for t in texts)).dictionary_decode()
    shown = code >= 5
    money = _rounded(profit, 2)
    unit = f" {currency}" if currency else ""
    figures = pc.binary_join_element_wise(
        _rounded(100 * p, 1), " % likely to buy, ", money, f"{unit} expected of a push", ""
    )
    out = pc.binary_join_element_wise(
        heads, pc.if_else(pa.array(shown), figures, pa.scalar("")), ""
    )
    more = _text(given, len(pushed), "reasons")
    if more is None:
        return out
    tail = pc.binary_join_element_wise("; ", more, "")
    said = pc.and_(pa.array(shown), pc.fill_null(pc.not_equal(more, ""), False))
    tail = pc.if_else(said, tail, pa.scalar(""))
    return pc.binary_join_element_wise(out, tail, "")


def _rounded(values: F64, digits: int) -> pa.Array:
    return pa.array(np.round(values, digits) + 0.0).cast(pa.string())


def _about(plan: Plan) -> tuple[str, ...]:
    """Return notes on what the budget and the settings mean for later measurement."""
    notes: tuple[str, ...] = ()
    if plan.holdout == 0:
        notes += ("without a holdout the effect of the pushes cannot be measured",)
    if plan.explore == 0 or plan.explore_pushes == 0:
        notes += ("without exploration other policies cannot be judged on these decisions",)
    return notes
