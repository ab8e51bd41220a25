"""What a text says: its words in a row, the same for every script, so that a phrase is found and counted alike everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

__all__ = ["spelled", "terms"]

_SIGNS: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Characters of scripts without spaces: each stands for itself."""
_TOKEN: Final = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}](?:['\u2019-]?[^\W{_SIGNS}])*")
_SIGN: Final = re.compile(f"[{_SIGNS}]")
BREAK: Final = "|"


def spelled(text: str) -> str:
    """Return a text's words in small letters, each between spaces, and ``|`` where something else stands between two.

    A text says a phrase where ``spelled(phrase)`` is part of ``spelled(text)``: whole words in a row, not across a comma or
    a full stop. Chinese characters and kana stand for themselves.

    >>> spelled("Money back, please!"), spelled("退款，谢谢iPhone")
    (' money back | please ', ' 退 款 | 谢 谢 iphone ')
    >>> spelled("back") in spelled("Money-back? Back!"), spelled("退款") in spelled("要求退款")
    (True, True)
    """
    return f" {' '.join(_tokens(text))} "


def _tokens(text: str) -> Iterator[str]:
    end = None
    small = text.lower()
    for found in _TOKEN.finditer(small):
        if end is not None and small[end : found.start()].strip():
            yield BREAK
        yield found.group()
        end = found.end()


def terms(text: str) -> list[str]:
    """Return a text's words and pairs of neighbouring words; of Chinese, characters in pairs.

    Each is a phrase that the text says (:func:`spelled`).

    >>> terms("Money back, please"), terms("质量很好")
    (['money', 'back', 'please', 'money back'], ['质量', '量很', '很好'])
    """
    tokens = [BREAK, *_tokens(text), BREAK]
    sign = [_SIGN.match(token) is not None for token in tokens]
    single = [
        token
        for i, token in enumerate(tokens)
        if token != BREAK and not (sign[i] and (sign[i - 1] or sign[i + 1]))
    ]
    pairs = [
        first + second if sign[i] else f"{first} {second}"
        for i, (first, second) in enumerate(pairwise(tokens))
        if BREAK not in (first, second) and sign[i] == sign[i + 1]
    ]
    return single + pairs
