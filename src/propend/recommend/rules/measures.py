"""Rules from frequent sets: their measures, and how sure one can be after so many looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from propend.errors import DataError, nearest
from propend.recommend.rules.baskets import Baskets
from propend.recommend.rules.itemsets import ItemSets, Method, frequent_sets

__all__ = ["Control", "Rules", "corrected", "find_rules", "together_by_chance"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Control = Literal["discoveries", "dependent", "family"]


@dataclass(frozen=True)
class Rules:
    """Rules antecedent → consequent [r], the surest first; every column is aligned with ``antecedent``.

    ``support`` share of baskets with both; ``confidence`` P(c | a); ``lift`` confidence / P(c);
    ``leverage`` P(a, c) − P(a) P(c) (Piatetsky-Shapiro 1991); ``conviction`` P(a) P(not c) / P(a, not c)
    (Brin et al. 1997), ∞ for a rule without exception. ``p`` is Fisher's one-sided exact test that they
    go together by chance, ``q`` the same after the correction over all ``tested`` rules.
    """

    antecedent: tuple[tuple[int, ...], ...]
    consequent: I64
    count: I64
    support: F64
    confidence: F64
    lift: F64
    leverage: F64
    conviction: F64
    p: F64
    q: F64
    baskets: int
    tested: int

    def __len__(self) -> int:
        return len(self.antecedent)

    def table(self, names: Sequence[str] | None = None) -> pa.Table:
        """Return the rules as a table; ``names`` by item code."""
        label: Callable[[int], str] = str if names is None else names.__getitem__
        columns: dict[str, Any] = {
            "antecedent": pa.array(
                [[label(i) for i in a] for a in self.antecedent], pa.list_(pa.string())
            ),
            "consequent": pa.array([label(c) for c in self.consequent.tolist()], pa.string()),
        }
        for name in ("count", "support", "confidence", "lift", "leverage", "conviction", "p", "q"):
            columns[name] = getattr(self, name)
        return pa.table(columns)


def find_rules(
    baskets: Baskets,
    support: float,
    *,
    confidence: float = 0.0,
    significance: float | None = 0.05,
    control: Control = "discoveries",
    longest: int | None = 4,
    method: Method = "fpgrowth",
) -> Rules:
    """Return the rules a → c with one consequent that are frequent, confident and not explained by chance.

    Parameters
    ----------
    support
        least share of baskets with antecedent and consequent, above 0.
    confidence
        least P(c | a).
    significance
        most ``q`` over all frequent rules tested; none: all are kept.
    control
        what ``significance`` bounds: ``discoveries``, the share of false ones among the rules reported
        (Benjamini & Hochberg 1995); ``dependent``, the same whatever the dependence between rules
        (Benjamini & Yekutieli 2001); ``family``, the chance of even one false rule (Holm 1979).
    longest
        most items of antecedent and consequent together.
    method
        how the frequent sets are found; the rules are the same.

    Raises
    ------
    DataError
        a support that is not above 0 and at most 1, a confidence or significance outside 0 … 1, an
        unknown control or method.
    NotEnoughDataError
        no basket.

    Examples
    --------
    >>> rules = find_rules(Baskets.from_lists([[0, 1]] * 8 + [[2]] * 8 + [[0, 2]]), 0.1)
    >>> [(a, int(c)) for a, c in zip(rules.antecedent, rules.consequent)]
    [((1,), 0), ((0,), 1)]
    >>> round(float(rules.lift[0]), 3), round(float(rules.confidence[1]), 3)
    (1.889, 0.889)
    """
    for word, share in (("confidence", confidence), ("significance", significance)):
        if share is not None and not 0 <= share <= 1:
            raise DataError(f"{word} must lie between 0 and 1, got {share:g}")
    if control not in _CONTROLS:
        raise DataError(f"no control {control!r} of many tests{nearest(control, _CONTROLS)}")
    found = frequent_sets(baskets, support, longest=longest, method=method)
    antecedent, consequent, both, left = _pairs(found)
    right = np.bincount(baskets.items, minlength=baskets.n_items)[consequent]
    n = len(baskets)
    p = together_by_chance(both, left, right, n)
    q = corrected(p, control)
    sure = both / np.maximum(left, 1)
    keep = sure >= confidence
    if significance is not None:
        keep &= q <= significance
    order = np.flatnonzero(keep)
    order = order[np.lexsort((order, -sure[order], p[order]))]
    both, left, right, sure = both[order], left[order], right[order], sure[order]
    missed = left - both
    with np.errstate(divide="ignore"):
        conviction = np.where(missed > 0, left * (n - right) / (n * np.maximum(missed, 1)), np.inf)
    return Rules(
        tuple(antecedent[i] for i in order),
        consequent[order],
        both,
        both / n,
        sure,
        sure * n / right,
        both / n - left * right / n**2,
        conviction,
        p[order],
        q[order],
        n,
        len(antecedent),
    )


def _pairs(found: ItemSets) -> tuple[list[tuple[int, ...]], I64, I64, I64]:
    """Return antecedent, consequent, count of both and count of the antecedent of every possible rule."""
    counts = found.counts
    antecedent = [s[:n] + s[n + 1 :] for s in found.sets if len(s) > 1 for n in range(len(s))]
    sizes = np.diff(found.ends, prepend=0)
    several = np.repeat(sizes > 1, sizes)
    both = np.repeat(found.count, sizes)[several]
    left = np.array([counts[a] for a in antecedent], np.int64)
    return antecedent, found.items[several].astype(np.int64), both, left


def together_by_chance(both: I64, left: I64, right: I64, n: int) -> F64:
    """Return Fisher's one-sided p: the chance of ``both`` or more of n baskets in common, float64 [r].

    >>> round(float(together_by_chance(*(np.array([c]) for c in (3, 3, 3)), 6)[0]), 3)
    0.05
    """
    from scipy.special import gammaln

    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    out = np.empty(len(both))
    _tails(both, left, right, n, log_factorial, out)
    return out


@nb.njit(cache=True, nogil=True)
def _tails(both: Any, left: Any, right: Any, n: int, log_factorial: Any, out: Any) -> None:
    """Sum the hypergeometric tail away from the mode, where terms fall, until the next is lost in rounding."""
    for r in range(len(both)):
        a, b = left[r], right[r]
        low, high = max(0, a + b - n), min(a, b)
        upper = both[r] > a * b / n
        x = both[r] if upper else both[r] - 1
        if x < low or x > high:
            out[r] = 0.0 if upper else 1.0
            continue
        log_first = (
            log_factorial[a]
            - log_factorial[x]
            - log_factorial[a - x]
            + log_factorial[n - a]
            - log_factorial[b - x]
            - log_factorial[n - a - b + x]
            - log_factorial[n]
            + log_factorial[b]
            + log_factorial[n - b]
        )
        term, total = 1.0, 1.0
        while term > 1e-17 * total and (x < high if upper else x > low):
            if upper:
                term *= (a - x) * (b - x) / ((x + 1.0) * (n - a - b + x + 1.0))
                x += 1
            else:
                term *= x * (n - a - b + x) / ((a - x + 1.0) * (b - x + 1.0))
                x -= 1
            total += term
        tail = min(np.exp(log_first + np.log(total)), 1.0)
        out[r] = tail if upper else 1.0 - tail


def corrected(p: npt.ArrayLike, control: Control = "discoveries") -> F64:
    """Return p-values corrected for how many there are; see ``find_rules``.

    >>> [corrected([0.01, 0.04, 0.03], how).round(3).tolist() for how in ("discoveries", "family")]
    [[0.03, 0.04, 0.04], [0.03, 0.06, 0.06]]
    """
    given = np.asarray(p, np.float64)
    m = len(given)
    if not m:
        return given.copy()
    order = np.argsort(given, kind="stable")
    place = np.arange(1, m + 1)
    if control == "family":
        steps = np.maximum.accumulate(given[order] * (m - place + 1))
    else:
        more = np.sum(1.0 / place) if control == "dependent" else 1.0
        steps = np.minimum.accumulate((given[order] * m * more / place)[::-1])[::-1]
    out = np.empty(m)
    out[order] = np.minimum(steps, 1.0)
    return out


_CONTROLS: Final = ("discoveries", "dependent", "family")
