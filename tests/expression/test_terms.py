"""What a text says agrees with a reader that goes letter by letter; every term that is counted can be asked for."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.features.oracle import says

from propend.expression import Field, Literal_, Says, parse
from propend.expression.terms import spelled, terms

LETTERS = st.text(st.sampled_from("aB9_-'\u2019 .,|\n\u00e9\u00df\u0130\u8d28\u91cf\u597d\u304b\u30fb\U0001f600"), max_size=14)  # fmt: skip
TEXTS = st.one_of(LETTERS, st.text(max_size=12))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
@example("It's over-priced, back!", "over-priced")
@example("\u8d28\u91cf\u5f88\u597diPhone", "iphone")
def test_says_agrees_with_the_oracle(text: str, phrase: str) -> None:
    if not spelled(phrase).strip():
        return
    assert (spelled(phrase) in spelled(text)) == says(text, phrase)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(TEXTS)
def test_every_term_is_said_and_prints(text: str) -> None:
    for term in terms(text):
        assert spelled(term) in spelled(text)
        e = Says(Field(("text",)), Literal_(term))
        assert parse(str(e)) == e


def test_pairs_do_not_cross_signs_or_scripts() -> None:
    assert terms("Good, cheap phone\u624b\u673a") == ["good", "cheap", "phone", "cheap phone", "\u624b\u673a"]  # fmt: skip
    assert terms("\u597d") == ["\u597d"]
    assert terms("?!") == []
