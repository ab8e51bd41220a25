"""Which channels earned the conversions: first, last, linear, time decay, Markov removal, Shapley."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numba as nb
import numpy as np

from propend.analytics.kept import Adding, Part, ask
from propend.analytics.nodes import Nodes, nodes_of
from propend.analytics.steps import Step, columns_for, masks
from propend.engine import Engine
from propend.errors import ConfigError, NotEnoughDataError
from propend.events.store import Store
from propend.events.timelines import Timelines
from propend.expression.duration import Duration
from propend.expression.nodes import Expression
from propend.features.schema import Schema
from propend.names import CHANNEL, VALUE

__all__ = ["MODELS", "AttributionQuestion", "attribution", "check_channel"]

MODELS: Final = {
    "first": "all to the first touch before the conversion",
    "last": "all to the last touch before the conversion",
    "linear": "equal shares to every touch",
    "time_decay": "a touch weighs half as much for every half-life before the conversion",
    "markov": "in proportion to the conversions lost when the channel is removed from the chain of touches",
    "shapley": "by what the channel adds to the share of paths that convert, on average over all orders of joining",
}
"""Every model with its meaning."""
EXACT: Final = 12
"""Most channels whose every coalition is looked at."""


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
    set_won: Any,
    totals: Any,
) -> int:
    """Walk each user's touches (bit 1) to each conversion (bit 0) and past the last one.

    ``credit`` and ``money`` [4, channels] are first, last, linear, time decay; ``moves`` [c + 3, c + 3] counts the chain
    (start, converted, lost at the end); ``sets``, ``set_value`` and ``set_won`` list each path's channels as bits, its value
    and whether it converted; ``totals`` [3]: conversions, without any touch, paths lost. Returns the length of ``sets``.
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
                    sets[found] = seen
                    set_value[found] = 0.0
                    set_won[found] = 0
                    found += 1
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
                set_won[found] = 1
                found += 1
            begin = i + 1
    return found


