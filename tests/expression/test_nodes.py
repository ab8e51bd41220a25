from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from propend.errors import ExpressionError
from propend.expression import (
    Aggregate,
    And,
    Arithmetic,
    Compare,
    Duration,
    Expression,
    Field,
    In,
    Literal_,
    Or,
    Window,
    parse,
)
from propend.expression.nodes import lift

A, B, C = (Aggregate("any", (name,)) for name in "abc")


def test_values_are_frozen_and_hash_by_content() -> None:
    assert Aggregate("any", ("a",)) == A
    assert len({A, Aggregate("any", ("a",)), B}) == 2
    assert A != B
    with pytest.raises(FrozenInstanceError):
        A.function = "none"  # type: ignore[misc]


def test_values_survive_a_process_border() -> None:
    e = parse("count(view where category = 'shoes') last 7d >= 3 and none(purchase) last 1d")
    assert pickle.loads(pickle.dumps(e)) == e  # multiprocessing; never a file format


def test_and_and_or_are_flat() -> None:
    assert (A & B) & C == A & (B & C) == And((A, B, C))
    assert Or((A, B, C)) == (A | B) | C
    assert Or((And((A, B)), C)) == (A & B) | C
    assert str((A | B) & C) == "(any(a) or any(b)) and any(c)"


def test_operators_lift_numbers_and_texts() -> None:
    count = Aggregate("count", ("a",))
    assert (count > 3) == Compare(">", count, Literal_(3))
    assert (count < 3) == Compare("<", count, Literal_(3))
    assert (1 - count) == Arithmetic("-", Literal_(1), count)
    assert (count > np.int64(3)) == (count > 3)
    assert (count > np.float64(0.5)) == (count > 0.5)
    assert Field(("profile", "country")).equals("DE") == parse("profile.country = 'DE'")
    with pytest.raises(ExpressionError, match="cannot stand in an expression"):
        lift([1])


def test_pythons_own_and_or_not_are_refused() -> None:
    count = Aggregate("count", ("a",))
    for wrong in (lambda: A and B, lambda: not A, lambda: 1 < count < 3):
        with pytest.raises(ExpressionError, match="no truth value"):
            wrong()


def test_parts_and_aggregates() -> None:
    e = parse("any(a where x = 1) and count(b) > count(b) + 1")
    assert [str(a) for a in e.aggregates()] == ["any(a where x = 1)", "count(b)"]
    assert Literal_(1) in set(e.parts())
    assert next(iter(e.parts())) is e


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Window("last"),
        lambda: Window("ever", Duration(1, "d")),
        lambda: Window("past", Duration(1, "d")),  # type: ignore[arg-type]
        lambda: Literal_(math.nan),
        lambda: Literal_(math.inf),
        lambda: Literal_(10**400),
        lambda: In(A, ()),
        lambda: And((A,)),
        lambda: Or(()),
        lambda: Field(()),
        lambda: Aggregate("sum"),
        lambda: Aggregate("sum", field=""),
        lambda: Aggregate("total", ("a",)),
        lambda: Compare("==", A, B),  # type: ignore[arg-type]
        lambda: Arithmetic("%", A, B),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_be_printed_and_read_back_is_refused(
    wrong: Callable[[], Expression],
) -> None:
    with pytest.raises(ExpressionError):
        wrong()
