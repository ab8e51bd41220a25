"""Ground: the one language of questions over a user's timeline.

``parse`` reads the text form, ``propend.expression.build`` is the Python form; both give the same frozen values.
"""

from __future__ import annotations

from propend.expression.duration import Duration
from propend.expression.nodes import (
    AGGREGATES,
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Expression,
    Field,
    In,
    IsMissing,
    Literal_,
    Not,
    Or,
    Probability,
    Says,
    Window,
)
from propend.expression.parse import parse, parse_question

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "And",
    "Arithmetic",
    "Compare",
    "Duration",
    "Expression",
    "Field",
    "In",
    "IsMissing",
    "Literal_",
    "Not",
    "Or",
    "Probability",
    "Says",
    "Window",
    "parse",
    "parse_question",
]