class AttributionQuestion(Adding):
    """Conversions shared among channels; see :func:`attribution`. A state holds the touches since each user's last conversion."""

    def __init__(
        self,
        nodes: Nodes,
        schema: Schema,
        conversion: str | Expression | Step = "purchase",
        *,
        touch: str | Expression | Step = "*",
        lookback: str | Duration = "30d",
        half_life: str | Duration = "7d",
    ) -> None:
        self.nodes, self.schema = nodes, schema
        self.goal, touching = Step.single(conversion), Step.single(touch)
        self.goal.check(schema)
        touching.check(schema)
        self.lookback, self.half_life = (
            d if isinstance(d, Duration) else Duration.parse(d) for d in (lookback, half_life)
        )
        self.selections = [self.goal.select, touching.select]
        self.valued = VALUE in schema.numbers
        columns = [*columns_for(schema, self.selections), *nodes.columns]
        self.columns = list(dict.fromkeys([*columns, *([VALUE] if self.valued else [])]))
        self.rest_on(schema, self.selections, [nodes.of], nodes.names)
        self.key = f"attribution by rates {nodes.of} {[str(s) for s in self.selections]} {lookback} {half_life}"

    def fits(self, timelines: Timelines) -> bool:
        """Whether the channels are still the same."""
        return self.nodes.knows(timelines)

    def refused(self) -> str:
        """Return why the answer cannot be kept, or nothing."""
        return self.nodes.refused()

    def open_(self, timelines: Timelines) -> Any:
        """Return the touches since each user's last conversion."""
        bits = masks(self.schema, timelines, self.selections)
        converted = np.append(0, np.cumsum(bits & 1))
        later = converted[1:] == converted[timelines.offsets[1:]][timelines.user_of_row]
        return later & (bits & 1 == 0) & (bits & 2 > 0)

    def whole(self, timelines: Timelines) -> Part:
        """Return credits and money [4, channels], moves, totals, and each set of channels with its paths, conversions and value."""
        n = len(self.nodes.names)
        bits = masks(self.schema, timelines, self.selections)
        credit, money = np.zeros((4, n)), np.zeros((4, n))
        moves, totals = np.zeros((n + 3, n + 3), np.int64), np.zeros(3, np.int64)
        most = int((bits & 1).sum()) + len(timelines.users)
        sets, worth, won = np.empty(most, np.int64), np.empty(most), np.empty(most, np.int64)
        value = timelines.numbers.get(VALUE, np.zeros(0))
        found = collect(
            timelines.offsets, timelines.time, bits, self.nodes.codes(timelines), value,
            self.lookback.microseconds, float(self.half_life.microseconds), credit, money, moves,
            sets, worth, won, totals,
        )  # fmt: skip
        return {
            "credit": credit,
            "money": money,
            "moves": moves,
            "totals": totals,
            **_by_set(sets[:found], np.ones(found, np.int64), won[:found], worth[:found]),
        }

    def add(self, a: Part, b: Part) -> Part:
        """Return the sum of two parts."""
        plain = {name: a[name] + b[name] for name in ("credit", "money", "moves", "totals")}
        joined = (np.concatenate([a[name], b[name]]) for name in ("sets", "paths", "won", "worth"))
        return {**plain, **_by_set(*joined)}

    def document(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Return every channel's share under every model."""
        part = self.total(parts)
        if part is None or part["totals"][0] == 0:
            raise NotEnoughDataError(f"nobody did {self.goal.label}; name an event that happened")
        names = self.nodes.names
        shared = int(part["totals"][0] - part["totals"][1])
        worth = float(part["worth"].sum())
        removal = removal_effects(part["moves"])
        weight = removal / removal.sum() if removal.sum() > 0 else np.zeros(len(names))
        joined, joined_money = (
            shapley(part["sets"], part["paths"], part[gain], len(names))
            for gain in ("won", "worth")
        )
        credit = dict(zip(MODELS, [*part["credit"], weight * shared, joined], strict=True))
        money = dict(zip(MODELS, [*part["money"], weight * worth, joined_money], strict=True))
        touches = part["moves"][:, : len(names)].sum(axis=0)
        order = sorted(range(len(names)), key=lambda c: (-round(joined[c], 6), names[c]))
        return {
            "conversion": self.goal.label,
            "channel": self.nodes.of,
            "lookback": str(self.lookback),
            "half_life": str(self.half_life),
            "conversions": int(part["totals"][0]),
            "without_touch": int(part["totals"][1]),
            "lost_paths": int(part["totals"][2]),
            "value": worth if self.valued else None,
            "channels": [
                {
                    "channel": names[c],
                    "touches": int(touches[c]),
                    "conversions": {m: float(credit[m][c]) for m in MODELS},
                    "value": {m: float(money[m][c]) for m in MODELS} if self.valued else None,
                    "removal_effect": float(removal[c]),
                }
                for c in order
            ],
            "models": MODELS,
            "note": "shares describe who was there, not what caused the conversion; a hold-out measures that",
        }


def _by_set(sets: Any, paths: Any, won: Any, worth: Any) -> Part:
    """Return paths, conversions and their value by distinct set of channels."""
    keys, inverse = np.unique(sets, return_inverse=True)
    counted = {
        name: np.bincount(inverse, n, len(keys)).astype(np.int64)
        for name, n in (("paths", paths), ("won", won))
    }
    return {"sets": keys, **counted, "worth": np.bincount(inverse, worth, len(keys))}


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
    not shared. What follows a user's last conversion is a lost path (Markov, Shapley). The sums of each model equal the
    conversions shared. Shapley's may be negative: fewer paths convert with the channel than without. All of it describes; what a channel *causes* needs a hold-out. Sources: Anderl et al. 2016 (Markov removal);
    Zhao, Mahboobi and Bagheri 2018 (Shapley). Raises ``NotEnoughDataError`` where nobody converted.
    """
    check_channel(schema, channel)
    question = AttributionQuestion(
        nodes_of(store, schema, engine, channel), schema, conversion, touch=touch,
        lookback=lookback, half_life=half_life,
    )  # fmt: skip
    return ask(question, store, engine)


def check_channel(schema: Schema, channel: str) -> None:
    """Raise ``ConfigError`` where the log has no channel."""
    if channel == CHANNEL and CHANNEL not in schema.texts:
        raise ConfigError(
            "the log has no channel; name another field, for example channel='item.category'"
        )


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


def shapley(sets: Any, paths: Any, gain: Any, n: int, *, orders: int = 2000, seed: int = 7) -> Any:
    """Return each channel's Shapley value [n] of the gain per path, times all paths; the sum is the whole gain.

    The worth of a coalition is the gain (conversions, or their value) of the paths within it divided by their number, lost
    ones among them; 0 where there is no such path. ``sets`` [k] are the paths' channels as bits, ``paths`` [k] their number,
    ``gain`` [k] what they brought. Exact up to ``EXACT`` channels, above over ``orders`` random orders, each with its reverse.

    >>> shapley(np.array([0b01, 0b11]), np.array([4, 4]), np.array([1, 3]), 2).tolist()
    [3.0, 1.0]
    """
    used = [c for c in range(n) if (sets >> np.int64(c) & 1).any()]
    found = np.zeros(n)
    if not used:
        return found
    members = np.stack([sets >> np.int64(c) & 1 for c in used], axis=1)
    of = _shapley_exact if len(used) <= EXACT else _shapley_sampled
    found[used] = of(members, paths, gain, orders, seed) * paths.sum()
    return found


def _shapley_exact(members: Any, paths: Any, gain: Any, orders: int, seed: int) -> Any:
    """Return Shapley values by the worth of every coalition; ``members`` [k, m] is 1 where a channel is in a set."""
    del orders, seed
    m = members.shape[1]
    codes = members @ (1 << np.arange(m))
    within = np.stack([np.bincount(codes, x, 1 << m) for x in (gain, paths)])
    for c in range(m):  # sums over all subsets, channel by channel
        halves = within.reshape(2, -1, 2, 1 << c)
        halves[:, :, 1] += halves[:, :, 0]
    worth = np.divide(within[0], within[1], out=np.zeros(1 << m), where=within[1] > 0)
    size = np.bitwise_count(np.arange(1 << m))
    factorial = [math.factorial(i) for i in range(m + 1)]
    weight = np.array([factorial[i] * factorial[m - i - 1] / factorial[m] for i in range(m)])
    found = np.empty(m)
    for c in range(m):
        without = np.flatnonzero(np.arange(1 << m) >> c & 1 == 0)
        found[c] = (weight[size[without]] * (worth[without | 1 << c] - worth[without])).sum()
    return found


def _shapley_sampled(members: Any, paths: Any, gain: Any, orders: int, seed: int) -> Any:
    """Return Shapley values as means over random orders of joining, each with its reverse."""
    rng = np.random.default_rng(seed)
    m = members.shape[1]
    members = members.astype(np.uint8)
    found = np.zeros(m)
    for _ in range(orders // 2):
        drawn = rng.permutation(m)
        for order in (drawn, drawn[::-1]):
            place = np.empty(m, np.uint8)
            place[order] = np.arange(m)
            last = (members * place).max(
                axis=1
            )  # a path is within the coalition once its last channel joined
            won, all_ = (np.cumsum(np.bincount(last, x, m)) for x in (gain, paths))
            worth = np.divide(won, all_, out=np.zeros(m), where=all_ > 0)
            found[order] += np.diff(worth, prepend=0.0)
    return found / (2 * (orders // 2))
