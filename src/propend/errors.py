"""The errors a user can meet, named by who can put them right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "ExpressionError",
    "MissingExtraError",
    "ModelError",
    "NotEnoughDataError",
    "NotSupportedError",
    "PropendError",
    "nearest",
]


class PropendError(Exception):
    """Any failure that Propend reports in one clear sentence: what, where and what to do next."""


class ConfigError(PropendError):
    """``propend.toml`` or an argument is wrong; the person who wrote it can mend it."""


class DataError(PropendError):
    """A file or a table does not hold what it should."""


class ExpressionError(PropendError):
    """A sentence of the expression language cannot be read or has no meaning here."""


class NotEnoughDataError(PropendError):
    """The data cannot answer the question; the message says what would be needed."""


class ModelError(PropendError):
    """A model is used in a way it cannot be, or its file is damaged or of another version."""


class NotSupportedError(PropendError):
    """An engine cannot do what was asked of it."""

    def __init__(self, engine: str, verb: str, instead: str = "use engine 'local'") -> None:
        super().__init__(f"the {engine} engine cannot {verb}; {instead}")


class MissingExtraError(PropendError):
    """An optional library is needed; the message is the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'propend[{extra}]'")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the tail of an error sentence that names the nearest known word.

    >>> nearest("purchse", ["view", "purchase"])
    "; did you mean 'purchase'?"
    >>> nearest("zzz", ["view", "purchase"])
    '; known: purchase, view'
    """
    options = sorted(set(known))
    close = get_close_matches(word, options, n=1, cutoff=0.6)
    if not close:
        folded = {option.casefold(): option for option in options}
        close = [
            folded[c] for c in get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
        ]
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"; known: {shown}" if options else ""
