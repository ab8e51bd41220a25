"""What a log knows only as it is today: attributes that may have been others at an earlier moment.

A window ends at the cutoff; an attribute of a user or an item does not. Where the log repeats it on its lines and the
lines disagree, today's value is no fact of the past and is left out. Where they agree, or where it comes from a table
of its own, nothing in the log can show when it became known: such a feature of the user is judged by how much it tells
alone, and so is one that reads an attribute of the item that changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from propend.events.attributes import changes
from propend.events.store import Store
from propend.expression.nodes import Expression, Field
from propend.learn.leaks import LeakError
from propend.names import ITEM

__all__ = ["changing", "judged_alone", "leave_out_changing", "reads", "said"]

TOLERATED: Final = 0.01
"""Share of users whose attribute may change before it counts as one that changes (a move, a mistyped line)."""


def changing(store: Store) -> dict[str, str]:
    """Return the attributes of users and items whose values differ between a log's lines, each with its figures in words."""
    found = {}
    for name, (changed, among) in changes(store).items():
        home, _, plain = name.partition(".")
        if changed > TOLERATED * among:
            whose = "items" if home == ITEM else "users"
            found[str(Field((home, plain)))] = (
                f"{changed:,} of {among:,} {whose} carry several values of it, or have it on some of their lines only, "
                "so that today's value may be later than the cutoff"
            )
    return found


def leave_out_changing(
    features: Sequence[Expression], moved: Mapping[str, str], asked: Sequence[Expression] = ()
) -> tuple[tuple[Expression, ...], dict[str, str]]:
    """Return the features without those of a user attribute that changes, and what was left out with the reason.

    ``moved`` is what :func:`changing` found. Raises ``LeakError`` where the question itself (``asked``: target and
    population) reads such an attribute.
    """
    own = {name: why for name, why in moved.items() if not name.startswith(f"{ITEM}.")}
    for part in asked:
        for name in reads(part, own):
            raise LeakError(
                f"the question reads {name}, but {own[name]}; declare it under properties in propend.toml and ask for last(*.{name.partition('.')[2]})"
            )
    left_out = {str(f): own[name] for f in features for name in reads(f, own)[:1]}
    return tuple(f for f in features if str(f) not in left_out), left_out


def judged_alone(
    features: Sequence[Expression], moved: Mapping[str, str] | None = None
) -> list[str]:
    """Return the features that only what each tells alone can judge: fields of a user or of the very event asked about,
    and whatever reads an attribute in ``moved``.

    >>> from propend.expression.parse import parse
    >>> judged_alone([parse("profile.tier"), parse("last(view.item.shelf)"), parse("count(view)")], {"item.shelf": ""})
    ['profile.tier', 'last(view.item.shelf)']
    """
    return [str(f) for f in features if isinstance(f, Field) or reads(f, moved or {})]


def reads(expression: Expression, names: Iterable[str]) -> list[str]:
    """Return those of some attributes that an expression reads."""
    text = str(expression)
    return [n for n in names if re.search(rf"(?<!\w){re.escape(n)}(?![\w.])", text)]


def said(judged: Sequence[str], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return what a card says of attributes: which were left out, which were judged by what they tell alone."""
    parts = [
        f"{name} is left out: {why}; declare it under properties in propend.toml and it counts as of each cutoff"
        for name, why in left_out.items()
    ]
    if judged:
        some = ", ".join(judged[:3]) + (f" and {len(judged) - 3} more" if len(judged) > 3 else "")
        parts.append(
            f"not reached by the shuffle: {some}, known as of today or written on the line itself; each was judged by what it tells alone"
        )
    return {"left_out": dict(left_out), "judged_alone": list(judged), "sentence": "; ".join(parts)}
