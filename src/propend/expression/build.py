"""The Python form of the language: functions that build the same frozen values as the text form.

>>> from propend.expression.parse import parse
>>> count("view", where="category = 'shoes'", last="7d") == parse("count(view where category = 'shoes') last 7d")
True
>>> str((p("buy_7d") >= 0.6) & any_("cart", last="1d") & ~any_("purchase", last="1d"))
'p(buy_7d) >= 0.6 and any(cart) last 1d and not any(purchase) last 1d'
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from propend.errors import ExpressionError
from propend.expression.duration import Duration
from propend.expression.nodes import Aggregate, Expression, Field, Probability, Window
from propend.expression.parse import parse, parse_selection

__all__ = [
    "active_days",
    "aggregate",
    "any_",
    "calendar",
    "count",
    "days_since",
    "days_since_first",
    "days_until",
    "distinct",
    "field",
    "first",
    "last",
    "max_",
    "mean",
    "mean_gap",
    "min_",
    "next_",
    "none",
    "p",
    "profile",
    "second_last",
    "std",
    "std_gap",
    "sum_",
    "third_last",
    "trend",
]


def aggregate(
    function: str,
    of: str | Sequence[str] = "*",
    *,
    where: str | Expression | None = None,
    last: str | Duration | None = None,
    next: str | Duration | None = None,
) -> Aggregate:
    """Return an aggregate of some events over a window.

    ``of`` is what stands between the brackets of the text form (``"purchase.value"``, ``"view | cart"``, ``"*"``), or
    a sequence of event types taken as they are. ``last`` and ``next`` are lengths of time; neither: all there is.

    >>> str(aggregate("sum", "purchase.value", last="30d"))
    'sum(purchase.value) last 30d'
    >>> str(aggregate("count", ["add to cart"]))
    'count("add to cart")'

    Raises ``ExpressionError`` as ``parse`` does, and where both ``last`` and ``next`` are given.
    """
    if last is not None and next is not None:
        raise ExpressionError(
            f"{function}() reads either 'last' or 'next', not both; leave one out"
        )
    types, name = parse_selection(of, function) if isinstance(of, str) else (tuple(of), None)
    window = Window()
    if last is not None:
        window = Window("last", _length(last))
    elif next is not None:
        window = Window("next", _length(next))
    return Aggregate(
        function, types, name, parse(where) if isinstance(where, str) else where, window
    )


def _length(given: str | Duration) -> Duration:
    return given if isinstance(given, Duration) else Duration.parse(given)


any_ = partial(aggregate, "any")
none = partial(aggregate, "none")
count = partial(aggregate, "count")
sum_ = partial(aggregate, "sum")
mean = partial(aggregate, "mean")
min_ = partial(aggregate, "min")
max_ = partial(aggregate, "max")
std = partial(aggregate, "std")
first = partial(aggregate, "first")
last = partial(aggregate, "last")
second_last = partial(aggregate, "second_last")
third_last = partial(aggregate, "third_last")
next_ = partial(aggregate, "next")
distinct = partial(aggregate, "distinct")
days_since = partial(aggregate, "days_since")
days_since_first = partial(aggregate, "days_since_first")
days_until = partial(aggregate, "days_until")
mean_gap = partial(aggregate, "mean_gap")
std_gap = partial(aggregate, "std_gap")
active_days = partial(aggregate, "active_days")
trend = partial(aggregate, "trend")


def field(*path: str) -> Field:
    """Return a field of the event or its item, for use inside ``where``.

    >>> str(field("category").equals("shoes"))
    "category = 'shoes'"
    """
    return Field(path)


def profile(attribute: str) -> Field:
    """Return a user attribute.

    >>> str(profile("country").is_in(["DE", "AT"]))
    "profile.country in ('DE', 'AT')"
    """
    return Field(("profile", attribute))


def calendar(part: str) -> Field:
    """Return ``hour``, ``weekday`` or ``month`` of the cutoff on the workspace's wall clock."""
    return Field(("calendar", part))


def p(task: str) -> Probability:
    """Return the latest score of a named task."""
    return Probability(task)
