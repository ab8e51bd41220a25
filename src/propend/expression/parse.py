"""Text to expression, with errors that show the place and name the nearest known word."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any, Final

from propend.errors import ExpressionError, nearest
from propend.expression.duration import Duration
from propend.expression.nodes import (
    AGGREGATES,
    KEYWORDS,
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

__all__ = ["parse", "parse_question", "parse_selection"]

GRAMMAR = r"""
?start: expression
question: expression ["for" expression]
selection: selector
?expression: or
?or: and ("or" and)*
?and: not ("and" not)*
?not: "not" not -> negation
    | compare
?compare: sum
    | sum OP sum -> comparison
    | sum "in" "(" literal ("," literal)* ")" -> membership
    | sum "is" "missing" -> is_missing
    | sum "says" literal -> says
?sum: product
    | sum PLUS product -> arithmetic
?product: atom
    | product TIMES atom -> arithmetic
?atom: literal
    | "(" expression ")"
    | aggregate
    | path -> field
aggregate: word "(" [selector] ["where" expression] ")" [window]
?selector: "*" -> any_type
    | "*" "." path -> any_type_field
    | path -> typed
    | path ("|" path)+ -> alternatives
    | "(" path ("|" path)* ")" "." path -> alternatives_field
window: "last" DURATION -> last
    | "next" DURATION -> ahead
    | "ever" -> ever
path: word ("." word)*
word: NAME | QUOTED
literal: NUMBER -> number
    | STRING -> string
    | "true" -> true
    | "false" -> false

