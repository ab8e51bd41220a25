"""Which channels earned the conversions: first, last, linear, time decay, Markov removal, Shapley."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np

from propend.analytics.nodes import nodes_of
from propend.analytics.scan import sweep
from propend.analytics.steps import Step, columns_for, masks
from propend.engine import Engine
from propend.errors import ConfigError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import CHANNEL, VALUE

__all__ = ["MODELS", "attribution"]

MODELS: Final = {
    "first": "all to the first touch before the conversion",
    "last": "all to the last touch before the conversion",
    "linear": "equal shares to every touch",
    "time_decay": "a touch weighs half as much for every half-life before the conversion",
    "markov": "in proportion to the conversions lost when the channel is removed from the chain of touches",
    "shapley": "a conversion is shared equally among the distinct channels of its path (its Shapley value)",
}
"""Every model with its meaning."""


@nb.njit(cache=True, nogil=True)
def collect(
    offsets: Any,
    time: Any,
    bits: Any,
    channel: Any,
    value: Any,
    lookback: int,
    half_life: float,
    credit: Any,
    money: Any,
    moves: Any,
    sets: Any,
    set_value: Any,
    totals: Any,
) -> int:
    """Walk each user's touches (bit 1) to each conversion (bit 0) and past the last one.

    ``credit`` and ``money`` [4, channels] are first, last, linear, time decay; ``moves`` [c + 3, c + 3] counts the chain
    (start, converted, lost at the end); ``sets`` and ``set_value`` list each conversion's channels as bits and its value;
    ``totals`` [3]: conversions, without any touch, paths lost. Returns the length of ``sets``.
    """
    channels = credit.shape[1]
    start = channels
    converted = channels + 1
    lost = channels + 2
    found = 0
    for u in range(len(offsets) - 1):
        begin = offsets[u]
        for i in range(offsets[u], offsets[u + 1] + 1):
            final = i == offsets[u + 1]
            if not final and bits[i] & 1 == 0:
                continue
            horizon = np.int64(-(1 << 62)) if final else time[i] - lookback
            worth = 0.0 if final or len(value) == 0 or np.isnan(value[i]) else value[i]
            last = i if final else i + 1
            seen = np.int64(0)
            touches = 0
            weight = 0.0
            before = start
            first = -1
            newest = -1
            for j in range(begin, last):
                if bits[j] & 2 == 0 or channel[j] < 0 or time[j] < horizon:
                    continue
                c = channel[j]
                seen |= np.int64(1) << np.int64(c)
                touches += 1
                if first < 0:
                    first = c
                newest = c
                moves[before, c] += 1
                before = c
                if not final:
                    weight += 2.0 ** (-(time[i] - time[j]) / half_life)
            if final:
                if touches > 0:
                    moves[before, lost] += 1
                    totals[2] += 1
                break
            totals[0] += 1
            if touches == 0:
                totals[1] += 1
            else:
                moves[before, converted] += 1
                credit[0, first] += 1
                money[0, first] += worth
                credit[1, newest] += 1
                money[1, newest] += worth
                for j in range(begin, last):
                    if bits[j] & 2 == 0 or channel[j] < 0 or time[j] < horizon:
                        continue
                    c = channel[j]
                    share = 1.0 / touches
                    credit[2, c] += share
                    money[2, c] += share * worth
                    share = 2.0 ** (-(time[i] - time[j]) / half_life) / weight
                    credit[3, c] += share
                    money[3, c] += share * worth
                sets[found] = seen
                set_value[found] = worth
                found += 1
            begin = i + 1
    return found


@dataclass(frozen=True)
class _Part:
    """What a bucket adds."""

    credit: Any
    money: Any
    moves: Any
    sets: dict[int, tuple[int, float]]
    totals: Any

    def __add__(self, other: _Part) -> _Part:
        sets = dict(self.sets)
        for key, (n, v) in other.sets.items():
            a, b = sets.get(key, (0, 0.0))
            sets[key] = (a + n, b + v)
        return _Part(
            self.credit + other.credit,
            self.money + other.money,
            self.moves + other.moves,
            sets,
            self.totals + other.totals,
        )


def attribution(
    store: Store,
    schema: Schema,
    engine: Engine,
    conversion: str | Expression | Step = "purchase",
    *,
    channel: str = CHANNEL,
    touch: str | Expression | Step = "*",
    lookback: str | Duration = "30d",
    half_life: str | Duration = "7d",
) -> dict[str, Any]:
    """Share conversions, and their value, among channels under every model of :data:`MODELS`.

    A path is a user's touches (events of ``touch`` with a known ``channel``) since the conversion before, at most
    ``lookback`` before this one; the conversion's own channel is its last touch. Conversions without a touch are counted and
    not shared. What follows a user's last conversion is a lost path (Markov). The sums of each model equal the conversions
    shared. All of it describes; what a channel *causes* needs a hold-out. Sources: Anderl et al. 2016 (Markov removal);
    Zhao, Mahboobi and Bagheri 2018 (Shapley). Raises ``NotEnoughDataError`` where nobody converted.
    """
    goal, touching = Step.parse(conversion), Step.parse(touch)
    goal.check(schema)
    touching.check(schema)
    if channel == CHANNEL and CHANNEL not in schema.texts:
        raise ConfigError(
            "the log has no channel; name another field, for example channel='item.category'"
        )
    nodes = nodes_of(store, schema, engine, channel, most=60)
    back, half = (
        d if isinstance(d, Duration) else Duration.parse(d) for d in (lookback, half_life)
    )
    selections = [goal.select, touching.select]
    valued = [VALUE] if VALUE in schema.numbers else []
    columns = list(dict.fromkeys([*columns_for(schema, selections), *nodes.columns, *valued]))
    n = len(nodes.names)

    def work(timelines: Timelines) -> _Part:
        bits = masks(schema, timelines, selections)
        credit, money = np.zeros((4, n)), np.zeros((4, n))
        moves, totals = np.zeros((n + 3, n + 3), np.int64), np.zeros(3, np.int64)
        most = int((bits & 1).sum())
        sets, worth = np.empty(most, np.int64), np.empty(most)
        value = timelines.numbers.get(VALUE, np.zeros(0))
        found = collect(
            timelines.offsets, timelines.time, bits, nodes.codes(timelines), value,
            back.microseconds, float(half.microseconds), credit, money, moves, sets, worth, totals,
        )  # fmt: skip
        keys, inverse = np.unique(sets[:found], return_inverse=True)
        sizes = np.bincount(inverse, minlength=len(keys))
        values = np.bincount(inverse, worth[:found], len(keys))
        by_set = {int(k): (int(a), float(b)) for k, a, b in zip(keys, sizes, values, strict=True)}
        return _Part(credit, money, moves, by_set, totals)

    parts = list(sweep(store, engine, work, columns))
    total = sum(parts[1:], parts[0])
    if total.totals[0] == 0:
        raise NotEnoughDataError(f"nobody did {goal.label}; name an event that happened")
    return _document(total, nodes.names, goal, channel, back, half, bool(valued))


def _document(
    part: _Part,
    names: tuple[str, ...],
    goal: Step,
    channel: str,
    back: Duration,
    half: Duration,
    valued: bool,
) -> dict[str, Any]:
    shared = int(part.totals[0] - part.totals[1])
    worth = float(sum(v for _, v in part.sets.values()))
    removal = removal_effects(part.moves)
    weight = removal / removal.sum() if removal.sum() > 0 else np.zeros(len(names))
    equal, equal_money = shapley(part.sets, len(names))
    credit = dict(zip(MODELS, [*part.credit, weight * shared, equal], strict=True))
    money = dict(zip(MODELS, [*part.money, weight * worth, equal_money], strict=True))
    touches = part.moves[:, : len(names)].sum(axis=0)
    order = sorted(range(len(names)), key=lambda c: (-credit["shapley"][c], names[c]))
    return {
        "conversion": goal.label,
        "channel": channel,
        "lookback": str(back),
        "half_life": str(half),
        "conversions": int(part.totals[0]),
        "without_touch": int(part.totals[1]),
        "lost_paths": int(part.totals[2]),
        "value": worth if valued else None,
        "channels": [
            {
                "channel": names[c],
                "touches": int(touches[c]),
                "conversions": {m: float(credit[m][c]) for m in MODELS},
                "value": {m: float(money[m][c]) for m in MODELS} if valued else None,
                "removal_effect": float(removal[c]),
            }
            for c in order
        ],
        "models": MODELS,
        "note": "shares describe who was there, not what caused the conversion; a hold-out measures that",
    }


def removal_effects(moves: Any) -> Any:
    """Return for each channel the share of conversions lost without it, from the counts of a first-order chain.

    Rows and columns: channels, start, converted, lost. Solved exactly as an absorbing chain, without simulation.

    >>> moves = np.zeros((4, 4)); moves[1, 0] = 2; moves[0, 2] = 1; moves[0, 3] = 1
    >>> removal_effects(moves).tolist()
    [1.0]
    """
    n = len(moves) - 3
    leaving = moves.sum(axis=1, keepdims=True)
    chain = np.divide(moves, leaving, out=np.zeros(moves.shape), where=leaving > 0)
    whole = _converted(chain, n)
    found = np.zeros(n)
    for c in range(n):
        without = chain.copy()
        without[:, c] = 0.0  # who would have come this way is lost
        found[c] = 1 - _converted(without, n) / whole if whole > 0 else 0.0
    return np.maximum(found, 0.0)


def _converted(chain: Any, n: int) -> float:
    """Return the probability to end in ``converted`` from ``start``."""
    inner = chain[: n + 1, : n + 1]
    used = np.flatnonzero(chain.sum(axis=0)[: n + 1] + (np.arange(n + 1) == n))
    system = np.eye(len(used)) - inner[np.ix_(used, used)]
    reach = np.linalg.lstsq(system, chain[used, n + 1], rcond=None)[0]
    return float(reach[np.searchsorted(used, n)])


def shapley(sets: dict[int, tuple[int, float]], n: int) -> tuple[Any, Any]:
    """Return each channel's Shapley value of conversions and of money.

    The worth of a coalition is what paths within it converted; that game is a sum of unanimity games, whose Shapley value
    splits each path's conversions equally among its channels.

    >>> shapley({0b11: (4, 8.0), 0b01: (1, 1.0)}, 2)[0].tolist()
    [3.0, 2.0]
    """
    credit, money = np.zeros(n), np.zeros(n)
    for bits, (count, worth) in sorted(sets.items()):
        members = [c for c in range(n) if bits >> c & 1]
        credit[members] += count / len(members)
        money[members] += worth / len(members)
    return credit, money
