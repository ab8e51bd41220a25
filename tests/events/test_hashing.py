from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propend.events.hashing import hash_column, hash_records, hash_rows, hash_text

MASK = 2**64 - 1


def slow(data: bytes, before: int = 0) -> int:
    """The hash again, in plain integers."""
    h = 0xCBF29CE484222325 ^ (before * 0x100000001B3 & MASK)
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor & MASK
    return h ^ h >> 33


def test_values_are_pinned() -> None:
    """A store's buckets, its dedupe and its erasures hang on these: they never change."""
    assert [hash_text(t) for t in PINNED] == list(PINNED.values())
    rows = hash_rows([pa.array([1, None]), pa.array(["x", None]), pa.array([True, False])])
    assert rows.tolist() == PINNED_ROWS
    records = hash_records({"b": pa.array(["x", None]), "a": pa.array([1.5, 2.0])})
    assert records.tolist() == PINNED_RECORDS


PINNED: dict[str, int] = {
    "": 17280346270528514342,
    "u1": 7185976944083972785,
    "17850": 416533883528385500,
    "用户": 4162371456079368713,
    "a much longer identifier than the others": 13209111273089702512,
}
PINNED_ROWS: list[int] = [15152164565935415815, 10048805455517167995]
PINNED_RECORDS: list[int] = [5430639673872974195, 18283934412328798683]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_text_agrees_with_the_oracle(texts: list[str]) -> None:
    array = pa.array(texts, pa.string())
    expected = [slow(t.encode()) for t in texts]
    assert hash_column(array).tolist() == expected
    assert hash_column(array.cast(pa.large_string())).tolist() == expected
    assert hash_column(array.dictionary_encode()).tolist() == expected
    assert hash_column(pa.chunked_array([array[:2], array[2:]])).tolist() == expected
    assert hash_column(array[1:]).tolist() == expected[1:]


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=8))
def test_rows_chain_their_columns(rows: list[tuple[str, str]]) -> None:
    first, second = zip(*rows, strict=True)
    hashes = hash_rows([pa.array(first), pa.array(second)])
    assert hashes.tolist() == [slow(b.encode(), slow(a.encode())) for a, b in rows]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.float32(), pa.float64()])
def test_a_number_hashes_the_same_in_every_type(kind: pa.DataType) -> None:
    numbers = [0, 5, 100, None]
    plain = hash_column(pa.array(numbers, pa.int32())).tolist()
    assert hash_column(pa.array(numbers, kind)).tolist() == plain


def test_times_hash_the_same_in_every_unit() -> None:
    at = pa.array([1_700_000_000], pa.timestamp("s"))
    hashes = {int(hash_column(at.cast(pa.timestamp(u)))[0]) for u in ("s", "ms", "us", "ns")}
    assert len(hashes) == 1


def test_records_know_names_and_pass_over_gaps() -> None:
    def one(**columns: object) -> int:
        return int(hash_records({n: pa.array([v]) for n, v in columns.items()})[0])

    assert one(a="x", b=None) == one(b=None, a="x", c=None) == one(a="x")
    assert one(a="x", b=None) != one(a=None, b="x")
    assert one(a="x", b="y") != one(a="y", b="x")
    assert one(a="") != one(a=None)


def test_low_bits_are_spread() -> None:
    hashes = hash_column(pa.array([f"u{i:06d}" for i in range(64_000)]))
    counts = np.bincount((hashes % np.uint64(64)).astype(int), minlength=64)
    assert counts.min() > 850
    assert counts.max() < 1_150