OP: "=" | "!=" | "<=" | ">=" | "<" | ">"
PLUS: "+" | "-"
TIMES: "*" | "/"
DURATION.2: /-?\d+\s*(min|mo|s|h|d|w|y)(?!\w)/
NUMBER: /-?\d+(\.\d+)?([eE][+-]?\d+)?/
STRING: /'(?:[^']|'')*'/
QUOTED: /"(?:[^"]|"")*"/
NAME: /(?!(?:and|or|not|in|is|missing|where|for|ever|true|false)\b)[^\W\d]\w*/
%ignore /\s+/
%ignore /#[^\n]*/
"""


@cache
def _parser() -> Any:
    from lark import Lark

    return Lark(
        GRAMMAR,
        start=["start", "question", "selection"],
        parser="lalr",
        lexer="contextual",  # 'last' opens a window after an aggregate and is a name elsewhere
        maybe_placeholders=True,
    )


_REMEMBERED: Final = 4_096
"""Expressions kept by text; a live server is asked the same few again and again."""


@lru_cache(_REMEMBERED)
def parse(text: str) -> Expression:
    """Read an expression.

    >>> e = parse("count(view where category = 'shoes') last 7d >= 3 and none(purchase) last 1d")
    >>> str(e)
    "count(view where category = 'shoes') last 7d >= 3 and none(purchase) last 1d"
    >>> parse(str(e)) == e
    True

    Raises ``ExpressionError`` that shows where the text stops making sense.
    """
    return _read(_tree(text, "start"), text)


@lru_cache(_REMEMBERED)
def parse_question(text: str) -> tuple[Expression, Expression | None]:
    """Read a question ``TARGET [for POPULATION]``; the population is ``None`` where it is not given.

    >>> target, population = parse_question("any(purchase) next 30d for any(*) last 90d")
    >>> str(target), str(population)
    ('any(purchase) next 30d', 'any(*) last 90d')
    """
    tree = _tree(text, "question")
    target, population = tree.children
    return _read(target, text), None if population is None else _read(population, text)


def parse_selection(text: str, function: str = "count") -> tuple[tuple[str, ...], str | None]:
    """Read what stands between an aggregate's brackets: event types (none: every type) and a field.

    >>> parse_selection("(view | cart).item")
    (('view', 'cart'), 'item')
    >>> parse_selection("*")
    ((), None)
    """
    return _selection(_tree(text, "selection").children[0], function)


def _tree(text: str, start: str) -> Any:
    from lark.exceptions import UnexpectedInput

    if not text.strip():
        raise ExpressionError(
            "an empty expression asks nothing; write for example: any(purchase) last 30d"
        )
    try:
        return _parser().parse(text, start=start)
    except UnexpectedInput as error:
        expected: set[str] = set()
        for name in ("expected", "allowed"):
            expected |= set(getattr(error, name, None) or ())
        at: int | None = error.pos_in_stream
        if at is None or getattr(getattr(error, "token", None), "type", "") == "$END":
            raise ExpressionError(f"{text!r} ends too soon{_ending(text, expected)}") from None
        raise ExpressionError(
            f"cannot read {text!r} at {text[at : at + 12]!r} (position {at + 1}){_hint(text, at, expected)}"
        ) from None


_WORD: Final = re.compile(r"[^\W\d]\w*")
_WINDOW: Final = "a window is a number and a unit, s min h d w mo y, for example 30d"


def _ending(text: str, expected: set[str]) -> str:
    """Say what the text still lacks."""
    if "DURATION" in expected:
        return f"; {_WINDOW}"
    if text.count("(") > text.count(")") and "RPAR" in expected:
        return "; a closing bracket ')' is missing"
    return "; a name, a number or an aggregate is missing at its end"


def _hint(text: str, at: int, expected: set[str]) -> str:
    """Say what was probably meant where the text stops making sense."""
    before, rest = text[:at].rstrip(), text[at:]
    found = _WORD.match(rest)
    word = found.group() if found else ""
    if "DURATION" in expected and before.endswith(("last", "next")):
        return f"; {_WINDOW}"
    if rest.startswith("("):
        name = before.split()[-1] if before else ""
        return nearest(name, AGGREGATES) if name else ""
    if rest.startswith(("'", '"')):
        return "; the quotation mark is never closed" if rest.count(rest[0]) % 2 else ""
    if rest.startswith("="):
        return "; equality is a single '='"
    if word.lower() in KEYWORDS and word not in KEYWORDS:
        return f"; write {word.lower()!r} in small letters"
    if word == "for":
        return "; 'for' and a population belong to a task, not to an expression"
    if rest.startswith(("<", ">", "!")):
        return "; comparisons do not chain; join two with 'and'"
    if before.count("(") > before.count(")") and "RPAR" in expected:
        return "; is a closing bracket ')' missing before it?"
    if rest.startswith(")") and before.count("(") <= before.count(")"):
        return "; this bracket was never opened"
    if word and expected & {"LAST", "OP"}:
        return nearest(word, ["last", "next", "ever", "and", "or", "in", "is", "says"])
    return ""


def _unquote(token: Any) -> str:
    text = str(token)
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _words(path: Any) -> tuple[str, ...]:
    return tuple(_unquote(word.children[0]) for word in path.children)


def _read(tree: Any, text: str) -> Expression:
    try:
        return _build(tree, text)
    except RecursionError:
        raise ExpressionError(
            f"an expression of {len(text):,} characters is nested too deeply; split it up"
        ) from None


def _build(tree: Any, text: str) -> Expression:
    kind = tree.data
    children = tree.children
    match kind:
        case "or":
            return Or(tuple(_build(child, text) for child in children))
        case "and":
            return And(tuple(_build(child, text) for child in children))
        case "negation":
            return Not(_build(children[0], text))
        case "comparison":
            return Compare(str(children[1]), _build(children[0], text), _build(children[2], text))  # type: ignore[arg-type]
        case "membership":
            options = tuple(_literal(child) for child in children[1:])
            return In(_build(children[0], text), options)
        case "is_missing":
            return IsMissing(_build(children[0], text))
        case "says":
            return Says(_build(children[0], text), _literal(children[1]))
        case "arithmetic":
            operator: Any = str(children[1])
            return Arithmetic(operator, _build(children[0], text), _build(children[2], text))
        case "field":
            return Field(_words(children[0]))
        case "aggregate":
            return _aggregate(tree, text)
        case _:
            return _literal(tree)


def _literal(tree: Any) -> Literal_:
    match tree.data:
        case "number":
            raw = str(tree.children[0])
            return Literal_(int(raw) if raw.lstrip("-").isdigit() else float(raw))
        case "string":
            return Literal_(str(tree.children[0])[1:-1].replace("''", "'"))
        case other:
            return Literal_(other == "true")


def _aggregate(tree: Any, text: str) -> Expression:
    word, selector, where, window = tree.children
    function = _unquote(word.children[0])
    if function == "p":
        if selector is None or selector.data != "typed" or where is not None or window is not None:
            raise ExpressionError("p() takes the name of a task, for example p(buy_30d)")
        return Probability(".".join(_words(selector.children[0])))
    if function not in AGGREGATES:
        raise ExpressionError(
            f"no aggregate {function!r} in {text!r}{nearest(function, [*AGGREGATES, 'p'])}"
        )
    types, field = _selection(selector, function)
    return Aggregate(
        function,
        types,
        field,
        None if where is None else _build(where, text),
        _window(window),
    )


def _selection(selector: Any, function: str) -> tuple[tuple[str, ...], str | None]:
    if selector is None:
        return (), None
    children = selector.children
    match selector.data:
        case "any_type":
            return (), None
        case "any_type_field":
            return (), ".".join(_words(children[0]))
        case "alternatives":
            return tuple(".".join(_words(child)) for child in children), None
        case "alternatives_field":
            return tuple(".".join(_words(child)) for child in children[:-1]), ".".join(
                _words(children[-1])
            )
        case _:
            words = _words(children[0])
            if function == "next" and len(words) == 1:  # next(item): of the next event of any type
                return (), words[0]
            return words[:1], ".".join(words[1:]) or None


def _window(tree: Any) -> Window:
    if tree is None or tree.data == "ever":
        return Window()
    length = Duration.parse(str(tree.children[0]))
    return Window("last" if tree.data == "last" else "next", length)
